import pytest
import torch
import torch.nn.functional as F
from compare import assert_close, assert_same, randomised, tuple_of
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import mpnn
from mpnn.nn import (
    GCN,
    GRU,
    LSTM,
    RNN,
    ChildSumTreeLSTM,
    LanguageModel,
    NaryTreeLSTM,
    SequenceClassifier,
    Tagger,
    attention,
    last_state,
)

IN, H, V = 3, 4, 5
LENGTHS = (5, 1, 7, 2)
THEIRS = {RNN: nn.RNN, LSTM: nn.LSTM, GRU: nn.GRU}
every_cell = pytest.mark.parametrize("cell", THEIRS, ids=lambda cell: cell.__name__)


def chains(*lengths: int) -> torch.Tensor:
    """Chains side by side, t-1 -> t."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    steps = [torch.arange(a, b - 1) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return torch.stack([torch.cat(steps), torch.cat(steps) + 1])


def batch_of(*lengths: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.tensor(lengths))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def torchs(ours: nn.Module, **options) -> nn.Module:
    """torch's layer with our weights, the very same parameters."""
    theirs = THEIRS[type(ours)](ours.in_features, ours.hidden_features, **options).double()
    for name, parameter in ours.named_parameters():
        setattr(theirs, name, parameter)
    theirs._flat_weights = [getattr(theirs, name) for name in theirs._flat_weights_names]
    return theirs


# Where a pass ends ----------------------------------------------------------------------------------------------------


def test_the_last_state_is_that_of_the_nodes_without_successor():
    h = normal(6, 2)
    tree = torch.tensor([[1, 2, 4], [0, 0, 3]])  # roots 0 and 3, and 5 alone
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    assert_same(last_state(h, tree, batch), torch.stack([h[0], h[3] + h[5]]), [h])
    assert_same(last_state(h, tree), (h[0] + h[3] + h[5])[None], [h])


def test_backwards_a_pass_ends_in_the_nodes_without_predecessor():
    h, edge_index, batch = normal(6, 4), chains(2, 4), batch_of(2, 4)
    theirs = torch.stack([torch.cat([h[1, :2], h[0, 2:]]), torch.cat([h[5, :2], h[2, 2:]])])
    assert_same(last_state(h, edge_index, batch, bidirectional=True), theirs, [h])


def test_a_state_may_have_layers():
    h, edge_index = normal(6, 3, 2), chains(2, 4)
    assert_same(last_state(h, edge_index, batch_of(2, 4)), torch.stack([h[1], h[5]]), [h])


def test_graphs_without_an_end_or_without_nodes_have_the_state_0():
    loop = torch.tensor([[0, 1, 2], [1, 0, 2]])
    state = last_state(torch.ones(4, 2), loop, torch.tensor([0, 0, 1, 3]))
    assert state.tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert last_state(torch.ones(4, 2), loop, torch.tensor([0, 0, 1, 3]), num_graphs=5).shape == (5, 2)
    assert last_state(torch.ones(3, 2), loop, torch.tensor([0, 0, 1])).tolist() == [[0, 0], [0, 0]]
    assert last_state(torch.ones(0, 2), loop[:, :0], loop[0, :0]).shape == (0, 2)


def test_edges_of_all_types_lead_on():
    h = normal(4, 2)
    edges = {"parent": torch.tensor([[0], [1]]), "sibling": torch.tensor([[1], [2]])}
    assert_same(last_state(h, edges), (h[2] + h[3])[None], [h])


def test_a_plan_is_as_good_as_the_edges_in_either_direction():
    h, edge_index = normal(7, 2), chains(3, 4)
    for plan in (mpnn.plan(edge_index, "topological", 7), mpnn.plan(edge_index, "topological", 7).reverse):
        for both in (False, True):
            assert_same(
                last_state(h, plan, batch_of(3, 4), bidirectional=both),
                last_state(h, edge_index, batch_of(3, 4), bidirectional=both),
                [h],
            )


# A class for each sequence, and for each node -------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_classes_of_sequences_are_those_of_plain_torch(cell, both, readout):
    layer = randomised(cell(IN, H, bidirectional=both))
    model = SequenceClassifier(layer, randomised(nn.Linear(H * (1 + both), V)), readout)
    theirs, x = torchs(layer, bidirectional=both), normal(sum(LENGTHS), IN)
    rows = []
    for part in x.split(LENGTHS):
        out, final = theirs(part)
        final = tuple_of(final)[0].flatten()  # h_n: forward, backward
        rows.append(final if readout == "last" else out.mean(0))
    expected = torch.stack(rows) @ model.f.weight.t() + model.f.bias
    ours = model(x, chains(*LENGTHS), batch_of(*LENGTHS))
    assert_same(ours, expected, [x, *model.parameters()])


def test_the_last_state_of_a_tree_is_the_roots():
    layer = randomised(ChildSumTreeLSTM(IN, H))
    tree, x = torch.tensor([[1, 2, 3], [0, 0, 1]]), normal(4, IN)
    model = SequenceClassifier(layer, nn.Linear(H, V).double())
    assert_same(model(x, tree), model.f(layer(x, tree)[0][:1]), [x, *model.parameters()])


def test_more_inputs_go_to_the_layer():
    layer, x = randomised(NaryTreeLSTM(IN, H)), normal(3, IN)
    tree, child = torch.tensor([[1, 2], [0, 0]]), torch.tensor([1, 0])
    for model in (SequenceClassifier(layer, nn.Linear(H, V).double()), Tagger(layer, nn.Linear(H, V).double())):
        h = layer(x, tree, child)[0]
        h = h[:1] if isinstance(model, SequenceClassifier) else h
        assert_same(model(x, tree, child=child), model.f(h), [x, *model.parameters()])


def test_any_layer_and_any_readout_will_do():
    x, edge_index = torch.randn(5, IN), torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    batch = torch.tensor([0, 0, 1, 1, 1])
    for readout in ("mean", "max", attention(H)):
        assert SequenceClassifier(GCN(IN, H), nn.Linear(H, V), readout)(x, edge_index, batch).shape == (2, V)
    with pytest.raises(ValueError, match="'first' is unknown"):
        SequenceClassifier(GCN(IN, H), nn.Linear(H, V), "first")


@every_cell
def test_tags_are_those_of_plain_torch(cell):
    layer = randomised(cell(IN, H, num_layers=2, bidirectional=True))
    model = Tagger(layer, randomised(nn.Linear(2 * H, V)))
    theirs, x = torchs(layer, num_layers=2, bidirectional=True), normal(sum(LENGTHS), IN)
    expected = torch.cat([theirs(part)[0] for part in x.split(LENGTHS)]) @ model.f.weight.t() + model.f.bias
    assert_same(model(x, chains(*LENGTHS)), expected, [x, *model.parameters()])


# The next token -------------------------------------------------------------------------------------------------------


def language_model(cell, num_layers: int = 2) -> LanguageModel:
    return randomised(LanguageModel(nn.Embedding(V, IN), cell(IN, H, num_layers=num_layers), nn.Linear(H, V)))


@every_cell
def test_scores_alone_are_those_of_the_model_and_run_on_the_kernels_of_torch(cell):
    model, token, edge_index = language_model(cell), torch.randint(V, (sum(LENGTHS),)), chains(*LENGTHS)
    expected, _ = model(token, edge_index, batch=batch_of(*LENGTHS))
    with mpnn.engine("packed"):
        assert_close(model.scores(token, edge_index), expected, "scores")
    if cell is LSTM:
        with mpnn.engine("packed"), pytest.raises(ValueError, match="c at every node"):
            model(token, edge_index)


@every_cell
def test_scores_and_states_of_a_language_model_are_those_of_plain_torch(cell):
    model = language_model(cell)
    theirs, token = torchs(model.layer, num_layers=2), torch.randint(V, (sum(LENGTHS),))
    start = [normal(len(LENGTHS), 2, H) for _ in model.layer.state]
    scores, state = model(token, chains(*LENGTHS), start, batch_of(*LENGTHS))
    parts = [model.embedding(part) for part in token.split(LENGTHS)]
    begin = [value.transpose(0, 1).contiguous() for value in start]
    out, final = theirs(pack_sequence(parts, enforce_sorted=False), tuple(begin) if cell is LSTM else begin[0])
    out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    rows = torch.cat([out[k, :n] for k, n in enumerate(LENGTHS)])
    expected = rows @ model.f.weight.t() + model.f.bias, *(value.transpose(0, 1) for value in tuple_of(final))
    assert_same((scores, *state), expected, [*model.parameters(), *start])


@every_cell
def test_a_text_in_chunks_is_the_text_as_a_whole(cell):
    model, token, batch = language_model(cell), torch.randint(V, (3, 12)), batch_of(4, 4, 4)
    whole, end = model(token.flatten(), chains(12, 12, 12), batch=batch_of(12, 12, 12))
    state, rows = (), []
    for chunk in token.split(4, dim=1):
        scores, state = model(chunk.flatten(), chains(4, 4, 4), state, batch, 3)
        rows.append(scores.view(3, 4, V))
    assert_same((torch.cat(rows, 1).flatten(0, 1), *state), (whole, *end), [*model.parameters()])


def test_a_state_that_is_detached_cuts_the_gradient_and_nothing_else():
    model, token = language_model(GRU, 1), torch.randint(V, (8,))
    whole = model(token, chains(8))[0]
    first, state = model(token[:4], chains(4))
    state = tuple(value.detach().requires_grad_() for value in state)
    second, _ = model(token[4:], chains(4), state)
    assert_close(torch.cat([first, second]), whole, "scores")
    loss = F.cross_entropy(second, token[4:])
    (through,) = torch.autograd.grad(loss, state, retain_graph=True)
    assert through.abs().max() > 0
    (cut,) = torch.autograd.grad(loss, model.embedding.weight)
    unseen = torch.ones(V, dtype=torch.bool).index_fill(0, token[4:], False)
    assert cut[unseen].abs().sum() == 0


@every_cell
def test_token_by_token_is_the_text_at_once(cell):
    model, token = language_model(cell), torch.randint(V, (2, 6))
    scores, end = model(token.flatten(), chains(6, 6), batch=batch_of(6, 6))
    step, state = model.begin(2)
    for t in range(6):
        log_probs, state = step(token[:, t], state)
        expected = scores.view(2, 6, V)[:, t].log_softmax(-1)
        assert_close(log_probs.detach(), expected.detach(), f"step {t}")
    for a, b in zip(state, end, strict=True):
        assert_close(a.detach(), b.detach(), "state")


def test_a_language_model_that_sees_what_comes_is_refused():
    with pytest.raises(ValueError, match="LanguageModel: the layer is GRU.*bidirectional=False"):
        LanguageModel(nn.Embedding(V, IN), GRU(IN, H, bidirectional=True), nn.Linear(2 * H, V))
    with pytest.raises(ValueError, match="the layer is GCN"):
        LanguageModel(nn.Embedding(V, IN), GCN(IN, H), nn.Linear(H, V))


def test_a_language_model_learns_a_rhyme():
    torch.manual_seed(0)
    text = torch.tensor([0, 1, 2, 0, 1, 3] * 5)  # what follows 1 depends on what came before
    model = LanguageModel(nn.Embedding(4, 4), LSTM(4, 8), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        loss = F.cross_entropy(model(text[:-1], chains(29))[0], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1

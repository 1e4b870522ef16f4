import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from compare import assert_close, assert_same, randomised, tuple_of
from test_heads import torchs
from torch import nn
from torch_geometric.data import Batch

import mpnn
from mpnn import decode
from mpnn.graphs import chain
from mpnn.nn import (
    GRU,
    LSTM,
    RNN,
    BahdanauAttention,
    ChildSumTreeLSTM,
    EncoderDecoder,
    LuongAttention,
    across,
    sequence_pair,
)

V, F_IN, H = 6, 3, 4
BEGIN, END = 0, 1
PAIRS = [([2, 3, 4], [4, 3, 2]), ([5], [5, 5]), ([3, 3, 2, 5, 4], []), ([2, 5], [3])]


def batch_of_pairs(pairs=PAIRS) -> Batch:
    return Batch.from_data_list([sequence_pair(a, b, BEGIN, END) for a, b in pairs])


def model_of(cell, attention: str | None, num_layers: int = 2, both: bool = False) -> EncoderDecoder:
    width = 2 * H if both else H
    return randomised(
        EncoderDecoder(
            nn.Embedding(V, F_IN),
            cell(F_IN, H, num_layers=num_layers, bidirectional=both),
            nn.Embedding(V, F_IN),
            cell(F_IN, width, num_layers=num_layers),
            nn.Linear(width, V),
            attention and LuongAttention(width, width, attention),
        )
    )


def looked(attention: LuongAttention, memory: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Luong et al. 2015 in the paper's letters, one target step after the other."""
    rows = []
    for h_t in h:
        W_a = attention.weight_a
        score = torch.stack([h_t @ (h_s if W_a is None else W_a @ h_s) for h_s in memory])
        a = score.exp() / score.exp().sum()
        c = sum(weight * h_s for weight, h_s in zip(a, memory, strict=True))
        rows.append(torch.tanh(attention.weight_c @ torch.cat([c, h_t])))
    return torch.stack(rows)


def plain(model: EncoderDecoder, source: list[int], target: list[int], num_layers: int, both: bool) -> torch.Tensor:
    """The model in plain torch, for one pair."""
    encoder = torchs(model.encoder, num_layers=num_layers, bidirectional=both)
    decoder = torchs(model.decoder, num_layers=num_layers)
    memory, final = encoder(model.source(torch.tensor(source)))
    joined = [value.view(num_layers, 1 + both, H).flatten(1) for value in tuple_of(final)]
    h, _ = decoder(model.target(torch.tensor([BEGIN, *target])), tuple(joined) if len(joined) > 1 else joined[0])
    return (looked(model.attention, memory, h) if model.attention else h) @ model.f.weight.t() + model.f.bias


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU], ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("attention", [None, "general", "dot"])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both ways"])
def test_it_is_the_encoder_decoder_of_plain_torch_pair_by_pair(cell, attention, both):
    model = model_of(cell, attention, both=both)
    theirs = torch.cat([plain(model, a, b, 2, both) for a, b in PAIRS])
    assert_same(model(batch_of_pairs()), theirs, [*model.parameters()])


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU], ids=lambda cell: cell.__name__)
def test_with_the_same_weights_on_both_sides_it_is_one_layer_on_one_chain(cell):
    model = model_of(cell, None)
    model.decoder, model.target = model.encoder, model.source
    source, target = PAIRS[0]
    token = torch.tensor([*source, BEGIN, *target])
    h = tuple_of(model.encoder(model.source(token), chain(len(token)).edge_index))[0]
    theirs = model.f(h[len(source) :])
    assert_same(model(sequence_pair(source, target, BEGIN, END)), theirs, [*model.parameters()])


def test_a_batch_is_the_pairs_one_by_one():
    model = model_of(LSTM, "general")
    parts = [model(sequence_pair(a, b, BEGIN, END)) for a, b in PAIRS]
    assert_same(model(batch_of_pairs()), torch.cat(parts), [*model.parameters()])


def test_a_source_may_be_a_tree():
    graph = sequence_pair([2, 3, 4], [5], BEGIN, END)
    graph["source", "next", "source"].edge_index = torch.tensor([[1, 2], [0, 0]])
    model = EncoderDecoder(
        nn.Embedding(V, F_IN), ChildSumTreeLSTM(F_IN, H), nn.Embedding(V, F_IN), LSTM(F_IN, H), nn.Linear(H, V)
    )
    model = randomised(model)
    h, c = (value[:1] for value in model.encoder(model.source(graph["source"].x), torch.tensor([[1, 2], [0, 0]])))
    theirs, _ = torchs(model.decoder)(model.target(torch.tensor([BEGIN, 5])), (h, c))
    assert_same(model(graph), model.f(theirs), [*model.parameters()])


def test_a_decoder_that_does_not_fit_the_encoder_says_so():
    model = EncoderDecoder(nn.Embedding(V, 3), GRU(3, 4), nn.Embedding(V, 3), GRU(3, 5), nn.Linear(5, V))
    with pytest.raises(ValueError, match=r"GRU: h0 has shape \(1, 4, 4\); expected \(1, B, 5\)"):
        model(batch_of_pairs())
    with pytest.raises(ValueError, match="EncoderDecoder: the layer is GRU.*bidirectional=False"):
        EncoderDecoder(nn.Embedding(V, 3), GRU(3, 4), nn.Embedding(V, 3), GRU(3, 4, bidirectional=True), nn.Identity())


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["general", "dot"])
def test_attention_is_the_papers(score):
    width = 3 if score == "dot" else 5
    layer = randomised(LuongAttention(3, width, score))
    memory = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    source, target = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 1, 0])
    theirs = torch.cat([looked(layer, memory[source == g], row[None]) for row, g in zip(h, target, strict=True)])
    for way in ("reference", "wavefront", "spmm"):
        with mpnn.engine(way):
            assert_same(layer(memory, h, across(source, target)), theirs, [memory, h, *layer.parameters()], what=way)


def test_a_target_without_a_source_sees_nothing():
    layer = randomised(LuongAttention(3, 4))
    h = torch.randn(2, 4, dtype=torch.float64)
    seen = layer(torch.randn(5, 3, dtype=torch.float64), h, torch.tensor([[2], [0]]))
    assert_close(seen[1].detach(), torch.tanh(layer.weight_c[:, 3:] @ h[1]).detach(), "sees 0")


def test_scores_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="score='concat' is unknown"):
        LuongAttention(3, 3, "concat")
    with pytest.raises(ValueError, match="of 3 and 4 features"):
        LuongAttention(3, 4, "dot")


def aligned(attention: BahdanauAttention, memory: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Bahdanau et al. 2015, eq. 5 and 6 and A.1.2, in the paper's letters: the context for one previous state."""
    v, W_a, U_a = attention.v, attention.weight_query, attention.weight_key
    e = torch.stack([v @ torch.tanh(W_a @ s + U_a @ h_j) for h_j in memory])
    alpha = e.exp() / e.exp().sum()
    return sum(weight * h_j for weight, h_j in zip(alpha, memory, strict=True))


def test_attention_by_the_state_before_is_the_papers():
    layer = randomised(BahdanauAttention(3, 5, 2))
    memory = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    s = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    source, target = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 1, 0])
    theirs = torch.stack([aligned(layer, memory[source == g], row) for row, g in zip(s, target, strict=True)])
    edge_index = across(source, target)
    for way in ("reference", "wavefront", "spmm"):
        with mpnn.engine(way):
            assert_same(layer(memory, s, edge_index), theirs, [memory, s, *layer.parameters()], what=way)
    with_keys = layer(memory, s, edge_index, layer.keys(memory))
    assert_same(with_keys, theirs, [memory, s, *layer.parameters()])
    assert_close(layer(memory, s, torch.tensor([[2], [0]]))[1:].detach(), s.new_zeros(3, 3), "sees 0")
    assert repr(layer) == "BahdanauAttention(3, 5, 2)"


def bahdanau(cell, num_layers: int = 1, **options) -> EncoderDecoder:
    return randomised(
        EncoderDecoder(
            nn.Embedding(V, F_IN),
            cell(F_IN, H, num_layers=num_layers, bidirectional=True),
            nn.Embedding(V, F_IN),
            cell(F_IN + 2 * H, 2 * H, num_layers=num_layers, **options),
            nn.Linear(4 * H + F_IN, V),
            BahdanauAttention(2 * H, 2 * H, 3),
        )
    )


def searched(model: EncoderDecoder, source: list[int], target: list[int]) -> torch.Tensor:
    """Bahdanau et al. 2015, section 3 and A.1, in the paper's letters, for a decoder GRU without biases; z and 1 - z
    are swapped in ours, so its weights have the other sign."""
    memory, s = model.encode(sequence_pair(source))
    s = s[0][0, 0]
    W_r, W_z, W = model.decoder.weight_ih_l0.chunk(3)  # the paper's W and C side by side
    U_r, U_z, U = model.decoder.weight_hh_l0.chunk(3)
    scores = []
    for y in [BEGIN, *target]:
        Ey = model.target.weight[y]
        c = aligned(model.attention, memory, s)
        seen = torch.cat([Ey, c])
        r, z = torch.sigmoid(W_r @ seen + U_r @ s), torch.sigmoid(-W_z @ seen - U_z @ s)
        s = (1 - z) * s + z * torch.tanh(W @ seen + U @ (r * s))
        scores.append(model.f.weight @ torch.cat([s, c, Ey]) + model.f.bias)
    return torch.stack(scores)


def test_attention_by_the_state_before_runs_step_by_step_as_in_the_paper():
    model = randomised(bahdanau(GRU))
    model.decoder = randomised(GRU(F_IN + 2 * H, 2 * H, bias=False, reset="before"))
    theirs = torch.cat([searched(model, a, b) for a, b in PAIRS])
    assert_same(model(batch_of_pairs()), theirs, [*model.parameters()])
    alone = torch.cat([model(sequence_pair(a, b, BEGIN, END)) for a, b in PAIRS])
    assert_same(alone, theirs, [*model.parameters()])


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU], ids=lambda cell: cell.__name__)
def test_the_state_before_is_that_of_the_last_layer(cell):
    model = bahdanau(cell, num_layers=2)
    decoder = torchs(model.decoder, num_layers=2)

    def scores(source, target):
        memory, state = model.encode(sequence_pair(source))
        state = tuple(value.transpose(0, 1) for value in state)  # (layers, 1, H)
        state = state if len(state) > 1 else state[0]
        for y in [BEGIN, *target]:
            Ey, c = model.target.weight[y], aligned(model.attention, memory, tuple_of(state)[0][-1, 0])
            s, state = decoder(torch.cat([Ey, c])[None, None], state)
            yield model.f(torch.cat([s[0, 0], c, Ey]))

    theirs = torch.stack([row for a, b in PAIRS for row in scores(a, b)])
    assert_same(model(batch_of_pairs()), theirs, [*model.parameters()])


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU], ids=lambda cell: cell.__name__)
def test_what_is_written_with_attention_by_the_state_before_is_what_training_scores(cell):
    model = bahdanau(cell, num_layers=2).eval()
    pairs = [(a, b) for a, b in PAIRS if b]
    with torch.no_grad():
        batch = batch_of_pairs(pairs)
        log_prob = model(batch).log_softmax(-1).gather(1, batch["target"].y[:, None]).flatten()
        theirs = torch.zeros(len(pairs), dtype=torch.float64).index_add(0, batch["target"].batch, log_prob)
        for (a, b), expected in zip(pairs, theirs, strict=True):
            step, state = model.begin(batch_of_pairs([(a, [])]))
            total = 0.0
            for y, following in zip([BEGIN, *b], [*b, END], strict=True):
                log_probs, state = step(torch.tensor([y]), state)
                total = total + log_probs[0, following]
            assert_close(total, expected, f"{a} -> {b}")
    for found in decode.greedy(*model.begin(batch), begin=BEGIN, end=END, max_length=4):
        assert len(found.tokens) <= 4
    best = decode.beam(*model.begin(batch), begin=BEGIN, end=END, max_length=3, width=V**3)
    every = decode.beam(*model.begin(sequence_pair(pairs[0][0])), begin=BEGIN, end=END, max_length=3, width=V**3)
    assert [h.tokens for h in best[0][:5]] == [h.tokens for h in every[0][:5]]


def test_attention_by_the_state_before_sees_the_sources_that_have_an_edge():
    model, graph = bahdanau(GRU), sequence_pair([2, 3, 4], [5], BEGIN, END)
    whole = model(graph)
    for sees in ([[0, 1, 2], [0, 0, 0]], [[2, 0, 1, 0], [1, 1, 0, 0]]):
        graph["source", "attend", "target"].edge_index = torch.tensor(sees)
        memory, (s,) = model.encode(graph)
        for t, y in enumerate([BEGIN, 5]):
            seen = [j for j, i in zip(*sees, strict=True) if i == t]
            c = aligned(model.attention, memory[seen], s[0, 0]) if seen else torch.zeros(2 * H)
            x = torch.cat([model.target.weight[y], c])[None]
            s = model.decoder(x, torch.empty(2, 0, dtype=torch.long), s.transpose(0, 1))[:, None]
            expected = model.f(torch.cat([s[0, 0], c, model.target.weight[y]]))
            assert_close(model(graph)[t].detach(), expected.detach(), f"{sees} at {t}")
        assert not torch.allclose(model(graph), whole)


def test_attention_by_the_state_before_wants_a_chain_of_targets():
    graph = sequence_pair([2, 3], [4, 5], BEGIN, END)
    graph["target", "next", "target"].edge_index = torch.tensor([[0, 0], [1, 2]])
    with pytest.raises(ValueError, match="target nodes 1 and 2 of graph 0 are both at step 1; expected a chain"):
        bahdanau(GRU)(graph)


def test_every_target_sees_the_sources_of_its_graph_in_any_order():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        source = torch.randint(4, (seed % 7,), generator=generator)
        target = torch.randint(5, (seed % 5,), generator=generator)
        found = sorted(map(tuple, across(source, target).t().tolist()))
        expected = [(j, i) for j, i in product(range(len(source)), range(len(target))) if source[j] == target[i]]
        assert found == sorted(expected)


def test_a_pair_is_one_graph_and_batches():
    graph = sequence_pair([7, 8, 9], [4], begin=1, end=2)
    assert graph["source"].x.tolist() == [7, 8, 9]
    assert (graph["target"].x.tolist(), graph["target"].y.tolist()) == ([1, 4], [4, 2])
    assert graph["source", "next", "source"].edge_index.tolist() == [[0, 1], [1, 2]]
    assert graph["target", "next", "target"].edge_index.tolist() == [[0], [1]]
    batch = Batch.from_data_list([graph, sequence_pair([5], begin=1, end=2)])
    pairs = batch["source", "attend", "target"].edge_index.t().tolist()
    assert pairs == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [3, 2]]


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [None, "general"])
@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.__name__)
def test_step_by_step_is_teacher_forcing_at_once(cell, attention):
    model, batch = model_of(cell, attention), batch_of_pairs()
    log_probs = model(batch).log_softmax(-1)
    step, state = model.begin(batch)
    target = batch["target"].x
    for t in range(4):
        rows = [int((batch["target"].batch < g).sum()) + t for g in range(len(PAIRS))]
        there = [g for g, (_, b) in enumerate(PAIRS) if t < len(b) + 1]
        token = torch.tensor([int(target[row]) if g in there else 2 for g, row in enumerate(rows)])
        given, state = step(token, state)
        assert_close(given[there].detach(), log_probs[[rows[g] for g in there]].detach(), f"step {t}")


@pytest.fixture(scope="module")
def reverser():
    """A model that has learnt to turn strings of digits round, and the strings it has not seen."""
    torch.manual_seed(0)
    strings = [list(s) for n in (1, 2, 3, 4) for s in product(range(2, 6), repeat=n)]
    order = torch.randperm(len(strings)).tolist()
    unseen, seen = ([strings[k] for k in part] for part in (order[:60], order[60:]))
    model = EncoderDecoder(
        nn.Embedding(V, 16), GRU(16, 32, bidirectional=True), nn.Embedding(V, 16), GRU(16, 64), nn.Linear(64, V),
        LuongAttention(64, 64),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    batch = batch_of_pairs([(s, s[::-1]) for s in seen])
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(batch), batch["target"].y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), unseen, losses


def test_it_learns_to_reverse_strings(reverser):
    model, unseen, losses = reverser
    batch = batch_of_pairs([(s, []) for s in unseen])
    written = decode.greedy(*model.begin(batch), BEGIN, END, 8)
    right = sum(done.tokens == s[::-1] for done, s in zip(written, unseen, strict=True))
    assert losses[0] > 1.5 and right / len(unseen) > 0.9


def test_a_beam_finds_what_is_at_least_as_probable_as_greedily(reverser):
    model, unseen, _ = reverser
    batch = batch_of_pairs([(s, []) for s in unseen])
    one = decode.greedy(*model.begin(batch), BEGIN, END, 8)
    many = decode.beam(*model.begin(batch), BEGIN, END, 8, width=4)
    assert all(best[0].log_prob >= done.log_prob - 1e-4 for best, done in zip(many, one, strict=True))
    right = sum(best[0].tokens == s[::-1] for best, s in zip(many, unseen, strict=True))
    assert right / len(unseen) > 0.9


def test_a_batch_is_written_as_its_graphs_one_by_one(reverser):
    model, unseen, _ = reverser
    alone = [sequence_pair(s, begin=BEGIN, end=END) for s in unseen[:6]]
    batch = Batch.from_data_list(alone)
    greedy = decode.greedy(*model.begin(batch), BEGIN, END, 8)
    beams = decode.beam(*model.begin(batch), BEGIN, END, 8, 3, length_penalty=0.7)
    for k, graph in enumerate(alone):
        (one,) = decode.greedy(*model.begin(graph), BEGIN, END, 8)
        (many,) = decode.beam(*model.begin(graph), BEGIN, END, 8, 3, length_penalty=0.7)
        assert one.tokens == greedy[k].tokens and math.isclose(one.log_prob, greedy[k].log_prob, abs_tol=1e-4)
        assert [h.tokens for h in many] == [h.tokens for h in beams[k]]
        assert all(math.isclose(a.score, b.score, abs_tol=1e-4) for a, b in zip(many, beams[k], strict=True))


def test_the_log_probability_of_what_was_written_is_that_of_teacher_forcing(reverser):
    model, unseen, _ = reverser
    batch = batch_of_pairs([(s, []) for s in unseen[:10]])
    for done, s in zip(decode.greedy(*model.begin(batch), BEGIN, END, 8), unseen, strict=False):
        pair = sequence_pair(s, done.tokens, BEGIN, END)
        forced = -F.cross_entropy(model(pair), pair["target"].y, reduction="sum")
        assert done.ended and math.isclose(done.log_prob, forced.item(), abs_tol=1e-4)

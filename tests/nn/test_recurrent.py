import re
from functools import partial

import pytest
import torch
from compare import assert_close, assert_golden, assert_same, randomised, tuple_of
from torch import nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from torch_geometric.data import Batch, Data
from zoo import graphs

import mpnn
from mpnn.nn import GRU, LSTM, RNN

IN, H = 3, 4
THEIRS = {RNN: nn.RNN, LSTM: nn.LSTM, GRU: nn.GRU}
every_cell = pytest.mark.parametrize("cell", THEIRS, ids=lambda cell: cell.__name__)


def chains(*lengths: int) -> torch.Tensor:
    """Chains side by side, t-1 -> t."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    steps = [torch.arange(a, b - 1) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return torch.stack([torch.cat(steps), torch.cat(steps) + 1])


def graph_of(*lengths: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.tensor(lengths))


def results(outputs) -> tuple[torch.Tensor, ...]:
    """What a layer gives; c of an LSTM only where it is asked for."""
    return tuple(value for value in tuple_of(outputs) if value is not None)


def names(layer: nn.Module) -> dict[str, str]:
    return {name: name for name, _ in layer.named_parameters()}


# Against torch.nn -----------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_on_chains_it_is_torchs_layer_with_packed_lengths_and_initial_states(cell, num_layers, bidirectional, bias):
    torch.manual_seed(0)
    lengths = (5, 1, 7, 2)
    options = dict(num_layers=num_layers, bidirectional=bidirectional, bias=bias)
    ours, theirs = cell(IN, H, **options).double(), THEIRS[cell](IN, H, **options).double()
    count = num_layers * (1 + bidirectional)
    x = torch.randn(sum(lengths), IN, dtype=torch.float64)
    start = [torch.randn(count, len(lengths), H, dtype=torch.float64) for _ in ours.state]
    edge_index, batch = chains(*lengths), graph_of(*lengths)
    ends = torch.tensor(lengths).cumsum(0)
    last, first = ends - 1, ends - torch.tensor(lengths)

    def our_call(x, *start):
        initial = dict(zip(("h0", "c0"), start, strict=False))
        top = tuple_of(ours(x, edge_index, batch=batch, **initial))
        states = ours.states(x, edge_index, batch=batch, **initial)
        final = [torch.stack([s[k, first if bidirectional and k % 2 else last] for k in range(count)]) for s in states]
        return top[0], *final

    def their_call(x, *start):
        packed = pack_sequence(x.split(lengths), enforce_sorted=False)
        out, final = theirs(packed, start if cell is LSTM else start[0])
        return torch.cat(unpack_sequence(out)), *tuple_of(final)

    assert_golden(ours, theirs, names(ours), x, *start, calls=(our_call, their_call))


@every_cell
def test_without_initial_states_it_starts_from_zeros_as_torch(cell):
    ours, theirs = cell(IN, H, num_layers=2).double(), THEIRS[cell](IN, H, num_layers=2).double()
    x = torch.randn(6, IN, dtype=torch.float64)
    calls = (lambda x: tuple_of(ours(x, chains(6)))[0], lambda x: theirs(x)[0])
    assert_golden(ours, theirs, names(ours), x, calls=calls)


def test_the_cell_states_of_an_lstm_are_torchs():
    ours, theirs = LSTM(IN, H).double(), nn.LSTM(IN, H).double()
    x = torch.randn(6, IN, dtype=torch.float64)

    def their_cells(x):
        return torch.cat([theirs(x[: t + 1])[1][1] for t in range(len(x))])

    assert_golden(ours, theirs, names(ours), x, calls=(lambda x: ours(x, chains(6), cells=True)[1], their_cells))


def test_the_rectifier_is_torchs():
    ours, theirs = RNN(IN, H, nonlinearity="relu").double(), nn.RNN(IN, H, nonlinearity="relu").double()
    x = torch.randn(5, IN, dtype=torch.float64)
    calls = (lambda x: ours(x, chains(5)), lambda x: theirs(x)[0])
    assert_golden(ours, theirs, names(ours), x, calls=calls)


@every_cell
def test_weights_load_both_ways_and_are_drawn_as_torch_draws_them(cell):
    options = dict(num_layers=2, bidirectional=True)
    torch.manual_seed(3)
    ours = cell(IN, H, **options)
    torch.manual_seed(3)
    theirs = THEIRS[cell](IN, H, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    x = torch.randn(5, IN)
    for source, target in ((THEIRS[cell](IN, H, **options), ours), (cell(IN, H, **options), theirs)):
        assert not torch.equal(output(source, x), output(target, x))
        target.load_state_dict(source.state_dict())
        assert_close(output(source, x), output(target, x), "loaded")


def output(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The h of either library's layer over one chain."""
    return layer(x)[0] if isinstance(layer, nn.RNNBase) else tuple_of(layer(x, chains(len(x))))[0]


# Against the papers ---------------------------------------------------------------------------------------------------


def paper_pass(cell, layer, x, edge_index, start):
    """One node at a time: ``cell`` on a node's x and its predecessors' summed states, or ``start`` if it has none."""
    done = {}

    def visit(t):
        before = [j for j, i in edge_index.t().tolist() if i == t]
        for j in before:
            if j not in done:
                visit(j)
        states = [sum(done[j][k] for j in before) if before else s[t] for k, s in enumerate(start)]
        done[t] = cell(layer, x[t], *states)

    for t in range(len(x)):
        if t not in done:
            visit(t)
    return tuple(torch.stack(field) for field in zip(*(done[t] for t in range(len(x))), strict=True))


def paper_rnn(layer, x, h):  # Elman 1990
    z = layer.weight_hh_l0 @ h + layer.weight_ih_l0 @ x + layer.bias_ih_l0 + layer.bias_hh_l0
    g = z.clamp(min=0) if layer.nonlinearity == "relu" else (2 * z).sigmoid() * 2 - 1
    return (h + g if layer.residual else g,)


def paper_lstm(layer, x, h, c):  # Gers, Schmidhuber & Cummins 2000; peepholes: Gers & Schmidhuber 2000
    W, U = layer.weight_ih_l0, layer.weight_hh_l0
    a = W @ x + U @ h + layer.bias_ih_l0 + layer.bias_hh_l0
    blocks = {"own": "ifgo", "none": "igo", "coupled": "fgo"}[layer.forget]
    a = {gate: a[k * H : (k + 1) * H] for k, gate in enumerate(blocks)}
    if layer.peephole:
        p = dict(zip([gate for gate in blocks if gate != "g"], layer.weight_ch_l0, strict=True))
        for gate in set(p) & {"i", "f"}:
            a[gate] = a[gate] + p[gate] * c
    f = torch.ones(H, dtype=x.dtype) if layer.forget == "none" else a["f"].sigmoid()
    i = 1 - f if layer.forget == "coupled" else a["i"].sigmoid()
    c = f * c + i * a["g"].tanh()
    o = (a["o"] + p["o"] * c if layer.peephole else a["o"]).sigmoid()
    return o * c.tanh(), c


def paper_gru(layer, x, h):  # Cho et al. 2014, arXiv:1406.1078, eq. 5-8, and the convention of torch
    W_r, W_z, W = layer.weight_ih_l0.chunk(3)
    U_r, U_z, U = layer.weight_hh_l0.chunk(3)
    b_r, b_z, b = layer.bias_ih_l0.chunk(3)
    d_r, d_z, d = layer.bias_hh_l0.chunk(3)
    r = (W_r @ x + b_r + U_r @ h + d_r).sigmoid()
    z = (W_z @ x + b_z + U_z @ h + d_z).sigmoid()
    if layer.reset == "before":
        candidate = (W @ x + b + U @ (r * h) + d).tanh()
    else:
        candidate = (W @ x + b + r * (U @ h + d)).tanh()
    return (z * h + (1 - z) * candidate,)


VARIANTS = [
    (RNN, paper_rnn, {}),
    (RNN, paper_rnn, {"nonlinearity": "relu"}),
    (RNN, paper_rnn, {"residual": True}),
    (RNN, paper_rnn, {"residual": True, "nonlinearity": "relu"}),
    *((LSTM, paper_lstm, {"forget": f, "peephole": p}) for f in ("own", "none", "coupled") for p in (False, True)),
    (GRU, paper_gru, {"reset": "after"}),
    (GRU, paper_gru, {"reset": "before"}),
]
every_variant = pytest.mark.parametrize(
    ("cell", "paper", "options"), VARIANTS, ids=lambda v: str(getattr(v, "__name__", v))
)


@every_variant
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from given states"])
def test_each_variant_is_its_papers_loop_on_chains_and_other_dags(cell, paper, options, given):
    layer = randomised(cell(IN, H, **options))
    cases = {"chains": Data(edge_index=chains(4, 1, 3), num_nodes=8)} | graphs("dag")
    for name in ("chains", "long chain", "tree", "random dag", "ids in reverse", "isolated last node"):
        n, edge_index = cases[name].num_nodes, cases[name].edge_index
        x = torch.randn(n, IN, dtype=torch.float64, requires_grad=True)
        start = [torch.randn(1, n, H, dtype=torch.float64).mul(given).requires_grad_() for _ in layer.state]
        initial = dict(zip(("h0", "c0"), start, strict=False)) | {"batch": torch.arange(n)} if given else {}
        theirs = paper_pass(paper, layer, x, edge_index, [s[0] for s in start])
        leaves = [x, *layer.parameters(), *(start if given else ())]
        asked = {"cells": True} if cell is LSTM else {}
        assert_same(layer(x, edge_index, **initial, **asked), theirs, leaves, what=name)


# Directions, layers, batches ------------------------------------------------------------------------------------------


@every_cell
def test_two_directions_are_two_layers_one_of_them_on_turned_edges(cell):
    both, forwards, backwards = (randomised(cell(IN, H, bidirectional=b)) for b in (True, False, False))
    weights = both.state_dict()
    forwards.load_state_dict({name: weights[name] for name in weights if not name.endswith("_reverse")})
    backwards.load_state_dict({name: weights[f"{name}_reverse"] for name in forwards.state_dict()})
    for name, data in graphs("dag").items():
        x = torch.randn(data.num_nodes, IN, dtype=torch.float64, requires_grad=True)
        h0 = torch.randn(2, data.num_nodes, H, dtype=torch.float64, requires_grad=True)
        node = torch.arange(data.num_nodes)
        one = results(forwards(x, data.edge_index, h0=h0[:1], batch=node))
        other = results(backwards(x, data.edge_index.flip(0), h0=h0[1:], batch=node))
        joined = tuple(torch.cat(pair, dim=1) for pair in zip(one, other, strict=True))
        assert_same(results(both(x, data.edge_index, h0=h0, batch=node)), joined, [x, h0], what=name)
        for rule in (mpnn.schedule.topological, mpnn.schedule.topological.reverse):
            expected = results(both(x, data.edge_index, h0=h0, batch=node, schedule=rule))
            planned = results(both(x, mpnn.plan(data, rule), h0=h0, batch=node))
            assert_same(planned, expected, [x, h0], what=f"{name}, {rule}")


@every_cell
def test_dropout_is_between_layers_and_in_training_only(cell):
    layer = randomised(cell(IN, H, num_layers=3, dropout=0.5))
    parts = [randomised(cell(H if k else IN, H)) for k in range(3)]
    for k, part in enumerate(parts):
        part.load_state_dict({name: layer.state_dict()[name.replace("_l0", f"_l{k}")] for name in part.state_dict()})
    x, edge_index = torch.randn(6, IN, dtype=torch.float64, requires_grad=True), chains(4, 2)
    for training in (True, False):
        layer.train(training)
        torch.manual_seed(1)
        found = results(layer(x, edge_index))
        torch.manual_seed(1)
        states = results(parts[0](x, edge_index))
        for part in parts[1:]:
            states = results(part(torch.dropout(states[0], 0.5, training), edge_index))
        assert_same(found, states, [x], what=f"training={training}")
        drawn = torch.rand(1)
        torch.manual_seed(1)
        layer(x, edge_index)
        assert torch.equal(torch.rand(1), drawn)  # the last layer's states are not drawn for


@every_cell
def test_a_batch_of_sequences_is_the_sequences_one_by_one(cell):
    layer = randomised(cell(IN, H, num_layers=2, bidirectional=True))
    lengths = (3, 1, 6, 4)
    alone = [Data(x=torch.randn(n, IN, dtype=torch.float64), edge_index=chains(n)) for n in lengths]
    weights = list(layer.parameters())
    batch = Batch.from_data_list(alone)
    start = {f"{name}0": torch.randn(4, 4, H, dtype=torch.float64) for name in layer.state}
    together = results(layer(batch.x, batch.edge_index, batch=batch.batch, **start))
    for b, data in enumerate(alone):
        one = results(layer(data.x, data.edge_index, **{name: value[:, b : b + 1] for name, value in start.items()}))
        assert_same(tuple(field.split(lengths)[b] for field in together), one, weights, what=f"sequence {b}")


@every_cell
def test_the_reference_takes_initial_states_too(cell):
    layer = randomised(cell(IN, H, num_layers=2, bidirectional=True))
    data = graphs()["random dag"]
    x = torch.randn(data.num_nodes, IN, dtype=torch.float64, requires_grad=True)
    start = {f"{name}0": torch.randn(4, 1, H, dtype=torch.float64, requires_grad=True) for name in layer.state}
    leaves = [x, *layer.parameters(), *start.values()]
    with mpnn.engine("reference"):
        expected = results(layer(x, data.edge_index, **start))
    assert_same(results(layer(x, data.edge_index, **start)), expected, leaves)


def test_either_initial_state_of_an_lstm_may_be_given_alone():
    layer = randomised(LSTM(IN, H, peephole=True))
    x, given, zeros = torch.randn(5, IN).double(), torch.randn(1, 1, H).double(), torch.zeros(1, 1, H).double()
    weights = list(layer.parameters())
    call = partial(layer, x, chains(5), cells=True)
    assert_same(call(h0=given), call(h0=given, c0=zeros), weights)
    assert_same(call(c0=given), call(h0=zeros, c0=given), weights)


@every_cell
def test_products_with_x_are_taken_once_for_all_nodes(cell, monkeypatch):
    layer, taken = cell(IN, H, num_layers=2, bidirectional=True), []
    linear = nn.functional.linear

    def counted(x, weight, bias=None):
        taken.append(x.shape)
        return linear(x, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", counted)
    with mpnn.engine("wavefront"):
        layer(torch.randn(6, IN), chains(4, 2))
    of_inputs = [shape for shape in taken if shape[0] == 6]
    assert of_inputs == [(6, IN)] * 2 + [(6, 2 * H)] * 2


def test_states_are_of_every_layer_and_direction_and_the_result_is_the_last():
    layer = randomised(LSTM(IN, H, num_layers=2, bidirectional=True))
    x = torch.randn(5, IN, dtype=torch.float64)
    top, states = layer(x, chains(5), cells=True), layer.states(x, chains(5))
    for whole, field in zip(top, states, strict=True):
        assert field.shape == (4, 5, H)
        assert torch.equal(torch.cat([field[2], field[3]], dim=1), whole)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_initial_states_of_another_shape_are_refused():
    x, edge_index, batch = torch.ones(3, IN), chains(2, 1), torch.tensor([0, 0, 1])
    for name, shape, given, expected in (
        ("h0", (2, H), None, "(2, 1, 4)"),
        ("h0", (1, 1, H), None, "(2, 1, 4)"),
        ("c0", (2, 2, H), None, "(2, 1, 4)"),
        ("c0", (2, 2, 5), batch, "(2, B, 4)"),
    ):
        message = f"LSTM: {name} has shape {shape}; expected {expected}: layers times directions"
        with pytest.raises(ValueError, match=re.escape(message)):
            LSTM(IN, H, num_layers=2)(x, edge_index, batch=given, **{name: torch.zeros(shape)})
    with pytest.raises(ValueError, match="GRU: batch has 2 entries, but there are 3 nodes"):
        GRU(IN, H)(x, edge_index, h0=torch.zeros(1, 2, H), batch=batch[1:])


def test_initial_states_of_another_name_are_refused():
    with pytest.raises(TypeError, match="GRU: 'c0' is no initial state; expected h0"):
        GRU(IN, H).states(torch.ones(3, IN), chains(3), c0=torch.zeros(1, 1, H))


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="RNN: nonlinearity='sin' is unknown; expected 'tanh' or 'relu'"):
        RNN(IN, H, nonlinearity="sin")
    with pytest.raises(ValueError, match="LSTM: forget='never' is unknown; expected 'own', 'none' or 'coupled'"):
        LSTM(IN, H, forget="never")
    with pytest.raises(ValueError, match="GRU: reset='during' is unknown; expected 'after' or 'before'"):
        GRU(IN, H, reset="during")


def test_other_widths_of_x_are_refused():
    with pytest.raises(ValueError, match="LSTM: x has 5 features a node"):
        LSTM(IN, H)(torch.ones(3, 5), chains(3))


def test_the_repr_shows_what_differs_from_the_plain_layer():
    assert repr(RNN(3, 4, nonlinearity="relu", residual=True)) == "RNN(3, 4, nonlinearity='relu', residual=True)"
    assert repr(LSTM(3, 4, 2, dropout=0.5, forget="none", peephole=True)) == (
        "LSTM(3, 4, num_layers=2, dropout=0.5, forget='none', peephole=True)"
    )
    assert repr(GRU(3, 4, bias=False, bidirectional=True, reset="before")) == (
        "GRU(3, 4, bias=False, bidirectional=True, reset='before')"
    )


def test_an_lstm_gives_its_cells_when_asked_and_only_then_whichever_way_it_runs():
    x, dag = torch.randn(3, IN), torch.tensor([[0, 1], [2, 2]])
    for layer in (LSTM(IN, H), LSTM(IN, H, peephole=True)):
        for graph in (chains(3), dag):
            assert layer(x, graph)[1] is None and layer(x, graph, cells=True)[1].shape == (3, H)

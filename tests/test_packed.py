"""Chains on torch's kernels: the same numbers as every other way, and words where they do not apply."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from compare import assert_same, randomised, tuple_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import graph_of, seeds
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from zoo import graphs

import mpnn
from mpnn.engine import choose
from mpnn.engine.packed import chains, cut
from mpnn.nn import GRU, LSTM, RNN

IN, H = 3, 4
CELLS = {
    "RNN": (RNN, nn.RNN, {}),
    "RNN, rectified": (RNN, nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (LSTM, nn.LSTM, {}),
    "GRU": (GRU, nn.GRU, {}),
}
every_cell = pytest.mark.parametrize("name", CELLS)
CHAIN = torch.tensor([[0, 1, 2], [1, 2, 3]])


def h_of(outputs) -> torch.Tensor:
    return tuple_of(outputs)[0]


def way_of(layer, edge_index, num_nodes, **kw) -> tuple[str, str]:
    return choose(layer, mpnn.plan(edge_index, "topological", num_nodes), **kw)


@st.composite
def sequences(draw):
    """Lengths of chains, and the node at each place of each."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    name = iter(draw(st.permutations(range(sum(lengths)))))
    return [[next(name) for _ in range(length)] for length in lengths]


@every_cell
@settings(max_examples=12)
@given(nodes=sequences(), num_layers=st.integers(1, 2), both=st.booleans(), start=st.booleans(), seed=seeds)
@example(nodes=[[0, 2], [1]], num_layers=1, both=False, start=False, seed=0)  # in their own order, one row empty
def test_it_is_torchs_packed_layer_and_every_other_way(name, nodes, num_layers, both, start, seed):
    cell, theirs, options = CELLS[name]
    options = options | dict(num_layers=num_layers, bidirectional=both)
    ours, theirs = randomised(cell(IN, H, **options)), theirs(IN, H, **options).double()
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(seed)
    graph = graph_of(sum(map(len, nodes)), [e for chain in nodes for e in zip(chain, chain[1:], strict=False)])
    x = torch.randn(graph.num_nodes, IN, dtype=torch.float64, requires_grad=True)
    count, flat = num_layers * (1 + both), [i for chain in nodes for i in chain]
    initial = [torch.randn(count, len(nodes), H, dtype=torch.float64, requires_grad=True) for _ in ours.state]
    initial = initial if start else []
    batch = torch.empty(len(flat), dtype=torch.long)
    batch[flat] = torch.tensor([b for b, chain in enumerate(nodes) for _ in chain])

    def call(way):
        given = dict(zip(("h0", "c0"), initial, strict=False)) | {"batch": batch} if start else {}
        with mpnn.engine(way) if way else nullcontext():
            return h_of(ours(x, graph.edge_index, **given))

    packed = pack_sequence([x[chain] for chain in nodes], enforce_sorted=False)
    out = unpack_sequence(theirs(packed, *([tuple(initial) if len(initial) > 1 else initial[0]] if start else []))[0])
    expected = torch.cat(out)[torch.tensor(flat).argsort()]
    leaves = [x, *initial, *ours.parameters()]
    assert way_of(ours, graph.edge_index, graph.num_nodes)[0] == "packed"
    assert_same(call(None), expected, leaves, [x, *initial, *theirs.parameters()], what="torch's")
    for way in ("packed", "wavefront", "reference"):
        assert_same(call(None), call(way), leaves, what=way)


@every_cell
def test_blocks_that_narrow_take_the_states_over(name):
    lengths = [2] * 40 + [9] * 12 + [30, 25, 1, 1]
    layer = randomised(CELLS[name][0](IN, H, bidirectional=True, **CELLS[name][2]))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.3)  # a rectifier's states stay small over 30 steps
    edge_index = torch.cat([mpnn.graphs.chain(n).edge_index + sum(lengths[:k]) for k, n in enumerate(lengths)], dim=1)
    x = torch.randn(sum(lengths), IN, dtype=torch.float64, requires_grad=True)
    assert len(chains(mpnn.plan(edge_index, "topological", len(x))).blocks) > 2
    with mpnn.engine("wavefront"):
        expected = h_of(layer(x, edge_index))
    assert_same(h_of(layer(x, edge_index)), expected, [x, *layer.parameters()])


def numbered(nodes, how: str) -> list[list[int]]:
    """The same chains with nodes as they are, one chain after the other, or step by step."""
    places = [(k, t) for k, chain in enumerate(nodes) for t in range(len(chain))]
    if how == "as drawn":
        return nodes
    rank = {place: i for i, place in enumerate(sorted(places, key=lambda p: p if how == "in a row" else p[::-1]))}
    return [[rank[k, t] for t in range(len(chain))] for k, chain in enumerate(nodes)]


@pytest.mark.parametrize("how", ["as drawn", "in a row", "step by step"])
@given(nodes=sequences(), turn=st.booleans(), gaps=st.booleans())
def test_each_node_has_a_row_at_its_step_of_a_column_of_its_chain_in_either_direction(how, nodes, turn, gaps):
    nodes = numbered(nodes, how)
    graph = graph_of(sum(map(len, nodes)), [e for chain in nodes for e in zip(chain, chain[1:], strict=False)])
    rule = mpnn.schedule.topological
    if gaps:
        time = {i: 3 * t + k for k, chain in enumerate(nodes) for t, i in enumerate(chain)}
        rule = mpnn.schedule.by(torch.tensor([time[i] for i in range(graph.num_nodes)]))
    plan = mpnn.plan(graph, rule)
    found = chains(plan.reverse if turn else plan)
    nodes = [chain[::-1] if turn else chain for chain in nodes]
    longest = sorted(nodes, key=lambda chain: -len(chain))
    assert [len(chain) for chain in longest] == found.length.tolist() and sum(found.sizes) >= graph.num_nodes
    assert sorted(found.first.tolist()) == sorted(chain[0] for chain in nodes)
    place = torch.arange(graph.num_nodes) if found.place is None else found.place
    begin = [row for rows, (steps, width) in zip(starts(found), found.blocks, strict=True) for row in rows[:steps]]
    for chain in nodes:
        columns = [int(place[i]) - begin[t] for t, i in enumerate(chain)]
        assert len(set(columns)) == 1 and found.first[columns[0]] == chain[0] and found.column[chain[0]] == columns[0]
    if found.place is not None:
        assert len(found.node) == sum(found.sizes) and found.node[place].tolist() == list(range(graph.num_nodes))
        empty = found.node == graph.num_nodes
        assert int(empty.sum()) == sum(found.sizes) - graph.num_nodes
        assert torch.equal(found.read[~empty], found.node[~empty])
    assert layout(chains(plan.reverse.reverse)) == layout(chains(plan))


def starts(found) -> list[list[int]]:
    """The first row of each step, block by block."""
    ends = [sum(found.sizes[:k]) for k in range(len(found.sizes))]
    return [[at + t * width for t in range(steps)] for at, (steps, width) in zip(ends, found.blocks, strict=True)]


def layout(found) -> list:
    return [value if value is None else value.tolist() for value in (found.first, found.place, found.node)]


def test_rows_without_a_node_are_bounded_whatever_the_lengths():
    for lengths in ([10_000] + [3] * 1000, [10_000] + [3] * 7, range(1, 500), [200] * 32, [1] * 5):
        widths = [sum(length > t for length in lengths) for t in range(max(lengths))]
        blocks = cut(widths)
        assert sum(steps for steps, _ in blocks) == max(lengths) and len(blocks) < 20
        assert sum(steps * width for steps, width in blocks) < 1.6 * sum(lengths) + 512


def test_two_directions_run_on_the_same_kernel_without_cells_and_cells_are_the_wavefronts():
    layer, x = randomised(LSTM(IN, H, bidirectional=True)), torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    h, c = layer(x, CHAIN)
    whole = layer(x, CHAIN, cells=True)
    assert c is None and whole[1].shape == (4, 2 * H)
    assert_same(h, whole[0], [x, *layer.parameters()])
    way, reason = way_of(layer, CHAIN, 4, only=("h", "c"))
    assert way == "wavefront" and "c at every node" in reason


def test_dropout_is_drawn_as_on_the_wavefront():
    layer = randomised(GRU(IN, H, num_layers=3, dropout=0.5)).train()
    x, found = torch.randn(4, IN, dtype=torch.float64, requires_grad=True), []
    for way in ("packed", "wavefront"):
        torch.manual_seed(1)
        with mpnn.engine(way):
            found.append(layer(x, CHAIN))
    assert_same(*found, [x, *layer.parameters()])


@every_cell
def test_a_parametrised_weight_and_a_hook_on_one_keep_their_gradients(name):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer, seen = randomised(CELLS[name][0](IN, H, **CELLS[name][2])), []
    parametrize.register_parametrization(layer, "weight_hh_l0", Double())
    layer.weight_ih_l0.register_hook(lambda grad: seen.append(grad))
    x = torch.randn(4, IN, dtype=torch.float64)
    assert way_of(layer, CHAIN, 4)[0] == "packed"
    with mpnn.engine("wavefront"):
        expected = h_of(layer(x, CHAIN))
    assert_same(h_of(layer(x, CHAIN)), expected, list(layer.parameters()))
    assert len(seen) == 2


def test_explain_says_the_kernel_and_how_many_chains():
    text = str(mpnn.explain(CHAIN, LSTM(IN, H), num_nodes=6))
    assert "runs as packed: 3 chains and a cell that torch has: lstm on 1 block" in text
    assert "50% of their rows empty" in text


class Leaky(RNN):
    def update(self, wx, w, h0=None, message=None):
        return 0.5 * super().update(wx, w, h0, message)


REFUSED = {
    "residual": (lambda: RNN(IN, H, residual=True), CHAIN, "torch has no kernel for it"),
    "peephole": (lambda: LSTM(IN, H, peephole=True), CHAIN, "torch has no kernel for it"),
    "coupled": (lambda: LSTM(IN, H, forget="coupled"), CHAIN, "torch has no kernel for it"),
    "reset before": (lambda: GRU(IN, H, reset="before"), CHAIN, "torch has no kernel for it"),
    "subclass": (lambda: Leaky(IN, H), CHAIN, "it redefines update"),
    "half": (lambda: GRU(IN, H).bfloat16(), CHAIN, "its weights are torch.bfloat16 on cpu"),
    "tree": (lambda: GRU(IN, H), torch.tensor([[1, 2], [3, 3]]), "several edges lead into node 3"),
    "fork": (lambda: GRU(IN, H), torch.tensor([[2, 2], [1, 3]]), "several edges lead out of node 2"),
    "another layer": (lambda: mpnn.nn.ChildSumTreeLSTM(IN, H), CHAIN, "torch has no kernel for it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_does_not_apply_another_way_runs_and_forcing_says_why(case):
    make, edge_index, words = REFUSED[case]
    layer = make()
    x = torch.randn(4, IN).to(next(layer.parameters()).dtype)
    assert way_of(layer, edge_index, 4)[0] == "wavefront"
    layer(x, edge_index)
    with mpnn.engine("packed"), pytest.raises(ValueError, match=rf"engine\('packed'\) cannot run .*{words}"):
        layer(x, edge_index)


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU])
def test_nan_in_one_chain_stays_in_that_chain(cell):
    chains_of = torch.tensor([[0, 1, 3], [1, 2, 4]])  # 0 -> 1 -> 2 beside 3 -> 4
    for spoilt, others in ((2, [3, 4]), (4, [0, 1, 2])):
        layer, x = randomised(cell(IN, H)), torch.randn(5, IN, dtype=torch.float64)
        x[spoilt] = torch.nan
        x.requires_grad_()
        assert way_of(layer, chains_of, 5)[0] == "packed"
        out = layer(x, chains_of)
        h = out[0] if isinstance(out, tuple) else out
        (grad,) = torch.autograd.grad(h.sum(), x)
        assert h[others].isfinite().all() and grad[others].isfinite().all()


def test_old_states_are_not_read_from_torchs_kernels():
    layer, rule = GRU(IN, H), mpnn.schedule.by(torch.tensor([0, 1, 1, 2]))
    way, reason = choose(layer, mpnn.plan(CHAIN, rule, 4))
    assert way == "wavefront" and "the edge 1 -> 2 reads the state from before the pass" in reason


def test_a_hook_put_on_one_layer_is_not_passed_over():
    layer, x = randomised(RNN(IN, H)), torch.randn(4, IN, dtype=torch.float64)
    layer.update = lambda wx, w, h0=None, message=None: wx
    assert way_of(layer, CHAIN, 4)[0] == "wavefront"
    assert torch.equal(layer(x, CHAIN), layer.inputs(x, layer.weights(0, "")))


def test_autocast_runs_as_before():
    layer = GRU(IN, H)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast is on" in way_of(layer, CHAIN, 4)[1]


def test_a_graph_without_nodes_gives_no_rows():
    layer, empty = randomised(LSTM(IN, H, bidirectional=True)), graphs()["empty"]
    h, _ = layer(torch.zeros(0, IN, dtype=torch.float64), empty.edge_index)
    assert h.shape == (0, 2 * H)
    assert "has no nodes" in way_of(layer, empty.edge_index, 0)[1]


def test_levels_with_gaps_and_the_reverse_pass_are_chains_too():
    layer, x = randomised(GRU(IN, H)), torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    for rule in (mpnn.schedule.by(torch.tensor([0, 2, 5, 9])), mpnn.schedule.topological.reverse):
        with mpnn.engine("reference"):
            expected = layer(x, CHAIN, schedule=rule)
        with mpnn.engine("packed"):
            assert_same(layer(x, CHAIN, schedule=rule), expected, [x, *layer.parameters()], what=str(rule))


def test_second_derivatives_are_refused_with_the_way_out():
    layer, x = randomised(LSTM(IN, H)), torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    call = partial(torch.autograd.grad, h_of(layer(x, CHAIN)).sum(), x)
    with pytest.raises(RuntimeError, match="through torch's recurrent kernels; run the layer under"):
        call(create_graph=True)


def test_in_evaluation_gradients_flow_too():
    layer, x = LSTM(IN, H).eval(), torch.randn(4, IN, requires_grad=True)
    h_of(layer(x, CHAIN)).sum().backward()
    assert x.grad.abs().min() > 0
    with torch.no_grad():
        assert not h_of(layer(x, CHAIN)).requires_grad

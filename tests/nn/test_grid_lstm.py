from itertools import product

import pytest
import torch
from compare import assert_close, assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import chain, grid
from mpnn.nn import GridLSTM

sigma, tanh = torch.sigmoid, torch.tanh

SIZES = [(1,), (5,), (1, 1), (1, 4), (3, 1), (3, 4), (2, 3, 2), (2, 2, 2, 2)]


def inputs(data, width=3):
    torch.manual_seed(data.num_nodes)
    return torch.randn(data.num_nodes, width, dtype=torch.float64, requires_grad=True)


def paper_grid(cell, x, sizes, priority=(), memory=False, h0=None, m0=None):
    """Kalchbrenner et al. 2016, with the paper's letters: block after block, from the first corner to the last."""
    N, d = len(sizes), cell.hidden_features
    k = 1 if cell.shared else N

    def of(name, weight):  # the rows of each dimension
        rows = weight.chunk(4)["ufco".index(name)].chunk(k)
        return list(rows) * (N // k)

    parts = [{name: of(name, weight) for name in "ufco"} for weight in (cell.weight_ih, cell.weight_hh, cell.bias)]
    W_x, W_h, b = parts
    h, m = {}, {}

    def lstm(i, H, x_i, m_i):
        H = torch.cat(H)
        g = {name: W_x[name][i] @ x_i + W_h[name][i] @ H + b[name][i] for name in "ufco"}
        new_m = sigma(g["f"]) * m_i + sigma(g["u"]) * tanh(g["c"])
        o = sigma(g["o"])
        return (o * tanh(new_m) if memory else tanh(o * new_m)), new_m

    for number, place in enumerate(product(*map(range, sizes))):
        H, M = [], []
        for i in range(N):
            before = tuple(p - (e == i) for e, p in enumerate(place))
            for out, of_node, first in ((H, h, h0), (M, m, m0)):
                start = torch.zeros(d, dtype=x.dtype) if first is None else first[number, i]
                out.append(of_node[before, i] if before[i] >= 0 else start)
        new = {i: lstm(i, H, x[number], M[i]) for i in range(N) if i not in priority}
        for p in priority:
            new[p] = lstm(p, [new[i][0] if i in new else H[i] for i in range(N)], x[number], M[p])
        for i in range(N):
            h[place, i], m[place, i] = new[i]
    places = list(product(*map(range, sizes)))
    return tuple(torch.stack([torch.stack([v[place, i] for i in range(N)]) for place in places]) for v in (h, m))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("squash", ["product", "memory"])
@pytest.mark.parametrize("shared", [False, True])
def test_it_is_the_papers_loop_over_blocks(sizes, squash, shared):
    data, n = grid(*sizes), len(sizes)
    layer = randomised(GridLSTM(3, 4, n, shared=shared, squash=squash))
    x = inputs(data)
    theirs = paper_grid(layer, x, sizes, memory=squash == "memory")
    assert_same(layer(x, data.edge_index, data.dimension), theirs, [x, *layer.parameters()])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("sizes", "priority"),
    [((4,), (0,)), ((3, 4), (0,)), ((3, 4), (1,)), ((3, 2), (0, 1)), ((2, 3, 2), (1,)), ((2, 3, 2), (2, 0))],
)
def test_priority_dimensions_see_what_the_others_have_put_out(sizes, priority, shared):
    data = grid(*sizes)
    layer = randomised(GridLSTM(3, 4, len(sizes), priority, shared))
    x = inputs(data)
    theirs = paper_grid(layer, x, sizes, priority)
    assert_same(layer(x, data.edge_index, data.dimension), theirs, [x, *layer.parameters()])
    if len(sizes) > 1:
        plain = GridLSTM(3, 4, len(sizes), shared=shared).double()
        plain.load_state_dict(layer.state_dict())
        assert not torch.allclose(plain(x, data.edge_index, data.dimension)[0], theirs[0])


@pytest.mark.parametrize("priority", [(), (1,)])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 4)])
@pytest.mark.parametrize("width", [3, 0])
def test_what_comes_in_on_a_side_of_the_grid_starts_there(sizes, priority, width):
    data = grid(*sizes)
    layer, x = randomised(GridLSTM(width, 4, 2, priority)), inputs(data, width)
    h0, m0 = torch.randn(2, data.num_nodes, 2, 4, dtype=torch.float64)
    leaves = [x, h0.requires_grad_(), m0.requires_grad_(), *layer.parameters()]
    start = {d: (h0[:, d], m0[:, d]) for d in (0, 1)}
    theirs = paper_grid(layer, x, sizes, priority, h0=h0, m0=m0)
    assert_same(layer(x, data.edge_index, data.dimension, start), theirs, leaves)
    h0, m0 = (value * torch.tensor([0.0, 1.0])[:, None] for value in (h0, m0))
    theirs = paper_grid(layer, x, sizes, priority, h0=h0, m0=m0)
    assert_same(layer(x, data.edge_index, data.dimension, {1: start[1]}), theirs, leaves, what="one side")


def test_the_way_back_is_the_pass_from_the_last_corner_with_weights_of_its_own():
    data = grid(3, 4)
    layer, x = randomised(GridLSTM(3, 4, bidirectional=True)), inputs(data)
    h0, m0 = torch.randn(2, 12, 2, 4, dtype=torch.float64)
    start = {d: (h0[:, d], m0[:, d]) for d in (0, 1)}
    there = paper_grid(layer, x, (3, 4), h0=h0, m0=m0)
    back = paper_grid(layer.reverse, x.flip(0), (3, 4), h0=h0.flip(0), m0=m0.flip(0))
    theirs = tuple(torch.cat([a, b.flip(0)], dim=1) for a, b in zip(there, back, strict=True))
    assert_same(layer(x, data.edge_index, data.dimension, start), theirs, [x, *layer.parameters()])


def test_turned_dimensions_start_in_another_corner():
    data, turned = grid(3, 4), grid(3, 4, turned=[1])
    layer, x = randomised(GridLSTM(3, 4)), inputs(data)
    mirrored = x.view(3, 4, 3).flip(1).reshape(12, 3)
    expected = [v.view(3, 4, 2, 4).flip(1).reshape(12, 2, 4) for v in layer(mirrored, data.edge_index, data.dimension)]
    assert_same(layer(x, turned.edge_index, turned.dimension), tuple(expected), [x, *layer.parameters()])


@pytest.mark.parametrize("length", [1, 2, 9])
def test_in_one_dimension_with_the_memory_squashed_it_is_torchs_lstm(length):
    data, theirs = chain(length), torch.nn.LSTM(3, 4, bidirectional=True).double()
    layer, x = randomised(GridLSTM(3, 4, 1, squash="memory", bidirectional=True)), inputs(data)
    ours, their = [], []
    for mine, way in ((layer, ""), (layer.reverse, "_reverse")):
        for name, named in (("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias", "bias_ih")):
            ours.append(getattr(mine, name))
            their.append(getattr(theirs, f"{named}_l0{way}"))
        torch.nn.init.zeros_(getattr(theirs, f"bias_hh_l0{way}"))
    with torch.no_grad():
        for a, b in zip(ours, their, strict=True):
            b.copy_(a)
    h, m = layer(x, data.edge_index, torch.zeros(length - 1, dtype=torch.long))
    expected, (_, last) = theirs(x)
    assert_same(h.flatten(1), expected, [x, *ours], [x, *their])
    assert_close(torch.stack([m[-1, 0], m[0, 1]]), last, "m")


def test_without_weights_from_time_each_column_is_an_lstm_along_depth():
    data = grid(5, 4)  # time, depth
    layer, alone, x = randomised(GridLSTM(3, 4)), randomised(GridLSTM(3, 4, 1)), inputs(data)
    with torch.no_grad():
        hh = layer.weight_hh.view(4, 2, 4, 2, 4)
        hh[:, 1, :, 0] = 0.0  # from h of time to the gates of depth
        alone.weight_hh.copy_(hh[:, 1, :, 1].reshape(16, 4))
        alone.weight_ih.copy_(layer.weight_ih.view(4, 2, 4, 3)[:, 1].reshape(16, 3))
        alone.bias.copy_(layer.bias.view(4, 2, 4)[:, 1].flatten())
    columns = Batch.from_data_list([chain(4)] * 5)
    h, m = layer(x, data.edge_index, data.dimension)
    expected = alone(x, columns.edge_index, torch.zeros(15, dtype=torch.long))
    assert_same((h[:, 1], m[:, 1]), (expected[0][:, 0], expected[1][:, 0]), [x])


def test_layers_that_start_from_one_another_are_a_grid_untied_along_depth():
    T, D, H = 5, 3, 4
    wide, time = grid(T, D), chain(T)
    tied, x = randomised(GridLSTM(3, H, priority=[1])), inputs(wide)
    x_of = x.view(T, D, 3)
    along, start, hs, ms = torch.zeros(T - 1, dtype=torch.long), None, [], []
    for depth in range(D):
        h, m = tied(x_of[:, depth], time.edge_index, along, start)
        hs.append(h)
        ms.append(m)
        start = {1: (h[:, 1], m[:, 1])}
    layered = tuple(torch.stack(v, dim=1).flatten(0, 1) for v in (hs, ms))
    assert_same(tied(x, wide.edge_index, wide.dimension), layered, [x, *tied.parameters()])


@pytest.mark.parametrize("priority", [[], [0]])
def test_a_batch_of_grids_is_the_grids_one_by_one(priority):
    grids = [grid(*sizes) for sizes in ((3, 4), (1, 1), (5, 2), (2, 6))]
    layer = randomised(GridLSTM(3, 4, priority=priority))
    batch = Batch.from_data_list(grids)
    x = inputs(batch)
    parts = x.split([data.num_nodes for data in grids])
    alone = zip(*(layer(p, g.edge_index, g.dimension) for p, g in zip(parts, grids, strict=True)), strict=True)
    theirs = tuple(map(torch.cat, alone))
    assert_same(layer(x, batch.edge_index, batch.dimension), theirs, [x, *layer.parameters()])


@pytest.mark.parametrize("sizes", SIZES)
def test_frontiers_run_along_anti_diagonals(sizes):
    data = grid(*sizes)
    plan = mpnn.plan(data, "topological")
    assert plan.level.tolist() == data.position.sum(1).tolist()
    assert plan.num_levels == sum(sizes) - len(sizes) + 1


def test_all_input_may_come_in_on_a_side():
    data, layer = chain(6), GridLSTM(0, 4, 1)
    h0 = torch.randn(6, 4, requires_grad=True)
    h, _ = layer(torch.zeros(6, 0), data.edge_index, torch.zeros(5, dtype=torch.long), {0: (h0, h0)})
    h[-1].sum().backward()
    assert h0.grad[0].abs().min() > 0 and not h0.grad[1:].any()


def test_a_plan_stands_in_for_edge_index_with_a_start_too():
    data = grid(3, 4)
    layer, x = randomised(GridLSTM(3, 4, bidirectional=True)), inputs(data)
    start = {0: tuple(torch.randn(2, 12, 4, dtype=torch.float64))}
    expected = layer(x, data.edge_index, data.dimension, start)
    plan = mpnn.plan(data, "topological")
    assert_same(layer(x, plan, data.dimension, start), expected, [x, *layer.parameters()])


def test_errors_name_what_is_wrong_and_the_way_out():
    data = grid(2, 3)
    layer, x = GridLSTM(3, 4), torch.ones(6, 3)
    with pytest.raises(ValueError, match=r"edge 2 has dimension=2; expected .*\[0, 2\). 1 of 7 .*more num_dimensions"):
        layer(x, data.edge_index, data.dimension.index_fill(0, torch.tensor([2]), 2))
    h0 = torch.ones(6, 4)
    with pytest.raises(ValueError, match="'dimension' has 3 rows, but there are 7 edges"):
        layer(x, data.edge_index, data.dimension[:3])
    with pytest.raises(ValueError, match=r"start\[1\] has m of shape \(6, 5\); expected \(6, 4\)"):
        layer(x, data.edge_index, data.dimension, {0: (h0, h0), 1: (h0, torch.ones(6, 5))})
    with pytest.raises(ValueError, match="start has the dimension 2; expected some of 0 to 1"):
        layer(x, data.edge_index, data.dimension, {2: (h0, h0)})
    with pytest.raises(ValueError, match="squash='cell' is unknown; expected 'product' or 'memory'"):
        GridLSTM(3, 4, squash="cell")
    for priority in ((2,), (0, 0)):
        with pytest.raises(ValueError, match=rf"priority=\({priority[0]}.*expected some of the dimensions 0 to 1"):
            GridLSTM(3, 4, priority=priority)


def test_a_dimension_that_is_written_to_is_checked_again():
    data, layer = grid(2, 3), GridLSTM(3, 4)
    layer(torch.ones(6, 3), data.edge_index, data.dimension)
    data.dimension[0] = 5
    with pytest.raises(ValueError, match="edge 0 has dimension=5"):
        layer(torch.ones(6, 3), data.edge_index, data.dimension)


def test_a_grid_that_is_made_in_inference_mode_runs():
    layer = GridLSTM(3, 4)
    expected, _ = layer(torch.ones(6, 3), grid(2, 3).edge_index, grid(2, 3).dimension)
    with torch.inference_mode():
        data = grid(2, 3)
        assert torch.equal(layer(torch.ones(6, 3), data.edge_index, data.dimension)[0], expected)
        with pytest.raises(ValueError, match="edge 0 has dimension=7"):
            layer(torch.ones(6, 3), data.edge_index, data.dimension + 7)

from functools import partial

import pytest
import torch
import torch_geometric.nn as geometric
from compare import assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.nn import GAT, GCN, Diffusion, GraphRecurrent, GraphSAGE
from mpnn.nn import Chebyshev as Filter
from mpnn.spacetime import relations, skeleton, snapshots

GAT1 = partial(GAT, heads=1)
CONVS = {
    "GCN": GCN,
    "GAT": GAT1,
    "Chebyshev": Filter,
    "Diffusion": Diffusion,
    "GraphSAGE": GraphSAGE,
    "their GCN": geometric.GCNConv,
    "their GAT": geometric.GATConv,
    "their GATv2": partial(geometric.GATv2Conv, heads=2, concat=False),
    "their Cheb": partial(geometric.ChebConv, K=3),
    "their SAGE": geometric.SAGEConv,
}
CELLS = pytest.mark.parametrize("cell", ["gru", "lstm"])


def sequence(seed, ids):
    """Snapshots with edges of their own, of those who are there."""
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(len(names), 3, generator=generator, dtype=torch.float64) for names in ids]
    pairs = [(torch.rand(len(n), len(n), generator=generator) < 0.5).fill_diagonal_(False).nonzero().t() for n in ids]
    return snapshots(x, pairs, ids)


def sequences():
    return [
        sequence(1, ["abcd", "dacb", "bd", "abcd"]),
        sequence(2, ["ab", "abc"]),
        sequence(3, ["abc"] * 5),
    ]


def step(cell, wx, wh, h, c):
    """torch.nn's GRU and LSTM, gate by gate; biases are in the products."""
    k = len(wx) // (3 if cell == "gru" else 4)
    if cell == "gru":
        r, z = torch.sigmoid(wx[:k] + wh[:k]), torch.sigmoid(wx[k : 2 * k] + wh[k : 2 * k])
        n = torch.tanh(wx[2 * k :] + r * wh[2 * k :])
        return (1 - z) * n + z * h, c
    i, f, g, o = (wx[m * k : (m + 1) * k] + wh[m * k : (m + 1) * k] for m in range(4))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def paper(layer, data, conv_x, conv_h, x, weight=None):
    """Time after time, node by node; ``conv(x, pairs)`` is one layer on one frame."""
    h, c = {}, {}
    size = layer.hidden_features
    for t in sorted(set(data.time.tolist())):
        here = (data.time == t).nonzero().flatten().tolist()
        local = {node: k for k, node in enumerate(here)}
        kept = [e for e, j in enumerate(data.space_index[0].tolist()) if j in local]
        pairs = torch.tensor([[local[int(v)] for v in data.space_index[:, e]] for e in kept]).reshape(-1, 2).t().long()
        more = () if weight is None else (weight[kept],)
        before = {j: (h[j], c[j]) for j in h}
        last = {i: [j for j, k in data.time_index.t().tolist() if k == i] for i in here}
        h0 = torch.stack([sum((before[j][0] for j in last[i]), x.new_zeros(size)) for i in here])
        c0 = torch.stack([sum((before[j][1] for j in last[i]), x.new_zeros(size)) for i in here])
        wx, wh = conv_x(x[here], pairs, *more), conv_h(h0, pairs, *more)
        for k, i in enumerate(here):
            h[i], c[i] = step(layer.cell, wx[k], wh[k], h0[k], c0[k])
    return torch.stack([h[i] for i in range(data.num_nodes)]), torch.stack([c[i] for i in range(data.num_nodes)])


def dense_gcn(conv):
    """Kipf & Welling, eq. 2, with matrices."""

    def apply(x, pairs, weight=None):
        a = torch.eye(len(x), dtype=x.dtype)
        for e, (j, i) in enumerate(pairs.t().tolist()):
            a[i, j] += 1 if weight is None else weight[e]
        d = a.sum(1)
        return (a / (d[:, None] * d[None, :]).sqrt()) @ x @ conv.linear.weight.t() + conv.bias

    return apply


@CELLS
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_papers_loop_with_a_graph_convolution_for_each_product(cell, weighted):
    layer = randomised(GraphRecurrent(GCN, cell, 3, 4))
    for data in sequences():
        x = data.x.requires_grad_()
        weight = torch.rand(data.space_index.shape[1], dtype=x.dtype).requires_grad_() if weighted else None
        fields = {"edge_weight": weight} if weighted else {}
        ours = layer.states(x, relations(data), mpnn.schedule.by(data.time), **fields)
        h, c = paper(layer, data, dense_gcn(layer.input), dense_gcn(layer.recurrent), x, weight)
        leaves = [*layer.parameters(), x, *([weight] if weighted else [])]
        assert_same(ours, (h, c)[: len(ours)], leaves)


@CELLS
@pytest.mark.parametrize("name", CONVS)
def test_any_layer_serves_as_product(name, cell):
    layer = randomised(GraphRecurrent(CONVS[name], cell, 3, 4))
    data = sequences()[0]
    x = data.x.requires_grad_()
    ours = layer.states(x, relations(data), mpnn.schedule.by(data.time))
    theirs = paper(layer, data, layer.input, layer.recurrent, x)
    assert_same(ours, theirs[: len(ours)], [*layer.parameters(), x])


@CELLS
@pytest.mark.parametrize("name", ["GCN", "their GAT"])
def test_a_batch_of_sequences_of_different_lengths_is_each_alone(name, cell):
    layer, alone = randomised(GraphRecurrent(CONVS[name], cell, 3, 4)), sequences()
    batch = Batch.from_data_list(alone)
    together = layer(batch.x, relations(batch), mpnn.schedule.by(batch.time))
    each = [layer(data.x, relations(data), mpnn.schedule.by(data.time)) for data in alone]
    assert_same(together, torch.cat(each), list(layer.parameters()))


@pytest.mark.parametrize("cell, theirs", [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)])
def test_without_edges_in_space_it_is_torchs_layer_at_each_joint(cell, theirs):
    layer, theirs = randomised(GraphRecurrent(GCN, cell, 3, 4)), theirs(3, 4).double()
    names = {
        "input.linear.weight": "weight_ih_l0",
        "recurrent.linear.weight": "weight_hh_l0",
        "input.bias": "bias_ih_l0",
        "recurrent.bias": "bias_hh_l0",
    }
    ours, other = dict(layer.named_parameters()), dict(theirs.named_parameters())
    assert set(names) == set(ours)
    with torch.no_grad():
        for mine, their in names.items():
            other[their].copy_(ours[mine])
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    data = skeleton(x, [])
    leaves = [ours[name] for name in names], [other[name] for name in names.values()]
    assert_same(layer(data.x, relations(data)), theirs(x)[0].reshape(30, 4), *leaves)


def test_a_plan_of_both_edge_types_stands_in_for_them():
    layer, batch = randomised(GraphRecurrent(GCN, "lstm", 3, 4)), Batch.from_data_list(sequences())
    plan = mpnn.plan(relations(batch), mpnn.schedule.by(batch.time), batch.num_nodes)
    expected = layer(batch.x, relations(batch), mpnn.schedule.by(batch.time))
    assert_same(layer(batch.x, plan), expected, list(layer.parameters()))


def test_the_reverse_runs_from_the_last_time_to_the_first():
    layer, x = randomised(GraphRecurrent(GCN, "gru", 3, 4)), torch.randn(5, 3, 3, dtype=torch.float64)
    data, back = skeleton(x, [(0, 1), (1, 2)]), skeleton(x.flip(0), [(0, 1), (1, 2)])
    ours = layer(data.x, relations(data), mpnn.schedule.topological.reverse).view(5, 3, 4)
    assert_same(ours, layer(back.x, relations(back)).view(5, 3, 4).flip(0), list(layer.parameters()))


def test_each_of_the_two_layers_is_called_once_a_time_for_all_gates():
    layer, calls = GraphRecurrent(GCN, "lstm", 3, 4), []
    for part in (layer.input, layer.recurrent):
        part.register_forward_hook(lambda module, given, out: calls.append((module, out.shape)))
    data = skeleton(torch.randn(6, 5, 3), [(0, 1)])
    layer(data.x, relations(data))
    assert calls == [(layer.input, (5, 16)), (layer.recurrent, (5, 16))] * 6


def test_equal_frames_share_one_graph_and_are_planned_once():
    layer, seen = GraphRecurrent(GCN, "gru", 3, 4), set()
    layer.recurrent.register_forward_pre_hook(lambda module, given: seen.add(id(given[1])))
    data = skeleton(torch.randn(6, 5, 3), [(0, 1)])
    layer(data.x, relations(data))
    layer(data.x, relations(data))
    assert len(seen) == 1


def test_what_cannot_be_run_is_refused():
    data = skeleton(torch.randn(2, 2, 3), [(0, 1)])
    with pytest.raises(ValueError, match="cell='rnn' is unknown"):
        GraphRecurrent(GCN, "rnn", 3, 4)
    with pytest.raises(ValueError, match="GCNConv keeps what it computed"):
        GraphRecurrent(partial(geometric.GCNConv, cached=True), "gru", 3, 4)
    with pytest.raises(ValueError, match=r"GATConv gave shape \(2, 24\) for 2 nodes; expected \(2, 12\)"):
        GraphRecurrent(partial(geometric.GATConv, heads=2), "gru", 3, 4)(data.x, relations(data))
    layer = GraphRecurrent(GCN, "gru", 3, 4)
    with pytest.raises(ValueError, match="edge_index is Tensor; expected {'space'"):
        layer(data.x, data.space_index)
    with pytest.raises(ValueError, match=r"edge in space 0 \(0 -> 1\) joins level 0 with level 1"):
        layer(data.x, {"space": torch.tensor([[0], [1]]), "time": torch.tensor([[0], [1]])})
    with pytest.raises(ValueError, match="reset='before' is not for cell='lstm'"):
        GraphRecurrent(GCN, "lstm", 3, 4, reset="before")
    with pytest.raises(ValueError, match="reset='first' is not for cell='gru'"):
        GraphRecurrent(GCN, "gru", 3, 4, reset="first")


@pytest.mark.parametrize("name", CONVS)
def test_with_the_reset_before_the_product_it_is_the_papers_loop(name):
    layer = randomised(GraphRecurrent(CONVS[name], "gru", 3, 4, reset="before"))
    data = sequences()[0]
    x = data.x.requires_grad_()
    ours = layer(x, relations(data), mpnn.schedule.by(data.time))
    assert_same(ours, paper_before(layer, data, x), [*layer.parameters(), x])


def paper_before(layer, data, x):
    """DCRNN's cell, frame by frame: the reset gate comes before the graph layer of the candidate."""
    h, size = {}, layer.hidden_features
    for t in sorted(set(data.time.tolist())):
        here = (data.time == t).nonzero().flatten().tolist()
        pairs = [(j, i) for j, i in data.space_index.t().tolist() if i in here]
        local = torch.tensor([(here.index(j), here.index(i)) for j, i in pairs]).reshape(-1, 2).t().long()
        last = {i: [j for j, k in data.time_index.t().tolist() if k == i] for i in here}
        before = torch.stack([sum((h[j] for j in last[i]), x.new_zeros(size)) for i in here])
        wx, wh = layer.input(x[here], local), layer.recurrent(before, local)
        r, z = torch.sigmoid(wx[:, :size] + wh[:, :size]), torch.sigmoid(wx[:, size : 2 * size] + wh[:, size:])
        n = torch.tanh(wx[:, 2 * size :] + layer.candidate(r * before, local))
        h |= dict(zip(here, (1 - z) * n + z * before, strict=True))
    return torch.stack([h[i] for i in range(data.num_nodes)])


@pytest.mark.parametrize("cell, reset", [("gru", "after"), ("gru", "before"), ("lstm", "after")])
def test_the_reference_gets_whole_frontiers_and_second_derivatives(cell, reset):
    layer, data = randomised(GraphRecurrent(GAT1, cell, 3, 4, reset)), sequences()[0]
    x = data.x.requires_grad_()
    expected = layer.states(x, relations(data), mpnn.schedule.by(data.time))
    with mpnn.engine("reference"):
        ours = layer.states(x, relations(data), mpnn.schedule.by(data.time))
        assert_same(ours, expected, [*layer.parameters(), x])
        (grad,) = torch.autograd.grad(ours[0].square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_nodes_in_any_order_get_their_own_states():
    layer, data = randomised(GraphRecurrent(GCN, "lstm", 3, 4)), Batch.from_data_list(sequences())
    new = torch.randperm(data.num_nodes)  # the new name of a node
    moved = {kind: new[edges] for kind, edges in relations(data).items()}
    x, time = torch.empty_like(data.x), torch.empty_like(data.time)
    x[new], time[new] = data.x, data.time
    expected = layer.states(data.x, relations(data), mpnn.schedule.by(data.time))
    ours = layer.states(x, moved, mpnn.schedule.by(time))
    assert_same(tuple(field[new] for field in ours), expected, list(layer.parameters()))


@pytest.mark.parametrize(("cell", "kept"), [("gru", 5), ("lstm", 7)])
def test_of_a_step_only_the_gates_and_the_state_are_kept_for_the_way_back(cell, kept):
    """GRU: r, z, n, the candidate's product and h; LSTM: i, f, g, o, tanh(c), h and c. (Narrow levels keep h twice.)"""

    class Product(torch.nn.Linear):
        def forward(self, x, edge_index):
            return super().forward(x)

    data = snapshots([torch.ones(300, 1)] * 20, [torch.tensor([[0], [1]])] * 20)
    layer, found = GraphRecurrent(Product, cell, 1, 16), {}

    def keep(value):
        found[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        layer(data.x, relations(data))
    layers = {weight.untyped_storage().data_ptr() for weight in layer.parameters()}
    total = sum(storage.nbytes() for address, storage in found.items() if address not in layers)
    assert kept - 1 < total / (4 * 6000 * 16) < kept + 0.5


@pytest.mark.parametrize("rows", [0, 1, 5, 12])
def test_a_field_that_has_not_a_row_for_each_edge_in_space_is_refused(rows):
    space = torch.tensor([[0, 2, 1, 3], [1, 3, 0, 2]])  # not sorted by target
    edges = {"space": space, "time": torch.tensor([[0, 1], [2, 3]])}
    with pytest.raises(ValueError, match=f"'edge_weight' has {rows} rows, but there are 4 edges in space"):
        GraphRecurrent(GCN, "gru", 3, 4)(torch.ones(4, 3), edges, edge_weight=torch.ones(rows))

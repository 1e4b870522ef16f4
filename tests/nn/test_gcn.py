import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch_geometric.nn import GCNConv
from zoo import graphs

import mpnn


def paper_gcn(layer, x, edge_index, edge_weight):  # arXiv:1609.02907, eq. 2: A_hat = A + I, one entry at a time
    N, W, b = x.shape[0], layer.linear.weight, layer.bias
    A = [[0.0] * N for _ in range(N)]
    for e, (j, i) in enumerate(edge_index.t().tolist()):
        if i == j:
            A[i][i] = 1.0 * edge_weight[e]
        else:
            A[i][j] = A[i][j] + edge_weight[e]
    d = []
    for i in range(N):
        if not any((edge_index[0] == i) & (edge_index[1] == i)):
            A[i][i] = 1.0
        d.append(sum(A[i]))
    return [sum(A[i][j] / (d[i] * d[j]) ** 0.5 * (W @ x[j]) for j in range(N)) + b for i in range(N)]


@pytest.mark.parametrize("name", graphs())
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [2, 5])  # the product with W before and after the sum over neighbours
def test_gcn_is_the_papers_formula(name, weighted, width):
    data = graphs()[name]
    layer = randomised(mpnn.nn.GCN(3, width))
    x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(data.num_edges, dtype=torch.float64, requires_grad=True)
    ours = layer(x, data.edge_index, weight if weighted else None)
    rows = paper_gcn(layer, x, data.edge_index, weight if weighted else torch.ones_like(weight))
    theirs = torch.stack(rows) if rows else x.new_zeros(0, width)
    assert_same(ours, theirs, [x, weight, *layer.parameters()], what=name)


@pytest.mark.parametrize("weighted", [False, True])
def test_gcn_is_the_product_of_matrices(weighted):
    data = graphs()["complete"]
    layer = randomised(mpnn.nn.GCN(3, 2))
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = (
        torch.rand(data.num_edges, dtype=torch.float64) if weighted else torch.ones(data.num_edges, dtype=torch.float64)
    )
    A = torch.eye(4, dtype=torch.float64)
    A[data.edge_index[1], data.edge_index[0]] = weight
    D = torch.diag(A.sum(1).rsqrt())
    ours = layer(x, data.edge_index, weight if weighted else None)
    assert_same(ours, D @ A @ D @ x @ layer.linear.weight.t() + layer.bias, [x, *layer.parameters()])


@pytest.mark.parametrize("options", [{}, {"self_loops": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_gcn_equals_torch_geometric(options, weighted):
    names = {"linear.weight": "lin.weight"} | ({} if options.get("bias") is False else {"bias": "bias"})
    for name, data in graphs().items():
        if not data.num_nodes or (weighted and name == "double loop"):
            continue  # there, of two loops on a node, the weight that does not count has a gradient all the same
        ours = mpnn.nn.GCN(3, 5, **options).double()
        theirs = GCNConv(3, 5, add_self_loops=options.get("self_loops", True), bias=options.get("bias", True)).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        weight = [torch.rand(data.num_edges, dtype=torch.float64)] if weighted else []
        assert_golden(ours, theirs, names, x, data.edge_index, *weight, what=name)


def test_wrong_number_of_weights_is_refused_with_their_shape():
    data = graphs()["tree"]
    with pytest.raises(ValueError, match=r"GCN: edge_weight has shape \(5,\); expected one number an edge, \(6,\)"):
        mpnn.nn.GCN(3, 2)(torch.ones(7, 3), data.edge_index, torch.ones(5))


def test_weights_are_not_remembered_with_the_graph():
    data = graphs()["random"]
    layer, x = mpnn.nn.GCN(3, 2), torch.randn(8, 3)
    first = layer(x, data.edge_index, torch.rand(19))
    plain = layer(x, data.edge_index)
    assert not torch.allclose(first, plain)
    assert torch.equal(plain, mpnn.nn.GCN.forward(layer, x, data.edge_index.clone()))


@pytest.mark.parametrize("width", [2, 5])
def test_what_travels_is_what_is_narrower(width, monkeypatch):
    seen, weighted_sum = [], mpnn.kernels.weighted_sum
    monkeypatch.setattr(mpnn.kernels, "weighted_sum", lambda e, w, x: seen.append(x.shape[1]) or weighted_sum(e, w, x))
    mpnn.nn.GCN(3, width)(torch.randn(7, 3), graphs()["tree"].edge_index)
    assert seen == [min(3, width)]


def test_a_wrong_width_is_refused_before_anything_is_summed():
    with pytest.raises(ValueError, match=r"GCN: x has 4 features a node, shape \(7, 4\); expected 3"):
        mpnn.nn.GCN(3, 5)(torch.ones(7, 4), graphs()["tree"].edge_index)


@pytest.mark.parametrize("given", [graphs()["tree"], {"paper": torch.ones(7, 3)}])
def test_what_is_no_tensor_of_features_is_refused_with_the_way_to_pass_it(given):
    with pytest.raises(TypeError, match=rf"x is a {type(given).__name__}; expected a tensor .*mpnn.apply\(layer, d"):
        mpnn.nn.GCN(3, 5)(given, graphs()["tree"].edge_index)


def test_a_plan_of_constant_weights_keeps_no_more_than_two_matrices():
    data = graphs()["random"]
    layer = mpnn.nn.GCN(3, 2)
    x = torch.randn(data.num_nodes, 3, requires_grad=True)
    for _ in range(3):
        layer(x, data.edge_index).sum().backward()
    edges = mpnn.loops.looped(layer, data.edge_index, data.num_nodes).edges
    assert "dst" not in edges.memo and "by source" not in edges.memo and edges.order is None


@pytest.mark.parametrize("layer", [mpnn.nn.GCN(3, 2, self_loops=False), mpnn.nn.Chebyshev(3, 2)])
def test_weights_that_sum_to_zero_at_a_node_have_finite_gradients(layer):
    weight = torch.tensor([0.0, 1.0, 1.0, 0.0], requires_grad=True)  # nothing weighs into node 1
    layer(torch.randn(3, 3), torch.tensor([[0, 1, 2, 2], [1, 2, 0, 1]]), weight).sum().backward()
    assert weight.grad.isfinite().all() and weight.grad[[0, 3]].tolist() == [0.0, 0.0]
    assert weight.grad[1:3].abs().min() > 0


@pytest.mark.parametrize("layer", [mpnn.nn.GCN(3, 2, self_loops=False), mpnn.nn.Chebyshev(3, 2), mpnn.nn.GCN(3, 2)])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_plan_of_another_number_of_nodes_is_refused(layer, rows):
    plan = mpnn.plan(torch.tensor([[0, 1, 2], [1, 2, 0]]), num_nodes=3)
    with pytest.raises(ValueError, match=rf"'x' has {rows} rows, but there are 3 nodes"):
        layer(torch.randn(rows, 3), plan, torch.ones(3))


def test_what_is_kept_of_an_edge_index_is_kept_apart():
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])

    def agree(layer, x):
        out = layer(x, edge_index)
        assert torch.equal(out, layer(x, edge_index.clone())) and torch.equal(out, layer(x, edge_index))
        return out

    x, layer = torch.randn(3, 2), mpnn.nn.GCN(2, 2)
    bare = mpnn.nn.GCN(2, 2, self_loops=False)
    turned = mpnn.nn.GCN(2, 2)
    turned.schedule = mpnn.schedule.synchronous.reverse
    agree(layer, x), agree(bare, x), agree(turned, x), agree(layer, torch.randn(5, 2))
    before = agree(layer, x)
    agree(layer.double(), x.double())
    edge_index[1, 2] = 1
    assert not torch.equal(agree(layer.float(), x), before)

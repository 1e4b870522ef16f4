from functools import partial

import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch_geometric.nn import ChebConv
from zoo import graphs

import mpnn


def laplacian(data, weight):
    """I - D^-1/2 A D^-1/2, entry by entry; D^-1/2 is 0 where D is."""
    N = data.num_nodes
    A = torch.zeros(N, N, dtype=torch.float64)
    for e, (j, i) in enumerate(data.edge_index.t().tolist()):
        A[i, j] = A[i, j] + weight[e]
    root = [d**-0.5 if d else 0.0 for d in A.sum(1)]
    L = torch.eye(N, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            L[i, j] = L[i, j] - root[i] * A[i, j] * root[j]
    return L


def paper_chebyshev(layer, x, L):  # arXiv:1606.09375, eq. 4: the polynomials of the matrix itself
    one = torch.eye(x.shape[0], dtype=x.dtype)
    L = 2 / layer.lambda_max * L - one
    T = [one, L]
    for _ in layer.linears[2:]:
        T.append(2 * L @ T[-1] - T[-2])
    return sum(T_k @ x @ linear.weight.t() for T_k, linear in zip(T, layer.linears, strict=False)) + layer.bias


def both_ways(data):
    """Random weights of the edges of an undirected graph, the same in both directions."""
    low, high = data.edge_index.sort(dim=0).values
    table = torch.rand(data.num_nodes, data.num_nodes, dtype=torch.float64)
    return table[low, high]


@pytest.mark.parametrize("terms", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "out_features", [2, 5]
)  # one on each side of in_features: Clenshaw's recurrence, or the plain one
def test_chebyshev_is_the_papers_formula(terms, out_features):
    for name, data in graphs().items():
        layer = randomised(mpnn.nn.Chebyshev(3, out_features, terms, lambda_max=1.7))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(data.num_edges, dtype=torch.float64, requires_grad=True)
        theirs = paper_chebyshev(layer, x, laplacian(data, weight))
        assert_same(layer(x, data.edge_index, weight), theirs, [x, weight, *layer.parameters()], what=name)


@pytest.mark.parametrize("bound", [False, True])
def test_chebyshev_is_a_function_of_the_spectrum(bound):  # U g(Lambda) U^T x, with g a polynomial in Chebyshev's basis
    data = graphs("undirected")["two components"]
    weight = both_ways(data)
    values, U = torch.linalg.eigh(laplacian(data, weight))
    lambda_max = 2.0 if bound else values[-1].item()
    layer = randomised(mpnn.nn.Chebyshev(1, 1, terms=4, lambda_max=lambda_max, bias=False))
    theta = torch.cat([linear.weight.view(1) for linear in layer.linears])
    angle = torch.acos((2 * values / lambda_max - 1).clamp(-1, 1))  # T_k(y) = cos(k acos y)
    g = sum(theta[k] * torch.cos(k * angle) for k in range(4))
    x = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    assert_same(layer(x, data.edge_index, weight), U @ torch.diag(g) @ U.t() @ x, [x, *layer.parameters()])


@pytest.mark.parametrize("terms", [1, 2, 4])
@pytest.mark.parametrize("out_features", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_chebyshev_equals_torch_geometric_on_undirected_graphs(terms, out_features, weighted):
    names = {f"linears.{k}.weight": f"lins.{k}.weight" for k in range(terms)} | {"bias": "bias"}
    for name, data in graphs("undirected").items():
        if not data.num_nodes:
            continue
        ours = mpnn.nn.Chebyshev(3, out_features, terms).double()
        theirs = ChebConv(3, out_features, terms).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        weight = both_ways(data) if weighted else torch.ones(data.num_edges, dtype=torch.float64)
        # gradients of weights are not compared: they go to the target's degree here, and to the source's there
        calls = partial(ours, edge_weight=weight), partial(theirs, edge_weight=weight)
        assert_golden(ours, theirs, names, x, data.edge_index, calls=calls, what=name)


def test_a_filter_without_terms_is_refused():
    with pytest.raises(ValueError, match="terms=0; expected at least 1"):
        mpnn.nn.Chebyshev(3, 2, terms=0)

import pytest
import torch
from compare import assert_same, randomised
from hypothesis import given
from hypothesis import strategies as st
from strategies import digraphs, seeds
from zoo import graphs

import mpnn
from mpnn.nn import Diffusion


def paper_diffusion(layer, x, edges, weight):  # arXiv:1707.01926, eq. 2 and 3, node by node
    out = []
    blocks = layer.linear.weight.chunk(1 + 2 * layer.steps, dim=1)
    for i in range(len(x)):
        h = blocks[0] @ x[i] + layer.linear.bias
        for k in range(1, layer.steps + 1):
            h = h + blocks[k] @ walked(x, edges, weight, i, k)
            h = h + blocks[layer.steps + k] @ walked(x, [(i, j) for j, i in edges], weight, i, k)
        out.append(h)
    return torch.stack(out) if out else x.new_zeros(0, layer.out_features)


def walked(x, edges, weight, i, k):
    """What a walk of k steps from node i sees in the mean, if it takes each edge as often as its weight says."""
    if k == 0:
        return x[i]
    ahead = [(e, head) for e, (tail, head) in enumerate(edges) if tail == i]
    total = sum(weight[e] for e, _ in ahead)
    zero = torch.zeros_like(x[i])
    return sum((weight[e] / total * walked(x, edges, weight, head, k - 1) for e, head in ahead), zero)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_it_is_the_papers_loop_along_the_edges_and_against_them(steps):
    for name, data in graphs().items():
        layer = randomised(Diffusion(3, 2, steps))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(data.num_edges, dtype=torch.float64).add(0.1).requires_grad_()
        theirs = paper_diffusion(layer, x, data.edge_index.t().tolist(), weight)
        assert_same(layer(x, data.edge_index, weight), theirs, [x, weight, *layer.parameters()], what=name)


def test_without_weights_all_edges_count_the_same():
    data, layer = graphs()["random"], randomised(Diffusion(3, 2))
    x, ones = torch.randn(data.num_nodes, 3, dtype=torch.float64), torch.ones(data.num_edges, dtype=torch.float64)
    assert_same(layer(x, data.edge_index), layer(x, data.edge_index, ones), list(layer.parameters()))


@given(digraphs(min_nodes=1), seeds)
def test_a_walk_shares_out_all_it_has_or_ends(data, seed):
    weight = torch.rand(data.num_edges, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer = randomised(Diffusion(1, 1, steps=2, bias=False))
    found = {}
    for column in range(5):
        with torch.no_grad():
            layer.linear.weight.copy_(torch.eye(5)[column])
        found[column] = layer(torch.ones(data.num_nodes, 1, dtype=torch.float64), data.edge_index, weight).flatten()
    for column, share in found.items():
        assert ((share > -1e-9) & (share < 1 + 1e-9)).all(), column
    src, dst = data.edge_index
    for column, ends in ((1, src), (3, dst)):
        total = torch.zeros(data.num_nodes, dtype=torch.float64).index_add_(0, ends, weight)
        torch.testing.assert_close(found[column], (total > 0).double())


@given(digraphs(min_nodes=1), st.booleans())
def test_turning_the_edges_round_exchanges_the_two_directions(data, planned):
    layer, x = randomised(Diffusion(2, 3)), torch.randn(data.num_nodes, 2, dtype=torch.float64)
    other = randomised(Diffusion(2, 3))
    own, *walks = layer.linear.weight.detach().split(2, dim=1)
    with torch.no_grad():
        other.linear.weight.copy_(torch.cat([own, *walks[2:], *walks[:2]], dim=1))
    edges = data.edge_index
    edges, turned = (mpnn.plan(e, num_nodes=len(x)) if planned else e for e in (edges, edges.flip(0)))
    torch.testing.assert_close(other(x, turned), layer(x, edges), rtol=1e-10, atol=1e-12)


def test_weights_that_add_up_to_nothing_give_nothing_and_finite_gradients():
    layer = randomised(Diffusion(2, 2))
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    out = layer(x, torch.tensor([[0, 1], [1, 2]]), weight)
    alone = layer(x, torch.empty(2, 0, dtype=torch.long))
    torch.testing.assert_close(out, alone)
    out.sum().backward()
    assert weight.grad.isfinite().all() and x.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    layer, edges = Diffusion(3, 2), torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="steps=0; expected at least 1"):
        Diffusion(3, 2, steps=0)
    with pytest.raises(ValueError, match="x has 2 features a node"):
        layer(torch.ones(2, 2), edges)
    with pytest.raises(ValueError, match=r"edge_weight has shape \(2,\); expected one number an edge, \(1,\)"):
        layer(torch.ones(2, 3), edges, torch.ones(2))

"""Structured messages whose hooks run piece by piece over the edges: the same numbers in less memory."""

import math
import sys

import pytest
import torch
from compare import assert_same, gradients
from hypothesis import given, settings
from strategies import digraphs, normal, seeds
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mpnn

spmm = sys.modules["mpnn.engine.spmm"]


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["mpnn.engine.small"], "FEW", -1)  # no graph is small
        patch.setattr(spmm, "LARGE", 0)
        patch.setattr(spmm, "FEW", 0)
        patch.setattr(mpnn.kernels, "PIECE", 12)
        yield


class Scored(mpnn.MessagePassing):
    """Both ends, a graph's value, an edge's, a number and a tensor that the hook closes over."""

    value = "x"

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, edge_index, scale, **fields):
        self.shift = torch.tanh(scale)
        return self.propagate(edge_index, scale=0.5, **fields)

    def attention(self, x_j, y_i, u_g, w, scale):
        return self.linear(torch.tanh(x_j.sum(1) + y_i * w[:, None] + u_g)) * scale + self.shift

    def weight(self, w, y_i):
        return torch.sigmoid(w + y_i.sum(1))[:, None]


def fields_of(graph, seed):
    generator, n, e = torch.Generator().manual_seed(seed), graph.num_nodes, graph.num_edges
    fields = {"x": normal(generator, n, 2, 3), "y": normal(generator, n, 3), "w": normal(generator, e)}
    return fields | {"u": normal(generator, 1, 3)}, normal(generator, 1)


@settings(max_examples=30)
@given(graph=digraphs(min_nodes=1), seed=seeds)
def test_pieces_give_what_the_reference_gives(graph, seed):
    layer, (fields, scale) = Scored(), fields_of(graph, seed)
    leaves = [scale, *fields.values(), *layer.parameters()]
    ours = layer(graph.edge_index, scale, **fields)
    with mpnn.engine("reference"):
        assert_same(ours, layer(graph.edge_index, scale, **fields), leaves)
    with torch.no_grad():
        torch.testing.assert_close(layer(graph.edge_index, scale, **fields), ours)


COMPLETE = torch.cartesian_prod(torch.arange(9), torch.arange(9)).t().contiguous()


def test_backward_twice_gives_the_same_twice():
    x = normal(torch.Generator().manual_seed(0), 9, 4)
    layer = mpnn.nn.GATv2(4, 3, heads=2).double()
    out = layer(x, COMPLETE)
    first, second = gradients(out, [x, *layer.parameters()]), gradients(out, [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_backward_pass_that_broke_off_leaves_nothing_behind():
    x = normal(torch.Generator().manual_seed(0), 9, 4)
    layer = mpnn.nn.GATv2(4, 3, heads=2).double()
    out = layer(x, COMPLETE)
    expected = gradients(out, [x])
    calls = []

    def breaks(grad):
        calls.append(grad)
        if len(calls) == 3:
            raise KeyboardInterrupt

    take = mpnn.kernels._Lent.take

    def hooked(lent, index):
        rows = take(lent, index)
        rows.register_hook(breaks) if rows.requires_grad else None
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpnn.kernels._Lent, "take", hooked)
        out = layer(x, COMPLETE)
        with pytest.raises(KeyboardInterrupt):
            gradients(out, [x])
    torch.testing.assert_close(gradients(out, [x]), expected)


@pytest.mark.parametrize(("layer", "pieces"), [(mpnn.nn.GAT, 0), (mpnn.nn.GATv2, 1)])
def test_scores_of_heads_stay_whole(layer, pieces, monkeypatch):
    monkeypatch.setattr(spmm, "FEW", 64)
    called, in_pieces = [], mpnn.kernels.in_pieces
    monkeypatch.setattr(mpnn.kernels, "in_pieces", lambda *args: called.append(1) or in_pieces(*args))
    layer(8, 16, heads=8)(torch.randn(9, 8), COMPLETE)
    assert len(called) == pieces


class Largest(TorchDispatchMode):
    """Remembers the size of the largest result."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                self.numel = max(self.numel, math.prod(value.shape))
        return result


@pytest.mark.parametrize("layer", [mpnn.nn.GAT, mpnn.nn.GATv2], ids=lambda layer: layer.__name__)
def test_nothing_is_edges_by_features_forward_or_backward(layer):
    n, e, width = 100, 4000, 64
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, n, (2, e), generator=generator)
    x = torch.randn(n, width, generator=generator, requires_grad=True)
    layer = layer(width, width, self_loops=False)
    with Largest() as largest:
        layer(x, edge_index).sum().backward()
    assert largest.numel <= max(2 * e, n * width, width * width)

"""Messages of whole numbers and of bool: every way of running against the reference, which adds as torch.sum does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dags, digraphs, seeds

import mpnn
from mpnn import kernels
from mpnn.kernels import Loose

DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool]
WAYS = ["wavefront", "spmm", "small"]


class Sent(mpnn.MessagePassing):
    def message(self, x_j):
        return x_j


class Travels(mpnn.MessagePassing):
    value = "x"


class Weighted(Travels):
    def weight(self, w):
        return w


class Attended(Travels):
    def attention(self, w):
        return w.float()


class Counted(mpnn.MessagePassing):
    """A state of whole numbers, over many levels."""

    state = ("h",)

    def message(self, h_j):
        return h_j

    def update(self, h, message):
        return h + message


class Averaged(mpnn.MessagePassing):
    """A state of numbers that whole numbers of edges are averaged into."""

    state = ("h",)

    def message(self, h_j, w):
        return w, h_j

    def update(self, h, message):
        of_edges, of_nodes = message
        return h + of_edges[:, None] + of_nodes


def whole(generator, dtype, *shape):
    return torch.randint(0, 200, shape, generator=generator).to(dtype)


def outcome(way, layer, *args, **fields):
    with mpnn.engine(way):
        return layer.propagate(*args, **fields)


@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [Sent, Travels, Weighted, Attended])
@settings(max_examples=15)
@given(graph=digraphs(), seed=seeds, of_weight=st.sampled_from([torch.int64, torch.float64]), heads=st.booleans())
def test_every_way_sums_whole_numbers_as_the_reference_does(kind, dtype, aggr, graph, seed, of_weight, heads):
    layer, generator = kind(aggr), torch.Generator().manual_seed(seed)
    x = whole(generator, dtype, graph.num_nodes, *((2, 3) if heads else (3,)))
    w = torch.randint(-3, 4, (graph.num_edges, 2) if heads else (graph.num_edges,), generator=generator).to(of_weight)
    fields = {"x": x, "w": w / 2 if of_weight.is_floating_point else w}
    expected = outcome("reference", layer, graph.edge_index, **fields)
    for way in ["small"] if kind is Sent else WAYS[: 2 + (kind is Attended)]:
        torch.testing.assert_close(outcome(way, layer, graph.edge_index, **fields), expected)
    torch.testing.assert_close(layer.propagate(graph.edge_index, **fields), expected)


def test_sums_of_large_whole_numbers_are_exact():
    edge_index, large = torch.tensor([[0, 1], [2, 2]]), 2**62 - 1
    x = torch.tensor([[large], [-1], [5]])
    for kind, way in [(Sent, "wavefront"), (Sent, "small"), (Travels, "wavefront"), (Travels, "spmm")]:
        assert outcome(way, kind(), edge_index, x=x).flatten().tolist() == [0, 0, large - 1]


@settings(max_examples=25)
@given(graph=dags(), seed=seeds)
def test_over_many_levels_too(graph, seed):
    generator = torch.Generator().manual_seed(seed)
    h, w = whole(generator, torch.int64, graph.num_nodes, 2), whole(generator, torch.int64, graph.num_edges)
    for layer, state in [(Counted(), h), (Averaged("mean"), h.float())]:
        expected = outcome("reference", layer, graph.edge_index, "topological", h=state, w=w)
        found = outcome("wavefront", layer, graph.edge_index, "topological", h=state, w=w)
        torch.testing.assert_close(found, expected)


def test_weights_that_are_learned_get_their_gradient_from_whole_numbers():
    edge_index, x = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[3], [4], [0]])
    for way in ("reference", "wavefront", "spmm"):
        w = torch.tensor([0.5, 0.25], requires_grad=True)
        out = outcome(way, Weighted(), edge_index, x=x, w=w)
        out.sum().backward()
        assert out.flatten().tolist() == [0, 0, 2.5] and w.grad.tolist() == [3, 4]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_compiler_traces_the_same(dtype):
    x = torch.tensor([[1], [200], [1]]).to(dtype)
    edges = Loose(torch.tensor([0, 1]), torch.tensor([2, 2]), 3, 3)
    total = int(x[:2].sum())
    assert kernels.weighted_sum(edges, None, x).flatten().tolist() == [0, 0, total]
    assert kernels.weighted_mean(edges, None, x).flatten().tolist() == [0, 0, total / 2]
    assert kernels.attend(edges, torch.zeros(2), x).flatten().tolist() == [0, 0, total / 2]

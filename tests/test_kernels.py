"""mpnn.kernels: each operation against a plain loop, with its gradient, on edges in any order."""

import pytest
import torch
from compare import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import digraphs, graph_of, normal, seeds

import mpnn
from mpnn import kernels
from mpnn.kernels import Loose

RUNS = settings(max_examples=40)
SHAPES = [(), (3,), (12,), (2, 3), (90,)]  # of a row: narrow, medium and wide ones are summed in different ways


def edges_of(graph, kind):
    """The edges of a plan, or the same for a compiler; with the number of nodes."""
    edges = mpnn.plan(graph).edges[""]
    return edges if kind == "sorted" else Loose(edges.src, edges.dst, graph.num_nodes, graph.num_nodes)


def by_loop(edges, rows, n, shape):
    """``out[i] = sum of rows[e] over the edges e into i``, in float64."""
    out = [torch.zeros(shape, dtype=torch.float64) for _ in range(n)]
    for e, i in enumerate(edges.dst.tolist()):
        out[i] = out[i] + rows[e]
    return torch.stack(out) if n else torch.zeros(0, *shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@RUNS
@given(graph=digraphs(), seed=seeds)
def test_segment_sum_adds_the_rows_of_each_node(kind, shape, graph, seed):
    edges, n = edges_of(graph, kind), graph.num_nodes
    values = normal(torch.Generator().manual_seed(seed), len(edges), *shape)
    assert_same(kernels.segment_sum(edges, values), by_loop(edges, values, n, shape), [values])


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@RUNS
@given(graph=digraphs(min_nodes=1), seed=seeds, end=st.sampled_from(["source", "target"]))
def test_gather_takes_the_row_of_an_end_and_sums_on_the_way_back(kind, shape, graph, seed, end):
    edges = edges_of(graph, kind)
    x = normal(torch.Generator().manual_seed(seed), graph.num_nodes, *shape)
    at = edges.src if end == "source" else edges.dst
    assert_same(kernels.gather(x, edges, end), x[at], [x])


def weighted_by_loop(edges, weight, value, n):
    def sent(e, j):
        if weight is None:
            return value[j]
        return weight[e][:, None] * value[j] if weight.dim() == 2 else weight[e] * value[j]

    return by_loop(edges, [sent(e, j) for e, j in enumerate(edges.src.tolist())], n, value.shape[1:])


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@pytest.mark.parametrize(
    ("weight_shape", "shape"),
    [(None, (3,)), ((), (3,)), ((), ()), ((), (2, 3)), ((), (90,)), ((2,), (2, 3)), ((1,), (1, 4)), ((2,), (2, 90))],
    ids=str,
)
@RUNS
@given(graph=digraphs(), seed=seeds)
def test_weighted_sum_adds_weight_times_value(kind, weight_shape, shape, graph, seed):
    edges, n, generator = edges_of(graph, kind), graph.num_nodes, torch.Generator().manual_seed(seed)
    value = normal(generator, n, *shape)
    weight = None if weight_shape is None else normal(generator, len(edges), *weight_shape)
    leaves = [value] if weight is None else [value, weight]
    assert_same(kernels.weighted_sum(edges, weight, value), weighted_by_loop(edges, weight, value, n), leaves)


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=str)
@RUNS
@given(graph=digraphs(), seed=seeds)
def test_softmax_is_that_of_the_edges_into_each_node(kind, shape, graph, seed):
    edges = edges_of(graph, kind)
    score = normal(torch.Generator().manual_seed(seed), len(edges), *shape)
    at = [[e for e, i in enumerate(edges.dst.tolist()) if i == node] for node in edges.dst.tolist()]
    expected = [score[e].exp() / score[others].exp().sum(0) for e, others in enumerate(at)]
    expected = torch.stack(expected) if expected else score
    assert_same(kernels.softmax(edges, score), expected, [score])


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@pytest.mark.parametrize(("heads", "shape"), [((), (3,)), ((), (2, 3)), ((2,), (2, 3))], ids=str)
@RUNS
@given(graph=digraphs(), seed=seeds)
def test_attending_is_the_weighted_sum_by_softmax(kind, heads, shape, graph, seed):
    edges, n, generator = edges_of(graph, kind), graph.num_nodes, torch.Generator().manual_seed(seed)
    score, value = normal(generator, len(edges), *heads), normal(generator, n, *shape)
    expected = weighted_by_loop(edges, kernels.softmax(edges, score), value, n)
    assert_same(kernels.attend(edges, score, value), expected, [score, value])


@pytest.mark.parametrize("kind", ["sorted", "loose"])
def test_softmax_of_large_scores_neither_overflows_nor_vanishes(kind):
    edges = edges_of(graph_of(3, [(0, 1), (1, 1), (2, 0)]), kind)
    score = torch.tensor([-1e30, 1000.0, 1001.0])
    expected = torch.tensor([1.0, *torch.softmax(torch.tensor([1000.0, 1001.0]), 0)])
    order = edges.dst.argsort(stable=True)
    torch.testing.assert_close(kernels.softmax(edges, score[order]), expected[order])


def test_softmax_piece_by_piece_is_the_same(monkeypatch):
    edges, score = mpnn.plan(GRAPH).edges[""], normal(torch.Generator().manual_seed(0), 7, 2)
    whole = kernels.softmax(edges, score)
    expected = torch.autograd.grad(whole.pow(2).sum(), score)[0]
    pieces = kernels.pieces
    monkeypatch.setattr(kernels, "pieces", lambda count: pieces(count, 3))
    assert torch.equal(kernels.softmax(edges, score), whole)
    assert torch.equal(torch.autograd.grad(kernels.softmax(edges, score).pow(2).sum(), score)[0], expected)


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@RUNS
@given(graph=digraphs())
def test_mean_weights_of_a_node_are_one_over_its_edges(kind, graph):
    edges = edges_of(graph, kind)
    into = edges.dst.tolist()
    expected = torch.tensor([1 / into.count(i) for i in into], dtype=torch.float64)
    assert_close(kernels.mean_weight(edges, expected.new_zeros(graph.num_nodes, 3)), expected, "mean")


@pytest.mark.parametrize("kind", ["sorted", "loose"])
@RUNS
@given(graph=digraphs(), shape=st.sampled_from([(1,), (5,), (2, 3)]), weighted=st.booleans())
def test_a_mean_is_the_sum_over_the_number_of_edges(kind, graph, shape, weighted):
    edges, generator = edges_of(graph, kind), torch.Generator().manual_seed(0)
    x = normal(generator, graph.num_nodes, *shape)
    weight = normal(generator, len(edges)) if weighted else None
    count = torch.bincount(edges.dst.long(), minlength=graph.num_nodes).clamp(min=1)
    expected = kernels.weighted_sum(edges, weight, x) / count.view(-1, *(1,) * len(shape))
    assert_same(kernels.weighted_mean(edges, weight, x), expected, [x] + [weight] * weighted)


def test_a_mean_with_fewer_rows_than_edges_makes_no_weights():
    edges = mpnn.plan(GRAPH).edges[""]
    kernels.weighted_mean(edges, None, torch.ones(5, 1, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert not {"turned", ("mean", torch.float64)} & set(edges.memo)


def test_permute_and_its_gradient_undo_each_other():
    order, x = torch.tensor([2, 0, 3, 1]), normal(torch.Generator().manual_seed(0), 4, 3)
    back = torch.empty(4, dtype=torch.long).scatter_(0, order, torch.arange(4))
    assert_same(kernels.permute(x, order, back), x[order], [x])
    assert kernels.permute(x, None, None) is x


# Derivatives ----------------------------------------------------------------------------------------------------------

GRAPH = graph_of(5, [(3, 1), (0, 1), (1, 1), (4, 0), (0, 1), (2, 3), (4, 3)])  # loop, double edge
OPERATIONS = {
    "gather from sources": (lambda edges, x: kernels.gather(x, edges, "source"), [(5, 3)]),
    "gather from targets": (lambda edges, x: kernels.gather(x, edges, "target"), [(5, 2, 2)]),
    "sum of values": (lambda edges, x: kernels.weighted_sum(edges, None, x), [(5, 3)]),
    "weighted sum": (lambda edges, w, x: kernels.weighted_sum(edges, w, x), [(7,), (5, 3)]),
    "weighted sum of wide rows": (lambda edges, w, x: kernels.weighted_sum(edges, w, x), [(7,), (5, 81)]),
    "weighted sum with heads": (lambda edges, w, x: kernels.weighted_sum(edges, w, x), [(7, 2), (5, 2, 3)]),
    "mean of narrow rows": (lambda edges, x: kernels.weighted_mean(edges, None, x), [(5, 1)]),
    "mean of wide rows": (lambda edges, x: kernels.weighted_mean(edges, None, x), [(5, 3)]),
    "weighted mean": (lambda edges, w, x: kernels.weighted_mean(edges, w, x), [(7,), (5, 1)]),
    "segment sum": (lambda edges, v: kernels.segment_sum(edges, v), [(7, 3)]),
    "segment sum of wide rows": (lambda edges, v: kernels.segment_sum(edges, v), [(7, 9)]),
    "in pieces": (
        lambda edges, x, y: kernels.in_pieces(edges, lambda a, b: torch.tanh(a * b), [x, y], ["source", "target"]),
        [(5, 3), (5, 3)],
    ),
    "softmax": (lambda edges, s: kernels.softmax(edges, s), [(7, 2)]),
    "attend": (lambda edges, s, x: kernels.attend(edges, s, x), [(7,), (5, 3)]),
    "attend with heads": (lambda edges, s, x: kernels.attend(edges, s, x), [(7, 2), (5, 2, 3)]),
    "permute": (lambda edges, x: kernels.permute(x, torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])), [(3, 2)]),
}


def operation(name):
    function, shapes = OPERATIONS[name]
    generator, edges = torch.Generator().manual_seed(0), mpnn.plan(GRAPH).edges[""]
    return lambda *values: function(edges, *values), tuple(normal(generator, *shape) for shape in shapes)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_finite_differences(name):
    function, values = operation(name)
    assert torch.autograd.gradcheck(function, values)


@pytest.mark.parametrize("name", OPERATIONS)
def test_double_backward_is_refused(name):
    function, values = operation(name)
    with pytest.raises(RuntimeError, match=r"double backward \(create_graph=True\).*mpnn.engine\('reference'\)"):
        torch.autograd.grad(function(*values).pow(2).sum(), values, create_graph=True)


def test_every_function_with_a_derivative_of_its_own_is_tried_here():
    functions = [value for value in vars(kernels).values() if isinstance(value, type)]
    made = {value.__name__ for value in functions if issubclass(value, torch.autograd.Function)}
    tried = set()
    for name in OPERATIONS:
        function, values = operation(name)
        waiting = [function(*values).grad_fn]
        while waiting:
            step = waiting.pop()
            tried.add(type(step).__name__.removesuffix("Backward"))
            waiting += [before for before, _ in step.next_functions if before is not None]
    assert made and made <= tried


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "permute"])
def test_narrower_dtypes_are_kept_and_come_close(name, dtype):
    function, values = operation(name)
    narrow = [value.detach().to(dtype).requires_grad_() for value in values]
    out, exact = function(*narrow), function(*values)
    assert out.dtype == dtype
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=0.05, atol=0.1)
    torch.testing.assert_close(out.double(), exact, **tolerance)
    found = torch.autograd.grad(out.sum(), narrow)
    for grad, near in zip(found, torch.autograd.grad(exact.sum(), values), strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), near, **tolerance)


def test_sums_are_the_same_bit_by_bit_every_time():
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, 200, (2, 5000), generator=generator)
    edges, values = mpnn.plan(edge_index, num_nodes=200).edges[""], torch.randn(5000, 16, generator=generator)
    x, weight = torch.randn(200, 16, generator=generator), torch.randn(5000, generator=generator)
    for _ in range(3):
        assert torch.equal(kernels.segment_sum(edges, values), kernels.segment_sum(edges, values))
        assert torch.equal(kernels.weighted_sum(edges, weight, x), kernels.weighted_sum(edges, weight, x))


@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_rows_without_features_stay_rows_without_features(shape):
    edges = mpnn.plan(GRAPH).edges[""]
    assert kernels.segment_sum(edges, torch.zeros(7, *shape)).shape == (5, *shape)
    assert kernels.gather(torch.zeros(5, *shape), edges, "source").shape == (7, *shape)


def test_rows_of_many_heads_that_32_bits_cannot_number_are_numbered_in_64(monkeypatch):
    edges = mpnn.plan(torch.tensor([[0, 1, 2], [1, 1, 2]]), num_nodes=3).edges[""]
    weight, x = torch.rand(3, 4), torch.rand(3, 4, 9)
    short = kernels.weighted_sum(edges, weight, x)
    edges.memo.clear()
    monkeypatch.setattr("mpnn.kernels.SHORT", 12)
    assert torch.equal(kernels.weighted_sum(edges, weight, x), short)
    assert {t.dtype for t in edges.memo["every", 4, False]} == {torch.int64}

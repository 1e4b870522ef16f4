"""mpnn.engine.prepared and small: a pass that is worked out once is the same pass, whatever changes between calls."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from strategies import digraphs, normal, seeds

import mpnn
from mpnn.engine import again, choose
from mpnn.engine.small import FEW, SHORT

EDGES = [[0, 1, 1], [1, 2, 2]]


class Sum(mpnn.MessagePassing):
    def forward(self, x, edge_index, **options):
        return self.propagate(edge_index, x=x, **options)

    def message(self, x_j):
        return x_j


class Weighted(mpnn.MessagePassing):
    def message(self, x_j, w=None):
        return x_j if w is None else w * x_j

    def update(self, message, x, shift=0.0):
        return message + x + shift


@pytest.fixture
def edge_index():
    return torch.tensor(EDGES)


@pytest.fixture
def x():
    return torch.tensor([[1.0], [2.0], [4.0]])


def prepared(layer, edge_index, **fields):
    """The result of a second call, which is sure to find what the first has prepared."""
    layer.propagate(edge_index, **fields)
    assert again(layer, edge_index, None) is not None
    return layer.propagate(edge_index, **fields)


def test_a_second_call_finds_what_the_first_prepared_and_gives_the_same(edge_index, x):
    assert again(Sum(), edge_index, None) is None
    assert prepared(Sum(), edge_index, x=x).flatten().tolist() == [0, 1, 4]
    assert Sum()(x * 2, edge_index).flatten().tolist() == [0, 2, 8]


LAYERS = {
    "GCN": lambda: mpnn.nn.GCN(2, 3),
    "GAT": lambda: mpnn.nn.GAT(2, 3, heads=2),
    "GATv2": lambda: mpnn.nn.GATv2(2, 3, heads=2, self_loops=False),
    "GraphSAGE": lambda: mpnn.nn.GraphSAGE(2, 3),
    "GIN": lambda: mpnn.nn.GIN(torch.nn.Linear(2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_the_library_find_what_was_prepared(name, edge_index, monkeypatch):
    layer, x = LAYERS[name](), torch.randn(3, 2, requires_grad=True)
    expected = layer(x, edge_index)
    monkeypatch.setattr("mpnn.message_passing.run", None)  # the general way
    assert_same(layer(x, edge_index), expected, [x, *layer.parameters()])


def test_edges_that_are_written_to_are_seen(edge_index, x):
    layer = Sum()
    prepared(layer, edge_index, x=x)
    edge_index[1, 0] = 0
    assert again(layer, edge_index, None) is None
    assert layer(x, edge_index).flatten().tolist() == [1, 0, 4]


def test_another_number_of_nodes_is_another_graph(edge_index, x):
    layer = Sum()
    for rows in (3, 5, 4, 3):
        out = layer(torch.ones(rows, 1), edge_index)
        assert out.flatten().tolist() == [0, 1, 2] + [0] * (rows - 3)
    prepared(layer, edge_index, x=x)
    with pytest.raises(ValueError, match=r"Sum: edge 1 \(1 -> 2\) leaves the graph, which has num_nodes=2"):
        layer(x[:2], edge_index)


def test_nothing_outlives_the_edges(x):
    layer, edge_index = Sum(), torch.tensor(EDGES)
    prepared(layer, edge_index, x=x)
    program, tensor = weakref.ref(again(layer, edge_index, None)), weakref.ref(edge_index)
    del edge_index
    gc.collect()
    assert tensor() is None and program() is None


def test_edges_made_in_inference_mode_are_planned_at_every_call(x):
    with torch.inference_mode():
        edge_index = torch.tensor(EDGES)
    layer = Sum()
    assert layer(x, edge_index).flatten().tolist() == layer(x, edge_index).flatten().tolist() == [0, 1, 4]
    assert again(layer, edge_index, None) is None


ONES = torch.ones(3, 1)
WRONG = {
    "rows of an edge field": (
        dict(x=ONES, w=torch.ones(2, 1)),
        (ValueError, r"Weighted: 'w' has 2 rows, but there are 3 edges; expected one row for each. Its shape is \(2"),
    ),
    "rows of a node field": (
        dict(x=torch.ones(4, 1), w=ONES),
        (ValueError, r"Weighted: 'x' has 4 rows, but there are 3 nodes; expected one row for each. Its shape is \(4"),
    ),
    "a field that is missing": (
        dict(w=ONES),
        (TypeError, "Weighted.message asks for 'x_j', but only 'w' was passed. Pass x="),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_the_same_words_once_a_pass_is_prepared(name, edge_index):
    layer, (wrong, (error, words)) = Weighted(), WRONG[name]
    for _ in range(2):
        with pytest.raises(error, match=words):
            layer.propagate(edge_index, num_nodes=3, **wrong)
        layer.propagate(edge_index, num_nodes=3, x=ONES, w=ONES)  # prepares it
        assert again(layer, edge_index, 3) is not None


def test_hooks_that_return_other_rows_are_told_so(edge_index, x):
    class Long(Sum):
        def message(self, x_j):
            return torch.cat([x_j, x_j])

    class Short(Sum):
        def update(self, message):
            return message[:1]

    for _ in range(2):
        with pytest.raises(ValueError, match=r"Long.message returned shape \(6, 1\), but there are 3 edges"):
            Long()(x, edge_index)
        with pytest.raises(ValueError, match=r"Short.update returned shape \(1, 1\), but 3 nodes fire"):
            Short()(x, edge_index)


def test_defaults_numbers_and_pairs_take_part(edge_index, x):
    layer = Weighted()
    w = torch.tensor([[1.0], [2.0], [3.0]])
    for _ in range(2):
        assert layer.propagate(edge_index, x=x).flatten().tolist() == [1, 3, 8]
        assert layer.propagate(edge_index, x=x, w=w, shift=1.0).flatten().tolist() == [2, 4, 15]
        assert layer.propagate(edge_index, x=x, w=2.0, shift=torch.tensor(1.0)).flatten().tolist() == [2, 5, 13]
        assert layer.propagate(edge_index, x=x, w=w, shift=x).flatten().tolist() == [2, 5, 18]
        assert Sum().propagate(edge_index, x=(x, torch.ones(4, 1))).flatten().tolist() == [0, 1, 4, 0]
        assert Sum().propagate(edge_index, x=(x, None), num_nodes=(3, 3)).flatten().tolist() == [0, 1, 4]
        assert layer.propagate(edge_index, x=(x, 10 * x), w=w).flatten().tolist() == [10, 21, 50]
        assert layer.propagate(edge_index, x=(x, 10 * x), w=w, shift=x).flatten().tolist() == [11, 23, 54]


def test_layers_of_one_class_may_differ_in_aggregation_and_schedule(edge_index, x):
    mean, back = Sum("mean"), Sum()
    back.schedule = mpnn.schedule.synchronous.reverse
    for _ in range(3):
        assert Sum()(x, edge_index).flatten().tolist() == [0, 1, 4]
        assert mean(x, edge_index).flatten().tolist() == [0, 1, 2]
        assert back(x, edge_index).flatten().tolist() == [2, 8, 0]
        assert Sum()(x, edge_index, schedule=mpnn.schedule.synchronous.reverse).flatten().tolist() == [2, 8, 0]
        assert Sum("max")(x, edge_index).flatten().tolist() == [0, 1, 2]


def test_a_class_that_is_redefined_runs_as_it_is_now(edge_index, x):
    def defined(message):
        return type("Cell", (mpnn.MessagePassing,), {"message": message})()

    first, second = defined(lambda self, x_j: x_j), defined(lambda self, x_j, x_i: 3 * x_j + x_i)
    for _ in range(2):
        assert first.propagate(edge_index, x=x).flatten().tolist() == [0, 1, 4]
        assert second.propagate(edge_index, x=x).flatten().tolist() == [0, 5, 20]


def test_a_way_that_is_forced_is_taken_though_another_is_prepared(edge_index, x):
    calls = []

    class Counted(Sum):
        def message(self, x_j):
            calls.append(len(x_j))
            return x_j

    layer = Counted()
    prepared(layer, edge_index, x=x)
    calls.clear()
    with mpnn.engine("reference"):
        assert layer(x, edge_index).flatten().tolist() == [0, 1, 4]
    assert calls == [0, 1, 2]  # a call for each node


def test_hooks_and_parametrisations_of_modules_inside_take_part(edge_index, x):
    class Linear(Sum):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1, bias=False)

        def message(self, x_j):
            return self.linear(x_j)

    layer = Linear()
    torch.nn.init.ones_(layer.linear.weight)
    prepared(layer, edge_index, x=x)
    layer.linear.register_forward_hook(lambda module, args, out: out * 2)
    assert layer(x, edge_index).flatten().tolist() == [0, 2, 8]
    torch.nn.utils.parametrizations.weight_norm(layer.linear)
    layer(x, edge_index).sum().backward()
    assert all(p.grad is not None for p in layer.parameters()) and len(list(layer.parameters())) == 2


def test_layers_and_plans_that_ran_are_copied_and_pickled(edge_index, x):
    layer, plan = Sum(), mpnn.plan(edge_index, num_nodes=3)
    for graph in (edge_index, plan):
        prepared(layer, graph, x=x)
    assert copy.deepcopy(layer)(x, edge_index).flatten().tolist() == [0, 1, 4]
    assert layer(x, pickle.loads(pickle.dumps(plan))).flatten().tolist() == [0, 1, 4]


def test_a_plan_is_run_under_its_own_schedule_and_by_layers_of_another(edge_index, x):
    plan = mpnn.plan(edge_index, "topological", num_nodes=3)
    assert prepared(Sum(), plan, x=x).flatten().tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match="the plan was made for topological, but schedule='synchronous' is asked"):
        Sum()(x, plan, schedule="synchronous")


def test_what_is_not_finite_stays_with_those_it_was_sent_to(x):
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
    bad = torch.tensor([[1.0], [float("nan")], [float("inf")], [1.0]])
    for value in (bad, bad.clone().requires_grad_()):
        out = prepared(Sum(), edge_index, x=value).detach().flatten()
        assert out[:2].tolist() == [0, 1] and out[2].isnan() and out[3].isinf()


@settings(max_examples=30)
@given(digraphs(), seeds)
def test_inference_and_training_add_the_same_numbers_in_the_same_order(graph, seed):
    x = torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        assert torch.equal(Sum()(x, graph.edge_index), Sum()(x.clone().requires_grad_(), graph.edge_index).detach())


@settings(max_examples=20)
@given(digraphs(), seeds)
def test_integers_are_summed_as_well(graph, seed):
    x = torch.randint(9, (graph.num_nodes, 2), generator=torch.Generator().manual_seed(seed))
    src, dst = graph.edge_index
    for _ in range(2):
        assert torch.equal(Sum()(x, graph.edge_index), torch.zeros_like(x).index_add(0, dst, x[src]))


def test_wide_and_many_messages_give_the_same_as_few_narrow_ones():
    generator = torch.Generator().manual_seed(0)
    for edges, width in ((FEW, 1), (FEW + 1, 1), (FEW, 1 + SHORT // FEW)):
        x, edge_index = normal(generator, 20, width), torch.randint(20, (2, edges), generator=generator)
        assert (choose(Sum(), mpnn.plan(edge_index, num_nodes=20))[0] == "small") == (edges <= FEW)
        with mpnn.engine("wavefront"):
            expected = Sum()(x, edge_index)
        for _ in range(2):
            assert_same(Sum()(x, edge_index), expected, [x])
            assert_same(Sum()(x.detach(), edge_index), expected.detach(), [x])


def test_there_is_a_double_backward(edge_index):
    class Product(Sum):
        def message(self, x_j, x_i):
            return torch.sin(x_j) * x_i

    layer, x = Product(), normal(torch.Generator().manual_seed(0), 3, 2)
    assert again(layer, edge_index, None) is None
    assert torch.autograd.gradgradcheck(lambda x: layer(x, edge_index), (x,))
    assert again(layer, edge_index, None) is not None
    gat, x = mpnn.nn.GAT(2, 2, heads=2).double(), normal(torch.Generator().manual_seed(0), 3, 2)
    assert torch.autograd.gradgradcheck(lambda x: gat(x, edge_index), (x,))


def test_autocast_narrows_products_and_the_sums_of_them(edge_index):
    class Linear(Sum):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def message(self, x_j):
            return self.linear(x_j)

    layer, x = Linear(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    exact = layer(x, edge_index)
    for value in (x, x.clone().requires_grad_()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(value, edge_index)
        torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)


def test_a_compiler_that_comes_after_an_eager_call_traces_the_whole(edge_index, x):
    layer = Sum()
    prepared(layer, edge_index, x=x)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for rows in (3, 4, 5):
        edges = torch.tensor([[0, 1, 1] + [0] * rows, [1, 2, 2] + [1] * rows])
        torch.testing.assert_close(compiled(torch.ones(rows, 1), edges), layer(torch.ones(rows, 1), edges))


def test_forcing_it_names_what_hinders():
    edge_index, x = torch.zeros(2, FEW + 1, dtype=torch.long), torch.ones(3, 1)
    few = edge_index[:, :2].clone()
    for layer, edges, words in (
        (Sum(), edge_index, f"Sum: there are more than {FEW} edges"),
        (Sum("max"), few, "Sum: the aggregation is 'max', not 'sum' or 'mean'"),
        (mpnn.nn.GIN(torch.nn.Identity()), few, "GIN: messages are a weight times a value"),
    ):
        with mpnn.engine("small"), pytest.raises(ValueError, match=rf"engine\('small'\) cannot run {words}"):
            layer(x, edges)


def test_edge_fields_stay_with_their_edges_whatever_their_order():
    edge_index = torch.tensor([[0, 1, 2], [2, 0, 1]])  # not sorted by target
    x, w = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[3.0], [5.0], [7.0]])
    assert Weighted().propagate(edge_index, x=x, w=w).flatten().tolist() == [11, 30, 7]
    assert prepared(Weighted(), edge_index, x=x, w=w).flatten().tolist() == [11, 30, 7]


def test_the_message_may_stand_anywhere_among_what_update_asks_for(edge_index, x):
    class First(Sum):
        def update(self, message, x, y):
            return 100 * message + 10 * x + y

    class Second(Sum):
        def update(self, x, message, y):
            return 100 * message + 10 * x + y

    class Last(Sum):
        def update(self, x, y, message):
            return 100 * message + 10 * x + y

    for layer in (First(), Second(), Last()):
        assert layer.propagate(edge_index, x=x, y=x + 1).flatten().tolist() == [12, 123, 445]
        assert prepared(layer, edge_index, x=x, y=x + 1).flatten().tolist() == [12, 123, 445]

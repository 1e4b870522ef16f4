"""mpnn.engine.returned: what hooks may return, and what is told of anything else, in every way of running."""

import re
from contextlib import contextmanager

import pytest
import torch

import mpnn

WIDTH = 3
GRAPHS = {
    "chain": (4, [[0, 1, 2], [1, 2, 3]]),
    "tree": (6, [[0, 1, 2, 3], [4, 4, 5, 5]]),
    "dag": (5, [[0, 1, 2, 3, 0, 1], [2, 2, 3, 4, 4, 4]]),
}
WAYS = ("reference", "wavefront", "again")


class Cell(mpnn.MessagePassing):
    state, schedule, hidden_features = ("h",), "topological", WIDTH

    def message(self, h_j):
        return torch.tanh(h_j)

    def update(self, x, message):
        return torch.tanh(x + message)


@contextmanager
def way_of(name):
    with mpnn.engine("wavefront" if name == "again" else name, recompute=name == "again"):
        yield


def run(layer, graph="dag", schedule=None, **fields):
    num_nodes, edges = GRAPHS[graph]
    x = torch.linspace(-1, 1, num_nodes * WIDTH).view(num_nodes, WIDTH)
    return layer.propagate(torch.tensor(edges), schedule=schedule, x=x, **fields)


def bad(base=Cell, **hooks):
    return type("Bad", (base,), hooks)


UPDATES = {  # what update returns, of which type the error is, and what it names
    "wider": (lambda new: torch.cat([new, new], 1), ValueError, r"shape \(\d, 6\) for h, whose rows have .* \(3,\)"),
    "one column": (lambda new: new[:, :1], ValueError, r"shape \(\d, 1\) for h, whose rows .* expected \(\d, 3\)"),
    "no columns": (lambda new: new[:, 0], ValueError, r"shape \(\d,\) for h, whose rows .* expected \(\d, 3\)"),
    "too deep": (lambda new: new[:, None], ValueError, r"shape \(\d, 1, 3\) for h, whose rows .* or hidden_features"),
    "double rows": (lambda new: torch.cat([new, new]), ValueError, r"shape \(\d+, 3\) for h, but \d nodes fire"),
    "no rows": (lambda new: new.sum(), ValueError, r"shape \(\) for h, but \d nodes fire; expected .* \(\d, 3\)"),
    "a wide dtype": (lambda new: new.double(), TypeError, r"float64 for h, which has torch.float32 .* Return it as"),
    "an integer": (lambda new: new.long(), TypeError, r"int64 for h, which has torch.float32 .* pass h=... of"),
    "nothing": (lambda new: None, TypeError, r"a NoneType for h, but \d nodes fire; expected one row for each"),
    "a list": (lambda new: [new], TypeError, r"a list for h, but \d nodes fire; expected .* Return a tensor for each"),
    "a number": (lambda new: 1.0, TypeError, r"a float for h, but \d nodes fire"),
    "two fields": (lambda new: (new, new), ValueError, "2 values, but the state has 1 fields, h"),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UPDATES)
def test_an_update_that_does_not_fit_the_state_is_named(name, way, graph):
    change, error, words = UPDATES[name]
    layer = bad(update=lambda self, x, message: change(x + message))()
    for schedule in ("topological", "synchronous"):
        with way_of(way), pytest.raises(error, match=f"^Bad.update returned .*{words}"):
            run(layer, graph, schedule)


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_that_does_not_fit_the_state_is_named_beside_sparse_products(name):
    change, error, words = UPDATES[name]
    layer = bad(value="h", message=None, update=lambda self, x, message: change(x + message))()
    with mpnn.engine("spmm"), pytest.raises(error, match=f"^Bad.update returned .*{words}"):
        run(layer, schedule="synchronous")


def test_a_state_may_come_in_a_dtype_that_it_can_hold_or_that_autocast_chose():
    half = bad(update=lambda self, x, message: (x + message).bfloat16())()
    assert run(half).dtype == torch.float32
    layer, x = Cell(), torch.ones(4, WIDTH, dtype=torch.bfloat16)
    layer.update = lambda x, message: (x + message).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.propagate(torch.tensor(GRAPHS["chain"][1]), x=x).dtype == torch.bfloat16
    with pytest.raises(TypeError, match="Cell.update returned dtype torch.float32 for h, which has torch.bfloat16"):
        layer.propagate(torch.tensor(GRAPHS["chain"][1]), x=x)


MESSAGES = {
    "double rows": (lambda sent: torch.cat([sent, sent]), ValueError, r"shape \(\d+, 3\), but there are \d edges"),
    "one row for all": (lambda sent: torch.ones(1, WIDTH), ValueError, r"shape \(1, 3\), but there are \d edges; ex"),
    "a sum": (lambda sent: sent.sum(), ValueError, r"shape \(\), but there are \d edges; expected one row for each"),
    "nothing": (lambda sent: None, TypeError, r"a NoneType, but there are \d edges; .* Return a tensor \(\d, ...\)"),
    "a list": (lambda sent: [sent], TypeError, r"a list, but there are \d edges; .* or several as a tuple"),
    "a dict": (lambda sent: {"m": sent}, TypeError, r"a dict, but there are \d edges"),
    "a number": (lambda sent: 1.0, TypeError, r"a float, but there are \d edges"),
    "half of a tuple": (lambda sent: (sent, None), TypeError, r"a NoneType, but there are \d edges"),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("way", [*WAYS, "small"])
@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_without_a_row_for_each_edge_is_named(name, way, graph):
    change, error, words = MESSAGES[name]
    if way == "small":
        layer = bad(state=(), message=lambda self, x_j: change(x_j))()
    else:
        layer = bad(message=lambda self, h_j: change(h_j))()
    for schedule in ("topological", "synchronous"):
        with way_of(way), pytest.raises(error, match=f"^Bad.message returned {words}"):
            run(layer, graph, schedule)


def test_the_message_of_an_edge_type_is_named():
    class Typed(mpnn.MessagePassing):
        state, schedule, hidden_features = "h", "topological", 1

        def message_up(self, h_j):
            return h_j

        def message_down(self, h_j):
            return h_j[:0]

        def update(self, x, message_up, message_down):
            return x + message_up + message_down

    edges = {"up": torch.tensor([[0], [1]]), "down": torch.tensor([[0, 1], [2, 2]])}
    for way in WAYS:
        words = r"Typed.message_down returned shape \(0, 1\), but there are [12] edges"
        with way_of(way), pytest.raises(ValueError, match=words):
            Typed().propagate(edges, x=torch.ones(3, 1))


@pytest.mark.parametrize("way", WAYS)
def test_an_aggregate_without_a_row_for_each_node_is_named(way):
    def aggregate(self, message, index, num_nodes):
        return self.change(message.new_zeros(num_nodes, WIDTH))

    layer = bad(aggregate=aggregate)()
    for change, words in ((lambda v: v.repeat(2, 1), r"shape \(\d+, 3\)"), (lambda v: None, "a NoneType")):
        layer.change = change
        for schedule in ("topological", "synchronous"):
            expected = f"Bad.aggregate returned {words}, but [0-9] nodes fire; expected one row for each"
            with way_of(way), pytest.raises((ValueError, TypeError), match=expected):
                run(layer, schedule=schedule)


INITIAL = {
    "more rows": (lambda n: torch.zeros(n + 1, WIDTH), ValueError, r"shape \(6, 3\)", "has 6 rows"),
    "no rows": (lambda n: torch.tensor(0.0), ValueError, r"shape \(\)", r"is shape \(\)"),
    "a list": (lambda n: [0.0] * n, TypeError, "a list", "is a list"),
    "a number": (lambda n: 0.0, TypeError, "a float", "is a float"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", INITIAL)
def test_a_state_without_a_row_for_each_node_is_named(name, way):
    make, error, made, passed = INITIAL[name]
    layer = bad(initial_state=lambda self, name, num_nodes, like: make(num_nodes))()
    for schedule in ("topological", "synchronous"):
        with way_of(way):
            with pytest.raises(error, match=f"Bad.initial_state returned {made} for 'h', but there are 5 nodes; exp"):
                run(layer, schedule=schedule)
            with pytest.raises(error, match=f"Cell: 'h' {passed}, but there are 5 nodes; .* leave h= out"):
                run(Cell(), schedule=schedule, h=make(5), num_nodes=5)


def test_an_initial_state_of_no_value_is_named():
    layer = bad(initial_state=lambda self, name, num_nodes, like: None)()
    with pytest.raises(TypeError, match="Bad.initial_state returned a NoneType for 'h', but there are 5 nodes"):
        run(layer)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_inside_a_hook_tells_what_the_hooks_ran_on(way):
    """As when initial_state is of another width than the weights that the state is multiplied by."""

    class Wide(Cell):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(WIDTH, WIDTH)

        def initial_state(self, name, num_nodes, like):
            return like.new_zeros(num_nodes, 7)

        def message(self, h_j):
            return self.linear(h_j)

    words = r"Wide ran on 5 nodes and 6 edges in 4 levels, with x shape \(5, 3\), scale a float, h shape \(5, 7\)"
    with way_of(way), pytest.raises(RuntimeError, match="shapes cannot be multiplied") as found:
        run(Wide(), scale=2.0)
    assert any(re.match(words, note) for note in found.value.__notes__)


class Weighted(mpnn.MessagePassing):
    value = "x"

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def update(self, message):
        return message


class ByWeight(Weighted):
    def weight(self, x_j):
        return self.change(x_j)


class ByAttention(Weighted):
    def attention(self, x_j):
        return self.change(x_j)


WEIGHTS = {
    "a column": (lambda x_j: x_j.flatten(1)[:, :1], r"shape \(6, 1\), and 'x' has rows of shape \(3,\); .* \.squeeze"),
    "a weight a feature": (lambda x_j: x_j, r"shape \(6, 3\), and 'x' has rows of shape \(3,\); expected .*, \(6,\)"),
    "too many": (lambda x_j: torch.ones(7), r"shape \(7,\), but there are 6 edges"),
    "a number": (lambda x_j: 2.0, "a float, but there are 6 edges"),
    "nothing": (lambda x_j: None, "a NoneType, but there are 6 edges"),
}


@pytest.mark.parametrize("way", ["reference", "wavefront", "spmm"])
@pytest.mark.parametrize("kind", [ByWeight, ByAttention])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_no_number_an_edge_are_named(name, kind, way):
    change, words = WEIGHTS[name]
    hook = "weight" if kind is ByWeight else "attention"
    edge_index = torch.tensor(GRAPHS["dag"][1])
    words = words.replace("(6", "([0-9]").replace("are 6", "are [0-9]") if way == "reference" else words
    with mpnn.engine(way), pytest.raises((ValueError, TypeError), match=f"{kind.__name__}.{hook} returned {words}"):
        kind(change)(torch.ones(5, WIDTH), edge_index)


@pytest.mark.parametrize("way", ["reference", "wavefront", "spmm"])
def test_weights_of_other_heads_than_the_value_has_are_named(way):
    edge_index, x = torch.tensor(GRAPHS["dag"][1]), torch.ones(5, 4, WIDTH)
    words = r"returned shape \(\d, 2\), and 'x' has rows of shape \(4, 3\); .* or one a head, \(\d, 4\)"
    for kind in (ByWeight, ByAttention):
        with mpnn.engine(way), pytest.raises(ValueError, match=words):
            kind(lambda x_j: x_j.sum(-1)[:, :2])(x, edge_index)


@pytest.mark.parametrize("kind", [ByWeight, ByAttention])
def test_one_weight_an_edge_may_stand_in_a_column_for_all_heads(kind):
    edge_index, x = torch.tensor(GRAPHS["dag"][1]), torch.linspace(-1, 1, 60).view(5, 4, WIDTH)
    found = []
    for way in ("reference", "wavefront", "spmm"):
        with mpnn.engine(way):
            found.append(kind(lambda x_j: x_j.sum((1, 2))[:, None])(x, edge_index))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("way", WAYS)
def test_new_values_of_edges_and_graphs_have_their_rows(way):
    for hook, name, rows in (("edge_update", "message", "6 edges"), ("global_update", "nodes", "1 graphs")):
        hooks = {f"{hook}": eval(f"lambda self, {name}: self.change({name})")}
        layer = bad(**hooks)()
        for change, words in ((lambda v: v.repeat(2, 1), r"shape \(\d+, 3\)"), (lambda v: None, "a NoneType")):
            layer.change = change
            expected = f"Bad.{hook} returned {words}, but there are {rows}; expected one row for each"
            with way_of(way), pytest.raises((ValueError, TypeError), match=expected):
                run(layer)


@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("name", ["nothing", "a list", "a number", "double rows", "no rows"])
def test_the_update_of_a_type_of_nodes_is_named(name, kind):
    class Typed(mpnn.HeteroMessagePassing):
        state, schedule, hidden_features = "h", "topological", WIDTH

        def message(self, h_j):
            return h_j

        def update_a(self, x):
            return UPDATES[name][0](x) if kind == "a" else x

        def update_b(self, x, message):
            return UPDATES[name][0](x + message) if kind == "b" else x

    x = {"a": torch.ones(2, WIDTH), "b": torch.ones(2, WIDTH)}
    edges = {("a", "to", "b"): torch.tensor([[0, 1], [0, 1]])}
    with pytest.raises((TypeError, ValueError), match=rf"Typed.update_{kind} returned .*, but 2 nodes fire; expected"):
        Typed().propagate(edges, x=x)

"""mpnn.engine: every way of running against the reference, and cells against loops and torch's own modules."""

import contextlib

import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dags, digraphs, normal, priorities, seeds
from torch import nn

import mpnn
from mpnn.schedule import by, ordered, synchronous, topological

WIDTH, HEADS = 3, 2

# The cells. ``fields`` makes what each is given: N nodes, E edges, from a generator -----------------------------------


def node(generator, n, e):
    return normal(generator, n, WIDTH)


def edge(generator, n, e):
    return normal(generator, e)


class OneField(mpnn.MessagePassing):
    state = ("h",)
    fields = dict(h=node, x=node, w=edge)

    def __init__(self, **options):
        super().__init__(**options)
        self.linear = nn.Linear(WIDTH, WIDTH).double()

    def message(self, h_j, h_i, x_j, x_i, w):
        return torch.tanh(self.linear(h_j) * w[:, None] + x_i * x_j - h_i)

    def update(self, h, x, message):
        return torch.tanh(message + x) - h


class TwoFields(mpnn.MessagePassing):
    """Two messages travel, of different widths, and the state is wider than what makes it."""

    state = ("h", "c")
    fields = dict(h=node, c=lambda g, n, e: normal(g, n, 2, WIDTH), x=node)

    def message(self, h_j, c_j, x_i):
        return torch.tanh(h_j * x_i), c_j.sum(1)[:, :1]

    def update(self, h, c, x, message):
        first, second = message
        return torch.tanh(first + x + h), c * 0.5 + second[:, :, None]


class ByType(mpnn.MessagePassing):
    """Edges of two types, one of them with values, and one update of both."""

    state = ("h",)
    types = ("parent", "sibling")
    fields = dict(h=node, x=node)

    def message_parent(self, h_j, x_i, w):
        return h_j * x_i * w[:, None]

    def message_sibling(self, h_j):
        return torch.tanh(h_j)

    def update(self, x, h, message_parent, message_sibling):
        return torch.tanh(x + message_parent - 2 * message_sibling * h)


class Weighted(mpnn.MessagePassing):
    state = ("h",)
    value = "h"
    fields = dict(h=node, x=node, w=edge)

    def weight(self, w, x_j, x_i):
        return w * (x_j * x_i).sum(1)

    def update(self, x, h, message):
        return torch.tanh(x + message) + 0.1 * h


class Plain(mpnn.MessagePassing):
    """The structured form with no weight at all."""

    state = ("h",)
    value = "h"
    fields = dict(h=node, x=node)

    def update(self, x, message):
        return torch.tanh(x + message)


class Attention(mpnn.MessagePassing):
    """Heads, a softmax and a weight beside it."""

    state = ("h",)
    value = "h"
    fields = dict(h=lambda g, n, e: normal(g, n, HEADS, WIDTH), a=lambda g, n, e: normal(g, n, HEADS), w=edge)

    def weight(self, w):
        return torch.sigmoid(w)[:, None]

    def attention(self, a_j, a_i, h_j):
        return torch.tanh(a_j + 2 * a_i) + h_j.sum(2)

    def update(self, h, message):
        return torch.tanh(message) - 0.5 * h


class Aggregated(mpnn.MessagePassing):
    state = ("h",)
    fields = dict(h=node, x=node, w=edge)

    def message(self, h_j, w):
        return torch.tanh(h_j + w[:, None])

    def update(self, x, message):
        return x + message


class EdgeUpdate(mpnn.MessagePassing):
    state = ("h",)
    fields = dict(h=node, x=node, w=edge)

    def message(self, h_j, x_i, w):
        return h_j * x_i * w[:, None]

    def update(self, x, message=None):
        return torch.tanh(x if message is None else x + message)

    def edge_update(self, message, message_i, message_j, h_j, h_i, x_j, w):
        return message + message_i * message_j + torch.tanh(h_j * h_i + x_j) * w[:, None]


class StructuredEdgeUpdate(Weighted):
    def edge_update(self, message, message_j):
        return message - message_j


class Global(mpnn.MessagePassing):
    state = ("h",)
    fields = dict(h=node, x=node, w=edge, u=lambda g, n, e: normal(g, 1, WIDTH))

    def message(self, h_j, u_g, w):
        return h_j * u_g * w[:, None]

    def update(self, x, u_g, message):
        return torch.tanh(x + message - u_g)

    def edge_update(self, message, u_g):
        return message + u_g

    def global_update(self, u, nodes, edges):
        return u + nodes + 2 * edges


class OwnAggregate(mpnn.MessagePassing):
    state = ("h",)
    fields = dict(h=node, x=node)

    def message(self, h_j, x_i):
        return torch.tanh(h_j + x_i)

    def aggregate(self, message, index, num_nodes):
        total = message.new_zeros(num_nodes, WIDTH).index_add(0, index, message**2)
        return torch.sqrt(1 + total)

    def update(self, x, message):
        return torch.tanh(x * message)


class Optional(mpnn.MessagePassing):
    """Products with an empty sum are left out, biases are not."""

    state = ("h",)
    fields = dict(h=node, x=node)

    def message(self, h_j):
        return h_j

    def update(self, x, h, message=None):
        return torch.tanh(x + 1) - h if message is None else torch.tanh(x + 1 + 2 * message) - h


class Stateless(mpnn.MessagePassing):
    fields = dict(x=node, w=edge)

    def message(self, x_j, x_i, w):
        return torch.tanh(x_j * w[:, None] - x_i), x_j

    def update(self, x, message):
        return x + message[0], message[1]


class StatelessWeighted(mpnn.MessagePassing):
    value = "x"
    fields = dict(x=node, w=edge)

    def weight(self, w):
        return w


CELLS = {
    "one field": OneField,
    "two fields": TwoFields,
    "edge types": ByType,
    "weight": Weighted,
    "no weight": Plain,
    "attention": Attention,
    "mean of values": lambda: Plain(aggr="mean"),
    "mean with weight": lambda: Weighted(aggr="mean"),
    "mean with heads": lambda: Attention(aggr="mean"),
    "max of values": lambda: Weighted(aggr="max"),
    **{
        f"{aggr} of messages": lambda aggr=aggr: Aggregated(aggr=aggr)
        for aggr in ("max", "min", "softmax", "median", "mean", "std", "var", "mul")
    },
    "edge update": EdgeUpdate,
    "edge update of a structured message": StructuredEdgeUpdate,
    "global update": Global,
    "own aggregate": OwnAggregate,
    "optional message": Optional,
    "no state": Stateless,
    "no state, weight": StatelessWeighted,
}


def inputs(layer, graph, generator):
    """An edge index as the layer wants it, and what it is given."""
    n, e = graph.num_nodes, graph.num_edges
    fields = {name: make(generator, n, e) for name, make in layer.fields.items()}
    if not hasattr(layer, "types"):
        return graph.edge_index.clone(), fields
    first = torch.rand(e, generator=generator) < 0.5
    edge_index = {"parent": graph.edge_index[:, first].clone(), "sibling": graph.edge_index[:, ~first].clone()}
    return edge_index, fields | {"w": {"parent": normal(generator, int(first.sum())), "sibling": None}}


def leaves_of(layer, fields):
    values = [v for f in fields.values() for v in (f.values() if isinstance(f, dict) else [f])]
    return [v for v in values if isinstance(v, torch.Tensor)] + list(layer.parameters())


def flat(out):
    return tuple(v for part in out for v in flat(part)) if isinstance(out, tuple) else (out,)


@st.composite
def situations(draw, max_nodes=6):
    """A graph and a schedule that it allows."""
    kind = draw(st.sampled_from(["synchronous", "topological", "ordered", "by"]))
    graph = draw(dags(max_nodes) if kind == "topological" else digraphs(max_nodes))
    n = graph.num_nodes
    schedule = {
        "synchronous": lambda: synchronous,
        "topological": lambda: topological,
        "ordered": lambda: ordered(draw(priorities(n)), descending=draw(st.booleans())),
        "by": lambda: by(torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), dtype=torch.long)),
    }[kind]()
    return graph, schedule.reverse if draw(st.booleans()) else schedule


def ways(layer, edge_index, schedule, n):
    """The ways of running, beside the reference, that a layer can be run."""
    structured = layer.hooks.structured and layer.aggr in ("sum", "mean") and not layer.hooks.edge_update
    one_level = not layer.state or n == 0 or mpnn.plan(edge_index, schedule, n).num_levels == 1
    return ["wavefront"] + (["spmm"] if structured and one_level else [])


def propagate(way, layer, edge_index, schedule, fields, **options):
    with mpnn.engine(way) if way else contextlib.nullcontext():
        return flat(layer.propagate(edge_index, schedule=schedule, **fields, **options))


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=30)
@given(situation=situations(), seed=seeds)
def test_every_way_of_running_gives_what_the_reference_gives(name, situation, seed):
    (graph, schedule), generator = situation, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layer = CELLS[name]()
    edge_index, fields = inputs(layer, graph, generator)
    leaves = leaves_of(layer, fields)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    for way in ways(layer, edge_index, schedule, graph.num_nodes):
        assert_same(propagate(way, layer, edge_index, schedule, fields), expected, leaves, what=f"{way} {schedule}")
    assert_same(propagate(None, layer, edge_index, schedule, fields), expected, leaves, what="as picked")

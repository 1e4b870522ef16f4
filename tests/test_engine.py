"""mpnn.engine: every way of running against the reference, and cells against loops and torch's own modules."""

import contextlib
import gc

import pytest
import torch
from compare import assert_close, assert_same, gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dags, digraphs, graph_of, normal, priorities, seeds
from torch import nn
from torch_geometric.data import Batch

import mpnn
from mpnn.engine import choose
from mpnn.engine.wavefront import rows_of
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


class AttentionAlone(mpnn.MessagePassing):
    """One softmax, nothing beside it."""

    state = ("h",)
    value = "h"
    fields = dict(h=node, x=node)

    def attention(self, x_j, x_i):
        return (x_j * torch.tanh(x_i)).sum(1)

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


class StatelessEdges(mpnn.MessagePassing):
    """Asks for a field at both ends and at the edges, and twice for its own."""

    fields = dict(x=node, y=node, w=edge)

    def __init__(self, **options):
        super().__init__(**options)
        self.linear = nn.Linear(WIDTH, 2).double()

    def message(self, x_i, w, x_j, y_j):
        return self.linear(x_j * w[:, None] + torch.tanh(x_i)) + y_j[:, :2]

    def update(self, x, message, y):
        return torch.tanh(message) * x[:, 1:] - y[:, 1:]


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
    "attention alone": AttentionAlone,
    "mean by attention alone": lambda: AttentionAlone(aggr="mean"),
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
    "no state, mean": lambda: Stateless(aggr="mean"),
    "no state, fields of edges": StatelessEdges,
    "no state, mean with fields of edges": lambda: StatelessEdges(aggr="mean"),
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
    small = isinstance(layer, (Stateless, StatelessEdges))
    return ["wavefront"] + (["spmm"] if structured and one_level else []) + ["small"] * small


def propagate(way, layer, edge_index, schedule, fields, **options):
    with mpnn.engine(way) if way else contextlib.nullcontext():
        return flat(layer.propagate(edge_index, schedule=schedule, **fields, **options))


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=60)
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
    for time in ("as picked", "as picked, once more"):
        assert_same(propagate(None, layer, edge_index, schedule, fields), expected, leaves, what=time)


# What the reference shares with the others, written out ---------------------------------------------------------------


def by_hand(edges, level, x, h, w):
    """``EdgeUpdate`` in plain loops: new state and new edge values."""
    n, new = len(level), {}
    e_old = [None] * len(edges)
    m = [torch.zeros_like(x[i]) for i in range(n)]

    def newest(j, i):
        return new[j] if level[j] < level[i] else h[j]

    for at in sorted(set(level)):
        now = {}
        for i in (i for i in range(n) if level[i] == at):
            for e, (j, k) in enumerate(edges):
                if k == i:
                    e_old[e] = newest(j, i) * x[i] * w[e]
                    m[i] = m[i] + e_old[e]
            now[i] = torch.tanh(x[i] + m[i])
        new.update(now)
    e_new = [
        e_old[e] + m[i] * m[j] + torch.tanh(newest(j, i) * h[i] + x[j]) * w[e] for e, (j, i) in enumerate(edges)
    ]
    return torch.stack([new[i] for i in range(n)]), torch.stack(e_new) if edges else x.new_zeros(0, WIDTH)


@settings(max_examples=60)
@given(digraphs(min_nodes=1), st.data(), seeds, st.booleans())
def test_edge_updates_see_what_the_messages_saw(graph, data, seed, turn):
    n, generator = graph.num_nodes, torch.Generator().manual_seed(seed)
    level = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    schedule = by(torch.tensor(level)).reverse if turn else by(torch.tensor(level))
    _, fields = inputs(EdgeUpdate(), graph, generator)
    edges = graph.edge_index.flip(0) if turn else graph.edge_index
    rank = schedule(graph).tolist()
    expected = by_hand(edges.t().tolist(), rank, fields["x"], fields["h"], fields["w"])
    ours = propagate("wavefront", EdgeUpdate(), graph.edge_index, schedule, fields)
    assert_same(ours, expected, list(fields.values()))


@pytest.mark.parametrize("schedule", ["synchronous", "topological"])
@pytest.mark.parametrize("way", ["reference", "wavefront"])
def test_a_batch_has_a_global_value_for_each_graph(way, schedule):
    generator = torch.Generator().manual_seed(0)
    graphs = [graph_of(3, [(0, 1), (2, 1)]), graph_of(1, []), graph_of(2, [(1, 0)])]
    batch = Batch.from_data_list(graphs)
    fields = {name: make(generator, 6, 3) for name, make in Global.fields.items()} | {"u": normal(generator, 3, WIDTH)}
    leaves, options = leaves_of(Global(), fields), dict(batch=batch.batch, num_graphs=3)
    together = propagate(way, Global(), batch.edge_index, schedule, fields, **options)
    alone = []
    for k, (at, past, start, stop) in enumerate([(0, 3, 0, 2), (3, 4, 2, 2), (4, 6, 2, 3)]):
        one = dict(h=fields["h"][at:past], x=fields["x"][at:past], w=fields["w"][start:stop], u=fields["u"][k : k + 1])
        alone.append(propagate(way, Global(), graphs[k].edge_index, schedule, one))
    assert_same(together, tuple(torch.cat(parts) for parts in zip(*alone, strict=True)), leaves)
    nodes, edges, u = together
    pooled = torch.stack([nodes[:3].sum(0), nodes[3], nodes[4:].sum(0)])
    pooled_edges = torch.stack([edges[:2].sum(0), torch.zeros(WIDTH).double(), edges[2]])
    assert_close(u, fields["u"] + pooled + 2 * pooled_edges, "the graphs' values")


@pytest.mark.parametrize("way", ["reference", "wavefront"])
def test_without_a_batch_there_is_one_graph_whatever_is_said_of_their_number(way):
    graph, generator = graph_of(3, [(0, 1), (2, 1)]), torch.Generator().manual_seed(0)
    _, fields = inputs(Global(), graph, generator)
    expected = propagate(way, Global(), graph.edge_index, "topological", fields)
    one = propagate(way, Global(), graph.edge_index, "topological", fields, num_graphs=1)
    assert_same(one, expected, list(fields.values()))
    for rows in (2, 3):  # 3: as many as nodes
        with pytest.raises(ValueError, match=f"Global: 'u' has {rows} rows, but without batch"):
            propagate(way, Global(), graph.edge_index, "topological", fields | {"u": torch.ones(rows, WIDTH).double()})
    for length in (1, 2, 4):
        batch = torch.zeros(length, dtype=torch.long)
        with pytest.raises(ValueError, match=rf"Global: batch has shape \({length},\).* the 3 nodes, \(3,\)"):
            propagate(way, Global(), graph.edge_index, "topological", fields, batch=batch)


# Relabelling and batching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two fields", "attention", "max of messages", "mean with weight"])
@settings(max_examples=25)
@given(situation=situations(), seed=seeds)
def test_relabelling_nodes_and_reordering_edges_relabels_the_result(name, situation, seed):
    (graph, schedule), generator = situation, torch.Generator().manual_seed(seed)
    layer, n = CELLS[name](), graph.num_nodes
    edge_index, fields = inputs(layer, graph, generator)
    level = schedule(graph)  # ties of a priority are broken by label, so levels go along
    node_at, edge_at = torch.randperm(n, generator=generator), torch.randperm(graph.num_edges, generator=generator)
    new_label = torch.empty(n, dtype=torch.long).scatter_(0, node_at, torch.arange(n))
    moved = {name: f[edge_at] if name == "w" else f[node_at] for name, f in fields.items()}
    turned = edge_index.flip(0) if schedule.turned else edge_index
    there = propagate(None, layer, new_label[turned[:, edge_at]], by(level[node_at]), moved)
    here = propagate(None, layer, edge_index, schedule, fields)
    assert_same(tuple(v[new_label] for v in there), here, leaves_of(layer, fields))


@pytest.mark.parametrize("name", ["two fields", "attention", "optional message"])
@settings(max_examples=25)
@given(graphs=st.lists(dags(4, min_nodes=1), min_size=1, max_size=3), seed=seeds, turn=st.booleans())
def test_a_batch_gives_what_its_graphs_give_one_by_one(name, graphs, seed, turn):
    generator, layer = torch.Generator().manual_seed(seed), CELLS[name]()
    schedule = topological.reverse if turn else topological
    given_each = [inputs(layer, graph, generator)[1] for graph in graphs]
    alone = [propagate("wavefront", layer, g.edge_index, schedule, f) for g, f in zip(graphs, given_each, strict=True)]
    joined = {key: torch.cat([fields[key] for fields in given_each]) for key in layer.fields}
    together = propagate(None, layer, Batch.from_data_list(graphs).edge_index, schedule, joined)
    leaves = [value for fields in given_each for value in fields.values()]
    assert_same(together, tuple(torch.cat(parts) for parts in zip(*alone, strict=True)), leaves)


# A cell from a paper --------------------------------------------------------------------------------------------------


class ChildSumTreeLSTM(mpnn.MessagePassing):
    """Tai, Socher & Manning 2015, arXiv:1503.00075, eq. 2-8; weights as in torch.nn.LSTM."""

    state = ("h", "c")

    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.hidden_features = hidden_features
        self.weight_ih = nn.Parameter(torch.randn(4 * hidden_features, in_features).double())
        self.weight_hh = nn.Parameter(torch.randn(4 * hidden_features, hidden_features).double())
        self.bias = nn.Parameter(torch.randn(4 * hidden_features).double())

    def forward(self, x, edge_index, schedule="topological"):
        return self.propagate(edge_index, schedule=schedule, z=x @ self.weight_ih.t() + self.bias)

    def message(self, h_j, c_j, z_i):
        forget = torch.sigmoid(z_i.chunk(4, 1)[1] + h_j @ self.weight_hh.chunk(4)[1].t())
        return h_j, forget * c_j

    def update(self, z, message):
        h, c = message
        i, _, g, o = (z + h @ self.weight_hh.t()).chunk(4, 1)
        c = torch.sigmoid(i) * torch.tanh(g) + c
        return torch.sigmoid(o) * torch.tanh(c), c


def paper_child_sum(cell, x, children):
    W_i, W_f, W_u, W_o = cell.weight_ih.chunk(4)
    U_i, U_f, U_u, U_o = cell.weight_hh.chunk(4)
    b_i, b_f, b_u, b_o = cell.bias.chunk(4)
    h, c = {}, {}

    def visit(j):
        for k in children[j]:
            if k not in h:
                visit(k)
        h_sum = torch.zeros_like(b_i)
        for k in children[j]:
            h_sum = h_sum + h[k]
        i = torch.sigmoid(W_i @ x[j] + U_i @ h_sum + b_i)
        o = torch.sigmoid(W_o @ x[j] + U_o @ h_sum + b_o)
        u = torch.tanh(W_u @ x[j] + U_u @ h_sum + b_u)
        c[j] = i * u
        for k in children[j]:
            f = torch.sigmoid(W_f @ x[j] + U_f @ h[k] + b_f)
            c[j] = c[j] + f * c[k]
        h[j] = o * torch.tanh(c[j])

    for j in range(len(children)):
        visit(j)
    return torch.stack([h[j] for j in range(len(children))]), torch.stack([c[j] for j in range(len(children))])


@settings(max_examples=30)
@given(dags(min_nodes=1), seeds, st.booleans())
def test_a_child_sum_tree_lstm_gives_what_its_paper_says(graph, seed, turn):
    torch.manual_seed(seed)
    cell, x = ChildSumTreeLSTM(3, 2), torch.randn(graph.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    children = [[] for _ in range(graph.num_nodes)]
    for j, i in graph.edge_index.t().tolist():
        (children[j] if turn else children[i]).append(i if turn else j)
    ours = cell(x, graph.edge_index, topological.reverse if turn else topological)
    assert_same(ours, paper_child_sum(cell, x, children), [x, *cell.parameters()])


@pytest.mark.parametrize("way", ["reference", "wavefront"])
@pytest.mark.parametrize("turn", [False, True], ids=["forwards", "backwards"])
def test_a_child_sum_tree_lstm_on_chains_is_an_lstm(way, turn):
    torch.manual_seed(0)
    cell, lstm = ChildSumTreeLSTM(3, 2), nn.LSTM(3, 2).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(cell.weight_ih)
        lstm.weight_hh_l0.copy_(cell.weight_hh)
        lstm.bias_ih_l0.copy_(cell.bias)
        lstm.bias_hh_l0.zero_()
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)  # 6 steps of 4 chains
    step, chain = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    edge_index = torch.stack([step * 4 + chain, (step + 1) * 4 + chain]).flatten(1)
    with mpnn.engine(way):
        h, c = cell(x.flatten(0, 1), edge_index, topological.reverse if turn else topological)
    theirs, (_, c_last) = lstm(x.flip(0) if turn else x)
    theirs = theirs.flip(0) if turn else theirs
    ours = (h.view(6, 4, 2), c.view(6, 4, 2)[0 if turn else -1][None])
    assert_same(
        ours, (theirs, c_last), [x, cell.weight_ih, cell.weight_hh, cell.bias],
        [x, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0],
    )  # fmt: skip


# Autograd -------------------------------------------------------------------------------------------------------------

DAG = graph_of(6, [(0, 2), (1, 2), (2, 3), (0, 3), (3, 5), (3, 5)])
DOWN = ordered(torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7, 0.2]))  # a schedule in which old and new state are read


def setting(layer, graph=DAG, seed=0):
    edge_index, fields = inputs(layer, graph, torch.Generator().manual_seed(seed))
    return edge_index, fields, leaves_of(layer, fields)


@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_tensors_that_a_hook_closes_over_get_their_gradient(schedule):
    theta = torch.randn(WIDTH, dtype=torch.float64, requires_grad=True)
    scale = torch.exp(theta)  # an intermediate tensor, no leaf

    class Closure(OneField):
        def message(self, h_j, w):
            return h_j * scale * w[:, None]

        def update(self, h, x, message):
            return torch.tanh(message + x * scale)

    layer = Closure()
    edge_index, fields, leaves = setting(layer)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    ours = propagate("wavefront", layer, edge_index, schedule, fields)
    assert_same(ours, expected, [theta, scale, *leaves])
    assert gradients(ours, [theta])[0].abs().min() > 0


@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_parametrised_weights_get_their_gradient(schedule):
    layer = OneField()
    nn.utils.parametrizations.weight_norm(layer.linear)
    edge_index, fields, leaves = setting(layer)
    assert len(list(layer.parameters())) == 3
    expected = propagate("reference", layer, edge_index, schedule, fields)
    assert_same(propagate("wavefront", layer, edge_index, schedule, fields), expected, leaves)


@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_forward_hooks_of_modules_inside_take_part(schedule):
    layer, gain = OneField(), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    calls = []
    layer.linear.register_forward_hook(lambda module, args, out: (calls.append(1), out * gain)[1])
    edge_index, fields, leaves = setting(layer)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    calls.clear()
    ours = propagate("wavefront", layer, edge_index, schedule, fields)
    assert len(calls) <= int(schedule(DAG).max()) + 1  # once a frontier, not once a node
    assert_same(ours, expected, [gain, *leaves])
    assert float(gradients(ours, [gain])[0]) != 0


@pytest.mark.parametrize("schedule", [topological, DOWN, synchronous], ids=repr)
def test_a_penalty_gathered_inside_a_hook_gets_its_gradient(schedule):
    """With the result, without it, and after another backward pass over the same graph."""

    class Penalised(OneField):
        def message(self, h_j, w):
            self.penalty = self.penalty + (h_j**3).sum() * 2
            return h_j * w[:, None]

    def run(way):
        layer.penalty = torch.zeros((), dtype=torch.float64)
        out = propagate(way, layer, edge_index, schedule, fields)
        return out[0], layer.penalty

    layer = Penalised()
    edge_index, fields, leaves = setting(layer)
    (ours, our_penalty), (theirs, their_penalty) = run("wavefront"), run("reference")
    for _ in range(2):
        assert_same((ours, our_penalty), (theirs, their_penalty), leaves, what="both")
        assert_same(our_penalty, their_penalty, leaves, what="the penalty alone")
        assert_same(ours, theirs, leaves, what="the result alone")


@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_a_loss_of_edge_values_alone_has_its_gradient(schedule):
    layer = StructuredEdgeUpdate()
    edge_index, fields, leaves = setting(layer)
    ours = propagate("wavefront", layer, edge_index, schedule, fields)
    theirs = propagate("reference", layer, edge_index, schedule, fields)
    for _ in range(2):
        assert_same(ours[1], theirs[1], leaves, what="edges")
        assert_same(ours[0], theirs[0], leaves, what="nodes")


@pytest.mark.parametrize("name", ["one field", "two fields", "edge types", "attention", "edge update", "global update"])
@pytest.mark.parametrize("schedule", [topological, DOWN, DOWN.reverse, synchronous], ids=repr)
def test_gradients_are_those_of_finite_differences(name, schedule):
    layer = CELLS[name]()
    edge_index, fields, _ = setting(layer)
    fields = {key: value for key, value in fields.items() if isinstance(value, torch.Tensor)}
    fixed = setting(layer)[1].get("w")
    fixed = {"w": fixed} if isinstance(fixed, dict) else {}

    def run(*values):
        return propagate(None, layer, edge_index, schedule, dict(zip(fields, values, strict=True)) | fixed)

    assert torch.autograd.gradcheck(run, tuple(fields.values()))


def test_spmm_gradients_are_those_of_finite_differences():
    layer = Attention()
    edge_index, fields, _ = setting(layer)
    assert choose(layer, mpnn.plan(edge_index, num_nodes=6))[0] == "spmm"

    def run(h, a, w):
        return propagate("spmm", layer, edge_index, synchronous, dict(h=h, a=a, w=w))

    assert torch.autograd.gradcheck(run, (fields["h"], fields["a"], fields["w"]))


ONCE = [
    ("wavefront", "one field", topological),
    ("wavefront", "one field", synchronous),
    ("wavefront", "attention", topological),
    ("spmm", "attention", synchronous),
]


@pytest.mark.parametrize(("way", "name", "schedule"), ONCE, ids=str)
def test_double_backward_is_refused_and_the_words_name_the_way_that_has_it(way, name, schedule):
    layer = CELLS[name]()
    edge_index, fields, leaves = setting(layer)
    out = propagate(way, layer, edge_index, schedule, fields)
    with pytest.raises(RuntimeError, match=r"double backward \(create_graph=True\).*mpnn.engine\('reference'\)"):
        torch.autograd.grad(out[0].sum(), leaves, create_graph=True, allow_unused=True)


@pytest.mark.parametrize("name", ["one field", "two fields", "attention"])
def test_the_reference_has_a_double_backward(name):
    layer, small = CELLS[name](), graph_of(3, [(0, 1), (2, 1), (0, 2)])
    edge_index, fields, _ = setting(layer, small)

    def run(*values):
        return propagate("reference", layer, edge_index, topological, dict(zip(fields, values, strict=True)))

    assert torch.autograd.gradgradcheck(run, tuple(fields.values()))


SITUATIONS = [
    ("one field", topological),
    ("two fields", DOWN),
    ("attention", synchronous),
    ("global update", synchronous),
]


@pytest.mark.parametrize(("name", "schedule"), SITUATIONS, ids=str)
def test_no_history_is_kept_without_gradients(name, schedule):
    layer, saved = CELLS[name](), []
    edge_index, fields, _ = setting(layer)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with torch.no_grad(), hooks:
        out = propagate(None, layer, edge_index, schedule, fields)
    assert not saved and all(v.grad_fn is None and not v.requires_grad for v in out)
    with hooks:
        propagate(None, layer, edge_index, schedule, fields)
    assert saved


@pytest.mark.parametrize(("name", "schedule"), SITUATIONS, ids=str)
def test_backward_twice_gives_the_same_twice(name, schedule):
    layer = CELLS[name]()
    edge_index, fields, leaves = setting(layer)
    out = propagate(None, layer, edge_index, schedule, fields)
    first, second = gradients(out, leaves), gradients(out, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(grad.abs().sum() > 0 for grad in first)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("schedule", [synchronous, topological, DOWN], ids=repr)
def test_nothing_that_is_passed_is_written_to(name, schedule):
    layer = CELLS[name]()
    edge_index, fields, leaves = setting(layer)
    parts = leaves + list(edge_index.values() if isinstance(edge_index, dict) else [edge_index])
    before = [(value._version, value.detach().clone()) for value in parts]
    out = propagate(None, layer, edge_index, schedule, fields)
    kept = [value.detach().clone() for value in out]
    gradients(out, leaves)
    assert all(v._version == version and torch.equal(v, old) for v, (version, old) in zip(parts, before, strict=True))
    assert all(torch.equal(value, old) for value, old in zip(out, kept, strict=True))


def saved_bytes(layer, n):
    """What autograd keeps for the way back over a chain, each storage once."""
    chain, sizes = graph_of(n, [(i, i + 1) for i in range(n - 1)]), {}
    edge_index, fields, leaves = setting(layer, chain)
    known = {value.untyped_storage().data_ptr() for value in leaves}

    def note(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        out = propagate("wavefront", layer, edge_index, topological, fields)
    assert out[0].requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("name", ["one field", "two fields"])
def test_memory_grows_linearly_with_the_length_of_a_chain(name):
    small, large = saved_bytes(CELLS[name](), 2000), saved_bytes(CELLS[name](), 4000)
    assert 1.9 < large / small < 2.1


# Which way is taken ---------------------------------------------------------------------------------------------------


def test_the_way_is_chosen_by_what_a_layer_and_a_plan_are():
    flat, deep = mpnn.plan(DAG), mpnn.plan(DAG, "topological")
    assert choose(Weighted(), flat) == ("spmm", "one level, and messages are a weight times a value: sparse products")
    for layer, plan, reason in [
        (Weighted(), deep, "4 levels, frontier by frontier (no sparse product: there are 4 levels"),
        (OneField(), flat, "one level, all edges at once (no sparse product: message is a function of its own"),
        (Weighted(aggr="max"), flat, "the aggregation is 'max', not 'sum' or 'mean'"),
        (StructuredEdgeUpdate(), flat, "edge_update asks for the messages"),
    ]:
        way, why = choose(layer, plan)
        assert way == "wavefront"
        assert reason in why
    reason = "one level of 6 edges, and a layer without state: torch's own operations"
    assert choose(Stateless(), flat) == ("small", reason)


def test_a_forced_way_is_taken_and_left_again():
    plan = mpnn.plan(DAG)
    with mpnn.engine("reference"):
        assert choose(Weighted(), plan) == ("reference", "forced by mpnn.engine")
        with mpnn.engine("wavefront"):
            assert choose(Weighted(), plan)[0] == "wavefront"
        assert choose(Weighted(), plan)[0] == "reference"
    with pytest.raises(KeyError), mpnn.engine("reference"):
        raise KeyError
    assert choose(Weighted(), plan)[0] == "spmm"


def test_unknown_ways_and_ways_that_cannot_run_a_layer_are_refused():
    with pytest.raises(ValueError, match=r"engine\('quick'\) is unknown; expected 'reference', .*'small'"):
        propagate("quick", OneField(), DAG.edge_index, synchronous, {})
    edge_index, fields, _ = setting(Weighted())
    with pytest.raises(ValueError, match=r"engine\('spmm'\) cannot run Weighted: there are 4 levels. Use 'wavefront'"):
        propagate("spmm", Weighted(), edge_index, topological, fields)
    with pytest.raises(ValueError, match=r"cannot run OneField: message is a function of its own"):
        propagate("spmm", OneField(), edge_index, synchronous, fields)
    with pytest.raises(ValueError, match="schedule='backwards' is unknown"):
        propagate(None, OneField(), edge_index, "backwards", fields)


# Other dtypes ---------------------------------------------------------------------------------------------------------

SEVERAL = ["one field", "two fields", "weight", "attention", "mean with heads", "max of messages", "global update"]
EVERY = [(name, schedule) for name in SEVERAL for schedule in ("synchronous", "topological")]


def as_float32(name):
    layer = CELLS[name]().float()
    edge_index, fields, _ = setting(layer)
    return layer, edge_index, {key: value.detach().float().requires_grad_() for key, value in fields.items()}


@pytest.mark.parametrize(("name", "schedule"), EVERY)
def test_float32_is_kept_and_close(name, schedule):
    layer, edge_index, fields = as_float32(name)
    leaves = leaves_of(layer, fields)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    for way in ways(layer, edge_index, schedule, 6):
        out = propagate(way, layer, edge_index, schedule, fields)
        assert all(value.dtype == torch.float32 for value in out)
        assert_same(out, expected, leaves, what=way)


@pytest.mark.parametrize(("name", "schedule"), EVERY)
def test_autocast_to_bfloat16_runs_in_every_way(name, schedule):
    layer, edge_index, fields = as_float32(name)
    leaves = leaves_of(layer, fields)
    exact = propagate("reference", layer, edge_index, schedule, fields)
    for way in ["reference", *ways(layer, edge_index, schedule, 6)]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = propagate(way, layer, edge_index, schedule, fields)
        for value, near in zip(out, exact, strict=True):
            torch.testing.assert_close(value.float(), near, rtol=0.05, atol=0.1)
        for grad, near in zip(gradients(tuple(v.float() for v in out), leaves), gradients(exact, leaves), strict=True):
            torch.testing.assert_close(grad, near, rtol=0.2, atol=0.5)


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("name", ["GCN", "GAT", "GATv2", "GraphSAGE"])
def test_layers_train_under_autocast_to_bfloat16(name, width, inside):
    torch.manual_seed(0)
    layer, x = getattr(mpnn.nn, name)(width, 4), torch.randn(6, width, requires_grad=True)
    exact = layer(x, DAG.edge_index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, DAG.edge_index)
        if inside:
            out.sum().backward()
    if not inside:
        out.sum().backward()
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.1)
    expected = torch.autograd.grad(exact.sum(), x)[0]
    torch.testing.assert_close(x.grad, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("schedule", ["synchronous", "topological"])
def test_a_cell_with_products_runs_under_autocast(schedule):
    """Products come out in bfloat16 and meet a state in float32."""
    torch.manual_seed(0)
    cell = ChildSumTreeLSTM(3, 2).float()
    x = torch.randn(6, 3)
    with mpnn.engine("reference"):
        exact = cell(x, DAG.edge_index, schedule)
    for way in ("reference", "wavefront"):
        with torch.autocast("cpu", dtype=torch.bfloat16), mpnn.engine(way):
            h, c = cell(x, DAG.edge_index, schedule)
        torch.testing.assert_close(h.float(), exact[0], rtol=0.05, atol=0.1)
        (h.float().sum() + c.float().sum()).backward()
        assert all(p.grad.isfinite().all() for p in cell.parameters())


# State that is lent and not copied ------------------------------------------------------------------------------------


class Shifted(mpnn.MessagePassing):
    """h_i = x_i h_j: its gradient needs the states that were read."""

    state, schedule, hidden_features = ("h",), "topological", 2

    def message(self, h_j):
        return h_j

    def update(self, x, message=None):
        return x if message is None else x * message


CHAIN = torch.tensor([[0, 1, 2], [1, 2, 3]])


@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("sources", [[0, 0], [1, 0], [0, 1]], ids=str)
def test_a_state_that_is_passed_on_unchanged_gets_its_gradient(sources, aggr):
    class Add(mpnn.MessagePassing):
        state = ("h",)

        def message(self, h_j):
            return h_j

        def update(self, h, message):
            return h + message

    h = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)
    edge_index = torch.tensor([sources, [2, 3]])
    found = Add(aggr).propagate(edge_index, topological, h=h)
    with mpnn.engine("reference"):
        assert_same(found, Add(aggr).propagate(edge_index, topological, h=h), [h])


def test_what_is_returned_may_be_written_to_before_the_way_back():
    x = normal(torch.Generator().manual_seed(0), 4, 2)
    with mpnn.engine("wavefront"):
        h = Shifted().propagate(CHAIN, x=x)
        h.mul_(3.0)
        (gradient,) = torch.autograd.grad(h.sum(), x)
    (expected,) = torch.autograd.grad(3 * x.cumprod(0).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("grad", [True, False])
def test_a_hook_that_writes_to_the_state_it_reads_is_refused_in_words(grad):
    class Writing(Shifted):
        def message(self, h_j):
            return h_j.mul_(2.0) if not h_j.requires_grad else h_j.detach().mul_(2.0)

    with mpnn.engine("wavefront"), torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="wrote in place"):
        Writing().propagate(CHAIN, x=normal(torch.Generator().manual_seed(0), 4, 2))


@settings(max_examples=40)
@given(dags())
def test_rows_are_lent_exactly_where_sources_stand_side_by_side_in_levels_before(graph):
    plan = mpnn.plan(graph, "topological")
    edges, start = plan.edges[""], 0
    first = torch.tensor(plan.node_counts).cumsum(0).tolist()
    for level, rows in enumerate(rows_of(plan, "")):
        index = edges.src[start : start + edges.counts[level]].tolist()
        start += len(index)
        together = bool(index) and index == list(range(index[0], index[0] + len(index)))
        assert isinstance(rows, slice) == together
        assert (list(range(rows.start, rows.stop)) if together else rows.tolist()) == index
        assert all(j < first[level - 1] for j in index)

"""Nodes of several types under any schedule, against a loop over nodes that is written out here."""

import networkx as nx
import pytest
import torch
from compare import assert_close, assert_same, randomised
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import dags, digraphs, graph_of, priorities, seeds
from torch_geometric.data import HeteroData

import mpnn
from mpnn.hetero import complete
from mpnn.loader import DataLoader, collate

WIDTH = {"word": 2, "sentence": 3, "note": 2}  # of x


class Network(mpnn.HeteroMessagePassing):
    """Words and sentences have cells of their own; notes keep their state."""

    state = ("h", "c")
    hidden_features = 2

    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.word, self.sentence = linear(WIDTH["word"] + 4, 4), linear(WIDTH["sentence"] + 4, 4)
        self.inside, self.on = linear(2, 2), linear(4, 2)

    def forward(self, x, edge_index, schedule=None, edge_attr=None, h=None, **options):
        return self.propagate(edge_index, schedule, x=x, h=h, edge_attr=edge_attr or {}, **options)

    def message_in(self, h_j, c_j):
        return self.inside(h_j), c_j

    def message_word_on_word(self, h_j, c_i, x_j, x_i, edge_attr):
        return torch.tanh(self.on(torch.cat([x_j, x_i], 1)) + h_j) * edge_attr[:, None], c_i

    def message(self, h_j):
        return h_j.square(), 2 * h_j

    def update_word(self, x, h, message):
        return torch.tanh(self.word(torch.cat([x, h + message[0], message[1]], 1))).chunk(2, 1)

    def update_sentence(self, x, c, message_in, message_on=None, message_note_to_sentence=None):
        h_sum, c_sum = message_in
        for more in (message_on, message_note_to_sentence):
            if more is not None:
                h_sum, c_sum = h_sum + more[0], c_sum - more[1]
        return torch.tanh(self.sentence(torch.cat([x, h_sum, c + c_sum], 1))).chunk(2, 1)


KINDS = [
    ("word", "in", "sentence"), ("sentence", "in", "sentence"), ("sentence", "in", "word"), ("note", "in", "sentence"),
    ("word", "on", "word"), ("sentence", "on", "sentence"), ("word", "to", "note"), ("note", "to", "sentence"),
    ("note", "to", "word"), ("word", "to", "word"), ("note", "to", "note"), ("sentence", "on", "word"),
]  # fmt: skip


def loop(layer, x, edges, level, edge_attr, h, turned=False):
    """One node at a time: what an edge hands over is the newest state of its source."""
    old = {k: [(h[k][i], torch.zeros(2).double()) for i in range(len(h[k]))] for k in x}
    new = {}
    for at, t, i in sorted((int(level[k][n]), k, n) for k in x for n in range(len(x[k]))):
        got = {}
        for kind in KINDS:
            for e, (j, target) in enumerate(edges[kind].flip(0).t().tolist() if turned else edges[kind].t().tolist()):
                s, d = (kind[2], kind[0]) if turned else (kind[0], kind[2])
                if (d, target) != (t, i):
                    continue
                h_j, c_j = new[s, j] if level[s][j] < level[t][i] else old[s][j]
                if kind[1] == "in":
                    m = layer.inside(h_j), c_j
                elif kind == ("word", "on", "word"):
                    u = layer.on(torch.cat([x[s][j], x[t][i]]))
                    m = torch.tanh(u + h_j) * edge_attr[e], old[t][i][1]
                else:
                    m = h_j**2, 2 * h_j
                got.setdefault(kind, []).append(m)

        def total(*names):
            some = [m for kind in got for m in got[kind] if not names or names[0] in (kind[1], "_".join(kind))]  # noqa: B023
            zero = torch.zeros(2).double()
            return sum((a for a, _ in some), zero), sum((b for _, b in some), zero)

        if t == "word":
            a, b = total()
            out = layer.word(torch.cat([x[t][i], old[t][i][0] + a, b]))
        elif t == "sentence":
            a, b = total("in")
            for name in ("on", "note_to_sentence"):
                a, b = a + total(name)[0], b - total(name)[1]
            out = layer.sentence(torch.cat([x[t][i], a, old[t][i][1] + b]))
        new[t, i] = old[t][i] if t == "note" else tuple(torch.tanh(out).chunk(2))
    zero = torch.zeros(0, 2).double()
    rows = [{t: [new[t, i][k] for i in range(len(x[t]))] for t in x} for k in (0, 1)]
    return [{t: torch.stack(some) if some else zero for t, some in of.items()} for of in rows]


@st.composite
def networks(draw, of):
    """A graph whose nodes and edges are given types; its features, edge values and states."""
    graph, seed = draw(of), draw(seeds)
    kind = draw(st.lists(st.sampled_from(list(WIDTH)), min_size=graph.num_nodes, max_size=graph.num_nodes))
    members = {t: [n for n, k in enumerate(kind) if k == t] for t in WIDTH}
    edges = {k: [] for k in KINDS}
    for j, i in graph.edge_index.t().tolist():
        fitting = [k for k in KINDS if (k[0], k[2]) == (kind[j], kind[i])]
        if fitting:
            edges[draw(st.sampled_from(fitting))].append((members[kind[j]].index(j), members[kind[i]].index(i)))
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    for t, some in members.items():
        data[t].x = torch.randn(len(some), WIDTH[t], generator=generator).double()
        data[t].h = torch.randn(len(some), 2, generator=generator).double()
        data[t].priority = draw(priorities(graph.num_nodes))[some]
    for k, some in edges.items():
        data[k].edge_index = graph_of(0, some).edge_index
    on = data["word", "on", "word"]
    on.edge_attr = torch.rand(on.edge_index.shape[1], generator=generator).double()
    return data


def levels(data, rule):
    """Of each type, from the graph without types, whose nodes stand type after type."""
    start = {"word": 0, "sentence": data["word"].num_nodes}
    start["note"] = start["sentence"] + data["sentence"].num_nodes
    ends = [data[s, r, d].edge_index + torch.tensor([[start[s]], [start[d]]]) for s, r, d in KINDS]
    counts = [data[t].num_nodes for t in WIDTH]
    found = rule(torch.cat(ends, 1), sum(counts))
    return dict(zip(WIDTH, found.split(counts), strict=True))


def check(data, rule, flat_rule):
    """Layer, reference and loop agree, in results and gradients, on dicts, on the container and on its plan."""
    layer = randomised(Network())
    x, h = ({t: data[t][name].requires_grad_() for t in WIDTH} for name in ("x", "h"))
    attr = {("word", "on", "word"): data["word", "on", "word"].edge_attr}
    expected = loop(layer, x, data.edge_index_dict, levels(data, flat_rule), *attr.values(), h, flat_rule.turned)
    leaves = [*x.values(), *h.values(), *layer.parameters()]
    given = {"dict": data.edge_index_dict, "plan": mpnn.plan(data, rule)}
    for name, graph in given.items():
        for way in ("wavefront", "reference"):
            with mpnn.engine(way):
                ours = layer(x, graph, rule, attr, h)
            for t in WIDTH:
                assert_same(tuple(o[t] for o in ours), tuple(o[t] for o in expected), leaves, what=f"{name} {way} {t}")


@given(networks(dags()), st.booleans())
def test_topological_runs_over_all_types_as_over_one_graph(data, turned):
    rule = mpnn.schedule.topological.reverse if turned else mpnn.schedule.topological
    check(data, rule, rule)


@given(networks(digraphs()), st.sampled_from(["synchronous", "coloured", "ordered", "by"]), st.booleans())
def test_any_schedule_runs_over_all_types_as_over_one_graph(data, name, turned):
    values = {t: data[t].priority for t in WIDTH}
    whole = torch.cat(list(values.values()))
    if name in ("ordered", "by"):
        rule, flat = (getattr(mpnn.schedule, name)(v) for v in (values, whole))
    else:
        rule = flat = getattr(mpnn.schedule, name)
    check(data, *((rule.reverse, flat.reverse) if turned else (rule, flat)))

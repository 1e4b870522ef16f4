"""Nodes of several types under any schedule, against a loop over nodes that is written out here."""

import networkx as nx
import pytest
import torch
from compare import assert_close, assert_same, randomised
from hypothesis import given
from hypothesis import strategies as st
from strategies import dags, digraphs, graph_of, priorities, seeds
from torch_geometric.data import HeteroData

import mpnn
from mpnn.hetero import complete
from mpnn.loader import DataLoader, collate
from mpnn.typed import by_type

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
    for _, t, i in sorted((int(level[k][n]), k, n) for k in x for n in range(len(x[k]))):
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


NEXT, IN = ("word", "next", "word"), ("word", "in", "sentence")


def document(words=3, seed=0, sentences=2):
    """A chain of words, of which all but the last are in sentence 0, and sentence 1 is empty."""
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["word"].x = torch.randn(words, 3, generator=generator).double()
    data["sentence"].x = torch.randn(sentences, 2, generator=generator).double()
    chain = torch.arange(words)
    data[NEXT].edge_index = torch.stack([chain[:-1], chain[1:]])
    data[IN].edge_index = torch.stack([chain[:-1], torch.zeros_like(chain[:-1])])
    return data


class Reader(mpnn.HeteroMessagePassing):
    """A cell of torch's for each type."""

    state, schedule, hidden_features = "h", "topological", 4

    def __init__(self):
        super().__init__()
        self.word, self.sentence = torch.nn.GRUCell(3, 4), torch.nn.RNNCell(2, 4)

    def forward(self, x, edge_index, schedule=None):
        return self.propagate(edge_index, schedule, x=x)

    def message(self, h_j):
        return h_j

    def update_word(self, x, message):
        return self.word(x, message)

    def update_sentence(self, x, message):
        return self.sentence(x, message)


def test_cells_of_torch_read_words_and_then_sentences():
    data, layer = document(4), randomised(Reader())
    h, states = torch.zeros(1, 4).double(), []
    for x in data["word"].x.split(1):
        h = layer.word(x, h)
        states.append(h)
    total = torch.cat([sum(states[:3]), torch.zeros_like(h)])
    ours = layer(data.x_dict, data.edge_index_dict)
    assert list(ours) == ["word", "sentence"]
    expected = torch.cat(states), layer.sentence(data["sentence"].x, total)
    assert_same(tuple(ours.values()), expected, list(layer.parameters()))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_typed_graphs_are_planned_in_the_loader(workers):
    layer, given = randomised(Reader()), [document(n, seed=n) for n in (2, 5, 1, 3)]
    loader = DataLoader(given, batch_size=2, schedule="topological", num_workers=workers)
    for batch, pair in zip(loader, ([given[0], given[1]], [given[2], given[3]]), strict=True):
        assert batch.plan.types == {"word": batch["word"].num_nodes, "sentence": 4}
        assert batch.plan.num_levels == max(one["word"].num_nodes for one in pair)
        out = mpnn.apply(layer, batch.to("cpu"))
        for kind in ("word", "sentence"):
            alone = torch.cat([layer(one.x_dict, one.edge_index_dict)[kind] for one in pair])
            assert_close(out[kind].x, alone, kind)


def test_the_plan_of_the_loader_is_the_one_that_runs(monkeypatch):
    batch = collate([document(3), document(2)], "topological")
    monkeypatch.setattr("mpnn.typed.plan", lambda *given: pytest.fail("planned again"))
    randomised(Reader())(batch.x_dict, batch.plan)


def test_a_graph_is_planned_once_and_anew_when_it_or_its_values_change(monkeypatch):
    made, data, layer = [], document(), randomised(Reader())
    monkeypatch.setattr("mpnn.typed.plan", lambda *given: made.append(mpnn.plan(*given)) or made[-1])
    time = {"word": torch.tensor([0, 1, 2]), "sentence": torch.tensor([3, 1])}
    for rule in ("topological", mpnn.schedule.by(time)):
        made.clear()
        layer(data.x_dict, data.edge_index_dict, rule), layer(data.x_dict, data.edge_index_dict, rule)
        assert len(made) == 1
    time["word"][1] = 0
    layer(data.x_dict, data.edge_index_dict, mpnn.schedule.by(time))
    assert len(made) == 2 and made[1].level.tolist() == [0, 0, 2, 3, 1]
    data[NEXT].edge_index[1, 0] = 2
    layer(data.x_dict, data.edge_index_dict, mpnn.schedule.by(time))
    assert len(made) == 3


def test_levels_may_be_a_field_of_the_nodes_or_given_by_type():
    data, layer = document(), randomised(Reader())
    data["word"].time, data["sentence"].time = torch.tensor([5, 6, 8]), torch.tensor([7, 1])
    ours = layer(data.x_dict, mpnn.plan(data, mpnn.schedule.by("time")))
    level = {"word": torch.tensor([1, 2, 4]), "sentence": torch.tensor([3, 0])}
    assert mpnn.schedule.by("time")(data).tolist() == [1, 2, 4, 3, 0]
    for kind, values in layer(data.x_dict, data.edge_index_dict, level).items():
        assert_close(ours[kind], values, kind)


def test_levels_in_the_place_of_some_that_are_gone_are_planned_anew():
    data, layer, words = document(), randomised(Reader()), torch.tensor([1, 2, 4])
    level = {"word": words, "sentence": torch.tensor([0, 3])}
    layer(data.x_dict, data.edge_index_dict, level)
    gone, spare = id(level.pop("sentence")), []
    while len(spare) < 5000 and (not spare or id(spare[-1]) != gone):  # the last one has the id of the one that is gone
        spare.append(torch.tensor([5, 3]))
    level["sentence"] = spare[-1]
    ours = layer(data.x_dict, data.edge_index_dict, level)
    for kind, values in layer(data.x_dict, mpnn.plan(data, mpnn.schedule.by(level))).items():
        assert_close(ours[kind], values, kind)


def test_types_without_nodes_or_edges_in_some_graph_of_a_batch_are_no_problem():
    layer, given = randomised(Reader()), [document(3), document(2, 1), document(0, 2, 0)]
    del given[1]["sentence"], given[1][IN], given[2]["word"], given[2][NEXT]
    given[2][IN].edge_index = torch.empty(2, 0, dtype=torch.long)
    whole = complete(given)
    batch = collate(whole, "topological")
    out = layer(batch.x_dict, batch.plan)
    for kind in ("word", "sentence"):
        alone = [layer(one.x_dict, one.collect("edge_index", True))[kind] for one in whole]
        assert [len(rows) for rows in alone] == ([3, 2, 0] if kind == "word" else [2, 0, 0])
        assert_close(out[kind], torch.cat(alone), kind)


def test_frontiers_of_two_types_stand_beside_each_other():
    """Odd levels are of both types; each type has its own rows."""
    data, layer = document(4), randomised(Reader())
    data["sentence"].x = torch.randn(4, 2).double()
    level = {"word": torch.tensor([0, 1, 1, 2]), "sentence": torch.tensor([1, 1, 3, 1])}
    laid_out = mpnn.plan(data, mpnn.schedule.by(level))
    assert laid_out.node_counts == [1, 5, 1, 1]
    ours = layer(data.x_dict, laid_out)
    with mpnn.engine("reference"):
        for kind, values in layer(data.x_dict, laid_out).items():
            assert_close(ours[kind], values, kind)


class Relational(mpnn.HeteroMessagePassing):
    """No state: all nodes fire at once. Words have no update, and so no result."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2, bias=False)

    def message_in(self, x_j, u_g):
        return self.linear(x_j) * u_g

    def update_sentence(self, x, u_g, message):
        return x + message + u_g


def test_a_layer_without_state_fires_at_once_and_reads_the_values_of_graphs():
    layer, pair = randomised(Relational()), [document(3, 1), document(4, 2)]
    batch, u = collate(pair), torch.tensor([[2.0], [3.0]]).double()
    edges, batches = {IN: batch[IN].edge_index}, {k: batch[k].batch for k in ("word", "sentence")}
    x = batch.x_dict
    for way in ("wavefront", "reference"):
        with mpnn.engine(way):
            ours = layer.propagate(edges, "topological", batch=batches, x=x, u=u)
        assert list(ours) == ["sentence"]
        for g, data in enumerate(pair):
            sums = layer.linear(data["word"].x[:-1]).sum(0) * u[g]
            expected = data["sentence"].x + u[g] + torch.stack([sums, 0 * sums])
            assert_close(ours["sentence"][2 * g : 2 * g + 2], expected, f"{way} {g}")


def test_a_layer_without_state_takes_a_plan_of_several_levels_and_one_turned_round():
    layer, data = randomised(Relational()), document(3)
    given, u = {IN: data[IN].edge_index}, torch.ones(1, 2).double()
    sizes = {"word": 3, "sentence": 2}
    laid_out = mpnn.plan(given, "topological", sizes)
    assert laid_out.num_levels == 2 and laid_out.flat.types == laid_out.reverse.types == sizes
    flat = layer.propagate(laid_out, x=data.x_dict, u=u)["sentence"]
    assert_close(flat, layer.propagate(given, x=data.x_dict, u=u)["sentence"], "")


def test_a_graph_without_nodes_gives_no_rows():
    data = document(0, sentences=0)
    out = randomised(Reader())(data.x_dict, {kind: torch.empty(2, 0, dtype=torch.long) for kind in (NEXT, IN)})
    assert {kind: tuple(rows.shape) for kind, rows in out.items()} == {"word": (0, 4), "sentence": (0, 4)}


def test_a_cycle_over_several_types_is_shown_by_the_users_ids():
    graph = nx.DiGraph([("Ann", "paper 1"), ("paper 1", "Bob"), ("Bob", "paper 2"), ("paper 2", "Ann")])
    data = mpnn.from_networkx(graph, node_type=lambda node: "paper" if "paper" in node else "author")
    with pytest.raises(mpnn.schedule.CycleError, match="Ann -> paper 1 -> Bob -> paper 2 -> Ann|paper 1 -> Bob"):
        mpnn.plan(data, "topological")
    edges = {("a", "to", "b"): torch.tensor([[1], [0]]), ("b", "to", "a"): torch.tensor([[0], [1]])}
    with pytest.raises(mpnn.schedule.CycleError, match=r"\('b', 0\) -> \('a', 1\)|\('a', 1\) -> \('b', 0\)"):
        mpnn.plan(edges, "topological", {"a": 2, "b": 1})


def test_an_edge_that_leaves_its_type_is_named():
    data = document()
    data[IN].edge_index[1, 1] = 2  # which would be within the nodes of all types
    with pytest.raises(ValueError, match=r"plan \(edge type \('word', 'in', 'sent.*\): edge 1 \(1 -> 2\) leaves"):
        mpnn.plan(data)
    with pytest.raises(ValueError, match=r"Reader.*edge 1 \(1 -> 2\) leaves .* 3 sources and 2 targets"):
        randomised(Reader())(data.x_dict, data.edge_index_dict)


def test_values_of_a_schedule_must_be_there_for_all_types():
    data = document()
    data["word"].time = torch.arange(3)
    with pytest.raises(ValueError, match="by: nodes of type 'sentence' have no 'time', only .* 'word'.*each of the 2"):
        mpnn.plan(data, mpnn.schedule.by("time"))
    with pytest.raises(ValueError, match="ordered: 2 values for the 3 nodes of type 'word'"):
        mpnn.plan(data, mpnn.schedule.ordered({"word": torch.ones(2), "sentence": torch.ones(2)}))
    with pytest.raises(ValueError, match="by: nodes of type 'word' have no 'time'"):
        mpnn.plan(data.edge_index_dict, mpnn.schedule.by("time"), {"word": 3, "sentence": 2})


def wrong(**hooks):
    return type("Wrong", (Reader,), hooks)()


@pytest.mark.parametrize(
    "hooks, match",
    [
        ({"message": None, "message_next": lambda self, h_j: h_j}, r"no message for the edge type \('word', 'in'"),
        ({"update_word": lambda self, y, message: y}, "Wrong.update_word asks for 'y', but 'y' was not passed"),
        ({"message_in": lambda self, y_j: y_j}, "Wrong.message_in asks for 'y_j', but 'y' was not passed; pass y="),
        ({"message_in": lambda self, far: far}, "Wrong.message_in asks for 'far', but 'far' was not passed"),
        ({"update_word": lambda self, z, message: z}, "asks for 'z' of nodes of type 'word', .* only for 'sent"),
        ({"update_sentence": lambda self, message_next: 0}, r"'message_next', but .* none of that name ends in 's"),
        ({"message_in": lambda self, z_j: z_j}, "message_in asks for 'z' of nodes of type 'word', but"),
        ({"update_sentence": lambda self, message: message[:, :3]}, r"'word' gives rows .* 'sentence' \[\(3,\)\]"),
    ],
)
def test_hooks_that_do_not_fit_the_types_are_named(hooks, match):
    data = document()
    z = {"sentence": torch.ones(2, 4).double()}
    level = {"word": torch.tensor([0, 0, 1]), "sentence": torch.tensor([1, 1])}
    with pytest.raises((TypeError, ValueError), match=match):
        wrong(**hooks).double().propagate(data.edge_index_dict, level, x=data.x_dict, z=z)


def test_what_does_not_fit_is_refused():
    data, layer = document(), randomised(Reader())
    with pytest.raises(ValueError, match="of type 'word', 'x' has 3 rows, but 'y' has 2"):
        layer.propagate(data.edge_index_dict, x=data.x_dict, y={"word": torch.ones(2)})
    with pytest.raises(ValueError, match="the fields have 3 rows for nodes of type 'word', but the graph has 4"):
        layer(data.x_dict, mpnn.plan(document(4), "topological"))
    with pytest.raises(ValueError, match="the plan is of a graph whose nodes have no types"):
        layer(data.x_dict, mpnn.plan(torch.empty(2, 0, dtype=torch.long), "topological", 5))
    with pytest.raises(ValueError, match="the plan was made for topological, but schedule='synchronous'"):
        layer(data.x_dict, mpnn.plan(data, "topological"), "synchronous")
    with pytest.raises(TypeError, match="defines edge_update, which HeteroMessagePassing has not"):
        type("Wrong", (Reader,), {"edge_update": lambda self, message: message})
    with pytest.raises(ValueError, match="has a '__' in a name"):
        mpnn.plan({("a", "b__c", "a"): torch.empty(2, 0, dtype=torch.long)}, "topological", {"a": 1})


def test_parameters_are_the_layers_own_and_a_pass_leaves_no_trace():
    data, layer = document(), randomised(Reader())
    before = set(vars(layer))
    sum(rows.sum() for rows in layer(data.x_dict, data.edge_index_dict).values()).backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert set(vars(layer)) == before and layer.hooks is Reader.hooks


@pytest.mark.parametrize("schedule", [mpnn.schedule.topological, mpnn.schedule.topological.reverse])
def test_layers_of_one_type_of_edge_are_given_the_edges_of_a_plan_as_the_user_gave_them(schedule):
    edges = {("b", "to", "a"): torch.tensor([[0, 1, 1], [2, 0, 1]]), ("a", "in", "a"): torch.tensor([[2], [0]])}
    found = by_type(mpnn.plan(edges, schedule, {"a": 3, "b": 2}), "a layer")
    assert {kind: index.tolist() for kind, index in found.items()} == {k: e.tolist() for k, e in edges.items()}


TO = ("a", "to", "b")
AB = {"a": torch.ones(3, 4), "b": torch.ones(2, 4)}, {TO: torch.tensor([[0, 1], [0, 1]])}


class Half(mpnn.HeteroMessagePassing):
    """Keeps the state of b."""

    state, schedule, hidden_features = "h", "topological", 4

    def forward(self, x, edge_index, **sizes):
        return self.propagate(edge_index, x=x, **sizes)

    def message(self, h_j):
        return h_j

    def update_a(self, x):
        return x


def test_an_update_of_a_misspelt_type_is_not_passed_over():
    class Misspelt(Half):
        def update_bb(self, x, message=None):
            return x + message

    assert not Half()(*AB)["b"].any()
    with pytest.raises(TypeError, match="Misspelt defines update_bb, but there are no nodes of type 'bb'.*update_b;"):
        Misspelt()(*AB)
    x = AB[0] | {"bb": torch.empty(0, 4)}
    assert not Misspelt()(x, AB[1])["b"].any()  # the way out that is named


def test_a_container_in_the_place_of_its_fields_is_told_the_way_out():
    data = HeteroData(a={"x": AB[0]["a"]}, b={"x": AB[0]["b"]})
    data[TO].edge_index = AB[1][TO]
    with pytest.raises(TypeError, match="Half: x is a HeteroData; .*Pass data.x_dict and data.edge_index_dict, or"):
        Half()(data, data.edge_index_dict)

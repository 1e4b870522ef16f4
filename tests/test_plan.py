"""mpnn.plan: what is checked, how a graph is laid out, and for how long a plan is kept."""

import gc
import pickle
import sys
import weakref

import networkx as nx
import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dags, digraphs, graph_of, normal, seeds
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.graph import in_order
from mpnn.plan import cached_plan
from mpnn.schedule import by, ordered, topological

EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])


class Mixed(mpnn.MessagePassing):
    """Asks for a node field at both ends, its own, an edge field and state."""

    state = ("h",)
    schedule = "topological"

    def message(self, h_j, x_i, w):
        return h_j * w[:, None] + x_i

    def update(self, h, x, message):
        return torch.tanh(h + x + message)


class Relational(mpnn.MessagePassing):
    def message_near(self, x_j):
        return x_j

    def message_far(self, x_j):
        return 10 * x_j

    def update(self, message_near, message_far):
        return message_near + message_far


def mixed(edge_index, **fields):
    given = {"x": torch.ones(4, 2), "h": torch.zeros(4, 2), "w": torch.ones(3)}
    return Mixed().propagate(edge_index, **given | fields)


# what is wrong with a graph is said once, when it is planned ----------------------------------------------------------

MALFORMED = {
    "too large": ([[0, 1, 7], [1, 2, 0]], ValueError, r"edge 2 \(7 -> 0\) leaves .*num_nodes=4.* 1 of 3 edges"),
    "negative": ([[0, 1, 2], [-1, -2, 0]], ValueError, r"edge 0 \(0 -> -1\) leaves .* 2 of 3 edges"),
    "one too large": ([[0, 1, 0], [1, 4, 0]], ValueError, r"edge 1 \(1 -> 4\) .*node indices in \[0, 4\)"),
    "float": (EDGES.double(), TypeError, r"edge_index has dtype torch.float64; expected torch.int64"),
    "int32": (EDGES.int(), TypeError, r"edge_index has dtype torch.int32"),
    "transposed": (EDGES.t(), ValueError, r"edge_index has shape \(3, 2\); expected \(2, E\). It looks transposed"),
    "three rows": (torch.zeros(3, 5).long(), ValueError, r"edge_index has shape \(3, 5\)"),
    "flat": (torch.zeros(4).long(), ValueError, r"edge_index has shape \(4,\)"),
}


def no_hook_may_run(monkeypatch):
    for cls in (Mixed, Relational):
        for name in ("message", "update", "message_near", "message_far"):
            if name in vars(cls):
                monkeypatch.setattr(cls, name, lambda *_: pytest.fail("a hook ran before the graph was checked"))


@pytest.mark.parametrize("way", ["reference", "wavefront"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_edge_index_is_refused_before_anything_runs(name, way, monkeypatch):
    edge_index, error, text = MALFORMED[name]
    edge_index = torch.as_tensor(edge_index)
    no_hook_may_run(monkeypatch)
    monkeypatch.setattr("mpnn.message_passing.run", lambda call: pytest.fail("the engine ran"))
    with mpnn.engine(way), pytest.raises(error, match=f"Mixed: {text}"):
        mixed(edge_index)
    with pytest.raises(error, match=f"plan: {text}"):
        mpnn.plan(edge_index, "topological", num_nodes=4)
    with pytest.raises(error, match=f"GCN: {text}"):
        mpnn.nn.GCN(2, 2)(torch.ones(4, 2), edge_index)


@pytest.mark.parametrize("edge_index", [[[0], [1]], None, "edges"], ids=["list", "None", "text"])
def test_what_is_no_tensor_is_refused(edge_index):
    with pytest.raises(TypeError, match=f"a {type(edge_index).__name__} holds no edge_index"):
        mixed(edge_index)
    with pytest.raises(TypeError, match="Relational.*edge type 'far'.*edge_index is a list"):
        Relational().propagate({"near": EDGES, "far": [[0], [1]]}, x=torch.ones(4, 2))


def test_a_container_in_the_place_of_its_edges_is_told_the_way_out():
    with pytest.raises(TypeError, match=r"GCN: edge_index is a Data; expected an int64 tensor.*Pass data.edge_index"):
        mpnn.nn.GCN(2, 2)(torch.ones(4, 2), Data(edge_index=EDGES, num_nodes=4))
    with pytest.raises(TypeError, match=r"EdgeReadout: .* is a Graph; .*mpnn.from_networkx\(graph\).edge_index"):
        mpnn.nn.EdgeReadout(torch.nn.CosineSimilarity())(torch.ones(4, 2), nx.path_graph(4))


def test_a_bipartite_edge_index_is_checked_at_both_ends():
    with pytest.raises(ValueError, match=r"edge 1 \(1 -> 2\) .* which has 5 sources and 2 targets; .*\[0, 2\)"):
        mpnn.plan(torch.tensor([[4, 1], [1, 2]]), num_nodes=(5, 2))
    with pytest.raises(ValueError, match=r"edge 0 \(5 -> 1\) .*\[0, 5\)"):
        mpnn.plan(torch.tensor([[5, 1], [1, 1]]), num_nodes=(5, 2))
    with pytest.raises(ValueError, match="5 sources and 2 targets are .* which runs 'synchronous' only"):
        mpnn.plan(torch.tensor([[4], [1]]), "topological", num_nodes=(5, 2))


WRONG_ROWS = {
    "an edge weight for all": (dict(w=torch.ones(1)), "'w' has 1 rows, but there are 3 edges.*shape is \\(1,\\)"),
    "too many edge weights": (dict(w=torch.ones(4)), "'w' has 4 rows, but there are 3 edges"),
    "node fields that disagree": (dict(x=torch.ones(5, 2)), "'h' has 4 rows, but 'x' has 5"),
    "node fields of another graph": (dict(x=torch.ones(5, 2), num_nodes=4), "'x' has 5 rows, but there are 4 nodes"),
    "state of another graph": (dict(h=torch.ones(5, 2), num_nodes=4), "'h' has 5 rows, but there are 4 nodes"),
}


@pytest.mark.parametrize("schedule", ["synchronous", "topological"])
@pytest.mark.parametrize("way", ["reference", "wavefront"])
@pytest.mark.parametrize("name", WRONG_ROWS)
def test_fields_without_a_row_for_each_node_or_edge_are_refused_before_a_hook_runs(name, way, schedule, monkeypatch):
    fields, text = WRONG_ROWS[name]
    no_hook_may_run(monkeypatch)
    with mpnn.engine(way), pytest.raises(ValueError, match=f"Mixed: {text}"):
        mixed(EDGES, schedule=schedule, **fields)


def test_an_edge_weight_of_length_one_is_refused_by_layers():
    with pytest.raises(ValueError, match=r"GCN: edge_weight has shape \(1,\); expected one number an edge, \(3,\)"):
        mpnn.nn.GCN(2, 2)(torch.ones(4, 2), EDGES, torch.ones(1))


@pytest.mark.parametrize("layer", ["GCN", "GAT", "GraphSAGE"])
def test_a_wrong_number_of_features_is_refused(layer):
    with pytest.raises(ValueError, match=r"x has 5 features a node, shape \(4, 5\).*in_features=5"):
        getattr(mpnn.nn, layer)(3, 2)(torch.ones(4, 5), EDGES)


@pytest.mark.parametrize("name", ["GCN", "GAT", "GATv2", "GraphSAGE", "LSTM", "ChildSumTreeLSTM", "TreeGRU"])
def test_whole_numbers_are_refused_as_features(name):
    layer = getattr(mpnn.nn, name)(3, 2)
    with pytest.raises(TypeError, match=rf"({name}|Linear): x has dtype torch.int64; expected floating.*Embedding"):
        layer(torch.ones(4, 3, dtype=torch.long), torch.tensor([[0, 1], [1, 2]]))


def test_edge_types_must_be_those_of_the_messages():
    far = torch.tensor([[3], [0]])
    assert Relational().propagate({"far": far, "near": EDGES}, x=torch.eye(4))[0].tolist() == [0, 0, 0, 10]
    with pytest.raises(ValueError, match=r"a message_<type> for each of \('far', 'near'\).*given.*\('near',\)"):
        Relational().propagate({"near": EDGES}, x=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"was given the edge types \('near', 'far', 'next'\)"):
        Relational().propagate({"near": EDGES, "far": far, "next": far}, x=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"Relational has a message_<type>"):
        Relational().propagate(EDGES, x=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"Mixed has one message for all edges, but .*types \('near',\)"):
        mixed({"near": EDGES})
    with pytest.raises(ValueError, match=r"edge type 'far'.*edge 0 \(9 -> 0\) leaves"):
        Relational().propagate({"near": EDGES, "far": torch.tensor([[9], [0]])}, x=torch.ones(4, 2))


def test_a_graph_without_node_fields_needs_num_nodes():
    with pytest.raises(ValueError, match="Relational: no node field is a tensor, .* unknown; pass num_nodes="):
        Relational().propagate({"near": EDGES, "far": EDGES}, x=1.0)
    with pytest.raises(ValueError, match="plan: num_nodes is not known"):
        mpnn.plan(EDGES)


def test_a_plan_of_another_schedule_is_refused():
    plan = mpnn.plan(EDGES, "topological", num_nodes=4)
    assert mixed(plan).shape == mixed(plan, schedule="topological").shape == (4, 2)
    with pytest.raises(ValueError, match="Mixed: the plan was made for topological, but schedule='synchronous'"):
        mixed(plan, schedule="synchronous")
    with pytest.raises(ValueError, match="the plan was made for topological, but"):
        mixed(plan, schedule=mpnn.schedule.topological.reverse)


# the layout -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(digraphs(min_nodes=1), st.data(), st.booleans())
def test_frontiers_and_the_edges_into_them_are_contiguous_and_nothing_is_lost(graph, data, turn):
    n, rows = graph.num_nodes, torch.arange(graph.num_edges)
    levels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    plan = mpnn.plan(graph, by(levels).reverse if turn else by(levels))
    edges = plan.edges[""]
    assert plan.edge_index().tolist() == (graph.edge_index.flip(0) if turn else graph.edge_index).tolist()
    assert edges.unplace(edges.place(rows)).tolist() == rows.tolist()
    assert plan.unplace(plan.place(torch.arange(n))).tolist() == list(range(n))
    in_order = plan.place(plan.level)
    assert in_order.tolist() == [at for at, count in enumerate(plan.node_counts) for _ in range(count)]
    assert in_order[edges.dst].tolist() == [at for at, count in enumerate(edges.counts) for _ in range(count)]
    assert edges.dst.tolist() == sorted(edges.dst.tolist())
    for i in range(n):
        into = range(int(edges.rowptr[i]), int(edges.rowptr[i + 1]))
        assert list(into) == [e for e, k in enumerate(edges.dst.tolist()) if k == i]
    order, (colptr, dst) = edges.by_source, edges.transpose
    assert edges.src[order].tolist() == sorted(edges.src.tolist()) and dst.tolist() == edges.dst[order].tolist()
    assert colptr.diff().tolist() == torch.bincount(edges.src, minlength=n).tolist()


def test_of_plans_by_values_the_newest_are_kept():
    edge_index, many = EDGES.clone(), mpnn.plan.__globals__["MANY"]
    layer, alive = mpnn.nn.GRU(2, 2), []
    without = layer.plan(edge_index, 4)
    for _ in range(many + 3):
        values = torch.rand(4)
        layer(torch.ones(4, 2), edge_index, schedule=ordered(values))
        alive.append(weakref.ref(values))
    del values
    gc.collect()
    assert [ref() is not None for ref in alive] == [False] * 3 + [True] * many
    assert layer.plan(edge_index, 4) is without


def test_one_graph_has_a_plan_for_each_direction_and_order():
    values = torch.tensor([3.0, 1.0, 2.0, 0.0])
    rules = [ordered(values), ordered(values, descending=False), topological]
    for rule in [*rules, *(rule.reverse for rule in rules)]:
        assert torch.equal(cached_plan(EDGES, rule, 4, "a layer").level, rule(EDGES, 4)), rule


def test_a_further_type_of_edges_that_is_written_to_or_replaced_is_planned_anew_and_the_old_plan_goes():
    class Layer(mpnn.MessagePassing):
        schedule = "topological"
        message_near = message_far = lambda self, x_j: x_j

        def update(self, message_near, message_far):
            return message_near + message_far

    layer, near, far = Layer(), torch.tensor([[0], [1]]), torch.tensor([[0], [2]])
    first = layer.plan({"near": near, "far": far}, 3)
    assert layer.plan({"near": near, "far": far}, 3) is first
    far[0] = 1
    second = layer.plan({"near": near, "far": far}, 3)
    assert second.edge_index("far").tolist() == [[1], [2]]
    third = layer.plan({"near": near, "far": torch.tensor([[2], [0]])}, 3)
    assert third.edge_index("far").tolist() == [[2], [0]]
    first, second = map(weakref.ref, (first, second))
    gc.collect()
    assert first() is None and second() is None


def test_the_order_by_source_is_kept_from_the_second_time_on():
    edges = mpnn.plan(torch.tensor([[2, 0, 1], [1, 0, 2]]), num_nodes=3).edges[""]
    first = edges.by_source
    assert "by source" not in edges.memo and edges.transpose is edges.transpose
    second = edges.by_source
    assert torch.equal(first, second.long()) and edges.by_source is second


def test_of_an_undirected_graph_one_list_of_neighbours_is_kept():
    edges = mpnn.plan(torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]), num_nodes=3).edges[""]
    colptr, dst = edges.transpose
    assert dst is edges.src and torch.equal(colptr, edges.rowptr)
    edges = mpnn.plan(torch.tensor([[0, 1], [1, 2]]), num_nodes=3).edges[""]
    assert edges.transpose[1].tolist() == [1, 2] and edges.src.tolist() == [0, 1]


@pytest.mark.parametrize("large", [False, True])
def test_what_planning_a_large_graph_set_aside_is_given_back(large, monkeypatch):
    module, calls = sys.modules[mpnn.plan.__module__], []
    monkeypatch.setattr(module, "LARGE", 4 if large else 5)
    monkeypatch.setattr(module, "_trim", calls.append)
    edges = mpnn.plan(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), num_nodes=4).edges[""]
    assert calls == [0] * large
    edges.transpose  # noqa: B018 (sorts by source)
    assert calls == [0, 0] * large


def test_where_the_system_takes_no_memory_back_nothing_is_asked_of_it(monkeypatch):
    module = sys.modules[mpnn.plan.__module__]
    monkeypatch.setattr(module, "_trim", None)
    module.give_back()


def test_on_a_chain_the_layout_is_that_of_a_packed_sequence():
    lengths, chains = [4, 2, 3], []
    for length in lengths:
        chains.append(graph_of(length, [(i, i + 1) for i in range(length - 1)]))
    plan = mpnn.plan(Batch.from_data_list(chains), "topological")
    packed = torch.nn.utils.rnn.pack_sequence([torch.arange(k) for k in lengths], enforce_sorted=False)
    assert plan.node_counts == packed.batch_sizes.tolist()


def everything(plan):
    return [plan.num_nodes, plan.num_src, plan.num_edges, plan.num_levels, *plan.node_counts] + [
        size for e in plan.edges.values() for size in (len(e), e.num_src, e.num_dst, *e.counts, *e.degrees)
    ]


@settings(max_examples=25)
@given(dags())
def test_all_sizes_are_python_integers(graph):
    for schedule in ("synchronous", "topological"):
        assert all(size is None or type(size) is int for size in everything(mpnn.plan(graph, schedule)))


def test_a_plan_prints_its_sizes():
    assert repr(mpnn.plan(EDGES, "topological", 5)) == "Plan(topological, nodes=5, edges=3, levels=4)"


# moving and pickling --------------------------------------------------------------------------------------------------


def use(plan, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, h = normal(generator, plan.num_nodes, 2), normal(generator, plan.num_nodes, 2)
    w = normal(generator, plan.num_edges)
    return Mixed().propagate(plan, x=x, h=h, w=w), [x, h, w]


MOVES = {
    "pickled": lambda plan: pickle.loads(pickle.dumps(plan)),
    "moved": lambda plan: plan.to("cpu"),
    "moved by name": lambda plan: plan.to(device="cpu"),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("schedule", ["topological", ordered(torch.tensor([1.0, 5.0, 2.0, 2.0, 0.0]))], ids=repr)
def test_a_plan_runs_as_before_after_it_was(move, schedule):
    plan = mpnn.plan(graph_of(5, [(4, 2), (2, 0), (4, 0), (0, 3)]), schedule)
    before, leaves = use(plan)  # fills what it remembers
    plan.remember("elsewhere", dict), plan.edges[""].remember("elsewhere", dict)
    moved = MOVES[move](plan)
    assert repr(moved) == repr(plan) and everything(moved) == everything(plan) and moved is not plan
    assert "elsewhere" not in moved.memo and "elsewhere" not in moved.edges[""].memo  # tensors there do not move along
    assert moved.edge_index().tolist() == plan.edge_index().tolist()
    after = Mixed().propagate(moved, x=leaves[0], h=leaves[1], w=leaves[2])
    assert_same(after, before, leaves)


def test_sources_and_targets_of_a_bipartite_graph_change_places_in_its_reverse():
    plan = mpnn.plan(torch.tensor([[0, 2, 2], [1, 0, 1]]), num_nodes=(3, 2))
    back = plan.reverse
    assert (back.num_src, back.num_nodes, back.size) == (2, 3, (3, 2)) and back.level.tolist() == [0, 0, 0]
    assert back.edge_index().tolist() == [[1, 0, 1], [0, 2, 2]] and back.given.tolist() == plan.given.tolist()


def test_a_plan_in_a_batch_moves_with_it():
    graph = graph_of(4, [(0, 1), (1, 2)])
    batch = Batch.from_data_list([graph, graph])
    batch.plan = mpnn.plan(batch, "topological")
    there = batch.to("meta").plan  # no accelerator needed to see it go
    tensors = [there.level, there.edges[""].src, there.edges[""].dst, there.edges[""].rowptr]
    assert all(t.device.type == "meta" for t in tensors)
    here = graph_of(4, [(0, 1)])
    here.plan = mpnn.plan(here, "topological")
    assert torch.equal(here.to("cpu").plan.level, torch.tensor([0, 1, 0, 0]))


# how long plans are kept ----------------------------------------------------------------------------------------------


def test_the_plan_of_a_tensor_is_kept_and_made_anew_after_a_change_in_place():
    layer, edge_index = Mixed(), EDGES.clone()
    plan = layer.plan(edge_index, 4)
    assert layer.plan(edge_index, 4) is plan and Mixed().plan(edge_index, 4) is plan
    assert layer.plan(edge_index.clone(), 4) is not plan  # equal, but another tensor
    assert layer.plan(edge_index, 5) is not plan
    edge_index[1, 2] = 0
    edge_index[0, 2] = 3
    again = layer.plan(edge_index, 4)
    assert again is not plan and again.edge_index().tolist() == [[0, 1, 3], [1, 2, 0]]
    assert layer.plan(edge_index, 4) is again


def test_the_values_of_a_schedule_tell_plans_apart():
    edge_index, values, h = torch.tensor([[0], [1]]), torch.tensor([0, 1]), torch.tensor([[1.0], [0.0]])

    class Pass(mpnn.MessagePassing):
        state = ("h",)

        def message(self, h_j):
            return h_j

        def update(self, h, message):
            return message + 2 * h

    def run(schedule):
        return Pass().propagate(edge_index, schedule=schedule, h=h).flatten().tolist()

    assert run(by(values)) == [2, 2]
    values.copy_(torch.tensor([1, 0]))
    assert run(by(values)) == [2, 1]
    assert run(ordered(values)) == [2, 2] and run("topological") == [2, 2] and run("synchronous") == [2, 1]
    for flip in range(20):  # schedules that die may leave their ids to others
        assert run(by(torch.tensor([0, 1]) if flip % 2 else torch.tensor([1, 0]))) == [2, 1 + flip % 2]


def test_a_second_edge_type_built_anew_is_not_taken_for_the_last_one():
    near, x = torch.tensor([[0], [1]]), torch.eye(3)
    for k in range(20):  # tensors that die leave their ids to others
        far = torch.tensor([[k % 3], [2]])
        out = Relational().propagate({"near": near, "far": far}, x=x)
        assert out[2].tolist() == [10.0 * (j == k % 3) for j in range(3)]
        del far


def test_a_plan_is_freed_with_its_tensor():
    edge_index = EDGES.clone()
    plan = weakref.ref(Mixed().plan(edge_index, 4))
    mixed(edge_index)
    mpnn.nn.GCN(2, 2)(torch.ones(4, 2), edge_index)
    gc.collect()
    assert plan() is not None
    del edge_index
    gc.collect()
    assert plan() is None


def test_layers_without_state_share_one_level_of_any_plan():
    plan, x = mpnn.plan(EDGES, "topological", 4), torch.rand(4, 3)
    layer = mpnn.nn.GraphSAGE(3, 2)
    torch.testing.assert_close(layer(x, plan), layer(x, EDGES))
    assert plan.flat is plan.flat and plan.flat.num_levels == 1


def test_data_is_planned_by_its_own_fields():
    data = Data(edge_index=EDGES, num_nodes=4, rank=torch.tensor([0, 1, 2, 3]))
    assert mpnn.plan(data, by("rank")).num_levels == 4
    assert mpnn.plan(mpnn.plan(data), "topological").num_levels == 1  # a plan stays what it is


RULES = {
    "synchronous": mpnn.schedule.synchronous,
    "topological": mpnn.schedule.topological,
    "topological, turned": mpnn.schedule.topological.reverse,
    "ordered": ordered("value"),
    "by": by("value"),
}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=15)
@given(graph=dags(), seed=seeds, first=st.permutations(mpnn.plan.__globals__["Reverse"].LATER))
def test_the_reverse_of_a_plan_is_the_plan_of_the_reverse_whatever_is_asked_first(name, graph, seed, first):
    graph.value = torch.randint(4, (graph.num_nodes,), generator=torch.Generator().manual_seed(seed))
    forward, back = mpnn.plan(graph, RULES[name]), mpnn.plan(graph, RULES[name].reverse)
    for asked in first:
        found, expected = getattr(forward.reverse, asked), getattr(back, asked)
        if asked == "edges":
            pair = found[""], expected[""]
            found, expected = ([*e.src, *e.rowptr, *e.place(graph.edge_index[0])] for e in pair)
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected, asked
    assert everything(forward.reverse) == everything(back) and repr(forward.reverse) == repr(back)
    assert torch.equal(forward.reverse.edge_index(), back.edge_index()) and forward.reverse is forward.reverse
    assert torch.equal(forward.reverse.reverse.edge_index(), forward.edge_index())


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("asked", [False, True])
def test_the_reverse_of_a_plan_runs_as_before_after_it_was(move, asked):
    reverse = mpnn.plan(graph_of(5, [(4, 2), (2, 0), (4, 0), (0, 3)]), "topological").reverse
    moved = MOVES[move](reverse) if not asked else None
    before, leaves = use(reverse)
    moved = MOVES[move](reverse) if asked else moved
    assert everything(moved) == everything(reverse) and moved is not reverse
    assert_same(Mixed().propagate(moved, x=leaves[0], h=leaves[1], w=leaves[2]), before, leaves)


def test_a_plan_and_its_reverse_go_when_nothing_holds_them():
    gc.disable()  # by themselves: what holds each other in a circle would wait for the collector
    try:
        plan = mpnn.plan(EDGES, "topological", 4)
        alive = [weakref.ref(plan), weakref.ref(plan.reverse), weakref.ref(plan.reverse.level)]
        del plan
        assert [ref() for ref in alive] == [None] * 3
    finally:
        gc.enable()


def test_what_a_reverse_has_not_is_said():
    with pytest.raises(AttributeError, match="Reverse has no attribute 'depth'"):
        mpnn.plan(EDGES, "topological", 4).reverse.depth  # noqa: B018


def test_a_plan_moves_to_devices_only():
    plan = mpnn.plan(torch.tensor([[0], [1]]), num_nodes=2)
    with pytest.raises(TypeError, match="device"):
        plan.to(torch.float16)


def test_indices_are_short_where_only_sparse_products_read_them(monkeypatch):
    edge_index = torch.tensor([[2, 0, 1], [1, 0, 2]])
    flat = mpnn.plan(edge_index, num_nodes=3).edges[""]
    made = flat.src, flat.dst, flat.order, flat.rowptr, *flat.transpose, flat.by_source
    assert {t.dtype for t in made} == {torch.int32}
    deep = mpnn.plan(edge_index, schedule=torch.arange(3), num_nodes=3).edges[""]
    assert {t.dtype for t in (deep.src, deep.dst, deep.rowptr)} == {torch.int64}
    assert mpnn.plan(edge_index, num_nodes=3).edge_index().dtype == torch.int64
    monkeypatch.setitem(mpnn.plan.__globals__, "SHORT", 3)
    assert mpnn.plan(edge_index, num_nodes=3).edges[""].src.dtype == torch.int64


def test_a_layer_with_loops_under_a_reversed_plan_runs_on_turned_edges():
    edge_index, x = torch.tensor([[0, 0, 3, 1], [1, 2, 1, 1]]), torch.randn(4, 3)
    for layer in (mpnn.nn.GCN(3, 2), mpnn.nn.GAT(3, 2)):
        turned = mpnn.plan(edge_index, "synchronous", num_nodes=4).reverse
        assert torch.equal(layer(x, turned), layer(x, edge_index.flip(0)))
    weight = torch.rand(4)
    gcn = mpnn.nn.GCN(3, 2)
    assert torch.equal(gcn(x, turned, weight), gcn(x, edge_index.flip(0), weight))


def test_a_layer_with_loops_plans_only_the_graph_with_loops(monkeypatch):
    made = []
    monkeypatch.setattr(mpnn.plan.__globals__["Plan"], "_edges", spy(made, mpnn.plan.__globals__["Plan"]._edges))
    mpnn.nn.GAT(3, 2)(torch.randn(4, 3), torch.tensor([[0, 0, 3, 1], [1, 2, 1, 1]]))
    assert made == [7]


def spy(made, function):
    def count(self, edge_index):
        made.append(edge_index.shape[1])
        return function(self, edge_index)

    return count


def test_values_of_a_schedule_may_be_made_in_inference_mode():
    chain, layer = EDGES.clone(), mpnn.nn.RNN(2, 3)
    with torch.inference_mode():
        level = torch.arange(4)
        first = layer(torch.ones(4, 2), chain, schedule=by(level))
        level.copy_(torch.zeros(4))
        assert not torch.equal(layer(torch.ones(4, 2), chain, schedule=by(level)), first)  # nothing stale was kept


@settings(max_examples=40)
@given(dags())
def test_a_level_knows_how_many_edges_end_in_it_and_the_degree_that_all_of_its_nodes_share(graph):
    plan = mpnn.plan(graph, "topological")
    degree = torch.bincount(graph.edge_index[1], minlength=graph.num_nodes)
    into = [degree[plan.level == level].tolist() for level in range(plan.num_levels)]
    assert plan.edges[""].counts == [sum(some) for some in into]
    assert plan.edges[""].degrees == [(some or [0])[0] if len(set(some)) < 2 else None for some in into]


@pytest.mark.parametrize("below", [1, 7, 300, 1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers_are_put_in_order_and_equal_ones_keep_theirs(below, dtype):
    for size in (0, 1, 5, 1000):
        numbers = torch.randint(0, below, (size,), dtype=dtype, generator=torch.Generator().manual_seed(size))
        numbers[: min(size, 1)] = below - 1
        given = numbers.clone()
        assert in_order(numbers, below).tolist() == sorted(range(size), key=given.tolist().__getitem__)
        assert torch.equal(numbers, given)

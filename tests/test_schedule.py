"""mpnn.schedule: every level against a definition that can be read at a glance."""

import time
from unittest import mock

import networkx as nx
import numpy as np
import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dags, digraphs, graph_of, normal, priorities, seeds, undirected
from torch_geometric.data import Batch, Data

import mpnn
import mpnn.convert
from mpnn.schedule import CycleError, by, coloured, ordered, synchronous, topological

RUNS = settings(max_examples=40)
NARROW = mpnn.schedule.NARROW


@pytest.fixture(autouse=True, scope="module", params=[0, NARROW], ids=["arrays", "edge by edge"])
def _walk(request):
    """Small graphs would only ever be walked edge by edge; everything is tried with array operations too."""
    with mock.patch.object(mpnn.schedule, "NARROW", request.param):
        yield

def turned(graph: Data) -> Data:
    return Data(edge_index=graph.edge_index.flip(0), num_nodes=graph.num_nodes)


# topological ----------------------------------------------------------------------------------------------------------


@RUNS
@given(dags())
def test_every_source_fires_before_its_target(graph):
    level, (src, dst) = topological(graph), graph.edge_index
    assert level.shape == (graph.num_nodes,) and level.dtype == torch.int64
    assert (level[src] < level[dst]).all()


@RUNS
@given(dags(max_nodes=9))
def test_no_node_fires_later_than_need_be(graph):
    net = nx.MultiDiGraph()
    net.add_nodes_from(range(graph.num_nodes))
    net.add_edges_from(graph.edge_index.t().tolist())
    expected = {node: at for at, nodes in enumerate(nx.topological_generations(net)) for node in nodes}
    assert topological(graph).tolist() == [expected[i] for i in range(graph.num_nodes)]


@RUNS
@given(dags())
def test_reversed_topological_is_topological_on_turned_edges(graph):
    assert topological.reverse(graph).tolist() == topological(turned(graph)).tolist()
    assert topological.reverse.reverse(graph).tolist() == topological(graph).tolist()


def wide_and_narrow():
    """Levels of many nodes, then of few, then of many: both ways of walking are taken, and the changes between them."""
    def layers():
        start = 0
        for width in (200, 3, 1, 2, 150, 60, 1, 1, 1, 80):
            yield range(start, start + width)
            start += width

    blocks = list(layers())
    pairs = zip(blocks, blocks[1:], strict=False)
    edges = [(a[k % len(a)], b[k % len(b)]) for a, b in pairs for k in range(max(len(a), len(b)))]
    skips = [(blocks[0][k], blocks[7][0]) for k in range(100)] + [(blocks[1][0], i) for i in blocks[9]]
    return graph_of(blocks[-1].stop, edges + skips), [at for at, block in enumerate(blocks) for _ in block]


def test_wide_and_narrow_frontiers_in_one_graph_get_the_same_levels_as_by_hand():
    graph, expected = wide_and_narrow()
    name = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(0))
    level = topological(name[graph.edge_index], num_nodes=graph.num_nodes)
    assert level[name].tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40])
def test_where_no_node_has_two_sources_levels_are_those_of_the_walk_and_cycles_of_any_length_are_found(size):
    """The steps are counted there by looking twice as far each round; the walk is what other graphs take."""
    generator = torch.Generator().manual_seed(size)
    above = [int(torch.randint(max(k, 1), (), generator=generator)) for k in range(size)]
    for parents in ([k - 1 for k in range(size)], above):  # a chain, and a tree that grows from its root
        name = torch.randperm(size + 1, generator=generator)  # and one node beside it
        edges = name[torch.tensor([(parents[k], k) for k in range(1, size)], dtype=torch.long).view(-1, 2).t()]
        level = topological(edges, num_nodes=size + 1)
        with mock.patch.object(mpnn.schedule, "_steps", lambda *_: None):
            assert torch.equal(level, topological(edges, num_nodes=size + 1))
    ring = name[torch.stack([torch.arange(size), (torch.arange(size) + 1) % size])]
    with pytest.raises(CycleError) as caught:
        topological(ring, num_nodes=size + 1)
    assert len(caught.value.cycle) == size + 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_chains_numbered_one_after_the_other_have_the_levels_of_chains_numbered_at_random(lengths, data):
    edges = [mpnn.graphs.chain(n).edge_index + sum(lengths[:k]) for k, n in enumerate(lengths)]
    edges, n = torch.cat(edges, dim=1), sum(lengths)
    edges = edges[:, data.draw(st.permutations(range(edges.shape[1])))]
    name = torch.tensor(data.draw(st.permutations(range(n))))
    level = topological(edges, num_nodes=n)
    assert level.tolist() == [t for length in lengths for t in range(length)]
    assert torch.equal(topological(name[edges], num_nodes=n)[name], level)
    back = topological.reverse(edges, num_nodes=n).tolist()
    assert back == [t for length in lengths for t in reversed(range(length))]


def test_a_chain_of_100_000_nodes_is_walked_without_recursion_and_quickly():
    n = 100_000
    name = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with mock.patch.object(mpnn.schedule, "NARROW", NARROW):  # array operations on frontiers of one node would be slow
        level = topological(torch.stack([name[:-1], name[1:]]), num_nodes=n)
    assert torch.equal(level[name], torch.arange(n))
    assert time.perf_counter() - start < 5


def test_an_isolated_last_node_has_a_level():
    graph = graph_of(4, [(0, 1)])
    assert topological(graph).tolist() == [0, 1, 0, 0]
    assert ordered(torch.tensor([4.0, 3.0, 2.0, 1.0]))(graph).tolist() == [0, 1, 0, 0]
    assert synchronous(graph).tolist() == [0, 0, 0, 0]


def test_the_empty_graph_has_no_levels():
    empty, none = graph_of(0, []), torch.zeros(0)
    for schedule in (synchronous, topological, ordered(none), by(none)):
        assert schedule(empty).tolist() == schedule.reverse(empty).tolist() == []


# cycles ---------------------------------------------------------------------------------------------------------------


def is_cycle(graph: Data, cycle: list[int]) -> bool:
    edges = set(map(tuple, graph.edge_index.t().tolist()))
    steps = list(zip(cycle, cycle[1:], strict=False))
    return cycle[0] == cycle[-1] and len(set(cycle)) == len(steps) and edges.issuperset(steps)


@RUNS
@given(digraphs())
def test_a_cyclic_graph_is_refused_with_a_real_cycle_and_no_other_is(graph):
    net = nx.MultiDiGraph()
    net.add_nodes_from(range(graph.num_nodes))
    net.add_edges_from(graph.edge_index.t().tolist())
    if nx.is_directed_acyclic_graph(net):
        topological(graph)
        return
    with pytest.raises(CycleError, match="the graph has the cycle") as error:
        topological(graph)
    assert is_cycle(graph, error.value.cycle)
    assert " -> ".join(map(str, error.value.cycle)) in str(error.value)


def test_a_reversed_cycle_is_shown_in_the_direction_messages_take():
    ring = graph_of(3, [(0, 1), (1, 2), (2, 0)])
    with pytest.raises(CycleError) as error:
        topological.reverse(ring)
    assert is_cycle(turned(ring), error.value.cycle)


def test_a_cycle_is_named_by_the_users_ids():
    graph = graph_of(4, [(0, 1), (1, 2), (2, 1), (2, 3)])
    graph.node_id = ["ann", ("b", 1), "cid", 7]
    with pytest.raises(CycleError, match=r"cycle \('b', 1\) -> cid -> \('b', 1\);|cycle cid -> \('b', 1\) -> cid;"):
        topological(graph)
    graph.node_id = torch.tensor([100, 101, 102, 103])
    with pytest.raises(CycleError, match="cycle 101 -> 102 -> 101;|cycle 102 -> 101 -> 102;"):
        topological(graph)


def test_a_cycle_in_a_batch_is_named_by_the_ids_of_its_graph():
    tree = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, node_id=["root", "leaf"])
    ring = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2, node_id=["left", "right"])
    with pytest.raises(CycleError, match="left -> right -> left|right -> left -> right"):
        topological(Batch.from_data_list([tree, ring]))


def test_a_cycle_in_a_graph_from_networkx_is_named_by_its_ids():
    data = mpnn.convert.from_networkx(nx.DiGraph([("root", "a"), ("a", "b"), ("b", "a")]))
    with pytest.raises(CycleError, match="cycle a -> b -> a;|cycle b -> a -> b;"):
        topological(data)
    with pytest.raises(CycleError, match="cycle a -> b -> a;|cycle b -> a -> b;"):
        topological(Batch.from_data_list([data, data]))


def test_a_self_loop_is_a_cycle_of_one():
    with pytest.raises(CycleError, match="cycle 1 -> 1; expected a DAG"):
        topological(graph_of(3, [(0, 1), (1, 1), (1, 2)]))


def test_a_long_cycle_is_abbreviated():
    ring = graph_of(50, [(i, (i + 1) % 50) for i in range(50)])
    with pytest.raises(CycleError, match=r"-> \.\.\. \(40 more\) \.\.\. ->") as error:
        topological(ring)
    assert is_cycle(ring, error.value.cycle) and len(error.value.cycle) == 51


# ordered --------------------------------------------------------------------------------------------------------------


class Averaging(mpnn.MessagePassing):
    """A cell whose result depends on the order: two fields, a message that sees both ends."""

    state = ("h", "c")

    def message(self, h_j, c_j, x_i, w):
        return torch.tanh(w[:, None] * h_j + x_i), c_j * x_i

    def update(self, h, c, x, message):
        return torch.tanh(message[0] + x - h), 0.5 * c + message[1]


def one_after_the_other(graph, order, x, h, c, w, turn):
    """Plain asynchronous updates: each node fires alone and at once writes what all later ones read."""
    h, c = list(h), list(c)
    edges = graph.edge_index.t().tolist()
    for i in order:
        h_sum, c_sum = torch.zeros_like(x[i]), torch.zeros_like(x[i])
        for e, (j, k) in enumerate(edges):
            if turn:
                j, k = k, j
            if k == i:
                h_sum = h_sum + torch.tanh(w[e] * h[j] + x[i])
                c_sum = c_sum + c[j] * x[i]
        h[i], c[i] = torch.tanh(h_sum + x[i] - h[i]), 0.5 * c[i] + c_sum
    return torch.stack(h), torch.stack(c)


@RUNS
@given(st.one_of(digraphs(min_nodes=1), undirected()), st.data(), seeds, st.booleans(), st.booleans())
def test_ordered_fronts_give_what_one_node_after_the_other_gives(graph, data, seed, descending, turn):
    n, generator = graph.num_nodes, torch.Generator().manual_seed(seed)
    priority = data.draw(priorities(n))
    sign = -1 if descending else 1
    order = sorted(range(n), key=lambda i: (sign * float(priority[i]), i))  # ties: lower index first
    order = order[::-1] if turn else order
    x, h, c = (normal(generator, n, 2) for _ in range(3))
    w = normal(generator, graph.num_edges)
    schedule = ordered(priority, descending)
    with mpnn.engine("wavefront"):
        ours = Averaging().propagate(
            graph.edge_index, schedule=schedule.reverse if turn else schedule, x=x, h=h, c=c, w=w
        )
    assert_same(ours, one_after_the_other(graph, order, x, h, c, w, turn), [x, h, c, w])


@RUNS
@given(st.one_of(digraphs(min_nodes=1), undirected()), st.data())
def test_no_level_of_ordered_could_be_lower(graph, data):
    priority = data.draw(priorities(graph.num_nodes))
    level, edges = ordered(priority)(graph).tolist(), graph.edge_index.t().tolist()
    place = {i: k for k, i in enumerate(sorted(range(graph.num_nodes), key=lambda i: (-float(priority[i]), i)))}
    for i in range(graph.num_nodes):
        reads_new = [level[j] + 1 for j, k in edges if k == i and place[j] < place[i]]
        is_read_old = [level[k] for j, k in edges if j == i and place[k] < place[i]]
        assert level[i] == max(reads_new + is_read_old, default=0)


@RUNS
@given(digraphs(min_nodes=1), st.data())
def test_reversed_ordered_is_ordered_upwards_on_turned_edges_where_no_two_tie(graph, data):
    priority = torch.tensor(data.draw(st.permutations(range(graph.num_nodes))))
    upwards = ordered(priority, descending=False)(turned(graph))
    assert ordered(priority).reverse(graph).tolist() == upwards.tolist()


# coloured -------------------------------------------------------------------------------------------------------------


@RUNS
@given(st.one_of(digraphs(), undirected()))
def test_colours_are_those_of_networkx_greedy_in_the_order_of_degree(graph):
    net = nx.MultiGraph()
    net.add_nodes_from(range(graph.num_nodes))
    net.add_edges_from((a, b) for a, b in graph.edge_index.t().tolist() if a != b)
    expected = nx.greedy_color(net, lambda net, _: sorted(net, key=lambda i: (-net.degree(i), i)))
    assert coloured(graph).tolist() == [expected[i] for i in range(graph.num_nodes)]


@RUNS
@given(digraphs(min_nodes=1))
def test_no_two_neighbours_share_a_colour_and_reversed_colours_count_down(graph):
    level, (src, dst) = coloured(graph), graph.edge_index
    assert (level[src] != level[dst])[src != dst].all()
    assert coloured.reverse(graph).tolist() == (level.max() - level).tolist()


@RUNS
@given(st.one_of(digraphs(min_nodes=1), undirected()), seeds, st.booleans())
def test_a_sweep_over_colours_is_one_node_after_the_other_in_their_order(graph, seed, turn):
    generator, rule = torch.Generator().manual_seed(seed), coloured.reverse if turn else coloured
    x, h, c = (normal(generator, graph.num_nodes, 2) for _ in range(3))
    w = normal(generator, graph.num_edges)
    order = sorted(range(graph.num_nodes), key=rule(graph).tolist().__getitem__)
    with mpnn.engine("wavefront"):
        ours = Averaging().propagate(graph.edge_index, schedule=rule, x=x, h=h, c=c, w=w)
    assert_same(ours, one_after_the_other(graph, order, x, h, c, w, turn), [x, h, c, w])


def test_a_long_chain_and_a_wide_star_are_coloured_quickly():
    began = time.process_time()
    path = torch.arange(200_000)
    assert coloured(torch.stack([path[:-1], path[1:]]), num_nodes=200_000).max() == 1
    assert coloured(torch.stack([path, path * 0]), num_nodes=200_000).sum() == 199_999
    assert time.process_time() - began < 10


# by -------------------------------------------------------------------------------------------------------------------


def test_by_ranks_the_values_and_its_reverse_counts_down():
    graph, values = graph_of(4, [(0, 1), (1, 3)]), torch.tensor([2.5, -1.0, 2.5, 9.0])
    assert by(values)(graph).tolist() == [1, 0, 1, 2]
    assert by(values).reverse(graph).tolist() == [1, 2, 1, 0]
    assert mpnn.schedule.get(values)(graph).tolist() == [1, 0, 1, 2]  # a tensor of levels is a schedule


def test_by_and_ordered_read_a_field_of_the_data():
    graph = graph_of(3, [(0, 1), (1, 2)])
    graph.time = torch.tensor([5, 3, 5])
    assert by("time")(graph).tolist() == [1, 0, 1]
    assert ordered("time")(graph).tolist() == [0, 1, 0]


@pytest.mark.parametrize("make", [by, ordered], ids=["by", "ordered"])
def test_values_that_do_not_fit_the_graph_are_refused(make):
    graph, name = graph_of(3, [(0, 1)]), make("x").name
    with pytest.raises(ValueError, match=rf"{name}: the value of node 1 is nan.* 2 of 3 values are"):
        make(torch.tensor([0.0, torch.nan, torch.nan]))(graph)
    with pytest.raises(ValueError, match=rf"{name}: values have shape \(4,\); expected one number a node, \(3,\)"):
        make(torch.zeros(4))(graph)
    with pytest.raises(ValueError, match=rf"{name}: values have shape \(3, 1\)"):
        make(torch.zeros(3, 1))(graph)
    with pytest.raises(ValueError, match=rf"{name}: the graph has no field 'confidence'"):
        make("confidence")(graph)
    with pytest.raises(ValueError, match=rf"{name}: the graph has no field 'confidence'"):
        make("confidence")(graph.edge_index, num_nodes=3)
    with pytest.raises(TypeError, match=rf"{name}: values are a list; expected a tensor of shape \(3,\)"):
        make([1, 2, 3])(graph)


def test_unknown_schedules_and_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="'toplogical' is unknown; expected 'synchronous', 'topological', 'coloured'"):
        mpnn.schedule.get("toplogical")
    for levels in ([0, 1], np.arange(2), lambda edge_index, num_nodes: torch.arange(2)):
        what = rf"schedule is a {type(levels).__name__}; expected .*a tensor of levels.*torch.as_tensor\(levels\)"
        with pytest.raises(TypeError, match=what):
            mpnn.nn.GRU(1, 1)(torch.ones(2, 1), torch.tensor([[0], [1]]), schedule=levels)
    with pytest.raises(ValueError, match="topological: num_nodes is not known"):
        topological(torch.tensor([[0], [1]]))
    with pytest.raises(TypeError, match="a list holds no edge_index"):
        topological([[0], [1]], num_nodes=2)


# batches --------------------------------------------------------------------------------------------------------------


@RUNS
@given(st.lists(dags(min_nodes=1), min_size=1, max_size=4), st.data(), st.booleans())
def test_levels_of_a_batch_are_those_of_its_graphs_one_after_the_other(graphs, data, turn):
    for graph in graphs:
        graph.rank = data.draw(priorities(graph.num_nodes)).double()
    batch = Batch.from_data_list(graphs)
    for schedule in (topological, ordered("rank"), synchronous, coloured):
        schedule = schedule.reverse if turn and schedule is not coloured else schedule
        alone = [schedule(graph) for graph in graphs]
        assert schedule(batch).tolist() == torch.cat(alone).tolist()
        assert mpnn.plan(batch, schedule).num_levels == max(int(level.max()) + 1 for level in alone)


@RUNS
@given(st.lists(dags(min_nodes=1), min_size=2, max_size=4))
def test_levels_kept_in_the_data_survive_collation_and_run_the_batch(graphs):
    for graph in graphs:
        graph.level = topological(graph)
    batch = Batch.from_data_list(graphs)
    assert batch.level.tolist() == [at for graph in graphs for at in graph.level.tolist()]
    assert by("level")(batch).tolist() == topological(batch).tolist()
    assert mpnn.plan(batch, by("level")).num_levels == mpnn.plan(batch, "topological").num_levels


def test_a_schedule_prints_what_it_is():
    assert repr(topological.reverse) == "topological.reverse" and repr(coloured) == "coloured"
    assert repr(ordered("rank")) == "ordered(rank)" and repr(by(torch.zeros(2))) == "by(values)"

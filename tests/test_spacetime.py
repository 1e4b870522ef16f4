import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds
from torch_geometric.data import Batch

import mpnn
from mpnn.spacetime import coarsen, from_networkx, relations, skeleton, snapshots

BONES = [(0, 1), (1, 2)]


def edges(index):
    return set(map(tuple, index.t().tolist()))


def test_joints_go_on_from_frame_to_frame_and_bones_join_them_within_one():
    x = torch.randn(4, 3, 2)
    data = skeleton(x, BONES)
    assert torch.equal(data.x, x.reshape(12, 2))
    assert edges(data.time_index) == {(t * 3 + v, t * 3 + 3 + v) for t in range(3) for v in range(3)}
    both = BONES + [(b, a) for a, b in BONES]
    assert edges(data.space_index) == {(t * 3 + a, t * 3 + b) for t in range(4) for a, b in both}
    assert data.vertex.tolist() == [0, 1, 2] * 4


def test_skeletons_and_snapshots_have_the_same_fields_so_that_they_make_a_batch():
    moving = skeleton(torch.randn(4, 3, 2), BONES)
    changing = snapshots([torch.randn(2, 2)], [torch.tensor([[0], [1]])])
    assert moving.vertex_id == [0, 1, 2] and changing.vertex_id == [0, 1]
    assert mpnn.loader.collate([moving, changing]).num_nodes == 14


def test_no_frames_no_snapshots_and_no_nodes_are_empty_graphs():
    for data in (skeleton(torch.zeros(0, 3, 2), BONES), snapshots([], []), from_networkx(nx.Graph())):
        assert data.num_nodes == 0 and len(data.time) == 0 == len(data.vertex)
        assert data.space_index.shape == data.time_index.shape == (2, 0)
    assert snapshots([], []).x.shape == (0, 0) and skeleton(torch.zeros(0, 3, 2), BONES).vertex_id == []


def test_levels_are_times_in_a_batch_of_sequences_of_different_lengths():
    batch = Batch.from_data_list([skeleton(torch.randn(length, 3, 2), BONES) for length in (2, 4, 1)])
    plan = mpnn.plan(relations(batch), mpnn.schedule.by(batch.time), batch.num_nodes)
    assert plan.num_levels == 4 and torch.equal(plan.level, batch.time)
    assert plan.node_counts == [9, 6, 3, 3]
    for kind in ("space", "time"):
        src, dst = relations(batch)[kind]
        assert torch.equal(batch.batch[src], batch.batch[dst]) and torch.equal(
            batch.time[dst] - batch.time[src], torch.full_like(src, kind == "time")
        )


def test_who_is_away_for_a_time_goes_on_where_it_was_seen_last():
    ids = [["a", "b"], ["b"], ["b", "c", "a"]]
    pairs = [torch.tensor([[0], [1]]), torch.empty(2, 0, dtype=torch.long), torch.tensor([[2, 1], [0, 0]])]
    data = snapshots([torch.randn(len(names), 2) for names in ids], pairs, ids)
    assert data.time.tolist() == [0, 0, 1, 2, 2, 2] and data.vertex.tolist() == [0, 1, 1, 1, 2, 0]
    assert edges(data.space_index) == {(0, 1), (5, 3), (4, 3)}
    assert edges(data.time_index) == {(1, 2), (2, 3), (0, 5)}
    assert data.vertex_id == ["a", "b", "c"]


@given(seeds, st.booleans(), st.booleans())
def test_networkx_gives_each_edge_to_space_or_to_time(seed, directed, followed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(7, (1,), generator=generator))
    time = torch.randint(3, (n,), generator=generator).tolist()
    who = [t * 10 + k if k % 2 else k for k, t in enumerate(time)]  # even ones have a name of their own
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from((f"n{k}", {"when": time[k], "who": who[k] % 4 + 10 * k * (k > 3)}) for k in range(n))
    twice = {(time[k], graph.nodes[f"n{k}"]["who"]) for k in range(n)}
    pairs = [(j, i) for j in range(n) for i in range(n) if j != i and time[j] <= time[i]]
    pairs = [pair for pair in pairs if torch.rand(1, generator=generator) < 0.5]
    graph.add_edges_from((f"n{j}", f"n{i}") for j, i in pairs)
    if followed and len(twice) < n:
        with pytest.raises(ValueError, match="the same vertex at the same time"):
            from_networkx(graph, "when", "who")
        return
    if not n:
        return
    data = from_networkx(graph, "when", "who" if followed else None)
    space = {(j, i) for j, i in pairs if time[j] == time[i]}
    if not directed:
        space |= {(i, j) for j, i in space}
    assert edges(data.space_index) == space
    onward = {(j, i) for j, i in pairs if time[j] < time[i]}
    if followed:
        names = [graph.nodes[f"n{k}"]["who"] for k in range(n)]
        for i in range(n):
            before = [j for j in range(n) if names[j] == names[i] and time[j] < time[i]]
            onward |= {(max(before, key=lambda j: time[j]), i)} if before else set()
    assert edges(data.time_index) == onward
    assert data.time.tolist() == time and "edge_index" not in data
    assert followed or data.vertex.tolist() == list(range(n))


def test_fields_of_edges_are_kept_for_the_edges_in_space():
    graph = nx.DiGraph()
    graph.add_nodes_from([(k, {"time": k // 2, "x": [float(k)]}) for k in range(4)])
    graph.add_edge(0, 2, w=5.0)
    graph.add_edge(2, 3, w=7.0)
    data = from_networkx(graph, x="x", edge_weight="w")
    assert data.edge_weight.tolist() == [7.0] and data.space_index.tolist() == [[2], [3]]


def test_coarsening_joins_windows_of_each_vertex_in_each_graph():
    graphs = [skeleton(torch.randn(length, 3, 2), BONES) for length in (5, 2)]
    batch = Batch.from_data_list(graphs)
    coarse, cluster = coarsen(batch, 2)
    assert coarse.num_nodes == 3 * 3 + 1 * 3
    alone = [coarsen(graph, 2) for graph in graphs]
    together = Batch.from_data_list([graph for graph, _ in alone])
    for name in ("space_index", "time_index"):
        assert edges(coarse[name]) == edges(together[name])
    src, dst = coarse.time_index
    assert torch.equal(coarse.time[dst] - coarse.time[src], torch.ones_like(src)) and len(src) == 6
    assert torch.equal(coarse.batch, together.batch) and torch.equal(coarse.time, together.time)
    assert torch.equal(cluster, torch.cat([alone[0][1], alone[1][1] + alone[0][0].num_nodes]))
    mean = mpnn.nn.GraphReadout("mean")(graphs[0].x, alone[0][1], alone[0][0].num_nodes).view(3, 3, 2)
    x = graphs[0].x.view(5, 3, 2)
    torch.testing.assert_close(mean, torch.stack([x[:2].mean(0), x[2:4].mean(0), x[4]]))


def test_coarsening_by_one_changes_no_edge():
    data = skeleton(torch.randn(3, 3, 2), BONES)
    coarse, cluster = coarsen(data, 1)
    assert torch.equal(cluster, torch.arange(9))
    for name in ("space_index", "time_index"):
        assert edges(coarse[name]) == edges(data[name])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: skeleton(torch.zeros(3, 2), []), r"x has shape \(3, 2\)"),
        (lambda: skeleton(torch.zeros(1, 2, 3), [(0, 2)]), r"edge 0 \(0 -> 2\) leaves"),
        (lambda: snapshots([torch.zeros(1, 1)], []), "1 x, 0 edge_index"),
        (
            lambda: snapshots([torch.zeros(2, 1)], [torch.empty(2, 0, dtype=torch.long)], ["aa"]),
            r"at time 0 there are 2 rows, and the ids \['a', 'a'\]",
        ),
        (
            lambda: snapshots([torch.zeros(1, 1)] * 2, [torch.tensor([[0], [0]]), torch.tensor([[0], [1]])]),
            "at time 1: edge 0",
        ),
        (lambda: coarsen(skeleton(torch.zeros(1, 1, 1), []), 0), "size=0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_edges_back_in_time_and_missing_names_are_refused():
    graph = nx.DiGraph([("late", "early")])
    nx.set_node_attributes(graph, {"late": 5, "early": 2}, "time")
    with pytest.raises(ValueError, match="the edge 'late' -> 'early' leads from time 5 back to 2"):
        from_networkx(graph)
    with pytest.raises(ValueError, match="node 'late' has no attribute 'who'"):
        from_networkx(graph.reverse(), vertex="who")

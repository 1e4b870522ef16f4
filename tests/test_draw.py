"""mpnn.draw: what is on the axes, where the nodes stand, and what is refused. How it looks was looked at."""

import sys
import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import networkx as nx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.collections import LineCollection, PathCollection, PolyCollection  # noqa: E402
from PIL import Image  # noqa: E402
from torch_geometric.data import Batch, Data, HeteroData  # noqa: E402

from mpnn import schedule  # noqa: E402
from mpnn.convert import from_networkx  # noqa: E402
from mpnn.draw import draw, write_small  # noqa: E402
from mpnn.expressions import random_expression  # noqa: E402
from mpnn.plan import plan  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def chain(size):
    return Data(edge_index=torch.stack([torch.arange(size - 1), torch.arange(1, size)]), num_nodes=size)


def of_type(ax, kind):
    return [c for c in ax.collections if type(c) is kind]


def places(ax):
    return np.asarray(of_type(ax, PathCollection)[0].get_offsets())


def colours(ax):
    return of_type(ax, PathCollection)[0].get_facecolors()


def bar(ax):
    return ax.figure.axes[-1]


def test_nodes_of_one_level_share_a_colour_and_other_levels_have_others():
    level = torch.tensor([0, 2, 1, 1, 2])
    drawn = colours(draw(nx.cycle_graph(5), level=level))
    same = (drawn[:, None] == drawn[None]).all(axis=2)
    assert np.array_equal(same, level[:, None] == level[None])


def test_levels_come_from_the_schedule():
    graph = nx.gnp_random_graph(30, 0.2, seed=0)
    priority = torch.arange(30.0)
    edge_index = torch.tensor([(i, j) for a, b in graph.edges() for i, j in ((a, b), (b, a))]).t()
    level = schedule.ordered(priority)(edge_index, 30)
    assert level.max() > 2
    named = colours(draw(graph, schedule.ordered(priority)))
    assert np.array_equal(named, colours(draw(graph, level=level)))


@pytest.mark.parametrize("count", [1, 2, 7, 11, 12, 23, 200, 1000])
def test_the_bar_says_level_and_names_the_first_and_last_without_crowding(count):
    ax = bar(draw(chain(count), "topological"))
    assert "level" in (ax.get_ylabel(), ax.get_xlabel())
    ticks = ax.get_yticks() if ax.get_ylabel() else ax.get_xticks()
    assert ticks[0] == 0 and ticks[-1] == count - 1 and np.array_equal(ticks, ticks.round())
    assert len(ticks) <= 12
    assert len(ticks) < 3 or np.diff(ticks).min() > 0.5 * np.diff(ticks).max()


def test_levels_grow_lighter_so_that_they_can_be_told_without_colour():
    drawn = colours(draw(chain(50), "topological"))
    brightness = drawn[:, :3] @ (0.299, 0.587, 0.114)
    assert (np.diff(brightness) > 0).all() and np.ptp(brightness) > 0.5


def test_without_schedule_there_is_one_colour_and_no_bar():
    ax = draw(chain(4))
    assert len(np.unique(colours(ax), axis=0)) == 1 and ax.figure.axes == [ax]


def test_a_chain_is_a_line_and_a_long_one_is_wrapped_with_neighbours_side_by_side():
    assert np.ptp(places(draw(chain(15)))[:, 1]) == 0
    xy = places(draw(chain(200)))
    step = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    assert np.allclose(step, 1) and len(np.unique(xy, axis=0)) == 200
    assert np.ptp(xy[:, 0]) < 4 * np.ptp(xy[:, 1])


def test_the_place_in_a_chain_does_not_depend_on_the_ids():
    name = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = Data(edge_index=name[chain(60).edge_index], num_nodes=60)
    assert np.allclose(places(draw(shuffled))[name], places(draw(chain(60))))


def test_chains_of_a_batch_get_a_row_each():
    xy = places(draw(Batch.from_data_list([chain(3), chain(5), chain(2)])))
    assert [len(np.unique(xy[a:b, 1])) for a, b in ((0, 3), (3, 8), (8, 10))] == [1, 1, 1]
    assert len(np.unique(xy[:, 1])) == 3


def cross(segments):
    """Pairs of segments, sharing no end, that cut each other."""
    a, b = segments[:, 0], segments[:, 1]

    def side(p, q, r):
        (x, y), (u, v) = (q - p).T, (r - p).T
        return np.sign(x * v - y * u)

    i, j = np.triu_indices(len(a), 1)
    return (
        (side(a[i], b[i], a[j]) * side(a[i], b[i], b[j]) < 0) & (side(a[j], b[j], a[i]) * side(a[j], b[j], b[i]) < 0)
    ).sum()


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_has_its_root_on_top_one_row_a_depth_and_no_crossings(seed):
    generator = torch.Generator().manual_seed(seed)
    data = random_expression(generator, min_depth=3, nest=0.35)
    name = torch.randperm(data.num_nodes, generator=generator)
    depth = data.depth[torch.argsort(name)].numpy()
    ax = draw(Data(edge_index=name[data.edge_index], num_nodes=data.num_nodes))
    xy = places(ax)
    rows = [xy[depth == d, 1] for d in range(depth.max() + 1)]
    assert all(np.ptp(row) < 1e-9 for row in rows)
    assert (np.diff([row[0] for row in rows]) < 0).all()
    assert cross(np.array(of_type(ax, LineCollection)[0].get_segments())) == 0
    for d in range(depth.max() + 1):
        assert (np.diff(np.sort(xy[depth == d, 0])) > 0.99).all()


def test_a_tree_stands_the_same_way_whichever_way_its_edges_point():
    tree = nx.balanced_tree(3, 3, create_using=nx.DiGraph)
    down, up = places(draw(tree)), places(draw(nx.DiGraph(tree).reverse()))
    assert np.allclose(down, up) and down[0, 1] == down[:, 1].max()
    undirected = places(draw(tree.to_undirected()))
    assert undirected[0, 1] == undirected[:, 1].max()


def test_a_forest_keeps_its_trees_apart():
    trees = [random_expression(torch.Generator().manual_seed(s)) for s in range(8)]
    batch = Batch.from_data_list(trees)
    xy, part = places(draw(batch)), batch.batch.numpy()
    box = [(xy[part == k].min(axis=0), xy[part == k].max(axis=0)) for k in range(8)]
    for k in range(8):
        for m in range(k):
            assert (box[k][0] > box[m][1]).any() or (box[m][0] > box[k][1]).any()


def test_edges_of_a_dag_run_to_the_right():
    graph = nx.DiGraph((i, j) for i, j in nx.gnp_random_graph(40, 0.1, seed=0).edges())
    graph = graph.subgraph(max(nx.weakly_connected_components(graph), key=len))
    xy = dict(zip(graph, places(draw(graph)), strict=True))
    assert all(xy[i][0] < xy[j][0] for i, j in graph.edges())
    assert len({tuple(place.round(6)) for place in xy.values()}) == len(graph) > 20


def test_a_shortcut_arcs_over_the_nodes_between_its_ends_and_stays_on_the_paper():
    ax = draw(Data(edge_index=torch.tensor([[0, 1, 2, 0], [1, 2, 3, 3]]), num_nodes=4))
    ends = {(s[0, 0], s[-1, 0]): s for s in map(np.asarray, of_type(ax, LineCollection)[0].get_segments())}
    assert np.ptp(ends[(0, 1)][:, 1]) == 0
    assert ends[(0, 3)][:, 1].max() > 0.4
    assert ends[(0, 3)][:, 1].max() < ax.get_ylim()[1]


def test_directed_edges_have_arrows_and_undirected_ones_are_drawn_once():
    undirected = draw(nx.cycle_graph(6))
    assert not of_type(undirected, PolyCollection)
    assert len(of_type(undirected, LineCollection)[0].get_segments()) == 6
    directed = draw(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))
    assert len(of_type(directed, PolyCollection)[0].get_offsets()) == 3


@pytest.mark.parametrize("down", [False, True])
def test_arrows_touch_the_rim_of_their_target_and_come_from_the_source(down):
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, pos=torch.tensor([[0.0, 0.0], [30.0, 40.0]]))
    ax = draw(data, image=np.zeros((60, 60)) if down else None, labels=False)
    head = of_type(ax, PolyCollection)[0]
    tip = head.get_paths()[0].vertices[0]  # in points, from the centre of the target; y on paper points up
    ends = ax.transData.transform(places(ax))
    towards = (ends[0] - ends[1]) / np.linalg.norm(ends[0] - ends[1])
    radius = np.sqrt(of_type(ax, PathCollection)[0].get_sizes()[0]) / 2
    assert np.allclose(head.get_offsets(), places(ax)[1:])
    assert np.allclose(tip / np.linalg.norm(tip), towards, atol=1e-6)
    assert radius <= np.linalg.norm(tip) <= radius + 1


def test_a_loop_is_drawn_beside_its_node():
    graph = nx.cycle_graph(4)
    graph.add_edge(2, 2)
    ax = draw(graph)
    assert np.allclose(of_type(ax, PolyCollection)[0].get_offsets(), places(ax)[[2]])


def test_positions_are_taken_as_they_are_and_lie_on_the_picture():
    pos = torch.tensor([[1.0, 2.0], [5.0, 9.0], [3.0, 0.0]])
    data = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=3, pos=pos)
    ax = draw(data, image=np.zeros((10, 6, 3)))
    assert np.allclose(places(ax), pos)
    assert ax.get_xlim() == (-0.5, 5.5) and ax.get_ylim() == (9.5, -0.5)
    assert not draw(data).yaxis_inverted()
    assert np.allclose(places(draw(data, layout=2 * pos)), 2 * pos)


def test_superpixels_stand_upright_without_their_picture():
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, pos=torch.tensor([[0.0, 0.0], [0.0, 5.0]]))
    data.segment_index = torch.tensor([0, 1])
    assert draw(data).yaxis_inverted()


def test_networkx_nodes_stay_at_their_pos():
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, {0: (0, 0), 1: (4, 1), 2: (1, 7)}, "pos")
    assert np.allclose(places(draw(graph)), [(0, 0), (4, 1), (1, 7)])


def test_general_graphs_spread_out_and_do_so_again():
    graph = nx.grid_2d_graph(8, 6)
    xy = places(draw(graph))
    edge = [np.linalg.norm(xy[i] - xy[j]) for i, j in nx.convert_node_labels_to_integers(graph).edges()]
    assert max(edge) < 1.5 * min(edge)  # not folded
    assert np.array_equal(xy, places(draw(graph)))


def test_few_nodes_are_labelled_by_id_and_many_are_not():
    assert [t.get_text() for t in draw(nx.path_graph(["a", "b", ("c", 1)])).texts] == ["a", "b", "('c', 1)"]
    assert not draw(chain(100)).texts
    assert len(draw(chain(100), labels=True).texts) == 100
    assert not draw(chain(3), labels=False).texts


@pytest.mark.parametrize(
    "labels",
    [["x", "y"], {"a": "x", "b": "y"}, {"a": "x", "b": "y"}.get, "word"],
    ids=["list", "mapping", "function", "field"],
)
def test_labels_can_be_given_in_any_handy_form(labels):
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, node_id=["a", "b"], word=["x", "y"])
    assert [t.get_text() for t in draw(data, labels=labels).texts] == ["x", "y"]


def test_colours_can_be_one_a_field_numbers_or_rgb():
    data = chain(3)
    data.heat = torch.tensor([0.0, 5.0, 2.0])
    ax = draw(data, color="heat")
    assert bar(ax).get_xlabel() == "heat" or bar(ax).get_ylabel() == "heat"
    assert len(np.unique(colours(ax), axis=0)) == 3
    assert np.allclose(colours(draw(data, color="crimson")), matplotlib.colors.to_rgba("crimson"))
    rgb = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert np.allclose(colours(draw(data, color=rgb))[:, :3], rgb, atol=1e-6)


def test_hetero_graphs_show_all_types():
    data = HeteroData()
    data["a"].num_nodes, data["b"].num_nodes = 2, 3
    data["a", "to", "b"].edge_index = torch.tensor([[0, 1, 1], [0, 1, 2]])
    ax = draw(data, "topological", layout="dag")
    assert [t.get_text() for t in ax.texts] == ["a 0", "a 1", "b 0", "b 1", "b 2"]
    assert len(of_type(ax, LineCollection)[0].get_segments()) == 3
    assert len(np.unique(colours(ax), axis=0)) == 2


def test_hetero_graphs_are_drawn_under_schedules_of_their_fields_and_with_their_ids():
    graph = nx.DiGraph([("ann", "p1"), ("bob", "p1"), ("p1", "p2")])
    data = from_networkx(graph, node_type=lambda node: "paper" if node[0] == "p" else "author")
    data["author"].time, data["paper"].time = torch.tensor([0, 0]), torch.tensor([1, 2])
    for rule in (schedule.by("time"), schedule.by(data.time_dict)):
        ax = draw(data, rule, layout="dag")
        assert [t.get_text() for t in ax.texts] == ["ann", "bob", "p1", "p2"]
        assert len(np.unique(colours(ax), axis=0)) == 3


def test_a_small_picture_has_few_colours_and_the_same_size(tmp_path):
    figure = draw(chain(9), "topological").figure
    write_small(figure, tmp_path / "small.png", dpi=100, colours=64)
    figure.savefig(tmp_path / "large.png", dpi=100)
    assert (tmp_path / "small.png").stat().st_size < 0.6 * (tmp_path / "large.png").stat().st_size
    small, large = (Image.open(tmp_path / f"{name}.png") for name in ("small", "large"))
    assert small.size == large.size and len(small.getcolors()) <= 64
    assert np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(large.convert("RGB"))).mean() < 2


def test_it_draws_where_it_is_told_and_writes_a_file(tmp_path):
    figure, axes = plt.subplots(1, 2)
    path = tmp_path / "new" / "chain.png"
    assert draw(chain(5), "topological", ax=axes[1], path=path) is axes[1]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("layout", ["auto", "chain", "tree", "dag", "general"])
def test_tiny_graphs_are_no_special_case(size, layout):
    ax = draw(Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=size), "topological", layout=layout)
    ax.figure.canvas.draw()
    assert len(places(ax)) == size and len(np.unique(places(ax), axis=0)) == size


@pytest.mark.parametrize(
    "graph",
    [nx.barabasi_albert_graph(10_000, 2, seed=0), nx.random_labeled_rooted_tree(10_000, seed=0), nx.star_graph(10_000)],
    ids=["general", "tree", "star"],
)
def test_ten_thousand_nodes_take_seconds(graph, tmp_path):
    start = time.perf_counter()
    draw(graph, level=torch.arange(len(graph)) % 40, path=tmp_path / "large.png")
    assert time.perf_counter() - start < 20


def test_a_cycle_under_topological_is_named_by_id():
    with pytest.raises(ValueError, match="b"):
        draw(nx.DiGraph([("a", "b"), ("b", "c"), ("c", "b")]), "topological")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "topological", "level": [0, 1, 2]}, "both schedule='topological' and level"),
        ({"level": [0, 1]}, r"level has shape \(2,\).*each of the 3 nodes"),
        ({"layout": "circle"}, "layout='circle' is unknown"),
        ({"layout": torch.zeros(2, 2)}, r"layout has shape \(2, 2\)"),
        ({"layout": "pos"}, "no field 'pos'"),
        ({"color": "shiny"}, "color='shiny' is neither a colour nor a field"),
        ({"color": [1.0]}, r"color has shape \(1,\)"),
        ({"labels": ["a"]}, "1 labels for 3 nodes"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        draw(chain(3), **options)


@pytest.mark.parametrize("given", [chain(3).edge_index, plan(chain(3))])
def test_what_is_no_container_is_refused_with_the_way_to_make_one(given):
    with pytest.raises(TypeError, match=rf"draw: data is a {type(given).__name__}; expected .* Wrap edges: Data\("):
        draw(given)


@pytest.mark.parametrize("layout", ["chain", "tree"])
def test_a_layout_for_another_structure_is_refused(layout):
    with pytest.raises(ValueError, match=f"layout='{layout}', but the graph with 4 nodes and 4 edges is no {layout}"):
        draw(nx.cycle_graph(4), layout=layout)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"draw: pictures need matplotlib; .*mpnn\[viz\]"):
        draw(chain(3))

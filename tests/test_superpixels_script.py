"""scripts/superpixels.py on scenes drawn here: what models see, what they learn from, and that killed runs go on."""

import json

import numpy as np
import pytest
import torch
from run_scripts import killed, load
from run_scripts import run as run_script
from torch_geometric.data import Batch

import mpnn
from mpnn.images import from_pixels

pytest.importorskip("skimage")
Image = pytest.importorskip("PIL.Image")
SIZE = 48, 64


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Sky above ground with a box on it, in noisy colours, and a corner without a label."""
    folder, generator = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for part, count in (("train", 8), ("val", 2), ("test", 3)):
        names = [f"{part}{k}" for k in range(count)]
        (folder / f"{part}.txt").write_text("\n".join(names))
        for name in names:
            label = np.zeros(SIZE, dtype=np.uint8)
            label[generator.integers(16, 32) :] = 1
            row, column = generator.integers(16, 28), generator.integers(8, 40)
            label[row : row + 14, column : column + 16] = 2
            label[:4, :4] = 3
            colours = np.array([[90, 120, 200], [110, 100, 90], [190, 60, 60], [0, 0, 0]])[label]
            noisy = (colours + generator.normal(0, 5, colours.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / f"{name}.png")
            Image.fromarray(label).save(folder / "labels" / f"{name}.png")
    known = {"class_names": ["sky", "ground", "box", "void"], "palette": [[k, k, k] for k in range(4)]}
    (folder / "classes.json").write_text(json.dumps(known | {"ignore_index": 3}))
    return folder


@pytest.fixture(scope="module")
def script():
    return load("superpixels")


@pytest.fixture
def config(script, scenes, tmp_path):
    return script.Config(
        data=scenes, out=tmp_path, superpixels=40, size=(24, 32), channels=8, hidden=8, epochs=2, network_epochs=4,
        batch_size=4,
    )  # fmt: skip


@pytest.fixture
def graphs(script, config):
    return script.load(config)[0]["test"]


def run(scenes, out, monkeypatch, *arguments):
    return run_script("superpixels", out, monkeypatch, "--data", str(scenes), *arguments)


def test_every_model_gives_a_row_with_three_metrics(scenes, tmp_path, monkeypatch, capsys):
    rows = {row["model"]: row for row in run(scenes, tmp_path, monkeypatch, "--smoke")}
    assert list(rows) == [
        "network alone", "superpixel smoothing", "GCN", "Graph LSTM", "Graph LSTM, one forget gate",
        "Graph LSTM, breadth first", "Graph LSTM without edges", "Graph LSTM, depth first",
    ]  # fmt: skip
    for row in rows.values():
        assert row["dataset"] == scenes.name and row["metric"] == "mean IoU %" and row["published"] is None
        assert 0 < row["mean"] <= 100 and 0 < row["class average"][0] <= 100 and 0 < row["pixel accuracy"][0] <= 100
    assert rows["GCN"]["levels"] == 1 < rows["Graph LSTM"]["levels"] < rows["Graph LSTM, depth first"]["levels"]
    more = rows["Graph LSTM"]["more_than"]
    assert list(more) == [name for name in rows if name != "Graph LSTM"]
    assert more["GCN"] == [pytest.approx(rows["Graph LSTM"]["by_seed"][0] - rows["GCN"]["by_seed"][0], abs=1e-3)]
    assert "Graph LSTM - Graph LSTM, depth first:" in capsys.readouterr().out


def test_the_parts_of_superpixels_and_cells_have_all_labelled_pixels_of_their_classes(script, config, graphs):
    for graph in graphs:
        y, segment = graph.y.view(SIZE), graph.segment_index.view(SIZE)
        counted = {}
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                if y[row, column] >= 0:
                    cell = (row * 12 // 48) * 16 + column * 16 // 64
                    at = cell, int(segment[row, column]), int(y[row, column])
                    counted[at] = counted.get(at, 0) + 1
        found = {
            (cell, node, k): count
            for cell, node, counts in zip(graph.cell.tolist(), graph.cell_node_index.tolist(), graph.pixels.tolist())
            for k, count in enumerate(counts)
            if count
        }
        assert found == counted


def test_confidence_is_the_mean_over_pixels_and_priority_the_highest_of_it(script, config, graphs):
    torch.manual_seed(0)
    network = script.Network(8, 3).eval()
    seen = script.as_seen(network, graphs[0])
    with torch.no_grad():
        features, scores = network(graphs[0].picture)
    spread = torch.cat([features, scores.softmax(1)], 1)[0].repeat_interleave(4, 1).repeat_interleave(4, 2)
    mean = from_pixels(graphs[0], spread.permute(1, 2, 0))
    torch.testing.assert_close(torch.cat([seen.x, seen.confidence], 1), mean, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen.priority, seen.confidence.max(1).values)


def test_orders_by_place_begin_at_the_top_left_and_visit_neighbours(script, graphs):
    for graph in graphs:
        neighbours = {i: set() for i in range(graph.num_nodes)}
        for i, j in graph.edge_index.t().tolist():
            neighbours[i].add(j)
        bfs, dfs = ([int(i) for i in torch.argsort(rank)] for rank in (graph.bfs, graph.dfs))
        first = min(range(graph.num_nodes), key=lambda i: graph.pos[i].flip(0).tolist())
        assert bfs[0] == dfs[0] == first and sorted(bfs) == sorted(dfs) == list(range(graph.num_nodes))
        hops = {first: 0}
        for i in bfs[1:]:
            hops[i] = 1 + min(hops[j] for j in neighbours[i] if j in hops)
        assert [hops[i] for i in bfs] == sorted(hops.values())
        for k in range(1, len(dfs)):  # from the node before, or where that is at an end, from the last that is not
            open_ = [i for i in dfs[:k] if neighbours[i] - set(dfs[:k])]
            assert dfs[k] in neighbours[open_[-1]]


def test_the_loss_and_the_mean_iou_are_those_of_the_pixels(script, config, graphs):
    torch.manual_seed(0)
    batch = Batch.from_data_list(graphs)
    scores, added = torch.randn(3, 3, 12, 16), torch.randn(batch.num_nodes, 3)
    pieces, pixels = script.pieces(lambda batch: (scores, added), batch)
    spread = scores.repeat_interleave(4, 2).repeat_interleave(4, 3).permute(0, 2, 3, 1).flatten(0, 2)
    spread = spread + added[batch.segment_index]
    expected = torch.nn.functional.cross_entropy(spread, batch.y.long(), ignore_index=-1)
    torch.testing.assert_close(-(pixels * pieces.log_softmax(1)).sum() / pixels.sum(), expected)
    found = script.measure(iter([(spread.argmax(1), batch.y)]), 3)
    assert script.mean_iou([(pieces, pixels)]) == pytest.approx(found["mean IoU"], rel=1e-5)


def test_a_graph_model_adds_nothing_before_it_has_learnt(script, config):
    network, parts = script.seen(config, 0)
    body = mpnn.nn.ResidualGraphLSTM(8, 2)
    model = script.Labeller(None, body, 8, 3, False)
    (batch,) = script.loaders(config, "graph-lstm", parts)["test"]
    for (found, _), (alone, _) in zip(script.labelled(model, batch), script.predicted(network, parts["test"])):
        assert torch.equal(found, alone)


def test_the_network_learns_along_where_it_is_asked_to(script, config):
    from dataclasses import replace

    network, _ = script.seen(config, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model, batches = script.train(replace(config, along=True), "graph-lstm", 0)
    moved = [name for name, value in model.network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(list(network.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "plan" not in next(iter(batches["train"]))


def test_a_killed_run_goes_on_to_the_same_result(scenes, tmp_path, monkeypatch):
    (whole,) = run(scenes, tmp_path / "whole", monkeypatch, "--smoke", "--model", "graph-lstm")
    for _ in ("in the network's second epoch", "in the first of the graph model"):
        with killed(2):
            run(scenes, tmp_path / "again", monkeypatch, "--smoke", "--model", "graph-lstm")
    (resumed,) = run(scenes, tmp_path / "again", monkeypatch, "--smoke", "--model", "graph-lstm")
    assert (resumed["mean"], resumed["class average"]) == (whole["mean"], whole["class average"])


def test_pictures_are_drawn(script, config):
    assert script.picture(config, "graph-lstm", count=2).stat().st_size > 20_000

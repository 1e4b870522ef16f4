"""The programs of the guide run as printed."""

import re
from pathlib import Path

import pytest
import torch
from torch.export import Dim, export
from torch_geometric.explain import Explainer, GNNExplainer

import mpnn

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_each_program_runs_alone(number, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    if "superpixels" in PROGRAMS[number]:
        pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[number], "guide.md", "exec"), {"__name__": "guide"})


def program(word: str) -> dict:
    """The names that the one program with this word leaves."""
    (text,) = (text for text in PROGRAMS if word in text)
    names: dict = {"__name__": "guide"}
    exec(compile(text, "guide.md", "exec"), names)
    return names


def test_the_program_on_graphs_gives_results_by_the_ids_of_networkx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = program("class Flow")
    assert names["flow"]["Inn"] == 3 and names["flow"]["Vienna"] > names["flow"]["Danube"] - 2
    assert names["upstream"][0] > 3 and (tmp_path / "out" / "rivers.png").stat().st_size > 5_000


def test_the_program_on_states_reads_the_graph_in_both_directions():
    names = program("class EdgeTreeLSTM")
    ids, cell, data = mpnn.node_ids(names["data"]), names["cell"], names["data"]
    (moved,) = torch.autograd.grad(names["h"][ids.index("lay")].sum(), cell.input.weight, retain_graph=True)
    assert names["h"].shape == names["c"].shape == names["after"].shape == (4, 8) and moved.any()
    alone = cell(data.x[[ids.index("dig")]], torch.empty(2, 0).long(), torch.empty(0, 2))[0]
    assert torch.allclose(names["h"][ids.index("dig")], alone[0], atol=1e-6)  # nothing comes before it
    assert not torch.allclose(names["after"][ids.index("dig")], alone[0], atol=1e-3)  # but after


def test_the_program_on_attention_says_the_weights_that_it_uses():
    names = program("class EdgeAttention")
    weights, (src, dst) = names["weights"], names["edges"]
    assert torch.allclose(torch.zeros(6, 4).index_add(0, dst, weights)[1], torch.ones(4))
    v = names["layer"].nodes(names["batch"].x).unflatten(1, (3, 4, 8))[:, 2]
    by_hand = torch.zeros(6, 4, 8).index_add(0, dst, weights[:, :, None] * v[src]).flatten(1)
    assert torch.allclose(by_hand, names["out"], atol=1e-6) and names["read"].shape == (2, 32)


def test_the_program_on_training_learns():
    assert program("class of a tree")["done"].best["val"] > 0.75


def test_the_program_on_torch_geometric_takes_a_whole_model_over():
    names = program("SAGEConv")
    x, edge_index = names["x"], names["edge_index"]
    for theirs, ours in zip(names["theirs"], names["ours"], strict=True):
        assert torch.allclose(theirs(x, edge_index), ours(x, edge_index), atol=1e-6)
        x = theirs(x, edge_index).relu()


def test_the_program_on_edge_types_counts_them(capsys):
    assert program("class Replies")["h"].shape == (4, 8)
    assert "4 edges (3 parent, 1 sibling), schedule topological: 3 levels" in capsys.readouterr().out


def test_the_program_on_tasks_runs():
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "beam" in text)
    exec(compile(program, "guide.md", "exec"), names)
    assert names["loss"] > 0 and len(names["best"]) == 1 and len(names["best"][0]) == 4


def test_the_program_on_sequences_tags_and_writes():
    names = program("crf.decode")
    assert names["loss"] > 0 and names["found"].shape == (10,) and names["next_word"].shape == (10, 20)
    alone = names["crf"].decode(names["scores"][4:], mpnn.graphs.chain(6).edge_index)
    assert torch.equal(alone, names["found"][4:]) and names["texts"].shape == (2, 5)


def test_the_program_on_open_and_closed_loops_runs():
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "NARX" in text)
    exec(compile(program, "guide.md", "exec"), names)
    forecast, y, ahead = names["forecast"], names["y"], names["one_step_ahead"]
    assert (forecast[:10] == y[:10]).all() and (forecast[10] - ahead[10]).abs() < 1e-5 and forecast[19] != ahead[19]


def test_the_program_on_graphs_in_time_runs():
    names = {}
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    (program,) = (text for text in programs if "GraphRecurrent" in text)
    exec(compile(program, "guide.md", "exec"), names)
    batch, cited, sensors = names["batch"], names["cited"], names["sensors"]
    assert sensors.time_index.shape[1] == 5 * 3 and sensors.space_index.shape[1] == 6 * 2
    assert batch.time.max() == 5 and batch.num_nodes == 6 * 3 + 7 and batch.time_index.shape[1] == 5 * 3 + 4
    assert names["h"].shape == names["c"].shape == (3, 8) and cited.time_index.shape[1] == 2


def test_the_program_on_pictures_runs():
    pytest.importorskip("skimage")
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "Pool" in text)
    exec(compile(program, "guide.md", "exec"), names)
    names["pixels"].sum().backward()
    assert names["pixels"].shape == (60, 80, 16) and names["network"][0].weight.grad.abs().sum() > 0


def test_the_program_on_types_of_nodes_runs(capsys):
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "HAN" in text)
    exec(compile(program, "guide.md", "exec"), names)
    assert {kind: tuple(rows.shape) for kind, rows in names["h"].items()} == {"author": (2, 8), "paper": (2, 8)}
    assert "levels=3" in capsys.readouterr().out
    assert names["z"].shape == (2, 8)
    assert names["along"]["author", "APA", "author"].edge_index.tolist() == [[0, 1], [1, 0]]


# What the guide says outside of its programs --------------------------------------------------------------------------

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 5, 5]])


class Two(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


@pytest.mark.parametrize("layer", [mpnn.nn.GCN, mpnn.nn.GAT, mpnn.nn.GATv2, mpnn.nn.GraphSAGE, mpnn.nn.MeanNetwork])
def test_synchronous_models_are_exported_once_for_all_sizes(layer):
    model = Two(layer(4, 8), layer(8, 3))
    sizes = ({0: Dim.AUTO}, {1: Dim.AUTO})
    exported = export(model, (torch.randn(6, 4), EDGES), dynamic_shapes=sizes, strict=True).module()
    for x, edge_index in [(torch.randn(6, 4), EDGES), (torch.randn(9, 4), torch.randint(9, (2, 14)))]:
        assert torch.allclose(exported(x, edge_index), model(x, edge_index), atol=1e-5)


@pytest.mark.parametrize("layer", [mpnn.nn.GCN, mpnn.nn.GAT, mpnn.nn.ChildSumTreeLSTM])
def test_a_second_run_gives_the_same_digits_on_two_threads(layer):
    threads, src = torch.get_num_threads(), torch.randint(600, (9000,))
    edge_index = torch.stack([src, (src // 200 + 1) * 200 + torch.randint(200, (9000,))])  # four levels of 200 nodes
    model, x, runs = layer(8, 16), torch.randn(800, 8), []

    def digits():
        out = model(x, edge_index)
        out = out[0] if isinstance(out, tuple) else out
        return [out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))]

    try:
        torch.set_num_threads(2)
        runs = [digits() for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


def test_the_explainer_of_torch_geometric_masks_nodes_and_a_gradient_weighs_edges():
    model = Two(mpnn.nn.GCN(4, 8), mpnn.nn.GAT(8, 3))
    config = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}
    explainer = Explainer(
        model, GNNExplainer(epochs=3), "model", config, node_mask_type="attributes", edge_mask_type=None
    )
    assert explainer(torch.randn(6, 4), EDGES, index=5).node_mask.shape == (6, 4)
    weight = torch.ones(6, requires_grad=True)
    out = model.first(torch.randn(6, 4), EDGES, weight)
    (felt,) = torch.autograd.grad(out[2].sum(), weight)
    assert felt.nonzero().flatten().tolist() == [0, 1]  # into 2, and into 1, by whose degree 1 -> 2 counts

"""The programs of the guide run as printed."""

import re
from pathlib import Path

import pytest

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


def test_the_program_on_training_learns():
    assert program("class of a tree")["done"].best["val"] > 0.75


def test_the_program_on_edge_types_counts_them(capsys):
    assert program("class Replies")["h"].shape == (4, 8)
    assert "4 edges (3 parent, 1 sibling), schedule topological: 3 levels" in capsys.readouterr().out


def test_the_program_on_tasks_runs():
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "beam" in text)
    exec(compile(program, "guide.md", "exec"), names)
    assert names["loss"] > 0 and len(names["best"]) == 1 and len(names["best"][0]) == 4


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
    batch, cited = names["batch"], names["cited"]
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

"""The programs of the guide run as printed."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


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

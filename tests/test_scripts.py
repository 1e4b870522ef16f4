"""Every script runs, and its result rows have the fields that the results file promises."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
FIELDS = {"experiment", "dataset", "model", "metric", "mean", "std", "seeds", "published", "seconds"}


def run(name: str, tmp_path: Path, monkeypatch, *arguments: str) -> list[dict]:
    """Runs a script as from the command line; its result rows."""
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--json", str(tmp_path / "rows.json"), "--out", str(tmp_path)])
    spec = importlib.util.spec_from_file_location("__main__", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "__main__", module)
    spec.loader.exec_module(module)
    return json.loads((tmp_path / "rows.json").read_text())


@pytest.mark.parametrize("model", ["gcn", "gat", "sage", "mean"])
def test_cora_learns_within_ten_epochs(model, mpnn_data, tmp_path, monkeypatch):
    (row,) = run("cora", tmp_path, monkeypatch, "--smoke", "--model", model)
    assert row.keys() >= FIELDS
    assert row["seeds"] == 2 and row["mean"] > 45  # percent; the most frequent class has 32


def test_cora_takes_the_layers_of_torch_geometric(mpnn_data, tmp_path, monkeypatch):
    (row,) = run("cora", tmp_path, monkeypatch, "--smoke", "--layers", "torch_geometric")
    assert row["model"] == "gcn (torch_geometric)" and row["mean"] > 45


def test_cora_draws_the_hidden_layer(mpnn_data, tmp_path, monkeypatch):
    run("cora", tmp_path, monkeypatch, "--seeds", "1", "--epochs", "3")
    assert (tmp_path / "cora-gcn.png").stat().st_size > 10_000


def test_molecules_gives_a_row_a_model(mpnn_data, tmp_path, monkeypatch):
    rows = run("molecules", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["linear", "without bonds", "graph network"]
    assert all(row.keys() >= FIELDS and 0 < row["mean"] < 5 for row in rows)


def test_charlm_learns_more_than_how_frequent_characters_are_and_writes(mpnn_data, tmp_path, monkeypatch):
    rows = run("charlm", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["unigram", "4-gram", "LSTM", "GRU"]
    unigram, counts, *recurrent = rows
    assert all(row.keys() >= FIELDS for row in rows) and counts["mean"] < unigram["mean"] < 5
    for row in recurrent:
        assert row["mean"] < unigram["mean"] - 0.3 and row["characters_a_second"] > 0
        assert len((tmp_path / f"charlm-{row['model'].lower()}.txt").read_text()) >= 100
    assert not list(tmp_path.rglob("*.pt"))


def test_a_missing_data_set_ends_a_script_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setenv("MPNN_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="esol_graphs.npz"):
        run("molecules", tmp_path, monkeypatch, "--smoke")


def test_the_picture_of_the_readme_is_drawn(tmp_path):
    spec = importlib.util.spec_from_file_location("levels", SCRIPTS / "levels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(str(tmp_path / "levels.png")).stat().st_size > 20_000


def test_result_files_become_a_table_with_the_command(mpnn_data, tmp_path, monkeypatch):
    run("cora", tmp_path, monkeypatch, "--smoke")
    spec = importlib.util.spec_from_file_location("results", SCRIPTS / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.main([str(tmp_path / "rows.json")])
    assert "## cora" in table and "| cora | gcn | accuracy % |" in table and "`mpnn run cora --smoke`" in table

"""What all scripts share: runs over seeds, rows, and what an epoch costs."""

import json
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mpnn
from mpnn.engine import choose
from mpnn.experiment import Options, Seconds, canvas, markdown, over_seeds, report, save, start
from mpnn.train import Fit, fit


def trained(epochs: int, rows: int = 6, before=lambda: None) -> Fit:
    model, x = nn.Linear(1, 1), torch.ones(rows, 1)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    return fit(model, [x], lambda m, x: before() or m(x).square().mean(), lambda m: {"val": 0.0}, sgd, epochs)


def test_a_row_says_what_an_epoch_of_training_costs(capsys):
    values, seconds = over_seeds(lambda seed: float(trained(3).epochs), Options(seeds=2), "regression")
    row = report("regression", "ones", "linear", "epochs", values, seconds, None, recipe={"lr": 0.1})
    assert row["mean"] == 3 and row["seconds"] == round(seconds, 1) and row["recipe"] == {"lr": 0.1}
    assert row["examples_a_second"] == pytest.approx(6 / row["epoch_seconds"], rel=0.02)
    line = capsys.readouterr().out
    assert f"; an epoch {row['epoch_seconds']:g} s, {row['examples_a_second']:g} examples a second" in line


def test_costs_are_of_the_median_epoch_of_each_seeds_last_training(monkeypatch):
    runs = [Fit(seconds=[1.0, 1.0, 9.0], examples=10), Fit(seconds=[2.0, 4.0], examples=10)]
    assert Seconds(30.0, runs).costs == {"epoch_seconds": 2.0, "examples_a_second": 5.0}
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def takes(seconds: float) -> None:
        clock[0] += seconds

    def run(seed: int) -> float:
        trained(5, rows=1000, before=lambda: takes(100.0))  # of something else, before the model
        return float(trained(1, rows=6, before=lambda: takes(2.0)).epochs)

    _, seconds = over_seeds(run, Options(seeds=3), "two trainings")
    assert seconds == 3 * 502 and seconds.costs == {"epoch_seconds": 2.0, "examples_a_second": 3.0}


def test_seconds_are_a_number_like_any_other_and_nothing_trained_costs_nothing(capsys):
    values, seconds = over_seeds(lambda seed: time.sleep(0.01) or 1.0, Options(seeds=1), "sleep")
    row = report("sleep", "none", "none", "ones", values, seconds, None)
    assert seconds > 0.01 and isinstance(seconds, float) and "epoch_seconds" not in row
    assert capsys.readouterr().out.rstrip().endswith("0 s")
    assert "epoch_seconds" not in report("sleep", "none", "none", "ones", values, 3.0, None)


def test_what_a_script_measured_itself_stands():
    _, seconds = over_seeds(lambda seed: float(trained(1).epochs), Options(seeds=1), "regression")
    assert report("a", "b", "c", "d", [1.0], seconds, None, epoch_seconds=7.0)["epoch_seconds"] == 7.0


def test_the_table_has_the_time_of_an_epoch_where_it_is_known():
    row = report("a", "b", "c", "d", [1.0], 2.0, 3.0) | {"command": "mpnn run a", "unheard_of": [1]}
    lines = markdown([row, row | {"epoch_seconds": 12.34}, row | {"epoch_seconds": 0.00512}]).splitlines()
    assert [line.split("|")[8].strip() for line in lines] == ["an epoch", "--:", "–", "12", "0.0051"]
    assert {line.count("|") for line in lines} == {10}


def test_no_run_at_all_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sst", "--seeds", "0"])
    with pytest.raises(SystemExit, match="sst: --seeds 0 asks for no run"):
        start(Options, lambda config: [])


def test_levels_are_compiled_if_that_is_asked_for(monkeypatch):
    plan, layer, seen = mpnn.plan(torch.tensor([[0], [1]]), "topological", 2), mpnn.nn.ChildSumTreeLSTM(2, 2), []
    for option in ([], ["--compile"]):
        monkeypatch.setattr("sys.argv", ["sst", *option])
        start(Options, lambda config: seen.append(choose(layer, plan)[1]) or [])
    assert ["compiled" in reason for reason in seen] == [False, True]


def test_several_rows_are_shown_as_a_table_in_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cora", "--json", str(tmp_path / "a.json")])
    one = {"dataset": "cora", "model": "gcn", "metric": "accuracy %", "mean": 81.849, "std": 0.7, "seeds": 100}
    other = one | {"model": "a longer name", "mean": 5.0, "published": None, "seconds": 1.0, "epoch_seconds": 114.2}
    start(Options, lambda config: [one | {"published": 81.5, "seconds": 315.4}, other])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "data set  model          metric        mean ± std  seeds  published  seconds  an epoch",
        "cora      gcn            accuracy %  81.85 ± 0.70    100       81.5      315         –",
        "cora      a longer name  accuracy %   5.00 ± 0.70    100          –        1       110",
        f"(results: {tmp_path / 'a.json'})",
    ]


def test_the_command_of_a_row_can_be_given_to_a_shell_again(tmp_path, monkeypatch):
    rows = [report("traffic", "one week", "last value", "MAE", [1.0], 2.0, None)]
    given = ["scripts/traffic.py", "--json", str(tmp_path / "a.json"), "--seeds", "3", "--out", str(tmp_path / "b c")]
    monkeypatch.setattr("sys.argv", given)
    start(Options, lambda config: rows)
    (row,) = json.loads((tmp_path / "a.json").read_text())
    assert row["command"] == "mpnn run traffic --seeds 3"

    @dataclass(frozen=True)
    class Config(Options):
        model: str = ""

    monkeypatch.setattr("sys.argv", [*given[:3], "--model", "last value"])
    start(Config, lambda config: rows if config.model == "last value" else [])
    (row,) = json.loads((tmp_path / "a.json").read_text())
    assert row["command"] == "mpnn run traffic --model 'last value'"


def test_other_options_have_other_checkpoints_unless_they_leave_a_run_as_it_is(tmp_path):
    @dataclass(frozen=True)
    class Config(Options):
        model: str = "all"
        data: Path = Path("here")
        sizes: tuple[int, ...] = (2, 4)

    config, folder = Config(out=tmp_path), Config(out=tmp_path).checkpoint(0).parent
    others = {"json": Path("a.json"), "data": Path("there"), "sizes": (2, 5), "model": "gcn"}
    changed = {}
    for field in fields(config):
        value = getattr(config, field.name)
        other = others[field.name] if field.name in others else not value if isinstance(value, bool) else 7
        changed[field.name] = replace(config, **{field.name: other if field.name != "out" else tmp_path / "other"})
    same = {name for name, other in changed.items() if other.checkpoint(0).parent.name == folder.name}
    assert same == {"seeds", "json", "out", "picture", "model"}
    assert changed["out"].checkpoint(0).is_relative_to(tmp_path / "other")
    assert json.loads(json.dumps(config.recipe()))["data"] == "here"
    assert len({config.checkpoint(*run) for run in ((0,), (1,), ("gcn", 0), ("gat", 0))}) == 4


def test_checkpoints_stay_until_all_results_are_written_and_those_of_others_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sst", "--out", str(tmp_path), "--json", str(tmp_path / "rows.json")])
    strangers = [replace(Options(), out=tmp_path, epochs=7).checkpoint(0)]  # of other options,
    strangers += [replace(Options(), out=tmp_path).checkpoint("another model", 0)]  # and of one that runs beside
    for path in strangers:
        path.parent.mkdir()
        path.touch()
    seen = []

    def run(config: Options) -> list[dict]:
        path = config.checkpoint("model", 0)
        seen.append(path.exists())
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.with_suffix(".part").touch()  # as of a kill while it was written
        if len(seen) == 1:
            raise KeyboardInterrupt
        return [report("a", "b", "c", "d", [1.0], 2.0, None)]

    with pytest.raises(KeyboardInterrupt):
        start(Options, run)
    assert "sst: stopped; the same command goes on from here" in capsys.readouterr().err
    start(Options, run)
    assert seen == [False, True]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "rows.json", *strangers}
    for path in strangers:
        path.unlink()
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        start(Options, run)
    start(Options, run)
    assert not strangers[1].parent.exists()  # it is empty now


def test_a_picture_is_written_into_a_folder_that_is_made(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    figure, (left, right) = canvas(1, 2, figsize=(3, 2))
    left.plot([1, 2])
    path = save(figure, tmp_path / "new" / "lines.png", dpi=80)
    assert path.stat().st_size > 1000 and str(path) in capsys.readouterr().out

"""What all scripts share: runs over seeds, rows, and what an epoch costs."""

import json
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mpnn.experiment import Options, Seconds, markdown, over_seeds, report, start
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

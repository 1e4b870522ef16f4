"""The parts of scripts/series.py: what models see, forecasts, the metric, and runs that go on."""

from dataclasses import replace

import pytest
import torch
from run_scripts import load
from sklearn.metrics import r2_score

from mpnn.train import seed_all

script = load("series")

REACH = 4
every_model = pytest.mark.parametrize("name", script.MODELS)


def wave(steps: int) -> torch.Tensor:
    step = torch.arange(steps, dtype=torch.float64)
    return torch.sin(step / 2) + 0.3 * torch.cos(step * 1.7)


def made(name: str):
    torch.manual_seed(0)
    return script.AR(REACH).fit(wave(60)) if name == "AR" else script.MODELS[name](REACH, 8).double()


@every_model
def test_no_model_sees_the_step_that_it_predicts_or_a_later_one(name):
    model, y = made(name).double(), wave(40).view(2, 20)
    for t in (REACH, 11, 19):
        other = y.clone()
        other[:, t:] += 1
        with torch.no_grad():
            before, after = model(y), model(other)
        assert torch.equal(before[:, : t + 1], after[:, : t + 1])
        assert t == 19 or not torch.allclose(before[:, t + 1], after[:, t + 1])


@every_model
def test_a_forecast_is_made_of_predictions_one_step_ahead(name):
    model, past = made(name).double(), wave(30)[None]
    with torch.no_grad():
        found, grown = model.forecast(past, 6), past
        for _ in range(6):
            grown = torch.cat([grown, model(torch.cat([grown[:, -2 * REACH :], torch.zeros(1, 1)], dim=1))[:, -1:]], 1)
    assert torch.allclose(found, grown[:, -6:], rtol=1e-10)


def test_autoregression_continues_a_wave_exactly():
    y = torch.sin(torch.arange(80.0, dtype=torch.float64) / 3)
    model = script.AR(2).double()
    model.fit(y[:60])
    assert torch.allclose(model.forecast(y[None, :60], 20)[0], y[60:], atol=1e-6)


def test_narx_learns_from_its_own_outputs():
    model, y = made("NARX"), wave(12)[None]
    own = model.forecast(y[:, :REACH], 8)
    assert torch.allclose(model.loss(y), (own - y[:, REACH:]).square().mean())


def test_the_error_of_the_mean_is_100_percent_and_others_are_in_proportion():
    true, predicted = wave(50), wave(51)[1:]
    assert script.nmse(true.mean().expand(50), true) == pytest.approx(100)
    assert script.nmse(predicted, true) == pytest.approx(100 * (1 - r2_score(true, predicted)))


def test_the_steps_to_be_predicted_are_not_among_those_that_are_learnt(monkeypatch):
    t, seen = script.Task(torch.arange(200.0), 150, 30, 200, 20, REACH, 6), []
    model = made("TDNN").float()
    monkeypatch.setattr(script.TDNN, "loss", lambda net, y: seen.append(y) or net.out[0].weight.sum())
    script.train(replace(script.Config(), epochs=3), lambda *_: model, t, None)
    assert max(float(y.max()) for y in seen if len(y) == 32) <= 119
    assert max(float(y.max()) for y in seen) <= 149


@pytest.mark.parametrize("name", ["TDNN", "NARX", "LSTM"])
def test_a_run_that_was_killed_goes_on_to_the_same_result(name, tmp_path, monkeypatch):
    t = script.Task(wave(200).float(), 150, 30, 200, 20, REACH, 6)
    config, kind = replace(script.Config(), epochs=4, hidden=8), script.MODELS[name]
    seed_all(0)
    whole = script.train(config, kind, t, tmp_path / "whole.pt")
    real, calls = kind.loss, []

    class Killed(Exception):
        pass

    def loss(model, y):
        calls.append(None)
        if len(calls) == 27:  # in the third epoch: an epoch is ten batches and the held-out windows
            raise Killed
        return real(model, y)

    monkeypatch.setattr(kind, "loss", loss)
    seed_all(0)
    with pytest.raises(Killed):
        script.train(config, kind, t, tmp_path / "broken.pt")
    monkeypatch.setattr(kind, "loss", real)
    seed_all(9)
    resumed = script.train(config, kind, t, tmp_path / "broken.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))

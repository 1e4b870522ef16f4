"""scripts/traffic.py: what a model sees and what it is scored on."""


import pytest
import torch
from run_scripts import load
from torchmetrics.functional.regression import mean_absolute_percentage_error

from mpnn.nn import GCN, GraphRecurrent


@pytest.fixture(scope="module")
def traffic():
    return load("traffic")


def task(traffic, x, missing=0.0):
    edges = torch.tensor([[0, 1, 1], [1, 0, 1]])
    relative = ("MAPE %", mean_absolute_percentage_error)
    return traffic.Task(x, edges, torch.rand(3), 3, 2, {"1": 1, "2": 2}, 10, missing, "mph", relative)


def test_windows_of_the_parts_follow_each_other_and_nothing_of_the_test_is_seen_before(traffic):
    t = task(traffic, torch.rand(50, 2) + 1)
    steps = torch.arange(50)
    seen = {part: traffic.before(steps, t.starts(part), t.given).unique().tolist() for part in t.cuts}
    asked = {part: traffic.after(steps, t.starts(part), t.asked).unique().tolist() for part in t.cuts}
    assert asked["train"] == list(range(3, 35)) and seen["train"] == list(range(33))
    assert asked["val"] == list(range(35, 40)) and asked["test"] == list(range(40, 50))
    later = t.x.clone()
    later[35:] = 100.0
    assert all(torch.equal(a, b) for a, b in zip(t.scale, task(traffic, later).scale, strict=True))
    assert torch.equal(traffic.mean(t, t.starts("test")), traffic.mean(task(traffic, later), t.starts("test")))


def test_missing_values_count_neither_in_the_scale_nor_in_the_inputs_nor_in_the_errors(traffic):
    x = torch.full((50, 2), 4.0)
    x[::2, 0] = 6.0
    x[7:13, 1] = x[44, 0] = 0.0
    t = task(traffic, x)
    there = x[:35][x[:35] != 0]
    assert torch.equal(t.scale[0], there.mean()) and torch.equal(t.scale[1], there.std())
    assert (t.inputs()[7:13, 1, 0] == 0).all() and t.inputs()[0, 0, 0] == (6 - there.mean()) / there.std()
    starts = t.starts("test")
    found = traffic.scores(t, traffic.after(x, starts, 2) + 1, starts)
    expected = 100 * (1 / x[40:49][x[40:49] != 0]).mean()
    assert found["MAE, 1"] == pytest.approx(1) and found["RMSE, 2"] == pytest.approx(1)
    assert found["MAPE %, 1"] == pytest.approx(float(expected))
    assert traffic.mean(t, starts)[0, 0, 1] == 4


def test_the_last_value_is_the_one_before_the_start(traffic):
    t = task(traffic, torch.arange(100.0).view(50, 2))
    assert traffic.last_value(t, torch.tensor([5, 9])).tolist() == [[[8, 9]] * 2, [[16, 17]] * 2]


@pytest.mark.parametrize("name", ["LSTM", "GCN", "Chebyshev", "diffusion"])
def test_a_window_is_predicted_alike_alone_and_among_others_and_in_order_of_time(traffic, name):
    t = task(traffic, torch.rand(50, 2))
    torch.manual_seed(0)
    model, x = traffic.network(name, t, 4).double(), torch.randn(5, 3, 2, 3, dtype=torch.float64)
    model.graph = None if model.graph is None else (model.graph[0], model.graph[1].double())
    together = model(x)
    assert together.shape == (5, 2, 2)
    torch.testing.assert_close(together, torch.cat([model(one) for one in x.split(1)]), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(model(x.flip(1)), together)
    other = x.clone()
    other[:, 0, 1] += 1  # the other node, long ago
    assert torch.allclose(model(other)[:, :, 0], together[:, :, 0]) == (name == "LSTM")


def test_weights_belong_to_their_edges_in_every_window_and_step(traffic):
    t = task(traffic, torch.rand(50, 2))
    model = traffic.Forecaster(t, GraphRecurrent(GCN, "lstm", 3, 4), 4, (t.edge_index, torch.tensor([1.0, 2.0, 3.0])))
    given = model._edges(2)
    src, dst = given["edge_index"]["space"]
    known = {(0, 1): 1.0, (1, 0): 2.0, (1, 1): 3.0}
    expected = [known[j % 2, i % 2] for j, i in zip(src.tolist(), dst.tolist(), strict=True)]
    assert given["edge_weight"].tolist() == expected and len(src) == 2 * 3 * 3

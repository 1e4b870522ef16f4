"""Forecasts at the nodes of a graph: speeds on the roads of Los Angeles, and chickenpox in the counties of Hungary.

Data: one week of METR-LA, 207 sensors every five minutes (Li et al. 2018, arXiv:1707.01926); weekly changes of
chickenpox cases in 20 counties, 2005 to 2014 (Rozemberczki et al. 2021, arXiv:2102.08100). From the last hour of
speeds the next one is predicted, and from the last four weeks the next four. Time is cut at 70 and 80 %: the first part
trains (mean and deviation of the inputs are taken there), the next chooses the epoch, the last is the test. A value 0
is a missing speed and counts neither in the loss nor in the errors (this week's gaps were filled by its source, so
there is none). Inputs are the values and the time of day, or of the year.

MAE and RMSE are in mph, and in deviations of the weekly change; MAPE in percent. Changes of cases are close to 0 as
often as not, so there the errors are divided by the mean size of the values instead (WMAPE). On the four months of
METR-LA DCRNN has MAE 2.67 / 3.08 / 3.56 and RMSE 5.17 / 6.30 / 7.52 at 15 / 30 / 60 minutes (README of
liyaguang/DCRNN); of this week no published figure could be verified.

All networks are one recurrent layer and a linear output for all steps at once. An LSTM at each node sees no other node;
GraphRecurrent is the same LSTM with a graph layer in the place of each product: GCN and Chebyshev filters on the roads
without their directions, diffusion along and against them. The picture has one sensor, the one whose speed varies most
in the training part, beside what was predicted for it 15 and 60 minutes before.

MAE on the roads at 15 / 30 / 60 minutes, two seeds of five epochs: last value 3.56 / 4.37 / 5.76, LSTM 3.19 / 3.90 /
5.01, GCN 3.44 / 4.14 / 5.21, Chebyshev 3.12 / 3.76 / 4.80, diffusion 3.10 / 3.73 / 4.73. GCN, whose gates see a mean of
the node and its neighbours and never the node itself, is worse than no neighbours. Chickenpox, three seeds, MAE one
week ahead: last value 1.12, mean 0.65, LSTM 0.52, GCN 0.56, Chebyshev 0.52, diffusion 0.53. Changes swing back, which
each county's own past tells; two and four weeks ahead nothing is better than the mean. On two busy cores
a run of five epochs on the roads took 4 minutes (LSTM) to 10, and one on chickenpox under one::

    mpnn run traffic --dataset all --json out/traffic.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.utils import remove_self_loops, to_undirected
from torchmetrics.functional.regression import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    weighted_mean_absolute_percentage_error,
)

import mpnn
from mpnn.experiment import Options, canvas, over_seeds, report, save, spread, start
from mpnn.spacetime import relations, snapshots
from mpnn.train import Shuffled, fit


@dataclass(frozen=True)
class Config(Options):
    """Forecasts at the nodes of a graph."""

    seeds: int = 3
    """Runs, with seeds 0, 1, ..."""
    epochs: int | None = None
    """The most epochs of a run; unless given, 5 on METR-LA and 30 on chickenpox."""
    patience: int = 10
    """Epochs without a better validation figure after which a run stops."""
    dataset: Literal["metr-la-week", "chickenpox", "all"] = "all"
    """Data set."""
    model: Literal["last value", "mean", "LSTM", "GCN", "Chebyshev", "diffusion", "all"] = "all"
    """Model."""
    hidden: int = 32
    """Units of the recurrent layer."""
    lr: float = 1e-2
    """Learning rate of Adam at the start; it falls to 0 by a cosine."""
    batch: int = 16
    """Windows in a batch."""


@dataclass(frozen=True)
class Task:
    """A graph with a series at each node, and what is asked of it.

    Attributes:
        x: ``(T, N)``, a row a step.
        edge_index, edge_weight: the graph, with its loops.
        given, asked: how many steps a model sees, and how many it predicts.
        horizons: those that are looked at, by name.
        period: steps after which days, or years, begin anew.
        missing: the value that stands for none; None if all are there.
        unit: of the values.
        relative: the third metric, by its name.
    """

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor
    given: int
    asked: int
    horizons: dict[str, int]
    period: float
    missing: float | None
    unit: str
    relative: tuple[str, Callable[[Tensor, Tensor], Tensor]]

    @property
    def cuts(self) -> dict[str, tuple[int, int]]:
        """Where the steps to be predicted lie in each part; training windows lie there as a whole."""
        a, b, end = int(0.7 * len(self.x)), int(0.8 * len(self.x)), len(self.x)
        return {"train": (self.given, a), "val": (a, b), "test": (b, end)}

    @property
    def present(self) -> Tensor:
        return torch.ones_like(self.x, dtype=torch.bool) if self.missing is None else self.x != self.missing

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of what is there in the training part."""
        a = self.cuts["train"][1]
        values = self.x[:a][self.present[:a]]
        return values.mean(), values.std()

    def scaled(self) -> Tensor:
        """The values, 0 where they are missing."""
        mean, std = self.scale
        return (self.x - mean) / std * self.present

    def inputs(self) -> Tensor:
        """``(T, N, 3)``: the scaled values; sine and cosine of the time."""
        turn = torch.arange(len(self.x)) * (2 * torch.pi / self.period)
        clock = torch.stack([turn.sin(), turn.cos()], dim=1).unsqueeze(1).expand(-1, self.x.shape[1], -1)
        return torch.cat([self.scaled().unsqueeze(2), clock], dim=2)

    def starts(self, part: str) -> Tensor:
        """The first step to be predicted, of each window of a part."""
        first, end = self.cuts[part]
        return torch.arange(first, end - self.asked + 1)


def task(name: str) -> Task:
    data = mpnn.datasets.load(name)
    graph = data.edge_index, data.edge_weight if "edge_weight" in data else torch.ones(data.num_edges)
    if name == "metr-la-week":
        horizons, relative = {"15 minutes": 3, "30 minutes": 6, "60 minutes": 12}, mean_absolute_percentage_error
        return Task(data.x.t(), *graph, 12, 12, horizons, 288, 0.0, "mph", ("MAPE %", relative))
    horizons, relative = {"1 week": 1, "2 weeks": 2, "4 weeks": 4}, weighted_mean_absolute_percentage_error
    return Task(data.x.t(), *graph, 4, 4, horizons, 365.25 / 7, None, "deviations", ("WMAPE %", relative))


def before(series: Tensor, starts: Tensor, steps: int) -> Tensor:
    """The steps before each start: ``(B, steps, ...)``."""
    return series[starts[:, None] + torch.arange(-steps, 0)]


def after(series: Tensor, starts: Tensor, steps: int) -> Tensor:
    """The steps from each start on: ``(B, steps, ...)``."""
    return series[starts[:, None] + torch.arange(steps)]


# Models ---------------------------------------------------------------------------------------------------------------


class Forecaster(nn.Module):
    """A recurrent layer through time, and a linear output from the last state and the last inputs: of windows of inputs
    ``(B, given, N, 3)`` the scaled values of the steps after them, ``(B, asked, N)``.

    ``graph``: edge_index and edge_weight of the graph that the layer looks along; None if no node sees another.
    """

    def __init__(self, t: Task, layer: nn.Module, hidden: int, graph: tuple[Tensor, Tensor] | None = None):
        super().__init__()
        self.layer, self.graph, self.shape, self.known = layer, graph, (t.given, t.x.shape[1]), {}
        self.out = nn.Linear(hidden + 3, t.asked)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in self.known:
            self.known[len(x)] = self._edges(len(x))  # kept, so that they are planned once
        h = self.layer(x.flatten(0, 2), **self.known[len(x)])
        h = (h[0] if isinstance(h, tuple) else h).view(*x.shape[:3], -1)
        return self.out(torch.cat([h[:, -1], x[:, -1]], dim=2)).transpose(1, 2)

    def _edges(self, count: int) -> dict:
        """The edges, and their weights, of so many windows side by side."""
        steps, nodes = self.shape
        edge_index, weight = self.graph or (torch.empty(2, 0, dtype=torch.long), None)
        window = snapshots([torch.empty(nodes, 0)] * steps, [edge_index] * steps)
        every = Batch.from_data_list([window] * count)
        if weight is None:
            return {"edge_index": every.time_index}
        return {"edge_index": relations(every), "edge_weight": weight.repeat(count * steps)}


def network(name: str, t: Task, hidden: int) -> Forecaster:
    if name == "LSTM":
        return Forecaster(t, mpnn.nn.LSTM(3, hidden), hidden)
    undirected = to_undirected(t.edge_index, t.edge_weight, reduce="max")
    conv, graph = {
        "GCN": (mpnn.nn.GCN, undirected),
        "Chebyshev": (partial(mpnn.nn.Chebyshev, terms=3), remove_self_loops(*undirected)),
        "diffusion": (partial(mpnn.nn.Diffusion, steps=2), (t.edge_index, t.edge_weight)),
    }[name]
    return Forecaster(t, mpnn.nn.GraphRecurrent(conv, "lstm", 3, hidden), hidden, graph)


def last_value(t: Task, starts: Tensor) -> Tensor:
    return before(t.x, starts, 1).expand(-1, t.asked, -1)


def mean(t: Task, starts: Tensor) -> Tensor:
    """Each node's mean of the training part."""
    known = t.present[: t.cuts["train"][1]]
    values = (t.x[: len(known)] * known).sum(0) / known.sum(0).clamp(min=1)
    return values.expand(len(starts), t.asked, -1)


BASELINES = {"last value": last_value, "mean": mean}
EPOCHS = {"metr-la-week": 5, "chickenpox": 30}
NETWORKS = ("LSTM", "GCN", "Chebyshev", "diffusion")


# Training and scores --------------------------------------------------------------------------------------------------


def train(config: Config, name: str, t: Task, checkpoint: Path) -> tuple[Callable[[Tensor], Tensor], dict]:
    """One run: what predicts from starts of windows, at the best validation epoch, and that epoch's figures."""
    model, inputs, (centre, spread) = network(name, t, config.hidden), t.inputs(), t.scale
    target, present = t.scaled(), t.present
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)

    def predict(starts: Tensor) -> Tensor:
        windows = [model(before(inputs, some, t.given)) for some in starts.split(config.batch)]
        return torch.cat(windows) * spread + centre

    def loss(model: Forecaster, batch: tuple[Tensor]) -> Tensor:
        (starts,) = batch
        error = model(before(inputs, starts, t.given)) - after(target, starts, t.asked)
        counts = after(present, starts, t.asked)
        return (error.abs() * counts).sum() / counts.sum().clamp(min=1)

    def evaluate(_: Forecaster) -> dict[str, float]:
        found = scores(t, predict(t.starts("val")), t.starts("val"))
        return {"val": -fmean(value for metric, value in found.items() if metric.startswith("MAE"))}

    starts = t.starts("train")[: 64 if config.smoke else None]
    done = fit(
        model, Shuffled(config.batch, starts), loss, evaluate, optimizer, config.epochs,
        patience=config.patience, clip=5.0, schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    return predict, done.best


def scores(t: Task, predicted: Tensor, starts: Tensor) -> dict[str, float]:
    """The three metrics at each horizon, over the values that are there."""
    true, present, found = after(t.x, starts, t.asked), after(t.present, starts, t.asked), {}
    for horizon, step in t.horizons.items():
        known = present[:, step - 1]
        pair = predicted[:, step - 1][known].contiguous(), true[:, step - 1][known].contiguous()
        found[f"MAE, {horizon}"] = float(mean_absolute_error(*pair))
        found[f"RMSE, {horizon}"] = float(mean_squared_error(*pair, squared=False))
        found[f"{t.relative[0]}, {horizon}"] = 100 * float(t.relative[1](*pair))
    return found


def experiment(config: Config, t: Task, name: str) -> tuple[dict, Tensor]:
    """All seeds of one model; its row, and the last seed's predictions of the test part."""
    starts, about, last = t.starts("test"), [], []

    def run(seed: int) -> float:
        best = {}
        if name in BASELINES:
            predicted = BASELINES[name](t, starts)
        else:
            predict, best = train(config, name, t, config.checkpoint(name, seed))
            with torch.no_grad():
                predicted = predict(starts)
        last[:] = [predicted]
        about.append(scores(t, predicted, starts) | {name: best[name] for name in ("val", "epoch") if best})
        return about[-1][headline]

    headline = f"MAE, {next(iter(t.horizons))}"
    once = replace(config, seeds=1) if name in BASELINES else config
    values, seconds = over_seeds(run, once, f"{config.dataset} {name}")
    figures = {metric: spread([found[metric] for found in about], 4) for metric in about[0]}
    row = report(
        "traffic", config.dataset, name, headline.replace("MAE", f"MAE {t.unit}"), values, seconds, None,
        figures=figures, runs=about, recipe=config.recipe(),
    )  # fmt: skip
    print("    " + ", ".join(f"{metric} {value['mean']:.3f}" for metric, value in figures.items()))
    return row, last[0]


def picture(config: Config, t: Task, shown: dict[str, Tensor]) -> None:
    """One sensor over the test part, and what was predicted for it at the first and at the last horizon."""
    node, starts = int(t.x[: t.cuts["train"][1]].std(0).argmax()), t.starts("test")
    first, *_, last = t.horizons.items()
    figure, panels = canvas(2, 1, figsize=(13, 7), sharex=True)
    for (horizon, step), axes in zip((first, last), panels, strict=True):
        when = starts + step - 1
        axes.plot(when, t.x[when, node], color="0.6", linewidth=2.5, label="true")
        for name, predicted in shown.items():
            wide = {"linewidth": 0.7, "linestyle": ":"} if name in BASELINES else {"linewidth": 1}
            axes.plot(when, predicted[:, step - 1, node], label=name, **wide)
        axes.set(title=f"{config.dataset}, node {node}: predicted {horizon} before", ylabel=t.unit)
    panels[0].legend(loc="lower left", ncols=4, fontsize=8)
    panels[1].set_xlabel("step")
    figure.tight_layout()
    save(figure, config.out / f"traffic-{config.dataset}.png", dpi=100)


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, dataset="chickenpox" if config.dataset == "all" else config.dataset)
    rows = []
    for dataset in ["metr-la-week", "chickenpox"] if config.dataset == "all" else [config.dataset]:
        chosen, t, shown = replace(config, dataset=dataset, epochs=config.epochs or EPOCHS[dataset]), task(dataset), {}
        for name in [*BASELINES, *NETWORKS] if config.model == "all" else [config.model]:
            row, predicted = experiment(chosen, t, name)
            rows.append(row)
            if name != "mean":
                shown[name] = predicted
        if config.picture and shown:
            picture(chosen, t, shown)
    return rows


if __name__ == "__main__":
    start(Config, main)

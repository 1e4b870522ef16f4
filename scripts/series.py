"""Forecasts of two series, a chaotic laser and monthly sunspots: autoregression, TDNN, NARX and LSTM.

Data: series A of the Santa Fe competition (Weigend & Gershenfeld 1994), 1,000 steps given and the next 100 to be
predicted; mean monthly sunspots, 1749 to 1983, of which 1950 and later are predicted (11 years in one go). Errors are
squared errors in percent of the variance of the true values (NMSE x 100; 100 is the error of their mean): one step
ahead, each step from the true values before it; and for all steps at once, each from the model's own predictions. In a
chaotic series the second depends on the seed as much as on the model. No published figure could be verified.

TDNN and LSTM learn to predict the next step; NARX learns in the closed loop, from its own outputs. The best epoch is
that with the least loss on held-out windows from the end of the given part. Pictures of predictions beside the truth
go to ``out/``. On the laser TDNN and LSTM are best one step ahead, and NARX, which learnt to go on alone, in one go.
On sunspots none is better than autoregression one step ahead, or than the mean over 11 years in one go. Five seeds of
all models took 16 minutes on the laser, on two busy cores, and 4 on sunspots::

    mpnn run series --dataset all --json out/series.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.experiment import Options, canvas, over_seeds, report, save, start
from mpnn.graphs import chain, delays
from mpnn.train import fit


@dataclass(frozen=True)
class Config(Options):
    """Forecasts of series by models that look back."""

    seeds: int = 5
    epochs: int = 60
    patience: int = 60
    dataset: Literal["santafe-laser", "sunspots", "all"] = "all"
    """Data set."""
    model: Literal["AR", "TDNN", "NARX", "LSTM", "all"] = "all"
    """Model."""
    hidden: int = 32
    """Units of each hidden layer."""
    lr: float = 1e-2
    """Learning rate of Adam at the start; it falls to 0 by a cosine."""
    batch: int = 32
    """Windows in a batch; an epoch is ten batches."""


@dataclass(frozen=True)
class Task:
    """A series, standardised by its given part, and what is asked of it.

    Attributes:
        y: ``(N,)``.
        first: the first step to be predicted; those before are given.
        held_out: how many of the given steps choose the epoch.
        last: the end of what is predicted one step ahead.
        steps: how many steps are predicted in one go.
        reach: how many steps back a model looks.
        horizon: how many steps a training window has after these.
    """

    y: Tensor
    first: int
    held_out: int
    last: int
    steps: int
    reach: int
    horizon: int


def task(name: str) -> Task:
    data = mpnn.datasets.load(name)
    y = data.x[:, 0]
    if name == "santafe-laser":
        shape = dict(first=1000, held_out=150, last=1100, steps=100, reach=25, horizon=25)
    else:
        first = data.date.index("1950-01")
        shape = dict(first=first, held_out=240, last=len(y), steps=132, reach=36, horizon=24)
    given = y[: shape["first"]]
    return Task((y - given.mean()) / given.std(), **shape)


# Models: of y (B, W), what they predict of each step from the steps before it, (B, W) ---------------------------------


@cache
def sequences(count: int, length: int, reach: int) -> SimpleNamespace:
    """That many chains side by side, the windows on them, and their plans: in the closed loop the first ``reach`` steps
    are known, and fire at once."""
    graph = Batch.from_data_list([chain(length)] * count)
    edge_index, delay = delays(graph.edge_index, range(1, reach + 1))
    windows = Data(edge_index=edge_index, num_nodes=graph.num_nodes)
    step = torch.arange(length).repeat(count)
    return SimpleNamespace(
        chain=mpnn.plan(graph, "topological"),
        open=mpnn.plan(windows, "synchronous"),
        closed=mpnn.plan(windows, mpnn.schedule.by((step - reach + 1).clamp(min=0))),
        delay=delay,
        known=step < reach,
    )


def predicts_next(out: Tensor, y: Tensor) -> Tensor:
    """What a step says of the next one, moved to that one."""
    return F.pad(out.view_as(y)[:, :-1], (1, 0))


class Forecaster(nn.Module):
    """A model and how far it looks back. ``layer`` and ``out`` are given the series as one column."""

    def __init__(self, reach: int):
        super().__init__()
        self.reach = reach

    def loss(self, y: Tensor) -> Tensor:
        return F.mse_loss(self(y)[:, self.reach :], y[:, self.reach :])

    def forecast(self, past: Tensor, steps: int) -> Tensor:
        """The steps after the past ``(B, W)``, each from the predictions before it."""
        for _ in range(steps):
            past = torch.cat([past, self(F.pad(past[:, -2 * self.reach :], (0, 1)))[:, -1:]], dim=1)
        return past[:, -steps:]


class TDNN(Forecaster):
    def __init__(self, reach: int, hidden: int):
        super().__init__(reach)
        self.layer = mpnn.nn.TDNN(1, hidden, delays=reach - 1)
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, y: Tensor) -> Tensor:
        g = sequences(*y.shape, self.reach)
        return predicts_next(self.out(self.layer(y.reshape(-1, 1), g.open, g.delay)), y)


class LSTM(Forecaster):
    def __init__(self, reach: int, hidden: int):
        super().__init__(reach)
        self.layer, self.out = mpnn.nn.LSTM(1, hidden), nn.Linear(hidden, 1)

    def forward(self, y: Tensor) -> Tensor:
        h, _ = self.layer(y.reshape(-1, 1), sequences(*y.shape, self.reach).chain)
        return predicts_next(self.out(h), y)


class NARX(Forecaster):
    """Without inputs, x has no columns; outputs are true in the open loop, its own in the closed one."""

    def __init__(self, reach: int, hidden: int):
        super().__init__(reach)
        self.layer = mpnn.nn.NARX(0, hidden, 1, input_delays=0, output_delays=reach)

    def forward(self, y: Tensor, closed: bool = False) -> Tensor:
        g, column = sequences(*y.shape, self.reach), y.reshape(-1, 1)
        plan, known = (g.closed, g.known) if closed else (g.open, None)
        return self.layer(column[:, :0], plan, g.delay, column, known).view_as(y)

    def loss(self, y: Tensor) -> Tensor:
        return F.mse_loss(self(y, closed=True)[:, self.reach :], y[:, self.reach :])

    def forecast(self, past: Tensor, steps: int) -> Tensor:
        return self(F.pad(past[:, -self.reach :], (0, steps)), closed=True)[:, -steps:]


class AR(Forecaster):
    def __init__(self, reach: int):
        super().__init__(reach)
        self.layer = mpnn.nn.AR(reach)

    def fit(self, y: Tensor) -> AR:
        self.layer.fit(y.unsqueeze(1), *delays(chain(len(y)).edge_index, range(1, self.reach + 1)))
        return self

    def forward(self, y: Tensor) -> Tensor:
        g = sequences(*y.shape, self.reach)
        return self.layer(y.reshape(-1, 1), g.open, g.delay).view_as(y)


# Training and scores --------------------------------------------------------------------------------------------------


class Windows:
    """Ten batches an epoch, of windows that begin anywhere; drawn from torch's own generator."""

    def __init__(self, y: Tensor, length: int, batch: int):
        self.all, self.batch = y.unfold(0, length, 1), batch

    def __len__(self) -> int:
        return 10

    def __iter__(self):
        for _ in range(len(self)):
            yield self.all[torch.randint(len(self.all), (self.batch,))]


def train(config: Config, kind: type[Forecaster], t: Task, checkpoint: Path) -> Forecaster:
    model, length, end = kind(t.reach, config.hidden), t.reach + t.horizon, t.first - t.held_out
    held_out = t.y[end - t.reach : t.first].unfold(0, length, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    fit(
        model, Windows(t.y[:end], length, config.batch), lambda net, y: net.loss(y),
        lambda net: {"val": -float(net.loss(held_out))}, optimizer, config.epochs, patience=config.patience, clip=1.0,
        schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    return model


def nmse(predicted: Tensor, true: Tensor) -> float:
    """The squared error in percent of the variance."""
    return float((predicted - true).square().mean() / true.var(correction=0) * 100)


@torch.no_grad()
def predictions(model: Forecaster, t: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """What is predicted and what is true, one step ahead and in one go."""
    past, context = t.y[None, : t.first], 2 * t.reach
    one = model(t.y[None, t.first - context : t.last])[0, context:]
    several = model.forecast(past, t.steps)[0]
    return {
        "one step ahead": (one, t.y[t.first : t.last]),
        f"{t.steps} steps in one go": (several, t.y[t.first : t.first + t.steps]),
    }


def experiment(config: Config, dataset: str, name: str) -> tuple[list[dict], dict]:
    """All seeds of one model on one series; its rows, and the last seed's predictions."""
    t, scores, shown = task(dataset), {}, {}

    def run(seed: int) -> float:
        if name == "AR":
            model = AR(t.reach).fit(t.y[: t.first])
        else:
            model = train(config, MODELS[name], t, config.checkpoint(dataset, name, seed))
        shown.update(predictions(model, t))
        for metric, pair in shown.items():
            scores.setdefault(metric, []).append(nmse(*pair))
        return scores["one step ahead"][-1]

    _, seconds = over_seeds(run, replace(config, seeds=1) if name == "AR" else config, f"{dataset} {name}")
    return [
        report("series", dataset, name, f"NMSE %, {metric}", values, seconds, None, runs=values, recipe=config.recipe())
        for metric, values in scores.items()
    ], shown


MODELS = {"AR": AR, "TDNN": TDNN, "NARX": NARX, "LSTM": LSTM}


def picture(config: Config, dataset: str, shown: dict[str, dict]) -> Path:
    """Each model's predictions beside the truth: one step ahead at the left, in one go at the right."""
    figure, rows = canvas(len(shown), 2, figsize=(13, 2.2 * len(shown)), squeeze=False)
    for (name, both), row in zip(shown.items(), rows, strict=True):
        for (metric, (predicted, true)), axes in zip(both.items(), row, strict=True):
            axes.plot(true, color="0.6", linewidth=2, label="true")
            axes.plot(predicted, color="tab:red", linewidth=1, label=f"{name}, {metric}")
            spread = float(true.max() - true.min())
            axes.set_ylim(float(true.min()) - 0.3 * spread, float(true.max()) + 0.3 * spread)
            axes.legend(loc="upper right", fontsize=8)
            axes.set_title(f"{dataset}, {name}: error {nmse(predicted, true):.1f} % of the variance", fontsize=9)
    figure.tight_layout()
    return save(figure, config.out / f"series-{dataset}.png", dpi=100)


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2)
    results = []
    for dataset in ["santafe-laser", "sunspots"] if config.dataset == "all" else [config.dataset]:
        shown = {}
        for name in MODELS if config.model == "all" else [config.model]:
            rows, shown[name] = experiment(config, dataset, name)
            results += rows
        if config.picture:
            picture(config, dataset, shown)
    return results


if __name__ == "__main__":
    start(Config, main)

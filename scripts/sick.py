"""How related two sentences are (SICK, from 1 to 5), read from a vector of each.

Paper: Tai, Socher & Manning 2015 (arXiv:1503.00075), section 5.2. Pearson's r x 100 on the test pairs, mean squared
error in brackets: dependency Tree-LSTM 86.76 (0.2532), bidirectional LSTM 85.67 (0.2736), LSTM 85.28 (0.2831). Beside
the constituency Tree-LSTM stands the figure of a public re-implementation, 85.37 (see ``mpnn datasets sick``).

Recipe of the paper: frozen GloVe vectors, Adagrad with rate 0.05, batches of 25 pairs, L2 of 1e-4, 150 units (142 in
the constituency Tree-LSTM), a hidden layer of 50; ten epochs, as in the authors' code. The epoch with the best
Pearson's r on the validation pairs counts. Deviations: what is evaluated are running means of the weights, with decay
0.99 a step (``--average 0`` turns this off); the two directions of the bidirectional LSTM do not share weights; words
without a vector, the comma and five rare ones, have zeros.

With five seeds: dependency Tree-LSTM 87.0 +- 0.4 (0.248), constituency 85.8 +- 0.3, LSTM 85.1 +- 0.5, bidirectional
85.8 +- 0.3, the mean of the words 77.9 +- 0.1. An epoch of the dependency Tree-LSTM takes 3 s of one core; five seeds
took 15 minutes on a busy machine::

    mpnn run sick --model dependency --json out/sick-dependency.json
    mpnn run sick --json out/sick.json
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_geometric.data import Data
from torchmetrics.functional import mean_squared_error, pearson_corrcoef, spearman_corrcoef

import mpnn
from mpnn.datasets import Vocabulary, sick
from mpnn.experiment import Options, canvas, over_seeds, report, save, spread, start
from mpnn.loader import DataLoader
from mpnn.train import fit

SCORES = torch.arange(1.0, 6.0)
HIDDEN = 50


@dataclass(frozen=True)
class Config(Options):
    """Relatedness of sentences by Tree-LSTMs."""

    seeds: int = 5
    epochs: int = 10
    patience: int = 10
    model: Literal["mean", "lstm", "bilstm", "constituency", "dependency", "all"] = "all"
    """What makes a vector of a sentence."""
    lr: float = 0.05
    """Learning rate of Adagrad."""
    weight_decay: float = 1e-4
    """Weight of the squared parameters in the loss, times two."""
    batch_size: int = 25
    """Pairs in a batch."""
    average: float = 0.99
    """Decay, a step, of the running means of the weights, which are what is evaluated; 0 for the weights themselves."""


class Top(nn.Module):
    """A sentence is the state of its root, after a pass from the leaves."""

    def __init__(self, layer: nn.Module, *fields: str):
        super().__init__()
        self.layer, self.fields = layer, fields

    def forward(self, x: Tensor, batch) -> Tensor:
        h, _ = self.layer(x, batch.plan, *(batch[field] for field in self.fields))
        return h[batch.root_index]


class BothEnds(nn.Module):
    """A sentence is the last state of the way forward and that of the way back."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, batch) -> Tensor:
        (forward, backward) = self.layer(x, batch.plan)[0].chunk(2, dim=1)
        return torch.cat([forward[batch.root_index], backward[batch.first_index]], dim=1)


class Mean(nn.Module):
    """A sentence is the mean of its words."""

    def __init__(self):
        super().__init__()
        self.pool = mpnn.nn.GraphReadout("mean")

    def forward(self, x: Tensor, batch) -> Tensor:
        return self.pool(x, 2 * batch.batch + batch.sentence, 2 * batch.num_graphs)


@dataclass(frozen=True)
class Model:
    """How a pair is seen, what encodes its sentences from vectors of some width, and how wide a sentence's vector is;
    published are Pearson's r x 100, Spearman's rho x 100 and the mean squared error.
    """

    name: str
    view: Callable[[Data], Data]
    encoder: Callable[[int], nn.Module]
    width: int
    published: tuple[float | None, float | None, float | None] = (None, None, None)


MODELS = {
    "mean": Model("mean of the words", sick.chain, lambda n: Mean(), 300),
    "lstm": Model("LSTM", sick.chain, lambda n: Top(mpnn.nn.LSTM(n, 150)), 150, (85.28, 79.11, 0.2831)),
    "bilstm": Model(
        "bidirectional LSTM", sick.chain, lambda n: BothEnds(mpnn.nn.LSTM(n, 150, bidirectional=True)), 300,
        (85.67, 79.66, 0.2736),
    ),
    "constituency": Model(
        "constituency Tree-LSTM", sick.constituency, lambda n: Top(mpnn.nn.NaryTreeLSTM(n, 142), "child"), 142,
        (85.37, 79.37, None),
    ),
    "dependency": Model(
        "dependency Tree-LSTM", copy, lambda n: Top(mpnn.nn.ChildSumTreeLSTM(n, 150)), 150, (86.76, 80.83, 0.2532)
    ),
}  # fmt: skip


class Relatedness(nn.Module):
    """Log-probabilities of the scores 1 to 5, from the product and the distance of two sentences' vectors; eq. 15."""

    def __init__(self, encoder: nn.Module, width: int, hidden: int, table: Tensor):
        super().__init__()
        self.encoder, self.compare, self.score = encoder, nn.Linear(2 * width, hidden), nn.Linear(hidden, 5)
        self.register_buffer("table", table, persistent=False)

    def forward(self, batch) -> Tensor:
        pairs = self.encoder(F.embedding(batch.token, self.table), batch)
        left, right = pairs.view(-1, 2, pairs.shape[1]).unbind(1)  # the roots of a pair follow each other
        hidden = torch.sigmoid(self.compare(torch.cat([left * right, (left - right).abs()], dim=1)))
        return F.log_softmax(self.score(hidden), dim=1)


class Smoothed(nn.Module):
    """A model that learns in training, and in evaluation has running means of its weights."""

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        self.model, self.mean = model, AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def forward(self, batch) -> Tensor:
        return (self.model if self.training else self.mean)(batch)

    def step(self, *_) -> None:
        self.mean.update_parameters(self.model)


def target(y: Tensor) -> Tensor:
    """The distribution over the scores next to y whose mean is y; eq. 16.

    Shape:
        y ``(B,)`` in [1, 5] -> ``(B, 5)``.
    """
    return (1 - (y[:, None] - SCORES).abs()).clamp(min=0)


def loss(model: nn.Module, batch) -> Tensor:
    return F.kl_div(model(batch), target(batch.y), reduction="batchmean")


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader) -> tuple[Tensor, Tensor]:
    """The expected score of each pair, and the true one."""
    scores = [model(batch).exp() @ SCORES for batch in loader]
    return torch.cat(scores), torch.cat([batch.y for batch in loader])


@cache
def data() -> tuple[dict[str, list[Data]], Vocabulary, Tensor]:
    """The pairs, their words, and a vector for each word; of those without one, zeros."""
    parts = mpnn.datasets.load("sick")
    words = Vocabulary(pair.word for pairs in parts.values() for pair in pairs)
    table, found = words.embedding(*mpnn.datasets.word_vectors("glove.840B.300d.sick"))
    return parts, words, table.weight.detach() * found[:, None]


def batches(config: Config, view: Callable[[Data], Data]) -> tuple[dict[str, DataLoader], Tensor]:
    """The three parts in batches, and the vectors of their tokens; the token of a phrase is 0, as that of no word."""
    parts, words, table = data()
    loaders = {}
    for part, pairs in parts.items():
        seen = [view(pair) for pair in pairs[: 250 if config.smoke else None]]
        for pair in seen:
            pair.token = words(pair.word)
        size, left_out = config.batch_size if part == "train" else 500, ["word", "label", "phrase"]
        loaders[part] = DataLoader(seen, size, part == "train", "topological", exclude_keys=left_out)
    return loaders, table


def train(config: Config, model: nn.Module, loaders: dict[str, DataLoader], checkpoint: Path) -> nn.Module:
    """One run: the model as it was in its best epoch."""
    optimizer = torch.optim.Adagrad(model.parameters(), config.lr, weight_decay=config.weight_decay)
    model = Smoothed(model, config.average)
    optimizer.register_step_post_hook(model.step)

    def evaluate(net):
        return {"val": pearson_corrcoef(*predict(net, loaders["val"]))}

    fit(
        model, loaders["train"], loss, evaluate, optimizer, config.epochs, patience=config.patience,
        checkpoint=checkpoint,
    )  # fmt: skip
    return model


def experiment(config: Config, kind: str) -> dict:
    """All seeds of one model."""
    what = MODELS[kind]
    loaders, table = batches(config, what.view)
    measured, last = [], []

    def run(seed: int) -> float:
        model = Relatedness(what.encoder(table.shape[1]), what.width, HIDDEN, table)
        model = train(config, model, loaders, config.checkpoint(kind, seed))
        scores, y = last[:] = predict(model, loaders["test"])
        measured.append((spearman_corrcoef(scores, y) * 100, mean_squared_error(scores, y)))
        return float(pearson_corrcoef(scores, y)) * 100

    values, seconds = over_seeds(run, config, what.name)
    if config.picture:
        picture(config, what.name, loaders["test"].dataset, *last)
    rho, mse = ([float(value) for value in column] for column in zip(*measured))
    pearson, *others = what.published
    row = report(
        "sick", "sick", what.name, "Pearson's r x 100", values, seconds, pearson,
        spearman_x_100=spread(rho, 4) | {"published": others[0]}, mse=spread(mse, 4) | {"published": others[1]},
        recipe=config.recipe(),
    )  # fmt: skip
    rho, mse = (f"{of['mean']:.4f} +- {of['std']:.4f}" for of in (row["spearman_x_100"], row["mse"]))
    print(f"    Spearman's rho x 100 {rho}; mean squared error {mse}")
    return row


def picture(config: Config, name: str, pairs: list[Data], scores: Tensor, y: Tensor) -> Path:
    """Predicted against true scores of the test pairs, and one pair as the model sees it."""
    figure, (left, right) = canvas(1, 2, figsize=(12, 6))
    left.scatter(y, scores, s=4, alpha=0.3, linewidths=0)
    left.plot([1, 5], [1, 5], color="black", linewidth=0.5)
    left.set(title=f"{name}: {len(y)} test pairs", xlabel="true relatedness", ylabel="predicted")
    shown = next(k for k, pair in enumerate(pairs) if 12 <= len(pair.token) <= 24 and y[k] > 4)
    words = [word or "" for word in pairs[shown].word]
    mpnn.draw(pairs[shown], schedule="topological", ax=right, labels=words)
    right.set(title=f"one pair: {float(y[shown]):.1f}, predicted {float(scores[shown]):.1f}")
    return save(figure, config.out / f"sick-{name.replace(' ', '-').lower()}.png", bbox_inches="tight")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, picture=False)
    return [experiment(config, kind) for kind in (MODELS if config.model == "all" else [config.model])]


if __name__ == "__main__":
    start(Config, main)

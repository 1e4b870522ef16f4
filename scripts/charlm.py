"""A character language model of Shakespeare, and text that it writes.

Data: tinyshakespeare, 1,115,394 characters of 65 kinds; the first 90 % is for training, the last 10 % is the test. To
choose options by, ``--held-out`` trains without the last 5 % of the training text and gives the bits of that part. What
is tested has learnt from all of the 90 %, and that is worth much: the test goes on with the play in which it ends, and
a 5-gram without these 5 % has 2.81 bits on the test in place of 2.41.

A network reads windows of the text, each from a state of zeros, from another place in every epoch. So an LSTM, too,
runs on torch's kernels, which do not keep the memory cells that a next window would start from. The test is read in 20
long stretches. The learning rate falls to nearly 0 by a cosine, and the last epoch counts.

Bits per character on the test are given for an LSTM and a GRU, beside a unigram and an n-gram model with Witten-Bell
smoothing (Witten & Bell 1991) of the order that is best on the held-out part. No published figure on this split was
verified; sampled text goes to ``out/charlm-lstm.txt``.

After 15 epochs, over three seeds: GRU 2.13 bits, LSTM 2.15, 5-gram 2.41, unigram 4.83. An epoch takes 14 s with an LSTM
and 28 s with a GRU on a free core (AMD EPYC), so a seed 4 and 7 minutes::

    mpnn run charlm --json out/charlm.json
    mpnn run charlm --model lstm --seeds 1 --temperature 0.5
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import mpnn
from mpnn.datasets import Vocabulary
from mpnn.experiment import Options, over_seeds, report, start
from mpnn.train import fit

CELLS = {"lstm": mpnn.nn.LSTM, "gru": mpnn.nn.GRU}


@dataclass(frozen=True)
class Config(Options):
    """A character language model of Shakespeare."""

    seeds: int = 1
    epochs: int = 15
    """Epochs of a run; the last one counts."""
    patience: int = 0
    """Of no effect: all epochs are run."""
    picture: bool = False
    """Of no effect: nothing is drawn; text is written to the folder."""
    model: Literal["unigram", "n-gram", "lstm", "gru", "all"] = "all"
    """Counts of single characters, of n in a row, or a network."""
    held_out: bool = False
    """Train without the last 5 % of the training text, and give the bits of that part: to choose options by."""
    hidden: int = 256
    """Width of the states."""
    layers: int = 1
    """Layers of the LSTM or GRU."""
    dropout: float = 0.2
    """Probability to drop a state before it is used, in training."""
    windows: int = 16
    """Windows of the text that are read side by side."""
    steps: int = 128
    """Characters of a window."""
    lr: float = 4e-3
    """Learning rate of Adam at the start; it falls to nearly 0 by a cosine."""
    temperature: float = 0.8
    """Of the text that is written; lower is more cautious."""
    length: int = 1500
    """Characters to write."""


@dataclass(frozen=True)
class Text:
    """The parts of the text as tokens; each but the first begins with the last token of the one before."""

    train: Tensor
    val: Tensor
    test: Tensor
    known: Vocabulary


def load(config: Config) -> Text:
    parts = mpnn.datasets.load("char-lm")
    (train,), (test,) = parts["train"], parts["test"]
    known = Vocabulary([train.word])
    token = known(train.word + test.word)
    a, b = int(0.95 * len(train.word)), len(train.word)
    if config.smoke:
        return Text(token[:60_000], token[a - 1 : a + 5_000], token[b - 1 : b + 5_000], known)
    return Text(token[:a], token[a - 1 : b], token[b - 1 :], known)


class Windows:
    """A text in windows, in random order and from another place in every epoch, many side by side: their tokens, those
    that follow, and their chains. A few windows at the end of an epoch are left out."""

    def __init__(self, token: Tensor, count: int, steps: int):
        self.token, self.count, self.steps = token, count, steps

    def __len__(self) -> int:
        return (len(self.token) - self.steps) // (self.steps * self.count)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        shift, size = int(torch.randint(self.steps, ())), len(self) * self.count
        window = self.token[shift:].unfold(0, self.steps + 1, self.steps)
        for some in torch.randperm(len(window))[:size].split(self.count):
            yield side_by_side(window[some])


def side_by_side(window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of all windows ``(B, T + 1)`` but the last of each, step by step; those that follow; the chains."""
    count, steps = window.shape
    return window[:, :-1].t().flatten(), window[:, 1:].t().flatten(), chains(count, steps - 1)


@cache  # the same tensor, so that its plan is kept
def chains(count: int, steps: int) -> Tensor:
    """Chains side by side, numbered step by step, which is level order."""
    node = torch.arange(count * steps)
    return torch.stack([node[:-count], node[count:]])


def make(kind: str, config: Config, size: int) -> nn.Module:
    width = config.hidden
    layer = CELLS[kind](64, width, num_layers=config.layers, dropout=config.dropout)
    if kind == "lstm":  # forget gates begin open, Jozefowicz, Zaremba & Sutskever 2015
        for k in range(config.layers):
            nn.init.ones_(layer.get_parameter(f"bias_ih_l{k}").data[width : 2 * width])
    return mpnn.nn.LanguageModel(
        nn.Embedding(size, 64), layer, nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, size))
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """In nats a character."""
    token, y, edge_index = batch
    return F.cross_entropy(model.scores(token, edge_index), y)


@torch.no_grad()
def bits(model: nn.Module, token: Tensor, stretches: int = 20) -> float:
    """Bits per character of a text in stretches, each but the first begun with the last token of the one before. What
    is left where they are equally long is left out."""
    steps = (len(token) - 1) // stretches
    return float(loss(model, side_by_side(token.unfold(0, steps + 1, steps)[:stretches]))) / math.log(2)


def train(config: Config, kind: str, text: Text, checkpoint: Path) -> nn.Module:
    """The model as it was after its last epoch."""
    model = make(kind, config, len(text.known))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs, eta_min=config.lr / 50)
    token = text.train if config.held_out else torch.cat([text.train, text.val[1:]])

    def progress(metrics):
        tqdm.write(f"  {metrics['bits']:.3f} bits per character on the last 5 % of the training text")

    fit(
        model, Windows(token, config.windows, config.steps), loss, lambda net: {"bits": bits(net, text.val)}, optimizer,
        config.epochs, lambda new, best: True, clip=1.0, schedulers=[slower], checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return model


def write(model: nn.Module, known: Vocabulary, config: Config) -> str:
    """Text that the model makes up, from a new line on."""
    generator = torch.Generator().manual_seed(0)
    begin = known.number["\n"]
    token = mpnn.decode.sample(
        *model.begin(1), begin, config.length, temperature=config.temperature, generator=generator
    )
    return "".join(known[number] for number in token[0].tolist())


def recurrent(config: Config, kind: str, text: Text) -> dict:
    """All seeds of an LSTM or GRU."""
    last = []

    def run(seed: int) -> float:
        last[:] = [train(config, kind, text, config.checkpoint(kind, seed))]
        return bits(*last, text.val if config.held_out else text.test)

    values, seconds = over_seeds(run, config, f"char-lm {kind}")
    sampled = write(last[0], text.known, config)
    path = config.out / f"charlm-{kind}.txt"
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(sampled)
    print(sampled, f"\n(written to {path})")
    more = {"parameters": sum(p.numel() for p in last[0].parameters()), "recipe": config.recipe()}
    return row(kind.upper(), values, seconds, config.held_out, **more)


def row(name: str, values: list[float], seconds: float, held_out: bool, **more) -> dict:
    part = "char-lm, held-out part" if held_out else "char-lm"
    return report("charlm", part, name, "bits per character", values, seconds, None, **more)


# Counting models ------------------------------------------------------------------------------------------------------


def n_gram(train: np.ndarray, token: np.ndarray, order: int, size: int) -> float:
    r"""Bits per character of an interpolated model; the first ``order`` tokens are only looked back at.

    .. math:: P_n(w \mid v) = \frac{c(vw) + d(v) P_{n-1}(w \mid v')}{c(v) + d(v)}

    with c how often something stands in the training text, d(v) how many kinds of tokens follow v there, and v' the
    context v without its first token; P_0 is the same for all tokens.
    """
    probability = np.full(len(token) - order, 1 / size)
    for n in range(1, order + 1):
        gram, count = np.unique(windows(train, n, size), return_counts=True)
        context, start, kinds = np.unique(gram // size, return_index=True, return_counts=True)
        total = np.add.reduceat(count, start)
        seen = windows(token, n, size)[order - n + 1 :]
        c, total, kinds = look_up(gram, count, seen), *(look_up(context, v, seen // size) for v in (total, kinds))
        probability = np.where(total > 0, (c + kinds * probability) / np.maximum(total + kinds, 1), probability)
    return float(-np.log2(probability).mean())


def windows(token: np.ndarray, n: int, size: int) -> np.ndarray:
    """Every n tokens in a row, as one number."""
    out = np.zeros(len(token) - n + 1, dtype=np.int64)
    for k in range(n):
        out = out * size + token[k : len(token) - n + 1 + k]
    return out


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each key that is wanted, 0 where there is none; keys are sorted."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def counting(text: Text, orders: range, held_out: bool) -> dict:
    """The counting model of the order that is best on the held-out part, whose counts the test has the use of."""
    began = time.perf_counter()
    train, val, test = (part.numpy() for part in (text.train, text.val, text.test))
    size = len(text.known)

    def score(past: np.ndarray, part: np.ndarray, order: int) -> float:
        return n_gram(past, np.concatenate([past[-order:], part[1:]]), order, size)

    order = min(orders, key=lambda order: score(train, val, order))
    value = score(train, val, order) if held_out else score(np.concatenate([train, val[1:]]), test, order)
    return row(
        "unigram" if order == 1 else f"{order}-gram", [value], time.perf_counter() - began, held_out, order=order
    )


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, hidden=64, windows=8, steps=64, length=100)
    text = load(config)
    runs = {
        "unigram": lambda: counting(text, range(1, 2), config.held_out),
        "n-gram": lambda: counting(text, range(2, 9), config.held_out),
        "lstm": lambda: recurrent(config, "lstm", text),
        "gru": lambda: recurrent(config, "gru", text),
    }
    return [run() for name, run in runs.items() if config.model in (name, "all")]


if __name__ == "__main__":
    start(Config, main)

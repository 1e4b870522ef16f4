"""A character language model of Shakespeare, and text that it writes.

Data: tinyshakespeare, 1,115,394 characters of 65 kinds; the first 90 % is for training (its last 5 % decides which
epoch counts), the last 10 % is the test. The text is cut into streams that are read side by side in chunks; the state
at the end of a chunk is what the next one starts from, without a gradient (truncated backpropagation through time).

Bits per character on the test are given for an LSTM and a GRU, beside a unigram and an n-gram model with Witten-Bell
smoothing (Witten & Bell 1991) of the order that is best on the held-out part. No published figure on this split was
verified. Figures and seconds stand in ``docs/results.md``; sampled text goes to ``out/charlm-lstm.txt``::

    mpnn run charlm --json out/charlm.json
    mpnn run charlm --model lstm --seeds 1 --temperature 0.5
"""

from __future__ import annotations

import math
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
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
    patience: int = 3
    model: Literal["unigram", "n-gram", "lstm", "gru", "all"] = "all"
    """Model."""
    hidden: int = 256
    """Width of the states."""
    layers: int = 1
    """Layers of the LSTM or GRU."""
    dropout: float = 0.2
    """Probability to drop a state before it is used, in training."""
    streams: int = 32
    """Places in the text that are read side by side."""
    steps: int = 64
    """Characters of each stream in a chunk."""
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


@dataclass(frozen=True)
class Chunk:
    """A step of all streams: the tokens, those that follow, and the chains."""

    token: Tensor
    y: Tensor
    edge_index: Tensor
    batch: Tensor
    first: bool


def load(config: Config) -> Text:
    parts = mpnn.datasets.load("char-lm")
    (train,), (test,) = parts["train"], parts["test"]
    known = Vocabulary([train.word])
    token = known(train.word + test.word)
    a, b = int(0.95 * len(train.word)), len(train.word)
    if config.smoke:
        return Text(token[:60_000], token[a - 1 : a + 5_000], token[b - 1 : b + 5_000], known)
    return Text(token[:a], token[a - 1 : b], token[b - 1 :], known)


class Chunks:
    """A text in streams, chunk by chunk; what is left of the text where streams are equally long is left out."""

    def __init__(self, token: Tensor, streams: int, steps: int):
        length = (len(token) - 1) // streams
        self.x, self.y = (part[: length * streams].view(streams, length).t() for part in (token[:-1], token[1:]))
        self.cuts = [(a, min(a + steps, length)) for a in range(0, length, steps)]
        self.graphs = {n: chains(streams, n) for n in {b - a for a, b in self.cuts}}  # kept, and with them their plans

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[Chunk]:
        for a, b in self.cuts:
            yield Chunk(self.x[a:b].flatten(), self.y[a:b].flatten(), *self.graphs[b - a], a == 0)


def chains(streams: int, steps: int) -> tuple[Tensor, Tensor]:
    """Chains side by side, numbered step by step, which is level order; and the chain of each node."""
    node = torch.arange(streams * steps)
    return torch.stack([node[:-streams], node[streams:]]), node % streams


def make(kind: str, config: Config, size: int) -> nn.Module:
    width = config.hidden
    layer = CELLS[kind](64, width, num_layers=config.layers, dropout=config.dropout)
    return mpnn.nn.LanguageModel(
        nn.Embedding(size, 64), layer, nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, size))
    )


class Reader:
    """The loss of chunk after chunk, in nats a character; the state goes along."""

    def __init__(self):
        self.state = ()

    def __call__(self, model: nn.Module, chunk: Chunk) -> Tensor:
        before = () if chunk.first else self.state
        scores, state = model(chunk.token, chunk.edge_index, before, chunk.batch, int(chunk.batch[-1]) + 1)
        self.state = tuple(value.detach() for value in state)
        return F.cross_entropy(scores, chunk.y)


@torch.no_grad()
def bits(model: nn.Module, chunks: Chunks) -> float:
    """Bits per character."""
    read = Reader()
    nats = sum(float(read(model, chunk)) * len(chunk.y) for chunk in chunks)
    return nats / chunks.y.numel() / math.log(2)


def train(config: Config, kind: str, text: Text, checkpoint: Path) -> tuple[nn.Module, float]:
    """The model as it was in its best epoch, and the characters a second that it was trained on."""
    model = make(kind, config, len(text.known))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs, eta_min=config.lr / 50)
    chunks, held_out = (Chunks(part, config.streams, config.steps) for part in (text.train, text.val))
    read, began = Reader(), []

    def loss(net, chunk):
        if chunk.first:
            began[:] = [time.perf_counter()]
        return read(net, chunk)

    def evaluate(net):
        return {"seconds": time.perf_counter() - began[0], "val": -bits(net, held_out)}

    def progress(metrics):
        tqdm.write(f"  held out {-metrics['val']:.3f} bits per character, epoch of {metrics['seconds']:.0f} s")

    done = fit(
        model, chunks, loss, evaluate, optimizer, config.epochs, patience=config.patience, clip=1.0,
        schedulers=[slower], checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return model, chunks.y.numel() / fmean(done.history["seconds"])


def write(model: nn.Module, known: Vocabulary, config: Config) -> str:
    """Text that the model makes up, from a new line on."""
    generator = torch.Generator().manual_seed(0)
    begin = known.number["\n"]
    token = mpnn.decode.sample(
        *model.begin(1), begin, config.length, temperature=config.temperature, generator=generator
    )
    return "".join(known[number] for number in token[0].tolist())


def recurrent(config: Config, kind: str, text: Text) -> dict:
    """All seeds of an LSTM or GRU; the checkpoints go when all are done."""
    keys = ("hidden", "layers", "dropout", "streams", "steps", "lr", "epochs", "patience", "smoke")
    recipe = {key: value for key, value in asdict(config).items() if key in keys}
    checkpoints = config.out / f"charlm-{kind}-{zlib.crc32(repr(recipe).encode()):08x}"
    speeds, last = [], []

    def run(seed: int) -> float:
        model, speed = train(config, kind, text, checkpoints / f"{seed}.pt")
        speeds.append(speed)
        last[:] = [model]
        return bits(model, Chunks(text.test, 60, config.steps))

    values, seconds = over_seeds(run, config, f"char-lm {kind}")
    shutil.rmtree(checkpoints)
    sampled = write(last[0], text.known, config)
    path = config.out / f"charlm-{kind}.txt"
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(sampled)
    print(sampled, f"\n(written to {path}; {speeds[0]:.0f} characters a second in training)")
    more = {"characters_a_second": round(speeds[0]), "parameters": sum(p.numel() for p in last[0].parameters())}
    return row(kind.upper(), values, seconds, **more, recipe=recipe)


def row(name: str, values: list[float], seconds: float, **more) -> dict:
    return report("charlm", "char-lm", name, "bits per character", values, seconds, None, **more)


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


def counting(text: Text, orders: range) -> dict:
    """The counting model of the order that is best on the held-out part."""
    began = time.perf_counter()
    train, val, test = (part.numpy() for part in (text.train, text.val, text.test))
    size = len(text.known)

    def score(past: np.ndarray, part: np.ndarray, order: int) -> float:
        return n_gram(past, np.concatenate([past[-order:], part[1:]]), order, size)

    order = min(orders, key=lambda order: score(train, val, order))
    value = score(np.concatenate([train, val[1:]]), test, order)  # counts of the held-out part cost nothing
    name = "unigram" if order == 1 else f"{order}-gram"
    return row(name, [value], time.perf_counter() - began, order=order)


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, hidden=64, length=100)
    text = load(config)
    runs = {
        "unigram": lambda: counting(text, range(1, 2)),
        "n-gram": lambda: counting(text, range(2, 9)),
        "lstm": lambda: recurrent(config, "lstm", text),
        "gru": lambda: recurrent(config, "gru", text),
    }
    return [run() for name, run in runs.items() if config.model in (name, "all")]


if __name__ == "__main__":
    start(Config, main)

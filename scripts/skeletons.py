"""Actions from skeletons: Northwestern-UCLA across views, MSR-Action3D across subjects and in its sets AS1 to AS3.

Paper: AGC-LSTM, Si et al. 2019 (arXiv:1902.09130): two streams 93.3 % on N-UCLA, trained on views 1 and 2, tested on
view 3; TS-LSTM has 89.2, HBRNN 78.5 there (read in a comparison table, see ``mpnn datasets skeleton-nucla``). On
MSR-Action3D HBRNN has 89.7 (protocols differ between papers).

Models: an LSTM and a Part-Aware LSTM over frames, GraphRecurrent with GCN over joints, and AGC-LSTM over joints, over
parts of the body, and the sum of these two streams. All see the same sequences, smoothed over three frames, turned to
the camera and brought to 16 frames, with nine features a joint (place, bone, motion), and are trained for 80 epochs
with the same settings; the model after the last epoch counts. Each test sequence is judged by nine looks at it, as it
is and eight times cut and turned as in training. AGC-LSTM is smaller than the paper's, 64 features in place of 512, and
has normalised inputs of its layers, which the paper has not.

Settings were chosen on cameras 1 and 2, each judged by models trained on the other alone (as ``--without camera-1`` and
``--without camera-2`` do), means of both in %, one seed, several looks. An LSTM of 30 epochs: cut, turned by 30 degrees
and stretched 75.1; smoothed, turned by 60, with dropout 0.3 in place of 0.1 77.6; uneven speed and size besides 77.6,
and at one look 78.2 in place of 76.4, so they stayed. Not taken, beside the 77.6: bones of mean lengths 75.9, turned to
the camera in each frame 75.6, a constant error of each joint 75.2, joints left out 75.3, smoothed labels 75.9,
smoothing over five frames 76.8, a mirror 77.9 (but over parts 72.7 in place of 75.8). AGC-LSTM over parts: 76.6 with
what was taken at 24 frames; with dropout 0.3 75.8, then with 16 frames 73.4, but at one look 73.9 in place of 73.8;
with 16 frames and without what was taken 72.0. A stream over joints of 25 epochs still had 19 % of the training
sequences wrong, which led to 80 epochs; its 84.7 % on the test view had been read, as had the figures of the settings
before these (89.2 with 60 epochs).

On N-UCLA, 3 seeds: two streams 91.9 +- 0.3 %, joints alone 90.7 +- 0.4, parts 90.8 +- 0.5; a Part-Aware LSTM 90.2 +-
0.4, an LSTM 90.0 +- 1.0, GraphRecurrent 86.8 +- 0.3. A run of the two streams took 350 core seconds, 10 minutes on a
busy machine; one of the LSTM 28, of the Part-Aware LSTM 37. On MSR-Action3D, all 20 actions, 3 seeds, only 15 epochs of
four times through the set: two streams 81.1 +- 3.1 %, joints 80.7 +- 5.7, parts 63.9 +- 3.4; LSTM 85.4 +- 1.0,
Part-Aware LSTM 82.4 +- 1.9, GraphRecurrent 54.3 +- 0.8. On AS1, AS2 and AS3: two streams 87.6, 91.7 and 95.8, LSTM
88.9, 90.8 and 96.7, Part-Aware LSTM 89.8, 85.1 and 97.3; all rows stand in ``docs/results.md``::

    mpnn run skeletons --model agc-lstm-two-stream --json out/skeletons.json
    mpnn run skeletons --dataset msr --model agc-lstm-two-stream --epochs 15
    mpnn run skeletons --dataset as1 --model p-lstm
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.datasets import skeletons
from mpnn.datasets.skeletons import Body
from mpnn.experiment import Options, Seconds, canvas, over_seeds, report, save, start
from mpnn.nn.agc_lstm import Stage, stages
from mpnn.spacetime import skeleton
from mpnn.train import Fit, fit, seed_all

STREAMS = {"agc-lstm-two-stream": ["agc-lstm-joint", "agc-lstm-part"]}
MODELS = ["lstm", "p-lstm", "graph-gcn", "agc-lstm-joint", "agc-lstm-part", "agc-lstm-two-stream"]
UNIT = 0.3  # metres; coordinates are given in it, so that they are neither large nor small
SETS = ["nucla", "msr", "as1", "as2", "as3"]
PUBLISHED = {("nucla", "agc-lstm-two-stream"): 93.3}


@dataclass(frozen=True)
class Config(Options):
    """Actions from skeletons."""

    dataset: Literal["nucla", "msr", "as1", "as2", "as3", "all"] = "nucla"
    """Data set; msr is all of MSR-Action3D."""
    data: Path | None = None
    """A file in the same layout as these sets, instead of one of them; see mpnn.datasets.skeletons.sequences."""
    model: Literal[
        "lstm", "p-lstm", "graph-gcn", "agc-lstm-joint", "agc-lstm-part", "agc-lstm-two-stream", "all"
    ] = "all"
    """Model; two streams give a row of their sum, and one each."""
    seeds: int = 3
    epochs: int = 80
    """Epochs of a run; the model after the last one counts."""
    patience: int = 0
    """Of no effect: all epochs are run."""
    without: Literal["nothing", "camera-1", "camera-2", "subjects"] = "nothing"
    """To choose settings by: trains without one of the training cameras, or without two subjects, and gives the
    accuracy on these instead of that on the test sequences."""
    frames: int = 16
    """Frames that each sequence is brought to."""
    smooth: int = 1
    """Each frame is the mean of so many to each side, and itself."""
    hidden: int = 64
    """Width of the states; of the LSTM and the Part-Aware LSTM twice and five halves of that."""
    batch_size: int = 32
    """Sequences a step."""
    least: int = 1000
    """About the fewest sequences of an epoch: a set of fewer is gone through several times."""
    lr: float = 4e-3
    """Learning rate at the beginning; it falls to 0 along a cosine."""
    decay: float = 1e-2
    """Weight decay of AdamW."""
    dropout: float = 0.1
    """Probability to drop what goes into a layer, in training."""
    turn: float = 60.0
    """Training sequences are turned about the vertical axis by up to so many degrees, and by half about the others."""
    scale: float = 0.2
    """Training sequences are stretched along each axis by up to this share."""
    size: float = 0.2
    """Training sequences are made larger or smaller by up to this share."""
    jitter: float = 0.01
    """Standard deviation of the noise on each coordinate, in metres."""
    crop: float = 0.7
    """The shortest part of a sequence that is seen in training, as a share of it."""
    warp: float = 0.5
    """How unevenly it goes by in training: the standard deviation of the logarithm of its speed."""
    looks: int = 8
    """Sequences to be judged are also seen so many times changed as in training, but for noise; the probabilities of
    all looks are added."""


# Data -----------------------------------------------------------------------------------------------------------------


@dataclass
class Moves:
    """Sequences that begin at the origin, facing the camera; a row of ``y`` each."""

    x: list[Tensor]
    y: Tensor
    body: Body

    def __len__(self) -> int:
        return len(self.x)


def moves(config: Config, graphs: list[Data]) -> Moves:
    body = graphs[0].body
    return Moves([prepared(data, config.smooth) for data in graphs], torch.cat([data.y for data in graphs]), body)


def prepared(data: Data, smooth: int) -> Tensor:
    """Begins at the origin, facing the camera."""
    x = skeletons.smoothed(skeletons.frames(data), smooth)
    return skeletons.facing(skeletons.centred(x, data.body), data.body) / UNIT


def load(config: Config) -> tuple[Moves, Moves]:
    """Training sequences, and those that the accuracy is given on."""
    if config.data:
        parts = skeletons.sequences(config.data)
    else:
        parts = mpnn.datasets.load("skeleton-nucla" if config.dataset == "nucla" else "skeleton-msraction3d")
    if config.dataset.startswith("as"):
        parts = skeletons.action_set(parts, int(config.dataset[2:]))
    train, test = held_out(config, parts["train"]) if config.without != "nothing" else (parts["train"], parts["test"])
    if config.smoke:
        train, test = train[::10], test[::10]
    return moves(config, train), moves(config, test)


def held_out(config: Config, graphs: list[Data]) -> tuple[list[Data], list[Data]]:
    """Training sequences, and those of one camera or of the last two subjects."""
    if config.without == "subjects":
        chosen = sorted({data.subject for data in graphs})[-2:]
        away = [data.subject in chosen for data in graphs]
    else:
        away = [data.camera == int(config.without[-1]) for data in graphs]
    return [[data for data, out in zip(graphs, away, strict=True) if out == part] for part in (False, True)]


class Batches:
    """Training sequences in a new order each epoch, each of them changed a little: crop in time, turn, scale, noise."""

    def __init__(self, config: Config, given: Moves):
        self.config, self.given = config, given
        self.times = max(1, round(config.least / len(given)))

    def __len__(self) -> int:
        return self.times * -(-len(self.given) // self.config.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        orders = (torch.randperm(len(self.given)) for _ in range(self.times))
        for chosen in (some for order in orders for some in order.split(self.config.batch_size)):
            cut = torch.stack([cropped(self.given.x[i], self.config) for i in chosen.tolist()])
            x = changed(cut, self.config)
            yield x + self.config.jitter / UNIT * torch.randn(x.shape), self.given.y[chosen]


def cropped(x: Tensor, config: Config) -> Tensor:
    """A part of a sequence, faster here and slower there, at the usual number of frames."""
    share, place = torch.rand(2).tolist()
    length = (len(x) - 1) * (config.crop + (1 - config.crop) * share)
    begin = (len(x) - 1 - length) * place
    return skeletons.resampled(x, begin + length * progress(config.frames, config.warp))


def progress(frames: int, warp: float) -> Tensor:
    """Rises from 0 to 1 at a speed that changes."""
    speed = F.interpolate((warp * torch.randn(1, 1, 4)).exp(), size=frames - 1, mode="linear", align_corners=True)
    done = F.pad(speed.flatten().cumsum(0), (1, 0))
    return done / done[-1]


def changed(x: Tensor, config: Config) -> Tensor:
    """Sequences ``(B, T, V, 3)``, each turned and stretched."""
    count = len(x)
    most = torch.deg2rad(torch.tensor([config.turn / 2, config.turn, config.turn / 2]))
    angle = (2 * torch.rand(count, 3) - 1) * most
    turn = rotation(angle[:, 1], 0, 2) @ rotation(angle[:, 0], 1, 2) @ rotation(angle[:, 2], 0, 1)
    stretch = 1 + (2 * torch.rand(count, 1, 1, 3) - 1) * config.scale
    stretch = stretch * (1 + (2 * torch.rand(count, 1, 1, 1) - 1) * config.size)
    return torch.einsum("btvc,bcd->btvd", x, turn) * stretch


def rotation(angle: Tensor, a: int, b: int) -> Tensor:
    """Rotations of axis a into axis b: ``(B, 3, 3)``."""
    out = torch.eye(3).repeat(len(angle), 1, 1)
    out[:, a, a], out[:, a, b], out[:, b, a], out[:, b, b] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    return out


def look(config: Config, given: Moves) -> Iterator[Tensor]:
    """The sequences as they are, at the usual number of frames, in batches."""
    for begin in range(0, len(given), 128):
        yield torch.stack([skeletons.resampled(x, config.frames) for x in given.x[begin : begin + 128]])


def another_look(config: Config, given: Moves) -> Iterator[Tensor]:
    """The sequences cut and changed as in training, without noise, in batches."""
    for begin in range(0, len(given), 128):
        cut = torch.stack([cropped(x, config) for x in given.x[begin : begin + 128]])
        yield changed(cut, config)


# Models ---------------------------------------------------------------------------------------------------------------


def described(x: Tensor, body: Body) -> Tensor:
    """Nine features of a joint: where it is seen from the root, or of the root where it went; the bone that leads to
    it; and how far it moved since the frame before. They are of about one size.

    Shape:
        x ``(B, T, V, 3)`` -> ``(B, T, V, 9)``.
    """
    root, parent = body.joint("hip_center"), torch.arange(len(body.joints))
    for a, b in body.bones:
        parent[b] = a
    at = torch.where(torch.arange(x.shape[2])[:, None] == root, x, x - x[:, :, root : root + 1])
    moved = torch.cat([torch.zeros_like(x[:, :1]), x.diff(dim=1)], dim=1)
    return torch.cat([at, 2 * (x - x[:, :, parent]), 5 * moved], dim=-1)


def named(x: Tensor) -> Tensor:
    """Which joint or part a row is of, as so many more features."""
    which = torch.eye(x.shape[2]).expand(*x.shape[:3], -1)
    return torch.cat([x, which], dim=-1)


class Frames(nn.Module):
    """An LSTM over frames, all joints side by side; the classes are read from the mean of its states."""

    def __init__(self, body: Body, layer: nn.Module, width: int, classes: int):
        super().__init__()
        self.body, self.layer = body, layer
        self.classify = mpnn.nn.GraphReadout("mean", nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        count, frames = x.shape[:2]
        x, (edge_index, batch) = described(x, self.body), chains(count, frames)
        return self.classify(self.layer(x.flatten(2).flatten(0, 1), edge_index)[0], batch, count)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def scores(self, x: Tensor) -> Tensor:
        return self(x).softmax(dim=1)


@cache
def chains(count: int, frames: int) -> tuple[Tensor, Tensor]:
    batch = Batch.from_data_list([mpnn.graphs.chain(frames)] * count)
    return batch.edge_index, batch.batch


@cache
def graphs(
    count: int, frames: int, joints: int, bones: tuple[tuple[int, int], ...], windows: tuple[int, ...]
) -> list[Stage]:
    """The graphs in space and time of so many sequences; made once, with all plans."""
    return stages(Batch.from_data_list([skeleton(torch.empty(frames, joints, 0), bones)] * count), windows)


class Joints(nn.Module):
    """What is common to layers on the graph in space and time."""

    def __init__(self, body: Body, by_part: bool = False, windows: tuple[int, ...] = (2, 2, 2)):
        super().__init__()
        self.body, self.by_part, self.windows = body, by_part, windows

    def seen(self, x: Tensor) -> tuple[Tensor, list[Stage]]:
        """A row a node, and the graphs of the batch."""
        x = described(x, self.body)
        x = named(skeletons.by_part(x, self.body) if self.by_part else x)
        bones = self.body.part_bones if self.by_part else self.body.bones
        return x.flatten(0, 2), graphs(*x.shape[:3], bones, self.windows)


class GraphGCN(Joints):
    """Two layers of GraphRecurrent with graph convolutions in the gates, pooled over time as AGC-LSTM is."""

    def __init__(self, config: Config, body: Body, classes: int):
        super().__init__(body, windows=(2, 2))
        widths = [(9 + len(body.joints), config.hidden), (config.hidden, config.hidden)]
        self.layers = nn.ModuleList(mpnn.nn.GraphRecurrent(mpnn.nn.GCN, "lstm", *width) for width in widths)
        self.pool, self.dropout = mpnn.nn.GraphReadout("mean"), nn.Dropout(config.dropout)
        self.classify = mpnn.nn.GraphReadout("mean", nn.Linear(config.hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        h, steps = self.seen(x)
        for k, (layer, stage) in enumerate(zip(self.layers, steps[1:], strict=True)):
            h = self.pool(h, stage.cluster, len(stage.batch))
            h = layer(self.dropout(h) if k else h, stage.edges, stage.schedule)
        return self.classify(h, steps[-1].batch, steps[-1].num_graphs)

    loss, scores = Frames.loss, Frames.scores


class AGC(Joints):
    """A stream of AGC-LSTM."""

    def __init__(self, config: Config, body: Body, classes: int, by_part: bool):
        super().__init__(body, by_part)
        width = 9 * max(map(len, body.parts)) + len(body.parts) if by_part else 9 + len(body.joints)
        self.network = mpnn.nn.AGCLSTMNetwork(
            width, config.hidden, classes, position_features=config.hidden // 2, dropout=config.dropout, normalise=True
        )

    def forward(self, x: Tensor):
        return self.network(*self.seen(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return mpnn.nn.agc_lstm_loss(self(x), y)

    def scores(self, x: Tensor) -> Tensor:
        return self(x).probabilities()


def make(config: Config, model: str, body: Body, classes: int) -> nn.Module:
    width, joints = config.hidden, 9 * len(body.joints)
    stacked = {"num_layers": 2, "dropout": config.dropout}
    columns = [[9 * j + c for j in part for c in range(9)] for part in body.parts]
    return {
        "lstm": lambda: Frames(body, mpnn.nn.LSTM(joints, 2 * width, **stacked), 2 * width, classes),
        "p-lstm": lambda: Frames(
            body, mpnn.nn.PartAwareLSTM(joints, len(columns) * (width // 2), columns, **stacked),
            len(columns) * (width // 2), classes,
        ),
        "graph-gcn": lambda: GraphGCN(config, body, classes),
        "agc-lstm-joint": lambda: AGC(config, body, classes, by_part=False),
        "agc-lstm-part": lambda: AGC(config, body, classes, by_part=True),
    }[model]()  # fmt: skip


# Training -------------------------------------------------------------------------------------------------------------


def train(config: Config, model: str, given: Moves, seed: int, watch: Callable | None = None) -> tuple[nn.Module, Fit]:
    """One run, all epochs; the model after the last counts, so nothing is chosen by any accuracy."""
    seed_all(seed)
    module = make(config, model, given.body, len(given.body.classes))
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.lr, weight_decay=config.decay)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    began = [time.process_time()]

    def evaluate(module):
        seen = {"core_seconds": time.process_time() - began[0]} | (watch(module) if watch else {})
        began[0] = time.process_time()
        return seen

    done = fit(
        module, Batches(config, given), lambda module, batch: module.loss(*batch), evaluate, optimizer, config.epochs,
        better=lambda new, best: True, clip=5.0, schedulers=[slower], checkpoint=config.checkpoint(model, seed),
    )  # fmt: skip
    return module, done


@torch.no_grad()
def scored(config: Config, module: nn.Module, given: Moves) -> Tensor:
    """The probabilities of the classes, of each sequence, added over all looks, which are the same for all models."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        looks = [look(config, given), *(another_look(config, given) for _ in range(config.looks))]
        return sum(torch.cat([module.scores(x) for x in some]) for some in looks)


def accuracy(scores: Tensor, given: Moves) -> float:
    return 100 * float((scores.argmax(dim=1) == given.y).float().mean())


def experiment(config: Config, model: str, given: Moves, test: Moves) -> dict:
    """All seeds of one model on one data set; streams that were trained before are read from their checkpoints."""
    runs, trained, joint = [], [], []

    def run(seed: int) -> float:
        scores, alone, fits = 0.0, {}, []
        for stream in STREAMS.get(model, [model]):
            module, done = train(config, stream, given, seed, watcher(config, test))
            own = scored(config, module, test)
            scores, alone[stream] = scores + own, accuracy(own, test)
            fits.append(done)
            joint[:] = [module] if stream == "agc-lstm-joint" else joint
        trained.append(one_after_another(fits))
        spent = {name: round(sum(epochs), 3) for name, epochs in trained[-1].history.items()}
        runs.append({"accuracy": accuracy(scores, test), **spent, "streams": alone})
        told = ", ".join(f"{stream} {value:.1f} %" for stream, value in alone.items())
        print(f"  {config.dataset} {model}, seed {seed}: {runs[-1]['accuracy']:.1f} % ({told})", flush=True)
        return runs[-1]["accuracy"]

    values, _ = over_seeds(run, config, f"{config.dataset} {model}")
    if config.picture and joint:
        picture(config, joint[0], test)
    name = config.data.stem if config.data else config.dataset
    metric = "accuracy %" if config.without == "nothing" else f"accuracy % on what is left out, {config.without}"
    published = PUBLISHED.get((name, model)) if config.without == "nothing" else None
    return report(
        "skeletons", name, model, metric, values, Seconds(sum(run["seconds"] for run in runs), trained), published,
        runs=runs, recipe=config.recipe(),
    )  # fmt: skip


def one_after_another(fits: list[Fit]) -> Fit:
    """The trainings of several streams as one: what an epoch of all of them took."""
    streams = {
        "seconds": [done.seconds for done in fits],
        "core_seconds": [done.history["core_seconds"] for done in fits],
    }
    costs = {name: [sum(epoch) for epoch in zip(*given, strict=True)] for name, given in streams.items()}
    return Fit(history=costs, seconds=costs["seconds"], examples=fits[-1].examples)


def watcher(config: Config, test: Moves) -> Callable | None:
    """The accuracy after each epoch, when settings are to be chosen; else nothing looks at these sequences."""
    if config.without == "nothing":
        return None
    return lambda module: {"val": accuracy(scored(config, module, test), test)}


# Picture --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def picture(config: Config, module: AGC, test: Moves, columns: int = 8) -> Path:
    """Test sequences of four actions, a row each; joints are the larger the more the first layer attends to them."""
    classes = test.y.unique()[:: max(1, len(test.y.unique()) // 4)][:4].tolist()
    figure, axes = canvas(len(classes), columns, figsize=(1.5 * columns, 2 * len(classes)), squeeze=False)
    for row, label in zip(axes, classes, strict=True):
        x = UNIT * skeletons.resampled(test.x[int((test.y == label).nonzero()[0])], config.frames)
        alpha = module(x[None] / UNIT).attention[0].view(-1, x.shape[1])
        for panel, k in zip(row, torch.linspace(0, len(alpha) - 1, columns).round().long().tolist(), strict=True):
            strip(panel, x[k * len(x) // len(alpha)], alpha[k], test.body)
        row[0].set_title(test.body.classes[label], loc="left", fontsize=9)
    return save(figure, config.out / f"skeletons-{config.dataset}.png", bbox_inches="tight")


def strip(axes, x: Tensor, alpha: Tensor, body: Body) -> None:
    """One frame as seen from the front."""
    for a, b in body.bones:
        axes.plot(x[[a, b], 0], x[[a, b], 1], color="0.7", linewidth=1, zorder=1)
    share = (alpha - alpha.min()) / (alpha.max() - alpha.min()).clamp(min=1e-6)
    axes.scatter(x[:, 0], x[:, 1], s=3 + 60 * share, c=alpha, cmap="viridis", zorder=2, linewidths=0)
    middle = x[body.joint("hip_center"), 0]
    axes.set(xlim=(middle - 0.8, middle + 0.8), ylim=(-1.1, 0.9), aspect="equal")
    axes.axis("off")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, frames=8, hidden=16, least=1, looks=1)
    datasets = SETS if config.dataset == "all" and not config.data else [config.dataset]
    models = MODELS if config.model == "all" else [config.model, *STREAMS.get(config.model, [])]
    rows = []
    for dataset in datasets:
        chosen = replace(config, dataset=dataset)
        given, test = load(chosen)
        rows += [experiment(chosen, model, given, test) for model in models]
    return rows


if __name__ == "__main__":
    start(Config, main)

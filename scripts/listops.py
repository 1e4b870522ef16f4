"""ListOps: the value of nested list operations, by a Tree-LSTM on the true tree and by an LSTM on the tokens.

Paper: Nangia & Bowman 2018 (arXiv:1804.06028), in which a Tree-LSTM on the true tree does far better than an LSTM.
Their data set is not used: expressions are drawn by ``mpnn.expressions``, as many of each depth, all different, and
split into training, validation and test. So their figures do not apply, and none is claimed.

Both models are trained on the value of every operator in an expression, the LSTM at the closing bracket, and tested on
the value of the whole, a digit; chance is 10 %. As in the paper the tree is binary: an operator takes in one argument
after the other. Training has up to ``--depth`` operators inside each other, the test goes beyond. Accuracy is in
percent, over test expressions of the depths seen in training; the picture shows accuracy against depth.

With three seeds the Tree-LSTM reached 92.5 +- 0.9, from 100 at depth 1 to 86 at depth 5 and 87 at depth 8, and the LSTM
53.1 +- 1.4, from 93 to 31 and 21. It took 33 minutes on two busy cores::

    mpnn run listops --json out/listops.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.experiment import Options, canvas, over_seeds, report, save, start
from mpnn.expressions import OPERATORS, TOKENS, evaluate, random_expressions
from mpnn.train import fit

CLOSE = len(TOKENS)  # the token ], of all operators


@dataclass(frozen=True)
class Config(Options):
    """The value of nested list operations."""

    seeds: int = 3
    epochs: int = 30
    patience: int = 8
    model: Literal["tree-lstm", "lstm", "all"] = "all"
    """Model."""
    depth: int = 5
    """Most operators inside each other in training."""
    beyond: int = 3
    """How much deeper the test goes."""
    train: int = 2000
    """Training expressions of each depth."""
    test: int = 300
    """Validation and test expressions of each depth."""
    max_args: int = 3
    """Most arguments of an operator."""
    hidden: int = 64
    """Width of all states."""
    batch_size: int = 100
    """Expressions in a batch."""
    lr: float = 3e-3
    """Learning rate at the beginning; it falls to 0 along a cosine."""


# Data


def draw(config: Config) -> dict[str, list[Data]]:
    """Expressions, all different, by part; the same in every run. Fewer where there are not as many."""
    generator, seen = torch.Generator().manual_seed(0), set()
    parts: dict[str, list[Data]] = {"train": [], "val": [], "test": []}
    for depth in range(1, config.depth + config.beyond + 1):
        wanted = {"test": config.test, "val": config.test, "train": config.train}
        wanted = wanted if depth <= config.depth else {"test": config.test}
        fresh, left = [], 2 * sum(wanted.values())
        while missing := min(left, sum(wanted.values()) - len(fresh)):
            for data in random_expressions(missing, generator, depth, depth, config.max_args):
                key = (*data.x.tolist(), *data.edge_index[1].tolist())
                fresh += [data] * (key not in seen)
                seen.add(key)
            left -= missing
        for part, count in wanted.items():
            parts[part] += fresh[:count]
            fresh = fresh[count:]
    return parts


def binary(batch: Data) -> Data:
    """The tree in which an operator takes in its arguments one after the other.

    A digit is a leaf. Each argument of an operator has a node of its own, with the operator as token, the state so far
    as left child and the argument as right child; the last of them has the operator's value.
    """
    argument, operator = batch.edge_index  # arguments in their order, those of an operator in a row
    digit = (batch.x < 10).nonzero().flatten()
    node = len(digit) + torch.arange(len(argument))
    last = torch.ones_like(operator, dtype=torch.bool)
    last[:-1] = operator[1:] != operator[:-1]
    value = torch.empty_like(batch.x)  # where the value of each node of the expression arises
    value[digit], value[operator[last]] = torch.arange(len(digit)), node[last]
    left = torch.stack([node[:-1], node[1:]])[:, ~last[:-1]]
    right = torch.stack([value[argument], node])
    child = torch.arange(2).repeat_interleave(torch.tensor([left.shape[1], right.shape[1]]))
    x = torch.cat([batch.x[digit], batch.x[operator]])
    return Data(x=x, edge_index=torch.cat([left, right], dim=1), child=child, place=value, num_nodes=len(x))


def tokens(batch: Data) -> Data:
    """The bracketed text as a chain; the value of an operator is asked for at its closing bracket."""
    argument, operator = batch.edge_index
    size = torch.where(batch.x < 10, 1, 2)
    for depth in range(int(batch.depth.max()), 0, -1):
        here = batch.depth[argument] == depth
        size.index_add_(0, operator[here], size[argument[here]])
    before = size[argument].cumsum(0) - size[argument]  # all arguments so far
    first = torch.full_like(size, len(argument)).scatter_reduce(0, operator, torch.arange(len(argument)), "amin")
    start = torch.zeros_like(size)
    start[batch.root_mask] = size[batch.root_mask].cumsum(0) - size[batch.root_mask]
    for depth in range(1, int(batch.depth.max()) + 1):
        a, o = batch.edge_index[:, batch.depth[argument] == depth]
        edge = torch.empty_like(size).index_copy_(0, argument, torch.arange(len(argument)))[a]
        start[a] = start[o] + 1 + before[edge] - before[first[o]]
    x = torch.full((int(size[batch.root_mask].sum()),), CLOSE)
    x[start] = batch.x
    chain = mpnn.graphs.chain(len(x)).edge_index
    inside = torch.ones(len(x), dtype=torch.bool).index_fill(0, start[batch.root_mask], False)
    return Data(x=x, edge_index=chain[:, inside[1:]], place=start + size - 1, num_nodes=len(x))


VIEWS = {"tree-lstm": binary, "lstm": tokens}


def batches(expressions: list[Data], kind: str, size: int) -> list[Data]:
    """Batches as a model sees them, planned, with the values to find: of all operators, and which are roots."""
    made = []
    for k in range(0, len(expressions), size):
        batch = Batch.from_data_list(expressions[k : k + size])
        view, asked = VIEWS[kind](batch), batch.x >= 10
        view.place, view.root = view.place[asked], batch.root_mask[asked]
        view.y = evaluate(batch.x, batch.edge_index, batch.depth)[asked]
        view.depth = torch.stack([data.depth.max() for data in expressions[k : k + size]])
        view.num_graphs = batch.num_graphs  # examples are expressions, in what is told of speed
        view.plan = mpnn.plan(view, "topological")
        made.append(view)
    return made


class Shuffled:
    """The same batches in a new order each epoch, from torch's own generator, whose state checkpoints carry."""

    def __init__(self, batches: list[Data]):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for k in torch.randperm(len(self)).tolist():  # drawn when the epoch begins, not earlier
            yield self.batches[k]


# Models


class Reader(nn.Module):
    """Scores of the ten digits at the nodes that are asked for."""

    def __init__(self, kind: str, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(len(TOKENS) + 1, hidden)
        self.cell = mpnn.nn.NaryTreeLSTM(hidden, hidden) if kind == "tree-lstm" else mpnn.nn.LSTM(hidden, hidden)
        self.read = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, view: Data) -> Tensor:
        more = [view.child] if "child" in view else []
        h, _ = self.cell(self.embed(view.x), view.plan, *more)
        return self.read(h[view.place])


def right(model: nn.Module, views: list[Data]) -> tuple[Tensor, Tensor]:
    """Whether the value of each whole expression is found, and the depth of each."""
    model.eval()
    with torch.no_grad():
        found = [(model(view).argmax(1) == view.y)[view.root] for view in views]
    return torch.cat(found).float() * 100, torch.cat([view.depth for view in views])


def train(config: Config, kind: str, data: dict[str, list[Data]], checkpoint: Path) -> nn.Module:
    model = Reader(kind, config.hidden)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)

    def loss(net, view):
        return F.cross_entropy(net(view), view.y)

    def evaluate(net):
        return {"val": right(net, data["val"])[0].mean()}

    fit(
        model, Shuffled(data["train"]), loss, evaluate, optimizer, config.epochs, patience=config.patience,
        clip=1.0, schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    return model


def experiment(config: Config, kind: str, parts: dict[str, list[Data]]) -> dict:
    """All seeds of one model."""
    data = {part: batches(expressions, kind, config.batch_size) for part, expressions in parts.items()}
    curves = []

    def run(seed: int) -> float:
        model = train(config, kind, data, config.checkpoint(kind, seed))
        correct, depth = right(model, data["test"])
        curves.append([float(correct[depth == d].mean()) for d in depth.unique()])
        return float(correct[depth <= config.depth].mean())

    values, seconds = over_seeds(run, config, f"listops {kind}")
    count = len(parts["train"])
    return report(
        "listops", f"{count} expressions, depth 1 to {config.depth}", kind, "accuracy %", values, seconds, None,
        accuracy_by_depth=[round(fmean(column), 2) for column in zip(*curves)],
        by_seed=[[round(value, 2) for value in curve] for curve in curves], recipe=config.recipe(),
    )  # fmt: skip


def picture(config: Config, rows: list[dict]) -> Path:
    """Accuracy against depth: the mean of the seeds, and the range they span."""
    figure, axes = canvas(figsize=(7, 4.5), layout="constrained")
    for row in rows:
        curves = torch.tensor(row["by_seed"])
        depth = range(1, curves.shape[1] + 1)
        axes.plot(depth, curves.mean(0), marker="o", label=row["model"])
        axes.fill_between(depth, curves.amin(0), curves.amax(0), alpha=0.2)
    axes.axvline(config.depth + 0.5, color="grey", linestyle=":", label="deepest in training")
    axes.axhline(10, color="grey", linewidth=0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=f"depth: nested {', '.join(OPERATORS)}", ylabel="accuracy, %", ylim=(0, 102))
    axes.legend()
    return save(figure, config.out / "listops-depth.png")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, train=200, test=40, depth=3, beyond=1, hidden=32)
    parts = draw(config)
    rows = [experiment(config, kind, parts) for kind in VIEWS if config.model in (kind, "all")]
    if config.picture:
        picture(config, rows)
    return rows


if __name__ == "__main__":
    start(Config, main)

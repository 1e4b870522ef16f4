r"""Four graphs, one engine: a network, chains, trees and pictures, in about a minute and without a download.

1. A two-layer GCN learns the two sides of Zachary's karate club from one member of each; all nodes fire at once.
2. An LSTM keeps the first symbol of a chain over a delay; ``topological`` is left to right.
3. The same cell on expression trees computes nested list operations; ``topological`` is from the leaves to the root.
4. The same cell on pictures restores the colours of noisy superpixels; ``ordered`` fires the clearest ones first. It
   learns on two pictures and is measured on a third.

The cells of 2 to 4 are one class of twenty lines; only graph and schedule differ. Each part prints one line, with the
number that its own must beat, and draws its graph coloured by level into ``out/``; ``out/demo.json`` has the numbers
and the settings. Data are small, embedded or generated, so these are demonstrations: no published table is aimed at.

With seed 0 (torch 2.13, CPU, November 2026; half a minute of one core): karate 0.969, chains 1.000, trees 0.704,
pictures 0.131. In 4, the same cell without messages is left with 0.155 (with seed 1: 0.153, and 0.132 with messages).

Run: ``python scripts/demo.py``, or with ``--smoke`` for seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import networkx as nx
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from tqdm import tqdm

import mpnn
from mpnn.draw import draw
from mpnn.expressions import TOKENS, random_expression
from mpnn.images import superpixels


@dataclass
class Config:
    """Settings of the demo."""

    seed: int = 0
    """of weights, generated data and order"""
    out: Path = Path("out")
    """where pictures and numbers go"""
    smoke: bool = False
    """a fiftieth of the steps: to see that it runs, not what it learns"""
    threads: int = 1
    """of torch; frontiers this small gain nothing from more, and lose much on a busy machine"""

    def steps(self, full: int, what: str) -> Iterator[int]:
        """Counts steps under a progress bar."""
        return tqdm(range(max(1, full // 50) if self.smoke else full), desc=what, leave=False)


class SumLSTM(mpnn.MessagePassing):
    r"""A cell that remembers: the LSTM on a chain, the child-sum Tree-LSTM on a tree, and it runs on any graph.

    .. math::
        i, o, u = \sigma, \sigma, \tanh(W x_i + U \textstyle\sum_j h_j + b), \quad
        f_{ij} = \sigma(W_f x_i + U_f h_j + b_f), \quad
        c_i = i \odot u + \textstyle\sum_j f_{ij} \odot c_j, \quad h_i = o \odot \tanh(c_i)

    Source: Tai, Socher & Manning 2015, arXiv:1503.00075, eq. 2-8.
    Deviations: the forget gate's bias starts at ``forget_bias``, so that what is stored stays; ``aggr="mean"`` divides
    both sums by the number of edges into a node.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` or a plan -> h ``(N, H)``.
    """

    state = ("h", "c")

    def __init__(self, in_features: int, hidden_features: int, aggr: str = "sum", forget_bias: float = 1.0):
        super().__init__(aggr)
        self.hidden_features = hidden_features
        self.input = nn.Linear(in_features, 4 * hidden_features)
        self.recur = nn.Linear(hidden_features, 3 * hidden_features, bias=False)
        self.forget = nn.Linear(hidden_features, hidden_features, bias=False)
        nn.init.constant_(self.input.bias.data[-hidden_features:], forget_bias)

    def forward(self, x, edge_index, schedule=None):
        iou, f = self.input(x).split([3 * self.hidden_features, self.hidden_features], dim=1)  # for all nodes at once
        return self.propagate(edge_index, schedule=schedule, iou=iou, f=f)[0]

    def message(self, h_j, c_j, f_i):
        return h_j, torch.sigmoid(f_i + self.forget(h_j)) * c_j

    def update(self, iou, message):
        h, c = message
        i, o, u = (iou + self.recur(h)).chunk(3, dim=1)
        c = torch.sigmoid(i) * torch.tanh(u) + c
        return torch.sigmoid(o) * torch.tanh(c), c


class Reader(nn.Module):
    """Embeds tokens, runs the cell over the graph and reads the result at some nodes."""

    def __init__(self, num_tokens: int, hidden_features: int, num_classes: int, forget_bias: float = 1.0):
        super().__init__()
        self.embed = nn.Embedding(num_tokens, hidden_features)
        self.cell = SumLSTM(hidden_features, hidden_features, forget_bias=forget_bias)
        self.read = nn.Sequential(
            nn.Linear(hidden_features, hidden_features), nn.ReLU(), nn.Linear(hidden_features, num_classes)
        )

    def forward(self, token: Tensor, plan: mpnn.Plan, where: Tensor) -> Tensor:
        return self.read(self.cell(self.embed(token), plan)[where])


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def share(right: Tensor) -> float:
    return float(right.double().mean())


def karate(config: Config) -> dict:
    """Accuracy over the 32 members whose side the network was not told."""
    graph = nx.karate_club_graph()
    pairs = torch.tensor(list(graph.edges())).t()
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    side = torch.tensor([graph.nodes[member]["club"] == "Officer" for member in graph]).long()
    known = torch.tensor([0, 33])  # the instructor and the officer, around whom the club broke up
    x = torch.eye(34)
    first, second = mpnn.nn.GCN(34, 16), mpnn.nn.GCN(16, 2)
    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01, weight_decay=5e-4)
    for _ in config.steps(200, "karate club"):
        score = second(torch.relu(first(x, edge_index)), edge_index)
        step(optimiser, F.cross_entropy(score[known], side[known]))
    score = second(torch.relu(first(x, edge_index)), edge_index).detach()
    rest = torch.ones(34, dtype=torch.bool).index_fill(0, known, False)
    data = Data(edge_index=edge_index, num_nodes=34, officer=score.softmax(1)[:, 1])
    draw(data, "synchronous", path=config.out / "karate.png")
    draw(data, color="officer", path=config.out / "karate_sides.png")
    right = (score.argmax(1) == side)[rest]
    majority = side[rest].bincount().max() / rest.sum()
    return {"accuracy": share(right), "majority": float(majority), "members": int(rest.sum())}


def chains(config: Config, length: int = 20, symbols: int = 8, count: int = 64) -> dict:
    """Accuracy over fresh chains: a symbol, then distractors from another alphabet; which symbol was it?"""
    generator = torch.Generator().manual_seed(config.seed)
    place = torch.arange(count * length).view(count, length)
    edge_index = torch.stack([place[:, :-1].flatten(), place[:, 1:].flatten()])
    plan = mpnn.plan(edge_index, "topological", num_nodes=count * length)

    def sample() -> tuple[Tensor, Tensor]:
        token = torch.randint(symbols, (count, length), generator=generator)
        return torch.cat([token[:, :1], token[:, 1:] + symbols], dim=1).flatten(), token[:, 0]

    model = Reader(2 * symbols, 32, symbols, forget_bias=3.0)  # 0.95 of the memory is kept each step at first, not 0.73
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in config.steps(300, "chains"):
        token, first = sample()
        step(optimiser, F.cross_entropy(model(token, plan, place[:, -1]), first))
    with torch.no_grad():
        tests = [sample() for _ in range(10)]
        right = [model(token, plan, place[:, -1]).argmax(1) == first for token, first in tests]
    one = Data(edge_index=edge_index[:, : length - 1], num_nodes=length)
    draw(one, "topological", labels=tests[0][0][:length], path=config.out / "chain.png")
    return {"accuracy": share(torch.cat(right)), "chance": 1 / symbols, "delay": length - 1}


def trees(config: Config, train: int = 6000, test: int = 1000, size: int = 100) -> dict:
    """Accuracy over fresh expressions, against always answering the value that is most frequent."""
    generator = torch.Generator().manual_seed(config.seed)
    train, test = (train // 10, test // 5) if config.smoke else (train, test)
    data = [random_expression(generator, max_depth=3, max_args=4) for _ in range(train + test)]
    batches = [Batch.from_data_list(data[k : k + size]) for k in range(0, len(data), size)]
    planned = [(batch, mpnn.plan(batch, "topological")) for batch in batches]
    seen, fresh = planned[: train // size], planned[train // size :]
    model = Reader(len(TOKENS), 64, 10)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for k in config.steps(1500, "trees"):
        batch, plan = seen[k % len(seen)]
        step(optimiser, F.cross_entropy(model(batch.x, plan, batch.root_mask), batch.y))
    with torch.no_grad():
        right = [model(batch.x, plan, batch.root_mask).argmax(1) == batch.y for batch, plan in fresh]
    frequent = torch.cat([batch.y for batch, _ in seen]).mode().values
    majority = share(torch.cat([batch.y for batch, _ in fresh]) == frequent)
    largest = max(data[train : train + 50], key=lambda tree: tree.num_nodes if tree.num_nodes < 40 else 0)
    draw(largest, "topological", labels=[TOKENS[token] for token in largest.x], path=config.out / "tree.png")
    return {"accuracy": share(torch.cat(right)), "majority": majority, "expressions": test}


def pictures(config: Config, segments: int = 250) -> dict:
    """Error of restored colours on a picture not learned from; each superpixel has noise of its own, known size.

    Colours are in [0, 1]; the error is the mean absolute one over superpixels, channels and 20 draws of the noise.
    """
    from skimage import data as samples

    generator = torch.Generator().manual_seed(config.seed)
    image = samples.astronaut()
    seen = Batch.from_data_list([superpixels(picture, segments) for picture in (samples.chelsea(), samples.coffee())])
    fresh = superpixels(image, segments)
    cell, read = SumLSTM(4, 32, aggr="mean"), nn.Linear(32, 3)
    optimiser = torch.optim.Adam([*cell.parameters(), *read.parameters()], lr=0.005)

    def observe(graph: Data) -> tuple[Tensor, Tensor, mpnn.Plan]:
        """Noisy colours, the size of the noise, and the plan of a pass in which the clearest superpixels fire first."""
        noise = 0.5 * torch.rand(graph.num_nodes, 1, generator=generator) ** 0.5
        colour = graph.x + noise * torch.randn(graph.x.shape, generator=generator)
        return colour, noise, mpnn.plan(graph, mpnn.schedule.ordered(-noise.flatten()))

    def restore(colour: Tensor, noise: Tensor, plan: mpnn.Plan) -> Tensor:
        return read(cell(torch.cat([colour - 0.5, noise], dim=1), plan)) + 0.5

    for _ in config.steps(300, "pictures"):
        step(optimiser, F.l1_loss(restore(*observe(seen)), seen.x))
    with torch.no_grad():
        tests = [observe(fresh) for _ in range(20)]
        error = [F.l1_loss(restore(*test), fresh.x) for test in tests]
        raw = [F.l1_loss(colour, fresh.x) for colour, _, _ in tests]
        mean = [F.l1_loss(neighbour_mean(fresh, colour, noise), fresh.x) for colour, noise, _ in tests]
    noise = tests[0][1]
    draw(fresh, mpnn.schedule.ordered(-noise.flatten()), image=image, labels=False, path=config.out / "picture.png")
    values = {"error": error, "noisy": raw, "mean": mean}
    return {name: float(torch.stack(value).mean()) for name, value in values.items()}


class NeighbourSum(mpnn.MessagePassing):
    """The sum of the neighbours' values."""

    value = "x"


def neighbour_mean(graph: Data, colour: Tensor, noise: Tensor) -> Tensor:
    """Each colour averaged with those of its neighbours, weighted by one over the variance of their noise."""
    weight, neighbours = 1 / (noise**2 + 1e-4), NeighbourSum()
    total = weight * colour + neighbours.propagate(graph.edge_index, x=weight * colour)
    return total / (weight + neighbours.propagate(graph.edge_index, x=weight))


def report(name: str, line: str, values: dict) -> None:
    print(f"{name:<12} {line.format(**values)}", flush=True)


def main(config: Config) -> dict:
    """Runs the four parts; returns their numbers."""
    parts = [
        (karate, "GCN, all at once: accuracy {accuracy:.3f} on {members} members (majority {majority:.3f})"),
        (chains, "LSTM, left to right: accuracy {accuracy:.3f} after a delay of {delay} (chance {chance:.3f})"),
        (trees, "Tree-LSTM, leaves to root: accuracy {accuracy:.3f} on {expressions} trees (majority {majority:.3f})"),
        (pictures, "LSTM, clearest first: colour error {error:.3f} (as seen {noisy:.3f}, neighbours' mean {mean:.3f})"),
    ]
    torch.set_num_threads(config.threads)
    results = {}
    for part, line in parts:
        torch.manual_seed(config.seed)
        results[part.__name__] = part(config)
        report(part.__name__, line, results[part.__name__])
    settings = asdict(config) | {"out": str(config.out)}
    (config.out / "demo.json").write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    print(f"pictures of the four graphs, and all numbers, are in {config.out}")
    return results


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

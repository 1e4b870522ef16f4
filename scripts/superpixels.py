"""A class for each pixel of CamVid's road scenes, by a Graph LSTM on superpixels in order of confidence.

Paper: Liang et al. 2016 (arXiv:1603.07063), whose ablation on PASCAL-Person-Part has a mean IoU of 60.16 % in order of
confidence, 58.63 breadth first and 58.23 depth first by location, and 59.21 with one forget gate for all neighbours.
There are no figures of Graph LSTM on CamVid. SegNet-Basic, trained on the same 367 pictures at 360x480, has a mean IoU
of 46.3 %, a class average of 54.6 and a pixel accuracy of 84.0 (Badrinarayanan et al. 2017, arXiv:1511.00561). The
pictures here are 240x180, and the network sees them at 160x120.

A small convolutional network (190,000 weights) gives features and, by a 1x1 convolution, scores. Superpixels (SLIC,
about 400 a picture) have the means over their pixels; the highest mean confidence is a superpixel's priority. A graph
model of two layers adds to the scores of all pixels of a superpixel. So it starts from the network alone, and small
things that superpixels blur are not lost; superpixel smoothing shows what is lost otherwise: each superpixel gets the
class in which the network is most confident on average. The same Graph LSTM without edges shows what neighbours bring.

The network is trained first and the graph models on what it gives, to save time; with ``--along`` it learns on with
each of them, and the order follows its confidence. All losses weight a class by the square root of how rare it is.
Metrics are of the pixels of the test pictures, in percent, at the epoch with the best mean IoU on the validation
pictures. Prepared pictures and trained networks are kept in ``--out``, for later commands.

Three seeds, each with a network of its own: mean IoU 41.43 +- 1.08 of the network alone, 39.97 +- 0.92 with superpixel
smoothing, 41.55 +- 1.48 by Graph LSTM in order of confidence, 41.50 breadth and 41.51 depth first, 41.55 with one
forget gate, 41.47 without edges, 41.70 by GCN. Networks differ more than graph models do, so what counts is the
difference seed by seed. Order of confidence is better than breadth first by 0.06 +- 0.03 and than depth first by 0.04
+- 0.03, in each of the three, as in the paper but by far less; than the network alone by 0.12 +- 0.72, in two of three;
than one forget gate not at all (0.001 +- 0.002): in the first layer states are 0 and so all neighbours' gates equal, in
the second the gates of a node's neighbours are 0.02 apart (standard deviation, where all gates' is 0.20). GCN is better
by 0.15 +- 0.03. With the network learning along, one seed, all gain, and the Graph LSTM no more than without edges:
42.71 in order of confidence, 42.73 breadth first, with one forget gate and without edges, 43.68 by GCN. The network
took 2.5 minutes of one core, a graph model 15 seconds a run, depth first 45 (338 levels, where order of confidence has
21), and six epochs along about a minute::

    mpnn run superpixels --json out/superpixels.json
    mpnn run superpixels --along --seeds 1 --model gcn --no-picture
    mpnn run superpixels --data my-pictures.zip --superpixels 800 --along
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Literal

import networkx as nx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

import mpnn
from mpnn.datasets import pictures
from mpnn.experiment import Options, canvas, over_seeds, report, save, spread, start
from mpnn.images import Pool, overlap, superpixels, to_pixels
from mpnn.loader import DataLoader
from mpnn.schedule import Schedule, ordered, synchronous
from mpnn.train import Shuffled, fit, seed_all

OVERLAP = ("cell", "cell_node_index", "share")


@dataclass(frozen=True)
class Config(Options):
    """A class for each pixel, by graphs of superpixels."""

    seeds: int = 3
    epochs: int = 6
    """Epochs of a graph model."""
    patience: int = 100
    data: Path | None = None
    """Folder or zip archive in the layout of ``mpnn.datasets.pictures``; unless given, CamVid."""
    model: Literal[
        "network", "superpixels", "gcn", "graph-lstm", "bfs", "dfs", "one-gate", "no-edges", "all"
    ] = "all"
    """Model."""
    superpixels: int = 400
    """About how many superpixels a picture has."""
    size: tuple[int, int] = (120, 160)
    """Height and width of the pictures that the network sees; multiples of 4."""
    channels: int = 48
    """Channels of the network where it is deepest."""
    network_epochs: int = 20
    """Epochs of the network."""
    network_seed: int | None = None
    """Seed of one network for all runs; unless given, each run trains its own."""
    hidden: int = 32
    """Width of the graph models."""
    layers: int = 2
    """Layers of the graph models."""
    batch_size: int = 16
    """Pictures in a batch of a graph model."""
    lr: float = 5e-3
    """Learning rate of a graph model at the beginning; as that of the network, it falls to 0 along a cosine."""
    along: bool = False
    """Whether the network learns on with each graph model, at a tenth of its rate; else it is trained first, alone."""


# Data


def prepare(picture: Data, config: Config, num_classes: int) -> Data:
    """The superpixels of a picture with all that the models need: what the network sees, how the network's cells and
    the superpixels overlap, how many pixels of each class a superpixel has, and orders by place.
    """
    height, width = picture.image_size[0].tolist()
    graph = superpixels(picture.x.view(height, width, 3), config.superpixels)
    channels_first = picture.x.view(1, height, width, 3).permute(0, 3, 1, 2).float()
    small = F.interpolate(channels_first, config.size, mode="bilinear", antialias=True, align_corners=False)
    graph.picture = small.round().clamp(0, 255).byte()
    graph.label = F.interpolate(picture.y.view(1, 1, height, width).float(), config.size)[0].to(torch.int8)
    graph.cell, graph.cell_node_index, graph.share = overlap(graph, *cells(config))
    graph.y, known = picture.y.to(torch.int8), picture.y >= 0
    pairs = graph.segment_index[known] * num_classes + picture.y[known].long()
    graph.count = torch.bincount(pairs, minlength=graph.num_nodes * num_classes).view(-1, num_classes).float()
    graph.bfs, graph.dfs = by_place(graph)
    graph.segment_index = graph.segment_index.int()
    del graph.x
    return graph


def pixels_of(graph: Data, config: Config, num_classes: int) -> Tensor:
    """How many pixels of each class an overlap of a cell and a superpixel has, in their order: ``(E, C)``."""
    height, width = graph.image_size[0].tolist()
    row, column = (
        (2 * torch.arange(length) + 1) * count // (2 * length) for length, count in zip((height, width), cells(config))
    )
    cell = (row[:, None] * cells(config)[1] + column).flatten()
    pair = graph.segment_index.long() * (cells(config)[0] * cells(config)[1]) + cell
    place = torch.unique(pair, return_inverse=True)[1]
    known = graph.y >= 0
    count = torch.bincount(
        place[known] * num_classes + graph.y[known], minlength=len(graph.cell) * num_classes
    )
    return count.view(-1, num_classes).short()


def cells(config: Config) -> tuple[int, int]:
    """Rows and columns of what the network gives."""
    return config.size[0] // 2, config.size[1] // 2


def by_place(graph: Data) -> tuple[Tensor, Tensor]:
    """The place of each superpixel in breadth-first and in depth-first order, which begin at the top left; neighbours
    are visited from top to bottom, then from left to right.
    """
    row_by_row = sorted(range(graph.num_nodes), key=lambda i: graph.pos[i].flip(0).tolist())
    place = {node: k for k, node in enumerate(row_by_row)}
    net = nx.Graph()
    net.add_nodes_from(range(graph.num_nodes))
    for a, b in sorted((place[i], place[j]) for i, j in graph.edge_index.t().tolist()):
        net.add_edge(a, b)  # neighbours are visited in the order in which edges are added
    breadth = [0, *(b for _, b in nx.bfs_edges(net, 0))]
    depth = nx.dfs_preorder_nodes(net, 0)
    orders = []
    for found in (breadth, depth):
        rank = torch.empty(graph.num_nodes, dtype=torch.long)
        rank[torch.tensor([row_by_row[k] for k in found])] = torch.arange(graph.num_nodes)
        orders.append(rank)
    return tuple(orders)


def key(*what) -> str:
    return f"{zlib.crc32(repr(what).encode()):08x}"


@cache
def load(config: Config) -> tuple[dict[str, list[Data]], pictures.Classes]:
    """All parts, prepared once and kept in a file."""
    path = config.data or next(iter(mpnn.datasets.files("camvid").values()))
    known = pictures.classes(path)
    kept = config.out / f"superpixels-{key(str(path), config.superpixels, config.size, config.smoke)}" / "graphs.pt"
    if not kept.exists():
        from tqdm import tqdm

        parts = mpnn.datasets.load("camvid") if config.data is None else pictures.labelled(path)
        few = 12 if config.smoke else None
        made = {
            part: [prepare(one, config, len(known.names)).to_dict() for one in tqdm(some[:few], desc=part)]
            for part, some in parts.items()
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(made, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    made = torch.load(kept, weights_only=True)
    parts = {part: [Data.from_dict(fields) for fields in some] for part, some in made.items()}
    for graph in (graph for some in parts.values() for graph in some):
        graph.pixels = pixels_of(graph, config, len(known.names))
    return parts, known


# The network


def convolution(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


class Block(nn.Module):
    """Two convolutions, the first dilated, around which the input is added."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.wide = convolution(channels, channels, dilation=dilation)
        self.last = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.wide(x)))


class Network(nn.Module):
    """A small convolutional network: features of cells of 2 by 2 pixels, and their scores by a 1x1 convolution.

    Shape:
        picture ``(B, 3, H, W)`` uint8 -> features ``(B, F, H / 2, W / 2)``, scores ``(B, C, H / 2, W / 2)``.
    """

    features = 32

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.fine = convolution(3, 16, stride=2)
        self.coarse = convolution(16, channels, stride=2)
        self.context = nn.Sequential(*(Block(channels, dilation) for dilation in (1, 2, 4, 8)))
        self.join = convolution(channels + 16, self.features)
        self.confidence = nn.Conv2d(self.features, num_classes, 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine((picture.float() / 255 - 0.45) / 0.27)
        wide = F.interpolate(self.context(self.coarse(fine)), fine.shape[-2:], mode="bilinear", align_corners=False)
        features = self.join(torch.cat([wide, fine], dim=1))
        return features, self.confidence(features)


def enlarged(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def varied(picture: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the pictures mirrored, and all brighter or darker."""
    turn = torch.rand(len(picture), 1, 1) < 0.5
    light = 0.7 + 0.6 * torch.rand(len(picture), 1, 1, 1)
    picture = torch.where(turn[..., None], picture.flip(3), picture) * light
    return picture.clamp(max=255), torch.where(turn, label.flip(2), label)


def class_weights(graphs: list[Data]) -> Tensor:
    """The square root of how rare a class is, beside the class in the middle."""
    count = torch.stack([graph.count.sum(0) for graph in graphs]).sum(0).clamp(min=1)
    return (count.median() / count).sqrt()


def train_network(config: Config, seed: int) -> Network:
    """One run, or what is left of it; a finished one is read from its file."""
    parts, known = load(config)
    seed_all(seed)
    network, weight = Network(config.channels, len(known.names)), class_weights(parts["train"])
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.network_epochs)

    def loss(net, batch):
        picture, label = varied(*batch)
        scores = enlarged(net(picture)[1], config.size)
        return F.cross_entropy(scores, label.long(), weight, ignore_index=-1)

    def evaluate(net):
        return {"val": measure(predicted(net, parts["val"]), len(known.names))["mean IoU"]}

    pictures_and_labels = [torch.cat([graph[name] for graph in parts["train"]]) for name in ("picture", "label")]
    fit(
        network, Shuffled(8, *pictures_and_labels), loss, evaluate, optimizer, config.network_epochs,
        schedulers=[slower], checkpoint=folder(config) / f"network-{seed}.pt",
    )  # fmt: skip
    return network


@torch.no_grad()
def predicted(network: Network, graphs: list[Data]) -> Iterator[tuple[Tensor, Tensor]]:
    """The network's own classes of the pixels of each picture, and the true ones."""
    for k in range(0, len(graphs), 16):
        some = graphs[k : k + 16]
        scores = network(torch.cat([graph.picture for graph in some]))[1]
        for graph, own in zip(some, scores):
            yield enlarged(own[None], tuple(graph.image_size[0].tolist()))[0].argmax(0).flatten(), graph.y


def measure(pairs: Iterator[tuple[Tensor, Tensor]], num_classes: int) -> dict[str, float]:
    """Metrics in percent over the pixels with a label of all pictures."""
    options = {"num_classes": num_classes, "ignore_index": -1, "validate_args": False}
    metrics = MetricCollection({
        "mean IoU": MulticlassJaccardIndex(**options),
        "class average": MulticlassAccuracy(**options),
        "pixel accuracy": MulticlassAccuracy(average="micro", **options),
    })  # fmt: skip
    for found, y in pairs:
        metrics.update(found, y.long())
    return {name: 100 * float(value) for name, value in metrics.compute().items()}


def folder(config: Config) -> Path:
    """Where networks lie, which all graph models start from, of this command and of later ones."""
    recipe = (str(config.data), config.superpixels, config.size, config.channels, config.network_epochs, config.smoke)
    return config.out / f"superpixels-{key(*recipe)}"


# Graph models


def seen_by(network: Network, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The network's scores of its cells; features and confidence of superpixels, which are means over their pixels.

    Shape:
        scores ``(B, C, rows, columns)``, features ``(N, F)``, confidence ``(N, C)``, which sums to 1.
    """
    features, scores = network(batch.picture)
    both = rows_of(torch.cat([features, scores.softmax(dim=1)], dim=1))
    mean = Pool()(both, cell_of(batch, scores), batch.cell_node_index, batch.share, batch.num_nodes)
    return scores, *mean.split([features.shape[1], scores.shape[1]], dim=1)


def rows_of(maps: Tensor) -> Tensor:
    """A row for each cell of each picture: ``(B, F, rows, columns) -> (B * rows * columns, F)``."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def cell_of(batch: Batch, scores: Tensor) -> Tensor:
    """The cell of each overlap, counted through all pictures of the batch."""
    return batch.cell + batch.batch[batch.cell_node_index] * scores[0, 0].numel()


class ResidualGCN(nn.Module):
    """GCN layers around each of which the input is added, as in the residual Graph LSTM."""

    def __init__(self, features: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(mpnn.nn.GCN(features, features) for _ in range(num_layers))

    def forward(self, x: Tensor, plan) -> Tensor:
        for layer in self.layers:
            x = x + F.relu(layer(x, plan))
        return x


class Labeller(nn.Module):
    """Scores of pixels: those of the network, and what a graph model adds to all pixels of a superpixel.

    The graph model adds nothing at first, so training starts from the network as it is.

    Args:
        network: None where what it gives are fixed fields of the graphs.
        body: layers on the superpixels.
        by_confidence: whether the order is made here, from the confidence of the moment; else batches have a plan.

    Shape:
        batch of B pictures with N superpixels -> scores ``(B, C, rows, columns)`` of the network's cells, and what is
        added to them ``(N, C)``.
    """

    def __init__(self, network: Network | None, body: nn.Module, hidden: int, num_classes: int, by_confidence: bool):
        super().__init__()
        self.network, self.body, self.by_confidence = network, body, by_confidence
        self.lift = nn.Linear(Network.features, hidden)
        self.read = nn.Linear(hidden, num_classes)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.network is None:
            scores, x, plan = batch.scores, batch.x, batch.get("plan")
        else:
            scores, x, confidence = seen_by(self.network, batch)
            plan = mpnn.plan(batch, ordered(most(confidence))) if self.by_confidence else batch.plan
        return scores, self.read(self.body(self.lift(x), plan))


def most(confidence: Tensor) -> Tensor:
    """The priority of a superpixel: the highest of its mean confidences."""
    return confidence.detach().amax(dim=1)


@dataclass(frozen=True)
class Kind:
    """A model: its name in the results, its order, and its layers by width and number."""

    name: str
    order: Schedule | None = None
    body: Callable[[int, int], nn.Module] | None = None


BY_CONFIDENCE = ordered("priority")
MODELS = {
    "network": Kind("network alone"),
    "superpixels": Kind("superpixel smoothing"),
    "gcn": Kind("GCN", synchronous, ResidualGCN),
    "graph-lstm": Kind("Graph LSTM", BY_CONFIDENCE, mpnn.nn.ResidualGraphLSTM),
    "one-gate": Kind(
        "Graph LSTM, one forget gate",
        BY_CONFIDENCE,
        lambda features, layers: mpnn.nn.ResidualGraphLSTM(features, layers, adaptive=False),
    ),
    "bfs": Kind("Graph LSTM, breadth first", ordered("bfs", descending=False), mpnn.nn.ResidualGraphLSTM),
    "no-edges": Kind("Graph LSTM without edges", synchronous, mpnn.nn.ResidualGraphLSTM),
    "dfs": Kind("Graph LSTM, depth first", ordered("dfs", descending=False), mpnn.nn.ResidualGraphLSTM),
}


def seen(config: Config, seed: int) -> tuple[Network, dict[str, list[Data]]]:
    """The trained network of a run, and the graphs with what it sees in their superpixels."""
    return as_seen_by(config, seed if config.network_seed is None else config.network_seed)


@cache
def as_seen_by(config: Config, network_seed: int) -> tuple[Network, dict[str, list[Data]]]:
    network = train_network(config, network_seed)
    return network, {part: [as_seen(network, graph) for graph in some] for part, some in load(config)[0].items()}


@torch.no_grad()
def as_seen(network: Network, graph: Data) -> Data:
    graph = graph.clone()
    graph.scores, graph.x, graph.confidence = seen_by(network, Batch.from_data_list([graph]))
    graph.priority = most(graph.confidence)
    return graph


def loaders(config: Config, kind: str, parts: dict[str, list[Data]]) -> dict[str, DataLoader]:
    """Batches that are planned already, unless the order is to follow a network that still learns."""
    unused = ["label", "pos", "area", "count"] + (["scores", "x"] if config.along else ["picture", "share"])
    if kind == "no-edges":
        parts = {part: [alone(graph) for graph in some] for part, some in parts.items()}
    made = {}
    for part, some in parts.items():
        only_test = ["y", "segment_index", "image_size"] if part != "test" else []
        order = None if follows(config, kind) else MODELS[kind].order
        made[part] = DataLoader(some, config.batch_size, part == "train", order, exclude_keys=unused + only_test)
    return made


def follows(config: Config, kind: str) -> bool:
    """Whether the order follows the confidence of a network that learns."""
    return config.along and MODELS[kind].order == BY_CONFIDENCE


def alone(graph: Data) -> Data:
    graph = graph.clone()
    graph.edge_index = graph.edge_index[:, :0]
    return graph


def train(config: Config, kind: str, seed: int) -> tuple[nn.Module, dict[str, DataLoader]]:
    """One run of a graph model."""
    network, parts = seen(config, seed)
    batches, num_classes = loaders(config, kind, parts), len(load(config)[1].names)
    seed_all(seed)
    learner, body = copy.deepcopy(network) if config.along else None, MODELS[kind].body(config.hidden, config.layers)
    model = Labeller(learner, body, config.hidden, num_classes, follows(config, kind))
    weight = class_weights(parts["train"])
    groups = [{"params": [p for name, p in model.named_parameters() if not name.startswith("network")]}]
    groups += [{"params": list(learner.parameters()), "lr": 0.1 * config.lr}] if config.along else []
    optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=1e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)

    def loss(net, batch):
        scores, pixels = pieces(net, batch)
        weighted = pixels * weight
        return -(weighted * scores.log_softmax(dim=1)).sum() / weighted.sum()

    def evaluate(net):
        return {"val": mean_iou([pieces(net, batch) for batch in batches["val"]])}

    fit(
        model, batches["train"], loss, evaluate, optimizer, config.epochs, patience=config.patience, clip=1.0,
        schedulers=[slower], checkpoint=config.checkpoint(kind, seed),
    )  # fmt: skip
    return model, batches


def pieces(model: Labeller, batch: Batch) -> tuple[Tensor, Tensor]:
    """The scores of the pieces in which a cell and a superpixel overlap, and their pixels of each class, ``(E, C)``.

    All pixels of a piece have the same score, so this is as good as looking at each, but for the smooth way in which
    cells are enlarged in the end.
    """
    scores, added = model(batch)
    return rows_of(scores)[cell_of(batch, scores)] + added[batch.cell_node_index], batch.pixels.float()


def mean_iou(parts: list[tuple[Tensor, Tensor]]) -> float:
    """Intersection over union of each class, over all pieces; its mean in percent."""
    scores, pixels = (torch.cat(column) for column in zip(*parts))
    table = pixels.new_zeros(scores.shape[1], scores.shape[1]).index_add(0, scores.argmax(dim=1), pixels)
    return float((100 * table.diag() / (table.sum(0) + table.sum(1) - table.diag()).clamp(min=1)).mean())


@torch.no_grad()
def labelled(model: Labeller, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """The classes of the pixels of each picture, row by row, and the true ones."""
    scores, added = model(batch)
    sizes = batch.image_size.tolist()
    pixels = [height * width for height, width in sizes]
    for size, own, segment, y in zip(sizes, scores, batch.segment_index.split(pixels), batch.y.split(pixels)):
        yield (enlarged(own[None], size)[0].flatten(1).t() + added[segment]).argmax(dim=1), y


def smoothed(graph: Data) -> tuple[Tensor, Tensor]:
    """To all pixels of a superpixel the class in which the network is most confident on average; and the true ones."""
    return graph.confidence.argmax(dim=1)[graph.segment_index], graph.y


def run(config: Config, kind: str, seed: int) -> dict[str, float]:
    """Metrics of one model on the test pictures."""
    network, parts = seen(config, seed)
    num_classes = len(load(config)[1].names)
    if kind == "network":
        return measure(predicted(network, parts["test"]), num_classes)
    if kind == "superpixels":
        return measure((smoothed(graph) for graph in parts["test"]), num_classes)
    model, batches = train(config, kind, seed)
    return measure((pair for batch in batches["test"] for pair in labelled(model, batch)), num_classes)


def experiment(config: Config, kind: str) -> dict:
    """All seeds of one model."""
    found = []

    def one(seed: int) -> float:
        found.append(run(config, kind, seed))
        return found[-1]["mean IoU"]

    dataset = "camvid" if config.data is None else config.data.stem
    values, seconds = over_seeds(one, config, MODELS[kind].name)
    others = {name: [round(row[name], 3) for row in found] for name in ("class average", "pixel accuracy")}
    row = report(
        "superpixels", dataset, MODELS[kind].name, "mean IoU %", values, seconds, None,
        by_seed=[round(value, 3) for value in values], **others, levels=levels(config, kind), recipe=config.recipe(),
    )  # fmt: skip
    print("    " + "; ".join(f"{name} {fmean(values):.2f}" for name, values in others.items()))
    return row


def levels(config: Config, kind: str) -> float | None:
    """The mean number of frontiers of a test picture, with the first seed."""
    order = MODELS[kind].order
    graphs = seen(config, 0)[1]["test"]
    return None if order is None else round(fmean(int(order(graph).max()) + 1 for graph in graphs), 1)


def compared(rows: list[dict]) -> dict[str, list[float]]:
    """How much more the Graph LSTM reaches than each other model, seed by seed."""
    by_name = {row["model"]: row["by_seed"] for row in rows}
    ours, found = by_name.pop(MODELS["graph-lstm"].name, None), {}
    for name, theirs in by_name.items() if ours else ():
        more = found[name] = [round(a - b, 3) for a, b in zip(ours, theirs)]
        of = spread(more)
        print(f"Graph LSTM - {name}: {of['mean']:+.2f} +- {of['std']:.2f} ({', '.join(f'{d:+.2f}' for d in more)})")
    return found


def picture(config: Config, kind: str, count: int = 3) -> Path:
    """Pictures, their superpixels in the order in which they fire, what is found and what is true."""
    model, batches = train(config, kind, 0)
    palette = torch.tensor([*load(config)[1].palette, (0, 0, 0)], dtype=torch.uint8)  # black: no label
    graphs = batches["test"].dataset[:: max(len(batches["test"].dataset) // count, 1)][:count]
    figure, rows = canvas(count, 4, squeeze=False, figsize=(14, 2.7 * count), layout="constrained")
    for axes, graph in zip(rows, graphs):
        (batch,) = DataLoader([graph], 1, schedule=MODELS[kind].order)
        ((found, _),) = labelled(model, batch)
        level = MODELS[kind].order(graph)
        size = tuple(graph.image_size[0].tolist())
        axes[0].imshow(graph.picture[0].permute(1, 2, 0), extent=(0, size[1], size[0], 0))
        fires = axes[1].imshow(to_pixels(graph, level), cmap="viridis")
        figure.colorbar(fires, ax=axes[1], shrink=0.8)
        axes[2].imshow(palette[found.view(size)])
        axes[3].imshow(palette[graph.y.view(size).long()])
        for ax in axes:
            ax.set_axis_off()
    for ax, title in zip(rows[0], ("picture", "level of its superpixels: 0 fires first", "found", "true")):
        ax.set_title(title)
    return save(figure, config.out / f"superpixels-{kind}.png")


def main(config: Config) -> list[dict]:
    if config.smoke:
        small = {"seeds": 1, "epochs": 2, "network_epochs": 3, "channels": 16, "hidden": 16, "superpixels": 80}
        config = replace(config, **small, size=(60, 80), batch_size=6, picture=False)
    kinds = list(MODELS) if config.model == "all" else [config.model]
    rows = [experiment(config, kind) for kind in kinds]
    more = compared(rows)
    rows = [row | {"more_than": more} if row["model"] == MODELS["graph-lstm"].name else row for row in rows]
    if config.picture:
        for kind in kinds:
            if MODELS[kind].order is not None and kind != "no-edges":
                picture(config, kind)
    return rows


if __name__ == "__main__":
    start(Config, main)

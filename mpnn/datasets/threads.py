"""Threads of comments: posts with the tree of replies to them, and what a comment's place in it says."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.graphs import thread
from mpnn.schedule import topological

__all__ = ["context", "of_threads", "read"]

FIRST = 300
"""Comments kept of a thread, the earliest ones, as in the code of Zayats & Ostendorf 2018 (vickyzayats/graph-LSTM)."""

PARTS = {"train": "train", "dev": "val", "test": "test"}

def read(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """The threads of all subreddits, from ``levels.json`` and one ``.jsonl.xz`` each, by part."""
    thresholds = json.loads(paths["levels.json"].read_text())["thresholds"]
    parts: dict[str, list[Data]] = {part: [] for part in PARTS.values()}
    for subreddit, levels in thresholds.items():
        with lzma.open(paths[f"{subreddit}.jsonl.xz"], "rt", encoding="utf-8", newline="\n") as lines:
            for part, graphs in of_threads(lines, levels).items():
                for data in graphs:
                    data.subreddit = subreddit
                parts[part] += graphs
    return parts


def of_threads(lines: Iterable[str], thresholds: Sequence[int], first: int = FIRST) -> dict[str, list[Data]]:
    """Threads from JSON, one a line, by part.

    The post is node 0, the root, as in the code of Zayats & Ostendorf 2018. It has no level: its y is -1. Comments
    follow in order of time, which puts a parent before its replies.

    Args:
        lines: ``{id, split, author, created, score, title, text, comments: [{id, parent, author, created, score,
            text}]}`` each.
        thresholds: of the levels; a comment's level is the number of thresholds that its score exceeds.
        first: how many comments of a thread are kept.

    Returns:
        Data with parent_index and sibling_index, see :func:`mpnn.graphs.thread`; time ``(N,)`` int64: seconds since
        the post; score, y ``(N,)`` int64; author ``(N,)`` int64, -1 where it is not known; text: a list of N strings,
        the post's is its title and text; node_id: a list of ids.

    Raises:
        ValueError: a line has an unknown split, or a comment replies to none that is kept before it.

    Example:
        >>> reply = {"id": "b", "parent": "a", "author": 1, "created": 60, "score": 5, "text": "Yes."}
        >>> post = {"id": "a", "split": "train", "author": 0, "created": 0, "score": 9, "title": "Well?", "text": ""}
        >>> (data,) = of_threads([json.dumps(post | {"comments": [reply]})], [1, 3, 7])["train"]
        >>> data.parent_index.tolist(), data.y.tolist(), data.time.tolist()
        ([[0], [1]], [-1, 2], [0, 60])
    """
    parts: dict[str, list[Data]] = {part: [] for part in PARTS.values()}
    limits = torch.tensor(thresholds)
    for number, line in enumerate(lines, start=1):
        post = json.loads(line)
        if post["split"] not in PARTS:
            raise ValueError(f"of_threads: line {number} has split={post['split']!r}; expected {', '.join(PARTS)}.")
        parts[PARTS[post["split"]]].append(_data(post, post["comments"][:first], limits))
    return parts


def _data(post: dict[str, Any], comments: list[dict[str, Any]], limits: Tensor) -> Data:
    everything = [post | {"parent": None, "text": f"{post['title']}\n{post['text']}"}, *comments]
    data = thread([(one["id"], one["parent"], one["created"]) for one in everything])
    data.time, data.score, data.author = (
        torch.tensor([one[field] for one in everything]) for field in ("created", "score", "author")
    )
    data.time = data.time - post["created"]
    data.y = torch.bucketize(data.score, limits)
    data.y[0] = -1
    data.text = [one["text"] for one in everything]
    return data


def context(data: Data) -> dict[str, Tensor]:
    """What a node's place in its thread says, column by column; no score is looked at.

    Hours and counts n are given as log(1 + n). Everything is counted in the whole thread, later comments included.
    A size is that of the tree below a node with the node itself; shares are of the largest value among the comments.

    Source: Zayats & Ostendorf 2018, arXiv:1704.02080, has features of timing, author, place and response; they were not
    compared with the paper's own table. Deviations: the columns under ``ours``.

    Shape:
        a thread of N nodes, as :func:`of_threads` makes it -> ``(N,)`` float32 each, by name.

    Example:
        >>> data = thread([("post", None, 0), ("early", "post", 1), ("reply", "early", 2), ("late", "post", 3)])
        >>> data.time, data.author = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 8, 7, -1])
        >>> columns = context(data)
        >>> columns["by the poster"].tolist(), columns["share of size"].tolist()
        ([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.5, 0.5])
    """
    place, time, author = torch.arange(data.num_nodes), data.time, data.author
    parent, earlier, first = _family(data)
    replies = data.parent_index[0].bincount(minlength=len(place))
    poster = (author == author[0]) & (author >= 0)
    size, people = _below(parent.tolist(), author.tolist())
    counts = {
        "hours since the post": time / 3600,
        "hours since the parent": (time - time[parent]) / 3600,
        "comments before": (place - 1).clamp(min=0),
        "comments after": len(place) - 1 - place,
        "comments of the author": torch.where(author >= 0, (author[:, None] == author).sum(1), 1),
        "depth": _level(data.parent_index, data),
        "siblings": torch.where(place > 0, replies[parent] - 1, 0),
        "replies": replies,
        "height": _level(data.parent_index.flip(0), data),
        "size": size,
    }
    shares = {
        "by the poster": poster,
        "share of replies": _share(replies),
        "share of size": _share(size),
    }
    ours = {
        "earlier siblings": _level(data.sibling_index, data),
        "hours since the earlier sibling": (time - time[earlier]) / 3600,
        "hours to the first reply": (time[first] - time) / 3600,
        "replies of the poster": data.parent_index[0][poster[data.parent_index[1]]].bincount(minlength=len(place)),
        "authors below": people,
    }
    known = {"unknown author": author < 0}
    logs = {name: value.float().log1p() for name, value in (counts | ours).items()}
    return logs | {name: value.float() for name, value in (shares | known).items()}


def _family(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """Of each node the parent, the earlier sibling and the first reply; itself where there is none."""
    parent, earlier, first = torch.arange(data.num_nodes).repeat(3, 1)
    parent[data.parent_index[1]] = data.parent_index[0]
    earlier[data.sibling_index[1]] = data.sibling_index[0]
    opens = ~torch.isin(data.parent_index[1], data.sibling_index[1])
    first[data.parent_index[0, opens]] = data.parent_index[1, opens]
    return parent, earlier, first


def _level(edge_index: Tensor, data: Data) -> Tensor:
    """The length of the longest path to a node: depth, height, or place among siblings."""
    return topological(Data(edge_index=edge_index, num_nodes=data.num_nodes))


def _below(parent: list[int], author: list[int]) -> tuple[Tensor, Tensor]:
    """The nodes of the tree that begins at each node, and the number of other known authors in it."""
    size, authors = [1] * len(parent), [{one} for one in author]
    for k in range(len(parent) - 1, 0, -1):  # replies come after their parents
        size[parent[k]] += size[k]
        authors[parent[k]] |= authors[k]
    return torch.tensor(size), torch.tensor([len(some - {-1, own}) for some, own in zip(authors, author)])


def _share(count: Tensor) -> Tensor:
    """Of the largest count among the comments; the post has 1."""
    most = count[1:].max().clamp(min=1) if len(count) > 1 else 1
    return (count / most).clamp(max=1)

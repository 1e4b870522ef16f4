"""The Stanford Sentiment Treebank: binary parse trees of film reviews with a sentiment on every phrase."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from pathlib import Path

import torch
from torch_geometric.data import Data

from mpnn.graphs import brackets

__all__ = ["binary", "plain", "read", "trees"]

NEUTRAL = 2
PARTS = {"train": "train", "val": "dev", "test": "test"}


def read(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """The three parts, from their files; what the authors call dev is ``"val"``."""
    text = {part: lzma.decompress(paths[f"{name}.txt.xz"].read_bytes()) for part, name in PARTS.items()}
    return {part: trees(content.decode("utf-8"), PARTS[part]) for part, content in text.items()}


def trees(text: str, owner: str = "sst") -> list[Data]:
    r"""Trees in brackets, one a line, each node labelled with its sentiment.

    Source: Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank".

    Returns:
        For each line Data with edge_index ``(2, N - 1)`` (child, parent), child ``(N - 1,)`` int64: 0 for the left and
        1 for the right child, y ``(N,)`` int64: 0 very negative, 1, 2 neutral, 3, 4 very positive, and word: a list of
        N strings, None at inner nodes. The root is node 0, and words come in the order of the sentence.

    Raises:
        ValueError: a label is none of 0 to 4, or a line is not one tree; the message names the line.

    Example:
        >>> tree, = trees("(3 (2 It) (4 (2 's) (3 good)))")
        >>> tree.y.tolist(), tree.word
        ([3, 2, 4, 2, 3], [None, 'It', None, "'s", 'good'])
    """
    return [_tree(line, f"{owner}: line {k}") for k, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _tree(line: str, at: str) -> Data:
    try:
        tree = brackets(line)
    except ValueError as error:
        raise ValueError(f"{at}: {error}") from None
    wrong = [label for label in tree.label if label not in ("0", "1", "2", "3", "4")]
    if wrong:
        raise ValueError(
            f"{at}: label {wrong[0]!r}; expected a sentiment, 0 to 4, on every node. {len(wrong)} of {len(tree.label)} "
            "nodes have another. Is it a treebank of another kind? brackets() reads those."
        )
    y = torch.tensor([int(label) for label in tree.label])
    return Data(edge_index=tree.edge_index, child=tree.child, y=y, word=tree.word, num_nodes=tree.num_nodes)


def binary(graphs: list[Data], ignored: int = -100) -> list[Data]:
    """The task with two classes: y is 0 for negative, 1 for positive and ``ignored`` for neutral phrases.

    Trees whose root is neutral are left out. The given graphs stay as they are.

    Source: Socher et al. 2013, section 5.1.

    Example:
        >>> given = trees("(3 (2 It) (4 (2 's) (1 bad)))\\n(2 (2 a) (2 b))")
        >>> [tree.y.tolist() for tree in binary(given)]
        [[1, -100, 1, -100, 0]]
    """
    classes = torch.tensor([0, 0, ignored, 1, 1])
    chosen = [tree.clone() for tree in graphs if int(tree.y[0]) != NEUTRAL]
    for tree in chosen:
        tree.y = classes[tree.y]
    return chosen


def plain(word: str) -> str:
    r"""A word as lists of word vectors have it: in lower case, with brackets and slashes as such.

    Example:
        >>> [plain(word) for word in ("Best", "-LRB-", r"3\/4")]
        ['best', '(', '3/4']
    """
    return _BRACKETS.get(word, word.replace("\\/", "/").replace("\\*", "*").lower())


_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}

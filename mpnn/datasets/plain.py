"""Plain text as one long chain of characters."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from pathlib import Path

from torch_geometric.data import Data

from mpnn.graphs import chain

__all__ = ["characters", "read"]

TRAIN = 0.9


def read(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """The first 90 % of a text as ``"train"`` and the rest as ``"test"``, each one chain."""
    (path,) = paths.values()
    text = lzma.decompress(path.read_bytes()).decode()
    cut = int(TRAIN * len(text))
    return {"train": [characters(text[:cut])], "test": [characters(text[cut:])]}


def characters(text: str) -> Data:
    """A text as a chain of its characters.

    Returns:
        Data with edge_index ``(2, N - 1)`` (character, the next) and word: the list of N characters, which
        :class:`mpnn.datasets.Vocabulary` numbers.

    Example:
        >>> characters("to be").word
        ['t', 'o', ' ', 'b', 'e']
    """
    data = chain(len(text))
    data.word = list(text)
    return data

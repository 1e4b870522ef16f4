"""Documents of several sentences with a class: film reviews."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from mpnn.documents import document

__all__ = ["read_imdb", "read_movie_reviews", "words"]

WORD = re.compile(r"\w+(?=n['’]t\b)|n['’]t\b|['’](?:s|m|d|re|ve|ll)\b|\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words and signs of an English text in lower case; contractions are parted as in the Penn Treebank.

    Example:
        >>> words("It's not bad, I can't say. 8/10")
        ['it', "'s", 'not', 'bad', ',', 'i', 'ca', "n't", 'say', '.', '8', '/', '10']
    """
    return WORD.findall(text.lower())


def rows(path: Path) -> Iterator[dict]:
    for line in lzma.decompress(path.read_bytes()).decode("utf-8").split("\n"):  # other line breaks may be in texts
        if line:
            yield json.loads(line)


def read_movie_reviews(paths: Mapping[str, Path]) -> list[HeteroData]:
    """What :func:`mpnn.documents.document` makes of each review, with y ``(1,)`` (1: positive), fold ``(1,)`` (1 to
    10) and name. The source has parted words already, but for contractions and hyphens; see :func:`words`.
    """
    (path,) = paths.values()
    return [movie_review(row) for row in rows(path)]


def movie_review(row: Mapping) -> HeteroData:
    data = text(row)
    data.y, data.fold = torch.tensor([row["label"]]), torch.tensor([row["fold"]])
    return data


def read_imdb(paths: Mapping[str, Path]) -> dict[str, list[HeteroData]]:
    """``"train"`` and ``"test"``: what :func:`mpnn.documents.document` makes of each review, with rating ``(1,)`` (1 to
    4 and 7 to 10), y ``(1,)``: the number of the rating among these eight, and name. See :func:`words`.
    """
    found = {part: path for part in ("train", "test") for name, path in paths.items() if f".{part}." in name}
    return {part: [imdb_review(row) for row in rows(path)] for part, path in found.items()}


def imdb_review(row: Mapping) -> HeteroData:
    data, rating = text(row), row["rating"]
    data.y, data.rating = torch.tensor([rating - 1 if rating < 5 else rating - 3]), torch.tensor([rating])
    return data


def text(row: Mapping) -> HeteroData:
    """The document of a line; sentences of white space alone are left out."""
    sentences = [words(sentence) for sentence in row["sents"]]
    data = document([sentence for sentence in sentences if sentence], row["id"])
    data.name = row["id"]
    return data

"""Data cards: what a data set is, where it comes from, and what was published on it.

A card is one TOML file under ``datasets/`` of the repository (``mpnn/_datasets`` in an installed wheel). It is the only
place that knows a data set's files, checksums and counts: the loaders take them from here.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class File:
    """One file of a data set: ``path`` below the card's folder, its size in bytes, its sha256 and its public address.

    ``url`` is empty where no public file has these very bytes; ``repacked`` then says that a file of the same layout
    will do as well, so that the counts of the card are the check and not the sha256.
    """

    path: str
    bytes: int
    sha256: str
    url: str = ""
    repacked: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Result:
    """A published number: ``value`` (``± spread``) of ``metric`` by ``model``, read in ``source``."""

    model: str
    metric: str
    value: float
    source: str
    spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Card:
    """What is known of a data set; see the fields.

    Attributes:
        name: what :func:`mpnn.datasets.load` is called with.
        folder: where the files lie, below ``$MPNN_DATA`` or the folder ``datasets/``.
        reader: the parser of these files, empty while there is none.
        obtain: how to come by the files where no download exists.
        counts: what must be true of the loaded graphs, e.g. ``{"nodes": 2708}``.
    """

    name: str
    description: str
    task: str
    source: str
    licence: str
    folder: str
    reader: str = ""
    obtain: str = ""
    url: str = ""
    size: int = 0
    papers: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    results: tuple[Result, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all files, or the ``size`` of the archive where files are not listed (0: not known)."""
        return sum(file.bytes for file in self.files) or self.size

    @property
    def downloads(self) -> bool:
        """Whether every file has a public address."""
        return bool(self.url) or (bool(self.files) and all(file.url for file in self.files))


def beside(name: str) -> Path:
    """A folder that comes with the package: ``mpnn/_NAME`` in an installed wheel, ``NAME`` beside it in a clone.

    An installed package is known by its cards, so that a stranger's ``site-packages/datasets`` is never taken for ours.
    """
    return PACKAGE / f"_{name}" if (PACKAGE / "_datasets").is_dir() else PACKAGE.parent / name


def parse(text: str) -> Card:
    """Reads one card from TOML.

    Raises:
        ValueError: the text is not TOML, or a field is unknown or missing.

    Example:
        >>> fields = ("name", "description", "task", "source", "licence", "folder")
        >>> parse("\\n".join(f'{field} = "tiny"' for field in fields)).name
        'tiny'
    """
    raw = tomllib.loads(text)
    try:
        files = tuple(File(**entry) for entry in raw.pop("files", ()))
        results = tuple(Result(**entry) for entry in raw.pop("results", ()))
        return Card(**{**raw, "papers": tuple(raw.get("papers", ()))}, files=files, results=results)
    except TypeError as error:
        name = raw.get("name", "?")
        raise ValueError(f"card {name!r}: {error}; expected the fields of Card, File and Result.") from None


@cache
def cards() -> dict[str, Card]:
    """All cards by name, in alphabetical order."""
    found = (parse(path.read_text(encoding="utf-8")) for path in sorted(beside("datasets").glob("*.toml")))
    return {card.name: card for card in found}


def names() -> list[str]:
    """The names of all data sets that have a card.

    Example:
        >>> "cora" in names()
        True
    """
    return list(cards())


def card(name: str) -> Card:
    """The card of a data set; case does not matter and ``_`` stands for ``-``.

    Raises:
        KeyError: no data set has this name; the message lists near ones.

    Example:
        >>> card("Cora").counts["nodes"]
        2708
    """
    key = name.lower().replace("_", "-")
    if key not in cards():
        near = difflib.get_close_matches(key, names(), n=3) or names()
        raise KeyError(f"datasets: {name!r} is unknown; expected one of {', '.join(near)}. See `mpnn datasets`.")
    return cards()[key]

"""Sentences as chains with a tag on every word (or character), and the F1 of the spans that tags mark."""

from __future__ import annotations

import lzma
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch_geometric.data import Data

from mpnn.graphs import chain, conllu

__all__ = ["columns", "entity_f1", "read_bmes", "read_conll2000", "read_conllu", "read_weibo"]


def columns(text: str, names: Sequence[str], separator: str = " ") -> list[Data]:
    """Sentences in columns: a word a line with what is known of it, and an empty line after each sentence.

    Args:
        text: the file.
        names: what the columns are, such as ``("word", "tag")``.
        separator: what stands between columns.

    Returns:
        For each sentence Data with edge_index ``(2, N - 1)`` (word, the next), and for each name a list of N strings.

    Raises:
        ValueError: a line has not as many columns as there are names; the message names the line.

    Example:
        >>> first, second = columns("We B-NP\\nwon B-VP\\n\\nYes O\\n", ("word", "tag"))
        >>> first.edge_index.tolist(), first.word, first.tag, second.word
        ([[0], [1]], ['We', 'won'], ['B-NP', 'B-VP'], ['Yes'])
    """
    return [_sentence(rows, names) for rows in _blocks(text, names, separator)]


def _blocks(text: str, names: Sequence[str], separator: str) -> Iterator[list[list[str]]]:
    rows = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):  # other line breaks may be words
        if line.strip():
            rows.append(line.rstrip("\r").split(separator))
            if len(rows[-1]) != len(names):
                raise ValueError(
                    f"columns: line {number} has {len(rows[-1])} columns, {line!r}; expected {len(names)}: "
                    f"{', '.join(names)}, with {separator!r} between them."
                )
        elif rows:
            yield rows
            rows = []


def _sentence(rows: list[list[str]], names: Sequence[str]) -> Data:
    data = chain(len(rows))
    for name, column in zip(names, zip(*rows)):
        data[name] = list(column)
    return data


def _parts(paths: Mapping[str, Path], parse: Callable[[str], list[Data]]) -> dict[str, list[Data]]:
    """The parts of a set from the files whose names say which part they are; of other files, none."""
    found = {}
    for part, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        for name, path in paths.items():
            if word in name.rpartition("/")[2]:
                found[part] = parse(lzma.decompress(path.read_bytes()).decode("utf-8"))
    return found


def read_conll2000(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """Chunking: ``"train"`` and ``"test"``; word, part_of_speech and tag (of the chunk, B-X, I-X or O) are lists."""
    return _parts(paths, lambda text: columns(text, ("word", "part_of_speech", "tag")))


def read_bmes(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """Named entities in Chinese: word is a list of characters, tag of B-X, M-X, E-X, S-X and O."""
    return _parts(paths, lambda text: columns(text, ("word", "tag")))


def read_weibo(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """As :func:`read_bmes`, with tags B-X, I-X and O; what a character's line says of its place in a word is dropped.

    44 characters are broken in the source; they are U+FFFD here.
    """
    parts = _parts(paths, lambda text: columns(text, ("word", "tag"), "\t"))
    for data in (data for part in parts.values() for data in part):
        data.word = [character[0] for character in data.word]
    return parts


def read_conllu(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """Dependency trees with parts of speech: what :func:`mpnn.graphs.conllu` makes of each file."""
    return _parts(paths, conllu)


def entity_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 in percent of the spans that tags mark, over all sentences: a span counts if both its ends and its kind are
    right.

    Source: the evaluation of CoNLL-2000, as the package seqeval has it: a span that begins without B counts as one.
    Deviations: M-X is read as I-X.

    Raises:
        ImportError: ``seqeval`` is not installed.

    Example:
        >>> true, found = [["B-X", "E-X", "O", "S-Y"]], [["B-X", "E-X", "O", "O"]]
        >>> round(entity_f1(true, found), 2)                          # 1 of 1 is right, 1 of 2 is found
        66.67
    """
    try:
        from seqeval.metrics import f1_score
    except ImportError as error:
        text = "entity_f1: F1 of spans needs the seqeval package; install it with pip install 'mpnn[tags]'."
        raise ImportError(text) from error

    def plain(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[f"I{tag[1:]}" if tag.startswith("M-") else tag for tag in tags] for tags in sentences]

    with warnings.catch_warnings():  # of sets without any span
        warnings.simplefilter("ignore")
        return 100 * float(f1_score(plain(true), plain(predicted), zero_division=0))

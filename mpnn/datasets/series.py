"""Series in time as chains."""

from __future__ import annotations

import csv
import io
import lzma
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch_geometric.data import Data

from mpnn.graphs import chain


def read(paths: Mapping[str, Path]) -> Data:
    """Reads one file, as a table if its name has ``.csv``, else as one number a line; ``.xz`` is unpacked."""
    ((name, path),) = paths.items()
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if name.endswith(".xz") else raw).decode()
    return table(text, name) if ".csv" in name else column(text, name)


def laser(paths: Mapping[str, Path]) -> Data:
    """The laser of the Santa Fe competition: the first 1,000 steps are given, the next 100 are to be predicted."""
    data = read(paths)
    step = torch.arange(data.num_nodes)
    data.train_mask, data.test_mask = step < 1_000, (step >= 1_000) & (step < 1_100)
    return data


def column(text: str, name: str = "series") -> Data:
    """A series of one number a line.

    Returns:
        Data of a chain with x ``(N, 1)``.

    Example:
        >>> column("86\\n141\\n").x.tolist()
        [[86.0], [141.0]]
    """
    return series([[_number(line.rstrip("\r\n"), name, k)] for k, line in enumerate(io.StringIO(text), start=1)])


def table(text: str, name: str = "series") -> Data:
    """Series side by side: a line of names, then in each line the date and the numbers.

    Returns:
        Data of a chain with x ``(N, columns)``; columns: the names; date: a list of N strings.

    Raises:
        ValueError: something is no number, or a line has more or fewer columns than names.

    Example:
        >>> data = table("Month,Sunspots\\n1749-01,58.0\\n1749-02,62.6\\n")
        >>> data.x.shape, data.columns, data.date
        (torch.Size([2, 1]), ['Sunspots'], ['1749-01', '1749-02'])
    """
    (_, *columns), *lines = [line for line in csv.reader(io.StringIO(text)) if line]
    for k, line in enumerate(lines, start=2):
        if len(line) != len(columns) + 1:
            raise ValueError(
                f"{name}: line {k} has {len(line)} columns; expected {len(columns) + 1}: a date, {', '.join(columns)}."
            )
    data = series([[_number(value, name, k) for value in line[1:]] for k, line in enumerate(lines, start=2)])
    data.columns, data.date = columns, [line[0] for line in lines]
    return data


def series(rows: list[list[float]]) -> Data:
    """Rows in order of time as the nodes of a chain."""
    data = chain(len(rows))
    data.x = torch.tensor(rows)
    return data


def _number(text: str, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: line {line} has {text!r}; expected a finite number. Fill the gap, or cut it out.")
    return value

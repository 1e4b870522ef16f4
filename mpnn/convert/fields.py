"""Attribute values of a networkx graph as tensors, with errors that name the node or edge."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from mpnn.convert.origin import STRUCTURE, Column, Field

FREE = frozenset({"x", "y", "pos", "time", "edge_attr", "edge_weight"})  # torch_geometric's own names for such fields


@dataclass(frozen=True)
class Rows:
    """Nodes or edges: their names in columns, (nodes,), (us, vs) or (us, vs, keys), and their attributes.

    Columns, because a tuple for each of a million edges costs Python's garbage collector seconds.
    """

    names: tuple[list, ...]
    attrs: list[dict]

    def __len__(self) -> int:
        return len(self.attrs)

    def name(self, row: int) -> tuple:
        return tuple(column[row] for column in self.names)

    def take(self, rows: Sequence[int]) -> Rows:
        if isinstance(rows, range) and rows == range(len(self)):
            return self
        return Rows(tuple([column[row] for row in rows] for column in self.names), [self.attrs[row] for row in rows])

    def share(self, rows: list[int]) -> str:
        """How many these are, where the two directions of an undirected edge, which share their attributes, are one."""
        return f"{len({id(self.attrs[row]) for row in rows})} of {len(set(map(id, self.attrs)))}"

    def values(self, source: Any, asked: str) -> list:
        """What a function gives for each, or the attribute of that name, None where there is none."""
        if not callable(source):
            return [attrs.get(source) for attrs in self.attrs]
        values: list = []
        try:
            for value in map(source, *self.names):
                values.append(value)
        except Exception as error:  # the function's own
            called = ", ".join(map(repr, self.name(len(values))))
            error.add_note(f"from_networkx: raised by the function {asked}=, called with ({called}).")
            raise
        return values


@dataclass(frozen=True)
class Request:
    """A field that was asked for; ``made`` collects what it was made of, by type."""

    field: str
    owner: str
    source: Any
    fill: Any
    dtype: torch.dtype | None
    made: dict[tuple[Any, str], Field] = field(default_factory=dict)

    def of(self, kind: Any) -> Any:
        """The source for one type of node or edge."""
        if not isinstance(self.source, Mapping):
            return self.source
        for name in (kind, kind[1]) if self.owner == "edge" else (kind,):
            if name in self.source:
                return self.source[name]
        raise ValueError(
            f"from_networkx: {self.field}= has sources for the types {list(self.source)}, but none for the "
            f"{self.owner} type {kind!r}. Add one, or {kind!r}: None where there is nothing to convert. (Types are set "
            "by node_type= and edge_type=.)"
        )


def requests_of(fields, node_attrs, edge_attrs, graph_attrs, fill, dtype) -> dict[str, list[Request]]:
    """All that was asked for, by owner, with its names checked."""
    asked = [("edge" if name.startswith("edge_") else "node", name, source) for name, source in fields.items()]
    for owner, more in (("node", node_attrs), ("edge", edge_attrs), ("graph", graph_attrs)):
        asked += [(owner, name, source) for name, source in (more or {}).items()]
    asked = [request for request in asked if request[2] is not None]
    names = [name for _, name, _ in asked]
    for owner, name, _ in asked:
        _check_name(owner, name)
        if names.count(name) > 1:
            raise ValueError(f"from_networkx: the field {name!r} is asked for {names.count(name)} times; ask once.")
    for option, given in (("fill", fill), ("dtype", dtype)):
        if isinstance(given, Mapping) and not given.keys() <= set(names):
            unknown = next(name for name in given if name not in names)
            raise ValueError(f"from_networkx: {option}= names the field {unknown!r}; expected names of {names}.")
    requests: dict[str, list[Request]] = {"node": [], "edge": [], "graph": []}
    for owner, name, source in asked:
        own_fill = fill.get(name) if isinstance(fill, Mapping) else fill
        own_dtype = dtype.get(name) if isinstance(dtype, Mapping) else dtype
        if own_fill is not None and not isinstance(own_fill, (Number, np.bool_)):
            raise TypeError(f"from_networkx: fill={own_fill!r} for {name!r}; expected a number, or {{field: number}}.")
        requests[owner].append(Request(name, owner, source, own_fill, own_dtype))
    return requests


def _check_name(owner: str, name: Any) -> None:
    """Raises if torch_geometric or this module would take a field of this name for something else."""
    taken = name in STRUCTURE or (isinstance(name, str) and (hasattr(Data, name) or hasattr(HeteroData, name)))
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        why = "is no public identifier"
    elif taken and name not in FREE:
        why = "is a name that torch_geometric or mpnn uses itself"
    elif "index" in name or "batch" in name:
        why = "contains 'index' or 'batch', and torch_geometric shifts the values of such fields in a batch"
    elif owner == "edge" and not name.startswith("edge_"):
        why = "does not start with 'edge_', so that torch_geometric may take it for a field of the nodes"
    elif owner != "edge" and "edge" in name:
        why = "contains 'edge', so that torch_geometric may take it for a field of the edges"
    else:
        return
    example = "edge_weight" if owner == "edge" else "x"
    raise ValueError(
        f"from_networkx: {name!r}, asked for as a field of the {owner}{'' if owner == 'graph' else 's'}, {why}. Call "
        f"the field otherwise; the attribute may keep its name, as in {example}={name!r}."
    )


def put_fields(store: Any, kind: Any, rows: Rows, requests: list[Request]) -> None:
    for request in requests:
        source = request.of(kind)
        if source is None:
            continue
        if isinstance(source, list):
            store[request.field], columns = _side_by_side(request, rows, source)
        else:
            store[request.field], column = _column(request, rows, source)
            columns = (column,)
        request.made[kind, request.field] = Field(columns, isinstance(source, list))


def _side_by_side(request: Request, rows: Rows, names: list) -> tuple[Tensor, tuple[Column, ...]]:
    if not names:
        raise ValueError(f"from_networkx: {request.field}=[] names no attribute; name one, or leave the field out.")
    made = [_column(request, rows, name) for name in names]
    for _, column in made:
        if len(column.shape) > 1:
            raise ValueError(
                f"from_networkx: values of {column.name!r} have shape {column.shape}; expected numbers or vectors, "
                f"which {request.field}= can put side by side as columns. Ask for it as a field of its own."
            )
    wide = [tensor if tensor.dim() == 2 else tensor[:, None] for tensor, _ in made]
    return torch.cat(wide, dim=1), tuple(column for _, column in made)  # (rows, F)


def _column(request: Request, rows: Rows, source: Any) -> tuple[Tensor, Column]:
    """The values of one attribute, or of a function, as a tensor with a row each."""
    values = rows.values(source, request.field)
    missing = [row for row, value in enumerate(values) if value is None]
    if missing and request.fill is None:
        raise _missing(request, rows, source, missing)
    kept = [row for row, value in enumerate(values) if value is not None] if missing else range(len(rows))
    present = [values[row] for row in kept] if missing else values
    tensor = _stack(request, rows.take(kept), source, present)
    if missing:
        tensor = _filled(tensor, kept, len(rows), request.fill)
    tensor = tensor if request.dtype is None else tensor.to(request.dtype)
    name = request.field if callable(source) else source
    return tensor, Column(name, tuple(tensor.shape[1:]), tensor.dtype, _form(present))


def _filled(present: Tensor, kept: list[int], count: int, fill: Any) -> Tensor:
    """``count`` rows: those of ``present`` at ``kept``, elsewhere ``fill``, in the dtype torch gives the two."""
    if not kept:
        return torch.full((count,), fill)
    full = present.new_full((count, *present.shape[1:]), fill, dtype=torch.result_type(present, fill))
    full[torch.tensor(kept, device=present.device)] = present.to(full.dtype)
    return full


def _stack(request: Request, rows: Rows, source: Any, values: list) -> Tensor:
    """One tensor of values that are all there, or an error that names the first that does not fit."""
    kinds = set(map(type, values))
    if not any(issubclass(kind, Tensor) for kind in kinds):
        whole = _numbers(values, request.dtype)
        if whole is not None:
            return whole
    each = [value if isinstance(value, Tensor) else _numbers(value, request.dtype) for value in values]
    bad = [row for row, value in enumerate(each) if value is None]
    if bad:
        expected = "a number that fits its dtype, a tensor, or a list or array of numbers with rows of one length"
        raise _unfit(request, rows, source, bad, reprlib.repr(values[bad[0]]), expected)
    shape = Counter(value.shape for value in each).most_common(1)[0][0]
    bad = [row for row, value in enumerate(each) if value.shape != shape]
    if bad:
        expected = f"shape {tuple(shape)}, as {'most' if len(bad) * 2 < len(each) else 'others'} have"
        raise _unfit(request, rows, source, bad, f"of shape {tuple(each[bad[0]].shape)}", expected)
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    dtype = reduce(torch.promote_types, {value.dtype for value in each})
    return torch.stack([value.to(device, dtype) for value in each])


def _numbers(value: Any, dtype: torch.dtype | None) -> Tensor | None:
    """A number or any nesting of numbers of equal lengths as a new tensor of a default dtype; None if it is not one."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):  # uneven, or not numbers: the caller says whose
        return None
    kind = array.dtype.kind
    if kind not in KINDS or (kind == "u" and array.size and array.max() > np.iinfo(np.int64).max):
        return None
    if kind == "f" and isinstance(value, list) and set(map(type, value)) <= {int, bool} and value:
        return None  # integers that only float64 could hold together
    tensor = torch.from_numpy(array.astype(KINDS[kind]))
    return tensor.to(dtype or {"f": torch.get_default_dtype(), "c": torch.get_default_dtype().to_complex()}.get(kind))


KINDS = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64, "c": np.complex128}  # numpy's kinds of number


def _form(values: list) -> str:
    """What to turn rows into on the way back: the Python form they had, tensors where they had several."""
    forms = {Tensor: "tensor", np.ndarray: "array", tuple: "tuple", object: "list"}  # "list": a number, too
    kinds = set(map(type, values)) or {list}
    found = {next(form for base, form in forms.items() if issubclass(kind, base)) for kind in kinds}
    return found.pop() if len(found) == 1 else "tensor"


def name_of(owner: str, names: tuple) -> str:
    if owner == "graph":
        return "the graph"
    return f"node {names[0]!r}" if owner == "node" else f"edge {names!r}"


def _missing(request: Request, rows: Rows, source: Any, missing: list[int]) -> ValueError:
    name, attrs = name_of(request.owner, rows.name(missing[0])), rows.attrs[missing[0]]
    if callable(source):
        what = f"{request.field}= gave None for {name}"
    elif source in attrs:
        what = f"attribute {source!r} of {name}, asked for by {request.field}=, is None"
    else:
        what = f"{name} has no attribute {source!r}, asked for by {request.field}="
    known = dict.fromkeys(known for attrs in rows.attrs for known in attrs)
    lost = source not in known and not callable(source)
    there = f" Attributes there are: {', '.join(map(repr, list(known)[:12])) or 'none'}." if lost else ""
    there += " Of edges ask by a keyword that starts with edge_." if lost and request.owner == "node" else ""
    return ValueError(
        f"from_networkx: {what}; expected a value for every {request.owner}. {rows.share(missing)} have none."
        f"{there} Add them, or pass fill=, such as fill=0 or fill={{{request.field!r}: 0}}."
    )


def _unfit(request: Request, rows: Rows, source: Any, bad: list[int], found: str, expected: str) -> ValueError:
    names = rows.name(bad[0])
    whose = name_of(request.owner, names)
    what = f"{request.field}= of {whose}" if callable(source) else f"attribute {source!r} of {whose}"
    asked = "" if callable(source) else f", asked for by {request.field}=,"
    args = {"node": "node", "edge": ", ".join(("u", "v", "key")[: len(names)]), "graph": "graph"}[request.owner]
    return ValueError(
        f"from_networkx: {what}{asked} is {found}; expected {expected}. {rows.share(bad)} do not fit. Change "
        f"them in the graph, or pass a function that makes a tensor of each: {request.field}=lambda {args}: ..."
    )

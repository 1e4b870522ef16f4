"""From torch_geometric to networkx."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData

from mpnn.convert.origin import STRUCTURE, Field, Origin, node_ids, origin_of, stores_of

if TYPE_CHECKING:
    import networkx as nx

Edge = tuple[Any, Any, int | None, dict]  # ids of source and target, place in the networkx graph, attributes


def to_networkx(data: Data | HeteroData, directed: bool | None = None) -> nx.Graph:
    r"""Converts to networkx: all fields, under the ids, keys and attribute names that the graph had before.

    Data from :func:`from_networkx` gives back the kind of graph it came from, with its ids, node order, keys of
    parallel edges and attributes by their old names; columns of one field become the attributes they were, with their
    dtype as long as the values are exact in it. Fields that were added since become attributes of their own name. So do
    all fields of other data, whose ids are positions, ``(type, position)`` where there are types, and which is taken
    for directed. What is neither a field of nodes nor of edges becomes an attribute of the graph.

    A row becomes a number, list, tuple or array where the attribute was one, and a tensor where it was a tensor. Of a
    field that did not come from networkx it becomes a Python number if nothing is lost by that, else a tensor. Tensors
    are detached and on the CPU.

    The result is a multigraph if the graph was one, or if there are parallel edges. In an undirected result the two
    directions of an edge become one; an edge with only one direction stays.

    Source: none, a conversion.
    Deviations: from ``torch_geometric.utils.to_networkx``, which converts the fields it is told, and calls nodes 0 to
    N-1.

    Args:
        data: ``Data`` or ``HeteroData``, not a batch of them.
        directed: whether the result is directed; None for as the graph was.

    Raises:
        TypeError: ``data`` is a batch, or no data at all.
        ValueError: the directions of an undirected edge differ in a field; ids or edge numbers do not fit the data.

    Example:
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> data = Data(x=torch.eye(2), edge_index=edge_index, num_nodes=2, label=torch.tensor([3, 4]))
        >>> graph = to_networkx(data, directed=False)
        >>> graph.edges, graph.nodes[1]
        (EdgeView([(0, 1)]), {'x': tensor([0., 1.]), 'label': 4})
    """
    if isinstance(data, Batch) or not isinstance(data, (Data, HeteroData)):
        raise TypeError(
            f"to_networkx: data is a {type(data).__name__}; expected a single Data or HeteroData. Convert a batch "
            "graph by graph: [to_networkx(data) for data in batch.to_data_list()]."
        )
    origin = origin_of(data)
    directed = origin.directed if directed is None else directed
    fields, rest = _fields_back(data, origin)
    nodes, edges = _nodes_back(data, fields, origin), _edges_back(data, fields, origin)
    if not directed:
        edges = _merged(edges, origin)
    graph = _built(GRAPHS[directed, origin.multigraph], nodes, edges, origin)
    if graph.number_of_edges() < len(edges) and not origin.multigraph:
        graph = _built(GRAPHS[directed, True], nodes, edges, origin)
    if graph.number_of_edges() < len(edges):
        raise _stale(f"{len(edges) - graph.number_of_edges()} of {len(edges)} edges have the ends and key of another")
    graph.graph.update(rest)
    return graph


GRAPHS = {
    (False, False): "Graph",
    (True, False): "DiGraph",
    (False, True): "MultiGraph",
    (True, True): "MultiDiGraph",
}  # by directed, multigraph


def _built(kind: str, nodes: list[tuple[Any, dict]], edges: list[Edge], origin: Origin) -> nx.Graph:
    import networkx as nx

    graph = getattr(nx, kind)()
    graph.add_nodes_from(nodes)
    if graph.is_multigraph():
        graph.add_edges_from((u, v, _key(origin, number), attrs) for u, v, number, attrs in edges)
    else:
        graph.add_edges_from((u, v, attrs) for u, v, _, attrs in edges)
    return graph


def _fields_back(data: Data | HeteroData, origin: Origin) -> tuple[dict[Any, dict[str, Any]], dict]:
    """The fields of nodes and edges by type or triple; and what belongs to neither, as attributes of the graph."""
    nodes, edges = stores_of(data)
    fields: dict[Any, dict[str, Any]] = {kind: {} for kind in (*nodes, *edges)}
    rest: dict = {}
    for store in data.stores:
        kind, triple = (next((k for k, s in of.items() if s is store), None) for of in (nodes, edges))
        num_nodes = None if kind is None else store.num_nodes or 0
        num_edges = None if triple is None else store.num_edges
        for name, value in store.items():
            if name in STRUCTURE:
                continue
            rows = None if (None, name) in origin.fields else _rows(name, value)
            if rows is not None and rows == num_edges and (rows != num_nodes or "edge" in name):
                fields[triple][name] = value
            elif rows is not None and rows == num_nodes:
                fields[kind][name] = value
            elif (None, name) in origin.fields:
                rest.update((column, rows[0]) for column, rows in _columns(name, value, origin.fields[None, name]))
            else:
                rest[name if store._key is None else (store._key, name)] = value
    return fields, rest


def _rows(name: str, value: Any) -> int | None:
    """The number of rows of a value that may be a field of nodes or edges."""
    if isinstance(value, (Tensor, np.ndarray)):
        last = value.ndim > 1 and ("index" in name or name == "face")  # torch_geometric counts these in the last axis
        return None if last or value.ndim == 0 else value.shape[0]
    return len(value) if isinstance(value, (list, tuple)) else None


def _nodes_back(data: Data | HeteroData, fields: dict, origin: Origin) -> list[tuple[Any, dict]]:
    """All nodes with their attributes, in the order of the networkx graph."""
    typed = isinstance(data, HeteroData)
    nodes: list[tuple[int, Any, dict]] = []
    for kind, store in stores_of(data)[0].items():
        ids = node_ids(data, kind if typed else None)
        place = store["node_number"].tolist() if "node_number" in store else [0] * len(ids)
        nodes += zip(place, ids, _attrs(fields[kind], kind, len(ids), origin), strict=True)
    if typed:
        nodes.sort(key=lambda node: node[0])
    twice = [name for name, count in Counter(name for _, name, _ in nodes).items() if count > 1]
    if twice:
        raise ValueError(
            f"to_networkx: the id {twice[0]!r} belongs to several nodes; expected one. This is so for {len(twice)} "
            "ids. Nodes were added after from_networkx: correct node_number, or delete it to have positions for ids."
        )
    return [(name, attrs) for _, name, attrs in nodes]


def _edges_back(data: Data | HeteroData, fields: dict, origin: Origin) -> list[Edge]:
    """All directed edges, type by type."""
    nodes, relations = stores_of(data)
    ids = {kind: node_ids(data, kind if isinstance(data, HeteroData) else None) for kind in nodes}
    edges: list[Edge] = []
    for triple, store in relations.items():
        if "edge_index" not in store:
            if "adj" in store or "adj_t" in store:
                raise ValueError(f"to_networkx: edges {triple} are a sparse matrix; expected edge_index. Set that.")
            continue
        for kind in (triple[0], triple[2]):
            if kind not in ids:
                raise ValueError(
                    f"to_networkx: edges {triple} have ends of type {kind!r}, of which data has no nodes; expected "
                    f"their number. Set data[{kind!r}].num_nodes."
                )
        src, dst = store["edge_index"].tolist()
        number = _edge_number(store, len(src), origin)
        attrs = _attrs(fields[triple], triple, len(src), origin)
        names = map(ids[triple[0]].__getitem__, src), map(ids[triple[2]].__getitem__, dst)
        edges += zip(*names, number, attrs, strict=True)
    return edges


def _edge_number(store: Any, count: int, origin: Origin) -> Iterable[int | None]:
    """The place of each edge in the networkx graph, if known."""
    if "edge_number" not in store:
        return repeat(None, count)
    number = store["edge_number"].tolist()
    if len(number) != count:
        raise _stale(f"it has {len(number)} rows for {count} edges")
    if number and origin.keys is not None and not 0 <= min(number) <= max(number) < len(origin.keys):
        raise _stale(f"it has the number {max(number)}, of a graph that had {len(origin.keys)} edges")
    return number


def _stale(what: str) -> ValueError:
    return ValueError(
        f"to_networkx: edge_number does not fit the edges: {what}; expected for each edge its place in the networkx "
        "graph, the same for both directions of an undirected one. Edges were changed after from_networkx: correct "
        "edge_number, or delete it, so that edges are paired by their ends and get new keys."
    )


def _key(origin: Origin, number: int | None) -> Any:
    """The key of an edge in a multigraph; None for one that networkx shall choose."""
    return None if origin.keys is None or number is None else origin.keys[number]


def _merged(edges: list[Edge], origin: Origin) -> list[Edge]:
    """One edge for the two directions of each. They belong together by number, or else by ends and key (or rank)."""
    marks: list[Any] = [number for _, _, number, _ in edges]
    order: Iterable[int] = range(len(edges))
    if not origin.directed and None not in marks:
        order = sorted(order, key=marks.__getitem__)
    else:
        rank: Counter = Counter()
        for e, (u, v, number, _) in enumerate(edges):
            key = _key(origin, number)
            marks[e] = frozenset((u, v)), key, rank[u, v] if key is None else 0
            rank[u, v] += 1
    merged: dict[Any, Edge] = {}
    for e in order:
        first = merged.setdefault(marks[e], edges[e])
        if first is not edges[e]:
            _check_turned(first, edges[e])
    return list(merged.values())


def _check_turned(first: Edge, second: Edge) -> None:
    """Raises unless the second edge is the first one turned round, with equal attributes."""
    (u, v, number, attrs), (w, z, _, others) = first, second
    if (u, v) != (z, w):
        raise _stale(f"{number} stands for {u!r} -> {v!r} and {w!r} -> {z!r}")
    for name in {**attrs, **others}:
        if name not in attrs or name not in others or not _same(attrs[name], others[name]):
            one, other = (reprlib.repr(of[name]) if name in of else "missing" for of in (attrs, others))
            raise ValueError(
                f"to_networkx: {name!r} is {one} for the edge {u!r} -> {v!r}, but {other} for {v!r} -> {u!r}; expected "
                "equal values, because an undirected edge can hold only one. Pass directed=True to keep both, or "
                "delete the field."
            )


def _same(a: Any, b: Any) -> bool:
    """Equality of attribute values, where nan equals nan."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    equal = (a == b) | ((a != a) & (b != b))
    return equal if isinstance(equal, bool) else bool(equal.all())


def _attrs(fields: dict[str, Any], kind: str | tuple, count: int, origin: Origin) -> list[dict]:
    """The attributes of each node or edge of a type, that of the type first."""
    attrs: list[dict] = [{} for _ in range(count)]
    label, named = (origin.edge_type, kind[1]) if isinstance(kind, tuple) else (origin.node_type, kind)
    columns = [] if label is None else [(label, [named] * count)]
    for name, value in fields.items():
        columns += _columns(name, value, origin.fields.get((kind, name)))
    for attribute, rows in columns:
        for own, row in zip(attrs, rows, strict=True):
            if attribute in own and not _same(own[attribute], row):
                raise ValueError(
                    f"to_networkx: two fields give the attribute {attribute!r}, with different values "
                    f"{reprlib.repr(own[attribute])} and {reprlib.repr(row)}; expected one. Rename or delete a field."
                )
            own[attribute] = row
    return attrs


def _columns(name: str, value: Any, made: Field | None) -> list[tuple[Hashable, list]]:
    """The attributes that a field holds, by name, with a value for each row."""
    if not isinstance(value, Tensor):
        return [(name, list(value))]
    value = value.detach().cpu().clone()
    if made is None or not made.fits(value):
        plain = value.dim() == 1 and value.dtype in (torch.bool, torch.int64, torch.get_default_dtype())
        return [(name, FORMS["list" if plain else "tensor"](value))]
    if not made.stacked:
        return [(column.name, FORMS[column.form](value)) for column in made.columns]
    parts = value.split([column.width for column in made.columns], dim=1)
    exact = (_exact(part, column.dtype) for part, column in zip(parts, made.columns, strict=True))
    return [
        (column.name, FORMS[column.form](part.reshape(len(value), *column.shape)))
        for column, part in zip(made.columns, exact, strict=True)
    ]


FORMS: dict[str, Callable[[Tensor], list]] = {
    "list": Tensor.tolist,  # numbers, too
    "tuple": lambda value: [tuple(row) for row in value.tolist()],
    "array": lambda value: list(value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()),
    "tensor": lambda value: list(value.unbind(0)),
}


def _exact(part: Tensor, dtype: torch.dtype) -> Tensor:
    """``part`` in the dtype its attribute had, if no value changes by it."""
    if part.dtype == dtype or part.is_complex():
        return part
    cast = part.to(dtype)
    return cast if torch.equal(cast.to(part.dtype), part) else part

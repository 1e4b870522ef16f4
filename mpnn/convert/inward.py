"""From networkx to torch_geometric."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import Data, HeteroData

from mpnn.convert.fields import Rows, name_of, put_fields, requests_of
from mpnn.convert.origin import NODE, TO, Origin

if TYPE_CHECKING:
    import networkx as nx


def from_networkx(
    graph: nx.Graph,
    *,
    node_attrs: Mapping[str, Any] | None = None,
    edge_attrs: Mapping[str, Any] | None = None,
    graph_attrs: Mapping[str, Any] | None = None,
    node_type: Hashable | Callable | None = None,
    edge_type: Hashable | Callable | None = None,
    fill: Any = None,
    dtype: Any = None,
    **fields: Any,
) -> Data | HeteroData:
    r"""Converts any networkx graph to torch_geometric, keeping what :func:`to_networkx` needs for the way back.

    Fields are asked for by keyword: one that starts with ``edge_`` is a field of the edges (``edge_attr=``,
    ``edge_weight=``), any other one of the nodes (``x=``, ``y=``, ``pos=``). ``node_attrs``, ``edge_attrs`` and
    ``graph_attrs`` say the same with a dict ``{field: source}``: for fields of the graph, as
    ``graph_attrs={"y": "label"}``, and for names that are taken here, as ``edge_attrs={"edge_type": "relation"}``.
    A source is

    - the name of an attribute, any hashable: one value a row, ``(N,)``, or ``(N, ...)`` for lists, arrays and tensors;
    - a list of names: their values side by side as columns, ``(N, F)``, even for one name;
    - a function: of a node ``f(node)``, of an edge ``f(u, v)`` or, in a multigraph, ``f(u, v, key)``, of the graph
      ``f(graph)``. It may return what an attribute may hold. In an undirected graph it is called for both directions;
    - in a graph with types, a dict from each type to one of these, or to None for a type without the field. Types of
      edges are triples or, shorter, relations.

    Attributes that are not asked for are not converted; with no fields asked for, the structure alone is.

    *Values.* Python and numpy numbers become int64, bool or the default dtype, never float64 unless that is the
    default; an attribute with values of several kinds gets the widest. Tensors keep their dtype and gradient. Missing
    and None values are errors unless ``fill`` is given; strings and rows of different shapes always are.

    *Direction.* Each edge of an undirected graph becomes two, u to v for all edges, then v to u; a self-loop stays one.

    *Types.* ``node_type`` and ``edge_type`` are an attribute's name or a function, and give strings. Edges are stored
    under ``(type of u, relation, type of v)``, with ``"node"`` for the types and ``"to"`` for the relation where only
    the other one is given.

    *Names.* Field names are identifiers that torch_geometric does not use itself. Names with ``index`` or ``batch`` are
    refused, because batching shifts such fields. The names of fields of edges start with ``edge_`` and others have no
    ``edge`` in them, because by this torch_geometric tells them apart where there are as many nodes as edges.

    Source: none, a conversion.
    Deviations: from ``torch_geometric.utils.from_networkx``, which converts all attributes and none by function,
    forgets ids, keys and direction, and keeps what it cannot convert as a list.

    Args:
        graph: ``Graph``, ``DiGraph``, ``MultiGraph`` or ``MultiDiGraph``.
        node_attrs, edge_attrs, graph_attrs: ``{field: source}``.
        node_type, edge_type: the attribute that holds the type of a node or of an edge, or a function of it.
        fill: a number for missing and None values, or ``{field: number}``.
        dtype: the dtype of all fields, or ``{field: dtype}``.
        **fields: sources of fields of nodes and, where they start with ``edge_``, of edges. None asks for nothing.

    Shape:
        edge_index ``(2, E)`` int64 (src, dst); fields of nodes ``(N, ...)``, of edges ``(E, ...)``, of the graph
        ``(1, ...)``. ``num_nodes`` is always set.

    Raises:
        TypeError: ``graph`` is no networkx graph, or ``fill`` no number.
        ValueError: a value is missing or not a number, named by node or edge; shapes differ; a name is taken.

    Example:
        >>> import networkx as nx
        >>> graph = nx.MultiDiGraph()
        >>> graph.add_node(("a", 1), age=3, size=0.5)
        >>> graph.add_node("b", age=4)
        >>> _ = graph.add_edge("b", ("a", 1), key="first", w=2.0)
        >>> data = from_networkx(graph, x=["age", "size"], y=lambda node: node == "b", edge_weight="w", fill=0)
        >>> data
        Data(num_nodes=2, node_number=[2], x=[2, 2], y=[2], edge_index=[2, 1], edge_number=[1], edge_weight=[1],
        networkx=MultiDiGraph[2])
        >>> data.x
        tensor([[3.0000, 0.5000],
                [4.0000, 0.0000]])
        >>> data.y
        tensor([False,  True])
    """
    import networkx as nx

    if not isinstance(graph, nx.Graph):
        raise TypeError(
            f"from_networkx: graph is a {type(graph).__name__}; expected a networkx Graph, DiGraph, MultiGraph or "
            "MultiDiGraph. Build one of it first, for example by networkx.Graph(edges)."
        )
    requests = requests_of(fields, node_attrs, edge_attrs, graph_attrs, fill, dtype)
    data = Data() if node_type is None and edge_type is None else HeteroData()
    nodes = Rows((list(graph),), [attrs for _, attrs in graph.nodes(data=True)])
    edges, number = _edges(graph)
    kinds = _types(nodes, node_type, "node_type")
    place = _put_nodes(data, nodes, kinds, requests)
    triples = None
    if isinstance(data, HeteroData):
        kind = dict(zip(graph, kinds or repeat(NODE), strict=False))
        relations = _types(edges, edge_type, "edge_type") or [TO] * len(edges)
        src, dst = (map(kind.__getitem__, ends) for ends in edges.names[:2])
        triples = list(zip(src, relations, dst, strict=True))
    if graph.is_directed() and not graph.is_multigraph():
        number = None
    _put_edges(data, edges, number, triples, place, requests)
    put_fields(data, None, Rows(([graph],), [graph.graph]), requests["graph"])
    data.networkx = Origin(
        ids=list(graph),
        directed=graph.is_directed(),
        multigraph=graph.is_multigraph(),
        keys=edges.names[2][: graph.number_of_edges()] if graph.is_multigraph() else None,
        node_type="node_type" if callable(node_type) else node_type,
        edge_type="edge_type" if callable(edge_type) else edge_type,
        fields={key: made for owner in requests.values() for request in owner for key, made in request.made.items()},
    )
    return data


def _edges(graph: nx.Graph) -> tuple[Rows, list[int]]:
    """The directed edges, of an undirected graph first as listed there, then turned; and the place of each there."""
    view = graph.edges(keys=True, data=True) if graph.is_multigraph() else graph.edges(data=True)
    columns: list[list] = [[], [], [], []] if graph.is_multigraph() else [[], [], []]
    for edge in view:
        for column, value in zip(columns, edge, strict=True):
            column.append(value)
    src, dst, *keys, attrs = columns
    edges, number = Rows((src, dst, *keys), attrs), list(range(len(attrs)))
    if graph.is_directed():
        return edges, number
    turn = [e for e in number if src[e] != dst[e]]
    turned = Rows((dst, src, *keys), attrs).take(turn)
    names = tuple(one + other for one, other in zip(edges.names, turned.names, strict=True))
    return Rows(names, attrs + turned.attrs), number + turn


def _types(rows: Rows, source: Any, keyword: str) -> list[str] | None:
    """The type of every node or edge; None if none is asked for."""
    if source is None:
        return None
    kinds = rows.values(source, keyword)
    bad = [row for row, kind in enumerate(kinds) if not isinstance(kind, str)]
    if bad:
        owner = keyword.removesuffix("_type")
        by = "" if callable(source) else f"attribute {source!r}, "
        raise ValueError(
            f"from_networkx: the type of {name_of(owner, rows.name(bad[0]))} ({by}asked for by {keyword}=) is "
            f"{reprlib.repr(kinds[bad[0]])}; expected a string. {rows.share(bad)} {owner}s have no string for "
            f"a type. Set it, or pass a function: {keyword}=lambda {'node' if owner == 'node' else 'u, v'}: ..."
        )
    return kinds


def _put_nodes(data: Data | HeteroData, nodes: Rows, kinds: list[str] | None, requests) -> dict[Any, int]:
    """Writes the nodes type by type; returns the position of each within its type, by id."""
    place: dict[Any, int] = {}
    for kind, chosen in _groups(kinds, NODE, len(nodes)).items():
        store = data[kind] if isinstance(data, HeteroData) else data
        rows = nodes.take(chosen)
        place.update(zip(rows.names[0], range(len(rows)), strict=True))
        store["num_nodes"] = len(rows)
        store["node_number"] = torch.tensor(chosen, dtype=torch.long)
        put_fields(store, kind, rows, requests["node"])
    return place


def _put_edges(data: Data | HeteroData, edges: Rows, number: list[int] | None, triples, place, requests) -> None:
    """Writes the edges type by type, with the place of each in the networkx graph if ``number`` is given."""
    for triple, chosen in _groups(triples, (NODE, TO, NODE), len(edges)).items():
        store = data[triple] if isinstance(data, HeteroData) else data
        rows = edges.take(chosen)
        ends = [list(map(place.__getitem__, names)) for names in rows.names[:2]]
        store["edge_index"] = torch.tensor(ends, dtype=torch.long)  # (2, E)
        if number is not None:
            store["edge_number"] = torch.tensor([number[e] for e in chosen], dtype=torch.long)
        put_fields(store, triple, rows, requests["edge"])


def _groups(keys: list | None, untyped: Any, count: int) -> dict[Any, Sequence[int]]:
    """The rows of each type, types in order of appearance."""
    if keys is None:
        return {untyped: range(count)}
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups

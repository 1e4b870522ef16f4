"""What a graph that came from networkx remembers of it, and the ids of its nodes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.data.data import BaseData

NODE, TO = "node", "to"  # the types of nodes and edges that have none
STRUCTURE = frozenset({"edge_index", "num_nodes", "node_number", "edge_number", "networkx"})


@dataclass(frozen=True)
class Column:
    """One attribute inside a field: its name, the shape and dtype of a value, and the Python form values had."""

    name: Hashable
    shape: tuple[int, ...]
    dtype: torch.dtype
    form: str

    @property
    def width(self) -> int:
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class Field:
    """The attributes that a field was made of; ``stacked`` where they were given as a list and became columns."""

    columns: tuple[Column, ...]
    stacked: bool

    def fits(self, value: Tensor) -> bool:
        """Whether ``value`` still has the shape it had when it was made, apart from the number of rows."""
        shape = (sum(column.width for column in self.columns),) if self.stacked else self.columns[0].shape
        return tuple(value.shape[1:]) == shape


@dataclass(frozen=True, eq=False)
class Origin:
    """The networkx graph that a ``Data`` or ``HeteroData`` was made from, as far as its tensors do not tell.

    Attributes:
        ids: the ids of all nodes, in the order of the graph.
        directed, multigraph: the kind of graph.
        keys: the keys of a multigraph's edges, in the order of the graph.
        node_type, edge_type: the attributes that held the types, None where there were no types.
        fields: :class:`Field` by node type, edge type triple or None (for the graph itself), and name of the field.
    """

    ids: list
    directed: bool = True
    multigraph: bool = False
    keys: list | None = None
    node_type: Hashable | None = None
    edge_type: Hashable | None = None
    fields: dict[tuple[Any, str], Field] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{'Multi' if self.multigraph else ''}{'DiGraph' if self.directed else 'Graph'}[{len(self.ids)}]"


torch.serialization.add_safe_globals([Column, Field, Origin])  # so that saved data loads with weights_only=True


def node_ids(data: Data | HeteroData, node_type: str | None = None) -> list:
    """The ids of the nodes, by position: of ``data`` from :func:`from_networkx`, of slices and batches of it.

    Nodes that never had an id have their position for one, ``(type, position)`` where there are types.

    Args:
        node_type: which nodes, where there are types.

    Example:
        >>> import networkx as nx
        >>> from mpnn.convert import from_networkx
        >>> data = from_networkx(nx.path_graph(["a", "b", "c"]))
        >>> node_ids(data)
        ['a', 'b', 'c']
        >>> node_ids(data.subgraph(torch.tensor([0, 2])))
        ['a', 'c']
        >>> node_ids(Batch.from_data_list([data, data]))
        ['a', 'b', 'c', 'a', 'b', 'c']
    """
    store = _node_store(data, node_type)
    origin, count = getattr(data, "networkx", None), store.num_nodes or 0
    if origin is None or "node_number" not in store:
        return list(range(count)) if node_type is None else [(node_type, position) for position in range(count)]
    number = store["node_number"].tolist()
    if isinstance(data, Batch):
        tables = [origin[graph].ids for graph in store["batch"].tolist()]
    else:
        tables = [origin.ids] * count
    if len(number) != count or any(not 0 <= n < len(ids) for n, ids in zip(number, tables, strict=True)):
        raise ValueError(
            f"node_ids: node_number has {len(number)} rows and a maximum of {max(number, default=None)}, for {count} "
            "nodes; expected for each node its place in the networkx graph. Nodes were changed after from_networkx: "
            "correct node_number, or delete it to have positions for ids."
        )
    return [ids[n] for n, ids in zip(number, tables, strict=True)]


def node_positions(data: Data | HeteroData, node_type: str | None = None) -> dict:
    """The position of each node by its id; the inverse of :func:`node_ids`.

    In a batch, where graphs may share ids, keys are ``(number of the graph, id)``.

    Args:
        node_type: which nodes, where there are types.

    Example:
        >>> import networkx as nx
        >>> from mpnn.convert import from_networkx
        >>> data = from_networkx(nx.path_graph(["a", "b", "c"]))
        >>> node_positions(data)["c"]
        2
        >>> node_positions(Batch.from_data_list([data, data]))[1, "c"]
        5
    """
    ids = node_ids(data, node_type)
    if isinstance(data, Batch):
        ids = list(zip(_node_store(data, node_type)["batch"].tolist(), ids, strict=True))
    return {name: position for position, name in enumerate(ids)}


def _node_store(data: Data | HeteroData, node_type: str | None) -> Any:
    """Where the nodes of a type are kept."""
    if not isinstance(data, BaseData):
        raise TypeError(f"node_ids: data is a {type(data).__name__}; expected a Data or HeteroData.")
    known = data.node_types if isinstance(data, HeteroData) else [None]
    if node_type not in known:
        raise ValueError(
            f"node_ids: node_type={node_type!r}; expected {'one of ' if known != [None] else ''}"
            f"{', '.join(map(repr, known))}. For a HeteroData, say of which type; a Data has none."
        )
    return data.node_stores[known.index(node_type)]


def stores_of(data: Data | HeteroData) -> tuple[dict[str, Any], dict[tuple, Any]]:
    """The nodes by type and the edges by triple; those of a ``Data`` are one store."""
    if isinstance(data, HeteroData):
        return dict(data.node_items()), dict(data.edge_items())
    return {NODE: data.node_stores[0]}, {(NODE, TO, NODE): data.edge_stores[0]}


def origin_of(data: Data | HeteroData) -> Origin:
    """What is known of the graph behind ``data``; of data from elsewhere, that its types are worth an attribute."""
    known = getattr(data, "networkx", None)
    typed = isinstance(data, HeteroData)
    return known or Origin([], node_type="node_type" if typed else None, edge_type="edge_type" if typed else None)

"""What the library needs to know of a graph, whatever holds it: its edges by type, its number of nodes,
names for errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, chain
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

Size = int | tuple[int, int]
EdgeType = tuple[str, str, str]


class Typed:
    """A graph with several types of nodes as one range of indices, type after type.

    Attributes:
        sizes: the number of nodes of each type, in the order in which they stand.
        edge_index: ``{source__relation__target: (2, E)}`` between nodes as they stand.
        data: the ``HeteroData`` or dict it was made of.
    """

    def __init__(self, data: Any, edge_index: Mapping[EdgeType, Tensor], sizes: Mapping[str, int], owner: str):
        self.data, self.sizes, self.edge_index = data, dict(sizes), {}
        for end in chain.from_iterable((src, dst) for src, _, dst in edge_index):
            self.sizes.setdefault(end, 0)
        start = self.starts
        for kind, index in edge_index.items():
            src, _, dst = kind
            if any("__" in part for part in kind):
                raise ValueError(f"{owner}: edge type {kind} has a '__' in a name, which is kept to join its parts.")
            check_edges(f"{owner} (edge type {kind})", index, (self.sizes[src], self.sizes[dst]))
            self.edge_index["__".join(kind)] = index + index.new_tensor([[start[src]], [start[dst]]])

    @property
    def starts(self) -> dict[str, int]:
        """The place of the first node of each type."""
        return dict(zip(self.sizes, accumulate(chain([0], self.sizes.values())), strict=False))

    def join(self, what: str, values: str | Mapping[str, Tensor] | Tensor) -> Tensor:
        """Node values ``{type: (N,)}``, or a field of the data, one type after the other."""
        if isinstance(values, Tensor):
            return values
        given = values
        if isinstance(values, str):
            given = self.data.collect(values, True) if isinstance(self.data, HeteroData) else {}
        for kind, count in self.sizes.items():
            if count and kind not in given:
                raise ValueError(
                    f"{what}: nodes of type {kind!r} have no {values if isinstance(values, str) else 'values'!r}, only "
                    f"those of {', '.join(map(repr, given)) or 'no type'}; expected a number for each of the {count}."
                )
            if kind in given and len(given[kind]) != count:
                raise ValueError(f"{what}: {len(given[kind])} values for the {count} nodes of type {kind!r}.")
        return torch.cat([given[kind] for kind in self.sizes if kind in given])

    def names(self, nodes: list[int]) -> list:
        """The user's own ids, or ``(type, index)``."""
        kinds, found = list(self.sizes), []
        for node in nodes:
            kind = next(k for k in reversed(kinds) if self.starts[k] <= node and self.sizes[k])
            found.append((kind, node - self.starts[kind]))
        if getattr(self.data, "networkx", None) is None:
            return found
        from mpnn.convert import node_ids

        ids = {kind: node_ids(self.data, kind) for kind, _ in found}
        return [ids[kind][place] for kind, place in found]


def typed(graph: Any, num_nodes: Any = None, owner: str = "graph") -> Any:
    """A graph with types of nodes as :class:`Typed`; any other as it is."""
    if isinstance(graph, HeteroData):
        sizes = {kind: int(graph[kind].num_nodes or 0) for kind in graph.node_types}
        return Typed(graph, graph.collect("edge_index", True), sizes, owner)
    return Typed(graph, graph, num_nodes, owner) if isinstance(num_nodes, Mapping) else graph


def in_order(numbers: Tensor, below: int) -> Tensor:
    """The places of integers in ``[0, below)`` from the smallest to the largest, equal ones as they stand.

    It is ``torch.argsort``, which sorts fewer than 32,768 integers by comparing them; numpy sorts 16 bits digit by
    digit, 20 times as fast at 30,000 and still twice at a million.
    """
    if numbers.is_cpu and below <= 1 << 16:
        return torch.from_numpy(numbers.numpy().astype(np.uint16).argsort(kind="stable"))
    return torch.argsort(numbers, stable=True)


def edges_of(graph: Any) -> dict[str, Tensor]:
    """Edge indices by edge type. A graph with one type of edge has the type ``""``."""
    if isinstance(graph, Tensor):
        return {"": graph}
    if isinstance(graph, Typed):
        return graph.edge_index
    if isinstance(graph, Mapping) and not hasattr(graph, "edge_index"):
        if not graph:
            raise ValueError("edge_index is an empty dict; expected at least one {edge type: edge_index (2, E)}.")
        return {str(name): edge_index for name, edge_index in graph.items()}
    edge_index = getattr(graph, "edge_index", None)
    if edge_index is None:
        way = "Build one with mpnn.from_networkx, or set data.edge_index."
        if hasattr(graph, "__array__") or isinstance(graph, (list, tuple)):
            way = "Wrap it: torch.as_tensor(edge_index)."
        raise TypeError(
            f"a {type(graph).__name__} holds no edge_index; expected a torch_geometric Data or Batch, a tensor (2, E), "
            f"a dict {{edge type: (2, E)}} or a Plan. {way}"
        )
    return {"": edge_index}


def nodes_of(graph: Any, num_nodes: Size | None, owner: str) -> Size:
    """The number of nodes as given, or as the graph's holder knows it; never guessed from the largest index."""
    if isinstance(graph, Typed):
        return sum(graph.sizes.values())
    if num_nodes is not None:
        return num_nodes
    known = getattr(graph, "num_nodes", None) if not isinstance(graph, (Tensor, Mapping)) else None
    if known is None:
        raise ValueError(
            f"{owner}: num_nodes is not known from edge_index alone (isolated nodes have no edge); pass num_nodes=."
        )
    return int(known)


def name_of(graph: Any, node: int) -> Any:
    """The user's own id of one node."""
    return names_of(graph, [node])[0]


def names_of(graph: Any, nodes: list[int]) -> list:
    """The user's own ids of some nodes, if the graph was made from networkx or carries them in ``node_id``;
    else their indices.

    In a batch, where ``node_id`` is a list a graph, an id is the one in the node's own graph.
    """
    if isinstance(graph, (Tensor, Mapping)):
        return nodes
    if isinstance(graph, Typed):
        return graph.names(nodes)
    ids, ptr = getattr(graph, "node_id", None), getattr(graph, "ptr", None)
    if isinstance(ids, Tensor):
        return ids[nodes].tolist()
    if ids is not None and ptr is not None:
        return [ids[g][i - int(ptr[g])] for i, g in zip(nodes, graph.batch[nodes].tolist(), strict=True)]
    if ids is None and getattr(graph, "networkx", None) is not None:
        from mpnn.convert import node_ids

        ids = node_ids(graph)
    return nodes if ids is None else [ids[i] for i in nodes]


def check_sizes(owner: str, **sizes: Any) -> None:
    """Raises where a width, or how many there are, is no whole number of at least 1; inputs may be none."""
    for name, size in sizes.items():
        least = 0 if name == "in_features" else 1
        if not isinstance(size, Integral) or size < least:
            way = " Sizes are not found out later: pass x.shape[1]." if size == -1 else ""
            raise ValueError(f"{owner}: {name}={size!r}; expected a whole number, {least} or more.{way}")


def check_batch(owner: str, batch: Tensor | None, num_nodes: int) -> None:
    """Raises unless ``batch`` has one entry a node, or is None."""
    if batch is not None and batch.shape != (num_nodes,):
        raise ValueError(
            f"{owner}: batch has shape {tuple(batch.shape)}; expected the graph of each of the {num_nodes} nodes, "
            f"({num_nodes},)."
        )


def check_tensor(owner: str, edge_index: Any) -> None:
    """Raises where ``edge_index`` is no tensor, and says how to make one of what it is."""
    if isinstance(edge_index, Tensor):
        return
    way = "Wrap it: torch.tensor(edge_index)."
    if hasattr(edge_index, "edge_index"):
        way = "Pass data.edge_index, or call mpnn.apply(layer, data)."
    elif hasattr(edge_index, "adj"):
        way = "Make data of the networkx graph first: mpnn.from_networkx(graph).edge_index."
    raise TypeError(
        f"{owner}: edge_index is a {type(edge_index).__name__}; expected an int64 tensor of shape (2, E). {way}"
    )


def check_edges(owner: str, edge_index: Any, num_nodes: Size) -> None:
    """Raises unless ``edge_index`` is ``(2, E)`` int64 with sources and targets among the nodes."""
    check_tensor(owner, edge_index)
    shape = tuple(edge_index.shape)
    if edge_index.dim() != 2 or shape[0] != 2:
        turned = edge_index.dim() == 2 and shape[1] == 2
        way = "It looks transposed: pass edge_index.t()." if turned else "Row 0 holds sources, row 1 targets."
        raise ValueError(f"{owner}: edge_index has shape {shape}; expected (2, E). {way}")
    if edge_index.dtype != torch.int64:
        raise TypeError(
            f"{owner}: edge_index has dtype {edge_index.dtype}; expected torch.int64. Pass edge_index.long() if its "
            "values are node indices."
        )
    num_src, num_dst = (num_nodes, num_nodes) if isinstance(num_nodes, int) else num_nodes
    least, most = (some.tolist() for some in torch.aminmax(edge_index, dim=1)) if shape[1] else ((0, 0), (-1, -1))
    if min(least) < 0 or most[0] >= num_src or most[1] >= num_dst:
        limit = edge_index.new_tensor([[num_src], [num_dst]])
        outside = ((edge_index < 0) | (edge_index >= limit)).any(dim=0)
        edge = int(outside.nonzero()[0])
        j, i = edge_index[:, edge].tolist()
        size = f"num_nodes={num_nodes}" if isinstance(num_nodes, int) else f"{num_src} sources and {num_dst} targets"
        raise ValueError(
            f"{owner}: edge {edge} ({j} -> {i}) leaves the graph, which has {size}; expected node indices in "
            f"[0, {num_src if not 0 <= j < num_src else num_dst}). {int(outside.sum())} of {outside.numel()} edges do "
            "so. Pass a larger num_nodes (or features with a row for every node), or drop these edges before building "
            "the graph."
        )

"""What the library needs to know of a graph, whatever holds it: its edges by type, its number of nodes,
names for errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Size = int | tuple[int, int]


def edges_of(graph: Any) -> dict[str, Tensor]:
    """Edge indices by edge type. A graph with one type of edge has the type ``""``."""
    if isinstance(graph, Tensor):
        return {"": graph}
    if isinstance(graph, Mapping) and not hasattr(graph, "edge_index"):
        if not graph:
            raise ValueError("edge_index is an empty dict; expected at least one {edge type: edge_index (2, E)}.")
        return {str(name): edge_index for name, edge_index in graph.items()}
    edge_index = getattr(graph, "edge_index", None)
    if edge_index is None:
        raise TypeError(
            f"a {type(graph).__name__} holds no edge_index; expected a torch_geometric Data or Batch, a tensor (2, E), "
            "a dict {edge type: (2, E)} or a Plan. Build one with mpnn.from_networkx, or set data.edge_index."
        )
    return {"": edge_index}


def nodes_of(graph: Any, num_nodes: Size | None, owner: str) -> Size:
    """The number of nodes as given, or as the graph's holder knows it; never guessed from the largest index."""
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
    ids, ptr = getattr(graph, "node_id", None), getattr(graph, "ptr", None)
    if isinstance(ids, Tensor):
        return ids[nodes].tolist()
    if ids is not None and ptr is not None:
        return [ids[g][i - int(ptr[g])] for i, g in zip(nodes, graph.batch[nodes].tolist(), strict=True)]
    if ids is None and getattr(graph, "networkx", None) is not None:
        from mpnn.convert import node_ids

        ids = node_ids(graph)
    return nodes if ids is None else [ids[i] for i in nodes]


def check_edges(owner: str, edge_index: Any, num_nodes: Size) -> None:
    """Raises unless ``edge_index`` is ``(2, E)`` int64 with sources and targets among the nodes."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(
            f"{owner}: edge_index is a {type(edge_index).__name__}; expected an int64 tensor of shape (2, E). "
            "Wrap it: torch.tensor(edge_index)."
        )
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
    limit = edge_index.new_tensor([[num_src], [num_dst]])
    outside = ((edge_index < 0) | (edge_index >= limit)).any(dim=0)
    if bool(outside.any()):
        edge = int(outside.nonzero()[0])
        j, i = edge_index[:, edge].tolist()
        size = f"num_nodes={num_nodes}" if isinstance(num_nodes, int) else f"{num_src} sources and {num_dst} targets"
        raise ValueError(
            f"{owner}: edge {edge} ({j} -> {i}) leaves the graph, which has {size}; expected node indices in "
            f"[0, {num_src if not 0 <= j < num_src else num_dst}). {int(outside.sum())} of {outside.numel()} edges do "
            "so. Pass a larger num_nodes (or features with a row for every node), or drop these edges before building "
            "the graph."
        )

"""Graphs with several types of nodes and edges: meta-paths, and batches in which some graph lacks a type."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its parts come when they are asked for
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mpnn.graph import check_edges

__all__ = ["add_metapaths", "complete", "compose"]

EdgeType = tuple[str, str, str]


def compose(
    edge_index: Mapping[EdgeType, Tensor],
    path: Sequence[EdgeType],
    num_nodes: Mapping[str, int],
    self_pairs: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""The pairs of nodes that a meta-path joins, and the number of ways in which it does.

    .. math::
        C = A_1 A_2 \cdots A_n, \qquad (A_l)_{ji} = \text{number of edges } j \to i \text{ of type } l

    as sparse products: an edge j -> i for each C_ji that is not 0.

    Source: Sun et al. 2011 (PathSim), section 3, the commuting matrix; Wang et al. 2019, arXiv:1903.07293, section 3.
    Deviations: none.

    Args:
        edge_index: ``{(source type, relation, target type): (2, E)}``; more types than the path has do no harm.
        path: edge types, each beginning at the type where the one before ends.
        num_nodes: how many nodes each type has.
        self_pairs: whether a node may be joined with itself.

    Returns:
        edge_index ``(2, E)`` int64, sorted by source and then by target, and count ``(E,)`` int64.

    Raises:
        KeyError: the graph has no edges of a type of the path.
        ValueError: the path is empty, or is broken; an edge leaves the graph.

    Example:
        >>> writes, written = ("author", "writes", "paper"), ("paper", "by", "author")
        >>> edges = {writes: torch.tensor([[0, 1, 1], [0, 0, 1]]), written: torch.tensor([[0, 0, 1], [0, 1, 1]])}
        >>> pairs, count = compose(edges, [writes, written], {"author": 2, "paper": 2})
        >>> pairs.tolist(), count.tolist()
        ([[0, 0, 1, 1], [0, 1, 0, 1]], [1, 1, 1, 2])
    """
    path = [tuple(step) for step in path]
    _check_path(path, edge_index)
    product = None
    for step in path:
        matrix = _matrix(step, edge_index[step], num_nodes)
        product = matrix if product is None else product @ matrix
    if not self_pairs and path[0][0] == path[-1][2]:
        product = product - scipy.sparse.diags_array(product.diagonal(), dtype=np.int64)
    product = product.tocsr()
    product.sort_indices()
    found = product.tocoo()
    pairs = np.stack([found.row, found.col]).astype(np.int64)
    return torch.from_numpy(pairs), torch.from_numpy(found.data.astype(np.int64))


def _check_path(path: list[EdgeType], edge_index: Mapping[EdgeType, Any]) -> None:
    if not path:
        raise ValueError("compose: the meta-path is empty; expected a list of at least one edge type.")
    for step in path:
        if step not in edge_index:
            raise KeyError(
                f"compose: the graph has no edges of type {step}; it has {', '.join(map(str, edge_index))}. For the "
                "way back along edges, torch_geometric.transforms.ToUndirected adds their reverse."
            )
    for place, (before, after) in enumerate(zip(path, path[1:]), start=1):
        if before[2] != after[0]:
            raise ValueError(
                f"compose: step {place} of the meta-path, {before}, ends in {before[2]!r}, but the next, {after}, "
                f"begins at {after[0]!r}; expected the same type of node."
            )


def _matrix(step: EdgeType, edge_index: Tensor, num_nodes: Mapping[str, int]) -> scipy.sparse.csr_array:
    shape = num_nodes[step[0]], num_nodes[step[2]]
    check_edges(f"compose (edge type {step})", edge_index, shape)
    src, dst = edge_index.cpu().numpy()
    return scipy.sparse.csr_array((np.ones(len(src), dtype=np.int64), (src, dst)), shape=shape)  # doubles add up


def add_metapaths(
    data: HeteroData,
    paths: Mapping[str, Sequence[EdgeType]],
    counted: bool = False,
    self_pairs: bool = True,
) -> HeteroData:
    """A graph with the pairs that meta-paths join as further edges, of types ``(first type, name, last type)``.

    Source, deviations: see :func:`compose`. ``AddMetaPaths`` of torch_geometric finds the same pairs; it numbers the
    new types instead of naming them and has no choice about pairs of a node with itself.

    Args:
        data: stays as it is; the copy shares its tensors.
        paths: ``{name: [edge type, edge type, ...]}``.
        counted: whether the edges carry the number of ways as ``edge_weight``, in the default dtype.
        self_pairs: whether a node may be joined with itself.

    Raises:
        KeyError, ValueError: see :func:`compose`.

    Example:
        >>> import networkx as nx, mpnn
        >>> graph = nx.Graph([("Ann", "paper 1"), ("Bob", "paper 1"), ("Bob", "paper 2")])
        >>> kind = lambda node: "paper" if node.startswith("paper") else "author"
        >>> data = mpnn.from_networkx(graph, node_type=kind)
        >>> path = [("author", "to", "paper"), ("paper", "to", "author")]
        >>> add_metapaths(data, {"APA": path}, self_pairs=False)["author", "APA", "author"].edge_index.tolist()
        [[0, 1], [1, 0]]
    """
    out = copy.copy(data)
    edge_index = data.collect("edge_index", allow_empty=True)
    num_nodes = {kind: data[kind].num_nodes for kind in data.node_types}
    for name, path in paths.items():
        pairs, count = compose(edge_index, path, num_nodes, self_pairs)
        device = edge_index[tuple(path[0])].device
        store = out[path[0][0], name, path[-1][2]]
        store.edge_index = pairs.to(device)
        if counted:
            store.edge_weight = count.to(device, torch.get_default_dtype())
    return out


def complete(graphs: Sequence[HeteroData]) -> list[HeteroData]:
    """The same graphs, each with all types of nodes and edges that any of them has: without rows where it had none.

    So they can be batched. torch_geometric takes the types of a batch from its first graph, and the others would be
    lost, or kept, with the order of shuffling; :func:`mpnn.loader.collate` refuses such graphs.

    Args:
        graphs: they stay as they are; the copies share their tensors. Completing all graphs of a data set once, before
            they are loaded, gives all batches the same types.

    Shape:
        A field of a type that was absent has no rows, and the width and dtype that it has elsewhere.

    Raises:
        TypeError: a graph is no ``HeteroData``.

    Example:
        >>> one = HeteroData(author={"x": torch.ones(2, 3)})
        >>> other = HeteroData(author={"x": torch.ones(1, 3)}, venue={"x": torch.ones(4, 5)})
        >>> complete([one, other])[0]["venue"].x.shape
        torch.Size([0, 5])
    """
    pattern: dict[Any, dict[str, Any]] = {}
    for number, graph in enumerate(graphs):
        if not isinstance(graph, HeteroData):
            raise TypeError(f"complete: graph {number} is a {type(graph).__name__}; expected a HeteroData.")
        for store in [*graph.node_stores, *graph.edge_stores]:
            pattern.setdefault(store._key, {key: _no_rows(key, store[key]) for key in store.keys()})  # noqa: SIM118
    made = []
    for graph in graphs:
        out, known = copy.copy(graph), {*graph.node_types, *graph.edge_types}
        for kind in [kind for kind in pattern if kind not in known]:
            out[kind].update(pattern[kind])
        made.append(out)
    return made


def _no_rows(key: str, value: Any) -> Any:
    """What a field holds where there are no nodes or edges."""
    if key == "edge_index":
        return value.new_empty(2, 0)
    if isinstance(value, Tensor) and value.dim():
        return value.new_empty(0, *value.shape[1:])
    if isinstance(value, list):
        return []
    return 0 if key == "num_nodes" else value

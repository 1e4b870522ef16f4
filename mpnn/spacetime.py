"""Graphs in space and time: a node is something at one time, edges lead to others of the same time and on in time.

A space-time graph is a ``Data`` with

- space_index ``(2, E)`` int64: edges between nodes of the same time, and time_index ``(2, E')`` int64: edges from
  earlier to later nodes; :func:`relations` makes of them what a layer takes as ``edge_index``;
- time ``(N,)``: when each node is; ``mpnn.schedule.by(data.time)`` makes each time a level;
- vertex ``(N,)`` int64: what the node is at that time, a joint or a sensor, from 0.

Sequences of any lengths make a batch as all graphs do: ``Batch.from_data_list``, or ``mpnn.loader.DataLoader``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.convert import from_networkx as plain
from mpnn.graph import check_edges, names_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["coarsen", "from_networkx", "relations", "skeleton", "snapshots"]


def relations(data: Data) -> dict[str, Tensor]:
    """The edges of a space-time graph, or of a batch of them, by edge type: ``space`` and ``time``."""
    return {"space": data.space_index, "time": data.time_index}


def skeleton(x: Tensor, bones: Iterable[tuple[int, int]]) -> Data:
    """Joints that move: bones join the joints of each frame, both ways, and each joint goes on to the next frame.

    Args:
        x: ``(T, V, F)``, of V joints in T frames.
        bones: pairs of joints, counted from 0.

    Returns:
        A space-time graph of ``T * V`` nodes, frame after frame, with x ``(T * V, F)``; time counts the frames from 0.

    Raises:
        ValueError: x has not three dimensions, or a bone leaves the skeleton.

    Example:
        >>> data = skeleton(torch.zeros(2, 3, 1), [(0, 1), (1, 2)])
        >>> data.space_index.tolist()
        [[0, 1, 1, 2, 3, 4, 4, 5], [1, 2, 0, 1, 4, 5, 3, 4]]
        >>> data.time_index.tolist(), data.time.tolist(), data.vertex.tolist()
        ([[0, 1, 2], [3, 4, 5]], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    """
    if x.dim() != 3:
        raise ValueError(f"skeleton: x has shape {tuple(x.shape)}; expected (frames, joints, features).")
    bone = torch.tensor(list(bones), dtype=torch.long).reshape(-1, 2).t()
    check_edges("skeleton", bone, x.shape[1])
    frames, joints = x.shape[:2]
    both, node = torch.cat([bone, bone.flip(0)], dim=1), torch.arange(frames * joints)
    space = (both[:, None] + joints * torch.arange(frames)[:, None]).flatten(1)
    later = node[node >= joints]
    data = Data(x=x.flatten(0, 1), space_index=space, time_index=torch.stack([later - joints, later]))
    data.num_nodes, data.time, data.vertex = len(node), node // max(joints, 1), node % max(joints, 1)
    data.vertex_id = list(range(joints if frames else 0))
    return data


def snapshots(
    x: Sequence[Tensor], edge_index: Sequence[Tensor], vertex: Sequence[Iterable[Hashable]] | None = None
) -> Data:
    """A graph that changes: its nodes and edges at each of several times.

    Args:
        x: ``(N_t, F)`` for each time t.
        edge_index: ``(2, E_t)`` for each time, between the rows of its x.
        vertex: who the rows of each x are, by any ids; unless given, row v is v at all times. Whoever is away for a
            time goes on where it was seen last.

    Returns:
        A space-time graph with x ``(N, F)``, time after time; time counts from 0, vertex the ids as they are first
        seen; vertex_id: the list of ids.

    Raises:
        ValueError: the lists have different lengths, an edge leaves its snapshot, the ids of a snapshot are not as many
            as its rows, or one comes twice.

    Example:
        >>> none = torch.empty(2, 0, dtype=torch.long)
        >>> data = snapshots([torch.zeros(2, 1), torch.zeros(1, 1)], [torch.tensor([[0], [1]]), none], ["ab", "b"])
        >>> data.time_index.tolist(), data.vertex.tolist(), data.vertex_id
        ([[1], [2]], [0, 1, 1], ['a', 'b'])
    """
    vertex = [range(len(rows)) for rows in x] if vertex is None else [list(ids) for ids in vertex]
    if not len(x) == len(edge_index) == len(vertex):
        raise ValueError(
            f"snapshots: {len(x)} x, {len(edge_index)} edge_index and {len(vertex)} vertex; expected one each a time."
        )
    number: dict[Hashable, int] = {}
    edges, who, start = [torch.empty(2, 0, dtype=torch.long)], [], 0
    for time, (rows, pairs, ids) in enumerate(zip(x, edge_index, vertex, strict=True)):
        check_edges(f"snapshots: at time {time}", pairs, len(rows))
        if len(ids) != len(rows) or len(set(ids)) != len(ids):
            raise ValueError(
                f"snapshots: at time {time} there are {len(rows)} rows, and the ids {list(ids)[:8]}; expected one id a "
                "row, each once."
            )
        edges.append(pairs + start)
        who += [number.setdefault(name, len(number)) for name in ids]
        start += len(rows)
    time = torch.repeat_interleave(torch.tensor([len(rows) for rows in x], dtype=torch.long))
    who = torch.tensor(who, dtype=torch.long)
    rows = torch.cat(list(x)) if len(x) else torch.empty(0, 0)
    data = Data(x=rows, space_index=torch.cat(edges, dim=1), time_index=_onwards(who, time), num_nodes=start)
    data.time, data.vertex, data.vertex_id = time, who, list(number)
    return data


def from_networkx(graph: nx.Graph, time: str = "time", vertex: str | None = None, **fields: Any) -> Data:
    """A networkx graph whose nodes have a time.

    Edges between nodes of the same time are edges in space, both ways if the graph is undirected; all others lead on in
    time, and those of an undirected graph are taken from the earlier to the later node.

    Args:
        graph: directed or undirected, simple or multi.
        time: the attribute of nodes that holds a number.
        vertex: the attribute that says who a node is at its time, by any hashable ids; then each also has an edge to
            the next time it is seen at. Without it each node is a vertex of its own.
        fields: as in :func:`mpnn.from_networkx`: ``x="attribute"``, or ``x=lambda node: ...``; those of edges, whose
            names start with ``edge_``, are kept for the edges in space.

    Returns:
        A space-time graph in the order of ``graph.nodes``; time keeps its numbers.

    Raises:
        ValueError: an attribute is missing; an edge of a directed graph leads back in time; the same vertex is twice
            at one time.

    Example:
        >>> import networkx as nx
        >>> graph = nx.Graph([("a1", "b1"), ("a1", "a2")])
        >>> nx.set_node_attributes(graph, {"a1": 1990, "b1": 1990, "a2": 1995}, "time")
        >>> data = from_networkx(graph)
        >>> data.space_index.tolist(), data.time_index.tolist()
        ([[0, 1], [1, 0]], [[0], [2]])
    """
    data = plain(graph, time=time, **fields)
    data.time = data.time.flatten()
    src, dst = data.edge_index
    back = data.time[src] > data.time[dst]
    if graph.is_directed() and bool(back.any()):
        j, i = data.edge_index[:, int(back.nonzero()[0])].tolist()
        (source, target), (late, early) = names_of(data, [j, i]), data.time[[j, i]].tolist()
        raise ValueError(
            f"from_networkx: the edge {source!r} -> {target!r} leads from time {late} back to {early}; expected edges "
            f"to the same or a later time. {int(back.sum())} edges lead back. Turn them round, or drop them."
        )
    onward = data.edge_index[:, data.time[src] < data.time[dst]]
    at_once = data.time[src] == data.time[dst]
    data.space_index = data.edge_index[:, at_once]
    for name in fields:
        if name.startswith("edge_"):
            data[name] = data[name][at_once]
    data.vertex = torch.arange(data.num_nodes)
    if vertex is not None:
        data.vertex = _numbers(graph, vertex)
        onward = torch.cat([onward, _onwards(data.vertex, data.time)], dim=1).unique(dim=1)
    data.time_index = onward
    del data.edge_index
    return data


def _numbers(graph: nx.Graph, vertex: str) -> Tensor:
    """Who each node is, numbered as first seen."""
    number: dict[Hashable, int] = {}
    for node, attributes in graph.nodes(data=True):
        if vertex not in attributes:
            raise ValueError(
                f"from_networkx: node {node!r} has no attribute {vertex!r}, which says who it is; set "
                f"graph.nodes[{node!r}][{vertex!r}], or pass vertex=None."
            )
        number.setdefault(attributes[vertex], len(number))
    return torch.tensor([number[graph.nodes[node][vertex]] for node in graph], dtype=torch.long)


def _onwards(vertex: Tensor, time: Tensor) -> Tensor:
    """Edges from each node to the same vertex at the next time it is seen at, by time."""
    order = torch.argsort(time, stable=True)
    order = order[torch.argsort(vertex[order], stable=True)]
    same = vertex[order][1:] == vertex[order][:-1]
    src, dst = order[:-1][same], order[1:][same]
    twice = time[src] == time[dst]
    if bool(twice.any()):
        j, i = int(src[twice][0]), int(dst[twice][0])
        raise ValueError(
            f"from_networkx: nodes {j} and {i} are the same vertex at the same time, {time[j].item()}; expected each "
            "vertex once at a time."
        )
    by_time = torch.argsort(dst, stable=True)
    return torch.stack([src[by_time], dst[by_time]])


def coarsen(data: Data, size: int) -> tuple[Data, Tensor]:
    """Joins ``size`` times to one: the graph for what comes behind a pooling over time.

    A vertex's nodes with the same ``time // size``, in the same graph of a batch, become one. It has the edges that
    they have, each once; those in time that would be loops go. ``GraphReadout("mean")(x, cluster, coarse.num_nodes)``
    is an average over windows of time; the last window may be shorter.

    Args:
        data: a space-time graph, or a batch; time counts from 0.
        size: how many times become one.

    Returns:
        A space-time graph with batch if ``data`` has one, and cluster ``(N,)`` int64: the node that each node becomes.

    Raises:
        ValueError: ``size`` is below 1.

    Example:
        >>> coarse, cluster = coarsen(skeleton(torch.zeros(3, 2, 1), [(0, 1)]), 2)
        >>> cluster.tolist(), coarse.time_index.tolist(), coarse.space_index.tolist()
        ([0, 1, 0, 1, 2, 3], [[0, 1], [2, 3]], [[0, 1, 2, 3], [1, 0, 3, 2]])
    """
    if size < 1:
        raise ValueError(f"coarsen: size={size}; expected 1 or more times to become one.")
    window, batch = data.time.long() // size, data.get("batch")
    columns = [torch.zeros_like(window) if batch is None else batch, window, data.vertex]
    found, cluster = torch.unique(torch.stack(columns), dim=1, return_inverse=True)
    coarse = Data(num_nodes=found.shape[1], time=found[1], vertex=found[2])
    coarse.space_index = cluster[data.space_index].unique(dim=1)
    onward = cluster[data.time_index].unique(dim=1)
    coarse.time_index = onward[:, onward[0] != onward[1]]
    if batch is not None:
        coarse.batch = found[0]
    return coarse, cluster

"""Self-loops and degrees: graphs that a layer derives from the one it is given, kept with its plan."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mpnn.graph import check_edges, in_order
from mpnn.kernels import Loose, pieces, segment_sum
from mpnn.plan import Edges, Plan, notes
from mpnn.schedule import Schedule, synchronous

__all__ = ["looped", "symmetric"]


def _last_loop(src: Tensor, loops: Tensor, num_nodes: int) -> Tensor:
    """The loop that each node has already, the last one of several; ``E``, which is no edge, where there is none."""
    edge = torch.arange(loops.shape[0], device=src.device)
    last = src.new_full((num_nodes + 1,), -1).scatter_reduce(0, torch.where(loops, src, num_nodes), edge, "amax")[:-1]
    return torch.where(last < 0, loops.shape[0], last)


def _at(own: Tensor, values: Tensor, fill: float) -> Tensor:
    """Edge values at each node's own loop, or ``fill``."""
    return torch.cat([values, values.new_full((1, *values.shape[1:]), fill)]).index_select(0, own)


class _Looped:
    """A graph in which every node has exactly one loop, and how edge values carry over to it.

    Attributes:
        graph: the plan of it; its edges are sorted by target already, so edge values need no reordering.
        edges: its edges.
        given: how many edges the graph had before.
    """

    def __init__(self, edge_index: Tensor, schedule: Schedule, num_nodes: int, owner: str):
        check_edges(owner, edge_index, num_nodes)
        self.given, self.turned, self.num_nodes = edge_index.shape[1], schedule.turned, num_nodes
        level = edge_index.new_zeros(num_nodes)
        self.graph = Plan({"": self._with_loops(edge_index)[3]}, num_nodes, level, synchronous, True)
        self.edges = self.graph.edges[""]

    def place(self, graph: Any, values: Tensor, fill: float, absent: float) -> Tensor:
        """Edge values of the graph that was given -> of this one; ``fill`` for the loops that were added."""
        given = graph.given if isinstance(graph, Plan) else graph
        kept, own, order = self.graph.remember("values", lambda: self._with_loops(given)[:3])
        return torch.cat([values[kept], _at(own, values, fill)])[order]

    def _with_loops(self, edge_index: Tensor) -> tuple[Tensor | slice, Tensor, Tensor, Tensor]:
        """The edges that are no loops, each node's own loop, the order of all by target, the edges in this order."""
        src, dst = edge_index.flip(0) if self.turned else edge_index
        loops, node = src == dst, torch.arange(self.num_nodes, device=src.device)
        if bool(loops.any()):
            kept, own = (~loops).nonzero().flatten(), _last_loop(src, loops, self.num_nodes)
        else:
            kept, own = slice(None), torch.full_like(node, self.given)
        src, dst = (torch.cat([end[kept], node]) for end in (src, dst))
        order = in_order(dst, self.num_nodes)
        return kept, own, order, torch.stack([src.index_select(0, order), dst.index_select(0, order)])


class _TracedLooped:
    """The same while a compiler traces: no shape may depend on the data, so loops that are there stay, ``absent``."""

    def __init__(self, traced):
        edge_index, num_nodes = traced.edge_index(""), traced.num_nodes
        self.given = edge_index.shape[1]
        self.loops = edge_index[0] == edge_index[1]
        node = torch.arange(num_nodes, device=edge_index.device)
        self.own = _last_loop(edge_index[0], self.loops, num_nodes)
        self.graph = torch.cat([edge_index, node.expand(2, -1)], dim=1)
        self.edges = Loose(*self.graph, num_nodes, num_nodes)

    def place(self, graph: Any, values: Tensor, fill: float, absent: float) -> Tensor:
        hidden = self.loops.view(-1, *(1,) * (values.dim() - 1))
        return torch.cat([torch.where(hidden, absent, values), _at(self.own, values, fill)])


def looped(layer, edge_index: Any, num_nodes: int) -> _Looped | _TracedLooped:
    """The graph that a layer is given, with exactly one loop a node; made once for a graph."""
    if torch.compiler.is_compiling() and not isinstance(edge_index, Plan):
        return _TracedLooped(layer.plan(edge_index, num_nodes))
    return layer.plan(edge_index, num_nodes, _Looped)


def symmetric(
    layer, edge_index: Any, num_nodes: int, weight: Tensor | None, like: Tensor, self_loops: bool
) -> tuple[Any, Tensor]:
    """A graph and its edge weights ``w_ji / sqrt(d_j d_i)``, d the sum of the weights into a node; 0 where a d is 0.

    Without weights of the user's the result is kept with the plan, and noted with the edge_index.
    """
    made = partial(_symmetric, layer, edge_index, num_nodes, weight, like, self_loops)
    if weight is not None or not isinstance(edge_index, Tensor) or torch.compiler.is_compiling():
        return made()
    known, key = notes(edge_index), ("symmetric", layer.schedule, num_nodes, like.dtype, self_loops)
    if key not in known:
        known[key] = made()
    return known[key]


def _symmetric(
    layer, edge_index: Any, num_nodes: int, weight: Tensor | None, like: Tensor, self_loops: bool
) -> tuple[Any, Tensor]:
    loops = looped(layer, edge_index, num_nodes) if self_loops else None
    graph = loops.graph if self_loops else layer.plan(edge_index, num_nodes)
    if weight is None and isinstance(graph, Plan):
        edges, key = graph.edges[""], ("symmetric", like.dtype)
        return graph, graph.remember(key, lambda: edges.unplace(_by_degree(edges, like)))
    given = loops.given if self_loops else len(graph.edges[""])
    if weight is None:
        weight = like.new_ones(given)
    elif weight.shape != (given,):
        raise ValueError(
            f"{type(layer).__name__}: edge_weight has shape {tuple(weight.shape)}; expected one number an edge, "
            f"({given},)."
        )
    if self_loops:
        return graph, _normalised(loops.edges, loops.place(edge_index, weight, 1.0, 0.0))
    loose = Loose(*graph.edge_index(""), graph.num_src, graph.num_nodes)
    return (graph if isinstance(graph, Plan) else edge_index), _normalised(loose, weight)


def _normalised(edges: Edges | Loose, weight: Tensor) -> Tensor:
    root = _root(segment_sum(edges, weight))
    return weight * root.index_select(0, edges.src) * root.index_select(0, edges.dst)


def _by_degree(edges: Edges, like: Tensor) -> Tensor:
    """The same where all weights are 1, with little more memory than the result."""
    root = _root(edges.rowptr.diff().to(like.dtype))
    out = edges.expand(root)
    for piece in pieces(len(edges)):
        out[piece].mul_(root.index_select(0, edges.src[piece]))
    return out


def _root(total: Tensor) -> Tensor:
    """``1 / sqrt(total)``, and 0 for 0."""
    none = total == 0
    return torch.where(none, 0.0, torch.where(none, 1.0, total).pow(-0.5))  # whose gradient at 0 is infinite

"""Self-loops and degrees: graphs that a layer derives from the one it is given, kept with its plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.kernels import Loose, segment_sum
from mpnn.plan import Plan

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
        unweighted: whether edges of weight 1 stay edges of weight 1.
    """

    unweighted = True

    def __init__(self, plan: Plan):
        edge_index = _with_loops(plan)[3]
        self.graph = Plan({"": edge_index}, plan.num_nodes, plan.level, plan.schedule, True)
        self.edges = self.graph.edges[""]

    def place(self, plan: Plan, values: Tensor, fill: float, absent: float) -> Tensor:
        """Edge values of the given plan -> of this graph; ``fill`` for the loops that were added."""
        kept, own, order = plan.remember("values of loops", lambda: _with_loops(plan)[:3])
        return torch.cat([values[kept], _at(own, values, fill)])[order]


def _with_loops(plan: Plan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The edges that are no loops, each node's own loop, the order of all by target, and the edges in this order."""
    src, dst = plan.edge_index()
    loops = src == dst
    node = torch.arange(plan.num_nodes, device=src.device)
    kept = (~loops).nonzero().flatten()
    own = _last_loop(src, loops, plan.num_nodes)
    target, order = torch.sort(torch.cat([dst[kept], node]), stable=True)
    return kept, own, order, torch.stack([torch.cat([src[kept], node])[order], target])


class _TracedLooped:
    """The same while a compiler traces: no shape may depend on the data, so loops that are there stay, ``absent``."""

    unweighted = False

    def __init__(self, traced):
        edge_index, num_nodes = traced.edge_index(""), traced.num_nodes
        self.loops = edge_index[0] == edge_index[1]
        node = torch.arange(num_nodes, device=edge_index.device)
        self.own = _last_loop(edge_index[0], self.loops, num_nodes)
        self.graph = torch.cat([edge_index, node.expand(2, -1)], dim=1)
        self.edges = Loose(*self.graph, num_nodes, num_nodes)

    def place(self, plan: Any, values: Tensor, fill: float, absent: float) -> Tensor:
        hidden = self.loops.view(-1, *(1,) * (values.dim() - 1))
        return torch.cat([torch.where(hidden, absent, values), _at(self.own, values, fill)])


def looped(layer, edge_index: Any, num_nodes: int) -> _Looped | _TracedLooped:
    """The graph that a layer is given, with exactly one loop a node; made once for a plan."""
    plan = layer.plan(edge_index, num_nodes)
    if not isinstance(plan, Plan):
        return _TracedLooped(plan)
    return plan.remember("looped", lambda: _Looped(plan))


def symmetric(
    layer, edge_index: Any, num_nodes: int, weight: Tensor | None, like: Tensor, self_loops: bool
) -> tuple[Any, Tensor]:
    """A graph and its edge weights ``w_ji / sqrt(d_j d_i)``, d the sum of the weights into a node; 0 where a d is 0.

    Without weights of the user's the result is kept with the plan.
    """
    plan = layer.plan(edge_index, num_nodes)

    def build():
        given = like.new_ones(len(plan.edges[""])) if weight is None else weight
        if self_loops:
            loops = looped(layer, edge_index, num_nodes)
            graph, edges = loops.graph, loops.edges
            ones = weight is None and loops.unweighted
            given = like.new_ones(len(edges)) if ones else loops.place(plan, given, 1.0, 0.0)
        else:
            graph = plan if isinstance(plan, Plan) else edge_index
            edges = Loose(*plan.edge_index(""), num_nodes, num_nodes)
        root = segment_sum(edges, given).pow(-0.5)
        root = torch.where(root.isinf(), torch.zeros_like(root), root)
        return graph, given * root.index_select(0, edges.src) * root.index_select(0, edges.dst)

    if weight is not None:
        if weight.shape != (len(plan.edges[""]),):
            raise ValueError(
                f"{type(layer).__name__}: edge_weight has shape {tuple(weight.shape)}; expected one number an edge, "
                f"({len(plan.edges[''])},)."
            )
        return build()
    if not isinstance(plan, Plan):
        return build()
    return plan.remember(("symmetric", like.dtype, self_loops), build)

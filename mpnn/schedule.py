r"""Schedules: when a node fires.

A schedule is a pure function from a graph to one integer a node, its *level*. Nodes of one level fire together, level
after level, lowest first, and an edge j -> i hands i the newest state j has at that moment: the one written in this
pass if ``level[j] < level[i]``, else the one from before the pass.

====================== ======================================================= =======================================
schedule               level of a node                                         for
====================== ======================================================= =======================================
``synchronous``        0                                                       GCN, GAT, graph networks
``topological``        length of the longest path that ends in it              chains, trees, DAGs
``ordered(priority)``  earliest that gives the one-after-the-other result      Graph LSTM, asynchronous updates
``by(values)``         rank of its value among all values                      graphs in time, layered graphs
``coloured``           its colour, which no neighbour shares                   sweeps, Gibbs sampling, relaxation
====================== ======================================================= =======================================

Every schedule has a ``reverse``: the pass run backwards, with each edge turned round and the nodes in opposite order.

Example:
    >>> import torch
    >>> edge_index = torch.tensor([[0, 1, 0], [1, 2, 2]])         # 0 -> 1 -> 2 and 0 -> 2
    >>> topological(edge_index, num_nodes=3)
    tensor([0, 1, 2])
    >>> topological.reverse(edge_index, num_nodes=3)
    tensor([2, 1, 0])
    >>> by(torch.tensor([1990.0, 1995.0, 1990.0]))(edge_index, num_nodes=3)
    tensor([0, 1, 0])
    >>> coloured(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), num_nodes=4)
    tensor([0, 1, 0, 1])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdRef

from mpnn.graph import Typed, edges_of, in_order, names_of, nodes_of, typed

__all__ = ["CycleError", "Schedule", "by", "coloured", "get", "ordered", "synchronous", "topological"]

NARROW = 48  # a frontier with fewer edges than this is walked edge by edge; array operations would cost more


class CycleError(ValueError):
    """A graph that should be acyclic is not. ``cycle`` holds node indices in the direction of the edges."""

    def __init__(self, message: str, cycle: list[int]):
        super().__init__(message)
        self.cycle = cycle


@dataclass(frozen=True, eq=False)
class Schedule:
    """A rule that gives every node of a graph its level.

    Args:
        name: ``"synchronous"``, ``"topological"``, ``"ordered"``, ``"by"`` or ``"coloured"``.
        values: one number a node for ``ordered`` and ``by``, or the name of the field of the data that holds them;
            ``{node type: numbers}`` where nodes have types.
        descending: for ``ordered``, whether the largest value fires first.
        turned: whether the pass runs backwards: edges turned, order reversed.

    Shape:
        graph: ``Data``, ``Batch``, or edge_index ``(2, E)`` int64 with ``num_nodes`` -> level ``(N,)`` int64. Nodes of
        several types, of a ``HeteroData`` or ``{edge type: (2, E)}`` with ``{node type: number}``, stand type after
        type.
    """

    name: str
    values: Tensor | Mapping[str, Tensor] | str | None = None
    descending: bool = True
    turned: bool = False

    @property
    def reverse(self) -> Schedule:
        """The same pass run backwards: every edge turned round, and nodes in the opposite order."""
        return replace(self, turned=not self.turned)

    def __call__(self, graph: Any, num_nodes: int | Mapping[str, int] | None = None) -> Tensor:
        graph = typed(graph, num_nodes, self.name)
        schedule = self.bind(graph)
        relations = edges_of(graph)
        num_nodes = nodes_of(graph, num_nodes, self.name)
        edge_index = torch.cat(list(relations.values()), dim=1)
        src, dst = (edge_index[1], edge_index[0]) if self.turned else (edge_index[0], edge_index[1])
        return schedule.levels(src, dst, num_nodes, graph)

    def bind(self, graph: Any) -> Schedule:
        """The schedule with a field's name replaced by that field of ``graph``."""
        if isinstance(graph, Typed) and self.values is not None:
            return replace(self, values=graph.join(self.name, self.values))
        if not isinstance(self.values, str):
            return self
        values = graph.get(self.values) if hasattr(graph, "get") else getattr(graph, self.values, None)
        if values is None:
            raise ValueError(
                f"{self.name}: the graph has no field {self.values!r}; pass the values as a tensor of shape "
                f"(num_nodes,), or plan a torch_geometric Data that has this field."
            )
        return replace(self, values=values)

    def levels(self, src: Tensor, dst: Tensor, num_nodes: int, graph: Any = None) -> Tensor:
        """Levels for edges that are already turned the way messages flow."""
        if self.name == "synchronous":
            return src.new_zeros(num_nodes)
        if self.name == "topological":
            return _longest_path(src, dst, num_nodes, None, graph)
        if self.name == "coloured":
            return self._turn(_colours(src, dst, num_nodes))
        values = self._checked(num_nodes)
        if self.name == "by":
            return self._turn(torch.unique(values, return_inverse=True)[1].to(src.device))
        rank = torch.empty(num_nodes, dtype=torch.long)
        rank[torch.sort(values.cpu(), descending=self.descending, stable=True).indices] = torch.arange(num_nodes)
        rank = (num_nodes - 1 - rank if self.turned else rank).to(src.device)
        loops = src == dst  # a node reads its own state from before the pass, whatever the order
        src, dst = src[~loops], dst[~loops]
        forward = rank[src] < rank[dst]
        first, second = torch.where(forward, src, dst), torch.where(forward, dst, src)
        return _longest_path(first, second, num_nodes, forward, graph)  # 1: must be later; 0: must not be earlier

    def _turn(self, level: Tensor) -> Tensor:
        return level.max() - level if self.turned and level.numel() else level

    def _checked(self, num_nodes: int) -> Tensor:
        values = self.values
        if not isinstance(values, Tensor):
            raise TypeError(
                f"{self.name}: values are a {type(values).__name__}; expected a tensor of shape ({num_nodes},) or, "
                "when a Data is planned, the name of its field."
            )
        if values.dim() != 1 or values.numel() != num_nodes:
            raise ValueError(
                f"{self.name}: values have shape {tuple(values.shape)}; expected one number a node, ({num_nodes},)."
            )
        if values.is_floating_point() and bool(values.isnan().any()):
            bad = values.isnan()
            raise ValueError(
                f"{self.name}: the value of node {int(bad.nonzero()[0])} is nan, so it has no place in the order. "
                f"{int(bad.sum())} of {num_nodes} values are. Replace them, for example by torch.nan_to_num."
            )
        return values

    def like(self, other: Schedule) -> bool:
        """Whether both are the same rule in the same direction, over whatever values."""
        return (self.name, self.descending, self.turned) == (other.name, other.descending, other.turned)

    @property
    def tensors(self) -> list:
        """The values, where they are tensors or ought to be."""
        if isinstance(self.values, Mapping):
            return list(self.values.values())
        return [] if self.values is None else [self.values]

    @property
    def key(self) -> tuple:
        """What tells two schedules apart when plans are cached."""
        values = (id(self.values), self.values._version) if isinstance(self.values, Tensor) else self.values
        if isinstance(values, Mapping):  # a plan keeps them joined, so another tensor may take the id of one
            values = tuple((kind, WeakIdRef(some), some._version) for kind, some in values.items())
        return self.name, values, self.descending, self.turned

    def __repr__(self) -> str:
        inside = "" if self.values is None else f"({self.values if isinstance(self.values, str) else 'values'})"
        return f"{self.name}{inside}{'.reverse' if self.turned else ''}"


synchronous = Schedule("synchronous")
"""All nodes fire at once: level 0. Every message reads the state from before the pass."""

topological = Schedule("topological")
"""A node fires when all its sources have: its level is the length of the longest path ending in it.
A cycle is an error.
"""

coloured = Schedule("coloured")
"""Nodes of one colour fire together, colour after colour, and no two neighbours share one: a sweep over all nodes in
which each reads what its neighbours have at that moment. The result is that of one node after the other in the order
of colours. The colouring is greedy, nodes with most edges first (Welsh & Powell 1967, doi:10.1093/comjnl/10.1.85),
equal ones by index: at most one colour more than the largest number of neighbours.
"""


def ordered(priority: Tensor | Mapping[str, Tensor] | str, descending: bool = True) -> Schedule:
    """Nodes fire one after the other, highest priority first; run in the fewest frontiers that give the same result.

    For an edge j -> i where j comes first, i is at least one level later and reads j's new state; where i comes first,
    j is not earlier than i, so i reads j's old state. Equal priorities fire in order of node index, lower first (in the
    reversed pass, higher first).

    Args:
        priority: ``(N,)``, or the name of a field of the data; nan is an error. ``{node type: (N,)}`` where nodes have
            types.
        descending: whether the highest priority fires first.

    Example:
        >>> pairs = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])             # 0 - 1 and 2 - 3
        >>> ordered(torch.tensor([0.9, 0.2, 0.1, 0.8]))(pairs, num_nodes=4)  # 0 and 3 need not wait for each other
        tensor([0, 1, 1, 0])
    """
    return Schedule("ordered", priority, descending)


def by(values: Tensor | Mapping[str, Tensor] | str) -> Schedule:
    """Nodes of equal value fire together, smallest value first: time steps, layers, precomputed levels.

    Args:
        values: ``(N,)``, or the name of a field of the data; nan is an error. ``{node type: (N,)}`` where nodes have
            types.

    Example:
        >>> by(torch.tensor([1995, 1990, 2001, 1990]))(torch.tensor([[0], [1]]), num_nodes=4)
        tensor([1, 0, 2, 0])
    """
    return Schedule("by", values)


def get(schedule: str | Schedule | Tensor | Mapping[str, Tensor]) -> Schedule:
    """A schedule from its name, from itself, or from a tensor of levels; one a type, where nodes have types.

    Example:
        >>> get("topological"), get(torch.tensor([0, 1])), get("coloured").reverse
        (topological, by(values), coloured.reverse)
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, (Tensor, Mapping)):
        return by(schedule)
    known = {"synchronous": synchronous, "topological": topological, "coloured": coloured}
    if isinstance(schedule, str) and schedule in known:
        return known[schedule]
    expected = (
        "expected 'synchronous', 'topological', 'coloured', a tensor of levels, or a schedule such as "
        "mpnn.schedule.ordered(priority) or mpnn.schedule.by(values)."
    )
    if isinstance(schedule, str):
        raise ValueError(f"schedule={schedule!r} is unknown; {expected}")
    raise TypeError(
        f"schedule is a {type(schedule).__name__}; {expected} Levels of your own, a list, an array or what a function "
        "gives, are torch.as_tensor(levels)."
    )


def _colours(src: Tensor, dst: Tensor, num_nodes: int) -> Tensor:
    """The smallest colour that no neighbour coloured before has; nodes with most edges come first."""
    ends = torch.stack([torch.cat([src, dst]), torch.cat([dst, src])])[:, (src != dst).repeat(2)].cpu()
    ends = ends[:, torch.argsort(ends[0])]
    degree = torch.bincount(ends[0], minlength=num_nodes)
    stop = degree.cumsum(0).tolist()
    neighbours, colour = memoryview(ends[1].numpy()), [-1] * num_nodes
    for node in torch.sort(degree, descending=True, stable=True).indices.tolist():
        taken = {colour[j] for j in neighbours[stop[node - 1] if node else 0 : stop[node]]}
        mine = 0
        while mine in taken:
            mine += 1
        colour[node] = mine
    return torch.tensor(colour, dtype=torch.long, device=src.device)


def _longest_path(src: Tensor, dst: Tensor, num_nodes: int, later: Tensor | None, graph: Any) -> Tensor:
    """Levels such that ``level[dst] >= level[src] + later``, each as small as can be;
    ``later`` is 1 for all if None.
    """
    if later is None and (level := _steps(src, dst, num_nodes)) is not None:
        return level
    device = src.device
    order = in_order(src.cpu(), num_nodes)
    head = dst.cpu()[order].numpy()
    step = np.ones(head.size, dtype=np.int64) if later is None else later.cpu()[order].numpy()
    out = np.zeros(num_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(src.cpu().numpy(), minlength=num_nodes), out=out[1:])
    waiting = np.bincount(head, minlength=num_nodes)
    level = np.zeros(num_nodes, dtype=np.int64)
    frontier = np.flatnonzero(waiting == 0)
    fired = 0
    while frontier.size:
        fired += frontier.size
        if (out[frontier + 1] - out[frontier]).sum() < NARROW and frontier.size < NARROW:
            frontier, more = _walk(frontier.tolist(), head, step, out, waiting, level)
            fired += more
        else:
            frontier = _sweep(frontier, head, step, out, waiting, level)
    if fired < num_nodes:
        raise _cycle(waiting, src.cpu().numpy(), dst.cpu().numpy(), graph)
    return torch.from_numpy(level).to(device)


def _steps(src: Tensor, dst: Tensor, num_nodes: int) -> Tensor | None:
    """Levels where no node has two edges into it, as on chains: how many steps there are from where they begin; None
    elsewhere, and where there is a cycle. Each round looks twice as far.
    """
    if not 0 < src.numel() < num_nodes:
        return None
    device, src, dst = src.device, src.cpu().numpy(), dst.cpu().numpy()
    if np.bincount(dst).max() > 1:
        return None
    node = np.arange(num_nodes)
    if (dst - src == 1).all():  # one chain after the other: a node's begins at the last one before it that can
        begin = node.copy()
        begin[dst] = 0
        return torch.from_numpy(node - np.maximum.accumulate(begin)).to(device)
    before, level = node.copy(), np.zeros_like(node)
    before[dst], level[dst] = src, 1
    for _ in range(num_nodes.bit_length() + 1):
        further = before[before]
        if (further == before).all():
            begins = level[before] == 0  # of a cycle of one or two nodes these are not
            return torch.from_numpy(level).to(device) if begins.all() else None
        level, before = level + level[before], further
    return None


def _sweep(frontier, head, step, out, waiting, level):
    """Fires a wide frontier with array operations; returns the next one."""
    count = out[frontier + 1] - out[frontier]
    before = np.cumsum(count) - count
    edge = np.arange(count.sum()) + np.repeat(out[frontier] - before, count)
    target = head[edge]
    np.maximum.at(level, target, np.repeat(level[frontier], count) + step[edge])
    np.subtract.at(waiting, target, 1)
    return np.unique(target[waiting[target] == 0])


def _walk(frontier, head, step, out, waiting, level):
    """Fires narrow frontiers edge by edge, until one is wide;
    returns that one and the number of nodes fired after the first.
    """
    head, step, out, waiting, level = map(memoryview, (head, step, out, waiting, level))
    fired = 0
    while frontier:
        ready, width = [], 0
        for node in frontier:
            reached = level[node]
            for edge in range(out[node], out[node + 1]):
                target = head[edge]
                if reached + step[edge] > level[target]:
                    level[target] = reached + step[edge]
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
                    width += out[target + 1] - out[target]
        if width >= NARROW or len(ready) >= NARROW:
            return np.asarray(ready), fired
        fired += len(ready)
        frontier = ready
    return np.empty(0, dtype=np.int64), fired


def _cycle(waiting, src, dst, graph) -> CycleError:
    """Walks backwards from a node that never fired: every such node has a source that never fired,
    so the walk closes.
    """
    stuck = waiting > 0
    kept = stuck[src] & stuck[dst]
    source = np.full(stuck.size, -1)
    source[dst[kept]] = src[kept]
    seen, path, node = {}, [], int(np.flatnonzero(stuck)[0])
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        node = int(source[node])
    cycle = path[seen[node] :][::-1]
    cycle = cycle + cycle[:1]
    if len(cycle) <= 12:
        shown = names_of(graph, cycle)
    else:
        shown = names_of(graph, cycle[:6]) + [f"... ({len(cycle) - 11} more) ..."] + names_of(graph, cycle[-5:])
    return CycleError(
        f"topological: the graph has the cycle {' -> '.join(map(str, shown))}; expected a DAG. Drop an edge of it, or "
        "use synchronous or ordered, which allow cycles.",
        cycle,
    )

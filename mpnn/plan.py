"""Plans: the level-sorted layout of a graph under a schedule.

Nodes are sorted by level and edges by their target, so that a frontier's nodes, and the edges that end in it, are
contiguous slices. On a chain this is the layout of ``torch.nn.utils.rnn.PackedSequence``: ``node_counts`` are its
``batch_sizes``. All sizes are Python integers, so a pass never waits for the device.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdRef

from mpnn import schedule as schedules
from mpnn.graph import Size, Typed, check_edges, edges_of, in_order, nodes_of, typed
from mpnn.kept import Kept, Unwritten, lasting
from mpnn.schedule import Schedule

__all__ = ["Edges", "Plan", "plan"]

SHORT = 2**31  # what is numbered below this fits 32 bits
LARGE = 1 << 18  # edges from which what planning sets aside is worth giving back: several MB
MANY = 8  # plans of one graph by values (of ordered and by) that are kept; the oldest go


class Edges:
    """The edges of one type, sorted by target; the same ones sorted by source are made when first asked for.

    Indices are int64, or int32 in a plan of one level: sparse products take either, and half the memory counts there.

    Attributes:
        src, dst ``(E,)``: node positions in level order; dst is made of rowptr when first asked for.
        order ``(E,)`` or None: the user's edge at each place; None if the user's order is kept.
        rowptr ``(N + 1,)``: the edges into position i are ``rowptr[i]:rowptr[i + 1]``.
        counts: edges into each level, as Python integers.
        degrees: the in-degree of a level if all of its nodes have the same, else None.
    """

    def __init__(self, src: Tensor, dst: Tensor, num_src: int, num_dst: int, short: bool = False):
        index = torch.int32 if short and max(src.numel(), num_src, num_dst) < SHORT else torch.int64
        if falls(dst):
            order = in_order(dst, num_dst)
            src, self.order = src.index_select(0, order), order.to(index)
        else:
            self.order = None  # src is copied below: a view would keep the user's tensor alive, and the cache
        self.src = src.to(index, copy=self.order is None)
        self.num_src, self.num_dst = num_src, num_dst
        self.rowptr = pointers(dst, num_dst).to(index)
        self.memo: dict[Hashable, Any] = {}
        self.counts: list[int] = []
        self.degrees: list[int | None] = []

    def __len__(self) -> int:
        return self.src.numel()

    def cut(self, bounds: list[int]) -> Edges:
        """Notes how many edges end in each level, whose nodes are ``bounds[l]:bounds[l + 1]``."""
        rowptr, starts = self.rowptr.cpu().numpy(), bounds[:-1]
        self.counts = np.diff(rowptr[bounds]).tolist()
        degree = np.diff(rowptr) if len(rowptr) > 1 else rowptr  # of no nodes: of one level, without edges
        least, most = (extreme.reduceat(degree, starts).tolist() for extreme in (np.minimum, np.maximum))
        self.degrees = [a if a == b else None for a, b in zip(least, most)]
        return self

    def place(self, values: Tensor) -> Tensor:
        """Edge values in the user's order -> in the plan's order."""
        return values if self.order is None else values.index_select(0, self.order)

    def unplace(self, values: Tensor) -> Tensor:
        """Edge values in the plan's order -> in the user's order."""
        if self.order is None:
            return values
        return values.index_select(0, self.remember("back", lambda: inverse(self.order)))

    @property
    def dst(self) -> Tensor:
        return self.remember("dst", self._targets)

    def _targets(self) -> Tensor:
        return self.expand(torch.arange(self.num_dst, dtype=self.src.dtype, device=self.src.device))

    def expand(self, values: Tensor) -> Tensor:
        """Node values ``(N_dst, ...)`` at the target of each edge."""
        return values.repeat_interleave(self.rowptr.diff(), 0, output_size=len(self))

    @property
    def by_source(self) -> Tensor:
        """The plan's edges sorted by source. Kept from the second time on: constant weights ask only once."""
        order = self.memo.get("by source")
        return lasting(self._sorted_by_source) if order is None else order

    def _sorted_by_source(self) -> Tensor:
        order = in_order(self.src, self.num_src).to(self.src.dtype)
        if "transpose" in self.memo:
            self.memo["by source"] = order
        else:
            colptr, dst = pointers(self.src, self.num_src).to(order), self._targets().index_select(0, order)
            same = torch.equal(dst, self.src)  # of an undirected graph: one copy will do
            self.memo["transpose"] = colptr, self.src if same else dst
        if len(self) >= LARGE:
            give_back()
        return order

    @property
    def transpose(self) -> tuple[Tensor, Tensor]:
        """``(colptr, dst)`` of the edges sorted by source: their pointers, and their targets."""
        if "transpose" not in self.memo:
            self.by_source  # noqa: B018 (makes both)
        return self.memo["transpose"]

    def turned(self, weight: Tensor) -> Tensor:
        """Edge weights sorted by source; kept while a weight that needs no gradient lives unchanged."""
        if weight.requires_grad:
            return weight.index_select(0, self.by_source)
        known = self.remember("turned", Unwritten)
        turned = known.get(weight)
        if turned is None:
            turned = known[weight] = lasting(lambda: weight.index_select(0, self.by_source))
        return turned

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, once for each key: what depends on the structure alone is computed when first needed."""
        if key not in self.memo:
            self.memo[key] = lasting(make)
        return self.memo[key]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"memo": {}}  # a copy remembers nothing

    def to(self, device: Any, non_blocking: bool = False) -> Edges:
        moved = copy.copy(self)
        for name in ("src", "order", "rowptr"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device=device, non_blocking=non_blocking))
        return moved


class Plan:
    """A graph under a schedule, laid out for the engine. Made by :func:`plan`.

    Attributes:
        level ``(N,)`` int64: the level of each node, in the user's order.
        node_order ``(N,)`` int64 or None: the user's node at each position; None if the user's order is level order.
        node_counts: the number of nodes of each level, as Python integers.
        edges: ``{edge type: Edges}``.
        schedule: the schedule that gave the levels.
        types: ``{node type: number}``, in the order in which the nodes stand, if there are several.
    """

    def __init__(
        self,
        relations: dict[str, Tensor],
        size: Size,
        level: Tensor,
        schedule: Schedule,
        reads_old: bool,
        types: dict[str, int] | None = None,
    ):
        self.schedule, self.level, self.reads_old, self.types = schedule, level, reads_old, types
        self.num_src, self.num_nodes = size if isinstance(size, tuple) else (size, size)
        self.memo: dict[Hashable, Any] = {}
        self.node_order = self.node_position = None
        flat = schedule.name == "synchronous" or not self.num_nodes
        self.node_counts = [self.num_nodes] if flat else torch.bincount(level).tolist()
        if len(self.node_counts) > 1 and falls(level):
            self.node_order = in_order(level, len(self.node_counts))
            self.node_position = inverse(self.node_order)
        self.edges = {name: self._edges(edge_index) for name, edge_index in relations.items()}

    def _edges(self, edge_index: Tensor) -> Edges:
        src, dst = (edge_index[1], edge_index[0]) if self.schedule.turned else (edge_index[0], edge_index[1])
        if self.node_position is not None:
            src, dst = (self.node_position.index_select(0, end) for end in (src, dst))
        bounds = [0]
        for count in self.node_counts:
            bounds.append(bounds[-1] + count)
        edges = Edges(src, dst, self.num_src, self.num_nodes, short=self.num_levels == 1).cut(bounds)
        if len(edges) >= LARGE:
            give_back()
        return edges

    @property
    def num_levels(self) -> int:
        """How many frontiers a pass has."""
        return len(self.node_counts)

    @property
    def num_edges(self) -> int:
        """The edges of all types."""
        return sum(len(edges) for edges in self.edges.values())

    @property
    def bipartite(self) -> bool:
        """Whether sources and targets are two different sets of nodes."""
        return self.num_src != self.num_nodes

    @property
    def size(self) -> Size:
        """The number of nodes as the user gave it: ``(sources, targets)``, of edges not turned, if it is bipartite."""
        if not self.bipartite:
            return self.num_nodes
        return (self.num_nodes, self.num_src) if self.schedule.turned else (self.num_src, self.num_nodes)

    @property
    def given(self) -> Tensor | dict[str, Tensor]:
        """The edges as the user gave them, not turned: one edge_index, or one a type."""
        edges = self.given_by_type
        return edges[""] if set(edges) == {""} else edges

    @property
    def given_by_type(self) -> dict[str, Tensor]:
        edges = {kind: self.edge_index(kind) for kind in self.edges}
        return {kind: index.flip(0) if self.schedule.turned else index for kind, index in edges.items()}

    @property
    def reverse(self) -> Plan:
        """The plan of the pass run backwards; made when first asked for, and kept."""
        return self.remember("reverse", lambda: Reverse(self))

    @property
    def flat(self) -> Plan:
        """The same graph with all nodes on one level, for layers without state."""
        if self.num_levels == 1:
            return self

        def build():
            relations = {kind: self.edge_index(kind) for kind in self.edges}
            level = torch.zeros_like(self.level)
            return Plan(relations, self.num_nodes, level, schedules.synchronous, True, self.types)

        return self.remember("flat", build)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, once for each key."""
        if key not in self.memo:
            self.memo[key] = lasting(make)
        return self.memo[key]

    def edge_index(self, kind: str = "") -> Tensor:
        """The edges of one type as the user gave them, turned if the schedule turns them."""
        edges = self.edges[kind]

        def build():
            src, dst = edges.unplace(edges.src).long(), edges.unplace(edges.dst).long()
            if self.node_order is not None:
                src, dst = (self.node_order.index_select(0, end) for end in (src, dst))
            return torch.stack([src, dst])

        return build() if self.num_levels == 1 else edges.remember("given", build)

    def place(self, values: Tensor) -> Tensor:
        """Node values in the user's order -> in level order."""
        return values if self.node_order is None else values.index_select(0, self.node_order)

    def unplace(self, values: Tensor) -> Tensor:
        """Node values in level order -> in the user's order."""
        return values if self.node_position is None else values.index_select(0, self.node_position)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"memo": {}}  # a copy remembers nothing

    def to(self, device: Any, non_blocking: bool = False) -> Plan:
        """The plan on another device; called by ``Batch.to`` when the plan is a field of a batch."""
        moved = copy.copy(self)
        for name in ("level", "node_order", "node_position"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device=device, non_blocking=non_blocking))
        moved.edges = {name: edges.to(device, non_blocking) for name, edges in self.edges.items()}
        return moved

    def __repr__(self) -> str:
        return f"Plan({self.schedule}, nodes={self.num_nodes}, edges={self.num_edges}, levels={self.num_levels})"


class Reverse(Plan):
    """The plan of the pass run backwards. What a plan lays out is made when something asks for it: chains on torch's
    kernels do not, for they stand where they stand on the way there.

    Attributes:
        there: the plan of the pass run forwards, which shares all with the one it was made of but what that remembers.
    """

    LATER = ("level", "reads_old", "node_order", "node_position", "node_counts", "edges")

    def __init__(self, there: Plan):
        self.there = copy.copy(there)
        self.there.memo, self.memo = {}, {}
        self.schedule, self.types = there.schedule.reverse, there.types
        self.num_src, self.num_nodes = there.num_nodes, there.num_src

    def __getattr__(self, name: str) -> Any:
        if name not in self.LATER:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        made = lasting(lambda: _levelled(self.there.given_by_type, self.there.size, self.schedule, self.types))
        self.__dict__.update((later, getattr(made, later)) for later in self.LATER)
        return self.__dict__[name]

    def to(self, device: Any, non_blocking: bool = False) -> Plan:
        return self.there.to(device, non_blocking).reverse


def plan(
    graph: Any,
    schedule: str | Schedule | Tensor = "synchronous",
    num_nodes: Size | Mapping[str, int] | None = None,
    owner: str = "plan",
) -> Plan:
    """Checks a graph, gives its nodes levels and lays it out for the engine.

    Every layer takes a plan wherever it takes an ``edge_index``. A layer that is given an ``edge_index`` plans it and
    keeps the plan for as long as that tensor lives unchanged, so planning by hand is for data loaders and for timing.

    Args:
        graph: ``Data``, ``HeteroData`` or ``Batch``, edge_index ``(2, E)`` int64, or ``{edge type: edge_index}``. A
            plan is given back as it is, whatever the schedule.
        schedule: a name, a schedule, or a tensor of levels.
        num_nodes: needed unless the graph knows; ``(sources, targets)`` for a bipartite graph; of a dict whose edge
            types are ``(source type, relation, target type)``, ``{node type: number}``.
        owner: what errors name as the place.

    Raises:
        ValueError: an edge leaves the graph, ``edge_index`` is not ``(2, E)``, values of the schedule do not fit the
            graph.
        TypeError: ``edge_index`` is no int64 tensor.
        CycleError: the schedule is topological and the graph has a cycle.

    Example:
        >>> from torch_geometric.data import Data
        >>> plan(Data(edge_index=torch.tensor([[0, 1], [2, 2]]), num_nodes=3), "topological")
        Plan(topological, nodes=3, edges=2, levels=2)
    """
    if isinstance(graph, Plan):
        return graph
    graph = typed(graph, num_nodes, owner)
    rule = schedules.get(schedule).bind(graph)
    relations = edges_of(graph)
    size = nodes_of(graph, num_nodes, owner)
    if isinstance(size, tuple) and size[0] == size[1] and rule.name != "synchronous":
        size = size[0]
    if isinstance(size, tuple) and rule.name != "synchronous":
        raise ValueError(
            f"{owner}: {size[0]} sources and {size[1]} targets are a bipartite graph, which runs 'synchronous' only."
        )
    for name, edge_index in relations.items():
        check_edges(f"{owner} (edge type {name!r})" if name else owner, edge_index, size)
    types = graph.sizes if isinstance(graph, Typed) else None
    return lasting(lambda: _levelled(relations, size, rule, types, graph))


def _levelled(
    relations: dict[str, Tensor], size: Size, rule: Schedule, types: dict[str, int] | None, graph: Any = None
) -> Plan:
    """The plan of edges that are known to be right; ``graph`` names the nodes of a cycle."""
    turned_size = (size[1], size[0]) if isinstance(size, tuple) and rule.turned else size
    num_targets = turned_size[1] if isinstance(turned_size, tuple) else turned_size
    first = next(iter(relations.values()), torch.empty(2, 0, dtype=torch.long))  # of types of nodes without any edge
    if rule.name == "synchronous":
        return Plan(relations, turned_size, first.new_zeros(num_targets), rule, True, types)
    joined = first if len(relations) < 2 else torch.cat(list(relations.values()), dim=1)
    src, dst = (joined[1], joined[0]) if rule.turned else (joined[0], joined[1])
    level = rule.levels(src, dst, num_targets, graph)
    reads_old = rule.name != "topological" and bool((level[src] >= level[dst]).any())
    return Plan(relations, turned_size, level, rule, reads_old, types)


_notes = Kept()


def notes(graph: Any) -> dict[Hashable, Any]:
    """What was worked out of a graph, by any key. It is kept with a plan, and with an edge_index for as long as that
    tensor lives and is not written to; of anything else nothing is kept.
    """
    if isinstance(graph, Plan):
        return graph.memo
    version, known = _notes.get(graph, (None, None))
    if known is not None and version == graph._version:
        return known
    known = {}
    if isinstance(graph, Tensor) and not graph.is_inference():
        _notes[graph] = graph._version, known
    return known


def cached_plan(graph: Any, schedule: Schedule, num_nodes: Size, owner: str, make: Callable = plan) -> Any:
    """The plan of an edge_index, or what else ``make`` makes of it with the same arguments; it is kept as long as the
    tensor lives and is not written to.
    """
    schedule = schedule.bind(graph)
    held = [graph] if isinstance(graph, Tensor) else list(edges_of(graph).values())
    made_of = [*held, *schedule.tensors]
    if not all(isinstance(value, Tensor) and not value.is_inference() for value in made_of):
        return make(graph, schedule, num_nodes, owner)
    known = notes(held[0]).setdefault("plans", {})
    key = (_state(graph), schedule.key, num_nodes, make)
    if key not in known:
        for stale in [k for k in known if k[0] != key[0]]:
            del known[stale]
        known[key] = lasting(lambda: make(graph, schedule, num_nodes, owner))
        for old in [k for k in known if k[1][1] is not None][:-MANY]:  # values may be others at every call
            del known[old]
    return known[key]


def _state(graph: Any) -> Hashable:
    """Changes when an edge_index is written to, or one of several is replaced, even by one that took a dead id."""
    if isinstance(graph, Tensor):
        return graph._version
    return tuple((name, WeakIdRef(edge_index), edge_index._version) for name, edge_index in edges_of(graph).items())


def falls(values: Tensor) -> bool:
    """Whether some value is below the one before it."""
    some = values.numpy() if values.is_cpu else values  # which compares few values in a fifth of the time
    return bool((some[1:] < some[:-1]).any())


def pointers(index: Tensor, size: int) -> Tensor:
    """``(size + 1,)`` offsets of the runs of equal values in an index once it is sorted."""
    ptr = index.new_zeros(size + 1)
    torch.cumsum(torch.bincount(index, minlength=size), 0, dtype=ptr.dtype, out=ptr[1:])
    return ptr


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes another."""
    place = torch.arange(order.numel(), dtype=order.dtype, device=order.device)
    return torch.empty_like(order).scatter_(0, order.long(), place)


def give_back() -> None:
    """Gives memory that was freed back to the system, where the C library has a call for that: glibc keeps what is
    below 32 MB a piece, in all up to 64 MB at the end and all holes. It takes a twentieth of the time of planning.
    """
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

"""Level after level, each frontier at once: O(nodes + edges) time and memory, exact gradients.

The state lives in one buffer a field, in level order; a level writes its own slice, so at any moment a row holds the
newest state of its node and a gather needs no case distinction. Three autograd functions stand around the buffer: one
opens it, one writes a level and reads what the next one asks for, one closes it. Each hands the next an empty *token*,
which gives autograd the order that writing in place would hide from it. On the way back the gradients of all reads of a
row add up in one gradient buffer; a level takes its slice out of it, and from then on that slice collects the gradient
of the state from before the pass. Between these three, everything is ordinary autograd.

What hooks ask for beside the state, such as products with the inputs, is cut into levels by the same functions: a
level's part of its gradient goes straight to its place, and nothing is kept to be joined at the end. Where levels are
narrow it is torch that cuts, as a call costs more there than the joining.

Where the sources of a level's edges stand side by side in the buffer, as on chains, they are not copied out of it: what
is read shares its memory, which no later level writes to. And where levels are narrow, one that reads just the level
before it is handed that state as it is: the buffer gets the states of such a run at its end, all at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mpnn import kernels
from mpnn.engine.call import Call, Result, Rowwise, aggregate, each, joined, messages, tuple_of
from mpnn.hooks import Argument, Hook
from mpnn.kept import lasting

PATH = "the wavefront"
NARROW = 1 << 12  # numbers in a level, below which it is torch that cuts a column and hands the state on


_VERSION = attrgetter("_version")  # how often a tensor was written to
_alias = torch.ops.aten.alias.default  # the same values as a tensor of their own, with a gradient of its own
Rows = Tensor | slice  # of the buffer: any, or some that stand side by side


class _Buffer:
    """The state of all nodes and the values that are cut into levels; and on the way back their gradients.

    ``sources`` and ``columns`` say what each level reads: rows of the state, and slices of the values.
    """

    def __init__(self, plan, sources: list[_Sources], columns: list[_Column], stays: bool):
        self.sources, self.columns, self.stays = sources, columns, stays
        self.bounds, self.keeps_old = bounds_of(plan), plan.reads_old
        self.before: list[Tensor] = []
        self.data: list[Tensor] = []
        self.shape: list[Tensor] = []  # one number each, seen as large as the field
        self.grad: list[Tensor | None] = []  # None while it is 0
        self.column_grad: list[Tensor | None] = []
        self.task = None
        self.lent: list[Tensor] = []  # what was read last and shares memory with a state or a column
        self.versions: list[int] = []

    def open(self, initial: tuple[Tensor, ...]) -> None:
        """Makes room for the state. What it is before the pass counts only where an edge reads it."""
        for value in initial:
            self.shape.append(value.new_empty(()).expand(value.shape))
            self.data.append(value.new_empty(value.shape))
            if self.keeps_old:
                self.data[-1].copy_(value)
        self.before = list(initial) if self.stays and self.keeps_old else []

    def rows(self, levels: slice) -> slice:
        return slice(self.bounds[levels.start], self.bounds[levels.stop])

    def write(self, levels: slice, values: tuple[Tensor, ...]) -> None:
        rows = self.rows(levels)
        for field, value in zip(self.data, values):
            field[rows].copy_(value)

    def read(self, level: int) -> list[Tensor]:
        """What a level asks for: rows of the state for each edge type, then its slice of each column.

        Some rows that stand side by side are lent in the same memory: no view to autograd, which would take every write
        to another level for a change of these rows.
        """
        read, lent = [], []
        if level + 1 == len(self.bounds):
            return read
        for source in self.sources:
            rows = source.rows[level]
            for k in source.fields:
                if type(rows) is slice:
                    lent.append(self.data[k][rows].data)
                    read.append(lent[-1])
                else:
                    read.append(self.data[k].index_select(0, rows))
        columns = [column.values[column.bounds[level] : column.bounds[level + 1]].data for column in self.columns]
        self.lend(lent + columns)
        return read + columns

    def lend(self, values: list[Tensor]) -> None:
        """Notes what hooks get that they must not write to, where torch counts that."""
        self.lent = [value for value in values if not value.is_inference()]
        self.versions = list(map(_VERSION, self.lent))

    def check_lent(self) -> None:
        """Raises if a hook has written to what it was lent."""
        if list(map(_VERSION, self.lent)) != self.versions:
            raise RuntimeError(
                "a hook wrote in place to what it was given (h_j or the like), which shares memory with the state or "
                "the field itself; expected a new tensor. Use the operation without the trailing underscore, or "
                "inplace=False."
            )
        self.lend([])

    @torch.no_grad()
    def read_again(self, level: int) -> list[Tensor]:
        """What a level read, once the pass is over."""
        read = iter(self.read(level))
        self.lend([])
        if not self.keeps_old:
            return list(read)
        again = []
        for source in self.sources:
            for k in source.fields:
                again.append(self._old_where_old(next(read), k, source.rows[level], self.bounds[level]))
        return again + list(read)

    def _old_where_old(self, new: Tensor, k: int, rows: Rows, start: int) -> Tensor:
        """Rows of nodes that had not fired when a level read them are those from before the pass."""
        if type(rows) is slice:
            return new
        old = (rows >= start).view(-1, *(1,) * (new.dim() - 1))
        return torch.where(old, self.before[k].index_select(0, rows), new)

    def close(self) -> list[Tensor]:
        """The state after the pass; nothing stays of it, nor of the columns, unless it will be read again."""
        data = self.data
        if not self.stays:
            self.data = []
            for column in self.columns:
                column.values = None
        return data

    def begin(self) -> None:
        """What an earlier backward pass has left counts no more."""
        task, self.task = self.task, torch._C._current_graph_task_id()
        if task != self.task:
            self.grad, self.column_grad = [None] * len(self.shape), [None] * len(self.columns)

    def collect(self, level: int, grads: tuple) -> None:
        """Adds the gradients of what a level read."""
        self.begin()
        grads = iter(grads)
        for source in self.sources if level + 1 < len(self.bounds) else ():
            for k in source.fields:
                if (grad := next(grads)) is not None:
                    self._add(k, source.rows[level], grad)
        for k, grad in enumerate(grads):
            self._put(k, level, grad)

    def _add(self, k: int, rows: Rows, grad: Tensor) -> None:
        if self.grad[k] is None:
            self.grad[k] = torch.zeros_like(self.shape[k], memory_format=torch.contiguous_format)
        total = self.grad[k]
        if type(rows) is slice:
            total[rows].add_(grad)
        else:
            total.index_add_(0, rows, _apart(grad, total))

    def take(self, levels: slice) -> list[Tensor | None]:
        """The gradient of the state of some levels; from now on the slice is that of the state from before the pass."""
        rows = self.rows(levels)
        slices = [None if grad is None else grad[rows] for grad in self.grad]
        if not self.keeps_old:
            return slices
        taken = [None if part is None else part.clone() for part in slices]
        for part in slices:
            if part is not None:
                part.zero_()
        return taken

    def _put(self, k: int, level: int, grad: Tensor | None) -> None:
        """A level's part of a column's gradient; levels further up that had none have 0."""
        column, total = self.columns[k], self.column_grad[k]
        start, stop = column.bounds[level : level + 2]
        if total is None and grad is not None:
            total = self.column_grad[k] = grad.new_empty(column.shape)
            total[stop:].zero_()
        if total is not None:
            total[start:stop].zero_() if grad is None else total[start:stop].copy_(grad)

    def release(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The gradients of the state from before the pass and of the columns, at the end of the way back."""
        found, self.grad, self.column_grad, self.task = (self.grad, self.column_grad), [], [], None
        return found


def _apart(grad: Tensor, total: Tensor) -> Tensor:
    """``grad`` in memory of its own: where a message is the state itself and nothing is summed, it comes back as the
    very slice of ``total`` that was handed out, which ``index_add_`` refuses even for other rows.
    """
    same = grad.untyped_storage().data_ptr() == total.untyped_storage().data_ptr()
    return grad.clone() if same else grad


class _Open(torch.autograd.Function):
    """The state from before the pass into the buffer; and what the first level reads."""

    @staticmethod
    def forward(ctx, buffer, *given):
        ctx.buffer = buffer
        ctx.set_materialize_grads(False)
        buffer.open(given[: len(given) - len(buffer.columns)])
        return given[0].new_empty(0), *buffer.read(0)

    @staticmethod
    def backward(ctx, _, *grads):
        kernels.refuse_double_backward(PATH)
        ctx.buffer.collect(0, grads)
        state, columns = ctx.buffer.release()
        return None, *(state if ctx.buffer.keeps_old else [None] * len(state)), *columns  # what nobody read has none


class _Step(torch.autograd.Function):
    """The new state of a level, or of a run of them, into its slice of the buffer; and what the next level reads."""

    @staticmethod
    def forward(ctx, token, buffer, levels, *values):
        ctx.buffer, ctx.levels = buffer, levels
        ctx.set_materialize_grads(False)
        buffer.write(levels, values)
        return token.new_empty(0), *buffer.read(levels.stop)

    @staticmethod
    def backward(ctx, _, *grads):
        kernels.refuse_double_backward(PATH)
        ctx.buffer.collect(ctx.levels.stop, grads)
        return None, None, None, *ctx.buffer.take(ctx.levels)


class _Close(torch.autograd.Function):
    """The state after the last level, in the user's order; in memory of its own, which the user may write to."""

    @staticmethod
    def forward(ctx, token, buffer, order, back):
        ctx.buffer, ctx.order = buffer, order
        ctx.set_materialize_grads(False)  # a field that nobody asks for has no buffer of 0
        return tuple(_ordered(field, back) for field in buffer.close())

    @staticmethod
    def backward(ctx, *grads):
        kernels.refuse_double_backward(PATH)
        ctx.buffer.begin()  # this comes first: all that reads the buffer is a step before it
        ctx.buffer.grad = [None if grad is None else _ordered(grad, ctx.order) for grad in grads]
        return None, None, None, None


def _ordered(values: Tensor, order: Tensor | None) -> Tensor:
    """A copy, its rows in another order."""
    return values.clone(memory_format=torch.contiguous_format) if order is None else values.index_select(0, order)


def bounds_of(part) -> list[int]:
    """Where each level's rows begin, and where the last ends: the nodes of a plan, or its edges of one type."""
    counts = part.node_counts if hasattr(part, "node_counts") else part.counts
    return part.remember("bounds", lambda: list(accumulate(counts, initial=0)))


# The edges into a frontier, as messages are summed over them ----------------------------------------------------------


class Uniform:
    """A frontier in which every node has the same number of edges."""

    def __init__(self, num_nodes: int, degree: int, index: Tensor):
        self.num_nodes, self.num_edges, self.degree, self.index = num_nodes, num_nodes * degree, degree, index

    def _by_node(self, values: Tensor) -> Tensor:
        return values.view(self.num_nodes, self.degree, *values.shape[1:])

    def sum(self, values: Tensor) -> Tensor:
        if self.degree == 0:
            return values.new_zeros(self.num_nodes, *values.shape[1:])
        return values if self.degree == 1 else self._by_node(values).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        return self._by_node(values).mean(1) if self.degree > 1 else self.sum(values)

    def softmax(self, score: Tensor) -> Tensor:
        return self._by_node(score).softmax(1).view(score.shape) if self.degree else score

    def expand(self, values: Tensor) -> Tensor:
        if self.degree == 1:
            return values
        if not self.degree:  # of fields that edges alone ask for there is nothing here
            return values[:0]
        shape = (self.num_nodes, self.degree, *values.shape[1:])
        return values.unsqueeze(1).expand(shape).reshape(-1, *values.shape[1:])


class Ragged:
    """A frontier of nodes with different numbers of edges."""

    def __init__(self, num_nodes: int, index: Tensor):
        self.num_nodes, self.num_edges, self.index = num_nodes, index.shape[0], index

    @cached_property
    def degree(self) -> Tensor:
        return lasting(lambda: torch.bincount(self.index, minlength=self.num_nodes).clamp(min=1))

    def sum(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.num_nodes, *values.shape[1:]).index_add(0, self.index, values)

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / self.degree.view(-1, *(1,) * (values.dim() - 1))

    def softmax(self, score: Tensor) -> Tensor:
        top = score.detach().new_full((self.num_nodes, *score.shape[1:]), -torch.inf)
        index = self.index.view(-1, *(1,) * (score.dim() - 1)).expand_as(score)
        top = top.scatter_reduce(0, index, score.detach(), "amax")
        grown = (score - self.expand(top)).exp()
        return grown / self.expand(self.sum(grown))

    def expand(self, values: Tensor) -> Tensor:
        return values.index_select(0, self.index)


class Whole:
    """All edges of one type at once, where there is only one level."""

    def __init__(self, edges):
        self.edges, self.num_nodes, self.num_edges = edges, edges.num_dst, len(edges)

    @property
    def index(self) -> Tensor:
        return self.edges.remember("index", self.edges.dst.long)  # one tensor, by which aggregations may keep things

    def sum(self, values: Tensor) -> Tensor:
        return kernels.segment_sum(self.edges, values)

    def mean(self, values: Tensor) -> Tensor:
        return kernels.segment_mean(self.edges, values)

    def softmax(self, score: Tensor) -> Tensor:
        return kernels.softmax(self.edges, score)

    def expand(self, values: Tensor) -> Tensor:
        return kernels.gather(values, self.edges, "target")


def segments(plan, kind: str) -> list:
    """The edges of one type, frontier by frontier."""
    edges = plan.edges[kind]
    if plan.num_levels == 1:
        return [Whole(edges)]

    def build():
        first, counts = (torch.tensor(of, device=edges.dst.device) for of in (bounds_of(plan)[:-1], edges.counts))
        index = (edges.dst - first.repeat_interleave(counts)).split(edges.counts)  # counted from a level's first node
        return [
            Ragged(nodes, at) if degree is None else Uniform(nodes, degree, at)
            for nodes, degree, at in zip(plan.node_counts, edges.degrees, index)
        ]

    return edges.remember("segments", build)


# What the hooks ask for, level by level -------------------------------------------------------------------------------


class _Same:
    """A value that is the same at every level."""

    def __init__(self, value: Any):
        self.value = value

    def __getitem__(self, level: int) -> Any:
        return self.value


class _Column:
    """Values that are cut into levels, each by itself; those with a gradient by the buffer."""

    def __init__(self, values: Tensor, bounds: list[int]):
        self.values, self.shape, self.bounds = values, values.shape, bounds
        self.with_gradient = values.requires_grad and torch.is_grad_enabled()
        self.parts: Sequence[Tensor] | None = None  # where torch has cut it
        self.lent: Tensor | None = None  # of the level that is running

    def split(self) -> None:
        """Lets torch cut it, which costs less a level, but joins the gradients of all levels at the end."""
        self.parts = self.values.split([stop - start for start, stop in pairwise(self.bounds)])

    def __getitem__(self, level: int) -> Tensor:
        if self.parts is not None:
            return self.parts[level]
        if self.lent is not None:
            return self.lent
        start, stop = self.bounds[level : level + 2]
        return self.values.narrow(0, start, stop - start)


class _Mapped:
    """A function of the rows of a column, computed where it is asked for."""

    def __init__(self, column: _Column, function: Callable[[Tensor], Tensor]):
        self.column, self.function = column, function

    def __getitem__(self, level: int) -> Tensor:
        return self.function(self.column[level])


class _Sources:
    """State at the sources of one type of edges: the fields that hooks ask for, and their rows by level."""

    def __init__(self, plan, kind: str):
        self.plan, self.kind = plan, kind
        self.rows: list[Rows] = []
        self.follows: list[bool] = []  # whether a level reads the one before it, whole
        self.fields: list[int] = []
        self.values: list[Tensor] = []  # of the level that is running

    def field(self, k: int) -> _Source:
        if k not in self.fields:
            self.fields.append(k)
            edges = self.plan.edges[self.kind]
            self.rows = edges.remember("rows by level", lambda: rows_of(self.plan, self.kind))
            self.follows = edges.remember("follows", lambda: follows(self.rows, bounds_of(self.plan)))
        return _Source(self, self.fields.index(k))


class _Source:
    def __init__(self, sources: _Sources, place: int):
        self.sources, self.place = sources, place

    def __getitem__(self, level: int) -> Tensor:
        return self.sources.values[self.place]


def rows_of(plan, kind: str) -> list[Rows]:
    """The sources of each level's edges: a slice where they stand side by side, all in levels before."""
    edges, counts = plan.edges[kind], torch.tensor(plan.edges[kind].counts)
    apart = torch.cat([edges.src.new_zeros(1), (edges.src.diff() != 1).long().cumsum(0)])  # grows where a run ends
    last = (counts.cumsum(0) - 1).clamp(min=0).to(edges.src.device)
    first = (last - (counts - 1).clamp(min=0).to(last)).clamp(min=0)
    if not len(edges):
        return [edges.src] * plan.num_levels
    table = torch.stack([edges.src[first], edges.src[last], apart[last] - apart[first]]).tolist()
    out, written = [], 0
    for width, count, low, high, gaps, index in zip(
        plan.node_counts, edges.counts, *table, edges.src.split(edges.counts)
    ):
        out.append(slice(low, high + 1) if count and not gaps and high < written else index)
        written += width
    return out


def follows(rows: list[Rows], bounds: list[int]) -> list[bool]:
    """Whether the sources of each level's edges are the level before it, whole and in order."""
    levels = map(slice, bounds, bounds[1:])
    return [False, *(type(read) is slice and read == level for read, level in zip(rows[1:], levels))]


class _Targets:
    """Node values at the targets of a frontier's edges."""

    def __init__(self, nodes: list, segments: list):
        self.nodes, self.segments = nodes, segments

    def __getitem__(self, level: int) -> Tensor:
        return self.segments[level].expand(self.nodes[level])


class _Random:
    """Where the random numbers stand when a level begins; levels that draw none share one note of it."""

    def __init__(self, device: torch.device):
        self.cuda, self.last = [device] if device.type == "cuda" else [], []

    def now(self) -> list[Tensor]:
        state = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.cuda)]
        if not (self.last and all(map(torch.equal, state, self.last))):
            self.last = state
        return self.last

    @contextmanager
    def again(self, state: list[Tensor]) -> Iterator[None]:
        """The same numbers as then, without a change of those that come next."""
        with torch.random.fork_rng(self.cuda):
            torch.set_rng_state(state[0])
            for device, at in zip(self.cuda, state[1:]):
                torch.cuda.set_rng_state(at, device)
            yield


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: a pass makes little garbage, and all of a long history lives, which is slow to search.

    It is off in all threads. In the end it is what it was in the beginning.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _kind(value: Tensor) -> tuple:
    """What a new state has in common with the buffer where it can be handed on in its place; so no part of a field."""
    return value.dtype, value.device, value.shape[1:], value._is_view()


def _cast(value: Tensor, field: Tensor) -> Tensor:
    """A new state as the buffer will hold it."""
    return value.to(field).expand(value.shape[:1] + field.shape[1:])


class Wavefront:
    """One pass: a column of values by level for every argument of every hook, and the loop over levels."""

    def __init__(self, call: Call, recompute: bool = False):
        self.call, self.plan, self.layer, self.hooks = call, call.plan, call.layer, call.hooks
        self.one_level, self.recompute = self.plan.num_levels == 1, recompute and torch.is_grad_enabled()
        self.columns: dict[tuple, Any] = {}
        self.ordered: dict[int, _Column] = {}
        self.keep = self.hooks.edge_update is not None
        self.sources: list[_Sources] = []

    def in_level_order(self, values: Tensor) -> Tensor:
        if values.stride(0) == 0:  # the same row over and over
            return values
        return kernels.permute(values, self.plan.node_order, self.plan.node_position)

    def in_user_order(self, values: Tensor) -> Tensor:
        return kernels.permute(values, self.plan.node_position, self.plan.node_order)

    def column(self, hook: Hook, argument: Argument, kind: str, sources: _Sources | None = None) -> Any:
        """Values for one argument, by level. ``sources`` are the state's, for hooks that run on edges."""
        name, role, on_edges = argument.field, argument.role, sources is not None
        if role == "source" and name in self.layer.state and not self.one_level:
            return sources.field(self.layer.state.index(name))
        key = (name, role, kind) if role in ("source", "edge") else (name, role == "graph")
        if key not in self.columns:  # two hooks may ask for the same
            self.columns[key] = self._of_rows(argument) or self._by_level(
                self.call.value(hook, argument, kind, self.in_level_order), role, kind
            )
        column = self.columns[key]
        at_targets = on_edges and role in ("target", "graph") and not isinstance(column, _Same)
        return _Targets(column, segments(self.plan, kind)) if at_targets else column

    def _by_level(self, value: Any, role: str, kind: str) -> _Same | list[Tensor] | _Column:
        if not isinstance(value, Tensor) or not value.dim():
            return _Same(value)
        edges = self.plan.edges[kind] if role in ("edge", "source") else None
        if edges is not None:
            value = edges.place(value) if role == "edge" else kernels.gather(value, edges, "source")
        if self.one_level:
            return [value]
        return _Column(value, bounds_of(self.plan if edges is None else edges))

    def _of_rows(self, argument: Argument) -> _Column | _Mapped | None:
        """A rowwise field of the nodes. Only where edges end, if just they ask for it: the leaves of trees go without.

        To be computed again, it is a function of what stays, level by level.
        """
        value = self.call.fields.get(argument.field)
        if self.one_level or not isinstance(value, Rowwise) or argument.role not in ("own", "target"):
            return None
        self.call.check_rows(argument, value.x, self.plan.num_nodes, "nodes")
        rows = self.ordered.get(id(value.x))  # several fields may be functions of the same
        if rows is None:
            rows = self.ordered[id(value.x)] = _Column(self.in_level_order(value.x), bounds_of(self.plan))
        if self.recompute:
            self.columns["rowwise", id(value.x)] = rows
            return _Mapped(rows, value.function)
        first = 0 if self.hooks.update.asks("own", argument.field) else self.before_edges()
        return _Column(value.function(rows.values[first:]), [max(bound - first, 0) for bound in rows.bounds])

    def before_edges(self) -> int:
        """How many nodes fire first of all if no edge ends there; else 0."""
        edges = self.plan.edges.values()
        return 0 if any(of.counts[0] for of in edges) else self.plan.node_counts[0]

    def edge_columns(self, kind: str) -> dict[str, list]:
        """The arguments of each hook that runs on edges of one type."""
        sources = _Sources(self.plan, kind)
        self.sources.append(sources)
        return {h.name: [self.column(h, a, kind, sources) for a in h.arguments] for h in self.hooks.on_edges(kind)}

    def run(self) -> Result:
        update = self.hooks.update
        self.on_edges = {
            kind: (self.call.message_name(kind), segments(self.plan, kind), self.sender(kind))
            for kind in self.plan.edges
        }
        self.update = getattr(self.layer, update.name)
        self.own = [a.name if a.role == "message" else self.column(update, a, "") for a in update.arguments]
        may_be_none = not self.one_level and not self.keep
        self.optional = [a.name for a in update.arguments if a.default is None and may_be_none]
        if self.one_level:
            new, *kept = self.fire(0)
            return self._result(new, [kept] if self.keep else [])
        return self._result(*self.level_after_level())

    @uncollected()
    def level_after_level(self) -> tuple[tuple, list]:
        """The state after the last level, and what edge updates may ask for."""
        kept = []
        sources = [source for source in self.sources if source.fields]
        columns = self.cut()
        self.buffer = _Buffer(self.plan, sources, columns, self.recompute)
        initial = [self.in_level_order(self.call.fields[name]) for name in self.layer.state]
        self.random, fire = _Random(self.plan.level.device), self.fire_lightly if self.recompute else self.fire
        handed_on = self.handed_on(sources, columns, initial)
        token, *read = _Open.apply(self.buffer, *initial, *(column.values for column in columns))
        first, run, kinds = 0, [], list(map(_kind, self.buffer.data))
        for level in range(self.plan.num_levels):
            self.hand_out(read)
            new, *parts = fire(level)
            self.buffer.check_lent()
            if self.keep:
                kept.append(parts)
            run.append(new)
            if handed_on[level + 1] and list(map(_kind, new)) == kinds:
                read = [_alias(new[k]) for source in sources for k in source.fields]
                self.buffer.lend(read)
                continue
            if first < level:
                run[-1] = tuple(map(_cast, new, self.buffer.data))
                new = joined(run)
            token, *read = _Step.apply(token, self.buffer, slice(first, level + 1), *new)
            first, run = level + 1, []
        self.hand_out([None] * sum(len(source.fields) for source in sources) + [None] * len(columns))
        return _Close.apply(token, self.buffer, self.plan.node_order, self.plan.node_position), kept

    def cut(self) -> list[_Column]:
        """The columns that the buffer cuts into levels; the narrow ones are cut by torch."""
        columns = [column for column in self.columns.values() if getattr(column, "with_gradient", False)]
        if self.recompute:
            return columns
        for column in columns:
            if column.values.numel() < NARROW * self.plan.num_levels:
                column.split()
        return [column for column in columns if column.parts is None]

    def handed_on(self, sources: list[_Sources], columns: list[_Column], initial: list[Tensor]) -> list[bool]:
        """Which levels are handed the state of the level before as it is."""
        levels = self.plan.num_levels
        narrow = not columns and all(value.numel() < NARROW * levels for value in initial)
        if not (narrow and sources and torch.is_grad_enabled()) or self.recompute:
            return [False] * (levels + 1)
        return [*map(all, zip(*(source.follows for source in sources))), False]

    def hand_out(self, read: list) -> None:
        """Gives each edge type and each column what was read for it."""
        start = 0
        for source in self.buffer.sources:
            source.values = read[start : start + len(source.fields)]
            start += len(source.fields)
        for column, value in zip(self.buffer.columns, read[start:]):
            column.lent = value

    def fire(self, level: int) -> tuple[tuple, dict, dict]:
        """The hooks on one frontier: its new state, the messages into it by edge type, and what they add up to."""
        got, sent = {}, {}
        for kind, (name, frontiers, send) in self.on_edges.items():
            if name in self.optional and not self.plan.edges[kind].counts[level]:
                got[name] = None
                continue
            sent[kind] = send(level)
            got[name] = aggregate(self.layer, kind, sent[kind], frontiers[level])
        own = [got[column] if type(column) is str else column[level] for column in self.own]
        new = tuple_of(self.update(*own))
        self.call.check_state(new, self.plan.node_counts[level])
        return new, sent, got

    def sender(self, kind: str) -> Callable[[int], Any]:
        """What makes the messages of a level's edges of one type."""
        columns, frontiers = self.edge_columns(kind), segments(self.plan, kind)
        if self.hooks.structured:

            def send(level: int) -> Any:
                arguments = {hook: [column[level] for column in given] for hook, given in columns.items()}
                return messages(self.layer, self.hooks, kind, arguments, frontiers[level])

            return send
        hook = self.hooks.message[kind].name
        message, given = getattr(self.layer, hook), columns[hook]
        return lambda level: message(*[column[level] for column in given])

    def fire_lightly(self, level: int) -> tuple[tuple, dict, dict]:
        """The same, but what autograd would keep is computed again on the way back, from the states."""
        first, numbers = [True], self.random.now()

        def hooks():
            if first:
                first.clear()
                return self.fire(level)
            self.hand_out([value.requires_grad_() for value in self.buffer.read_again(level)])
            with self.random.again(numbers):
                return self.fire(level)

        return checkpoint(hooks, use_reentrant=False, preserve_rng_state=False)

    def _result(self, nodes: tuple, kept: list) -> Result:
        if not kept:
            return Result(nodes)
        sent, got = zip(*kept)
        aggregated = {name: each(self.in_user_order, joined([of[name] for of in got])) for name in got[0]}
        sent = {kind: each(self.plan.edges[kind].unplace, joined([of[kind] for of in sent])) for kind in sent[0]}
        return Result(nodes, aggregated, sent)


def wavefront(call: Call, recompute: bool = False) -> Result:
    return Wavefront(call, recompute).run()

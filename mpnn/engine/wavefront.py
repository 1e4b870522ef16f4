"""Level after level, each frontier at once: O(nodes + edges) time and memory, exact gradients.

The state lives in one buffer a field, in level order. It starts as the state from before the pass and a level
overwrites its own slice, so at any moment a row holds the newest state of its node and a gather needs no case
distinction. Three autograd functions stand around the buffer: one opens it, one writes a level and reads what the next
one asks for, one closes it. Each hands the next an empty *token*, which gives autograd the order that writing in place
would hide from it. On the way back the gradients of all reads of a row add up in one gradient buffer; a level takes its
slice out of it, and from then on that slice collects the gradient of the state from before the pass. Between these
three, everything is ordinary autograd.

Where the sources of a level's edges stand side by side in the buffer, as on chains, they are not copied out of it: what
is read shares its memory, which no later level writes to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result, aggregate, call_hook, each, joined, messages, tuple_of
from mpnn.hooks import Argument, Hook

PATH = "the wavefront"


Rows = Tensor | slice  # of the buffer: any, or some that stand side by side


class _Buffer:
    """The state of all nodes, and on the way back its gradient: a tensor for each field."""

    def __init__(self, keeps_old: bool):
        self.data: list[Tensor] = []
        self.shape: list[Tensor] = []  # one number each, seen as large as the field
        self.grad: list[Tensor] = []
        self.task = None
        self.keeps_old = keeps_old
        self.lent: list[tuple[Tensor, int]] = []  # what was read last and shares memory with the buffer; its version
        self.shared = False

    def starts(self) -> bool:
        """Whether this is the first that a backward pass sees of the buffer;
        what an earlier one left counts no more.
        """
        task, self.task = self.task, torch._C._current_graph_task_id()
        return task != self.task

    def gradient(self) -> list[Tensor]:
        """The gradient so far: 0 if the pass did not start from the final state, but from a message or a penalty."""
        if self.starts():
            self.grad = [torch.zeros_like(shape, memory_format=torch.contiguous_format) for shape in self.shape]
        return self.grad

    def read(self, wanted: list[tuple[list[int], Rows]]) -> tuple[Tensor, ...]:
        """Rows of some fields, for each edge type."""
        return tuple(self._rows(self.data[k], rows) for fields, rows in wanted for k in fields)

    def _rows(self, data: Tensor, rows: Rows) -> Tensor:
        if isinstance(rows, Tensor):
            return data.index_select(0, rows)
        start = data.storage_offset() + rows.start * data.stride(0)
        shape = (rows.stop - rows.start, *data.shape[1:])
        # no view to autograd, which would take every write to another level for a change of these rows
        lent = data.new_empty(0).set_(data.untyped_storage(), start, shape, data.stride())
        self.lent.append((lent, 0 if lent.is_inference() else lent._version))
        self.shared = True
        return lent

    def check_lent(self) -> None:
        """Raises if a hook has written to what it was lent."""
        if any(not lent.is_inference() and lent._version > version for lent, version in self.lent):
            raise RuntimeError(
                "a hook wrote in place to the state of a source (h_j or the like), which shares memory with the state "
                "itself; expected a new tensor. Use the operation without the trailing underscore, or inplace=False."
            )
        self.lent.clear()

    def collect(self, wanted: list[tuple[list[int], Rows]], grads: tuple) -> list[Tensor]:
        """Adds the gradients of what was read; returns the gradient so far."""
        total, grads = self.gradient(), iter(grads)
        for fields, rows in wanted:
            for k in fields:
                grad = next(grads)
                if grad is None:
                    continue
                if isinstance(rows, slice):
                    total[k][rows].add_(grad)
                else:
                    total[k].index_add_(0, rows, _apart(grad, total[k]))
        return total


def _apart(grad: Tensor, total: Tensor) -> Tensor:
    """``grad`` in memory of its own: where a message is the state itself and nothing is summed, it comes back as the
    very slice of ``total`` that was handed out, which ``index_add_`` refuses even for other rows.
    """
    same = grad.untyped_storage().data_ptr() == total.untyped_storage().data_ptr()
    return grad.clone() if same else grad


class _Open(torch.autograd.Function):
    """The state from before the pass into the buffer; and what the first level reads."""

    @staticmethod
    def forward(ctx, buffer, wanted, *initial):
        ctx.buffer, ctx.wanted = buffer, wanted
        ctx.set_materialize_grads(False)
        buffer.data = [value.clone(memory_format=torch.contiguous_format) for value in initial]
        buffer.shape = [value.new_empty(()).expand(value.shape) for value in initial]
        return initial[0].new_zeros(()), *buffer.read(wanted)

    @staticmethod
    def backward(ctx, _, *grads):
        kernels.refuse_double_backward(PATH)
        grad = ctx.buffer.collect(ctx.wanted, grads)
        return None, None, *(grad if ctx.buffer.keeps_old else [None] * len(grad))  # what nobody read has none


class _Step(torch.autograd.Function):
    """A level's new state into its slice of the buffer; and what the next level reads."""

    @staticmethod
    def forward(ctx, token, buffer, start, stop, wanted, *values):
        ctx.buffer, ctx.start, ctx.stop, ctx.wanted = buffer, start, stop, wanted
        ctx.set_materialize_grads(False)
        buffer.check_lent()
        for field, value in zip(buffer.data, values):
            field[start:stop] = value
        return token.new_zeros(()), *buffer.read(wanted)

    @staticmethod
    def backward(ctx, _, *grads):
        kernels.refuse_double_backward(PATH)
        slices = [grad[ctx.start : ctx.stop] for grad in ctx.buffer.collect(ctx.wanted, grads)]
        if ctx.buffer.keeps_old:
            taken = [s.clone() for s in slices]
            for s in slices:
                s.zero_()
            slices = taken
        return None, None, None, None, None, *slices


class _Close(torch.autograd.Function):
    """The state after the last level."""

    @staticmethod
    def forward(ctx, token, buffer):
        ctx.buffer = buffer
        data, buffer.data = buffer.data, []
        if buffer.shared:  # the user may write to what is returned, and the way back needs what was lent
            return tuple(field.clone() for field in data)
        return tuple(data)

    @staticmethod
    def backward(ctx, *grads):
        kernels.refuse_double_backward(PATH)
        if ctx.buffer.starts():
            ctx.buffer.grad = [grad.clone() for grad in grads]
        else:
            torch._foreach_add_(ctx.buffer.grad, grads)
        return None, None


# The edges into a frontier, as messages are summed over them ----------------------------------------------------------


class Uniform:
    """A frontier in which every node has the same number of edges."""

    def __init__(self, num_nodes: int, degree: int, index: Tensor):
        self.num_nodes, self.degree, self.index = num_nodes, degree, index

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
        shape = (self.num_nodes, self.degree, *values.shape[1:])
        return values.unsqueeze(1).expand(shape).reshape(-1, *values.shape[1:])


class Ragged:
    """A frontier of nodes with different numbers of edges."""

    def __init__(self, num_nodes: int, index: Tensor):
        self.num_nodes, self.index = num_nodes, index
        self.degree = torch.bincount(index, minlength=num_nodes).clamp(min=1)

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
        self.edges, self.num_nodes = edges, edges.num_dst

    @property
    def index(self) -> Tensor:
        return self.edges.dst.long()

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
        start, out = 0, []
        for nodes, degree, dst in zip(plan.node_counts, edges.degrees, edges.dst.split(edges.counts)):
            out.append(Ragged(nodes, dst - start) if degree is None else Uniform(nodes, degree, dst - start))
            start += nodes
        return out

    return edges.remember("segments", build)


# What the hooks ask for, level by level -------------------------------------------------------------------------------


class _Same:
    """A value that is the same at every level."""

    def __init__(self, value: Any):
        self.value = value

    def __getitem__(self, level: int) -> Any:
        return self.value


class _Sources:
    """State at the sources of one type of edges: the fields that hooks ask for, and their rows by level."""

    def __init__(self, plan, kind: str):
        self.plan, self.kind = plan, kind
        self.rows: list[Rows] = []
        self.fields: list[int] = []
        self.values: tuple[Tensor, ...] = ()  # of the level that is running

    def field(self, k: int) -> _Source:
        if k not in self.fields:
            self.fields.append(k)
            self.rows = self.plan.edges[self.kind].remember("rows by level", lambda: rows_of(self.plan, self.kind))
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


class _Targets:
    """Node values at the targets of a frontier's edges."""

    def __init__(self, nodes: list, segments: list):
        self.nodes, self.segments = nodes, segments

    def __getitem__(self, level: int) -> Tensor:
        return self.segments[level].expand(self.nodes[level])


class Wavefront:
    """One pass: a column of values by level for every argument of every hook, and the loop over levels."""

    def __init__(self, call: Call):
        self.call, self.plan, self.layer, self.hooks = call, call.plan, call.layer, call.hooks
        self.one_level = self.plan.num_levels == 1
        self.columns: dict[tuple, Any] = {}
        self.keep = self.hooks.edge_update is not None
        self.sources: list[_Sources] = []

    def in_level_order(self, values: Tensor) -> Tensor:
        if values.stride(0) == 0:  # the same row over and over
            return values
        return kernels.permute(values, self.plan.node_order, self.plan.node_position)

    def split_edges(self, kind: str, values: Tensor) -> list[Tensor]:
        return [values] if self.one_level else list(values.split(self.plan.edges[kind].counts))

    def split_nodes(self, values: Tensor) -> list[Tensor]:
        return [values] if self.one_level else list(values.split(self.plan.node_counts))

    def column(self, hook: Hook, argument: Argument, kind: str, sources: _Sources | None = None) -> Any:
        """Values for one argument, by level. ``sources`` are the state's, for hooks that run on edges."""
        name, role, on_edges = argument.field, argument.role, sources is not None
        if role == "source" and name in self.layer.state and not self.one_level:
            return sources.field(self.layer.state.index(name))
        key = (name, role, kind) if role in ("source", "edge") else (name, role == "graph")
        if key not in self.columns:  # two hooks may ask for the same
            self.columns[key] = self._by_level(self.call.value(hook, argument, kind, self.in_level_order), role, kind)
        column = self.columns[key]
        at_targets = on_edges and role in ("target", "graph") and not isinstance(column, _Same)
        return _Targets(column, segments(self.plan, kind)) if at_targets else column

    def _by_level(self, value: Any, role: str, kind: str) -> _Same | list[Tensor]:
        if not isinstance(value, Tensor) or not value.dim():
            return _Same(value)
        edges = self.plan.edges[kind] if role in ("edge", "source") else None
        if edges is None:
            return self.split_nodes(value)
        value = edges.place(value) if role == "edge" else kernels.gather(value, edges, "source")
        return self.split_edges(kind, value)

    def edge_columns(self, kind: str) -> dict[str, list]:
        """The arguments of each hook that runs on edges of one type."""
        sources = _Sources(self.plan, kind)
        self.sources.append(sources)
        return {h.name: [self.column(h, a, kind, sources) for a in h.arguments] for h in self.hooks.on_edges(kind)}

    def combine(self, kind: str, arguments: dict[str, list], segment) -> tuple[Any, Any]:
        """Messages of a frontier's edges, and what they add up to at its nodes."""
        sent = messages(self.layer, self.hooks, kind, arguments, segment)
        return sent, aggregate(self.layer, sent, segment)

    def run(self) -> Result:
        plan, layer, update = self.plan, self.layer, self.hooks.update
        on_edges = {
            kind: (self.call.message_name(kind), segments(plan, kind), self.edge_columns(kind)) for kind in plan.edges
        }
        own = [a.name if a.role == "message" else self.column(update, a, "") for a in update.arguments]
        optional = () if self.one_level or self.keep else [a.name for a in update.arguments if a.default is None]
        kept, start, new = [], 0, ()
        self.open()
        for level, width in enumerate(plan.node_counts):
            got, sent = {}, {}
            for kind, (name, frontiers, hooks) in on_edges.items():
                if name in optional and not plan.edges[kind].counts[level]:
                    got[name] = None
                    continue
                arguments = {hook: [column[level] for column in columns] for hook, columns in hooks.items()}
                sent[kind], got[name] = self.combine(kind, arguments, frontiers[level])
            new = tuple_of(call_hook(layer, update, [got[c] if type(c) is str else c[level] for c in own]))
            self.call.check_state(new, width)
            if self.keep:
                kept.append((sent, got))
            if not self.one_level:
                wanted = self.wanted(level + 1)
                self.hand_out(wanted, *_Step.apply(self.token, self.buffer, start, start + width, wanted, *new))
            start += width
        if not self.one_level:
            new = tuple(self.in_user_order(value) for value in _Close.apply(self.token, self.buffer))
        return self._result(new, kept)

    def open(self) -> None:
        """Puts the state from before the pass into the buffer."""
        if self.one_level:
            return
        initial, wanted = [self.in_level_order(self.call.fields[name]) for name in self.layer.state], self.wanted(0)
        self.buffer = _Buffer(self.plan.reads_old)
        self.hand_out(wanted, *_Open.apply(self.buffer, wanted, *initial))

    def wanted(self, level: int) -> list[tuple[list[int], Rows]]:
        """What the hooks ask for of the sources of a level, by edge type; nothing after the last level."""
        if level == self.plan.num_levels:
            return []
        return [(sources.fields, sources.rows[level]) for sources in self.sources if sources.fields]

    def hand_out(self, wanted: list, token: Tensor, *values: Tensor) -> None:
        """Gives each edge type what was read for it."""
        self.token = token
        for sources in self.sources if wanted else ():
            sources.values, values = values[: len(sources.fields)], values[len(sources.fields) :]

    def in_user_order(self, values: Tensor) -> Tensor:
        return kernels.permute(values, self.plan.node_position, self.plan.node_order)

    def _result(self, nodes: tuple, kept: list) -> Result:
        if not kept:
            return Result(nodes)
        aggregated = {name: joined([got[name] for _, got in kept]) for name in kept[0][1]}
        sent = {kind: each(self.plan.edges[kind].unplace, joined([s[kind] for s, _ in kept])) for kind in kept[0][0]}
        return Result(nodes, {name: each(self.in_user_order, value) for name, value in aggregated.items()}, sent)


def wavefront(call: Call) -> Result:
    return Wavefront(call).run()

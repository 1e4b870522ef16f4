"""The wavefront by compiled programs: for narrow levels, where calls cost more than what they compute.

Levels of one *form* share a program (``mpnn.engine.program``): those into which the same types of edges lead, with the
same degree if it is one number. A pass is one autograd function, which calls programs level by level.

In the buffer of a state field every row is written once: where edges read the state from before the pass, that stands
in front of the new one, and the rows of edges say which of the two they mean. So what was read can be read again on the
way back, and programs gather by themselves what they compute with. Gradients of what was read add up in a buffer like
it. The gradient of a weight is a few products of many levels' rows (``mpnn.times``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result
from mpnn.engine.program import Edges, Form, Place, Program, program
from mpnn.engine.wavefront import (
    Uniform,
    Wavefront,
    _ordered,
    _Same,
    _Source,
    _Targets,
    bounds_of,
    segments,
    uncollected,
    wavefront,
)
from mpnn.times import _Rows

PATH = "the compiled wavefront"


@torch.compiler.disable  # inside a model that is compiled as a whole, this is left as it is
def compiled(call: Call) -> Result:
    """Runs a call of several levels by programs.

    Raises:
        ValueError: ``edge_update`` asks for the messages, which programs do not keep.
        RuntimeError: the hooks run, but cannot be compiled.
    """
    name = type(call.layer).__name__
    if call.hooks.edge_update is not None:
        raise ValueError(
            f"{name}: engine(compile=True) cannot run it, because edge_update asks for the messages, which compiled "
            "levels do not keep; expected a layer without edge_update. Run this one outside the block."
        )
    try:
        run = Compiled(call)
    except Exception as error:
        wavefront(call)  # where the hooks themselves are at fault, this says it in better words
        raise RuntimeError(
            f"{name}: the hooks run, but torch cannot compile them: {_reason(error)} Run this layer outside "
            "engine(compile=True), or write its hooks as torch.compile(fullgraph=True) takes them."
        ) from error
    with uncollected():
        return Result(_Pass.apply(run, *run.initial, *run.columns, *run.shared))


def _reason(error: Exception) -> str:
    """The first sentence of what the compiler says."""
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        return "A Python value that they read, such as a number, was another in too many passes; make it a tensor."
    text = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
    if "side effects" in text:
        return "They change something beside the state, such as an attribute of the layer."
    return text.split(". ")[0].rstrip(".") + "."


class _Recipe(NamedTuple):
    """How levels get the inputs of their program."""

    program: Program
    sources: list[tuple | None]  # what each is: an entry of the table, ("shared", k), or None for a size
    by_level: list[tuple[int, Sequence]]  # those that differ from level to level, by their place


class Compiled(Wavefront):
    """One pass made ready: where hooks find their arguments, and the program of each level.

    ``table`` says what the tensors of a level are: ("nodes", None), a mark a node; ("ends", kind) and ("rows", kind) of
    edges; ("buffer", field) of a field that is read, and ("leaf", (kind, field)), in the place of what is read from it;
    ("column", k).
    """

    def __init__(self, call: Call):
        super().__init__(call)
        self.kinds, self.same, self.cut, self.shared = list(self.plan.edges), [], [], []
        self.cut_of: list[str | None] = []  # the type of edges that a column has a row for each of; None for nodes
        self.lay_out()
        self.initial = [self.in_level_order(call.fields[name]) for name in self.layer.state]
        self.columns = [column.values.contiguous() for column in self.cut]
        self.parts = [values.detach().split(of) for values, of in zip(self.columns, self.columns_by_level)]
        self.marks, self.ends, self.rows = self.plan.remember("by level", self.of_plan)
        self.recipes: list[_Recipe] = [None] * self.plan.num_levels
        self.pick()

    # where arguments are found

    def lay_out(self) -> None:
        given = {kind: self.edge_columns(kind) for kind in self.kinds}
        update = self.hooks.update
        own = [a.name if a.role == "message" else self.column(update, a, "") for a in update.arguments]
        self.optional = {a.name for a in update.arguments if a.default is None}
        self.table = [("nodes", None), *(("ends", k) for k in self.kinds), *(("rows", k) for k in self.kinds)]
        for of in self.sources:
            for field in of.fields:
                self.table += [("buffer", (of.kind, field)), ("leaf", (of.kind, field))]
        places = {
            kind: tuple((name, tuple(self.place(value, kind) for value in values)) for name, values in hooks.items())
            for kind, hooks in given.items()
        }
        self.own = [self.place(value) for value in own]
        self.edges = {
            kind: Edges(kind, self.call.message_name(kind), self.degree(kind), self.table.index(("ends", kind)), of)
            for kind, of in places.items()
        }

    def place(self, value: Any, kind: str | None = None) -> Place:
        """Where a column of values by level is found in a level's tensors, or among what all levels share."""
        if isinstance(value, str):
            return "message", value
        if isinstance(value, _Same):
            return "same", _among(self.same, value.value)
        if isinstance(value, _Targets):
            return "target", self.place(value.nodes)[1]
        if isinstance(value, _Source):
            what = value.sources.kind, value.sources.fields[value.place]
            wanted = ("buffer", what), ("rows", what[0]), ("leaf", what)
            return "read", tuple(map(self.table.index, wanted))
        entry = "column", _among(self.cut, value)
        if entry not in self.table:
            self.table.append(entry)
            self.cut_of.append(kind)
        return "tensor", self.table.index(entry)

    def degree(self, kind: str) -> int | None:
        """How many edges of a type end at each node, if that is one number wherever its hooks run."""
        needed = self.call.message_name(kind) not in self.optional
        there = [at for at in segments(self.plan, kind) if needed or at.num_edges]
        found = {at.degree if isinstance(at, Uniform) else None for at in there}
        return found.pop() or None if len(found) == 1 else None

    def of_plan(self) -> tuple[Sequence, dict[str, Sequence], dict[str, Sequence]]:
        """By level: marks of nodes; and of each type of edges where they end, and which rows of a buffer they read."""
        plan, bounds, ends, rows = self.plan, bounds_of(self.plan), {}, {}
        for kind in self.kinds:
            edges, ends[kind] = plan.edges[kind], [at.index for at in segments(plan, kind)]
            read = edges.src
            if plan.reads_old:
                first = torch.tensor(bounds[:-1], device=read.device).repeat_interleave(
                    torch.tensor(edges.counts, device=read.device)
                )
                read = read + plan.num_nodes * (read < first)
            rows[kind] = read.split(edges.counts)
        marks = torch.empty(plan.num_nodes, dtype=torch.bool, device=plan.level.device)
        return marks.split(plan.node_counts), ends, rows

    def forms(self) -> list[Form]:
        """The form of each level."""
        optional = [kind for kind in self.kinds if self.edges[kind].message in self.optional]
        given, made = zip(*([n > 0 for n in self.plan.edges[kind].counts] for kind in optional)), {}
        if not optional:
            given = [()] * self.plan.num_levels
        return [made.get(at) or made.setdefault(at, self.form(dict(zip(optional, at)))) for at in given]

    def form(self, given: dict[str, bool]) -> Form:
        there = [edges for kind, edges in self.edges.items() if given.get(kind, True)]
        absent = {("message", edges.message) for edges in self.edges.values()} - {("message", e.message) for e in there}
        own = tuple(("same", None) if place in absent else place for place in self.own)
        return Form(tuple(there), own, tuple(value.dtype for value in self.initial))

    # programs

    def pick(self) -> None:
        """Finds the program of each level, by an example of the largest level of its form.

        Where it does not stand for levels of one node or edge, or of none, there is another for these.
        """
        edges = (self.plan.edges[kind].counts for kind in self.kinds)
        counts = list(zip(self.plan.node_counts, *edges, *self.columns_by_level))
        forms, left = self.forms(), {}
        for level in sorted(range(len(counts)), key=lambda level: sum(counts[level]), reverse=True):
            left.setdefault(id(forms[level]), []).append(level)
        for levels in left.values():
            few = {}
            for level in self.assign(forms[levels[0]], (), counts[levels[0]], levels):
                few.setdefault(tuple(min(count, 2) for count in counts[level]), []).append(level)
            for sizes, levels_of_few in few.items():
                if self.assign(forms[levels[0]], sizes, counts[levels_of_few[0]], levels_of_few):
                    raise ValueError("What they do depends on the number of nodes or edges in a level.")

    def assign(self, form: Form, few: tuple, counts: tuple, levels: list[int]) -> list[int]:
        """Gives levels one program, where it stands for them; returns the others."""
        found, inputs = program(self.layer, form, few, self.same, self.example(few, *counts))
        self.check(found)
        recipe = self.recipe(found, inputs)
        sizes = list(zip(*(self.lengths_of(self.table[k]) for k in found.open)))
        left = [level for level in levels if sizes and not found.fits(*sizes[level])]
        for level in set(levels).difference(left):
            self.recipes[level] = recipe
        return left

    def example(self, few: tuple, nodes: int, *others: int) -> list[Tensor]:
        """Tensors as a level has them, each in memory of its own, with any values; of 3 rows at least unless few.

        The ``others`` are the numbers of edges of each type, and of rows of each column.
        """
        count, rows_of_columns = {None: nodes, **dict(zip(self.kinds, others))}, others[len(self.kinds) :]
        if not few:
            count[None] = max(nodes, 3)
            for kind, of in self.edges.items():
                count[kind] = of.degree * count[None] if of.degree else max(count[kind], 3)
        needs, tensors = torch.is_grad_enabled(), []
        for what, key in self.table:
            if what == "nodes":
                tensors.append(self.marks[0].new_empty(count[None]))
            elif what in ("ends", "rows"):
                tensors.append(self.ends[key][0].new_zeros(count[key]))
            elif what == "column":
                column = self.columns[key]
                rows = rows_of_columns[key] if few else count[self.cut_of[key]]
                tensors.append(column.new_empty(rows, *column.shape[1:]))
                tensors[-1].requires_grad_(needs and column.requires_grad)
            else:
                field = self.initial[key[1]]
                rows = len(field) + 3 if what == "buffer" else count[key[0]]
                tensors.append(field.new_empty(rows, *field.shape[1:]))
                differentiable = field.is_floating_point() or field.is_complex()
                tensors[-1].requires_grad_(needs and what == "leaf" and differentiable)
        return tensors

    def check(self, found: Program) -> None:
        """Raises unless the new state fits that from before the pass."""
        new = [torch.empty((3, *map(int, v.shape[1:])), dtype=v.dtype, device="meta") for v in found.outputs]
        self.call.check_state(tuple(new), 3)

    def recipe(self, found: Program, inputs: tuple) -> _Recipe:
        by_level, sources = [], []
        for k, (value, (what, place)) in enumerate(zip(inputs, found.sources)):
            source = ("shared", _among(self.shared, value)) if what == "shared" else self.table[place]
            if what == "size":
                by_level.append((k, self.lengths_of(source)))
            elif source[0] in ("nodes", "ends", "rows", "column"):
                by_level.append((k, self.values_of(source)))
            sources.append(None if what == "size" else source)
        return _Recipe(found, sources, by_level)

    def values_of(self, source: tuple) -> Sequence:
        """A kind of tensors by level."""
        what, key = source
        if what == "nodes":
            return self.marks
        return self.parts[key] if what == "column" else (self.ends if what == "ends" else self.rows)[key]

    def lengths_of(self, source: tuple) -> Sequence[int]:
        """How many rows they have by level."""
        what, key = source
        if what == "buffer":
            return [self.plan.num_nodes * (1 + self.plan.reads_old)] * self.plan.num_levels
        if what == "nodes":
            return self.plan.node_counts
        if what == "column":
            return self.columns_by_level[key]
        return self.plan.edges[key[0] if what == "leaf" else key].counts

    @cached_property
    def columns_by_level(self) -> list[list[int]]:
        """How many rows each column has by level."""
        return [[stop - start for start, stop in pairwise(column.bounds)] for column in self.cut]


def _among(values: list, value: Any) -> int:
    """The place of that very object in a list, at whose end it is put if it is not there."""
    for k, other in enumerate(values):
        if other is value:
            return k
    values.append(value)
    return len(values) - 1


class _Pass(torch.autograd.Function):
    """All levels, one after the other; and back."""

    @staticmethod
    def forward(ctx, run, *given):
        ctx.set_materialize_grads(False)
        plan, fields = run.plan, len(run.initial)
        old = plan.num_nodes if plan.reads_old else 0
        data = [_buffer(value, old) for value in given[:fields]]
        written = [field[old:].split(plan.node_counts) for field in data]
        same = _same_at_all(run, data, given[fields + len(run.columns) :])
        kept, sizes = [], []
        for level, recipe in enumerate(run.recipes):
            inputs = same[id(recipe)].copy()
            for k, values in recipe.by_level:
                inputs[k] = values[level]
            out = recipe.program.forward(inputs)
            for field, value in zip(written, out):
                field[level].copy_(value)
            past = fields + recipe.program.num_tensors
            kept += out[fields:past]
            sizes.append(out[past:])
        ctx.save_for_backward(*kept)
        ctx.plan, ctx.old, ctx.sizes, ctx.rows, ctx.columns = plan, old, sizes, run.rows, run.columns_by_level
        ctx.recipes = [(recipe.program, recipe.sources) for recipe in run.recipes]
        ctx.num_shared, ctx.shapes = len(run.shared), [value.new_empty(0, *value.shape[1:]) for value in data]
        return tuple(_ordered(field[old:], plan.node_position) for field in data)

    @staticmethod
    def backward(ctx, *grads):
        kernels.refuse_double_backward(PATH)
        way = _Back(ctx, grads)
        for level in range(ctx.plan.num_levels - 1, -1, -1):
            way.level(level)
        return None, *way.of_state(), *way.of_columns(), *way.of_shared()


def _buffer(value: Tensor, old: int) -> Tensor:
    """Room for the state of a pass, after that from before it where edges read it."""
    buffer = value.new_empty(old + len(value), *value.shape[1:])  # side by side, whatever the value is
    buffer[:old].copy_(value[:old])
    return buffer


def _same_at_all(run: Compiled, data: list[Tensor], shared: tuple[Tensor, ...]) -> dict[int, list]:
    """The inputs of each recipe that are the same at all levels.

    Buffers are handed out as tensors of their own, which do not count that later levels write to other rows.
    """
    found = {}
    for recipe in run.recipes:
        if id(recipe) in found:
            continue
        inputs = found[id(recipe)] = [None] * len(recipe.sources)
        for k, source in enumerate(recipe.sources):
            if source is not None and source[0] == "shared":
                inputs[k] = shared[source[1]].detach()
            elif source is not None and source[0] in ("buffer", "leaf"):
                inputs[k] = data[source[1][1]].data
    return found


class _Back:
    """The way back through a pass: gradients of the state, of columns and of what all levels share."""

    def __init__(self, ctx, grads: tuple[Tensor | None, ...]):
        self.ctx, plan, old = ctx, ctx.plan, ctx.old
        self.total = []
        for grad, like in zip(grads, ctx.shapes):
            total = like.new_zeros(old + plan.num_nodes, *like.shape[1:])
            if grad is not None:
                total[old:].copy_(_ordered(grad, plan.node_order))
            self.total.append(total)
        self.taken = [total[old:].split(plan.node_counts) for total in self.total]
        self.kept, self.at = ctx.saved_tensors, len(ctx.saved_tensors)
        self.columns = [[None] * plan.num_levels for _ in ctx.columns]
        self.shared: list[Tensor | None] = [None] * ctx.num_shared
        self.rows = [_Rows() for _ in self.shared]

    def level(self, level: int) -> None:
        program, sources = self.ctx.recipes[level]
        if program.backward is None:
            return
        first, self.at = self.at - program.num_tensors, self.at - program.num_tensors
        tangents = [of[level] for of, wanted in zip(self.taken, program.wanted) if wanted]
        given = [*self.kept[first : first + program.num_tensors], *self.ctx.sizes[level], *tangents]
        grads = program.backward([given[k] for k in program.order])
        for k, (left, right) in program.products.items():
            self.rows[sources[k][1]].add(grads[right], grads[left])
        for grad, source in zip(grads, sources):
            if grad is not None and source is not None:
                self.add(level, *source, grad)

    def add(self, level: int, what: str, key: Any, grad: Tensor) -> None:
        if what == "shared":
            self.shared[key] = _apart(grad) if self.shared[key] is None else self.shared[key].add_(grad)
        elif what == "column":
            self.columns[key][level] = grad
        else:
            kind, field = key
            self.total[field].index_add_(0, self.ctx.rows[kind][level], grad)

    def of_state(self) -> list[Tensor | None]:
        old = self.ctx.old
        return [total[:old] if old else None for total in self.total]

    def of_columns(self) -> list[Tensor | None]:
        return list(map(_joined, self.columns, self.ctx.columns))

    def of_shared(self) -> list[Tensor | None]:
        for k, rows in enumerate(self.rows):
            if (grad := rows.take()) is not None:
                self.shared[k] = grad if self.shared[k] is None else self.shared[k].add_(grad)
        return self.shared


def _apart(grad: Tensor) -> Tensor:
    """A copy to add to: a gradient may be one number seen as many, or that of another weight as well."""
    return grad.clone(memory_format=torch.contiguous_format)


def _joined(grads: list[Tensor | None], lengths: Sequence[int]) -> Tensor | None:
    """The gradient of a column, 0 in levels that have none."""
    like = next((grad for grad in grads if grad is not None), None)
    if like is None:
        return None
    return torch.cat(
        [like.new_zeros(rows, *like.shape[1:]) if grad is None else grad for grad, rows in zip(grads, lengths)]
    )

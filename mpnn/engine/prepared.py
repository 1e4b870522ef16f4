"""What does not depend on values, worked out once for a class of layers and a graph.

To find out which argument of which hook comes from where, and whether it has its rows, takes several times as long as
what a pass over ten nodes computes. So a way of running over one level is prepared for a class and a plan, and kept
with the graph; ``propagate`` looks there before anything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.engine.call import Call, Result, tuple_of
from mpnn.engine.returned import check_rows, check_state
from mpnn.graph import Size
from mpnn.hooks import Hook
from mpnn.plan import notes

NEVER = -1  # rows that no field has: those of graphs are a Call's to look up


class Prepared:
    """A way of running over one level and edges of one type, ready for any values of the fields that hooks ask for.

    Args:
        hooks: those that run on edges, then ``update``.
        src, dst: which rows an edge is given of fields at its ends; None: the whole field.

    Attributes:
        parts: where each hook's arguments stand among all; own: where those of ``update``, by its name, stand.
        slots: where what was aggregated stands.
        asked: of every other argument: its field, which of a pair it is, how many rows it has, and which are taken.
    """

    def __init__(self, layer, plan, hooks: list[Hook], src: Tensor | None = None, dst: Tensor | None = None):
        ((self.kind, self.edges),) = plan.edges.items()
        self.num_nodes, self.parts, start = plan.num_nodes, {}, 0
        for hook in hooks:
            stop = start + len(hook.arguments)
            self.parts[hook.name], start = slice(start, stop), stop
        self.update, self.own = hook.name, self.parts[hook.name]
        arguments = [(hook, argument) for hook in hooks for argument in hook.arguments]
        self.slots = [k for k, (_, a) in enumerate(arguments) if a.role == "message"]
        self.alone = len(hook.arguments) == len(self.slots) == 1
        self.arguments = [(hook, a) for hook, a in arguments if a.role != "message"]
        where = {
            "source": (0, plan.num_src, src),
            "target": (1, plan.num_nodes, dst),
            "edge": (None, len(self.edges), self.edges.order),
            "own": (1, plan.num_nodes, None),
            "graph": (0, NEVER, None),
        }
        self.asked = [(a.field, *where[a.role]) for _, a in self.arguments]

    @classmethod
    def run(cls, call: Call) -> Result:
        """Runs a call this way, and notes it with the graph for the next such call."""
        layer, plan = call.layer, call.plan
        if torch.compiler.is_compiling():
            prepared = cls(layer, plan)
        else:
            prepared = plan.remember((cls, type(layer), layer.aggr), lambda: cls(layer, plan))
            if call.given is not None and not layer.state:
                graph, num_nodes = call.given
                notes(graph)[key(layer, num_nodes)] = prepared
        new = tuple_of(prepared(layer, prepared.of_call(call)))
        if layer.state:
            check_state(layer, new, plan.num_nodes, call.before)
        return Result(new)

    def of(self, fields: dict[str, Any]) -> list | None:
        """The values asked for, if each is a tensor with its rows; what else there may be, a :class:`Call` knows."""
        values = []
        for name, side, rows, taken in self.asked:
            value = fields.get(name)
            if type(value) is tuple and side is not None:
                value = value[side]
            if isinstance(value, Tensor) and value.dim() and value.shape[0] == rows:
                values.append(value if taken is None else value.index_select(0, taken))
            elif value is None and side is None and name in fields:
                values.append(value)
            else:
                return None
        return values

    def of_call(self, call: Call) -> list:
        """The same of any fields, with errors in words."""
        values = [call.value(hook, argument, self.kind) for hook, argument in self.arguments]
        for k, (*_, taken) in enumerate(self.asked):
            if taken is not None and isinstance(values[k], Tensor) and values[k].dim():
                values[k] = values[k].index_select(0, taken)
        return values

    def __call__(self, layer, values: list) -> Any:
        """The hooks, of values that are in place."""
        got = self.aggregated(layer, values)
        if self.alone:
            new = getattr(layer, self.update)(got)
        else:
            for slot in self.slots:
                values.insert(slot, got)
            new = getattr(layer, self.update)(*values[self.own])
        if new is not got and not layer.state:
            check_rows(layer, self.update, new, self.num_nodes, "nodes")
        return new


def key(layer, num_nodes: Size | None) -> tuple:
    """Where the notes of a graph have what is prepared for a layer under its own schedule."""
    return type(layer), layer.aggr, layer.schedule, num_nodes

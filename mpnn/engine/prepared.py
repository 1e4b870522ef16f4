"""What does not depend on values, worked out once for a class of layers and a graph.

To find out which argument of which hook comes from where, and whether it has its rows, takes several times as long as
what a pass over ten nodes computes. So a way of running over one level is made for a class and a plan, and kept with
the graph; ``propagate`` looks there before anything else.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpnn.engine.call import Call, Result, check_returned, tuple_of
from mpnn.graph import Size
from mpnn.hooks import Hook
from mpnn.plan import notes


class Prepared:
    """A way of running, ready for any values of the fields that ``hooks`` ask for; the last of them is ``update``.

    Attributes:
        asked: of each argument but what was aggregated: its field, which of a pair it is, how many rows it has, and
            which of them are taken.
        split: how many arguments come before those of ``update``.
        slot: the place among all of what was aggregated, if ``update`` asks for it.
    """

    def __init__(self, layer, plan, hooks: list[Hook]):
        edges, arguments = plan.edges[""], [(hook, argument) for hook in hooks for argument in hook.arguments]
        where = {
            "source": (0, plan.num_src, edges.src),
            "target": (1, plan.num_nodes, edges.dst),
            "edge": (None, len(edges), edges.order),
            "own": (1, plan.num_nodes, None),
        }
        self.num_nodes, self.split = plan.num_nodes, len(arguments) - len(hooks[-1].arguments)
        self.slot = next((k for k, (_, a) in enumerate(arguments) if a.role == "message"), None)
        self.arguments = [(hook, a) for hook, a in arguments if a.role != "message"]
        self.asked = [(a.field, *where[a.role]) for _, a in self.arguments]

    @classmethod
    def run(cls, call: Call) -> Result:
        """Runs a call this way, and notes it with the graph for the next such call."""
        layer, plan = call.layer, call.plan
        prepared = plan.remember((cls, type(layer), layer.aggr), lambda: cls(layer, plan))
        if call.given is not None:
            graph, num_nodes = call.given
            notes(graph)[key(layer, num_nodes)] = prepared
        return Result(tuple_of(prepared(layer, prepared.of_call(call))))

    def of(self, fields: dict[str, Any]) -> list | None:
        """The values asked for, if each is a tensor with its rows; what else there may be, a :class:`Call` knows."""
        values = []
        for name, side, rows, taken in self.asked:
            value = fields.get(name)
            if type(value) is tuple and side is not None:
                value = value[side]
            if not isinstance(value, Tensor) or not value.dim() or value.shape[0] != rows:
                return None
            values.append(value if taken is None else value.index_select(0, taken))
        return values

    def of_call(self, call: Call) -> list:
        """The same of any fields, with errors in words."""
        values = [call.value(hook, argument) for hook, argument in self.arguments]
        for k, (*_, taken) in enumerate(self.asked):
            if taken is not None and isinstance(values[k], Tensor) and values[k].dim():
                values[k] = values[k].index_select(0, taken)
        return values

    def __call__(self, layer, values: list) -> Any:
        """The hooks, of values that are in place."""
        got = self.aggregated(layer, values[: self.split])
        if self.slot is not None:
            values.insert(self.slot, got)
        new = layer.update(*values[self.split :])
        if new is not got:
            check_returned(layer, "update", new, self.num_nodes, "nodes fire")
        return new


def key(layer, num_nodes: Size | None) -> tuple:
    """Where the notes of a graph have what is prepared for a layer under its own schedule."""
    return type(layer), layer.aggr, layer.schedule, num_nodes

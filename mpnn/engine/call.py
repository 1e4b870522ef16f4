"""One call of ``propagate``: the fields it was given, checked, and looked up by the names that hooks ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mpnn.aggr import reduce
from mpnn.engine.returned import Field, check_initial, check_rows, check_state, check_weight, told
from mpnn.graph import Size, check_batch
from mpnn.hooks import MISSING, Argument, Hook, named
from mpnn.kernels import addends, flat, shaped, weigh


class Rowwise:
    """A node field that is a function of another, row by row; see :func:`rowwise`."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor):
        self.function, self.x, self.shape = function, x, x.shape

    @cached_property
    def all(self) -> Tensor:
        """The field in the user's order."""
        return self.function(self.x)


def rowwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Rowwise:
    """A node field ``function(x)`` that the engine computes where it is cheapest: on rows in level order already.

    ``propagate(edge_index, z=rowwise(self.input, x))`` gives what ``z=self.input(x)`` gives, and moves the rows of x
    instead of the wider rows of z.

    Args:
        function: treats rows independently, as a linear layer does.
        x: ``(N, ...)``.

    Example:
        >>> import mpnn
        >>> class Sum(mpnn.MessagePassing):
        ...     state, schedule, hidden_features = ("h",), "topological", 2
        ...     def message(self, h_j):
        ...         return h_j
        ...     def update(self, z, message):
        ...         return z + message
        >>> Sum().propagate(torch.tensor([[2, 1], [1, 0]]), z=rowwise(lambda x: 2 * x, torch.ones(3, 2)))
        tensor([[6., 6.],
                [4., 4.],
                [2., 2.]])
    """
    return Rowwise(function, x)


class Call:
    """What a way of running needs to know: the layer, its hooks, the plan, and every field by name.

    Fields keep the user's order here. A value that is no tensor, or has no rows, is the same for all nodes and edges.
    ``given`` is what the plan was made of, the graph and the number of nodes, where the layer's own schedule runs.
    """

    def __init__(
        self,
        layer,
        plan,
        fields: dict[str, Any],
        batch: Tensor | None,
        num_graphs: int | None,
        only: tuple[str, ...] | None = None,
        given: tuple[Any, Size | None] | None = None,
    ):
        self.layer, self.hooks, self.plan, self.fields, self.given = layer, layer.hooks, plan, fields, given
        self.batch, self.num_graphs, self.only = batch, num_graphs, layer.state if only is None else only
        self.before: list[Field] = []
        check_batch(type(layer).__name__, batch, plan.num_nodes)

    def start(self) -> None:
        """Gives the state fields that were not passed their initial value, and notes what rows each has ``before``."""
        for name in self.layer.state:
            passed = self.fields.get(name)
            value = self.layer.initial_state(name, self.plan.num_nodes, self.like()) if passed is None else passed
            value = value.all if isinstance(value, Rowwise) else value
            own = value[1] if isinstance(value, tuple) else value  # of a bipartite graph the targets fire
            check_initial(self.layer, name, own, self.plan.num_nodes, passed is None)
            self.fields[name] = value
            self.before.append((name, own.shape[1:], own.dtype))

    def described(self) -> str:
        """What the hooks were run on, for errors that are theirs."""
        plan, given = self.plan, [f"{name} {told(value)}" for name, value in self.fields.items()]
        inside = " Inside a transform of torch.func use mpnn.engine('reference'), which is ordinary autograd."
        return (
            f"{type(self.layer).__name__} ran on {plan.num_nodes} nodes and {sum(map(len, plan.edges.values()))} edges "
            f"in {plan.num_levels} levels, with {', '.join(given) or 'no field'}."
            f"{inside if torch._C._are_functorch_transforms_active() else ''}"
        )

    def like(self) -> Tensor:
        """A floating tensor of the call, for dtype and device."""
        fields = [v.x if isinstance(v, Rowwise) else v for v in self.fields.values()]
        values = [v for v in fields if isinstance(v, Tensor)] + list(self.layer.parameters())
        return next((v for v in values if v.is_floating_point()), torch.empty(0))

    def message_name(self, kind: str) -> str:
        """What ``update`` calls the aggregate of an edge type."""
        return f"message_{kind}" if kind else "message"

    def value(self, hook: Hook, argument: Argument, kind: str = "", order: Callable | None = None) -> Any:
        """The whole field that an argument stands for, with its number of rows checked.

        Edge fields are in the user's order; node values likewise, unless ``order`` reorders them.
        """
        if argument.field not in self.fields:
            if argument.default is not MISSING:
                return argument.default
            unknown(self.layer, hook, argument, self.fields)
        value = self.fields[argument.field]
        if argument.role == "edge":
            if isinstance(value, dict):
                value = value.get(kind)
            return self.check_rows(argument, value, len(self.plan.edges[kind]), "edges")
        if argument.role == "graph":
            value = self._at_nodes(argument, value)
            return value if order is None else order(value)
        if isinstance(value, tuple):
            value = value[0] if argument.role == "source" else value[1]
        count = self.plan.num_src if argument.role == "source" else self.plan.num_nodes
        if isinstance(value, Rowwise):
            self.check_rows(argument, value.x, count, "nodes")
            return value.all if order is None else value.function(order(value.x))
        value = self.check_rows(argument, value, count, "nodes")
        return order(value) if order is not None and isinstance(value, Tensor) and value.dim() else value

    def _at_nodes(self, argument: Argument, value: Tensor) -> Tensor:
        """A graph field at each node."""
        if self.batch is not None:
            return value.index_select(0, self.batch)
        if value.shape[0] != 1:
            raise ValueError(
                f"{type(self.layer).__name__}: {argument.field!r} has {value.shape[0]} rows, but without batch all "
                "nodes are of one graph; expected one row. Pass batch=, the graph of each node."
            )
        return value.expand(self.plan.num_nodes, *value.shape[1:])

    def check_state(self, new: tuple, count: int) -> None:
        if self.before:
            check_state(self.layer, new, count, self.before)
        else:
            check_rows(self.layer, "update", new, count, "nodes")

    def check_rows(self, argument: Argument, value: Any, count: int, what: str) -> Any:
        if isinstance(value, Tensor) and value.dim() and value.shape[0] != count:
            raise ValueError(
                f"{type(self.layer).__name__}: {argument.field!r} has {value.shape[0]} rows, but there are {count} "
                f"{what}; expected one row for each. Its shape is {tuple(value.shape)}."
            )
        return value


def unknown(layer, hook: Hook, argument: Argument, fields: dict[str, Any]) -> None:
    """Raises, for a hook asks for what was not passed."""
    given = sorted(fields)
    passed = "no field was passed"
    if given:
        listed = " and ".join([", ".join(map(repr, given[:-1]))] * (len(given) > 1) + [repr(given[-1])])
        passed = f"only {listed} {'was' if len(given) == 1 else 'were'} passed"
    raise TypeError(
        f"{type(layer).__name__}.{hook.name} asks for {argument.name!r}, but {passed}. "
        f"Pass {argument.field}=..., or rename the argument: {named(hook.name)}."
    )


@dataclass
class Result:
    """What a way of running gives back: new node values, and what edge updates may ask for.

    All in the user's order. A state field that was not asked for may be None. ``aggregated`` and ``messages`` are there
    only if the layer has an ``edge_update``.
    """

    nodes: tuple
    aggregated: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, Any] = field(default_factory=dict)


def call_hook(layer, hook: Hook, arguments: list) -> Any:
    return getattr(layer, hook.name)(*arguments)


def weights(layer, hooks, result: Callable[[Hook], Tensor], segment, value: Tensor) -> Tensor | None:
    """The weight of each edge in the structured form: given by ``weight``, or the softmax of ``attention``,
    or their product. ``result`` calls a hook.
    """

    def of(hook: Hook) -> Tensor:
        return check_weight(layer, hook.name, result(hook), segment.num_edges, value)

    weight = of(hooks.weight) if hooks.weight else None
    if hooks.attention:
        attention = segment.softmax(of(hooks.attention))
        attention = torch.dropout(attention, layer.attention_dropout, layer.training)
        weight = attention if weight is None else weight * attention
    return weight


def messages(layer, hooks, kind: str, arguments: dict[str, list], segment) -> Any:
    """Messages of some edges of one type; of the structured form, the product spelled out."""
    if hooks.structured:
        (value,) = arguments["value"]
        weight = weights(layer, hooks, lambda hook: call_hook(layer, hook, arguments[hook.name]), segment, value)
        return weigh(weight, value)
    return call_hook(layer, hooks.message[kind], arguments[hooks.message[kind].name])


def aggregate(layer, kind: str, sent: Any, segment) -> Any:
    """Order-invariant reduction of the messages into each node, message by message if several travel."""
    hooks = layer.hooks
    if not hooks.structured:
        check_rows(layer, hooks.message[kind].name, sent, segment.num_edges, "edges")
    if hooks.aggregate:
        known = {"message": sent, "index": segment.index, "num_nodes": segment.num_nodes}
        got = call_hook(layer, hooks.aggregate, [known[a.name] for a in hooks.aggregate.arguments])
        check_rows(layer, "aggregate", got, segment.num_nodes, "nodes")
        return got
    if layer.aggr in ("sum", "mean"):
        whole = torch.int64 if layer.aggr == "sum" else torch.get_default_dtype()
        return each(lambda m: getattr(segment, layer.aggr)(addends(m, whole)), sent)
    return each(lambda m: _with_module(layer.aggr_module, m, segment), sent)


def _with_module(aggr, values: Tensor, segment) -> Tensor:
    rows = flat(values)
    out = reduce(aggr, rows, segment.index, segment.num_nodes)
    return shaped(out, values) if out.shape[1:] == rows.shape[1:] else out


def each(function, value: Any) -> Any:
    """``function`` on a tensor, or on every tensor of a tuple."""
    return tuple(function(v) for v in value) if isinstance(value, tuple) else function(value)


def tuple_of(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def rows(value: Any, at: list[int]) -> Any:
    """Some rows of a field; a value without rows is the same everywhere."""
    return value[at] if isinstance(value, Tensor) and value.dim() else value


def joined(values: list) -> Any:
    """Tensors, or tuples of tensors, of all levels one after the other."""
    if isinstance(values[0], tuple):
        return tuple(torch.cat(column) for column in zip(*values))
    return values[0] if len(values) == 1 else torch.cat(values)

"""Message passing where nodes have types: a message for each type of edge, an update for each type of node."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from mpnn import schedule as schedules
from mpnn.engine import Call, run
from mpnn.engine.call import tuple_of
from mpnn.engine.returned import check_rows
from mpnn.graph import EdgeType, in_order
from mpnn.hooks import MISSING, Argument, Hook, Hooks, _edge_role, _read, _update_role
from mpnn.kernels import permute
from mpnn.message_passing import _ONE_LEVEL, MessagePassing
from mpnn.plan import Plan, cached_plan, inverse, plan
from mpnn.schedule import Schedule

__all__ = ["HeteroMessagePassing", "by_type"]

TURN, LEVEL = "0 turn", "0 level"  # fields of the pass itself, by names that no hook can ask for


class HeteroMessagePassing(MessagePassing):
    r"""Message passing over nodes of several types under any schedule.

    .. math::
        m_i^r = \mathrm{Aggr}_{j \to i \in E_r}\, f_r(h_i, h_j, e_{ji}), \qquad
        h_i' = f_{t(i)}\big(h_i, (m_i^r)_r\big) \quad \text{of i's type } t(i)

    All types share one schedule, so their frontiers fire one after the other or side by side, as the graph or its
    values say, and an edge hands over the newest state of its source, whatever the types of its ends.

    A subclass defines hooks as for :class:`MessagePassing`, by type:

    - ``message_<source>_<relation>_<target>``, or ``message_<relation>``, or ``message`` for all others: what an edge
      of that type sends.
    - ``update_<type>``, or ``update`` for all others: the new state of a node of that type. ``message_<relation>`` is
      what came along the edges of that name, ``message_<source>_<relation>_<target>`` along those of one type,
      ``message`` along all that end in the node; several types are summed. Each may be written as ``message=None``.
      A type without an update keeps its state.

    Characters of types that cannot stand in a name of Python are written as ``_``. Where the schedule is reversed, an
    edge is turned round and keeps its hook.

    Attributes:
        state, aggr, schedule: as there. The state has the same width in all types.

    Source: the general form of Schlichtkrull et al. 2018, arXiv:1703.06103, eq. 2.
    Deviations: the schedule, the update for each type, and any message.

    Raises:
        TypeError: the class defines ``value``, ``edge_update`` or ``global_update``, which have no types.

    Example:
        >>> class Documents(HeteroMessagePassing):
        ...     state, schedule = ("h",), "topological"
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.hidden_features, self.words = 2, torch.nn.GRUCell(3, 2)
        ...     def message(self, h_j):
        ...         return h_j
        ...     def update_word(self, x, message):
        ...         return self.words(x, message)
        ...     def update_sentence(self, message):
        ...         return torch.tanh(message)
        >>> next_, in_ = ("word", "next", "word"), ("word", "in", "sentence")
        >>> edges = {next_: torch.tensor([[0, 1], [1, 2]]), in_: torch.tensor([[0, 1, 2], [0, 0, 0]])}
        >>> h = Documents().propagate(edges, x={"word": torch.ones(3, 3)}, num_nodes={"word": 3, "sentence": 1})
        >>> {kind: tuple(values.shape) for kind, values in h.items()}
        {'word': (3, 2), 'sentence': (1, 2)}
    """

    updates: dict[str, Hook]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        names = [name for name in dir(cls) if name.startswith("update_") and callable(getattr(cls, name))]
        cls.updates = {name[len("update_") :]: _read(name, getattr(cls, name), _update_role) for name in names}
        for name in ("edge_update", "global_update", "value"):
            if getattr(cls, name, None) is not None:
                raise TypeError(
                    f"{cls.__name__} defines {name}, which HeteroMessagePassing has not; expected message and update "
                    "by type. Use MessagePassing on one type of nodes, or mpnn.nn.RelationWise."
                )

    def propagate(
        self,
        edge_index: Any,
        schedule: str | Schedule | Tensor | Mapping[str, Tensor] | None = None,
        num_nodes: Mapping[str, int] | None = None,
        batch: Mapping[str, Tensor] | None = None,
        num_graphs: int | None = None,
        **fields: Any,
    ) -> Any:
        """Runs the hooks over the graph, level by level.

        Args:
            edge_index: ``{(source type, relation, target type): (2, E)}``, or a :class:`~mpnn.plan.Plan` of such.
            schedule: a name, or a schedule whose values are ``{node type: (N,)}``; unless given, the class's.
            num_nodes: ``{node type: number}``, for types that no field has a row for each node of.
            batch: ``{node type: (N,)}``, the graph of each node, for graph fields.
            num_graphs: number of graphs; unless given, read from the graph fields.
            fields: node fields ``{node type: (N, ...)}``, whose widths may differ, edge fields
                ``{edge type: (E, ...)}``, graph fields ``(B, ...)``, and anything without rows.

        Returns:
            ``{node type: (N, ...)}``, or a tuple of such if the updates return tuples.

        Raises:
            TypeError: a hook asks for a field that was not passed, or not for its type; an edge type has no message; a
                type of nodes has no update and an update no nodes.
            ValueError: a field has not one row for each node or edge; the graph is malformed; the plan has another
                schedule or no types.
        """
        for name, value in fields.items():
            if hasattr(value, "edge_index_dict"):
                raise TypeError(
                    f"{self._name}: {name} is a {type(value).__name__}; expected {{type: tensor}}. Pass "
                    f"data.{name}_dict and data.edge_index_dict, or call mpnn.apply(layer, data)."
                )
        graph = self._plan_of(edge_index, schedule, num_nodes, fields)
        self._check_sizes(graph, fields)
        bound = copy.copy(self)  # the same parameters, and hooks for the types of this graph
        bound.hooks = _hooks(type(self), tuple(graph.types), tuple(graph.edges), graph.schedule.turned)
        silent = self._silent(graph.types)
        bound.whole_frontiers = bool(silent)  # how wide their rows are is known from those of other types
        call = Call(bound, graph, self._joined(graph, bound.hooks, fields), _stacked(batch, graph.types), num_graphs)
        nodes = [_apart(values, graph.types, silent) for values in run(call).nodes]
        return tuple(nodes) if len(nodes) > 1 else nodes[0]

    def _plan_of(self, edge_index: Any, schedule: Any, num_nodes: Mapping[str, int] | None, fields: dict) -> Plan:
        if isinstance(edge_index, Plan):
            _check_types(edge_index, self._name)
            return self._plan(edge_index, schedule, edge_index.num_nodes)
        rule = schedules.get(self.schedule if schedule is None else schedule)
        if not self.state:  # nothing is written that a later level could read
            rule = _ONE_LEVEL[rule.turned]
        sizes = self._sizes(fields) | dict(num_nodes or {})
        return cached_plan(edge_index, rule, tuple(sizes.items()), self._name, _plan_types)

    def _sizes(self, fields: Mapping[str, Any]) -> dict[str, int]:
        """The number of nodes of each type, which all fields must agree on."""
        sizes: dict[str, tuple[str, int]] = {}
        for name, value in fields.items():
            for kind, rows in value.items() if isinstance(value, Mapping) else ():
                if not isinstance(kind, str):
                    continue
                known = sizes.setdefault(kind, (name, len(rows)))
                if known[1] != len(rows):
                    raise ValueError(
                        f"{self._name}: of type {kind!r}, {known[0]!r} has {known[1]} rows, but {name!r} has "
                        f"{len(rows)}; expected one row a node in both."
                    )
        return {kind: count for kind, (_, count) in sizes.items()}

    def _check_sizes(self, graph: Plan, fields: Mapping[str, Any]) -> None:
        for kind, count in self._sizes(fields).items():
            if graph.types.get(kind) != count:
                raise ValueError(
                    f"{self._name}: the fields have {count} rows for nodes of type {kind!r}, but the graph has "
                    f"{graph.types.get(kind, 'none')} of them; expected one row a node."
                )

    def _silent(self, types: Mapping[str, int]) -> set[str]:
        """The types that have neither a state nor an update, and so no result."""
        return set() if self.state else {kind for kind in types if _update_of(type(self), kind) is None}

    # What the engine is given ---------------------------------------------------------------------------------------

    def _joined(self, graph: Plan, hooks: Hooks, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields as the engine takes them: states type after type, values at the ends of edges as edge fields."""
        out: dict[str, Any] = {LEVEL: graph.level}
        for name, value in fields.items():
            if not isinstance(value, Mapping):
                out[name] = value
            elif name not in self.state:
                out[name] = {_key(kind): rows for kind, rows in value.items()}
        given = [v for value in fields.values() for v in (value.values() if isinstance(value, Mapping) else [value])]
        like = next((v for v in [*given, *self.parameters()] if _floating(v)), torch.empty(0))
        for name in self.state:
            out[name] = self._state(name, fields.get(name), graph, like)
        for key, hook in hooks.message.items():
            for argument in hook.arguments:
                base, _, end = argument.field.partition(" at ")
                if base not in fields and base not in self.state:
                    _check_default(self._name, hook, argument, base)
                elif end:
                    out.setdefault(argument.field, {})[key] = self._at_end(hook, fields[base], base, end, graph, key)
        return out | {TURN: _Turn(graph, fields, [a.name for a in hooks.update.arguments[2:]])}

    def _state(self, name: str, value: Mapping[str, Tensor] | None, graph: Plan, like: Tensor) -> Tensor:
        """The state from before the pass, type after type; zeros for types that were not passed."""
        if not value:
            return self.initial_state(name, graph.num_nodes, like)
        first = next(iter(value.values()))
        rows = [value[k] if k in value else first.new_zeros(n, *first.shape[1:]) for k, n in graph.types.items()]
        return torch.cat(rows)

    def _at_end(self, hook: Hook, value: Any, name: str, end: str, graph: Plan, key: str) -> Any:
        """A node field at the sources or targets of the edges of one type, in the user's order."""
        if not isinstance(value, Mapping):
            return value
        place = int(end == "target")
        kind = _ends(key, graph.schedule.turned)[place]
        if kind not in value:
            raise TypeError(_lacks(self._name, hook.name, name, kind, value))
        return value[kind].index_select(0, graph.remember(("ends", key), lambda: _local(graph, key))[place])

    def _fire(self, turn: _Turn, level: Tensor, *values: Any) -> Any:
        """The update of a frontier: the nodes of one type stand side by side."""
        firing = turn.next(len(level))
        counts = [stop - start for _, _, start, stop in firing]
        given = {name: _shares(value, counts) for name, value in zip(turn.names, values, strict=True)}
        new = []
        for k, (kind, *place) in enumerate(firing):
            own = {name: shares[k] for name, shares in given.items()}
            hook = _update_of(type(self), kind)
            if hook is None:
                new.append(tuple(own[name] for name in self.state))
                continue
            arguments = [self._own(hook, a, kind, own, turn, place) for a in hook.arguments]
            new.append(tuple_of(getattr(self, hook.name)(*arguments)))
            check_rows(self, hook.name, new[-1], counts[k], "nodes")
        return _together(self._name, [kind for kind, *_ in firing], new, counts)

    def _own(self, hook: Hook, argument: Argument, kind: str, own: dict, turn: _Turn, place: list[int]) -> Any:
        """What one argument of an update stands for, of the nodes of one type that fire."""
        if argument.role == "message":
            return _summed([own[f"message_{key}"] for key in _senders(argument.name, kind, turn.kinds, turn.turned)])
        if argument.role == "graph" or argument.field in self.state:
            return own[argument.name]
        return turn.value(self._name, hook, argument, kind, place)


class _Turn:
    """Who fires now. Nodes come in level order, within a level type after type; so all that a pass needs to know is how
    many have fired, and it never waits for the device.
    """

    def __init__(self, graph: Plan, fields: Mapping[str, Any], names: list[str]):
        self.graph, self.fields, self.names = graph, fields, names
        self.kinds, self.turned = tuple(graph.edges), graph.schedule.turned
        self.counts = graph.remember("types by level", lambda: _types_by_level(graph))
        self.columns: dict[tuple[str, str], list[Tensor]] = {}
        self.level = self.done = 0

    def next(self, rows: int) -> list[tuple[str, int, int, int]]:
        """The types of the next rows in level order, with the level, and from where to where among its nodes."""
        found, start = [], 0
        for kind, counts in self.counts.items():
            a, b = max(self.done - start, 0), min(self.done + rows - start, counts[self.level])
            if a < b or not self.graph.num_nodes:
                found.append((kind, self.level, a, max(a, b)))
            start += counts[self.level]
        self.done += rows
        if self.done == self.graph.node_counts[self.level]:
            self.level, self.done = self.level + 1, 0
        return found

    def value(self, owner: str, hook: Hook, argument: Argument, kind: str, place: list[int]) -> Any:
        """A node field of the nodes of one type that fire."""
        name, (level, start, stop) = argument.field, place
        if name not in self.fields:
            return _check_default(owner, hook, argument, name)
        value = self.fields[name]
        if not isinstance(value, Mapping):
            return value
        if kind not in value:
            raise TypeError(_lacks(owner, hook.name, name, kind, value))
        if (kind, name) not in self.columns:
            self.columns[kind, name] = self._by_level(kind, value[kind])
        column = self.columns[kind, name][level]
        return column if stop - start == len(column) else column[start:stop]

    def _by_level(self, kind: str, values: Tensor) -> list[Tensor]:
        if self.graph.num_levels == 1:
            return [values]
        order, back = self.graph.remember(("order of", kind), lambda: _order(self.graph, kind))
        return list(permute(values, order, back).split(self.counts[kind]))


# Hooks of a graph's types ---------------------------------------------------------------------------------------------


@lru_cache
def _hooks(cls: type, types: tuple[str, ...], kinds: tuple[str, ...], turned: bool) -> Hooks:
    """The hooks as the engine asks for them: a message for each edge type of the graph, and one update for all."""
    message = {key: _message_of(cls, key) for key in kinds}
    updates = {kind: _update_of(cls, kind) for kind in types}
    _check_updates(cls, updates)
    asked: dict[str, list[Any]] = {key: [] for key in kinds}  # the defaults of the arguments that get its messages
    graph = {}
    for kind, hook in updates.items():
        for argument in hook.arguments if hook else ():
            if argument.role == "graph":
                graph[argument.name] = argument
            if argument.role == "message":
                for key in _matching(cls, hook, argument, kind, kinds, turned):
                    asked[key].append(argument.default)
    own = [Argument(TURN, TURN, "own"), Argument(LEVEL, LEVEL, "own"), *(Argument(n, n, "own") for n in cls.state)]
    for key, defaults in asked.items():
        default = MISSING if MISSING in defaults else None
        own.append(Argument(f"message_{key}", f"message_{key}", "message", default))
    return replace(cls.hooks, types=kinds, message=message, update=Hook("_fire", (*own, *graph.values())))


def _check_updates(cls: type, updates: Mapping[str, Hook | None]) -> None:
    """Raises where a type has no update and an update no type: its name is misspelt."""
    without = [kind for kind, hook in updates.items() if hook is None]
    unused = [kind for kind in cls.updates if kind not in map(_clean, updates)]
    if without and unused:
        raise TypeError(
            f"{cls.__name__} defines update_{unused[0]}, but there are no nodes of type {unused[0]!r}, and none for "
            f"type {without[0]!r}. Call it update_{_clean(without[0])}; or, where a graph has none of the former, pass "
            "fields without rows for them, and where the latter keep their state, define an update that returns it."
        )


def _message_of(cls: type, key: str) -> Hook:
    """The hook of one edge type. What it asks for of the ends of edges is an edge field, but for the state."""
    src, relation, dst = key.split("__")
    names = [f"message_{_clean(f'{src}_{relation}_{dst}')}", f"message_{_clean(relation)}", "message"]
    name = next((name for name in names if callable(getattr(cls, name, None))), None)
    if name is None:
        raise TypeError(
            f"{cls.__name__} has no message for the edge type {(src, relation, dst)}; define one of "
            f"{', '.join(names)}, or leave these edges out."
        )
    hook, at_ends = _read(name, getattr(cls, name), _edge_role), ("source", "target")
    arguments = [
        replace(a, field=f"{a.field} at {a.role}", role="edge") if a.role in at_ends and a.field not in cls.state else a
        for a in hook.arguments
    ]
    return replace(hook, arguments=tuple(arguments))


def _update_of(cls: type, kind: str) -> Hook | None:
    found = cls.updates.get(_clean(kind))
    return found or (None if cls.update is MessagePassing.update else cls.hooks.update)


def _matching(cls: type, hook: Hook, argument: Argument, kind: str, kinds: tuple[str, ...], turned: bool) -> list[str]:
    found = _senders(argument.name, kind, kinds, turned)
    if not found and argument.default is MISSING:
        raise TypeError(
            f"{cls.__name__}.{hook.name} asks for {argument.name!r}, but of the edge types "
            f"{', '.join(str(tuple(key.split('__'))) for key in kinds)} none of that name ends in {kind!r}. Pass it "
            f"with an empty (2, 0), or write {argument.name}=None."
        )
    return found


def _senders(name: str, kind: str, kinds: tuple[str, ...], turned: bool) -> list[str]:
    """The edge types whose messages an argument of an update stands for."""
    asked = name.removeprefix("message").removeprefix("_")
    ending = [key for key in kinds if _ends(key, turned)[1] == kind]
    return [key for key in ending if asked in ("", _clean(key.split("__")[1]), _clean(key.replace("__", "_")))]


def _clean(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _key(kind: Any) -> Any:
    return "__".join(kind) if isinstance(kind, tuple) else kind


def _ends(key: str, turned: bool) -> tuple[str, str]:
    """The types that messages of an edge type come from and go to."""
    src, _, dst = key.split("__")
    return (dst, src) if turned else (src, dst)


def check_edge_types(owner: str, name: str, kinds: Iterable[EdgeType]) -> None:
    """Raises where one is not ``(source type, relation, target type)``."""
    for kind in kinds:
        if not isinstance(kind, (tuple, list)) or len(kind) != 3:
            raise TypeError(f"{owner}: {name} has {kind!r}; expected edge types, (source type, relation, target type).")


def by_type(
    edge_index: Mapping[EdgeType, Tensor] | Plan, owner: str, own: Iterable[EdgeType] = ()
) -> Mapping[EdgeType, Tensor]:
    """The edges of each type, of a dict of them or of the plan of a graph whose nodes have types. An error where there
    are some, but none of the types that are the layer's ``own``: a name is misspelt.

    Example:
        >>> cites = {("paper", "cites", "paper"): torch.tensor([[0, 1], [1, 2]])}
        >>> found = by_type(plan(cites, "topological", {"author": 4, "paper": 3}), "a layer")
        >>> found["paper", "cites", "paper"].tolist()
        [[0, 1], [1, 2]]
    """
    if isinstance(edge_index, Plan):
        _check_types(edge_index, owner)
        edge_index = edge_index.remember("by type", partial(_given, edge_index))
    own = list(own)
    if own and edge_index and not any(kind in edge_index for kind in own):
        raise ValueError(
            f"{owner}: there are no edges of the types {', '.join(map(str, own))}, only of "
            f"{', '.join(map(str, edge_index))}; expected one that the layer has. Call them alike, or, where a "
            "graph has no such edges, pass an empty (2, 0)."
        )
    return edge_index


def _given(graph: Plan) -> dict[EdgeType, Tensor]:
    """The edges as the user gave them, not turned."""
    found = {tuple(key.split("__")): _local(graph, key) for key in graph.edges}
    return {kind: index.flip(0) for kind, index in found.items()} if graph.schedule.turned else found


def _check_types(graph: Plan, owner: str) -> None:
    if graph.types is None:
        raise ValueError(
            f"{owner}: the plan is of a graph whose nodes have no types; plan a HeteroData, or "
            "{(source type, relation, target type): (2, E)} with num_nodes={node type: number}."
        )


# Types side by side ---------------------------------------------------------------------------------------------------


def _plan_types(edge_index: Mapping, schedule: Schedule, sizes: tuple, owner: str) -> Plan:
    return plan(edge_index, schedule, dict(sizes), owner)


def _starts(types: Mapping[str, int]) -> dict[str, int]:
    start, out = 0, {}
    for kind, count in types.items():
        out[kind], start = start, start + count
    return out


def _local(graph: Plan, key: str) -> Tensor:
    """The ends of the edges of one type, each counted within its own type."""
    start = _starts(graph.types)
    src, dst = _ends(key, graph.schedule.turned)
    index = graph.edge_index(key)
    return index - index.new_tensor([[start[src]], [start[dst]]])


def _types_by_level(graph: Plan) -> dict[str, list[int]]:
    levels = graph.level.split(list(graph.types.values()))
    counts = [torch.bincount(level, minlength=graph.num_levels).tolist() for level in levels]
    return dict(zip(graph.types, counts, strict=True))


def _order(graph: Plan, kind: str) -> tuple[Tensor | None, Tensor | None]:
    """The nodes of one type by level, and the way back."""
    start = _starts(graph.types)[kind]
    order = in_order(graph.level[start : start + graph.types[kind]], graph.num_levels)
    return order, inverse(order)


def _stacked(values: Mapping[str, Tensor] | None, types: Mapping[str, int]) -> Tensor | None:
    return None if values is None else torch.cat([values[kind] for kind in types if kind in values])


def _apart(values: Tensor, types: Mapping[str, int], silent: set[str]) -> dict[str, Tensor]:
    parts = zip(types, values.split(list(types.values())), strict=True)
    return {kind: part for kind, part in parts if kind not in silent}


def _shares(value: Any, counts: list[int]) -> list[Any]:
    """A value of a frontier, type by type."""
    if value is None or len(counts) == 1:
        return [value] * len(counts)
    if isinstance(value, tuple):
        return list(zip(*(v.split(counts) for v in value), strict=True))
    return list(value.split(counts))


def _summed(messages: list[Any]) -> Any:
    """The sum of what came along several types of edges; None if nothing came."""
    messages = [message for message in messages if message is not None]
    if not messages or isinstance(messages[0], Tensor):
        return sum(messages[1:], messages[0]) if messages else None
    return tuple(sum(column[1:], column[0]) for column in zip(*messages, strict=True))


def _together(owner: str, kinds: list[str], new: list[tuple], counts: list[int]) -> tuple[Tensor, ...]:
    """The results of all types of a frontier; zeros of those that have none."""
    some = next((values for values in new if values), None)
    if some is None:
        raise TypeError(f"{owner} has neither a state nor an update for {', '.join(map(repr, kinds))}; define update.")
    new = [values or tuple(v.new_zeros(n, *v.shape[1:]) for v in some) for values, n in zip(new, counts, strict=True)]
    shapes = [[tuple(v.shape[1:]) for v in values] for values in new]
    for kind, shape in zip(kinds, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{owner}: the update of {kinds[0]!r} gives rows of shape {shapes[0]}, that of {kind!r} {shape}; "
                "expected the same for all types of nodes. Put an nn.Linear where one of them is read."
            )
    return new[0] if len(new) == 1 else tuple(torch.cat(column) for column in zip(*new, strict=True))


def _check_default(owner: str, hook: Hook, argument: Argument, name: str) -> Any:
    """The default of an argument whose field was not passed."""
    if argument.default is MISSING:
        raise TypeError(f"{owner}.{hook.name} asks for {argument.name!r}, but {name!r} was not passed; pass {name}=...")
    return argument.default


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _lacks(owner: str, hook: str, name: str, kind: str, given: Mapping) -> str:
    return (
        f"{owner}.{hook} asks for {name!r} of nodes of type {kind!r}, but it was passed only for "
        f"{', '.join(map(repr, given)) or 'none'}. Pass {name}={{{kind!r}: ...}}; of a type without nodes, no rows."
    )

"""What the hooks of a layer ask for, read once from their signatures when the class is made.

========== =================================== ====================================================================
hook       runs on                             its arguments
========== =================================== ====================================================================
weight,    the edges into a frontier           ``x_j`` source's, ``x_i`` target's value of node field x; ``u_g`` the
attention,                                     value of graph field u where the edge is; any other name: an edge field
message
update     the nodes of a frontier             ``message`` what was aggregated; ``u_g``; any other name: a node field,
                                               of a state field the node's own value from before the pass
edge_update all edges, at the end of the pass  as ``message``, and ``message`` the edge's own message, ``message_i`` and
                                               ``message_j`` what its ends aggregated
global_update all graphs, last                 ``nodes``, ``edges``: new node and edge values pooled over each graph;
                                               any other name: a graph field
========== =================================== ====================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

MISSING = inspect.Parameter.empty
NAMES = ("message", "weight", "attention", "aggregate", "update", "edge_update", "global_update")
AGGREGATED = ("message", "index", "num_nodes")


@dataclass(frozen=True)
class Argument:
    """One argument of a hook. ``role``: source, target, edge, own, graph, message, pooled."""

    name: str
    field: str
    role: str
    default: Any = MISSING


@dataclass(frozen=True)
class Hook:
    """A hook's name and what it asks for, in order."""

    name: str
    arguments: tuple[Argument, ...]

    def asks(self, role: str, field: str | None = None) -> bool:
        return any(a.role == role and field in (None, a.field) for a in self.arguments)


@dataclass(frozen=True)
class Hooks:
    """All hooks of a class. ``types`` are the edge types that have a message of their own;
    ``("",)`` if there is only one.
    """

    types: tuple[str, ...]
    message: dict[str, Hook | None]
    value: Hook | None
    weight: Hook | None
    attention: Hook | None
    update: Hook
    aggregate: Hook | None
    edge_update: Hook | None
    global_update: Hook | None
    node_fields: tuple[str, ...] = ()

    @property
    def structured(self) -> bool:
        """Whether messages are a weight an edge times a value a source."""
        return self.message[self.types[0]] is None

    @property
    def stray(self) -> Argument | None:
        """An argument of ``update`` that names messages which there are none of."""
        sent = {f"message_{kind}" if kind else "message" for kind in self.types}
        return next((a for a in self.update.arguments if a.role == "message" and a.name not in sent), None)

    def on_edges(self, kind: str) -> list[Hook]:
        """The hooks that make the messages of one edge type."""
        if not self.structured:
            return [self.message[kind]]
        return [hook for hook in (self.value, self.weight, self.attention) if hook]


def named(hook: str) -> str:
    """What the arguments of a hook may be called, in words, for errors."""
    if hook == "global_update":
        return "nodes and edges are the new values pooled over each graph, any other name a field of graphs"
    if hook.startswith("update"):
        return "message is what was aggregated, u_g field u of the graph, any other name the node's own field"
    of_edges = "message is what the edge sent, message_j and message_i what its ends got, "
    ends = "x_j is field x of the source, x_i of the target, x_g of the graph, any other name a field of edges"
    return of_edges * (hook == "edge_update") + ends


def _read(name: str, function: Callable, role: Callable[[str], tuple[str, str]], bound: bool = False) -> Hook:
    """A hook as its signature tells. ``bound``: there is no ``self`` before its arguments."""
    arguments, owner = [], getattr(function, "__qualname__", f"{name}, a {type(function).__name__}")
    for parameter in list(inspect.signature(function).parameters.values())[not bound :]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{owner}: takes {parameter}, but hooks are given what their arguments name. "
                "Name each argument: x_j, x_i, edge_attr, ..."
            )
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise TypeError(
                f"{owner}: takes {parameter.name} by keyword only, but hooks are given their arguments by position. "
                f"Take the * in front of {parameter.name} away."
            )
        arguments.append(Argument(parameter.name, *role(parameter.name), parameter.default))
    return Hook(name, tuple(arguments))


def _edge_role(name: str) -> tuple[str, str]:
    base, suffix = name[:-2], name[-2:]
    role = {"_j": "source", "_i": "target", "_g": "graph"}.get(suffix)
    return (base, role) if role and base else (name, "edge")


def _update_role(name: str) -> tuple[str, str]:
    if name == "message" or name.startswith("message_"):
        return name, "message"
    return (name[:-2], "graph") if name.endswith("_g") else (name, "own")


def _edge_update_role(name: str) -> tuple[str, str]:
    base, role = _edge_role(name)
    return (base, role) if name != "message" else (name, "message")


def _global_role(name: str) -> tuple[str, str]:
    return name, "pooled" if name in ("nodes", "edges") else "own"


def read_hooks(cls: type, base: type) -> Hooks:
    """The hooks that ``cls`` defines beyond ``base``."""

    def own(name: str) -> Callable | None:
        function = getattr(cls, name, None)
        return function if callable(function) and function is not getattr(base, name, None) else None

    def hook(name: str, role) -> Hook | None:
        function = own(name)
        bound = function is not None and isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
        return _read(name, function, role, bound) if function else None

    types = tuple(n[len("message_") :] for n in dir(cls) if n.startswith("message_") and callable(getattr(cls, n)))
    message = {t: hook(f"message_{t}", _edge_role) for t in types} or {"": hook("message", _edge_role)}
    value = Hook("value", (Argument(f"{cls.value}_j", cls.value, "source"),)) if cls.value else None
    hooks = Hooks(
        types=types or ("",),
        message=message,
        value=value,
        weight=hook("weight", _edge_role),
        attention=hook("attention", _edge_role),
        update=hook("update", _update_role) or _read("update", cls.update, _update_role),
        aggregate=hook("aggregate", lambda name: (name, "edge")),
        edge_update=hook("edge_update", _edge_update_role),
        global_update=hook("global_update", _global_role),
    )
    if not hooks.structured and (hooks.weight or hooks.attention):
        raise TypeError(
            f"{cls.__name__} defines message and also weight or attention; these describe the message "
            "'weight * value_j' that is used where message is not defined. Define one or the other."
        )
    for argument in hooks.aggregate.arguments if hooks.aggregate else ():
        if argument.name not in AGGREGATED:
            raise TypeError(
                f"{cls.__name__}.aggregate asks for {argument.name!r}; expected {', '.join(AGGREGATED)}. Rename the "
                "argument; what else is needed a message can return beside, in a tuple."
            )
    return _with_node_fields(hooks, cls.state)


def check_own(cls: type, name: str, value: Callable) -> None:
    """Raises if what is set on an object of the class is one of its hooks, but names other arguments than the class's:
    those alone are read. A module may have the name of a hook that the class has not."""
    defined = callable(getattr(cls, name, None))
    by_type = defined and name.startswith(("message_", "update_"))
    if not (by_type or name in NAMES) or (isinstance(value, nn.Module) and not defined):
        return
    try:
        taken = inspect.signature(value).parameters
    except ValueError:  # of a function of torch's own nobody knows
        return
    wraps = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken.values())
    asked = _arguments(cls, name) if defined else None
    if defined and not isinstance(value, nn.Module) and (wraps or list(taken) == asked):
        return
    expected = f"({', '.join(asked)}), which the class's takes" if defined else "none, for the class has none"
    raise TypeError(
        f"{cls.__name__}: {name} is set to {getattr(value, '__name__', None) or f'a {type(value).__name__}'} with the "
        f"arguments ({', '.join(taken)}); expected {expected}. Define {name} in a subclass, "
        f"class My{cls.__name__}({cls.__name__}), or, if it is no hook, give it another name."
    )


def _arguments(cls: type, name: str) -> list[str]:
    """What a hook of the class is given, without ``self``."""
    bound = isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
    return list(inspect.signature(getattr(cls, name)).parameters)[not bound :]


def _with_node_fields(hooks: Hooks, state: tuple[str, ...]) -> Hooks:
    """Adds the names that stand for node fields, which tell how many nodes there are."""
    names = dict.fromkeys(state)
    for hook in (*[h for kind in hooks.types for h in hooks.on_edges(kind) if h], hooks.update, hooks.edge_update):
        for argument in hook.arguments if hook else ():
            if argument.role in ("source", "target", "own") and not argument.field.startswith("message"):
                names[argument.field] = None
    return replace(hooks, node_fields=tuple(names))

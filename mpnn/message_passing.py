"""The base class of every layer: a handful of hooks, and ``propagate``,
which runs them over a graph under a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from mpnn import schedule as schedules
from mpnn.aggr import resolve
from mpnn.engine import Call, again, run
from mpnn.engine.after import edge_values, graph_values
from mpnn.engine.call import Rowwise, unknown
from mpnn.features import Checked
from mpnn.graph import Size
from mpnn.hooks import MISSING, Argument, Hooks, check_own, read_hooks
from mpnn.kernels import Loose
from mpnn.plan import Plan, cached_plan
from mpnn.plan import plan as plan_of
from mpnn.schedule import Schedule

__all__ = ["MessagePassing"]

_ONE_LEVEL = {False: schedules.synchronous, True: schedules.synchronous.reverse}


class MessagePassing(Checked):
    r"""Message passing over any graph under any schedule.

    .. math::
        m_i = \mathrm{Aggr}_{j \to i}\, f_m(h_i, h_j, e_{ji}), \qquad h_i' = f_{node}(h_i, m_i), \qquad
        e_{ji}' = f_{edge}(h_i, m_i, h_j, m_j, e_{ji}), \qquad u' = f_{global}(u, \Sigma h', \Sigma e')

    Nodes fire level by level. An edge j -> i hands i the newest state j has: the one written in this pass if j's level
    is lower, else the one from before the pass.

    A subclass defines hooks and asks for what they need by the names of their arguments:

    - ``message``: what an edge sends. ``x_j`` is field x of the source, ``x_i`` of the target, ``u_g`` the graph's; any
      other name is an edge field. It may return a tuple. Rows are edges, and every hook must treat rows independently.
    - instead of ``message``, for messages of the form *weight times value*: the class attribute ``value`` names the
      node field that travels, ``weight`` gives a number an edge (or one a head, ``(E, K)``), and ``attention`` a score
      that is turned into a weight by a softmax over the edges of a node. Then no tensor of edges by features is built.
    - ``message_<type>``, one for each edge type, when ``edge_index`` is ``{type: edge_index}``.
    - ``update``: the new state of a node; ``message`` is what was aggregated (``message_<type>`` by type), any other
      name the node's own field. Written as ``message=None`` it is None in a frontier without edges, which saves
      products with zero.
    - ``edge_update``: new edge values, at the end; ``message`` is the edge's own, ``message_i`` and ``message_j`` its
      ends' sums.
    - ``global_update``: new graph values, last; ``nodes`` and ``edges`` are the new values pooled over each graph.
    - ``aggregate``: replaces ``aggr``; is given ``message``, ``index`` (target of each row) and ``num_nodes``.

    Attributes:
        state: names of the fields that ``update`` returns, in order, and that ``h_j`` reads newly written. Each keeps
            the width and dtype that it has before the pass. Empty for layers whose output is no state, as in one-level
            networks.
        value: the node field that travels in the structured form.
        aggr: ``"sum"``, or any aggregation of ``torch_geometric.nn.aggr`` by name or object, applied to every message.
            Those whose result for a node depends on other nodes of the batch are refused. Sums of whole numbers and of
            bool are int64, as in ``torch.sum``.
        schedule: used where ``propagate`` is not given one.
        readout: the aggregation that pools ``nodes`` and ``edges`` for ``global_update``.
        attention_dropout: probability to drop an attention weight in training.
        whole_frontiers: whether ``update`` looks at all nodes of a level at once, as one that normalises over them or
            is a product with their rows does. The reference, which takes nodes one by one, then gives it a level.

    Source: Gilmer et al. 2017, arXiv:1704.01212; Battaglia et al. 2018, arXiv:1806.01261.
    Deviations: the schedule; both papers fire all nodes at once.

    Example:
        >>> class Sum(MessagePassing):
        ...     state = ("h",)
        ...     def message(self, h_j):
        ...         return h_j
        ...     def update(self, x, message):
        ...         return x + message
        >>> chain = torch.tensor([[0, 1], [1, 2]])
        >>> Sum().propagate(chain, schedule="topological", x=torch.ones(3, 1), h=torch.zeros(3, 1)).flatten()
        tensor([1., 2., 3.])
    """

    state: tuple[str, ...] = ()
    value: str | None = None
    aggr: str = "sum"
    schedule: str | Schedule = "synchronous"
    readout: str = "sum"
    attention_dropout: float = 0.0
    whole_frontiers: bool = False
    hooks: Hooks
    _stray: Argument | None  # what no edge type sends, and update asks for

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.state = (cls.state,) if isinstance(cls.state, str) else tuple(cls.state)
        cls.hooks = read_hooks(cls, MessagePassing)
        cls._stray = cls.hooks.stray

    def __init__(self, aggr: str | nn.Module | None = None, readout: str | nn.Module | None = None):
        super().__init__()
        if not any(self.hooks.message.values()) and self.value is None:
            raise TypeError(
                f"{type(self).__name__} defines neither message nor value; define message(self, x_j, ...), or the "
                "class attribute value = 'x' for messages that are a weight times x_j."
            )
        self.aggr, self.aggr_module = resolve(type(self).__name__, self.aggr if aggr is None else aggr)
        if self.hooks.global_update is not None:
            self.readout, self.readout_module = resolve(
                type(self).__name__, self.readout if readout is None else readout
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(value):
            check_own(type(self), name, value)
        super().__setattr__(name, value)

    def update(self, message):
        """The new state of a node; unless redefined, what it was sent."""
        return message

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        """The state from before the pass of a field that was not passed: zeros of width ``hidden_features``."""
        width = getattr(self, "hidden_features", None)
        if width is None:
            raise ValueError(
                f"{type(self).__name__}: the state {name!r} was not passed and there is no hidden_features to make "
                f"zeros of. Pass {name}=..., or set self.hidden_features, or define initial_state."
            )
        return like.new_zeros(1, width).expand(num_nodes, width)

    def kernel(self) -> Callable | None:
        """The function of torch that the layer is on chains, as ``torch.lstm``, for one layer in one direction.

        None, unless redefined. A layer that has one gives ``propagate`` the fields wx, a :func:`~mpnn.rowwise` of the
        inputs, w, which holds weight_ih, weight_hh, bias_ih and bias_hh, and the initial states, h0 for h; and the
        kernel keeps the first field of the state only. A subclass that redefines a hook is not that cell any more.
        """
        return None

    def propagate(
        self,
        edge_index: Any,
        schedule: str | Schedule | Tensor | None = None,
        num_nodes: Size | None = None,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
        only: tuple[str, ...] | None = None,
        **fields: Any,
    ) -> Any:
        """Runs the hooks over the graph, level by level.

        Args:
            edge_index: ``(2, E)`` int64, sources and targets; a :class:`~mpnn.plan.Plan`; or ``{edge type: (2, E)}``.
            schedule: a name, a schedule or a tensor of levels; unless given, the class's. A plan has its own.
            num_nodes: needed only if no node field is a tensor; ``(sources, targets)`` for a bipartite graph.
            batch: ``(N,)`` the graph of each node, for graph fields.
            num_graphs: number of graphs; unless given, read from the graph fields.
            only: the state fields that are asked for, unless given all; the others may be None in what is returned, as
                some ways of running do not keep them.
            fields: node fields ``(N, ...)`` (or a pair of source and target fields for a bipartite graph), edge fields
                ``(E, ...)`` (or ``{edge type: (E, ...)}``), graph fields ``(B, ...)``, and anything without rows.

        Returns:
            The new state: a tensor, or a tuple if ``update`` returns one. With ``edge_update`` also the edge values,
            with ``global_update`` also the graph values: ``(nodes, edges, globals)``.

        Raises:
            TypeError: a hook asks for a field that was not passed, or returns no tensor, or not the dtype of the state.
            ValueError: a field, or what a hook returns, has not one row for each node or edge; ``update`` returns
                another width than the state's; the graph is malformed; the plan has another schedule.
        """
        if num_nodes is not None and type(num_nodes) is not int:
            num_nodes = self._counted(num_nodes)
        known = again(self, edge_index, num_nodes) if schedule is None else None
        if known is not None and (values := known.of(fields)) is not None:
            return known(self, values)
        if self._stray is not None:
            self._refuse(self._stray)
        size = self._size(edge_index, num_nodes, fields)
        plan = self._plan(edge_index, schedule, size)
        given = (edge_index, num_nodes) if schedule is None else None
        call = Call(self, plan, fields, batch, num_graphs, only, given)
        try:
            result = run(call)
        except Exception as error:  # often the hooks' own, in torch's words
            error.add_note(call.described())
            raise
        nodes = result.nodes if len(result.nodes) > 1 else result.nodes[0]
        if self.hooks.edge_update is None and self.hooks.global_update is None:
            return nodes
        returned, edges = [nodes], {}
        if self.hooks.edge_update is not None:
            edges = {kind: edge_values(call, result, kind) for kind in plan.edges}
            returned.append(edges if len(edges) > 1 else next(iter(edges.values())))
        if self.hooks.global_update is not None:
            returned.append(graph_values(call, nodes, edges))
        return tuple(returned)

    def plan(self, edge_index: Any, num_nodes: Size, make: Callable = plan_of) -> Any:
        """What a layer derives from a graph under its own schedule, kept as plans are: the plan itself, or what
        ``make(edge_index, schedule, num_nodes, owner)`` makes.
        """
        return self._plan(edge_index, None, num_nodes, make)

    def _size(self, edge_index: Any, num_nodes: Size | None, fields: dict[str, Any]) -> Size:
        """The number of nodes, which all node fields must agree on."""
        if isinstance(edge_index, Plan):
            return edge_index.num_nodes
        if num_nodes is not None:
            return num_nodes
        src = dst = None
        for name in self.hooks.node_fields:
            value = fields.get(name)
            if isinstance(value, tuple):
                src = src or (name, value[0].shape[0])
                dst = dst if value[1] is None else dst or (name, value[1].shape[0])
            elif isinstance(value, (Tensor, Rowwise)) and len(value.shape):
                if dst and dst[1] != value.shape[0]:
                    raise ValueError(
                        f"{self._name}: {dst[0]!r} has {dst[1]} rows, but {name!r} has {value.shape[0]}; expected one "
                        "row a node in both. Pass num_nodes=(sources, targets) for a bipartite graph."
                    )
                dst = dst or (name, value.shape[0])
        if dst is None:
            self._check_asked(fields)
            raise ValueError(
                f"{self._name}: no node field is a tensor, so the number of nodes is unknown; pass num_nodes=."
            )
        return dst[1] if src is None else (src[1], dst[1])

    def _refuse(self, stray: Argument) -> None:
        sent = " and ".join(f"message_{kind}" if kind else "message" for kind in self.hooks.types)
        raise TypeError(
            f"{self._name}.update asks for {stray.name!r}, but what is aggregated is called {sent}. Rename the "
            "argument; each message_<type> that the class defines has one of its own."
        )

    def _check_asked(self, fields: dict[str, Any]) -> None:
        """Raises if a hook asks for a field that was not passed, which may be why nothing tells the number of nodes."""
        for hook in [*(hook for kind in self.hooks.types for hook in self.hooks.on_edges(kind)), self.hooks.update]:
            for argument in hook.arguments:
                made = argument.default is not MISSING or argument.role == "message" or argument.field in self.state
                if not made and argument.field not in fields:
                    unknown(self, hook, argument, fields)

    def _counted(self, num_nodes: Any) -> Size:
        """Numbers of nodes as Python's own, also of those that come as one number in a tensor or an array."""
        if torch.compiler.is_compiling():
            return num_nodes
        try:
            return tuple(map(index, num_nodes)) if isinstance(num_nodes, (tuple, list)) else index(num_nodes)
        except TypeError:
            raise TypeError(
                f"{self._name}: num_nodes is {num_nodes!r}; expected an int, or (sources, targets) for two sides. "
                "Pass x.shape[0]."
            ) from None

    def _plan(self, edge_index: Any, schedule: Any, size: Size, make: Callable = plan_of) -> Any:
        if isinstance(edge_index, Plan):
            if schedule is not None and not schedules.get(schedule).like(edge_index.schedule):
                raise ValueError(
                    f"{self._name}: the plan was made for {edge_index.schedule}, but schedule={schedule!r} is asked "
                    "for; plan the graph with this schedule, or pass schedule=None."
                )
            graph = edge_index if self.state else edge_index.flat
            if make is plan_of:
                return graph
            return graph.remember(make, lambda: make(graph.given, graph.schedule, graph.size, self._name))
        rule = schedules.get(self.schedule if schedule is None else schedule)
        if not self.state:  # nothing is written that a later level could read
            rule = _ONE_LEVEL[rule.turned]
        traced = torch.compiler.is_compiling() and make is plan_of and isinstance(edge_index, Tensor)
        if traced and rule.name == "synchronous":
            return _Traced(edge_index, size, rule)
        self._check_types(edge_index)
        return cached_plan(edge_index, rule, size, self._name, make)

    def _check_types(self, edge_index: Any) -> None:
        if not isinstance(edge_index, dict) and self.hooks.types == ("",):
            return
        given = tuple(edge_index) if isinstance(edge_index, dict) else ("",)
        if set(given) == set(self.hooks.types):
            return
        if self.hooks.types == ("",):
            raise ValueError(
                f"{self._name} has one message for all edges, but was given the edge types {given}; pass edge_index as "
                "one tensor (2, E), or define a message_<type> for each."
            )
        raise ValueError(
            f"{self._name} has a message_<type> for each of {self.hooks.types}, but was given the edge types {given}; "
            "pass edge_index as {type: (2, E)} with exactly these types, an empty (2, 0) where there is none."
        )

    @property
    def _name(self) -> str:
        return type(self).__name__


class _Traced:
    """Stands for a plan of one level while a compiler traces: sizes may be symbols,
    and nothing is computed beforehand.
    """

    num_levels, node_order, node_position, reads_old = 1, None, None, True

    def __init__(self, edge_index: Tensor, size: Size, schedule: Schedule):
        src, dst = edge_index.flip(0) if schedule.turned else edge_index
        size = size if isinstance(size, tuple) else (size, size)
        self.num_src, self.num_nodes = size[::-1] if schedule.turned else size
        self.schedule, self.node_counts = schedule, [self.num_nodes]
        self.edges = {"": Loose(src, dst, self.num_src, self.num_nodes)}

    def edge_index(self, kind: str) -> Tensor:
        return torch.stack([self.edges[kind].src, self.edges[kind].dst])

    @property
    def level(self) -> Tensor:
        return self.edges[""].src.new_zeros(self.num_nodes)

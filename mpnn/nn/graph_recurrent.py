"""Recurrence through time whose products are graph layers: gates that look at the neighbours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from mpnn import schedule as schedules
from mpnn.features import check_dense, check_features
from mpnn.message_passing import MessagePassing
from mpnn.plan import Edges, Plan, cached_plan

__all__ = ["GraphRecurrent"]

CELLS = {"gru": (3, ("h",)), "lstm": (4, ("h", "c"))}  # gate blocks, state


@dataclass
class Frame:
    """The edges in space of one level, between its nodes in the order in which they fire."""

    num_nodes: int
    edge_index: Tensor


class GraphRecurrent(MessagePassing):
    r"""A recurrent cell at each node of a space-time graph, with a graph layer in the place of each product.

    .. math::
        \text{GRU:}\quad r, z = \sigma(X_t * W + H_{t-1} * U), \quad n = \tanh(X_t * W + r \odot (H_{t-1} * U)),
        \quad H_t = (1 - z) \odot n + z \odot H_{t-1}

        \text{LSTM:}\quad i, f, o = \sigma(X_t * W + H_{t-1} * U), \quad g = \tanh(X_t * W + H_{t-1} * U), \quad
        C_t = f \odot C_{t-1} + i \odot g, \quad H_t = o \odot \tanh(C_t)

    where * is a graph layer over the edges in space at time t, with weights of its own for each gate. One layer on
    :math:`X_t` and one on :math:`H_{t-1}` run once a time, for all gates together. A node's :math:`H_{t-1}, C_{t-1}`
    are the sums over the edges in time into it, 0 without any.

    How it runs: a level is a time. The engine hands each node what comes along its edges in time, and ``update`` calls
    the layer on these states, over the edges in space of the frontier. So any layer will do whose ``forward`` takes x,
    edge_index and edge fields by name, and returns a row a node, ours or torch_geometric's. It sees the states of one
    time, of all graphs of a batch; layers that normalise over all rows, or keep something of the graph they saw first
    (``cached=True``), do not fit.

    Source: Seo et al. 2016, arXiv:1612.07659, model 2 (LSTM with Chebyshev filters); Li et al. 2018, arXiv:1707.01926
    (GRU with :class:`Diffusion`).
    Deviations: the LSTM has no peepholes; the GRU's reset gate is applied after the product with U, as in
    ``torch.nn.GRU``, so that one layer serves all gates. The papers apply it before, :math:`n = \tanh(X_t * W +
    (r \odot H_{t-1}) * U)`, as ``reset="before"`` does, with a layer more a time. Two biases, of which one would do, if
    the layers have them. States start at 0.

    Args:
        conv: makes a layer from in_features and out_features: a class, as ``mpnn.nn.GCN`` or torch_geometric's
            ``GATConv``, or ``functools.partial(ChebConv, K=3)``.
        cell: ``"gru"`` or ``"lstm"``.
        in_features: width of ``x``.
        hidden_features: width of H.
        reset: whether a GRU's r is applied ``"after"`` the product with U or ``"before"`` it.

    Shape:
        x ``(N, in_features)``, edge_index ``{"space": (2, E), "time": (2, E')}`` or a plan of both, fields ``(E, ...)``
        of the edges in space, as edge_weight or edge_attr, for those layers that ask for them -> H ``(N,
        hidden_features)``; :meth:`states` also gives C.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        input, recurrent: the two layers; their rows are the gate blocks r, z, n or i, f, g, o, as in ``torch.nn``.
        candidate: with ``reset="before"`` the layer of block n on :math:`r \odot H_{t-1}`; recurrent has r and z then.

    Raises:
        ValueError: the cell or reset is unknown, or reset is not for the cell; the layer is of another width, or
            caches; x is sparse or has another width; a field has not one row for each edge in space; edges in space
            join nodes of different levels.

    Example:
        >>> from mpnn.nn import GCN
        >>> edges = {"space": torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), "time": torch.tensor([[0, 1], [2, 3]])}
        >>> GraphRecurrent(GCN, "gru", 3, 8)(torch.ones(4, 3), edges).shape
        torch.Size([4, 8])
    """

    state = ("h", "c")  # a GRU's c has no columns
    schedule = "topological"
    whole_frontiers = True  # update looks at all nodes of a level

    def __init__(
        self,
        conv: Callable[[int, int], nn.Module],
        cell: str = "gru",
        in_features: int = 1,
        hidden_features: int = 16,
        reset: str = "after",
    ):
        if cell not in CELLS:
            raise ValueError(f"{type(self).__name__}: cell={cell!r} is unknown; expected 'gru' or 'lstm'.")
        if reset not in ("after", "before") or (cell, reset) == ("lstm", "before"):
            raise ValueError(
                f"{type(self).__name__}: reset={reset!r} is not for cell={cell!r}; expected 'after', or 'before' with "
                "'gru', which has a reset gate."
            )
        if isinstance(conv, nn.Module) or not callable(conv):
            raise TypeError(
                f"{type(self).__name__}: conv is {conv}; expected what makes a layer from two widths: a class such as "
                "mpnn.nn.GCN, or functools.partial(mpnn.nn.GCN, bias=False)."
            )
        super().__init__()
        self.cell, self.in_features, self.hidden_features = cell, in_features, hidden_features
        gates, fields = CELLS[cell]
        self.widths, self.reset = {"h": hidden_features, "c": hidden_features * ("c" in fields)}, reset
        self.blocks = {"input": gates, "recurrent": gates}
        if reset == "before":
            self.blocks |= {"recurrent": gates - 1, "candidate": 1}
        for name, blocks in self.blocks.items():
            setattr(self, name, conv(in_features if name == "input" else hidden_features, blocks * hidden_features))
        self.asks = {name: set(inspect.signature(getattr(self, name).forward).parameters) for name in self.blocks}
        self._check_layers()

    def _check_layers(self) -> None:
        for layer in map(self.get_submodule, self.blocks):
            if getattr(layer, "cached", False):
                raise ValueError(
                    f"{type(self).__name__}: {type(layer).__name__} keeps what it computed for the first graph; "
                    "expected cached=False, as each time has a graph of its own."
                )

    def reset_parameters(self) -> None:
        for name in self.blocks:
            reset(self.get_submodule(name))

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, self.widths[name]).expand(num_nodes, -1)

    def forward(self, x: Tensor, edge_index: Any, schedule: Any = None, **fields: Tensor) -> Tensor:
        return self._run(x, edge_index, schedule, fields)[0]

    def states(self, x: Tensor, edge_index: Any, schedule: Any = None, **fields: Tensor) -> tuple[Tensor, ...]:
        """All fields of the state, ``(N, hidden_features)`` each: H, and C of an LSTM."""
        return self._run(x, edge_index, schedule, fields)[: len(CELLS[self.cell][1])]

    def _run(
        self, x: Tensor, edge_index: Any, schedule: Any, fields: Mapping[str, Tensor], **more: Any
    ) -> tuple[Tensor, ...]:
        """The whole state; ``more`` is for other hooks."""
        check_dense(self._name, x)
        check_features(self._name, x, self.in_features)
        time, space = self._apart(edge_index, schedule, len(x))
        edges = space.edges[""]
        fields = {name: self._placed(name, values, edges) for name, values in fields.items()}
        # x itself goes along: step calls the layer on it, as the products of all times at once would take more memory
        # and, on a CPU, more time (1.4 times that of a training step with GCN on 6,624 nodes by 12 times)
        return self.propagate(time, x=x, steps=self._steps(space, fields), **more)

    def _placed(self, name: str, values: Tensor, edges: Edges) -> Tensor:
        """A field of the edges in space, in their plan's order."""
        if len(values) != len(edges):
            raise ValueError(
                f"{self._name}: {name!r} has {len(values)} rows, but there are {len(edges)} edges in space; expected "
                "one row for each."
            )
        return edges.place(values)

    def _apart(self, edge_index: Any, schedule: Any, num_nodes: int) -> tuple[Plan, Plan]:
        """The plan of the edges in time, and the edges in space laid out by its levels."""
        if isinstance(edge_index, Plan):
            levels = schedules.by(edge_index.level)
            edges = edge_index.remember("by type", lambda: {kind: edge_index.edge_index(kind) for kind in RELATIONS})
            return tuple(cached_plan(edges[kind], levels, num_nodes, f"{self._name} ({kind})") for kind in RELATIONS)
        if not isinstance(edge_index, Mapping) or set(edge_index) != set(RELATIONS):
            given = sorted(edge_index) if isinstance(edge_index, Mapping) else type(edge_index).__name__
            raise ValueError(
                f"{self._name}: edge_index is {given}; expected {{'space': (2, E), 'time': (2, E)}}, as "
                "mpnn.spacetime.relations(data) gives."
            )
        time = self._plan(edge_index["time"], schedule, num_nodes)
        space = cached_plan(edge_index["space"], schedules.by(time.level), num_nodes, f"{self._name} (space)")
        return time, space

    def _steps(self, space: Plan, fields: Mapping[str, Tensor]) -> Iterator[tuple[Frame, dict[str, Tensor]]]:
        """Level by level the edges in space, and their fields."""
        columns = {name: values.split(space.edges[""].counts) for name, values in fields.items()}
        for level, frame in enumerate(space.remember("frames", lambda: frames(space, self._name))):
            yield frame, {name: column[level] for name, column in columns.items()}

    def _layer(self, name: str, x: Tensor, edge_index: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        """One of the layers, with those fields that it asks for."""
        layer, rows = self.get_submodule(name), self.blocks[name] * self.hidden_features
        out = layer(x, edge_index, **{field: values for field, values in fields.items() if field in self.asks[name]})
        if out.shape != (len(x), rows):
            raise ValueError(
                f"{self._name}: {type(layer).__name__} gave shape {tuple(out.shape)} for {len(x)} nodes; expected "
                f"({len(x)}, {rows}), a column for each of {self.blocks[name]} gates times {self.hidden_features} "
                "hidden features. With several heads, average them (concat=False)."
            )
        return out

    def message(self, h_j, c_j):
        return h_j, c_j

    def update(self, x, steps, message):
        return self.step(x, steps, *message)

    def step(self, x: Tensor, steps: Iterator, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new H and C of the nodes of a frontier, from their inputs and the states before."""
        frame, fields = next(steps)

        def product(name: str, values: Tensor) -> Tensor:
            return self._layer(name, values, frame.edge_index, fields)

        wx, wh = product("input", x), product("recurrent", h)
        if self.cell == "lstm":
            return _lstm(wx, wh, c)
        return _gru(wx, wh, h, partial(product, "candidate") if self.reset == "before" else None), c

    def __repr__(self) -> str:
        inside = f"{self.cell!r}, {self.in_features}, {self.hidden_features}"
        inside += f", reset={self.reset!r}" * (self.reset != "after")
        return f"{self._name}({type(self.input).__name__}, {inside})"


RELATIONS = ("time", "space")


def pairs(edges: Edges) -> Tensor:
    """Sources and targets, as places in level order: ``(2, E)``."""
    return torch.stack([edges.src, edges.dst]).long()


def frames(space: Plan, owner: str) -> list[Frame]:
    """The edges in space of each level; equal ones, one after the other, share one tensor, which is planned once."""
    edges, out, start = space.edges[""], [], 0
    _check_levels(space, owner)
    for width, some in zip(space.node_counts, pairs(edges).split(edges.counts, dim=1)):
        local = some - start
        same = out and out[-1].num_nodes == width and torch.equal(out[-1].edge_index, local)
        out.append(out[-1] if same else Frame(width, local))
        start += width
    return out


def _check_levels(space: Plan, owner: str) -> None:
    """Raises unless each edge in space joins nodes of one level."""
    src, dst = space.edge_index()
    apart = space.level[src] != space.level[dst]
    if bool(apart.any()):
        edge = int(apart.nonzero()[0])
        j, i = int(src[edge]), int(dst[edge])
        raise ValueError(
            f"{owner}: the edge in space {edge} ({j} -> {i}) joins level {int(space.level[j])} with level "
            f"{int(space.level[i])}; expected the same. {int(apart.sum())} of {len(src)} edges do so. Pass schedule="
            "mpnn.schedule.by(data.time): nodes without an edge in time into them fire when their time has come."
        )


def _gru(wx: Tensor, wh: Tensor, h: Tensor, candidate: Callable[[Tensor], Tensor] | None) -> Tensor:
    """``candidate`` is the layer on r * h; None where wh has a block for it, which is copied so that the rest goes."""
    size = h.shape[1]
    x_gates, x_candidate = wx.split([2 * size, size], dim=1)
    h_gates, *h_candidate = wh.split([2 * size, wh.shape[1] - 2 * size], dim=1)
    r, z = torch.sigmoid(x_gates + h_gates).chunk(2, dim=1)
    n = torch.tanh(x_candidate + (r * h_candidate[0].contiguous() if candidate is None else candidate(r * h)))
    return torch.lerp(n.to(h.dtype), h, z.to(h.dtype))  # under autocast the gates are coarser than the state


def _lstm(wx: Tensor, wh: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    size = c.shape[1]
    i_and_f, g, o = (wx + wh).split([2 * size, size, size], dim=1)
    i, f = torch.sigmoid(i_and_f).chunk(2, dim=1)
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c

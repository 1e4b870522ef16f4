"""Recursive networks, and what all layers for trees share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpnn import schedule as schedules
from mpnn.engine import rowwise
from mpnn.features import check_dense, check_features
from mpnn.graph import check_sizes
from mpnn.kept import Unwritten
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan
from mpnn.times import Times

__all__ = ["RecNN", "Recursive"]


class Recursive(MessagePassing):
    """The base of layers that run over a tree or a DAG, from the leaves to the root and, if asked to, back.

    A subclass says in ``one_way`` what is computed before the pass, and its hooks say the rest. The way back, from the
    root to the leaves, is a second layer of the same kind, ``reverse``, with weights of its own; it reads the same x
    along the turned edges, and a node's two states are joined.

    Source: Miwa & Bansal 2016, arXiv:1601.00770, for the two ways. Deviations: the states are joined at every node.

    Args:
        in_features: width of ``x``.
        hidden_features: width H of each state field, in each direction.
        shapes: the weights, by name; drawn from U(-1/sqrt(H), 1/sqrt(H)).
        bidirectional: whether there is a way back.
        options: whatever else the subclass is made with.
    """

    schedule = "topological"

    def __init__(
        self, in_features: int, hidden_features: int, shapes: dict[str, tuple], bidirectional: bool, **options: Any
    ):
        super().__init__()
        check_sizes(self._name, in_features=in_features, hidden_features=hidden_features)
        self.in_features, self.hidden_features, self.options = in_features, hidden_features, options
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.reverse = None
        if bidirectional:
            self.reverse = type(self)(in_features, hidden_features, bidirectional=False, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.hidden_features**-0.5), self.hidden_features**-0.5)

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any, **fields: Any) -> Any:
        """One pass, with the products with x taken for all nodes at once."""
        return self.propagate(edge_index, schedule=schedule, z=rowwise(times(self.weight_ih, self.bias), x), **fields)

    def run(self, x: Tensor, edge_index: Any, schedule: Any = None, **fields: Any) -> Any:
        """The pass, and if there is a way back that one too, their states joined."""
        check_dense(type(self).__name__, x)
        check_features(type(self).__name__, x, self.in_features)
        up = self.one_way(x, edge_index, schedule, **fields)
        if self.reverse is None:
            return up
        back = turned(edge_index, self.schedule if schedule is None else schedule)
        return join(up, self.reverse.one_way(x, *back, **fields))

    def __repr__(self) -> str:
        options = self.options | {"bidirectional": self.reverse is not None}
        shown = [f"{name}={getattr(value, '__name__', None) or repr(value)}" for name, value in options.items()]
        return f"{type(self).__name__}({', '.join([str(self.in_features), str(self.hidden_features), *shown])})"


class RecNN(Recursive):
    r"""A recursive network: one function puts a node's children together, each position with weights of its own.

    .. math::
        h_i = f\Big(W x_i + \sum_{k=0}^{n-1} U_k\, h_{i,k} + b\Big)

    where :math:`h_{i,k}` is the state of the child of i at position k, 0 if there is none. Where x is 0 at all but the
    leaves, an inner node of a binary tree is :math:`f(U\,[h_{left}; h_{right}] + b)` with :math:`U = [U_0\; U_1]`.

    Source: Goller & Kuechler 1996, "Learning task-dependent distributed representations by backpropagation through
    structure"; Socher et al. 2011, "Parsing natural scenes and natural language with recursive neural networks".
    Deviations: in Socher et al. the state of a leaf is its word vector; here W, b and f are applied at leaves too. On a
    graph that is no such tree, states of sources at the same position are added up.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h``.
        num_children: the number n of positions.
        nonlinearity: f.
        bidirectional: whether a pass from the root to the leaves follows, in which :math:`U_k` is applied to the parent
            of a node that is its child at position k.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (child, parent), child ``(E,)`` int64: position of the child, 0 to n - 1
        -> h ``(N, H)``, with two directions ``(N, 2H)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih ``(H, F)``: W, weight_hh ``(H, nH)``: the U side by side, bias ``(H,)``.
        Drawn from U(-1/sqrt(H), 1/sqrt(H)), as in ``torch.nn.RNN``. ``reverse`` has the same of the way back.

    Raises:
        ValueError: x is sparse or has another width; a position is outside 0 to n - 1.

    Example:
        >>> edge_index, child = torch.tensor([[1, 2], [0, 0]]), torch.tensor([0, 1])
        >>> RecNN(3, 4)(torch.ones(3, 3), edge_index, child).shape
        torch.Size([3, 4])
    """

    state = ("h",)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_children: int = 2,
        nonlinearity: Callable[[Tensor], Tensor] = torch.tanh,
        bidirectional: bool = False,
    ):
        H, n = hidden_features, num_children
        shapes = {"weight_ih": (H, in_features), "weight_hh": (H, n * H), "bias": (H,)}
        super().__init__(in_features, H, shapes, bidirectional, num_children=n, nonlinearity=nonlinearity)
        self.num_children, self.nonlinearity = num_children, nonlinearity

    def forward(self, x: Tensor, edge_index: Any, child: Tensor, *, schedule: Any = None) -> Tensor:
        check_positions(self, child, self.num_children)
        return self.run(x, edge_index, schedule, child=child)

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any, child: Tensor) -> Tensor:
        return super().one_way(x, edge_index, schedule, child=child, U=times(self.weight_hh))

    def message(self, h_j, child):
        return h_j, child

    def aggregate(self, message, index, num_nodes):
        h_j, child = message
        return by_position(h_j, child, index, num_nodes, self.num_children)

    def update(self, z, U, message=None):
        return self.nonlinearity(z if message is None else U(message, plus=z))


# What layers for trees share ------------------------------------------------------------------------------------------


def by_position(values: Tensor, child: Tensor, index: Tensor, num_nodes: int, num_children: int) -> Tensor:
    """``(N, n * H)``: the children's rows side by side, each at its position, 0 where there is none."""
    width = values.shape[1]
    places = values.new_zeros(num_nodes * num_children, width).index_add(0, index * num_children + child, values)
    return places.view(num_nodes, num_children * width)


_checked = Unwritten()


def check_positions(layer: Recursive, child: Tensor, num_children: int) -> None:
    """Raises unless positions are in range; looks once at a tensor that is not written to."""
    if _checked.get(child) == num_children:
        return
    outside = (child < 0) | (child >= num_children)
    if bool(outside.any()):
        edge = int(outside.nonzero()[0])
        raise ValueError(
            f"{type(layer).__name__}: edge {edge} has child={int(child[edge])}; expected positions in "
            f"[0, {num_children}). {int(outside.sum())} of {child.numel()} edges are outside. Make the layer with more "
            "num_children, or binarise the trees."
        )
    _checked[child] = num_children


def times(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """``h -> h W^T + b``, to hand a part of a weight to hooks, cut out once for all levels; ``plus=`` is added."""
    return Times(weight, bias)


def tanh(block: Tensor) -> Tensor:
    """``torch.tanh`` of a block of gates, which stand apart in memory: of such numbers torch takes it on one thread."""
    return torch.tanh(block.contiguous())


def join(up: Any, down: Any) -> Any:
    """The states of both ways side by side, field by field."""
    if isinstance(up, Tensor):
        return torch.cat([up, down], dim=1)
    return tuple(torch.cat(pair, dim=1) for pair in zip(up, down, strict=True))


def turned(graph: Any, schedule: Any) -> tuple[Any, Any]:
    """The graph and the schedule of the way back; of a plan, the plan of the way back, which it keeps."""
    if not isinstance(graph, Plan):
        return graph, schedules.get(schedule).reverse
    return graph.reverse, None

"""What the recurrent layers share: stacking, directions, initial states, and weights laid out as in ``torch.nn``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn import schedule as schedules
from mpnn.engine import rowwise
from mpnn.features import check_dense, check_features
from mpnn.graph import check_sizes
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan
from mpnn.products import linear
from mpnn.schedule import Schedule
from mpnn.times import Times

__all__ = ["Recurrent"]


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch")


@dataclass
class Weights:
    """The weights of one layer in one direction, by torch's names; weight_ch is only in an LSTM with peepholes."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_ch: Tensor | None

    def __post_init__(self):
        self.times_hh = Times(self.weight_hh)  # which each level takes


class Recurrent(MessagePassing):
    r"""Layers of a recurrent cell over the nodes of a graph: the base of ``RNN``, ``LSTM`` and ``GRU``.

    On a chain with edges t-1 -> t this is recurrence through time, and several chains of any lengths side by side are a
    batch of sequences. On any other graph a node takes the *sum* of its predecessors' states for the previous one,

    .. math:: h_{i-} = \sum_{j \to i} h_j \;(+\; h_{0,i} \text{ where i has no predecessor})

    and the other state fields likewise. Layer l reads the states of layer l-1. With ``bidirectional`` a second set of
    weights runs the pass backwards, every edge turned round, and the two states of a node are joined.

    A cell defines ``update``, whose arguments are the node's product with the inputs ``wx``, the weights ``w`` of this
    layer and direction, the initial states, and what was aggregated. It names the function of torch that it equals on
    chains in ``kernel``; there the engine runs that, on the CPU and on CUDA, in float32 and float64
    (:mod:`mpnn.engine.packed`). ``mpnn.engine("wavefront")`` gives the same numbers, and ``mpnn.explain`` says which of
    the two runs and why.

    Initial states are ``(num_layers * directions, B, H)``, one row a graph, in the order of ``torch.nn``: layer 0
    forward, layer 0 backward, layer 1 forward, ... Each graph's row goes to all its nodes without a predecessor (in the
    backward direction: without a successor). ``batch`` says which graph a node is in; without it there is one. So
    ``batch=torch.arange(N)`` gives a row to each node.

    Source: Elman 1990, "Finding structure in time"; Schuster & Paliwal 1997 for two directions.
    Deviations: graphs other than chains.

    Args:
        in_features: width of ``x``.
        hidden_features: width H of each state field.
        blocks: number of gate blocks in the weights.
        num_layers: how many layers are stacked.
        bias: whether there are biases.
        dropout: probability to drop an input of each layer but the first, in training.
        bidirectional: whether there is a backward direction as well.

    Attributes:
        weight_ih_l0 ``(blocks * H, F)``, weight_hh_l0 ``(blocks * H, H)``, bias_ih_l0 and bias_hh_l0
        ``(blocks * H,)``, and the same with ``_reverse``; F is ``in_features`` for layer 0, then H * directions.
        Drawn from U(-1/sqrt(H), 1/sqrt(H)), in torch's order.
    """

    schedule = "topological"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        blocks: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        super().__init__()
        check_sizes(self._name, in_features=in_features, hidden_features=hidden_features, num_layers=num_layers)
        if not 0 <= dropout <= 1:
            raise ValueError(f"{self._name}: dropout={dropout}; expected a probability, 0 to 1.")
        self.in_features, self.hidden_features, self.num_layers = in_features, hidden_features, num_layers
        self.bias, self.dropout, self.bidirectional = bias, dropout, bidirectional
        self.ways = ("", "_reverse") if bidirectional else ("",)
        rows = blocks * hidden_features
        for layer in range(num_layers):
            columns = self.state_features * len(self.ways) if layer else in_features
            for way in self.ways:
                shapes = dict.fromkeys(WEIGHTS) | self.shapes(rows, columns) | self.more_shapes()
                for name, shape in shapes.items():  # None, so that a name can be asked for, where there is no weight
                    weight = None if shape is None else nn.Parameter(torch.empty(shape))
                    self.register_parameter(f"{name}_l{layer}{way}", weight)
        self.reset_parameters()

    @property
    def state_features(self) -> int:
        """Width of each state field, which is what the next layer reads."""
        return self.hidden_features

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, self.state_features).expand(num_nodes, -1)

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights of a layer in one direction, in the order they are drawn in."""
        shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, self.hidden_features)}
        return shapes | {"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else shapes

    def more_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of further weights of a layer."""
        return {}

    def reset_parameters(self) -> None:
        bound = self.hidden_features**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def weights(self, layer: int, way: str) -> Weights:
        """The weights of a layer in one direction."""
        own = self._parameters  # asked first: a module looks for attributes of its class before
        names = [f"{name}_l{layer}{way}" for name in WEIGHTS]
        return Weights(*[own[name] if name in own else getattr(self, name) for name in names])

    def inputs(self, x: Tensor, w: Weights) -> Tensor:
        """The products with x and all biases, for all nodes at once."""
        return linear(x, w.weight_ih, w.bias_ih + w.bias_hh if self.bias else None)

    def message(self, h_j):
        return h_j

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        h0: Tensor | None = None,
        batch: Tensor | None = None,
        schedule: Any = None,
    ) -> Tensor:
        return self.top(x, edge_index, batch, schedule, h0=h0)[0]

    def states(self, x: Tensor, edge_index: Any, batch: Tensor | None = None, schedule: Any = None, **initial) -> tuple:
        """The states of every layer and direction: ``(num_layers * directions, N, H)`` for each field of ``state``, in
        the order of ``torch.nn``. At the last node of a chain, forward layers have what torch calls h_n."""
        layers = [way for done in self._layers(x, edge_index, batch, schedule, initial) for way in done]
        return tuple(torch.stack(field) for field in zip(*layers))

    def top(
        self,
        x: Tensor,
        edge_index: Any,
        batch: Tensor | None,
        schedule: Any,
        only: tuple[str, ...] | None = None,
        **initial,
    ) -> tuple[Tensor | None, ...]:
        """The states of the last layer, ``(N, directions * H)`` for each field; those not in ``only`` may be None."""
        for done in self._layers(x, edge_index, batch, schedule, initial, only):
            last = done
        return tuple(None if ways[0] is None else joined(ways) for ways in zip(*last))

    def _layers(
        self, x: Tensor, edge_index: Any, batch: Any, schedule: Any, initial: dict, only: tuple[str, ...] | None = None
    ) -> Iterator[list[tuple]]:
        """Layer by layer the states, a tuple of fields for each direction."""
        name, num_nodes = type(self).__name__, x.shape[0]
        check_dense(name, x)
        check_features(name, x, self.in_features)
        directions = self._directions(edge_index, schedule, num_nodes)
        initial = {field: value for field, value in initial.items() if value is not None}
        for field, value in initial.items():
            self._check_initial(field, value, batch, num_nodes)
        for layer in range(self.num_layers):
            done = []
            for k, (way, (graph, rule)) in enumerate(zip(self.ways, directions)):
                w, row = self.weights(layer, way), layer * len(self.ways) + k
                start = {name: self._start(h0[row], graph, rule, batch, num_nodes) for name, h0 in initial.items()}
                wx = rowwise(partial(self.inputs, w=w), x)
                state = self.propagate(graph, rule, only=only, wx=wx, w=w, **start)
                done.append(state if isinstance(state, tuple) else (state,))
            yield done
            if layer + 1 < self.num_layers:
                x = F.dropout(joined([h for h, *_ in done]), self.dropout, self.training)

    def _directions(self, edge_index: Any, schedule: Any, num_nodes: int) -> list[tuple[Any, Schedule | None]]:
        """The graph and the schedule, forwards and backwards."""
        if isinstance(edge_index, Plan):
            return [(edge_index, schedule), *([(edge_index.reverse, None)] if self.bidirectional else [])]
        rule = schedules.get(self.schedule if schedule is None else schedule)
        if self.bidirectional and rule.name != "synchronous":  # one plan for both
            return self._directions(self._plan(edge_index, rule, num_nodes), None, num_nodes)
        return [(edge_index, rule)] + [(edge_index, rule.reverse)] * self.bidirectional

    def _check_initial(self, field: str, value: Tensor, batch: Tensor | None, num_nodes: int) -> None:
        """Raises unless initial states belong to a state and have the right shape."""
        if field not in (known := [f"{state}0" for state in self.state]):
            raise TypeError(f"{type(self).__name__}: {field!r} is no initial state; expected {' or '.join(known)}.")
        count, graphs = self.num_layers * len(self.ways), 1 if batch is None else "B"
        fits = value.dim() == 3 and value.shape[::2] == (count, self.state_features)
        if not fits or (batch is None and value.shape[1] != 1):
            raise ValueError(
                f"{type(self).__name__}: {field} has shape {tuple(value.shape)}; expected ({count}, {graphs}, "
                f"{self.state_features}): layers times directions, graphs, hidden features. "
                "Pass batch=, the graph of each node, if there are several graphs."
            )
        if batch is not None and batch.shape[0] != num_nodes:
            raise ValueError(
                f"{type(self).__name__}: batch has {batch.shape[0]} entries, but there are {num_nodes} nodes; "
                "expected the graph of each node."
            )

    def _start(self, value: Tensor, graph: Any, rule: Any, batch: Tensor | None, num_nodes: int) -> Tensor:
        """A layer's initial state at the nodes without a predecessor, and 0 at all others."""
        of_node = value.expand(num_nodes, -1) if batch is None else value.index_select(0, batch)
        targets = self._plan(graph, rule, num_nodes).edge_index("")[1]
        first = torch.ones(num_nodes, 1, dtype=torch.bool, device=value.device).index_fill(0, targets, False)
        return torch.where(first, of_node, 0.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([f'{self.in_features}, {self.hidden_features}', *self.options()])})"

    def options(self) -> list[str]:
        """What the repr says beyond the widths."""
        shown = [f"num_layers={self.num_layers}"] * (self.num_layers > 1) + ["bias=False"] * (not self.bias)
        return shown + [f"dropout={self.dropout}"] * bool(self.dropout) + ["bidirectional=True"] * self.bidirectional


def joined(ways: Sequence[Tensor]) -> Tensor:
    """The states of all directions side by side."""
    return ways[0] if len(ways) == 1 else torch.cat(ways, dim=1)


def arrived(message: Tensor | None, start: Tensor | None) -> Tensor | None:
    """The state that a node starts from: its predecessors', or the initial one. None stands for zeros."""
    if message is None or start is None:
        return start if message is None else message
    return message + start


def recur(wx: Tensor, h: Tensor | None, times: Times) -> Tensor:
    """``wx + h U^T``."""
    return wx if h is None else times(h, plus=wx)

"""Windows of delays, and the time-delay network: what a node hears from the steps before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn.features import check_dense, check_features
from mpnn.kept import Unwritten
from mpnn.message_passing import MessagePassing
from mpnn.nn.recursive import by_position

__all__ = ["TDNN", "Window"]


class Window(MessagePassing):
    r"""The values of the last p steps side by side, the latest first: :math:`[x_{t-1}, x_{t-2}, \ldots, x_{t-p}]`.

    An edge from step t-k to step t has ``delay`` k; :func:`mpnn.graphs.delays` makes them. Where a sequence begins
    later, the place holds 0. Edges with a longer delay than p are left out, so layers with windows of several lengths
    can share one graph. Values that arrive with the same delay are added up.

    Source: the delay line of Waibel et al. 1989; see :class:`TDNN`. Deviations: graphs other than chains.

    Args:
        delays: the length p of the window.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-k, t), delay ``(E,)`` int64: k -> ``(N, p * F)``.

    Raises:
        ValueError: p is negative; a delay is below 1; x is sparse.

    Example:
        >>> from mpnn.graphs import chain, delays
        >>> edge_index, delay = delays(chain(4).edge_index, range(1, 3))
        >>> Window(2)(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), edge_index, delay)
        tensor([[0., 0.],
                [1., 0.],
                [2., 1.],
                [3., 2.]])
    """

    def __init__(self, delays: int):
        super().__init__()
        if delays < 0:
            raise ValueError(f"{type(self).__name__}: delays={delays}; expected 0 or more.")
        self.delays = delays

    def forward(self, x: Tensor, edge_index: Any, delay: Tensor) -> Tensor:
        check_dense(type(self).__name__, x)
        check_delays(self, delay)
        return self.propagate(edge_index, x=x, delay=delay)

    def message(self, x_j, delay):
        return x_j, delay

    def aggregate(self, message, index, num_nodes):
        return side_by_side(*message, index, num_nodes, self.delays)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.delays})"


class TDNN(Window):
    r"""A layer of a time-delay neural network: a node reads itself and the last p steps, a weight for each delay.

    .. math::
        h_t = f\Big(\sum_{k=0}^{p} W_k\, x_{t-k} + b\Big)

    where :math:`x_{t-k} = 0` before a sequence begins. Nothing is fed back, so all steps fire at once; in layer l a
    node hears from :math:`l \cdot p` steps back. On chains it is the causal ``torch.nn.Conv1d`` of kernel size p + 1,
    padded by p on the left, and weights load both ways. Edges whose delays are multiples of d, with ``delay // d``,
    make it a convolution with dilation d.

    Source: Waibel, Hanazawa, Hinton, Shikano & Lang 1989, "Phoneme recognition using time-delay neural networks".
    Deviations: none in the layer; graphs other than chains, see :class:`Window`.

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        delays: how many steps back the window reaches, p.
        nonlinearity: f; None for none.
        bias: whether there is a bias.

    Shape:
        x ``(N, in_features)``, edge_index ``(2, E)`` (t-k, t), delay ``(E,)`` int64: k, from 1
        -> ``(N, out_features)``.

    Attributes:
        weight ``(out_features, in_features, p + 1)``: :math:`W_k` at place p - k, bias ``(out_features,)``. Names,
        layout and initialisation of ``torch.nn.Conv1d``.

    Raises:
        ValueError: p is negative; a delay is below 1; x is sparse or has another width.

    Example:
        >>> from mpnn.graphs import chain, delays
        >>> ours, theirs = TDNN(3, 4, delays=2, nonlinearity=None), nn.Conv1d(3, 4, kernel_size=3)
        >>> ours.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.ones(6, 3)
        >>> h = ours(x, *delays(chain(6).edge_index, range(1, 3)))
        >>> torch.allclose(h[2:], theirs(x.t()).t(), atol=1e-6)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        delays: int,
        nonlinearity: Callable[[Tensor], Tensor] | None = torch.tanh,
        bias: bool = True,
    ):
        super().__init__(delays)
        self.in_features, self.out_features, self.nonlinearity = in_features, out_features, nonlinearity
        self.weight = nn.Parameter(torch.empty(out_features, in_features, delays + 1))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = max(1, self.in_features * (self.delays + 1)) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, edge_index: Any, delay: Tensor) -> Tensor:
        check_features(type(self).__name__, x, self.in_features)
        return super().forward(x, edge_index, delay)

    def update(self, x, message):
        by_delay = self.weight.flip(2).transpose(1, 2).flatten(1)  # (out, (p + 1) * F): W_0, W_1, ..., W_p
        h = F.linear(torch.cat([x, message], dim=1), by_delay, self.bias)
        return h if self.nonlinearity is None else self.nonlinearity(h)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features}, {self.out_features}, delays={self.delays})"


# What layers with delays share ----------------------------------------------------------------------------------------


def side_by_side(values: Tensor, delay: Tensor, index: Tensor, num_nodes: int, delays: int) -> Tensor:
    """``(N, delays * F)``: what was sent into each node, by delay; longer delays go to a last place, which is cut."""
    places = by_position(values, (delay - 1).clamp(max=delays), index, num_nodes, delays + 1)
    return places[:, : delays * values.shape[1]]


_checked = Unwritten()


def check_delays(layer: nn.Module, delay: Tensor) -> None:
    """Raises unless delays are 1 or more; looks once at a tensor that is not written to."""
    if torch.compiler.is_compiling() or _checked.get(delay):
        return
    early = delay < 1
    if bool(early.any()):
        edge = int(early.nonzero()[0])
        raise ValueError(
            f"{type(layer).__name__}: edge {edge} has delay={int(delay[edge])}; expected 1 or more, for a node's own "
            f"value is there without an edge. {int(early.sum())} of {delay.numel()} edges are below. "
            "mpnn.graphs.delays makes such edges of a chain."
        )
    _checked[delay] = True

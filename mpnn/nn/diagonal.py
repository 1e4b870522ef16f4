"""The recurrent network in which every hidden unit feeds back to itself alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.nn.recurrent import Recurrent, arrived
from mpnn.nn.rnn import NONLINEARITIES

__all__ = ["DiagonalRNN"]


class DiagonalRNN(Recurrent):
    r"""A simple recurrent network with self-feedback: a hidden unit sees its own previous state and no other unit's.

    .. math::
        h_t = f(W x_t + b + u \odot h_{t-1} + b')

    It is ``RNN`` with a diagonal U, at H products a step in place of H². :math:`h_{t-1}` is the initial state at the
    start of a chain, 0 unless given. On any DAG it is the sum of the predecessors' states, 0 without any.

    Source: Ku & Lee 1995, "Diagonal recurrent neural networks for dynamic systems control"; stacked and with the
    rectifier: Li et al. 2018, "Independently recurrent neural network", arXiv:1803.04831.
    Deviations: two biases, of which one would do, as in ``RNN``; u is drawn like the other weights, and nothing bounds
    it.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h``.
        num_layers: how many layers are stacked, each reading the states of the one before.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        bias: whether there are biases.
        dropout: probability to drop an input of each layer but the first, in training.
        bidirectional: whether a second set of weights runs backwards; the states of a node are joined.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-1, t), h0 ``(num_layers * directions, B, H)`` with a row for each graph
        of ``batch`` ``(N,)`` -> h ``(N, directions * H)`` of the last layer.

    Attributes:
        weight_ih_l0 ``(H, F)``: W, weight_hh_l0 ``(H,)``: u, bias_ih_l0 ``(H,)``: b, bias_hh_l0 ``(H,)``: b'; more
        layers ``_l1``, ..., backwards ``_l0_reverse``, ... Drawn from U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: the nonlinearity is unknown; x is sparse or has another width; h0 has another shape.

    Example:
        >>> DiagonalRNN(3, 4)(torch.ones(3, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
    """

    state = ("h",)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"DiagonalRNN: nonlinearity={nonlinearity!r} is unknown; expected 'tanh' or 'relu'.")
        super().__init__(in_features, hidden_features, 1, num_layers, bias, dropout, bidirectional)
        self.nonlinearity = nonlinearity

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(rows, columns) | {"weight_hh": (rows,)}

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        h0: Tensor | None = None,
        batch: Tensor | None = None,
        schedule: Any = None,
    ) -> Tensor:
        return self.top(x, edge_index, batch, schedule, h0=h0)[0]

    def update(self, wx, w, h0=None, message=None):
        h = arrived(message, h0)
        return NONLINEARITIES[self.nonlinearity](wx if h is None else torch.addcmul(wx, w.weight_hh, h))

    def options(self) -> list[str]:
        return super().options() + [f"nonlinearity={self.nonlinearity!r}"] * (self.nonlinearity != "tanh")

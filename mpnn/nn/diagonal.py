"""The recurrent network in which every hidden unit feeds back to itself alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn.nn.recurrent import Weights
from mpnn.nn.rnn import RNN

__all__ = ["DiagonalRNN"]


class DiagonalRNN(RNN):
    r"""A simple recurrent network with self-feedback: a hidden unit sees its own previous state and no other unit's.

    .. math::
        h_t = f(W x_t + b + u \odot h_{t-1} + b')

    It is :class:`RNN` with a diagonal U, at H products a step in place of H², and so has a residual form too.
    :math:`h_{t-1}` is the initial state at the start of a chain, 0 unless given. On any DAG it is the sum of the
    predecessors' states, 0 without any.

    Source: Ku & Lee 1995, "Diagonal recurrent neural networks for dynamic systems control"; stacked and with the
    rectifier: Li et al. 2018, "Independently recurrent neural network", arXiv:1803.04831.
    Deviations: two biases, of which one would do, as in ``RNN``; u is drawn like the other weights, and nothing bounds
    it.

    Args:
        in_features, hidden_features, num_layers, nonlinearity, bias, dropout, bidirectional, residual: as in
            :class:`RNN`.

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

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(rows, columns) | {"weight_hh": (rows,)}

    def kernel(self):
        return None

    def add_product(self, wx: Tensor, h: Tensor | None, w: Weights) -> Tensor:
        return wx if h is None else torch.addcmul(wx, w.weight_hh, h)

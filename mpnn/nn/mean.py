"""The mean network: the plainest layer that looks at neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpnn.features import Linear
from mpnn.message_passing import MessagePassing

__all__ = ["MeanNetwork"]


class MeanNetwork(MessagePassing):
    r"""Adds to a node the mean of its neighbours, all through the same weights.

    .. math::
        m_i = \frac{1}{d_i} \sum_{j \to i} W x_j, \quad h_i' = \sigma(W x_i + m_i), \qquad
        H' = \sigma\big((I + D^{-1} A)\, X W\big)

    where :math:`d_i` is the number of edges into i, so a double edge counts twice. Without neighbours :math:`m_i = 0`.

    Source: Y. Zhang, lecture notes "Artificial Neural Networks", chapter 6, part 3: the example of message passing.
    Deviations: none. In matrix form :math:`A_{ij}` counts the edges j -> i.

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        nonlinearity: the function sigma, applied to each number; None for none.

    Shape:
        x ``(N, in_features)`` dense or sparse CSR, edge_index ``(2, E)`` -> ``(N, out_features)``.

    Attributes:
        linear.weight ``(out_features, in_features)``: Glorot uniform.

    Raises:
        ValueError: x has another width.

    Example:
        >>> MeanNetwork(3, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(
        self, in_features: int, out_features: int, nonlinearity: Callable[[Tensor], Tensor] | None = torch.relu
    ):
        super().__init__("mean")
        self.in_features, self.out_features, self.nonlinearity = in_features, out_features, nonlinearity
        self.linear = Linear(in_features, out_features, bias=False, glorot=True)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        return self.propagate(edge_index, x=self.linear(x))

    def update(self, x, message):
        return x + message if self.nonlinearity is None else self.nonlinearity(x + message)

    def __repr__(self) -> str:
        return f"MeanNetwork({self.in_features}, {self.out_features})"

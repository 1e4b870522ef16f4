"""Graph convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpnn.features import Linear, check_features, is_sparse
from mpnn.loops import symmetric
from mpnn.message_passing import MessagePassing

__all__ = ["GCN"]


class GCN(MessagePassing):
    r"""Averages over neighbours with symmetric normalisation.

    .. math::
        H' = \hat D^{-1/2} \hat A \hat D^{-1/2} X W + b, \qquad
        h_i' = \sum_{j \to i} \frac{w_{ji}}{\sqrt{\hat d_j \hat d_i}} W x_j + b

    where :math:`\hat A = A + I` and :math:`\hat d_i = \sum_j \hat w_{ji}` is summed over the edges into i. A node that
    has a loop already keeps that loop's weight; of several, the last counts.

    Source: Kipf & Welling 2017, arXiv:1609.02907, eq. 2.
    Deviations: the paper's graphs are undirected; on directed ones both degrees are in-degrees, as in torch_geometric.

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        self_loops: whether to add I to A.
        bias: whether to add b.

    Shape:
        x ``(N, in_features)`` dense or sparse CSR, edge_index ``(2, E)``, edge_weight ``(E,)``
        -> ``(N, out_features)``.

    Attributes:
        linear.weight ``(out_features, in_features)``, Glorot uniform; bias ``(out_features,)``, zeros.

    Raises:
        ValueError: x has another width; edge_weight has not one entry an edge.

    Example:
        >>> layer = GCN(3, 2)
        >>> layer(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, in_features: int, out_features: int, self_loops: bool = True, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features, self.self_loops = in_features, out_features, self_loops
        self.linear = Linear(in_features, out_features, bias=False, glorot=True)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        linear_first = is_sparse(x) or self.out_features <= self.in_features  # what is narrower travels
        if linear_first:
            x = self.linear(x)
        else:
            check_features("GCN", x, self.in_features, deep=True)
        graph, norm = symmetric(self, edge_index, x.shape[0], edge_weight, x, self.self_loops)
        out = self.propagate(graph, x=x, norm=norm)
        if not linear_first:
            return self.linear.product(out, self.bias)
        return out if self.bias is None else out + self.bias

    def weight(self, norm):
        return norm

    def __repr__(self) -> str:
        return f"GCN({self.in_features}, {self.out_features})"

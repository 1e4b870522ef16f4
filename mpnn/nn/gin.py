"""Graph isomorphism network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from mpnn.features import check_dense
from mpnn.message_passing import MessagePassing

__all__ = ["GIN"]


class GIN(MessagePassing):
    r"""Own features and the sum of the neighbours', through a network that can keep all multisets apart.

    .. math::
        h_i' = \mathrm{MLP}\Big((1 + \epsilon)\, x_i + \sum_{j \to i} x_j\Big)

    Source: Xu, Hu, Leskovec & Jegelka 2019, arXiv:1810.00826, eq. 4.1.
    Deviations: none. The sum over no neighbours is 0.

    Args:
        mlp: any module on rows; its input is as wide as ``x``.
        eps: the paper's epsilon, or where it starts.
        train_eps: whether epsilon is learnt.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` -> what ``mlp`` makes of ``(N, F)``.

    Attributes:
        mlp; eps ``()``: a parameter if ``train_eps``, else a buffer.

    Raises:
        ValueError: x is sparse.

    Example:
        >>> GIN(nn.Linear(3, 2))(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, mlp: nn.Module, eps: float = 0.0, train_eps: bool = False):
        super().__init__()
        self.mlp, self.initial_eps = mlp, eps
        if train_eps:
            self.eps = nn.Parameter(torch.tensor(float(eps)))
        else:
            self.register_buffer("eps", torch.tensor(float(eps)))

    def reset_parameters(self) -> None:
        reset(self.mlp)
        nn.init.constant_(self.eps, self.initial_eps)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        check_dense("GIN", x)
        return self.propagate(edge_index, x=x)

    def update(self, x, message):
        return self.mlp((1 + self.eps) * x + message)

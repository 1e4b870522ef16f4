"""Graph isomorphism network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from mpnn.features import Linear, check_dense, is_sparse
from mpnn.message_passing import MessagePassing

__all__ = ["GIN"]


class GIN(MessagePassing):
    r"""Own features and the sum of the neighbours', through a network that can keep all multisets apart.

    .. math::
        h_i' = \mathrm{MLP}\Big((1 + \epsilon)\, x_i + \sum_{j \to i} x_j\Big)

    Source: Xu, Hu, Leskovec & Jegelka 2019, arXiv:1810.00826, eq. 4.1.
    Deviations: none. The sum over no neighbours is 0.

    Args:
        mlp: any module on rows; its input is as wide as ``x``. If it begins with a ``torch.nn.Linear`` that narrows,
            this product is taken before the sum, with which it commutes.
        eps: the paper's epsilon, or where it starts.
        train_eps: whether epsilon is learnt.

    Shape:
        x ``(N, F)`` dense, or sparse CSR if ``mlp`` begins with a ``torch.nn.Linear``; edge_index ``(2, E)``
        -> what ``mlp`` makes of ``(N, F)``.

    Attributes:
        mlp; eps ``()``: a parameter if ``train_eps``, else a buffer.

    Raises:
        TypeError: ``mlp`` is no module.
        ValueError: x is sparse, and ``mlp`` does not begin with a ``torch.nn.Linear``.

    Example:
        >>> GIN(nn.Linear(3, 2))(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, mlp: nn.Module, eps: float = 0.0, train_eps: bool = False):
        super().__init__()
        if not isinstance(mlp, nn.Module):
            raise TypeError(
                f"GIN: mlp is {mlp!r}; expected a module on rows. Of widths alone make one: GIN(nn.Linear(3, 4))."
            )
        self.mlp, self.initial_eps = mlp, eps
        if train_eps:
            self.eps = nn.Parameter(torch.tensor(float(eps)))
        else:
            self.register_buffer("eps", torch.tensor(float(eps)))

    def reset_parameters(self) -> None:
        reset(self.mlp)
        nn.init.constant_(self.eps, self.initial_eps)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        first, *rest = self.mlp if type(self.mlp) is nn.Sequential and len(self.mlp) else [self.mlp]
        narrows = _plain(first) and (is_sparse(x) or first.out_features < first.in_features)
        if not narrows or _hooked(self.mlp):
            check_dense("GIN", x)
            return self.mlp(self.propagate(edge_index, x=x))
        product = Linear.product(first, x)  # it commutes with the sum; this way less travels
        h = Linear.shift(first, self.propagate(edge_index, x=product))
        for module in rest:
            h = module(h)
        return h

    def update(self, x, message):
        return torch.addcmul(message, 1 + self.eps, x)


def _plain(module: nn.Module) -> bool:
    """Whether a module is a product with a weight and nothing else."""
    return type(module) in (nn.Linear, Linear) and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    """Whether functions of the user's are called with what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)

"""Diffusion convolution: random walks on a graph, along its edges and against them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mpnn import schedule as schedules
from mpnn.features import Linear, check_dense, check_features
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan

__all__ = ["Diffusion"]


class Diffusion(MessagePassing):
    r"""Mixes what random walks of several lengths find, with weights of its own for each length and direction.

    .. math::
        H = X W_0 + \sum_{k=1}^{K} \Big( (D_O^{-1} A)^k X W_k + (D_I^{-1} A^T)^k X W_k' \Big) + b

    where :math:`A_{ji}` is the weight of the edge j -> i, :math:`D_O` has the sums of the weights out of each node and
    :math:`D_I` those into it (where a sum is 0, so is its inverse). Against the edges a node sees the mean of those
    that its edges lead to, k steps downstream; along them, the mean of those that lead to it, k steps upstream.

    Source: Li et al. 2018, arXiv:1707.01926, eq. 2 and 3, where K is one more, as k = 0 counts.
    Deviations: one weight for k = 0, where the paper has two of the same effect. (The authors' code multiplies by the
    transposes of these matrices, and by Chebyshev polynomials of them in the place of powers.)

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        steps: K, the longest walk.
        bias: whether to add b.

    Shape:
        x ``(N, in_features)``, edge_index ``(2, E)``, edge_weight ``(E,)``, not negative -> ``(N, out_features)``.

    Attributes:
        linear.weight ``(out_features, (1 + 2K) in_features)``: :math:`W_0, W_1, \ldots, W_K, W_1', \ldots, W_K'` side
        by side, Glorot uniform; linear.bias ``(out_features,)``: zeros.

    Raises:
        ValueError: ``steps`` is less than 1; x is sparse or has another width; edge_weight has not one entry an edge.

    Example:
        >>> layer = Diffusion(3, 2)
        >>> layer(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 0.5])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, in_features: int, out_features: int, steps: int = 2, bias: bool = True):
        super().__init__()
        if steps < 1:
            raise ValueError(f"Diffusion: steps={steps}; expected at least 1, as a walk of none stays at its node.")
        self.in_features, self.out_features, self.steps = in_features, out_features, steps
        self.linear = Linear((1 + 2 * steps) * in_features, out_features, bias=bias, glorot=True)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        check_dense("Diffusion", x)
        check_features("Diffusion", x, self.in_features)
        weight = self._checked(edge_weight, x, len(self.plan(edge_index, len(x)).edges[""]))
        found = [x]
        for graph, schedule in self._directions(edge_index):
            walk = partial(self.propagate, graph, schedule, edge_weight=weight)
            total = walk(x=x.new_ones(len(x), 1))  # D
            total, mean = torch.where(total == 0, 1.0, total), x
            for _ in range(self.steps):
                mean = walk(x=mean) / total
                found.append(mean)
        return self.linear(torch.cat(found, dim=1))

    def _directions(self, edge_index: Any) -> tuple[tuple[Any, Any], ...]:
        """The graph and the schedule against the edges, and along them."""
        if isinstance(edge_index, Plan):
            return (edge_index.reverse, None), (edge_index, None)
        return (edge_index, schedules.synchronous.reverse), (edge_index, schedules.synchronous)

    def _checked(self, weight: Tensor | None, x: Tensor, num_edges: int) -> Tensor:
        if weight is None:
            return x.new_ones(num_edges)
        if weight.shape != (num_edges,):
            raise ValueError(
                f"Diffusion: edge_weight has shape {tuple(weight.shape)}; expected one number an edge, ({num_edges},)."
            )
        return weight

    def weight(self, edge_weight):
        return edge_weight

    def __repr__(self) -> str:
        return f"Diffusion({self.in_features}, {self.out_features}, steps={self.steps})"

"""Spectral filters: polynomials of a graph's Laplacian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpnn.features import Linear, is_sparse
from mpnn.loops import symmetric
from mpnn.message_passing import MessagePassing

__all__ = ["Chebyshev"]


class Chebyshev(MessagePassing):
    r"""Filters node features in the graph's spectrum, by a polynomial in Chebyshev's basis.

    .. math::
        H' = \sum_{k=0}^{K-1} T_k(\tilde L)\, X W_k + b = U g(\Lambda) U^T X + b, \qquad
        \tilde L = \frac{2}{\lambda_{max}} L - I, \quad L = I - D^{-1/2} A D^{-1/2} = U \Lambda U^T

    with :math:`T_0 = 1, T_1(y) = y, T_k(y) = 2 y T_{k-1}(y) - T_{k-2}(y)`, and D the sum of the weights into a node
    (where it is 0, so is :math:`D^{-1/2}`). These are K - 1 passes over the graph, and a node sees as many steps far.
    Where ``out_features`` is the smaller width, or x is sparse, the products with :math:`W_k` come first and Clenshaw's
    recurrence adds the polynomial up from its highest term, so that less travels.

    Source: Defferrard, Bresson & Vandergheynst 2016, arXiv:1606.09375, eq. 4 and 5.
    Deviations: no eigenvalue is computed: :math:`\lambda_{max}` is given, or its bound 2. On a directed graph both
    degrees are in-degrees, as in :class:`GCN`, and there is no spectrum to speak of. A loop is an edge like any other
    (torch_geometric's ``ChebConv`` drops loops).

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        terms: the number K of terms.
        lambda_max: the largest eigenvalue of L, or a bound on it.
        bias: whether to add b.

    Shape:
        x ``(N, in_features)`` dense or sparse CSR, edge_index ``(2, E)``, edge_weight ``(E,)``
        -> ``(N, out_features)``.

    Attributes:
        linears[k].weight ``(out_features, in_features)``: :math:`W_k`, Glorot uniform; bias ``(out_features,)``: zeros.

    Raises:
        ValueError: ``terms`` is less than 1; x has another width; edge_weight has not one entry an edge.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> Chebyshev(3, 2, terms=3)(torch.ones(4, 3), edge_index).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, in_features: int, out_features: int, terms: int = 3, lambda_max: float = 2.0, bias: bool = True):
        super().__init__()
        if terms < 1:
            raise ValueError(
                f"Chebyshev: terms={terms}; expected at least 1, which is a filter that sees the node only."
            )
        self.in_features, self.out_features, self.lambda_max = in_features, out_features, lambda_max
        self.linears = nn.ModuleList(Linear(in_features, out_features, bias=False, glorot=True) for _ in range(terms))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def reset_parameters(self) -> None:
        for linear in self.linears:
            linear.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        like = self.linears[0].weight
        graph, norm = symmetric(self, edge_index, x.shape[0], edge_weight, like, self_loops=False)

        def laplacian(x: Tensor) -> Tensor:  # the scaled one
            scale = 2 / self.lambda_max
            return (scale - 1) * x - scale * self.propagate(graph, x=x, norm=norm)

        if is_sparse(x) or self.out_features < self.in_features:
            out = _summed([linear(x) for linear in self.linears], laplacian)
            return out if self.bias is None else out + self.bias
        out, bias = None, self.bias
        for linear, term in zip(self.linears, _terms(x, laplacian), strict=False):
            out, bias = linear.product(term, bias, plus=out), None  # added on the way out, which keeps one sum
        return out

    def weight(self, norm):
        return norm

    def __repr__(self) -> str:
        return f"Chebyshev({self.in_features}, {self.out_features}, terms={len(self.linears)})"


def _terms(x: Tensor, operator: Callable[[Tensor], Tensor]):
    """``T_0(L) x, T_1(L) x, ...`` without end."""
    yield x
    before, now = x, operator(x)
    while True:
        yield now
        before, now = now, 2 * operator(now) - before


def _summed(values: list[Tensor], operator: Callable[[Tensor], Tensor]) -> Tensor:
    """``sum_k T_k(L) values[k]`` by Clenshaw's recurrence."""
    if len(values) == 1:
        return values[0]
    first, *middle, now = values
    after = torch.zeros_like(now)
    for value in reversed(middle):
        now, after = value + 2 * operator(now) - after, now
    return first + operator(now) - after

"""GraphSAGE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpnn.features import Linear, check_dense, is_sparse
from mpnn.message_passing import MessagePassing

__all__ = ["GraphSAGE"]

NARROW, MANY = 16, 1 << 10  # columns of a product, and rows, at which joining two begins to pay (measured on a CPU)


class GraphSAGE(MessagePassing):
    r"""Own features and an aggregate of the neighbours', each with its weights.

    .. math::
        h_i' = W_{nb}\, \mathrm{Aggr}_{j \to i}\, x_j + W_{own}\, x_i + b

    Source: Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, algorithm 1, line 5, with W = [W_own, W_nb].
    Deviations: all neighbours count, none is sampled; nonlinearity and the scaling to unit length (line 7) are left to
    the caller. The aggregate of a node without neighbours is 0. ``"max"`` is the elementwise maximum of the neighbours'
    features, without the layer that the paper's pooling aggregator puts before it, as in torch_geometric.

    Args:
        in_features: width of ``x``.
        out_features: width of the result.
        aggr: ``"mean"``, ``"max"``, ``"sum"``, ``"lstm"`` (over neighbours in the order of their edges), or any
            aggregation.
        bias: whether to add b.

    Shape:
        x ``(N, in_features)`` dense, or sparse CSR with a sum or mean; or a pair of source and target features;
        edge_index ``(2, E)`` -> ``(N, out_features)``.

    Attributes:
        neighbour.weight, own.weight ``(out_features, in_features)``; neighbour.bias ``(out_features,)``: as
        ``torch.nn.Linear``.

    Raises:
        ValueError: x has another width, or is sparse and the aggregation neither a sum nor a mean.

    Example:
        >>> import torch
        >>> GraphSAGE(3, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 2])
    """

    value = "x"

    def __init__(self, in_features: int, out_features: int, aggr: str | nn.Module = "mean", bias: bool = True):
        if aggr == "lstm":
            from mpnn.nn.aggr import LSTMAggregation

            aggr = LSTMAggregation(in_features, in_features)
        super().__init__(aggr)
        self.in_features, self.out_features = in_features, out_features
        self.neighbour = Linear(in_features, out_features, bias)
        self.own = Linear(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(self, x: Tensor | tuple[Tensor, Tensor], edge_index: Any) -> Tensor:
        source, target = x if isinstance(x, tuple) else (x, x)
        size = (source.shape[0], target.shape[0]) if isinstance(x, tuple) else target.shape[0]
        linear_first = self.aggr in ("sum", "mean") and (is_sparse(source) or self.out_features < self.in_features)
        if linear_first and source is target and self._reads_once(source):
            message, own = self.neighbour.products(source, self.own)
            message = self.propagate(edge_index, x=(message, target), num_nodes=size)
            bias = self.neighbour.bias
            return (own if bias is None else own + bias.to(own.dtype)) + message
        if linear_first:  # the product commutes with sums; this way less travels
            message = self.propagate(edge_index, x=(self.neighbour.product(source), target), num_nodes=size)
        else:
            check_dense(f"GraphSAGE with aggr={self.aggr!r}", source)
            message = self.neighbour.product(self.propagate(edge_index, x=(source, target), num_nodes=size))
        return self.own.product(target, self.neighbour.bias).add_(message)

    def _reads_once(self, x: Tensor) -> bool:
        """Whether both products in one, twice as wide, are quicker: what costs is to look up the words of sparse rows,
        and of many dense ones a narrow product takes as long as a wider one.
        """
        if is_sparse(x):
            return True
        return self.out_features < NARROW and not torch.compiler.is_compiling() and x.shape[0] >= MANY

    def __repr__(self) -> str:
        return f"GraphSAGE({self.in_features}, {self.out_features}, aggr={self.aggr!r})"

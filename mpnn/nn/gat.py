"""Graph attention, versions 1 and 2."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn.features import Linear, check_features
from mpnn.graph import check_sizes
from mpnn.loops import looped
from mpnn.message_passing import MessagePassing

__all__ = ["GAT", "GATv2"]


class _Attention(MessagePassing):
    """What both versions share: heads, self-loops, dropout of attention weights, joining or averaging of heads."""

    value = "x"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        heads: int = 1,
        concat: bool = True,
        dropout: float = 0.0,
        negative_slope: float = 0.2,
        self_loops: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(self._name, heads=heads)
        self.in_features, self.out_features, self.heads, self.concat = in_features, out_features, heads, concat
        self.attention_dropout, self.negative_slope, self.self_loops = dropout, negative_slope, self_loops
        self.bias = nn.Parameter(torch.zeros(heads * out_features if concat else out_features)) if bias else None

    def reset_parameters(self) -> None:
        for module in self.children():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _with_loops(self, edge_index: Any, num_nodes: int, like: Tensor) -> tuple[Any, Tensor | None]:
        """The graph to attend over; and, while a compiler traces, what hides loops that stand beside the added ones."""
        if not self.self_loops:
            return edge_index, None
        loops = looped(self, edge_index, num_nodes)
        if isinstance(loops.graph, Tensor):
            return loops.graph, loops.place(None, like.new_zeros(edge_index.shape[1]), 0.0, -torch.inf)[:, None]
        return loops.graph, None

    def update(self, message):
        out = message.flatten(1) if self.concat else message.mean(1)
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features}, {self.out_features}, heads={self.heads})"


class GAT(_Attention):
    r"""Averages over neighbours with weights that both ends decide.

    .. math::
        e_{ji} = \mathrm{LeakyReLU}(a_{src}^T W x_j + a_{dst}^T W x_i), \quad
        \alpha_{ji} = \mathrm{softmax}_j(e_{ji}), \quad h_i' = \Big\Vert_k \sum_j \alpha_{ji}^k W^k x_j + b

    over the edges j -> i and i's own loop, for each of K heads, which are joined or averaged.

    Source: Velickovic et al. 2018, arXiv:1710.10903, eq. 1-6 (a = [a_dst, a_src] there).
    Deviations: none; the nonlinearity of eq. 4 is left to the caller. A loop that a node has already is not doubled.

    Args:
        in_features: width of ``x``.
        out_features: width of one head.
        heads: number of heads K.
        concat: join heads to ``K * out_features``; else average them.
        dropout: probability to drop an attention weight in training.
        negative_slope: of LeakyReLU.
        self_loops: whether a node attends to itself.
        bias: whether to add b.

    Shape:
        x ``(N, in_features)`` dense or sparse CSR, edge_index ``(2, E)``
        -> ``(N, K * out_features)``, or ``(N, out_features)`` of heads averaged.

    Attributes:
        linear.weight ``(K * out_features, in_features)``, att_src, att_dst ``(K, out_features)``: Glorot uniform; bias:
        zeros.

    Raises:
        ValueError: x has another width.

    Example:
        >>> GAT(3, 8, heads=2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 16])
    """

    def __init__(self, in_features: int, out_features: int, heads: int = 1, **options):
        super().__init__(in_features, out_features, heads, **options)
        self.linear = Linear(in_features, heads * out_features, bias=False, glorot=True)
        self.att_src = nn.Parameter(torch.empty(heads, out_features))
        self.att_dst = nn.Parameter(torch.empty(heads, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.att_src)
        nn.init.xavier_uniform_(self.att_dst)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        check_features(type(self).__name__, x, self.in_features)
        x = self.linear(x)
        ends = torch.cat([torch.block_diag(*self.att_src), torch.block_diag(*self.att_dst)])  # (2K, K * out_features)
        src, dst = F.linear(x, ends).chunk(2, dim=1)  # each head's features with its own vectors
        graph, hidden = self._with_loops(edge_index, x.shape[0], src)
        x = x.view(x.shape[0], self.heads, self.out_features)
        return self.propagate(graph, x=x, src=src, dst=dst, hidden=hidden)

    def attention(self, src_j, dst_i, hidden):
        score = F.leaky_relu(src_j + dst_i, self.negative_slope, inplace=True)
        return score if hidden is None else score + hidden


class GATv2(_Attention):
    r"""Attention whose ranking of neighbours may differ from node to node.

    .. math::
        e_{ji} = a^T \mathrm{LeakyReLU}(W_{src} x_j + W_{dst} x_i), \quad
        \alpha_{ji} = \mathrm{softmax}_j(e_{ji}), \quad h_i' = \Big\Vert_k \sum_j \alpha_{ji}^k W_{src}^k x_j + b

    Source: Brody, Alon & Yahav 2022, arXiv:2105.14491, eq. 7.
    Deviations: biases on both products, as in torch_geometric. A loop that a node has already is not doubled.

    Args:
        in_features, out_features, heads, concat, dropout, negative_slope, self_loops, bias: as :class:`GAT`; ``bias``
            also for the two products.
        share: use one matrix for both ends.

    Note:
        On large graphs the scores are made piece by piece over the edges, and again on the way back, so that memory
        grows with edges times heads, and not with edges times features.

    Shape:
        x ``(N, in_features)`` dense or sparse CSR, edge_index ``(2, E)``
        -> ``(N, K * out_features)``, or ``(N, out_features)`` of heads averaged.

    Attributes:
        source.weight, target.weight ``(K * out_features, in_features)``, att ``(K, out_features)``: Glorot uniform;
        biases: zeros.

    Raises:
        ValueError: x has another width.

    Example:
        >>> GATv2(3, 8, heads=2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([4, 16])
    """

    def __init__(self, in_features: int, out_features: int, heads: int = 1, share: bool = False, **options):
        super().__init__(in_features, out_features, heads, **options)
        bias = self.bias is not None
        self.source = Linear(in_features, heads * out_features, bias, glorot=True)
        self.target = self.source if share else Linear(in_features, heads * out_features, bias, glorot=True)
        self.att = nn.Parameter(torch.empty(heads, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.att)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        check_features(type(self).__name__, x, self.in_features)
        source = self.source(x).view(x.shape[0], self.heads, self.out_features)
        target = source if self.target is self.source else self.target(x).view_as(source)
        graph, hidden = self._with_loops(edge_index, x.shape[0], source)
        return self.propagate(graph, x=source, target=target, hidden=hidden)

    def attention(self, x_j, target_i, hidden):
        ends = F.leaky_relu(x_j + target_i, self.negative_slope, inplace=True)  # (E, K, F), in one tensor
        score = torch.einsum("ekf,kf->ek", ends, self.att)
        return score if hidden is None else score + hidden

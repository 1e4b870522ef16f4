"""Aggregations of our own, to use wherever one of ``torch_geometric.nn.aggr`` fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch_geometric.nn.aggr import Aggregation

from mpnn.graph import in_order
from mpnn.kept import Unwritten, lasting

__all__ = ["LSTMAggregation"]

_layouts = Unwritten()  # of an index: what _laid_out gives


class LSTMAggregation(Aggregation):
    r"""The last hidden state of an LSTM that reads the messages of a node one after the other.

    .. math::
        m_i = h_{d_i}, \qquad (h_t, c_t) = \mathrm{LSTM}(x_{j_t}, h_{t-1}, c_{t-1}), \qquad h_0 = c_0 = 0

    for the neighbours :math:`j_1, \ldots, j_{d_i}` of node i in the order of their edges. All nodes are read at once,
    as a ``PackedSequence``, without padding; so the result of a node does not depend on which others are there.

    Source: Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, section 3.3.
    Deviations: the paper shuffles the neighbours; here they come in the order of the edges, so shuffle those. (The
    class of this name in torch_geometric 2.8 runs on over the padding of shorter neighbourhoods, and returns what is
    there at the end.)

    Args:
        in_features: width of a message.
        out_features: width of the result.

    Shape:
        x ``(E, in_features)``, index ``(E,)`` int64 (sorted or not) -> ``(dim_size, out_features)``. Without messages
        the result is 0, and no gradient flows.

    Attributes:
        lstm: ``torch.nn.LSTM(in_features, out_features)``, initialised as torch does.

    Raises:
        ValueError: x is not two-dimensional, or ``dim`` not its first.

    Example:
        >>> LSTMAggregation(3, 4)(torch.ones(5, 3), torch.tensor([0, 0, 2, 2, 2]), dim_size=4).shape
        torch.Size([4, 4])
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.lstm = nn.LSTM(in_features, out_features)

    def reset_parameters(self) -> None:
        self.lstm.reset_parameters()

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        self.assert_two_dimensional_input(x, dim)
        if index is None:
            index = torch.repeat_interleave(ptr.diff())
        out = x.new_zeros(dim_size, self.out_features)
        if not index.numel():
            return out
        layout = _layouts.get(index)
        if layout is None:
            layout = _layouts[index] = lasting(lambda: _laid_out(index))
        node, order, batch_sizes = layout
        last = self.lstm(PackedSequence(x[order], batch_sizes))[1][0][0]  # (nodes with messages, out_features)
        return out.index_copy(0, node[: last.shape[0]], last)

    def __repr__(self) -> str:
        return f"LSTMAggregation({self.in_features}, {self.out_features})"


def _laid_out(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes, those with most messages first, and the messages as a PackedSequence has them."""
    length = torch.bincount(index)
    node = torch.argsort(length, descending=True, stable=True)
    return node, *_steps(index, length, node)


def _steps(index: Tensor, length: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
    """Messages in the order of a PackedSequence (the first of every node, the second, ...), and how many are in each
    step."""
    by_node = in_order(index, length.numel())
    index = index[by_node]
    step = torch.arange(index.numel(), device=index.device) - (length.cumsum(0) - length)[index]
    rank = torch.empty_like(node).scatter_(0, node, torch.arange(node.numel(), device=node.device))
    order = torch.argsort(step * node.numel() + rank[index])
    return by_node[order], torch.bincount(step).cpu()

"""LSTM and GRU cells for trees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.engine import rowwise
from mpnn.nn.recursive import Recursive, by_position, check_positions, tanh, times

__all__ = ["ChildSumTreeLSTM", "NaryTreeLSTM", "TreeGRU"]


class ChildSumTreeLSTM(Recursive):
    r"""Updates a node of a tree from the states of all its children, in any order; each child has its own forget gate.

    .. math::
        \tilde h_i &= \sum_{j \to i} h_j, \qquad
        f_{ij} = \sigma(W_f x_i + U_f h_j + b_f) \\
        i_i, o_i &= \sigma(W x_i + U \tilde h_i + b), \qquad
        g_i = \tanh(W_g x_i + U_g \tilde h_i + b_g) \\
        c_i &= i_i \odot g_i + \sum_{j \to i} f_{ij} \odot c_j, \qquad
        h_i = o_i \odot \tanh(c_i)

    Without children both sums are 0. On a chain it is the LSTM; on a DAG a node's children are all its sources.

    Source: Tai, Socher & Manning 2015, arXiv:1503.00075, eq. 2-8;
    Miwa & Bansal 2016, arXiv:1601.00770, for the way back.
    Deviations: none; the paper's u is g here. (Some public versions drop :math:`W_f x_i`.)

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``c``.
        bidirectional: whether a pass from the root to the leaves follows; a node's two states are joined.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (child, parent) -> h, c ``(N, H)``, with two directions ``(N, 2H)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih ``(4H, F)``: W, weight_hh ``(4H, H)``: U, bias ``(4H,)``: gate blocks i, f, g, o, as in
        ``torch.nn.LSTM``, whose two biases are one here. Drawn from U(-1/sqrt(H), 1/sqrt(H)).
        ``reverse`` has the same of the way back.

    Raises:
        ValueError: x is sparse or has another width.

    Example:
        >>> h, c = ChildSumTreeLSTM(3, 4)(torch.ones(3, 3), torch.tensor([[1, 2], [0, 0]]))
        >>> h.shape, bool((h[1] == h[2]).all())
        (torch.Size([3, 4]), True)
    """

    state = ("h", "c")

    def __init__(self, in_features: int, hidden_features: int, bidirectional: bool = False):
        H = hidden_features
        shapes = {"weight_ih": (4 * H, in_features), "weight_hh": (4 * H, H), "bias": (4 * H,)}
        super().__init__(in_features, H, shapes, bidirectional)

    def forward(self, x: Tensor, edge_index: Any, *, schedule: Any = None) -> tuple[Tensor, Tensor]:
        return self.run(x, edge_index, schedule)

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any) -> tuple[Tensor, Tensor]:
        (W, W_f), (U, U_f), (b, b_f) = map(_forget_apart, (self.weight_ih, self.weight_hh, self.bias))
        products = {"igo": rowwise(times(W, b), x), "f": rowwise(times(W_f, b_f), x)}
        return self.propagate(edge_index, schedule=schedule, **products, U=times(U), U_f=times(U_f))

    def message(self, h_j, c_j, f_i, U_f):
        return h_j, torch.sigmoid(U_f(h_j, plus=f_i)) * c_j

    def update(self, igo, U, message=None):
        h, kept = message or (None, None)
        i, g, o = (igo if h is None else U(h, plus=igo)).chunk(3, dim=1)
        c = torch.sigmoid(i) * tanh(g)
        c = c if kept is None else c + kept
        return torch.sigmoid(o) * torch.tanh(c), c


def _forget_apart(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks i, g, o as one, and f."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, g, o]), f


class NaryTreeLSTM(Recursive):
    r"""Updates a node of a tree from children whose position matters: left and right have weights of their own.

    .. math::
        i, o &= \sigma\Big(W x + \sum_{l} U_l h_l + b\Big), \qquad
        g = \tanh\Big(W_g x + \sum_{l} U^g_l h_l + b_g\Big) \\
        f_k &= \sigma\Big(W_f x + \sum_{l} U^f_{kl} h_l + b_f\Big), \qquad
        c = i \odot g + \sum_k f_k \odot c_k, \qquad h = o \odot \tanh(c)

    where :math:`h_k, c_k` is the state of the node's child at position k, 0 if there is none. So the forget gate of a
    child sees its siblings: what is aggregated is the children's states side by side, and all gates are one product.
    Positions are a field of the edges and not edge types, so that their number is an argument of the layer and not a
    part of its class.

    Source: Tai, Socher & Manning 2015, arXiv:1503.00075, eq. 9-14. Deviations: none on trees; the paper's u is g here.
    On a graph that is no such tree, states of sources at the same position are added up.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``c``.
        num_children: the number n of positions; 2 for binary trees.
        bidirectional: whether a pass from the root to the leaves follows, in which a node has its parent's state at the
            position that it has as a child; a node's two states are joined.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (child, parent), child ``(E,)`` int64: position of the child, 0 to n - 1
        -> h, c ``(N, H)``, with two directions ``(N, 2H)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih ``(4H, F)``, bias ``(4H,)``: gate blocks i, f, g, o, as in ``torch.nn.LSTM``.
        weight_hh ``((3 + n)H, nH)``: blocks of rows i, f_0 ... f_{n-1}, g, o; blocks of columns child 0 ... n-1.
        Drawn from U(-1/sqrt(H), 1/sqrt(H)). ``reverse`` has the same of the way back.

    Raises:
        ValueError: x is sparse or has another width; a position is outside 0 to n - 1.

    Example:
        >>> edge_index, child = torch.tensor([[1, 2], [0, 0]]), torch.tensor([0, 1])
        >>> h, c = NaryTreeLSTM(3, 4)(torch.ones(3, 3), edge_index, child)
        >>> h.shape
        torch.Size([3, 4])
    """

    state = ("h", "c")

    def __init__(self, in_features: int, hidden_features: int, num_children: int = 2, bidirectional: bool = False):
        self.num_children = num_children
        H, n = hidden_features, num_children
        shapes = {"weight_ih": (4 * H, in_features), "weight_hh": ((3 + n) * H, n * H), "bias": (4 * H,)}
        super().__init__(in_features, H, shapes, bidirectional, num_children=num_children)

    def forward(self, x: Tensor, edge_index: Any, child: Tensor, *, schedule: Any = None) -> tuple[Tensor, Tensor]:
        check_positions(self, child, self.num_children)
        return self.run(x, edge_index, schedule, child=child)

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any, child: Tensor) -> tuple[Tensor, Tensor]:
        return super().one_way(x, edge_index, schedule, child=child, U=times(self.weight_hh))

    def message(self, h_j, c_j, child):
        return h_j, c_j, child

    def aggregate(self, message, index, num_nodes):
        *states, child = message
        return tuple(by_position(s, child, index, num_nodes, self.num_children) for s in states)

    def update(self, z, U, message=None):
        i, f, g, o = z.chunk(4, dim=1)
        if message is None:
            c = torch.sigmoid(i) * tanh(g)
        else:
            H, n = self.hidden_features, self.num_children
            h, c = message
            Ui, Uf, Ug, Uo = U(h).split([H, n * H, H, H], dim=1)
            f = torch.sigmoid(f.unsqueeze(1) + Uf.view(-1, n, H))
            c = torch.sigmoid(i + Ui) * torch.tanh(g + Ug) + (f * c.view(-1, n, H)).sum(1)
            o = o + Uo
        return torch.sigmoid(o) * torch.tanh(c), c


class TreeGRU(Recursive):
    r"""The gated recurrent unit for trees: a node moves from the sum of its children's states to a candidate.

    .. math::
        r_{ij} &= \sigma(W_r x_i + U_r h_j + b_r), \qquad
        z_i = \sigma(W_z x_i + U_z \tilde h_i + b_z), \qquad \tilde h_i = \sum_{j \to i} h_j \\
        n_i &= \tanh\Big(W_n x_i + U_n \sum_{j \to i} r_{ij} \odot h_j + b_n\Big), \qquad
        h_i = (1 - z_i) \odot n_i + z_i \odot \tilde h_i

    or, with ``reset="after"``, :math:`n_i = \tanh(W_n x_i + \sum_j r_{ij} \odot U_n h_j + b_n)`. Each child has its own
    reset gate. On a chain it is the GRU: of Cho et al. with ``"before"``, of ``torch.nn.GRU`` with ``"after"``.

    Source: Zhou, Liu & Pan 2016, arXiv:1610.02806, for trees; Cho et al. 2014, arXiv:1406.1078, for the cell.
    Deviations: z and 1 - z as in ``torch.nn.GRU``, the other way round than in some papers; ``torch.nn.GRU`` has a
    second bias inside the reset gate, which is 0 here.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h``.
        reset: whether the reset gate is applied ``"before"`` or ``"after"`` the product with :math:`U_n`.
        bidirectional: whether a pass from the root to the leaves follows; a node's two states are joined.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (child, parent) -> h ``(N, H)``, with two directions ``(N, 2H)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih ``(3H, F)``: W, weight_hh ``(3H, H)``: U, bias ``(3H,)``: gate blocks r, z, n, as in
        ``torch.nn.GRU``. Drawn from U(-1/sqrt(H), 1/sqrt(H)). ``reverse`` has the same of the way back.

    Raises:
        ValueError: ``reset`` is unknown; x is sparse or has another width.

    Example:
        >>> TreeGRU(3, 4)(torch.ones(3, 3), torch.tensor([[1, 2], [0, 0]])).shape
        torch.Size([3, 4])
    """

    state = ("h",)

    def __init__(self, in_features: int, hidden_features: int, reset: str = "before", bidirectional: bool = False):
        if reset not in ("before", "after"):
            raise ValueError(f"TreeGRU: reset={reset!r} is unknown; expected 'before' or 'after'.")
        self.reset = reset
        H = hidden_features
        shapes = {"weight_ih": (3 * H, in_features), "weight_hh": (3 * H, H), "bias": (3 * H,)}
        super().__init__(in_features, H, shapes, bidirectional, reset=reset)

    def forward(self, x: Tensor, edge_index: Any, *, schedule: Any = None) -> Tensor:
        return self.run(x, edge_index, schedule)

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any) -> Tensor:
        gates = zip("rzn", self.weight_ih.chunk(3), self.bias.chunk(3))
        products = {name: rowwise(times(W, b), x) for name, W, b in gates}
        U_r, U_z, U_n = map(times, self.weight_hh.chunk(3))
        return self.propagate(edge_index, schedule=schedule, **products, U_r=U_r, U_z=U_z, U_n=U_n)

    def message(self, h_j, r_i, U_r, U_n):
        r = torch.sigmoid(U_r(h_j, plus=r_i))
        return h_j, r * (h_j if self.reset == "before" else U_n(h_j))

    def update(self, z, n, U_z, U_n, message=None):
        if message is None:
            return (1 - torch.sigmoid(z)) * torch.tanh(n)
        h, reset = message
        n = torch.tanh(n + (U_n(reset) if self.reset == "before" else reset))
        z = torch.sigmoid(U_z(h, plus=z))
        return (1 - z) * n + z * h

"""The Graph-Structured LSTM, for threads of comments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.engine import rowwise
from mpnn.features import check_dense, check_features
from mpnn.nn.recursive import Recursive, join, tanh, times
from mpnn.plan import Plan, plan

__all__ = ["GraphStructuredLSTM"]


class GraphStructuredLSTM(Recursive):
    r"""An LSTM over a thread: a comment t hears from its parent :math:`\pi(t)` and its previous sibling :math:`p(t)`.

    .. math::
        i_t, f_t, g_t, o_t &= \sigma(W x_t + U h_{p(t)} + V h_{\pi(t)} + b), \qquad
        \tilde c_t = W_c x_t + U_c h_{p(t)} + V_c h_{\pi(t)} + b_c \\
        c_t &= f_t \odot c_{p(t)} + g_t \odot c_{\pi(t)} + i_t \odot \tilde c_t, \qquad
        h_t = o_t \odot \tanh(c_t)

    each gate with its own W, U, V and b. The state of a missing neighbour is 0. With ``candidate="tanh"`` the
    candidate is :math:`\tanh(\tilde c_t)`, and without a hierarchy this is the LSTM. The way back, with weights of its
    own, puts the first child k(t) in the place of :math:`\pi(t)` and the next sibling s(t) in that of p(t); a node's
    two states are joined. The first child is the one without a previous sibling.

    Source: Zayats & Ostendorf 2018, arXiv:1704.02080, in the form that lecture notes on it print, where the candidate
    has no tanh; it was not compared with the paper's own page. Deviations: ``candidate="tanh"``, if asked for.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``c``, in each direction.
        candidate: ``"linear"``, or ``"tanh"``, which bounds what is added to c.
        bidirectional: whether the way back follows.

    Shape:
        x ``(N, F)``, edge_index ``{"parent": (2, E), "sibling": (2, E')}`` (parent, comment) and (previous sibling,
        comment), or a plan of both -> h, c ``(N, 2H)``, with one direction ``(N, H)``.

    Attributes:
        weight_ih ``(5H, F)``: W, weight_hh ``(5H, H)``: U, weight_ph ``(5H, H)``: V, bias ``(5H,)``: blocks i, f, c, o,
        as in ``torch.nn.LSTM``, then g, the forget gate of the parent. Drawn from U(-1/sqrt(H), 1/sqrt(H)).
        ``reverse`` has the same of the way back.

    Raises:
        ValueError: a comment has two parents or two previous siblings, or, with a way back, two next siblings or two
            first children; ``candidate`` is unknown; x is sparse or has another width.

    Example:
        >>> from mpnn.graphs import relations, thread
        >>> data = thread([("post", None, 0), ("first", "post", 1), ("second", "post", 2)])
        >>> h, c = GraphStructuredLSTM(3, 4)(torch.ones(3, 3), relations(data))
        >>> h.shape
        torch.Size([3, 8])
    """

    state = ("h", "c")

    def __init__(self, in_features: int, hidden_features: int, candidate: str = "linear", bidirectional: bool = True):
        if candidate not in ("linear", "tanh"):
            raise ValueError(f"GraphStructuredLSTM: candidate={candidate!r} is unknown; expected 'linear' or 'tanh'.")
        self.candidate = candidate
        H = hidden_features
        shapes = {"weight_ih": (5 * H, in_features), "weight_hh": (5 * H, H), "weight_ph": (5 * H, H), "bias": (5 * H,)}
        super().__init__(in_features, H, shapes, bidirectional, candidate=candidate)

    def forward(self, x: Tensor, edge_index: Any) -> tuple[Tensor, Tensor]:
        check_dense(type(self).__name__, x)
        check_features(type(self).__name__, x, self.in_features)
        thread = self.plan(edge_index, x.shape[0])
        thread.remember("one of each", lambda: _check(thread, "into", "a parent and a previous sibling"))
        down = self.one_way(x, thread, None)
        if self.reverse is None:
            return down
        return join(down, self.reverse.one_way(x, thread.remember("first children", lambda: _way_back(thread)), None))

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any) -> tuple[Tensor, Tensor]:
        z = rowwise(times(self.weight_ih, self.bias), x)
        UV = times(torch.cat([self.weight_hh, self.weight_ph], dim=1))
        return self.propagate(edge_index, schedule=schedule, z=z, UV=UV)

    def message_parent(self, h_j, c_j):
        return h_j, c_j

    def message_sibling(self, h_j, c_j):
        return h_j, c_j

    def update(self, z, UV, message_parent=None, message_sibling=None):
        h_p, c_p = message_sibling or (None, None)
        h_pi, c_pi = message_parent or (None, None)
        z = z if c_p is None and c_pi is None else UV(_beside(h_p, h_pi), plus=z)
        i, f, new, o, g = z.chunk(5, dim=1)
        c = torch.sigmoid(i) * (tanh(new) if self.candidate == "tanh" else new)
        c = c if c_p is None else torch.addcmul(c, torch.sigmoid(f), c_p)
        c = c if c_pi is None else torch.addcmul(c, torch.sigmoid(g), c_pi)
        return torch.sigmoid(o) * torch.tanh(c), c


def _beside(h_p: Tensor | None, h_pi: Tensor | None) -> Tensor:
    """Both side by side; one that no node of a frontier has is 0."""
    h_p, h_pi = (torch.zeros_like(h_pi) if h_p is None else h_p), (torch.zeros_like(h_p) if h_pi is None else h_pi)
    return torch.cat([h_p, h_pi], dim=1)


def _way_back(thread: Plan) -> Plan:
    """Next siblings in the place of previous ones, first children in that of parents."""
    edges = thread.given
    parent, sibling = edges["parent"], edges["sibling"]
    first = ~torch.isin(parent[1], sibling[1])
    back = plan({"parent": parent[:, first], "sibling": sibling}, thread.schedule.reverse, thread.num_nodes)
    _check(back, "out of", "a first child (one without a previous sibling) and a next sibling")
    return back


def _check(thread: Plan, way: str, may_have: str) -> bool:
    """Raises unless a node has at most one edge of each type."""
    for kind, edges in thread.edges.items():
        degree = thread.unplace(edges.rowptr.diff())
        if bool((degree > 1).any()):
            node = int((degree > 1).nonzero()[0])
            raise ValueError(
                f"GraphStructuredLSTM: node {node} has {int(degree[node])} {kind!r} edges {way} it; expected one at "
                f"most, for a node may have {may_have}. {int((degree > 1).sum())} of {degree.numel()} nodes have more. "
                "Make the edges with mpnn.graphs.thread, or drop some."
            )
    return True

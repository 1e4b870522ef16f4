"""From one sequence to another: an encoder, a decoder that starts where it ends, and attention between the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mpnn.features import check_dense
from mpnn.graphs import chain
from mpnn.message_passing import MessagePassing
from mpnn.nn.heads import carried, check_one_way, unlinked
from mpnn.nn.recurrent import Recurrent

__all__ = ["EncoderDecoder", "LuongAttention", "across", "sequence_pair"]

NEXT = {"source": ("source", "next", "source"), "target": ("target", "next", "target")}
ATTEND = ("source", "attend", "target")


class LuongAttention(MessagePassing):
    r"""Every target node looks at its sources, and joins what it sees to its own state.

    .. math::
        a_{ij} = \mathrm{softmax}_{j \to i}\, h_i^T W_a \bar h_j, \qquad c_i = \sum_{j \to i} a_{ij} \bar h_j, \qquad
        \tilde h_i = \tanh(W_c [c_i; h_i])

    The edges say who sees whom: from all nodes of the source sequence to all of the target sequence, global attention.
    It reads finished states, so it is one level for all target nodes at once.

    Source: Luong, Pham & Manning 2015, arXiv:1508.04025, eq. 5, 7 and 8 ("general"; ``score="dot"`` has no W_a).
    Deviations: no input feeding: the decoder does not see :math:`\tilde h_{t-1}`. The attention of Bahdanau et al.
    2015, arXiv:1409.0473, which scores with the decoder's previous state before the step, is not this one.

    Args:
        in_features: width of the sources' states.
        query_features: width of the targets' states, and of the result.
        score: ``"general"``, or ``"dot"`` for equal widths.

    Shape:
        memory ``(N_source, in_features)``, h ``(N_target, query_features)``, edge_index ``(2, E)`` (source, target) ->
        ``(N_target, query_features)``. A target without sources sees 0.

    Attributes:
        weight_a ``(query_features, in_features)``: W_a, None for ``"dot"``;
        weight_c ``(query_features, in_features + query_features)``: W_c, columns of c first.
        Initialised as ``nn.Linear``.

    Raises:
        ValueError: the score is unknown, or ``"dot"`` is asked for between different widths; memory or h is sparse.

    Example:
        >>> LuongAttention(3, 4)(torch.ones(5, 3), torch.ones(2, 4), torch.tensor([[0, 1, 4], [0, 0, 1]])).shape
        torch.Size([2, 4])
    """

    value = "memory"

    def __init__(self, in_features: int, query_features: int, score: str = "general"):
        super().__init__()
        if score not in ("general", "dot"):
            raise ValueError(f"LuongAttention: score={score!r} is unknown; expected 'general' or 'dot'.")
        if score == "dot" and in_features != query_features:
            raise ValueError(
                f"LuongAttention: score='dot' of {in_features} and {query_features} features; expected as many on both "
                "sides. Use score='general'."
            )
        self.in_features, self.query_features = in_features, query_features
        joined = in_features + query_features
        self.weight_a = nn.Parameter(torch.empty(query_features, in_features)) if score == "general" else None
        self.weight_c = nn.Parameter(torch.empty(query_features, joined))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in self.parameters():
            nn.init.kaiming_uniform_(weight, a=5**0.5)

    def forward(self, memory: Tensor, h: Tensor, edge_index: Any) -> Tensor:
        check_dense(self._name, memory)
        check_dense(self._name, h)
        query = h if self.weight_a is None else h @ self.weight_a
        return self.propagate(
            edge_index, num_nodes=(len(memory), len(h)), memory=(memory, None), query=(None, query), h=(None, h)
        )

    def attention(self, memory_j, query_i):
        return (memory_j * query_i).sum(-1)

    def update(self, h, message):
        return torch.tanh(torch.cat([message, h], dim=1) @ self.weight_c.t())

    def __repr__(self) -> str:
        score = "dot" if self.weight_a is None else "general"
        return f"{type(self).__name__}({self.in_features}, {self.query_features}, score={score!r})"


class EncoderDecoder(nn.Module):
    r"""Scores of the next target token, given a source sequence and the target tokens so far.

    .. math::
        \bar h = \mathrm{encoder}(x), \qquad s_0 = \bar h_{\text{last}}, \qquad s_t = \mathrm{decoder}(E y_t, s_{t-1}),
        \qquad P(y_{t+1} \mid y_1, \ldots, y_t, x) = \mathrm{softmax}\, f(\tilde s_t)

    with :math:`\tilde s_t` after attention to :math:`\bar h`, or :math:`s_t` itself without. It is one graph, as
    :func:`sequence_pair` makes it: the source chain runs on into the target chain, and attention has an edge from each
    source node to each target node. With the same weights on both sides and no attention it is one recurrent layer on
    one chain.

    Training feeds the true tokens (``forward``); to write, ``mpnn.decode.greedy(*model.begin(graph), ...)`` or
    ``beam``, for all graphs of a batch at once.

    Source: Sutskever, Vinyals & Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; attention: see
    :class:`LuongAttention`. Deviations: Cho's decoder sees the encoder's last state at every step, here the first.

    Args:
        source: from the source nodes' x to rows: ``nn.Embedding``, ``nn.Linear``, ...
        encoder: any layer: an RNN, LSTM or GRU in one direction or both, a Tree-LSTM for source trees, ...
        target: from tokens to rows, ``nn.Embedding(V, F)``.
        decoder: an RNN, LSTM or GRU, forward only. It has as many layers as the encoder, each as wide as the encoder's
            (both of its directions joined), for it starts from the encoder's last states of the same names.
        f: a module on rows that ends in V columns.
        attention: a :class:`LuongAttention` from the encoder's states to the decoder's, or any module that is called
            as it is; None for none.

    Shape:
        ``HeteroData`` or a batch of such, with the node types source (x) and target (x ``(N,)`` int64) and the edge
        types (source, next, source), (target, next, target) and, for attention, (source, attend, target)
        -> scores ``(N_target, V)``.

    Raises:
        ValueError: the decoder runs in both directions, or is none of the three; the last states do not fit it.

    Example:
        >>> from mpnn.nn import LSTM
        >>> model = EncoderDecoder(
        ...     nn.Embedding(9, 4), LSTM(4, 8), nn.Embedding(9, 4), LSTM(4, 8), nn.Linear(8, 9), LuongAttention(8, 8))
        >>> model(sequence_pair([3, 4, 5], [5, 4, 3], begin=1, end=2)).shape
        torch.Size([4, 9])
    """

    def __init__(
        self,
        source: nn.Module,
        encoder: nn.Module,
        target: nn.Module,
        decoder: Recurrent,
        f: nn.Module,
        attention: nn.Module | None = None,
    ):
        super().__init__()
        check_one_way("EncoderDecoder", decoder)
        self.source, self.encoder, self.target, self.decoder = source, encoder, target, decoder
        self.f, self.attention = f, attention

    def encode(self, graph: HeteroData) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The states of the source nodes, and those that the decoder starts from."""
        x, batch = self.source(graph["source"].x), graph["source"].get("batch")
        return carried(self.encoder, x, graph[NEXT["source"]].edge_index, (), batch, _count(graph))

    def forward(self, graph: HeteroData) -> Tensor:
        memory, state = self.encode(graph)
        x, batch = self.target(graph["target"].x), graph["target"].get("batch")
        h, _ = carried(self.decoder, x, graph[NEXT["target"]].edge_index, state, batch, _count(graph))
        return self.scores(memory, h, graph[ATTEND].edge_index if self.attention else None)

    def scores(self, memory: Tensor, h: Tensor, edge_index: Any) -> Tensor:
        """From the decoder's states to scores."""
        return self.f(self.attention(memory, h, edge_index) if self.attention else h)

    def begin(self, graph: HeteroData) -> tuple[Callable, tuple[Tensor, ...]]:
        """What ``mpnn.decode`` writes with: a function from tokens and a state to log-probabilities and the next state,
        and the first state. The target nodes of the graph are not looked at."""
        memory, state = self.encode(graph)
        count, batch = _count(graph), graph["source"].get("batch")
        source = memory.new_zeros(len(memory), dtype=torch.long) if batch is None else batch

        def step(token: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            *state, graph_of = state
            h, new = carried(self.decoder, self.target(token), *unlinked(token, state))
            edge_index = across(source, graph_of) if self.attention else None
            return self.scores(memory, h, edge_index).log_softmax(-1), (*new, graph_of)

        return step, (*state, torch.arange(count, device=memory.device))


def _count(graph: HeteroData) -> int:
    return getattr(graph, "num_graphs", 1)


def across(source: Tensor, target: Tensor) -> Tensor:
    """Edges from every source node to every target node of the same graph, target by target.

    Shape:
        source ``(N_source,)`` and target ``(N_target,)``: the graph of each node, in any order -> ``(2, E)``.

    Example:
        >>> across(torch.tensor([0, 0, 1]), torch.tensor([1, 0]))
        tensor([[2, 0, 1],
                [0, 1, 1]])
    """
    if not len(source) or not len(target):
        return target.new_empty(2, 0)
    order, count = torch.argsort(source, stable=True), torch.bincount(source, minlength=int(target.max()) + 1)
    first, seen = (count.cumsum(0) - count)[target], count[target]
    dst = torch.arange(len(target), device=target.device).repeat_interleave(seen)
    within = torch.arange(len(dst), device=target.device) - (seen.cumsum(0) - seen)[dst]
    return torch.stack([order[first[dst] + within], dst])


def sequence_pair(source: Sequence[int], target: Sequence[int] = (), begin: int = 0, end: int = 0) -> HeteroData:
    """A source and a target sequence as one graph for :class:`EncoderDecoder`; batches as usual.

    Args:
        source: tokens.
        target: tokens; leave them out where they are to be written.
        begin: the token that the decoder is given first.
        end: the token that it is to write last.

    Returns:
        ``HeteroData`` with source.x ``(S,)``; target.x ``(T + 1,)``, the target after ``begin``; target.y, what is to
        follow each: the target and ``end``; and the edges of both chains and from each source to each target node.

    Example:
        >>> graph = sequence_pair([7, 8], [9], begin=1, end=2)
        >>> graph["target"].x.tolist(), graph["target"].y.tolist()
        ([1, 9], [9, 2])
    """
    graph = HeteroData()
    graph["source"].x = torch.as_tensor(source, dtype=torch.long)
    graph["target"].x = torch.tensor([begin, *target], dtype=torch.long)
    graph["target"].y = torch.tensor([*target, end], dtype=torch.long)
    for side, edges in NEXT.items():
        graph[edges].edge_index = chain(len(graph[side].x)).edge_index
    both = (torch.zeros(len(graph[side].x), dtype=torch.long) for side in NEXT)
    graph[ATTEND].edge_index = across(*both)
    return graph

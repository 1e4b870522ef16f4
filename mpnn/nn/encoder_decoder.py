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
from mpnn.nn.readout import run_part
from mpnn.nn.recurrent import Recurrent
from mpnn.plan import cached_plan
from mpnn.schedule import topological

__all__ = ["BahdanauAttention", "EncoderDecoder", "LuongAttention", "across", "sequence_pair"]

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
    Deviations: no input feeding: the decoder does not see :math:`\tilde h_{t-1}`.

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
        ValueError: the score is unknown, or ``"dot"`` is asked for between different widths; memory or h is sparse, or
            has another width.

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
        _check_width(self._name, "memory", memory, self.in_features, "in_features")
        _check_width(self._name, "h", h, self.query_features, "query_features")
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


class BahdanauAttention(MessagePassing):
    r"""What every target node sees of its sources, chosen by its state from before the step.

    .. math::
        e_{ij} = v^T \tanh(W s_{i-1} + U h_j), \qquad \alpha_{ij} = \mathrm{softmax}_{j \to i}\, e_{ij}, \qquad
        c_i = \sum_{j \to i} \alpha_{ij} h_j

    The edges say who sees whom, as in :class:`LuongAttention`. It is one level: :math:`s_{i-1}` is a field of the
    target i, given when its turn comes. So in an :class:`EncoderDecoder` the target chain is no single pass, in which
    an edge would have three ends, j, i and i-1, but goes step by step: a pass of attention, then one of the decoder.

    Source: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473, eq. 5 and 6, and the alignment model of A.1.2.
    Deviations: none.

    Args:
        in_features: width of the sources' states h.
        query_features: width of the targets' states s.
        hidden_features: width of v.

    Shape:
        memory ``(N_source, in_features)``, s ``(N_target, query_features)``, edge_index ``(2, E)`` (source, target) ->
        c ``(N_target, in_features)``. A target without sources sees 0. keys ``(N_source, hidden_features)`` is what
        :meth:`keys` makes of the memory, which saves making it again.

    Attributes:
        weight_query ``(hidden_features, query_features)``: W; weight_key ``(hidden_features, in_features)``: U; v
        ``(hidden_features,)``. Initialised as ``nn.Linear``.

    Raises:
        ValueError: memory, s or keys is sparse, or has another width.

    Example:
        >>> BahdanauAttention(3, 4, 5)(torch.ones(5, 3), torch.ones(2, 4), torch.tensor([[0, 1, 4], [0, 0, 1]])).shape
        torch.Size([2, 3])
    """

    value = "memory"

    def __init__(self, in_features: int, query_features: int, hidden_features: int):
        super().__init__()
        self.in_features, self.query_features, self.hidden_features = in_features, query_features, hidden_features
        self.weight_query = nn.Parameter(torch.empty(hidden_features, query_features))
        self.weight_key = nn.Parameter(torch.empty(hidden_features, in_features))
        self.v = nn.Parameter(torch.empty(hidden_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.weight_query, self.weight_key, self.v[None]):
            nn.init.kaiming_uniform_(weight, a=5**0.5)

    def keys(self, memory: Tensor) -> Tensor:
        """``U h`` of all sources, the same at every step."""
        _check_width(self._name, "memory", memory, self.in_features, "in_features")
        return memory @ self.weight_key.t()

    def forward(self, memory: Tensor, s: Tensor, edge_index: Any, keys: Tensor | None = None) -> Tensor:
        _check_width(self._name, "s", s, self.query_features, "query_features")
        keys = self.keys(memory) if keys is None else keys
        _check_width(self._name, "keys", keys, self.hidden_features, "hidden_features")
        return self.propagate(
            edge_index, num_nodes=(len(memory), len(s)), memory=(memory, None), key=(keys, None),
            query=(None, s @ self.weight_query.t()),
        )  # fmt: skip

    def attention(self, key_j, query_i):
        return torch.tanh(key_j + query_i) @ self.v

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features}, {self.query_features}, {self.hidden_features})"


class EncoderDecoder(nn.Module):
    r"""Scores of the next target token, given a source sequence and the target tokens so far.

    .. math::
        \bar h = \mathrm{encoder}(x), \qquad s_0 = \bar h_{\text{last}}, \qquad s_t = \mathrm{decoder}(E y_t, s_{t-1}),
        \qquad P(y_{t+1} \mid y_1, \ldots, y_t, x) = \mathrm{softmax}\, f(\tilde s_t)

    with :math:`\tilde s_t` after attention to :math:`\bar h`, or :math:`s_t` itself without. It is one graph, as
    :func:`sequence_pair` makes it: the source chain runs on into the target chain, and attention has an edge from each
    source node to each target node. With the same weights on both sides and no attention it is one recurrent layer on
    one chain.

    With :class:`BahdanauAttention` the decoder sees a context c at every step, and so does f:

    .. math::
        c_t = \mathrm{attention}(\bar h, s_{t-1}), \qquad s_t = \mathrm{decoder}([E y_t; c_t], s_{t-1}), \qquad
        P(y_{t+1} \mid y_1, \ldots, y_t, x) = \mathrm{softmax}\, f([s_t; c_t; E y_t])

    Training feeds the true tokens (``forward``); to write, ``mpnn.decode.greedy(*model.begin(graph), ...)`` or
    ``beam``, for all graphs of a batch at once.

    Source: Sutskever, Vinyals & Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; Bahdanau et al. 2015,
    arXiv:1409.0473, eq. 4; attention: see the two classes.
    Deviations: Cho's decoder sees the encoder's last state at every step, here the first. Bahdanau's first state is a
    layer on the encoder's backward state at the first word, here it is the encoder's last state; the maxout layer of
    its appendix is f's to be.

    Args:
        source: from the source nodes' x to rows: ``nn.Embedding``, ``nn.Linear``, ...
        encoder: any layer: an RNN, LSTM or GRU in one direction or both, a Tree-LSTM for source trees, ...
        target: from tokens to rows, ``nn.Embedding(V, F)``.
        decoder: an RNN, LSTM or GRU, forward only. It has as many layers as the encoder, each as wide as the encoder's
            (both of its directions joined), for it starts from the encoder's last states of the same names.
        f: a module on rows that ends in V columns.
        attention: a :class:`LuongAttention` from the encoder's states to the decoder's, or any module that is called
            as it is; a :class:`BahdanauAttention`, by which the decoder's input is wider by the encoder's states, and
            f's by these and the target's rows; None for none.

    Shape:
        ``HeteroData`` or a batch of such, with the node types source (x) and target (x ``(N,)`` int64) and the edge
        types (source, next, source), (target, next, target) and, for attention, (source, attend, target)
        -> scores ``(N_target, V)``.

    Raises:
        ValueError: the decoder runs in both directions, or is none of the three; the last states do not fit it; the
            targets of a graph are no chain, which attention by the state before needs.
        TypeError: the graph has no source or no target.

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
        _check_graph(graph)
        x, batch = run_part(self, "source", graph["source"].x), graph["source"].get("batch")
        return carried(self.encoder, x, graph[NEXT["source"]].edge_index, (), batch, _count(graph))

    def forward(self, graph: HeteroData) -> Tensor:
        memory, state = self.encode(graph)
        x, batch = run_part(self, "target", graph["target"].x), graph["target"].get("batch")
        if isinstance(self.attention, BahdanauAttention):
            return run_part(self, "f", self._step_by_step(graph, memory, state, x, batch))
        h, _ = carried(self.decoder, x, graph[NEXT["target"]].edge_index, state, batch, _count(graph))
        return run_part(self, "f", self.attention(memory, h, graph[ATTEND].edge_index) if self.attention else h)

    def _step_by_step(
        self, graph: HeteroData, memory: Tensor, state: tuple[Tensor, ...], x: Tensor, batch: Tensor | None
    ) -> Tensor:
        """What f sees at every target node, where a step needs the state before it."""
        of_target = x.new_zeros(len(x), dtype=torch.long) if batch is None else batch
        order = _steps(graph[NEXT["target"]].edge_index, of_target, _count(graph))
        keys, seen = self.attention.keys(memory), []
        for nodes, edge_index in zip(order, _by_step(graph[ATTEND].edge_index, order)):
            now = of_target[nodes]
            rows = tuple(value.index_select(0, now) for value in state)
            row, new = self._step(x[nodes], rows, memory, keys, edge_index)
            state = tuple(value.index_copy(0, now, rows) for value, rows in zip(state, new))
            seen.append(row)
        return torch.cat(seen).index_select(0, torch.argsort(torch.cat(order)))

    def _step(
        self, x: Tensor, state: tuple[Tensor, ...], memory: Tensor, keys: Tensor | None, edge_index: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One token of each of R texts: what f sees, ``(R, ...)``, and the next state."""
        if not isinstance(self.attention, BahdanauAttention):
            h, new = carried(self.decoder, x, *unlinked(x, state))
            return (self.attention(memory, h, edge_index) if self.attention else h), new
        context = self.attention(memory, state[0][:, -1], edge_index, keys)
        h, new = carried(self.decoder, torch.cat([x, context], dim=1), *unlinked(x, state))
        return torch.cat([h, context, x], dim=1), new

    def begin(self, graph: HeteroData) -> tuple[Callable, tuple[Tensor, ...]]:
        """What ``mpnn.decode`` writes with: a function from tokens and a state to log-probabilities and the next state,
        and the first state. The target nodes of the graph are not looked at."""
        memory, state = self.encode(graph)
        count, batch = _count(graph), graph["source"].get("batch")
        source = memory.new_zeros(len(memory), dtype=torch.long) if batch is None else batch
        keys = self.attention.keys(memory) if isinstance(self.attention, BahdanauAttention) else None

        def step(token: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            *state, graph_of = state
            edge_index = across(source, graph_of) if self.attention else None
            row, new = self._step(run_part(self, "target", token), tuple(state), memory, keys, edge_index)
            return run_part(self, "f", row).log_softmax(-1), (*new, graph_of)

        return step, (*state, torch.arange(count, device=memory.device))


def _check_width(owner: str, name: str, value: Tensor, expected: int, option: str) -> None:
    """Raises unless states are dense and ``(N, expected)``."""
    check_dense(owner, value)
    if value.dim() != 2 or value.shape[1] != expected:
        raise ValueError(
            f"{owner}: {name} has shape {tuple(value.shape)}; expected (N, {expected}), a row a node. Make the layer "
            f"with {option}={value.shape[-1] if value.dim() else 1}, or pass other states."
        )


def _check_graph(graph: Any) -> None:
    if not (isinstance(graph, HeteroData) and set(NEXT) <= set(graph.node_types)):
        raise TypeError(
            f"EncoderDecoder: the graph is {graph}; expected HeteroData with the node types 'source' and 'target'. "
            "Make it by sequence_pair(source, target)."
        )


def _steps(edge_index: Any, graph_of: Tensor, num_graphs: int) -> list[Tensor]:
    """The target nodes of each step, in the order of their graphs."""
    level = cached_plan(edge_index, topological, len(graph_of), "EncoderDecoder").level
    place = level * num_graphs + graph_of
    order = torch.argsort(place, stable=True)
    twice = (place[order].diff() == 0).nonzero()
    if len(twice):
        a, b = order[int(twice[0]) :][:2].tolist()
        raise ValueError(
            f"EncoderDecoder: the target nodes {a} and {b} of graph {int(graph_of[a])} are both at step "
            f"{int(level[a])}; expected a chain, for attention by the state before has one step after the other."
        )
    return list(order.split(torch.bincount(level).tolist()))


def _by_step(edge_index: Tensor, order: list[Tensor]) -> list[Tensor]:
    """The edges into the target nodes of each step, with these numbered as they stand in it."""
    src, dst = edge_index
    node = torch.cat(order)
    size = torch.tensor([len(nodes) for nodes in order], device=node.device)
    step = torch.empty_like(node).index_copy(
        0, node, torch.arange(len(order), device=node.device).repeat_interleave(size)
    )
    place = torch.argsort(node)[dst] - (size.cumsum(0) - size)[step[dst]]
    edges = torch.stack([src, place])[:, torch.argsort(step[dst], stable=True)]
    return list(edges.split(torch.bincount(step[dst], minlength=len(order)).tolist(), dim=1))


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

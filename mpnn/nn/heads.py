"""Tasks on sequences, as heads on any layer: a class for each graph or for each node, and the next token.

A head runs the layer and puts a module on rows on top; the loss is torch's. Chains of tags and speech have losses of
their own, :class:`~mpnn.nn.CRF` and :func:`~mpnn.nn.ctc_loss`; :class:`~mpnn.nn.EncoderDecoder` makes one sequence of
another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpnn import schedule
from mpnn.engine.call import tuple_of
from mpnn.graph import check_batch
from mpnn.nn.readout import GraphReadout, check_parts, run_part
from mpnn.nn.recurrent import Recurrent
from mpnn.plan import cached_plan

__all__ = ["LanguageModel", "SequenceClassifier", "Tagger", "last_state"]


def last_state(
    h: Tensor,
    edge_index: Any,
    batch: Tensor | None = None,
    num_graphs: int | None = None,
    bidirectional: bool = False,
) -> Tensor:
    r"""The state where a pass ends: of a chain its last node's, of a tree its root's.

    .. math:: h = \sum_{i \text{ without successor}} h_i

    So it is what one more node would hear from, with an edge from every node that has none to another.

    Source: the :math:`h_n` of ``torch.nn.LSTM``, on chains.
    Deviations: other graphs; a graph whose nodes all have a successor, in a cycle or a loop, has the state 0.

    Args:
        bidirectional: whether the second half of the columns is from the pass backwards, which ends in the nodes
            without a predecessor.

    Shape:
        h ``(N, ..., H)``, edge_index of any kind that layers take, batch ``(N,)`` the graph of each node (None if there
        is only one) -> ``(B, ..., H)``; 0 for a graph without nodes. B is ``num_graphs``, or else read from batch.

    Raises:
        ValueError: batch has not one entry a node; two directions are asked of an odd number of columns.

    Example:
        >>> chain = torch.tensor([[0, 1], [1, 2]])
        >>> h = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> last_state(h, chain), last_state(h, chain, bidirectional=True)
        (tensor([[ 3., 30.]]), tensor([[ 3., 10.]]))
    """
    if bidirectional:
        if h.shape[-1] % 2:
            raise ValueError(
                f"last_state: h has {h.shape[-1]} columns; expected an even number, half of them from each direction. "
                "Pass bidirectional=False for a layer that runs in one."
            )
        ways = enumerate(h.chunk(2, dim=-1))
        return torch.cat([_summed(way, _ends(edge_index, len(h), k), batch, num_graphs) for k, way in ways], dim=-1)
    return _summed(h, _ends(edge_index, len(h), 0), batch, num_graphs)


def _summed(h: Tensor, ends: Tensor, batch: Tensor | None, num_graphs: int | None) -> Tensor:
    check_batch("last_state", batch, h.shape[0])
    if num_graphs is None and batch is not None:  # the last graphs may have no end
        num_graphs = int(batch.max()) + 1 if len(batch) else 0
    rows = h.index_select(0, ends)
    return GraphReadout("sum")(rows, batch if batch is None else batch.index_select(0, ends), num_graphs)


def _ends(edge_index: Any, num_nodes: int, row: int) -> Tensor:
    """The nodes that are in no edge as its source (row 0) or as its target (row 1); found once a graph."""
    plan = cached_plan(edge_index, schedule.synchronous, num_nodes, "last_state")

    def find() -> Tensor:
        relations = plan.given.values() if isinstance(plan.given, dict) else [plan.given]
        end = torch.ones(num_nodes, dtype=torch.bool, device=plan.level.device)
        for edges in relations:
            end = end.index_fill(0, edges[row], False)
        return end.nonzero().flatten()

    return plan.remember(("ends", row), find)


def carried(
    layer: nn.Module,
    x: Tensor,
    edge_index: Any,
    state: tuple[Tensor, ...] = (),
    batch: Tensor | None = None,
    num_graphs: int | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer's h ``(N, H)``, and for each of its state fields what every graph ends in, ``(B, layers, H)``.

    ``state`` is what the graphs start from, in the same shape. In both directions H is that of both, joined.
    """
    both = getattr(layer, "bidirectional", False)
    if isinstance(layer, Recurrent):
        initial = {f"{name}0": value.transpose(0, 1) for name, value in zip(layer.state, state)}
        ways = [field.unflatten(0, (-1, 1 + both)) for field in layer.states(x, edge_index, batch=batch, **initial)]
        fields = [torch.cat(field.unbind(1), dim=-1) for field in ways]  # (layers, N, H)
    else:
        fields = [field.unsqueeze(0) for field in tuple_of(layer(x, edge_index))]
    final = (last_state(field.transpose(0, 1), edge_index, batch, num_graphs, both) for field in fields)
    return fields[0][-1], tuple(final)


def check_one_way(owner: str, layer: nn.Module) -> None:
    """Raises unless a layer can be run on what has been written so far."""
    if not isinstance(layer, Recurrent) or layer.bidirectional:
        raise ValueError(
            f"{owner}: the layer is {layer}; expected an RNN, LSTM or GRU with bidirectional=False, whose state at a "
            "node depends on what came before alone."
        )


class SequenceClassifier(nn.Module):
    r"""A class, or any value, for each sequence, tree or other graph, from the states of its nodes.

    .. math:: y = f(h_{\text{last}}) \qquad \text{or} \qquad y = f\Big(\tfrac1n \sum_i h_i\Big)

    Source: the usual heads; :func:`last_state` says what is last. Deviations: none.

    Args:
        layer: any layer; of several results the first, h, is used.
        f: a module on rows, as wide as the layer's result: ``nn.Linear(8, 5)`` for five classes.
        readout: ``"last"``, or what :class:`GraphReadout` takes: ``"mean"``, ``"max"``, an attention, ...

    Shape:
        x ``(N, F)``, edge_index ``(2, E)``, batch ``(N,)``, num_graphs B (else read from batch) -> what f makes of
        ``(B, H)``. More arguments by name go to the layer.

    Raises:
        ValueError: the readout is unknown; batch has not one entry a node; what the layer refuses.

    Example:
        >>> from mpnn.nn import GRU
        >>> model = SequenceClassifier(GRU(3, 8), nn.Linear(8, 5))
        >>> model(torch.ones(4, 3), torch.tensor([[0, 2], [1, 3]]), batch=torch.tensor([0, 0, 1, 1])).shape
        torch.Size([2, 5])
    """

    def __init__(self, layer: nn.Module, f: nn.Module, readout: str | nn.Module = "last"):
        super().__init__()
        check_parts("SequenceClassifier", layer=layer, f=f)
        self.layer, self.f = layer, f
        self.readout = None if readout == "last" else GraphReadout(readout)

    def forward(
        self, x: Tensor, edge_index: Any, batch: Tensor | None = None, num_graphs: int | None = None, **inputs: Any
    ) -> Tensor:
        h = tuple_of(self.layer(x, edge_index, **inputs))[0]
        if self.readout is not None:
            return run_part(self, "f", self.readout(h, batch, num_graphs))
        both = getattr(self.layer, "bidirectional", False)
        return run_part(self, "f", last_state(h, edge_index, batch, num_graphs, both))


class Tagger(nn.Module):
    r"""A tag, or any value, for each node: synchronous sequence to sequence.

    .. math:: y_i = f(h_i)

    Source: the usual head. Deviations: none.

    Args:
        layer: any layer; of several results the first, h, is used.
        f: a module on rows, as wide as the layer's result.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` -> what f makes of ``(N, H)``. More arguments by name go to the layer.

    Raises:
        ValueError: what the layer refuses.

    Example:
        >>> from mpnn.nn import LSTM
        >>> model = Tagger(LSTM(3, 8, bidirectional=True), nn.Linear(16, 5))
        >>> model(torch.ones(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
        torch.Size([4, 5])
    """

    def __init__(self, layer: nn.Module, f: nn.Module):
        super().__init__()
        check_parts("Tagger", layer=layer, f=f)
        self.layer, self.f = layer, f

    def forward(self, x: Tensor, edge_index: Any, **inputs: Any) -> Tensor:
        return run_part(self, "f", tuple_of(self.layer(x, edge_index, **inputs))[0])


class LanguageModel(nn.Module):
    r"""Scores of the next token after each node of a chain.

    .. math:: P(w_{t+1} \mid w_1, \ldots, w_t) = \mathrm{softmax}\, f(h_t), \qquad h_t = \mathrm{layer}(E w_t, h_{t-1})

    A long text is read in chunks: the state at the end of one is what the next starts from, and between them
    ``[s.detach() for s in state]`` cuts the gradient (truncated backpropagation through time, Williams & Peng 1990).
    Text is written by ``mpnn.decode.sample(*model.begin(3), ...)``, or on from a state by ``sample(model.step, ...)``.

    Source: Mikolov et al. 2010, "Recurrent neural network based language model". Deviations: the cell is any.

    Args:
        embedding: from tokens to rows, ``nn.Embedding(V, F)``.
        layer: an RNN, LSTM or GRU, forward only.
        f: a module on rows that ends in V columns.

    Shape:
        token ``(N,)`` int64, edge_index ``(2, E)`` (t-1, t), state: nothing, or ``(B, layers, H)`` for each state field
        of the layer, batch ``(N,)``, num_graphs B (else read from batch) -> scores ``(N, V)`` and the state at the end
        of each chain. A chain without nodes ends in 0.

    Raises:
        ValueError: the layer runs in both directions, or is none of the three; state has not a tensor for each field.

    Example:
        >>> from mpnn.nn import GRU
        >>> model = LanguageModel(nn.Embedding(9, 4), GRU(4, 8), nn.Linear(8, 9))
        >>> token, chain = torch.tensor([1, 5, 2, 6]), torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> scores, _ = model(token, chain)
        >>> first, state = model(token[:2], chain[:, :1])
        >>> second, state = model(token[2:], chain[:, :1], state)
        >>> torch.allclose(scores, torch.cat([first, second]), atol=1e-6)
        True
    """

    def __init__(self, embedding: nn.Module, layer: Recurrent, f: nn.Module):
        super().__init__()
        check_parts("LanguageModel", embedding=embedding, layer=layer, f=f)
        check_one_way("LanguageModel", layer)
        self.embedding, self.layer, self.f = embedding, layer, f

    def forward(
        self,
        token: Tensor,
        edge_index: Any,
        state: tuple[Tensor, ...] = (),
        batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._check_state(state)
        num_graphs = len(state[0]) if len(state) else num_graphs
        x = run_part(self, "embedding", token)
        h, state = carried(self.layer, x, edge_index, state, batch, num_graphs)
        return run_part(self, "f", h), state

    def _check_state(self, state: tuple[Tensor, ...]) -> None:
        if isinstance(state, Tensor) or len(state) not in (0, len(self.layer.state)):
            given = "a tensor" if isinstance(state, Tensor) else f"{len(state)} values"
            raise ValueError(
                f"LanguageModel: state is {given}; expected nothing, or one tensor (B, layers, H) for each of "
                f"{', '.join(self.layer.state)}, as a tuple. Pass what the call before returned."
            )

    def scores(self, token: Tensor, edge_index: Any) -> Tensor:
        """The scores alone, of chains that start from 0 and are not read on: what needs no state at their ends. So
        torch's kernels can run an LSTM, of which they keep h and not c."""
        x = run_part(self, "embedding", token)
        return run_part(self, "f", tuple_of(self.layer(x, edge_index))[0])

    def begin(self, count: int) -> tuple[Callable, tuple[Tensor, ...]]:
        """What ``mpnn.decode`` writes ``count`` texts with: :meth:`step`, and a state of zeros."""
        zeros = self.layer.weight_hh_l0.new_zeros(count, self.layer.num_layers, self.layer.hidden_features)
        return self.step, (zeros,) * len(self.layer.state)

    def step(self, token: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One token of each of R texts, ``(R,)`` -> the log-probabilities of the next ones, ``(R, V)``, and the state.

        A step is a pass over R nodes without edges.
        """
        scores, state = self(token, *unlinked(token, state))
        return scores.log_softmax(-1), state


def unlinked(rows: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...], Tensor, int]:
    """A graph for each token, or row, alone: its edges, the state it starts from, the graph of each node, how many."""
    count, device = len(rows), rows.device
    return torch.empty(2, 0, dtype=torch.long, device=device), state, torch.arange(count, device=device), count

"""Hierarchical attention: words are read and weighed into sentences, sentences into a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn import kernels
from mpnn.features import check_dense
from mpnn.graph import Size
from mpnn.message_passing import MessagePassing
from mpnn.nn.gru import GRU
from mpnn.plan import plan as plan_of
from mpnn.schedule import Schedule

__all__ = ["ContextAttention", "HierarchicalAttention"]

EdgeType = tuple[str, str, str]


class ContextAttention(MessagePassing):
    r"""Sums over the sources of a node, with weights that say how much each is what is looked for.

    .. math::
        u_j = \tanh(W x_j + b), \qquad \alpha_{ji} = \mathrm{softmax}_{j \to i}(u_j^T u_w), \qquad
        s_i = \sum_{j \to i} \alpha_{ji} x_j

    The query :math:`u_w`, the context vector, is learned, and the same for all nodes.

    Source: Yang et al. 2016, "Hierarchical attention networks for document classification", eq. 5-7.
    Deviations: none; any edges.

    Args:
        in_features: width of ``x``.
        attention_features: width of u; as ``in_features`` unless given.

    Shape:
        x ``(N, in_features)``, edge_index ``(2, E)``, num_nodes ``(N, M)`` if the targets are other nodes than the
        sources -> ``(M, in_features)``; 0 for a node without sources. :meth:`weights` -> ``(E,)``.

    Attributes:
        project: ``nn.Linear(in_features, attention_features)``: W and b; query ``(attention_features,)``: u_w, drawn
            from U(-1/sqrt(A), 1/sqrt(A)).

    Raises:
        ValueError: x is sparse.

    Example:
        >>> words, inside = torch.ones(5, 3), torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 1]])
        >>> ContextAttention(3)(words, inside, num_nodes=(5, 2)).shape
        torch.Size([2, 3])
    """

    value = "x"

    def __init__(self, in_features: int, attention_features: int | None = None):
        super().__init__()
        self.project = nn.Linear(in_features, attention_features or in_features)
        self.query = nn.Parameter(torch.empty(attention_features or in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.project.reset_parameters()
        bound = len(self.query) ** -0.5
        nn.init.uniform_(self.query, -bound, bound)

    def forward(self, x: Tensor, edge_index: Any, num_nodes: Size | None = None) -> Tensor:
        return self.propagate(edge_index, num_nodes=self._sizes(x, num_nodes), x=x, score=self.score(x))

    def weights(self, x: Tensor, edge_index: Any, num_nodes: Size | None = None) -> Tensor:
        """The weight α of each edge, in the order of the edges.

        Example:
            >>> ContextAttention(3).weights(torch.ones(3, 3), torch.tensor([[0, 1], [2, 2]]))
            tensor([0.5000, 0.5000], grad_fn=...)
        """
        edges = self.plan(edge_index, self._sizes(x, num_nodes)).edges[""]
        score = kernels.gather(self.score(x), edges, "source")
        return edges.unplace(kernels.softmax(edges, score))

    def score(self, x: Tensor) -> Tensor:
        return torch.tanh(self.project(x)) @ self.query

    def attention(self, score_j):
        return score_j

    def _sizes(self, x: Tensor, num_nodes: Size | None) -> Size:
        check_dense(self._name, x)
        return len(x) if num_nodes is None else num_nodes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.project.in_features}, {self.project.out_features})"


class HierarchicalAttention(nn.Module):
    r"""Reads words in both directions and weighs them into sentences; reads those and weighs them into a document.

    .. math::
        h_{it} = [\overrightarrow{\mathrm{GRU}}(x_{it}); \overleftarrow{\mathrm{GRU}}(x_{it})], \qquad
        \alpha_{it} = \mathrm{softmax}_t(\tanh(W_w h_{it} + b_w)^T u_w), \qquad s_i = \sum_t \alpha_{it} h_{it}

    and the same, with other weights, from the :math:`s_i` to the document's v. It is one graph with a type of node for
    each level: a chain of words in every sentence, an edge from each word to its sentence, a chain of sentences, an
    edge from each to its document. All sentences of all documents are read at once, by torch's kernels.

    Source: Yang et al. 2016, "Hierarchical attention networks for document classification", eq. 1-11; the reset gate of
    the GRU comes after the product, as in eq. 3 and in ``torch.nn.GRU``.
    Deviations: any number of levels; the second bias of ``torch.nn.GRU``; the word vectors x are given, by an
    ``nn.Embedding`` or otherwise.

    Args:
        in_features: width of the x of the lowest level.
        hidden_features: width of the GRU in one direction, at every level.
        attention_features: width of u; 2 * ``hidden_features`` unless given.
        dropout: probability to drop an input of each level but the lowest, in training.
        levels: the types of nodes, the lowest first.

    Shape:
        x ``{lowest level: (N, in_features)}``, others are not looked at; edge_index ``{(level, "next", level): (2, E),
        (level, "in", next level): (2, E)}``, as :func:`mpnn.documents.document` makes them, or a plan each, those that
        are left out without edges; num_nodes_dict ``{type: number}`` of all levels but the lowest
        -> ``{level: (N, 2 * hidden_features)}`` for all levels but the lowest. :meth:`weights` -> ``{(level, "in", next
        level): (E,)}``.

    Attributes:
        read[level]: a bidirectional :class:`GRU`; weigh[level]: a :class:`ContextAttention`.

    Raises:
        ValueError: a node of a higher level has nothing in it; there is only one level; x has another width or is
            sparse; an edge leaves the graph.
        CycleError: the nodes of a level are not in a row, but in a circle.

    Example:
        >>> from mpnn.documents import document
        >>> data = document([["a", "cat", "sat"], ["it", "slept"]])
        >>> layer, x = HierarchicalAttention(3, 4), {"word": torch.ones(5, 3)}
        >>> layer(x, data.edge_index_dict, data.num_nodes_dict)["document"].shape
        torch.Size([1, 8])
        >>> layer.weights(x, data.edge_index_dict, data.num_nodes_dict)["word", "in", "sentence"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        attention_features: int | None = None,
        dropout: float = 0.0,
        levels: Sequence[str] = ("word", "sentence", "document"),
    ):
        super().__init__()
        if len(levels) < 2:
            raise ValueError(f"HierarchicalAttention: levels={tuple(levels)}; expected two or more, the lowest first.")
        self.in_features, self.hidden_features, self.dropout = in_features, hidden_features, dropout
        self.levels, width = tuple(levels), 2 * hidden_features
        lower = self.levels[:-1]
        widths = [in_features, *[width] * (len(lower) - 1)]
        self.read = nn.ModuleDict({k: GRU(n, hidden_features, bidirectional=True) for k, n in zip(lower, widths)})
        self.weigh = nn.ModuleDict({k: ContextAttention(width, attention_features) for k in lower})

    def reset_parameters(self) -> None:
        for module in (*self.read.values(), *self.weigh.values()):
            module.reset_parameters()

    def forward(
        self, x: Mapping[str, Tensor], edge_index: Mapping[EdgeType, Any], num_nodes_dict: Mapping[str, int]
    ) -> dict[str, Tensor]:
        return {upper: made for (_, _, upper), _, made in self._upwards(x, edge_index, num_nodes_dict)}

    def weights(
        self, x: Mapping[str, Tensor], edge_index: Mapping[EdgeType, Any], num_nodes_dict: Mapping[str, int]
    ) -> dict[EdgeType, Tensor]:
        """How much each word counts in its sentence, and each sentence in its document: α by edge type, ``(E,)`` each,
        in the order of the edges.
        """
        steps = self._upwards(x, edge_index, num_nodes_dict)
        return {kind: self.weigh[kind[0]].weights(h, *into) for kind, (h, *into), _ in steps}

    def _upwards(self, x: Mapping[str, Tensor], edge_index: Mapping, num_nodes: Mapping) -> Iterator[tuple]:
        """Level by level: the edges upwards, what the attention is given, and what it makes."""
        made = x[self.levels[0]]
        check_dense(type(self).__name__, made)
        for lower, upper in pairwise(self.levels):
            kind, none = (lower, "in", upper), torch.empty(2, 0, dtype=torch.long, device=made.device)
            if lower != self.levels[0]:
                made = F.dropout(made, self.dropout, self.training)
            h = self.read[lower](made, edge_index.get((lower, "next", lower), none))
            given = h, edge_index.get(kind, none), (len(h), num_nodes[upper])
            self._check_filled(kind, *given[1:])
            made = self.weigh[lower](*given)
            yield kind, given, made

    def _check_filled(self, kind: EdgeType, edge_index: Any, size: tuple[int, int]) -> None:
        """Raises if a node of the upper level has nothing in it; looked up once a graph."""
        first, count = self.weigh[kind[0]].plan(edge_index, size, _bare)
        if count:
            lower, _, upper = kind
            raise ValueError(
                f"HierarchicalAttention: {upper} {first} has no {lower}, so there is nothing to weigh; expected an "
                f"edge of type {kind} into each {upper}. {count} of {size[1]} have none. Leave them out of the graph."
            )

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden_features}, levels={self.levels}"


def _bare(edge_index: Any, schedule: Schedule, num_nodes: Size, owner: str) -> tuple[int, int]:
    """The first node without an edge into it, and how many there are."""
    (edges,) = plan_of(edge_index, schedule, num_nodes, owner).edges.values()
    bare = (edges.rowptr.diff() == 0).nonzero().flatten()
    return (int(bare[0]), len(bare)) if len(bare) else (0, 0)

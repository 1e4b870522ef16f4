"""HAN: attention over the neighbours along each meta-path, and attention over the meta-paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.module_dict import ModuleDict
from torch_geometric.nn.parameter_dict import ParameterDict

from mpnn.engine.returned import told
from mpnn.features import Linear, check_features
from mpnn.nn.gat import _Attention
from mpnn.nn.readout import GraphReadout
from mpnn.typed import by_type, check_edge_types

__all__ = ["HAN", "SemanticAttention"]

EdgeType = tuple[str, str, str]


class SemanticAttention(nn.Module):
    r"""Mixes several values of the same nodes, with weights that all nodes of a graph share.

    .. math::
        w_p = \frac{1}{|V|} \sum_{i \in V} q^T \tanh(W z_i^p + b), \qquad \beta = \mathrm{softmax}_p(w_p), \qquad
        Z_i = \sum_p \beta_p z_i^p

    Source: Wang et al. 2019, arXiv:1903.07293, eq. 7-9.
    Deviations: V is the graph that i is in, so that a graph has the same result alone and in a batch.

    Args:
        in_features: width of the values.
        hidden_features: width of q.

    Shape:
        z: a list of P tensors ``(N, in_features)``; batch ``(N,)`` the graph of each node, None if there is only one
        -> ``(N, in_features)``; :meth:`weights` -> ``(B, P)``, B being ``num_graphs`` or else read from batch. In a
        graph without nodes all weights are 1 / P.

    Attributes:
        project.weight ``(hidden_features, in_features)``: W, project.bias: b, as ``torch.nn.Linear``; q
        ``(hidden_features,)``: Glorot uniform.

    Raises:
        ValueError: batch has not one entry a node; the values are none, or of other nodes or widths.

    Example:
        >>> SemanticAttention(3)([torch.ones(4, 3), torch.ones(4, 3)]).shape
        torch.Size([4, 3])
    """

    def __init__(self, in_features: int, hidden_features: int = 128):
        super().__init__()
        self.project = nn.Linear(in_features, hidden_features)
        self.q = nn.Parameter(torch.empty(hidden_features))
        self.mean = GraphReadout("mean")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.project.reset_parameters()
        nn.init.xavier_uniform_(self.q.data.view(1, -1))

    def weights(self, z: Sequence[Tensor], batch: Tensor | None = None, num_graphs: int | None = None) -> Tensor:
        """The weights beta of the P values in each graph, ``(B, P)``."""
        if not z or any(len(values) != len(z[0]) for values in z):
            rows = ", ".join(str(len(values)) for values in z) or "no"
            raise ValueError(
                f"SemanticAttention: the values have {rows} rows; expected at least one tensor, all of the same nodes. "
                "Pass [z_1, z_2, ...], each (N, in_features)."
            )
        for values in z:
            check_features("SemanticAttention", values, self.project.in_features)
        score = torch.stack([torch.tanh(self.project(values)) @ self.q for values in z], dim=1)  # (N, P)
        return self.mean(score, batch, num_graphs).softmax(1)

    def forward(self, z: Sequence[Tensor], batch: Tensor | None = None, num_graphs: int | None = None) -> Tensor:
        beta = self.weights(z, batch, num_graphs)
        beta = beta.expand(len(z[0]), -1) if batch is None else beta.index_select(0, batch)
        return sum(share * values for share, values in zip(beta.split(1, dim=1), z, strict=True))


class HAN(_Attention):
    r"""Attends to the neighbours along each meta-path, and then to the meta-paths.

    .. math::
        h_i' = M h_i, \qquad
        \alpha_{ij}^\Phi = \mathrm{softmax}_{j \in N_i^\Phi}\big(\mathrm{LeakyReLU}(a_\Phi^T [h_i' \Vert h_j'])\big),
        \qquad z_i^\Phi = \Big\Vert_k \sigma\Big(\sum_{j \in N_i^\Phi} \alpha_{ij}^{\Phi,k} h_j'^k\Big)

    with a matrix M for each type of node, an a for each meta-path Φ and head k, and i itself among its neighbours; then
    :class:`SemanticAttention` mixes the meta-paths that end in the same type.

    Source: Wang et al. 2019, arXiv:1903.07293, eq. 1-9.
    Deviations: the ends of a meta-path may be of different types, where i is not among its neighbours, and several
    types may have meta-paths. Equal to torch_geometric's ``HANConv`` with ``bias=True, activation=relu,
    self_loops=False, attention_features=heads * out_features``. A meta-path that the graph has no edges of takes part
    all the same, so that a graph has the same result alone and in a batch; ``HANConv`` leaves it out where its key is
    not given. The authors' program gives each meta-path and head a matrix of its own; the paper has one for a type.

    Args:
        in_features: width of ``x``; of each type of node, if they differ.
        out_features: width of one head.
        metapaths: edge types ``(source type, name, target type)``, as :func:`mpnn.hetero.add_metapaths` makes them.
        heads: number of heads K.
        attention_features: width of q.
        dropout: probability to drop a weight of the attention along a meta-path in training.
        negative_slope: of LeakyReLU.
        self_loops: whether a node is among its own neighbours on meta-paths that lead back to its type.
        bias: whether to add a bias to M h.
        activation: σ.

    Shape:
        x ``{node type: (N, in_features)}``, dense or sparse CSR; edge_index ``{meta-path: (2, E)}`` or a plan; batch
        ``{node type: (N,)}``, the graph of each node, None if there is only one (num_graphs: how many, or else read)
        -> ``{node type: (N, K * out_features)}`` for the types that meta-paths end in. Types and meta-paths that are
        left out are without nodes and edges; others than those of ``metapaths`` are not looked at.

    Attributes:
        linear[type].weight ``(K * out_features, in_features)``: M; att_src[metapath], att_dst[metapath]
        ``(K, out_features)``: a = [att_dst, att_src]: Glorot uniform; mix: see :class:`SemanticAttention`.

    Raises:
        ValueError: there is no meta-path, a type has no width, or x has another; the graph has edges, but none along a
            meta-path.
        TypeError: a meta-path is no edge type; x is no mapping; batch lacks a type.

    Example:
        >>> PAP = ("paper", "PAP", "paper")
        >>> layer = HAN(3, 8, [PAP], heads=2)
        >>> layer({"paper": torch.ones(4, 3)}, {PAP: torch.tensor([[0, 1], [1, 2]])})["paper"].shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        in_features: int | Mapping[str, int],
        out_features: int,
        metapaths: Sequence[EdgeType],
        heads: int = 8,
        attention_features: int = 128,
        dropout: float = 0.0,
        negative_slope: float = 0.2,
        self_loops: bool = True,
        bias: bool = False,
        activation: Callable[[Tensor], Tensor] = F.elu,
    ):
        super().__init__(in_features, out_features, heads, True, dropout, negative_slope, self_loops, bias=False)
        check_edge_types("HAN", "metapaths", metapaths)
        self.metapaths, self.activation = [tuple(path) for path in metapaths], activation
        if not self.metapaths:
            raise ValueError("HAN: metapaths is empty; expected at least one edge type (source, name, target).")
        width, types = heads * out_features, dict.fromkeys(end for src, _, dst in self.metapaths for end in (src, dst))
        widths = in_features if isinstance(in_features, Mapping) else dict.fromkeys(types, in_features)
        if missing := [kind for kind in types if kind not in widths]:
            raise ValueError(
                f"HAN: in_features has no width of {', '.join(map(repr, missing))}, where metapaths begin or end, only "
                f"of {', '.join(map(repr, widths)) or 'no type'}; expected one for each. Add {missing[0]!r}: width."
            )
        self.linear = ModuleDict({kind: Linear(widths[kind], width, bias, glorot=True) for kind in types})
        self.att_src = ParameterDict({path: torch.empty(heads, out_features) for path in self.metapaths})
        self.att_dst = ParameterDict({path: torch.empty(heads, out_features) for path in self.metapaths})
        self.mix = SemanticAttention(width, attention_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in (*self.linear.values(), self.mix):
            module.reset_parameters()
        for vectors in (*self.att_src.values(), *self.att_dst.values()):
            nn.init.xavier_uniform_(vectors)

    def forward(
        self,
        x: Mapping[str, Tensor],
        edge_index: Mapping[EdgeType, Any],
        batch: Mapping[str, Tensor] | None = None,
        num_graphs: int | None = None,
    ) -> dict[str, Tensor]:
        along = self.along(x, edge_index, batch)
        return {kind: self.mix(list(z.values()), batch and batch[kind], num_graphs) for kind, z in along.items()}

    def weights(
        self,
        x: Mapping[str, Tensor],
        edge_index: Mapping[EdgeType, Any],
        batch: Mapping[str, Tensor] | None = None,
        num_graphs: int | None = None,
    ) -> dict[str, Tensor]:
        """How much each meta-path counts: beta ``(B, P)`` for each type, the meta-paths that end in it in their order.

        Example:
            >>> MAM, MDM = ("movie", "MAM", "movie"), ("movie", "MDM", "movie")
            >>> edges = {MAM: torch.tensor([[0], [1]]), MDM: torch.tensor([[1], [0]])}
            >>> HAN(3, 8, [MAM, MDM]).weights({"movie": torch.ones(2, 3)}, edges)["movie"]
            tensor([[0.5000, 0.5000]], grad_fn=...)
        """
        along = self.along(x, edge_index, batch)
        return {
            kind: self.mix.weights(list(z.values()), batch and batch[kind], num_graphs) for kind, z in along.items()
        }

    def along(
        self, x: Mapping[str, Tensor], edge_index: Mapping[EdgeType, Any], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, dict[EdgeType, Tensor]]:
        """The values z along each meta-path, ``{node type: {meta-path: (N, K * out_features)}}``."""
        for name, values in (("x", x), ("batch", batch or x)):
            if not isinstance(values, Mapping) or not values.keys() >= {dst for *_, dst in self.metapaths if dst in x}:
                given = f"of {', '.join(map(repr, values))}" if isinstance(values, Mapping) else told(values)
                raise TypeError(f"HAN: {name} is {given}; expected {{node type: tensor}} of the types of metapaths.")
        edge_index = by_type(edge_index, type(self).__name__, self.metapaths)
        h = {kind: self.linear[kind](values) for kind, values in x.items() if kind in self.linear}
        z: dict[str, dict[EdgeType, Tensor]] = {}
        for path in self.metapaths:
            src, _, dst = path
            if dst in h:
                source = h[src] if src in h else h[dst][:0]
                z.setdefault(dst, {})[path] = self._attend(path, source, h[dst], edge_index.get(path))
        return z

    def _attend(self, path: EdgeType, source: Tensor, target: Tensor, edge_index: Any) -> Tensor:
        """The values z along one meta-path."""
        if edge_index is None:
            edge_index = torch.empty(2, 0, dtype=torch.long, device=target.device)
        src = F.linear(source, torch.block_diag(*self.att_src[path]))  # (N, K): each head's features, its own vector
        dst = F.linear(target, torch.block_diag(*self.att_dst[path]))
        graph, hidden, size = edge_index, None, (len(source), len(target))
        if path[0] == path[2]:
            graph, hidden = self._with_loops(edge_index, len(target), src)
            size = len(target)
        x = source.view(-1, self.heads, self.out_features)
        return self.propagate(graph, num_nodes=size, x=x, src=src, dst=dst, hidden=hidden)

    def attention(self, src_j, dst_i, hidden):
        score = F.leaky_relu(src_j + dst_i, self.negative_slope, inplace=True)
        return score if hidden is None else score + hidden

    def update(self, message):
        return self.activation(message.flatten(1))

"""Graph networks: edges, then nodes, then the graph, each updated by a network of the user's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from mpnn.features import check_dense
from mpnn.message_passing import MessagePassing
from mpnn.nn.readout import check_parts
from mpnn.plan import Plan

__all__ = ["GraphNetwork"]


class GraphNetwork(MessagePassing):
    r"""Updates edges, then nodes, then a vector for the whole graph.

    .. math::
        e_{ji}' = \phi^e(e_{ji}, x_j, x_i, u), \qquad
        x_i' = \phi^v\Big(\sum_{j \to i} e_{ji}', x_i, u\Big), \qquad
        u' = \phi^u\Big(\sum_{ji} e_{ji}', \sum_i x_i', u\Big)

    Each function is a module of the user's, given its arguments side by side in this order. A part without a function
    keeps its values. Values that are not there (no ``edge_attr``, no ``u``) have width 0, so they take no room in an
    input: without edge values and ``edge``, for example, a node sees itself and u only, which is a deep set.

    Source: Battaglia et al. 2018, arXiv:1806.01261, algorithm 1.
    Deviations: none. Over no edges or no nodes a sum is 0.

    Args:
        edge: :math:`\phi^e`, on rows ``(E, edge features + 2 * node features + graph features)``.
        node: :math:`\phi^v`, on rows ``(N, new edge features + node features + graph features)``.
        graph: :math:`\phi^u`, on rows ``(B, new edge features + new node features + graph features)``.
        aggr: how edges are aggregated into nodes; ``"sum"``, or any other aggregation.
        readout: how edges and nodes are aggregated into the graph.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)``, edge_attr ``(E, ...)``, u ``(B, ...)``, batch ``(N,)`` -> new x, edge_attr,
        u. Without ``batch`` there is one graph; with it and without u, their number is ``num_graphs`` or else read from
        ``batch``.

    Raises:
        ValueError: a value has not one row for each node or edge, or u several rows without ``batch``; x is sparse.

    Example:
        >>> layer = GraphNetwork(edge=nn.Linear(2 + 3 + 3, 4), node=nn.Linear(4 + 3, 5), graph=nn.Linear(4 + 5, 6))
        >>> x, e, u = layer(torch.ones(3, 3), torch.tensor([[0, 1], [1, 2]]), edge_attr=torch.ones(2, 2))
        >>> x.shape, e.shape, u.shape
        (torch.Size([3, 5]), torch.Size([2, 4]), torch.Size([1, 6]))
    """

    returns = ("x", "edge_attr", "u")

    def __init__(
        self,
        edge: nn.Module | None = None,
        node: nn.Module | None = None,
        graph: nn.Module | None = None,
        aggr: str | nn.Module = "sum",
        readout: str | nn.Module = "sum",
    ):
        super().__init__(aggr, readout)
        parts = {"edge": edge, "node": node, "graph": graph}
        check_parts("GraphNetwork", **{name: part for name, part in parts.items() if part is not None})
        self.edge, self.node, self.graph = edge, node, graph

    def reset_parameters(self) -> None:
        for part in (self.edge, self.node, self.graph, self.aggr_module, self.readout_module):
            reset(part)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        u: Tensor | None = None,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_dense("GraphNetwork", x)
        if edge_attr is None:
            edge_attr = x.new_zeros(edge_index.num_edges if isinstance(edge_index, Plan) else edge_index.shape[1], 0)
        if num_graphs is None:
            num_graphs = _num_graphs(u, batch)
        if u is None:
            u = x.new_zeros(num_graphs, 0)
        return self.propagate(edge_index, x=x, edge_attr=edge_attr, u=u, batch=batch, num_graphs=num_graphs)

    def message(self, edge_attr, x_j, x_i, u_g):
        return edge_attr if self.edge is None else self.edge(torch.cat([edge_attr, x_j, x_i, u_g], dim=1))

    def update(self, x, message, u_g):
        return x if self.node is None else self.node(torch.cat([message, x, u_g], dim=1))

    def edge_update(self, message):
        return message

    def global_update(self, u, nodes, edges):
        return u if self.graph is None else self.graph(torch.cat([edges, nodes, u], dim=1))


def _num_graphs(u: Tensor | None, batch: Tensor | None) -> int:
    if u is not None:
        return u.shape[0]
    return 1 if batch is None else int(batch.max()) + 1 if batch.numel() else 0

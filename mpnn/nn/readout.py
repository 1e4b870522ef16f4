"""Readouts: from node values to values of edges and of graphs. Of nodes, any module on rows is one: ``nn.Linear(8,
3)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import AttentionalAggregation
from torch_geometric.nn.inits import reset

from mpnn.aggr import resolve
from mpnn.engine.returned import told
from mpnn.features import Checked, check_dense
from mpnn.graph import check_batch, check_edges
from mpnn.plan import Plan, notes

__all__ = ["EdgeReadout", "GraphReadout", "attention"]


def run_part(model: nn.Module, name: str, *given: Any, **options: Any) -> Any:
    """What a part of a model makes of what it is given; an error of its own is told which part that is, and of what."""
    part = getattr(model, name)
    try:
        return part(*given, **options)
    except Exception as error:  # any module may be a part, so its errors are any, often in torch's words
        error.add_note(
            f"{type(model).__name__}.{name} was given {' and '.join(map(told, given))}, and is {part}. Make {name} as "
            "wide as what it is given."
        )
        raise


def check_parts(owner: str, **parts: Any) -> None:
    """Raises where a part of a model is no module or function that is made: a number, or a class."""
    for name, part in parts.items():
        if isinstance(part, type) or not callable(part):
            what = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
            raise TypeError(f"{owner}: {name} is {what}; expected a module that is made, as nn.Linear(8, 3) is.")


class EdgeReadout(Checked):
    r"""A value for each edge from its two ends.

    .. math::
        y_{ji} = f(x_j, x_i)

    Source: the general form of Gilmer et al. 2017, arXiv:1704.01212, and Battaglia et al. 2018, arXiv:1806.01261.
    Deviations: f sees the two ends only. To let it see edge values too, use :class:`GraphNetwork`.

    Args:
        f: a module, or any function, of two arguments: the rows of the sources and those of the targets; of torch's
            own, ``nn.Bilinear`` or ``nn.CosineSimilarity``.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)``, of any pairs of nodes -> what ``f`` makes of ``(E, F)`` and ``(E, F)``.

    Raises:
        TypeError, ValueError: edge_index is not int64 ``(2, E)``, or an edge leaves the graph.
        ValueError: x is sparse.

    Example:
        >>> EdgeReadout(nn.Bilinear(3, 3, 1))(torch.ones(4, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([2, 1])
    """

    def __init__(self, f):
        super().__init__()
        check_parts("EdgeReadout", f=f)
        self.f = f

    def reset_parameters(self) -> None:
        reset(self.f)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        check_dense("EdgeReadout", x)
        if isinstance(edge_index, Plan):
            edge_index = edge_index.edge_index()
        elif not torch.compiler.is_compiling():
            _check_once(edge_index, x.shape[0])
        src, dst = edge_index
        return run_part(self, "f", x.index_select(0, src), x.index_select(0, dst))


def _check_once(edge_index: Any, num_nodes: int) -> None:
    """Checks the edges where they are first seen, as planning does, which waits for the device."""
    known = notes(edge_index) if isinstance(edge_index, Tensor) else {}
    if ("checked", num_nodes) not in known:
        check_edges("EdgeReadout", edge_index, num_nodes)
        known["checked", num_nodes] = True


class GraphReadout(Checked):
    r"""A value for each graph from all its nodes.

    .. math::
        y = f\big(\mathrm{Aggr}_i\, x_i\big)

    Source: the readout of Gilmer et al. 2017, arXiv:1704.01212, eq. 3. Deviations: none.

    Args:
        aggr: ``"sum"``, ``"mean"``, ``"max"``, :func:`attention`, or any other aggregation of
            ``torch_geometric.nn.aggr`` but those whose result for a graph depends on the other graphs of its batch.
        f: a module on rows; None for none.

    Shape:
        x ``(N, F)``, batch ``(N,)`` the graph of each node (None if there is only one) -> what ``f`` makes of
        ``(B, F)``. The number of graphs is ``num_graphs``, or else read from ``batch``. Of a graph without nodes the
        sum, mean, max and attention are 0, and no gradient flows.

    Raises:
        ValueError: the aggregation is unknown or refused; x is sparse; batch has not one entry a node, or
            one that is no graph.

    Example:
        >>> GraphReadout("mean", nn.Linear(3, 2))(torch.ones(4, 3), batch=torch.tensor([0, 0, 1, 1])).shape
        torch.Size([2, 2])
    """

    def __init__(self, aggr: str | nn.Module = "sum", f: nn.Module | None = None):
        super().__init__()
        self.name, self.aggr = resolve("GraphReadout", aggr)
        check_parts("GraphReadout", **({} if f is None else {"f": f}))
        self.f = f

    def reset_parameters(self) -> None:
        reset(self.aggr)
        reset(self.f)

    def forward(self, x: Tensor, batch: Tensor | None = None, num_graphs: int | None = None) -> Tensor:
        check_dense("GraphReadout", x)
        if batch is None:
            batch, num_graphs = x.new_zeros(x.shape[0], dtype=torch.long), 1
        check_batch("GraphReadout", batch, x.shape[0])
        try:
            pooled = run_part(self, "aggr", x, index=batch, dim_size=num_graphs, dim=0)
        except (IndexError, RuntimeError, ValueError):
            _check_graphs(batch, num_graphs)
            raise
        return pooled if self.f is None else run_part(self, "f", pooled)


def _check_graphs(batch: Tensor, num_graphs: int | None) -> None:
    """Raises unless batch is whole numbers below the number of graphs; looked at once something has failed."""
    if batch.is_floating_point():
        raise TypeError(f"GraphReadout: batch has dtype {batch.dtype}; expected torch.int64. Pass batch.long().")
    outside = (batch < 0) if num_graphs is None else (batch < 0) | (batch >= num_graphs)
    if outside.any():
        node = int(outside.nonzero()[0])
        raise ValueError(
            f"GraphReadout: node {node} is in graph {int(batch[node])}; expected graphs in [0, num_graphs), where "
            f"num_graphs={num_graphs}. {int(outside.sum())} of {len(batch)} nodes are outside. Number the graphs from "
            "0, or pass a larger num_graphs."
        )


def attention(features: int, out_features: int | None = None) -> AttentionalAggregation:
    r"""An aggregation in which the nodes of a graph compete to be seen.

    .. math::
        y = \sum_i \mathrm{softmax}_i(a^T x_i)\, V x_i

    Source: the gated readout of Li, Tarlow, Brockschmidt & Zemel 2016, arXiv:1511.05493, eq. 7.
    Deviations: the gate is a softmax over the nodes of a graph, as in torch_geometric's ``AttentionalAggregation``,
    which this makes; in the paper it is a logistic function of each node alone, and tanh stands around the sum and
    around V x. The gate has no bias, which a softmax would not see.

    Args:
        features: width of ``x``.
        out_features: rows of V; None for no V.

    Example:
        >>> GraphReadout(attention(3))(torch.ones(4, 3))
        tensor([[1., 1., 1.]], grad_fn=...)
    """
    return AttentionalAggregation(
        nn.Linear(features, 1, bias=False), out_features and nn.Linear(features, out_features)
    )

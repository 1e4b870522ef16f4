"""A layer for each type of edge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset
from torch_geometric.nn.module_dict import ModuleDict

from mpnn.features import check_dense
from mpnn.graph import check_edges
from mpnn.nn.readout import check_parts
from mpnn.plan import cached_plan
from mpnn.schedule import Schedule, synchronous
from mpnn.typed import by_type, check_edge_types

__all__ = ["RelationWise"]

EdgeType = tuple[str, str, str]

COMBINE: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "sum": lambda found: torch.stack(found).sum(0),
    "mean": lambda found: torch.stack(found).mean(0),
    "max": lambda found: torch.stack(found).amax(0),
    "cat": lambda found: torch.cat(found, dim=1),
}


class RelationWise(nn.Module):
    r"""Any layer for each type of edge; what they find for the same nodes is summed, joined or attended to.

    .. math::
        h_i' = \mathrm{Combine}_{r}\, f_r(x, E_r)_i \quad \text{over the edge types r that end in the type of i}

    Source: the general form of Schlichtkrull et al. 2018, arXiv:1703.06103, eq. 2, and of ``HeteroConv`` in
    torch_geometric.
    Deviations: where the ends of r are of different types, f_r runs on the two side by side, as one graph with edges
    from the first part to the second, and the second part's rows are its result; so any layer will do, but x must have
    the same width in both. (torch_geometric gives its layers the pair. With ``GraphSAGE`` the results are equal.) A
    type of edge that the graph has none of takes part all the same, so that a graph has the same result alone and in a
    batch; ``HeteroConv`` leaves it out where its key is not given.

    Args:
        layers: ``{(source type, relation, target type): layer}``; a layer takes x and edge_index. If it returns a
            tuple, as cells with states h and c do, the first counts.
        combine: ``"sum"``, ``"mean"``, ``"max"``, ``"cat"`` in the order of ``layers``, or a module that takes the
            list of results, batch and num_graphs, such as :class:`~mpnn.nn.SemanticAttention`.

    Shape:
        x ``{node type: (N, F)}``; edge_index ``{edge type: (2, E)}``; edge_weight, edge_attr and other fields
        ``{edge type: (E, ...)}``, for those layers that ask for them; batch ``{node type: (N,)}``, for a module that
        combines -> ``{node type: (N, out)}`` for the types that edges with a layer end in. Types that are left out have
        no nodes and edges; edges without a layer are not looked at.

    Raises:
        TypeError: a key of ``layers`` is no edge type.
        ValueError: there is no layer; ``combine`` is unknown; the ends of an edge type have other widths; the graph has
            edges, but none of a type with a layer.

    Example:
        >>> from mpnn.nn import GAT, GraphSAGE
        >>> writes, cites = ("author", "writes", "paper"), ("paper", "cites", "paper")
        >>> layer = RelationWise({writes: GraphSAGE(3, 8), cites: GAT(3, 8)})
        >>> x = {"author": torch.ones(2, 3), "paper": torch.ones(4, 3)}
        >>> layer(x, {writes: torch.tensor([[0, 1], [3, 3]]), cites: torch.tensor([[0], [1]])})["paper"].shape
        torch.Size([4, 8])
    """

    def __init__(self, layers: Mapping[EdgeType, nn.Module], combine: str | nn.Module = "sum"):
        super().__init__()
        if not layers:
            raise ValueError("RelationWise: layers is empty; expected {(source type, relation, target type): layer}.")
        check_edge_types("RelationWise", "layers", layers)
        for kind, layer in layers.items():
            check_parts(f"RelationWise {kind}", layer=layer)
        if isinstance(combine, str) and combine not in COMBINE:
            raise ValueError(
                f"RelationWise: combine={combine!r} is unknown; expected {', '.join(map(repr, COMBINE))}, or a module."
            )
        self.kinds, self.layers = [tuple(kind) for kind in layers], ModuleDict(layers)
        self.combine = combine

    def reset_parameters(self) -> None:
        for part in (*self.layers.values(), self.combine):
            reset(part)

    def forward(
        self,
        x: Mapping[str, Tensor],
        edge_index: Mapping[EdgeType, Any],
        batch: Mapping[str, Tensor] | None = None,
        num_graphs: int | None = None,
        edge_weight: Mapping[EdgeType, Tensor] | None = None,
        edge_attr: Mapping[EdgeType, Tensor] | None = None,
        **fields: Mapping[EdgeType, Any],
    ) -> dict[str, Tensor]:
        edge_index = by_type(edge_index, "RelationWise", self.kinds)
        fields |= {"edge_weight": edge_weight or {}, "edge_attr": edge_attr or {}}
        found: dict[str, list[Tensor]] = {}
        for kind in self.kinds:
            if kind[2] in x:
                found.setdefault(kind[2], []).append(self._along(kind, x, edge_index.get(kind), fields))
        if isinstance(self.combine, str):
            return {kind: COMBINE[self.combine](values) for kind, values in found.items()}
        return {kind: self.combine(values, batch and batch[kind], num_graphs) for kind, values in found.items()}

    def _along(self, kind: EdgeType, x: Mapping[str, Tensor], edge_index: Any, fields: Mapping[str, Any]) -> Tensor:
        """What the layer of one edge type gives the targets."""
        layer, (src, _, dst) = self.layers[kind], kind
        target = x[dst]
        if edge_index is None:
            edge_index = torch.empty(2, 0, dtype=torch.long, device=target.device)
        given = _asked_for(layer, {name: values[kind] for name, values in fields.items() if kind in values})
        if src == dst:
            return _first(layer(target, edge_index, **given))
        source = x[src] if src in x else target[:0]
        rows = _stacked(kind, source, target)
        joined = cached_plan(edge_index, synchronous, (len(source), len(target)), f"RelationWise {kind}", _side_by_side)
        return _first(layer(rows, joined, **given))[len(source) :]

    def extra_repr(self) -> str:
        return f"combine={self.combine!r}" if isinstance(self.combine, str) else ""


def _asked_for(layer: nn.Module, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in inspect.signature(layer.forward).parameters}


def _first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def _stacked(kind: EdgeType, source: Tensor, target: Tensor) -> Tensor:
    """The rows of the sources, then those of the targets."""
    check_dense(f"RelationWise {kind}", source)
    check_dense(f"RelationWise {kind}", target)
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"RelationWise: {kind} joins {kind[0]!r} with {source.shape[1]} features and {kind[2]!r} with "
            f"{target.shape[1]}; expected the same width at both ends. Put an mpnn.features.Linear in front of one."
        )
    return torch.cat([source, target])


def _side_by_side(edge_index: Tensor, schedule: Schedule, num_nodes: tuple[int, int], owner: str) -> Tensor:
    """The same edges where the targets stand behind the sources."""
    check_edges(owner, edge_index, num_nodes)
    return torch.stack([edge_index[0], edge_index[1] + num_nodes[0]])

"""Aggregations: torch_geometric's, by name or object, less those whose result for a node depends on other nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr as geometric
from torch_geometric.nn.resolver import aggregation_resolver

__all__ = ["reduce", "resolve"]

REFUSED = {
    "LSTMAggregation": "it runs its LSTM over the padding of shorter neighbourhoods; use mpnn.nn.LSTMAggregation, "
    "which packs them",
    "GRUAggregation": "it runs its GRU over the padding of shorter neighbourhoods",
    "LCMAggregation": "its network of pairwise reductions takes padding in as neighbours",
    "PatchTransformerAggregation": "it cuts the padded neighbourhoods into patches",
    "EquilibriumAggregation": "its optimiser stops when all nodes of the batch together have converged",
}
"""Of all aggregations that torch_geometric 2.8 exports, exactly those whose result for a node moves when another node
with more messages joins the batch; the tests try each. (Batch normalisation inside an aggregation, in training, does so
by intent.)"""


def resolve(owner: str, aggr: str | nn.Module) -> tuple[str, nn.Module]:
    """An aggregation's name and module.

    Raises:
        ValueError: the name is unknown or needs arguments, or the aggregation would change a node's result with its
            neighbours in the batch.
        TypeError: ``aggr`` is neither a name nor a module.
    """
    if isinstance(aggr, str):
        name, module = ("sum" if aggr == "add" else aggr), _named(owner, aggr)
    elif isinstance(aggr, nn.Module):
        name, module = type(aggr).__name__, aggr
    else:
        raise TypeError(
            f"{owner}: aggr is a {type(aggr).__name__}; expected a name such as 'sum', or an object of "
            "torch_geometric.nn.aggr."
        )
    for part in module.modules():
        for kind in type(part).__mro__:
            if kind.__module__.startswith("torch_geometric.nn.aggr") and kind.__name__ in REFUSED:
                raise ValueError(
                    f"{owner}: aggr={kind.__name__} is refused, because a node's result would change with the other "
                    f"nodes of its batch: {REFUSED[kind.__name__]}."
                )
    return name, module


def reduce(module: nn.Module, x: Tensor, index: Tensor, num_nodes: int) -> Tensor:
    """What an aggregation makes of the rows ``(E, F)`` of each node.

    Quantiles in torch_geometric 2.8 fail where the first node has no row or there is none at all; they get one node
    more, with rows, in front.
    """
    if not any(isinstance(part, geometric.QuantileAggregation) for part in module.modules()):
        return module(x, index=index, dim_size=num_nodes, dim=0)
    x = torch.cat([x.new_zeros(2, *x.shape[1:]), x])
    return module(x, index=torch.cat([index.new_zeros(2), index + 1]), dim_size=num_nodes + 1, dim=0)[1:]


def _named(owner: str, name: str) -> nn.Module:
    try:
        return geometric.SumAggregation() if name == "sum" else aggregation_resolver(name)
    except ValueError as error:
        raise ValueError(
            f"{owner}: aggr={name!r} is unknown; expected 'sum', 'mean', 'max', 'min', 'mul', 'var', 'std', 'softmax', "
            "'median' or another name or object of torch_geometric.nn.aggr."
        ) from error
    except TypeError as error:
        raise ValueError(
            f"{owner}: aggr={name!r} needs arguments of its own; pass the object, as in "
            "aggr=mpnn.nn.LSTMAggregation(8, 8)."
        ) from error

"""Aggregations: torch_geometric's, by name or object, less those whose result for a node depends on other nodes."""

from __future__ import annotations

from torch import nn
from torch_geometric.nn import aggr as geometric
from torch_geometric.nn.resolver import aggregation_resolver

__all__ = ["resolve"]

REFUSED = {
    "LSTMAggregation": "it runs its LSTM over the padding of shorter neighbourhoods; use mpnn.nn.LSTMAggregation, which packs them",
    "GRUAggregation": "it runs its GRU over the padding of shorter neighbourhoods",
    "LCMAggregation": "its network of pairwise reductions takes padding in as neighbours",
    "PatchTransformerAggregation": "it cuts the padded neighbourhoods into patches",
    "EquilibriumAggregation": "its optimiser stops when all nodes of the batch together have converged",
}


def resolve(owner: str, aggr: str | nn.Module) -> tuple[str, nn.Module]:
    """An aggregation's name and module.

    Raises:
        ValueError: the name is unknown, or the aggregation would change a node's result with its neighbours in the batch.
    """
    if isinstance(aggr, str) and aggr in ("sum", "add"):
        return "sum", geometric.SumAggregation()
    if isinstance(aggr, str):
        try:
            module = aggregation_resolver(aggr)
        except ValueError as error:
            raise ValueError(
                f"{owner}: aggr={aggr!r} is unknown; expected 'sum', 'mean', 'max', 'min', 'mul', 'var', 'std', 'softmax', 'median' or "
                "another name or object of torch_geometric.nn.aggr."
            ) from error
    else:
        module = aggr
    kind = type(module).__name__
    parts = [type(m).__name__ for m in module.modules() if type(m).__module__.startswith("torch_geometric")] or [kind]
    for part in parts:
        if part in REFUSED:
            raise ValueError(
                f"{owner}: aggr={part} is refused, because a node's result would change with the other nodes of its batch: "
                f"{REFUSED[part]}."
            )
    return (aggr if isinstance(aggr, str) else kind), module

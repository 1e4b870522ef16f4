"""What runs once the nodes have fired: updates of edges, then of graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.aggr import reduce
from mpnn.engine.call import Call, Result, call_hook, each
from mpnn.engine.returned import check_rows
from mpnn.hooks import MISSING, Argument, named


def edge_values(call: Call, result: Result, kind: str) -> Any:
    """``edge_update`` on all edges of one type, in the user's order."""
    hook, (src, dst) = call.hooks.edge_update, call.plan.edge_index(kind)

    def at_end(argument: Argument) -> Any:
        """A node's value at one end of each edge, as the edge's message saw it."""
        end = src if argument.role == "source" else dst
        if argument.field.startswith("message"):
            return each(lambda m: m.index_select(0, end), result.aggregated[call.message_name(kind)])
        value = call.value(hook, argument, kind)
        if not isinstance(value, Tensor) or not value.dim():
            return value
        value = value.index_select(0, end)
        if argument.role == "source" and argument.field in call.layer.state and call.plan.num_levels > 1:
            new = result.nodes[call.layer.state.index(argument.field)].index_select(0, end)
            newer = call.plan.level[src] < call.plan.level[dst]
            value = torch.where(newer.view(-1, *(1,) * (new.dim() - 1)), new, value)
        return value

    def given(argument: Argument) -> Any:
        if argument.role == "message":
            return result.messages[kind]
        return call.value(hook, argument, kind) if argument.role == "edge" else at_end(argument)

    new = call_hook(call.layer, hook, [given(argument) for argument in hook.arguments])
    check_rows(call.layer, "edge_update", new, len(src), "edges")
    return new


def graph_values(call: Call, nodes: Any, edges: dict[str, Any]) -> Any:
    """``global_update``, given new node and edge values pooled over each graph."""
    hook, pool = call.hooks.global_update, call.layer.readout_module
    given = {a.name: call.fields.get(a.field, a.default) for a in hook.arguments if a.role == "own"}
    for name, value in given.items():
        if value is MISSING:
            raise TypeError(
                f"{type(call.layer).__name__}.global_update asks for {name!r}, which was not passed. Pass {name}=..., "
                f"or rename the argument: {named('global_update')}."
            )
    batch = call.batch
    if batch is None:
        batch = call.like().new_zeros(call.plan.num_nodes, dtype=torch.long)
    graphs = call.num_graphs or next((v.shape[0] for v in given.values() if isinstance(v, Tensor) and v.dim()), None)
    graphs = graphs or (int(batch.max()) + 1 if batch.numel() else 1)

    def pooled(values: Any, index: Tensor) -> Any:
        return each(lambda v: reduce(pool, v, index, graphs), values)

    given["nodes"] = pooled(nodes, batch)
    by_kind = {kind: pooled(v, batch.index_select(0, call.plan.edge_index(kind)[1])) for kind, v in edges.items()}
    given["edges"] = by_kind if len(by_kind) > 1 else next(iter(by_kind.values()), None)
    new = call_hook(call.layer, hook, [given[a.name] for a in hook.arguments])
    check_rows(call.layer, "global_update", new, graphs, "graphs")
    return new

"""One level of structured messages as sparse products: nothing that is edges by features, forward or backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result, call_hook, tuple_of, weights
from mpnn.engine.wavefront import Whole
from mpnn.hooks import Hook


def spmm(call: Call) -> Result:
    """Weights of all edges at once, then the weighted sums of what the sources send, then the update of all nodes."""
    layer, hooks, plan = call.layer, call.hooks, call.plan
    ((kind, edges),) = plan.edges.items()

    def at_edges(hook: Hook) -> list:
        return [_at_edges(call.value(hook, a, kind), a.role, edges) for a in hook.arguments]

    arguments = {hook.name: at_edges(hook) for hook in (hooks.weight, hooks.attention) if hook is not None}
    weight = weights(layer, hooks, arguments, Whole(edges))
    value = call.value(hooks.value, hooks.value.arguments[0], kind)
    if layer.aggr == "mean":
        mean = kernels.mean_weight(edges, value)
        weight = mean if weight is None else kernels.weigh(mean, weight)
    message = kernels.weighted_sum(edges, weight, value)
    update = hooks.update
    own = [message if a.role == "message" else call.value(update, a) for a in update.arguments]
    new = tuple_of(call_hook(layer, update, own))
    call.check_state(new, plan.num_nodes)
    return Result(new)


def _at_edges(value: Any, role: str, edges) -> Any:
    """A field at every edge; a value without rows is the same everywhere."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    if role == "edge":
        return edges.place(value)
    return kernels.gather(value, edges, "source" if role == "source" else "target")

"""One level of structured messages as sparse products: nothing that is edges by features, forward or backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result, call_hook, tuple_of, weights
from mpnn.engine.wavefront import Whole
from mpnn.hooks import Hook

LARGE = 1 << 24  # numbers that hooks ask for at the ends of edges, above which they are gathered piece by piece,
FEW = 64  # unless they are no more than so many an edge, as the scores of heads are


def spmm(call: Call) -> Result:
    """Weights of all edges at once, then the weighted sums of what the sources send, then the update of all nodes."""
    layer, hooks, plan = call.layer, call.hooks, call.plan
    ((kind, edges),) = plan.edges.items()

    weight = weights(layer, hooks, lambda hook: _at_edges(call, hook, kind, edges), Whole(edges))
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


def _at_edges(call: Call, hook: Hook, kind: str, edges) -> Any:
    """What a hook gives for the edges: piece by piece, if what it asks for is too large to be gathered at once."""
    values = [call.value(hook, a, kind) for a in hook.arguments]
    ends = [_end(value, a.role) for value, a in zip(values, hook.arguments)]
    values = [edges.place(value) if end == "edge" else value for value, end in zip(values, ends)]
    function = getattr(call.layer, hook.name)
    width = kernels.gathered(values, ends)
    if width > FEW and len(edges) * width > LARGE and not isinstance(edges, kernels.Loose):
        return kernels.in_pieces(edges, function, values, ends)
    values = [kernels.gather(v, edges, end) if end in ("source", "target") else v for v, end in zip(values, ends)]
    return function(*values)


def _end(value: Any, role: str) -> str:
    """Where the rows of a value are; a value without rows is the same everywhere."""
    if not isinstance(value, Tensor) or not value.dim():
        return "same"
    return role if role in ("edge", "source") else "target"

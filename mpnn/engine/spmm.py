"""One level of structured messages as sparse products: nothing that is edges by features, forward or backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import weights
from mpnn.engine.prepared import Prepared
from mpnn.engine.returned import check_weight
from mpnn.engine.wavefront import Whole
from mpnn.hooks import Hook

LARGE = 1 << 24  # numbers that hooks ask for at the ends of edges, above which they are gathered piece by piece,
FEW = 64  # unless they are no more than so many an edge, as the scores of heads are


class Products(Prepared):
    """Weights of all edges at once, then the weighted sums of what the sources send, then the update of all nodes."""

    def __init__(self, layer, plan):
        (kind,) = plan.edges
        on_edges = layer.hooks.on_edges(kind)
        super().__init__(layer, plan, [*on_edges, layer.hooks.update])
        self.whole = Whole(self.edges)
        self.gathers = {hook.name for hook in on_edges if any(a.role != "edge" for a in hook.arguments)}

    def aggregated(self, layer, values: list) -> Tensor:
        hooks, value = layer.hooks, values[0]
        if _attends(layer):
            score = self.at_edges(layer, hooks.attention, values)
            return kernels.attend(self.edges, check_weight(layer, "attention", score, len(self.edges), value), value)
        weight = weights(layer, hooks, lambda hook: self.at_edges(layer, hook, values), self.whole, value)
        summed = kernels.weighted_mean if layer.aggr == "mean" else kernels.weighted_sum
        return summed(self.edges, weight, value)

    def at_edges(self, layer, hook: Hook, values: list) -> Any:
        """What a hook gives for the edges: piece by piece, if what it asks for is too large to be gathered at once."""
        values, edges, function = values[self.parts[hook.name]], self.edges, getattr(layer, hook.name)
        if hook.name not in self.gathers:
            return function(*values)
        ends = [_end(value, a.role) for value, a in zip(values, hook.arguments)]
        width = kernels.gathered(values, ends)
        if width > FEW and len(edges) * width > LARGE and not isinstance(edges, kernels.Loose):
            return kernels.in_pieces(edges, function, values, ends)
        values = [kernels.gather(v, edges, end) if end in ("source", "target") else v for v, end in zip(values, ends)]
        return function(*values)


def _attends(layer) -> bool:
    """Whether the weights are the softmax of scores and nothing else."""
    drops = layer.training and layer.attention_dropout
    return layer.hooks.attention is not None and not layer.hooks.weight and not drops and layer.aggr == "sum"


def _end(value: Any, role: str) -> str:
    """Where the rows of a value are; a value without rows is the same everywhere."""
    if not isinstance(value, Tensor) or not value.dim():
        return "same"
    return role if role in ("edge", "source") else "target"

"""One level of a small graph: ordinary autograd, and nothing of our own to differentiate.

A function with a derivative of its own costs as much as what it computes here: so a gather is an ``index_select`` and a
sum an ``index_add``, forward and backward, and there is a double backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import each, messages
from mpnn.engine.prepared import Prepared
from mpnn.engine.returned import check_rows
from mpnn.plan import Edges

FEW = 256  # edges up to which taking them one by one is quicker than sparse products (measured on a CPU)
SHORT = 1 << 12  # numbers up to which a sum over segments is quicker than adding rows


def not_small(layer, plan, only) -> str | None:
    """Why a pass is not run as one over a small graph, if so."""
    hooks = layer.hooks
    if hooks.structured and not hooks.attention:
        return "messages are a weight times a value, for which there are sparse products"
    if torch.compiler.is_compiling():
        return "a compiler traces it"
    if layer.state:
        return "the layer has a state"
    if plan.edges.keys() != {""} or len(plan.edges[""]) > FEW:
        return f"there are more than {FEW} edges, or they have types"
    if hooks.aggregate or layer.aggr not in ("sum", "mean"):
        return f"the aggregation is {'its own' if hooks.aggregate else repr(layer.aggr)}, not 'sum' or 'mean'"
    if hooks.edge_update or hooks.global_update:
        return "edges or graphs are updated, too"
    if any(hook.asks("graph") for hook in (*hooks.on_edges(""), hooks.update)):
        return "a hook asks for a value of the graph"
    return None if plan.edges[""].src.is_cpu else "sums in a fixed order need a CPU"


class Small(Prepared):
    """Messages of all edges, then their sums, then the update of all nodes."""

    def __init__(self, layer, plan):
        edges = plan.edges[""]
        super().__init__(layer, plan, [*layer.hooks.on_edges(""), layer.hooks.update], edges.src, edges.dst)
        self.segment, self.num_edges = Few(edges), len(edges)
        self.reduce, self.message = getattr(self.segment, layer.aggr), self.parts.get("message")

    def aggregated(self, layer, values: list) -> Tensor | tuple[Tensor, ...]:
        if self.message is not None:
            sent = layer.message(*values[self.message])
            if type(sent) is Tensor and sent.dim() and sent.shape[0] == self.num_edges:
                return self.reduce(sent)
            check_rows(layer, "message", sent, self.num_edges, "edges")
            return each(self.reduce, sent)
        given = {name: values[part] for name, part in self.parts.items()}
        return self.reduce(messages(layer, layer.hooks, "", given, self.segment))


class Few:
    """All edges of a small graph, as messages are summed over them."""

    def __init__(self, edges: Edges):
        self.edges, self.rowptr, self.index = edges, edges.rowptr, edges.dst.long()
        self.num_nodes, self.num_edges = edges.num_dst, len(edges)

    def sum(self, values: Tensor) -> Tensor:
        if values.requires_grad or values.numel() > SHORT or not values.is_floating_point():
            values = kernels.addends(values)
            return values.new_zeros(self.num_nodes, *values.shape[1:]).index_add(0, self.index, values)
        return torch.segment_reduce(values, "sum", offsets=self.rowptr)  # the same, in the same order

    def softmax(self, score: Tensor) -> Tensor:
        top = torch.segment_reduce(score.detach(), "max", offsets=self.rowptr)
        grown = (score - top.index_select(0, self.index)).exp()
        return grown / self.sum(grown).index_select(0, self.index)

    def mean(self, values: Tensor) -> Tensor:
        total = self.sum(values)
        return total / kernels.degree(self.edges, total).view(-1, *(1,) * (total.dim() - 1))

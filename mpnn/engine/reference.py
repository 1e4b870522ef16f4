"""The executable specification: plain loops, one node after the other.

Every other way of running must give what this gives. It is slow on purpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn.engine.call import Call, Result, aggregate, call_hook, each, joined, messages, rows, tuple_of


class _OneNode:
    """The edges into one node (or, in a graph without nodes, into none), as messages are summed over them."""

    def __init__(self, nodes: int, edges: int):
        self.num_nodes, self.num_edges, self.index = nodes, edges, torch.zeros(edges, dtype=torch.long)

    def sum(self, values: Tensor) -> Tensor:
        return values.sum(0, keepdim=True)[: self.num_nodes]

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / max(len(values), 1)

    def softmax(self, score: Tensor) -> Tensor:
        return score.softmax(0)


def reference(call: Call) -> Result:
    """Nodes level by level, one at a time; a source fires new state to later levels and old state to all others.

    A layer whose ``update`` looks at all nodes of a level says so by ``whole_frontiers``, and gets them at once.
    """
    layer, hooks, plan, state = call.layer, call.hooks, call.plan, call.layer.state
    level = plan.level.tolist()
    edge_index = {kind: plan.edge_index(kind).tolist() for kind in plan.edges}
    new: dict[int, tuple] = {}  # what nodes of lower levels became

    def newest(name: str, j: int, i: int, old: Tensor) -> Tensor:
        return new[j][state.index(name)] if name in state and level[j] < level[i] else old[j : j + 1]

    def edge_arguments(kind: str, hook, edges: list[int]) -> list:
        src, dst = edge_index[kind]
        at = {"source": [src[e] for e in edges], "target": [dst[e] for e in edges], "edge": edges}
        at["graph"] = at["target"]
        values = [(a, call.value(hook, a, kind)) for a in hook.arguments]
        return [
            torch.cat([old[:0]] + [newest(a.field, src[e], dst[e], old) for e in edges])
            if a.role == "source" and isinstance(old, Tensor)
            else rows(old, at[a.role])
            for a, old in values
        ]

    def receive(node: list[int]) -> tuple[dict, dict]:
        sent, got = {}, {}
        for kind in plan.edges:
            edges = [e for e, i in enumerate(edge_index[kind][1]) if i in node]
            segment = _OneNode(len(node), len(edges))
            arguments = {hook.name: edge_arguments(kind, hook, edges) for hook in hooks.on_edges(kind)}
            sent[kind] = (edges, messages(layer, hooks, kind, arguments, segment))
            got[call.message_name(kind)] = aggregate(layer, kind, sent[kind][1], segment)
        return sent, got

    def fire(nodes: list[int]) -> tuple:
        sent, got = zip(*([receive([i]) for i in nodes] or [receive([])]))
        got = {name: joined([one[name] for one in got]) for name in got[0]}
        update = hooks.update
        own = [got[a.field] if a.role == "message" else rows(call.value(update, a), nodes) for a in update.arguments]
        result = tuple_of(call_hook(layer, update, own))
        call.check_state(result, len(nodes))
        return nodes, result, sent, got

    fired = []
    for now in range(plan.num_levels):
        frontier = [i for i in range(plan.num_nodes) if level[i] == now]
        together = [frontier] if layer.whole_frontiers or not frontier else [[i] for i in frontier]
        for nodes in together:
            fired.append(fire(nodes))
            new |= {i: tuple(value[k : k + 1] for value in fired[-1][1]) for k, i in enumerate(nodes)}
    order = torch.tensor([i for nodes, *_ in fired for i in nodes], dtype=torch.long).argsort()
    return Result(
        nodes=tuple(torch.cat(column)[order] for column in zip(*(result for _, result, _, _ in fired))),
        aggregated={name: each(lambda v: v[order], joined([got[name] for *_, got in fired])) for name in fired[0][3]},
        messages={kind: _in_edge_order([one[kind] for _, _, sent, _ in fired for one in sent]) for kind in plan.edges},
    )


def _in_edge_order(sent: list[tuple[list[int], object]]):
    order = torch.tensor([e for edges, _ in sent for e in edges], dtype=torch.long).argsort()
    return each(lambda column: column[order], joined([message for _, message in sent]))

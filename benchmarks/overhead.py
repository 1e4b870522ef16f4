"""What the library costs where there is nothing to compute: one call on ten nodes, and the import.

- ``propagate``: a layer that sums its neighbours, written on the hooks of mpnn and of torch_geometric, on a graph of 10
  nodes and 20 edges with 4 features. The reference is the gather and the ``index_add`` in plain torch.
- ``backward``: the same, forward and backward.
- ``importing``: a fresh interpreter that imports mpnn, beside one that imports torch and torch_geometric, on which it
  stands.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from _harness import Case, Contender, Step, main, peer
from torch import Tensor

import mpnn

NODES, EDGES, FEATURES = 10, 20, 4


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, FEATURES, generator=generator)
    return x, torch.randint(NODES, (2, EDGES), generator=generator)


def call_step(layer: Callable[[Tensor, Tensor], Tensor], backward: bool) -> Step:
    """One call on the small graph, with the gradient of x if asked for."""
    x, edge_index = inputs()
    x.requires_grad_(backward)

    def step():
        x.grad = None
        out = layer(x, edge_index)
        if not backward:
            return [out.detach()]
        out.sum().backward()
        return [out.detach(), x.grad]

    return step


def mpnn_sum(backward: bool) -> Step:
    class Sum(mpnn.MessagePassing):
        def forward(self, x, edge_index):
            return self.propagate(edge_index, x=x)

        def message(self, x_j):
            return x_j

    return call_step(Sum(), backward)


def mpnn_planned(backward: bool) -> Step:
    class Sum(mpnn.MessagePassing):
        value = "x"

        def forward(self, x, edge_index):
            return self.propagate(edge_index, x=x)

    layer, plan = Sum(), mpnn.plan(inputs()[1], num_nodes=NODES)
    return call_step(lambda x, _: layer(x, plan), backward)


def pyg_sum(backward: bool) -> Step:
    base = peer("torch_geometric").nn.MessagePassing

    class Sum(base):
        def __init__(self):
            super().__init__(aggr="add")

        def forward(self, x, edge_index):
            return self.propagate(edge_index, x=x)

        def message(self, x_j):
            return x_j

    return call_step(Sum(), backward)


def plain_sum(backward: bool) -> Step:
    return call_step(lambda x, e: torch.zeros_like(x).index_add(0, e[1], x.index_select(0, e[0])), backward)


def propagate_case(backward: bool, smoke: bool) -> Case:
    rows = [
        Contender("mpnn, message(x_j)", partial(mpnn_sum, backward), "mpnn"),
        Contender('mpnn, value = "x", a plan', partial(mpnn_planned, backward), "mpnn"),
        Contender("torch_geometric, message(x_j)", partial(pyg_sum, backward)),
        Contender("gather and index_add alone", partial(plain_sum, backward), "reference"),
    ]
    what = "forward and backward" if backward else "forward"
    return Case(
        f"One sum over neighbours, {NODES} nodes, {EDGES} edges, {FEATURES} features; {what}.", rows, memory=False
    )


def fresh(statement: str) -> Step:
    """Runs a statement in a fresh interpreter."""

    def step():
        subprocess.run([sys.executable, "-c", statement], check=True)
        return []

    return step


def import_case(smoke: bool) -> Case:
    statements = {"mpnn": "import mpnn", "peer": "import torch, torch_geometric", "reference": "import torch"}
    if smoke:
        statements = {"mpnn": "import json", "peer": "import csv", "reference": "pass"}
    rows = [Contender(f"`{code}`", partial(fresh, code), role, agrees=False) for role, code in statements.items()]
    return Case("A fresh interpreter, start and end included.", rows, memory=False)


CASES = {
    "propagate": partial(propagate_case, False),
    "backward": partial(propagate_case, True),
    "importing": import_case,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

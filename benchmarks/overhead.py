"""What the library costs where there is nothing to compute: one call on ten nodes, and the import.

- ``propagate``: a layer that sums its neighbours, written on the hooks of mpnn and of torch_geometric, on a graph of 10
  nodes and 20 edges with 4 features. The reference is the gather and the ``index_add`` in plain torch.
- ``backward``: the same, forward and backward.
- ``GCN``, ``GAT``, ``GraphSAGE``, ``GIN``: a layer with the same weights in both libraries, forward and backward, on
  the karate club of 34 nodes and 156 edges, 34 features in and 16 out; ``GCN-inference`` and so on, forward alone.
- ``GCN-batches`` and so on: forward and backward on a graph of the size of 64 molecules, whose edge_index is a
  new tensor at every step, as a data loader gives it: planning is part of the step.
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
from torch import Tensor, nn

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

    def forward():
        return [layer(x, edge_index)]

    def step():
        x.grad = None
        (out,) = forward()
        out.sum().backward()
        return [out.detach(), x.grad]

    return step if backward else forward


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


# Layers -------------------------------------------------------------------------------------------------------------

WIDTH = 16
MOLECULES = (1600, 3400, 64)  # nodes, edges, features
WEIGHTS = {  # our parameter's name: theirs
    "GCN": {"linear.weight": "lin.weight", "bias": "bias"},
    "GAT": {"linear.weight": "lin.weight", "att_src": "att_src", "att_dst": "att_dst", "bias": "bias"},
    "GraphSAGE": {"neighbour.weight": "lin_l.weight", "neighbour.bias": "lin_l.bias", "own.weight": "lin_r.weight"},
    "GIN": {"mlp.weight": "nn.weight", "mlp.bias": "nn.bias"},
}


def layers(name: str, width: int, cached: bool = False) -> tuple[nn.Module, nn.Module]:
    """The layer here and in torch_geometric, with the same weights."""
    theirs = peer("torch_geometric").nn
    torch.manual_seed(0)
    ours, other = {
        "GCN": lambda: (mpnn.nn.GCN(width, WIDTH), theirs.GCNConv(width, WIDTH, cached=cached)),
        "GAT": lambda: (mpnn.nn.GAT(width, WIDTH // 2, heads=2), theirs.GATConv(width, WIDTH // 2, heads=2)),
        "GraphSAGE": lambda: (mpnn.nn.GraphSAGE(width, WIDTH), theirs.SAGEConv(width, WIDTH)),
        "GIN": lambda: (mpnn.nn.GIN(nn.Linear(width, WIDTH)), theirs.GINConv(nn.Linear(width, WIDTH))),
    }[name]()
    mine, yours = dict(ours.named_parameters()), dict(other.named_parameters())
    with torch.no_grad():
        for here, there in WEIGHTS[name].items():
            yours[there].copy_(mine[here].view_as(yours[there]))
    return ours, other


def karate() -> tuple[Tensor, Tensor]:
    """Features and edges."""
    data = peer("torch_geometric").datasets.KarateClub()[0]
    return data.x.clone(), data.edge_index


def molecules() -> tuple[Tensor, Tensor]:
    num_nodes, num_edges, features = MOLECULES
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_nodes, features, generator=generator)
    return x, torch.randint(num_nodes, (2, num_edges), generator=generator)


def layer_step(name: str, make: Callable, backward: bool, ours: bool, cached: bool = False, new: bool = False) -> Step:
    """One layer; ``new``: on an edge_index that was not seen before."""
    x, edge_index = make()
    layer = layers(name, x.shape[1], cached)[0 if ours else 1]
    x.requires_grad_(backward)

    def step():
        x.grad = None
        layer.zero_grad()
        with torch.set_grad_enabled(backward):
            out = layer(x, edge_index.clone() if new else edge_index)
        if not backward:
            return [out]
        out.sum().backward()
        return [out.detach(), x.grad]

    return step


def bare_step(make: Callable, backward: bool) -> Step:
    """One product and one sum over neighbours, which each of these layers needs."""
    x, (src, dst) = make()
    x.requires_grad_(backward)
    weight = torch.randn(x.shape[1], WIDTH, requires_grad=True)

    def step():
        x.grad = weight.grad = None
        with torch.set_grad_enabled(backward):
            h = x @ weight
            out = torch.zeros_like(h).index_add(0, dst, h.index_select(0, src))
        if not backward:
            return [out]
        out.sum().backward()
        return [out.detach(), x.grad]

    return step


def layer_case(name: str, backward: bool, smoke: bool) -> Case:
    rows = [
        Contender(f"mpnn, {name}", partial(layer_step, name, karate, backward, True), "mpnn"),
        Contender(f"torch_geometric, {name}", partial(layer_step, name, karate, backward, False)),
    ]
    rows.append(
        Contender("a product and index_add alone", partial(bare_step, karate, backward), "reference", agrees=False)
    )
    if name == "GCN":
        rows.append(Contender("torch_geometric, cached", partial(layer_step, name, karate, backward, False, True)))
    what = "forward and backward" if backward else "forward, without gradients"
    return Case(f"{name} on the karate club, 34 nodes, 156 edges; {what}.", rows, memory=False)


def batches_case(name: str, smoke: bool) -> Case:
    rows = [
        Contender(f"mpnn, {name}", partial(layer_step, name, molecules, True, True, new=True), "mpnn"),
        Contender(f"mpnn, {name}, the same edge_index", partial(layer_step, name, molecules, True, True), "mpnn"),
        Contender(f"torch_geometric, {name}", partial(layer_step, name, molecules, True, False, new=True)),
        Contender("a product and index_add alone", partial(bare_step, molecules, True), "reference", agrees=False),
    ]
    num_nodes, num_edges, features = MOLECULES
    size = f"{num_nodes:,} nodes, {num_edges:,} edges, {features} features"
    return Case(f"{name} on a graph that is new at every step, {size}; forward and backward.", rows, memory=False)


# Import ---------------------------------------------------------------------------------------------------------------


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
    **{name: partial(layer_case, name, True) for name in WEIGHTS},
    **{f"{name}-inference": partial(layer_case, name, False) for name in WEIGHTS},
    **{f"{name}-batches": partial(batches_case, name) for name in WEIGHTS},
    "importing": import_case,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

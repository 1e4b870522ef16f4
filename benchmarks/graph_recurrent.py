"""Recurrent cells with graph layers in their gates: sequences on a graph of sensors, as for traffic.

32 sequences of 12 steps on one graph of 207 sensors with weighted edges to the nearest ones, both ways, 2 inputs and 64
hidden features; forward, and backward from dense gradients of all states to the weights and the inputs. ``gcn-gru`` and
``gcn-lstm`` have a GCN for each product, ``cheb-gru`` and ``cheb-lstm`` Chebyshev filters of three terms. There the
peers are ``GConvGRU`` and ``GConvLSTM`` of torch-geometric-temporal (if it can be imported), step after step on all
sequences side by side, the LSTM's peepholes at 0; the GRU has its reset gate before the product, as they do. (Its
``TGCN`` convolves no states, and its ``DCRNN`` leaves the weights of edges out of the walks: these compute something
else.)

The other peers are loops over torch_geometric's layers with all gates in one, as they can best be written: on the
sequences side by side with the normalisation cached, on one graph with the sequences as a dimension, and on a
``torch.sparse`` matrix. The reference is the matrix products alone, each as a single batch over all steps.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch_geometric.nn as geometric
from _harness import Case, Contender, Step, main, peer
from torch import Tensor, nn
from torch_geometric.data import Batch

import mpnn
from mpnn.spacetime import relations, snapshots

GATES = {"gru": 3, "lstm": 4}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Scene:
    """One graph, and sequences of inputs at its nodes."""

    nodes: int
    steps: int
    count: int
    hidden: int

    def __post_init__(self):
        place = draw(self.nodes, 2, seed=0)
        distance = torch.cdist(place, place).fill_diagonal_(torch.inf)
        near = distance <= distance.kthvalue(5, dim=1, keepdim=True).values
        self.edge_index = (near | near.t()).nonzero().t().contiguous()
        self.weight = torch.exp(-distance[tuple(self.edge_index)])
        self.x = draw(self.count, self.steps, self.nodes, 2, seed=1)
        self.grad = draw(self.count, self.steps, self.nodes, self.hidden, seed=2)

    @property
    def size(self) -> int:
        return self.nodes * self.steps * self.count

    @property
    def side_by_side(self) -> tuple[Tensor, Tensor]:
        """The graph once for each sequence: edge_index and edge_weight."""
        shift = torch.arange(self.count).repeat_interleave(self.edge_index.shape[1]) * self.nodes
        return self.edge_index.repeat(1, self.count) + shift, self.weight.repeat(self.count)


def training_step(scene: Scene, products: list[list[nn.Module]], forward: Callable[[Tensor], Tensor]) -> Step:
    """Forward and backward. ``products``: for each product of the cell the layers that it is made of, by gate; what all
    contenders must agree on are the states, and the gradients of x and of the weights, gate under gate.
    """
    groups = [list(same) for layers in products for same in zip(*(layer.parameters() for layer in layers), strict=True)]
    for k, group in enumerate(groups):
        rows = [weight.shape[0] for weight in group]
        value = draw(sum(rows), *group[0].shape[1:], seed=10 + k) * scene.hidden**-0.5
        for weight, part in zip(group, value.split(rows), strict=True):
            weight.data.copy_(part)
    x = scene.x.clone().requires_grad_()

    def step():
        x.grad = None
        for weight in (weight for group in groups for weight in group):
            weight.grad = None
        h = forward(x)
        h.backward(scene.grad)
        return [h.detach(), x.grad, *(torch.cat([weight.grad for weight in group]) for group in groups)]

    return step


def mpnn_step(scene: Scene, cell: str, conv: Callable, reset: str = "after") -> Step:
    layer = mpnn.nn.GraphRecurrent(conv, cell, 2, scene.hidden, reset)
    window = snapshots([torch.empty(scene.nodes, 0)] * scene.steps, [scene.edge_index] * scene.steps)
    edges = relations(Batch.from_data_list([window] * scene.count))
    weight = scene.weight.repeat(scene.count * scene.steps)

    def forward(x):
        return layer(x.flatten(0, 2), edges, edge_weight=weight).view_as(scene.grad)

    with torch.no_grad():
        forward(scene.x)  # plans the graph, which is done once
    recurrent = [layer.recurrent] if reset == "after" else [layer.recurrent, layer.candidate]
    return training_step(scene, [[layer.input], recurrent], forward)


# Peers --------------------------------------------------------------------------------------------------------------


def gru(wx: Tensor, h: Tensor, _: Tensor, product: Callable, candidate: Callable | None) -> tuple[Tensor, Tensor]:
    (x_r, x_z, x_n), wh = wx.chunk(3, dim=-1), product(h)
    r, z, *h_n = wh.chunk(2 if candidate else 3, dim=-1)
    r, z = torch.sigmoid(x_r + r), torch.sigmoid(x_z + z)
    n = torch.tanh(x_n + (candidate(r * h) if candidate else r * h_n[0]))
    return z * h + (1 - z) * n, h


def lstm(wx: Tensor, h: Tensor, c: Tensor, product: Callable, _: None) -> tuple[Tensor, Tensor]:
    i, f, g, o = (wx + product(h)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def loop_step(scene: Scene, cell: str, conv: Callable, layout: str, reset: str = "after") -> Step:
    """Step after step by layers of torch_geometric, all gates in one."""
    gates, h, flat = GATES[cell], scene.hidden, layout != "dimension"
    widths = [gates] if reset == "after" else [gates - 1, 1]
    inside, products = conv(2, gates * h), [conv(h, blocks * h) for blocks in widths]
    graph = scene.side_by_side if flat else (scene.edge_index, scene.weight)
    if layout == "sparse":
        (src, dst), weight = graph
        size = (scene.nodes * scene.count,) * 2
        graph = (torch.sparse_coo_tensor(torch.stack([dst, src]), weight, size).to_sparse_csr(),)

    def forward(x):
        state = c = x.new_zeros(*((scene.count * scene.nodes,) if flat else (scene.count, scene.nodes)), h)
        states = []
        call = [lambda h, layer=layer: layer(h, *graph) for layer in products]
        for now in x.unbind(1):
            wx = inside(now.flatten(0, 1) if flat else now, *graph)
            candidate = call[1] if len(call) > 1 else None
            state, c = (gru if cell == "gru" else lstm)(wx, state, c, call[0], candidate)
            states.append(state)
        return torch.stack(states).view(scene.steps, *scene.grad[:, 0].shape).transpose(0, 1)

    return training_step(scene, [[inside], products], forward)


def temporal_step(scene: Scene, cell: str) -> Step:
    """A layer of torch-geometric-temporal, step after step."""
    recurrent = temporal()
    layer = (recurrent.GConvGRU if cell == "gru" else recurrent.GConvLSTM)(2, scene.hidden, K=3)
    names = {"gru": "rzh", "lstm": "ifco"}[cell]
    for peephole in ("w_c_i", "w_c_f", "w_c_o") if cell == "lstm" else ():
        nn.init.zeros_(getattr(layer, peephole))
    edge_index, weight = scene.side_by_side

    def forward(x):
        state, states = (None,), []
        for now in x.unbind(1):
            state = layer(now.flatten(0, 1), edge_index, weight, *state)
            state = state if isinstance(state, tuple) else (state,)
            states.append(state[0])
        return torch.stack(states).view(scene.steps, *scene.grad[:, 0].shape).transpose(0, 1)

    products = [[getattr(layer, f"conv_{what}_{gate}") for gate in names] for what in "xh"]
    return training_step(scene, products, forward)


def temporal() -> types.ModuleType:
    """Its layers. One that is not used here asks for a class of torch_sparse, so an empty one stands in for that."""
    missing = "torch_sparse" not in sys.modules and importlib.util.find_spec("torch_sparse") is None
    if missing:
        sys.modules["torch_sparse"] = types.ModuleType("torch_sparse")
        sys.modules["torch_sparse"].SparseTensor = type("Absent", (), {})
    try:
        return peer("torch_geometric_temporal.nn.recurrent")
    finally:
        if missing:  # other benchmarks of this process ask for the true one
            del sys.modules["torch_sparse"]


def gemm_step(scene: Scene, cell: str, terms: int) -> Step:
    """The matrix products of a step: forward, gradient of the weights, gradient of the input."""
    rows = [(draw(scene.size, f, seed=3), draw(GATES[cell] * scene.hidden, f, seed=4)) for f in (2, scene.hidden)]

    def step():
        for x, weight in rows * terms:
            y = x @ weight.t()
            y.t() @ x
            y @ weight
        return []

    return step


# Cases --------------------------------------------------------------------------------------------------------------


def case(cell: str, filtered: bool, smoke: bool) -> Case:
    scene = Scene(10, 3, 2, 4) if smoke else Scene(207, 12, 32, 64)
    reset = "before" if filtered and cell == "gru" else "after"
    ours = mpnn.nn.Chebyshev if filtered else mpnn.nn.GCN
    theirs, name = (partial(geometric.ChebConv, K=3), "ChebConv") if filtered else (geometric.GCNConv, "GCNConv")
    cached = theirs if filtered else partial(theirs, cached=True)
    loops = {"side by side": (cached, "flat"), "sequences as a dimension": (theirs, "dimension")}
    if not filtered:  # ChebConv takes no matrix
        loops["on a torch.sparse matrix"] = (cached, "sparse")
    contenders = [Contender("mpnn", partial(mpnn_step, scene, cell, ours, reset), "mpnn", size=scene.size)]
    if filtered:
        called = f"torch-geometric-temporal, GConv{cell.upper()}"
        contenders.append(Contender(called, partial(temporal_step, scene, cell), size=scene.size))
    contenders += [
        Contender(f"{name} in a loop, {how}", partial(loop_step, scene, cell, conv, layout, reset), size=scene.size)
        for how, (conv, layout) in loops.items()
    ]
    products = partial(gemm_step, scene, cell, 3 if filtered else 1)
    contenders.append(Contender("matrix products alone", products, "reference", agrees=False, size=scene.size))
    return Case(
        f"{cell.upper()} with {'Chebyshev filters' if filtered else 'GCN'} in its gates, {scene.hidden} hidden: "
        f"{scene.count} sequences of {scene.steps} steps on {scene.nodes} nodes and {scene.edge_index.shape[1]:,} "
        "edges; forward and backward.",
        contenders,
    )


CASES = {
    "gcn-gru": partial(case, "gru", False),
    "gcn-lstm": partial(case, "lstm", False),
    "cheb-gru": partial(case, "gru", True),
    "cheb-lstm": partial(case, "lstm", True),
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

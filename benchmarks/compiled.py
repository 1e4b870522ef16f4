"""``torch.compile`` beside eager running, for layers in which all nodes fire at once: where it pays; recompilations.

One layer, 64 -> 64 (attention: 4 heads x 16), forward and backward from a dense gradient. A compiler sees a plain
gather and an ``index_add``, which it fuses with what is around them; eager runs sparse products on a graph that is
planned. Notes say how many graphs were compiled (1: nothing was compiled anew), and how long it took to set up, compile
and run twice, with nothing of an earlier run kept.

- ``*_small``: 10 nodes, 20 edges, where the cost of a call is all there is.
- ``*_large``: 20,000 nodes, 400,000 edges of a power-law graph, where eager's sparse products count.
- ``*_sizes``: twelve graphs of 20 to 200 nodes one after the other, each of another size; compiled for any size.

The reference is x by one weight of 64 x 64, and both backward products.
"""

from __future__ import annotations

import shutil
import time
from functools import partial

import torch
import torch._dynamo
import torch._inductor.config
from _harness import Absent, Case, Contender, Step, chung_lu, main, peer
from torch import Tensor, nn

import mpnn

WIDTH, HEADS = 64, 4


def mlp(in_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


class Nodes(mpnn.nn.GraphNetwork):
    """A graph network without edge and graph features, of which the nodes alone are looked at."""

    def __init__(self):
        super().__init__(mlp(2 * WIDTH), mlp(2 * WIDTH), mlp(2 * WIDTH))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x, edge_index)[0]


OURS = {
    "gcn": lambda: mpnn.nn.GCN(WIDTH, WIDTH),
    "sage": lambda: mpnn.nn.GraphSAGE(WIDTH, WIDTH),
    "gin": lambda: mpnn.nn.GIN(nn.Linear(WIDTH, WIDTH)),
    "gat": lambda: mpnn.nn.GAT(WIDTH, WIDTH // HEADS, heads=HEADS),
    "gatv2": lambda: mpnn.nn.GATv2(WIDTH, WIDTH // HEADS, heads=HEADS),
    "mean": lambda: mpnn.nn.MeanNetwork(WIDTH, WIDTH, torch.tanh),
    "chebyshev": lambda: mpnn.nn.Chebyshev(WIDTH, WIDTH, terms=3),
    "diffusion": lambda: mpnn.nn.Diffusion(WIDTH, WIDTH),
    "graph_network": Nodes,
}
THEIRS = {
    "gcn": lambda conv: conv.GCNConv(WIDTH, WIDTH),
    "sage": lambda conv: conv.SAGEConv(WIDTH, WIDTH),
    "gin": lambda conv: conv.GINConv(nn.Linear(WIDTH, WIDTH)),
    "gat": lambda conv: conv.GATConv(WIDTH, WIDTH // HEADS, HEADS),
    "gatv2": lambda conv: conv.GATv2Conv(WIDTH, WIDTH // HEADS, HEADS, share_weights=False),
    "chebyshev": lambda conv: conv.ChebConv(WIDTH, WIDTH, 3),
}
Graph = tuple[Tensor, Tensor]  # x, edge_index


def graph(num_nodes: int, num_edges: int, seed: int = 0) -> Graph:
    """A random graph without loops and double edges."""
    x = torch.randn(num_nodes, WIDTH, generator=torch.Generator().manual_seed(seed))
    return x, chung_lu(num_nodes, num_edges, seed)


def training_step(layer: nn.Module, graphs: list[Graph]) -> Step:
    """Forward and backward on all graphs, one after the other; the outputs and the gradients of x."""
    grads = [torch.randn(len(x), WIDTH, generator=torch.Generator().manual_seed(1)) for x, _ in graphs]
    leaves = [x.clone().requires_grad_() for x, _ in graphs]

    def step() -> list[Tensor]:
        layer.zero_grad(set_to_none=True)
        out = []
        for leaf, (_, edge_index), grad in zip(leaves, graphs, grads):
            leaf.grad = None
            y = layer(leaf, edge_index)
            y.backward(grad)
            out.append(y.detach())
        return out + [leaf.grad for leaf in leaves]

    return step


def eager(kind: str, graphs: list[Graph]) -> Step:
    torch.manual_seed(0)
    return training_step(OURS[kind](), graphs)


def compiled(contender: Contender, make, graphs: list[Graph], dynamic: bool | None) -> Step:
    """The step of a compiled layer, which is compiled here; the contender's note says what that took."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise Absent("there is no C++ compiler")
    torch._dynamo.utils.counters.clear()
    torch._inductor.config.force_disable_caches = True  # what compiling takes is told
    torch.manual_seed(0)
    step, began = training_step(torch.compile(make(), dynamic=dynamic), graphs), time.perf_counter()
    step()
    step()
    count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    took = time.perf_counter() - began
    contender.note = f"graphs compiled: {count}, breaks: {breaks}, in {took:.0f} s"
    return step


def theirs(kind: str) -> nn.Module:
    if kind not in THEIRS:
        raise Absent("it has no such layer")
    return THEIRS[kind](peer("torch_geometric").nn)


def products(graphs: list[Graph]) -> Step:
    weight = torch.randn(WIDTH, WIDTH)

    def step() -> list[Tensor]:
        for x, _ in graphs:
            y = x @ weight
            y.t() @ x
            y @ weight
        return []

    return step


def case(kind: str, size: str, smoke: bool) -> Case:
    sizes = {
        "small": [(10, 20)],
        "large": [(20_000, 400_000)],
        "sizes": [(20 + 16 * k, 60 + 50 * k) for k in range(12)],
    }[size]
    if smoke:
        sizes = [(6, 9)] * len(sizes[:2])
    torch._dynamo.reset()  # nothing of an earlier case is left; within a case it would undo what others compiled
    graphs = [graph(*pair, seed) for seed, pair in enumerate(sizes)]
    dynamic = True if size == "sizes" else None
    ours = Contender("mpnn, compiled", lambda: None, "mpnn")
    ours.make = lambda: compiled(ours, OURS[kind], graphs, dynamic)
    other = Contender("torch_geometric, compiled", lambda: None, agrees=False)
    other.make = lambda: compiled(other, partial(theirs, kind), graphs, dynamic)
    rows = [
        Contender("mpnn, eager", partial(eager, kind, graphs), "mpnn"),
        ours,
        Contender("torch_geometric, eager", lambda: training_step(theirs(kind), graphs), agrees=False),
        other,
        Contender("products alone", partial(products, graphs), "reference", agrees=False),
    ]
    rows = [row for row in rows if row is not other or kind == "gcn"]
    rows = [row for row in rows if not (smoke and row.name.endswith("compiled"))]
    nodes, edges = (sum(pair[k] for pair in sizes) for k in (0, 1))
    title = f"One layer of {kind.upper()}: {len(graphs)} graph(s), {nodes:,} nodes, {edges:,} edges in all."
    return Case(title, rows, memory=False, patience=300.0)


CASES = {f"{kind}_{size}": partial(case, kind, size) for kind in OURS for size in ("small", "large", "sizes")}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

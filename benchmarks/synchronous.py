"""GCN, GraphSAGE and GAT where all nodes fire at once: a training step without optimizer, beside the peers.

One step is the forward pass and the backward pass from a fixed dense gradient; graphs are prepared beforehand by each
contender in the way it likes best. Output and gradients of all parameters (and of x in the one-layer cases) must agree.

- ``cora_*``, ``computers_*``: two layers, GCN and GraphSAGE-mean with 16 hidden features, GAT with 8 heads x 8.
- ``powerlaw_*``: the same on a random power-law graph, 200,000 nodes, 5,000,000 directed edges, 128 features.
- ``big_*``: one layer on that graph, 128 -> 128 (GAT: 4 heads x 32), where x needs a gradient.

The reference is the least work of a step: its matrix products and, one after the other, its products with the adjacency
matrix, run on their own by the fastest kernel that torch has for each width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from _harness import Absent, Case, Contender, Step, cached, chung_lu, main, peer
from torch import Tensor, nn

import mpnn

KINDS = ("gcn", "sage", "gat")


@dataclass
class Task:
    """A graph, the widths of a network on it, its weights and the gradient of its output."""

    kind: str
    x: Tensor  # (N, F)
    edge_index: Tensor  # (2, E)
    widths: list[tuple[int, int, int]]  # in, out of a head, heads; one a layer
    sparse_x: Tensor | None = None  # the same features as CSR
    x_needs_grad: bool = False

    def __post_init__(self):
        generator = torch.Generator().manual_seed(1)
        draw = partial(torch.randn, generator=generator)
        self.num_nodes = self.x.shape[0]
        self.weights = []
        for width, out, heads in self.widths:
            shapes = {
                "gcn": [(heads * out, width), (out,)],
                "sage": [(out, width), (out,), (out, width)],
                "gat": [(heads * out, width), (heads, out), (heads, out), (heads * out,)],
            }[self.kind]
            self.weights.append([draw(shape) / math.sqrt(shape[-1]) for shape in shapes])
        self.grad = draw(self.num_nodes, self.widths[-1][1] * self.widths[-1][2])

    @property
    def looped(self) -> Tensor:
        """The edges with a loop at every node; the graphs have none."""
        return torch.cat([self.edge_index, torch.arange(self.num_nodes).expand(2, -1)], dim=1)

    def between(self, x: Tensor) -> Tensor:
        """The nonlinearity between two layers."""
        return F.elu(x) if self.kind == "gat" else F.relu(x)


# A step from layers -------------------------------------------------------------------------------------------------


def training_step(
    task: Task, layers: list[Callable[[Tensor], Tensor]], weights: list[list[nn.Parameter]], x: Tensor
) -> Step:
    """Forward and backward through layers whose parameters are given in the task's order."""
    x = x.clone().requires_grad_() if task.x_needs_grad else x
    flat = [w for layer in weights for w in layer]
    shapes = [w.shape for layer in task.weights for w in layer]

    def step():
        for leaf in [x, *flat]:
            leaf.grad = None
        out = x
        for k, layer in enumerate(layers):
            out = layer(task.between(out) if k else out)
        out.backward(task.grad)
        grads = [w.grad.reshape(shape) for w, shape in zip(flat, shapes, strict=True)]
        return [out.detach(), *grads] + [x.grad] * task.x_needs_grad

    return step


def fill(weights: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Copies the task's weights into a layer's parameters, and returns these."""
    for weight, value in zip(weights, values, strict=True):
        weight.data.copy_(value.reshape(weight.shape))
    return weights


# Contenders ---------------------------------------------------------------------------------------------------------


def mpnn_step(task: Task, sparse: bool = False) -> Step:
    names = {"gcn": "GCN", "sage": "GraphSAGE", "gat": "GAT"}
    if not hasattr(mpnn.nn, names[task.kind]):
        raise Absent(f"mpnn.nn has no {names[task.kind]} yet")
    kind, layers, weights = getattr(mpnn.nn, names[task.kind]), [], []
    for (width, out, heads), values in zip(task.widths, task.weights, strict=True):
        options = {"gcn": {}, "sage": {"aggr": "mean"}, "gat": {"heads": heads}}[task.kind]
        layer = kind(width, out, **options)
        parameters = {
            "gcn": lambda la: [la.linear.weight, la.bias],
            "sage": lambda la: [la.neighbour.weight, la.neighbour.bias, la.own.weight],
            "gat": lambda la: [la.linear.weight, la.att_src, la.att_dst, la.bias],
        }[task.kind](layer)
        weights.append(fill(parameters, values))
        layers.append(partial(call, layer, task.edge_index))
    step = training_step(task, layers, weights, task.sparse_x if sparse else task.x)
    step()  # plans the graph, which is the preparation that other contenders do here
    return step


def call(layer: nn.Module, graph, x: Tensor) -> Tensor:
    return layer(x, graph)


def pyg_step(task: Task, form: str) -> Step:
    """torch_geometric's layers on an edge_index, a torch CSR matrix or a torch_sparse SparseTensor."""
    conv = peer("torch_geometric").nn
    layers, weights = [], []
    edges = task.looped if task.kind == "gat" else task.edge_index
    graph = {"edge_index": lambda e, n: e, "csr": pyg_csr, "sparse": pyg_sparse}[form](edges, task.num_nodes)
    for (width, out, heads), values in zip(task.widths, task.weights, strict=True):
        if task.kind == "gcn":
            layer = conv.GCNConv(width, out, cached=True)
            parameters = [layer.lin.weight, layer.bias]
        elif task.kind == "sage":
            layer = conv.SAGEConv(width, out, aggr="mean")
            parameters = [layer.lin_l.weight, layer.lin_l.bias, layer.lin_r.weight]
        else:
            layer = conv.GATConv(width, out, heads, add_self_loops=False)
            parameters = [layer.lin.weight, layer.att_src, layer.att_dst, layer.bias]
        weights.append(fill(parameters, values))
        layers.append(partial(call, layer, graph))
    return training_step(task, layers, weights, task.x)


def pyg_csr(edges: Tensor, num_nodes: int) -> Tensor:
    rowptr, col, _ = csr(edges, num_nodes)
    return torch.sparse_csr_tensor(rowptr, col, torch.ones(col.numel()), (num_nodes, num_nodes))


def pyg_sparse(edges: Tensor, num_nodes: int):
    matrix = peer("torch_sparse").SparseTensor(row=edges[1], col=edges[0], sparse_sizes=(num_nodes, num_nodes))
    return matrix.fill_cache_()


def dgl_step(task: Task) -> Step:
    """DGL's layers. Its GCN takes the source's out-degree, so in-degrees are put on by hand around the bare layer."""
    dgl = peer("dgl")
    conv = peer("dgl.nn.pytorch")
    edges = task.edge_index if task.kind == "sage" else task.looped
    graph = dgl.graph((edges[0], edges[1]), num_nodes=task.num_nodes)
    graph.create_formats_()
    scale = graph.in_degrees().float().pow(-0.5)[:, None]
    layers, weights = [], []
    for (width, out, heads), values in zip(task.widths, task.weights, strict=True):
        if task.kind == "gcn":
            layer = conv.GraphConv(width, out, norm="none", weight=False, bias=False)
            weights.append(fill([nn.Parameter(torch.empty(out, width)), nn.Parameter(torch.empty(out))], values))
            layers.append(partial(dgl_gcn, layer, graph, scale, *weights[-1]))
        elif task.kind == "sage":
            layer = conv.SAGEConv(width, out, "mean")
            weights.append(fill([layer.fc_neigh.weight, layer.fc_self.bias, layer.fc_self.weight], values))
            layers.append(partial(layer, graph))
        else:
            layer = conv.GATConv(width, out, heads)
            weights.append(fill([layer.fc.weight, layer.attn_l, layer.attn_r, layer.bias], values))
            layers.append(lambda x, layer=layer: layer(graph, x).flatten(1))
    return training_step(task, layers, weights, task.x)


def dgl_gcn(layer: nn.Module, graph, scale: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return layer(graph, x * scale, weight=weight.t()) * scale + bias


# Plain torch --------------------------------------------------------------------------------------------------------


def csr(edges: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row pointers, columns and order of the edges as a matrix with a row for each target."""
    order = torch.argsort(edges[1] * num_nodes + edges[0])
    rowptr = torch.zeros(num_nodes + 1, dtype=torch.long)
    rowptr[1:] = torch.bincount(edges[1], minlength=num_nodes).cumsum(0)
    return rowptr, edges[0][order], order


def weighted(edges: Tensor, weight: Tensor, num_nodes: int) -> Tensor:
    """The adjacency matrix with 32-bit indices."""
    rowptr, col, order = csr(edges, num_nodes)
    return torch.sparse_csr_tensor(rowptr.int(), col.int(), weight[order], (num_nodes, num_nodes))


class Product(torch.autograd.Function):
    """``A x`` with the transpose of A made beforehand."""

    @staticmethod
    def forward(ctx, x, forth, back):
        ctx.back = back
        return forth @ x

    @staticmethod
    def backward(ctx, grad):
        return ctx.back @ grad, None, None


def matrices(task: Task) -> tuple[Tensor, Tensor]:
    """The normalised adjacency matrix of GCN or GraphSAGE, and its transpose."""
    edges = task.looped if task.kind == "gcn" else task.edge_index
    degree = torch.bincount(edges[1], minlength=task.num_nodes).float()
    if task.kind == "gcn":
        weight = (degree[edges[0]] * degree[edges[1]]).pow(-0.5)
    else:
        weight = degree.reciprocal()[edges[1]]
    return weighted(edges, weight, task.num_nodes), weighted(edges.flip(0), weight, task.num_nodes)


def hand_step(task: Task, sparse: bool = False) -> Step:
    """GCN and GraphSAGE from ``torch.sparse`` products alone; the product with W first where that is narrower."""
    if task.kind == "gat":
        raise Absent("no single sparse product computes attention")
    forth, back = matrices(task)
    x = Bag.of(task.sparse_x) if sparse else task.x
    weights = [[nn.Parameter(value.clone()) for value in values] for values in task.weights]

    def product(x, weight):
        return Product.apply(weight.t(), x.forth, x.back) if isinstance(x, Bag) else x @ weight.t()

    def layer(values, x):
        if task.kind == "gcn":
            return Product.apply(product(x, values[0]), forth, back) + values[1]
        narrow = isinstance(x, Bag) or values[0].shape[0] < values[0].shape[1]
        around = Product.apply(product(x, values[0]), forth, back) if narrow else None
        around = product(Product.apply(x, forth, back), values[0]) if around is None else around
        return around + values[1] + product(x, values[2])

    return training_step(task, [partial(layer, values) for values in weights], weights, x)


class Bag:
    """Sparse features with their transpose."""

    grad = None

    def __init__(self, forth: Tensor, back: Tensor):
        self.forth, self.back = forth, back

    @classmethod
    def of(cls, x: Tensor) -> Bag:
        row = torch.repeat_interleave(x.crow_indices().diff())
        size = max(x.shape)
        turned = weighted(torch.stack([row, x.col_indices()]), x.values(), size)
        return cls(x, torch.sparse_csr_tensor(*parts(turned, x.shape[1]), (x.shape[1], x.shape[0])))


def parts(matrix: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row pointers, columns and values of the first rows of a matrix whose other rows are empty."""
    return matrix.crow_indices()[: rows + 1], matrix.col_indices(), matrix.values()


# References ---------------------------------------------------------------------------------------------------------


def gemm_step(task: Task, adjacency: bool) -> Step:
    """All products of a step with weight matrices and, if asked for, with the adjacency matrix; nothing else."""
    edges = task.edge_index if task.kind == "sage" else task.looped
    rowptr, col, _ = (part.int() for part in csr(edges, task.num_nodes))
    weight = torch.ones(col.numel())
    shapes = [(width, out * heads, heads) for width, out, heads in task.widths]
    inputs = [task.x] + [torch.randn(task.num_nodes, width) for width, _, _ in shapes[1:]]

    def step():
        for k, ((width, out, heads), x, values) in enumerate(zip(shapes, inputs, task.weights, strict=True)):
            for matrix in (value for value in values if value.shape == (out, width)):
                y = x @ matrix.t()
                matrix_grad = y.t() @ x
                if k or task.x_needs_grad:
                    y @ matrix
                del matrix_grad
            if adjacency:
                adjacency_products(rowptr, col, weight, y, heads, task.kind)
        return []

    return step


def adjacency_products(rowptr: Tensor, col: Tensor, weight: Tensor, y: Tensor, heads: int, kind: str) -> None:
    """The sum over edges forward and backward (of a like matrix) and, for attention, the gradient of the weights."""
    n = y.shape[0]
    for head in y.view(n, heads, -1).unbind(1):
        head = head.contiguous()
        for _ in range(2):
            torch.nn.functional.embedding_bag(
                col, head, rowptr, mode="sum", per_sample_weights=weight, include_last_offset=True
            )
        if kind == "gat":
            pattern = torch.sparse_csr_tensor(rowptr, col, weight, (n, n))
            torch.sparse.sampled_addmm(pattern, head, head.t(), beta=0.0)


# Cases --------------------------------------------------------------------------------------------------------------


def contenders(task: Task) -> list[Contender]:
    """Everybody who can do the task."""
    width = max(out * heads for _, out, heads in task.widths)
    width = max(width, max(i for i, _, _ in task.widths)) if task.kind == "sage" else width
    messages = task.edge_index.shape[1] * width * 4 / 2**30  # GB of one tensor of edges by features
    gather = {"gcn": 2.4, "sage": 1.4, "gat": 4.6}[task.kind] * messages
    found = [
        Contender("mpnn", partial(mpnn_step, task), "mpnn"),
        Contender("torch_geometric, edge_index", partial(pyg_step, task, "edge_index"), needs=gather),
        Contender("DGL", partial(dgl_step, task)),
        Contender("matrix products alone", partial(gemm_step, task, False), "reference", agrees=False),
    ]
    found.insert(
        3, Contender("matrix and adjacency products alone", partial(gemm_step, task, True), "reference", agrees=False)
    )
    if task.kind == "gat":
        found.insert(2, Contender("torch_geometric, SparseTensor", partial(pyg_step, task, "sparse"), needs=gather))
    else:
        found.insert(2, Contender("torch_geometric, torch CSR", partial(pyg_step, task, "csr")))
        found.insert(3, Contender("torch_geometric, SparseTensor", partial(pyg_step, task, "sparse")))
        found.insert(4, Contender("torch.sparse CSR by hand", partial(hand_step, task)))
    if task.sparse_x is not None:
        found.insert(1, Contender("mpnn, sparse x", partial(mpnn_step, task, sparse=True), "mpnn"))
        if task.kind != "gat":
            found.append(Contender("torch.sparse CSR by hand, sparse x", partial(hand_step, task, sparse=True)))
    return found


def two_layers(kind: str, features: int, classes: int) -> list[tuple[int, int, int]]:
    return [(features, 8, 8), (64, classes, 1)] if kind == "gat" else [(features, 16, 1), (16, classes, 1)]


def real(name: str, kind: str, smoke: bool) -> Case:
    """Two layers on a data set; with ``smoke`` on a small random stand-in."""
    x, sparse, edge_index, classes = cached(f"{name}{smoke}", partial(stand_in if smoke else load, name))
    widths = two_layers(kind, x.shape[1], classes)
    task = Task(kind, x, edge_index, widths, sparse_x=sparse)
    return Case(describe(task, f"{name}: 2-layer {kind.upper()}"), contenders(task))


def load(name: str) -> tuple[Tensor, Tensor | None, Tensor, int]:
    try:
        data = mpnn.datasets.load(name, download=False)
    except FileNotFoundError as error:
        raise Absent(f"the data set {name} is not here; MPNN_DATA may point to it") from error
    sparse = data.x if data.x.layout is torch.sparse_csr else None
    return data.x.to_dense().float(), sparse, without_loops(data.edge_index), int(data.y.max()) + 1


def without_loops(edge_index: Tensor) -> Tensor:
    """Libraries differ in what they make of a loop that is there already, so it is left out."""
    return edge_index[:, edge_index[0] != edge_index[1]]


def stand_in(name: str) -> tuple[Tensor, Tensor | None, Tensor, int]:
    x = (torch.rand(60, 40, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    return x, x.to_sparse_csr(), chung_lu(60, 300), 5


def powerlaw_graph(smoke: bool) -> Tensor:
    size = (80, 500) if smoke else (200_000, 5_000_000)
    return cached(f"powerlaw{smoke}", partial(with_sources, *size))


def with_sources(num_nodes: int, num_edges: int) -> Tensor:
    """A power-law graph in which every node has an edge into it, since libraries differ in the mean of nothing."""
    edge_index = chung_lu(num_nodes, num_edges)
    lonely = (torch.bincount(edge_index[1], minlength=num_nodes) == 0).nonzero().flatten()
    rich = torch.bincount(edge_index[1], minlength=num_nodes)[edge_index[1]] > 2 * num_edges / num_nodes
    edge_index[1, rich.nonzero().flatten()[: lonely.numel()]] = lonely
    return without_loops(edge_index)


def powerlaw(kind: str, smoke: bool) -> Case:
    edge_index = powerlaw_graph(smoke)
    num_nodes = 80 if smoke else 200_000
    x = torch.randn(num_nodes, 128, generator=torch.Generator().manual_seed(0))
    task = Task(kind, x, edge_index, two_layers(kind, 128, 40))
    return Case(describe(task, f"Power-law graph: 2-layer {kind.upper()}"), contenders(task))


def big(kind: str, smoke: bool) -> Case:
    edge_index = powerlaw_graph(smoke)
    num_nodes = 80 if smoke else 200_000
    x = torch.randn(num_nodes, 128, generator=torch.Generator().manual_seed(0))
    task = Task(kind, x, edge_index, [(128, 32, 4)] if kind == "gat" else [(128, 128, 1)], x_needs_grad=True)
    return Case(describe(task, f"Power-law graph: one layer of {kind.upper()}, x needs a gradient"), contenders(task))


def describe(task: Task, title: str) -> str:
    widths = " -> ".join(
        [str(task.widths[0][0])] + [f"{heads} x {out}" if heads > 1 else str(out) for _, out, heads in task.widths]
    )
    return f"{title}, {widths}; {task.num_nodes:,} nodes, {task.edge_index.shape[1]:,} edges; forward and backward."


CASES: dict[str, Callable[[bool], Case]] = {
    **{f"cora_{kind}": partial(real, "cora", kind) for kind in KINDS},
    **{f"computers_{kind}": partial(real, "amazon-computers", kind) for kind in KINDS},
    **{f"powerlaw_{kind}": partial(powerlaw, kind) for kind in KINDS},
    **{f"big_{kind}": partial(big, kind) for kind in KINDS},
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

"""HAN on ACM and DBLP: a training step without optimizer, beside torch_geometric's HANConv with the same weights.

One step is the forward pass and the backward pass from a fixed dense gradient: 8 heads of 8 features, a query of 64,
no dropout. Output and the gradients of all parameters must agree. Meta-paths are composed beforehand.

- ``acm``: 3,025 papers by author (29,281 edges) and by subject (2,210,761 edges), 1,870 words.
- ``dblp``: 4,057 authors by paper, conference and term: 12 million edges, most of them between half of all pairs.

The reference is the least work of a step: the product with the features, and for each meta-path and head the weighted
sum over the edges, the same transposed, and the gradient of the weights, by the fastest kernel that torch has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from _harness import Absent, Case, Contender, Step, cached, main, peer
from torch import Tensor, nn

import mpnn
from mpnn.hetero import add_metapaths

HEADS, WIDTH = 8, 8
Path = tuple[str, str, str]


@dataclass
class Task:
    """One type of node, its meta-paths, the weights of a layer, and the gradient of its output."""

    kind: str
    x: Tensor  # (N, F), dense
    edges: dict[Path, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(1)
        out, (count, width) = HEADS * WIDTH, self.x.shape
        shapes = {"M": (out, width), "b": (out,), "W": (out, out), "c": (out,), "q": (out,)}
        for path in self.edges:
            shapes |= {f"src {path[1]}": (HEADS, WIDTH), f"dst {path[1]}": (HEADS, WIDTH)}
        for name, shape in shapes.items():
            self.weights[name] = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        self.grad = torch.randn(count, out, generator=generator)


def training_step(task: Task, layer: nn.Module, names: dict[str, str], x: Tensor) -> Step:
    """Forward and backward; ``names`` are the layer's parameters by those of the task."""
    known = dict(layer.named_parameters())
    weights = [known[name] for name in names.values()]
    for weight, name in zip(weights, names, strict=True):
        weight.data.copy_(task.weights[name].view_as(weight))

    def step():
        layer.zero_grad()
        out = layer({task.kind: x}, task.edges)[task.kind]
        out.backward(task.grad)
        return [out.detach(), *(w.grad.view_as(task.weights[n]) for w, n in zip(weights, names, strict=True))]

    return step


def mpnn_step(task: Task, sparse: bool = False) -> Step:
    paths, width = list(task.edges), HEADS * WIDTH
    options = {"bias": True, "activation": F.relu, "self_loops": False, "attention_features": width}
    layer = mpnn.nn.HAN(task.x.shape[1], WIDTH, paths, HEADS, **options)
    names = {"M": f"linear.{task.kind}.weight", "b": f"linear.{task.kind}.bias"}
    names |= {"W": "mix.project.weight", "c": "mix.project.bias", "q": "mix.q"}
    for path in paths:
        names |= {f"{end} {path[1]}": f"att_{end}.<{'___'.join(path)}>" for end in ("src", "dst")}
    step = training_step(task, layer, names, task.x.to_sparse_csr() if sparse else task.x)
    step()  # plans the graph
    return step


def pyg_step(task: Task) -> Step:
    paths, width = list(task.edges), HEADS * WIDTH
    layer = peer("torch_geometric").nn.HANConv(task.x.shape[1], width, ([task.kind], paths), heads=HEADS)
    names = {"M": f"proj.{task.kind}.weight", "b": f"proj.{task.kind}.bias"}
    names |= {"W": "k_lin.weight", "c": "k_lin.bias", "q": "q"}
    for path in paths:
        names |= {f"{end} {path[1]}": f"lin_{end}.{'__'.join(path)}" for end in ("src", "dst")}
    return training_step(task, layer, names, task.x)


def products_step(task: Task) -> Step:
    """What no step can do without, on edges that are sorted by target; nothing else."""
    count, graphs = len(task.x), []
    for edges in task.edges.values():
        order = torch.argsort(edges[1] * count + edges[0])
        rowptr = torch.zeros(count + 1, dtype=torch.int32)
        rowptr[1:] = torch.bincount(edges[1], minlength=count).cumsum(0)
        graphs.append((rowptr, edges[0][order].int(), torch.ones(edges.shape[1])))

    def step():
        y = task.x @ task.weights["M"].t()
        y.t() @ task.x
        for rowptr, col, weight in graphs:
            pattern = torch.sparse_csr_tensor(rowptr, col, weight, (count, count))
            for head in y.view(count, HEADS, WIDTH).unbind(1):
                head = head.contiguous()
                for _ in range(2):
                    F.embedding_bag(col, head, rowptr, mode="sum", per_sample_weights=weight, include_last_offset=True)
                torch.sparse.sampled_addmm(pattern, head, head.t(), beta=0.0)
        return []

    return step


# Cases --------------------------------------------------------------------------------------------------------------


def acm() -> tuple[str, Tensor, dict[Path, Tensor]]:
    data = mpnn.datasets.load("acm3025")
    return "paper", data["paper"].x.to_dense(), data.edge_index_dict


def dblp() -> tuple[str, Tensor, dict[Path, Tensor]]:
    data, ways = mpnn.datasets.load("dblp"), {}
    for name, way in {"APA": ["paper"], "APCPA": ["paper", "conference"], "APTPA": ["paper", "term"]}.items():
        types = ["author", *way, *way[-2::-1], "author"]
        ways[name] = [(one, "to", other) for one, other in zip(types, types[1:])]
    edges = add_metapaths(data, ways).edge_index_dict
    return "author", data["author"].x.to_dense(), {path: edges[path] for path in edges if path[1] in ways}


def tiny() -> tuple[str, Tensor, dict[Path, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ends = {name: torch.randint(50, (2, 300), generator=generator) for name in ("PAP", "PLP")}
    return "paper", torch.rand(50, 20, generator=generator), {("paper", k, "paper"): v for k, v in ends.items()}


def case(name: str, load: Callable[[], tuple], smoke: bool) -> Case:
    try:
        task = Task(*cached(f"han_{name}", tiny if smoke else load))
    except FileNotFoundError as error:
        raise Absent(str(error).splitlines()[0]) from error
    counts = [edges.shape[1] for edges in task.edges.values()]
    needs = (2 * sum(counts) + 3 * max(counts)) * HEADS * WIDTH * 4 / 2**30  # GB of tensors of edges by features
    contenders = [
        Contender("mpnn", partial(mpnn_step, task), "mpnn"),
        Contender("mpnn, sparse features", partial(mpnn_step, task, True), "mpnn"),
        Contender("torch_geometric", partial(pyg_step, task), needs=needs),
        Contender("products alone", partial(products_step, task), "reference", agrees=False),
    ]
    sizes = ", ".join(f"{path[1]} {edges.shape[1]:,}" for path, edges in task.edges.items())
    title = f"{name}: {len(task.x):,} nodes, {task.x.shape[1]:,} features, edges {sizes}; forward and backward."
    return Case(title, contenders)


CASES = {name: partial(case, name, load) for name, load in {"acm": acm, "dblp": dblp}.items()}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

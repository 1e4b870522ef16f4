"""Tree-LSTM on many trees at once, and long chains: models in which nodes fire in the order of the graph.

- ``trees``: a child-sum Tree-LSTM (Tai, Socher & Manning 2015, eq. 2-8) with an input at every node and 150 hidden
  features, on 256 binary trees of 20 to 40 leaves, grown by joining two random roots until one is left; forward, and
  backward from a dense gradient of every node's h.
  The reference is its matrix products alone, each as a single batch over all nodes or edges: W (4H wide) on all nodes,
  U (3H) on the inner ones, U_f (H) on the edges, and both backward products of U and U_f (of W that of the weights).
- ``parses``: the same on trees drawn from all binary trees, each as likely, which are nearly twice as high.
- ``threads``: a Graph-Structured LSTM over comments, in both directions, beside its products alone.
- ``deep``: the cell of ``trees`` on one chain of 10,000 nodes through the generic path, one node a level, beside a loop
  over the cell in plain torch, with W x taken beforehand as well. Items are levels.
- ``chains``: the same on chains of growing length, to see whether time and memory grow linearly.
- ``again_trees``, ``again_chains``: ``mpnn.engine("wavefront", recompute=True)`` beside keeping all, on the trees of
  ``trees`` and on an LSTM.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import chains
import numpy as np
import torch
from _harness import Case, Contender, Step, main, on_engine, peer
from torch import Tensor

import mpnn


@dataclass
class Forest:
    """Trees as one graph, child -> parent; parents have higher levels. Nodes are numbered at random."""

    edge_index: Tensor  # (2, E)
    level: Tensor  # (N,) height above the leaves
    hidden: int

    def __post_init__(self):
        generator = torch.Generator().manual_seed(1)
        n, h = self.level.numel(), self.hidden
        draw = partial(torch.randn, generator=generator)
        self.x, self.grad = draw(n, h), draw(n, h)
        scale = 1 / math.sqrt(h)
        # blocks i, o, g, f of W and b; i, o, g of U; the forget gate's own U
        self.weights = [draw(4 * h, h) * scale, draw(3 * h, h) * scale, draw(h, h) * scale, draw(4 * h) * scale]

    @property
    def num_nodes(self) -> int:
        return self.level.numel()

    @cached_property
    def inner(self) -> int:
        """Number of nodes with children."""
        return self.edge_index[1].unique().numel()


def forest(grow: Callable, count: int, fewest: int, most: int, hidden: int) -> Forest:
    """Trees of ``fewest`` to ``most`` leaves, each grown to its parents (-1 at the root)."""
    generator = np.random.default_rng(0)
    parent = np.empty(0, dtype=np.int64)
    for _ in range(count):
        tree = np.array(grow(int(generator.integers(fewest, most + 1)), generator))
        parent = np.append(parent, np.where(tree < 0, -1, tree + parent.size))
    name = generator.permutation(parent.size)
    child = np.flatnonzero(parent >= 0)
    edge_index = torch.from_numpy(name[np.stack([child, parent[child]])])
    return Forest(edge_index, mpnn.schedule.topological.levels(*edge_index, parent.size), hidden)


def joined(leaves: int, generator: np.random.Generator) -> list[int]:
    """The parents in a tree made by joining two random roots until one is left: rather even."""
    parent, roots = [-1] * leaves, list(range(leaves))
    while len(roots) > 1:
        for _ in range(2):
            parent[roots.pop(int(generator.integers(len(roots))))] = len(parent)
        roots.append(len(parent))
        parent.append(-1)
    return parent


def drawn(leaves: int, generator: np.random.Generator) -> list[int]:
    """The parents in a binary tree drawn from all of them, each as likely (Remy 1985): as uneven as parses are."""
    parent = [-1]
    while len(parent) < 2 * leaves - 1:
        node, inner = int(generator.integers(len(parent))), len(parent)
        parent += [parent[node], inner]  # a new inner node above a random one, and a leaf beside that
        parent[node] = inner
    return parent


def chain(length: int, hidden: int) -> Forest:
    node = torch.arange(length)
    return Forest(torch.stack([node[:-1], node[1:]]), node, hidden)


def training_step(trees: Forest, parameters: list[Tensor], forward: Callable[[], Tensor], back=None) -> Step:
    """Forward and backward; ``back`` puts the rows of the result into the order of the nodes, for the comparison."""
    shapes = [w.shape for w in trees.weights]
    grad = trees.grad if back is None else torch.empty_like(trees.grad).index_copy_(0, back, trees.grad)

    def step():
        for parameter in parameters:
            parameter.grad = None
        h = forward()
        h.backward(grad)
        out = h.detach()
        return [
            out if back is None else out[back],
            *(p.grad.reshape(s) for p, s in zip(parameters, shapes, strict=True)),
        ]

    return step


def leaves(weights: list[Tensor]) -> list[Tensor]:
    return [weight.clone().requires_grad_() for weight in weights]


# mpnn ---------------------------------------------------------------------------------------------------------------


def tree_lstm(weights: list[Tensor]) -> mpnn.MessagePassing:
    """The cell, written as a user would."""

    class ChildSumTreeLSTM(mpnn.MessagePassing):
        state = ("h", "c")
        schedule = "topological"

        def __init__(self):
            super().__init__()
            self.w, self.u, self.u_f, self.b = (torch.nn.Parameter(weight.clone()) for weight in weights)
            self.hidden_features = self.u_f.shape[0]

        def forward(self, x, edge_index):
            sizes = [3 * self.hidden_features, self.hidden_features]
            (w, w_f), (b, b_f) = self.w.split(sizes), self.b.split(sizes)
            z = mpnn.rowwise(lambda rows: torch.addmm(b, rows, w.t()), x)
            z_f = mpnn.rowwise(lambda rows: torch.addmm(b_f, rows, w_f.t()), x)
            return self.propagate(edge_index, z=z, z_f=z_f)[0]

        def message(self, h_j, c_j, z_f_i):
            return h_j, torch.sigmoid(torch.addmm(z_f_i, h_j, self.u_f.t())) * c_j

        def update(self, z, message=None):
            if message is None:
                i, o, g = z.chunk(3, dim=1)
                c = torch.sigmoid(i) * torch.tanh(g)
            else:
                h_sum, fc_sum = message
                i, o, g = torch.addmm(z, h_sum, self.u.t()).chunk(3, dim=1)
                c = torch.sigmoid(i) * torch.tanh(g) + fc_sum
            return torch.sigmoid(o) * torch.tanh(c), c

    return ChildSumTreeLSTM()


def mpnn_step(trees: Forest) -> Step:
    model = tree_lstm(trees.weights)
    parameters = [model.w, model.u, model.u_f, model.b]
    return training_step(trees, parameters, partial(model, trees.x, trees.edge_index))


def layer_step(trees: Forest) -> Step:
    """The library's own layer, whose gate blocks are i, f, g, o."""
    w, u, u_f, b = trees.weights
    layer = mpnn.nn.ChildSumTreeLSTM(w.shape[1], u_f.shape[0])
    own = [layer.weight_ih, layer.weight_hh, layer.bias]
    for parameter, value in zip(own, (w, torch.cat([u, u_f]), b), strict=True):
        i, o, g, f = value.chunk(4)
        parameter.data.copy_(torch.cat([i, f, g, o]))

    def step():
        layer.zero_grad()
        h, _ = layer(trees.x, trees.edge_index)
        h.backward(trees.grad)
        i, f, g, o = zip(*(parameter.grad.chunk(4) for parameter in own))
        w, hh, b = (torch.cat(blocks) for blocks in zip(i, o, g, f, strict=True))
        return [h.detach(), w, hh[: u.shape[0]], hh[u.shape[0] :], b]

    return step


def chain_step(length: int, hidden: int, **options: bool) -> Step:
    return on_engine(partial(mpnn_step, chain(length, hidden)), "wavefront", **options)


# Peers --------------------------------------------------------------------------------------------------------------


def level_step(trees: Forest) -> Step:
    """A loop over levels in plain torch, as one would write it for trees: each state moves once.

    Nodes are sorted by level and then by the level of their parent. A level's states are split by the parent's level,
    and joined with the other children's right before that level fires. Works where no node has two parents.
    """
    w, u, u_f, b = parameters = leaves(trees.weights)
    num_levels, n = int(trees.level.max()) + 1, trees.num_nodes
    parent = torch.full((n,), -1)
    parent[trees.edge_index[0]] = trees.edge_index[1]
    above = torch.where(parent >= 0, trees.level[parent], num_levels)
    order = torch.argsort(trees.level * (num_levels + 1) + above, stable=True)
    position = torch.argsort(order)
    table = torch.bincount(trees.level * (num_levels + 1) + above, minlength=num_levels * (num_levels + 1))
    chunks = table.view(num_levels, num_levels + 1).tolist()
    counts = [sum(row) for row in chunks]
    starts = np.cumsum([0, *counts])
    above = above[order]
    owner = position[parent[order]]  # of each child, its parent's place; the last ones have none
    of = [owner[(above == m)] - starts[m] for m in range(num_levels)]  # children of a level, in level order
    x = trees.x[order]

    def forward():
        z = torch.addmm(b, x, w.t()).split(counts)
        waiting = [[] for _ in range(num_levels + 1)]
        out = []
        for m in range(num_levels):
            gates, forget = z[m][:, : 3 * trees.hidden], z[m][:, 3 * trees.hidden :]
            total = 0
            if waiting[m]:
                h_child, c_child = (torch.cat(parts) for parts in zip(*waiting[m], strict=True))
                f = torch.sigmoid(torch.addmm(forget[of[m]], h_child, u_f.t()))
                h_sum = h_child.new_zeros(counts[m], trees.hidden).index_add(0, of[m], h_child)
                total = h_child.new_zeros(counts[m], trees.hidden).index_add(0, of[m], f * c_child)
                gates = torch.addmm(gates, h_sum, u.t())
            i, o, g = gates.chunk(3, dim=1)
            c = torch.sigmoid(i) * torch.tanh(g) + total
            h = torch.sigmoid(o) * torch.tanh(c)
            for k, (h_part, c_part) in enumerate(zip(h.split(chunks[m]), c.split(chunks[m]), strict=True)):
                if h_part.shape[0]:
                    waiting[k].append((h_part, c_part))
            out.append(h)
        return torch.cat(out)

    return training_step(trees, parameters, forward, back=position)


def package_step(trees: Forest) -> Step:
    """The package pytorch-tree-lstm: (parent, child) pairs sorted by parent, and the levels of nodes and parents."""
    model = peer("treelstm").TreeLSTM(trees.hidden, trees.hidden)
    w, u, u_f, b = (weight.clone() for weight in trees.weights)
    h = trees.hidden
    layers = [model.W_iou, model.U_iou, model.W_f, model.U_f]
    for layer, value in zip(layers, [w[: 3 * h], u, w[3 * h :], u_f], strict=True):
        layer.weight.data.copy_(value)
    model.W_iou.bias.data.copy_(b[: 3 * h])
    model.W_f.bias.data.copy_(b[3 * h :])
    adjacency = trees.edge_index[:, trees.edge_index[1].argsort()].flip(0).t().contiguous()
    order = trees.level[adjacency[:, 0]]

    def step():
        model.zero_grad(set_to_none=True)
        out, _ = model(trees.x, trees.level, adjacency, order)
        out.backward(trees.grad)
        grad_w = torch.cat([model.W_iou.weight.grad, model.W_f.weight.grad])
        grad_b = torch.cat([model.W_iou.bias.grad, model.W_f.bias.grad])
        return [out.detach(), grad_w, model.U_iou.weight.grad, model.U_f.weight.grad, grad_b]

    return step


def fold_step(trees: Forest) -> Step:
    """torchfold: equal operations of one depth are joined when they are run, from a list made anew each time.

    The package speaks to a torch of 2017: what it asks of it is handed in. It takes a fixed number of arguments, so a
    node has two children or none.
    """
    package = peer("torchfold.torchfold")
    names = types.SimpleNamespace(_TensorBase=Tensor)
    package.torch = types.SimpleNamespace(tensor=names, cat=torch.cat, chunk=torch.chunk)
    w, u, u_f, b = parameters = leaves(trees.weights)
    h = trees.hidden
    order = torch.argsort(trees.level).tolist()
    children = [[] for _ in order]
    for child, parent in trees.edge_index.t().tolist():
        children[parent].append(child)

    class Cell:
        def leaf(self, z):
            return self.fire(z[:, : 3 * h], 0.0)

        def join(self, z, h_l, c_l, h_r, c_r):
            z, z_f = z.split([3 * h, h], dim=1)
            kept = sum(torch.sigmoid(torch.addmm(z_f, h_j, u_f.t())) * c_j for h_j, c_j in ((h_l, c_l), (h_r, c_r)))
            return self.fire(torch.addmm(z, h_l + h_r, u.t()), kept)

        def fire(self, z, kept):
            i, o, g = z.chunk(3, dim=1)
            c = torch.sigmoid(i) * torch.tanh(g) + kept
            return torch.sigmoid(o) * torch.tanh(c), c

    def forward():
        z = torch.addmm(b, trees.x, w.t()).split(1)
        fold, state = package.Fold(), {}
        for node in order:
            if children[node]:
                below = [field for child in children[node] for field in state[child]]
                state[node] = fold.add("join", z[node], *below).split(2)
            else:
                state[node] = fold.add("leaf", z[node]).split(2)
        return fold.apply(Cell(), [[state[node][0] for node in range(trees.num_nodes)]])[0]

    return training_step(trees, parameters, forward)


def dgl_step(trees: Forest) -> Step:
    """DGL's ``prop_nodes_topo`` with the cell as message, reduce and apply functions; its example's, with W_f x."""
    dgl = peer("dgl")
    graph = dgl.graph(tuple(trees.edge_index), num_nodes=trees.num_nodes)
    w, u, u_f, b = parameters = leaves(trees.weights)
    h = trees.hidden
    fronts = dgl.topological_nodes_generator(graph)
    zero = torch.zeros(trees.num_nodes, h)

    def message(edges):
        return {"h": edges.src["h"], "c": edges.src["c"]}

    def reduce(nodes):
        f = torch.sigmoid(nodes.data["z_f"][:, None] + nodes.mailbox["h"] @ u_f.t())
        z = torch.addmm(nodes.data["z"], nodes.mailbox["h"].sum(1), u.t())
        return {"z": z, "c": (f * nodes.mailbox["c"]).sum(1)}

    def apply(nodes):
        i, o, g = nodes.data["z"].chunk(3, dim=1)
        c = torch.sigmoid(i) * torch.tanh(g) + nodes.data["c"]
        return {"h": torch.sigmoid(o) * torch.tanh(c), "c": c}

    def forward():
        z = torch.addmm(b, trees.x, w.t())
        with graph.local_scope():
            graph.ndata.update({"z": z[:, : 3 * h], "z_f": z[:, 3 * h :], "h": zero, "c": zero})
            graph.prop_nodes(fronts, message, reduce, apply_node_func=apply)
            return graph.ndata["h"]

    return training_step(trees, parameters, forward)


def loop_step(line: Forest) -> Step:
    """A loop over the cell on a chain: what is known beforehand is taken at once, and states are kept in a list."""
    w, u, u_f, b = parameters = leaves(line.weights)
    h_size = line.hidden

    def forward():
        z = torch.addmm(b, line.x, w.t())
        gates, forget = z[:, : 3 * h_size].split(1), z[:, 3 * h_size :].split(1)
        out, h, c = [], None, None
        for own, z_f in zip(gates, forget):
            kept = 0.0
            if h is not None:
                kept = torch.sigmoid(torch.addmm(z_f, h, u_f.t())) * c
                own = torch.addmm(own, h, u.t())
            i, o, g = own.chunk(3, dim=1)
            c = torch.sigmoid(i) * torch.tanh(g) + kept
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        return torch.cat(out)

    return training_step(line, parameters, forward)


# References ---------------------------------------------------------------------------------------------------------


def gemm_step(trees: Forest) -> Step:
    """The matrix products of a step, each as one batch: forward, gradient of the weights, gradient of the input."""
    rows = [(trees.x, trees.weights[0])]
    rows += [(trees.x[: trees.inner].clone(), trees.weights[1])]
    rows += [(torch.randn(trees.edge_index.shape[1], trees.hidden), trees.weights[2])]

    def step():
        for k, (x, weight) in enumerate(rows):
            y = x @ weight.t()
            y.t() @ x
            if k:  # x itself needs no gradient
                y @ weight
        return []

    return step


# Cases --------------------------------------------------------------------------------------------------------------


def trees_case(grow: Callable, smoke: bool) -> Case:
    trees = forest(grow, *((4, 3, 6, 8) if smoke else (256, 20, 40, 150)))
    size = trees.num_nodes
    title = (
        f"Child-sum Tree-LSTM, {trees.hidden} hidden: {size:,} nodes, {trees.edge_index.shape[1]:,} edges, "
        f"{int(trees.level.max()) + 1} levels; forward and backward."
    )
    return Case(
        title,
        [
            Contender("mpnn", partial(layer_step, trees), "mpnn", size=size),
            Contender("mpnn, a cell of one's own", partial(mpnn_step, trees), "mpnn", size=size),
            Contender("level-batched plain torch", partial(level_step, trees), size=size),
            Contender("DGL prop_nodes", partial(dgl_step, trees), size=size),
            Contender("pytorch-tree-lstm", partial(package_step, trees), size=size),
            Contender("torchfold", partial(fold_step, trees), size=size),
            Contender("matrix products alone", partial(gemm_step, trees), "reference", agrees=False, size=size),
        ],
    )


def threads_case(smoke: bool) -> Case:
    """Threads of comments, each answering a random earlier one; both directions, and their products alone."""
    count, fewest, most, width = (2, 3, 6, 8) if smoke else (16, 20, 200, 64)
    generator, comments = np.random.default_rng(0), []
    for thread in range(count):
        for t in range(int(generator.integers(fewest, most + 1))):
            comments.append(((thread, t), (thread, int(generator.integers(t))) if t else None, t))
    edges = mpnn.graphs.relations(mpnn.graphs.thread(comments))
    torch.manual_seed(0)
    layer, x = mpnn.nn.GraphStructuredLSTM(width, width), torch.randn(len(comments), width)
    grad, plan = torch.randn(len(comments), 2 * width), layer.plan(edges, len(comments))
    first = edges["parent"].shape[1] - edges["sibling"].shape[1]  # comments that are the first to answer
    rows = [len(comments), *(e.shape[1] for e in edges.values()), len(comments), edges["sibling"].shape[1], first]

    def ours() -> Step:
        def step():
            layer.zero_grad(set_to_none=True)
            h, _ = layer(x, plan)
            h.backward(grad)
            return [h.detach()]

        return step

    def products() -> Step:
        weight, inputs = torch.randn(5 * width, width), [torch.randn(n, width) for n in rows]

        def step():
            for k, values in enumerate(inputs):
                y = values @ weight.t()
                y.t() @ values
                if k % 3:  # x itself needs no gradient
                    y @ weight
            return []

        return step

    size = len(comments)
    title = f"Graph-Structured LSTM, both directions, {width} wide: {size:,} comments of {count} threads."
    contenders = [
        Contender("mpnn", ours, "mpnn", size=size),
        Contender("mpnn, compiled", partial(on_engine, ours, compile=True), "mpnn", size=size),
        Contender("matrix products alone", products, "reference", agrees=False, size=size),
    ]
    return Case(title, contenders)


def deep_case(smoke: bool) -> Case:
    length, hidden = (20, 8) if smoke else (10_000, 32)
    line = chain(length, hidden)
    rows = [
        Contender("mpnn", partial(chain_step, length, hidden), "mpnn"),
        Contender("mpnn, compiled", partial(chain_step, length, hidden, compile=True), "mpnn"),
        Contender("loop over the cell, plain torch", partial(loop_step, line)),
        Contender("matrix products alone", partial(gemm_step, line), "reference", agrees=False),
    ]
    for row in rows:
        row.size = length
    title = f"The same cell on one chain of {length:,} nodes, {hidden} hidden: as many levels."
    return Case(title, rows, tolerance=1e-3)


def chains_case(smoke: bool) -> Case:
    lengths, hidden = ((20, 40), 8) if smoke else ((1250, 2500, 5000, 10000), 32)
    contenders = [
        Contender(f"mpnn, {n:,} nodes", partial(chain_step, n, hidden), "mpnn", agrees=False, size=n) for n in lengths
    ]
    longest = chain(max(lengths), hidden)
    contenders.append(
        Contender(f"matrix products alone, {max(lengths):,} nodes", partial(gemm_step, longest), "reference", False)
    )
    return Case(
        f"The same cell on one chain, {hidden} hidden, forced wavefront: as many levels as nodes.",
        contenders,
        slope=True,
        axis="nodes",
    )


def again_case(make: Callable[[], Step], products: Callable[[], Step], size: int, title: str) -> Case:
    """Forward and backward with what a level computed kept, and with it computed again on the way back."""
    contenders = [
        Contender("mpnn", partial(on_engine, make, "wavefront"), "mpnn", size=size),
        Contender("mpnn, computed again", partial(on_engine, make, "wavefront", recompute=True), "mpnn", size=size),
        Contender("matrix products alone", products, "reference", agrees=False, size=size),
    ]
    return Case(title, contenders)


def again_trees_case(smoke: bool) -> Case:
    trees = forest(joined, *((4, 3, 6, 8) if smoke else (256, 20, 40, 150)))
    title = f"Child-sum Tree-LSTM on the trees of ``trees``, {trees.hidden} hidden: kept, and computed again."
    return again_case(partial(layer_step, trees), partial(gemm_step, trees), trees.num_nodes, title)


def again_chains_case(smoke: bool) -> Case:
    count, length, width = (3, 4, 8) if smoke else (32, 200, 256)
    batch = chains.Batch("LSTM", [length] * count, width, 1)
    title = f"LSTM on {count} chains of {length} steps, {width} wide: kept, and computed again."
    ours, products = partial(chains.ours_step, batch, None), partial(chains.products_step, batch)
    return again_case(ours, products, count * length, title)


CASES = {
    "trees": partial(trees_case, joined),
    "parses": partial(trees_case, drawn),
    "threads": threads_case,
    "deep": deep_case,
    "chains": chains_case,
    "again_trees": again_trees_case,
    "again_chains": again_chains_case,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1, 2))

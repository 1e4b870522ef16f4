"""Graph LSTM on superpixels: nodes that fire one after the other, run in as few frontiers as give the same result.

Planar graphs of 1,024 nodes, as superpixels make them (a triangulation of points close to a grid), 64 features
everywhere, and states from before the pass that are not zero, as in every layer but the first; forward, and backward
from dense gradients of every node's h and m to the weights, the inputs and the states before. ``smooth`` has a priority
that changes slowly from place to place: many narrow frontiers. ``random`` has few wide ones. ``batch`` is eight graphs
with smooth priorities. ``script`` is a batch of ``mpnn run superpixels``, 16 graphs of 400 nodes with 32 features, with
as many frontiers as order of confidence has there (21 a picture); ``breadth`` the same with a smooth priority, about as
many as breadth first has (56).

The reference is the matrix products alone, by ``mpnn.products`` as in the layer, each as a single batch over all nodes,
and both backward products of each: W (4H wide), U (4H), the neighbours' forget gate (H) and their part in the other
gates (3H). Then the same with the last of these frontier by frontier, as it waits for the state; and in single batches
again, by torch's own product. Two loops take one node after the other in plain torch: as the paper's equations stand,
and with all that can be taken beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from _harness import Case, Contender, Step, main, on_engine
from _products import Product, references
from scipy.spatial import Delaunay
from torch import Tensor

import mpnn
from mpnn.schedule import ordered


@dataclass
class Scene:
    """Graphs side by side, both directions of every edge, with a priority for each node."""

    edge_index: Tensor  # (2, E)
    priority: Tensor  # (N,)
    hidden: int

    def __post_init__(self):
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
        n, h = self.num_nodes, self.hidden
        self.x, self.h, self.m = draw(n, h), torch.tanh(draw(n, h)), draw(n, h)
        self.grad_h, self.grad_m = draw(n, h), draw(n, h)
        widths = [(4 * h, h), (4 * h, h), (4 * h, h), (4 * h,)]
        self.weights = [draw(*width) * h**-0.5 for width in widths]  # W, U, V, b: gate blocks i, f, g, o

    @property
    def num_nodes(self) -> int:
        return self.priority.numel()


ORDERS = {"smooth": 0.0, "mixed": 1.3, "random": 1e3}  # how much of a priority is by chance


def scene(count: int, side: int, hidden: int, order: str) -> Scene:
    """``count`` planar graphs of ``side * side`` nodes, numbered at random."""
    generator = torch.Generator().manual_seed(0)
    edges, priorities = [], []
    for k in range(count):
        grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"), -1).view(-1, 2)
        place = grid + 0.6 * torch.rand(grid.shape, generator=generator)
        place = place[torch.randperm(len(place), generator=generator)]
        corner = torch.from_numpy(Delaunay(place.numpy()).simplices).long()
        pairs = torch.cat([corner[:, [a, b]] for a in range(3) for b in range(3) if a != b])
        edges.append(pairs.unique(dim=0).t() + k * len(place))
        slow, rough = torch.sin(place / 5).sum(1), torch.rand(len(place), generator=generator)
        priorities.append(slow + ORDERS[order] * rough)
    return Scene(torch.cat(edges, dim=1), torch.cat(priorities), hidden)


def training_step(scene: Scene, forward: Callable[..., tuple[Tensor, Tensor]], weights: list[Tensor]) -> Step:
    """Forward and backward; what all contenders must agree on are the new states and all gradients."""
    leaves = [value.clone().requires_grad_() for value in (scene.x, scene.h, scene.m)]

    def step():
        for leaf in (*leaves, *weights):
            leaf.grad = None
        h, m = forward(*leaves)
        torch.autograd.backward([h, m], [scene.grad_h, scene.grad_m])
        return [h.detach(), m.detach(), *(leaf.grad for leaf in (*leaves, *weights))]

    return step


def copies(scene: Scene) -> list[Tensor]:
    return [weight.clone().requires_grad_() for weight in scene.weights]


def mpnn_step(scene: Scene) -> Step:
    layer = mpnn.nn.GraphLSTM(scene.hidden, scene.hidden)
    weights = [layer.weight_ih, layer.weight_hh, layer.weight_nh, layer.bias]
    for weight, value in zip(weights, scene.weights, strict=True):
        weight.data.copy_(value)
    plan = mpnn.plan(scene.edge_index, ordered(scene.priority), num_nodes=scene.num_nodes)
    return training_step(scene, lambda x, h, m: layer(x, plan, h, m), weights)


# Peers --------------------------------------------------------------------------------------------------------------


def prepared(x: Tensor, h: Tensor, m: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """What does not depend on the order: own gates i, g, o; what the own state leaves; the two parts of the neighbours'
    forget gates; and the matrix of the neighbours' part in i, g, o.
    """
    w, u, v, b = weights
    z = torch.addmm(b, x, w.t())
    own = z + h @ u.t()
    i, f, g, o = own.chunk(4, dim=1)
    v_i, v_f, v_g, v_o = v.chunk(4)
    return torch.cat([i, g, o], 1), torch.sigmoid(f) * m, z.chunk(4, dim=1)[1], h @ v_f.t(), torch.cat([v_i, v_g, v_o])


def fired(gates: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    i, g, o = gates.chunk(3, dim=-1)
    m = kept + torch.sigmoid(i) * torch.tanh(g)
    return torch.tanh(torch.sigmoid(o) * m), m


def paper_step(scene: Scene) -> Step:
    """One node after the other, its gates as the paper writes them, in plain torch."""
    weights = copies(scene)
    neighbours = [scene.edge_index[0, scene.edge_index[1] == i].tolist() for i in range(scene.num_nodes)]
    order = torch.argsort(scene.priority, descending=True, stable=True).tolist()

    def forward(x, h, m):
        (w_i, w_f, w_g, w_o), (u_i, u_f, u_g, u_o), (v_i, v_f, v_g, v_o), (b_i, b_f, b_g, b_o) = (
            weight.chunk(4) for weight in weights
        )
        new_h, new_m = {}, {}
        for i in order:
            h_mean = sum(new_h.get(j, h[j]) for j in neighbours[i]) / len(neighbours[i])
            i_gate = torch.sigmoid(w_i @ x[i] + u_i @ h[i] + v_i @ h_mean + b_i)
            f_gate = torch.sigmoid(w_f @ x[i] + u_f @ h[i] + b_f)
            g_gate = torch.tanh(w_g @ x[i] + u_g @ h[i] + v_g @ h_mean + b_g)
            o_gate = torch.sigmoid(w_o @ x[i] + u_o @ h[i] + v_o @ h_mean + b_o)
            kept = sum(
                torch.sigmoid(w_f @ x[i] + v_f @ h[j] + b_f) * new_m.get(j, m[j]) for j in neighbours[i]
            ) / len(neighbours[i])
            new_m[i] = kept + f_gate * m[i] + i_gate * g_gate
            new_h[i] = torch.tanh(o_gate * new_m[i])
        return tuple(torch.stack([new[i] for i in range(scene.num_nodes)]) for new in (new_h, new_m))

    return training_step(scene, forward, weights)


def loop_step(scene: Scene) -> Step:
    """The same with all products that do not depend on the order taken beforehand, and all neighbours at once."""
    weights = copies(scene)
    neighbours = [scene.edge_index[0, scene.edge_index[1] == i] for i in range(scene.num_nodes)]
    lists = [near.tolist() for near in neighbours]
    order = torch.argsort(scene.priority, descending=True, stable=True).tolist()

    def forward(x, h, m):
        own, left, forget, near, v = prepared(x, h, m, weights)
        now_h, now_m = list(h.unbind()), list(m.unbind())
        own, left, forget = own.unbind(), left.unbind(), forget.unbind()
        for i in order:
            h_mean = torch.stack([now_h[j] for j in lists[i]]).mean(0)
            f = torch.sigmoid(forget[i] + near[neighbours[i]])
            kept = (f * torch.stack([now_m[j] for j in lists[i]])).mean(0)
            now_h[i], now_m[i] = fired(own[i] + v @ h_mean, kept + left[i])
        return torch.stack(now_h), torch.stack(now_m)

    return training_step(scene, forward, weights)


def level_step(scene: Scene) -> Step:
    """The same frontiers in plain torch: the whole state anew at each level, as autograd wants it."""
    weights = copies(scene)
    level = ordered(scene.priority)(scene.edge_index, scene.num_nodes)
    src, dst = scene.edge_index
    place = torch.empty_like(level)
    fronts = []
    for k in range(int(level.max()) + 1):
        nodes = (level == k).nonzero().flatten()
        place[nodes] = torch.arange(len(nodes))
        into = level[dst] == k
        share = 1 / torch.bincount(place[dst[into]], minlength=len(nodes)).clamp(min=1)[:, None]
        fronts.append((nodes, src[into], dst[into], place[dst[into]], share))

    def forward(x, h, m):
        own, left, forget, near, v = prepared(x, h, m, weights)
        for nodes, source, target, at, share in fronts:
            zero = h.new_zeros(len(nodes), scene.hidden)
            h_mean = zero.index_add(0, at, h[source]) * share
            kept = zero.index_add(0, at, torch.sigmoid(forget[target] + near[source]) * m[source]) * share
            new_h, new_m = fired(torch.addmm(own[nodes], h_mean, v.t()), kept + left[nodes])
            h, m = h.index_copy(0, nodes, new_h), m.index_copy(0, nodes, new_m)
        return h, m

    return training_step(scene, forward, weights)


def products(scene: Scene, frontiers: list[int]) -> list[Product]:
    w, u, v, _ = scene.weights
    forget, others = v[: scene.hidden], v[scene.hidden :]
    h = scene.h
    return [Product(scene.x, w), Product(h, u), Product(h, forget), Product(h, others, frontiers)]


# Cases --------------------------------------------------------------------------------------------------------------


def case(count: int, order: str, smoke: bool, side: int = 32, hidden: int = 64) -> Case:
    made = scene(count, *((5, 8) if smoke else (side, hidden)), order)
    plan = mpnn.plan(made.edge_index, ordered(made.priority), num_nodes=made.num_nodes)
    size = made.num_nodes
    slow = [
        Contender("one node after the other, as in the paper", partial(paper_step, made), size=size),
        Contender("one node after the other, products beforehand", partial(loop_step, made), size=size),
    ]
    contenders = [
        Contender("mpnn", partial(mpnn_step, made), "mpnn", size=size),
        Contender("mpnn, compiled", partial(on_engine, partial(mpnn_step, made), compile=True), "mpnn", size=size),
        *(slow if count == 1 else []),
        Contender("level-batched plain torch", partial(level_step, made), size=size),
        *references(partial(products, made, plan.node_counts), size),
    ]
    graphs = "one graph" if count == 1 else f"{count} graphs"
    return Case(
        f"Graph LSTM, {made.hidden} hidden, {graphs}, {order} priority: {size:,} nodes, "
        f"{plan.num_edges:,} edges, {plan.num_levels} levels; forward and backward.",
        contenders,
    )


CASES = {
    "smooth": partial(case, 1, "smooth"),
    "random": partial(case, 1, "random"),
    "batch": partial(case, 8, "smooth"),
    "script": partial(case, 16, "mixed", side=20, hidden=32),
    "breadth": partial(case, 16, "smooth", side=20, hidden=32),
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

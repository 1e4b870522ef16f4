"""Lattice LSTM and Grid LSTM: characters with the words they may spell, and cells along every dimension of a grid.

Sizes are those of the scripts. ``lattice``: 32 sentences of about 33 characters and 15 words, vectors of 50, 100 hidden
features in each of two directions (``mpnn run lattice_ner``). ``sums``: 50 grids of 9 steps by 4 layers, 32 hidden
features in each dimension, all input at the side (``mpnn run grid``). ``digits``: 50 grids of 8 by 8 pixels, 24 hidden
features, and ``corners`` the same from all four corners. Forward, and backward from dense gradients of every node's
states to the weights and the inputs.

The reference is the matrix products alone, by ``mpnn.products`` as in the layers, each as a single batch over all
nodes, and both backward products of each. Then the same frontier by frontier where the formulas have a product wait for
the state; and in single batches again, by torch's own product. The peers are plain torch: sentence after sentence, a
character after the other with the words that end there, as the code of the paper's authors does; and cell after cell
of the grid, in all grids at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from _harness import Case, Contender, Step, main, on_engine
from _products import Product, references
from torch import Tensor
from torch_geometric.data import Batch

import mpnn
from mpnn.lattice import lattice, relations


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def training_step(layer, leaves: list[Tensor], forward: Callable[[], tuple[Tensor, ...]]) -> Step:
    """Forward and backward; what all contenders must agree on are the states and all gradients."""
    leaves = [*leaves, *(weight for weight in layer.parameters() if weight.numel())]
    grads = [draw(*state.shape, seed=k) for k, state in enumerate(forward())]

    def step():
        for leaf in leaves:
            leaf.grad = None
        states = forward()
        torch.autograd.backward(states, grads)
        return [*(state.detach() for state in states), *(leaf.grad for leaf in leaves)]

    return step


# Lattices -----------------------------------------------------------------------------------------------------------


@dataclass
class Sentences:
    """Lattices side by side, with a vector for each character and word."""

    data: Batch
    width: int
    hidden: int

    def __post_init__(self):
        self.x = draw(self.data["character"].num_nodes, self.width, seed=0)
        self.words = draw(self.data["word"].num_nodes, self.width, seed=1)
        torch.manual_seed(0)
        self.layer = mpnn.nn.LatticeLSTM(self.width, self.hidden, bidirectional=True)

    def leaves(self) -> list[Tensor]:
        return [self.x.clone().requires_grad_(), self.words.clone().requires_grad_()]


def sentences(count: int, width: int, hidden: int) -> Sentences:
    """Of 28 to 38 characters, with about half as many words: three of four have two characters, others up to four."""
    generator, made = torch.Generator().manual_seed(0), []
    for length in torch.randint(28, 39, (count,), generator=generator).tolist():
        first = torch.randperm(length - 3, generator=generator)[: round(0.47 * length)]
        last = first + torch.tensor([1, 1, 1, 1, 1, 1, 2, 3])[torch.randint(8, first.shape, generator=generator)]
        words = [tuple(range(a, b + 1)) for a, b in zip(first.tolist(), last.tolist())]
        made.append(lattice(range(length), words))
    return Sentences(Batch.from_data_list(made), width, hidden)


def lattice_step(some: Sentences) -> Step:
    edges = relations(some.data)
    leaves = some.leaves()
    return training_step(some.layer, leaves, lambda: some.layer(*leaves, edges))


def one_by_one_step(some: Sentences) -> Step:
    """Sentence after sentence, character after character, in plain torch."""
    leaves, edges = some.leaves(), relations(some.data)
    begins, ends = edges["begins"][0].tolist(), edges["ends"][1].tolist()
    bounds = some.data["character"].ptr.tolist()
    spans = [(b, e, w) for w, (b, e) in enumerate(zip(begins, ends))]
    inside = [[span for span in spans if lo <= span[0] < hi] for lo, hi in zip(bounds, bounds[1:])]

    def forward():
        states = []
        for layer, back in ((some.layer, False), (some.layer.reverse, True)):
            h, c = {}, {}
            for lo, hi, words in zip(bounds, bounds[1:], inside):
                order = range(hi - 1, lo - 1, -1) if back else range(lo, hi)
                turned = [(e, b, w) for b, e, w in words] if back else words
                sentence_loop(layer, *leaves, order, turned, h, c)
            states.append([torch.stack([field[k] for k in range(len(some.x))]) for field in (h, c)])
        return tuple(torch.cat(pair, dim=1) for pair in zip(*states))

    return training_step(some.layer, leaves, forward)


def sentence_loop(layer, x: Tensor, x_word: Tensor, order: range, spans: list, h: dict, c: dict) -> None:
    """One sentence in one direction; its states are added to h and c."""
    H = layer.hidden_features
    begins, ends = {}, {}
    for b, e, w in spans:
        begins.setdefault(b, []).append((e, w))
    before, h_before = x.new_zeros(H), x.new_zeros(H)
    for j in order:
        i, f, g, o = (layer.weight_ih @ x[j] + layer.weight_hh @ h_before + layer.bias).chunk(4)
        i, g = torch.sigmoid(i), torch.tanh(g)
        if j in ends:
            cells = torch.stack(ends[j])
            gate = x[j] @ layer.gate_weight_ih.t() + cells @ layer.gate_weight_hh.t() + layer.gate_bias
            weight = torch.cat([torch.sigmoid(gate), i[None]]).softmax(0)
            before = (weight * torch.cat([cells, g[None]])).sum(0)
        else:
            before = torch.sigmoid(f) * before + i * g
        h_before = torch.sigmoid(o) * torch.tanh(before)
        h[j], c[j] = h_before, before
        for e, w in begins.get(j, ()):
            z = layer.word_weight_ih @ x_word[w] + layer.word_weight_hh @ h_before + layer.word_bias
            i_w, f_w, g_w = z.chunk(3)
            ends.setdefault(e, []).append(torch.sigmoid(f_w) * before + torch.sigmoid(i_w) * torch.tanh(g_w))


def lattice_products(some: Sentences) -> list[Product]:
    """Of both directions."""
    layer, C, W = some.layer, len(some.x), len(some.words)
    edges = layer.laid_out(some.x, some.words, relations(some.data)).edges
    after, words = ([count for count in edges[kind].counts if count] for kind in ("next", "word"))
    h = draw(max(C, W), some.hidden, seed=2)
    one_way = [
        Product(some.x, layer.weight_ih), Product(h[: sum(after)], layer.weight_hh, after),
        Product(some.words, layer.word_weight_ih), Product(h[:W], layer.word_weight_hh, words),
        Product(some.x, layer.gate_weight_ih), Product(h[:W], layer.gate_weight_hh, words),
    ]  # fmt: skip
    return one_way * 2


def lattice_case(smoke: bool) -> Case:
    some = sentences(*((3, 5, 8) if smoke else (32, 50, 100)))
    C, W = len(some.x), len(some.words)
    contenders = [
        Contender("mpnn", partial(lattice_step, some), "mpnn", size=C),
        Contender("mpnn, compiled", partial(on_engine, partial(lattice_step, some), compile=True), "mpnn", size=C),
        Contender("one character after the other", partial(one_by_one_step, some), size=C),
        *references(partial(lattice_products, some), C),
    ]
    count = some.data.num_graphs
    return Case(
        f"Lattice LSTM, both directions, {some.hidden} hidden: {count} sentences, {C:,} characters, {W:,} words, "
        f"{int(some.data['character'].ptr.diff().max())} levels; forward and backward.",
        contenders,
    )


# Grids --------------------------------------------------------------------------------------------------------------


@dataclass
class Grids:
    """Grids of one size, with a vector of ``width`` at each node."""

    sizes: tuple[int, int]
    count: int
    width: int
    hidden: int
    corners: tuple = ((),)  # the dimensions that are turned

    def __post_init__(self):
        made = [mpnn.graphs.grid(*self.sizes, turned=turned) for turned in self.corners for _ in range(self.count)]
        self.data = Batch.from_data_list(made)
        self.x = draw(self.data.num_nodes, self.width, seed=0)
        self.side = [draw(self.data.num_nodes, self.hidden, seed=k) for k in (1, 2)]  # h and m along dimension 1
        torch.manual_seed(0)
        self.layer = mpnn.nn.GridLSTM(self.width, self.hidden)

    def leaves(self) -> list[Tensor]:
        """x, or where it has no width what comes in at the side."""
        return [value.clone().requires_grad_() for value in ((self.x,) if self.width else self.side)]


def grid_step(grids: Grids) -> Step:
    leaves, plan = grids.leaves(), mpnn.plan(grids.data, "topological")
    x, start = (leaves[0], None) if grids.width else (grids.x, {1: tuple(leaves)})
    return training_step(grids.layer, leaves, lambda: grids.layer(x, plan, grids.data.dimension, start))


def cell_by_cell_step(grids: Grids) -> Step:
    """One place of the grid after the other, in all grids that start in the same corner at once."""
    leaves = grids.leaves()
    shape = len(grids.corners), grids.count, *grids.sizes

    def forward():
        places = [value.view(*shape, -1) for value in leaves]
        done = [corner_loop(grids, [value[k] for value in places], turned) for k, turned in enumerate(grids.corners)]
        return tuple(torch.stack(field).flatten(0, 3) for field in zip(*done))

    return training_step(grids.layer, leaves, forward)


def corner_loop(grids: Grids, places: list[Tensor], turned: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """h and m ``(count, rows, columns, 2, H)`` of the grids that start in one corner."""
    layer, states = grids.layer, {}
    zero = grids.x.new_zeros(grids.count, grids.hidden)
    rows, columns = (range(n)[:: -1 if d in turned else 1] for d, n in enumerate(grids.sizes))
    for r in rows:
        for q in columns:
            above = states.get((r + 1 if 0 in turned else r - 1, q))
            left = states.get((r, q + 1 if 1 in turned else q - 1))
            side = (zero, zero) if grids.width else [value[:, r, q] for value in places]
            h_0, m_0 = (field[:, 0] for field in above) if above else (zero, zero)
            h_1, m_1 = (field[:, 1] for field in left) if left else side
            z = torch.cat([h_0, h_1], 1) @ layer.weight_hh.t() + layer.bias
            z = z + places[0][:, r, q] @ layer.weight_ih.t() if grids.width else z
            u, f, c, o = z.view(grids.count, 4, 2, grids.hidden).unbind(1)
            m = torch.sigmoid(f) * torch.stack([m_0, m_1], 1) + torch.sigmoid(u) * torch.tanh(c)
            states[r, q] = torch.tanh(torch.sigmoid(o) * m), m
    ordered = [states[r, q] for r in range(grids.sizes[0]) for q in range(grids.sizes[1])]
    return tuple(torch.stack(field, dim=1).unflatten(1, grids.sizes) for field in zip(*ordered))


def grid_products(grids: Grids) -> list[Product]:
    h, counts = draw(len(grids.x), 2 * grids.hidden, seed=3), mpnn.plan(grids.data, "topological").node_counts
    products = [Product(h, grids.layer.weight_hh, counts)]
    return products + ([Product(grids.x, grids.layer.weight_ih)] if grids.width else [])


def grid_case(sizes: tuple[int, int], width: int, hidden: int, corners: tuple, smoke: bool) -> Case:
    grids = Grids(sizes if not smoke else (3, 2), 2 if smoke else 50, width, hidden if not smoke else 4, corners)
    size = len(grids.x)
    contenders = [
        Contender("mpnn", partial(grid_step, grids), "mpnn", size=size),
        Contender("mpnn, compiled", partial(on_engine, partial(grid_step, grids), compile=True), "mpnn", size=size),
        Contender("cell after cell, all grids at once", partial(cell_by_cell_step, grids), size=size),
        *references(partial(grid_products, grids), size),
    ]
    return Case(
        f"Grid LSTM, {grids.hidden} hidden: {grids.count} grids of {sizes[0]} by {sizes[1]}, {len(corners)} corners, "
        f"{size:,} nodes, {sum(grids.sizes) - 1} levels; forward and backward.",
        contenders,
    )


CORNERS = ((), (0,), (1,), (0, 1))
CASES = {
    "lattice": lattice_case,
    "sums": partial(grid_case, (9, 4), 0, 32, ((),)),
    "digits": partial(grid_case, (8, 8), 1, 24, ((),)),
    "corners": partial(grid_case, (8, 8), 1, 24, CORNERS),
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

"""LSTM, GRU and RNN on batches of sequences: chains of a graph, beside torch.nn.

Forward and backward from a dense gradient of every step's state, weights the same in all. torch.nn runs two ways: on
padded sequences and on packed ones; the input of either is made ready beforehand, as our plan is. Padded, its backward
direction starts in the padding and so gives other numbers where lengths differ: there it is timed, not compared.
``loop`` is a cell of torch.nn in a Python loop over padded steps. The reference is the matrix products alone, each as
one batch over all nodes: W and U forward, both gradients of the weights, and the gradient of the states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from _harness import Case, Contender, Step, main
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence

import mpnn

SHAPES = {"64 of 10-50": (64, 10, 50, 128), "32 of 200": (32, 200, 200, 256), "8 of 10-50": (8, 10, 50, 128)}
TINY = {"3 of 1-4": (3, 1, 4, 8)}
CELLS = ("LSTM", "GRU", "RNN")


@dataclass
class Batch:
    """Sequences one after the other, and a layer of torch.nn whose weights all contenders take."""

    cell: str
    lengths: list[int]
    width: int
    directions: int

    def __post_init__(self):
        torch.manual_seed(0)
        num_nodes = sum(self.lengths)
        self.x, self.grad = torch.randn(num_nodes, self.width), torch.randn(num_nodes, self.width * self.directions)
        self.theirs = getattr(nn, self.cell)(self.width, self.width, bidirectional=self.directions == 2)
        place = torch.arange(num_nodes)
        last = torch.tensor(self.lengths).cumsum(0) - 1
        src = place[torch.isin(place, last, invert=True)]
        self.edge_index = torch.stack([src, src + 1])

    def copy(self) -> nn.Module:
        layer = getattr(nn, self.cell)(self.width, self.width, bidirectional=self.directions == 2)
        layer.load_state_dict(self.theirs.state_dict())
        return layer

    def padded(self, values: Tensor) -> Tensor:
        return pad_sequence(values.split(self.lengths))

    def unpadded(self, values: Tensor) -> Tensor:
        return torch.cat([values[:length, b] for b, length in enumerate(self.lengths)])


def step_of(layer: nn.Module, forward: Callable[[], Tensor], grad: Tensor, back: Callable[[Tensor], Tensor]) -> Step:
    """Forward and backward; ``back`` puts the states in the order of the nodes, for the comparison only."""
    parameters = list(layer.parameters())

    def step():
        for parameter in parameters:
            parameter.grad = None
        out = forward()
        out.backward(grad)
        return Lazy(out.detach(), back, [p.grad for p in parameters])

    return step


class Lazy(list):
    """A step's result, whose states are put in order only when it is looked at."""

    def __init__(self, out: Tensor, back: Callable[[Tensor], Tensor], grads: list[Tensor]):
        super().__init__([out, *grads])
        self.back = back

    def __iter__(self):
        yield self.back(self[0])
        yield from self[1:]


def ours_step(batch: Batch, way: str | None) -> Step:
    layer = getattr(mpnn.nn, batch.cell)(batch.width, batch.width, bidirectional=batch.directions == 2)
    layer.load_state_dict(batch.theirs.state_dict())
    plan = mpnn.plan(batch.edge_index, "topological", len(batch.x))

    def forward():
        out = layer(batch.x, plan)
        return out[0] if isinstance(out, tuple) else out

    step = step_of(layer, forward, batch.grad, lambda out: out)

    def forced():
        with mpnn.engine(way):
            return step()

    return forced if way else step


def padded_step(batch: Batch) -> Step:
    layer, x = batch.copy(), batch.padded(batch.x)
    return step_of(layer, lambda: layer(x)[0], batch.padded(batch.grad), batch.unpadded)


def packed_step(batch: Batch) -> Step:
    layer = batch.copy()
    x, grad = (pack_sequence(v.split(batch.lengths), enforce_sorted=False) for v in (batch.x, batch.grad))
    where = pack_sequence(torch.arange(len(batch.x)).split(batch.lengths), enforce_sorted=False).data.argsort()
    return step_of(layer, lambda: layer(x)[0].data, grad.data, lambda out: out[where])


def loop_step(batch: Batch) -> Step:
    cell = getattr(nn, f"{batch.cell}Cell")(batch.width, batch.width)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in batch.theirs.state_dict().items()})
    x = batch.padded(batch.x)

    def forward():
        state, out = None, []
        for row in x:
            state = cell(row, state)
            out.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(out)

    return step_of(cell, forward, batch.padded(batch.grad), batch.unpadded)


def products_step(batch: Batch) -> Step:
    weight = batch.theirs.weight_ih_l0.detach()

    def step():
        for _ in range(batch.directions):
            y = batch.x @ weight.t()
            torch.addmm(y, batch.x, weight.t())
            y.t() @ batch.x
            y.t() @ batch.x
            y @ weight
        return []

    return step


def case(cell: str, shape: str, directions: int, smoke: bool) -> Case:
    count, fewest, most, width = next(iter(TINY.values())) if smoke else SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(fewest, most + 1, (count,), generator=generator).tolist()
    batch = Batch(cell, lengths, width, directions)
    size = sum(lengths)
    wrong = "its backward direction reads the padding" if directions == 2 and len(set(lengths)) > 1 else ""
    contenders = [
        Contender("mpnn", partial(ours_step, batch, None), "mpnn", size=size),
        Contender("mpnn, forced wavefront", partial(ours_step, batch, "wavefront"), "mpnn", size=size),
        Contender("torch.nn, padded", partial(padded_step, batch), agrees=not wrong, size=size, note=wrong),
        Contender("torch.nn, packed", partial(packed_step, batch), size=size),
        Contender("matrix products alone", partial(products_step, batch), "reference", agrees=False, size=size),
    ]
    if directions == 1:
        contenders.insert(4, Contender("loop over a cell", partial(loop_step, batch), size=size))
    title = f"{cell}, {directions} direction(s), {count} sequences of {fewest} to {most} steps, {width} wide."
    return Case(title, contenders, memory=False)


CASES = {
    f"{cell}, {shape}, {directions}": partial(case, cell, shape, directions)
    for shape in SHAPES
    for cell in CELLS
    for directions in (1, 2)
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

"""AGC-LSTM on skeletons of N-UCLA: a training step of a stream, beside plain torch and its matrix products alone.

64 sequences of as many frames as scripts/skeletons.py trains on: ``joint`` with 20 joints of 3 coordinates, ``part``
with 5 parts of 12; 64 hidden features, three layers with pooling of two frames to one before each; forward, the loss
with its terms on attention, and backward to all weights. An item is a sequence, so sequences a second are a million
over the time of an item.

Plain torch has the sequences as one dense array, as every skeleton has the same bones: the neighbours' means by a
matrix from joints to joints, all input products of a layer at once, torch.nn's LSTM for the positions, and a loop over
frames. The reference is the matrix products alone, each as a single batch over all frames, and both backward products
of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from _harness import Case, Contender, Step, main
from torch import Tensor, nn
from torch_geometric.data import Batch

from mpnn.nn.agc_lstm import AGCLSTMNetwork, agc_lstm_loss, stages
from mpnn.spacetime import skeleton

JOINTS = [
    (0, 1), (1, 2), (2, 3), (2, 4), (4, 5), (5, 6), (6, 7), (2, 8), (8, 9), (9, 10), (10, 11),
    (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19),
]  # fmt: skip
PARTS = [(0, 1), (0, 2), (0, 3), (0, 4)]  # torso and limbs
CLASSES, WINDOWS = 10, (2, 2, 2)
FRAMES = 16  # as scripts/skeletons.py has


@dataclass
class Moves:
    """Sequences of equal length with their classes, ``(B, T, V, F)``, and the weights of a network."""

    bones: list[tuple[int, int]]
    count: int
    frames: int
    features: int
    hidden: int

    def __post_init__(self):
        generator = torch.Generator().manual_seed(0)
        self.joints = 1 + max(map(max, self.bones))
        self.x = torch.randn(self.count, self.frames, self.joints, self.features, generator=generator)
        self.y = torch.randint(CLASSES, (self.count,), generator=generator)
        torch.manual_seed(0)
        widths = self.features, self.hidden, CLASSES
        self.network = AGCLSTMNetwork(*widths, position_features=self.hidden // 2, dropout=0)

    @property
    def means(self) -> Tensor:
        """From joints to the means of their neighbours."""
        near = torch.zeros(self.joints, self.joints)
        for a, b in self.bones:
            near[a, b] = near[b, a] = 1
        return near / near.sum(dim=1, keepdim=True)


def training_step(network: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Forward and backward; what all contenders must agree on are the loss and the gradients of all weights."""

    def step():
        network.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return [value.detach(), *(weight.grad for weight in network.parameters())]

    return step


def mpnn_step(moves: Moves) -> Step:
    one = skeleton(torch.empty(moves.frames, moves.joints, 0), moves.bones)
    steps, x = stages(Batch.from_data_list([one] * moves.count), WINDOWS), moves.x.flatten(0, 2)
    network = moves.network
    return training_step(network, lambda: agc_lstm_loss(network(x, steps), moves.y))


# Plain torch ----------------------------------------------------------------------------------------------------------


def torch_step(moves: Moves) -> Step:
    network, means = moves.network, moves.means
    return training_step(network, lambda: dense_loss(network, means, moves.x, moves.y))


def dense_loss(network: AGCLSTMNetwork, means: Tensor, x: Tensor, y: Tensor) -> Tensor:
    h, extra = augmented(network, x), 0.0
    for layer, window in zip(network.layers, WINDOWS, strict=True):
        h = torch.stack([some.mean(dim=1) for some in h.split(window, dim=1)], dim=1)
        h, alpha = dense_layer(layer, means, h)  # (B, T, V, H), (B, T, V)
        extra = extra + 0.01 * (1 - alpha.mean(dim=1)).square().sum()
        extra = extra + 0.001 * alpha.sum(dim=2).square().mean(dim=1).sum()
    focused = h * (alpha / (1 + alpha))[..., None]
    scores = [network.whole(h.sum(dim=2)), network.focus(focused.sum(dim=2))]
    target = y[:, None].expand(-1, h.shape[1]).flatten()
    return (sum(F.cross_entropy(some.flatten(0, 1), target, reduction="sum") for some in scores) + extra) / len(x)


def augmented(network: AGCLSTMNetwork, x: Tensor) -> Tensor:
    count, frames, joints, _ = x.shape
    p = network.position(x)
    moved = F.linear(torch.cat([torch.zeros_like(x[:, :1]), x.diff(dim=1)], dim=1), network.position.weight)
    given = torch.cat([p, moved], dim=3).transpose(1, 2).reshape(count * joints, frames, -1)
    lstm, weights = network.lstm, ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    zero = given.new_zeros(1, len(given), lstm.hidden_features)
    flat = [getattr(lstm, name) for name in weights]
    e = torch.lstm(given, (zero, zero), flat, True, 1, 0.0, False, False, True)[0]
    return e.view(count, joints, frames, -1).transpose(1, 2)


def dense_layer(layer: nn.Module, means: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer of AGC-LSTM on ``(B, T, V, H)``."""
    own, near, bias = layer.recurrent.own.weight, layer.recurrent.neighbour.weight, layer.recurrent.neighbour.bias
    weight = torch.cat([own, near], dim=1)
    wx = layer.input.own(x) + layer.input.neighbour(means @ x)
    h = c = x.new_zeros(len(x), x.shape[2], layer.hidden_features)
    out, scores = [], []
    for t in range(x.shape[1]):
        gates = wx[:, t] + F.linear(torch.cat([h, means @ h], dim=2), weight, bias)
        i, f, g, o = gates.chunk(4, dim=2)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        query = layer.query_score(torch.relu(layer.query(h.sum(dim=1, keepdim=True))))
        alpha = torch.sigmoid(layer.score(torch.tanh(layer.state_score(h) + query)))
        h = h + alpha * h
        out.append(h)
        scores.append(alpha[..., 0])
    return torch.stack(out, dim=1), torch.stack(scores, dim=1)


def gemm_step(moves: Moves) -> Step:
    """The matrix products of a step: forward, gradient of the weights, gradient of the input."""
    draw, h = partial(torch.randn, generator=torch.Generator().manual_seed(1)), moves.hidden
    rows, shapes = moves.count * moves.frames * moves.joints, []
    shapes += [(rows, moves.features, h // 2)] * 2 + [(rows, h, 4 * h)] * 2  # positions, and the LSTM on them
    for window in WINDOWS:
        rows //= window
        shapes += [(rows, h, 4 * h)] * 4 + [(rows, h, h), (rows, h, 1)]  # gates, and the scores of joints
        shapes += [(rows // moves.joints, h, h)] * 2  # queries
    pairs = [(draw(n, a), draw(b, a)) for n, a, b in shapes]

    def step():
        for x, weight in pairs:
            y = x @ weight.t()
            y.t() @ x
            y @ weight
        return []

    return step


# Cases ----------------------------------------------------------------------------------------------------------------


def case(bones: list[tuple[int, int]], features: int, smoke: bool) -> Case:
    moves = Moves(bones, *((3, 8, features, 8) if smoke else (64, FRAMES, features, 64)))
    contenders = [
        Contender("mpnn", partial(mpnn_step, moves), "mpnn", size=moves.count),
        Contender("plain torch, dense", partial(torch_step, moves), size=moves.count),
        Contender("matrix products alone", partial(gemm_step, moves), "reference", agrees=False, size=moves.count),
    ]
    return Case(
        f"AGC-LSTM, {moves.hidden} hidden, {moves.count} sequences of {moves.frames} frames of {moves.joints} nodes, "
        f"{sum(weight.numel() for weight in moves.network.parameters()):,} weights; a training step.",
        contenders,
    )


CASES = {"joint": partial(case, JOINTS, 3), "part": partial(case, PARTS, 12)}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

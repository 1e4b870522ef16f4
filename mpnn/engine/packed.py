"""Chains with a cell that torch has: its fused kernels, on blocks of steps by chains.

The chains stand side by side, longest first, a step a row of the block. Where many of them have ended, a new and
narrower block begins, which takes the state over: so rows that belong to no node are few, whatever the lengths, and a
single long chain beside many short ones costs no memory. A chain of the reverse pass starts at its last node, so the
backward direction needs no turning: it is the same thing on the reverse plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result
from mpnn.plan import Plan

PATH = "torch's recurrent kernels"
DTYPES = (torch.float32, torch.float64)
CELL = ("update", "message", "aggregate", "edge_update", "global_update", "inputs", "weights")
FALL = 0.65  # a new block begins where the width has fallen below this part,
NARROW = 12  # both widths taken as so much wider: a step over few chains costs as much as over so many;
ROOM = 256  # or where more than half of the rows, and so many, belong to no node


@dataclass
class Chains:
    """Where the nodes of a graph of chains stand in the blocks.

    Attributes:
        first ``(B,)``: the node that each chain starts with, longest chain first.
        place ``(N,)``: the row of each node, over all blocks; None if nodes stand in their own order.
        node ``(N,)``: the node of each row; None if some rows belong to none, or if place is None.
        blocks: steps and chains of each block.
    """

    first: Tensor
    place: Tensor | None
    node: Tensor | None
    blocks: list[tuple[int, int]]

    @property
    def sizes(self) -> list[int]:
        return [steps * width for steps, width in self.blocks]


def chains(plan: Plan) -> Chains | str:
    """The layout of a graph of chains, made once for a plan; or why the graph is none, in words."""
    return plan.remember("chains", lambda: _no_chains(plan) or _laid_out(plan))


def _no_chains(plan: Plan) -> str | None:
    if plan.num_nodes == 0 or len(plan.edges) > 1:
        return "the graph has no nodes" if len(plan.edges) == 1 else "the graph has several edge types"
    src, dst = plan.edge_index(*plan.edges)
    for ends, what in ((dst, "into"), (src, "out of")):
        many = torch.bincount(ends, minlength=plan.num_nodes) > 1
        if many.any():
            return f"the graph is not made of chains: several edges lead {what} node {int(many.nonzero()[0])}"
    old = plan.level[src] >= plan.level[dst]
    if old.any():
        j, i = int(src[old][0]), int(dst[old][0])
        return f"the edge {j} -> {i} reads the state from before the pass, as {j} does not fire before {i}"
    return None


def _laid_out(plan: Plan) -> Chains:
    src, dst = plan.edge_index(*plan.edges)
    node = torch.arange(plan.num_nodes, device=dst.device)
    start = node.scatter(0, dst, src)  # a node so many steps further up its chain, at last the first one
    step = (start != node).long()
    while not torch.equal(further := start[start], start):
        start, step = further, step + step[start]
    first = (start == node).nonzero().flatten()
    length = torch.bincount(start)[first]
    first = first[torch.sort(length, descending=True, stable=True).indices]
    column = torch.empty_like(node).scatter_(0, first, node[: len(first)])[start]
    widths = torch.bincount(step).tolist()
    blocks = cut(widths)
    rows, begin = [], 0
    for steps, width in blocks:
        rows += range(begin, begin + steps * width, width)
        begin += steps * width
    place = torch.tensor(rows, device=dst.device)[step] + column
    if begin == plan.num_nodes and torch.equal(place, node):
        return Chains(first, None, None, blocks)
    return Chains(first, place, torch.argsort(place) if begin == plan.num_nodes else None, blocks)


def cut(widths: list[int]) -> list[tuple[int, int]]:
    """Blocks of steps by chains, for so many chains at each step.

    Example:
        >>> cut([100, 99, 98, 30, 30])
        [(3, 100), (2, 30)]
    """
    blocks, begin, empty = [], 0, 0
    for step, width in enumerate(widths):
        full = widths[begin]
        empty += full - width
        if width + NARROW < FALL * (full + NARROW) or empty > ROOM + (step - begin) * full / 2:
            blocks.append((step - begin, full))
            begin, empty = step, 0
    return [*blocks, (len(widths) - begin, widths[begin])]


def redefined(layer) -> str | None:
    """What of a cell was defined anew, in a class or on the layer, since its class named the kernel it equals."""
    kind = type(layer)
    home = next(base for base in kind.__mro__ if "kernel" in vars(base))
    new = (n for n in CELL if n in vars(layer) or getattr(kind, n, None) is not getattr(home, n, None))
    return next(new, None)


def not_packed(layer, plan: Plan, only: tuple[str, ...] | None) -> str | None:
    """Why torch's kernels cannot run a layer on a plan, if so. ``only`` are the state fields that are asked for."""
    if layer.kernel() is None:
        return "torch has no kernel for it"
    if name := redefined(layer):
        return f"it redefines {name}, so it is not torch's cell any more"
    if only is not None and set(only) != {layer.state[0]}:
        return f"{', '.join(only)} at every node are asked for, and torch's kernels keep {layer.state[0]} only"
    if not isinstance(plan, Plan):
        return "it is being traced"
    like = next(layer.parameters())
    if like.dtype not in DTYPES or like.device.type not in ("cpu", "cuda"):
        return f"its weights are {like.dtype} on {like.device.type}; expected float32 or float64 on cpu or cuda"
    if torch.is_autocast_enabled(like.device.type):
        return "autocast is on"
    found = chains(plan)
    return found if isinstance(found, str) else None


def described(layer, plan: Plan) -> str:
    """The blocks in words."""
    found = chains(plan)
    count, blocks, rows = len(found.first), len(found.blocks), sum(found.sizes)
    return (
        f"{count} chain{'s' * (count > 1)} and a cell that torch has: {layer.kernel().__name__} on {blocks} block"
        f"{'s' * (blocks > 1)} of steps by chains, {1 - plan.num_nodes / rows:.0%} of their rows empty"
    )


def packed(call: Call) -> Result:
    """Block after block through the kernel; each takes over the states of the chains that go on."""
    layer, found, fields = call.layer, chains(call.plan), call.fields
    w = fields["w"]
    weights = [value for value in (w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh) if value is not None]
    state = [_start(fields.get(f"{name}0"), found, w.weight_hh) for name in layer.state]
    out = []
    for block in _spread(fields["wx"].x, found):
        state = [value[:, : block.shape[1]].contiguous() for value in state]
        h, *state = _run(layer, block, state, weights)
        out.append(h.view(-1, h.shape[2]))
    h = out[0] if len(out) == 1 else torch.cat(out)
    h = _collect(h, found)
    if h.requires_grad:
        h.register_hook(_refuse_double_backward)
    return Result((h, *[None] * (len(layer.state) - 1)))


def _spread(x: Tensor, found: Chains) -> list[Tensor]:
    """The rows of nodes in blocks ``(steps, width, F)``, 0 where there is no node."""
    if found.node is not None:
        x = kernels.permute(x, found.node, found.place)
    elif found.place is not None:
        x = x.new_zeros(sum(found.sizes), x.shape[1]).index_add_(0, found.place, x)
    rows = x.split(found.sizes) if len(found.blocks) > 1 else [x]
    return [block.view(steps, width, -1) for block, (steps, width) in zip(rows, found.blocks)]


def _collect(rows: Tensor, found: Chains) -> Tensor:
    """The rows of nodes, from the blocks."""
    if found.node is not None:
        return kernels.permute(rows, found.place, found.node)
    return rows if found.place is None else rows.index_select(0, found.place)


def _refuse_double_backward(_) -> None:
    kernels.refuse_double_backward(PATH)


def _run(layer, block: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    """One layer in one direction: the states at all steps, and the last ones."""
    start = state if len(state) > 1 else state[0]
    num_layers, dropout, bidirectional, batch_first = 1, 0.0, False, False
    training = torch.is_grad_enabled()  # there is no dropout, and cuDNN keeps what gradients need in training only
    return layer.kernel()(block, start, weights, layer.bias, num_layers, dropout, training, bidirectional, batch_first)


def _start(value: Tensor | None, found: Chains, weight: Tensor) -> Tensor:
    """The initial states of all chains, ``(1, B, H)``; zeros unless given for the nodes."""
    if value is None:
        return weight.new_zeros(1, len(found.first), weight.shape[1])
    return value.index_select(0, found.first).unsqueeze(0)

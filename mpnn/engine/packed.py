"""Chains with a cell that torch has: its fused kernels, on blocks of steps by chains.

The chains stand side by side, longest first, a step a row of the block. Where many of them have ended, a new and
narrower block begins, which takes the state over: so rows that belong to no node are few, whatever the lengths, and a
single long chain beside many short ones costs no memory. A chain of the reverse pass starts at its last node, so the
backward direction needs no turning: it is the same thing on the reverse plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpnn import kernels
from mpnn.engine.call import Call, Result
from mpnn.plan import Plan, Reverse
from mpnn.schedule import topological

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
        column ``(N,)``: the chain that each node is in, longest chain first; on the host, as step and length are.
        step ``(N,)``: how many steps each node is from the first of its chain.
        length ``(B,)``: the nodes of each chain.
        blocks: steps and chains of each block.
        first ``(B,)``: the node that each chain starts with.
        place ``(N,)``: the row of each node, over all blocks; None if nodes stand in their own order.
        node ``(R,)``: the node of each row, N if it belongs to none; None if place is None.
        read ``(R,)``: the node that each row reads its input from: its own, or the last of the chain that has ended
            there, so that what is no node's depends on no other chain; None if place is None.
    """

    column: np.ndarray
    step: np.ndarray
    length: np.ndarray
    blocks: list[tuple[int, int]]
    first: Tensor
    place: Tensor | None
    node: Tensor | None
    read: Tensor | None

    @property
    def sizes(self) -> list[int]:
        return [steps * width for steps, width in self.blocks]


def chains(plan: Plan) -> Chains | str:
    """The layout of a graph of chains, made once for a plan; or why the graph is none, in words."""
    return plan.remember("chains", lambda: _turned(plan) if isinstance(plan, Reverse) else _found(plan))


def _found(plan: Plan) -> Chains | str:
    """The layout, kept with the edges, which the plan of the way back shares."""
    if len(plan.edges) != 1:
        return "the graph has several edge types"
    (edges,) = plan.edges.values()
    return edges.remember("chains", lambda: _no_chains(plan) or _laid_out(plan))


def _turned(plan: Reverse) -> Chains | str:
    """The layout of the way back: a chain stands in the same column, its last node first."""
    known = chains(plan.there)
    if isinstance(known, str):
        return _found(plan)  # which names the nodes of the way back
    back = known.length[known.column] - 1 - known.step
    return _placed(known.column, back, known.length, known.blocks, plan.there.level.device)


def _no_chains(plan: Plan) -> str | None:
    if plan.num_nodes == 0:
        return "the graph has no nodes"
    (edges,) = plan.edges.values()
    if not plan.reads_old and {0, 1}.issuperset(edges.degrees) and np.bincount(_host(edges.src), minlength=1).max() < 2:
        return None
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
    (edges,) = plan.edges.values()
    node = np.arange(plan.num_nodes)
    order = node if plan.node_order is None else _host(plan.node_order)
    src, dst = order[_host(edges.src)], order[np.diff(_host(edges.rowptr)) == 1]
    if plan.schedule.name == "topological":
        step = _host(plan.level)
    else:
        step = _host(topological.levels(*plan.edge_index(*plan.edges), plan.num_nodes))
    apart = dst - src
    if apart.size and (apart == apart[0]).all():
        start = node - apart[0] * step
    else:
        start = node.copy()
        start[dst] = src  # a node so many steps further up its chain, at last the first one
        while ((further := start[start]) != start).any():
            start = further
    begin, length = np.flatnonzero(step == 0), np.bincount(start)
    begin = begin[np.argsort(-length[begin], kind="stable")]
    rank = np.empty_like(node)
    rank[begin] = node[: begin.size]
    return _placed(rank[start], step, length[begin], cut(np.bincount(step).tolist()), plan.level.device)


def _placed(column: np.ndarray, step: np.ndarray, length: np.ndarray, blocks: list, device: torch.device) -> Chains:
    """The rows of nodes in these columns, so many steps from where their chains begin."""
    count, total, node = column.size, sum(steps * width for steps, width in blocks), np.arange(column.size)
    widths = np.repeat([width for _, width in blocks], [steps for steps, _ in blocks])
    begin = np.cumsum([0, *widths])  # the first row of each step
    place = begin[step] + column
    rows = np.full(total, count)
    rows[place] = node
    first = torch.from_numpy(rows[: length.size]).to(device)
    if total == count and (place == node).all():
        return Chains(column, step, length, blocks, first, None, None, None)
    last = rows[begin[length - 1] + np.arange(length.size)]
    read = np.where(rows < count, rows, last[np.arange(total) - np.repeat(begin[:-1], widths)])
    return Chains(column, step, length, blocks, first, *(torch.from_numpy(v).to(device) for v in (place, rows, read)))


def _host(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


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
    kind, own = type(layer), vars(layer)
    home = kind if "kernel" in vars(kind) else next(base for base in kind.__mro__ if "kernel" in vars(base))
    if kind is home and own.keys().isdisjoint(CELL):
        return None
    return next((n for n in CELL if n in own or getattr(kind, n, None) is not getattr(home, n, None)), None)


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
    like = next(iter(layer._parameters.values()), None)  # a parametrised layer may have none of its own
    like = next(layer.parameters()) if like is None else like
    if like.dtype not in DTYPES or not (like.is_cpu or like.is_cuda):
        return f"its weights are {like.dtype} on {like.device.type}; expected float32 or float64 on cpu or cuda"
    if torch.is_autocast_enabled("cpu" if like.is_cpu else "cuda"):
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
        if out:  # narrower than the block before it
            state = [value[:, : block.shape[1]].contiguous() for value in state]
        h, *state = _run(layer, block, state, weights)
        out.append(h)
    return Result((_collect(out, found), *[None] * (len(layer.state) - 1)))


def _spread(x: Tensor, found: Chains) -> list[Tensor]:
    """The rows of nodes in blocks ``(steps, width, F)``."""
    if found.place is not None:
        x = _Spread.apply(x, found) if x.requires_grad else x.index_select(0, found.read)
    return _in_blocks(x, found)


def _collect(blocks: list[Tensor], found: Chains) -> Tensor:
    """The rows of nodes, from the blocks."""
    if found.place is not None:
        return _Collect.apply(found, *blocks)
    rows = _in_rows(blocks)
    if rows.requires_grad:
        rows.register_hook(lambda _: kernels.refuse_double_backward(PATH))
    return rows


def _in_blocks(rows: Tensor, found: Chains) -> list[Tensor]:
    parts = rows.split(found.sizes) if len(found.blocks) > 1 else [rows]
    return [part.view(steps, width, -1) for part, (steps, width) in zip(parts, found.blocks)]


def _in_rows(blocks: list[Tensor]) -> Tensor:
    rows = [block.view(-1, block.shape[2]) for block in blocks]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, found):
        ctx.found = found
        return x.index_select(0, found.read)

    @staticmethod
    def backward(ctx, grad):
        kernels.refuse_double_backward(PATH)
        return grad.index_select(0, ctx.found.place), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, found, *blocks):
        ctx.found = found
        return _in_rows(blocks).index_select(0, found.place)

    @staticmethod
    def backward(ctx, grad):
        """0 in rows of no node, taken from one more row than there are nodes."""
        kernels.refuse_double_backward(PATH)
        node = ctx.found.node
        more = grad if node.shape == grad.shape[:1] else torch.cat([grad, grad.new_zeros(1, grad.shape[1])])
        return None, *_in_blocks(more.index_select(0, node), ctx.found)


def _run(layer, block: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    """One layer in one direction: the states at all steps, and the last ones."""
    start = state if len(state) > 1 else state[0]
    num_layers, dropout, bidirectional, batch_first = 1, 0.0, False, False
    training = torch.is_grad_enabled()  # there is no dropout, and cuDNN keeps what gradients need in training only
    return layer.kernel()(block, start, weights, layer.bias, num_layers, dropout, training, bidirectional, batch_first)


def _start(value: Tensor | None, found: Chains, weight: Tensor) -> Tensor:
    """The initial states of all chains, ``(1, B, H)``; zeros unless given for the nodes."""
    if value is None:
        return weight.new_zeros(1, found.first.shape[0], weight.shape[1])
    return value.index_select(0, found.first).unsqueeze(0)

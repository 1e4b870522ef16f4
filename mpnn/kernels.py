"""The few operations on edges that everything stands on, with gradients that never build what the forward did not.

Each takes the :class:`~mpnn.plan.Edges` of a plan, sorted by target, and edge values in that order. Sums over the edges
of a node are sums over contiguous rows of a sparse matrix, forward and backward, so they are deterministic. ``Loose``
edges, which a compiler traces, are not sorted: there the same operations are a gather and an ``index_add``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mpnn.plan import SHORT, Edges


class Loose:
    """Edges in the user's order, for tracing: nothing is computed from them beforehand."""

    order = None

    def __init__(self, src: Tensor, dst: Tensor, num_src: int, num_dst: int):
        self.src, self.dst, self.num_src, self.num_dst = src, dst, num_src, num_dst

    def __len__(self) -> int:
        return self.src.shape[0]

    def place(self, values: Tensor) -> Tensor:
        return values

    unplace = place

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``; nothing is kept while a compiler traces."""
        return make()


def refuse_double_backward(path: str) -> None:
    """Called by every backward written here: those are not differentiable once more."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"double backward (create_graph=True) is not defined through {path}; run the layer under "
            "mpnn.engine('reference'), which is ordinary autograd throughout."
        )


def flat(values: Tensor) -> Tensor:
    """``(E, ...)`` -> ``(E, F)``, also where there is nothing to tell F from."""
    return values if values.dim() == 2 else values.reshape(values.shape[0], math.prod(values.shape[1:]))


def shaped(rows: Tensor, like: Tensor) -> Tensor:
    """``(N, F)`` -> ``(N, ...)`` with the trailing shape of ``like``."""
    return rows if like.dim() == 2 else rows.view(rows.shape[0], *like.shape[1:])


def addends(values: Tensor, whole: torch.dtype = torch.int64) -> Tensor:
    """Values as they are added up: whole numbers (and bool) as int64, which ``torch.sum`` makes of them, or as told."""
    return values if values.is_floating_point() or values.is_complex() else values.to(whole)


def csr(rowptr: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix of parts that are known to be right;
    torch's notice that such tensors are young is not passed on.
    """
    global _noticed
    if _noticed:
        return torch.sparse_csr_tensor(rowptr, col, values, shape, check_invariants=False)
    with warnings.catch_warnings():  # torch gives the notice once
        warnings.simplefilter("ignore")
        _noticed = True
        return torch.sparse_csr_tensor(rowptr, col, values, shape, check_invariants=False)


_noticed = False

# Sparse products ------------------------------------------------------------------------------------------------------

PIECE = 1 << 22  # numbers gathered for one of the pieces that edges are taken in
WIDE = 80  # columns from which torch's own reduction beats the vendor's sparse product in float64 (measured on a CPU)
NARROW = 8  # columns below which the vendor's product is quickest, unless the edges are
FEW = 100_000  # fewer than this, where making its matrix costs more than it saves


def _product(edges: Edges, matrix: tuple[Tensor, Tensor], weight: Tensor | None, x: Tensor) -> Tensor:
    """``out[i] = sum_e weight[e] * x[col[e]]`` over ``rowptr[i] <= e < rowptr[i + 1]``, for x of two dimensions.

    ``matrix`` is (rowptr, col); a weight of None stands for ones. On a CPU the bag of embeddings is two to three times
    as fast as a sparse product (200,000 nodes, 5 million edges, 128 columns: 77 ms, torch.sparse.mm 187 ms, CSR @ dense
    295 ms), but not in float64, nor for few columns.
    """
    width, (rowptr, col) = x.shape[1], matrix
    if x.is_cpu and x.numel() and _in_bags(x.dtype, width, col.shape[0], weight is None):
        # sum (mode 0) of weighted rows; the last offset ends the last bag
        return torch.embedding_bag(_bare(x.contiguous()), col, rowptr, False, 0, False, _bare(weight), True)[0]
    device = x.device.type
    if torch.is_autocast_enabled(device):  # which would narrow x, but not the matrix
        with torch.autocast(device, enabled=False):
            return _product(edges, matrix, weight, x)
    if not width:  # a bag of rows without columns is refused on some processors
        return x.new_zeros(rowptr.shape[0] - 1, 0)
    weight = None if weight is None else weight.detach()
    if x.dtype is torch.int64:  # of which torch has neither
        rows = weigh(weight, x.index_select(0, col))
        return x.new_zeros(edges.num_dst, width).index_add_(0, edges.dst, rows)
    weight = _ones(edges, x) if weight is None else weight
    matrix = csr(rowptr, col, weight, (rowptr.shape[0] - 1, x.shape[0]))
    return torch.sparse.mm(matrix, x.contiguous(), "sum") if device == "cpu" and width >= WIDE else matrix @ x


def _bare(values: Tensor | None) -> Tensor | None:
    """Values without their history, with which torch prepares a gradient of its own."""
    return values.detach() if values is not None and values.requires_grad else values


def _in_bags(dtype: torch.dtype, width: int, num_edges: int, plain: bool) -> bool:
    """Whether the bag of embeddings is the quicker way on a CPU, or the only one, or spares the ones of a plain sum."""
    if dtype is torch.float32:
        return width >= NARROW or num_edges < FEW or plain
    return dtype not in (torch.float64, torch.int64)


def _product_by_head(edges: Edges, turned: bool, weight: Tensor, x: Tensor) -> Tensor:
    """The product for each of K heads: weight ``(E, K)`` in the plan's order, x ``(N, K, F)``.

    A head is every K-th row of x seen as ``(N K, F)``, so no head is copied out.
    """
    heads = x.shape[1]
    order = edges.by_source if turned else None
    matrix = edges.transpose if turned else (edges.rowptr, edges.src)
    if heads > 1:
        matrix = edges.remember(("every", heads, turned), lambda: _every(*matrix, heads, x.shape[0]))
    table = x.contiguous().view(x.shape[0] * heads, x.shape[2])
    out = x.new_empty(matrix[0].shape[0] - 1, *x.shape[1:])
    for head in range(heads):
        column = weight[:, head].contiguous()
        column = column if order is None else column.index_select(0, order)
        out[:, head] = _product(edges, matrix, column, table[head:])
    return out


def _every(rowptr: Tensor, col: Tensor, step: int, count: int) -> tuple[Tensor, Tensor]:
    """Row pointers and columns of a matrix that multiplies every ``step``-th row."""
    return (rowptr, col * step) if step * count < SHORT else (rowptr.long(), col.long() * step)


def _ones(edges: Edges, like: Tensor) -> Tensor:
    return edges.remember(("ones", like.dtype), lambda: like.new_ones(len(edges)))


def _sum_runs(edges: Edges, values: Tensor) -> Tensor:
    """Sums over the edges into each node: ``(E, ...) -> (N, ...)``; 0 without edges."""
    rows = flat(values).contiguous()
    places = edges.remember("places", lambda: torch.arange(len(edges), dtype=edges.src.dtype, device=edges.src.device))
    return shaped(_product(edges, (edges.rowptr, places), None, rows), values)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, edges, end):
        ctx.edges, ctx.end = edges, end
        return x.index_select(0, edges.src if end == "source" else edges.dst)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("the gathering of node values to edges")
        edges = ctx.edges
        if ctx.end == "target":
            return _sum_runs(edges, grad), None, None
        order, (colptr, _) = edges.by_source.to(edges.src), edges.transpose
        return shaped(_product(edges, (colptr, order), None, flat(grad)), grad), None, None


def gather(x: Tensor, edges: Edges | Loose, end: str) -> Tensor:
    """Node values ``(N, ...)`` at the ``"source"`` or ``"target"`` of each edge: ``(E, ...)``."""
    if isinstance(edges, Loose):
        return x.index_select(0, edges.src if end == "source" else edges.dst)
    return _Gather.apply(x, edges, end)


# Edges in pieces ------------------------------------------------------------------------------------------------------


class _Lent:
    """Node values that pieces of edges take rows of, and the gradient that they give back, in one place."""

    def __init__(self, x: Tensor):
        self.x, self.grad, self.task = x.detach(), None, None
        self.token = _Lend.apply(x, self)

    def take(self, index: Tensor) -> Tensor:
        return _Take.apply(self.token, self, index)

    def add(self, index: Tensor, grad: Tensor) -> None:
        task, self.task = self.task, torch._C._current_graph_task_id()
        if task != self.task:  # what a backward pass that broke off has left counts no more
            self.grad = torch.zeros_like(self.x)
        self.grad.index_add_(0, index, grad)


class _Lend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, lent):
        ctx.lent = lent
        return x.new_zeros(())

    @staticmethod
    def backward(ctx, _):
        refuse_double_backward("edges taken in pieces")
        lent = ctx.lent
        grad, lent.grad, lent.task = lent.grad, None, None
        return grad, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, token, lent, index):
        ctx.lent = lent
        ctx.save_for_backward(index)
        return lent.x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("edges taken in pieces")
        ctx.lent.add(*ctx.saved_tensors, grad)
        return grad.new_zeros(()), None, None


def gathered(values: list, ends: list[str]) -> int:
    """How many numbers are gathered to an edge."""
    return sum(math.prod(value.shape[1:]) for value, end in zip(values, ends) if end in ("source", "target"))


def in_pieces(edges: Edges, function: Callable, values: list, ends: list[str]) -> Tensor:
    """``function(*values at the edges)`` for E edges, with no more than a piece of them in memory at a time.

    Args:
        function: treats edges independently. It is called once more for each piece on the way back.
        values: node values ``(N, ...)``, edge values in the plan's order, or what is the same everywhere.
        ends: ``"source"``, ``"target"``, ``"edge"`` or ``"same"``, for each value.
    """
    width = gathered(values, ends)
    values = [_Lent(value) if end in ("source", "target") else value for value, end in zip(values, ends)]

    def at(piece: slice) -> list:
        index = {"source": edges.src[piece], "target": edges.dst[piece]}
        given = {"edge": lambda value: value[piece], "same": lambda value: value}
        return [value.take(index[end]) if end in index else given[end](value) for value, end in zip(values, ends)]

    def run(piece: slice) -> Tensor:
        return function(*at(piece))

    slices = pieces(len(edges), max(1, PIECE // width))
    if not torch.is_grad_enabled():
        return torch.cat([run(piece) for piece in slices])
    return torch.cat([checkpoint(run, piece, use_reentrant=False) for piece in slices])


# Weighted sums --------------------------------------------------------------------------------------------------------


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, value, edges, over=None, scores=False):
        ctx.edges, ctx.over, ctx.scores = edges, over, scores
        if scores:
            ctx.dtype, weight = weight.dtype, _softmax(edges, weight).to(value.dtype)
        ctx.save_for_backward(weight, value if ctx.needs_input_grad[0] else None)
        if weight is not None and weight.dim() == 2:
            return _product_by_head(edges, False, weight, value)
        if ctx.needs_input_grad[1] and not ctx.needs_input_grad[0] and "transpose" not in edges.memo:
            edges.transpose if weight is None else edges.turned(weight)  # now, before a step's memory is in the way
        weight = None if weight is None else weight.contiguous()
        total = _product(edges, (edges.rowptr, edges.src), weight, value)
        return total if over is None else total.div_(over)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("mpnn's sparse products")
        weight, value = ctx.saved_tensors
        edges, grad_weight, grad_value = ctx.edges, None, None
        grad = grad if ctx.over is None else grad / ctx.over
        if ctx.needs_input_grad[1]:
            if weight is not None and weight.dim() == 2:
                grad_value = _product_by_head(edges, True, weight, grad)
            else:
                turned = None if weight is None else edges.turned(weight)
                grad_value = _product(edges, edges.transpose, turned, grad)
        if ctx.needs_input_grad[0]:
            grad_weight = _sampled(edges, grad, value)
            if ctx.scores:
                grad_weight = _softmax_back(edges, weight, grad_weight.mul_(weight)).to(ctx.dtype)
        return grad_weight, grad_value, None, None, None


def _sampled(edges: Edges, rows: Tensor, cols: Tensor) -> Tensor:
    """Inner products along edges: ``out[e] = rows[dst[e]] . cols[src[e]]``, for each head if there are any."""
    if rows.dim() == 3:
        out = rows.new_empty(len(edges), rows.shape[1])
        for head in range(rows.shape[1]):
            out[:, head] = _sampled(edges, rows[:, head], cols[:, head])
        return out
    shape = (edges.num_dst, edges.num_src)
    if len(edges) > edges.num_dst * edges.num_src:  # which torch refuses; there are few nodes and many double edges
        return (rows.index_select(0, edges.dst) * cols.index_select(0, edges.src)).sum(1)
    if rows.dtype not in (torch.float32, torch.float64):  # which torch has not got
        return _sampled(edges, rows.float(), cols.float()).to(rows.dtype)
    found = csr(edges.rowptr, edges.src, rows.new_zeros(len(edges)), shape)  # in place, or torch copies the indices too
    return torch.sparse.sampled_addmm(found, rows.contiguous(), cols.t(), beta=0.0, out=found).values()


def attend(edges: Edges | Loose, score: Tensor, value: Tensor) -> Tensor:
    """``out_i = sum_j softmax_j(score_ij) value_j``: on the way back the gradient of the weights becomes that of the
    scores in its own place, so that there is one tensor of edges by heads less.

    Args:
        edges: E edges between N_src sources and N_dst targets.
        score: ``(E,)``, or ``(E, K)`` for K heads.
        value: ``(N_src, ...)``, or ``(N_src, K, F)`` with heads.

    Returns:
        ``(N_dst, ...)``; 0 for a node without edges.
    """
    value = addends(value, score.dtype)
    if isinstance(edges, Loose):
        return weighted_sum(edges, softmax(edges, score), value)
    if score.dim() == 2:
        return _WeightedSum.apply(score, value, edges, None, True)
    return shaped(_WeightedSum.apply(score, flat(value), edges, None, True), value)


def weighted_sum(edges: Edges | Loose, weight: Tensor | None, value: Tensor) -> Tensor:
    """``out_i = sum_j weight_ij value_j`` without a tensor that is edges by features.

    Args:
        edges: E edges between N_src sources and N_dst targets.
        weight: ``(E,)``, ``(E, K)`` for K heads, or None for 1.
        value: ``(N_src, ...)``, or ``(N_src, K, F)`` with heads.

    Returns:
        ``(N_dst, ...)``; 0 for a node without edges. Of whole numbers with such weights or none, int64.
    """
    if not value.is_floating_point():
        value = addends(value, torch.int64 if weight is None else torch.promote_types(weight.dtype, torch.int64))
    if isinstance(edges, Loose):
        return segment_sum(edges, weigh(weight, value.index_select(0, edges.src)))
    if weight is not None:
        weight = weight if weight.dtype is value.dtype else weight.to(value.dtype)
        if weight.dim() == 2:
            return _WeightedSum.apply(weight, value, edges)
    return shaped(_WeightedSum.apply(weight, flat(value), edges), value)


def weighted_mean(edges: Edges | Loose, weight: Tensor | None, value: Tensor) -> Tensor:
    """``weighted_sum`` over the number of edges into each node; 0 for a node without edges."""
    if weight is None and not isinstance(edges, Loose) and _divides(edges, value):
        return shaped(_WeightedSum.apply(None, flat(value), edges, degree(edges, value)[:, None]), value)
    if not value.is_floating_point():
        total = weighted_sum(edges, weight, value)
        return total / degree(edges, total).view(-1, *(1,) * (total.dim() - 1))
    mean = mean_weight(edges, value)
    return weighted_sum(edges, mean if weight is None else weigh(mean, weight), value)


def _divides(edges: Edges, value: Tensor) -> bool:
    """Whether the sums are fewer numbers than weights would be, and do not overflow where means do not."""
    few = edges.num_dst * math.prod(value.shape[1:]) <= len(edges)
    return few and value.dtype in (torch.float32, torch.float64)


def degree(edges: Edges | Loose, like: Tensor) -> Tensor:
    """The number of edges into each node, but at least 1: ``(N,)``, in the dtype of ``like``."""
    if isinstance(edges, Loose):
        count = torch.zeros(edges.num_dst, dtype=like.dtype, device=like.device)
        return count.index_add(0, edges.dst, count.new_ones(1).expand(len(edges))).clamp(min=1)
    return edges.remember(("degree", like.dtype), lambda: edges.rowptr.diff().clamp(min=1).to(like.dtype))


def mean_weight(edges: Edges | Loose, like: Tensor) -> Tensor:
    """One over the number of edges into the target, for each edge: ``(E,)``, in the dtype of ``like``."""
    if isinstance(edges, Loose):
        return degree(edges, like).reciprocal().index_select(0, edges.dst)
    return edges.remember(("mean", like.dtype), lambda: edges.expand(degree(edges, like).reciprocal()))


def weigh(weight: Tensor | None, value: Tensor) -> Tensor:
    """The message of the structured form, for each edge: ``weight * value`` with the weight broadcast over features."""
    if weight is None:
        return value
    return weight.reshape(weight.shape + (1,) * (value.dim() - weight.dim())) * value


# Sums and softmax over the edges of a node ----------------------------------------------------------------------------


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, edges):
        ctx.edges = edges
        return _sum_runs(edges, values)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("the sum over the edges of a node")
        return grad.index_select(0, ctx.edges.dst), None


def segment_sum(edges: Edges | Loose, values: Tensor) -> Tensor:
    """Sum of the values ``(E, ...)`` of the edges into each node: ``(N, ...)``; 0 without edges."""
    if isinstance(edges, Loose):
        return values.new_zeros(edges.num_dst, *values.shape[1:]).index_add(0, edges.dst, values)
    return _SegmentSum.apply(values, edges)


def segment_mean(edges: Edges | Loose, values: Tensor) -> Tensor:
    """Mean of the values ``(E, ...)`` of the edges into each node: ``(N, ...)``; 0 without edges."""
    total = segment_sum(edges, values)
    return total / degree(edges, values).view(-1, *(1,) * (total.dim() - 1))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, score, edges):
        out = _softmax(edges, score)
        ctx.edges = edges
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("mpnn's softmax over edges")
        (out,) = ctx.saved_tensors
        return _softmax_back(ctx.edges, out, grad * out), None


def _softmax(edges: Edges, score: Tensor) -> Tensor:
    rows = flat(score).contiguous()
    top = torch.segment_reduce(rows, "max", offsets=edges.rowptr, axis=0)
    out = top.index_select(0, edges.dst)
    torch.sub(rows, out, out=out).exp_()
    total = _sum_runs(edges, out)
    for piece in pieces(len(edges)):
        out[piece].div_(total.index_select(0, edges.dst[piece]))
    return out.view(score.shape)


def _softmax_back(edges: Edges, out: Tensor, product: Tensor) -> Tensor:
    """The gradient of the scores, in place of the product of the softmax with its own gradient."""
    total = _sum_runs(edges, product)
    for piece in pieces(len(edges)):
        product[piece].addcmul_(out[piece], total.index_select(0, edges.dst[piece]), value=-1)
    return product


def pieces(count: int, size: int = 1 << 20) -> list[slice]:
    """Slices of so many edges that what is gathered for one is small."""
    return [slice(start, start + size) for start in range(0, count, size)]


def _traced_softmax(edges: Loose, score: Tensor) -> Tensor:
    index = edges.dst.view(-1, *(1,) * (score.dim() - 1)).expand_as(score)
    top = score.detach().new_full((edges.num_dst, *score.shape[1:]), -torch.inf)
    top = top.scatter_reduce(0, index, score.detach(), "amax")
    grown = (score - top.index_select(0, edges.dst)).exp()
    return grown / segment_sum(edges, grown).index_select(0, edges.dst)


def softmax(edges: Edges | Loose, score: Tensor) -> Tensor:
    """Softmax of edge scores ``(E, ...)`` over the edges into each node."""
    return _traced_softmax(edges, score) if isinstance(edges, Loose) else _Softmax.apply(score, edges)


# Level order ----------------------------------------------------------------------------------------------------------


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, order, back):
        ctx.back = back
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("the reordering of nodes by level")
        return grad.index_select(0, ctx.back), None, None


def permute(x: Tensor, order: Tensor | None, back: Tensor | None) -> Tensor:
    """``x[order]`` where ``back`` undoes ``order``: the gradient is a gather too."""
    return x if order is None else _Permute.apply(x, order, back)

"""The few operations on edges that everything stands on, with gradients that never build what the forward did not.

Each takes the :class:`~mpnn.plan.Edges` of a plan, sorted by target, and edge values in that order. Sums over the edges of a
node are sums over contiguous rows of a sparse matrix, forward and backward, so they are deterministic. ``Loose`` edges, which
a compiler traces, are not sorted: there the same operations are a gather and an ``index_add``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn.plan import Edges


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


def refuse_double_backward(path: str) -> None:
    """Called by every backward written here: those are not differentiable once more."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"double backward (create_graph=True) is not defined through {path}; run the layer under "
            "mpnn.engine('reference'), which is ordinary autograd throughout."
        )


# Rows of a sparse matrix -------------------------------------------------------------------------------------------------


def _product(rowptr: Tensor, col: Tensor, weight: Tensor | None, x: Tensor, num_cols: int) -> Tensor:
    """``out[i] = sum_e weight[e] * x[col[e]]`` over ``rowptr[i] <= e < rowptr[i + 1]``; x is ``(num_cols, F)``."""
    if weight is None:
        weight = x.new_ones(1).expand(col.numel())
    matrix = torch.sparse_csr_tensor(rowptr, col, weight.contiguous(), (rowptr.numel() - 1, num_cols))
    return matrix @ x


def _segment_sum(rowptr: Tensor, values: Tensor) -> Tensor:
    """Sums of consecutive rows: ``(E, ...) -> (N, ...)``; 0 for an empty run."""
    flat = values.reshape(values.shape[0], -1)
    row = torch.repeat_interleave(rowptr.diff(), output_size=flat.shape[0])
    out = flat.new_zeros(rowptr.numel() - 1, flat.shape[1]).index_add_(0, row, flat)
    return out.view(-1, *values.shape[1:])


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
            return _segment_sum(edges.rowptr, grad), None, None
        order, colptr, _ = edges.transpose
        flat = grad.reshape(grad.shape[0], -1)
        return _product(colptr, order, None, flat, len(edges)).view(-1, *grad.shape[1:]), None, None


def gather(x: Tensor, edges: Edges | Loose, end: str) -> Tensor:
    """Node values ``(N, ...)`` at the ``"source"`` or ``"target"`` of each edge: ``(E, ...)``."""
    if isinstance(edges, Loose):
        return x.index_select(0, edges.src if end == "source" else edges.dst)
    return _Gather.apply(x, edges, end)


# Weighted sums -----------------------------------------------------------------------------------------------------------


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, value, edges):
        ctx.edges = edges
        ctx.save_for_backward(weight, value if weight is not None and ctx.needs_input_grad[0] else None)
        if weight is None or weight.dim() == 1:
            return _product(edges.rowptr, edges.src, weight, value, edges.num_src)
        heads = [_product(edges.rowptr, edges.src, weight[:, k], value[:, k], edges.num_src) for k in range(weight.shape[1])]
        return torch.stack(heads, dim=1)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("mpnn's sparse products")
        weight, value = ctx.saved_tensors
        grad_weight = grad_value = None
        if ctx.needs_input_grad[0]:
            grad_weight = _sampled(ctx.edges, grad, value)
        if ctx.needs_input_grad[1]:
            order, colptr, dst = ctx.edges.transpose
            turned = None if weight is None else ctx.edges.turned(weight)
            if weight is None or weight.dim() == 1:
                grad_value = _product(colptr, dst, turned, grad, ctx.edges.num_dst)
            else:
                heads = range(weight.shape[1])
                grad_value = torch.stack(
                    [_product(colptr, dst, turned[:, k], grad[:, k], ctx.edges.num_dst) for k in heads], dim=1
                )
        return grad_weight, grad_value, None


def _sampled(edges: Edges, rows: Tensor, cols: Tensor) -> Tensor:
    """Inner products along edges: ``out[e] = rows[dst[e]] . cols[src[e]]``, for each head if there are any."""
    if rows.dim() == 3:
        return torch.stack([_sampled(edges, rows[:, k], cols[:, k]) for k in range(rows.shape[1])], dim=1)
    pattern = torch.sparse_csr_tensor(
        edges.rowptr, edges.src, rows.new_zeros(len(edges)), (edges.num_dst, edges.num_src)
    )
    return torch.sparse.sampled_addmm(pattern, rows.contiguous(), cols.t(), beta=0.0).values()


def weighted_sum(edges: Edges | Loose, weight: Tensor | None, value: Tensor) -> Tensor:
    """``out_i = sum_j weight_ij value_j`` without a tensor that is edges by features.

    Args:
        edges: E edges between N_src sources and N_dst targets.
        weight: ``(E,)``, ``(E, K)`` for K heads, or None for 1.
        value: ``(N_src, ...)``, or ``(N_src, K, F)`` with heads.

    Returns:
        ``(N_dst, ...)``; 0 for a node without edges.
    """
    if isinstance(edges, Loose):
        return segment_sum(edges, weigh(weight, value.index_select(0, edges.src)))
    if weight is not None and weight.dim() == 2:
        return _WeightedSum.apply(weight, value, edges)
    out = _WeightedSum.apply(weight, value.reshape(value.shape[0], -1), edges)
    return out.view(-1, *value.shape[1:])


def mean_weight(edges: Edges | Loose, like: Tensor) -> Tensor:
    """One over the number of edges into the target, for each edge: ``(E,)``, or ``(E, 1)`` beside weights with heads."""

    def build():
        degree = torch.zeros(edges.num_dst, dtype=like.dtype, device=like.device)
        degree.index_add_(0, edges.dst, degree.new_ones(1).expand(len(edges)))
        return degree.reciprocal().index_select(0, edges.dst)

    weight = build() if isinstance(edges, Loose) else edges.remember(("mean", like.dtype), build)
    return weight[:, None] if like.dim() == 2 and like.shape[0] == len(edges) else weight


def weigh(weight: Tensor | None, value: Tensor) -> Tensor:
    """The message of the structured form, for each edge: ``weight * value`` with the weight broadcast over features."""
    if weight is None:
        return value
    return weight.reshape(weight.shape + (1,) * (value.dim() - weight.dim())) * value


# Sums and softmax over the edges of a node ------------------------------------------------------------------------------


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, edges):
        ctx.edges = edges
        return _segment_sum(edges.rowptr, values)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward("the sum over the edges of a node")
        return grad.index_select(0, ctx.edges.dst), None


def segment_sum(edges: Edges | Loose, values: Tensor) -> Tensor:
    """Sum of the values ``(E, ...)`` of the edges into each node: ``(N, ...)``; 0 without edges."""
    if isinstance(edges, Loose):
        return values.new_zeros(edges.num_dst, *values.shape[1:]).index_add(0, edges.dst, values)
    return _SegmentSum.apply(values, edges)


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
        product = grad * out
        total = _segment_sum(ctx.edges.rowptr, product)
        return product.sub_(out * total.index_select(0, ctx.edges.dst)), None


def _softmax(edges: Edges | Loose, score: Tensor) -> Tensor:
    flat = score.detach().reshape(len(edges), -1)
    index = edges.dst[:, None].expand_as(flat)
    top = flat.new_zeros(edges.num_dst, flat.shape[1]).scatter_reduce_(0, index, flat, "amax", include_self=False)
    top = top.view(-1, *score.shape[1:])
    grown = (score - top.index_select(0, edges.dst)).exp()
    return grown / segment_sum(edges, grown).index_select(0, edges.dst)


def softmax(edges: Edges | Loose, score: Tensor) -> Tensor:
    """Softmax of edge scores ``(E, ...)`` over the edges into each node."""
    return _softmax(edges, score) if isinstance(edges, Loose) else _Softmax.apply(score, edges)


# Level order -------------------------------------------------------------------------------------------------------------


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

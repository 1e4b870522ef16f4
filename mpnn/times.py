"""A weight that is multiplied level after level: its gradient is a few large products, not one of each level.

On the way back a level has few rows. Their part of the weight's gradient is a thin product, as large as the weight, and
adding it to the others' moves the whole weight through memory. Here the rows wait until they are many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn import products
from mpnn.products import linear

__all__ = ["Times"]

MANY = 512  # rows that are multiplied at once; with more than these the product is no faster


class Times:
    """``x -> x W^T + b``, for hooks that multiply by the same weight at every level; ``plus=`` is added.

    Make one for each pass, so that what the weight was at its beginning counts.

    Args:
        weight: ``(G, F)``.
        bias: ``(G,)``.

    Example:
        >>> Times(torch.eye(2))(torch.tensor([[1.0, 2.0]]), plus=torch.ones(1, 2))
        tensor([[2., 3.]])
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.weight, self.bias = weight, bias
        self.rows: _Rows | None = None
        self.shared: Tensor | None = None

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if not self._pays(x):
            return linear(x, self.weight, self.bias, plus)
        if self.rows is None:
            self.rows = _Rows()
            self.shared = _Share.apply(self.weight, self.rows)
        return _Product.apply(x, self.shared, self.bias, plus, self.rows)

    def _pays(self, x: Tensor) -> bool:
        """Whether a function in Python costs less than it saves, and may be one."""
        return (
            not torch.compiler.is_compiling()
            and self.weight.requires_grad
            and torch.is_grad_enabled()
            and x.shape[0] * self.weight.numel() >= products.LARGE
            and x.dim() == 2
            and not torch.is_autocast_enabled(x.device.type)
            and not products._transformed()
        )


class _Rows:
    """What the levels of one way back have handed in: rows of x, and of the gradient of the product."""

    def __init__(self):
        self._forget()

    def _forget(self) -> None:
        self.task, self.waiting, self.count, self.total = None, [], 0, None

    def _begin(self) -> None:
        """What an earlier way back left, which did not reach the weight, counts no more."""
        task = torch._C._current_graph_task_id()
        if task != self.task:
            self._forget()
            self.task = task

    def add(self, x: Tensor, grad: Tensor) -> None:
        self._begin()
        self.waiting.append((x, grad))
        self.count += x.shape[0]
        if self.count >= MANY:
            self._multiply()

    def _multiply(self) -> None:
        x, grad = (rows[0] if len(rows) == 1 else torch.cat(rows) for rows in zip(*self.waiting))
        part = products._of_weight(grad, x)
        self.total = part if self.total is None else self.total.add_(part)
        self.waiting, self.count = [], 0

    def take(self) -> Tensor | None:
        """The gradient of the weight, at the end of a way back."""
        self._begin()
        if self.waiting:
            self._multiply()
        total = self.total
        self._forget()
        return total


class _Share(torch.autograd.Function):
    """The weight itself; on the way back it is reached after all products with it."""

    @staticmethod
    def forward(ctx, weight, rows):
        ctx.rows = rows
        ctx.set_materialize_grads(False)
        return weight.detach()

    @staticmethod
    def backward(ctx, grad):
        total = ctx.rows.take()
        if total is None or grad is None:
            return (grad if total is None else total), None
        return total + grad, None  # some comes straight to the weight where a gradient is differentiated


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, plus, rows):
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        return linear(x, weight, bias, plus)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus, _ = ctx.needs_input_grad
        if of_weight:
            ctx.rows.add(x, grad)
        return (
            linear(grad, weight.t()) if of_x else None,
            None,  # _Share has it
            grad.sum(0) if of_bias else None,
            grad if of_plus else None,
            None,
        )

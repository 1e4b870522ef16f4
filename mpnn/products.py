"""Products with a weight, by whichever of torch's two libraries is faster.

In float32 on a CPU ``torch.nn.functional.linear`` is MKL's product. oneDNN, which torch ships and runs its LSTM on,
gives the same to the last digits of float32, and twice as fast on an AMD processor with AVX-512 (200 against 96 GFLOP/s
on one core, 2,572 x 150 times 150 x 450), from about a million multiplications on; below that its call costs more.
"""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear"]

LARGE = 1 << 20  # multiplications from which oneDNN is faster, by measurement
COPIED = 1 << 23  # numbers whose copy costs more than oneDNN saves: memory that large is fresh at each call
_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """``x W^T + b + plus``: ``torch.nn.functional.linear`` with something more to add, derivatives of any order too.

    Args:
        x: ``(N, F)``.
        weight: ``(G, F)``.
        bias: ``(G,)``.
        plus: ``(N, G)``.

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]]), plus=torch.ones(1, 2))
        tensor([[4., 7.]])
    """
    if _pays(x, weight) and (plus is None or plus.dtype == torch.float32):
        return _Linear.apply(x, weight, bias, plus)
    if plus is None or bias is not None:
        product = F.linear(x, weight, bias)
        return product if plus is None else product + plus
    return torch.addmm(plus, x, weight.t())


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can take the product, and is faster."""
    return (
        not torch.compiler.is_compiling()  # which would take the size for a reason to compile again
        and x.shape[0] * weight.numel() >= LARGE
        and _onednn is not None
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 2
        and not torch.is_autocast_enabled("cpu")
        and not _transformed()
    )


def _transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is under way, which asks for torch's own."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, plus):
        ctx.save_for_backward(x, weight)
        if plus is None:
            return _onednn(x, weight, bias, "none", [], "")
        return _onednn.binary(x, plus, weight, bias, "add")

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus = ctx.needs_input_grad
        return (
            linear(grad, weight.t()) if of_x else None,
            _of_weight(grad, x) if of_weight else None,
            grad.sum(0) if of_bias else None,
            grad if of_plus else None,
        )


def _of_weight(grad: Tensor, x: Tensor) -> Tensor:
    """``grad^T x``. oneDNN copies its first factor: that is the narrower; one too large to copy is left to torch."""
    if min(grad.numel(), x.numel()) > COPIED:
        return grad.t() @ x
    return linear(x.t(), grad.t()).t() if x.shape[1] < grad.shape[1] else linear(grad.t(), x.t())

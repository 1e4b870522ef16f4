"""What is worked out from a tensor once, and kept for as long as that very tensor lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kept", "Unwritten", "lasting"]


class Kept:
    """Values by tensor, by identity and not by content; they go when the tensor goes.

    ``torch.utils.weak.WeakIdKeyDictionary`` does the same in three times the time, which counts in layers on small
    graphs: a pass looks three times.
    """

    def __init__(self):
        self._items: dict[int, tuple[weakref.ref, Any]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, tensor: Tensor, default: Any = None) -> Any:
        known = self._items.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else default

    def __setitem__(self, tensor: Tensor, value: Any) -> None:
        key = id(tensor)

        def forget(reference: weakref.ref, items=self._items) -> None:
            if items.get(key, (None,))[0] is reference:
                del items[key]

        self._items[key] = weakref.ref(tensor, forget), value


class Unwritten(Kept):
    """Values that go as soon as the tensor is written to, too. Of a tensor that was made in inference mode nothing is
    kept, as such a one does not count how often it is written to.
    """

    def get(self, tensor: Tensor, default: Any = None) -> Any:
        version, value = super().get(tensor, (None, default))
        return value if version is not None and version == tensor._version else default

    def __setitem__(self, tensor: Tensor, value: Any) -> None:
        if not tensor.is_inference():
            super().__setitem__(tensor, (tensor._version, value))


def lasting(make: Callable[[], Any]) -> Any:
    """``make()``, to be kept. What is made in inference mode could not be trained with later, and what is made inside a
    transform of ``torch.func`` ends with it; so it is made outside of both.
    """
    inference, transform = torch.is_inference_mode_enabled(), torch._C._are_functorch_transforms_active()
    if not (inference or transform):
        return make()
    with ExitStack() as outside:
        if inference:
            outside.enter_context(torch.inference_mode(False))
            outside.enter_context(torch.no_grad())
        if transform:
            outside.enter_context(torch._C._DisableFuncTorch())
        return make()

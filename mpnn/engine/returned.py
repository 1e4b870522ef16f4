"""What hooks return has to fit: a row for each edge or node, and of a state the shape and dtype it had before the pass.

Each check is a comparison of shapes, made at every level; the words are found only where one fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_rows(layer, hook: str, values: Any, count: int, what: str) -> None:
    """Raises unless a hook gave a tensor, or a tuple of tensors, with a row for each edge, node or graph."""
    if isinstance(values, tuple):
        for value in values:
            check_rows(layer, hook, value, count, what)
    elif not isinstance(values, Tensor) or not values.dim() or values.shape[0] != count:
        there = f"{count} nodes fire" if what == "nodes" else f"there are {count} {what}"
        raise _kind(values)(
            f"{_name(layer)}.{hook} returned {told(values)}, but {there}; expected one row for each. "
            f"Return a tensor ({count}, ...), or several as a tuple."
        )


def check_weight(layer, hook: str, weight: Any, count: int, value: Tensor) -> Tensor:
    """What ``weight`` or ``attention`` gave, if it is a number an edge, or one for each head of the value."""
    if type(weight) is Tensor and weight.shape == (count,):
        return weight
    check_rows(layer, hook, weight, count, "edges")
    if weight.dim() > 1 and (weight.dim() > 2 or value.dim() != 3 or weight.shape[1] not in (1, value.shape[1])):
        heads = f", or one a head, {(count, value.shape[1])}" if value.dim() == 3 else ""
        raise ValueError(
            f"{_name(layer)}.{hook} returned shape {tuple(weight.shape)}, and {layer.value!r} has rows of shape "
            f"{tuple(value.shape[1:])}; expected a number an edge, ({count},){heads}. Drop a last dimension of one by "
            ".squeeze(-1); a value with heads is (N, K, F)."
        )
    if weight.dim() == 2 and weight.shape[1] < value.shape[1]:  # one for all heads
        return weight.expand(-1, value.shape[1])
    return weight


def check_initial(layer, name: str, value: Any, count: int, made: bool) -> None:
    """Raises unless the state from before the pass has a row a node. ``made``: by ``initial_state``."""
    if isinstance(value, Tensor) and value.shape[:1] == (count,):
        return
    if made:
        raise _kind(value)(
            f"{_name(layer)}.initial_state returned {told(value)} for {name!r}, but there are {count} nodes; expected "
            f"one row for each. Return a tensor ({count}, width), as like.new_zeros(num_nodes, width)."
        )
    what = f"has {value.shape[0]} rows" if isinstance(value, Tensor) and value.dim() else f"is {told(value)}"
    raise _kind(value)(
        f"{_name(layer)}: {name!r} {what}, but there are {count} nodes; expected a state with one row for each. Pass "
        f"a tensor ({count}, ...), or leave {name}= out for what initial_state makes."
    )


Field = tuple[str, tuple[int, ...], torch.dtype]  # of the state: its name, the shape of a row, and its dtype


def check_state(layer, new: tuple, count: int, fields: list[Field]) -> None:
    """Raises unless ``update`` gave a row a node for every field of the state, as they were before the pass."""
    if len(new) != len(fields):
        raise ValueError(
            f"{_name(layer)}.update returned {len(new)} values, but the state has {len(fields)} fields, "
            f"{', '.join(layer.state)}; expected one value for each, in this order."
        )
    for value, (name, row, dtype) in zip(new, fields):
        if not isinstance(value, Tensor) or value.shape != (count, *row) or value.dtype != dtype:
            _check_value(layer, name, value, (count, *row), dtype)


def _check_value(layer, name: str, value: Any, expected: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises, unless only the dtype differs, and the state can hold it or autocast is its reason."""
    if not isinstance(value, Tensor) or value.shape[:1] != expected[:1]:
        raise _kind(value)(
            f"{_name(layer)}.update returned {told(value)} for {name}, but {expected[0]} nodes fire; expected one row "
            f"for each, {expected}. Return a tensor for each field of the state, with the rows that update is given."
        )
    if value.shape != expected:
        raise ValueError(
            f"{_name(layer)}.update returned shape {tuple(value.shape)} for {name}, whose rows have the shape "
            f"{expected[1:]} before the pass; expected {expected}. Return that, or let {name}=..., initial_state or "
            "hidden_features begin with rows as update returns them."
        )
    held = torch.promote_types(value.dtype, dtype) == dtype or torch.is_autocast_enabled(value.device.type)
    if not (held and value.is_floating_point() and dtype.is_floating_point):
        raise TypeError(
            f"{_name(layer)}.update returned dtype {value.dtype} for {name}, which has {dtype} before the pass; "
            f"expected the same. Return it as .to({dtype}), or pass {name}=... of {value.dtype}."
        )


def _name(layer) -> str:
    return type(layer).__name__


def _kind(value: Any) -> type[Exception]:
    return ValueError if isinstance(value, Tensor) else TypeError


def told(value: Any) -> str:
    """A value in words: the shape of a tensor, the type of anything else."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"

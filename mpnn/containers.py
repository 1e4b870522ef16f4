"""Layers on torch_geometric's containers: what a layer asks for by name is what the container holds by that name."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data

__all__ = ["apply"]


def apply(layer: nn.Module, data: Data, **more: Any) -> Data:
    """The container with a layer applied to it: its result in ``x``, all else as it was.

    The layer is given what its ``forward`` asks for by name: ``x``, ``edge_weight``, ``edge_attr``, ``batch``, ``u``,
    ... are the fields of that name, ``num_graphs`` and ``num_nodes`` the container's numbers, and ``edge_index`` is the
    field ``plan`` if there is one. A module that asks for no ``x``, such as ``nn.ReLU``, is given it as its first
    argument. So a stack is a loop::

        for layer in layers:
            data = mpnn.apply(layer, data)

    Args:
        layer: a layer of ``mpnn.nn`` or ``torch_geometric.nn``, or any module on rows.
        data: ``Data`` or ``Batch``. It stays as it is; the copy shares its tensors.
        more: arguments that the container does not hold, or that go before what it holds.

    Returns:
        A copy of ``data``. Of several results the first is ``x``; the others have the names in the layer's ``returns``,
        or else in its ``state``: ``edge_attr`` and ``u`` after a ``GraphNetwork``, ``c`` after a cell with states h, c.

    Raises:
        TypeError: ``data`` is no ``Data``; the layer needs something that it does not hold.
        ValueError: the layer returns several values and does not name them.

    Example:
        >>> import torch, mpnn
        >>> data = Data(x=torch.ones(3, 4), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.tensor([1]))
        >>> apply(nn.ReLU(), apply(mpnn.nn.GCN(4, 2), data))
        Data(x=[3, 2], edge_index=[2, 2], y=[1])
    """
    if not isinstance(data, Data):
        raise TypeError(
            f"apply: data is a {type(data).__name__}; expected a torch_geometric Data or Batch. Of another container, "
            "call the layer with its tensors."
        )
    parameters = inspect.signature(layer.forward).parameters
    given, rows = {}, ()
    if "x" not in parameters and "edge_index" not in parameters:
        first, *parameters = parameters.values()
        rows, parameters = (data.x,), {p.name: p for p in parameters}
    for name, parameter in parameters.items():
        value = more.pop(name) if name in more else _field(data, name)
        if value is not None:
            given[name] = value
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(
                f"apply: {type(layer).__name__} asks for {name!r}, but the data has only {', '.join(data.keys())}. "
                f"Set data.{name}, or pass {name}=... to apply."
            )
    return _with_result(layer, data, layer(*rows, **given, **more))


def _field(data: Data, name: str) -> Any:
    """What a container holds by a name; None if nothing."""
    if name == "edge_index" and "plan" in data:
        return data.plan
    if name in ("num_graphs", "num_nodes"):
        return getattr(data, name, None)
    return data.get(name)


def _with_result(layer: nn.Module, data: Data, result: Any) -> Data:
    out = copy.copy(data)
    if isinstance(result, Tensor):
        out.x = result
        return out
    names = getattr(layer, "returns", None) or getattr(layer, "state", ())
    if len(names) != len(result):
        raise ValueError(
            f"apply: {type(layer).__name__} returned {len(result)} values and names {len(names)}; expected a name for "
            f"each. Set {type(layer).__name__}.returns = ('x', ...)."
        )
    for name, value in zip(("x", *names[1:]), result, strict=True):
        out[name] = value
    return out

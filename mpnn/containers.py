"""Layers on torch_geometric's containers: what a layer asks for by name is what the container holds by that name."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData

__all__ = ["apply"]


def apply(layer: nn.Module, data: Data | HeteroData, **more: Any) -> Data | HeteroData:
    """The container with a layer applied to it: its result in ``x``, all else as it was.

    The layer is given what its ``forward`` asks for by name: ``x``, ``edge_weight``, ``edge_attr``, ``batch``, ``u``,
    ... are the fields of that name, ``num_graphs`` and ``num_nodes`` the container's numbers, and ``edge_index`` is the
    field ``plan`` if there is one. A module that asks for no ``x``, such as ``nn.ReLU``, is given it as its first
    argument. So a stack is a loop::

        for layer in layers:
            data = mpnn.apply(layer, data)

    Of a ``HeteroData`` a layer is given each field as ``{type: value}`` of the types that have it, ``edge_index`` and
    ``num_nodes`` among them, and its result, in the same form, is x of the types it names. A module on rows is applied
    to x of every type. Layers of torch_geometric may call the fields ``x_dict``, ``edge_index_dict``, ...

    Args:
        layer: a layer of ``mpnn.nn`` or ``torch_geometric.nn``, or any module on rows.
        data: ``Data``, ``HeteroData`` or ``Batch``. It stays as it is; the copy shares its tensors.
        more: arguments that the container does not hold, or that go before what it holds.

    Returns:
        A copy of ``data``. Of several results the first is ``x``; the others have the names in the layer's ``returns``,
        or else in its ``state``: ``edge_attr`` and ``u`` after a ``GraphNetwork``, ``c`` after a cell with states h, c.

    Raises:
        TypeError: ``data`` is no ``Data`` or ``HeteroData``; the layer needs something that it does not hold.
        ValueError: the layer returns several values and does not name them.

    Example:
        >>> import torch, mpnn
        >>> data = Data(x=torch.ones(3, 4), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.tensor([1]))
        >>> apply(nn.ReLU(), apply(mpnn.nn.GCN(4, 2), data))
        Data(x=[3, 2], edge_index=[2, 2], y=[1])
    """
    if not isinstance(data, (Data, HeteroData)):
        raise TypeError(
            f"apply: data is a {type(data).__name__}; expected a torch_geometric Data, HeteroData or Batch. Of another "
            "container, call the layer with its tensors."
        )
    if isinstance(layer, type):
        name = layer.__name__
        raise TypeError(f"apply: layer is the class {name}; expected a layer that is made, {name}(...).")
    parameters = inspect.signature(layer.forward).parameters
    given, rows = {}, ()
    if not {"x", "edge_index", "x_dict", "edge_index_dict"} & set(parameters):
        if isinstance(data, HeteroData):
            return _with_types(data, {kind: layer(x, **more) for kind, x in _field(data, "x").items()})
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
    result = layer(*rows, **given, **more)
    return _with_types(data, result) if isinstance(data, HeteroData) else _with_result(layer, data, result)


def _field(data: Data, name: str) -> Any:
    """What a container holds by a name; None if nothing."""
    if name == "edge_index" and "plan" in data:
        return data.plan
    if isinstance(data, HeteroData) and name in ("num_nodes", "num_nodes_dict"):
        return data.num_nodes_dict  # of types that x tells the number of, too
    if name in ("num_graphs", "num_nodes"):
        return getattr(data, name, None)
    if isinstance(data, HeteroData):
        return data.collect(name.removesuffix("_dict"), allow_empty=True) or None
    return data.get(name)


def _with_types(data: HeteroData, result: dict[str, Tensor]) -> HeteroData:
    out = copy.copy(data)
    for kind, x in result.items():
        if x is not None:  # as some layers of torch_geometric have it for types without edges
            out[kind].x = x
    return out


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

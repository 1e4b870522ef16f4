"""What will happen: the levels of a graph under a schedule, and the way of running that each layer gets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mpnn import schedule as schedules
from mpnn.engine import choose
from mpnn.graph import Size
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan, plan

__all__ = ["Explanation", "explain"]

SHOWN = 12  # levels whose width is printed before the middle is left out


@dataclass
class Explanation:
    """What :func:`explain` found; printing it shows it.

    Attributes:
        plans: for each layer by its name in the model (``""`` for the model itself, or without a model), its plan.
        layers: for each layer by its name, its repr (its class, where that takes several lines), the way of running
            that is picked, and the reason.
    """

    plans: dict[str, Plan]
    layers: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        blocks, described = [], {}
        for name, laid_out in self.plans.items():
            text = describe(laid_out)
            described.setdefault(text, []).append(name)
        for text, names in described.items():
            blocks.append(text)
            for name in names:
                if name in self.layers:
                    layer, way, reason = self.layers[name]
                    blocks.append(f"  {name or 'model'}: {layer} runs as {way}: {reason}")
        return "\n".join(blocks)

    __repr__ = __str__


def describe(laid_out: Plan) -> str:
    """Size, schedule and widths of a plan in two lines.

    Example:
        >>> import torch
        >>> print(describe(plan(torch.tensor([[0, 1], [2, 2]]), "topological", num_nodes=3)))
        3 nodes, 2 edges, schedule topological: 2 levels
          nodes a level: 2 1 (fewest 1, median 1.5, most 2; 1.5 fire at once on average)
    """
    widths, levels = laid_out.node_counts, laid_out.num_levels
    kinds = ", ".join(f"{len(edges)} {kind}" for kind, edges in laid_out.edges.items() if kind)
    edges = f"{laid_out.num_edges} edges" + (f" ({kinds})" if kinds else "")
    shown = [str(width) for width in widths]
    if levels > SHOWN:
        shown = [*shown[: SHOWN // 2], f"... {levels - SHOWN} more ...", *shown[-SHOWN // 2 :]]
    return (
        f"{laid_out.num_nodes} nodes, {edges}, schedule {laid_out.schedule}: {levels} level{'s' * (levels > 1)}\n"
        f"  nodes a level: {' '.join(shown)} (fewest {min(widths)}, median {statistics.median(widths):g}, most "
        f"{max(widths)}; {laid_out.num_nodes / levels:.3g} fire at once on average)"
    )


def explain(
    data: Any, model: nn.Module | None = None, schedule: Any = None, num_nodes: Size | None = None
) -> Explanation:
    """Levels, widths, and for each layer of a model which way of running is picked and why.

    Args:
        data: ``Data``, ``Batch``, edge_index, ``{edge type: edge_index}`` or a :class:`~mpnn.plan.Plan`.
        model: its message-passing layers are explained one by one, each under its own schedule.
        schedule: used for all layers instead of their own; a plan has its own.
        num_nodes: needed if data does not know.

    Raises:
        ValueError: the model has no message-passing layer; the graph is malformed.
        CycleError: a layer's schedule is topological and the graph has a cycle.

    Example:
        >>> import torch, mpnn
        >>> print(explain(torch.tensor([[0, 1], [2, 2]]), mpnn.nn.GCN(4, 2), num_nodes=3))
        3 nodes, 2 edges, schedule synchronous: 1 level
          nodes a level: 3 (fewest 3, median 3, most 3; 3 fire at once on average)
          model: GCN(4, 2) runs as spmm: one level, and messages are a weight times a value: sparse products
    """
    if model is None:
        rule = "synchronous" if schedule is None else schedule
        return Explanation({"": plan(data, rule, num_nodes, "explain")})
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"explain: model is the class {name}; expected one that is made, {name}(...).")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MessagePassing)}
    if not layers:
        raise ValueError(f"explain: {type(model).__name__} has no mpnn.MessagePassing layer; pass one that has.")
    plans, ways = {}, {}
    for name, layer in layers.items():
        rule = schedules.get(layer.schedule if schedule is None else schedule)
        laid_out = plan(data, rule, num_nodes, f"explain, {name or type(layer).__name__}")
        plans[name] = laid_out if layer.state else laid_out.flat
        ways[name] = (in_a_line(layer), *choose(layer, plans[name]))
    return Explanation(plans, ways)


def in_a_line(layer: nn.Module) -> str:
    """The repr of a layer, or its class where the repr shows the modules in it line by line.

    Example:
        >>> in_a_line(nn.ReLU()), in_a_line(nn.Sequential(nn.ReLU()))
        ('ReLU()', 'Sequential')
    """
    text = repr(layer)
    return type(layer).__name__ if "\n" in text else text

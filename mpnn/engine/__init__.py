"""One meaning of a pass, several ways to run it; here one is picked.

============= ============================================ ==========================================================
way           runs                                         cost
============= ============================================ ==========================================================
reference     everything                                   Python loops over nodes; the definition, for tests
wavefront     everything                                   one step a level, O(nodes + edges) time and memory
spmm          one level of structured messages, summed     sparse products; nothing that is edges by features
              or averaged
small         one level of few edges, of messages          torch's own operations, and ordinary autograd
              of their own or with attention
packed        chains with a cell that torch has            torch's recurrent kernels on blocks of steps by chains
============= ============================================ ==========================================================

On request the wavefront computes a level's hooks again on the way back, or runs what torch's compiler made of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.compiler import is_compiling

from mpnn.engine.call import Call, Result, rowwise
from mpnn.engine.packed import described, not_packed, packed
from mpnn.engine.prepared import Prepared, key
from mpnn.engine.reference import reference
from mpnn.engine.small import Small, not_small
from mpnn.engine.spmm import Products
from mpnn.engine.wavefront import wavefront
from mpnn.graph import Size
from mpnn.plan import notes

__all__ = ["Call", "Result", "again", "choose", "engine", "rowwise", "run"]

WAYS = {"reference": reference, "wavefront": wavefront, "spmm": Products.run, "small": Small.run, "packed": packed}


class _Forced(threading.local):
    """What ``engine`` asks for in a thread: a way of running, and whether to compute again or to compile."""

    way: str | None = None
    recompute = False
    compile = False


_forced = _Forced()


@contextmanager
def engine(name: str | None = None, recompute: bool = False, compile: bool = False) -> Iterator[None]:
    """Says how all passes inside the ``with`` block are run, in this thread.

    Args:
        name: ``"reference"``, ``"wavefront"``, ``"spmm"``, ``"small"`` or ``"packed"``; unless given, each pass is run
            the way that is picked for it.
        recompute: of ``"wavefront"`` only: what the hooks compute in a level is not kept for the way back, but computed
            again there, level by level, from the states. Results and gradients are the same. Hooks are called twice,
            with the same random numbers.
        compile: passes of several levels that the wavefront runs are run by code that torch's compiler makes of the
            hooks, once for all levels alike (seconds, and a C++ compiler where there is no GPU). Results and gradients
            are the same, to rounding. It pays where levels are narrow; see the guide. Other passes are run as without.

    Raises:
        ValueError: the name is unknown, or that way does not recompute or compile; or, when a pass is run, that way
            cannot run it (the error says why).
        RuntimeError: when a pass is run, its hooks cannot be compiled.

    Example:
        >>> import torch, mpnn
        >>> x, edge_index = torch.ones(3, 2), torch.tensor([[0, 1], [2, 2]])
        >>> layer = mpnn.nn.GIN(torch.nn.Identity())
        >>> with mpnn.engine("reference"):
        ...     slow = layer(x, edge_index)
        >>> torch.equal(slow, layer(x, edge_index))
        True
    """
    _check(name, recompute, compile)
    before = _forced.way, _forced.recompute, _forced.compile
    _forced.way, _forced.recompute, _forced.compile = name, recompute, compile
    try:
        yield
    finally:
        _forced.way, _forced.recompute, _forced.compile = before


def _check(name: str | None, recompute: bool, compile: bool) -> None:
    if name is not None and name not in WAYS:
        raise ValueError(f"engine({name!r}) is unknown; expected {', '.join(map(repr, WAYS))}.")
    if recompute and name != "wavefront":
        raise ValueError(f"engine({name!r}, recompute=True): only 'wavefront' computes again; expected that name.")
    if compile and name not in (None, "wavefront"):
        raise ValueError(f"engine({name!r}, compile=True): only 'wavefront' is compiled; expected that name, or none.")
    if compile and recompute:
        raise ValueError(
            "engine(recompute=True, compile=True): what is compiled keeps only what is cheaper to keep than to compute "
            "again; expected one of the two."
        )


def choose(layer, plan, only: tuple[str, ...] | None = None) -> tuple[str, str]:
    """The way of running that is picked for a layer on a plan, and the reason in words.

    ``only`` are the state fields that are asked for; None stands for those that the layer itself asks for.
    """
    way, obstacle = _pick(layer, plan, only)
    if _forced.way:
        return way, "forced by mpnn.engine"
    if way == "spmm":
        return way, "one level, and messages are a weight times a value: sparse products"
    if way == "small":
        return way, f"one level of {plan.num_edges} edges, and a layer without state: torch's own operations"
    if way == "packed":
        return way, described(layer, plan)
    compiled = ", compiled" if _forced.compile else ""
    levels = (
        f"{plan.num_levels} levels, frontier by frontier{compiled}"
        if plan.num_levels > 1
        else "one level, all edges at once"
    )
    return way, f"{levels} (no {'sparse product' if layer.kernel() is None else 'kernel of torch'}: {obstacle})"


def _pick(layer, plan, only: tuple[str, ...] | None) -> tuple[str, str | None]:
    """The way of running, and what is in the way of a faster one."""
    forced = _forced.way
    if forced is None and not_small(layer, plan, only) is None:
        return "small", None
    way = forced or ("spmm" if layer.kernel() is None else "packed")
    obstacle = LIMITS[way](layer, plan, only) if way in LIMITS else None
    if obstacle and forced:
        raise ValueError(
            f"engine({way!r}) cannot run {type(layer).__name__}: {obstacle}. Use 'wavefront' or 'reference'."
        )
    return "wavefront" if obstacle else way, obstacle


def _not_spmm(layer, plan, only) -> str | None:
    """Why messages cannot be summed by a sparse product, if so."""
    if plan.num_levels > 1:
        return f"there are {plan.num_levels} levels"
    if not layer.hooks.structured:
        return "message is a function of its own"
    if layer.hooks.aggregate or layer.aggr not in ("sum", "mean"):
        return f"the aggregation is {'its own' if layer.hooks.aggregate else layer.aggr!r}, not 'sum' or 'mean'"
    return "edge_update asks for the messages" if layer.hooks.edge_update else None


LIMITS = {"spmm": _not_spmm, "small": not_small, "packed": not_packed}  # of the ways that do not run everything


def again(layer, graph: Any, num_nodes: Size | None) -> Prepared | None:
    """What ran the last such call, if it was prepared for more of them and the graph is what it was."""
    if _forced.way or is_compiling():
        return None
    return notes(graph).get(key(layer, num_nodes))


def run(call: Call) -> Result:
    """Runs a call the way that is picked for it."""
    way = _pick(call.layer, call.plan, call.only)[0]
    if way != "packed":  # where chains start is all that torch's kernels ask
        call.start()
    if way == "wavefront" and _forced.compile and call.plan.num_levels > 1:
        from mpnn.engine.compiled import compiled  # it loads the compiler

        return compiled(call)
    return wavefront(call, _forced.recompute) if way == "wavefront" else WAYS[way](call)

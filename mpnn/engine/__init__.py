"""One meaning of a pass, several ways to run it; here one is picked.

============= ============================================ ==========================================================
way           runs                                         cost
============= ============================================ ==========================================================
reference     everything                                   Python loops over nodes; the definition, for tests
wavefront     everything                                   one step a level, O(nodes + edges) time and memory
spmm          one level of structured messages, summed     sparse products; nothing that is edges by features
              or averaged
============= ============================================ ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mpnn.engine.call import Call, Result, rowwise
from mpnn.engine.reference import reference
from mpnn.engine.spmm import spmm
from mpnn.engine.wavefront import wavefront

__all__ = ["Call", "Result", "choose", "engine", "rowwise", "run"]

WAYS = {"reference": reference, "wavefront": wavefront, "spmm": spmm}

_forced: str | None = None


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Forces one way of running for all passes inside the ``with`` block.

    Args:
        name: ``"reference"``, ``"wavefront"`` or ``"spmm"``.

    Raises:
        ValueError: the name is unknown; or, when a pass is run, that way cannot run it (the error says why).

    Example:
        >>> import torch, mpnn
        >>> x, edge_index = torch.ones(3, 2), torch.tensor([[0, 1], [2, 2]])
        >>> layer = mpnn.nn.GIN(torch.nn.Identity())
        >>> with mpnn.engine("reference"):
        ...     slow = layer(x, edge_index)
        >>> torch.equal(slow, layer(x, edge_index))
        True
    """
    global _forced
    if name not in WAYS:
        raise ValueError(f"engine({name!r}) is unknown; expected {', '.join(map(repr, WAYS))}.")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def choose(layer, plan) -> tuple[str, str]:
    """The way of running that is picked for a layer on a plan, and the reason in words."""
    obstacle = _not_spmm(layer, plan)
    if _forced == "spmm" and obstacle:
        raise ValueError(
            f"engine('spmm') cannot run {type(layer).__name__}: {obstacle}. Use 'wavefront' or 'reference'."
        )
    if _forced:
        return _forced, "forced by mpnn.engine"
    if not obstacle:
        return "spmm", "one level, and messages are a weight times a value: sparse products"
    levels = (
        f"{plan.num_levels} levels, frontier by frontier" if plan.num_levels > 1 else "one level, all edges at once"
    )
    return "wavefront", f"{levels} (no sparse product: {obstacle})"


def _not_spmm(layer, plan) -> str | None:
    """Why messages cannot be summed by a sparse product, if so."""
    if plan.num_levels > 1:
        return f"there are {plan.num_levels} levels"
    if not layer.hooks.structured:
        return "message is a function of its own"
    if layer.hooks.aggregate or layer.aggr not in ("sum", "mean"):
        return f"the aggregation is {'its own' if layer.hooks.aggregate else layer.aggr!r}, not 'sum' or 'mean'"
    return "edge_update asks for the messages" if layer.hooks.edge_update else None


def run(call: Call) -> Result:
    """Runs a call the way that is picked for it."""
    return WAYS[choose(call.layer, call.plan)[0]](call)

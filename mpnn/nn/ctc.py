"""Connectionist temporal classification: labels without a time, for a sequence that is longer than they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpnn import schedule
from mpnn.graph import check_batch
from mpnn.plan import cached_plan, falls

__all__ = ["ctc_decode", "ctc_loss"]


def ctc_loss(
    scores: Tensor,
    edge_index: Any,
    target: Tensor,
    batch: Tensor | None = None,
    target_batch: Tensor | None = None,
    num_graphs: int | None = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    r"""The negative log-probability, in nats, of label sequences under a tag for each node of a chain.

    .. math:: -\ln \sum_{\pi \in B^{-1}(y)} \prod_t \mathrm{softmax}(z_t)_{\pi_t}

    where B drops repetitions, then blanks. The chains of the batch are padded and given to torch's ``ctc_loss``.

    Source: Graves, Fernandez, Gomez & Schmidhuber 2006, eq. 3 and 8.
    Deviations: none; ``reduction="mean"`` divides each by its number of labels first, as torch does.

    Args:
        blank, reduction, zero_infinity: as in ``torch.nn.functional.ctc_loss``.

    Shape:
        scores ``(N, C)``, before the softmax; edge_index ``(2, E)`` (t-1, t); target ``(M,)`` int64, the labels of all
        chains one after the other, and target_batch ``(M,)`` the chain of each, sorted; batch ``(N,)`` the chain of
        each node -> a number, or ``(B,)`` with ``reduction="none"``. Both batches are None if there is one chain;
        num_graphs is B, or else read from batch.

    Raises:
        ValueError: a graph of the batch is no chain; a batch has not one entry a node, or a label; target_batch is not
            sorted, or None though there are several chains.
        CycleError: it has a cycle.

    Example:
        >>> scores = torch.tensor([[0.0, 9.0], [9.0, 0.0]])            # label 1, then blank
        >>> bool(ctc_loss(scores, torch.tensor([[0], [1]]), torch.tensor([1])) < 0.01)
        True
    """
    place, batch, count = _places("ctc_loss", scores, edge_index, batch, num_graphs)
    target_batch = _chains(target, target_batch, count)
    steps = int(place.max()) + 1 if len(place) else 1
    log_probs = scores.log_softmax(-1)
    padded = log_probs.new_zeros(steps, count, scores.shape[1]).index_put((place, batch), log_probs)
    lengths = torch.bincount(batch, minlength=count), torch.bincount(target_batch, minlength=count)
    return F.ctc_loss(padded, target, *lengths, blank, reduction, zero_infinity)


def ctc_decode(
    scores: Tensor,
    edge_index: Any,
    batch: Tensor | None = None,
    num_graphs: int | None = None,
    blank: int = 0,
) -> list[Tensor]:
    """The labels of each chain when every node takes its best tag: repetitions are dropped, then blanks.

    Source: best path decoding, Graves et al. 2006, section 3.2. Deviations: none. The best path need not be the best
    labelling, which has many paths.

    Shape:
        as :func:`ctc_loss`, with the same ``blank`` -> for each chain its labels, int64.

    Raises:
        ValueError: a graph of the batch is no chain; the batch has not one entry a node.
        CycleError: it has a cycle.

    Example:
        >>> tags = torch.tensor([1, 1, 0, 1, 2])
        >>> chain = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        >>> ctc_decode(torch.nn.functional.one_hot(tags).float(), chain)
        [tensor([1, 1, 2])]
    """
    place, batch, count = _places("ctc_decode", scores, edge_index, batch, num_graphs)
    order = torch.argsort(place, stable=True)
    order = order[torch.argsort(batch[order], stable=True)]  # chain by chain, each from its start
    paths = scores.argmax(-1)[order].split(torch.bincount(batch, minlength=count).tolist())
    return [labels[labels != blank] for labels in map(torch.unique_consecutive, paths)]


def _chains(target: Tensor, batch: Tensor | None, count: int) -> Tensor:
    """The chain of each label."""
    if batch is None and count > 1 and len(target):
        raise ValueError(
            f"ctc_loss: there are {count} chains, but target_batch is None; expected the chain of each of the "
            f"{len(target)} labels. Pass target_batch=."
        )
    batch = torch.zeros_like(target) if batch is None else batch
    if batch.shape != target.shape or falls(batch):
        raise ValueError(
            f"ctc_loss: target_batch has shape {tuple(batch.shape)} and begins {batch.flatten()[:8].tolist()}; "
            f"expected the chain of each label, sorted, in the shape of target, {tuple(target.shape)}."
        )
    return batch


def _places(
    owner: str, scores: Tensor, edge_index: Any, batch: Tensor | None, num_graphs: int | None
) -> tuple[Tensor, Tensor, int]:
    """Where each node is in its chain, in which chain, and how many chains there are."""
    place = cached_plan(edge_index, schedule.topological, len(scores), owner).level
    check_batch(owner, batch, len(scores))
    if batch is None:
        batch, num_graphs = torch.zeros_like(place), 1
    count = num_graphs if num_graphs is not None else int(batch.max()) + 1 if len(batch) else 0
    steps = int(place.max()) + 1 if len(place) else 1
    twice = (torch.bincount(batch * steps + place) > 1).nonzero()
    if len(twice):
        graph, at = divmod(int(twice[0]), steps)
        raise ValueError(
            f"{owner}: graph {graph} has several nodes at place {at}; expected a chain, one node after the other. "
            "Pass batch=, the chain of each node, if there are several chains."
        )
    return place, batch, count

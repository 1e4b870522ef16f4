"""Splits: masks and folds, drawn from an explicit generator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

Masks = tuple[Tensor, Tensor, Tensor]


def as_generator(generator: torch.Generator | int) -> torch.Generator:
    """A generator as it is, or a fresh CPU generator with this seed."""
    if isinstance(generator, torch.Generator):
        return generator
    return torch.Generator().manual_seed(generator)


def per_class(y: Tensor, generator: torch.Generator | int, *, train: int = 20, val: int = 30) -> Masks:
    """Draws ``train`` and ``val`` nodes of every class; all others test.

    Source: Shchur et al. 2018, arXiv:1811.05868, section 3 (20 and 30 a class).
    Deviations: none in the counts; the random numbers are torch's.

    Args:
        y: class of each node.
        generator: where the randomness comes from, or a seed.
        train: training nodes a class.
        val: validation nodes a class.

    Shape:
        y ``(N,)`` int64 -> three masks ``(N,)`` bool, disjoint, covering all nodes.

    Raises:
        ValueError: a class has fewer than ``train + val`` nodes.

    Example:
        >>> masks = per_class(torch.tensor([0, 1, 0, 1, 0, 1]), 0, train=1, val=1)
        >>> [int(mask.sum()) for mask in masks]
        [2, 2, 2]
    """
    generator = as_generator(generator)
    chosen = torch.full_like(y, 2)  # 0 train, 1 validation, 2 test
    for label in y.unique():
        nodes = (y == label).nonzero().view(-1)
        if len(nodes) < train + val:
            raise ValueError(
                f"per_class: class {int(label)} has {len(nodes)} nodes; expected at least train + val = {train + val}. "
                "Ask for fewer a class, or leave the class out."
            )
        nodes = nodes[torch.randperm(len(nodes), generator=generator)]
        chosen[nodes[:train]] = 0
        chosen[nodes[train : train + val]] = 1
    return chosen == 0, chosen == 1, chosen == 2


def fractions(num_nodes: int, generator: torch.Generator | int, *, train: float = 0.6, val: float = 0.2) -> Masks:
    """Draws these shares of all nodes, rounded to the nearest node; the rest tests.

    Shape:
        three masks ``(num_nodes,)`` bool, disjoint, covering all nodes.

    Raises:
        ValueError: a share is negative, or the two come to more than 1.

    Example:
        >>> [int(mask.sum()) for mask in fractions(10, 0, train=0.1, val=0.1)]
        [1, 1, 8]
    """
    if train < 0 or val < 0 or train + val > 1:
        raise ValueError(f"fractions: train={train}, val={val}; expected shares of at least 0 and together at most 1.")
    order = torch.randperm(num_nodes, generator=as_generator(generator))
    ends = round(train * num_nodes), round((train + val) * num_nodes)
    chosen = torch.full((num_nodes,), 2)
    chosen[order[: ends[1]]] = 1
    chosen[order[: ends[0]]] = 0
    return chosen == 0, chosen == 1, chosen == 2


def given(data: Data, number: int) -> Data:
    """A shallow copy of ``data`` with one of its given splits, as masks ``(N,)``.

    The heterophilous graphs carry ten splits, ``train_mask`` ``(N, 10)`` and so on.

    Raises:
        ValueError: ``data`` has no such split.

    Example:
        >>> many = Data(**{f"{part}_mask": torch.eye(3, 2).bool() for part in ("train", "val", "test")})
        >>> given(many, 1).train_mask
        tensor([False,  True, False])
    """
    masks = {f"{part}_mask": data.get(f"{part}_mask") for part in ("train", "val", "test")}
    lacking = [name for name, mask in masks.items() if mask is None or mask.dim() != 2]
    if lacking:
        raise ValueError(f"given: {lacking[0]} is not a mask of shape (N, splits); expected data with several splits.")
    count = masks["train_mask"].size(1)
    if not 0 <= number < count:
        raise ValueError(f"given: split {number} does not exist; expected 0 to {count - 1}.")
    out = copy.copy(data)
    for name, mask in masks.items():
        out[name] = mask[:, number]
    return out


def k_folds(y: Tensor | Sequence, generator: torch.Generator | int, *, k: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    """Cuts labelled graphs into k folds with equal shares of the classes; yields (train, test) indices, k times.

    Source: the protocol of Xu et al. 2019, arXiv:1810.00826, section 7 (stratified 10-fold cross-validation).
    Deviations: none in the protocol; the random numbers are torch's.

    Args:
        y: class of each graph, or the graphs themselves (each with one label ``y``).
        generator: where the randomness comes from, or a seed.
        k: number of folds.

    Shape:
        y ``(B,)`` -> k pairs of int64 index tensors; the test parts are disjoint and cover all graphs.

    Raises:
        ValueError: there are fewer graphs than folds, or k < 2.

    Example:
        >>> [len(test) for train, test in k_folds(torch.tensor([0, 1, 0, 1, 0, 1]), 0, k=3)]
        [2, 2, 2]
    """
    if not isinstance(y, Tensor):
        y = torch.cat([graph.y.view(-1) for graph in y])
    if not 2 <= k <= len(y):
        raise ValueError(f"k_folds: k={k} for {len(y)} graphs; expected 2 to {len(y)}.")
    order = torch.randperm(len(y), generator=as_generator(generator))
    order = order[y[order].argsort(stable=True)]  # class by class, shuffled within
    return ((torch.cat([order[i::k] for i in range(k) if i != fold]), order[fold::k]) for fold in range(k))

"""The matrix products of a pass and nothing else: the physical reference of layers that run frontier by frontier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from _harness import Contender, Step
from torch import Tensor

from mpnn.products import _of_weight as gradient_of_weight
from mpnn.products import linear

__all__ = ["Product", "references"]


@dataclass
class Product:
    """``x W^T``, with so many rows in each frontier; in one batch where it waits for none."""

    x: Tensor
    weight: Tensor
    counts: list[int] | None = None


def references(make: Callable[[], list[Product]], size: int) -> list[Contender]:
    """Products and both backward products of each: in one batch; frontier by frontier; in one batch, by torch's own."""
    named = {
        "matrix products alone": lambda: products_step(make()),
        "matrix products alone, frontier by frontier": lambda: products_step(make(), by_frontier=True),
        "matrix products alone, torch's own": lambda: torchs_step(make()),
    }
    return [Contender(name, step, "reference", agrees=False, size=size) for name, step in named.items()]


def products_step(products: list[Product], by_frontier: bool = False) -> Step:
    """By ``mpnn.products``, as in the layers. The gradient of a weight waits for no frontier."""
    weights = [product.weight.detach() for product in products]
    rows = [product.counts if by_frontier and product.counts else [len(product.x)] for product in products]

    def step():
        for product, weight, counts in zip(products, weights, rows):
            y = [linear(some, weight) for some in product.x.split(counts)]
            for grad in y:
                linear(grad, weight.t())
            gradient_of_weight(y[0] if len(y) == 1 else torch.cat(y), product.x)
        return []

    return step


def torchs_step(products: list[Product]) -> Step:
    weights = [product.weight.detach() for product in products]

    def step():
        for product, weight in zip(products, weights):
            y = product.x @ weight.t()
            y.t() @ product.x
            y @ weight
        return []

    return step

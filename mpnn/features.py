"""Node features that are mostly zero: bags of words as sparse CSR matrices.

A bag of words is a bipartite graph from words to nodes whose edges weigh the counts, and ``x @ W`` the weighted sum of
the words' rows of W. So it runs on the engine's own operation, transposed once and kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn.kept import Kept, lasting
from mpnn.kernels import csr, weighted_sum
from mpnn.plan import Edges
from mpnn.products import linear

__all__ = ["Linear", "dropout", "is_sparse"]

_bags = Kept()


def is_sparse(x: Tensor) -> bool:
    """Whether features are held in a sparse layout of any kind."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x is a {type(x).__name__}; expected a tensor (N, F). Of a Data pass data.x, data.edge_index, or call "
            "mpnn.apply(layer, data); of nodes of several types, mpnn.nn.RelationWise takes a layer for each edge type."
        )
    return x.layout is not torch.strided


def _bag(x: Tensor) -> tuple[Edges, Tensor]:
    """The words of each node as edges, and their weights; kept while the matrix lives."""
    bag = _bags.get(x)
    if bag is None:
        bag = _bags[x] = lasting(lambda: _edges(x)), x.values()
    return bag


def _edges(x: Tensor) -> Edges:
    row = torch.repeat_interleave(x.crow_indices().diff())
    return Edges(x.col_indices(), row, x.shape[1], x.shape[0], short=True)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of dense features, or of the stored entries of sparse ones (the others are zero anyway)."""
    if not is_sparse(x):
        return F.dropout(x, p, training)
    if not training or p == 0:
        return x
    values = F.dropout(x.values(), p, training)
    out = csr(x.crow_indices(), x.col_indices(), values, x.shape)
    _bags[out] = _bag(x)[0], values
    return out


class Linear(nn.Linear):
    """``torch.nn.Linear`` that also takes a sparse CSR ``x``;
    initialised as torch's layer, or by Glorot's uniform rule.

    Args:
        in_features, out_features, bias: as in ``torch.nn.Linear``.
        glorot: U(-a, a) with a = sqrt(6 / (in + out)) and bias 0, as the papers on graph networks initialise.

    Shape:
        x ``(N, in_features)``, dense or sparse CSR -> ``(N, out_features)``.

    Raises:
        ValueError: x has another number of features, one dimension, or a sparse layout that is not CSR.

    Source: Glorot & Bengio 2010 for the initialisation. Deviations: none.

    Example:
        >>> layer, x = Linear(3, 2), torch.tensor([[0.0, 1.0, 0.0]])
        >>> torch.allclose(layer(x.to_sparse_csr()), layer(x))
        True
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, glorot: bool = False):
        self.glorot = glorot
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        if not self.glorot:
            return super().reset_parameters()
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if is_sparse(x):
            return self.shift(self.product(x))
        check_features(type(self).__name__, x, self.in_features, deep=True)
        return linear(x, self.weight, self.bias)

    def product(self, x: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        """``x W^T``, without the layer's own bias; plus another, and plus rows, if given."""
        check_features(type(self).__name__, x, self.in_features, deep=True)
        return _product(x, self.weight, bias, plus)

    def products(self, x: Tensor, other: nn.Linear) -> tuple[Tensor, Tensor]:
        """``x W^T`` with this layer's weights and with another's, without biases: one pass over x for both."""
        check_features(type(self).__name__, x, self.in_features, deep=True)
        both = _product(x, torch.cat([self.weight, other.weight]))
        return both.split([self.out_features, other.out_features], -1)

    def shift(self, x: Tensor) -> Tensor:
        """``x + b``."""
        return x if self.bias is None else x + self.bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """``x W^T + b + plus``."""
    if not is_sparse(x):
        return linear(x, weight, bias, plus)
    if x.layout is not torch.sparse_csr:
        raise ValueError(
            f"Linear: x has layout {x.layout}; expected a dense or a sparse CSR tensor. Pass x.to_sparse_csr()."
        )
    product = weighted_sum(*_bag(x), weight.t())
    product = product if bias is None else product + bias
    return product if plus is None else product + plus


def check_features(owner: str, x: Tensor, expected: int, deep: bool = False) -> None:
    """Raises unless x is ``(N, expected)`` of floating-point numbers, as the layer was made for; or, if ``deep``,
    ``(N, ..., expected)``.
    """
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"{owner}: x has dtype {x.dtype}; expected floating-point features. Pass x.float(), or, if its numbers are "
            "kinds of nodes, torch.nn.Embedding(kinds, features)(x)."
        )
    if x.dim() != 2 and (x.dim() < 2 or not deep):
        raise ValueError(
            f"{owner}: x has shape {tuple(x.shape)}; expected ({'N, ..., ' if deep else 'N, '}{expected}), a row a "
            "node. Reshape it, as by x[:, None] if a node has one feature."
        )
    if x.shape[-1] != expected:
        raise ValueError(
            f"{owner}: x has {x.shape[-1]} features a node, shape {tuple(x.shape)}; expected {expected}. Make the "
            f"layer with in_features={x.shape[-1]}, or pass other features."
        )


def check_dense(owner: str, x: Tensor) -> None:
    """Raises if x is sparse, for layers that have no product to begin with."""
    if is_sparse(x):
        raise ValueError(
            f"{owner}: x is sparse, with layout {x.layout}; expected a dense tensor. Pass x.to_dense(), or put an "
            "mpnn.features.Linear, which takes sparse features, in front."
        )


MIXED = ("dtype", "scalar type", "primitive descriptor")  # what torch says of dtypes that do not go together


class Checked(nn.Module):
    """A module that says which of its arguments has another dtype than its weights, where torch stops at that.

    Nothing is asked before a call: an argument may differ that meets no weight, and under autocast all of them do.

    Example:
        >>> import mpnn
        >>> mpnn.nn.GCN(3, 2)(torch.ones(2, 3).double(), torch.tensor([[0], [1]]))
        Traceback (most recent call last):
        TypeError: GCN: x has dtype torch.float64, but the weights have torch.float32; ...
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:  # as nn.Module does it, without one more call
            if self._compiled_call_impl is None:
                return self._call_impl(*args, **kwargs)
            return self._compiled_call_impl(*args, **kwargs)
        except RuntimeError as error:
            if any(words in str(error) for words in MIXED):
                _tell_dtypes(self, inspect.signature(self.forward).bind(*args, **kwargs).arguments, error)
            raise


def _tell_dtypes(module: nn.Module, given: dict[str, Any], error: RuntimeError) -> None:
    """Raises if an argument has a floating-point dtype that no weight has."""
    weights = [p.dtype for p in module.parameters() if p.is_floating_point()]
    for name, value in _floating(given):
        if weights and value.dtype not in weights and not torch.is_autocast_enabled(value.device.type):
            raise TypeError(
                f"{type(module).__name__}: {name} has dtype {value.dtype}, but the weights have {weights[0]}; expected "
                f"the same. Pass {name}{_cast(weights[0])}, or call {_cast(value.dtype)} of the layer."
            ) from error


def _floating(given: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors among arguments, by name; also those in a tuple or a dict."""
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            yield name, value
        elif isinstance(value, dict):
            yield from _floating({f"{name}[{key!r}]": v for key, v in value.items()})
        elif isinstance(value, (tuple, list)):
            yield from _floating({f"{name}[{k}]": v for k, v in enumerate(value)})


def _cast(dtype: torch.dtype) -> str:
    return {torch.float32: ".float()", torch.float64: ".double()"}.get(dtype, f".to({dtype})")

"""The recurrent network in which the output feeds back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpnn.nn.recurrent import Recurrent, Weights, arrived, recur

__all__ = ["Jordan"]


class Jordan(Recurrent):
    r"""A recurrent network in which not the hidden state is fed back, as in ``RNN``, but the output.

    .. math::
        s_t = y_{t-1} + \alpha s_{t-1}, \qquad h_t = f(W x_t + b + U s_t + b'), \qquad y_t = g(V h_t + c)

    The state units s remember earlier outputs, and forget them at the rate :math:`\alpha`. With :math:`\alpha = 0`, as
    most texts have it, they hold the last output: :math:`h_t = f(W x_t + b + U y_{t-1} + b')`. At the start of a chain
    s is the initial output, 0 unless given. On any DAG it is the sum over the predecessors.

    Source: Jordan 1986, "Attractor dynamics and parallelism in a connectionist sequential machine" (the state units
    with :math:`\alpha`); Elman 1990 compares it to feeding back the hidden state.
    Deviations: two biases in h, of which one would do, as in ``RNN``. Jordan's units are logistic: pass
    ``nonlinearity=torch.sigmoid, output_nonlinearity=torch.sigmoid``.

    Args:
        in_features: width of ``x``.
        hidden_features: width of h.
        out_features: width of ``y``.
        num_layers, bias, dropout, bidirectional: as in :class:`RNN`; the next layer reads the outputs.
        nonlinearity: f.
        output_nonlinearity: g; None for none.
        decay: :math:`\alpha`.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-1, t), y0 ``(num_layers * directions, B, out_features)`` with a row for
        each graph of ``batch`` ``(N,)`` -> y ``(N, directions * out_features)`` of the last layer.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih_l0 ``(H, F)``: W, weight_hh_l0 ``(H, O)``: U, bias_ih_l0 ``(H,)``: b, bias_hh_l0 ``(H,)``: b',
        weight_ho_l0 ``(O, H)``: V, bias_ho_l0 ``(O,)``: c; more layers ``_l1``, ..., backwards ``_l0_reverse``, ...
        Drawn from U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: x is sparse or has another width; y0 has another shape.

    Example:
        >>> Jordan(3, 4, 2)(torch.ones(3, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 2])
    """

    state = ("y", "s")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_layers: int = 1,
        nonlinearity: Callable[[Tensor], Tensor] = torch.tanh,
        output_nonlinearity: Callable[[Tensor], Tensor] | None = None,
        decay: float = 0.0,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        self.out_features, self.decay = out_features, decay
        super().__init__(in_features, hidden_features, 1, num_layers, bias, dropout, bidirectional)
        self.nonlinearity, self.output_nonlinearity = nonlinearity, output_nonlinearity

    @property
    def state_features(self) -> int:
        return self.out_features

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(rows, columns) | {"weight_hh": (rows, self.out_features)}
        shapes |= {"weight_ho": (self.out_features, rows)}
        return shapes | {"bias_ho": (self.out_features,)} if self.bias else shapes

    def weights(self, layer: int, way: str) -> Weights:
        w = super().weights(layer, way)
        w.out = [getattr(self, f"{name}_ho_l{layer}{way}", None) for name in ("weight", "bias")]
        return w

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        y0: Tensor | None = None,
        batch: Tensor | None = None,
        schedule: Any = None,
    ) -> Tensor:
        return self.top(x, edge_index, batch, schedule, y0=y0)[0]

    def message(self, y_j, s_j):
        return y_j + self.decay * s_j

    def update(self, wx, w, y0=None, message=None):
        s = arrived(message, y0)
        y = F.linear(self.nonlinearity(recur(wx, s, w.times_hh)), *w.out)
        y = y if self.output_nonlinearity is None else self.output_nonlinearity(y)
        return y, torch.zeros_like(y) if s is None else s

    def options(self) -> list[str]:
        named = {"nonlinearity": self.nonlinearity, "output_nonlinearity": self.output_nonlinearity}
        plain = {"nonlinearity": torch.tanh, "output_nonlinearity": None}
        mine = [f"{name}={_name(f)}" for name, f in named.items() if f is not plain[name]]
        return [str(self.out_features), *super().options(), *mine, *[f"decay={self.decay}"] * bool(self.decay)]


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)

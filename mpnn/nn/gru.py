"""The gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn.nn.recurrent import Recurrent, Weights, arrived
from mpnn.products import linear
from mpnn.times import Times

__all__ = ["GRU"]


class GRU(Recurrent):
    r"""The gated recurrent unit: an update gate mixes the previous state with a new candidate.

    .. math::
        r, z = \sigma(W x_t + b + U h_{t-1} + b'), \qquad h_t = (1 - z) \odot n + z \odot h_{t-1}

    each with its own W, U, b and b', and the candidate by one of two conventions,

    .. math::
        \text{after:}\quad n = \tanh(W x_t + b + r \odot (U h_{t-1} + b')), \qquad
        \text{before:}\quad n = \tanh(W x_t + b + U (r \odot h_{t-1}) + b')

    At the start of a chain :math:`h_{t-1}` is the initial state, 0 unless given. On any DAG it is the sum of the
    predecessors' states, 0 without any.

    Source: Cho et al. 2014, arXiv:1406.1078, eq. 5-8 (before); ``torch.nn.GRU`` (after).
    Deviations: biases, which the paper leaves out; two of them, as in ``torch.nn.GRU``, so that weights load both ways.
    Some texts swap z and 1 - z, which is the same up to the sign of its weights.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h``.
        num_layers, bias, dropout, bidirectional: as in :class:`RNN`.
        reset: whether r is applied ``"after"`` the product with U, as in torch, or ``"before"`` it, as in the paper.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-1, t), h0 ``(num_layers * directions, B, H)`` with a row for each graph
        of ``batch`` ``(N,)`` -> h ``(N, directions * H)`` of the last layer.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih_l0 ``(3H, F)``: W, weight_hh_l0 ``(3H, H)``: U, bias_ih_l0 ``(3H,)``: b, bias_hh_l0 ``(3H,)``: b', in
        blocks r, z, n; more layers ``_l1``, ..., backwards ``_l0_reverse``, ... Names, layout and initialisation of
        ``torch.nn.GRU``.

    Raises:
        ValueError: ``reset`` is unknown; x is sparse or has another width; h0 has another shape.

    Example:
        >>> chain = torch.tensor([[0, 1], [1, 2]])                    # 0 -> 1 -> 2
        >>> layer, theirs = GRU(3, 4), torch.nn.GRU(3, 4)
        >>> layer.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.ones(3, 3)
        >>> torch.allclose(layer(x, chain), theirs(x)[0], atol=1e-6)
        True
    """

    state = ("h",)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        reset: str = "after",
    ):
        if reset not in ("after", "before"):
            raise ValueError(f"GRU: reset={reset!r} is unknown; expected 'after' or 'before'.")
        super().__init__(in_features, hidden_features, 3, num_layers, bias, dropout, bidirectional)
        self.reset = reset

    def weights(self, layer: int, way: str) -> Weights:
        w = super().weights(layer, way)
        if self.reset == "after":
            w.times_hh = Times(w.weight_hh, w.bias_hh)
        else:
            biases = self._split(w.bias_hh) if self.bias else (None, None)
            w.gates, w.candidate = map(Times, self._split(w.weight_hh), biases)  # once, not at every level
        return w

    def inputs(self, x: Tensor, w: Weights) -> Tensor:
        return linear(x, w.weight_ih, w.bias_ih)

    def _split(self, blocks: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
        """The blocks of r and z, and that of n."""
        return blocks.split([2 * self.hidden_features, self.hidden_features], dim)

    def kernel(self):
        return torch.gru if self.reset == "after" else None

    def update(self, wx, w, h0=None, message=None):
        h = arrived(message, h0)
        x_gates, x_candidate = self._split(wx, dim=1)
        if self.reset == "after":
            u_gates, u_candidate = self._split(_product(h, w.times_hh), dim=-1)
        else:
            u_gates = _product(h, w.gates)
        r, z = torch.sigmoid(x_gates + u_gates).chunk(2, dim=1)
        if self.reset == "after":
            n = torch.tanh(x_candidate + r * u_candidate)
        else:
            n = torch.tanh(x_candidate + _product(h if h is None else r * h, w.candidate))
        return (1 - z) * n if h is None else n + z * (h - n)

    def options(self) -> list[str]:
        return super().options() + [f"reset={self.reset!r}"] * (self.reset != "after")


def _product(h: Tensor | None, times: Times) -> Tensor:
    """``h U^T + b'``; of no h the bias alone, which is the same for all nodes."""
    if h is not None:
        return times(h)
    return times.weight.new_zeros(times.weight.shape[0]) if times.bias is None else times.bias

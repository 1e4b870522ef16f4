"""The simple recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn.nn.recurrent import Recurrent, Weights, arrived, recur

__all__ = ["RNN"]

NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}


class RNN(Recurrent):
    r"""A simple recurrent network: the new state from the input and the previous state.

    .. math::
        h_t = f(W x_t + b + U h_{t-1} + b'), \qquad \text{residual:}\quad h_t = h_{t-1} + f(W x_t + b + U h_{t-1} + b')

    where :math:`h_{t-1}` is the initial state at the start of a chain, 0 unless given, and f is tanh or the rectifier.
    On any DAG :math:`h_{t-1}` is the sum of the predecessors' states, 0 without any.

    Source: Elman 1990, "Finding structure in time"; the residual form: Qiu, Neural Networks and Deep Learning, ch. 6.
    Deviations: two biases, of which one would do, as in ``torch.nn.RNN``, so that weights load both ways.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h``.
        num_layers: how many layers are stacked, each reading the states of the one before.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        bias: whether there are biases.
        dropout: probability to drop an input of each layer but the first, in training.
        bidirectional: whether a second set of weights runs backwards; the states of a node are joined.
        residual: whether the previous state is added to the new one.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-1, t), h0 ``(num_layers * directions, B, H)`` with a row for each graph
        of ``batch`` ``(N,)`` -> h ``(N, directions * H)`` of the last layer.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih_l0 ``(H, F)``: W, weight_hh_l0 ``(H, H)``: U, bias_ih_l0 ``(H,)``: b, bias_hh_l0 ``(H,)``: b'; more
        layers ``_l1``, ..., backwards ``_l0_reverse``, ... Names, layout and initialisation of ``torch.nn.RNN``.

    Raises:
        ValueError: the nonlinearity is unknown; x is sparse or has another width; h0 has another shape.

    Example:
        >>> chain = torch.tensor([[0, 1], [1, 2]])                    # 0 -> 1 -> 2
        >>> layer, theirs = RNN(3, 4), torch.nn.RNN(3, 4)
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
        nonlinearity: str = "tanh",
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        residual: bool = False,
    ):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"{self._name}: nonlinearity={nonlinearity!r} is unknown; expected 'tanh' or 'relu'.")
        super().__init__(in_features, hidden_features, 1, num_layers, bias, dropout, bidirectional)
        self.nonlinearity, self.residual = nonlinearity, residual

    def kernel(self):
        return None if self.residual else {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}[self.nonlinearity]

    def add_product(self, wx: Tensor, h: Tensor | None, w: Weights) -> Tensor:
        """What f is applied to: the product with the inputs and that with the previous state."""
        return recur(wx, h, w.times_hh)

    def update(self, wx, w, h0=None, message=None):
        h = arrived(message, h0)
        new = NONLINEARITIES[self.nonlinearity](self.add_product(wx, h, w))
        return new if h is None or not self.residual else h + new

    def options(self) -> list[str]:
        mine = [f"nonlinearity={self.nonlinearity!r}"] * (self.nonlinearity != "tanh")
        return super().options() + mine + ["residual=True"] * self.residual

"""Highway networks: recurrence along depth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mpnn.features import check_dense, check_features
from mpnn.graphs import chain
from mpnn.message_passing import MessagePassing

__all__ = ["Highway"]


class Highway(MessagePassing):
    r"""A feed-forward network whose layers pass on, by a gate, part of what they were given.

    .. math::
        h' = f(W_l a_{l-1} + b_l), \qquad z = \sigma(W'_l a_{l-1} + b'_l), \qquad
        a_l = z \odot a_{l-1} + (1 - z) \odot h'

    Depth is a chain: its nodes are the layers, their weights are fields of the nodes, and what travels along an edge is
    the activation of the whole batch. Rows of the batch never meet, so this is a feed-forward network. With ``tied``
    weights it is recurrence along depth: exactly a ``GRU`` that starts from :math:`a_0`, gets no input (W x = 0) and
    never resets (r = 1); z is the GRU's update gate. Untied, each layer is one step of a GRU of its own.

    Source: Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387.
    Deviations: the paper's gates are T = 1 - z and C = z, the same up to the sign of W' and b'. Its gate bias of -1 to
    -3, which lets a layer begin by passing on, is ``gate_bias`` 1 to 3 here.

    Args:
        features: width of all layers.
        num_layers: how many there are, at least 1.
        nonlinearity: f.
        tied: whether all layers have the same weights.
        gate_bias: what :math:`b'` begins with.

    Shape:
        x ``(B, features)`` -> ``(B, features)``.

    Attributes:
        weight ``(L, H, H)``: W, bias ``(L, H)``: b, gate_weight ``(L, H, H)``: W', gate_bias ``(L, H)``: b'; L is
        ``num_layers``, or 1 if tied. Drawn from U(-1/sqrt(H), 1/sqrt(H)), but gate_bias.

    Raises:
        ValueError: there is no layer; x is sparse or has another width.

    Example:
        >>> Highway(4, num_layers=20)(torch.ones(8, 4)).shape
        torch.Size([8, 4])
    """

    state = ("a",)
    schedule = "topological"

    def __init__(
        self,
        features: int,
        num_layers: int,
        nonlinearity: Callable[[Tensor], Tensor] = torch.tanh,
        tied: bool = False,
        gate_bias: float = 1.0,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"Highway: num_layers={num_layers}; expected 1 or more.")
        self.features, self.num_layers, self.nonlinearity, self.start = features, num_layers, nonlinearity, gate_bias
        own = 1 if tied else num_layers
        for name in ("", "gate_"):
            self.register_parameter(f"{name}weight", nn.Parameter(torch.empty(own, features, features)))
            self.register_parameter(f"{name}bias", nn.Parameter(torch.empty(own, features)))
        self.register_buffer("depth", chain(num_layers).edge_index, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.bias, self.gate_weight):
            nn.init.uniform_(parameter, -(self.features**-0.5), self.features**-0.5)
        nn.init.constant_(self.gate_bias, self.start)

    def forward(self, x: Tensor) -> Tensor:
        check_dense("Highway", x)
        check_features("Highway", x, self.features)
        layers = self.num_layers
        given = torch.cat([x[None], x.new_zeros(1, 1, 1).expand(layers - 1, *x.shape)])  # (L, B, H): layer 0 is given x
        parameters = {name: getattr(self, name) for name in ("weight", "bias", "gate_weight", "gate_bias")}
        by_layer = {name: p.expand(layers, *p.shape[1:]) for name, p in parameters.items()}
        nothing = x.new_zeros(1, 1, 1).expand_as(given)
        return self.propagate(self.depth, a=nothing, given=given, **by_layer)[-1]

    def message(self, a_j):
        return a_j

    def update(self, given, weight, bias, gate_weight, gate_bias, message):
        a = given + message  # (1, B, H)
        h = self.nonlinearity(torch.baddbmm(bias[:, None], a, weight.mT))
        z = torch.sigmoid(torch.baddbmm(gate_bias[:, None], a, gate_weight.mT))
        return z * a + (1 - z) * h

    def __repr__(self) -> str:
        tied = ", tied=True" if len(self.weight) < self.num_layers else ""
        return f"Highway({self.features}, {self.num_layers}{tied})"

"""Long short-term memory and its variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpnn.nn.recurrent import Recurrent, arrived, recur

__all__ = ["LSTM"]

GATES = {"own": "ifgo", "none": "igo", "coupled": "fgo"}  # the blocks of the weights, in torch's order


class LSTM(Recurrent):
    r"""Long short-term memory: gates decide what is stored, kept and shown.

    .. math::
        i, f, o = \sigma(W x_t + b + U h_{t-1} + b'), \quad g = \tanh(W x_t + b + U h_{t-1} + b'), \quad
        c_t = f \odot c_{t-1} + i \odot g, \quad h_t = o \odot \tanh(c_t)

    each gate with its own W, U, b and b'. Variants, which combine:

    - ``forget="none"``: no forget gate, :math:`f = 1`;
    - ``forget="coupled"``: :math:`i = 1 - f`;
    - ``peephole``: :math:`p_i \odot c_{t-1}` and :math:`p_f \odot c_{t-1}` are added inside i and f, and
      :math:`p_o \odot c_t` inside o.

    At the start of a chain :math:`h_{t-1}` and :math:`c_{t-1}` are the initial states, 0 unless given. On any DAG they
    are the sums of the predecessors' h and c, with one forget gate for all of them (in a child-sum Tree-LSTM each
    predecessor has its own).

    Source: Hochreiter & Schmidhuber 1997 (no forget gate); Gers, Schmidhuber & Cummins 2000 (forget gate); Gers &
    Schmidhuber 2000, "Recurrent nets that time and count" (peephole); Greff et al. 2017, arXiv:1503.04069 (coupled).
    Deviations: the 1997 network squashes g to (-2, 2) and cuts gradients short; here g is a tanh and gradients are
    whole. Greff et al. learn i and set :math:`f = 1 - i`; here f is learnt, the same up to the sign of its weights. Two
    biases, of which one would do, as in ``torch.nn.LSTM``, so that weights load both ways; no ``proj_size``.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``c``.
        num_layers, bias, dropout, bidirectional: as in :class:`RNN`; the next layer reads h.
        forget: ``"own"``: a forget gate of its own; ``"none"``; ``"coupled"``.
        peephole: whether the gates see c.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` (t-1, t), h0 and c0 ``(num_layers * directions, B, H)`` with a row for each
        graph of ``batch`` ``(N,)``, either of them alone too -> h, c ``(N, directions * H)`` of the last layer. c is
        None unless ``cells=True`` asks for it: torch's fused kernel does not keep it, and with it chains run frontier
        by frontier. Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih_l0 ``(4H, F)``: W, weight_hh_l0 ``(4H, H)``: U, bias_ih_l0 ``(4H,)``: b, bias_hh_l0 ``(4H,)``: b', in
        gate blocks i, f, g, o; three blocks i, g, o without, and f, g, o with a coupled forget gate. With ``peephole``
        weight_ch_l0 ``(3, H)``: p of i, f, o, or of those two of them that there are. More layers ``_l1``, ...,
        backwards ``_l0_reverse``, ... Names, layout and initialisation of ``torch.nn.LSTM``.

    Raises:
        ValueError: ``forget`` is unknown; x is sparse or has another width; h0 or c0 has another shape.

    Example:
        >>> chain = torch.tensor([[0, 1], [1, 2]])                    # 0 -> 1 -> 2
        >>> layer, theirs = LSTM(3, 4), torch.nn.LSTM(3, 4)
        >>> layer.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.ones(3, 3)
        >>> h, _ = layer(x, chain)
        >>> torch.allclose(h, theirs(x)[0], atol=1e-6)
        True
        >>> h, c = layer(x, chain, cells=True)
        >>> torch.allclose(c[-1], theirs(x)[1][1], atol=1e-6)
        True
    """

    state = ("h", "c")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        forget: str = "own",
        peephole: bool = False,
    ):
        if forget not in GATES:
            raise ValueError(f"LSTM: forget={forget!r} is unknown; expected 'own', 'none' or 'coupled'.")
        self.forget, self.peephole, self.gates = forget, peephole, GATES[forget]
        super().__init__(in_features, hidden_features, len(self.gates), num_layers, bias, dropout, bidirectional)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        h0: Tensor | None = None,
        c0: Tensor | None = None,
        batch: Tensor | None = None,
        schedule: Any = None,
        cells: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        h, c = self.top(x, edge_index, batch, schedule, ("h", "c") if cells else ("h",), h0=h0, c0=c0)
        return h, c if cells else None

    def kernel(self):
        return torch.lstm if self.forget == "own" and not self.peephole else None

    def more_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight_ch": (len(self.gates) - 1, self.hidden_features)} if self.peephole else {}

    def message(self, h_j, c_j):
        return h_j, c_j

    def update(self, wx, w, h0=None, c0=None, message=None):
        h, c = map(arrived, message or (None, None), (h0, c0))
        blocks = recur(wx, h, w.times_hh).chunk(len(self.gates), dim=1)
        before = dict(zip(self.gates, blocks))  # each gate before it is squashed

        def gate(name, seen):
            if not self.peephole or seen is None:
                return torch.sigmoid(before[name])
            peephole = w.weight_ch[self.gates.replace("g", "").index(name)]
            return torch.sigmoid(torch.addcmul(before[name], peephole, seen))

        f = gate("f", c) if "f" in before else 1.0
        i = gate("i", c) if "i" in before else 1 - f
        new = i * torch.tanh(before["g"])
        new = new if c is None else new + f * c
        return gate("o", new) * torch.tanh(new), new

    def options(self) -> list[str]:
        mine = [f"forget={self.forget!r}"] * (self.forget != "own") + ["peephole=True"] * self.peephole
        return super().options() + mine

"""The Part-Aware LSTM: a memory for each part of the body, and one output gate for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpnn.nn.lstm import LSTM
from mpnn.nn.recurrent import Weights

__all__ = ["PartAwareLSTM"]


class PartAwareLSTM(LSTM):
    r"""An LSTM over frames with a cell memory for each part of the body.

    .. math::
        i^p, f^p = \sigma(W^p x_t^p + U^p h_{t-1} + b^p), \qquad g^p = \tanh(W^p x_t^p + U^p h_{t-1} + b^p), \qquad
        c_t^p = f^p \odot c_{t-1}^p + i^p \odot g^p

        o = \sigma(W_o [x_t^1, \ldots, x_t^P] + U_o h_{t-1} + b_o), \qquad
        h_t = o \odot \tanh([c_t^1, \ldots, c_t^P])

    with weights of its own for each part and gate. Every gate sees the whole :math:`h_{t-1}`, but the memory of a part
    sees only its own inputs. So it is an LSTM whose input weights of i, f and g are 0 between different parts, and runs
    as one, by torch's kernel where that can be. With one part it is an LSTM.

    Source: Shahroudy et al. 2016, arXiv:1604.02808, section 3.2.
    Deviations: two biases, of which one would do, as in ``torch.nn.LSTM``. In further layers a part sees its own share
    of h, of both directions, which the paper leaves open. A feature may be in several parts, or in none and then counts
    nowhere.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``c``, shared equally by the parts.
        parts: for each part the columns of ``x`` that belong to it.
        num_layers: how many layers are stacked.
        bias: whether there are biases.
        dropout: probability to drop an input of each layer but the first, in training.
        bidirectional: whether a second set of weights runs backwards.

    Shape:
        x ``(N, F)`` a row a frame, edge_index ``(2, E)`` (t-1, t), h0, c0, batch, and what comes back as in
        :class:`LSTM`.

    Attributes:
        weight_part{p}_l0 ``(3H/P, F_p)``: W of part p, in blocks i, f, g; weight_out_l0 ``(H, F_1 + ... + F_P)``: W_o;
        weight_hh_l0 ``(4H, H)``, bias_ih_l0, bias_hh_l0 ``(4H,)`` in blocks i, f, g, o, each part by part; more layers
        ``_l1``, ..., backwards ``_l0_reverse``, ... Drawn from U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: there is no part, a part has a column that x has not, or H is not a multiple of P.

    Example:
        >>> layer = PartAwareLSTM(4, 6, parts=[[0, 1], [2, 3]])
        >>> h, _ = layer(torch.ones(3, 4), torch.tensor([[0, 1], [1, 2]]))
        >>> h.shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        parts: Sequence[Sequence[int]],
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        self.parts = [list(part) for part in parts]
        self._check_parts(in_features, hidden_features)
        super().__init__(in_features, hidden_features, num_layers, bias, dropout, bidirectional)
        for layer in range(num_layers):
            for way in self.ways:
                self._register_parts(layer, way)
        self.reset_parameters()

    def _check_parts(self, in_features: int, hidden_features: int) -> None:
        outside = [(p, f) for p, part in enumerate(self.parts) for f in part if not 0 <= f < in_features]
        if not self.parts or outside:
            what = f"part {outside[0][0]} has column {outside[0][1]}" if outside else "there is no part"
            raise ValueError(
                f"PartAwareLSTM: {what}; expected a list of columns of x, in [0, {in_features}), for each part."
            )
        if hidden_features % len(self.parts):
            raise ValueError(
                f"PartAwareLSTM: hidden_features={hidden_features} for {len(self.parts)} parts; expected a multiple of "
                "their number, as they have equal shares."
            )

    def _register_parts(self, layer: int, way: str) -> None:
        columns, share = self._columns(layer), self.hidden_features // len(self.parts)
        shapes = {f"weight_part{p}": (3 * share, len(part)) for p, part in enumerate(columns)}
        shapes["weight_out"] = (self.hidden_features, sum(map(len, columns)))
        for name, shape in shapes.items():
            self.register_parameter(f"{name}_l{layer}{way}", nn.Parameter(torch.empty(shape)))
        place = torch.tensor([f for part in columns for f in part], dtype=torch.long)
        self.register_buffer(f"place_l{layer}", place, persistent=False)

    def _columns(self, layer: int) -> list[list[int]]:
        """The inputs of each part; of the layers above the first, its share of h in each direction."""
        if layer == 0:
            return self.parts
        ways, count = len(self.ways), len(self.parts)
        share = self.hidden_features // count
        starts = [[(way * count + p) * share for way in range(ways)] for p in range(count)]
        return [[start + f for start in part for f in range(share)] for part in starts]

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in super().shapes(rows, columns).items() if name != "weight_ih"}

    def kernel(self):
        return torch.lstm  # on the weights below

    def weights(self, layer: int, way: str) -> Weights:
        """Those of the LSTM that this one is: the parts' weights where they belong, and 0 between different parts."""
        w, columns = super().weights(layer, way), self._columns(layer)
        gates = [getattr(self, f"weight_part{p}_l{layer}{way}").chunk(3) for p in range(len(columns))]
        blocks = [torch.block_diag(*gate) for gate in zip(*gates)]
        blocks.append(getattr(self, f"weight_out_l{layer}{way}"))
        w.weight_ih = self._spread(torch.cat(blocks), layer)
        return w

    def _spread(self, weight: Tensor, layer: int) -> Tensor:
        """Columns part by part -> the columns of x."""
        width = len(self.ways) * self.hidden_features if layer else self.in_features
        return weight.new_zeros(len(weight), width).index_add(1, getattr(self, f"place_l{layer}"), weight)

    def options(self) -> list[str]:
        return [f"{len(self.parts)} parts", *super().options()]

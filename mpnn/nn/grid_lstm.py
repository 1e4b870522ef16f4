"""The Grid LSTM: cells along every dimension of a grid, depth among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpnn.engine import rowwise
from mpnn.kept import Unwritten
from mpnn.nn.recurrent import arrived
from mpnn.nn.recursive import Recursive, times
from mpnn.products import linear

__all__ = ["GridLSTM"]


class GridLSTM(Recursive):
    r"""An LSTM in n dimensions: a node has a hidden vector and a memory for each, and all gates see all hidden vectors.

    .. math::
        H &= [x;\, h_1;\, \ldots;\, h_n], \qquad
        g^u_d, g^f_d, g^o_d = \sigma(W_d H + b_d), \qquad g^c_d = \tanh(W_d H + b_d) \\
        m'_d &= g^f_d \odot m_d + g^u_d \odot g^c_d, \qquad h'_d = \tanh(g^o_d \odot m'_d)

    each gate with its own part of :math:`W_d` and :math:`b_d`. :math:`h_d, m_d` is what left the node's predecessor
    along dimension d, its own :math:`h'_d, m'_d`; without one it is what starts there, 0 unless given. A dimension is
    time, an axis of an image, or depth: a grid of time by depth is a stacked LSTM with memory cells from layer to
    layer too. ``mpnn.graphs.grid`` makes grids; any DAG does whose edges say their dimension.

    - ``priority``: these dimensions come after all others, one after the other, and see in place of :math:`h_e` the
      :math:`h'_e` of each dimension e before them.
    - ``start`` is what comes in on the sides of the grid. All input may come that way, as words at the bottom of depth.
    - Weights are the same at all nodes, the paper's *tied*. Untied along dimension d, as depth, is a layer for each
      place along it, over the other dimensions' edges, that starts where the one before ended:
      ``start={d: (h[:, d], m[:, d])}``.
    - In one dimension with ``squash="memory"`` it is the LSTM.

    Source: Kalchbrenner, Danihelka & Graves 2016, arXiv:1507.01526; its blocks, priority dimensions and inputs on sides
    of the grid, not its dimensions without cells. Deviations: biases; x is not projected before it comes to the
    weights; the paper has one priority dimension, for which this is the same; ``squash="memory"``, if asked for.

    Args:
        in_features: width of ``x``; 0 where all input comes in on the sides.
        hidden_features: width H of ``h`` and ``m`` in each dimension.
        num_dimensions: n.
        priority: dimensions, 0 to n - 1, in the order in which they come.
        shared: whether all dimensions have the same weights, and so, without priority, the same gates.
        squash: ``"product"``: the formula above; ``"memory"``: :math:`h'_d = g^o_d \odot \tanh(m'_d)`, which is
            that of ``torch.nn.LSTM``.
        bidirectional: whether a pass from the last corner of the grid to the first follows; its dimensions are joined
            behind the others.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)``, dimension ``(E,)`` int64: that of each edge, start {d: h and m ``(N, H)``},
        whose rows count at nodes without a predecessor along d -> h, m ``(N, n, H)``, with two directions
        ``(N, 2n, H)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        weight_ih ``(4nH, F)``, weight_hh ``(4nH, nH)``, bias ``(4nH,)``: gate blocks u, f, c, o, as i, f, g, o in
        ``torch.nn.LSTM``, in each the dimensions 0 to n - 1; ``shared`` ones have 4H rows. Columns: dimensions 0 to
        n - 1. Drawn from U(-1/sqrt(H), 1/sqrt(H)). ``reverse`` has the same of the way back.

    Raises:
        ValueError: the dimension of an edge, of a start or with priority is outside 0 to n - 1; ``squash`` is unknown;
            a start is not ``(N, H)``; x is sparse or has another width.

    Example:
        >>> from mpnn.graphs import grid
        >>> image = grid(2, 3)
        >>> h, m = GridLSTM(5, 4)(torch.ones(6, 5), image.edge_index, image.dimension)
        >>> h.shape
        torch.Size([6, 2, 4])
    """

    state = ("h", "m")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_dimensions: int = 2,
        priority: Sequence[int] = (),
        shared: bool = False,
        squash: str = "product",
        bidirectional: bool = False,
    ):
        n, H, priority = num_dimensions, hidden_features, tuple(priority)
        _check_options(n, priority, squash)
        rest = tuple(d for d in range(n) if d not in priority)
        self.num_dimensions, self.shared, self.squash = n, shared, squash
        self.rounds = [dims for dims in (rest, *((d,) for d in priority)) if dims]
        rows = 4 * H * (1 if shared else n)
        shapes = {"weight_ih": (rows, in_features), "weight_hh": (rows, n * H), "bias": (rows,)}
        options = {"num_dimensions": n, "priority": priority, "shared": shared, "squash": squash}
        super().__init__(in_features, H, shapes, bidirectional, **options)

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        shape = self.num_dimensions, self.hidden_features
        return like.new_zeros(1, *shape).expand(num_nodes, *shape)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        dimension: Tensor,
        start: dict[int, tuple[Tensor, Tensor]] | None = None,
        *,
        schedule: Any = None,
    ) -> tuple[Tensor, Tensor]:
        _check_dimensions(dimension, self.num_dimensions)
        initial = self._initial(start, (len(x), self.hidden_features)) if start else {}
        return self.run(x, edge_index, schedule, dimension=dimension, **initial)

    def _initial(self, start: dict[int, tuple[Tensor, Tensor]], shape: tuple[int, int]) -> dict[str, Tensor]:
        """What starts in all dimensions, side by side: ``(N, n, H)``."""
        _check_start(start, self.num_dimensions, shape)
        zero = next(iter(start.values()))[0].new_zeros(shape)
        h, m = zip(*(start.get(d, (zero, zero)) for d in range(self.num_dimensions)))
        return {"h0": torch.stack(h, dim=1), "m0": torch.stack(m, dim=1)}

    def one_way(self, x: Tensor, edge_index: Any, schedule: Any, dimension: Tensor, **initial) -> tuple[Tensor, Tensor]:
        W, U, b = ([self._of(dims, w) for dims in self.rounds] for w in (self.weight_ih, self.weight_hh, self.bias))
        along = dimension[:, None] == torch.arange(self.num_dimensions, device=dimension.device)  # (E, n)
        if initial:
            targets = self._plan(edge_index, schedule, len(x)).edge_index("")[1]
            met = along.new_zeros(along.shape[1] * len(x)).index_fill(0, targets * along.shape[1] + dimension, True)
            met = met.view(len(x), -1, 1)
            initial = {name: value.masked_fill(met, 0.0) for name, value in initial.items()}
        z = rowwise(times(torch.cat(W), torch.cat(b)), x) if self.in_features else None
        along = along.to(x.dtype).unsqueeze(-1)
        return self.propagate(edge_index, schedule=schedule, z=z, U=U, b=b, dimension=along, **initial)

    def _of(self, dims: tuple[int, ...], weight: Tensor) -> Tensor:
        """The rows of some dimensions."""
        blocks = weight.unflatten(0, (4, -1, self.hidden_features))
        blocks = blocks.expand(-1, self.num_dimensions, *blocks.shape[2:])
        if len(dims) != self.num_dimensions:
            blocks = torch.stack([blocks[:, d] for d in dims], dim=1)
        return blocks.flatten(0, 2)

    def message(self, h_j, m_j, dimension):
        return dimension * h_j, dimension * m_j  # an edge carries one, and so the sum puts them side by side

    def update(self, z, U, b, message, h0=None, m0=None):
        h, m = map(arrived, message, (h0, m0))  # (N, n, H)
        added = "bias" if z is None else "plus"
        first = b if z is None else z.split([4 * len(dims) * self.hidden_features for dims in self.rounds], dim=1)
        if len(self.rounds) == 1:
            return self.cell(linear(h.flatten(1), U[0], **{added: first[0]}), m)
        h, m = list(h.unbind(1)), list(m.unbind(1))
        for dims, wx, u in zip(self.rounds, first, U):
            gates = linear(torch.cat(h, 1), u, **{added: wx})
            new = self.cell(gates, torch.stack([m[d] for d in dims], 1))
            for place, d in enumerate(dims):
                h[d], m[d] = (value[:, place] for value in new)
        return torch.stack(h, 1), torch.stack(m, 1)

    def cell(self, gates: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """New h and m of the dimensions whose m ``(N, k, H)`` and gates ``(N, 4kH)``, not squashed yet, are given."""
        u, f, c, o = gates.view(len(m), 4, *m.shape[1:]).unbind(1)
        m = torch.sigmoid(f) * m + torch.sigmoid(u) * torch.tanh(c)
        o = torch.sigmoid(o)
        return (torch.tanh(o * m) if self.squash == "product" else o * torch.tanh(m)), m


_checked = Unwritten()


def _check_dimensions(dimension: Tensor, num_dimensions: int) -> None:
    """Raises unless dimensions are in range; looks once at a tensor that is not written to."""
    if _checked.get(dimension) == num_dimensions:
        return
    outside = (dimension < 0) | (dimension >= num_dimensions)
    if bool(outside.any()):
        edge = int(outside.nonzero()[0])
        raise ValueError(
            f"GridLSTM: edge {edge} has dimension={int(dimension[edge])}; expected dimensions in "
            f"[0, {num_dimensions}). {int(outside.sum())} of {dimension.numel()} edges are outside. Make the layer "
            "with more num_dimensions."
        )
    _checked[dimension] = num_dimensions


def _check_start(start: dict[int, tuple[Tensor, Tensor]], num_dimensions: int, shape: tuple[int, int]) -> None:
    for d, values in start.items():
        if d not in range(num_dimensions):
            raise ValueError(f"GridLSTM: start has the dimension {d}; expected some of 0 to {num_dimensions - 1}.")
        for name, value in zip("hm", values, strict=True):
            if value.shape != shape:
                raise ValueError(
                    f"GridLSTM: start[{d}] has {name} of shape {tuple(value.shape)}; expected {shape}: nodes, hidden "
                    "features. Rows count at nodes without a predecessor along the dimension; the rest may be 0."
                )


def _check_options(num_dimensions: int, priority: tuple[int, ...], squash: str) -> None:
    if squash not in ("product", "memory"):
        raise ValueError(f"GridLSTM: squash={squash!r} is unknown; expected 'product' or 'memory'.")
    if len(set(priority)) < len(priority) or not set(priority) <= set(range(num_dimensions)):
        raise ValueError(
            f"GridLSTM: priority={priority}; expected some of the dimensions 0 to {num_dimensions - 1}, each once."
        )

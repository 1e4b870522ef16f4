"""Graph LSTM: nodes of any graph update one after the other, the most confident first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpnn.features import check_dense, check_features
from mpnn.message_passing import MessagePassing
from mpnn.nn.recursive import times
from mpnn.products import linear
from mpnn.schedule import Schedule

__all__ = ["GraphLSTM", "ResidualGraphLSTM"]


class GraphLSTM(MessagePassing):
    r"""Updates every node from its own state and its neighbours', of which those that fired before have new states.

    .. math::
        \bar h_i &= \mathrm{mean}_{j \to i}\, \hat h_j, \qquad
        \bar f_{ij} = \sigma(W_f x_i + V_f h_j + b_f), \qquad
        f_i = \sigma(W_f x_i + U_f h_i + b_f) \\
        i_i, o_i &= \sigma(W x_i + U h_i + V \bar h_i + b), \qquad
        g_i = \tanh(W_g x_i + U_g h_i + V_g \bar h_i + b_g) \\
        m_i' &= \mathrm{mean}_{j \to i}\big(\bar f_{ij} \odot \hat m_j\big) + f_i \odot m_i + i_i \odot g_i, \qquad
        h_i' = \tanh(o_i \odot m_i')

    where h and m are the states from before the pass, and :math:`\hat h_j, \hat m_j` are new where j fired before i.
    The order is the schedule's: with ``ordered(confidence)`` nodes fire one after the other, the most confident first,
    in the fewest frontiers that give just that; unless one is given, all fire at once. A node without neighbours has
    means of 0.

    Source: Liang et al. 2016, arXiv:1603.07063, eq. 2-3.
    Deviations: gate blocks are named and laid out as in ``torch.nn.LSTM``: the paper's u is i, its c is g.

    Args:
        in_features: width of ``x``.
        hidden_features: width of ``h`` and of ``m``.
        adaptive: a forget gate for each neighbour; else one for all of them,
            :math:`\sigma(W_f x_i + V_f\, \mathrm{mean}_j h_j + b_f)`, the paper's ablation.
        output_gate_reads_neighbours: whether :math:`V_o \bar h_i` is part of the output gate, as in the paper and not
            in the lecture.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` with both directions of an undirected edge, h and m ``(N, H)``, zeros unless
        given -> h, m ``(N, H)``.

    Attributes:
        weight_ih ``(4H, F)``: W, weight_hh ``(4H, H)``: U, weight_nh ``(4H, H)``: V, bias ``(4H,)``: gate blocks i, f,
        g, o; weight_nh has no block o where the output gate does not read neighbours. Drawn from
        U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: x is sparse or has another width; h or m is not ``(N, H)``.

    Example:
        >>> import mpnn
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> confidence = torch.tensor([0.2, 0.9, 0.5])
        >>> h, m = GraphLSTM(3, 4)(torch.ones(3, 3), edge_index, schedule=mpnn.schedule.ordered(confidence))
        >>> h.shape
        torch.Size([3, 4])
    """

    state = ("h", "m")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        adaptive: bool = True,
        output_gate_reads_neighbours: bool = True,
    ):
        super().__init__(aggr="mean")
        self.in_features, self.hidden_features, self.adaptive = in_features, hidden_features, adaptive
        self.output_gate_reads_neighbours = output_gate_reads_neighbours
        H = hidden_features
        self.weight_ih = nn.Parameter(torch.empty(4 * H, in_features))
        self.weight_hh = nn.Parameter(torch.empty(4 * H, H))
        self.weight_nh = nn.Parameter(torch.empty((3 + output_gate_reads_neighbours) * H, H))
        self.bias = nn.Parameter(torch.empty(4 * H))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.hidden_features**-0.5), self.hidden_features**-0.5)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        h: Tensor | None = None,
        m: Tensor | None = None,
        *,
        schedule: str | Schedule | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        check_dense(type(self).__name__, x)
        check_features(type(self).__name__, x, self.in_features)
        _check_states(type(self).__name__, (len(x), self.hidden_features), h=h, m=m)
        zeros = x.new_zeros(1, self.hidden_features).expand(len(x), -1)
        h, m = zeros if h is None else h, zeros if m is None else m
        gates = linear(x, self.weight_ih, self.bias)
        i, f, g, o = linear(h, self.weight_hh, plus=gates).chunk(4, dim=1)
        V_i, V_f, V_g, *V_o = self.weight_nh.split(self.hidden_features)
        return self.propagate(
            edge_index,
            schedule=schedule,
            h=h,
            m=m,
            gates=torch.cat([i, g, o], dim=1),
            left=torch.sigmoid(f) * m,
            forget=gates.chunk(4, dim=1)[1],
            near=linear(h, V_f),
            V=times(torch.cat([V_i, V_g, *(V_o or [torch.zeros_like(V_i)])])),
        )

    def message(self, h_j, m_j, forget_i, near_j):
        if not self.adaptive:
            return h_j, m_j, near_j
        return h_j, torch.sigmoid(forget_i + near_j) * m_j

    def update(self, gates, left, forget, V, message):
        h, kept = message[:2]
        if not self.adaptive:
            kept = torch.sigmoid(forget + message[2]) * kept
        i, g, o = V(h, plus=gates).chunk(3, dim=1)
        m = kept + left + torch.sigmoid(i) * torch.tanh(g)
        return torch.tanh(torch.sigmoid(o) * m), m

    def __repr__(self) -> str:
        shown = [] if self.adaptive else ["adaptive=False"]
        shown += [] if self.output_gate_reads_neighbours else ["output_gate_reads_neighbours=False"]
        return f"{type(self).__name__}({', '.join([f'{self.in_features}, {self.hidden_features}', *shown])})"


def _check_states(owner: str, shape: tuple[int, int], **states: Tensor | None) -> None:
    for name, value in states.items():
        if value is not None and value.shape != shape:
            raise ValueError(
                f"{owner}: {name} has shape {tuple(value.shape)}; expected {shape}: nodes, hidden features. It is the "
                "state of each node from before the pass; leave it out to start from 0."
            )


class ResidualGraphLSTM(nn.Module):
    r"""Graph LSTM layers one on the other: each goes on from the states of the one before and adds to its input.

    .. math:: h^{(l+1)}, m^{(l+1)} = \mathrm{GraphLSTM}_l(x^{(l)}, h^{(l)}, m^{(l)}), \qquad
        x^{(l+1)} = x^{(l)} + h^{(l+1)}

    with h, m = 0 at first, unless given. So a first layer's gates of all neighbours are equal, and ``adaptive`` makes a
    difference from the second layer on.

    Source: Liang et al. 2016, arXiv:1603.07063, section 3.3. Deviations: none.

    Args:
        features: width of x and of the states.
        num_layers: how many layers.
        options: passed on to :class:`GraphLSTM`.

    Shape:
        x, and h and m if given, ``(N, F)``, edge_index ``(2, E)``; schedule: one for all layers, or
        ``schedule(layer, x)``, called before each layer with its number and its input -> x ``(N, F)`` after the last
        layer.

    Raises:
        ValueError: x is sparse or has another width.

    Example:
        >>> import mpnn
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> loudest_first = lambda layer, x: mpnn.schedule.ordered(x.norm(dim=1))
        >>> ResidualGraphLSTM(4, num_layers=2)(torch.ones(3, 4), edge_index, loudest_first).shape
        torch.Size([3, 4])
    """

    def __init__(self, features: int, num_layers: int = 2, **options: Any):
        super().__init__()
        self.features = features
        self.layers = nn.ModuleList([GraphLSTM(features, features, **options) for _ in range(num_layers)])

    def reset_parameters(self) -> None:
        for layer in self.layers:
            layer.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        schedule: Schedule | Tensor | str | Callable[[int, Tensor], Any] | None = None,
        h: Tensor | None = None,
        m: Tensor | None = None,
    ) -> Tensor:
        check_dense(type(self).__name__, x)
        check_features(type(self).__name__, x, self.features)
        for number, layer in enumerate(self.layers):
            now = schedule(number, x) if callable(schedule) and not isinstance(schedule, Schedule) else schedule
            h, m = layer(x, edge_index, h, m, schedule=now)
            x = x + h
        return x

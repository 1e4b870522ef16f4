"""AGC-LSTM: graph convolutions in the gates of an LSTM, and attention over the joints of each frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpnn.nn.graph_recurrent import GraphRecurrent
from mpnn.nn.readout import GraphReadout
from mpnn.nn.sage import GraphSAGE

__all__ = ["AGCLSTM"]


class AGCLSTM(GraphRecurrent):
    r"""An LSTM at each joint of a moving skeleton: its gates are graph convolutions, its output attends to joints.

    .. math::
        i, f, o = \sigma(W_x *_G X_t + W_h *_G H_{t-1} + b), \quad u = \tanh(W_x *_G X_t + W_h *_G H_{t-1} + b), \quad
        C_t = f \odot C_{t-1} + i \odot u, \quad \hat H_t = o \odot \tanh(C_t)

        q_t = \mathrm{ReLU}\Big(W \sum_n \hat H_{tn}\Big), \quad
        \alpha_{tn} = \sigma\big(U_s \tanh(W_h \hat H_{tn} + W_q q_t + b_s) + b_u\big), \quad
        H_{tn} = f_{att}(\hat H_{tn}) + \hat H_{tn} = \alpha_{tn} \hat H_{tn} + \hat H_{tn}

    with weights of its own for each gate. A frame is the nodes of one graph at one time; the query :math:`q_t` sees all
    of them, and each joint's score is a logistic function, so several may count fully. The next frame reads
    :math:`H_t`, the attended state. Between layers, :func:`mpnn.spacetime.coarsen` and ``GraphReadout("mean")`` average
    over windows of time.

    Source: Si et al. 2019, arXiv:1902.09130, section 3.
    Deviations: :math:`*_G` is any layer. The paper's has a weight for each of several subsets of the neighbours,
    averaged over the subset; ``GraphSAGE`` is that with two of them, the joint itself and its neighbours. Two biases,
    of which one would do. (A public reimplementation hands the unattended state to the next frame.)

    Args:
        in_features: width of ``x``.
        hidden_features: width of H and C, and of the attention.
        conv: makes a layer from in_features and out_features, as in :class:`GraphRecurrent`, where is said which do.
        attention: whether there is f_att; without it :math:`H_t = \hat H_t` and :math:`\alpha = 0`.

    Shape:
        x ``(N, in_features)``, edge_index ``{"space": (2, E), "time": (2, E')}`` or a plan of both, batch ``(N,)`` the
        graph of each node, None if there is only one -> H ``(N, hidden_features)``, α ``(N, 1)``.

    Attributes:
        input, recurrent: the layers in the gates, in blocks i, f, g (the paper's u), o; query: W, state_score: W_h and
        b_s, query_score: W_q, score: U_s and b_u, all initialised as ``nn.Linear``.

    Raises:
        ValueError: as :class:`GraphRecurrent`.

    Example:
        >>> from mpnn.spacetime import relations, skeleton
        >>> data = skeleton(torch.ones(5, 3, 2), [(0, 1), (1, 2)])
        >>> h, alpha = AGCLSTM(2, 8)(data.x, relations(data))
        >>> h.shape, alpha.shape
        (torch.Size([15, 8]), torch.Size([15, 1]))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        conv: Callable[[int, int], nn.Module] = GraphSAGE,
        attention: bool = True,
    ):
        super().__init__(conv, "lstm", in_features, hidden_features)
        self.widths, self.attention, self.sum = [*self.widths, 1], attention, GraphReadout("sum")
        if attention:
            self.query = nn.Linear(hidden_features, hidden_features, bias=False)
            self.state_score = nn.Linear(hidden_features, hidden_features)
            self.query_score = nn.Linear(hidden_features, hidden_features, bias=False)
            self.score = nn.Linear(hidden_features, 1)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for part in (self.query, self.state_score, self.query_score, self.score) if self.attention else ():
            part.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
        schedule: Any = None,
        **fields: Tensor,
    ) -> tuple[Tensor, Tensor]:
        h, _, alpha = self.states(x, edge_index, schedule, batch, num_graphs, **fields)
        return h, alpha

    def states(
        self,
        x: Tensor,
        edge_index: Any,
        schedule: Any = None,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
        **fields: Tensor,
    ) -> tuple[Tensor, ...]:
        """H, C and α."""
        if batch is not None and num_graphs is None:
            num_graphs = int(batch.max()) + 1 if len(batch) else 0
        return self._run(x, edge_index, schedule, fields, graph=batch, graphs=num_graphs)

    def update(self, wx, steps, graph, graphs, message):
        h, c = self.step(wx, steps, message)
        alpha = self._scores(h, graph, graphs) if self.attention else h.new_zeros(len(h), 1)
        return torch.cat([h + alpha * h, c, alpha], dim=1)

    def _scores(self, h: Tensor, graph: Tensor | None, graphs: int | None) -> Tensor:
        """How much each joint counts in its frame."""
        query = self.query_score(torch.relu(self.query(self.sum(h, graph, graphs))))
        query = query if graph is None else query.index_select(0, graph)
        return torch.sigmoid(self.score(torch.tanh(self.state_score(h) + query)))

    def __repr__(self) -> str:
        shown = f"{self.in_features}, {self.hidden_features}, {type(self.input).__name__}"
        return f"{self._name}({shown}{'' if self.attention else ', attention=False'})"

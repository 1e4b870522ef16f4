"""AGC-LSTM: graph convolutions in the gates of an LSTM, attention over the joints of each frame; the layer, the network
of such layers with pooling over time between them, its loss, and two streams of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from mpnn import schedule as schedules
from mpnn.features import check_dense
from mpnn.message_passing import MessagePassing
from mpnn.nn.graph_recurrent import GraphRecurrent
from mpnn.nn.lstm import LSTM
from mpnn.nn.readout import GraphReadout
from mpnn.nn.sage import GraphSAGE
from mpnn.schedule import Schedule
from mpnn.spacetime import coarsen, relations

__all__ = ["AGCLSTM", "AGCLSTMNetwork", "Change", "Reading", "Stage", "TwoStreamAGCLSTM", "agc_lstm_loss", "stages"]


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

    Source: Si et al. 2019, arXiv:1902.09130, section 3; equation 1, the gates and :math:`H_t`, from a printed copy of
    it. The formulas of f_att (query, score) were written from memory; the paper's text could not be had to check them.
    They agree with a public reimplementation of the paper in PyTorch, and with the one sentence of a public summary of
    it that is about them: :math:`H_{tn}` is also :math:`(1 + \alpha_{tn}) \hat H_{tn}`.
    Deviations: :math:`*_G` is any layer. The paper's has a weight for each of several subsets of the neighbours,
    averaged over the subset; ``GraphSAGE`` is that with two of them, the joint itself and its neighbours. Two biases,
    of which one would do. (That reimplementation hands the unattended state to the next frame; equation 1 does not.)

    Args:
        in_features: width of ``x``.
        hidden_features: width of H and C, and of the attention.
        conv: makes a layer from in_features and out_features, as in :class:`GraphRecurrent`, where is said which do.
        attention: whether there is f_att; without it :math:`H_t = \hat H_t` and :math:`\alpha = 0`.

    Shape:
        x ``(N, in_features)``, edge_index ``{"space": (2, E), "time": (2, E')}`` or a plan of both, batch ``(N,)`` the
        graph of each node, None if there is only one -> H ``(N, hidden_features)``, α ``(N, 1)``. The number of graphs
        is ``num_graphs``, or else read from batch; other arguments by name are fields of the edges in space, for conv.
        Nodes fire under ``schedule``, topological unless given.

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

    state = ("h", "c", "alpha")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        conv: Callable[[int, int], nn.Module] = GraphSAGE,
        attention: bool = True,
    ):
        super().__init__(conv, "lstm", in_features, hidden_features)
        self.widths, self.attention, self.sum = self.widths | {"alpha": 1}, attention, GraphReadout("sum")
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

    def update(self, x, steps, graph, graphs, message):
        h, c = self.step(x, steps, *message)
        alpha = self._scores(h, graph, graphs) if self.attention else h.new_zeros(len(h), 1)
        return h + alpha * h, c, alpha

    def _scores(self, h: Tensor, graph: Tensor | None, graphs: int | None) -> Tensor:
        """How much each joint counts in its frame."""
        query = self.query_score(torch.relu(self.query(self.sum(h, graph, graphs))))
        query = query if graph is None else query.index_select(0, graph)
        return torch.sigmoid(self.score(torch.tanh(self.state_score(h) + query)))

    def __repr__(self) -> str:
        shown = f"{self.in_features}, {self.hidden_features}, {type(self.input).__name__}"
        return f"{self._name}({shown}{'' if self.attention else ', attention=False'})"


@dataclass
class Stage:
    """The sequences of a batch as one layer sees them: a graph in space and time, and what pooling over it needs.

    Attributes:
        edges: as a layer takes them, ``{"space": (2, E), "time": (2, E')}``.
        schedule: a level for each time.
        cluster: for each node of the stage before, the node that it becomes; None if there is no stage before.
        batch: the graph of each node.
        frame: the frame of each node, that is a time of one graph, in order of graph and time.
        joint: the joint of each node, that is a vertex of one graph.
        frame_graph, joint_graph: the graph of each frame and of each joint.
        last: the last frame of each graph.
    """

    edges: dict[str, Tensor]
    schedule: Schedule
    cluster: Tensor | None
    batch: Tensor
    frame: Tensor
    joint: Tensor
    frame_graph: Tensor
    joint_graph: Tensor
    last: Tensor

    @property
    def num_graphs(self) -> int:
        return len(self.last)


def stages(data: Data, windows: Sequence[int] = (2, 2, 2)) -> list[Stage]:
    """A batch of sequences as it is, and after each of several poolings over time.

    What this returns holds for all batches with the same edges and times, whatever their x; made once for a size of
    batches and a number of frames, it also keeps the plans that the layers make.

    Args:
        data: a space-time graph, or a batch of them, each with a node or more; time counts from 0.
        windows: how many times become one before each layer.

    Raises:
        ValueError: a graph of the batch has no nodes; a window is below 1.

    Example:
        >>> from mpnn.spacetime import skeleton
        >>> [len(stage.batch) for stage in stages(skeleton(torch.ones(8, 3, 2), [(0, 1), (1, 2)]), (2, 3))]
        [24, 12, 6]
    """
    out = [_stage(data, None)]
    for window in windows:
        data, cluster = coarsen(data, window)
        out.append(_stage(data, cluster))
    return out


def _stage(data: Data, cluster: Tensor | None) -> Stage:
    batch = data.get("batch")
    batch = torch.zeros_like(data.vertex) if batch is None else batch
    frame, frame_graph = _numbered(batch, data.time.long())
    joint, joint_graph = _numbered(batch, data.vertex)
    if "ptr" in data:  # of a batch, whose last graphs may have no nodes
        graphs = len(data.ptr) - 1
    else:
        graphs = int(batch.max()) + 1 if len(batch) else 1
    frames = torch.bincount(frame_graph, minlength=graphs)
    if bool((frames == 0).any()):
        raise ValueError(
            f"stages: graph {int((frames == 0).nonzero()[0])} of {graphs} has no nodes; expected a frame or more of "
            "each. Leave empty sequences out."
        )
    last = frames.cumsum(0) - 1
    schedule = schedules.by(data.time)
    return Stage(relations(data), schedule, cluster, batch, frame, joint, frame_graph, joint_graph, last)


def _numbered(batch: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers for the pairs of a graph and something of it, counted from 0; and the graph of each."""
    size = int(of.max()) + 1 if len(of) else 1
    pairs, number = torch.unique(batch * size + of, return_inverse=True)
    return number, pairs // size


class Change(MessagePassing):
    r"""How nodes differ from where their edges come from; along edges in time, what has changed since the frame before.

    .. math:: y_i = \sum_{j \to i} (x_i - x_j)

    Source: the frame differences of Si et al. 2019, arXiv:1902.09130, section 3. Deviations: none; without an edge
    into a node, as in a first frame, it is 0.

    Shape:
        x ``(N, F)``, edge_index ``(2, E)`` -> the same as x.

    Raises:
        ValueError: x is sparse.

    Example:
        >>> Change()(torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]])).tolist()
        [[0.0], [2.0]]
    """

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        check_dense("Change", x)
        return self.propagate(edge_index, x=x, num_nodes=len(x))

    def message(self, x_i, x_j):
        return x_i - x_j


@dataclass
class Reading:
    """What an :class:`AGCLSTMNetwork` says of a batch.

    Attributes:
        whole ``(M, C)``: scores of the classes from the global features, of each frame of the last stage.
        focus ``(M, C)``: those from the local features.
        attention: for each layer :math:`\\alpha`, ``(N_j, 1)``.
        stages: what the layers saw.
    """

    whole: Tensor
    focus: Tensor
    attention: list[Tensor]
    stages: list[Stage]

    def probabilities(self) -> Tensor:
        """The sum of the probabilities from global and local features, in the last frame of each graph: ``(B, C)``."""
        last = self.stages[-1].last
        return sum(scores.index_select(0, last).softmax(dim=1) for scores in (self.whole, self.focus))


class AGCLSTMNetwork(nn.Module):
    r"""Layers of AGC-LSTM over skeletons that move, with pooling over time before each, and two kinds of scores.

    .. math::
        P_{tn} = W x_{tn} + b, \qquad E_{tn} = \mathrm{LSTM}\big([P_{tn}, P_{tn} - P_{t-1,n}]\big), \qquad
        H^{(j)} = \mathrm{AGC{-}LSTM}\big(\mathrm{pool}(H^{(j-1)})\big), \quad H^{(0)} = E

        F^g_t = \sum_n H^{(J)}_{tn}, \quad F^l_t = \sum_n \alpha_{tn} \hat H^{(J)}_{tn}, \quad
        o^g_t = W_g F^g_t + b_g, \quad o^l_t = W_l F^l_t + b_l, \qquad
        \text{class} = \arg\max\big(\mathrm{softmax}(o^g_T) + \mathrm{softmax}(o^l_T)\big)

    One LSTM serves all joints; pool is the mean over windows of frames. A node of the graph is a joint, or a part of
    the body with the features of its joints side by side.

    Source: Si et al. 2019, arXiv:1902.09130, section 3: from memory, as of :class:`AGCLSTM`, and in agreement with
    the same public reimplementation and summary.
    Deviations: the difference in a first frame is 0. The two kinds of scores have weights of their own (the
    reimplementation shares them). P has 256 features in both sources, H has 512 in the reimplementation; where the
    paper's windows are and how long was not found, so the stages say. Dropout is on what goes into each layer, as in
    the reimplementation.

    Args:
        in_features: width of ``x``.
        hidden_features: width of H in all layers.
        classes: how many there are.
        layers: how many AGC-LSTM layers.
        position_features: width of P; hidden_features unless given.
        conv: the graph convolution in the gates, as in :class:`AGCLSTM`.
        attention: whether the layers attend; without, the local features are 0.
        dropout: the share of inputs to drop at each layer, in training.
        normalise: whether what goes into each layer is brought to mean 0 and variance 1 at each node, as by
            ``nn.LayerNorm`` without weights. Not in the paper; four LSTMs on each other begin to learn sooner with it.

    Shape:
        x ``(N, in_features)``, stages of the batch, one more than layers -> :class:`Reading`.

    Raises:
        ValueError: there are not as many stages as layers and one.

    Example:
        >>> from mpnn.spacetime import skeleton
        >>> data = skeleton(torch.ones(8, 3, 2), [(0, 1), (1, 2)])
        >>> AGCLSTMNetwork(2, 8, classes=5)(data.x, stages(data)).probabilities().shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        classes: int,
        layers: int = 3,
        position_features: int | None = None,
        conv: Callable[[int, int], nn.Module] = GraphSAGE,
        attention: bool = True,
        dropout: float = 0.5,
        normalise: bool = False,
    ):
        super().__init__()
        width = hidden_features if position_features is None else position_features
        self.change, self.position = Change(), nn.Linear(in_features, width)
        self.lstm = LSTM(2 * width, hidden_features)
        made = [AGCLSTM(hidden_features, hidden_features, conv, attention) for _ in range(layers)]
        self.layers, self.dropout = nn.ModuleList(made), nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_features, elementwise_affine=False) if normalise else nn.Identity()
        self.pool, self.sum = GraphReadout("mean"), GraphReadout("sum")
        self.whole, self.focus = nn.Linear(hidden_features, classes), nn.Linear(hidden_features, classes)

    def forward(self, x: Tensor, stages: Sequence[Stage]) -> Reading:
        if len(stages) != len(self.layers) + 1:
            raise ValueError(
                f"AGCLSTMNetwork: {len(stages)} stages for {len(self.layers)} layers; expected one more than layers: "
                "stages(data, windows) with a window a layer."
            )
        h, attention = self.augmented(x, stages[0]), []
        for layer, stage in zip(self.layers, stages[1:], strict=True):
            h = self.dropout(self.norm(self.pool(h, stage.cluster, len(stage.batch))))
            h, alpha = layer(h, stage.edges, stage.batch, stage.num_graphs, stage.schedule)
            attention.append(alpha)
        frame, frames = stages[-1].frame, len(stages[-1].frame_graph)
        focused = h * (alpha / (1 + alpha))  # alpha times the state before attention
        whole, focus = self.sum(h, frame, frames), self.sum(focused, frame, frames)
        return Reading(self.whole(whole), self.focus(focus), attention, list(stages))

    def augmented(self, x: Tensor, stage: Stage) -> Tensor:
        """E: positions and their changes, brought to one scale by an LSTM along each joint."""
        time = stage.edges["time"]
        p = self.position(x)
        moved = F.linear(self.change(x, time), self.position.weight)  # the change of p, taken on fewer columns
        return self.lstm(torch.cat([p, moved], dim=1), time)[0]


def agc_lstm_loss(reading: Reading, y: Tensor, equal: float = 0.01, few: float = 0.001) -> Tensor:
    r"""What an :class:`AGCLSTMNetwork` is trained on.

    .. math::
        L = -\sum_t \log \hat y^g_{t,y} - \sum_t \log \hat y^l_{t,y}
        + \lambda \sum_j \sum_n \Big(1 - \frac{1}{T_j} \sum_t \alpha_{jtn}\Big)^2
        + \beta \sum_j \frac{1}{T_j} \sum_t \Big(\sum_n \alpha_{jtn}\Big)^2

    with the probabilities of the true class y in each frame t of the last stage, and the attention of each layer j,
    over its T_j frames: the third term lets all joints be looked at in the course of a sequence, the last few at a
    time.

    Source: Si et al. 2019, arXiv:1902.09130, section 3: from memory; a public summary of the paper says the same of
    each term, and a public reimplementation has these formulas and weights.
    Deviations: none known.

    Args:
        equal: :math:`\lambda`.
        few: :math:`\beta`.

    Shape:
        reading, y ``(B,)`` -> the mean over the sequences of the batch.

    Example:
        >>> from mpnn.spacetime import skeleton
        >>> data = skeleton(torch.ones(8, 3, 2), [(0, 1), (1, 2)])
        >>> agc_lstm_loss(AGCLSTMNetwork(2, 8, classes=5)(data.x, stages(data)), torch.tensor([3])).shape
        torch.Size([])
    """
    last, total = reading.stages[-1], GraphReadout("sum")
    target = y.index_select(0, last.frame_graph)
    loss = sum(F.cross_entropy(scores, target, reduction="sum") for scores in (reading.whole, reading.focus))
    for alpha, stage in zip(reading.attention, reading.stages[1:], strict=True):
        mean = GraphReadout("mean")(alpha, stage.joint, len(stage.joint_graph))
        at_once = total(alpha, stage.frame, len(stage.frame_graph))
        squares = GraphReadout("mean")(at_once.square(), stage.frame_graph, stage.num_graphs)
        loss = loss + equal * (1 - mean).square().sum() + few * squares.sum()
    return loss / last.num_graphs


class TwoStreamAGCLSTM(nn.Module):
    """The scores of two networks, one that sees joints and one that sees parts of the body, added.

    Source: Si et al. 2019, arXiv:1902.09130, section 3. Deviations: which parts there are is the caller's choice.

    Args:
        joints: a network over joints.
        parts: a network over parts, each with the features of its joints side by side. Both are trained alone.

    Shape:
        x ``(N, F)`` and joint_stages of the joints, x_parts and part_stages of the parts, the stages as in
        :class:`AGCLSTMNetwork` -> ``(B, C)``, probabilities that sum to 4.

    Raises:
        ValueError: as :class:`GraphRecurrent`.

    Example:
        >>> from mpnn.spacetime import skeleton
        >>> joints, parts = skeleton(torch.ones(8, 4, 2), [(0, 1), (2, 3)]), skeleton(torch.ones(8, 2, 4), [(0, 1)])
        >>> network = TwoStreamAGCLSTM(AGCLSTMNetwork(2, 8, classes=5), AGCLSTMNetwork(4, 8, classes=5))
        >>> network(joints.x, stages(joints), parts.x, stages(parts)).sum()
        tensor(4...)
    """

    def __init__(self, joints: AGCLSTMNetwork, parts: AGCLSTMNetwork):
        super().__init__()
        self.joints, self.parts = joints, parts

    def forward(
        self, x: Tensor, joint_stages: Sequence[Stage], x_parts: Tensor, part_stages: Sequence[Stage]
    ) -> Tensor:
        return self.joints(x, joint_stages).probabilities() + self.parts(x_parts, part_stages).probabilities()

"""Outputs that come back after some delays: the nonlinear autoregressive network with inputs, and autoregression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpnn.features import check_dense, check_features
from mpnn.message_passing import MessagePassing
from mpnn.nn.tdnn import TDNN, Window, check_delays, side_by_side
from mpnn.plan import Plan

__all__ = ["AR", "NARX"]


class Feedback(MessagePassing):
    """The base of models that read their own last q outputs, or, while these are known, the true ones.

    Which of the two is the schedule's to say, for an edge hands over the newest output of its source. When all steps
    fire at once (``"synchronous"``) that is the y from before the pass, the true one: the *open loop*, or teacher
    forcing. When a step fires after the steps it reads (``"topological"``) it is the model's own: the *closed loop*. In
    between, ``known`` marks steps that keep their true y, to begin a forecast with.
    """

    state = ("y",)
    schedule = "topological"

    def __init__(self, out_features: int, delays: int):
        super().__init__()
        if delays < 1:
            raise ValueError(f"{type(self).__name__}: output delays={delays}; expected 1 or more.")
        self.out_features, self.delays = out_features, delays

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, self.out_features).expand(num_nodes, -1)

    def loop(self, edge_index: Any, delay: Tensor, y: Tensor | None, known: Tensor | None, schedule: Any) -> Any:
        """The schedule; unless one is given, that of the open loop if all y are known, else that of the closed one."""
        check_delays(self, delay)
        if schedule is not None or isinstance(edge_index, Plan):
            return schedule
        return "synchronous" if y is not None and known is None else "topological"

    def message(self, y_j, delay):
        return y_j, delay

    def aggregate(self, message, index, num_nodes):
        return side_by_side(*message, index, num_nodes, self.delays)


def unless_known(new: Tensor, y: Tensor, known: Tensor | None) -> Tensor:
    return new if known is None else torch.where(known.unsqueeze(1), y, new)


class NARX(Feedback):
    r"""A nonlinear autoregressive network with exogenous inputs: reads the last inputs and the last outputs.

    .. math::
        z_t = \sum_{k=0}^{p} W_k x_{t-k} + b, \qquad
        y_t = V f\Big(z_t + \sum_{k=1}^{q} U_k\, y_{t-k}\Big) + c

    where x and y are 0 before a sequence begins. Given y, the fed-back outputs are the true ones (open loop, teacher
    forcing); without y they are its own (closed loop). With y and ``known`` they are the true ones at the known steps,
    whose result is their y, and its own after them: a forecast. The z of all steps are computed at once.

    Source: Lin, Horne, Tino & Giles 1996, "Learning long-term dependencies in NARX recurrent neural networks".
    Deviations: one hidden layer, as there; any graph. The schedule ``"synchronous"`` is the open loop,
    ``"topological"`` the closed one, see ``mpnn.schedule``.

    Args:
        in_features: width of ``x``; may be 0, for a series without inputs.
        hidden_features: units of the hidden layer.
        out_features: width of ``y``.
        input_delays: p.
        output_delays: q, at least 1.
        nonlinearity: f.

    Shape:
        x ``(N, in_features)``, edge_index ``(2, E)`` (t-k, t), delay ``(E,)`` int64: k, from 1, as made by
        :func:`mpnn.graphs.delays` for 1 to max(p, q); y ``(N, out_features)``, known ``(N,)`` bool
        -> ``(N, out_features)``.

    Attributes:
        input: a ``TDNN`` without f: W and b. feedback ``(hidden_features, q * out_features)``: :math:`U_1, U_2, \ldots`
        side by side, drawn from U(-1/sqrt(q O), 1/sqrt(q O)). output: ``nn.Linear``: V and c.

    Raises:
        ValueError: a delay is below 1; q is below 1; x is sparse or has another width.

    Example:
        >>> from mpnn.graphs import chain, delays
        >>> edge_index, delay = delays(chain(6).edge_index, range(1, 3))
        >>> layer, x, y = NARX(2, 8, 1, input_delays=1, output_delays=2), torch.ones(6, 2), torch.ones(6, 1)
        >>> one_step_ahead, simulated = layer(x, edge_index, delay, y), layer(x, edge_index, delay)
        >>> forecast = layer(x, edge_index, delay, y, known=torch.arange(6) < 4)
        >>> torch.equal(forecast[:4], y[:4]), torch.equal(forecast[4], one_step_ahead[4])
        (True, True)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int = 1,
        input_delays: int = 1,
        output_delays: int = 1,
        nonlinearity: Callable[[Tensor], Tensor] = torch.tanh,
    ):
        super().__init__(out_features, output_delays)
        self.in_features, self.hidden_features, self.nonlinearity = in_features, hidden_features, nonlinearity
        self.input = TDNN(in_features, hidden_features, input_delays, nonlinearity=None)
        self.feedback = nn.Parameter(torch.empty(hidden_features, output_delays * out_features))
        self.output = nn.Linear(hidden_features, out_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.feedback.shape[1] ** -0.5
        nn.init.uniform_(self.feedback, -bound, bound)
        self.input.reset_parameters()
        self.output.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        delay: Tensor,
        y: Tensor | None = None,
        known: Tensor | None = None,
        schedule: Any = None,
    ) -> Tensor:
        check_dense(type(self).__name__, x)
        check_features(type(self).__name__, x, self.in_features)
        schedule = self.loop(edge_index, delay, y, known, schedule)
        z = self.input.propagate(edge_index, schedule, x=x, delay=delay)
        return self.propagate(edge_index, schedule, y=y, known=known, delay=delay, z=z)

    def update(self, z, y, known, message=None):
        z = z if message is None else z + F.linear(message, self.feedback)
        return unless_known(self.output(self.nonlinearity(z)), y, known)

    def __repr__(self) -> str:
        widths = f"{self.in_features}, {self.hidden_features}, {self.out_features}"
        return f"{type(self).__name__}({widths}, input_delays={self.input.delays}, output_delays={self.delays})"


class AR(Feedback):
    r"""Autoregression: a linear model of the last p values of a series, the baseline of forecasts.

    .. math:: y_t = w_0 + \sum_{k=1}^{p} w_k\, y_{t-k}

    where y is 0 before a sequence begins. :meth:`fit` sets the coefficients by least squares. Each column of y is a
    series of its own, with the same coefficients. Open and closed loop as in :class:`NARX`: without ``known`` every
    result is one step ahead, with it those after the known steps are a forecast.

    Source: Yule 1927, "On a method of investigating periodicities in disturbed series".
    Deviations: any graph.

    Args:
        delays: p.

    Shape:
        y ``(N, F)``, edge_index ``(2, E)`` (t-k, t), delay ``(E,)`` int64: k, from 1; known ``(N,)`` bool
        -> ``(N, F)``.
        Nodes fire under ``schedule``, topological unless given.

    Attributes:
        coefficients ``(p,)``: :math:`w_1, \ldots, w_p`; constant ``()``: :math:`w_0`. Zeros until fitted.

    Raises:
        ValueError: p or a delay is below 1; y is sparse.

    Example:
        >>> from mpnn.graphs import chain, delays
        >>> y, window = 0.5 ** torch.arange(8.0).unsqueeze(1), delays(chain(8).edge_index, [1])
        >>> layer = AR(1).fit(y, *window)
        >>> layer
        AR(1)
        >>> [round(w.item(), 4) + 0.0 for w in layer.parameters()]
        [0.5, 0.0]
    """

    def __init__(self, delays: int):
        super().__init__(1, delays)
        self.coefficients, self.constant = nn.Parameter(torch.zeros(delays)), nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.coefficients)
        nn.init.zeros_(self.constant)

    def forward(
        self, y: Tensor, edge_index: Any, delay: Tensor, known: Tensor | None = None, schedule: Any = None
    ) -> Tensor:
        check_dense(type(self).__name__, y)
        schedule = self.loop(edge_index, delay, y, known, schedule)
        return self.propagate(edge_index, schedule, y=y, known=known, delay=delay)

    def update(self, y, known, message):
        by_delay = message.view(len(y), self.delays, y.shape[1])
        new = self.constant + torch.einsum("k,nkf->nf", self.coefficients, by_delay)
        return unless_known(new, y, known)

    @torch.no_grad()
    def fit(self, y: Tensor, edge_index: Any, delay: Tensor) -> AR:
        """Sets the coefficients to those with the least squared error, one step ahead, over the steps that have all p
        before them. Returns the layer.

        Raises:
            ValueError: there are fewer such steps than coefficients.
        """
        window, columns = Window(self.delays), y.shape[1]
        whole = window(torch.ones_like(y[:, :1]), edge_index, delay).all(dim=1)
        before = window(y, edge_index, delay)[whole].view(-1, self.delays, columns)
        before = before.transpose(1, 2).reshape(-1, self.delays)
        if len(before) <= self.delays:
            raise ValueError(
                f"AR.fit: {len(before)} steps have all {self.delays} values before them; expected more than there are "
                "delays. Give a longer series, or edges with all delays from 1, or make the layer with fewer."
            )
        design = torch.cat([torch.ones_like(before[:, :1]), before], dim=1).double()
        solution = torch.linalg.lstsq(design, y[whole].reshape(-1, 1).double()).solution.flatten()
        self.constant.copy_(solution[0])
        self.coefficients.copy_(solution[1:])
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.delays})"

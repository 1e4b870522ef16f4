"""Conditional random fields on chains and trees: inference is two passes over the graph, there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpnn import schedule as schedules
from mpnn.engine.returned import told
from mpnn.features import check_dense, check_features
from mpnn.message_passing import MessagePassing
from mpnn.nn.readout import GraphReadout
from mpnn.plan import Plan

__all__ = ["CRF", "forbidden_transitions"]


@dataclass
class Scores:
    """What a labelling is paid besides its emissions; minus infinity where it is forbidden.

    ``into`` is the transition with the later tag first: ``into[k, k']`` is paid for k after k'.
    """

    transition: Tensor
    into: Tensor
    start: Tensor
    end: Tensor


class CRF(MessagePassing):
    r"""A conditional random field with a tag on every node of a chain, or of a forest with edges child -> parent.

    .. math::
        s(y) = \sum_i x_i[y_i] + \sum_{j \to i} T[y_j, y_i] + \sum_{i\ \text{first}} S[y_i]
        + \sum_{i\ \text{last}} E[y_i], \qquad p(y) = e^{s(y)} / Z

    where a node is first if no edge leads to it (the beginning of a chain, the leaves of a tree) and last if none
    leads from it (the end, the roots); a node alone is both. Everything is asked of two passes. The first runs along
    the edges: a message sums the source's tag out, and the messages of several children, being factors, add up as logs,

    .. math::
        \alpha_i[k] = x_i[k] + [i\ \text{first}]\, S[k] + \sum_{j \to i} \log \sum_{k'} e^{\alpha_j[k'] + T[k', k]},
        \qquad \log Z = \sum_{i\ \text{last}} \log \sum_k e^{\alpha_i[k] + E[k]}.

    With the maximum in place of the logarithm of the sum it gives the best score instead of log Z. The second runs
    back, along the turned edges i -> j, from :math:`p_i = \mathrm{softmax}(\alpha_i + E)` at the last nodes:

    .. math::
        p_j[k'] = \sum_k p_i[k]\; \mathrm{softmax}_{k'}(\alpha_j[k'] + T[k', k]), \qquad
        y_j = \arg\max_{k'} (\alpha_j[k'] + T[k', y_i])

    the marginals, and (with the maxima of the first pass) the best tags. So back pointers are not kept: the one that is
    followed is looked up again. Nodes of one level fire together in both passes, across all graphs of a batch.

    Source: Lafferty, McCallum & Pereira 2001; Rabiner 1989 for the recursions on chains; Pearl 1988 for trees.
    Deviations: Rabiner's second pass carries :math:`\beta`, this one the marginals themselves (the smoothing form),
    which needs no division by a child's own message on trees. A start score and an end score are paid at every leaf
    and every root.

    Args:
        num_tags: the number K of tags.
        forbidden: ``(K + 1, K + 1)`` bool: whether tag k' must not follow tag k; in its last row, whether tag k' must
            not be first, in its last column, whether tag k must not be last. :func:`forbidden_transitions` makes it
            for tags such as B-NP. None forbids nothing.

    Shape:
        x ``(N, K)``, the emissions; edge_index ``(2, E)`` (t-1, t) or (child, parent), at most one from each node, or
        a ``topological`` plan; tags ``(N,)`` int64; batch ``(N,)`` the graph of each node (None: one graph);
        num_graphs B, or else read from batch.
        Called as a layer: the marginals ``(N, K)``. ``log_partition``, ``score``, ``log_likelihood`` -> ``(B,)``;
        ``loss`` -> a number; ``marginals`` -> ``(N, K)``; ``decode`` -> ``(N,)`` int64. All in nats, summed over the
        nodes of a graph; 0 for a graph without nodes. log Z is minus infinity where every labelling is forbidden.

    Attributes:
        transition ``(K, K)``: T, from the row's tag to the column's; start ``(K,)``: S; end ``(K,)``: E.
        Drawn from U(-0.1, 0.1).

    Raises:
        ValueError: x has another width; a node has two edges leading from it; a plan is not topological; tags are out
            of range, or forbidden.
        TypeError: tags are no whole numbers; x is none of floating-point numbers.
        CycleError: the edges go in a circle.

    Example:
        >>> crf, chain = CRF(2), torch.tensor([[0, 1], [1, 2]])
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 0.5], [3.0, 0.0]])
        >>> with torch.no_grad():
        ...     _ = crf.transition.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        >>> crf.decode(x, chain), crf.marginals(x, chain).shape
        (tensor([0, 0, 0]), torch.Size([3, 2]))
        >>> bool(crf.loss(x, torch.tensor([0, 0, 0]), chain) < crf.loss(x, torch.tensor([0, 1, 0]), chain))
        True
    """

    state = ("alpha",)
    schedule = "topological"

    def __init__(self, num_tags: int, forbidden: Tensor | None = None):
        super().__init__()
        self.num_tags = self.hidden_features = num_tags
        self.transition = nn.Parameter(torch.empty(num_tags, num_tags))
        self.start, self.end = nn.Parameter(torch.empty(num_tags)), nn.Parameter(torch.empty(num_tags))
        if forbidden is not None and getattr(forbidden, "shape", None) != (num_tags + 1, num_tags + 1):
            raise ValueError(
                f"CRF: forbidden is {told(forbidden)}; expected ({num_tags + 1}, {num_tags + 1}): a row "
                "and a column a tag, and one more of each for the start and the end."
            )
        self.register_buffer("forbidden", None if forbidden is None else forbidden.bool(), persistent=False)
        self.back, self.trace, self.paid, self.pool = _Marginals(), _Trace(), _Paid(), GraphReadout("sum")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    # The pass along the edges -----------------------------------------------------------------------------------------

    def message(self, alpha_j, w, over):
        return over(alpha_j.unsqueeze(1) + w.into, -1)  # (E, K of the target, K of the source) -> (E, K)

    def update(self, own, message=None):
        return own if message is None else own + message

    def _along(self, x: Tensor, plan: Plan, w: Scores, over: Any) -> Tensor:
        first, _ = ends(plan)
        own = torch.where(first[:, None], x + w.start, x)
        return self.propagate(plan, own=own, w=w, over=over)

    # What is asked of it ----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        return self.marginals(x, edge_index)

    def marginals(self, x: Tensor, edge_index: Any) -> Tensor:
        """The probability of each tag at each node, ``(N, K)``: also the gradient of ``log_partition`` by x."""
        plan, w = self._laid_out(x, edge_index), self._scores()
        alpha = self._along(x, plan, w, self.total)
        roots = plan.remember("roots", lambda: ends(plan)[1].nonzero().flatten())
        top = torch.zeros_like(alpha).index_copy(0, roots, (alpha.index_select(0, roots) + w.end).softmax(-1))
        return self.back.propagate(plan.reverse, alpha=alpha, top=top, w=w)

    @torch.no_grad()
    def decode(self, x: Tensor, edge_index: Any) -> Tensor:
        """The best tags together, ``(N,)``: Viterbi's algorithm."""
        plan, w = self._laid_out(x, edge_index), self._scores()
        best = self._along(x, plan, w, torch.amax)
        best = torch.where(ends(plan)[1][:, None], best + w.end, best)
        return self.trace.propagate(plan.reverse, best=best, w=w)

    def log_partition(
        self, x: Tensor, edge_index: Any, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        """log Z of each graph, ``(B,)``; of a forest, the sum over its trees."""
        plan, w = self._laid_out(x, edge_index), self._scores()
        alpha = self._along(x, plan, w, self.total)
        roots = plan.remember("roots", lambda: ends(plan)[1].nonzero().flatten())
        total = self.total(alpha.index_select(0, roots) + w.end, -1)
        return self._by_graph(total, batch if batch is None else batch.index_select(0, roots), num_graphs)

    def score(
        self, x: Tensor, tags: Tensor, edge_index: Any, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        """The score s of given tags in each graph, ``(B,)``; minus infinity if they are forbidden."""
        plan, w = self._laid_out(x, edge_index), self._scores()
        self._check_tags(tags, plan.num_nodes)
        first, last = ends(plan)
        own = x.gather(1, tags[:, None]).flatten()
        own = torch.where(first, own + w.start[tags], own)
        own = torch.where(last, own + w.end[tags], own)
        return self._by_graph(self.paid.propagate(plan, own=own, y=tags, w=w), batch, num_graphs)

    def log_likelihood(
        self, x: Tensor, tags: Tensor, edge_index: Any, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        """log p of given tags in each graph, ``(B,)``."""
        score = self.score(x, tags, edge_index, batch, num_graphs)
        if self.forbidden is not None:
            self._refuse_forbidden(tags, self._laid_out(x, edge_index))
        return score - self.log_partition(x, edge_index, batch, num_graphs)

    def loss(
        self, x: Tensor, tags: Tensor, edge_index: Any, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        """Minus the mean over graphs of log p of their true tags."""
        return -self.log_likelihood(x, tags, edge_index, batch, num_graphs).mean()

    @property
    def total(self) -> Callable[[Tensor, int], Tensor]:
        """The logarithm of the sum, which has to bear with rows of minus infinity where something is forbidden."""
        return torch.logsumexp if self.forbidden is None else logsumexp

    # Around it --------------------------------------------------------------------------------------------------------

    def _scores(self) -> Scores:
        transition, start, end = self.transition, self.start, self.end
        if self.forbidden is not None:
            transition = transition.masked_fill(self.forbidden[:-1, :-1], -torch.inf)
            start = start.masked_fill(self.forbidden[-1, :-1], -torch.inf)
            end = end.masked_fill(self.forbidden[:-1, -1], -torch.inf)
        return Scores(transition, transition.t().contiguous(), start, end)

    def _by_graph(self, values: Tensor, batch: Tensor | None, num_graphs: int | None) -> Tensor:
        return self.pool(values[:, None], batch, num_graphs).squeeze(1)

    def _laid_out(self, x: Tensor, edge_index: Any) -> Plan:
        name = type(self).__name__
        check_dense(name, x)
        check_features(name, x, self.num_tags)
        plan = self._plan(edge_index, schedules.topological, x.shape[0])
        if not plan.remember("forest", lambda: is_forest(plan)):
            src = plan.edge_index()[0]
            many = torch.bincount(src, minlength=plan.num_nodes) > 1
            node = int(many.nonzero()[0])
            to = plan.edge_index()[1][src == node].tolist()
            raise ValueError(
                f"{name}: node {node} has edges to {', '.join(map(str, to))}; expected chains, or trees with edges "
                f"child -> parent, so at most one edge from each node. {int(many.sum())} nodes have more. If the edges "
                "lead from parents to children, turn them: edge_index.flip(0)."
            )
        return plan

    def _check_tags(self, tags: Tensor, num_nodes: int) -> None:
        if not isinstance(tags, Tensor) or tags.is_floating_point():
            given = tags.dtype if isinstance(tags, Tensor) else told(tags)
            raise TypeError(f"CRF: tags are {given}; expected int64, a tag a node. Pass torch.as_tensor(tags).long().")
        if tags.shape != (num_nodes,):
            raise ValueError(f"CRF: tags have shape {tuple(tags.shape)}; expected ({num_nodes},), a tag a node.")
        outside = (tags < 0) | (tags >= self.num_tags)
        if bool(outside.any()):
            node = int(outside.nonzero()[0])
            raise ValueError(
                f"CRF: node {node} has tag {int(tags[node])}; expected tags in [0, {self.num_tags}). "
                f"{int(outside.sum())} of {num_nodes} nodes are outside. Make the CRF with more num_tags."
            )

    def _refuse_forbidden(self, tags: Tensor, plan: Plan) -> None:
        (first, last), (src, dst), K = ends(plan), plan.edge_index(), self.num_tags
        a = torch.cat([tags[src], torch.full_like(tags[first], K), tags[last]])
        b = torch.cat([tags[dst], tags[first], torch.full_like(tags[last], K)])
        wrong = self.forbidden[a, b]
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            node = int(torch.cat([dst, first.nonzero().flatten(), last.nonzero().flatten()])[at])
            before, after = ("the start" if t == K else f"tag {t}" for t in (int(a[at]), int(b[at])))
            after = after.replace("start", "end")
            raise ValueError(
                f"CRF: at node {node}, {after} follows {before}, which is forbidden, so these tags have no "
                f"probability. {int(wrong.sum())} such steps. Correct the tags, or allow this step."
            )

    def __repr__(self) -> str:
        masked = "" if self.forbidden is None else ", with forbidden transitions"
        return f"{type(self).__name__}({self.num_tags}{masked})"


class _Marginals(MessagePassing):
    """The way back with probabilities: j is the parent here, i its child."""

    state = ("p",)

    def message(self, p_j, alpha_i, w):
        given, _ = possible(alpha_i.unsqueeze(1) + w.into)  # (E, K of the parent, K of the child)
        return (p_j.unsqueeze(1) @ given.softmax(-1)).squeeze(1)  # where nothing is possible, p_j is 0

    def update(self, top, message=None):
        return top if message is None else top + message

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, like.shape[-1]).expand(num_nodes, -1)


class _Trace(MessagePassing):
    """The way back with tags: each node hears the tag of its parent j."""

    state = ("tag",)

    def message(self, tag_j, w):
        return w.into.index_select(0, tag_j)

    def update(self, best, message=None):
        return (best if message is None else best + message).argmax(-1)

    def initial_state(self, name: str, num_nodes: int, like: Tensor) -> Tensor:
        return torch.zeros(1, dtype=torch.long, device=like.device).expand(num_nodes)


class _Paid(MessagePassing):
    """What each node is paid for given tags, with the edges into it."""

    def message(self, y_j, y_i, w):
        return w.transition[y_j, y_i]

    def update(self, own, message):
        return own + message


def possible(scores: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The scores with zeros where all along ``dim`` are minus infinity, and where that is; softmax and logsumexp, and
    their gradients, are nan there."""
    never = scores.detach().amax(dim, keepdim=True) == -torch.inf
    return scores.masked_fill(never, 0), never


def logsumexp(scores: Tensor, dim: int) -> Tensor:
    """``torch.logsumexp`` with the gradient 0 where all scores are minus infinity."""
    finite, never = possible(scores, dim)
    return torch.logsumexp(finite, dim).masked_fill(never.squeeze(dim), -torch.inf)


def is_forest(plan: Plan) -> bool:
    src = plan.edge_index()[0]
    return not src.numel() or int(torch.bincount(src).max()) <= 1


def ends(plan: Plan) -> tuple[Tensor, Tensor]:
    """Which nodes no edge leads to, and which none leads from: ``(N,)`` bool each."""

    def build():
        src, dst = plan.edge_index()
        all_nodes = torch.ones(plan.num_nodes, dtype=torch.bool, device=src.device)
        return all_nodes.index_fill(0, dst, False), all_nodes.index_fill(0, src, False)

    return plan.remember("ends", build)


SCHEMES = ("BIO", "BMES")


def forbidden_transitions(tags: Sequence[str], scheme: str) -> Tensor:
    """What a scheme of tagging spans forbids: the argument ``forbidden`` of :class:`CRF`.

    A tag is a letter, ``-`` and the kind of the span, or ``O`` outside of all spans. In ``"BIO"`` B begins a span and I
    goes on with it: I-X follows B-X or I-X alone. In ``"BMES"`` a span is B, any number of M (or I), E, or S if it is
    of one node: M-X and E-X follow B-X or M-X alone, and after these two nothing else may come, the end neither.

    Args:
        tags: all tags, by number.
        scheme: ``"BIO"``, as in CoNLL-2000; or ``"BMES"``, whose other names are BIOES and IOBES.

    Returns:
        ``(K + 1, K + 1)`` bool; the last row is the start, the last column the end.

    Raises:
        ValueError: the scheme is unknown, or a tag is not of its form.

    Example:
        >>> forbidden_transitions(["O", "B-X", "I-X"], "BIO").int()
        tensor([[0, 0, 1, 0],
                [0, 0, 0, 0],
                [0, 0, 0, 0],
                [0, 0, 1, 0]], dtype=torch.int32)
    """
    if scheme not in SCHEMES:
        raise ValueError(f"forbidden_transitions: scheme={scheme!r} is unknown; expected 'BIO' or 'BMES'.")
    letters = "BI" if scheme == "BIO" else "BMIES"
    for number, tag in enumerate(tags):
        if tag != "O" and not (tag[:1] in letters and tag[1:2] == "-" and tag[2:]):
            raise ValueError(
                f"forbidden_transitions: tag {number} is {tag!r}; expected 'O', or one of {', '.join(letters)}, "
                f"'-' and a kind, as {scheme} has it."
            )
    kind = [tag[2:] for tag in tags] + [""]
    opened = [tag[0] in "BMI" for tag in tags] + [False]  # a span goes on after it, or may
    joins = [tag[0] in "MIE" for tag in tags] + [False]  # a span goes on with it
    closed = scheme == "BMES"
    table = [
        [not (opened[a] and kind[a] == kind[b]) if joins[b] else closed and opened[a] for b in range(len(kind))]
        for a in range(len(kind))
    ]
    return torch.tensor(table)

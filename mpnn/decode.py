"""Writing sequences token by token: greedy, by beam search, by sampling.

All take a *step*, a function ``step(token, state) -> (log_probs, state)`` that reads one token of each of R texts,
``(R,)`` int64, and gives the log-probabilities of the next ones, ``(R, V)``, and the new state: a tuple of tensors with
one row a text. ``begin`` of a ``LanguageModel`` or an ``EncoderDecoder`` gives it and the first state. No gradients are
recorded.

Example:
    >>> table = torch.tensor([[0.1, 0.6, 0.3], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]).log()   # a Markov chain
    >>> markov = lambda token, state: (table[token], state)
    >>> greedy(markov, (torch.zeros(1),), begin=0, end=2, max_length=5)[0].tokens
    [1]
    >>> sample(markov, (torch.zeros(2),), begin=0, length=3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Hypothesis", "beam", "greedy", "sample"]

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Hypothesis(NamedTuple):
    """A sequence that was written.

    Attributes:
        tokens: without the first token given and without the end token.
        log_prob: the sum of the log-probabilities of its tokens in nats, the end token's among them.
        score: what a beam search ranks by: ``log_prob``, divided by the length penalty if there is one.
        ended: whether it wrote the end token, or was cut at the greatest length.
    """

    tokens: list[int]
    log_prob: float
    score: float
    ended: bool


@torch.no_grad()
def greedy(step: Step, state: State, begin: int, end: int, max_length: int) -> list[Hypothesis]:
    """For each text the most probable token, again and again, until it is ``end``.

    Args:
        step, state: as ``begin`` of a ``LanguageModel`` or an ``EncoderDecoder`` gives them; see :mod:`mpnn.decode`.
        begin: the first token that is read.
        end: the token that ends a text.
        max_length: the most tokens to write, ``end`` counted.

    Returns:
        A hypothesis for each row of the state.

    Example:
        >>> table = torch.tensor([[0.1, 0.5, 0.4], [0.7, 0.1, 0.2], [0.9, 0.05, 0.05]]).log()
        >>> markov = lambda token, state: (table[token], state)
        >>> greedy(markov, (torch.zeros(1),), begin=0, end=2, max_length=3)[0].tokens       # the likeliest, each time
        [1, 0, 1]
    """
    count, device = len(state[0]), state[0].device
    token = torch.full((count,), begin, device=device)
    running = torch.ones(count, dtype=torch.bool, device=device)
    total, written = 0.0, []
    for _ in range(max_length):
        log_probs, state = step(token, state)
        best, token = log_probs.max(-1)
        total = total + torch.where(running, best, 0.0)
        written.append(torch.where(running, token, end))
        running = running & (token != end)
        if not bool(running.any()):
            break
    rows = torch.stack(written, 1).tolist() if written else [[]] * count
    sums = total.tolist() if written else [0.0] * count
    return [_hypothesis(row, end, log_prob, log_prob) for row, log_prob in zip(rows, sums)]


def _hypothesis(tokens: list[int], end: int, log_prob: float, score: float) -> Hypothesis:
    ended = end in tokens
    return Hypothesis(tokens[: tokens.index(end)] if ended else tokens, log_prob, score, ended)


@torch.no_grad()
def beam(
    step: Step, state: State, begin: int, end: int, max_length: int, width: int, length_penalty: float = 0.0
) -> list[list[Hypothesis]]:
    r"""For each text the best sequences that a search finds which keeps the ``width`` most probable beginnings.

    At each length, every beginning that is kept is also a candidate to end there; the ``width`` best candidates of all
    lengths are returned. They are ranked by

    .. math:: \ln P(y) \,/\, \Big(\frac{5 + |y|}{6}\Big)^\alpha

    where the end token counts in :math:`|y|`. A wider beam mostly, not always, finds a better sequence; with a width
    of at least :math:`V^{max\_length}` it has seen them all.

    Source: the penalty: Wu et al. 2016, arXiv:1609.08144, eq. 14, without coverage.
    Deviations: none in the penalty. The search stops when no beginning that is left can still get into the list, which
    changes no result.

    Args:
        step, state, begin, end, max_length: as in :func:`greedy`. Sequences cut at ``max_length`` are candidates too.
        width: how many beginnings are kept, and the most hypotheses returned.
        length_penalty: :math:`\alpha`, 0 or more; 0 ranks by probability, which favours short sequences.

    Returns:
        For each row of the state the hypotheses, best first.

    Raises:
        ValueError: ``width`` or ``max_length`` is less than 1, or the penalty is negative.

    Example:
        >>> table = torch.tensor([[0.1, 0.5, 0.4], [0.7, 0.1, 0.2], [0.9, 0.05, 0.05]]).log()
        >>> markov = lambda token, state: (table[token], state)
        >>> for found in beam(markov, (torch.zeros(1),), begin=0, end=2, max_length=3, width=2)[0]:
        ...     print(found.tokens, round(found.log_prob, 2), found.ended)
        [] -0.92 True
        [1, 0, 1] -1.74 False
    """
    if width < 1 or max_length < 1 or length_penalty < 0:
        raise ValueError(
            f"beam: width={width}, max_length={max_length}, length_penalty={length_penalty}; expected 1 or more, 1 or "
            "more, and 0 or more."
        )
    count, device = len(state[0]), state[0].device
    every = torch.arange(count, device=device)[:, None] * width  # the first row of each text
    state = tuple(value.repeat_interleave(width, 0) for value in state)
    token = torch.full((count * width,), begin, device=device)
    kept = torch.full((count, width), -torch.inf, device=device)  # log-probability of each beginning
    kept[:, 0] = 0.0
    past = token.new_empty(count * width, 0)
    found: list[list[Hypothesis]] = [[] for _ in range(count)]

    for length in range(1, max_length + 1):
        log_probs, state = step(token, state)
        longer = kept.to(log_probs.dtype)[:, :, None] + log_probs.view(count, width, -1)
        penalty = ((5 + length) / 6) ** length_penalty
        _collect(found, longer[:, :, end], past.view(count, width, -1), penalty, end)
        longer[:, :, end] = -torch.inf
        kept, place = longer.flatten(1).topk(width, dim=1)
        vocabulary = longer.shape[2]
        row, token = (every + place // vocabulary).flatten(), (place % vocabulary).flatten()
        state = tuple(value.index_select(0, row) for value in state)
        past = torch.cat([past.index_select(0, row), token[:, None]], dim=1)
        if _settled(found, kept, width, ((5 + max_length) / 6) ** length_penalty):
            return found
    _collect(found, kept, past.view(count, width, -1), penalty)
    return found


def _collect(found: list, log_prob: Tensor, past: Tensor, penalty: float, *end: int) -> None:
    """Puts the possible candidates into the list of each text, and leaves the best there."""
    width = past.shape[1]
    for best, sums, rows in zip(found, log_prob.tolist(), past.tolist()):
        ended = bool(end)
        best += [Hypothesis(row, s, s / penalty, ended) for s, row in zip(sums, rows) if s > -torch.inf]
        best.sort(key=lambda hypothesis: -hypothesis.score)
        del best[width:]


def _settled(found: list, kept: Tensor, width: int, penalty: float) -> bool:
    """Whether the lists are full of what is better than anything that the beginnings could become: their
    log-probabilities only fall, and the greatest penalty is that of the greatest length."""
    hope = (kept[:, 0] / penalty).tolist()
    return all(h == -torch.inf or (len(best) == width and best[-1].score >= h) for best, h in zip(found, hope))


@torch.no_grad()
def sample(
    step: Step,
    state: State,
    begin: int | Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws tokens one after the other from :math:`P(w)^{1/\tau}`, normalised, of the ``top_k`` most probable ones.

    Source: the temperature: Ackley, Hinton & Sejnowski 1985; top-k: Fan, Lewis & Dauphin 2018, arXiv:1805.04833.
    Deviations: none.

    Args:
        step, state: see above.
        begin: the first token that is read, or ``(R,)`` one for each text; it is not in the result.
        length: tokens to draw.
        temperature: :math:`\tau`; less than 1 favours probable tokens, more than 1 evens them out.
        top_k: how many tokens may be drawn; None for all.
        generator: the source of randomness.

    Shape:
        a state of R rows -> ``(R, length)`` int64.

    Raises:
        ValueError: the temperature is 0 or less, or ``top_k`` less than 1.
    """
    if temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"sample: temperature={temperature}, top_k={top_k}; expected a temperature above 0 and 1 token or more. "
            "For the most probable token each time use greedy, or top_k=1."
        )
    count, device = len(state[0]), state[0].device
    token = torch.as_tensor(begin, device=device).expand(count)
    written = []
    for _ in range(length):
        log_probs, state = step(token, state)
        scores = log_probs / temperature
        if top_k is not None and top_k < scores.shape[1]:
            top, place = scores.topk(top_k, dim=1)
            scores = torch.full_like(scores, -torch.inf).scatter(1, place, top)
        token = torch.multinomial(scores.softmax(-1), 1, generator=generator).flatten()
        written.append(token)
    return torch.stack(written, 1) if written else token.new_empty(count, 0)

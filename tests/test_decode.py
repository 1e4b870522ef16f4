"""Writing from Markov chains and small tables, whose every sequence can be enumerated."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnn.decode import beam, greedy, sample
from mpnn.nn import GRU, LanguageModel

BEGIN, END = 0, 1


class Counted:
    """Log-probabilities that depend on the row, on the tokens so far, and on nothing else; counts its calls."""

    def __init__(self, rows: int, vocabulary: int, seed: int, sharpness: float = 1.0):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(rows, 64, vocabulary, generator=generator, dtype=torch.float64) * sharpness
        self.calls = 0

    def start(self) -> tuple:
        rows = len(self.table)
        return torch.arange(rows), torch.zeros(rows, dtype=torch.long)

    def __call__(self, token, state):
        self.calls += 1
        row, past = state
        past = (past * 7 + token + 1) % 64
        return self.table[row, past].log_softmax(-1), (row, past)

    def all(self, row: int, max_length: int, alpha: float) -> list[tuple[float, tuple]]:
        """Every sequence that ends, or is cut, with its score; best first."""
        found, letters = [], range(self.table.shape[2])
        lengths = range(1, max_length + 1)
        for sequence in (s for n in lengths for s in product(letters, repeat=n)):
            if END in sequence[:-1] or (sequence[-1] != END and len(sequence) < max_length):
                continue
            past, total = 0, 0.0
            for before, token in zip((BEGIN, *sequence), sequence, strict=False):
                past = (past * 7 + before + 1) % 64
                total += float(self.table[row, past].log_softmax(-1)[token])
            found.append((total / ((5 + len(sequence)) / 6) ** alpha, sequence))
        return sorted(found, reverse=True)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 4), st.sampled_from([0.0, 0.6, 2.0]))
def test_a_beam_that_keeps_everything_is_enumeration(seed, vocabulary, max_length, alpha):
    step = Counted(3, vocabulary, seed)
    width = vocabulary**max_length
    for row, found in enumerate(beam(step, step.start(), BEGIN, END, max_length, width, alpha)):
        expected = step.all(row, max_length, alpha)[:width]
        assert len(found) == len(expected)
        for hypothesis, (score, sequence) in zip(found, expected, strict=True):
            assert hypothesis.score == pytest.approx(score, rel=1e-10)
            assert hypothesis.tokens == [t for t in sequence if t != END]
            assert hypothesis.ended == (sequence[-1] == END)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 5), st.sampled_from([0.0, 1.0]))
def test_hypotheses_are_different_sequences_with_their_true_scores(seed, width, alpha):
    step = Counted(2, 4, seed)
    for row, found in enumerate(beam(step, step.start(), BEGIN, END, 5, width, alpha)):
        assert 1 <= len(found) <= width
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        true = {(tuple(t for t in s if t != END), s[-1] == END): score for score, s in step.all(row, 5, alpha)}
        assert len({(tuple(h.tokens), h.ended) for h in found}) == len(found)
        for h in found:
            assert h.score == pytest.approx(true[tuple(h.tokens), h.ended], rel=1e-10)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_greedy_takes_the_best_token_each_time(seed):
    step = Counted(4, 5, seed)
    for row, done in enumerate(greedy(step, step.start(), BEGIN, END, 6)):
        past, tokens, total, last = 0, [], 0.0, BEGIN
        while len(tokens) < 6 and last != END:
            past = (past * 7 + last + 1) % 64
            log_prob, last = (v.item() for v in step.table[row, past].log_softmax(-1).max(-1))
            total += log_prob
            tokens.append(last)
        assert done.ended == (last == END) and done.tokens == [t for t in tokens if t != END]
        assert done.log_prob == pytest.approx(total) == done.score


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_a_beam_of_everything_is_never_worse_than_greedy(seed):
    step = Counted(3, 4, seed)
    one = greedy(step, step.start(), BEGIN, END, 4)
    many = beam(step, step.start(), BEGIN, END, 4, 4**4)
    assert all(best[0].log_prob >= done.log_prob - 1e-12 for best, done in zip(many, one, strict=True))


def test_wider_beams_are_better_in_sum():
    sums = []
    for width in (1, 2, 4, 16):
        found = [beam(s, s.start(), BEGIN, END, 6, width) for s in (Counted(8, 6, seed, 0.7) for seed in range(20))]
        sums.append(sum(best[0].log_prob for rows in found for best in rows))
    assert sums == sorted(sums)


def test_the_penalty_favours_longer_sequences():
    lengths = []
    for alpha in (0.0, 1.0, 3.0):
        found = [beam(s, s.start(), BEGIN, END, 8, 4, alpha) for s in (Counted(4, 5, seed) for seed in range(10))]
        lengths.append(sum(len(best[0].tokens) for rows in found for best in rows))
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_search_stops_when_nothing_better_can_come():
    step = Counted(2, 3, 0)
    step.table[:, :, END] = 20.0  # to end is nearly certain
    (best, *_), _ = beam(step, step.start(), BEGIN, END, 50, 2)
    assert best.tokens == [] and best.ended and step.calls < 10


def test_a_search_goes_on_while_the_penalty_may_make_a_longer_sequence_win():
    first, later = torch.tensor([0.0, 0.55, 0.45]).log(), torch.tensor([0.0, 0.0, 1.0]).log()

    def step(token, state):
        return torch.stack([first if t == BEGIN else later for t in token.tolist()]), state

    ((best,),) = beam(step, (torch.zeros(1),), BEGIN, END, 8, 1, length_penalty=2.0)
    assert best.tokens == [2] * 8 and not best.ended
    ((best,),) = beam(step, (torch.zeros(1),), BEGIN, END, 8, 1)
    assert best.tokens == [] and best.ended


def test_greedy_stops_when_all_have_ended():
    step = Counted(2, 3, 0)
    step.table[:, :, END] = 20.0
    greedy(step, step.start(), BEGIN, END, 50)
    assert step.calls == 1


def test_what_cannot_be_is_refused():
    step = Counted(1, 3, 0)
    for options in ({"width": 0}, {"width": 2, "length_penalty": -1.0}):
        with pytest.raises(ValueError, match="beam: width="):
            beam(step, step.start(), BEGIN, END, 4, **options)
    with pytest.raises(ValueError, match="temperature=0.*use greedy"):
        sample(step, step.start(), BEGIN, 3, temperature=0)
    with pytest.raises(ValueError, match="top_k=0"):
        sample(step, step.start(), BEGIN, 3, top_k=0)


# Sampling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature, top_k):
    from scipy.stats import chisquare

    count, scores = 20_000, torch.tensor([0.3, -1.0, 1.2, 0.0, 0.9], dtype=torch.float64)

    def step(token, state):
        return scores.log_softmax(-1).expand(len(token), -1), state

    drawn = sample(step, (torch.zeros(count),), BEGIN, 1, temperature, top_k, torch.Generator().manual_seed(0))
    found = torch.bincount(drawn.flatten(), minlength=5).double()
    kept = torch.ones(5, dtype=torch.bool) if top_k is None else torch.tensor([True, False, True, False, True])
    expected = torch.where(kept, (scores / temperature).exp(), 0.0)
    expected = expected / expected.sum() * count
    assert found[~kept].sum() == 0
    assert chisquare(found[kept].numpy(), expected[kept].numpy()).pvalue > 0.01


def test_what_was_drawn_is_read_next():
    table = torch.full((4, 4), -1e9)
    table[[0, 1, 2, 3], [2, 0, 3, 1]] = 0.0  # 0 -> 2 -> 3 -> 1 -> 0

    def step(token, state):
        return table[token].log_softmax(-1), state

    drawn = sample(step, (torch.zeros(2),), torch.tensor([0, 3]), 5)
    assert drawn.tolist() == [[2, 3, 1, 0, 2], [1, 0, 2, 3, 1]]


def test_the_same_generator_draws_the_same_text():
    model = LanguageModel(torch.nn.Embedding(9, 4), GRU(4, 8), torch.nn.Linear(8, 9))
    texts = [sample(*model.begin(3), 0, 20, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])
    assert texts[0].shape == (3, 20) and not texts[0].requires_grad
    assert sample(*model.begin(3), 0, 0).shape == (3, 0)


def test_the_best_of_one_is_greedy():
    model = LanguageModel(torch.nn.Embedding(9, 4), GRU(4, 8), torch.nn.Linear(8, 9))
    step, state = model.begin(2)
    drawn = sample(step, state, 0, 6, top_k=1)
    assert drawn.tolist() == [done.tokens for done in greedy(step, state, 0, -1, 6)]


def test_a_beam_goes_on_as_long_as_the_longest_text_might_still_be_better():
    chances = torch.zeros(9, 9)
    chances[0, [1, 2, 8]] = torch.tensor([0.5, 0.27, 0.23])  # the end at once, or six tokens more, or one for ever
    chances[[2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 1, 8]] = 1.0
    chances[1, 1] = 1.0
    found = beam(lambda token, state: (chances.log()[token], state), (torch.zeros(1),), 0, 1, 7, 1, 1.0)[0]
    assert found[0].tokens == [2, 3, 4, 5, 6, 7] and found[0].score == pytest.approx(math.log(0.27) / 2)

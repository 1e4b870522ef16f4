"""The parts of the character language model: windows, bits, counts, and a run that is killed."""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from run_scripts import load

import mpnn


@pytest.fixture(scope="module")
def charlm():
    return load("charlm")


@pytest.fixture
def tiny(charlm):
    """A small text, and a recipe of seconds."""
    known = mpnn.datasets.Vocabulary(["abcd "])
    token = known("abcd abd bad cab dab " * 30)
    text = charlm.Text(token[:400], token[399:500], token[499:], known)
    return text, charlm.Config(seeds=1, epochs=3, hidden=8, windows=4, steps=8)


def test_windows_are_stretches_of_the_text_and_every_token_is_followed_by_the_next(charlm):
    windows = charlm.Windows(torch.arange(100), count=3, steps=4)
    torch.manual_seed(0)
    first, second = list(windows), list(windows)
    assert len(first) == len(second) == len(windows) == 8
    rows = torch.cat([token.view(4, 3).t() for token, *_ in first])
    assert torch.equal(rows, rows[:, :1] + torch.arange(4)) and len(rows.unique()) == rows.numel()  # no token twice
    assert not torch.equal(rows, torch.cat([token.view(4, 3).t() for token, *_ in second]))
    assert len({int(token[0]) % 4 for _ in range(5) for token, *_ in windows}) > 1  # not from the same place always
    for token, y, (src, dst) in first:
        assert torch.equal(y, token + 1) and torch.equal(token[dst], token[src] + 1) and len(src) == 9


@pytest.mark.parametrize("length", [12, 13, 14, 15, 16, 17, 30])
def test_there_are_windows_enough_wherever_an_epoch_begins(charlm, length):
    windows = charlm.Windows(torch.arange(length), count=1, steps=4)
    for _ in range(20):
        assert len(list(windows)) == len(windows) > 1


def test_bits_are_those_of_the_whole_text_read_at_once(charlm, tiny):
    text, config = tiny
    model = charlm.make("lstm", replace(config, dropout=0.0), len(text.known)).eval()
    token, n = text.test[:43], 42
    chain = mpnn.graphs.chain(n).edge_index
    nats = F.cross_entropy(model(token[:-1], chain)[0], token[1:])
    assert charlm.bits(model, token, stretches=1) == pytest.approx(float(nats.detach()) / math.log(2), rel=1e-5)
    halves = [charlm.bits(model, token[a : a + 22], stretches=1) for a in (0, 21)]
    assert charlm.bits(model, token, stretches=2) == pytest.approx(np.mean(halves), rel=1e-5)


def test_windows_run_on_the_kernels_of_torch(charlm, tiny):
    text, config = tiny
    batch = next(iter(charlm.Windows(text.train, 4, 8)))
    for kind in charlm.CELLS:
        with mpnn.engine("packed"):
            charlm.loss(charlm.make(kind, config, len(text.known)), batch).backward()


def test_forget_gates_begin_open(charlm, tiny):
    text, config = tiny
    layer = charlm.make("lstm", replace(config, layers=2), len(text.known)).layer
    for k in range(2):
        i, f, g, o = layer.get_parameter(f"bias_ih_l{k}").chunk(4)
        assert (f == 1).all() and not any((gate == 1).any() for gate in (i, g, o))


def test_what_is_held_out_is_learnt_from_unless_options_are_chosen(charlm, tiny, tmp_path, monkeypatch):
    text, config = tiny
    seen = []
    monkeypatch.setattr(charlm, "fit", lambda model, windows, *rest, **more: seen.append(windows.token))
    for held_out in (False, True):
        charlm.train(replace(config, held_out=held_out), "gru", text, tmp_path / "unused.pt")
    whole, part = seen
    assert torch.equal(whole[: len(part)], text.train) and torch.equal(whole[len(part) :], text.val[1:])
    assert len(part) == len(text.train)


def test_a_run_that_is_killed_goes_on_to_the_same_result(charlm, tiny, tmp_path):
    text, config = tiny

    def run(checkpoint, seed=3):
        torch.manual_seed(seed)
        return charlm.bits(charlm.train(config, "gru", text, checkpoint), text.test, 2)

    whole = run(tmp_path / "whole.pt")
    stop, fit = 2, charlm.fit

    def killed(*arguments, progress=None, **options):
        def last(metrics):
            nonlocal stop
            stop -= 1
            if not stop:
                raise KeyboardInterrupt

        return fit(*arguments, progress=last, **options)

    charlm.fit = killed
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.pt")
    charlm.fit = fit
    later = [run(tmp_path / "part.pt", seed=4) for _ in range(2)]  # what was saved decides, not the seed
    assert later == [whole, whole]


def test_counting_is_witten_bell(charlm):
    generator = np.random.default_rng(0)
    train, token, order, size = generator.integers(0, 4, 60), generator.integers(0, 5, 30), 3, 5
    following = defaultdict(Counter)
    for n in range(order):
        for k in range(n, len(train)):
            following[tuple(train[k - n : k])][train[k]] += 1

    def probability(word, context):
        lower = probability(word, context[1:]) if context else 1 / size
        seen = following[context]
        return (seen[word] + len(seen) * lower) / (seen.total() + len(seen)) if seen else lower

    bits = [-math.log2(probability(token[k], tuple(token[k - 2 : k]))) for k in range(order, len(token))]
    assert charlm.n_gram(train, token, order, size) == pytest.approx(np.mean(bits))
    for context in [(), (1,), (4,), (2, 3)]:
        assert sum(probability(word, context) for word in range(size)) == pytest.approx(1)


def test_text_is_written_in_known_characters(charlm, tiny):
    text, config = tiny
    known = mpnn.datasets.Vocabulary(["ab\n"])
    model = charlm.make("gru", config, len(known))
    written = charlm.write(model.eval(), known, replace(config, length=50))
    assert set(written.replace("<unk>", "")) <= set("ab\n") and len(written) >= 50

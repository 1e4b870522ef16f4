"""The parts of scripts/reddit_threads.py: the metric, the limits, what a model sees, and runs that go on."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_scripts import load
from sklearn.metrics import f1_score
from torch_geometric.data import Batch

from mpnn.datasets import threads
from mpnn.train import seed_all

script = load("reddit_threads")

LEVELS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40)


def drawn_parts() -> dict[str, list]:
    """A few random threads with texts of few words, so that words come often enough to be known."""
    draw = torch.Generator().manual_seed(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]

    def numbers(high: int, count: int) -> list[int]:
        return torch.randint(high, (count,), generator=draw).tolist()

    lines = []
    for split, count in [("train", 12), ("train", 25), ("train", 30), ("dev", 20), ("test", 20), ("test", 3)]:
        ids = ["post", *map(str, range(count))]
        comments = [
            {
                "id": ids[k + 1], "parent": ids[numbers(k + 1, 1)[0]], "author": numbers(5, 1)[0] - 1,
                "created": 1000 * k, "score": numbers(12, 1)[0], "text": " ".join(words[i] for i in numbers(8, 6)),
            }
            for k in range(count)
        ]  # fmt: skip
        post = {"id": "post", "split": split, "author": 0, "created": 0, "score": 7, "title": "Well?", "text": "one"}
        lines.append(json.dumps(post | {"comments": comments}))
    return threads.of_threads(lines, [1, 2, 3, 5, 7, 9, 10])


@given(LEVELS)
def test_f1_is_that_of_sklearn(pairs):
    said, true = torch.tensor(pairs).t()
    expected = [100 * f1_score(true >= k, said >= k, zero_division=0) for k in range(1, 8)]
    assert script.f1(said, true) == pytest.approx(expected)


def test_always_level_7_scores_the_measured_floor(mpnn_data):
    graphs = script.mpnn.datasets.load("reddit-threads", download=False)["test"]
    for name, floor in [("askacademia", 25.3), ("college", 24.4)]:
        y = torch.cat([data.y[1:] for data in graphs if data.subreddit == name])
        scores = script.f1(torch.full_like(y, 7), y)
        assert sum(scores) / 7 == pytest.approx(floor, abs=0.05)


def test_at_least_sums_the_levels_from_k_up():
    scores = torch.randn(5, 8, dtype=torch.double)
    p = scores.softmax(1)
    expected = torch.stack([p[:, k:].sum(1) for k in range(1, 8)], 1)
    assert torch.allclose(script.at_least(scores), expected)


def test_no_limit_is_better_than_the_chosen_one():
    torch.manual_seed(0)
    y = torch.randint(8, (60,))
    likely = script.at_least(torch.randn(60, 8) + 2 * torch.nn.functional.one_hot(y, 8))
    limit = script.limits(likely, y)
    for k in range(1, 8):
        column = likely[:, k - 1]
        scores = {float(at): f1_score(y >= k, column >= at) for at in column}
        assert scores[float(limit[k - 1])] == pytest.approx(max(scores.values()))


def test_levels_are_said_a_little_more_often_than_they_are_true():
    torch.manual_seed(0)
    y, likely = torch.arange(800) // 100, script.at_least(torch.randn(800, 8))
    reached = (likely >= script.quotas(likely, y)).sum(0)
    assert reached.tolist() == [min(int(1.2 * int((y >= k).sum())), 800) for k in range(1, 8)]


def test_a_level_needs_all_levels_below_it():
    likely = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.1, 0.8], [0.1, 0.8, 0.8]])
    assert script.decide(likely, torch.tensor([0.5, 0.5, 0.5])).tolist() == [2, 1, 0]


def test_rare_levels_weigh_more():
    weight = script.rarity(torch.tensor([-1] + [0] * 16 + [1] * 4))
    assert weight[:2].tolist() == [0.25, 0.5]


def test_what_a_model_sees_does_not_change_with_the_scores():
    parts = drawn_parts()
    before = script.described(parts, 4)
    for some in parts.values():
        for data in some:
            data.score = data.score * 3 + 1
            data.y[1:] = 7 - data.y[1:]
    after = script.described(parts, 4)
    for part, some in before.items():
        for a, b in zip(some, after[part], strict=True):
            assert torch.equal(a.x, b.x)
            assert "score" not in a


def test_what_is_seen_of_training_does_not_change_with_the_test_part():
    parts = drawn_parts()
    before = script.described(parts, 4)
    for data in parts["test"]:
        data.text = ["seven eight nine"] * data.num_nodes
        data.time = data.time * 5
    after = script.described(parts, 4)
    assert all(torch.equal(a.x, b.x) for a, b in zip(before["train"], after["train"], strict=True))
    assert not torch.equal(before["test"][0].x, after["test"][0].x)


def test_time_goes_through_each_thread_from_its_post_on():
    parts = drawn_parts()
    batch = Batch.from_data_list(parts["test"])
    expected = [(k, k + 1) for k in range(20)] + [(k, k + 1) for k in range(21, 24)]
    assert list(map(tuple, script.in_time(batch).t().tolist())) == expected


@pytest.mark.parametrize("name", script.MODELS)
def test_a_thread_has_the_same_scores_alone_and_in_a_batch(name):
    seen = script.described(drawn_parts(), 4)["train"]
    torch.manual_seed(0)
    model = script.Popularity(script.MODELS[name], seen[0].num_features, 6, 0.0).eval().double()
    for data in seen:
        data.x = data.x.double()
    (together,) = script.batches(script.MODELS[name], seen, 3)
    alone = [batch for data in seen for batch in script.batches(script.MODELS[name], [data], 1)]
    scores = {batch.num_nodes: model(batch) for batch in alone}
    whole = model(together)
    for k in range(3):
        own = whole[together.batch == k]
        assert torch.allclose(own, scores[len(own)], rtol=1e-10)


def test_without_structure_there_are_as_many_parameters_as_with():
    features, graph = (
        sum(p.numel() for p in script.Popularity(script.MODELS[name], 90, 64, 0.0).parameters())
        for name in ("features", "graph tanh")
    )
    assert features == pytest.approx(graph, rel=0.01)


def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path):
    kind = script.MODELS["graph tanh"]
    seen = script.described(drawn_parts(), 4)
    parts = {part: script.batches(kind, some, 1) for part, some in seen.items()}
    config = replace(script.Config(), epochs=4, hidden=8)
    seed_all(0)
    whole = script.train(config, kind, parts, tmp_path / "whole.pt")

    class Killed(Exception):
        pass

    def outputs(model, some, times=[]):  # noqa: B006
        times.append(None)
        if len(times) == 3:  # in the third epoch, before its checkpoint
            raise Killed
        return real(model, some)

    real, script.outputs = script.outputs, outputs
    seed_all(0)
    try:
        with pytest.raises(Killed):
            script.train(config, kind, parts, tmp_path / "broken.pt")
    finally:
        script.outputs = real
    seed_all(9)
    resumed = script.train(config, kind, parts, tmp_path / "broken.pt")
    assert resumed.scores == whole.scores and torch.equal(resumed.limit, whole.limit)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_the_picture_is_drawn(tmp_path):
    seen = script.described(drawn_parts(), 4)
    model = script.Popularity(script.MODELS["graph tanh"], seen["test"][0].num_features, 6, 0.0).eval()
    run = script.Run(model, torch.full((7,), 0.5), [])
    script.picture(tmp_path, "drawn", seen["test"], "graph tanh", run)
    assert (tmp_path / "reddit-drawn.png").stat().st_size > 20_000

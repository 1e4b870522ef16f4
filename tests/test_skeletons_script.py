"""What scripts/skeletons.py does to sequences, and that a run goes on where it was killed."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_scripts import SCRIPTS, killed, load

import mpnn.train

JOINTS = ["hip_center", "hip_left", "hip_right", "shoulder_left", "shoulder_right", "head"]
STANDING = np.array([[0, 0, 0.1], [-1, 0, 0], [1, 0, 0], [-1, 1, 0], [1, 1, 0], [0, 2, 0]])


@pytest.fixture(scope="module")
def script():
    return load("skeletons")


@pytest.fixture
def moves(tmp_path):
    """A file of 24 sequences in which the head goes up or down."""
    generator, lengths = np.random.default_rng(0), [5, 9, 1, 12] * 6
    label, joints = np.arange(24) % 2, []
    for length, y in zip(lengths, label, strict=True):
        x = np.tile(STANDING, (length, 1, 1))
        x[:, 5, 1] += np.linspace(0, 2 * y - 1, length)
        joints.append(x + 0.01 * generator.normal(size=x.shape))
    path = tmp_path / "heads.npz"
    np.savez(
        path, joints=np.concatenate(joints).astype(np.float32), offsets=np.cumsum([0, *lengths]), label=label,
        name=np.array([f"s{k}" for k in range(24)]), is_train=np.arange(24) % 5 != 0, joint_names=np.array(JOINTS),
        class_names=np.array(["down", "up"]), bones=np.array([[0, 1], [0, 2], [0, 5], [5, 3], [5, 4]]),
        part=np.array([0, 0, 0, 1, 1, 1]), part_names=np.array(["low", "high"]), view=np.arange(24) % 3 + 1,
        subject=np.arange(24) // 4,
    )  # fmt: skip
    return path


def run(script, monkeypatch, tmp_path, *arguments):
    written = ["--json", str(tmp_path / "rows.json"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["skeletons", *arguments, *written])
    script.start(script.Config, script.main)
    return json.loads((tmp_path / "rows.json").read_text())


SMALL = ("--frames", "8", "--hidden", "8", "--batch-size", "8", "--seeds", "1", "--epochs", "4", "--no-picture")
SMALL += ("--least", "1", "--looks", "2")
AS_IT_IS = {"turn": 0.0, "scale": 0.0, "size": 0.0}


def test_a_file_of_ones_own_gives_a_row_a_model(script, moves, monkeypatch, tmp_path):
    rows = run(script, monkeypatch, tmp_path, "--data", str(moves), *SMALL)
    assert [row["model"] for row in rows] == script.MODELS and {row["dataset"] for row in rows} == {"heads"}
    assert all(row["examples_a_second"] > 0 and row["published"] is None for row in rows)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_that_was_killed_goes_on_to_the_same_result(script, moves, monkeypatch, tmp_path):
    arguments = ("--data", str(moves), "--model", "agc-lstm-two-stream", *SMALL)
    scores, scored = [], script.scored
    monkeypatch.setattr(script, "scored", lambda *given: scores.append(scored(*given)) or scores[-1])
    rows = run(script, monkeypatch, tmp_path, *arguments)
    assert [row["model"] for row in rows] == ["agc-lstm-two-stream", "agc-lstm-joint", "agc-lstm-part"]
    with killed(6):  # in the second stream
        run(script, monkeypatch, tmp_path, *arguments)
    whole, interrupted = scores[:4], len(scores)  # of both for their sum, and of each stream alone
    run(script, monkeypatch, tmp_path, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(whole, scores[interrupted:], strict=True))


def test_two_streams_are_judged_by_the_sum_of_their_scores(script, moves, monkeypatch):
    scores = {"agc-lstm-joint": [0.6, 0.4], "agc-lstm-part": [0.1, 0.9]}
    done = mpnn.train.Fit(history={"core_seconds": [0.5, 0.5, 0.5]}, seconds=[1.0, 2.0, 6.0], examples=20)
    monkeypatch.setattr(script, "train", lambda config, stream, *_: (stream, done))
    monkeypatch.setattr(script, "scored", lambda config, stream, test: torch.tensor([scores[stream]] * len(test)))
    config = replace(script.Config(), data=moves, seeds=1, picture=False)
    given, test = script.load(config)
    row = script.experiment(config, "agc-lstm-two-stream", given, test)
    ups = 100 * float(test.y.float().mean())
    assert row["mean"] == pytest.approx(ups, abs=1e-3)  # 0.7 to 1.3
    alone = {"agc-lstm-joint": pytest.approx(100 - ups), "agc-lstm-part": pytest.approx(ups)}
    assert row["runs"][0]["streams"] == alone
    assert (row["seconds"], row["runs"][0]["seconds"], row["runs"][0]["core_seconds"]) == (18.0, 18.0, 3.0)
    assert (row["epoch_seconds"], row["examples_a_second"]) == (4.0, 5.0)  # an epoch of each stream, the middle one


def test_settings_are_chosen_without_the_test_sequences(script, moves):
    config = replace(script.Config(), data=moves)
    test = {tuple(x.flatten().tolist()) for x in script.load(config)[1].x}
    for without in ("camera-1", "camera-2", "subjects"):
        given, away = script.load(replace(config, without=without))
        seen = {tuple(x.flatten().tolist()) for x in [*given.x, *away.x]}
        assert not test & seen and len(given) + len(away) == 19 and len(away) > 0


def test_a_crop_is_a_part_of_the_sequence_in_order(script):
    config, x = replace(script.Config(), crop=0.5, frames=6), torch.arange(11.0).view(11, 1, 1).expand(-1, 2, 3)
    for _ in range(20):
        cut = script.cropped(x, config)[:, 0, 0]
        assert cut.shape == (6,) and (cut.diff() > 0).all() and cut[0] >= 0 and cut[-1] <= 10.001
        assert cut[-1] - cut[0] >= 4.999 and cut.diff().std() > 1e-3
    even = script.cropped(x, replace(config, warp=0.0))[:, 0, 0].diff()
    torch.testing.assert_close(even, even.mean().expand(5), rtol=1e-3, atol=1e-3)
    assert script.cropped(x[:1], config).shape == (6, 2, 3)


def test_a_turned_sequence_keeps_all_distances(script):
    config = replace(script.Config(), **AS_IT_IS | {"turn": 90.0})
    x = torch.randn(4, 5, 6, 3)
    turned = script.changed(x, config)
    assert (turned - x).abs().amax() > 0.1
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(x, x), rtol=1e-3, atol=1e-3)


def test_a_sequence_of_another_size_keeps_its_shape(script):
    x = torch.randn(4, 5, 6, 3)
    larger = script.changed(x, replace(script.Config(), **AS_IT_IS | {"size": 0.5})) / x
    assert 0.5 <= larger.amin() < larger.amax() <= 1.5 and larger.flatten(1).std(dim=1).amax() < 1e-4


def test_without_change_a_sequence_stays_as_it_is(script):
    x = torch.randn(2, 5, 6, 3)
    torch.testing.assert_close(script.changed(x, replace(script.Config(), **AS_IT_IS)), x)


def test_a_small_set_is_gone_through_several_times_an_epoch(script, moves):
    config = replace(script.Config(), data=moves, least=60, batch_size=8)
    given, _ = script.load(config)  # 19 sequences
    batches = script.Batches(config, given)
    assert len(batches) == len(list(batches)) == 3 * 3
    assert sum(len(y) for _, y in batches) == 57


def test_all_looks_count_and_are_the_same_again(script, moves):
    config = replace(script.Config(), data=moves, looks=3, frames=8)
    seen, (_, test) = [], script.load(config)
    module = SimpleNamespace(scores=lambda x: seen.append(x) or x.new_ones(len(x), 2))
    state = torch.get_rng_state()
    assert (script.scored(config, module, test) == 4).all() and torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    script.scored(config, module, test)
    assert all(torch.equal(a, b) for a, b in zip(seen[:4], seen[4:], strict=True))
    assert torch.equal(seen[0][0], script.skeletons.resampled(test.x[0], 8))
    assert all((a - b).abs().amax() > 0.1 for a, b in pairwise(seen[:4]))


def test_joints_are_described_by_place_bone_and_motion(script, moves):
    body = script.load(replace(script.Config(), data=moves))[0].body
    x = torch.randn(1, 3, 6, 3)
    seen = script.described(x, body)
    assert torch.equal(seen[:, :, 0, :3], x[:, :, 0]) and torch.equal(seen[:, :, 2, :3], x[:, :, 2] - x[:, :, 0])
    assert torch.equal(seen[:, :, 3, 3:6], 2 * (x[:, :, 3] - x[:, :, 5])) and seen[:, :, 0, 3:6].eq(0).all()
    assert seen[:, 0, :, 6:].eq(0).all() and torch.equal(seen[:, 1:, :, 6:], 5 * x.diff(dim=1))
    assert torch.equal(script.named(seen)[0, 1, :, 9:], torch.eye(6))


def test_the_benchmark_has_the_frames_that_the_script_trains_on(script):
    benchmark = (SCRIPTS.parent / "benchmarks" / "agc_lstm.py").read_text()
    assert f"\nFRAMES = {script.Config().frames}  #" in benchmark

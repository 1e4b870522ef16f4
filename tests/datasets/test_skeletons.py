from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch

from mpnn import datasets
from mpnn.datasets.skeletons import action_set, by_part, centred, facing, filled, frames, resampled, sequences, smoothed

JOINTS = ["hip_center", "hip_left", "hip_right", "shoulder_left", "shoulder_right"]


def made(path: Path, **changed) -> Path:
    """A file with three sequences, of 2, 1 and 3 frames."""
    joints = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    fields = dict(
        joints=joints, offsets=np.array([0, 2, 3, 6]), label=np.array([0, 2, 1]), name=np.array(["a", "b", "c"]),
        is_train=np.array([True, False, True]), class_names=np.array(["run", "sit", "wave"]), view=np.array([1, 3, 2]),
        joint_names=np.array(JOINTS), bones=np.array([[0, 1], [0, 2], [1, 3], [2, 4]]), part=np.array([0, 0, 0, 1, 1]),
        part_names=np.array(["legs", "arms"]), subject=np.array([4, 5, 6]),
    )  # fmt: skip
    fields |= changed
    np.savez(path / "moves.npz", **{name: value for name, value in fields.items() if value is not None})
    return path / "moves.npz"


def test_a_file_is_read_as_graphs_in_space_and_time_by_its_split(tmp_path):
    path = made(tmp_path)
    parts = sequences(path)
    assert [[data.name for data in parts[part]] for part in ("train", "test")] == [["a", "c"], ["b"]]
    a, c = parts["train"]
    assert torch.equal(frames(c), torch.from_numpy(np.load(path)["joints"][3:])) and c.y.tolist() == [1]
    assert (a.subject, a.camera, c.camera) == (4, 1, 2)
    assert a.time.tolist() == [0] * 5 + [1] * 5 and a.space_index.shape[1] == 16 and a.time_index.shape[1] == 5
    assert a.body.parts == [[0, 1, 2], [3, 4]] and a.body.joint("hip_right") == 2
    assert Batch.from_data_list([a, c]).camera.tolist() == [1, 2]


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(offsets=np.array([0, 2, 2, 6])), "sequence 'b' has 0 frames; expected 1"),
        (dict(offsets=np.array([0, 2, 3, 5])), r"moves.npz: 4 offsets from \[0\] to \[5\] for 3 seq.* 6 frames"),
        (dict(offsets=np.array([0, 3, 6])), "3 offsets .* for 3 sequences"),
    ],
)
def test_frames_that_do_not_fit_are_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sequences(made(tmp_path, **changed))


def test_a_sequence_that_is_too_short_is_named(tmp_path):
    with pytest.raises(ValueError, match="sequence 'a' has 2 frames; expected 3 or more"):
        sequences(made(tmp_path), min_frames=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_with_its_sequence_frame_and_joint(value, tmp_path):
    joints = np.ones((6, 5, 3), np.float32)
    joints[4, 1, 2] = value
    with pytest.raises(ValueError, match=r"sequence 'c' has \[1.0, 1.0, (nan|inf)\] at frame 1, joint 1 \(hip_left\)"):
        sequences(made(tmp_path, joints=joints))


def test_a_joint_that_is_never_seen_is_refused_unless_its_sequence_is_not_in_use(tmp_path):
    joints = np.ones((6, 5, 3), np.float32)
    joints[2, 3] = 0
    with pytest.raises(ValueError, match=r"sequence 'b' never has joint 3 \(shoulder_left\), .* in all 1 frames"):
        sequences(made(tmp_path, joints=joints))
    kept = sequences(made(tmp_path, joints=joints, in_557=np.array([True, False, True])))
    assert [len(kept[part]) for part in ("train", "test")] == [2, 0]


def test_a_file_without_a_field_is_refused_with_its_name(tmp_path):
    with pytest.raises(KeyError, match="moves.npz: has no label, bones; expected joints, offsets"):
        sequences(made(tmp_path, label=None, bones=None))


def test_joints_that_were_not_seen_are_put_between_where_they_were():
    x = torch.arange(1.0, 31).view(5, 2, 3)
    holes = x.clone()
    holes[[0, 2, 4], 1] = 0
    full, unseen = filled(holes)
    assert unseen.nonzero().tolist() == [[0, 1], [2, 1], [4, 1]]
    assert torch.equal(full[:, 0], x[:, 0]) and torch.equal(full[1:4, 1], x[1:4, 1])
    assert torch.equal(full[0, 1], x[1, 1]) and torch.equal(full[4, 1], x[3, 1])
    assert holes[0, 1].eq(0).all()  # what was given is left alone


@given(st.integers(1, 12), st.integers(1, 12))
def test_a_sequence_at_other_times_is_numpys_interpolation(length, count):
    x = torch.randn(length, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    at = np.linspace(0, length - 1, count)
    expected = [np.interp(at, np.arange(length), column) for column in x.flatten(1).numpy().T]
    ours = resampled(x, count).flatten(1).T
    torch.testing.assert_close(ours, torch.from_numpy(np.stack(expected)), rtol=1e-9, atol=1e-9)
    moved = torch.tensor([-1.0, length + 3.0], dtype=torch.float64)  # beyond the ends
    assert torch.equal(resampled(x, moved), x[[0, -1]])


def body(tmp_path):
    return sequences(made(tmp_path))["train"][0].body


def test_a_joint_with_one_or_two_coordinates_at_0_was_seen():
    x = torch.tensor([[[0.0, 0.0, 2.0]], [[0.0, 1.0, 1.0]]])
    full, unseen = filled(x)
    assert torch.equal(full, x) and not unseen.any()


def test_parts_have_the_features_of_their_joints_side_by_side_and_the_bones_between_them(tmp_path):
    about = body(tmp_path)  # legs: joints 0 to 2, arms: 3 and 4
    assert about.part_bones == ((0, 1),)
    x = torch.randn(2, 4, 5, 3)
    parts = by_part(x, about)
    assert torch.equal(parts[:, :, 0], x[:, :, :3].flatten(2))
    assert torch.equal(parts[:, :, 1], torch.cat([x[:, :, 3], x[:, :, 4], torch.zeros(2, 4, 3)], dim=2))


def test_the_root_begins_at_the_origin_and_goes_its_way(tmp_path):
    x = torch.randn(4, 5, 3)
    moved = centred(x, body(tmp_path))
    torch.testing.assert_close(moved[0, 0], torch.zeros(3))
    torch.testing.assert_close(moved[3] - moved[0], x[3] - x[0])


@given(st.floats(-3.2, 3.2))
def test_how_the_camera_stood_makes_no_difference_to_someone_turned_to_it(tmp_path_factory, angle):
    about, x = body(tmp_path_factory.mktemp("body")), torch.zeros(3, 5, 3, dtype=torch.float64)
    x[:, [1, 3], 0], x[:, [2, 4], 0] = -1.0, 1.0  # left joints at -x: this one faces the camera
    x[:, :, 1] = torch.tensor([0.0, 0, 0, 1, 1])
    x[1:, 3, 2] = 0.5
    x[1:, 4, 2] = 0.5
    c, s = np.cos(angle), np.sin(angle)
    turned = x @ torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    torch.testing.assert_close(facing(turned, about), x)


def test_someone_without_width_is_not_turned(tmp_path):
    x = torch.zeros(2, 5, 3)
    assert torch.equal(facing(x, body(tmp_path)), x)


def test_a_body_without_a_joint_says_which_there_are(tmp_path):
    with pytest.raises(ValueError, match="no joint 'tail'; expected one of hip_center, hip_left"):
        body(tmp_path).joint("tail")


def test_an_action_set_keeps_its_actions_and_numbers_them_from_0(tmp_path):
    sets = np.array([[True, True, False], [False, True, True], [True, False, True]])
    parts = sequences(made(tmp_path, action_sets=sets))
    second = action_set(parts, 2)
    assert [(data.name, int(data.y)) for data in second["train"] + second["test"]] == [("c", 0), ("b", 1)]
    assert second["train"][0].body.classes == ("sit", "wave") and int(parts["test"][0].y) == 2
    with pytest.raises(ValueError, match="number=4; the sequences have the sets 1 to 3"):
        action_set(parts, 4)
    with pytest.raises(ValueError, match="number=1; the sequences have no action sets"):
        action_set(sequences(made(tmp_path)), 1)


def test_nucla_is_split_by_camera_and_has_its_twelve_unseen_joints(mpnn_data):
    parts = datasets.load("skeleton-nucla")
    assert {data.camera for data in parts["train"]} == {1, 2} and {data.camera for data in parts["test"]} == {3}
    every = parts["train"] + parts["test"]
    unseen = {data.name: int(data.filled.sum()) for data in every if data.filled.any()}
    assert sum(unseen.values()) == 12 and set(unseen) == {"a04_s01_e01_v01", "a04_s04_e02_v01"}
    assert sorted(data.name for data in every if len(frames(data)) == 1) == ["a02_s09_e04_v02", "a02_s09_e04_v03"]
    assert not any((frames(data) == 0).all(2).any() for data in every)


def test_msr_action_is_split_by_subject_and_leaves_out_the_ten(mpnn_data):
    parts = datasets.load("skeleton-msraction3d")
    assert {data.subject % 2 for data in parts["train"]} == {1} and {data.subject % 2 for data in parts["test"]} == {0}
    every = parts["train"] + parts["test"]
    assert not {"a13_s09_e02", "a13_s09_e03"} & {data.name for data in every}
    whole = [data.filled.view(-1, 20).all(1).sum().item() for data in every]
    assert (sum(whole), sum(count > 0 for count in whole)) == (252, 13)
    sizes = [[len(some) for some in action_set(parts, number).values()] for number in (1, 2, 3)]
    assert sizes == [[114, 105], [116, 112], [111, 111]]


def test_smoothing_takes_the_mean_of_frames_on_both_sides():
    x = torch.randn(7, 3, 2)
    padded = torch.cat([x[:1], x[:1], x, x[-1:], x[-1:]])
    expected = torch.stack([padded[t : t + 5].mean(dim=0) for t in range(7)])
    torch.testing.assert_close(smoothed(x, 2), expected)
    torch.testing.assert_close(smoothed(x, 0), x)
    torch.testing.assert_close(smoothed(x[:1], 3), x[:1])

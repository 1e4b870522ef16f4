"""People who move: sequences of skeletons as graphs in space and time, and what is done to them before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data

from mpnn import spacetime

__all__ = [
    "Body", "action_set", "by_part", "centred", "facing", "filled", "frames", "read", "resampled", "sequences",
    "smoothed",
]  # fmt: skip

Parts = dict[str, list[Data]]
FIELDS = {"subject": "subject", "view": "camera", "env": "env", "trial": "trial"}  # Data has a method of its own, view


@dataclass(frozen=True)
class Body:
    """What all sequences of a file share.

    Attributes:
        joints: the name of each joint.
        bones: pairs of joints.
        part: for each joint, which of part_names it belongs to.
        part_names: the parts of the body.
        classes: the names of the actions.
    """

    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    part: tuple[int, ...]
    part_names: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def parts(self) -> list[list[int]]:
        """The joints of each part."""
        return [[j for j, part in enumerate(self.part) if part == p] for p in range(len(self.part_names))]

    @property
    def part_bones(self) -> tuple[tuple[int, int], ...]:
        """Pairs of parts that a bone joins, each once."""
        pairs = {tuple(sorted((self.part[a], self.part[b]))) for a, b in self.bones}
        return tuple(sorted((a, b) for a, b in pairs if a != b))

    def joint(self, name: str) -> int:
        """The number of a joint.

        Raises:
            ValueError: no joint has this name.
        """
        if name not in self.joints:
            raise ValueError(f"Body: there is no joint {name!r}; expected one of {', '.join(self.joints)}.")
        return self.joints.index(name)


def read(paths: Mapping[str, Path]) -> Parts:
    """The one file of a data set, by its own split."""
    ((_, path),) = paths.items()
    return sequences(path)


def sequences(path: Path, min_frames: int = 1) -> Parts:
    """The sequences of an npz file, as training and test graphs.

    The file has joints ``(frames of all sequences, V, 3)`` in metres, end to end, y upwards; offsets, where each
    sequence begins, and the end of the last; label, is_train, name, one a sequence; class_names, joint_names, bones
    ``(.., 2)``, part, part_names. It may have subject, view, env, trial, numbers that go with a sequence; in_557, which
    of them are in use; action_sets ``(sets, classes)``, see :func:`action_set`.

    A joint that is exactly (0, 0, 0) was not seen, as no one stands inside the camera. It is put on the line between
    where it was seen before and after, or where it was seen last or first.

    Args:
        path: the file.
        min_frames: the fewest that a sequence may have.

    Returns:
        ``{"train": [...], "test": [...]}``: space-time graphs, see :mod:`mpnn.spacetime`, each with x ``(T * V, 3)``,
        y ``(1,)``, name, body, filled ``(T * V,)`` whether a joint was not seen, and the numbers that the file has; its
        view is called camera.

    Raises:
        KeyError: the file lacks a field.
        ValueError: the offsets do not fit; a sequence has too few frames, something that is no number, or a joint that
            is never seen, and then the message names it.
    """
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    lacking = [name for name in NEEDED if name not in arrays]
    if lacking:
        raise KeyError(f"{Path(path).name}: has no {', '.join(lacking)}; expected {', '.join(NEEDED)}.")
    check_offsets(Path(path).name, arrays)
    body, parts = body_of(arrays), {"train": [], "test": []}
    for k in arrays.get("in_557", np.ones(len(arrays["label"]), bool)).nonzero()[0].tolist():
        parts["train" if arrays["is_train"][k] else "test"].append(sequence(arrays, k, body, min_frames))
    return parts


NEEDED = (
    "joints", "offsets", "label", "is_train", "name", "class_names", "joint_names", "bones", "part", "part_names",
)  # fmt: skip


def body_of(arrays: Mapping[str, np.ndarray]) -> Body:
    bones = tuple((int(a), int(b)) for a, b in arrays["bones"])
    names = (tuple(map(str, arrays[name])) for name in ("joint_names", "part_names", "class_names"))
    joints, part_names, classes = names
    return Body(joints, bones, tuple(arrays["part"].tolist()), part_names, classes)


def check_offsets(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    offsets, count = arrays["offsets"], len(arrays["label"])
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(arrays["joints"]):
        raise ValueError(
            f"{name}: {len(offsets)} offsets from {offsets[:1]} to {offsets[-1:]} for {count} sequences and "
            f"{len(arrays['joints'])} frames; expected {count + 1}, from 0 to the number of frames."
        )


def sequence(arrays: Mapping[str, np.ndarray], k: int, body: Body, min_frames: int) -> Data:
    """One sequence as a graph."""
    name, (start, end) = str(arrays["name"][k]), arrays["offsets"][k : k + 2].tolist()
    if end - start < max(min_frames, 1):
        raise ValueError(
            f"skeletons: sequence {name!r} has {end - start} frames; expected {max(min_frames, 1)} or more. Leave it "
            "out of the file, or lower min_frames."
        )
    x, unseen = filled(torch.from_numpy(arrays["joints"][start:end]), name, body.joints)
    data = spacetime.skeleton(x, body.bones)
    data.y, data.name, data.body, data.filled = torch.tensor([int(arrays["label"][k])]), name, body, unseen.flatten()
    for given, field in FIELDS.items():
        if given in arrays:
            data[field] = int(arrays[given][k])
    if "action_sets" in arrays:
        data.action_sets = torch.from_numpy(arrays["action_sets"])[:, data.y].t()
    return data


def filled(x: Tensor, name: str = "", joints: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Joints that were not seen, which are (0, 0, 0), put on the line between where they were seen.

    Shape:
        x ``(T, V, 3)`` -> the same, and ``(T, V)``, which were not seen.

    Raises:
        ValueError: a coordinate is no finite number, or a joint is never seen.

    Example:
        >>> x = torch.tensor([[0.0, 0, 0], [1, 2, 3], [0, 0, 0], [3, 2, 1]])[:, None]
        >>> filled(x)[0][:, 0].tolist()
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [3.0, 2.0, 1.0]]
    """
    odd = (~x.isfinite()).any(dim=2).nonzero()
    if len(odd):
        t, v = odd[0].tolist()
        raise ValueError(
            f"skeletons: sequence {name!r} has {x[t, v].tolist()} at frame {t}, {_joint(v, joints)}; expected finite "
            f"numbers. {len(odd)} joints are so. Set them to 0, which means that they were not seen, or leave it out."
        )
    unseen = (x == 0).all(dim=2)
    never = unseen.all(dim=0).nonzero().flatten().tolist()
    if never and len(x):
        raise ValueError(
            f"skeletons: sequence {name!r} never has {_joint(never[0], joints)}, which is (0, 0, 0) in all {len(x)} "
            f"frames; expected each joint to be seen once. {len(never)} joints are so. Leave the sequence out."
        )
    out = x.clone()
    for v in unseen.any(dim=0).nonzero().flatten().tolist():
        seen = (~unseen[:, v]).nonzero().flatten()
        out[:, v] = _between(seen.to(x.dtype), x[seen, v], torch.arange(len(x), dtype=x.dtype))
    return out, unseen


def _joint(v: int, joints: Sequence[str]) -> str:
    return f"joint {v} ({joints[v]})" if v < len(joints) else f"joint {v}"


def _between(times: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Values that are known at some rising times, at others: on the line between two, beyond the ends the end's."""
    after = torch.searchsorted(times, at).clamp(1, max(len(times) - 1, 1)).clamp(max=len(times) - 1)
    before = (after - 1).clamp(min=0)
    step = (times[after] - times[before]).clamp(min=1e-6)
    share = ((at - times[before]) / step).clamp(0, 1).view(-1, *[1] * (values.dim() - 1))
    return torch.lerp(values[before], values[after], share)


def frames(data: Data) -> Tensor:
    """The joints of a sequence frame by frame: ``(T, V, F)``."""
    return data.x.view(-1, len(data.vertex_id), data.x.shape[-1])


def resampled(x: Tensor, at: int | Tensor) -> Tensor:
    """A sequence at other times, on the line between two frames.

    Args:
        at: how many frames, from the first to the last; or the times themselves, in frames of ``x``.

    Shape:
        x ``(T, V, F)`` -> ``(T', V, F)``. A sequence of one frame stands still.

    Example:
        >>> resampled(torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1), 5).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    if isinstance(at, int):
        at = torch.linspace(0, len(x) - 1, at, dtype=x.dtype)
    return _between(torch.arange(len(x), dtype=x.dtype), x, at)


def centred(x: Tensor, body: Body) -> Tensor:
    """The body's root, ``hip_center``, is at the origin in the first frame; so where it goes to is kept.

    Shape:
        x ``(T, V, 3)`` -> the same.
    """
    return x - x[:1, body.joint("hip_center")][:, None]


def smoothed(x: Tensor, reach: int) -> Tensor:
    """The mean of each frame and so many before and after it, against the noise of a depth camera.

    Args:
        reach: how many frames to each side; beyond the ends of the sequence the end's counts.

    Shape:
        x ``(T, V, F)`` -> the same.

    Example:
        >>> smoothed(torch.tensor([0.0, 3.0, 0.0]).view(3, 1, 1), 1).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    longer = torch.cat([x[:1].expand(reach, -1, -1), x, x[-1:].expand(reach, -1, -1)])
    return longer.unfold(0, 2 * reach + 1, 1).mean(dim=-1)


def by_part(x: Tensor, body: Body) -> Tensor:
    """The features of the joints of each part side by side, with zeros where a part has fewer joints than another.

    Shape:
        x ``(..., V, F)`` -> ``(..., P, J * F)``, J the joints of the largest part.
    """
    most = max(map(len, body.parts))
    joints = [F.pad(x[..., part, :], (0, 0, 0, most - len(part))) for part in body.parts]
    return torch.stack(joints, dim=-3).flatten(-2)


def facing(x: Tensor, body: Body, up_to: int = 5) -> Tensor:
    """Turns a sequence about the vertical axis, so that the person faces the camera when it begins.

    Across the body lead the lines from the right to the left hip and shoulder. Their sum over the first frames comes to
    lie along -x, as seen from above, which is where the left side is of someone who faces the camera. Without hips and
    shoulders that are apart, nothing is turned.

    Args:
        up_to: how many frames count.

    Shape:
        x ``(T, V, 3)``, y upwards -> the same.
    """
    pairs = [(body.joint(f"{what}_left"), body.joint(f"{what}_right")) for what in ("hip", "shoulder")]
    across = sum((x[:up_to, left] - x[:up_to, right]).sum(dim=0) for left, right in pairs)
    length = across[[0, 2]].norm()
    if not length > 1e-6:
        return x
    c, s = -across[0] / length, -across[2] / length
    turn = x.new_tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return x @ turn


def action_set(parts: Parts, number: int) -> Parts:
    """The actions of one of the sets that MSR-Action3D is cut into, AS1 to AS3, with classes from 0 on.

    Source: Li, Zhang & Liu 2010, table 1. Deviations: none in the sets; which subjects train is the file's.

    Raises:
        ValueError: there is no such set.
    """
    chosen = next((data.action_sets for data in parts["train"] if "action_sets" in data), None)
    if chosen is None or not 1 <= number <= chosen.shape[1]:
        there = "no action sets" if chosen is None else f"the sets 1 to {chosen.shape[1]}"
        raise ValueError(f"action_set: number={number}; the sequences have {there}.")
    kept = {part: [data for data in some if bool(data.action_sets[0, number - 1])] for part, some in parts.items()}
    classes = sorted({int(data.y) for some in kept.values() for data in some})
    renumber = {old: new for new, old in enumerate(classes)}
    return {part: [_relabelled(data, renumber[int(data.y)], classes) for data in some] for part, some in kept.items()}


def _relabelled(data: Data, y: int, classes: list[int]) -> Data:
    new, body = data.clone(), data.body
    new.y = torch.tensor([y])
    new.body = Body(body.joints, body.bones, body.part, body.part_names, tuple(body.classes[c] for c in classes))
    return new

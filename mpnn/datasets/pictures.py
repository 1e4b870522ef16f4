"""Pictures with a class for each pixel, from a folder or a zip archive.

The layout, of which CamVid is an example:

=========================================== ==========================================================================
``images/NAME.jpg`` (or ``.png``)           the picture
``labels/NAME.png``                         grey or palette picture of the same size; a pixel's value is its class
``train.txt``, ``val.txt``, ``test.txt``    the names in each part, one a line
``classes.json``                            ``class_names``, ``palette`` (red, green, blue of each class, 0 to 255) and
                                            ``ignore_index``, the class of pixels without a label, if there is one
=========================================== ==========================================================================
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

__all__ = ["Classes", "classes", "labelled", "read"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Classes:
    """The classes of a set of pictures, less the one of pixels without a label.

    Attributes:
        names: what they are called.
        palette: their colours, (red, green, blue), 0 to 255.
        ignore: the value of pixels without a label in the files, or None.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore: int | None


def read(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """The parts of a data set that is one archive; see :func:`labelled`."""
    (path,) = paths.values()
    return labelled(path)


def classes(path: str | Path) -> Classes:
    """What ``classes.json`` says. A class of pixels without a label must be the last.

    Raises:
        ValueError: another class than the last one is to be ignored, or there is not one colour for each class.
        FileNotFoundError: there is no ``classes.json``.
    """
    found = json.loads(_Store(path).bytes("classes.json"))
    names, palette, ignore = found["class_names"], found["palette"], found.get("ignore_index")
    if len(palette) != len(names):
        raise ValueError(
            f"pictures: {path} has {len(names)} class_names and {len(palette)} colours in palette; expected one each."
        )
    if ignore is not None and ignore != len(names) - 1:
        raise ValueError(
            f"pictures: {path} ignores class {ignore}, of {len(names)}; expected the last one, {len(names) - 1}. Give "
            "pixels without a label the highest number."
        )
    kept = slice(len(names) - (ignore is not None))
    return Classes(tuple(names[kept]), tuple(map(tuple, palette[kept])), ignore)


def labelled(path: str | Path) -> dict[str, list[Data]]:
    """The pictures of a folder or a zip archive by part, those that have a list of names.

    Returns:
        ``{"train": [...], "val": [...], "test": [...]}``; a node is a pixel, row by row, and there are no edges (yet):
        :func:`mpnn.images.superpixels` makes some. Of each picture x ``(H * W, 3)`` uint8 red, green, blue;
        y ``(H * W,)`` int16 class, -1 without a label; image_size ``(1, 2)`` (H, W); name.

    Raises:
        FileNotFoundError: a picture, or all lists, are missing.
        ValueError: a picture and its labels differ in size; a label is no class; ``classes.json`` is wrong.
    """
    store, known = _Store(path), classes(path)
    parts = {part: store.bytes(f"{part}.txt").decode().split() for part in PARTS if f"{part}.txt" in store}
    if not parts:
        raise FileNotFoundError(f"pictures: {path} has no train.txt, val.txt or test.txt; expected at least one.")
    return {part: [_picture(store, name, known) for name in names] for part, names in parts.items()}


def _picture(store: _Store, name: str, known: Classes) -> Data:
    image, label = store.pixels(f"images/{name}", "RGB"), store.pixels(f"labels/{name}", None)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"pictures: {name} is {image.shape[:2]} and its labels are {label.shape}; expected (H, W) of both the same."
        )
    y = torch.from_numpy(label.astype(np.int16)).flatten()
    if known.ignore is not None:
        y[y == known.ignore] = -1
    if y.numel() and int(y.max()) >= len(known.names):
        pixel = int(y.argmax())
        row, column = divmod(pixel, label.shape[1])
        raise ValueError(
            f"pictures: {name} has the label {int(y[pixel])} in row {row}, column {column}; expected a class of "
            f"classes.json, 0 to {len(known.names) - 1 + (known.ignore is not None)}."
        )
    size = torch.tensor([label.shape])
    return Data(x=torch.from_numpy(image).reshape(-1, 3), y=y, image_size=size, num_nodes=len(y), name=name)


class _Store:
    """The files of a folder or of a zip archive by name."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.archive = None if self.path.is_dir() else zipfile.ZipFile(self.path)
        self.names = set(self.archive.namelist()) if self.archive else None

    def __contains__(self, name: str) -> bool:
        return (self.path / name).is_file() if self.names is None else name in self.names

    def bytes(self, name: str) -> bytes:
        if name not in self:
            raise FileNotFoundError(
                f"pictures: {self.path} has no {name}. The layout is images/NAME.jpg, labels/NAME.png, train.txt, "
                "val.txt, test.txt and classes.json."
            )
        return self.archive.read(name) if self.archive else (self.path / name).read_bytes()

    def pixels(self, stem: str, mode: str | None) -> np.ndarray:
        from PIL import Image

        name = next((f"{stem}{end}" for end in (".png", ".jpg", ".jpeg") if f"{stem}{end}" in self), f"{stem}.png")
        with Image.open(io.BytesIO(self.bytes(name))) as image:
            return np.array(image.convert(mode) if mode else image)

"""Pictures with a class for each pixel: the layout in a folder and in a zip archive, and what is wrong with others."""

import json
import zipfile

import numpy as np
import pytest
import torch

import mpnn
from mpnn.datasets import pictures

Image = pytest.importorskip("PIL.Image")
COLOURS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
LABELS = np.array([[0, 0, 1, 2], [1, 1, 0, 2]], dtype=np.uint8)  # 2 is no label
NAMED = {"class_names": ["road", "sky", "void"], "palette": [[1, 2, 3], [4, 5, 6], [0, 0, 0]], "ignore_index": 2}


@pytest.fixture
def folder(tmp_path):
    """Two pictures for training and one for the test; there is no validation part."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for k, name in enumerate(("one", "two", "three")):
        Image.fromarray(COLOURS + k).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(LABELS).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "train.txt").write_text("two\none\n")
    (tmp_path / "test.txt").write_text("three\n")
    (tmp_path / "classes.json").write_text(json.dumps(NAMED))
    return tmp_path


def test_a_node_is_a_pixel_row_by_row_with_its_colour_and_class(folder):
    parts = pictures.labelled(folder)
    assert {part: [data.name for data in some] for part, some in parts.items()} == {
        "train": ["two", "one"], "test": ["three"],
    }  # fmt: skip
    data = parts["train"][1]
    assert torch.equal(data.x, torch.from_numpy(COLOURS).view(8, 3)) and data.image_size.tolist() == [[2, 4]]
    assert data.y.tolist() == [0, 0, 1, -1, 1, 1, 0, -1] and data.num_nodes == 8
    assert mpnn.datasets.count(parts) == {
        "graphs": 3, "nodes": 24, "edges": 0, "features": 3, "classes": 2, "train": 2, "test": 1,
    }  # fmt: skip


def test_a_zip_archive_gives_what_its_folder_gives(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            if path.name != "all.zip":
                archive.write(path, path.relative_to(folder))
    for part, some in pictures.labelled(folder).items():
        for data, other in zip(some, pictures.labelled(tmp_path / "all.zip")[part], strict=True):
            assert torch.equal(data.x, other.x) and torch.equal(data.y, other.y) and data.name == other.name


def test_palette_pictures_give_the_index_and_not_the_colour(folder):
    paletted = Image.fromarray(LABELS)
    paletted.putpalette([200, 100, 50, 9, 9, 9, 7, 7, 7])
    paletted.save(folder / "labels" / "two.png")
    assert paletted.mode == "P"
    two, one = pictures.labelled(folder)["train"]
    assert torch.equal(two.y, one.y)


def test_classes_are_those_with_labels(folder):
    known = pictures.classes(folder)
    assert known == pictures.Classes(("road", "sky"), ((1, 2, 3), (4, 5, 6)), 2)
    (folder / "classes.json").write_text(json.dumps({k: v for k, v in NAMED.items() if k != "ignore_index"}))
    assert pictures.classes(folder).names == ("road", "sky", "void")
    assert pictures.labelled(folder)["test"][0].y.tolist() == LABELS.flatten().tolist()


@pytest.mark.parametrize(
    "change, error, says",
    [
        (lambda f: (f / "labels" / "two.png").unlink(), FileNotFoundError, r"has no labels/two\.png\. The layout is"),
        (lambda f: (f / "classes.json").unlink(), FileNotFoundError, r"has no classes\.json"),
        (lambda f: [(f / n).unlink() for n in ("train.txt", "test.txt")], FileNotFoundError, r"no train\.txt"),
        (lambda f: Image.new("L", (3, 2)).save(f / "labels" / "one.png"), ValueError, r"one is \(2, 4\).*\(2, 3\)"),
        (
            lambda f: Image.fromarray(LABELS * 3).save(f / "labels" / "one.png"),
            ValueError,
            "one has the label 6 in row 0, column 3; expected .* 0 to 2",
        ),
        (
            lambda f: (f / "classes.json").write_text(json.dumps(NAMED | {"ignore_index": 0})),
            ValueError,
            "ignores class 0, of 3; expected the last one, 2",
        ),
        (
            lambda f: (f / "classes.json").write_text(json.dumps(NAMED | {"palette": [[0, 0, 0]]})),
            ValueError,
            "3 class_names and 1 colours",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(folder, change, error, says):
    change(folder)
    with pytest.raises(error, match=says):
        pictures.labelled(folder)


def test_camvid_is_as_its_card_says(mpnn_data):
    parts = mpnn.datasets.load("camvid")  # which checks the counts
    share = torch.bincount(torch.cat([data.y for data in parts["train"]]).long() + 1)[1:].double()
    expected = [16.8, 23.2, 1.0, 31.8, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3]  # % of the training pixels
    found = 100 * share / sum(data.num_nodes for data in parts["train"])
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=0.05)

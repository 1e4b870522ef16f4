"""Importing the library brings nothing along that only some of its parts need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpnn

LATE = (
    "networkx",
    "scipy.sparse",
    "scipy.io",
    "matplotlib",
    "skimage",
    "sklearn",
    "pooch",
    "ogb",
    "ignite",
    "torchmetrics",
    "pandas",
)


@pytest.fixture(scope="module")
def loaded():
    """What is loaded after ``import mpnn`` and was not after torch and torch_geometric, on which it stands."""
    code = (
        "import sys, torch, torch_geometric; before = set(sys.modules); import mpnn; print(*set(sys.modules) - before)"
    )
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("name", LATE)
def test_importing_the_library_does_not_import(loaded, name):
    assert "mpnn.nn" in loaded and name not in loaded, f"import mpnn imports {name}; import it where it is used"


def test_importing_the_library_imports_every_part_that_the_guide_names():
    guide = (Path(__file__).parent.parent / "docs" / "guide.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmpnn\.([a-z]+)\b(?=\.)", guide)) - {"experiment"}  # which is for scripts
    assert {"loader", "train", "products"} <= named <= set(mpnn.__all__)

"""Importing the library brings nothing along that only some of its parts need."""

import subprocess
import sys

import pytest

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

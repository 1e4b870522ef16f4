"""docs/layers.md says of every layer what its class says."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mpnn

PAGE = (Path(__file__).parent.parent / "docs" / "layers.md").read_text()
ROW = re.compile(r"^\| `(\w+)`( s)? \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", flags=re.M)
ROWS = {row[0]: row[1:] for row in ROW.findall(PAGE)}
LAYERS = {name: getattr(mpnn.nn, name) for name in mpnn.nn.__all__ if inspect.isclass(getattr(mpnn.nn, name))}
LAYERS = {name: layer for name, layer in LAYERS.items() if issubclass(layer, nn.Module)}
SYNCHRONOUS = {
    "GCN": (4, 2), "GAT": (4, 2), "GATv2": (4, 2), "GraphSAGE": (4, 2), "MeanNetwork": (4, 2), "Chebyshev": (4, 2),
    "Diffusion": (4, 2), "GIN": (nn.Linear(4, 2),), "GraphNetwork": (None, nn.Linear(4, 2)), "ContextAttention": (4,),
}  # fmt: skip


def test_every_layer_is_on_the_page_once():
    assert sorted(ROWS) == sorted(LAYERS) and len(re.findall(r"^\| `\w+`", PAGE, flags=re.M)) == len(ROWS)


def arguments(function) -> tuple[list[str], list[str]]:
    """The names that must be given, and those that may be."""
    taken = [p for p in inspect.signature(function).parameters.values() if p.name != "self" and p.kind != p.VAR_KEYWORD]
    needed = [p.name for p in taken if p.default is p.empty]
    return needed, [p.name for p in taken if p.default is not p.empty]


def listed(cell: str) -> tuple[list[str], list[str]]:
    needed, _, may = cell.partition("; ") if cell.startswith("`") else ("", "", cell)
    return [re.findall(r"\w+", part) for part in (needed, may)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_made_and_called_with_what_the_page_says(name):
    _, made, called, _, source = ROWS[name]
    assert tuple(listed(made)) == arguments(LAYERS[name].__init__)
    assert tuple(listed(called)) == arguments(LAYERS[name].forward)
    for paper in re.findall(r"arxiv.org/abs/([\d.]+)", source):
        assert f"arXiv:{paper}" in LAYERS[name].__doc__


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_the_layers_with_an_s_take_sparse_words_and_the_others_refuse_them(name):
    layer, edge_index = LAYERS[name](*SYNCHRONOUS[name]), torch.tensor([[0, 1, 2], [1, 2, 0]])
    x = torch.eye(3, 4)
    if not ROWS[name][0]:
        with pytest.raises(ValueError, match=f"{name}.* x is sparse"):
            layer(x.to_sparse_csr(), edge_index)
        return
    assert torch.allclose(layer(x.to_sparse_csr(), edge_index), layer(x, edge_index), atol=1e-6)


def test_the_section_of_layers_that_fire_at_once_is_tried_in_full():
    section = PAGE.split("## All nodes at once")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.M)) == set(SYNCHRONOUS)

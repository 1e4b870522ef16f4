"""Layers inside the transforms of torch.func: which ways of running can, and what is kept of a graph meanwhile."""

import contextlib

import pytest
import torch
from compare import gradients

import mpnn
from mpnn.nn import GAT, GCN, GRU, ChildSumTreeLSTM

X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
LAYERS = {
    "GCN": lambda: GCN(3, 2),
    "GAT": lambda: GAT(3, 2, heads=2),
    "GRU": lambda: GRU(3, 2),
    "ChildSumTreeLSTM": lambda: ChildSumTreeLSTM(3, 2),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def made(name):
    """A layer, a graph that nothing is known of, and a number that a pass gives."""
    torch.manual_seed(0)
    layer, edge_index = LAYERS[name]().double(), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])

    def number(x):
        out = layer(x, edge_index)
        return (out[0] if isinstance(out, tuple) else out).tanh().pow(2).sum()

    return layer, number


@every_layer
def test_the_reference_can_be_transformed(name):
    _, number = made(name)
    x = X.clone().requires_grad_()
    with mpnn.engine("reference"):
        found = torch.func.grad(number)(X)  # the graph is planned in here
        (expected,) = torch.autograd.grad(number(x), x)
        torch.testing.assert_close(found, expected)
        stacked = torch.stack([X, 2 * X])
        torch.testing.assert_close(torch.func.vmap(number)(stacked), torch.stack([number(X), number(2 * X)]))
        each = torch.func.vmap(torch.func.grad(number))(stacked)
    torch.testing.assert_close(each[0], expected)


@every_layer
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=["grad", "vmap"])
@pytest.mark.parametrize("planned", [False, True])
def test_what_is_kept_of_a_graph_that_was_seen_in_a_transform_is_good_after_it(name, transform, planned):
    layer, number = made(name)
    if planned:
        with mpnn.engine("reference"):
            number(X)
    with contextlib.suppress(RuntimeError):  # some ways of running cannot be transformed
        transform(number)(X if transform is torch.func.grad else X[None])
    found = gradients(number(X), list(layer.parameters()))
    layer, number = made(name)
    for a, b in zip(found, gradients(number(X), list(layer.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_small_graphs_can_be_transformed_as_they_are():
    _, number = made("GAT")
    x = X.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(number)(X), torch.autograd.grad(number(x), x)[0])


@pytest.mark.parametrize("name", ["GCN", "ChildSumTreeLSTM"])
def test_a_way_that_cannot_be_transformed_names_the_one_that_can(name):
    _, number = made(name)
    with pytest.raises(RuntimeError) as found:
        torch.func.grad(number)(X)
    assert any("use mpnn.engine('reference')" in note for note in found.value.__notes__)

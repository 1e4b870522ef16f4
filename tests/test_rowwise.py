"""Node fields that are functions of others, row by row."""

import pytest
import torch
from torch import nn

import mpnn


class Cell(mpnn.MessagePassing):
    state, schedule, hidden_features = ("h",), "topological", 4

    def message(self, h_j, z_i):
        return torch.sigmoid(z_i) * h_j

    def update(self, z, message):
        return torch.tanh(z + message)


TREE = torch.tensor([[6, 1, 2, 3, 4], [5, 6, 6, 5, 2]])  # ids out of order


@pytest.mark.parametrize("way", ["reference", "wavefront"])
@pytest.mark.parametrize("schedule", ["topological", "synchronous"])
def test_a_function_of_rows_gives_what_its_result_gives(way, schedule):
    torch.manual_seed(0)
    x, linear, cell = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), nn.Linear(3, 4).double(), Cell()
    leaves = [x, *linear.parameters()]
    with mpnn.engine(way):
        plain = cell.propagate(TREE, schedule=schedule, z=linear(x))
        row_by_row = cell.propagate(TREE, schedule=schedule, z=mpnn.rowwise(linear, x))
    torch.testing.assert_close(row_by_row, plain, rtol=1e-12, atol=0)
    expected, found = (torch.autograd.grad(value.pow(2).sum(), leaves) for value in (plain, row_by_row))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-14)


def test_the_function_is_given_rows_in_level_order():
    seen = []
    number = torch.arange(7.0)[:, None]
    Cell().propagate(TREE, z=mpnn.rowwise(lambda rows: seen.append(rows) or rows.expand(-1, 4), number))
    assert [rows.flatten().tolist() for rows in seen] == [[0.0, 1.0, 3.0, 4.0, 2.0, 6.0, 5.0]]


def test_wrong_rows_are_named():
    with pytest.raises(ValueError, match="'z' has 6 rows, but there are 7 nodes"):
        Cell().propagate(TREE, num_nodes=7, z=mpnn.rowwise(nn.Identity(), torch.ones(6, 4)))

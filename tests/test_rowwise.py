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


class Gated(Cell):
    def update(self, message):
        return 1 + torch.tanh(message)


@pytest.mark.parametrize(
    ("schedule", "numbers"),
    [
        ("topological", [2, 6, 5]),  # 0, 1, 3 and 4 are leaves: no edge asks for their gate
        (mpnn.schedule.ordered(torch.arange(7.0)), [0, 1, 4, 6, 2, 3, 5]),  # 6 fires among the first, and hears 1 and 2
    ],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_function_that_edges_alone_ask_for_is_not_computed_where_none_ends(schedule, numbers, recompute):
    torch.manual_seed(0)
    seen, x, linear = [], torch.randn(7, 3, dtype=torch.float64, requires_grad=True), nn.Linear(3, 4).double()
    h = torch.randn(7, 4, dtype=torch.float64)
    leaves = [x, *linear.parameters()]

    def look(rows):
        seen.extend((rows[:, None] == x).all(2).nonzero()[:, 1].tolist())
        return linear(rows)

    with mpnn.engine("reference"):
        expected = Gated().propagate(TREE, schedule=schedule, h=h, z=linear(x))
    with mpnn.engine("wavefront", recompute=recompute):
        found = Gated().propagate(TREE, schedule=schedule, h=h, z=mpnn.rowwise(look, x))
    assert seen == numbers or recompute
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    pairs = zip(*(torch.autograd.grad(value.pow(2).sum(), leaves) for value in (expected, found)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-14)


def test_functions_of_the_same_rows_are_given_them_once_ordered():
    x, seen = torch.randn(7, 4), []
    note = lambda rows: seen.append(rows.data_ptr()) or rows  # noqa: E731

    class Two(Cell):
        def update(self, z, y, message):
            return torch.tanh(z + y + message)

    Two().propagate(TREE, z=mpnn.rowwise(note, x), y=mpnn.rowwise(note, x))
    assert len(seen) == 2 and seen[0] == seen[1]


def test_wrong_rows_are_named():
    with pytest.raises(ValueError, match="'z' has 6 rows, but there are 7 nodes"):
        Cell().propagate(TREE, num_nodes=7, z=mpnn.rowwise(nn.Identity(), torch.ones(6, 4)))

"""scripts/grid.py: what its networks read and say, and that a run that was killed goes on."""

from dataclasses import replace

import pytest
import torch
from compare import assert_close
from run_scripts import FIELDS, killed, load, run, saving

import mpnn.train


@pytest.fixture(scope="module")
def grid():
    return load("grid")


@pytest.mark.parametrize("digits", [2, 3])
def test_sums_are_read_as_text_and_are_right(grid, digits):
    parts = grid.sums(replace(grid.Config(), digits=digits, train=300, test=50), seed=1)
    assert [len(parts[part][0]) for part in ("train", "val", "test")] == [300, 50, 50]
    for x, y in parts.values():
        for tokens, total in zip(x.tolist(), y.tolist(), strict=True):
            text = "".join("0123456789-"[token] for token in tokens)
            a, b = text[1 : 1 + digits], text[2 + digits : 2 + 2 * digits]
            assert text == f"-{a}-{b}-{'-' * digits}" and len(text) == 3 * len(total)
            assert int(a) + int(b) == int("".join(map(str, total)))


def test_no_pair_of_numbers_comes_twice_and_seeds_draw_other_ones(grid):
    config = replace(grid.Config(), train=800, test=100)
    first, second = ([tuple(row) for x, _ in grid.sums(config, seed).values() for row in x.tolist()] for seed in (0, 1))
    assert len(set(first)) == 1000 and first != second


def test_each_picture_is_in_one_part_with_its_digit(grid):
    from sklearn.datasets import load_digits

    parts = grid.pictures(grid.Config(), seed=0)
    assert [len(y) for _, y in parts.values()] == [1259, 179, 359]
    known = sorted((*(x / 16).flatten(), y) for x, y in zip(load_digits().images, load_digits().target, strict=True))
    found = sorted((*x.flatten().tolist(), int(y)) for part in parts.values() for x, y in zip(*part, strict=True))
    assert found == known


def test_a_pass_ends_in_the_corner_opposite_to_where_it_starts(grid):
    plan, dimension, last = grid.grids((3, 5), 2, grid.CORNERS)
    assert last.tolist() == [15 * k + corner for k, corner in enumerate([14, 14, 4, 4, 10, 10, 0, 0])]
    assert plan.num_levels == 7 and len(dimension) == plan.num_edges


def test_a_mirrored_picture_is_read_alike_from_the_mirrored_corner(grid):
    torch.manual_seed(0)
    model, x = grid.GridReader(4, grid.CORNERS).double(), torch.rand(3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        blocks = model.read.weight.view(10, 4, 8)
        mirrored = grid.GridReader(4, grid.CORNERS).double()
        mirrored.load_state_dict(model.state_dict())
        mirrored.read.weight.copy_(blocks[:, [1, 0, 3, 2]].flatten(1))  # rows are turned, or not
        assert_close(mirrored(x.flip(1)), model(x), "rows")
        mirrored.read.weight.copy_(blocks[:, [2, 3, 0, 1]].flatten(1))
        assert_close(mirrored(x.flip(2)), model(x), "columns")
        assert not torch.allclose(model(x.flip(2)), model(x))


@pytest.mark.parametrize("kind", ["GridAdder", "StackedAdder"])
def test_an_adder_hears_every_digit_and_says_no_digit_before_it(grid, kind):
    torch.manual_seed(0)
    model = getattr(grid, kind)(8, 3)
    x, y = grid.sums(replace(grid.Config(), train=20, test=1), seed=0)["train"]
    scores = model(x)
    assert scores.shape == (*y.shape, 10)
    assert_close(model(x[:1]), scores[:1], "alone")
    for place in (1, 2, 4, 5):
        other = x.clone()
        other[:, place] = (other[:, place] + 1) % 10
        assert (model(other) != scores).any(dim=2).all()
    other = x.clone()
    other[:, -1] = 0  # the last place: heard after the first two digits were said
    assert (model(other) == scores).all(dim=2).all(dim=0).tolist() == [True, True, False]


def test_the_grid_reads_a_token_below_and_is_read_above(grid):
    torch.manual_seed(0)
    model, line = grid.GridAdder(8, 2), mpnn.graphs.grid(3, 2)  # time, depth
    x = torch.tensor([[3, 4, 5]])
    h0, m0 = model.embed(x[0].repeat_interleave(2)).chunk(2, dim=1)
    h, _ = model.cell(torch.zeros(6, 0), line.edge_index, line.dimension, {1: (h0, m0)})
    assert_close(model(x)[0], model.read(h[-1:, 1]), "last step, upper layer, depth")


def test_forget_gates_are_open_at_the_beginning(grid):
    for name, bias in grid.GridAdder(8, 2).cell.named_parameters():
        if name == "bias":
            assert (bias[16:32] == 1).all() and not (bias[:16] == 1).any() and not (bias[32:] == 1).any()
    for name, bias in grid.StackedAdder(8, 2).cell.named_parameters():
        assert name[:7] != "bias_ih" or ((bias[8:16] == 1).all() and not (bias[16:] == 1).any())


def test_a_row_a_model_and_a_picture(tmp_path, monkeypatch):
    rows = run("grid", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == [
        "stacked LSTM", "Grid LSTM", "LSTM over rows", "Grid LSTM", "Grid LSTM, four corners",
    ]  # fmt: skip
    assert all(row.keys() >= FIELDS and len(row["curves"][0]) == 5 and row["weights"] > 1000 for row in rows)
    assert all(row["mean"] > 15 for row in rows[2:])  # percent; chance is 10
    assert (tmp_path / "grid.png").stat().st_size > 20_000
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    arguments = ("--smoke", "--task", "digits", "--model", "grid", "--no-picture")
    whole = run("grid", tmp_path, monkeypatch, *arguments)
    assert [row["model"] for row in whole] == ["Grid LSTM", "Grid LSTM, four corners"]
    with killed(2) as before:
        run("grid", tmp_path, monkeypatch, *arguments)
    with saving() as after:
        resumed = run("grid", tmp_path, monkeypatch, *arguments)
    assert [(row["mean"], row["curves"]) for row in resumed] == [(row["mean"], row["curves"]) for row in whole]
    assert len(before + after) == sum(len(curve) for row in whole for curve in row["curves"])  # no epoch was run again

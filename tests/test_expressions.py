"""mpnn.expressions against an evaluator that reads the text and the textbook meaning of each operator."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from mpnn.expressions import OPERATORS, TOKENS, evaluate, parse, random_expression, random_expressions, to_text

MEANING = {
    "MAX": max,
    "MIN": min,
    "MED": lambda values: int(statistics.median(values)),
    "SM": lambda values: sum(values) % 10,
}

expressions = st.recursive(
    st.integers(0, 9).map(str),
    lambda inner: st.builds(
        lambda name, arguments: f"[{name} {' '.join(arguments)} ]",
        st.sampled_from(OPERATORS),
        st.lists(inner, min_size=1, max_size=6),
    ),
    max_leaves=25,
)


def value_of(text):
    """Reads the words from the left, with a stack of lists."""
    stack = [[]]
    for word in text.split():
        if word == "]":
            name, *values = stack.pop()
            stack[-1].append(MEANING[name](values))
        elif word.startswith("["):
            stack.append([word[1:]])
        else:
            stack[-1].append(int(word))
    return stack[0][0]


@settings(deadline=None)
@given(expressions)
def test_the_value_is_the_textbook_one_and_the_text_survives_the_round_trip(text):
    data = parse(text)
    assert data.y.item() == value_of(text)
    assert to_text(data) == text
    assert data.is_directed() or data.num_nodes == 1


@pytest.mark.parametrize("text, value", [("[MED 1 4 ]", 2), ("[MED 9 1 8 2 ]", 5), ("[SM 9 9 9 ]", 7), ("7", 7)])
def test_hand_computed_values(text, value):
    assert parse(text).y.item() == value


def test_a_drawn_expression_is_a_tree_with_arguments_pointing_to_operators():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        data = random_expression(generator, max_depth=4, min_depth=2)
        child, parent = data.edge_index
        assert data.root_mask.tolist() == [True] + [False] * (data.num_nodes - 1)
        assert child.tolist() == list(range(1, data.num_nodes))  # one operator for each node but the root
        assert (data.depth[child] == data.depth[parent] + 1).all()
        arguments = torch.bincount(parent, minlength=data.num_nodes)
        assert ((arguments > 0) == (data.x >= 10)).all()
        assert set(arguments[data.x >= 10].tolist()) <= {2, 3, 4, 5}
        assert 2 <= data.depth.max() <= 4
        assert data.y.item() == value_of(to_text(data))


def test_all_tokens_and_argument_counts_are_drawn_about_equally_often():
    generator = torch.Generator().manual_seed(0)
    batch = Batch.from_data_list([random_expression(generator) for _ in range(2000)])
    count = torch.bincount(batch.x, minlength=len(TOKENS)).double()
    assert count[:10].min() > 0.85 * count[:10].max()
    assert count[10:].min() > 0.85 * count[10:].max()
    arguments = torch.bincount(batch.edge_index[1])
    number, frequency = arguments[arguments > 0].unique(return_counts=True)
    assert number.tolist() == [2, 3, 4, 5]
    assert frequency.min() > 0.85 * frequency.max()


def test_nest_is_the_share_of_arguments_that_are_operators():
    generator = torch.Generator().manual_seed(0)
    batch = Batch.from_data_list([random_expression(generator, max_depth=2, nest=0.4) for _ in range(2000)])
    assert (batch.x[batch.depth == 1] >= 10).double().mean() == pytest.approx(0.4, abs=0.02)
    assert (batch.x[batch.depth == 2] < 10).all()


def test_min_depth_is_reached_without_nesting_by_chance():
    data = random_expression(torch.Generator().manual_seed(0), min_depth=6, max_depth=9, nest=0.0)
    assert data.depth.max() == 6


def test_the_generator_decides_everything():
    draw = [to_text(random_expression(torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_a_batch_has_the_values_of_its_expressions():
    generator = torch.Generator().manual_seed(0)
    single = [random_expression(generator) for _ in range(30)]
    batch = Batch.from_data_list(single)
    value = evaluate(batch.x, batch.edge_index, batch.depth)
    assert torch.equal(value[batch.root_mask], torch.cat([data.y for data in single]))
    assert torch.equal(value, torch.cat([evaluate(data.x, data.edge_index, data.depth) for data in single]))
    assert to_text(batch.get_example(7)) == to_text(single[7])


def test_ten_thousand_nested_operators_need_no_recursion():
    text = "[SM 1 " * 10_000 + "0" + " ]" * 10_000
    data = parse(text)
    assert data.y.item() == 0 and data.depth.max() == 10_000
    assert to_text(data) == text


@pytest.mark.parametrize(
    "text, offender",
    [
        ("[MAX 1 [AVG 2 ] ]", r"'\[AVG' \(word 2 "),
        ("[MAX ]", r"'\]' \(word 1 "),
        ("[MAX 1 ] 2", "'2' .word 3 "),
        ("1 ]", r"'\]' \(word 1 "),
        ("MAX 1", "'MAX' .word 0 "),
        ("[3 1 ]", r"'\[3' \(word 0 "),
        ("[MAX 1 [MIN 2", "ends with 2 brackets open"),
        ("", "ends with 0 brackets open"),
    ],
)
def test_text_that_is_no_expression_is_refused_with_the_offending_word(text, offender):
    with pytest.raises(ValueError, match=offender):
        parse(text)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"min_depth": 4, "max_depth": 3}, "min_depth=4, max_depth=3"),
        ({"min_depth": 0}, "min_depth=0"),
        ({"max_args": 1}, "max_args=1"),
        ({"nest": 1.5}, "nest=1.5"),
    ],
)
def test_sizes_out_of_range_are_refused_with_their_value(options, named):
    with pytest.raises(ValueError, match=named):
        random_expression(**options)


def test_text_of_several_expressions_is_refused():
    batch = Batch.from_data_list([parse("1"), parse("2")])
    with pytest.raises(ValueError, match=r"2 expressions \(roots \[0, 1\]\)"):
        to_text(batch)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_many_expressions_are_those_drawn_one_after_the_other(count):
    options = dict(max_depth=4, min_depth=2, max_args=3, nest=0.5)
    one, many = (torch.Generator().manual_seed(5) for _ in range(2))
    expected = [random_expression(one, **options) for _ in range(count)]
    found = random_expressions(count, many, **options)
    assert len(found) == count
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("x", "edge_index", "y", "root_mask", "depth"))
        assert ours.num_nodes == theirs.num_nodes
        assert ours.y.tolist() == evaluate(ours.x, ours.edge_index, ours.depth)[:1].tolist()
    assert one.get_state().equal(many.get_state())
    with pytest.raises(ValueError, match="min_depth=3, max_depth=2"):
        random_expressions(count, min_depth=3, max_depth=2)

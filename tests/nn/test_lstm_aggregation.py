import pytest
import torch
from compare import assert_same, randomised
from hypothesis import given
from hypothesis import strategies as st

import mpnn
from mpnn.nn import LSTMAggregation


def paper_lstm(cell, rows):  # one message after the other; gate blocks i, f, g, o
    h = c = torch.zeros(cell.hidden_size, dtype=torch.float64)
    for x in rows:
        gates = cell.weight_ih_l0 @ x + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


@given(st.lists(st.integers(0, 5), max_size=12))
def test_a_node_reads_its_messages_in_order_whatever_else_is_there(index):
    aggr = randomised(LSTMAggregation(3, 4))
    x = torch.randn(len(index), 3, dtype=torch.float64, requires_grad=True)
    rows = [[x[e] for e, i in enumerate(index) if i == node] for node in range(6)]
    theirs = torch.stack([paper_lstm(aggr.lstm, messages) for messages in rows])
    ours = aggr(x, torch.tensor(index, dtype=torch.long), dim_size=6)
    assert_same(ours, theirs, [x, *aggr.parameters()])


def test_pointers_may_stand_in_for_an_index():
    aggr, x = LSTMAggregation(3, 4), torch.randn(5, 3)
    index, ptr = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 2, 2, 5])
    assert torch.equal(aggr(x, index, dim_size=3), aggr(x, ptr=ptr))


def test_messages_of_more_than_one_axis_are_refused():
    with pytest.raises(ValueError, match="two-dimensional"):
        LSTMAggregation(3, 4)(torch.ones(5, 3, 2), torch.zeros(5, dtype=torch.long))


def test_the_order_of_edges_is_the_order_of_reading():
    layer = mpnn.nn.GraphSAGE(3, 2, aggr="lstm")
    x = torch.randn(3, 3)
    there, back = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[1, 0], [2, 2]])
    assert not torch.allclose(layer(x, there), layer(x, back))
    assert layer.aggr == "LSTMAggregation"

import pytest
import torch
from compare import assert_same
from torch import nn
from torch_geometric.nn.aggr import AttentionalAggregation

import mpnn
from mpnn.nn import EdgeReadout, GraphReadout, attention

BATCH = torch.tensor([0, 0, 0, 2, 2])  # graph 1 has no node


def nodes():
    return torch.randn(5, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("aggr", ["sum", "mean", "max"])
def test_graph_readout_pools_the_nodes_of_each_graph(aggr):
    layer, x = GraphReadout(aggr, nn.Linear(3, 2)).double(), nodes()
    pool = {"sum": lambda t: t.sum(0), "mean": lambda t: t.sum(0) / len(t), "max": lambda t: t.max(0).values}[aggr]
    theirs = layer.f(torch.stack([pool(x[:3]), torch.zeros(3, dtype=torch.float64), pool(x[3:])]))
    assert_same(layer(x, BATCH, num_graphs=3), theirs, [x, *layer.parameters()])
    assert_same(layer(x[:3]), theirs[:1], [x, *layer.parameters()])


def test_attention_weighs_the_nodes_of_a_graph_by_a_softmax():
    layer, x = GraphReadout(attention(3, 4)).double(), nodes()
    gate, value = layer.aggr.gate_nn, layer.aggr.nn
    rows = [(gate(part).softmax(0) * value(part)).sum(0) for part in (x[:3], x[3:])]
    theirs = torch.stack([rows[0], torch.zeros_like(rows[0]), rows[1]])
    assert_same(layer(x, BATCH, num_graphs=3), theirs, [x, *layer.parameters()])
    assert type(layer.aggr) is AttentionalAggregation


def test_the_last_graph_of_a_batch_may_be_empty():
    assert GraphReadout("mean")(torch.ones(5, 3), BATCH, num_graphs=4).shape == (4, 3)


def test_a_readout_that_depends_on_the_other_graphs_is_refused():
    from torch_geometric.nn.aggr import GRUAggregation

    with pytest.raises(ValueError, match="GraphReadout: aggr=GRUAggregation is refused"):
        GraphReadout(GRUAggregation(3, 3))


def test_edge_readout_sees_source_then_target():
    x, edge_index = nodes(), torch.tensor([[0, 3, 3], [1, 0, 4]])
    layer = EdgeReadout(nn.Bilinear(3, 3, 2)).double()
    W, b = layer.f.weight, layer.f.bias
    theirs = torch.stack(
        [torch.stack([x[j] @ W[k] @ x[i] + b[k] for k in range(2)]) for j, i in edge_index.t().tolist()]
    )
    assert_same(layer(x, edge_index), theirs, [x, *layer.parameters()])
    assert_same(layer(x, mpnn.plan(edge_index, num_nodes=5)), theirs, [x, *layer.parameters()])


def test_edge_readout_takes_any_function_of_two_ends():
    x = nodes()
    pairs = torch.tensor([[0, 3], [1, 0]])
    out = EdgeReadout(lambda source, target: (source * target).sum(-1))(x, pairs)
    torch.testing.assert_close(out, torch.stack([x[0] @ x[1], x[3] @ x[0]]))


@pytest.mark.parametrize("aggr", ["sum", "mean", "max", attention(3)], ids=str)
@pytest.mark.parametrize("length", [1, 4, 6])
def test_a_batch_of_another_length_is_refused(aggr, length):
    message = rf"GraphReadout: batch has shape \({length},\); expected the graph of each of the 5 nodes, \(5,\)"
    with pytest.raises(ValueError, match=message):
        GraphReadout(aggr)(torch.ones(5, 3), torch.zeros(length, dtype=torch.long))

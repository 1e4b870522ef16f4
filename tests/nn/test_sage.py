import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch_geometric.nn import SAGEConv
from zoo import graphs

import mpnn

NAMES = {"neighbour.weight": "lin_l.weight", "neighbour.bias": "lin_l.bias", "own.weight": "lin_r.weight"}


def paper_sage(layer, x, edge_index):  # arXiv:1706.02216, algorithm 1, lines 4-5, all neighbours sampled
    W = torch.cat([layer.own.weight, layer.neighbour.weight], dim=1)
    aggregate = {
        "sum": lambda rows: rows.sum(0),
        "mean": lambda rows: rows.sum(0) / len(rows),
        "max": lambda rows: rows.max(0).values,
        "LSTMAggregation": lambda rows: layer.aggr_module.lstm(rows[:, None])[1][0].view(-1),
    }[layer.aggr]
    rows = []
    for i in range(x.shape[0]):
        N_i = [j for j, t in edge_index.t().tolist() if t == i]
        h_N = aggregate(torch.stack([x[j] for j in N_i])) if N_i else x.new_zeros(x.shape[1])
        rows.append(W @ torch.cat([x[i], h_N]) + layer.neighbour.bias)
    return rows


@pytest.mark.parametrize("aggr", ["sum", "mean", "max", "lstm"])
@pytest.mark.parametrize("out_features", [2, 5])  # one on each side of in_features: the product comes first, or last
def test_sage_is_the_papers_formula(aggr, out_features):
    for name, data in graphs().items():
        if aggr == "max" and name == "double edge":
            continue  # a tie: which of the two edges the gradient takes is torch's affair
        layer = randomised(mpnn.nn.GraphSAGE(3, out_features, aggr))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        rows = paper_sage(layer, x, data.edge_index)
        theirs = torch.stack(rows) if rows else x.new_zeros(0, out_features)
        assert_same(layer(x, data.edge_index), theirs, [x, *layer.parameters()], what=name)


@pytest.mark.parametrize("aggr", ["sum", "mean", "max"])
@pytest.mark.parametrize("out_features", [2, 5])
def test_sage_equals_torch_geometric(aggr, out_features):
    for name, data in graphs().items():
        ours, theirs = mpnn.nn.GraphSAGE(3, out_features, aggr).double(), SAGEConv(3, out_features, aggr).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        assert_golden(ours, theirs, NAMES, x, data.edge_index, what=name)


@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("bias", [True, False])
def test_both_products_in_one_are_what_each_is_alone(aggr, bias):
    torch.manual_seed(0)
    layer = randomised(mpnn.nn.GraphSAGE(8, 5, aggr, bias=bias))
    words = torch.randn(1100, 8, dtype=torch.float64) * (torch.rand(1100, 8) < 0.2)  # rows enough for the dense one
    edge_index = torch.randint(1100, (2, 3000))
    apart = layer((words, words.clone()), edge_index)
    assert_same(layer(words, edge_index), apart, list(layer.parameters()), what="dense")
    assert_same(layer(words.to_sparse_csr(), edge_index), apart, list(layer.parameters()), what="sparse")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(words.float(), edge_index).dtype == torch.bfloat16


def test_sources_and_targets_may_be_two_sets_of_nodes():
    ours, theirs = mpnn.nn.GraphSAGE(3, 2).double(), SAGEConv(3, 2).double()
    edge_index = torch.tensor([[0, 4, 2, 2], [0, 1, 1, 0]])
    x = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    assert_golden(ours, theirs, NAMES, x, edge_index)

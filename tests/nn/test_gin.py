import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch import nn
from torch_geometric.nn import GINConv
from zoo import graphs

import mpnn


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def paper_gin(layer, x, edge_index):  # arXiv:1810.00826, eq. 4.1
    rows = []
    for v in range(x.shape[0]):
        total = (1 + layer.eps) * x[v]
        for u, t in edge_index.t().tolist():
            if t == v:
                total = total + x[u]
        rows.append(layer.mlp(total))
    return rows


@pytest.mark.parametrize("train_eps", [False, True])
def test_gin_is_the_papers_formula(train_eps):
    for name, data in graphs().items():
        layer = randomised(mpnn.nn.GIN(mlp(), 0.3, train_eps))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        rows = paper_gin(layer, x, data.edge_index)
        theirs = torch.stack(rows) if rows else x.new_zeros(0, 2)
        assert_same(layer(x, data.edge_index), theirs, [x, *layer.parameters()], what=name)


@pytest.mark.parametrize("train_eps", [False, True])
def test_gin_equals_torch_geometric(train_eps):
    names = {f"mlp.{k}.{kind}": f"nn.{k}.{kind}" for k in (0, 2) for kind in ("weight", "bias")}
    names |= {"eps": "eps"} if train_eps else {}
    for name, data in graphs().items():
        ours, theirs = mpnn.nn.GIN(mlp(), 0.3, train_eps).double(), GINConv(mlp(), 0.3, train_eps).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        assert_golden(ours, theirs, names, x, data.edge_index, what=name)


def test_resetting_puts_epsilon_and_the_network_back():
    layer = mpnn.nn.GIN(mlp(), 0.3, train_eps=True)
    before = layer.mlp[0].weight.clone()
    nn.init.constant_(layer.eps, 7.0)
    layer.reset_parameters()
    assert layer.eps.item() == pytest.approx(0.3)
    assert not torch.equal(layer.mlp[0].weight, before)

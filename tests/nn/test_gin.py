import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch import nn
from torch_geometric.nn import GINConv
from zoo import graphs

import mpnn


def mlp(hidden_features=4):
    return nn.Sequential(nn.Linear(3, hidden_features), nn.Tanh(), nn.Linear(hidden_features, 2))


BOTH = pytest.mark.parametrize("hidden_features", [4, 2])  # a network that widens x, and one that narrows it


def paper_gin(layer, x, edge_index):  # arXiv:1810.00826, eq. 4.1
    rows = []
    for v in range(x.shape[0]):
        total = (1 + layer.eps) * x[v]
        for u, t in edge_index.t().tolist():
            if t == v:
                total = total + x[u]
        rows.append(layer.mlp(total))
    return rows


@BOTH
@pytest.mark.parametrize("train_eps", [False, True])
def test_gin_is_the_papers_formula(train_eps, hidden_features):
    for name, data in graphs().items():
        layer = randomised(mpnn.nn.GIN(mlp(hidden_features), 0.3, train_eps))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        rows = paper_gin(layer, x, data.edge_index)
        theirs = torch.stack(rows) if rows else x.new_zeros(0, 2)
        assert_same(layer(x, data.edge_index), theirs, [x, *layer.parameters()], what=name)


@BOTH
@pytest.mark.parametrize("train_eps", [False, True])
def test_gin_equals_torch_geometric(train_eps, hidden_features):
    names = {f"mlp.{k}.{kind}": f"nn.{k}.{kind}" for k in (0, 2) for kind in ("weight", "bias")}
    names |= {"eps": "eps"} if train_eps else {}
    for name, data in graphs().items():
        ours = mpnn.nn.GIN(mlp(hidden_features), 0.3, train_eps).double()
        theirs = GINConv(mlp(hidden_features), 0.3, train_eps).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        assert_golden(ours, theirs, names, x, data.edge_index, what=name)


def test_resetting_puts_epsilon_and_the_network_back():
    layer = mpnn.nn.GIN(mlp(), 0.3, train_eps=True)
    before = layer.mlp[0].weight.clone()
    nn.init.constant_(layer.eps, 7.0)
    layer.reset_parameters()
    assert layer.eps.item() == pytest.approx(0.3)
    assert not torch.equal(layer.mlp[0].weight, before)


@pytest.mark.parametrize("network", [lambda: nn.Linear(3, 2), mlp, lambda: nn.Sequential(nn.Linear(3, 2, bias=False))])
def test_sparse_features_give_what_dense_ones_do(network):
    layer, data = randomised(mpnn.nn.GIN(network(), 0.3)), graphs()["double edge"]
    x = torch.randn(data.num_nodes, 3, dtype=torch.float64) * torch.tensor([1.0, 0.0, 2.0])
    dense, sparse = (layer(v, data.edge_index) for v in (x, x.to_sparse_csr()))
    assert_same(sparse, dense, list(layer.parameters()))


def test_sparse_features_are_refused_where_there_is_no_product_to_begin_with():
    with pytest.raises(ValueError, match="x is sparse"):
        mpnn.nn.GIN(nn.Tanh())(torch.eye(3).to_sparse_csr(), torch.tensor([[0], [1]]))


def test_a_network_that_somebody_listens_to_is_called_as_it_is():
    layer, x, seen = mpnn.nn.GIN(nn.Sequential(nn.Linear(3, 2))), torch.ones(2, 3), []
    edge_index = torch.tensor([[0], [1]])
    for module in (layer.mlp, layer.mlp[0]):
        with_hook = module.register_forward_hook(lambda module, given, out: seen.append(given[0]))
        layer(x, edge_index)
        with_hook.remove()
    layer(x, edge_index)
    assert [rows.tolist() for rows in seen] == [[[1.0] * 3, [2.0] * 3]] * 2


def test_widths_in_the_place_of_the_network_are_refused():
    with pytest.raises(TypeError, match=r"GIN: mlp is 3; expected a module on rows. Of widths alone make one: GIN"):
        mpnn.nn.GIN(3, 4)

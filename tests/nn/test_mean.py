import pytest
import torch
from compare import assert_same, randomised
from zoo import graphs

import mpnn


def paper_mean(layer, h, edge_index):  # m_i = 1/d_i sum_j W h_j, h_i' = sigma(W h_i + m_i), one node at a time
    W, sigma = layer.linear.weight, layer.nonlinearity
    rows = []
    for i in range(h.shape[0]):
        N_i = [j for j, t in edge_index.t().tolist() if t == i]
        m_i = sum(W @ h[j] for j in N_i) / len(N_i) if N_i else 0.0
        rows.append(sigma(W @ h[i] + m_i))
    return rows


def matrix_mean(layer, H, edge_index):  # sigma((I + D^-1 A) H W)
    N = H.shape[0]
    A = H.new_zeros(N, N).index_put((edge_index[1], edge_index[0]), H.new_ones(()), accumulate=True)
    D_inverse = torch.diag(A.sum(1).reciprocal().nan_to_num(posinf=0.0))
    return layer.nonlinearity((torch.eye(N, dtype=H.dtype) + D_inverse @ A) @ H @ layer.linear.weight.t())


@pytest.mark.parametrize("name", graphs())
@pytest.mark.parametrize("sigma", [torch.relu, torch.sigmoid], ids=lambda f: f.__name__)
def test_mean_network_is_its_formula_and_its_matrix_form(name, sigma):
    data = graphs()[name]
    layer = randomised(mpnn.nn.MeanNetwork(3, 2, sigma))
    x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    rows = paper_mean(layer, x, data.edge_index)
    leaves = [x, *layer.parameters()]
    assert_same(layer(x, data.edge_index), torch.stack(rows) if rows else x.new_zeros(0, 2), leaves, what="loop")
    assert_same(layer(x, data.edge_index), matrix_mean(layer, x, data.edge_index), leaves, what="matrices")


def test_without_a_nonlinearity_the_network_is_linear():
    data = graphs()["random"]
    layer = mpnn.nn.MeanNetwork(3, 2, None).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(-2 * x, data.edge_index), -2 * layer(x, data.edge_index))

import pytest
import torch
from compare import assert_same, randomised
from zoo import graphs

from mpnn.nn import RNN, DiagonalRNN

IN, H = 3, 4


def paper_diagonal(layer, x, edge_index, start):  # unit by unit: a unit's previous state, and no other's
    def unit(t, k):
        before = [j for j, i in edge_index.t().tolist() if i == t]
        last = sum(unit(j, k) for j in before) if before else start[t, k]
        z = layer.weight_ih_l0[k] @ x[t] + layer.bias_ih_l0[k] + layer.weight_hh_l0[k] * last + layer.bias_hh_l0[k]
        return z.clamp(min=0) if layer.nonlinearity == "relu" else (2 * z).sigmoid() * 2 - 1

    return torch.stack([torch.stack([unit(t, k) for k in range(H)]) for t in range(len(x))])


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from given states"])
def test_it_is_its_formulas_loop_on_chains_and_other_dags(nonlinearity, given):
    layer = randomised(DiagonalRNN(IN, H, nonlinearity=nonlinearity))
    for name in ("long chain", "tree", "random dag", "ids in reverse", "isolated last node"):
        data = graphs()[name]
        n = data.num_nodes
        x = torch.randn(n, IN, dtype=torch.float64, requires_grad=True)
        h0 = torch.randn(1, n, H, dtype=torch.float64).mul(given).requires_grad_()
        expected = paper_diagonal(layer, x, data.edge_index, h0[0])
        more = {"h0": h0, "batch": torch.arange(n)} if given else {}
        leaves = [x, *layer.parameters(), *([h0] if given else [])]
        assert_same(layer(x, data.edge_index, **more), expected, leaves, what=name)


@pytest.mark.parametrize("residual", [False, True])
def test_it_is_the_simple_network_with_a_diagonal_matrix_in_all_layers_and_both_ways(residual):
    options = dict(num_layers=2, bidirectional=True, nonlinearity="relu", residual=residual)
    ours, full = randomised(DiagonalRNN(IN, H, **options)), randomised(RNN(IN, H, **options))
    weights = ours.state_dict().items()
    full.load_state_dict({name: value.diag() if "weight_hh" in name else value for name, value in weights})
    data = graphs()["random dag"]
    x = torch.randn(data.num_nodes, IN, dtype=torch.float64, requires_grad=True)
    assert_same(ours(x, data.edge_index), full(x, data.edge_index), [x])


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match="DiagonalRNN: nonlinearity='sin' is unknown"):
        DiagonalRNN(IN, H, nonlinearity="sin")


def test_the_repr_shows_what_differs_from_the_plain_layer():
    assert repr(DiagonalRNN(3, 4, 2, nonlinearity="relu")) == "DiagonalRNN(3, 4, num_layers=2, nonlinearity='relu')"

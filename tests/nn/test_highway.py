import pytest
import torch
from compare import assert_same, randomised

import mpnn
from mpnn.graphs import chain
from mpnn.nn import GRU, Highway

H, L, B = 4, 5, 6


def paper_highway(layer, a, num_layers):  # arXiv:1505.00387, eq. 3, with z = 1 - T
    for k in range(num_layers):
        l = k if len(layer.weight) > 1 else 0
        rows = []
        for row in a:
            h = layer.nonlinearity(layer.weight[l] @ row + layer.bias[l])
            T = 1 - torch.sigmoid(layer.gate_weight[l] @ row + layer.gate_bias[l])
            rows.append(h * T + row * (1 - T))
        a = torch.stack(rows)
    return a


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("num_layers", [1, L])
def test_it_is_the_papers_loop_over_layers(tied, num_layers):
    layer = randomised(Highway(H, num_layers, tied=tied))
    x = torch.randn(B, H, dtype=torch.float64, requires_grad=True)
    assert_same(layer(x), paper_highway(layer, x, num_layers), [x, *layer.parameters()])


def gru_along_depth(weight, bias, gate_weight, gate_bias):
    """A GRU without input (W x = 0) that never resets: in float64 a reset gate of 1 / (1 + e^-50) is exactly 1."""
    gru = GRU(1, H).double()
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.zero_()
        gru.bias_hh_l0[:H] = 50.0
        gru.weight_hh_l0[H:] = torch.cat([gate_weight, weight])
        gru.bias_hh_l0[H:] = torch.cat([gate_bias, bias])
    return gru


def test_tied_it_is_a_gru_along_depth_without_input_and_without_reset():
    layer = randomised(Highway(H, L, tied=True))
    gru = gru_along_depth(layer.weight[0], layer.bias[0], layer.gate_weight[0], layer.gate_bias[0])
    x = torch.randn(1, H, dtype=torch.float64, requires_grad=True)
    depth = gru(torch.zeros(L, 1, dtype=torch.float64), chain(L).edge_index, h0=x[None])
    mine = [layer.weight, layer.bias, layer.gate_weight, layer.gate_bias]
    assert_same(layer(x), depth[-1:], [x])
    ours = torch.autograd.grad(layer(x).sum(), mine)
    theirs = torch.autograd.grad(depth[-1].sum(), [gru.weight_hh_l0, gru.bias_hh_l0])
    for k, (found, rows) in enumerate(zip(ours, [slice(2 * H, None)] * 2 + [slice(H, 2 * H)] * 2, strict=True)):
        torch.testing.assert_close(found[0], theirs[k % 2][rows], rtol=1e-10, atol=1e-12)


def test_untied_each_layer_is_one_step_of_a_gru_of_its_own():
    layer = randomised(Highway(H, L))
    a = x = torch.randn(B, H, dtype=torch.float64, requires_grad=True)
    for l in range(L):
        gru = gru_along_depth(layer.weight[l], layer.bias[l], layer.gate_weight[l], layer.gate_bias[l])
        node = torch.arange(B)  # every row is a sequence of one step, and starts from its a
        a = gru(torch.zeros(B, 1, dtype=torch.float64), torch.empty(2, 0, dtype=torch.long), h0=a[None], batch=node)
    assert_same(layer(x), a, [x])


def test_rows_of_the_batch_never_meet():
    layer = randomised(Highway(H, L))
    x = torch.randn(B, H, dtype=torch.float64)
    assert_same(layer(x), torch.cat([layer(row[None]) for row in x]), list(layer.parameters()))


def test_depth_is_a_chain_of_levels():
    plan = mpnn.plan(chain(L), "topological")
    layer = Highway(H, L)
    assert layer.plan(layer.depth, L).num_levels == plan.num_levels == L
    assert "depth" not in layer.state_dict()


def test_a_wide_open_carry_gate_passes_x_on():
    x = torch.randn(B, H)
    assert torch.allclose(Highway(H, 50, gate_bias=40.0)(x), x, atol=1e-5)


def test_there_must_be_a_layer():
    with pytest.raises(ValueError, match="Highway: num_layers=0; expected 1 or more"):
        Highway(4, 0)


def test_other_widths_of_x_are_refused():
    with pytest.raises(ValueError, match="Highway: x has 5 features a node"):
        Highway(4, 2)(torch.ones(3, 5))


def test_the_repr_shows_the_depth():
    assert repr(Highway(4, 20, tied=True)) == "Highway(4, 20, tied=True)"

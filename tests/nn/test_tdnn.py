import pytest
import torch
import torch.nn.functional as F
from compare import assert_golden, assert_same, randomised
from torch import nn
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import chain, delays
from mpnn.nn import TDNN, Window

IN, OUT = 3, 4


def paper_tdnn(layer, x):  # h_t = f(sum_k W_k x_{t-k} + b); the convolution's last column is the newest step's
    p, rows = layer.delays, []
    for t in range(len(x)):
        z = layer.bias + sum(layer.weight[:, :, p - k] @ x[t - k] for k in range(min(p, t) + 1))
        rows.append(z if layer.nonlinearity is None else layer.nonlinearity(z))
    return torch.stack(rows)


@pytest.mark.parametrize("p", [0, 1, 3])
def test_it_is_the_formulas_loop(p):
    layer = randomised(TDNN(IN, OUT, delays=p))
    x = torch.randn(7, IN, dtype=torch.float64, requires_grad=True)
    found = layer(x, *delays(chain(7).edge_index, range(1, p + 1)))
    assert_same(found, paper_tdnn(layer, x), [x, *layer.parameters()])


@pytest.mark.parametrize(("p", "dilation"), [(0, 1), (2, 1), (2, 3)])
def test_on_chains_of_mixed_length_it_is_torchs_causal_convolution(p, dilation):
    ours = TDNN(IN, OUT, delays=p, nonlinearity=None).double()
    theirs = nn.Conv1d(IN, OUT, kernel_size=p + 1, dilation=dilation).double()
    lengths = (5, 1, 9)
    edge_index, delay = delays(
        Batch.from_data_list([chain(n) for n in lengths]).edge_index, range(dilation, p * dilation + 1, dilation)
    )
    x = torch.randn(sum(lengths), IN, dtype=torch.float64)

    def convolution(x):
        return torch.cat([theirs(F.pad(part.t(), (p * dilation, 0))).t() for part in x.split(lengths)])

    calls = (lambda x: ours(x, edge_index, delay // dilation), convolution)
    assert_golden(ours, theirs, {"weight": "weight", "bias": "bias"}, x, calls=calls)


def test_weights_load_both_ways_and_are_drawn_as_torch_draws_them():
    torch.manual_seed(3)
    ours = TDNN(IN, OUT, delays=2)
    torch.manual_seed(3)
    theirs = nn.Conv1d(IN, OUT, kernel_size=3)
    for (name, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other and a.shape == b.shape and torch.allclose(a, b), name


def test_layers_with_windows_of_two_lengths_share_one_graph():
    x = torch.randn(8, IN, dtype=torch.float64, requires_grad=True)
    edge_index, delay = delays(chain(8).edge_index, range(1, 5))
    for p in (0, 2, 4):
        layer = randomised(TDNN(IN, OUT, delays=p))
        assert_same(layer(x, edge_index, delay), paper_tdnn(layer, x), [x, *layer.parameters()], what=f"p={p}")


def test_all_steps_fire_at_once_and_a_step_hears_from_no_later_one():
    layer, x = randomised(TDNN(1, 1, delays=2)), torch.zeros(9, 1, dtype=torch.float64)
    window = delays(chain(9).edge_index, range(1, 3))
    assert layer.plan(window[0], 9).num_levels == 1
    changed = x.clone()
    changed[4] = 1
    moved = (layer(changed, *window) != layer(x, *window)).flatten()
    assert moved.nonzero().flatten().tolist() == [4, 5, 6]


def test_a_window_holds_the_last_values_the_latest_first():
    x = torch.arange(1.0, 9.0).view(4, 2)
    found = Window(2)(x, *delays(chain(4).edge_index, [1, 2]))
    assert found.tolist() == [[0, 0, 0, 0], [1, 2, 0, 0], [3, 4, 1, 2], [5, 6, 3, 4]]


def test_values_that_arrive_with_one_delay_are_added_up():
    edges = torch.tensor([[0, 1, 0], [2, 2, 2]])
    found = Window(2)(torch.tensor([[1.0], [2.0], [4.0]]), edges, torch.tensor([1, 1, 2]))
    assert found.tolist() == [[0, 0], [0, 0], [3, 1]]


def test_one_compilation_serves_all_lengths():
    layer, compilations = randomised(TDNN(IN, OUT, delays=2)), []

    def backend(module, inputs):
        compilations.append(module)
        return module

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for n in (5, 9, 14):
        x = torch.randn(n, IN, dtype=torch.float64, requires_grad=True)
        window = delays(chain(n).edge_index, [1, 2])
        assert_same(compiled(x, *window), layer(x, *window), [x, *layer.parameters()], what=f"{n} steps")
    assert len(compilations) == 1


def test_delays_below_one_are_refused():
    edge_index, delay = torch.tensor([[0, 1], [1, 2]]), torch.tensor([1, 0])
    with pytest.raises(ValueError, match="TDNN: edge 1 has delay=0; expected 1 or more.* 1 of 2 edges"):
        TDNN(IN, OUT, delays=2)(torch.ones(3, IN), edge_index, delay)
    with pytest.raises(ValueError, match="TDNN: delays=-1; expected 0 or more"):
        TDNN(IN, OUT, delays=-1)


def test_delays_written_to_are_looked_at_again():
    layer, edge_index, delay = TDNN(IN, OUT, delays=2), torch.tensor([[0, 1], [1, 2]]), torch.tensor([1, 1])
    layer(torch.ones(3, IN), edge_index, delay)
    delay[0] = -1
    with pytest.raises(ValueError, match="edge 0 has delay=-1"):
        layer(torch.ones(3, IN), edge_index, delay)


def test_other_widths_of_x_are_refused():
    with pytest.raises(ValueError, match="TDNN: x has 5 features a node"):
        TDNN(IN, OUT, delays=1)(torch.ones(3, 5), *delays(chain(3).edge_index, [1]))


def test_explain_names_the_way_it_runs():
    data = chain(4)
    data.x, (data.edge_index, data.delay) = torch.ones(4, IN), delays(data.edge_index, [1, 2])
    assert "wavefront" in str(mpnn.explain(data, TDNN(IN, OUT, delays=2)))

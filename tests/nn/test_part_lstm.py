import pytest
import torch
from compare import assert_close, assert_same, randomised
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.nn import PartAwareLSTM

PARTS = [[0, 3], [1, 2, 4], [3]]  # of different widths; column 3 is in two, column 5 in none


def chain(length):
    data = mpnn.graphs.chain(length)
    data.x = torch.randn(length, 6, dtype=torch.float64)
    return data


def paper_part_lstm(x, parts, part_weights, out_weight, w_hh, b):
    """Shahroudy et al. 2016, section 3.2, frame by frame and part by part."""
    H = out_weight.shape[0]
    share = H // len(parts)
    h, c, hs, cs = x.new_zeros(H), [x.new_zeros(share) for _ in parts], [], []
    for x_t in x:
        for p, columns in enumerate(parts):
            rows = [slice(k * H + p * share, k * H + (p + 1) * share) for k in range(3)]
            before = [
                part_weights[p][k * share : (k + 1) * share] @ x_t[columns] + w_hh[rows[k]] @ h + b[rows[k]]
                for k in range(3)
            ]
            i, f, g = torch.sigmoid(before[0]), torch.sigmoid(before[1]), torch.tanh(before[2])
            c[p] = f * c[p] + i * g
        everything = torch.cat([x_t[columns] for columns in parts])
        o = torch.sigmoid(out_weight @ everything + w_hh[3 * H :] @ h + b[3 * H :])
        h = o * torch.tanh(torch.cat(c))
        hs.append(h)
        cs.append(torch.cat(c))
    return torch.stack(hs), torch.stack(cs)


def loop(layer, x, number, way, parts):
    names = [f"weight_part{p}_l{number}{way}" for p in range(len(parts))]
    get = dict(layer.named_parameters()).get
    b = get(f"bias_ih_l{number}{way}") + get(f"bias_hh_l{number}{way}")
    weights = [get(name) for name in names]
    return paper_part_lstm(x, parts, weights, get(f"weight_out_l{number}{way}"), get(f"weight_hh_l{number}{way}"), b)


@pytest.mark.parametrize("cells", [False, True])
def test_it_is_the_papers_loop(cells):
    layer, data = randomised(PartAwareLSTM(6, 9, PARTS)), chain(5)
    x = data.x.requires_grad_()
    ours = layer(x, data.edge_index, cells=cells)
    theirs = loop(layer, x, 0, "", PARTS)
    count = 2 if cells else 1
    assert_same(ours[:count], theirs[:count], [*layer.parameters(), x])


def test_stacked_in_two_directions_a_part_sees_its_share_of_both():
    layer, data = randomised(PartAwareLSTM(6, 6, PARTS, num_layers=2, bidirectional=True)), chain(4)
    ways = [loop(layer, data.x, 0, "", PARTS)[0], loop(layer, data.x.flip(0), 0, "_reverse", PARTS)[0].flip(0)]
    h, parts = torch.cat(ways, dim=1), [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    ways = [loop(layer, h, 1, "", parts)[0], loop(layer, h.flip(0), 1, "_reverse", parts)[0].flip(0)]
    assert_same(layer(data.x, data.edge_index)[0], torch.cat(ways, dim=1), list(layer.parameters()))


def test_with_one_part_it_is_an_lstm():
    layer, theirs, data = randomised(PartAwareLSTM(6, 4, [range(6)])), torch.nn.LSTM(6, 4).double(), chain(5)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.cat([layer.weight_part0_l0, layer.weight_out_l0]))
        for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(theirs, name).copy_(getattr(layer, name))
    same = ["weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    x = data.x.requires_grad_()
    leaves = [[getattr(one, name) for name in same] + [x] for one in (layer, theirs)]
    assert_same(layer(x, data.edge_index)[0], theirs(x)[0], *leaves)
    mine = [layer.weight_part0_l0, layer.weight_out_l0]
    ours = torch.cat(torch.autograd.grad(layer(x, data.edge_index)[0].sum(), mine))
    assert_close(ours, torch.autograd.grad(theirs(x)[0].sum(), theirs.weight_ih_l0)[0], "input weights")


def test_the_memory_of_a_part_does_not_see_the_inputs_of_another_in_the_same_frame():
    layer = randomised(PartAwareLSTM(4, 4, [[0, 1], [2, 3]]))
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    edges = torch.empty(2, 0, dtype=torch.long)
    c = layer(x, edges, cells=True)[1]
    assert torch.autograd.grad(c[0, :2].sum(), x, retain_graph=True)[0][0].ne(0).tolist() == [True, True, False, False]
    assert torch.autograd.grad(c[0, 2:].sum(), x)[0][0].ne(0).tolist() == [False, False, True, True]


def test_a_batch_of_sequences_is_each_alone_and_every_way_of_running_agrees():
    layer, alone = randomised(PartAwareLSTM(6, 9, PARTS)), [chain(length) for length in (3, 5, 1)]
    batch = Batch.from_data_list(alone)
    each = torch.cat([layer(data.x, data.edge_index)[0] for data in alone])
    for way in ("packed", "wavefront", "reference"):
        with mpnn.engine(way):
            assert_same(layer(batch.x, batch.edge_index)[0], each, list(layer.parameters()), what=way)


def test_it_runs_on_torchs_kernel():
    data = Data(x=torch.randn(5, 6), edge_index=mpnn.graphs.chain(5).edge_index)
    assert "runs as packed" in str(mpnn.explain(data, PartAwareLSTM(6, 9, PARTS)))


@pytest.mark.parametrize(
    "parts, hidden, message",
    [([], 4, "there is no part"), ([[0], [6]], 4, "part 1 has column 6"), (PARTS, 4, "hidden_features=4 for 3 parts")],
)
def test_parts_that_do_not_fit_are_refused(parts, hidden, message):
    with pytest.raises(ValueError, match=message):
        PartAwareLSTM(6, hidden, parts)

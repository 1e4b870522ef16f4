import pytest
import torch
from compare import assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.nn import AGCLSTM, GCN, GraphReadout
from mpnn.spacetime import coarsen, relations, skeleton

BONES = [(0, 1), (1, 2), (1, 3)]


def moving(length, seed=0, joints=4):
    generator = torch.Generator().manual_seed(seed)
    return skeleton(torch.randn(length, joints, 3, generator=generator, dtype=torch.float64), BONES)


def paper_agc_lstm(layer, x, neighbours):
    """Si et al. 2019, section 3, joint by joint; x (T, V, F). *_G: own weight, and the neighbours' mean by another."""
    T, V, _ = x.shape
    parts = [(name, block) for name in ("input", "recurrent") for block in range(4)]
    conv = {}
    for name, block in parts:
        module = getattr(layer, name)
        rows = slice(block * layer.hidden_features, (block + 1) * layer.hidden_features)
        conv[name, block] = (module, rows)

    def g(name, block, X, n):
        module, rows = conv[name, block]
        mean = sum((X[m] for m in neighbours[n]), torch.zeros_like(X[n])) / max(len(neighbours[n]), 1)
        return module.own.weight[rows] @ X[n] + module.neighbour.weight[rows] @ mean + module.neighbour.bias[rows]

    H = C = x.new_zeros(V, layer.hidden_features)
    out, scores = [], []
    for t in range(T):
        hat, cells = [], []
        for n in range(V):
            i, f, u, o = (g("input", k, x[t], n) + g("recurrent", k, H, n) for k in range(4))
            c = torch.sigmoid(f) * C[n] + torch.sigmoid(i) * torch.tanh(u)
            cells.append(c)
            hat.append(torch.sigmoid(o) * torch.tanh(c))
        C = torch.stack(cells)
        q = torch.relu(layer.query.weight @ sum(hat))
        alpha, attended = [], []
        for n in range(V):
            W_h, b_s = layer.state_score.weight, layer.state_score.bias
            inner = torch.tanh(W_h @ hat[n] + layer.query_score.weight @ q + b_s)
            alpha.append(torch.sigmoid(layer.score.weight @ inner + layer.score.bias))
            attended.append(alpha[n] * hat[n] + hat[n])
        H = torch.stack(attended)
        out.append(H)
        scores.append(torch.stack(alpha))
    return torch.cat(out), torch.cat(scores)


NEIGHBOURS = {n: [b for a, b in BONES if a == n] + [a for a, b in BONES if b == n] for n in range(4)}


def test_it_is_the_papers_loop():
    layer, data = randomised(AGCLSTM(3, 5)), moving(6)
    x = data.x.requires_grad_()
    theirs = paper_agc_lstm(layer, x.view(6, 4, 3), NEIGHBOURS)
    assert_same(layer(x, relations(data)), theirs, [*layer.parameters(), x])


def test_with_identity_adjacency_and_attention_off_it_is_an_lstm_at_each_joint():
    layer, theirs = randomised(AGCLSTM(3, 5, GCN, attention=False)), torch.nn.LSTM(3, 5).double()
    pairs = [
        (layer.input.linear.weight, theirs.weight_ih_l0),
        (layer.recurrent.linear.weight, theirs.weight_hh_l0),
        (layer.input.bias, theirs.bias_ih_l0),
        (layer.recurrent.bias, theirs.bias_hh_l0),
    ]
    assert len(pairs) == len(list(layer.parameters()))
    with torch.no_grad():
        for ours, their in pairs:
            their.copy_(ours)
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    for bones in ([], [(n, n) for n in range(4)]):  # no neighbours, or each its own: GCN counts a loop once
        data = skeleton(x, bones)
        h, alpha = layer(data.x, relations(data))
        mine, other = zip(*pairs)
        assert_same(h, theirs(x)[0].reshape(28, 5), [*mine, x], [*other, x])
        assert not alpha.any()


@pytest.mark.parametrize("attention", [True, False])
def test_a_batch_of_sequences_of_different_lengths_is_each_alone(attention):
    layer = randomised(AGCLSTM(3, 5, attention=attention))
    alone = [moving(length, seed) for seed, length in enumerate((4, 7, 1, 4))]
    batch = Batch.from_data_list(alone)
    together = layer(batch.x, relations(batch), batch.batch)
    each = [layer(data.x, relations(data)) for data in alone]
    assert_same(together, tuple(map(torch.cat, zip(*each))), list(layer.parameters()))


def test_the_query_sees_all_joints_of_the_frame_and_no_other_graph():
    layer, data = randomised(AGCLSTM(3, 5)), moving(1)
    x = data.x.requires_grad_()
    bare = {"space": torch.empty(2, 0, dtype=torch.long), "time": data.time_index}
    whole = torch.autograd.grad(layer(x, bare)[0][0].sum(), x)[0]
    assert (whole.abs().sum(1) > 0).all()
    apart = torch.autograd.grad(layer(x, bare, batch=torch.tensor([0, 0, 1, 1]))[0][0].sum(), x)[0]
    assert (apart.abs().sum(1) > 0).tolist() == [True, True, False, False]


def test_layers_with_pooling_over_time_between_them_are_the_loop_on_averages():
    first, second = randomised(AGCLSTM(3, 5)), randomised(AGCLSTM(5, 4))
    data = moving(7)
    h, _ = first(data.x, relations(data))
    coarse, cluster = coarsen(data, 3)
    pooled = GraphReadout("mean")(h, cluster, coarse.num_nodes)
    ours = second(pooled, relations(coarse))
    steps = paper_agc_lstm(first, data.x.view(7, 4, 3), NEIGHBOURS)[0].view(7, 4, 5)
    averages = torch.stack([steps[0:3].mean(0), steps[3:6].mean(0), steps[6]])
    theirs = paper_agc_lstm(second, averages, NEIGHBOURS)
    assert_same(ours, theirs, [*first.parameters(), *second.parameters()])


def test_states_gives_the_cells_too():
    layer, data = randomised(AGCLSTM(3, 5)), moving(3)
    h, c, alpha = layer.states(data.x, relations(data), mpnn.schedule.by(data.time))
    again = layer(data.x, relations(data))
    assert torch.equal(h, again[0]) and torch.equal(alpha, again[1]) and c.shape == (12, 5)

import pytest
import torch
from compare import assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.nn import AGCLSTM, GCN, AGCLSTMNetwork, GraphReadout, TwoStreamAGCLSTM, agc_lstm_loss
from mpnn.nn.agc_lstm import Change, stages
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


# The network ----------------------------------------------------------------------------------------------------------


def paper_network(network, x, windows):
    """Section 3.3, one sequence x (T, V, F): scores of both kinds a frame, and the attention of each layer."""
    T, V, _ = x.shape
    W, b = network.position.weight, network.position.bias
    P = [[W @ x[t, n] + b for n in range(V)] for t in range(T)]
    w_ih, w_hh = network.lstm.weight_ih_l0, network.lstm.weight_hh_l0
    b_ih, b_hh = network.lstm.bias_ih_l0, network.lstm.bias_hh_l0
    h = [w_hh.new_zeros(w_hh.shape[1]) for _ in range(V)]
    c = list(h)
    E = []
    for t in range(T):
        for n in range(V):
            changed = P[t][n] - P[t - 1][n] if t else torch.zeros_like(P[t][n])
            i, f, g, o = (w_ih @ torch.cat([P[t][n], changed]) + b_ih + w_hh @ h[n] + b_hh).chunk(4)
            c[n] = torch.sigmoid(f) * c[n] + torch.sigmoid(i) * torch.tanh(g)
            h[n] = torch.sigmoid(o) * torch.tanh(c[n])
        E.append(torch.stack(h))
    H, alphas = torch.stack(E), []
    for layer, window in zip(network.layers, windows, strict=True):
        H = torch.stack([H[a : a + window].mean(0) for a in range(0, len(H), window)])
        frames = len(H)
        H, alpha = paper_agc_lstm(layer, H, NEIGHBOURS)
        H, alpha = H.view(frames, V, -1), alpha.view(frames, V)
        alphas.append(alpha)
    whole, focus = [], []
    for t in range(len(H)):
        F_g = sum(H[t, n] for n in range(V))
        F_l = sum(alphas[-1][t, n] * (H[t, n] / (1 + alphas[-1][t, n])) for n in range(V))  # H = (1 + alpha) H^
        whole.append(network.whole.weight @ F_g + network.whole.bias)
        focus.append(network.focus.weight @ F_l + network.focus.bias)
    return torch.stack(whole), torch.stack(focus), alphas


def paper_loss(whole, focus, alphas, y, lam, beta):
    loss = 0
    for scores in (whole, focus):
        for o in scores:
            loss = loss - torch.log(torch.exp(o[y]) / torch.exp(o).sum())
    for alpha in alphas:
        T_j, V = alpha.shape
        loss = loss + lam * sum((1 - sum(alpha[t, n] for t in range(T_j)) / T_j) ** 2 for n in range(V))
        loss = loss + beta / T_j * sum(sum(alpha[t, n] for n in range(V)) ** 2 for t in range(T_j))
    return loss


WINDOWS = (2, 1, 3)


def network_and(data):
    torch.manual_seed(0)
    network = AGCLSTMNetwork(3, 5, classes=4, position_features=2).double().eval()
    return network, stages(data, WINDOWS)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_network_and_its_loss_are_the_papers_loop(length):
    data = moving(length)
    network, steps = network_and(data)
    x = data.x.requires_grad_()
    leaves = [*network.parameters(), x]
    reading = network(x, steps)
    whole, focus, alphas = paper_network(network, x.view(length, 4, 3), WINDOWS)
    assert_same((reading.whole, reading.focus), (whole, focus), leaves)
    assert_same(tuple(reading.attention), tuple(alpha.view(-1, 1) for alpha in alphas), leaves)
    ours = agc_lstm_loss(reading, torch.tensor([2]), equal=0.7, few=0.3)
    assert_same(ours, paper_loss(whole, focus, alphas, 2, 0.7, 0.3), leaves)
    both = torch.softmax(whole[-1], 0) + torch.softmax(focus[-1], 0)
    assert_same(reading.probabilities(), both[None], leaves)


def test_a_batch_of_sequences_of_any_lengths_is_read_as_each_alone():
    alone = [moving(length, seed) for seed, length in enumerate((4, 7, 1, 12))]
    batch = Batch.from_data_list(alone)
    network, steps = network_and(batch)
    y = torch.tensor([0, 3, 1, 1])
    each = [network(data.x, stages(data, WINDOWS)) for data in alone]
    together, leaves = network(batch.x, steps), list(network.parameters())
    assert_same(together.probabilities(), torch.cat([one.probabilities() for one in each]), leaves)
    losses = [agc_lstm_loss(one, y[k : k + 1]) for k, one in enumerate(each)]
    assert_same(agc_lstm_loss(together, y), torch.stack(losses).mean(), leaves)


def test_without_attention_the_local_scores_see_nothing():
    data = moving(6)
    network = AGCLSTMNetwork(3, 5, classes=4, attention=False).double()
    reading = network(data.x, stages(data, (2, 1, 1)))
    assert torch.equal(reading.focus, network.focus.bias.expand_as(reading.focus))
    assert reading.whole.std(dim=0).gt(0).all()


def test_normalised_inputs_of_a_layer_have_mean_0_and_variance_1_at_each_node():
    data, seen = moving(6), []
    network = AGCLSTMNetwork(3, 5, classes=4, normalise=True, dropout=0).double()
    for layer in network.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(data.x, stages(data, WINDOWS))
    assert len(seen) == 3
    for x in seen:
        torch.testing.assert_close(x.mean(dim=1), torch.zeros(len(x), dtype=x.dtype), rtol=0, atol=1e-6)
        torch.testing.assert_close(x.var(dim=1, correction=0), torch.ones(len(x), dtype=x.dtype), rtol=1e-2, atol=1e-2)


def test_change_is_the_difference_to_the_frame_before_and_0_in_the_first():
    data = moving(5)
    x = data.x.view(5, 4, 3)
    expected = torch.cat([torch.zeros(1, 4, 3, dtype=x.dtype), x[1:] - x[:-1]]).flatten(0, 1)
    assert torch.equal(Change()(data.x, data.time_index), expected)


def test_two_streams_are_the_sum_of_their_probabilities():
    data, parts = moving(6), moving(6, seed=1, joints=4)
    network, steps = network_and(data)
    other = AGCLSTMNetwork(3, 6, classes=4).double().eval()
    both = TwoStreamAGCLSTM(network, other)(data.x, steps, parts.x, stages(parts, WINDOWS))
    expected = network(data.x, steps).probabilities() + other(parts.x, stages(parts, WINDOWS)).probabilities()
    assert torch.equal(both, expected)


def test_stages_say_which_frame_joint_and_graph_a_node_is_of():
    batch = Batch.from_data_list([moving(3), moving(1)])
    whole, pooled = stages(batch, [2])
    assert whole.frame.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 and whole.frame_graph.tolist() == [0, 0, 0, 1]
    assert whole.joint.tolist() == [0, 1, 2, 3] * 3 + [4, 5, 6, 7] and whole.joint_graph.tolist() == [0] * 4 + [1] * 4
    assert whole.last.tolist() == [2, 3] and pooled.last.tolist() == [1, 2] and pooled.num_graphs == 2
    assert whole.cluster is None and pooled.cluster.tolist() == [*range(4), *range(4), *range(4, 8), *range(8, 12)]


def test_an_empty_sequence_and_a_wrong_number_of_stages_are_refused():
    with pytest.raises(ValueError, match="graph 1 of 3 has no nodes"):
        stages(Batch.from_data_list([moving(2), moving(0), moving(1)]))
    with pytest.raises(ValueError, match="graph 2 of 3 has no nodes"):
        stages(Batch.from_data_list([moving(2), moving(1), moving(0)]))
    with pytest.raises(ValueError, match="2 stages for 3 layers"):
        AGCLSTMNetwork(3, 5, classes=4)(moving(2).x.float(), stages(moving(2), [2]))

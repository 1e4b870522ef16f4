import random

import pytest
import torch
from compare import assert_same, randomised
from test_recursive import inputs
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.graphs import chain, relations, thread
from mpnn.nn import GraphStructuredLSTM

NONE = torch.zeros(2, 0, dtype=torch.long)
sigma, tanh = torch.sigmoid, torch.tanh


def comments(count: int, seed: int) -> list[tuple]:
    """A random thread, (id, parent, time), in an order that is neither that of time nor that of depth."""
    generator = random.Random(seed)
    made = [(k, generator.randrange(k) if k else None, k) for k in range(count)]
    generator.shuffle(made)
    return made


THREADS = {
    "post alone": [("t1", None, 0)],
    "the lecture's": [("t1", None, 1), ("t2", "t1", 2), ("t3", "t1", 3), ("t4", "t2", 4), ("t5", "t1", 5)],
    "two roots": [("a", None, 1), ("b", None, 0), ("c", "a", 3), ("d", "a", 2), ("e", "b", 4)],
    "deep": [(k, k - 1 if k else None, k) for k in range(6)],
    "random": comments(15, 0),
    "another": comments(24, 1),
}


def neighbours(thread):  # pi parent, p previous sibling, k first child, s next sibling, by position; from the comments
    place = {t: i for i, (t, _, _) in enumerate(thread)}
    pi = {place[t]: place[u] for t, u, _ in thread if u is not None}
    p, k, s = {}, {}, {}
    for u in {u for _, u, _ in thread}:
        replies = [place[t] for _, t in sorted((time, t) for t, v, time in thread if v == u)]
        if u is not None:
            k[place[u]] = replies[0]
        for a, b in zip(replies, replies[1:], strict=False):
            p[b], s[a] = a, b
    return pi, p, k, s


def paper_thread(cell, x, p, pi, candidate):  # Zayats & Ostendorf 2018, forward; backward with s for p and k for pi
    W_i, W_f, W_c, W_o, W_g = cell.weight_ih.chunk(5)
    U_i, U_f, U_c, U_o, U_g = cell.weight_hh.chunk(5)
    V_i, V_f, V_c, V_o, V_g = cell.weight_ph.chunk(5)
    b_i, b_f, b_c, b_o, b_g = cell.bias.chunk(5)
    h, c = {None: torch.zeros_like(b_i)}, {None: torch.zeros_like(b_i)}

    def visit(t):
        if t in h:
            return
        visit(p.get(t))
        visit(pi.get(t))
        h_p, h_pi, c_p, c_pi = h[p.get(t)], h[pi.get(t)], c[p.get(t)], c[pi.get(t)]
        i_t = sigma(W_i @ x[t] + U_i @ h_p + V_i @ h_pi + b_i)
        f_t = sigma(W_f @ x[t] + U_f @ h_p + V_f @ h_pi + b_f)
        g_t = sigma(W_g @ x[t] + U_g @ h_p + V_g @ h_pi + b_g)
        o_t = sigma(W_o @ x[t] + U_o @ h_p + V_o @ h_pi + b_o)
        c_tilde = W_c @ x[t] + U_c @ h_p + V_c @ h_pi + b_c
        if candidate == "tanh":
            c_tilde = tanh(c_tilde)
        c[t] = f_t * c_p + g_t * c_pi + i_t * c_tilde
        h[t] = o_t * tanh(c[t])

    for t in range(len(x)):
        visit(t)
    return torch.stack([h[t] for t in range(len(x))]), torch.stack([c[t] for t in range(len(x))])


@pytest.mark.parametrize("candidate", ["linear", "tanh"])
@pytest.mark.parametrize("name", THREADS)
def test_the_layer_is_the_papers_in_both_directions(name, candidate):
    data = thread(THREADS[name])
    layer, x = randomised(GraphStructuredLSTM(3, 4, candidate)), inputs(data)
    pi, p, k, s = neighbours(THREADS[name])
    forward = paper_thread(layer, x, p, pi, candidate)
    backward = paper_thread(layer.reverse, x, s, k, candidate)
    leaves = [x, *layer.parameters()]
    theirs = tuple(torch.cat(pair, dim=1) for pair in zip(forward, backward, strict=True))
    assert_same(layer(x, relations(data)), theirs, leaves, what=name)
    with mpnn.engine("reference"):
        assert_same(layer(x, relations(data)), theirs, leaves, what=f"{name}, one by one")
    assert_same(layer(x, mpnn.plan(relations(data), "topological", data.num_nodes)), theirs, leaves, what="plan")


def test_in_one_direction_the_states_are_those_of_that_direction():
    data, both = thread(THREADS["random"]), randomised(GraphStructuredLSTM(3, 4))
    one = GraphStructuredLSTM(3, 4, bidirectional=False).double()
    one.load_state_dict({name: w for name, w in both.state_dict().items() if not name.startswith("reverse")})
    x = inputs(data)
    assert_same(one(x, relations(data))[0], both(x, relations(data))[0][:, :4], [x])


@pytest.mark.parametrize("kind", ["sibling", "parent"])
def test_without_one_of_its_two_relations_the_layer_is_torchs_lstm(kind):
    layer, data = randomised(GraphStructuredLSTM(3, 4, "tanh")), chain(7)
    theirs = torch.nn.LSTM(3, 4, bidirectional=True).double()
    order = [0, 1, 2, 3] if kind == "sibling" else [0, 4, 2, 3]  # the forget gate is f, or that of the hierarchy

    def blocks(weight):
        return torch.cat([weight.chunk(5)[k] for k in order])

    pairs = []
    for mine, way in ((layer, ""), (layer.reverse, "_reverse")):
        hidden = mine.weight_hh if kind == "sibling" else mine.weight_ph
        for ours, name in ((mine.weight_ih, "weight_ih"), (hidden, "weight_hh"), (mine.bias, "bias_ih")):
            pairs.append((ours, getattr(theirs, f"{name}_l0{way}")))
        torch.nn.init.zeros_(getattr(theirs, f"bias_hh_l0{way}"))
    with torch.no_grad():
        for ours, their in pairs:
            their.copy_(blocks(ours))
    x = inputs(data)
    h, _ = layer(x, {"sibling": NONE, "parent": NONE} | {kind: data.edge_index})
    expected, _ = theirs(x)
    assert_same(h, expected, [x])
    ours = torch.autograd.grad(h.square().sum(), [a for a, _ in pairs])
    their = torch.autograd.grad(expected.square().sum(), [b for _, b in pairs])
    for a, b in zip(ours, their, strict=True):
        torch.testing.assert_close(blocks(a), b, rtol=1e-10, atol=1e-12)


def test_a_batch_of_threads_is_the_threads_one_by_one():
    threads = [thread(comments) for comments in THREADS.values()]
    layer, batch = randomised(GraphStructuredLSTM(3, 4)), Batch.from_data_list(threads)
    x = torch.randn(batch.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    parts = x.split([data.num_nodes for data in threads])
    alone = zip(*(layer(part, relations(data)) for part, data in zip(parts, threads, strict=True)), strict=True)
    assert_same(layer(x, relations(batch)), tuple(map(torch.cat, alone)), [x, *layer.parameters()])


def test_the_way_back_is_planned_once():
    data, layer = thread(THREADS["random"]), GraphStructuredLSTM(3, 4)
    plan = mpnn.plan(relations(data), "topological", data.num_nodes)
    layer(torch.ones(15, 3), plan)
    kept = dict(plan.memo)
    layer(torch.ones(15, 3), plan)
    assert any(isinstance(value, mpnn.Plan) for value in kept.values())
    assert all(plan.memo[key] is value for key, value in kept.items())


@pytest.mark.parametrize(
    "kind, edges, message",
    [
        ("parent", [[0, 1], [2, 2]], "node 2 has 2 'parent' edges into it"),
        ("sibling", [[0, 1], [2, 2]], "node 2 has 2 'sibling' edges into it"),
        ("sibling", [[1, 1], [0, 2]], "node 1 has 2 'sibling' edges out of it"),
        ("parent", [[1, 1], [0, 2]], "node 1 has 2 'parent' edges out of it.*a first child"),
    ],
)
def test_a_node_with_two_of_a_kind_is_an_error_that_names_it(kind, edges, message):
    edge_index = {"parent": NONE, "sibling": NONE} | {kind: torch.tensor(edges)}
    with pytest.raises(ValueError, match=f"GraphStructuredLSTM: {message}"):
        GraphStructuredLSTM(3, 4)(torch.ones(3, 3), edge_index)


def test_an_unknown_candidate_is_an_error():
    with pytest.raises(ValueError, match="candidate='relu' is unknown; expected 'linear' or 'tanh'"):
        GraphStructuredLSTM(3, 4, "relu")


def test_a_thread_of_no_comments_has_no_states():
    h, c = GraphStructuredLSTM(3, 4)(torch.ones(0, 3), relations(thread([])))
    assert h.shape == c.shape == (0, 8)
    assert isinstance(thread([]), Data)

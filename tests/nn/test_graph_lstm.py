import networkx as nx
import pytest
import torch
from compare import assert_same, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import digraphs, normal, priorities, seeds, undirected

import mpnn
from mpnn.nn import GraphLSTM, ResidualGraphLSTM
from mpnn.schedule import ordered

RUNS = settings(max_examples=25)


def paper(layer, x, edges, order, h, m, adaptive=True, peek=True):
    """Liang et al. 2016, eq. 2-3, one node after the other, with its names of the gates; q says who was visited."""
    sigma, tanh, zero = torch.sigmoid, torch.tanh, torch.zeros_like(layer.bias[:4])
    (W_u, W_f, W_c, W_o), (U_u, U_f, U_c, U_o) = layer.weight_ih.chunk(4), layer.weight_hh.chunk(4)
    U_un, U_fn, U_cn, *U_on = layer.weight_nh.split(4)
    b_u, b_f, b_c, b_o = layer.bias.chunk(4)
    new_h, new_m = dict(enumerate(h)), dict(enumerate(m))
    for i in order:
        near = [j for j, k in edges if k == i]
        q = {j: order.index(j) < order.index(i) for j in near}
        one = 1 / max(len(near), 1)
        h_bar = one * sum([new_h[j] if q[j] else h[j] for j in near], zero)
        u = sigma(W_u @ x[i] + U_u @ h[i] + U_un @ h_bar + b_u)
        f = sigma(W_f @ x[i] + U_f @ h[i] + b_f)
        o = sigma(W_o @ x[i] + U_o @ h[i] + (U_on[0] @ h_bar if peek else 0) + b_o)
        c = tanh(W_c @ x[i] + U_c @ h[i] + U_cn @ h_bar + b_c)
        own = {j: sigma(W_f @ x[i] + U_fn @ h[j] + b_f) for j in near}
        if not adaptive:
            own = dict.fromkeys(near, sigma(W_f @ x[i] + U_fn @ (one * sum([h[j] for j in near], zero)) + b_f))
        kept = one * sum([own[j] * (new_m[j] if q[j] else m[j]) for j in near], zero)
        new_m[i] = kept + f * m[i] + u * c
        new_h[i] = tanh(o * new_m[i])
    return tuple(torch.stack([found[i] for i in range(len(x))]) for found in (new_h, new_m))


def in_order(priority):
    return sorted(range(len(priority)), key=lambda i: (-float(priority[i]), i))


@pytest.mark.parametrize("adaptive, peek", [(True, True), (False, True), (True, False), (False, False)])
@RUNS
@given(graph=st.one_of(undirected(), digraphs(min_nodes=1)), data=st.data(), seed=seeds)
def test_frontiers_give_the_papers_result_of_one_node_after_the_other(adaptive, peek, graph, data, seed):
    generator, n = torch.Generator().manual_seed(seed), graph.num_nodes
    layer, priority = randomised(GraphLSTM(3, 4, adaptive, peek)), data.draw(priorities(n))
    x, h, m = normal(generator, n, 3), normal(generator, n, 4), normal(generator, n, 4)
    ours = layer(x, graph.edge_index, h, m, schedule=ordered(priority))
    edges = graph.edge_index.t().tolist()
    theirs = paper(layer, x, edges, in_order(priority), list(h), list(m), adaptive, peek)
    assert_same(ours, theirs, [x, h, m, *layer.parameters()])


def test_states_that_are_not_given_are_zero():
    layer, x = randomised(GraphLSTM(3, 4)), torch.randn(4, 3, dtype=torch.float64)
    edge_index, zero = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), torch.zeros(4, 4, dtype=torch.float64)
    rule = ordered(torch.arange(4))
    assert_same(layer(x, edge_index, schedule=rule), layer(x, edge_index, zero, zero, schedule=rule), [layer.bias])


def test_a_networkx_graph_brings_its_edges_and_its_priorities():
    net = nx.Graph([("sky", "tree"), ("tree", "car"), ("car", "road"), ("road", "tree")])
    confidence = {"sky": 0.9, "tree": 0.3, "car": 0.5, "road": 0.5}
    nx.set_node_attributes(net, confidence, "confidence")
    data = mpnn.from_networkx(net, x=lambda node: [1.0, float(len(node))], confidence="confidence", dtype=torch.float64)
    layer, zero = randomised(GraphLSTM(2, 4)), torch.zeros(4, 4, dtype=torch.float64)
    ours = layer(data.x, mpnn.plan(data, ordered("confidence")))
    place = {node: k for k, node in enumerate(net)}
    edges = [(place[a], place[b]) for u, v in net.edges for a, b in ((u, v), (v, u))]
    order = [place[node] for node in ("sky", "car", "road", "tree")]
    theirs = paper(layer, data.x, edges, order, list(zero), list(zero))
    assert_same(ours, theirs, list(layer.parameters()))


def test_layers_go_on_from_the_states_before_and_add_to_their_input():
    stack = ResidualGraphLSTM(4, num_layers=3).double()
    torch.manual_seed(1)
    x, graph = torch.randn(5, 4, dtype=torch.float64), torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])
    seen = []

    def loudest_first(number, x):
        seen.append(number)
        return ordered(x.norm(dim=1))

    ours, y, h, m = stack(x, graph, loudest_first), x, None, None
    for layer in stack.layers:
        h, m = layer(y, graph, h, m, schedule=ordered(y.norm(dim=1)))
        y = y + h
    assert torch.equal(ours, y) and seen == [0, 1, 2]
    kept = stack(x, mpnn.plan(graph, ordered(x.norm(dim=1)), num_nodes=5))
    assert torch.equal(kept, stack(x, graph, ordered(x.norm(dim=1)))) and not torch.equal(kept, ours)


@pytest.mark.parametrize("adaptive", [True, False])
@RUNS
@given(graph=undirected(), data=st.data(), seed=seeds)
def test_layers_one_on_the_other_are_the_papers_loop_layer_after_layer(adaptive, graph, data, seed):
    generator, n = torch.Generator().manual_seed(seed), graph.num_nodes
    stack, priority = randomised(ResidualGraphLSTM(4, num_layers=3, adaptive=adaptive)), data.draw(priorities(n))
    x, edges, order = normal(generator, n, 4), graph.edge_index.t().tolist(), in_order(priority)
    start = [normal(generator, n, 4) for _ in "hm"] if data.draw(st.booleans()) else []
    theirs, (h, m) = x, start or torch.zeros(2, n, 4, dtype=torch.float64)
    for layer in stack.layers:
        h, m = paper(layer, theirs, edges, order, list(h), list(m), adaptive)
        theirs = theirs + h
    assert_same(stack(x, graph.edge_index, ordered(priority), *start), theirs, [x, *start, *stack.parameters()])


def test_a_forget_gate_for_each_neighbour_counts_from_the_second_layer_on():
    """States are 0 before the first layer, so there all neighbours' gates are equal; after it they are not."""
    each, one = ResidualGraphLSTM(4, num_layers=2).double(), ResidualGraphLSTM(4, num_layers=2, adaptive=False).double()
    one.load_state_dict(each.state_dict())
    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    star, rule = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]]), ordered(torch.arange(4))
    first = [stack.layers[0](x, star, schedule=rule)[0] for stack in (each, one)]
    assert torch.allclose(*first, rtol=1e-12)
    assert not torch.allclose(each(x, star, rule), one(x, star, rule), rtol=1e-6)


def test_the_layer_says_what_it_is_and_refuses_other_widths():
    assert repr(GraphLSTM(3, 4, False)) == "GraphLSTM(3, 4, adaptive=False)"
    with pytest.raises(ValueError, match="GraphLSTM: x has 2 features a node"):
        GraphLSTM(3, 4)(torch.ones(2, 2), torch.zeros(2, 0, dtype=torch.long))
    none = torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(ValueError, match=r"GraphLSTM: h has shape \(1, 4\); expected \(2, 4\)"):
        GraphLSTM(3, 4)(torch.ones(2, 3), none, torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"GraphLSTM: m has shape \(2, 3\); expected \(2, 4\)"):
        GraphLSTM(3, 4)(torch.ones(2, 3), none, None, torch.ones(2, 3))
    with pytest.raises(ValueError, match="ResidualGraphLSTM: x has 2 features a node"):
        ResidualGraphLSTM(3)(torch.ones(2, 2), torch.zeros(2, 0, dtype=torch.long))

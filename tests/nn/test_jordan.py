import pytest
import torch
from compare import assert_same, randomised
from torch_geometric.data import Batch, Data
from zoo import graphs

import mpnn
from mpnn.nn import RNN, Jordan

IN, H, OUT = 3, 4, 2


def paper_jordan(layer, x, edge_index, start, f, g):
    """Jordan 1986, one node at a time: s = y(t-1) + a s(t-1), h = f(W x + U s + b), y = g(V h + c)."""
    W, U, V = layer.weight_ih_l0, layer.weight_hh_l0, layer.weight_ho_l0
    s, y = {}, {}

    def visit(t):
        before = [j for j, i in edge_index.t().tolist() if i == t]
        for j in before:
            if j not in y:
                visit(j)
        s[t] = sum(y[j] + layer.decay * s[j] for j in before) if before else start[t]
        h = f(W @ x[t] + layer.bias_ih_l0 + U @ s[t] + layer.bias_hh_l0)
        y[t] = g(V @ h + layer.bias_ho_l0)

    for t in range(len(x)):
        if t not in y:
            visit(t)
    return torch.stack([y[t] for t in range(len(x))])


VARIANTS = {
    "the last output": (torch.tanh, None, 0.0),
    "logistic": (torch.sigmoid, torch.sigmoid, 0.0),
    "with decay": (torch.tanh, torch.tanh, 0.6),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from given outputs"])
def test_it_is_the_papers_loop_on_chains_and_other_dags(variant, given):
    f, g, decay = VARIANTS[variant]
    layer = randomised(Jordan(IN, H, OUT, nonlinearity=f, output_nonlinearity=g, decay=decay))
    pair = Data(edge_index=torch.tensor([[0, 1, 4], [1, 2, 3]]), num_nodes=5)  # a chain of three, and one of two
    for name, data in ({"two chains": pair} | graphs("dag")).items():
        n = data.num_nodes
        if not n:
            continue
        x = torch.randn(n, IN, dtype=torch.float64, requires_grad=True)
        y0 = torch.randn(1, n, OUT, dtype=torch.float64).mul(given).requires_grad_()
        expected = paper_jordan(layer, x, data.edge_index, y0[0], f, g or (lambda v: v))
        more = {"y0": y0, "batch": torch.arange(n)} if given else {}
        leaves = [x, *layer.parameters(), *([y0] if given else [])]
        assert_same(layer(x, data.edge_index, **more), expected, leaves, what=name)


def test_fed_back_through_the_identity_it_is_the_simple_network():
    ours, simple = randomised(Jordan(IN, H, H)), randomised(RNN(IN, H))
    with torch.no_grad():
        ours.weight_ho_l0.copy_(torch.eye(H))
        ours.bias_ho_l0.zero_()
    ours.load_state_dict(simple.state_dict(), strict=False)
    data = graphs()["random dag"]
    x = torch.randn(data.num_nodes, IN, dtype=torch.float64, requires_grad=True)
    shared = [getattr(simple, name) for name, _ in simple.named_parameters()]
    mine = [getattr(ours, name) for name, _ in simple.named_parameters()]
    assert_same(ours(x, data.edge_index), simple(x, data.edge_index), [x, *mine], [x, *shared])


def test_layers_are_stacked_on_outputs_and_run_both_ways():
    layer = randomised(Jordan(IN, H, OUT, num_layers=2, bidirectional=True))
    parts = {(k, way): randomised(Jordan(2 * OUT if k else IN, H, OUT)) for k in (0, 1) for way in ("", "_reverse")}
    for (k, way), part in parts.items():
        part.load_state_dict({n: layer.state_dict()[n.replace("_l0", f"_l{k}{way}")] for n in part.state_dict()})
    data = graphs()["random dag"]
    x = torch.randn(data.num_nodes, IN, dtype=torch.float64, requires_grad=True)
    below = x
    for k in (0, 1):
        ways = parts[k, ""](below, data.edge_index), parts[k, "_reverse"](below, data.edge_index.flip(0))
        below = torch.cat(ways, dim=1)
    assert_same(layer(x, data.edge_index), below, [x])


def test_a_batch_of_sequences_is_the_sequences_one_by_one():
    layer = randomised(Jordan(IN, H, OUT, decay=0.3))
    alone = [mpnn.graphs.chain(n) for n in (3, 1, 5)]
    for data in alone:
        data.x = torch.randn(data.num_nodes, IN, dtype=torch.float64)
    batch, y0 = Batch.from_data_list(alone), torch.randn(1, 3, OUT, dtype=torch.float64)
    together = layer(batch.x, batch.edge_index, y0=y0, batch=batch.batch)
    one = [layer(data.x, data.edge_index, y0=y0[:, b : b + 1]) for b, data in enumerate(alone)]
    assert_same(together, torch.cat(one), list(layer.parameters()))


def test_initial_outputs_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"Jordan: y0 has shape \(1, 1, 4\); expected \(1, 1, 2\)"):
        Jordan(IN, H, OUT)(torch.ones(3, IN), torch.tensor([[0, 1], [1, 2]]), y0=torch.zeros(1, 1, H))


def test_the_repr_shows_the_widths_and_what_differs():
    layer = Jordan(3, 4, 2, decay=0.5, output_nonlinearity=torch.sigmoid)
    assert repr(layer) == "Jordan(3, 4, 2, output_nonlinearity=sigmoid, decay=0.5)"

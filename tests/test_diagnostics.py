"""mpnn.diagnostics against closed forms, finite differences, Jacobians taken whole, and loops."""

import networkx as nx
import pytest
import torch
from compare import assert_close, randomised
from torch import nn
from torch_geometric.nn import GATConv, GATv2Conv
from zoo import graphs

import mpnn
from mpnn.diagnostics import (
    Sensitivity,
    attention,
    dirichlet_energy,
    energies,
    gamma,
    hidden_states,
    hops,
    input_sensitivity,
    plot_energies,
    plot_sensitivity,
    state_sensitivity,
)

CHAIN = mpnn.graphs.chain(6).edge_index


def inputs(num_nodes, width=3):
    return torch.randn(num_nodes, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear_rnn():
    """With weights and inputs above 0 the rectifier does nothing."""
    layer = randomised(mpnn.nn.RNN(3, 4, nonlinearity="relu"))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
    return layer


class Paths(mpnn.MessagePassing):
    """Linear: h_i = x_i + A (sum of the sources' states), so that d h_t / d h_k is the sum of A^length over paths."""

    state, schedule, hidden_features = ("h",), "topological", 3

    def __init__(self):
        super().__init__()
        self.A = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, h_j):
        return h_j @ self.A.T

    def update(self, x, message):
        return x + message


class Deep(nn.Module):
    def __init__(self, depth, width=3):
        super().__init__()
        self.layers = nn.ModuleList(mpnn.nn.GCN(width, width) for _ in range(depth))

    def forward(self, x, edge_index):
        for layer in self.layers:
            x = torch.tanh(layer(x, edge_index))
        return x


# Sensitivity to states


@pytest.mark.parametrize("norm, order", [("frobenius", "fro"), ("spectral", 2)])
def test_a_linear_rnn_has_the_norms_of_the_powers_of_its_weight(norm, order):
    layer = linear_rnn()
    found = state_sensitivity(layer, inputs(6).abs(), CHAIN, norm=norm)
    powers = [torch.linalg.matrix_power(layer.weight_hh_l0.detach(), 5 - k) for k in range(6)]
    assert_close(found.norm[0], torch.stack([torch.linalg.matrix_norm(p, order) for p in powers]), "norm")
    assert found.distance.tolist() == [[5, 4, 3, 2, 1, 0]] and found.target.tolist() == [5]


@pytest.mark.parametrize("make", [mpnn.nn.RNN, mpnn.nn.GRU, mpnn.nn.LSTM])
@pytest.mark.parametrize("k", [0, 3])
def test_state_sensitivity_is_the_quotient_of_small_differences(make, k):
    layer, x, step = randomised(make(3, 4)), inputs(6), 1e-6
    state = [field[0] for field in layer.states(x, CHAIN)]
    at_k, width = torch.cat([field[k] for field in state]).detach(), 4

    def rest(start):
        """The last state from the state at k: the chain behind k, with this as initial state."""
        initial = {f"{name}0": start[width * n : width * (n + 1)].view(1, 1, -1) for n, name in enumerate(layer.state)}
        out = layer.states(x[k + 1 :], mpnn.graphs.chain(5 - k).edge_index, **initial)
        return torch.cat([field[0, -1] for field in out]).detach()

    nudges = step * torch.eye(len(at_k), dtype=torch.float64)
    jacobian = torch.stack([(rest(at_k + e) - rest(at_k - e)) / (2 * step) for e in nudges], dim=1)
    found = state_sensitivity(layer, x, CHAIN).norm[0, k]
    torch.testing.assert_close(found, jacobian.norm(), rtol=1e-6, atol=1e-9)


def test_all_paths_of_a_dag_count_in_any_order_of_nodes():
    graph = nx.DiGraph([(4, 2), (4, 0), (2, 1), (0, 1), (0, 3), (1, 3)])
    edges = torch.tensor(list(graph.edges)).t()
    layer = Paths()
    found = state_sensitivity(layer, inputs(5), edges, target=3)
    for k in graph:
        lengths = [len(path) - 1 for path in nx.all_simple_paths(graph, k, 3)] if k != 3 else [0]
        expected = sum(torch.linalg.matrix_power(layer.A, n) for n in lengths)
        assert_close(found.norm[0, k], expected.norm(), f"node {k}")


def test_several_targets_have_a_row_each_and_what_comes_later_has_no_part():
    layer, x = randomised(mpnn.nn.RNN(3, 4)), inputs(6)
    both = state_sensitivity(layer, x, CHAIN, target=[2, -1])
    for row, t in enumerate((2, 5)):
        assert_close(both.norm[row], state_sensitivity(layer, x, CHAIN, target=t).norm[0], f"target {t}")
    assert (both.norm[0, 3:] == 0).all() and both.distance[0, 3:].isinf().all()


def test_of_an_lstm_single_fields_can_be_asked_for():
    layer, x = randomised(mpnn.nn.LSTM(3, 4)), inputs(6)
    found = state_sensitivity(layer, x, CHAIN, fields=("h",)).norm[0]
    assert_close(found[5], torch.tensor(2.0, dtype=torch.float64), "h with itself, width 4")
    whole = state_sensitivity(layer, x, CHAIN).norm[0]
    assert (found[:5] < whole[:5]).all()
    h, c = (field[:, 4:5].detach() for field in layer.states(x, CHAIN))
    last = mpnn.graphs.chain(1).edge_index
    step = torch.autograd.functional.jacobian(lambda h: layer(x[5:], last, h0=h, c0=c)[0].flatten(), h)
    assert_close(found[4], step.norm(), "one step of h alone, at both ends")


def test_a_tree_and_a_layer_with_edge_fields_will_do():
    tree = mpnn.graphs.brackets("(a (b (c w) (d w)) (e w))")
    found = state_sensitivity(
        randomised(mpnn.nn.NaryTreeLSTM(3, 4)), inputs(5), tree.edge_index, target=0, child=tree.child
    )
    assert found.distance.tolist() == [[0, 1, 2, 2, 1]] and (found.norm > 0).all()


def test_a_pass_of_a_stack_is_picked_by_number():
    layer, x = randomised(mpnn.nn.RNN(3, 4, num_layers=2, bidirectional=True)), inputs(6)
    reach = [state_sensitivity(layer, x, CHAIN, target=2, of_pass=k).norm[0] > 0 for k in range(4)]
    assert reach[0].all() and reach[1].all()  # the layer above sees both ways
    assert reach[2].tolist() == [True] * 3 + [False] * 3 and reach[3].tolist() == [False] * 2 + [True] * 4


def test_distances_of_a_backward_pass_are_backwards():
    layer = randomised(mpnn.nn.RNN(3, 4, bidirectional=True))
    found = state_sensitivity(layer, inputs(6), CHAIN, target=0)
    assert found.distance.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_layer_is_as_before_even_after_an_error():
    layer, x = randomised(mpnn.nn.RNN(3, 4)), inputs(6)
    before = layer(x, CHAIN)
    state_sensitivity(layer, x, CHAIN)
    with pytest.raises(ValueError, match="7 features"):
        state_sensitivity(layer, inputs(6, 7), CHAIN)
    assert not {"update", "propagate"} & set(vars(layer))
    assert torch.equal(layer(x, CHAIN), before)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_it_works_where_no_gradients_are_recorded_and_on_a_plan():
    layer, x = randomised(mpnn.nn.RNN(3, 4)), inputs(6)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        found = state_sensitivity(layer, x, mpnn.plan(CHAIN, "topological", num_nodes=6))
    assert (found.norm > 0).all() and not x.requires_grad


# Sensitivity to inputs


def test_input_sensitivity_is_the_norm_of_blocks_of_the_whole_jacobian():
    data = graphs("undirected")["two components"]
    model, x = randomised(Deep(2)), inputs(6)
    whole = torch.autograd.functional.jacobian(lambda v: model(v, data.edge_index), x)  # (t, F, k, F)
    frobenius = input_sensitivity(model, x, data.edge_index, target=range(6)).norm
    assert_close(frobenius, whole.square().sum((1, 3)).sqrt(), "Frobenius")
    spectral = input_sensitivity(model, x, data.edge_index, target=range(6), norm="spectral").norm
    assert_close(spectral, torch.linalg.matrix_norm(whole.permute(0, 2, 1, 3), 2), "spectral")


def test_a_network_of_l_layers_hears_from_l_hops_and_no_further():
    chain = torch.cat([CHAIN, CHAIN.flip(0)], dim=1)
    for depth in (1, 3):
        found = input_sensitivity(randomised(Deep(depth)), inputs(6), chain, target=[0, 3])
        assert torch.equal(found.norm > 0, found.distance <= depth)


def test_over_squashing_a_bottleneck_passes_less_than_a_clique():
    layer = mpnn.nn.MeanNetwork(3, 3).double()

    def model(x, edge_index):
        for _ in range(3):
            x = layer(x, edge_index)
        return x

    def reach(graph, target, source):
        edges = torch.tensor(list(graph.to_directed().edges)).t()
        return input_sensitivity(model, inputs(len(graph)), edges, target).norm[0, source]

    across = reach(nx.barbell_graph(6, 0), 0, 11)  # 0 - 5 - 6 - 11, and many neighbours on the way
    assert across < 0.2 * reach(nx.path_graph(4), 0, 3)  # as far, and few neighbours


def test_probes_estimate_the_norm_and_more_are_closer():
    data = graphs("undirected")["complete"]
    model, x = randomised(Deep(2, 8)), inputs(4, 8)
    exact = input_sensitivity(model, x, data.edge_index, target=range(4)).norm.square()

    def error(probes):
        generator = torch.Generator().manual_seed(0)
        found = input_sensitivity(model, x, data.edge_index, range(4), probes=probes, generator=generator).norm.square()
        return float(((found - exact) / exact).abs().mean())

    assert error(1000) < 0.1 and error(1000) < error(4)


def test_results_of_several_fields_are_joined():
    layer, x = randomised(mpnn.nn.ChildSumTreeLSTM(3, 4)), inputs(6)
    whole = torch.autograd.functional.jacobian(lambda v: torch.cat(layer(v, CHAIN), dim=1)[5], x)
    assert_close(input_sensitivity(layer, x, CHAIN).norm[0], whole.square().sum((0, 2)).sqrt(), "h and c")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(target=6), "6 is no node of the 6"),
        (dict(target=[0, -7]), "-7 is no node"),
        (dict(norm="nuclear"), "norm='nuclear' is unknown"),
        (dict(norm="spectral", probes=4), "probes=4"),
    ],
)
def test_a_wrong_question_is_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        input_sensitivity(mpnn.nn.GCN(3, 3).double(), inputs(6), CHAIN, **wrong)


def test_a_layer_without_state_is_an_error_that_names_the_other_function():
    with pytest.raises(TypeError, match="GCN has no state.*input_sensitivity"):
        state_sensitivity(mpnn.nn.GCN(3, 3), inputs(6), CHAIN)
    with pytest.raises(ValueError, match="'c' is no field of RNN's state"):
        state_sensitivity(mpnn.nn.RNN(3, 3), inputs(6), CHAIN, fields=("c",))


# Distances and rates


@pytest.mark.parametrize("name", ["random", "random dag", "two components", "double edge", "no edges"])
def test_hops_are_lengths_of_shortest_paths(name):
    data = graphs()[name]
    graph = nx.DiGraph(data.edge_index.t().tolist())
    graph.add_nodes_from(range(data.num_nodes))
    found = hops(data.edge_index, data.num_nodes, range(data.num_nodes))
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [[lengths[k].get(t, float("inf")) for k in range(data.num_nodes)] for t in range(data.num_nodes)]
    assert found.tolist() == expected


def test_hops_of_edge_types_and_of_plans():
    edges = {"parent": CHAIN[:, :3], "sibling": CHAIN[:, 3:]}
    assert hops(edges, 6, [5]).tolist() == hops(CHAIN, 6, [5]).tolist() == [[5, 4, 3, 2, 1, 0]]
    assert hops(mpnn.plan(CHAIN, "topological", num_nodes=6), 6, [5]).tolist() == [[5, 4, 3, 2, 1, 0]]


def test_the_mean_norm_at_a_distance_leaves_out_what_is_not_connected():
    found = Sensitivity(
        torch.tensor([[1.0, 4.0, 9.0], [2.0, 3.0, 0.0]]),
        torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, torch.inf]]),
        torch.tensor([0, 1]),
    )
    distance, norm = found.by_distance()
    assert distance.tolist() == [0, 2] and norm.tolist() == [2, 5]


def test_the_rate_of_powers_is_their_base_and_zeros_do_not_count():
    distance = torch.arange(6.0, dtype=torch.float64).view(1, -1)
    norm = 0.7**distance
    norm[0, 0], norm[0, 5] = 100.0, 0.0
    assert Sensitivity(norm, distance, torch.tensor([0])).rate() == pytest.approx(0.7)
    with pytest.raises(ValueError, match="above 0 at 1 distances"):
        Sensitivity(norm[:, :2], distance[:, :2], torch.tensor([0])).rate()


def test_very_small_norms_do_not_underflow():
    layer = linear_rnn().float()
    with torch.no_grad():
        layer.weight_hh_l0.copy_(1e-6 * torch.eye(4))
    found = state_sensitivity(layer, inputs(6).abs().float(), CHAIN)
    assert found.rate() == pytest.approx(1e-6, rel=1e-4)


# Gamma


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_gamma_is_the_norm_of_the_matrix_of_the_text_and_bounds_the_gradient(nonlinearity):
    layer, x = randomised(mpnn.nn.RNN(3, 4, nonlinearity=nonlinearity)), inputs(6)
    h = layer(x, CHAIN)
    found, bound = gamma(layer, h)
    U, W, b = layer.weight_hh_l0.detach(), layer.weight_ih_l0.detach(), layer.bias_ih_l0 + layer.bias_hh_l0
    before, step = torch.zeros(4, dtype=torch.float64), []
    for k in range(6):
        z = (W @ x[k] + U @ before + b).detach()
        slope = torch.autograd.functional.jacobian(getattr(torch, nonlinearity), z)
        step.append(slope @ U.t())
        before = h[k].detach()
        assert_close(found[k], torch.linalg.svdvals(step[k])[0], f"node {k}")
    assert bound == pytest.approx(float(torch.linalg.svdvals(U)[0])) and (found <= bound + 1e-12).all()
    assert h.requires_grad and not found.requires_grad
    delta = torch.linalg.multi_dot(step[:5])  # from delta_{5,5} to delta_{5,0}
    assert torch.linalg.svdvals(delta)[0] <= found[:5].prod() + 1e-12


def test_gamma_of_a_layer_whose_step_is_no_single_product_is_refused():
    with pytest.raises(TypeError, match="gamma: layer is a LSTM; expected an mpnn.nn.RNN"):
        gamma(mpnn.nn.LSTM(3, 4), torch.zeros(2, 4))


def test_gamma_of_a_residual_network_is_refused():
    layer = mpnn.nn.RNN(3, 4, residual=True)
    with pytest.raises(ValueError, match="residual"):
        gamma(layer, torch.zeros(2, 4))


# Dirichlet energy


@pytest.mark.parametrize("name", ["random", "two components", "double edge", "self-loop"])
@pytest.mark.parametrize("by_degree", [False, True])
def test_dirichlet_energy_is_the_sum_over_edges(name, by_degree):
    data = graphs()[name]
    x, total = inputs(data.num_nodes), 0.0
    degree = [int((data.edge_index[1] == i).sum()) for i in range(data.num_nodes)]
    for j, i in data.edge_index.t().tolist():
        a, b = ((x[k] / (1 + degree[k]) ** 0.5 if by_degree else x[k]) for k in (i, j))
        total = total + ((a - b) ** 2).sum()
    found = dirichlet_energy(x, data.edge_index, by_degree)
    assert_close(found, total / data.num_nodes, name)
    size = sum(float((row**2).sum()) for row in x)
    assert_close(dirichlet_energy(x, data.edge_index, by_degree, relative=True), total / size, "relative")


def test_by_degree_is_the_quadratic_form_of_the_normalised_laplacian():
    data = graphs("undirected")["complete"]
    x = inputs(4)
    A = torch.ones(4, 4, dtype=torch.float64)  # with loops
    laplacian = torch.eye(4) - A / 4
    found = dirichlet_energy(x, data.edge_index, by_degree=True)
    assert_close(found, 2 * (x.t() @ laplacian @ x).trace() / 4, "both directions of an edge")


def test_what_the_two_energies_call_smooth():
    edges = graphs("undirected")["two components"].edge_index
    root = (1 + torch.bincount(edges[1])).double().sqrt().unsqueeze(1)
    assert dirichlet_energy(torch.ones(6, 2), edges) == 0 < dirichlet_energy(root, edges)
    assert dirichlet_energy(root, edges, by_degree=True) < 1e-30
    x = inputs(6)
    assert_close(dirichlet_energy(1e-8 * x, edges, relative=True), dirichlet_energy(x, edges, relative=True), "scale")
    assert dirichlet_energy(0 * x, edges, relative=True) == 0
    assert dirichlet_energy(x[:0], edges[:, :0]) == 0


def test_energies_are_those_of_the_layers_hooked_in_order():
    edges = graphs("undirected")["two components"].edge_index
    model, x = randomised(Deep(3)), inputs(6)
    expected, h = [], x
    for layer in model.layers:
        expected.append(dirichlet_energy(layer(h, edges), edges))
        h = torch.tanh(layer(h, edges))
    assert_close(energies(model, x, edges), torch.stack(expected).detach(), "energies")
    only = energies(model, x, edges, layers=[model.layers[1]])
    assert_close(only, expected[1].detach().view(1), "one layer")
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_deep_linear_graph_convolution_smooths_layer_by_layer():
    edges = graphs("undirected")["two components"].edge_index
    model = Deep(8).double()
    with torch.no_grad():
        for layer in model.layers:
            layer.linear.weight.copy_(torch.eye(3))
    model.forward = lambda x, edge_index: [x := layer(x, edge_index) for layer in model.layers][-1]
    found = energies(model, inputs(6), edges, by_degree=True, relative=True)
    assert (found[1:] < found[:-1]).all() and found[-1] < 0.01 * found[0]


def test_a_model_without_layers_is_an_error():
    with pytest.raises(ValueError, match="Linear has no message-passing layer"):
        hidden_states(nn.Linear(3, 3), inputs(2))


# Pictures


def test_pictures_have_a_line_a_model_and_are_written(tmp_path):
    found = state_sensitivity(randomised(mpnn.nn.RNN(3, 4)), inputs(6), CHAIN)
    axes = plot_sensitivity({"one": found, "two": found}, path=tmp_path / "new" / "sensitivity.png")
    assert len(axes.lines) == 2 and axes.get_yscale() == "log"
    assert (tmp_path / "new" / "sensitivity.png").stat().st_size > 5_000
    assert "a step" in axes.get_legend().get_texts()[1].get_text()
    axes = plot_energies({"GCN": [1.0, 0.1, 0.01]}, path=tmp_path / "energies.png")
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3] and (tmp_path / "energies.png").exists()
    assert plot_energies({"more": [2.0]}, ax=axes) is axes and len(axes.lines) == 2


def test_pictures_of_what_has_no_name_are_refused():
    found = Sensitivity(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    with pytest.raises(TypeError, match=r"plot_sensitivity: found is a Sensitivity; .* Name it: \{'LSTM': found\}"):
        plot_sensitivity(found)
    with pytest.raises(TypeError, match=r"plot_energies: found is a list"):
        plot_energies([1.0, 0.1])


class Kinds(mpnn.MessagePassing):
    """Attends by a field of the edges and one of the graph; its value is no state."""

    value = "x"

    def forward(self, x, edge_index, kind, u, batch=None):
        return self.propagate(edge_index, x=x, kind=kind, u=u, batch=batch)

    def attention(self, x_j, x_i, kind, u_g):
        return (x_j * x_i).sum(1) + kind + u_g


@pytest.mark.parametrize("ours, theirs", [(mpnn.nn.GAT, GATConv), (mpnn.nn.GATv2, GATv2Conv)])
def test_attention_is_that_of_torch_geometric(ours, theirs):
    x, edge_index = torch.randn(5, 3), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 2, 0, 0, 4]])  # a loop that is there
    own, other = ours(3, 4, heads=2), theirs(3, 4, heads=2)
    names = {"linear.weight": "lin.weight", "source.weight": "lin_l.weight", "source.bias": "lin_l.bias",
             "target.weight": "lin_r.weight", "target.bias": "lin_r.bias"}  # fmt: skip
    known = other.state_dict()
    own.load_state_dict({n: known[names.get(n, n)].reshape(p.shape) for n, p in own.state_dict().items()})
    ((edges, weight),) = attention(own.eval(), x, edge_index)
    _, (looped, expected) = other(x, edge_index, return_attention_weights=True)
    by_edge = {tuple(edge): row for edge, row in zip(looped.t().tolist(), expected, strict=True)}
    assert len(by_edge) == edges.shape[1] == 5 + 5
    assert_close(weight, torch.stack([by_edge[tuple(edge)] for edge in edges.t().tolist()]), "weights")


def test_attention_is_what_a_model_weighs_its_messages_with():
    layer, batch = Kinds(), torch.tensor([0, 0, 0, 1, 1])
    edge_index = torch.tensor([[3, 0, 2, 1, 4], [4, 1, 1, 2, 4]])
    given = torch.randn(5, 3), edge_index, torch.randn(5), torch.randn(2), batch
    ((edges, weight),) = attention(nn.Sequential(layer)[0], *given)
    assert torch.equal(edges, edge_index)
    by_hand = torch.zeros(5, 3).index_add(0, edges[1], weight[:, None] * given[0][edges[0]])
    assert_close(layer(*given), by_hand, "messages")
    backwards = mpnn.plan(edge_index, "synchronous", 5)
    ((edges, _),) = attention(layer, given[0], backwards.reverse, *given[2:])
    assert torch.equal(edges, edge_index.flip(0))


def test_attention_notes_every_call_and_leaves_the_layers_as_they_were():
    pap, psp = ("paper", "PAP", "paper"), ("paper", "PSP", "paper")
    layer, x = mpnn.nn.HAN(3, 4, [pap, psp], heads=2), {"paper": torch.randn(3, 3)}
    found = attention(layer, x, {pap: torch.tensor([[0], [1]]), psp: torch.empty(2, 0, dtype=torch.long)})
    assert [edges.shape[1] for edges, _ in found] == [1 + 3, 3] and not found[0][1].requires_grad
    with pytest.raises(ValueError, match="x has 2 features"):
        attention(mpnn.nn.GAT(3, 4), torch.ones(2, 2), torch.empty(2, 0, dtype=torch.long))
    assert "propagate" not in vars(layer) and layer(x, {pap: torch.tensor([[0], [1]])})["paper"].shape == (3, 8)
    with pytest.raises(ValueError, match="Kinds: 'u' has 3 rows, but without batch"):
        attention(broken := Kinds(), torch.ones(2, 2), torch.tensor([[0], [1]]), torch.ones(1), torch.ones(3))
    assert "propagate" not in vars(broken)


def test_attention_that_is_none_or_reads_a_state_is_refused():
    with pytest.raises(ValueError, match="attention: GCN has no layer with an attention"):
        attention(mpnn.nn.GCN(2, 2), torch.ones(2, 2), torch.tensor([[0], [1]]))

    class Reads(mpnn.MessagePassing):
        state, value, hidden_features = "h", "h", 2

        def attention(self, h_j):
            return h_j.sum(1)

        def forward(self, x, edge_index):
            return self.propagate(edge_index, num_nodes=len(x))

    with pytest.raises(ValueError, match="Reads.attention reads the state 'h', which other levels write anew"):
        attention(Reads(), torch.ones(2, 2), torch.tensor([[0], [1]]))

"""mpnn.engine(compile=True): levels by compiled programs, against the reference."""

import importlib
import weakref

import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from strategies import seeds
from test_engine import CELLS, EdgeUpdate, flat, inputs, leaves_of, situations

import mpnn
import mpnn.lattice
from mpnn.engine import choose, program, rowwise
from mpnn.schedule import ordered


def compiled(layer, edge_index, schedule, fields, **options):
    with mpnn.engine("wavefront", compile=True):
        return flat(layer.propagate(edge_index, schedule=schedule, **fields, **options))


def reference(layer, edge_index, schedule, fields, **options):
    with mpnn.engine("reference"):
        return flat(layer.propagate(edge_index, schedule=schedule, **fields, **options))


compiled_engine = importlib.import_module("mpnn.engine.compiled")
REFUSED = {"median of messages"}  # torch_geometric's takes the number of rows for what it is
RUNS = {
    name: make
    for name, make in CELLS.items()
    if make().hooks.edge_update is None and make().state and name not in REFUSED
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", RUNS)
def test_programs_give_what_the_reference_gives(name):
    layer = RUNS[name]()

    @settings(max_examples=25)
    @given(situation=situations(), seed=seeds)
    def check(situation, seed):
        (graph, schedule), generator = situation, torch.Generator().manual_seed(seed)
        edge_index, fields = inputs(layer, graph, generator)
        leaves = leaves_of(layer, fields)
        expected = reference(layer, edge_index, schedule, fields)
        for time in ("", ", once more"):
            found = compiled(layer, edge_index, schedule, fields)
            assert_same(found, expected, leaves, what=f"compiled{time} {schedule}")

    check()


# By Inductor ----------------------------------------------------------------------------------------------------------


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph_lstm(num_nodes, num_edges, seed):
    """A Graph LSTM on a random graph in random order, with states from before the pass."""
    generator = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(num_nodes, (2, num_edges), generator=generator)
    schedule = ordered(torch.rand(num_nodes, generator=generator))
    given = [draw(num_nodes, 3, seed=k).requires_grad_() for k in range(3)]
    return edge_index, schedule, given


@pytest.fixture
def counted(monkeypatch):
    """How many programs were made."""
    made = []
    compile_ = program.Program._compile
    monkeypatch.setattr(program.Program, "_compile", lambda self, *given: (made.append(1), compile_(self, *given)))
    program._tracer.cache_clear()
    torch._dynamo.reset()
    yield made
    program._tracer.cache_clear()


def test_what_inductor_makes_of_a_cell_serves_all_graphs_and_weights(counted):
    torch.manual_seed(0)
    layer = mpnn.nn.GraphLSTM(3, 3).double()
    numbers = []
    for seed, (nodes, edges) in enumerate([(9, 30), (14, 20), (5, 40)]):
        edge_index, schedule, given = graph_lstm(nodes, edges, seed)
        leaves = [*layer.parameters(), *given]
        with mpnn.engine("reference"):
            expected = layer(given[0], edge_index, *given[1:], schedule=schedule)
        with mpnn.engine(compile=True):
            found = layer(given[0], edge_index, *given[1:], schedule=schedule)
        assert_same(found, expected, leaves, what=f"{nodes} nodes")
        numbers.append(len(counted))
        with torch.no_grad():  # as an optimiser does
            for parameter in layer.parameters():
                parameter.add_(0.1)
    assert numbers[0] >= 1 and numbers[-1] <= 4  # and more only for levels of one node or edge, or of none
    again = len(counted)
    with mpnn.engine(compile=True):
        layer(given[0], edge_index, *given[1:], schedule=schedule)
    assert len(counted) == again


def test_edges_of_several_types_are_compiled(counted):
    torch.manual_seed(0)
    layer = mpnn.nn.LatticeLSTM(3, 2, bidirectional=True).double()
    lexicon = mpnn.lattice.Lexicon(["abc", "bc", "cde", "de"])
    edges = mpnn.lattice.relations(mpnn.lattice.lattice("abcdeabc", lexicon))
    x, words = draw(8, 3).requires_grad_(), draw(edges["begins"].shape[1], 3, seed=1).requires_grad_()
    with mpnn.engine("reference"):
        expected = layer(x, words, edges)
    with mpnn.engine(compile=True):
        found = layer(x, words, edges)
    assert_same(found, expected, [x, words, *layer.parameters()])
    assert counted


def test_levels_of_one_node_have_programs_of_their_own(counted):
    torch.manual_seed(0)
    layer = mpnn.nn.ChildSumTreeLSTM(3, 4, bidirectional=True).double()
    edges = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 5]])
    x = draw(7, 3).requires_grad_()
    with mpnn.engine("reference"):
        expected = layer(x, edges)
    with mpnn.engine(compile=True):
        found = layer(x, edges)
    assert_same(found, expected, [x, *layer.parameters()])


# What a pass promises -------------------------------------------------------------------------------------------------


class Chained(mpnn.MessagePassing):
    """A small cell, whose hooks a test can set."""

    state, schedule, hidden_features = ("h",), "topological", 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(draw(2, 2, seed=9))

    def message(self, h_j):
        return torch.tanh(h_j @ self.weight)

    def update(self, x, message):
        return x + message


LINE = torch.tensor([[0, 1, 2, 0, 0, 3], [1, 2, 3, 2, 3, 4]])


def run(layer, x, **options):
    with mpnn.engine("wavefront", **options):
        return layer.propagate(LINE, x=x)


@pytest.mark.usefixtures("interpreted")
def test_without_gradients_nothing_is_kept():
    layer, x = Chained(), draw(5, 2)
    expected = run(layer, x).detach()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            found = run(layer, x, compile=True)
        assert not found.requires_grad and torch.allclose(found, expected)
    for part in (layer, x):  # then gradients of either alone
        layer.requires_grad_(part is layer), x.requires_grad_(part is x)
        leaves = [layer.weight] if part is layer else [x]
        assert_same(run(layer, x, compile=True), run(layer, x), leaves)


@pytest.mark.usefixtures("interpreted")
def test_gradients_are_taken_once_or_as_often_as_asked_and_not_differentiated():
    layer, x = Chained(), draw(5, 2).requires_grad_()
    out = run(layer, x, compile=True).sum()
    first = torch.autograd.grad(out, [x, layer.weight], retain_graph=True)
    second = torch.autograd.grad(out, [x, layer.weight])
    for a, b in zip(first, second):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(out, x)
    with pytest.raises(RuntimeError, match="the compiled wavefront"):
        torch.autograd.grad(run(layer, x, compile=True).sum(), x, create_graph=True)


@pytest.mark.usefixtures("interpreted")
def test_a_weight_that_is_written_to_before_the_way_back_is_noticed():
    layer, x = Chained(), draw(5, 2).requires_grad_()
    out = run(layer, x, compile=True).sum()
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


class Dropped(Chained):
    def message(self, h_j):
        return torch.nn.functional.dropout(h_j @ self.weight, 0.5, self.training)


@pytest.mark.usefixtures("interpreted")
def test_training_is_told_from_evaluation():
    layer, x = Dropped(), draw(5, 2).requires_grad_()
    torch.manual_seed(0)
    seen = torch.stack([run(layer, x, compile=True).detach() for _ in range(20)])
    assert (seen[:, 1:].std(0) > 0).all()  # each time others
    layer.eval()
    assert_same(run(layer, x, compile=True), run(layer, x), [x, layer.weight])


@pytest.mark.usefixtures("interpreted")
def test_what_was_dropped_ahead_is_dropped_on_the_way_back():
    class Kept(Chained):
        def message(self, h_j):
            return torch.nn.functional.dropout(h_j, 0.5, self.training)

    x = torch.ones(2, 100, dtype=torch.float64).requires_grad_()
    layer = Kept()
    layer.hidden_features = 100
    with mpnn.engine(compile=True):
        out = layer.propagate(torch.tensor([[0], [1]]), x=x)[1]
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert set(out.tolist()) == {1.0, 3.0} and torch.equal(grad[0], out - 1)


class BySize(Chained):
    def message(self, h_j):
        return h_j * 2 if h_j.shape[0] > 1 else torch.tanh(h_j)


class Exact(Chained):
    def message(self, h_j):
        return h_j * (2 if h_j.shape[0] == 3 else 1)


class ByNumber(Chained):
    def message(self, h_j):
        return h_j * torch.arange(1.0, 1 + int(h_j.shape[0]))[:, None]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [BySize, ByNumber])
def test_hooks_that_look_at_the_number_of_edges_mean_what_they_say(make):
    layer, x = make(), draw(5, 2).requires_grad_()
    assert_same(run(layer, x, compile=True), run(layer, x), [x])


WIDE = torch.tensor([[0, 1, 0, 2, 3], [2, 2, 3, 4, 4]])  # two levels of two nodes, and one of one


class LookingAtNodes(Chained):
    def update(self, x, message):
        return message * 2 if x.shape[0] > 1 else torch.tanh(message) - 1


class LookingAtEdges(Chained):
    def message(self, h_j, x_i):
        return h_j * 2 + 1 if x_i.shape[0] > 2 else torch.tanh(h_j) - 1


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [LookingAtNodes, LookingAtEdges])
def test_hooks_may_look_at_the_size_of_what_they_do_not_compute_with(make):
    layer, x = make(), draw(5, 2).requires_grad_()
    with mpnn.engine("wavefront"):
        expected = layer.propagate(WIDE, x=x)
    with mpnn.engine(compile=True):
        assert_same(layer.propagate(WIDE, x=x), expected, [x, layer.weight])


class OnlyAtEdges(LookingAtNodes):
    def message(self, h_j, z_i):
        return h_j * z_i


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("edges", [LINE, WIDE])
def test_a_field_that_nodes_without_edges_have_no_row_of_is_differentiated(edges):
    layer, x = OnlyAtEdges(), draw(5, 2).requires_grad_()
    found = []
    for options in ({}, {"compile": True}):
        with mpnn.engine("wavefront", **options):
            found.append(layer.propagate(edges, x=x, z=rowwise(torch.sin, x)))
    assert_same(*reversed(found), [x])


@pytest.mark.usefixtures("interpreted")
def test_levels_of_sizes_seen_before_are_not_looked_at_again(monkeypatch):
    looked = []
    fits = program.Program._fits
    monkeypatch.setattr(program.Program, "_fits", lambda self, *sizes: looked.append(sizes) or fits(self, *sizes))
    layer = Chained()
    counts = []
    for nodes in (5, 9):  # in a chain one node follows another, however many there are
        edges = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
        compiled(layer, edges, None, {"x": draw(nodes, 2)})
        counts.append(len(looked))
    assert counts[0] == counts[1] > 0


class Summed(Chained):
    def message(self, h_j):
        return h_j + self.weight.sum()


@pytest.mark.usefixtures("interpreted")
def test_a_gradient_that_is_one_number_seen_as_many_is_added_up():
    layer, x = Summed(), draw(5, 2).requires_grad_()
    assert_same(run(layer, x, compile=True), run(layer, x), [x, layer.weight])


class Detached(Chained):
    def update(self, x, message):
        return (x + message).detach()


@pytest.mark.usefixtures("interpreted")
def test_a_state_without_a_gradient_has_none():
    x = draw(5, 2).requires_grad_()
    found = run(Detached(), x, compile=True)
    assert_same(found, run(Detached(), x), [x])


@pytest.mark.usefixtures("interpreted")
def test_states_may_be_complex():
    layer, x, h = Chained(), draw(5, 2).requires_grad_(), torch.complex(draw(5, 2), draw(5, 2, seed=1)).requires_grad_()
    layer.weight = torch.nn.Parameter(torch.complex(draw(2, 2, seed=2), draw(2, 2, seed=3)))
    found = []
    for options in ({}, {"compile": True}):
        with mpnn.engine("wavefront", **options):
            out = layer.propagate(LINE, x=x, h=h)
        found.append([out, *torch.autograd.grad((out * h.detach()).sum().real, [x, layer.weight])])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("interpreted")
def test_states_may_be_given_in_any_memory_format():
    line, layer, x = torch.stack([torch.arange(4), torch.arange(1, 5)]), Chained(), draw(5, 2).requires_grad_()
    for h in (draw(2, 5).t(), draw(5, 1).expand(5, 2), draw(5, 4)[:, ::2]):
        h.requires_grad_()
        for fields in ({"x": x, "h": h}, {"x": h, "h": x}):
            expected = reference(layer, line, None, fields)
            assert_same(compiled(layer, line, None, fields), expected, [x, h, layer.weight])


class Counted(Chained):
    """The first field of its state is of whole numbers."""

    state = ("steps", "h")

    def message(self, steps_j, h_j):
        return steps_j, torch.tanh(h_j @ self.weight)

    def update(self, x, steps, h, message):
        return steps + message[0] + 1, x * message[0][:, None] + message[1] + h


@pytest.mark.usefixtures("interpreted")
def test_a_field_of_whole_numbers_goes_along():
    layer, x, h = Counted(), draw(5, 2).requires_grad_(), draw(5, 2, seed=1).requires_grad_()
    fields = {"x": x, "h": h, "steps": torch.arange(5)}
    (steps, ours), (expected, theirs) = (way(layer, LINE, None, fields) for way in (compiled, reference))
    assert torch.equal(steps, expected) and not steps.requires_grad
    assert_same(ours, theirs, [x, h, layer.weight])


class Turned(Chained):
    def message(self, h_j):
        return torch.tanh(h_j @ self.weight.t() + self.weight[0])


@pytest.mark.usefixtures("interpreted")
def test_a_weight_may_be_used_in_several_ways():
    layer, x = Turned(), draw(5, 2).requires_grad_()
    assert_same(run(layer, x, compile=True), run(layer, x), [x, layer.weight])
    other = Chained()
    other.weight = torch.nn.Parameter(draw(2, 2).t())  # whose gradient is a product that is turned
    assert_same(run(other, x, compile=True), run(other, x), [x, other.weight])


@pytest.mark.usefixtures("interpreted")
def test_nothing_of_a_pass_is_kept():
    layer, x, weight = Chained(), draw(5, 2), draw(2, 2).requires_grad_()
    del layer.weight
    layer.weight = weight * 2
    out = run(layer, x, compile=True)
    out.sum().backward()
    alive = weakref.ref(layer.weight)
    layer.weight = None
    assert alive() is None and weight.grad is not None


class Handing(Chained):
    """A state that is what it was given, and another that is the same as a third."""

    state = ("a", "b", "c")

    def message(self, b_j):
        return b_j @ self.weight

    def update(self, x, message):
        return x, message, message


class Narrower(Chained):
    def update(self, x, message):
        return (x + message).float()


class AcrossMemory(Chained):
    def update(self, x, message):
        return torch.tanh(x + message).t().contiguous().t()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [Narrower, AcrossMemory])
def test_update_may_return_what_the_state_holds_otherwise(make):
    layer, x = make(), draw(5, 2).requires_grad_()
    assert_same(run(layer, x, compile=True), run(layer, x), [x, layer.weight])
    with mpnn.engine("wavefront"):
        expected = layer.propagate(WIDE, x=x)
    with mpnn.engine(compile=True):
        assert_same(layer.propagate(WIDE, x=x), expected, [x, layer.weight])


@pytest.mark.usefixtures("interpreted")
def test_update_may_return_what_it_was_given():
    layer, x, b = Handing(), draw(5, 2).requires_grad_(), draw(5, 2, seed=1).requires_grad_()
    assert_same(*(way(layer, LINE, None, {"x": x, "b": b}) for way in (compiled, reference)), [x, b, layer.weight])
    assert_same(
        *(way(layer, LINE.flip(1), ordered(torch.arange(5.0)), {"x": x, "b": b}) for way in (compiled, reference)),
        [x, b, layer.weight],
    )


class InPlace(Chained):
    def update(self, x, message):
        return x.add_(message)


class Branching(Chained):
    def message(self, h_j):
        return h_j if h_j.sum() > 0 else -h_j


@pytest.mark.usefixtures("interpreted")
def test_hooks_that_cannot_be_compiled_are_told():
    x = draw(5, 2)
    told = "Branching: the hooks run, but torch cannot compile them: .* outside engine"
    with pytest.raises(RuntimeError, match=told):
        run(Branching(), x, compile=True)
    with pytest.raises(RuntimeError, match="Exact: .* depends on the number of nodes or edges"):
        run(Exact(), x, compile=True)
    with pytest.raises(RuntimeError, match="InPlace: .* mutation. Run this layer outside"):
        run(InPlace(), x, compile=True)


class Counting(Chained):
    calls = 0

    def message(self, h_j):
        self.calls += 1
        return h_j


class Noting(Chained):
    def update(self, x, message):
        self.seen = x
        return x + message


class Keeping(Chained):
    def update(self, x, message):
        self.seen = x * 2
        return x + message


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [Counting, Noting, Keeping])
def test_hooks_that_do_more_than_compute_are_told(make):
    with pytest.raises(RuntimeError, match=f"{make.__name__}: .* beside the state.* Run this layer outside"):
        run(make(), draw(5, 2), compile=True)


class Scaled(Chained):
    scale = 1.0

    def update(self, x, message):
        return x + message * self.scale


@pytest.mark.usefixtures("interpreted")
def test_a_number_that_hooks_read_may_change_but_not_for_ever(monkeypatch):
    monkeypatch.setitem(program.DYNAMO, "recompile_limit", 2)
    layer, x = Scaled(), draw(5, 2)
    for layer.scale in (1.0, 0.5):
        assert torch.equal(run(layer, x, compile=True), run(layer, x))
    layer.scale = 0.2
    with pytest.raises(RuntimeError, match="Scaled: .* such as a number, was another in too many passes"):
        run(layer, x, compile=True)


@pytest.mark.usefixtures("interpreted")
def test_where_torch_does_not_compile_it_is_told():
    layer, x = Chained(), draw(5, 2)
    run(layer, x, compile=True)
    with torch.compiler.set_stance("force_eager"), pytest.raises(RuntimeError, match="Chained: .* is switched off"):
        run(layer, x, compile=True)


class Wrong(Chained):
    def update(self, x, message):
        return x[:, :1]


@pytest.mark.usefixtures("interpreted")
def test_faults_of_hooks_are_told_as_without():
    for options in ({}, {"compile": True}):
        with pytest.raises(ValueError, match=r"Wrong.update returned shape \(\d, 1\) for h, whose rows have"):
            run(Wrong(), draw(5, 2), **options)
    with pytest.raises(ValueError, match=r"EdgeUpdate: engine\(compile=True\) cannot run it, because edge_update"):
        given = {name: draw(5, 3) for name in "hx"}
        compiled(EdgeUpdate(), LINE, "topological", given | {"w": draw(6)})


@pytest.mark.usefixtures("interpreted")
def test_states_stay_what_they_are_under_autocast():
    torch.manual_seed(0)
    layer, x = mpnn.nn.GRU(3, 4), torch.randn(6, 3)
    line = torch.stack([torch.arange(5), torch.arange(1, 6)])
    found = []
    for options in ({}, {"compile": True}):
        with torch.autocast("cpu", torch.bfloat16), mpnn.engine("wavefront", **options):
            out = layer(x, line)
        found.append([out, *torch.autograd.grad(out.sum(), list(layer.parameters()))])
    assert found[1][0].dtype == found[0][0].dtype
    for plain, ours in zip(*found):
        torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05)


# Who asks for it ------------------------------------------------------------------------------------------------------


def test_only_the_wavefront_is_compiled_and_it_says_so():
    refused = pytest.raises(ValueError, match=r"engine\('spmm', compile=True\): only 'wavefront' is compiled")
    with refused, mpnn.engine("spmm", compile=True):
        pass
    refused = pytest.raises(ValueError, match="expected one of the two")
    with refused, mpnn.engine("wavefront", recompute=True, compile=True):
        pass
    layer = Chained()
    plan = mpnn.plan(LINE, "topological", 5)
    assert "compiled" not in choose(layer, plan)[1]
    with mpnn.engine(compile=True):
        assert choose(layer, plan)[1].startswith("5 levels, frontier by frontier, compiled")
        with mpnn.engine():
            assert "compiled" not in choose(layer, plan)[1]


@pytest.mark.usefixtures("interpreted")
def test_programs_run_inside_of_torch_compile():
    layer, x = Chained(), draw(5, 2).requires_grad_()
    expected = run(layer, x) * 2
    whole = torch.compile(lambda x: layer.propagate(LINE, x=x) * 2, backend="eager")
    with mpnn.engine(compile=True):
        assert_same(whole(x), expected, [x, layer.weight])


def test_other_passes_are_run_as_without(monkeypatch):
    monkeypatch.setattr(compiled_engine, "compiled", None)
    x = torch.randn(5, 3)
    lstm, gcn = mpnn.nn.LSTM(3, 4), mpnn.nn.GCN(3, 4)
    line = torch.stack([torch.arange(4), torch.arange(1, 5)])
    for call in (lambda: lstm(x, line)[0], lambda: gcn(x, line)):
        expected = call()
        with mpnn.engine(compile=True):
            assert torch.equal(call(), expected)

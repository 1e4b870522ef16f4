"""mpnn.engine.wavefront: computing again instead of keeping, and gradients whose memory is shared."""

import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from compare import assert_close, assert_same, gradients
from hypothesis import given, settings
from strategies import graph_of, normal, seeds
from test_engine import CELLS, DAG, DOWN, OneField, flat, inputs, leaves_of, propagate, setting, situations
from torch import nn

import mpnn
from mpnn.schedule import topological

WIDTH = 3


def recomputed(layer, edge_index, schedule, fields, **options):
    with mpnn.engine("wavefront", recompute=True):
        return flat(layer.propagate(edge_index, schedule=schedule, **fields, **options))


# Computing again instead of keeping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=12)
@given(situation=situations(), seed=seeds)
def test_computing_again_gives_what_keeping_gives(name, situation, seed):
    (graph, schedule), generator = situation, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layer = CELLS[name]()
    edge_index, fields = inputs(layer, graph, generator)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    found = recomputed(layer, edge_index, schedule, fields)
    assert_same(found, expected, leaves_of(layer, fields), what=repr(schedule))


@pytest.mark.parametrize("name", ["one field", "two fields", "edge types", "attention", "edge update"])
@pytest.mark.parametrize("schedule", [topological, DOWN, DOWN.reverse], ids=repr)
def test_computing_again_twice_gives_the_same_twice(name, schedule):
    layer = CELLS[name]()
    edge_index, fields, leaves = setting(layer)
    out = recomputed(layer, edge_index, schedule, fields)
    first, second = gradients(out, leaves), gradients(out, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(grad.abs().sum() > 0 for grad in first)


def test_the_same_entries_are_dropped_when_computed_again():
    class Dropping(OneField):
        def update(self, h, x, message):
            return F.dropout(torch.tanh(message + x), 0.5)

    layer = Dropping()
    edge_index, fields, leaves = setting(layer)
    found = {}
    for way in (propagate, lambda _, *given: recomputed(*given)):
        torch.manual_seed(3)
        out = way("wavefront", layer, edge_index, topological, fields)
        torch.rand(5)  # numbers drawn between a pass and its way back
        found[way] = [*out, *gradients(out, leaves)]
    kept, again = found.values()
    for a, b in zip(again, kept, strict=True):
        assert_close(a, b, "kept and computed again")


def test_what_computing_again_returns_may_be_written_to_before_the_way_back():
    layer = CELLS["one field"]()
    edge_index, fields, leaves = setting(layer)
    expected = gradients(3 * propagate("reference", layer, edge_index, topological, fields)[0], leaves)
    (h,) = recomputed(layer, edge_index, topological, fields)
    for found, wanted in zip(gradients(h.mul_(3.0), leaves), expected, strict=True):
        assert_close(found, wanted, "gradient")


def kept_bytes(run):
    """What autograd and the engine keep for the way back: every tensor that lives and did not before."""
    gc.collect()
    before = {id(o) for o in gc.get_objects() if isinstance(o, torch.Tensor)}
    saved = {}

    def note(value):
        saved[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        out = run()
    for value in (o for o in gc.get_objects() if isinstance(o, torch.Tensor) and id(o) not in before):
        saved[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    assert out[0].requires_grad
    return sum(saved.values())


class Costly(OneField):
    """A hook that keeps much: ten tensors a node."""

    def update(self, h, x, message):
        for _ in range(10):
            message = torch.tanh(message + x)
        return message


def test_computing_again_keeps_the_states_only():
    layer, chain = Costly(), graph_of(400, [(i, i + 1) for i in range(399)])
    edge_index, fields, _ = setting(layer, chain)
    with mpnn.engine("wavefront"):
        kept = kept_bytes(lambda: flat(layer.propagate(edge_index, schedule=topological, **fields)))
    again = kept_bytes(lambda: recomputed(layer, edge_index, topological, fields))
    assert again < 0.4 * kept, (again, kept)


@pytest.mark.parametrize("x_learns", [True, False])
def test_rowwise_fields_are_computed_again_too(x_learns):
    """And so a layer keeps its inputs and its states; a wrong number of rows is still refused."""
    torch.manual_seed(0)
    layer, x = mpnn.nn.ChildSumTreeLSTM(3, 4, bidirectional=True).double(), torch.randn(6, 3, dtype=torch.float64)
    leaves = [*layer.parameters(), *([x.requires_grad_()] if x_learns else [])]
    with mpnn.engine("reference"):
        expected = layer(x, DAG.edge_index)
    with mpnn.engine("wavefront", recompute=True):
        assert_same(layer(x, DAG.edge_index), expected, leaves)
        with pytest.raises(ValueError, match="5 rows"):
            layer(x[:5], mpnn.plan(DAG, "topological"))


def test_a_layer_that_computes_again_keeps_its_inputs_and_states():
    layer, x = mpnn.nn.ChildSumTreeLSTM(8, 8), torch.randn(4000, 8)
    wide = torch.stack([torch.arange(3000), torch.arange(3000) + 1000])  # four levels of 1,000
    with mpnn.engine("wavefront"):
        kept = kept_bytes(lambda: layer(x, wide))
    with mpnn.engine("wavefront", recompute=True):
        again = kept_bytes(lambda: layer(x, wide))
    assert again < 0.6 * kept, (again, kept)


def test_nothing_is_left_of_a_pass_that_is_forgotten():
    """Neither of one whose way back was never gone, nor of one that was."""
    for backward in (False, True):
        layer = CELLS["one field"]()
        edge_index, fields, leaves = setting(layer)
        (out,) = recomputed(layer, edge_index, topological, fields)
        if backward:
            out.sum().backward()
        alive = weakref.ref(out.grad_fn.buffer)
        del out
        gc.collect()
        assert alive() is None


def test_without_gradients_nothing_is_computed_again():
    calls, layer = [], CELLS["one field"]()
    layer.linear.register_forward_hook(lambda *_: calls.append(1))
    edge_index, fields, _ = setting(layer)
    with torch.no_grad():
        (out,) = recomputed(layer, edge_index, topological, fields)
    assert not out.requires_grad and len(calls) == 4
    (out,) = recomputed(layer, edge_index, topological, fields)
    out.sum().backward()
    assert len(calls) == 12  # and with gradients twice


def test_only_the_wavefront_computes_again():
    refused = pytest.raises(ValueError, match=r"engine\('spmm', recompute=True\): only 'wavefront'")
    with refused, mpnn.engine("spmm", recompute=True):
        pass


def test_computing_again_ends_with_its_block():
    calls, layer = [], CELLS["one field"]()
    layer.linear.register_forward_hook(lambda *_: calls.append(1))
    edge_index, fields, _ = setting(layer)
    with mpnn.engine("wavefront", recompute=True), mpnn.engine("wavefront"):
        (out,) = flat(layer.propagate(edge_index, schedule=topological, **fields))
    out.sum().backward()
    assert len(calls) == 4


# Fields cut into levels -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 1 << 40], ids=["cut by the buffer", "cut by torch"])
def cut(request, monkeypatch):
    """Who cuts fields into levels, however narrow they are."""
    monkeypatch.setattr(sys.modules["mpnn.engine.wavefront"], "NARROW", request.param)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
@pytest.mark.parametrize("name", CELLS)
def test_fields_have_their_gradients_whoever_cuts_them(name, schedule):
    layer = CELLS[name]()
    edge_index, fields, leaves = setting(layer)
    expected = propagate("reference", layer, edge_index, schedule, fields)
    found = propagate("wavefront", layer, edge_index, schedule, fields)
    for _ in range(2):
        assert_same(found, expected, leaves)


def test_wide_fields_are_cut_by_the_buffer_and_narrow_ones_by_torch():
    class Both(mpnn.MessagePassing):
        state, hidden_features = ("h",), 1

        def message(self, h_j):
            return h_j

        def update(self, wide, narrow, message):
            found.append((wide.grad_fn.name(), narrow.grad_fn.name()))
            return message + wide.sum(1, keepdim=True) + narrow

    found, chain = [], torch.tensor([[0, 1], [1, 2]])
    fields = {"wide": torch.ones(3, 5000, requires_grad=True), "narrow": torch.ones(3, 1, requires_grad=True)}
    propagate("wavefront", Both(), chain, topological, fields)
    assert [narrow for _, narrow in found] == ["SplitWithSizesBackward0"] * 3
    assert [wide for wide, _ in found] == ["_OpenBackward", "_StepBackward", "_StepBackward"]


# Runs of levels that read the one before ----------------------------------------------------------------------------


class Chained(mpnn.MessagePassing):
    """h_i = tanh(x_i + h_j), with something done to the message or the state."""

    state = ("h",)

    def __init__(self, to_message=lambda value: value, to_state=lambda value: value):
        super().__init__()
        self.to_message, self.to_state = to_message, to_state

    def message(self, h_j):
        return self.to_message(h_j)

    def update(self, x, message):
        return self.to_state(torch.tanh(x + message))


def steps_of(out):
    """How often the state was written to the buffer."""
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return sum(node.name() == "_StepBackward" for node in seen)


def chained(way, edges, **hooks):
    generator = torch.Generator().manual_seed(0)
    fields = {key: normal(generator, 6, WIDTH) for key in ("x", "h")}
    (out,) = propagate(way, Chained(**hooks), torch.tensor(edges).t(), topological, fields)
    return out, list(fields.values())


LINE = [(i, i + 1) for i in range(5)]
RUNS = {
    "chain": (LINE, 1),
    "chain with a skip": ([*LINE, (0, 3)], 2),
    "two chains": ([(0, 2), (1, 3), (2, 4), (3, 5)], 1),
    "one chain ends": ([(0, 2), (1, 3), (2, 4), (4, 5)], 2),
    "chains that cross": ([(0, 3), (1, 2), (2, 4), (3, 5)], 2),
    "a tree": ([(0, 2), (1, 2), (2, 3), (3, 4), (4, 5)], 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_levels_that_read_just_the_one_before_are_written_at_once(name, monkeypatch):
    edges, runs = RUNS[name]
    found, leaves = chained("wavefront", edges)
    expected, same = chained("reference", edges)
    assert steps_of(found) == runs
    for a, b in zip([found, *gradients(found, leaves)], [expected, *gradients(expected, same)], strict=True):
        assert_close(a, b, name)
    monkeypatch.setattr(sys.modules["mpnn.engine.wavefront"], "NARROW", 0)
    assert steps_of(chained("wavefront", edges)[0]) == mpnn.plan(torch.tensor(edges).t(), "topological", 6).num_levels


def test_a_hook_on_what_is_handed_on_sees_the_gradient_of_the_message_alone():
    def halve(h_j):
        if len(h_j) and h_j.requires_grad:
            h_j.register_hook(lambda grad: grad / 2)
        return h_j

    (found, ours), (expected, theirs) = (chained(way, LINE, to_message=halve) for way in ("wavefront", "reference"))
    for a, b in zip(gradients(found, ours), gradients(expected, theirs), strict=True):
        assert_close(a, b, "gradient")


OTHERS = {
    "of another dtype": lambda new: new.float(),
    "a part of another tensor": lambda new: torch.cat([new, new], 1)[:, :WIDTH],
}


@pytest.mark.parametrize("since", [0, 2, 5])
@pytest.mark.parametrize("name", OTHERS)
def test_a_state_that_is_not_what_the_buffer_holds_is_not_handed_on(name, since, monkeypatch):
    """Be it so from the first level on, or later."""

    def run():
        level = iter(range(6))
        return chained("wavefront", LINE, to_state=lambda new: OTHERS[name](new) if next(level) >= since else new)

    found, leaves = run()
    assert steps_of(found) == max(6 - since, 1)
    monkeypatch.setattr(sys.modules["mpnn.engine.wavefront"], "NARROW", 0)
    expected, same = run()
    assert torch.equal(found, expected)
    for a, b in zip(gradients(found, leaves), gradients(expected, same), strict=True):
        assert_close(a, b, "gradient")


@pytest.mark.usefixtures("cut")
def test_a_hook_that_writes_to_what_is_handed_on_is_refused():
    with pytest.raises(RuntimeError, match="wrote in place"):
        chained("wavefront", LINE, to_message=lambda h_j: h_j.mul_(2.0) if not h_j.is_leaf else h_j)


def test_garbage_is_collected_after_a_pass_as_before_it():
    class Broken(Exception):
        pass

    def fail(value):
        assert not gc.isenabled()
        raise Broken

    assert gc.isenabled()
    chained("wavefront", LINE)
    assert gc.isenabled()
    with pytest.raises(Broken):
        chained("wavefront", LINE, to_state=fail)
    assert gc.isenabled()
    try:
        gc.disable()
        chained("wavefront", LINE)
        assert not gc.isenabled()
    finally:
        gc.enable()


# Gradients whose memory is shared -------------------------------------------------------------------------------------


class Twin(mpnn.MessagePassing):
    """Two fields of the state that are one tensor."""

    state = ("h", "c")

    def message(self, h_j, c_j):
        return h_j, c_j

    def update(self, x, h, c, message):
        new = torch.tanh(x + message[0] * 2 + message[1]) + h - c
        return new, new


class Passing(mpnn.MessagePassing):
    """One field of the state is passed on as it came: a field, a parameter seen many times, what was received."""

    state = ("h", "c")

    def __init__(self, kind):
        super().__init__()
        self.kind, self.start = kind, nn.Parameter(torch.randn(WIDTH, dtype=torch.float64))

    def message(self, h_j, c_j):
        return h_j, c_j

    def update(self, x, h, message):
        first, second = message
        as_it_came = {"field": x, "own": h, "parameter": self.start.expand(x.shape), "received": first}[self.kind]
        return as_it_came, torch.tanh(x * self.start + first - 2 * second)


SHARING = {"twin": Twin} | {f"passes its {kind}": kind for kind in ("field", "own", "parameter", "received")}
GRAPHS = {
    "chain": graph_of(4, [(0, 1), (1, 2), (2, 3)]),
    "two into one": graph_of(5, [(0, 2), (1, 2), (2, 4), (3, 4)]),
    "one edge each": graph_of(4, [(1, 2), (0, 3)]),
    "out of order": DAG,
}


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", SHARING)
def test_states_that_share_memory_have_their_own_gradients(name, graph, schedule, again):
    torch.manual_seed(0)
    made, graph, generator = SHARING[name], GRAPHS[graph], torch.Generator().manual_seed(0)
    layer = Passing(made) if isinstance(made, str) else made()
    if schedule is not topological:
        schedule = mpnn.schedule.ordered(torch.rand(graph.num_nodes, generator=generator))
    fields = {key: normal(generator, graph.num_nodes, WIDTH) for key in ("x", *layer.state)}
    leaves = [*fields.values(), *layer.parameters()]
    run = recomputed if again else lambda *given: propagate("wavefront", *given)
    expected = propagate("reference", layer, graph.edge_index, schedule, fields)
    found = run(layer, graph.edge_index, schedule, fields)
    for _ in range(2):
        assert_same(found, expected, leaves)
        assert_same(found[0], expected[0], leaves, what="the first field alone")


@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_a_gradient_that_a_hook_on_a_tensor_keeps_stays_as_it_was(schedule):
    kept = []

    class Watched(OneField):
        def message(self, h_j, h_i, x_j, x_i, w):
            return self.watch(super().message(h_j, h_i, x_j, x_i, w))

        def update(self, h, x, message):
            return self.watch(super().update(h, x, self.watch(message)))

        def watch(self, value):
            if value.requires_grad:
                value.register_hook(lambda grad: kept.append((grad, grad.clone())))
            return value

    layer = Watched()
    edge_index, fields, leaves = setting(layer)
    out = propagate("wavefront", layer, edge_index, schedule, fields)
    first = gradients(out, leaves)
    again = gradients(out, leaves)
    assert kept and all(torch.equal(grad, then) for grad, then in kept)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("schedule", [topological, DOWN], ids=repr)
def test_gradients_that_pile_up_in_leaves_are_not_the_buffers(schedule):
    """``backward`` keeps what it is handed where it can; adding to that must not change another gradient."""
    layer, generator = Passing("field"), torch.Generator().manual_seed(0)
    fields = {key: normal(generator, 6, WIDTH) for key in ("x", "h", "c")}
    leaves = [*fields.values(), layer.start]
    out = torch.cat(propagate("wavefront", layer, DAG.edge_index, schedule, fields))
    expected = gradients(out, leaves)
    weight = torch.linspace(1, 2, out.numel(), dtype=out.dtype).view_as(out)
    for times in (1, 2, 3):
        (out * weight).sum().backward(retain_graph=True)
        for leaf, grad in zip(leaves, expected, strict=True):
            assert_close(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, times * grad, "piled up")


def test_a_pass_that_is_over_holds_no_gradients():
    """The graph may live on with what came out of it; the gradient of the whole state need not."""

    def living():
        gc.collect()
        return sorted(tuple(o.shape) for o in gc.get_objects() if type(o) is torch.Tensor)

    layer = CELLS["one field"]()
    edge_index, fields, leaves = setting(layer)
    for _ in range(3):  # at first the plan keeps what it makes
        (out,) = propagate("wavefront", layer, edge_index, topological, fields)
        before = living()
        torch.autograd.grad(out.sum(), leaves, retain_graph=True)
        after = living()
    assert after == before


@pytest.mark.usefixtures("cut")
def test_a_way_back_from_the_middle_of_a_pass_leaves_0_at_later_levels():
    class Running(mpnn.MessagePassing):
        state, hidden_features = ("h",), WIDTH

        def message(self, h_j):
            seen.append(h_j)
            return h_j

        def update(self, x, message):
            return x + message

    seen, x = [], normal(torch.Generator().manual_seed(0), 4, WIDTH)
    chain = torch.tensor([[0, 1, 2], [1, 2, 3]])
    (out,) = propagate("wavefront", Running(), chain, topological, {"x": x})
    torch.autograd.grad(out.sum(), seen[2], retain_graph=True)  # a way back that ends in the middle
    for node in (1, 0, 2):
        (grad,) = torch.autograd.grad(seen[node + 1].sum(), x, retain_graph=True)
        assert torch.equal(grad, (torch.arange(4) <= node).double()[:, None].expand(4, WIDTH))
    assert_close(torch.autograd.grad(out.sum(), x)[0][:, 0], torch.tensor([4.0, 3, 2, 1]).double(), "from the end")

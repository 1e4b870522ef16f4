"""Every layer of the table under treatment that is honest, and unlike that of a script."""

import copy
import pickle
import threading

import torch
from compare import assert_close
from test_conformance import Row, call, dressed, every_row, made
from torch_geometric.data import Batch
from zoo import graphs

import mpnn


def setting(row: Row):
    """A schedule of the row, topological if it has it, and a random graph."""
    schedule = "topological" if "topological" in row.schedules else row.schedules[-1]
    name = "random dag" if schedule == "topological" else "random"
    return schedule, dressed(graphs()[name], row)


def spread(values):
    """The same values, none beside the next in memory."""
    return torch.stack([values, values], -1)[..., 0]


@every_row
def test_the_layout_of_what_is_passed_makes_no_difference(row):
    schedule, data = setting(row)
    layer, fields = made(row), ("x", "edge_index", *row.takes)
    for found, expected in zip(
        call(layer, row, data, schedule, **{name: spread(data[name]) for name in fields}),
        call(layer, row, data, schedule),
        strict=True,
    ):
        assert_close(found, expected, row.name)


@every_row
def test_one_row_for_all_nodes_gets_the_gradient_of_all(row):
    schedule, data = setting(row)
    layer, one = made(row), data.x[:1].clone().requires_grad_()
    each = one.detach().repeat(data.num_nodes, 1).requires_grad_()
    some, others = (
        sum(out.tanh().sum() for out in call(layer, row, data, schedule, x=x))
        for x in (one.expand(data.num_nodes, -1), each)
    )
    (found,), (expected,) = torch.autograd.grad(some, one), torch.autograd.grad(others, each)
    assert_close(found, expected.sum(0, keepdim=True), row.name)


@every_row
def test_copies_of_a_layer_give_what_it_gives(row):
    schedule, data = setting(row)
    layer = made(row)
    expected = call(layer, row, data, schedule)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(map(torch.equal, call(other, row, copy.deepcopy(data), schedule), expected))


@every_row
def test_what_is_no_number_stays_in_its_graph(row):
    schedule, data = setting(row)
    layer, broken = made(row), copy.deepcopy(data)
    for name in ("x", *row.takes):
        broken[name] = broken[name] * torch.nan
    batch = Batch.from_data_list([data, broken, copy.deepcopy(data)])
    whole = Batch.from_data_list([data, copy.deepcopy(data), copy.deepcopy(data)])
    x, count = batch.x.clone().requires_grad_(), 0
    out, expected = call(layer, row, batch, schedule, x=x), call(layer, row, whole, schedule)
    for found, other in zip(out, expected, strict=True):
        third = len(found) // 3
        assert_close(found[:third].detach(), other[:third].detach(), row.name)
        assert_close(found[-third:].detach(), other[-third:].detach(), row.name)
        count = count + found[:third].tanh().sum()
    assert torch.autograd.grad(count, x)[0][: data.num_nodes].isfinite().all()


class Meeting(mpnn.MessagePassing):
    """Waits in every level for the passes of all threads to be there."""

    state, schedule, hidden_features = "h", "topological", 3
    barrier = None

    def message(self, h_j):
        return 2 * h_j

    def update(self, x, message):
        if self.barrier is not None:
            self.barrier.wait(timeout=60)
        return torch.tanh(x + message)


def test_passes_of_several_threads_over_one_graph_keep_apart():
    layer, edge_index = Meeting(), torch.tensor([[0, 1, 1, 2], [1, 2, 3, 4]])
    inputs = [torch.linspace(-1, k, 15).view(5, 3).requires_grad_() for k in range(3)]

    def gradient(x):
        return torch.autograd.grad(layer.propagate(edge_index, x=x).sum(), x)[0]

    expected, found = list(map(gradient, inputs)), {}
    layer.barrier = threading.Barrier(len(inputs))
    threads = [threading.Thread(target=lambda k=k: found.update({k: gradient(inputs[k])})) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[k], expected[k]) for k in range(len(inputs)))


def test_a_way_is_forced_in_its_own_thread_alone():
    """Also where one block ends while another, of another thread, is still open."""
    inside, over, seen = threading.Event(), threading.Event(), []

    def other():
        with mpnn.engine("reference"):
            inside.set()
            over.wait(60)

    def way():
        return mpnn.explain(mpnn.plan(torch.tensor([[0], [1]]), "topological", 2), Meeting())

    thread = threading.Thread(target=other)
    with mpnn.engine("wavefront"):
        thread.start()
        inside.wait(60)
        seen.append(str(way()))
    seen.append(str(way()))
    over.set()
    thread.join()
    seen.append(str(way()))
    assert "wavefront" in seen[0] and "forced" in seen[0]
    assert "forced" not in seen[1] and "forced" not in seen[2]

"""Batches that are planned in the loader."""

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData

import mpnn
from mpnn.loader import ByLength, DataLoader, collate


def graphs(count: int = 6) -> list[Data]:
    """Chains of 2 to 7 nodes, with a level of their own choice."""
    return [
        Data(
            x=torch.randn(n, 3, generator=torch.Generator().manual_seed(n)),
            edge_index=torch.stack([torch.arange(n - 1), torch.arange(1, n)]),
            level=torch.arange(n).flip(0),
        )
        for n in range(2, 2 + count)
    ]


class Chain(mpnn.MessagePassing):
    state = ("h",)
    schedule = "topological"
    hidden_features = 3

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, h_j):
        return h_j

    def update(self, x, message):
        return torch.tanh(x + message)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_comes_with_its_plan(workers):
    loader = DataLoader(graphs(), batch_size=3, schedule="topological", num_workers=workers)
    batches = list(loader)
    assert [batch.plan.num_levels for batch in batches] == [4, 7]  # as deep as the deepest graph
    assert all(isinstance(count, int) for batch in batches for count in batch.plan.node_counts)
    for batch in batches:
        moved = batch.to("cpu")
        assert torch.equal(Chain()(moved.x, moved.plan), Chain()(batch.x, batch.edge_index))


def test_levels_of_the_users_run_a_batch():
    (batch,) = DataLoader(graphs(), batch_size=6, schedule=mpnn.schedule.by("level"))
    assert torch.equal(batch.plan.level, torch.cat([g.level for g in graphs()]))


def test_without_a_schedule_there_is_no_plan():
    (batch,) = DataLoader(graphs(), batch_size=6)
    assert isinstance(batch, Batch) and "plan" not in batch


@pytest.mark.parametrize("odd", [0, 2])
def test_graphs_with_other_fields_are_named(odd):
    given = graphs(3)
    given[odd].weight = torch.ones(1)
    with pytest.raises(ValueError, match=f"graph {odd} of the batch has the field 'weight'"):
        collate(given)


@pytest.mark.parametrize("odd", [0, 1])
def test_graphs_with_other_types_of_nodes_are_named(odd):
    """torch_geometric drops what the first graph has not, so the result would depend on the order of shuffling."""
    given = [HeteroData(author={"x": torch.ones(2, 3)}) for _ in range(2)]
    given[odd]["venue"].x = torch.ones(1, 3)
    with pytest.raises(ValueError, match=f"graph {odd} of the batch has the field 'venue'.x, graph {1 - odd} has not"):
        collate(given)
    given[1 - odd]["venue"].x = torch.ones(0, 3)
    assert collate(given)["venue"].x.shape == (1, 3)


def test_what_is_no_graph_is_named():
    with pytest.raises(TypeError, match="item 1 of the batch is a Tensor; expected a Data"):
        collate([graphs(1)[0], torch.ones(2)])


def test_a_plan_of_a_single_graph_is_not_taken_for_the_batchs():
    given = graphs(2)
    given[0].plan = mpnn.plan(given[0], "topological")
    assert collate(given, "topological").plan.num_nodes == 5 and "plan" not in collate(given)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_ordered_fields_are_planned_in_workers(workers):
    loader = DataLoader(graphs(), batch_size=2, schedule=mpnn.schedule.ordered("level").reverse, num_workers=workers)
    for batch in loader:
        there = mpnn.plan(batch, mpnn.schedule.ordered("level").reverse)
        assert torch.equal(batch.plan.level, there.level) and repr(batch.plan) == repr(there)


@pytest.mark.parametrize("workers", [0, 2])
def test_options_of_torch_geometric_are_kept(workers):
    given = graphs(4)
    given[1].note = "odd"
    options = dict(follow_batch=["level"], exclude_keys=["note"], num_workers=workers)
    for batch in DataLoader(given, batch_size=2, schedule="topological", **options):
        assert torch.equal(batch.level_batch, batch.batch) and "note" not in batch
        assert batch.plan.num_nodes == len(batch.x)


def test_an_unknown_schedule_is_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="schedule='topo' is unknown; expected 'synchronous', 'topological'"):
        DataLoader(graphs(2), schedule="topo")


def test_a_field_of_another_width_is_named_with_its_graph():
    given = graphs(3)
    given[2].x = torch.ones(len(given[2].x), given[0].x.shape[1] + 1)
    with pytest.raises(ValueError, match=r"collate: x has shape \(\d, .*\) in graph 2 of the batch, .* in graph 0;"):
        collate(given)
    assert "x" not in collate(given, exclude_keys=["x"])
    some = HeteroData(a={"x": torch.ones(2, 3)}, b={"y": torch.ones(1)})
    other = HeteroData(b={"y": torch.ones(1)}, a={"x": torch.ones(1, 4)})
    with pytest.raises(ValueError, match=r"collate: 'a'.x has shape \(1, 4\) in graph 1 .*\(2, 3\) in graph 0"):
        next(iter(DataLoader([some, other], batch_size=2)))


def test_batches_are_of_about_one_length_and_hold_every_graph_once():
    length = torch.randint(1, 40, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    torch.manual_seed(0)
    sampler = ByLength(length, 32)
    batches, again = list(sampler), list(sampler)
    assert batches != again and len(batches) == len(sampler) == 16
    assert sorted(k for batch in batches for k in batch) == list(range(500))
    spans = [max(some) - min(some) for some in ([length[k] for k in batch] for batch in batches)]
    assert sum(spans) < 40


def test_the_order_of_batches_by_length_is_that_of_recorded_runs():
    length = [3, 1, 2, 1, 3, 2, 2]
    torch.manual_seed(0)
    assert list(ByLength(length, 3)) == [[2, 6, 4], [0], [3, 1, 5]]
    before = torch.get_rng_state()
    assert list(ByLength(iter(length), 3, shuffle=False)) == [[1, 3, 2], [5, 6, 0], [4]]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_takes_batches_by_length():
    some = graphs()
    loader = DataLoader(some, batch_sampler=ByLength((data.num_nodes for data in some), 2), schedule="topological")
    assert len(loader) == 3 and sorted(batch.plan.num_levels for batch in loader) == [3, 5, 7]

"""Batches that are planned in the loader."""

import pytest
import torch
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.loader import DataLoader, collate


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

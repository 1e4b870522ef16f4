"""Loading batches of graphs that are planned where they are made, in the loader's workers."""

from __future__ import annotations

from typing import Any

from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as _DataLoader

from mpnn.plan import plan
from mpnn.schedule import Schedule, get

__all__ = ["DataLoader", "collate"]


def collate(graphs: list[Data], schedule: str | Schedule | None = None) -> Batch:
    """Joins graphs into one batch, and plans it.

    Args:
        graphs: all with the same fields.
        schedule: the batch gets a field ``plan`` under this schedule, unless None. Layers take it as ``edge_index``.

    Raises:
        ValueError: a graph has other fields than the first; torch_geometric would drop them, or stop with a KeyError.

    Example:
        >>> import torch
        >>> chain = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> collate([chain, chain], "topological").plan
        Plan(topological, nodes=4, edges=2, levels=2)
    """
    fields = {key for key in graphs[0].keys() if key != "plan"}  # noqa: SIM118  (iterating a Data gives pairs)
    for number, graph in enumerate(graphs):
        own = {key for key in graph.keys() if key != "plan"}  # noqa: SIM118
        if own != fields:
            key = sorted(own ^ fields)[0]
            has, lacks = (number, 0) if key in own else (0, number)
            raise ValueError(
                f"collate: graph {has} of the batch has the field {key!r}, graph {lacks} has not; expected the same "
                "fields in all. Set it on every graph, or delete it."
            )
    batch = Batch.from_data_list(graphs, exclude_keys=["plan"])
    if schedule is not None:
        batch.plan = plan(batch, schedule, owner="DataLoader")
    return batch


class _Collate:
    """``collate`` with a schedule, as an object that workers can be sent."""

    def __init__(self, schedule: Schedule | None):
        self.schedule = schedule

    def __call__(self, graphs: list[Any]) -> Batch:
        return collate(graphs, self.schedule)


class DataLoader(_DataLoader):
    """torch_geometric's ``DataLoader`` whose batches carry their plan.

    Args:
        dataset: graphs, all with the same fields.
        batch_size, shuffle, num_workers, ...: as there.
        schedule: each batch gets a field ``plan`` under it, made in the worker; ``batch.to(device)`` moves it along.
            For values of nodes name their field: ``mpnn.schedule.by("level")``.

    Raises:
        ValueError: graphs of a batch have different fields.

    Example:
        >>> import torch
        >>> chain = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> next(iter(DataLoader([chain] * 4, batch_size=4, schedule="topological"))).plan.num_levels
        2
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        schedule: str | Schedule | None = None,
        **options: Any,
    ):
        super().__init__(dataset, batch_size, shuffle, **options)
        self.collate_fn = _Collate(None if schedule is None else get(schedule))

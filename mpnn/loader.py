"""Loading batches of graphs that are planned where they are made, in the loader's workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from torch_geometric.data import Batch, Data
from torch_geometric.data.data import BaseData
from torch_geometric.loader import DataLoader as _DataLoader

from mpnn.plan import plan
from mpnn.schedule import Schedule, get

__all__ = ["ByLength", "DataLoader", "collate"]


def collate(
    graphs: list[Data],
    schedule: str | Schedule | None = None,
    follow_batch: Sequence[str] | None = None,
    exclude_keys: Sequence[str] | None = None,
) -> Batch:
    """Joins graphs into one batch, and plans it.

    Args:
        graphs: all with the same fields.
        schedule: the batch gets a field ``plan`` under this schedule, unless None. Layers take it as ``edge_index``.
            Of ``HeteroData``, those that run one schedule over all types do.
        follow_batch, exclude_keys: fields that get a batch vector of their own, and fields to leave out.

    Raises:
        ValueError: a graph has other fields, or other types of nodes or edges, than the first; torch_geometric would
            drop them, or stop with a KeyError. A field has another width than in the first.
        TypeError: a graph is no ``Data`` or ``HeteroData``.

    Example:
        >>> import torch
        >>> chain = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> collate([chain, chain], "topological").plan
        Plan(topological, nodes=4, edges=2, levels=2)
    """
    left_out = ["plan", *(exclude_keys or ())]
    fields = _fields(graphs, 0, left_out)
    for number in range(1, len(graphs)):
        own = _fields(graphs, number, left_out)
        if own != fields:
            field = sorted(own ^ fields)[0]
            has, lacks = (number, 0) if field in own else (0, number)
            raise ValueError(
                f"collate: graph {has} of the batch has the field {field}, graph {lacks} has not; expected the same "
                "fields in all. Set it on every graph, with no rows where there is nothing, or name it in exclude_keys."
            )
    try:
        batch = Batch.from_data_list(graphs, follow_batch, left_out)
    except RuntimeError as error:  # torch's own, which names neither the field nor the graph
        raise _unequal(graphs, left_out) or error from None
    if schedule is not None:
        batch.plan = plan(batch, schedule, owner="DataLoader")
    return batch


def _unequal(graphs: list[Any], left_out: list[str]) -> ValueError | None:
    """What to say of the first field that has another width in a later graph."""
    for number, graph in enumerate(graphs):
        for first in graphs[0].stores:
            store = graph if first._key is None else graph[first._key]  # types may stand in another order
            for key, one in first.items():
                other = None if key in left_out else store[key]
                if not isinstance(one, Tensor) or not isinstance(other, Tensor):
                    continue
                if _width(graphs[0], key, one, first) != _width(graph, key, other, store):
                    where = key if store._key is None else f"{store._key!r}.{key}"
                    return ValueError(
                        f"collate: {where} has shape {tuple(other.shape)} in graph {number} of the batch, "
                        f"{tuple(one.shape)} in graph 0; expected the same width in all. Make them alike, or "
                        "name it in exclude_keys."
                    )
    return None


def _width(graph: Any, key: str, value: Tensor, store: Any) -> list[int]:
    """The shape but for the dimension along which graphs are joined."""
    sizes, along = list(value.shape), graph.__cat_dim__(key, value, store)
    if along is not None and sizes:
        del sizes[along]
    return sizes


def _fields(graphs: list[Any], number: int, left_out: list[str]) -> set[str]:
    """The fields of a graph as they are written; of a heterogeneous one, with the type of node or edge."""
    graph = graphs[number]
    if not isinstance(graph, BaseData):
        what = type(graph).__name__
        raise TypeError(f"collate: item {number} of the batch is a {what}; expected a Data or HeteroData.")
    names = [(store._key, key) for store in graph.stores for key in store.keys()]  # noqa: SIM118 (iterating: values)
    return {repr(key) if kind is None else f"{kind!r}.{key}" for kind, key in names if key not in left_out}


class DataLoader(_DataLoader):
    """torch_geometric's ``DataLoader`` whose batches carry their plan.

    Args:
        dataset: graphs, all with the same fields.
        batch_size, shuffle, num_workers, ...: as there.
        schedule: each batch gets a field ``plan`` under it, made in the worker; ``batch.to(device)`` moves it along.
            For values of nodes name their field: ``mpnn.schedule.by("level")``. A ``HeteroData`` gets one plan of all
            its types, as :class:`~mpnn.HeteroMessagePassing` takes it.

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
        rule = None if schedule is None else get(schedule)
        self.collate_fn = partial(
            collate, schedule=rule, follow_batch=self.follow_batch, exclude_keys=self.exclude_keys
        )


class ByLength(Sampler[list[int]]):
    """Batches of graphs of about one length, so that there are few frontiers, and wide ones.

    Args:
        length: of each graph, such as its number of nodes or of levels.
        size: graphs of a batch; the last one by length may have fewer.
        shuffle: whether the batches come in random order, and graphs of equal length are drawn anew each time, from
            torch's own generator, whose state checkpoints keep. Else they come by length.

    Example:
        >>> list(ByLength([3, 1, 2, 1], 2, shuffle=False))
        [[1, 3], [2, 0]]
        >>> graphs = [Data(edge_index=torch.tensor([[0], [1]]), num_nodes=n) for n in (2, 5, 2)]
        >>> loader = DataLoader(graphs, batch_sampler=ByLength((graph.num_nodes for graph in graphs), 2))
        >>> sorted(batch.num_nodes for batch in loader)
        [4, 5]
    """

    def __init__(self, length: Iterable[int], size: int, shuffle: bool = True):
        self.length, self.size, self.shuffle = torch.tensor(list(length)), size, shuffle

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self.length)) if self.shuffle else torch.arange(len(self.length))
        batches = order[self.length[order].argsort(stable=True)].split(self.size)
        turn = torch.randperm(len(batches)).tolist() if self.shuffle else range(len(batches))
        yield from (batches[k].tolist() for k in turn)

    def __len__(self) -> int:
        return -(-len(self.length) // self.size)

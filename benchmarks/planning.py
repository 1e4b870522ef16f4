"""What preparing a graph costs: beside a training step of each script, of ten million edges, and from networkx.

- ``sst`` to ``cora``: batches of a script's own, with its model, loss and optimiser. Items are batches, so "x
  reference" is what levels and plans add to a training step. The note below has all that was planned while training,
  also what layers plan by themselves and what a plan makes when first asked for (transposes, segments): as a share of
  the steps' own time, and of the whole with the joining of graphs.
- ``dag``: ``topological`` on a random DAG of 10,000,000 edges; ``ordered`` on as many edges with random priorities.
- ``chain``: ``topological`` on one chain of 1,000,000 nodes, which has as many levels.
- ``beside_networkx``: ``topological`` beside ``networkx.topological_generations``, on 200,000 edges.
- ``from_networkx``: a networkx graph of 1,000,000 edges to a torch_geometric ``Data``, beside torch_geometric's own.

The reference sorts the edges by source once, which no way of finding levels can do without; for the conversion it is a
loop over networkx's edges that does nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from _harness import Absent, Case, Contender, Step, main, peer
from _scripts import Training, training
from torch import Tensor

import mpnn
from mpnn import lattice
from mpnn.plan import Edges, Plan, cached_plan


def random_dag(num_nodes: int, num_edges: int) -> Tensor:
    """Edges from the earlier to the later of two random nodes, in an order that ids do not show: ``(2, E)``."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(num_nodes, (2, num_edges), generator=generator)
    ends[1] += (ends[0] == ends[1]).long() * (1 - 2 * (ends[1] == num_nodes - 1).long())
    name = torch.randperm(num_nodes, generator=generator)
    return name[ends.sort(dim=0).values]


def level_step(schedule, edge_index: Tensor, num_nodes: int) -> Step:
    return lambda: [schedule(edge_index, num_nodes)]


def sort_step(edge_index: Tensor) -> Step:
    return lambda: [torch.sort(edge_index[0], stable=True).indices]


def compare_schedules(edge_index: Tensor, num_nodes: int) -> list[Contender]:
    """The schedules on one graph, with time for each edge."""
    priority = torch.rand(num_nodes, generator=torch.Generator().manual_seed(1))
    size = edge_index.shape[1]
    schedules = {"topological": mpnn.schedule.topological, "ordered": mpnn.schedule.ordered(priority)}
    found = [
        Contender(f"mpnn, {name}", partial(level_step, rule, edge_index, num_nodes), "mpnn", agrees=False, size=size)
        for name, rule in schedules.items()
    ]
    sort = Contender("sorting the edges alone", partial(sort_step, edge_index), "reference", agrees=False, size=size)
    return [*found, sort]


def dag_case(smoke: bool) -> Case:
    num_nodes, num_edges = (50, 300) if smoke else (1_000_000, 10_000_000)
    edge_index = random_dag(num_nodes, num_edges)
    return Case(f"A random DAG, {num_nodes:,} nodes, {num_edges:,} edges.", compare_schedules(edge_index, num_nodes))


def chain_case(smoke: bool) -> Case:
    num_nodes = 100 if smoke else 1_000_000
    name = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(0))
    edge_index = torch.stack([name[:-1], name[1:]])
    return Case(f"One chain of {num_nodes:,} nodes, numbered at random.", compare_schedules(edge_index, num_nodes))


# networkx -----------------------------------------------------------------------------------------------------------


def generations_step(edge_index: Tensor, num_nodes: int) -> Step:
    """The same levels from networkx, on a graph that is built beforehand."""
    networkx = peer("networkx")
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(edge_index.t().tolist())

    def step():
        level = torch.empty(num_nodes, dtype=torch.long)
        for place, generation in enumerate(networkx.topological_generations(graph)):
            level[generation] = place
        return [level]

    return step


def beside_networkx(smoke: bool) -> Case:
    num_nodes, num_edges = (50, 300) if smoke else (20_000, 200_000)
    edge_index = random_dag(num_nodes, num_edges)
    ours = partial(level_step, mpnn.schedule.topological, edge_index, num_nodes)
    return Case(
        f"Topological levels of a random DAG, {num_nodes:,} nodes, {num_edges:,} edges.",
        [
            Contender("mpnn, topological", ours, "mpnn", size=num_edges),
            Contender(
                "networkx.topological_generations", partial(generations_step, edge_index, num_nodes), size=num_edges
            ),
            Contender("sorting the edges alone", partial(sort_step, edge_index), "reference", False, num_edges),
        ],
        tolerance=0.0,
    )


@cache
def named_graph(num_nodes: int, num_edges: int):
    """A networkx graph whose nodes are strings with a number as attribute; the same object for all contenders."""
    networkx = peer("networkx")
    graph = networkx.DiGraph()
    graph.add_nodes_from((f"node {i}", {"x": float(i)}) for i in range(num_nodes))
    graph.add_edges_from((f"node {i}", f"node {j}") for i, j in random_dag(num_nodes, num_edges).t().tolist())
    return graph


def mpnn_conversion(*size: int) -> Step:
    graph = named_graph(*size)
    return lambda: sorted_edges(mpnn.from_networkx(graph, x="x").edge_index)


def pyg_conversion(*size: int) -> Step:
    convert = peer("torch_geometric.utils").from_networkx
    graph = named_graph(*size)
    return lambda: sorted_edges(convert(graph).edge_index)


def sorted_edges(edge_index: Tensor) -> list[Tensor]:
    """The edges in one order, for the comparison; nodes are numbered in the order of the graph by both."""
    src, dst = edge_index
    return [torch.sort(src * (1 + int(edge_index.max())) + dst).values]


def bare_loop(*size: int) -> Step:
    graph = named_graph(*size)

    def step():
        for _ in graph.edges():
            pass
        return []

    return step


def conversion_case(smoke: bool) -> Case:
    size = (50, 300) if smoke else (200_000, 1_000_000)
    return Case(
        f"A networkx DiGraph, {size[0]:,} nodes named by strings, {size[1]:,} edges, doubles once, one attribute.",
        [
            Contender("mpnn.from_networkx", partial(mpnn_conversion, *size), "mpnn", size=size[1]),
            Contender("torch_geometric, from_networkx", partial(pyg_conversion, *size), size=size[1]),
            Contender("looping over the edges alone", partial(bare_loop, *size), "reference", False, size[1]),
        ],
        tolerance=0.0,
    )


# Beside training ----------------------------------------------------------------------------------------------------

BATCHES = 8


class Meter:
    """The processor time of everything that plans, wherever it is called from."""

    functions = (mpnn.plan, cached_plan, lattice.levels, lattice.relations)

    def __init__(self):
        self.seconds, self.inside = 0.0, False

    def timed(self, function: Callable) -> Callable:
        def call(*args, **options):
            if self.inside:
                return function(*args, **options)
            self.inside, began = True, time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds += time.process_time() - began
                self.inside = False

        return call

    @contextlib.contextmanager
    def running(self) -> Iterator[Meter]:
        """Puts the timed functions in the place of their own, in mpnn and in the scripts."""
        modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "mpnn" or name[:7] == "script_"]
        places = [
            (module, name, value)
            for module in modules
            for name, value in list(vars(module).items())
            if any(value is function for function in self.functions)
            and name != "plan_of"  # a default argument, which the engine compares by identity
        ]
        places += [(kind, "remember", kind.remember) for kind in (Plan, Edges)]
        for owner, name, function in places:
            setattr(owner, name, self.timed(function))
        try:
            yield self
        finally:
            for owner, name, function in places:
                setattr(owner, name, function)


def shares(made: Training) -> tuple[list[Any], str]:
    """Some fresh batches, and what planning them took beside their training steps, in words."""
    kept, seconds = [], {"joining": 0.0, "planning": 0.0, "training": 0.0}
    made.step(next(iter(made.batches)))  # what is slow the first time
    with Meter().running() as meter:
        batches = iter(made.batches)
        while len(kept) < BATCHES:
            for part in ("joining", "training"):
                began, planned = time.process_time(), meter.seconds
                if part == "training":
                    made.step(kept[-1])
                elif (batch := next(batches, None)) is not None:
                    kept.append(batch)
                seconds["planning"] += meter.seconds - planned
                seconds[part] += time.process_time() - began - (meter.seconds - planned)
            if batch is None:
                break
    whole = sum(seconds.values())
    planning, joining = seconds["planning"], seconds["joining"]
    return kept, (
        f"planning took {planning / len(kept) * 1e3:.2f} ms a batch, {100 * planning / seconds['training']:.1f} % of "
        f"the steps and {100 * planning / whole:.1f} % of all; joining graphs took {100 * joining / whole:.1f} % of all"
    )


def real_case(script: str, options: dict[str, Any], what: str, smoke: bool) -> Case:
    if smoke and script != "listops":
        raise Absent("real data takes too long for --smoke")
    with Meter().running() as meter:
        made = training(script, **options, **({"smoke": True} if smoke else {}))
    batches, words = shares(made)
    once = meter.seconds / len(made.batches) * 1e3
    rows = [Contender("training steps on planned batches", lambda: partial(train_all, made, batches), "reference")]
    rule = rule_of(made.batches)
    if rule is not None:
        rows.append(Contender("levels and plans alone", lambda: partial(plan_all, batches, rule), "mpnn"))
    for row in rows:
        row.agrees, row.size = False, len(batches)
    how = "in the loader" if rule is not None else "once, or where a layer first meets a graph"
    nodes = sum(batch.num_nodes or 0 for batch in batches if hasattr(batch, "num_nodes")) // len(batches)
    return Case(
        f"{what}: {len(batches)} batches of about {nodes:,} nodes, planned {how}.", rows, memory=False,
        note=f"While training, {words}. Before training it had taken {once:.2f} ms a batch, once.",
    )  # fmt: skip


def rule_of(batches: Any) -> Any:
    """The schedule under which a loader plans what it gives; None if it does not."""
    loader = getattr(batches, "batches", batches)
    return getattr(getattr(loader, "collate_fn", None), "keywords", {}).get("schedule")


def train_all(made: Training, batches: list[Any]) -> list[Tensor]:
    for batch in batches:
        made.step(batch)
    return []


def plan_all(batches: list[Any], rule: Any) -> list[Tensor]:
    for batch in batches:
        mpnn.plan(batch, rule)
    return []


REAL = {
    "sst": ("sst", {"task": "fine", "model": "tree-lstm"}, "SST trees, binary Tree-LSTM"),
    "sick": ("sick", {"model": "dependency"}, "SICK, dependency Tree-LSTM"),
    "reddit": ("reddit_threads", {}, "Reddit threads, Graph-Structured LSTM"),
    "lattice": ("lattice_ner", {"model": "lattice"}, "Sentences with words, Lattice LSTM"),
    "superpixels": ("superpixels", {"skip": 1, "few": 24, "model": "graph-lstm"}, "Superpixels, Graph LSTM"),
    "conll": ("tagging", {}, "CoNLL-2000 chains, bidirectional LSTM with CRF"),
    "listops": ("listops", {"model": "tree-lstm", "train": 300, "test": 10}, "ListOps trees, binary Tree-LSTM"),
    "cora": ("cora", {"dataset": "cora", "model": "gcn"}, "Cora as one graph, GCN"),
}

CASES = {
    **{name: partial(real_case, *row) for name, row in REAL.items()},
    "dag": dag_case,
    "chain": chain_case,
    "beside_networkx": beside_networkx,
    "from_networkx": conversion_case,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

"""What preparing a graph costs: levels of ten million edges, of a long chain, and graphs that come from networkx.

- ``dag``: ``topological`` on a random DAG of 10,000,000 edges; ``ordered`` on as many edges with random priorities.
- ``chain``: ``topological`` on one chain of 1,000,000 nodes, which has as many levels.
- ``beside_networkx``: ``topological`` beside ``networkx.topological_generations``, on 200,000 edges.
- ``from_networkx``: a networkx graph of 1,000,000 edges to a torch_geometric ``Data``, beside torch_geometric's own.

The reference sorts the edges by source once, which no way of finding levels can do without; for the conversion it is a
loop over networkx's edges that does nothing.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from _harness import Absent, Case, Contender, Step, main, peer
from torch import Tensor

import mpnn


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
    if not hasattr(mpnn, "from_networkx"):
        raise Absent("mpnn has no from_networkx yet")
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


CASES = {
    "dag": dag_case,
    "chain": chain_case,
    "beside_networkx": beside_networkx,
    "from_networkx": conversion_case,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES)

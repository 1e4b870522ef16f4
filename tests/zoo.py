"""A named zoo of awkward graphs, for every test that runs over graphs.

Each is a ``Data`` without features. ``graphs("dag")`` gives those that have all the tags asked for: ``dag``, no cycle
and no loop; ``loop``, some node has one; ``undirected``, every edge comes both ways and there is no loop.
"""

import torch
from torch_geometric.data import Data


def _graph(num_nodes: int, edges: list[tuple[int, int]], *tags: str) -> tuple[Data, set[str]]:
    edge_index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t().contiguous()
    return Data(edge_index=edge_index, num_nodes=num_nodes), set(tags)


def _both(edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return edges + [(j, i) for i, j in edges]


def _random(num_nodes: int, num_edges: int, seed: int, dag: bool) -> tuple[Data, set[str]]:
    generator = torch.Generator().manual_seed(seed)
    name = torch.randperm(num_nodes, generator=generator)
    ends = torch.stack([torch.randperm(num_nodes, generator=generator)[:2] for _ in range(num_edges)])
    edges = name[ends.sort(dim=1).values if dag else ends]
    return _graph(num_nodes, edges.tolist(), *(["dag"] if dag else []))


ZOO = {
    "empty": _graph(0, [], "dag", "undirected"),
    "one node": _graph(1, [], "dag", "undirected"),
    "no edges": _graph(3, [], "dag", "undirected"),
    "one loop": _graph(1, [(0, 0)], "loop"),
    "isolated last node": _graph(4, [(0, 1), (2, 1)], "dag"),
    "self-loop": _graph(3, [(0, 1), (1, 1), (1, 2)], "loop"),
    "double edge": _graph(3, [(0, 1), (0, 1), (2, 1), (1, 2)]),
    "double loop": _graph(3, [(0, 1), (1, 1), (1, 1), (1, 2), (2, 2)], "loop"),
    "star inwards": _graph(6, [(j, 0) for j in range(1, 6)], "dag"),
    "star outwards": _graph(6, [(0, i) for i in range(1, 6)], "dag"),
    "cycle": _graph(4, [(0, 1), (1, 2), (2, 3), (3, 0)]),  # as many edges as nodes
    "two components": _graph(6, _both([(0, 1), (1, 2), (3, 4), (4, 5)]), "undirected"),
    "complete": _graph(4, [(j, i) for j in range(4) for i in range(4) if i != j], "undirected"),
    "long chain": _graph(12, [(i, i + 1) for i in range(11)], "dag"),
    "ids in reverse": _graph(7, [(6, 5), (5, 4), (4, 3), (6, 3), (3, 2), (2, 1), (1, 0), (4, 0)], "dag"),
    "tree": _graph(7, [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)], "dag"),
    "random dag": _random(9, 20, seed=1, dag=True),
    "random": _random(8, 19, seed=2, dag=False),
}


def graphs(*tags: str) -> dict[str, Data]:
    """The graphs of the zoo that have all the tags, by name; each a new ``Data``."""
    return {name: data.clone() for name, (data, known) in ZOO.items() if known.issuperset(tags)}

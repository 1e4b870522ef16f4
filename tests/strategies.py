"""What Hypothesis draws: graphs whose order of ids means nothing, and priorities of several kinds."""

import torch
from hypothesis import strategies as st
from torch_geometric.data import Data

seeds = st.integers(0, 2**31 - 1)


def graph_of(num_nodes: int, edges) -> Data:
    edge_index = torch.tensor(list(edges), dtype=torch.long).reshape(-1, 2).t().contiguous()
    return Data(edge_index=edge_index, num_nodes=num_nodes)


@st.composite
def dags(draw, max_nodes: int = 7, double_edges: bool = True, min_nodes: int = 0) -> Data:
    """Acyclic graphs, the empty one, isolated nodes and double edges among them."""
    n = draw(st.integers(min_nodes, max_nodes))
    pairs = [(j, i) for i in range(n) for j in range(i)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=not double_edges, max_size=3 * n)) if pairs else []
    name = draw(st.permutations(range(n)))
    return graph_of(n, [(name[j], name[i]) for j, i in edges])


@st.composite
def digraphs(draw, max_nodes: int = 7, min_nodes: int = 0) -> Data:
    """Any directed graphs: with cycles, self-loops, double edges, isolated nodes, or empty."""
    n = draw(st.integers(min_nodes, max_nodes))
    node = st.integers(0, max(n - 1, 0))
    return graph_of(n, draw(st.lists(st.tuples(node, node), max_size=3 * n)))


@st.composite
def undirected(draw, max_nodes: int = 7) -> Data:
    """Graphs in which every edge comes with the one that leads back."""
    one_way = draw(digraphs(max_nodes)).edge_index.t().tolist()
    n = 1 + max((max(edge) for edge in one_way), default=0) + draw(st.integers(0, 1))
    return graph_of(n, one_way + [(i, j) for j, i in one_way])


@st.composite
def priorities(draw, num_nodes: int) -> torch.Tensor:
    """Numbers in random order, in the order of ids, or with many ties; floating or integer."""
    kind = draw(st.sampled_from(["random", "smooth", "tied", "integer"]))
    generator = torch.Generator().manual_seed(draw(seeds))
    if kind == "smooth":
        return torch.linspace(0, 1, num_nodes)
    if kind == "random":
        return torch.rand(num_nodes, generator=generator)
    tied = torch.randint(0, 3, (num_nodes,), generator=generator)
    return tied if kind == "integer" else tied / 2


def normal(generator: torch.Generator, *shape: int, grad: bool = True) -> torch.Tensor:
    """Float64 numbers to compare with."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)

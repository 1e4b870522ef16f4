"""How time and memory grow, family by family: with nodes, edges, depth and batch, up to what this machine holds.

Each case is one family along one axis: the same training step (forward and backward; for planning: levels and layout)
at sizes up to where a step takes seconds or gigabytes. The picture has logarithmic axes and dashed lines of slope 1.
Below a table stands the fitted slope with its standard error. A fit leaves small sizes out where a fixed cost (the
constant of a straight line through all sizes) makes up more than a tenth, but never one of the three largest. The
reference is the bare matrix (and adjacency) products at every size, with a slope of their own, and "x reference" is to
the largest; for planning, sorting the edges once. Two things make slopes greater than 1 here, the reference's too:
gathered rows that no cache holds any more (32 MB: 125,000 nodes of 64 features), and large tensors, which glibc gives
back to the system after every step, so that they are faulted in page by page at the next. The latter goes away with
``MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000`` in the environment: a step on 2,048 trees took
402 ms and 179 ms of the system's without, 370 ms and 9 ms with them.

- GCN and GAT: one layer, 64 -> 64 (4 heads x 16), x needs a gradient, on power-law graphs.
- Tree-LSTM: 64 hidden, the wavefront. Random binary trees of 20 to 40 leaves for the batch; for the depth 16
  caterpillars, whose levels are 32 nodes wide at the bottom and 16 nodes above.
- LSTM, packed: 64 hidden, torch's kernels on blocks of steps by chains. LSTM, generic: the same on the wavefront.
- Graph LSTM: 32 hidden, planar graphs under a smooth priority, so frontiers are narrow and many.
- Lattice LSTM: sentences of about 33 characters and 15 words, 50 -> 100 hidden, both directions. Grid LSTM: 32 hidden,
  one grid that grows along both sides, and batches of grids of 8 by 8.
- GRU with GCN in its gates: 32 hidden, on 207 places, by the number of time steps and of sequences.
- Planning: ``topological`` levels and the layout, of random DAGs of ten edges a node, and of one chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import chains
import graph_lstm
import graph_recurrent
import lattice_grid
import planning
import synchronous
import torch
import wavefront
from _harness import Case, Contender, Step, main
from _products import products_step

import mpnn

FIXED = "Where it is below 1, what does not grow along this axis (cost of a level, products of nodes) has a part in it."


def case(
    title: str, axis: str, sizes: Sequence[int], ours: Callable, bare: Callable, note: str = "", needs: float = 0.0
) -> Case:
    """Both at every size; set-up and step of the largest take ``needs`` GB."""
    both = {"mpnn": ("mpnn", ours), "reference": ("bare products or sorts", bare)}
    rows = [
        Contender(f"{name}, {n:,} {axis}", partial(make, n), role, agrees=False, size=n, needs=needs * n / max(sizes))
        for role, (name, make) in both.items()
        for n in reversed(sizes)  # the first reference, with which others are compared, is the largest
    ]
    return Case(title, rows, slope=True, axis=axis, note=note, patience=900.0)


# All nodes at once --------------------------------------------------------------------------------------------------


def power_law(num_nodes: int, num_edges: int) -> torch.Tensor:
    """Edges between nodes drawn as often as ``(10 + rank) ** (-2 / 3)``, loops and double edges with them: ``(2, E)``.

    Source: as ``_harness.chung_lu``, of which the largest graphs here would take minutes.
    """
    generator = torch.Generator().manual_seed(0)
    first, last = 10 ** (1 / 3), (num_nodes + 10) ** (1 / 3)
    place = first + (last - first) * torch.rand(2, num_edges, dtype=torch.float64, generator=generator)
    rank = (place**3 - 10).long().clamp_(0, num_nodes - 1)
    return torch.randperm(num_nodes, generator=generator)[rank]


def task(kind: str, num_nodes: int, num_edges: int) -> synchronous.Task:
    x = torch.randn(num_nodes, 64, generator=torch.Generator().manual_seed(0))
    widths = [(64, 16, 4)] if kind == "gat" else [(64, 64, 1)]
    return synchronous.Task(kind, x, power_law(num_nodes, num_edges), widths, x_needs_grad=True)


def of_nodes(kind: str, smoke: bool) -> Case:
    sizes = (20, 40) if smoke else [12_500 * 2**k for k in range(7 if kind == "gcn" else 6)]
    return case(
        f"One layer of {kind.upper()} on graphs with 20 edges a node.", "nodes", sizes,
        lambda n: synchronous.mpnn_step(task(kind, n, (4 if smoke else 20) * n)),
        lambda n: synchronous.gemm_step(task(kind, n, (4 if smoke else 20) * n), True), needs=0 if smoke else 6,
    )  # fmt: skip


def of_edges(kind: str, smoke: bool) -> Case:
    doublings = range(6 if kind == "gcn" else 5)
    num_nodes, sizes = (40, (80, 160)) if smoke else (50_000, [312_500 * 2**k for k in doublings])
    return case(
        f"One layer of {kind.upper()} on {num_nodes:,} nodes.", "edges", sizes,
        lambda n: synchronous.mpnn_step(task(kind, num_nodes, n)),
        lambda n: synchronous.gemm_step(task(kind, num_nodes, n), True),
        FIXED, needs=0 if smoke else 4,
    )  # fmt: skip


# Levels -------------------------------------------------------------------------------------------------------------


def trees(count: int, smoke: bool = False) -> wavefront.Forest:
    return wavefront.forest(wavefront.joined, count, *((3, 6, 8) if smoke else (20, 40, 64)))


def caterpillars(depth: int, count: int, hidden: int) -> wavefront.Forest:
    """``count`` trees, each a spine of ``depth`` nodes with a leaf at every node but the first."""
    spine = torch.arange(depth * count).view(depth, count)  # one row a level
    leaf = spine[1:] + (depth - 1) * count  # what follows the spines
    edges = [torch.stack([ends.flatten(), spine[1:].flatten()]) for ends in (spine[:-1], leaf)]
    level = torch.cat([torch.arange(depth).repeat_interleave(count), torch.zeros(leaf.numel(), dtype=torch.long)])
    return wavefront.Forest(torch.cat(edges, dim=1), level, hidden)


def tree_batch(smoke: bool) -> Case:
    sizes = (2, 4) if smoke else (8, 32, 128, 512, 2048, 8192)
    return case(
        "Child-sum Tree-LSTM on batches of trees.", "trees", sizes,
        lambda n: wavefront.mpnn_step(trees(n, smoke)), lambda n: wavefront.gemm_step(trees(n, smoke)), FIXED,
        needs=0 if smoke else 5,
    )  # fmt: skip


def tree_depth(smoke: bool) -> Case:
    sizes, count, hidden = ((4, 8), 2, 8) if smoke else ((32, 128, 512, 2048, 8192), 16, 64)
    return case(
        f"Child-sum Tree-LSTM on {count} caterpillars.", "levels", sizes,
        lambda n: wavefront.mpnn_step(caterpillars(n, count, hidden)),
        lambda n: wavefront.gemm_step(caterpillars(n, count, hidden)),
    )  # fmt: skip


def sequences(count: int, length: int, hidden: int = 64) -> chains.Batch:
    return chains.Batch("LSTM", [length] * count, hidden, 1)


def chain_length(way: str, smoke: bool) -> Case:
    count, sizes = (2, (4, 8)) if smoke else (16, [32 * 4**k for k in range(6 if way == "packed" else 5)])
    return case(
        f"LSTM on {count} chains, {way}.", "steps", sizes,
        lambda n: chains.ours_step(sequences(count, n), way), lambda n: chains.products_step(sequences(count, n)),
    )  # fmt: skip


def chain_batch(way: str, smoke: bool) -> Case:
    length, sizes = (4, (2, 4)) if smoke else (50, (16, 64, 256, 1024, 4096))
    return case(
        f"LSTM on chains of {length} steps, {way}.", "chains", sizes,
        lambda n: chains.ours_step(sequences(n, length), way), lambda n: chains.products_step(sequences(n, length)),
        FIXED,
    )  # fmt: skip


def single_chain(smoke: bool) -> Case:
    sizes = (10, 20) if smoke else (1_250, 2_500, 5_000, 10_000, 20_000)
    return case(
        "LSTM on a single chain, wavefront: as many levels as nodes.", "nodes", sizes,
        lambda n: chains.ours_step(sequences(1, n), "wavefront"), lambda n: chains.products_step(sequences(1, n)),
    )  # fmt: skip


def planar(count: int, side: int, smoke: bool) -> graph_lstm.Scene:
    return graph_lstm.scene(count, side, 8 if smoke else 32, "smooth")


def ordered_nodes(smoke: bool) -> Case:
    sides = (4, 6) if smoke else (16, 32, 64, 128, 256)
    return case(
        "Graph LSTM on one planar graph.", "nodes", [side**2 for side in sides],
        lambda n: graph_lstm.mpnn_step(planar(1, round(n**0.5), smoke)),
        lambda n: products_step(graph_lstm.products(planar(1, round(n**0.5), smoke), [])),
        "Where it is below 1: frontiers grow wider as well as more, so more nodes share the cost of a level.",
    )  # fmt: skip


def ordered_batch(smoke: bool) -> Case:
    side, sizes = (4, (1, 2)) if smoke else (16, (1, 4, 16, 64, 256))
    return case(
        f"Graph LSTM on planar graphs of {side * side} nodes.", "graphs", sizes,
        lambda n: graph_lstm.mpnn_step(planar(n, side, smoke)),
        lambda n: products_step(graph_lstm.products(planar(n, side, smoke), [])), FIXED,
    )  # fmt: skip


def lattice_batch(smoke: bool) -> Case:
    widths, sizes = ((5, 8), (2, 4)) if smoke else ((50, 100), (8, 32, 128, 512))
    return case(
        "Lattice LSTM on batches of sentences.", "sentences", sizes,
        lambda n: lattice_grid.lattice_step(lattice_grid.sentences(n, *widths)),
        lambda n: products_step(lattice_grid.lattice_products(lattice_grid.sentences(n, *widths))), FIXED,
    )  # fmt: skip


def grid_nodes(smoke: bool) -> Case:
    def of(n: int) -> lattice_grid.Grids:
        return lattice_grid.Grids((round(n**0.5),) * 2, 1, 8, 4 if smoke else 32)

    return case(
        "Grid LSTM on one square grid.", "nodes", [side**2 for side in ((3, 4) if smoke else (16, 32, 64, 128, 256))],
        lambda n: lattice_grid.grid_step(of(n)), lambda n: products_step(lattice_grid.grid_products(of(n))),
        "Where it is below 1: diagonals grow longer as well as more, so more nodes share the cost of a level.",
    )  # fmt: skip


def grid_batch(smoke: bool) -> Case:
    def of(n: int) -> lattice_grid.Grids:
        return lattice_grid.Grids((3, 3) if smoke else (8, 8), n, 8, 4 if smoke else 32)

    return case(
        "Grid LSTM on batches of grids of 8 by 8.", "grids", (2, 4) if smoke else (4, 16, 64, 256, 1024),
        lambda n: lattice_grid.grid_step(of(n)), lambda n: products_step(lattice_grid.grid_products(of(n))), FIXED,
    )  # fmt: skip


def recurrent(axis: str, smoke: bool) -> Case:
    def of(n: int) -> graph_recurrent.Scene:
        nodes, few, hidden = (10, 2, 4) if smoke else (207, 4, 32)
        return graph_recurrent.Scene(nodes, *((n, few) if axis == "steps" else (3 * few, n)), hidden)

    return case(
        f"GRU with GCN in its gates, by {axis}.", axis, (2, 4) if smoke else (4, 16, 64, 256),
        lambda n: graph_recurrent.mpnn_step(of(n), "gru", mpnn.nn.GCN),
        lambda n: graph_recurrent.gemm_step(of(n), "gru", 1), FIXED,
    )  # fmt: skip


# Planning -----------------------------------------------------------------------------------------------------------


def plan_step(edge_index: torch.Tensor, num_nodes: int) -> Step:
    return lambda: [mpnn.plan(edge_index, "topological", num_nodes).level]


def planning_edges(smoke: bool) -> Case:
    sizes = (100, 200) if smoke else (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
    return case(
        "Levels and layout of a random DAG with ten edges a node.", "edges", sizes,
        lambda n: plan_step(planning.random_dag(n // 10, n), n // 10),
        lambda n: planning.sort_step(planning.random_dag(n // 10, n)),
        "Where it is above 1: reads at random places cost more where no cache holds the arrays any more.",
    )  # fmt: skip


def planning_depth(smoke: bool) -> Case:
    sizes = (10, 20) if smoke else (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)

    def links(n: int) -> torch.Tensor:
        name = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        return torch.stack([name[:-1], name[1:]])

    return case(
        "Levels and layout of one chain, numbered at random.", "levels", sizes,
        lambda n: plan_step(links(n), n), lambda n: planning.sort_step(links(n)),
    )  # fmt: skip


CASES = {
    "gcn_nodes": partial(of_nodes, "gcn"),
    "gcn_edges": partial(of_edges, "gcn"),
    "gat_nodes": partial(of_nodes, "gat"),
    "gat_edges": partial(of_edges, "gat"),
    "tree_batch": tree_batch,
    "tree_depth": tree_depth,
    "packed_length": partial(chain_length, "packed"),
    "packed_batch": partial(chain_batch, "packed"),
    "generic_length": partial(chain_length, "wavefront"),
    "generic_batch": partial(chain_batch, "wavefront"),
    "generic_single": single_chain,
    "ordered_nodes": ordered_nodes,
    "ordered_batch": ordered_batch,
    "lattice_batch": lattice_batch,
    "grid_nodes": grid_nodes,
    "grid_batch": grid_batch,
    "recurrent_steps": partial(recurrent, "steps"),
    "recurrent_batch": partial(recurrent, "sequences"),
    "planning_edges": planning_edges,
    "planning_depth": planning_depth,
}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))

r"""Pictures of graphs, coloured by level: who fires when.

Every layout is deterministic. Chains become a line, wrapped to and fro when long; trees have their root on top; DAGs
run from left to right, one column a level; all else is laid out by springs; nodes with positions stay where they are.

Example:
    >>> import networkx as nx
    >>> ax = draw(nx.balanced_tree(2, 3, create_using=nx.DiGraph).reverse(), schedule="topological")
    >>> ax.figure.axes[-1].get_ylabel()
    'level'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from mpnn.graph import check_edges, names_of
from mpnn.plan import plan
from mpnn.schedule import CycleError, topological

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

INK, LINE, PLAIN = "#22262e", "#7b8494", "#3b7ea1"
LONG_CHAIN = 20  # a longer chain is wrapped
FEW = 60  # up to so many nodes are labelled unless told otherwise


def draw(
    data: Any,
    schedule: Any = None,
    level: Any = None,
    ax: Axes | None = None,
    layout: Any = "auto",
    labels: Any = "auto",
    color: Any = None,
    image: Any = None,
    path: Any = None,
) -> Axes:
    """Draws a graph with its levels as colours.

    Args:
        data: a torch_geometric ``Data``, ``Batch`` or ``HeteroData``, or a networkx graph.
        schedule: a name, a schedule or a tensor of levels, as :func:`mpnn.plan` takes it.
        level: ``(N,)`` the levels themselves, instead of a schedule. With neither, all nodes have one colour.
        ax: where to draw; a new figure unless given.
        layout: ``"chain"``, ``"tree"``, ``"dag"``, ``"general"`` or ``"pos"`` (the field of this name, x and y); an
            array ``(N, 2)`` of positions; ``"auto"`` takes ``"pos"`` if there is such a field, else what fits the
            structure.
        labels: True for the ids of the nodes, False for none, ``"auto"`` for ids if there are few nodes; or a name a
            node as sequence, mapping by id, function of the id, or name of a field of the data.
        color: instead of the level: a matplotlib colour, a name of a field, numbers ``(N,)``, or ``(N, 3)`` red, green
            and blue in [0, 1].
        image: ``(H, W)`` or ``(H, W, 3)``, shown below the graph. Positions are then pixels, x to the right and y
            downwards from the centre of the top left pixel; without a picture y points up, unless the data has a
            ``segment_index``, as superpixels have.
        path: a file to write, ``.png``, ``.pdf``, ``.svg``; folders are made.

    Returns:
        The matplotlib ``Axes``. Edges carry arrows unless each has its opposite.

    Raises:
        TypeError: ``data`` is no graph of these.
        ValueError: both ``schedule`` and ``level``; something that has not one entry for each node; an unknown layout,
            or one that the structure of the graph does not admit; a colour that is none.
        CycleError: the schedule is topological, or the layout ``"dag"``, and the graph has a cycle.
        ImportError: ``matplotlib`` is not installed.

    Example:
        >>> import mpnn
        >>> axes = draw(mpnn.graphs.grid(3, 4), "topological", labels=False)         # path="grid.png" writes it
    """
    _need_matplotlib()
    graph = _read(data)
    shades = _shades(graph, _levels(graph, schedule, level), color)
    xy = _positions(graph, layout)
    curves = _curves(graph, xy)
    ax = _axes(ax, np.concatenate([xy, curves.reshape(-1, 2)]), _spacing(xy), image, "segment_index" in graph.data)
    if shades.bar:
        _colour_bar(ax, shades)
    diameter = _diameter(ax, xy)
    _draw_edges(ax, graph, xy, curves, diameter, dark=image is None)
    _draw_nodes(ax, xy, shades, diameter)
    _draw_labels(ax, graph, xy, shades, labels, diameter)
    if path is not None:
        _write(ax.figure, path)
    return ax


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("draw: pictures need matplotlib; install it with pip install 'mpnn[viz]'.") from error


# The graph


@dataclass
class _Graph:
    """What is drawn. Loops are apart; of an edge and its opposite in an undirected graph only one is kept.

    ``given`` is what a schedule is told of: of a graph with types of nodes these, too.
    """

    data: Data
    given: Any
    num_nodes: int
    src: np.ndarray
    dst: np.ndarray
    loops: np.ndarray
    directed: bool


def _read(data: Any) -> _Graph:
    import networkx as nx

    given = data = _of_networkx(data) if isinstance(data, nx.Graph) else data
    if not isinstance(data, (Data, HeteroData)):
        raise TypeError(
            f"draw: data is a {type(data).__name__}; expected a torch_geometric Data, Batch or HeteroData, or a "
            "networkx graph. Wrap edges: Data(edge_index=edge_index, num_nodes=num_nodes)."
        )
    if hasattr(data, "edge_types"):
        data = _of_hetero(data)
    check_edges("draw", data.edge_index, data.num_nodes)
    src, dst = data.edge_index.unique(dim=1).cpu().numpy() if data.edge_index.numel() else np.empty((2, 0), dtype=int)
    loops, src, dst = src[src == dst], src[src != dst], dst[src != dst]
    size = data.num_nodes
    directed = not np.array_equal(np.sort(src * size + dst), np.sort(dst * size + src))
    if not directed:
        src, dst = src[src < dst], dst[src < dst]
    return _Graph(data, given, size, src, dst, loops, directed)


def _of_networkx(graph: Any) -> Data:
    number = {node: k for k, node in enumerate(graph)}
    pairs = [(number[i], number[j]) for i, j in graph.edges()]
    edge_index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t()
    if not graph.is_directed():
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    data = Data(edge_index=edge_index, num_nodes=len(number), node_id=list(number))
    if number and all("pos" in fields for _, fields in graph.nodes(data=True)):
        data.pos = torch.tensor([tuple(map(float, graph.nodes[node]["pos"])) for node in graph])
    return data


def _of_hetero(data: Any) -> Data:
    flat = Data(num_nodes=data.num_nodes)
    start, flat.node_id = {}, []
    for kind in data.node_types:
        start[kind] = len(flat.node_id)
        flat.node_id += _typed_ids(data, kind)
    shifted = [data[kind].edge_index + torch.tensor([[start[kind[0]]], [start[kind[2]]]]) for kind in data.edge_types]
    flat.edge_index = torch.cat([torch.empty(2, 0, dtype=torch.long), *shifted], dim=1)
    return flat


def _typed_ids(data: Any, kind: str) -> list:
    """The ids that nodes of a type had in networkx, else the type and their number."""
    from mpnn.convert import node_ids

    known = getattr(data, "networkx", None) is not None
    return node_ids(data, kind) if known else [f"{kind} {k}" for k in range(data[kind].num_nodes)]


def _levels(graph: _Graph, schedule: Any, level: Any) -> np.ndarray | None:
    if schedule is not None and level is not None:
        raise ValueError(f"draw: both schedule={schedule!r} and level are given; expected one of the two.")
    if schedule is not None:
        return plan(graph.given, schedule).level.cpu().numpy()
    return None if level is None else _rows(level, graph.num_nodes, "level")


def _rows(values: Any, num_nodes: int, what: str) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if values.shape[:1] != (num_nodes,):
        raise ValueError(f"draw: {what} has shape {values.shape}; expected a row for each of the {num_nodes} nodes.")
    return values


# Where


def _positions(graph: _Graph, layout: Any) -> np.ndarray:
    if not isinstance(layout, str):
        return _rows(layout, graph.num_nodes, "layout")[:, :2].astype(float)
    kind = _kind(graph) if layout == "auto" else layout
    if kind == "pos":
        return _given_positions(graph)
    if kind not in LAYOUTS:
        raise ValueError(
            f"draw: layout={layout!r} is unknown; expected 'auto', 'pos', {', '.join(map(repr, LAYOUTS))} or an array "
            "of positions (N, 2)."
        )
    if kind in ("chain", "tree") and kind not in _shapes(graph):
        raise ValueError(
            f"draw: layout={layout!r}, but the graph with {graph.num_nodes} nodes and {graph.src.size} edges is no "
            f"{kind} and no set of such. Use layout='auto'."
        )
    if not graph.num_nodes:
        return np.zeros((0, 2))
    return _pack(graph, LAYOUTS[kind](graph), stretch=kind in ("tree", "dag"))


def _given_positions(graph: _Graph) -> np.ndarray:
    if graph.data.get("pos") is None:
        raise ValueError("draw: layout='pos', but the graph has no field 'pos'; set data.pos, or use layout='auto'.")
    return _rows(graph.data.pos, graph.num_nodes, "pos")[:, :2].astype(float)


def _kind(graph: _Graph) -> str:
    if graph.data.get("pos") is not None and graph.data.pos.dim() == 2 and graph.data.pos.shape[1] >= 2:
        return "pos"
    shapes = _shapes(graph)
    if shapes or not graph.directed:
        return shapes[0] if shapes else "general"
    try:
        _depth(graph)
    except CycleError:
        return "general"
    return "dag"


def _shapes(graph: _Graph) -> list[str]:
    """``["chain", "tree"]`` for a set of chains, ``["tree"]`` for other forests with all edges to roots or away."""
    parts = _components(graph)
    if graph.num_nodes - graph.src.size != parts.max(initial=-1) + 1:
        return []
    ins, outs = _degrees(graph)
    if not graph.directed:
        return ["chain", "tree"] if (ins + outs).max(initial=0) <= 2 else ["tree"]
    if ins.max(initial=0) <= 1 and outs.max(initial=0) <= 1:
        return ["chain", "tree"]
    return ["tree"] if min(ins.max(), outs.max()) <= 1 else []


def _degrees(graph: _Graph) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.bincount(end, minlength=graph.num_nodes) for end in (graph.dst, graph.src))


def _adjacency(src: np.ndarray, dst: np.ndarray, size: int) -> Any:
    from scipy.sparse import coo_array

    return coo_array((np.ones(src.size, dtype=np.int8), (src, dst)), shape=(size, size)).tocsr()


def _components(graph: _Graph) -> np.ndarray:
    from scipy.sparse.csgraph import connected_components

    return connected_components(_adjacency(graph.src, graph.dst, graph.num_nodes), directed=False)[1]


def _depth(graph: _Graph) -> np.ndarray:
    """The longest path that ends in each node."""
    return topological(torch.from_numpy(np.stack([graph.src, graph.dst])), graph.num_nodes).numpy()


def _walk(graph: _Graph, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All nodes breadth first from the roots, and the node from which each was reached; N stands above the roots."""
    from scipy.sparse.csgraph import breadth_first_order

    size = graph.num_nodes
    src = np.concatenate([graph.src, np.full(roots.size, size)])
    dst = np.concatenate([graph.dst, roots])
    order, parent = breadth_first_order(_adjacency(src, dst, size + 1), size, directed=False)
    return order[1:], parent[:size]


def _chain(graph: _Graph) -> np.ndarray:
    """Along a line from the start of each chain, wrapped to and fro if one is long."""
    ins, outs = _degrees(graph)
    ends = ins == 0 if graph.directed else ins + outs <= 1
    first = np.full(graph.num_nodes, graph.num_nodes)
    parts = _components(graph)
    np.minimum.at(first, parts[ends], np.flatnonzero(ends))
    order, parent = _walk(graph, np.unique(first[parts]))
    place = np.zeros(graph.num_nodes + 1, dtype=int)
    place[-1] = -1
    for node in order:
        place[node] = place[parent[node]] + 1
    place, longest = place[:-1], place.max() + 1
    width = longest if longest <= LONG_CHAIN else max(LONG_CHAIN, int(np.ceil(np.sqrt(2 * longest))))
    row, column = place // width, place % width
    return np.stack([np.where(row % 2, width - 1 - column, column), -row], axis=1).astype(float)


def _tree(graph: _Graph) -> np.ndarray:
    """Roots on top, parents in the middle above their children, subtrees pushed together until they are one apart."""
    order, parent = _walk(graph, _roots(graph))
    children: list[list[int]] = [[] for _ in range(graph.num_nodes + 1)]
    for node in order.tolist():
        children[parent[node]].append(node)
    contours, x = {}, np.zeros(graph.num_nodes + 1)
    for node in [*order[::-1].tolist(), graph.num_nodes]:
        contours[node] = _join([contours.pop(child) for child in children[node]], children[node], x)
    depth = np.zeros(graph.num_nodes + 1)
    for node in order:
        x[node] += x[parent[node]]
        depth[node] = depth[parent[node]] + 1
    return np.stack([x, -depth], axis=1)[:-1]


def _join(contours: list[tuple[np.ndarray, np.ndarray]], nodes: list[int], x: np.ndarray) -> tuple:
    """Puts subtrees side by side and notes in ``x`` where their roots stand, seen from the parent.

    A contour is the leftmost and the rightmost x of each depth; returns that of the whole, with the parent at 0.
    """
    left = right = np.empty(0)
    for node, (low, high) in zip(nodes, contours, strict=True):
        shared = min(right.size, low.size)
        x[node] = (right[:shared] - low[:shared]).max(initial=-1) + 1
        left = np.concatenate([left, low[left.size :] + x[node]])
        right = np.concatenate([high + x[node], right[high.size :]])
    middle = (x[nodes[0]] + x[nodes[-1]]) / 2 if nodes else 0.0
    x[nodes] -= middle
    return np.concatenate([[0.0], left - middle]), np.concatenate([[0.0], right - middle])


def _roots(graph: _Graph) -> np.ndarray:
    """Where the edges lead if all lead there, else where they come from; the middle of each undirected tree."""
    ins, outs = _degrees(graph)
    if graph.directed:
        return np.flatnonzero(outs == 0 if outs.max() <= 1 else ins == 0)
    neighbours, degree = _adjacency(graph.src, graph.dst, graph.num_nodes), ins + outs
    neighbours = (neighbours + neighbours.T).tocsr()
    waiting, k = np.flatnonzero(degree <= 1).tolist(), 0
    while k < len(waiting):  # leaves are taken off again and again; the last one left is in the middle
        for node in neighbours.indices[neighbours.indptr[waiting[k]] : neighbours.indptr[waiting[k] + 1]]:
            degree[node] -= 1
            if degree[node] == 1:
                waiting.append(int(node))
        k += 1
    middle = np.zeros(graph.num_nodes, dtype=int)
    parts = _components(graph)
    for node in waiting:
        middle[parts[node]] = node
    return np.unique(middle[parts])


def _dag(graph: _Graph) -> np.ndarray:
    """Columns by longest path; within a column by the mean place of the neighbours, a few times over."""
    depth = _depth(graph)
    height = np.bincount(depth)[depth]
    row = np.zeros(graph.num_nodes)
    row[np.argsort(depth, kind="stable")] = _ranks(np.sort(depth))
    ends, others = np.concatenate([graph.src, graph.dst]), np.concatenate([graph.dst, graph.src])
    degree = np.maximum(np.bincount(ends, minlength=graph.num_nodes), 1)
    for _ in range(24):
        y = row - (height - 1) / 2
        mean = np.bincount(ends, weights=y[others], minlength=graph.num_nodes) / degree
        order = np.lexsort((mean + 1e-3 * y, depth))
        row[order] = _ranks(depth[order])
    return np.stack([depth, (height - 1) / 2 - row], axis=1).astype(float)


def _ranks(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    start = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    return np.arange(groups.size) - np.repeat(start, np.diff(start, append=groups.size))


def _general(graph: _Graph) -> np.ndarray:
    """Each component by itself: by stress if small, by springs if larger, by distances to some pivots if very large."""
    parts = _components(graph)
    xy = np.zeros((graph.num_nodes, 2))
    order = np.argsort(parts, kind="stable")
    for nodes in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        if nodes.size > 1:
            xy[nodes] = _general_part(_adjacency(graph.src, graph.dst, graph.num_nodes)[nodes][:, nodes], nodes.size)
    return xy


def _general_part(adjacency: Any, size: int) -> np.ndarray:
    import networkx as nx

    if size > 600:
        return _relaxed(adjacency, _pivots(adjacency, size)) * 1.2 * np.sqrt(size)
    whole = nx.from_scipy_sparse_array(adjacency)
    start = dict(enumerate(_turned(_pivots(adjacency, size))))
    xy = nx.kamada_kawai_layout(whole, pos=start) if size <= 150 else nx.spring_layout(whole, pos=start, iterations=100)
    return _turned(np.array([xy[k] for k in range(size)])) * 0.9 * np.sqrt(size)


def _turned(xy: np.ndarray) -> np.ndarray:
    """The longest direction laid flat, centred, within [-1, 1]."""
    xy = xy - xy.mean(axis=0)
    xy = xy @ np.linalg.svd(xy, full_matrices=False)[2].T
    return xy / max(np.abs(xy).max(), 1e-9)


def _pivots(adjacency: Any, size: int, count: int = 60) -> np.ndarray:
    """Principal components of the distances to a few nodes that are far apart.

    Source: Brandes & Pich 2007, "Eigensolver Methods for Progressive Multidimensional Scaling of Large Data".
    """
    from scipy.sparse.csgraph import dijkstra

    distance, pivot, nearest = [], 0, np.full(size, np.inf)
    for _ in range(min(count, size)):
        distance.append(dijkstra(adjacency, directed=False, unweighted=True, indices=pivot))
        nearest = np.minimum(nearest, distance[-1])
        pivot = int(nearest.argmax())
    squared = np.stack(distance, axis=1) ** 2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.pad(u * s, ((0, 0), (0, 2)))[:, :2] + 1e-3 * np.random.default_rng(0).standard_normal((size, 2))


def _relaxed(adjacency: Any, xy: np.ndarray, steps: int = 60) -> np.ndarray:
    """Edges pull their ends together and near nodes push each other apart, until crowds have spread."""
    from scipy.spatial import cKDTree

    src, dst = adjacency.tocoo().coords
    xy = _turned(xy) * np.sqrt(len(xy)) + 0.5 * np.random.default_rng(0).standard_normal(xy.shape)
    degree = np.maximum(np.bincount(np.concatenate([src, dst]), minlength=len(xy)), 1)[:, None]
    for step in range(steps):
        near = cKDTree(xy).query(xy, k=min(12, len(xy)))[1][:, 1:]
        apart = xy[:, None] - xy[near]
        push = (apart / ((apart**2).sum(axis=2, keepdims=True) + 0.05)).sum(axis=1)
        pull = np.zeros_like(xy)
        along = xy[dst] - xy[src]
        np.add.at(pull, src, along)
        np.add.at(pull, dst, -along)
        move = 0.4 * push + 0.3 * pull / degree
        xy = xy + move * min(1, 1.5 * (1 - step / steps)) / np.maximum(1, np.abs(move))
    return _turned(xy)


LAYOUTS: dict[str, Callable[[_Graph], np.ndarray]] = {
    "chain": _chain,
    "tree": _tree,
    "dag": _dag,
    "general": _general,
}


def _pack(graph: _Graph, xy: np.ndarray, stretch: bool) -> np.ndarray:
    """Puts the boxes of the components on shelves, tall ones first; ``stretch`` widens deep and deepens wide ones."""
    parts = _components(graph)
    low, high = _boxes(parts, xy)
    width, height = (high - low).max(axis=0)
    if stretch and min(width, height) > 0:
        xy = xy * (max(1, height / width), max(1, width / (2.2 * height)))
        low, high = _boxes(parts, xy)
    box = high - low + (1.5, 1.0 if not stretch else 1.5 * max(1, width / (2.2 * max(height, 1))))
    shelf_width = max(box[:, 0].max(), np.sqrt(1.6 * box.prod(axis=1).sum()))
    corner, x, y, shelf = np.zeros_like(box), 0.0, 0.0, 0.0
    for k in np.argsort(-box[:, 1], kind="stable"):
        if x and x + box[k, 0] > shelf_width + 1e-9:
            x, y, shelf = 0.0, y - shelf, 0.0
        corner[k] = x, y
        x, shelf = x + box[k, 0], max(shelf, box[k, 1])
    top_left = np.stack([low[:, 0], high[:, 1]], axis=1)
    return xy - top_left[parts] + corner[parts]


def _boxes(parts: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and upper right corner of each component."""
    low, high = np.full((parts.max() + 1, 2), np.inf), np.full((parts.max() + 1, 2), -np.inf)
    np.minimum.at(low, parts, xy)
    np.maximum.at(high, parts, xy)
    return low, high


# What colour


@dataclass
class _Shades:
    """A colour a node, and what the colour bar needs; ``bar`` is None where there is nothing to explain."""

    colours: np.ndarray
    bar: Any = None
    label: str = ""
    ticks: Any = None


def _shades(graph: _Graph, level: np.ndarray | None, color: Any) -> _Shades:
    from matplotlib.colors import is_color_like, to_rgba

    label = color if isinstance(color, str) else "value"
    if isinstance(color, str) and graph.data.get(color) is not None:
        color = graph.data[color]
    if color is None and level is not None:
        return _level_shades(level)
    if color is None or is_color_like(color) and not isinstance(color, Tensor) and np.ndim(color) < 2:
        return _Shades(np.tile(to_rgba(PLAIN if color is None else color), (graph.num_nodes, 1)))
    if isinstance(color, str):
        raise ValueError(
            f"draw: color={color!r} is neither a colour nor a field of the graph, which has {list(graph.data.keys())}."
        )
    values = _rows(color, graph.num_nodes, "color").astype(float)
    if values.ndim == 2 and values.shape[1] in (3, 4):
        return _Shades(np.array([to_rgba(row) for row in values.clip(0, 1)]).reshape(-1, 4))
    return _value_shades(values.reshape(graph.num_nodes), label)


def _palette() -> Any:
    """Viridis without its palest end, which would vanish on white: dark is early, light is late, also in grey."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("levels", colormaps["viridis"](np.linspace(0.06, 0.93, 256)))


def _level_shades(level: np.ndarray) -> _Shades:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.ticker import MaxNLocator

    low, high = (int(level.min()), int(level.max())) if level.size else (0, 0)
    count = high - low + 1
    colours = _palette()(np.linspace(0, 1, count) if count > 1 else [0.35])
    bar = ScalarMappable(BoundaryNorm(np.arange(low, high + 2) - 0.5, max(count, 1)), ListedColormap(colours))
    if count <= 10:
        ticks = np.arange(low, high + 1)
    else:
        ticks = MaxNLocator(8, integer=True).tick_values(low, high).astype(int)
        room = 0.6 * (ticks[1] - ticks[0])  # the first and the last level are always named
        ticks = np.array([low, *(t for t in ticks if low + room < t < high - room), high])
    return _Shades(colours[(level - low).astype(int)].reshape(-1, 4), bar, "level", ticks)


def _value_shades(values: np.ndarray, label: str) -> _Shades:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = values[np.isfinite(values)]
    bar = ScalarMappable(Normalize(*((finite.min(), finite.max()) if finite.size else (0, 1))), _palette())
    return _Shades(bar.to_rgba(values), bar, label)


# On paper


def _axes(ax: Any, drawn: np.ndarray, spacing: float, image: Any, down: bool) -> Axes:
    """Axes with room for all points drawn and equal units both ways; a new figure has the drawing's proportions."""
    import matplotlib.pyplot as plt

    low, high = (drawn.min(axis=0), drawn.max(axis=0)) if len(drawn) else (np.zeros(2), np.zeros(2))
    margin = 0.03 * (high - low).max() + 0.5 * spacing
    if image is not None:
        image = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
        low, high, margin = np.full(2, -0.5), np.array(image.shape[1::-1]) - 0.5, 0
    width, height = high - low + 2 * margin
    if ax is None:
        scale = np.sqrt(42 / (width * height))
        size = np.clip([scale * width + 0.9, scale * height], [3.2, 1.9], [11, 10])
        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    if image is not None:
        ax.imshow(image, cmap="gray", alpha=0.8)
    ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal")
    if (down or image is not None) and not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.set_axis_off()
    return ax


def _spacing(xy: np.ndarray) -> float:
    """A small but typical distance from a node to the nearest other."""
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return 1.0
    distance = cKDTree(xy).query(xy, k=2)[0][:, 1]
    distance = distance[distance > 0]
    return float(np.quantile(distance, 0.2)) if distance.size else 1.0


def _colour_bar(ax: Axes, shades: _Shades) -> None:
    box = ax.get_window_extent()
    flat = box.width > 3 * box.height
    bar = ax.figure.colorbar(
        shades.bar,
        ax=ax,
        label=shades.label,
        ticks=shades.ticks,
        orientation="horizontal" if flat else "vertical",
        shrink=0.6 if flat else 0.8,
        aspect=40 if flat else 24,
        pad=0.03,
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=INK)
    bar.ax.minorticks_off()


def _diameter(ax: Axes, xy: np.ndarray) -> float:
    """Of a node, in points, so that neighbours leave room for the edge between them."""
    ax.figure.draw_without_rendering()  # settles how large the axes are
    ends = ax.transData.transform([[0, 0], [1, 0]])
    unit = abs(ends[1, 0] - ends[0, 0]) * 72 / ax.figure.dpi
    return float(np.clip(0.6 * _spacing(xy) * unit, np.clip(120 / np.sqrt(len(xy) + 1), 1.4, 4), 24))


def _draw_edges(ax: Axes, graph: _Graph, xy: np.ndarray, curves: np.ndarray, diameter: float, dark: bool) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    colour = LINE if dark else "white"
    width = np.clip(diameter / 11, 0.25, 1.4)
    alpha = 0.45 if graph.src.size > 3000 else 0.85
    ax.add_collection(LineCollection(curves, colors=colour, linewidths=width, alpha=alpha, zorder=1))
    if graph.loops.size:
        turn = np.linspace(0, 2 * np.pi, 25)
        ring = 0.42 * diameter * np.stack([np.cos(turn), np.sin(turn) + 1.35], axis=1)
        rings = PolyCollection([ring], facecolors="none", edgecolors=colour, linewidths=width, zorder=1)
        ax.add_collection(_in_points(ax, rings, xy[graph.loops]))
    if graph.directed and diameter >= 3:
        along = (curves[:, -1] - curves[:, -2]) * (-1 if ax.yaxis_inverted() else 1) ** np.arange(2)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
        heads = PolyCollection(_heads(along, diameter), facecolors=colour, edgecolors="none", zorder=1.5)
        ax.add_collection(_in_points(ax, heads, xy[graph.dst]))


def _curves(graph: _Graph, xy: np.ndarray) -> np.ndarray:
    """``(E, points, 2)``: straight lines; level ones that would run over a node between their ends become arcs."""
    start, end = xy[graph.src], xy[graph.dst]
    over = _runs_over(graph, xy)
    if not (graph.directed and over.any()):
        return np.stack([start, end], axis=1)
    length = np.abs(end - start).max(axis=1)
    up = np.where((start + end)[:, 1] < 2 * np.median(xy[:, 1]), -1, 1)
    middle = (start + end) / 2
    middle[:, 1] += over * up * (0.25 * length + 0.5 * _spacing(xy))
    t = np.linspace(0, 1, 17)[:, None]
    start, middle, end = start[:, None], middle[:, None], end[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def _runs_over(graph: _Graph, xy: np.ndarray) -> np.ndarray:
    """Horizontal edges with a node between their ends, as the shortcuts of a lattice have it."""
    row = np.rint(xy[:, 1] / (0.05 * _spacing(xy)))
    place = np.empty(len(xy))
    place[np.lexsort((xy[:, 0], row))] = np.arange(len(xy))  # along rows: ends with none between them are neighbours
    level = row[graph.src] == row[graph.dst]
    return level & (np.abs(place[graph.src] - place[graph.dst]) > 1)


def _heads(along: np.ndarray, diameter: float) -> np.ndarray:
    """Triangles in points around the centre of the target, with the tip on its rim."""
    size = np.clip(0.42 * diameter, 3, 7)
    aside = np.stack([-along[:, 1], along[:, 0]], axis=1)
    tip, back = -along * (diameter / 2 + 0.4), -along * (diameter / 2 + size)
    return np.stack([tip, back + 0.42 * size * aside, back - 0.42 * size * aside], axis=1)


def _in_points(ax: Axes, collection: Any, xy: np.ndarray) -> Any:
    """The collection with its shapes measured in points around the places ``xy``."""
    from matplotlib.transforms import Affine2D

    collection.set_offsets(xy)
    collection.set_offset_transform(ax.transData)
    collection.set_transform(Affine2D().scale(1 / 72) + ax.figure.dpi_scale_trans)
    return collection


def _draw_nodes(ax: Axes, xy: np.ndarray, shades: _Shades, diameter: float) -> None:
    rim = np.clip(diameter / 14, 0, 1.1) if diameter > 3 else 0
    ax.scatter(*xy.T, s=diameter**2, c=shades.colours, edgecolors="white", linewidths=rim, zorder=2)


def _draw_labels(ax: Axes, graph: _Graph, xy: np.ndarray, shades: _Shades, labels: Any, diameter: float) -> None:
    from matplotlib.patheffects import withStroke

    halo = withStroke(linewidth=2, foreground="white")
    for k, text in enumerate(_texts(graph, labels)):
        size = min(9.0, 0.5 * diameter, 1.35 * diameter / max(len(text), 1))
        inside = size >= 4.5
        if inside:
            bright = shades.colours[k, :3] @ (0.299, 0.587, 0.114) > 0.55
            style = {"color": INK if bright else "white", "ha": "center", "va": "center_baseline"}
        else:
            style = {"color": INK, "ha": "center", "va": "top", "path_effects": [halo]}
        offset = (0, 0 if inside else -0.6 * diameter)
        fontsize = size if inside else 7.5
        ax.annotate(text, xy[k], offset, textcoords="offset points", fontsize=fontsize, zorder=3, **style)


def _texts(graph: _Graph, labels: Any) -> list[str]:
    """A text a node, or none at all."""
    if labels is False or labels is None or (isinstance(labels, str) and labels == "auto" and graph.num_nodes > FEW):
        return []
    ids = names_of(graph.data, list(range(graph.num_nodes)))
    if labels is True or (isinstance(labels, str) and labels == "auto"):
        return [str(name) for name in ids]
    if isinstance(labels, Mapping):
        return [str(labels.get(name, "")) for name in ids]
    if callable(labels):
        return [str(labels(name)) for name in ids]
    if isinstance(labels, str):
        labels = graph.data[labels]
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(values) != graph.num_nodes:
        raise ValueError(f"draw: {len(values)} labels for {graph.num_nodes} nodes; expected one for each.")
    return [str(value) for value in values]


def _write(figure: Any, path: Any) -> None:
    from pathlib import Path

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def write_small(figure: Any, path: Any, dpi: int = 110, colours: int = 256, **options: Any) -> None:
    """Writes a figure as a PNG of few colours, a third to a quarter as large: for pictures that a page shows.

    Args:
        figure: a matplotlib ``Figure``.
        path: the file.
        colours: at most 256; 64 do for lines and text, pictures need all.
        options: as ``Figure.savefig`` takes them.
    """
    from io import BytesIO

    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, **options)
    Image.open(drawn).convert("RGB").quantize(colours).save(path, optimize=True)

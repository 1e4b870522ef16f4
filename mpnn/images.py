r"""Pictures as graphs: superpixels, joined where they share a border.

Coordinates are in pixels, measured from the centre of the top left pixel: ``pos[:, 0]`` is x, to the right,
``pos[:, 1]`` is y, downwards. Colours are in [0, 1].

Example:
    >>> import numpy as np
    >>> picture = np.zeros((8, 16, 3))
    >>> picture[:, 8:] = 1.0  # left half black, right half white
    >>> data = superpixels(picture, num_segments=2)
    >>> data.x[:, 0].tolist(), data.pos.tolist()
    ([0.0, 1.0], [[3.5, 3.5], [11.5, 3.5]])
    >>> data.edge_index.tolist()
    [[0, 1], [1, 0]]
    >>> to_pixels(data, data.x).shape
    torch.Size([8, 16, 3])
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.message_passing import MessagePassing

__all__ = ["Pool", "from_pixels", "overlap", "segments", "superpixels", "to_pixels"]


def superpixels(image: Any, num_segments: int = 200, compactness: float = 10.0) -> Data:
    """Cuts a picture into superpixels by SLIC; a node for each, edges both ways between those that share a border.

    Source: Achanta et al. 2012, "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", IEEE TPAMI 34(11),
    as ``skimage.segmentation.slic`` computes it, with its connected segments.
    Deviations: none of ours. Two superpixels are neighbours if a pixel of one lies directly left, right, above or below
    of a pixel of the other; touching corners do not count.

    Args:
        image: ``(H, W, 3)`` red, green, blue; uint8 in 0..255 or floating point in [0, 1]; array or tensor.
        num_segments: about how many superpixels to make; SLIC decides the exact number.
        compactness: the weight of closeness in space against closeness in colour; larger is squarer.

    Returns:
        Data with x ``(N, 3)`` float32 mean colour, pos ``(N, 2)`` float32 centroid (x, y), area ``(N,)`` int64 in
        pixels, edge_index ``(2, E)``, segment_index ``(H * W,)`` int64 the node of each pixel row by row, and
        image_size ``(1, 2)`` (H, W). ``segment_index`` is shifted when graphs are batched, so
        ``values[batch.segment_index]`` are the pixels of all pictures, one picture after the other.

    Raises:
        ValueError: the picture is not ``(H, W, 3)``, is empty, or has values that are not finite or not in [0, 1];
            ``num_segments`` is less than 1.
    """
    from skimage.segmentation import slic

    if num_segments < 1:
        raise ValueError(f"superpixels: num_segments={num_segments}; expected at least 1.")
    colour = _colours("superpixels", image)
    labels = slic(colour, n_segments=num_segments, compactness=compactness, start_label=0, channel_axis=-1)
    return _from_segments(colour, torch.from_numpy(labels))


def segments(image: Any, labels: Any, graph: Any = None) -> Data:
    """A graph from any segmentation of a picture: a node for each label, in increasing order.

    Args:
        image: as for :func:`superpixels`.
        labels: ``(H, W)`` integers, array or tensor; the pixels of a node have the same.
        graph: a networkx graph whose nodes are the labels; its edges (both ways, unless it is directed) stand in place
            of those between segments that share a border.

    Returns:
        What :func:`superpixels` gives.

    Raises:
        ValueError: the picture is not as it must be for :func:`superpixels`, labels are of another size, or the graph's
            nodes are not the labels.

    Example:
        >>> import networkx as nx
        >>> halves = segments(np.zeros((2, 4, 3)), [[5, 5, 9, 9]] * 2, nx.Graph([(5, 9)]))
        >>> halves.edge_index.tolist(), halves.area.tolist()
        ([[0, 1], [1, 0]], [4, 4])
    """
    colour, labels = _colours("segments", image), torch.as_tensor(labels)
    if labels.shape != colour.shape[:2]:
        raise ValueError(
            f"segments: labels have shape {tuple(labels.shape)}; expected {colour.shape[:2]}, as the picture."
        )
    return _from_segments(colour, labels, graph)


def _from_segments(colour: np.ndarray, labels: Tensor, graph: Any = None) -> Data:
    label, segment = torch.unique(labels, return_inverse=True)
    data = Data(
        edge_index=_borders(segment) if graph is None else _edges(graph, label.tolist()),
        segment_index=segment.flatten(),
        image_size=torch.tensor([labels.shape]),
        num_nodes=len(label),
    )
    rows, columns = torch.meshgrid(*(torch.arange(length) for length in labels.shape), indexing="ij")
    data.x = from_pixels(data, torch.from_numpy(colour)).float()
    data.pos = from_pixels(data, torch.stack([columns, rows], dim=-1).double()).float()
    data.area = torch.bincount(data.segment_index, minlength=data.num_nodes)
    return data


def _edges(graph: Any, labels: list[int]) -> Tensor:
    """The edges of a networkx graph whose nodes are the labels, by the labels' places."""
    place = {label: k for k, label in enumerate(labels)}
    if set(graph.nodes) != set(place):
        odd = sorted(set(graph.nodes) ^ set(place), key=repr)
        which = "no segment" if odd[0] in graph else "a segment, but no node of the graph"
        raise ValueError(
            f"segments: {odd[0]!r} is {which}; expected the nodes of the graph to be the {len(place)} labels. "
            f"{len(odd)} are in one and not in the other."
        )
    pairs = torch.tensor([(place[u], place[v]) for u, v, *_ in graph.edges], dtype=torch.long).view(-1, 2).t()
    return (pairs if graph.is_directed() else torch.cat([pairs, pairs.flip(0)], dim=1)).unique(dim=1)


def _colours(owner: str, image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"{owner}: the picture has shape {image.shape}; expected (H, W, 3) with at least one pixel. Repeat a "
            "grey picture three times along a new last axis; drop a fourth (alpha) channel."
        )
    if image.dtype == np.uint8:
        return image / 255.0
    inside = (image >= 0) & (image <= 1)
    if not inside.all():
        row, column, channel = np.argwhere(~inside)[0].tolist()
        raise ValueError(
            f"{owner}: the picture ({image.dtype}) has the value {image[row, column, channel]} in row {row}, "
            f"column {column}, channel {channel}; expected uint8 in 0..255 or values in [0, 1]. {int((~inside).sum())} "
            f"of {image.size} values are outside. Divide by the largest value there can be."
        )
    return image.astype(np.float64)


def _borders(segment: Tensor) -> Tensor:
    """Pairs of segments with pixels side by side or one above the other; each pair once in either direction."""
    beside = torch.stack([segment[:, :-1].flatten(), segment[:, 1:].flatten()])
    above = torch.stack([segment[:-1].flatten(), segment[1:].flatten()])
    pairs = torch.cat([beside, above], dim=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    return torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)


def from_pixels(data: Data, pixels: Tensor) -> Tensor:
    """The mean over the pixels of each node.

    Shape:
        pixels ``(H, W, ...)`` floating point -> ``(N, ...)``.

    Raises:
        ValueError: ``pixels`` do not have the size of the picture.
    """
    height, width = _size("from_pixels", data)
    if pixels.shape[:2] != (height, width):
        raise ValueError(
            f"from_pixels: pixels have shape {tuple(pixels.shape)}; expected ({height}, {width}, ...), as the picture."
        )
    total = pixels.new_zeros(data.num_nodes, *pixels.shape[2:]).index_add(0, data.segment_index, pixels.flatten(0, 1))
    count = torch.bincount(data.segment_index, minlength=data.num_nodes)
    return total / count.view(-1, *[1] * (pixels.dim() - 2))


def to_pixels(data: Data, values: Tensor) -> Tensor:
    """Spreads the values of the nodes over their pixels.

    Shape:
        values ``(N, ...)`` -> ``(H, W, ...)``.

    Raises:
        ValueError: there is not one value for each node, or ``data`` is a batch of several pictures.
    """
    height, width = _size("to_pixels", data)
    if values.shape[:1] != (data.num_nodes,):
        raise ValueError(
            f"to_pixels: values have shape {tuple(values.shape)}; expected one for each of the {data.num_nodes} nodes."
        )
    return values[data.segment_index].unflatten(0, (height, width))


def _size(owner: str, data: Data) -> tuple[int, int]:
    size = data.image_size.tolist()
    if len(size) != 1:
        raise ValueError(
            f"{owner}: the data holds {len(size)} pictures; expected one. Take one with batch.get_example(k), or use "
            "values[batch.segment_index] for the pixels of all, one picture after the other."
        )
    return tuple(size[0])


def overlap(data: Data, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """How a grid of cells, laid over a picture, and its nodes overlap; a pixel is of the cell that its centre is in.

    What a network gives for the cells is pooled over the nodes by :class:`Pool`, without an enlarged copy of it.

    Returns:
        cell ``(E,)`` int64, row by row; node ``(E,)`` int64; share ``(E,)`` float32: the part of the node's pixels that
        lies in the cell. Each pair once, those of a node in a row.

    Raises:
        ValueError: ``data`` is a batch of several pictures.
    """
    height, width = _size("overlap", data)
    row = (2 * torch.arange(height) + 1) * rows // (2 * height)
    column = (2 * torch.arange(width) + 1) * columns // (2 * width)
    cell = (row[:, None] * columns + column).flatten()
    pairs, count = torch.unique(data.segment_index * (rows * columns) + cell, return_counts=True)
    node, cell = pairs // (rows * columns), pairs % (rows * columns)
    area = torch.bincount(data.segment_index, minlength=data.num_nodes)
    return cell, node, count / area[node]


class Pool(MessagePassing):
    r"""The mean over the pixels of each node of what is known of the cells they are in.

    .. math:: x_i = \sum_k s_{ki} x_k

    with :math:`s_{ki}` the part of the pixels of node i that lies in cell k. Gradients go back to the cells.

    Source: Liang et al. 2016, arXiv:1603.07063, section 3.1 (the features of a superpixel are the mean of its pixels').
    Deviations: none.

    Shape:
        x ``(M, F)`` of all cells; cell, node, share ``(E,)`` from :func:`overlap`; num_nodes N -> ``(N, F)``.

    Example:
        >>> segment = torch.tensor([0, 0, 0, 1])  # a row of four pixels, cut after the third
        >>> data = Data(segment_index=segment, image_size=torch.tensor([[1, 4]]), num_nodes=2)
        >>> Pool()(torch.tensor([[3.0], [6.0]]), *overlap(data, rows=1, columns=2), num_nodes=2)
        tensor([[4.],
                [6.]])
    """

    value = "x"

    def weight(self, share):
        return share

    def forward(self, x: Tensor, cell: Tensor, node: Tensor, share: Tensor, num_nodes: int) -> Tensor:
        return self.propagate(torch.stack([cell, node]), num_nodes=(len(x), num_nodes), x=(x, None), share=share)

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

__all__ = ["from_pixels", "superpixels", "to_pixels"]


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
    colour = _colours(image)
    labels = slic(colour, n_segments=num_segments, compactness=compactness, start_label=0, channel_axis=-1)
    segment = torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    data = Data(
        edge_index=_borders(segment),
        segment_index=segment.flatten(),
        image_size=torch.tensor([labels.shape]),
        num_nodes=int(segment.max()) + 1,
    )
    rows, columns = torch.meshgrid(*(torch.arange(length) for length in labels.shape), indexing="ij")
    data.x = from_pixels(data, torch.from_numpy(colour)).float()
    data.pos = from_pixels(data, torch.stack([columns, rows], dim=-1).double()).float()
    data.area = torch.bincount(data.segment_index, minlength=data.num_nodes)
    return data


def _colours(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"superpixels: the picture has shape {image.shape}; expected (H, W, 3) with at least one pixel. Repeat a "
            "grey picture three times along a new last axis; drop a fourth (alpha) channel."
        )
    if image.dtype == np.uint8:
        return image / 255.0
    inside = (image >= 0) & (image <= 1)
    if not inside.all():
        row, column, channel = np.argwhere(~inside)[0].tolist()
        raise ValueError(
            f"superpixels: the picture ({image.dtype}) has the value {image[row, column, channel]} in row {row}, "
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

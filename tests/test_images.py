"""mpnn.images: superpixels against a pixel-by-pixel reading of the same segments."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

pytest.importorskip("skimage")

from mpnn.images import Pool, from_pixels, overlap, segments, superpixels, to_pixels  # noqa: E402


@pytest.fixture(scope="module")
def picture():
    """Smooth random colours, taller than wide, so that swapped axes show."""
    rough = torch.rand(1, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(rough, size=(64, 40), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def data(picture):
    return superpixels(picture, num_segments=40)


def test_neighbours_are_the_segments_with_pixels_side_by_side(data):
    segment = data.segment_index.reshape(64, 40).tolist()
    expected = set()
    for row in range(64):
        for column in range(40):
            here = segment[row][column]
            right = segment[row][column + 1] if column < 39 else here
            below = segment[row + 1][column] if row < 63 else here
            expected |= {(here, there) for there in (right, below)} | {(there, here) for there in (right, below)}
    expected = {(i, j) for i, j in expected if i != j}
    found = list(map(tuple, data.edge_index.t().tolist()))
    assert len(found) == len(set(found)) and set(found) == expected


def test_segments_that_touch_only_at_a_corner_are_no_neighbours():
    picture = np.zeros((10, 10, 3))
    picture[:5, 5:], picture[5:, :5], picture[5:, 5:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    data = superpixels(picture, num_segments=4, compactness=0.1)
    top_left, bottom_right = data.segment_index[0].item(), data.segment_index[-1].item()
    assert data.num_nodes == 4 and data.num_edges == 8
    assert [top_left, bottom_right] not in data.edge_index.t().tolist()


def test_nodes_have_the_mean_colour_centroid_and_area_of_their_pixels(data, picture):
    segment = data.segment_index.reshape(64, 40)
    assert 20 <= data.num_nodes <= 60 and data.area.sum() == 64 * 40
    for node in range(data.num_nodes):
        row, column = (segment == node).nonzero(as_tuple=True)
        assert data.area[node] == row.numel()
        expected = torch.tensor([column.double().mean(), row.double().mean()])
        torch.testing.assert_close(data.pos[node].double(), expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(data.x[node], torch.from_numpy(picture)[row, column].mean(0), rtol=1e-5, atol=1e-6)


def test_bytes_and_fractions_of_one_picture_give_the_same_graph(picture):
    bytes_ = (picture * 255).round().astype(np.uint8)
    one, two = superpixels(bytes_, num_segments=40), superpixels(torch.from_numpy(bytes_ / 255.0), num_segments=40)
    assert torch.equal(one.segment_index, two.segment_index)
    torch.testing.assert_close(one.x, two.x)


def test_spreading_over_pixels_and_taking_means_are_inverse(data):
    values = torch.randn(data.num_nodes, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = to_pixels(data, values)
    assert pixels.shape == (64, 40, 2)
    assert torch.equal(pixels[63, 0], values[data.segment_index[63 * 40]])
    torch.testing.assert_close(from_pixels(data, pixels), values)
    assert to_pixels(data, values[:, 0]).shape == (64, 40)


def test_gradients_reach_the_nodes_through_their_pixels(data):
    values = torch.zeros(data.num_nodes, requires_grad=True)
    to_pixels(data, values).sum().backward()
    assert torch.equal(values.grad, data.area.float())


def test_pixels_of_a_batch_find_their_nodes_in_pictures_of_different_sizes(data, picture):
    other = superpixels(picture[:30], num_segments=12)
    batch = Batch.from_data_list([data, other])
    pixels = batch.x[batch.segment_index]
    assert torch.equal(pixels[: 64 * 40], to_pixels(data, data.x).flatten(0, 1))
    assert torch.equal(pixels[64 * 40 :], to_pixels(other, other.x).flatten(0, 1))
    again = batch.get_example(1)
    assert torch.equal(to_pixels(again, again.x), to_pixels(other, other.x))


def test_a_batch_of_pictures_is_not_one_picture(data):
    with pytest.raises(ValueError, match="to_pixels: the data holds 2 pictures"):
        to_pixels(Batch.from_data_list([data, data]), data.x)


def test_one_colour_is_one_picture_still():
    data = superpixels(np.zeros((3, 3, 3)), num_segments=1)
    assert (data.num_nodes, data.num_edges, data.pos.tolist()) == (1, 0, [[1.0, 1.0]])


@pytest.mark.parametrize(
    "image, offender",
    [
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4)), r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
    ],
)
def test_other_shapes_are_refused(image, offender):
    with pytest.raises(ValueError, match=offender):
        superpixels(image)


@pytest.mark.parametrize("value", [1.5, -0.5, np.nan])
def test_colours_out_of_range_are_refused_with_their_place(value):
    image = np.zeros((4, 5, 3))
    image[2, 3, 1] = value
    with pytest.raises(ValueError, match=rf"value {value} in row 2, column 3, channel 1.*1 of 60"):
        superpixels(image)


def test_no_segments_are_refused():
    with pytest.raises(ValueError, match="num_segments=0"):
        superpixels(np.zeros((4, 4, 3)), num_segments=0)


def test_values_and_pixels_of_the_wrong_size_are_refused(data):
    with pytest.raises(ValueError, match=rf"\(3,\).*each of the {data.num_nodes} nodes"):
        to_pixels(data, torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(40, 64\); expected \(64, 40, ...\)"):
        from_pixels(data, torch.zeros(40, 64))


def test_any_segmentation_becomes_a_graph_with_the_edges_of_networkx(picture, data):
    labels = 7 * data.segment_index.reshape(64, 40) + 3
    again = segments(picture, labels)
    assert all(torch.equal(again[name], data[name]) for name in ("x", "pos", "area", "edge_index", "segment_index"))
    net = nx.Graph([(3, 10), (10, 24)])
    net.add_nodes_from(labels.unique().tolist())
    assert segments(picture, labels, net).edge_index.tolist() == [[0, 1, 1, 3], [1, 0, 3, 1]]
    assert segments(picture, labels, net.to_directed()).num_edges == 4
    one_way = nx.DiGraph([(10, 3)])
    one_way.add_nodes_from(net)
    assert segments(picture, labels.numpy(), one_way).edge_index.tolist() == [[1], [0]]


def test_a_graph_with_other_nodes_than_the_segments_is_refused():
    picture, labels = np.zeros((1, 3, 3)), [[2, 4, 6]]
    with pytest.raises(ValueError, match="'sky' is no segment.* the 3 labels. 1 are in one"):
        segments(picture, labels, nx.Graph([(2, 4), (6, "sky")]))
    with pytest.raises(ValueError, match="6 is a segment, but no node of the graph"):
        segments(picture, labels, nx.Graph([(2, 4)]))
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(1, 3\)"):
        segments(picture, labels[0])


@pytest.mark.parametrize("rows, columns", [(32, 20), (64, 40), (7, 11), (1, 1), (128, 40)])
def test_pooling_cells_is_the_mean_over_pixels_of_the_cells_they_are_in(data, rows, columns):
    values = torch.randn(rows * columns, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = torch.empty(64, 40, 3, dtype=torch.float64)
    for row in range(64):
        for column in range(40):
            at = int((row + 0.5) / 64 * rows) * columns + int((column + 0.5) / 40 * columns)
            spread[row, column] = values[at]
    cell, node, share = overlap(data, rows, columns)
    pooled = Pool()(values, cell, node, share.double(), data.num_nodes)
    torch.testing.assert_close(pooled, from_pixels(data, spread), rtol=1e-6, atol=1e-6)  # shares are float32
    assert len(set(zip(cell.tolist(), node.tolist()))) == len(cell) and (node.diff() >= 0).all()


def test_gradients_reach_the_cells_that_a_node_lies_in(data):
    values = torch.zeros(32 * 20, 2, requires_grad=True)
    cell, node, share = overlap(data, 32, 20)
    Pool()(values, cell, node, share, data.num_nodes)[5].sum().backward()
    inside = torch.zeros(32 * 20).index_add(0, cell[node == 5], share[node == 5])
    torch.testing.assert_close(values.grad, inside[:, None].expand(-1, 2))
    assert inside.sum() == pytest.approx(1)

"""mpnn.images: superpixels against a pixel-by-pixel reading of the same segments."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

pytest.importorskip("skimage")

from mpnn.images import from_pixels, superpixels, to_pixels  # noqa: E402


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

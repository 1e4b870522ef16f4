import gzip
import json

import numpy as np
import pytest
import torch

import mpnn
from mpnn import datasets
from mpnn.datasets.temporal import counties, regions, roads
from mpnn.spacetime import relations


def test_roads_lead_from_rows_to_columns_and_keep_their_loops():
    adj = np.array([[1, 0, 0.25], [0.5, 1, 0], [0, 0, 1]])
    arrays = {"speed": np.arange(12).reshape(4, 3), "adj": adj, "latlon": np.zeros((3, 2))}
    data = roads(arrays | {"sensor_id": np.array(["a", "b", "c"])})
    weights = dict(zip(map(tuple, data.edge_index.t().tolist()), data.edge_weight.tolist(), strict=True))
    assert weights == {(0, 0): 1, (0, 2): 0.25, (1, 0): 0.5, (1, 1): 1, (2, 2): 1}
    assert data.x.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]] and data.name == ["a", "b", "c"]


def test_a_week_that_lacks_a_county_is_refused():
    raw = {"edges": [], "node_ids": {"A": 0, "B": 1}, "FX": [[1.0, 2.0], [3.0]]}
    with pytest.raises(ValueError, match="week 1 has 1 values; expected 2, one a county"):
        counties(raw)


def test_regions_have_the_edges_of_their_day_with_the_weights_of_that_day():
    mapping = {"edge_index": {"1": [[0, 0]], "0": [[0, 1], [1, 2]], "2": []}}
    mapping["edge_weight"] = {"0": [5.0, 6.0], "1": [7.0], "2": []}
    data = regions({"edge_mapping": mapping, "time_periods": 3, "y": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]})
    assert data.space_index.tolist() == [[0, 1, 3], [1, 2, 3]] and data.edge_weight.tolist() == [5, 6, 7]
    assert data.time_index.tolist() == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    assert data.time.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_week_of_speeds_has_no_gaps_and_its_roads_one_direction(mpnn_data):
    data = datasets.load("metr-la-week")
    src, dst = data.edge_index
    loops = src == dst
    assert data.x.shape == (207, 2016) and data.x.min() == 1 and data.x.max() == 70 and data.x.isfinite().all()
    assert loops.sum() == 207 and (data.edge_weight[loops] == 1).all() and data.edge_weight.min() > 0
    there = set(map(tuple, data.edge_index.t().tolist()))
    assert not all((i, j) in there for j, i in there)


def test_the_weeks_of_chickenpox_are_standardised_changes_of_the_counts(mpnn_data):
    data = datasets.load("chickenpox")
    counts = {"BUDAPEST": [168, 157, 96, 163, 122], "BACS": [30, 30, 31, 43, 53]}  # of January 2005, as published
    for name, values in counts.items():
        change, ours = torch.tensor(values).double().diff(), data.x[data.name.index(name), :4].double()
        scale = (change[1:] - change[0]) / (ours[1:] - ours[0])
        torch.testing.assert_close(scale, scale[:1].expand(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(data.x.std(1, correction=0), torch.ones(20), rtol=1e-4, atol=0)


def test_the_regions_run_through_a_layer_whose_edges_change_each_day(mpnn_data):
    data = datasets.load("england-covid")
    layer = mpnn.nn.GraphRecurrent(mpnn.nn.GCN, "gru", 1, 4)
    h = layer(data.x.log1p(), relations(data), mpnn.schedule.by(data.time), edge_weight=data.edge_weight)
    assert h.shape == (129 * 61, 4) and h.isfinite().all() and len({tuple(row) for row in h[-129:].tolist()}) > 100


def test_files_are_unpacked(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"edges": [[0, 0]], "node_ids": {"A": 0}, "FX": [[2.0]]}).encode()))
    assert datasets.temporal.read_chickenpox({"x.json.gz": path}).x.tolist() == [[2.0]]

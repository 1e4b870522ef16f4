"""What will run, and why, in words."""

import pytest
import torch
from torch import nn

import mpnn

CHAIN = torch.stack([torch.arange(29), torch.arange(1, 30)])


class Cell(mpnn.MessagePassing):
    state = ("h",)
    schedule = "topological"
    hidden_features = 2

    def message(self, h_j):
        return h_j


def test_levels_widths_and_parallelism_are_printed():
    text = str(mpnn.explain(torch.tensor([[0, 1, 2, 3, 4], [4, 4, 4, 4, 5]]), num_nodes=6, schedule="topological"))
    assert "6 nodes, 5 edges, schedule topological: 3 levels" in text
    assert "nodes a level: 4 1 1 (fewest 1, median 1, most 4; 2 fire at once" in text


def test_many_levels_are_abbreviated():
    text = str(mpnn.explain(CHAIN, num_nodes=30, schedule="topological"))
    assert "30 levels" in text and "... 18 more ..." in text and text.count(" 1") < 20


def test_each_layer_is_told_its_way_and_the_reason():
    model = nn.ModuleDict({"gcn": mpnn.nn.GCN(2, 2), "max": mpnn.nn.GraphSAGE(2, 2, aggr="max"), "cell": Cell()})
    found = mpnn.explain(CHAIN, model, num_nodes=30)
    assert {name: way for name, (_, way, _) in found.layers.items()} == {
        "gcn": "spmm",
        "max": "wavefront",
        "cell": "wavefront",
    }
    text = str(found)
    assert "max: GraphSAGE(2, 2, aggr='max') runs as wavefront" in text and "'max', not 'sum' or 'mean'" in text
    assert "cell: Cell runs as" in text and "30 levels, frontier by frontier" in text
    with mpnn.engine("reference"):
        assert mpnn.explain(CHAIN, model, num_nodes=30).layers["gcn"][1:] == ("reference", "forced by mpnn.engine")


def test_edge_types_are_counted():
    plans = mpnn.explain({"a": CHAIN, "b": CHAIN[:, :0]}, num_nodes=30)
    assert "29 edges (29 a, 0 b)" in str(plans)


def test_a_model_without_a_layer_is_refused():
    with pytest.raises(ValueError, match="Linear has no mpnn.MessagePassing layer"):
        mpnn.explain(CHAIN, nn.Linear(2, 2), num_nodes=30)


def test_a_schedule_that_is_given_goes_before_the_layers_own():
    assert mpnn.explain(CHAIN, Cell(), num_nodes=30).plans[""].num_levels == 30
    there = mpnn.explain(CHAIN, Cell(), schedule="synchronous", num_nodes=30)
    assert there.plans[""].num_levels == 1 and "one level, all edges at once" in str(there)


def test_layers_inside_layers_are_named_as_in_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([Cell()]))
    assert list(mpnn.explain(CHAIN, model, num_nodes=30).layers) == ["1.0"]
    assert "  1.0: Cell runs as" in str(mpnn.explain(CHAIN, model, num_nodes=30))


def test_errors_of_the_graph_name_the_layer():
    with pytest.raises(mpnn.schedule.CycleError, match="cycle 0 -> 0"):
        mpnn.explain(torch.tensor([[0], [0]]), Cell(), num_nodes=1)
    with pytest.raises(ValueError, match=r"explain, cell: edge 0 \(7 -> 0\) leaves the graph"):
        mpnn.explain(torch.tensor([[7], [0]]), nn.ModuleDict({"cell": Cell()}), num_nodes=1)


def test_a_layer_with_modules_in_it_is_named_by_its_class():
    cell = Cell()
    cell.inner = nn.Linear(2, 2)
    assert "  model: Cell runs as" in str(mpnn.explain(CHAIN, cell, num_nodes=30))

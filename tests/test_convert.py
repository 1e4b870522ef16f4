"""networkx in and out: ids, direction, keys, dtypes and order survive; what does not fit is named by its id."""

import copy
import io
import math
import time

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader

from mpnn.convert import from_networkx, node_ids, node_positions, to_networkx

KINDS = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]
ODD_IDS = ["b", ("a", 1), 7, -2.5, frozenset({1}), "a"]


def odd_graph(kind):
    """Ids of every sort in no order; an isolated node, a self-loop, both directions, parallel edges where allowed."""
    graph = kind()
    for number, node in enumerate(ODD_IDS):
        graph.add_node(node, size=number / 4, rank=number, on=number % 2 == 0)
    for u, v, w in [("b", 7, 1), (7, ("a", 1), 2), (7, "b", 3), (-2.5, -2.5, 4), ("a", 7, 5)]:
        graph.add_edge(u, v, w=w)
    if graph.is_multigraph():
        graph.add_edge("b", 7, key="named", w=6)
        graph.add_edge(-2.5, -2.5, key=("k", 2), w=7)
    return graph


def same(one, other):
    """Equal in class, node order, edge order, keys, attributes and the types of their values."""
    assert type(one) is type(other)
    assert list(one.nodes(data=True)) == list(other.nodes(data=True))
    keys = {"keys": True} if one.is_multigraph() else {}
    assert list(one.edges(data=True, **keys)) == list(other.edges(data=True, **keys))
    for (_, a), (_, b) in zip(one.nodes(data=True), other.nodes(data=True), strict=True):
        assert [type(value) for value in a.values()] == [type(value) for value in b.values()]
    return True


# ------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_gives_the_graph_back(kind):
    graph = odd_graph(kind)
    data = from_networkx(graph, x=["size", "rank", "on"], edge_weight="w")
    assert same(to_networkx(data), graph)


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_of_the_tensors_gives_the_tensors_back(kind):
    data = from_networkx(odd_graph(kind), x=["size", "rank"], y="rank", edge_weight="w")
    again = from_networkx(to_networkx(data), x=["size", "rank"], y="rank", edge_weight="w")
    for name in data.keys():  # noqa: SIM118
        if name != "networkx":
            value = data[name]
            assert torch.equal(again[name], value) if isinstance(value, torch.Tensor) else again[name] == value
            assert not isinstance(value, torch.Tensor) or again[name].dtype == value.dtype


@pytest.mark.parametrize("value", [0.5, True, 3, [0.5, 1.5], (1, 2), torch.tensor([1.0], dtype=torch.float64)])
def test_values_come_back_in_the_form_they_had(value):
    graph = nx.Graph([(0, 1, {"w": value})])
    back = to_networkx(from_networkx(graph, edge_attr="w")).edges[0, 1]["w"]
    assert type(back) is type(value)
    assert torch.equal(back, value) and back.dtype == value.dtype if torch.is_tensor(value) else back == value


def test_arrays_come_back_as_arrays():
    graph = nx.Graph([(0, 1, {"w": np.array([1, 2])})])
    back = to_networkx(from_networkx(graph, edge_attr="w")).edges[0, 1]["w"]
    assert isinstance(back, np.ndarray) and back.tolist() == [1, 2]


def test_a_column_keeps_its_dtype_only_while_its_values_fit():
    graph = nx.DiGraph()
    graph.add_node("a", size=0.5, rank=3)
    data = from_networkx(graph, x=["size", "rank"])
    assert to_networkx(data).nodes["a"] == {"size": 0.5, "rank": 3}
    data.x = data.x + 0.25
    assert to_networkx(data).nodes["a"] == {"size": 0.75, "rank": 3.25}


def test_fields_that_were_added_or_reshaped_come_back_under_their_own_names():
    data = from_networkx(nx.DiGraph([("a", "b")]), x=lambda node: [1.0, 2.0])
    data.level = torch.tensor([0, 1])
    data.x = torch.ones(2, 3)
    data.edge_gate = torch.tensor([0.5])
    data.title = "a graph"
    graph = to_networkx(data)
    assert graph.nodes["b"]["level"] == 1 and graph.nodes["b"]["x"].tolist() == [1, 1, 1]
    assert graph.edges["a", "b"] == {"edge_gate": 0.5} and graph.graph == {"title": "a graph"}


@st.composite
def graphs(draw):
    graph = draw(st.sampled_from(KINDS))()
    ids = draw(st.lists(st.one_of(st.text(max_size=2), st.tuples(st.integers(0, 3))), unique=True, max_size=6))
    graph.add_nodes_from(ids)
    if ids:
        for u, v in draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=12)):
            graph.add_edge(u, v, w=draw(st.integers(-5, 5)))
    return graph


@given(graphs())
@settings(deadline=None, max_examples=60)
def test_any_graph_survives(graph):
    data = from_networkx(graph, edge_attr="w")
    assert same(to_networkx(data), graph)
    loops = nx.number_of_selfloops(graph)
    edges = graph.number_of_edges()
    assert data.num_edges == (edges if graph.is_directed() else 2 * edges - loops)
    assert data.num_nodes == len(graph) and data.validate()


# ------------------------------------------------------------------------------------------------- the edges themselves


def test_edges_run_from_source_to_target():
    data = from_networkx(nx.DiGraph([("child", "parent")]))
    assert [node_ids(data)[n] for n in data.edge_index[:, 0].tolist()] == ["child", "parent"]


def test_an_undirected_edge_becomes_two_and_a_self_loop_one():
    graph = nx.Graph([("a", "b", {"w": 1}), ("b", "b", {"w": 2}), ("b", "c", {"w": 3})])
    data = from_networkx(graph, edge_weight="w")
    assert data.edge_index.tolist() == [[0, 1, 1, 1, 2], [1, 1, 2, 0, 1]]
    assert data.edge_weight.tolist() == [1, 2, 3, 1, 3]
    assert data.edge_number.tolist() == [0, 1, 2, 0, 2]
    assert data.is_undirected()


def test_a_function_of_an_undirected_edge_is_asked_for_both_directions():
    pos = {"a": 0.0, "b": 2.0}
    data = from_networkx(nx.Graph([("a", "b")]), edge_attr=lambda u, v: pos[v] - pos[u])
    assert data.edge_attr.tolist() == [2, -2]
    with pytest.raises(ValueError, match=r"'edge_attr' is 2.0 for the edge 'a' -> 'b', but -2.0.*directed=True"):
        to_networkx(data)
    both = to_networkx(data, directed=True)
    assert both.edges["a", "b"] == {"edge_attr": 2} and both.edges["b", "a"] == {"edge_attr": -2}


def test_nan_on_both_directions_counts_as_equal():
    data = from_networkx(nx.Graph([(0, 1, {"w": math.nan})]), edge_weight="w", edge_attr=lambda u, v: [math.nan, 1])
    assert math.isnan(to_networkx(data).edges[0, 1]["w"])


def test_parallel_edges_and_their_keys_are_functions_arguments():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", key="x")
    graph.add_edge("a", "b", key="yy")
    data = from_networkx(graph, edge_attr=lambda u, v, key: len(key))
    assert data.edge_index.tolist() == [[0, 0], [1, 1]] and data.edge_attr.tolist() == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_graph_and_a_lone_node(kind):
    empty = from_networkx(kind(), x="size", y=["a", "b"], edge_attr="w")
    assert (empty.num_nodes, empty.num_edges) == (0, 0)
    assert empty.edge_index.shape == (2, 0) and empty.x.shape == (0,) and empty.y.shape == (0, 2)
    assert same(to_networkx(empty), kind())
    lone = kind()
    lone.add_node("alone")
    data = from_networkx(lone)
    assert data.num_nodes == 1 and data.edge_index.shape == (2, 0) and same(to_networkx(data), lone)


def test_with_nothing_asked_for_the_structure_alone_converts():
    graph = nx.DiGraph([("a", "b", {"w": "not a number"})])
    graph.nodes["a"]["x"] = None
    assert set(from_networkx(graph).keys()) == {"edge_index", "num_nodes", "node_number", "networkx"}


def test_a_subclass_whose_constructor_needs_arguments_converts():
    class Molecule(nx.Graph):
        def __init__(self, name, **kw):
            super().__init__(**kw)
            self.name = name

    graph = Molecule("water")
    graph.add_edge("O", "H")
    assert from_networkx(graph).num_edges == 2


def test_what_is_no_networkx_graph_is_refused():
    with pytest.raises(TypeError, match="graph is a list"):
        from_networkx([(0, 1)])


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (0.1, torch.float32),
        (np.float64(0.1), torch.float32),
        (np.float16(0.1), torch.float32),
        (np.array([0.1, 0.2]), torch.float32),
        ([0.1, 0.2], torch.float32),
        (1 + 2j, torch.complex64),
        (3, torch.int64),
        (np.int32(3), torch.int64),
        (np.uint8(3), torch.int64),
        (True, torch.bool),
        (np.bool_(True), torch.bool),
        (torch.tensor(0.1, dtype=torch.float64), torch.float64),
        (torch.tensor([1], dtype=torch.int8), torch.int8),
    ],
)
def test_numbers_get_default_dtypes_and_tensors_keep_theirs(value, dtype):
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, value, "a")
    assert from_networkx(graph, x="a").x.dtype == dtype
    assert from_networkx(graph, x=lambda node: value).x.dtype == dtype
    assert from_networkx(graph, x=["a"]).x.dim() == 2


def test_the_default_dtype_is_torchs_own():
    graph = nx.path_graph(2)
    nx.set_node_attributes(graph, 0.1, "a")
    torch.set_default_dtype(torch.float64)
    try:
        x = from_networkx(graph, x="a").x
    finally:
        torch.set_default_dtype(torch.float32)
    assert x.dtype == torch.float64 and x.tolist() == [0.1, 0.1]


def test_dtype_is_for_all_fields_or_for_some_and_loses_no_digits():
    graph = nx.path_graph(2)
    nx.set_node_attributes(graph, 0.1, "a")
    assert from_networkx(graph, x="a", dtype=torch.float64).x.tolist() == [0.1, 0.1]
    data = from_networkx(graph, x="a", y=lambda node: node, dtype={"x": torch.float16})
    assert (data.x.dtype, data.y.dtype) == (torch.float16, torch.int64)


def test_kinds_of_one_attribute_are_widened_to_one():
    graph = nx.empty_graph(3)
    mixed = [True, 2, 0.5]
    assert from_networkx(graph, x=lambda n: mixed[n]).x.tolist() == [1, 2, 0.5]
    mixed = [torch.tensor(1.0, dtype=torch.float64), 2, np.float32(0.5)]
    assert from_networkx(graph, x=lambda n: mixed[n]).x.dtype == torch.float64


def test_tensors_keep_their_gradient():
    table = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(2, requires_grad=True)}
    data = from_networkx(nx.DiGraph([("a", "b")]), x=table.__getitem__)
    (data.x * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert table["b"].grad.tolist() == [2, 2]


def test_the_data_shares_no_memory_with_the_graph():
    array, tensor = np.ones(2), torch.ones(2)
    graph = nx.empty_graph(1)
    graph.nodes[0].update(array=array, tensor=tensor)
    data = from_networkx(graph, x="array", y="tensor")
    data.x += 1
    data.y += 1
    back = to_networkx(data)
    back.nodes[0]["tensor"] += 5
    assert array.tolist() == tensor.tolist() == [1, 1] and data.y.tolist() == [[2, 2]]


def test_a_list_of_names_becomes_columns():
    graph = nx.empty_graph(2)
    for node in graph:
        graph.nodes[node].update(a=node, pos=(0.5, node))
    assert from_networkx(graph, x=["pos", "a"]).x.tolist() == [[0.5, 0, 0], [0.5, 1, 1]]
    assert from_networkx(graph, x=["a"]).x.shape == (2, 1)
    assert from_networkx(graph, x="a").x.shape == (2,)


def test_attribute_names_may_be_any_hashable():
    graph = nx.Graph([(0, 1, {3: 0.5, ("t", 1): 2})])
    data = from_networkx(graph, edge_attr=3, edge_weight=("t", 1))
    assert data.edge_attr.tolist() == [0.5, 0.5] and to_networkx(data).edges[0, 1] == {3: 0.5, ("t", 1): 2}


def test_nodes_and_edges_may_share_an_attribute_name():
    graph = nx.DiGraph([("a", "b", {"w": 1})])
    nx.set_node_attributes(graph, {"a": 5, "b": 6}, "w")
    data = from_networkx(graph, x="w", edge_attr="w")
    assert data.x.tolist() == [5, 6] and data.edge_attr.tolist() == [1]
    assert same(to_networkx(data), graph)


def test_attributes_called_like_torch_geometrics_fields_convert_under_another_name():
    graph = nx.DiGraph([("a", "b", {"edge_index": 3})])
    nx.set_node_attributes(graph, 9, "num_nodes")
    data = from_networkx(graph, x="num_nodes", edge_attr="edge_index")
    assert data.num_nodes == 2 and data.x.tolist() == [9, 9] and data.edge_attr.tolist() == [3]
    assert same(to_networkx(data), graph)


def test_a_field_of_the_graph_has_a_row_for_each_graph_of_a_batch():
    graph = nx.Graph([(0, 1)], label=3, scale=[0.5, 1.0])
    graph_attrs = {"y": "label", "scale": "scale", "order": lambda graph: len(graph)}
    data = from_networkx(graph, graph_attrs=graph_attrs)
    assert data.y.tolist() == [3] and data.scale.shape == (1, 2) and data.order.tolist() == [2]
    assert to_networkx(data).graph == {"label": 3, "scale": [0.5, 1.0], "order": 2}
    assert Batch.from_data_list([data, data]).y.tolist() == [3, 3]


def test_a_field_of_the_graph_stays_one_where_there_is_a_single_node():
    graph = nx.DiGraph(label=3)
    graph.add_node("alone")
    back = to_networkx(from_networkx(graph, graph_attrs={"y": "label"}))
    assert back.graph == {"label": 3} and back.nodes["alone"] == {}


# ------------------------------------------------------------------------------------------------------------- errors


def table(values, key="feat"):
    graph = nx.DiGraph()
    for node, value in values.items():
        graph.add_node(node, **({} if value is ... else {key: value}))
    return graph


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 1, "b": ..., "c": ...}, r"node 'b' has no attribute 'feat', asked for by x=.*2 of 3 have none.*fill="),
        ({"a": 1, ("b", 2): None}, r"'feat' of node \('b', 2\), asked for by x=, is None.*1 of 2 .*fill="),
        ({"a": 1.0, "b": "red"}, r"'feat' of node 'b', asked for by x=, is 'red'.*1 of 2 do not fit.*x=lambda node"),
        ({"a": [1, 2], "b": [3, 4], 5: [1, 2, 3]}, r"node 5.*of shape \(3,\); expected shape \(2,\).*1 of 3"),
        ({"a": [1, 2], "b": [1, [2, 3]]}, r"node 'b'.*is \[1, \[2, 3\]\]; expected a number"),
        ({"a": [1, None], "b": [1, 2]}, r"node 'a'.*is \[1, None\]"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"node 'b'.*of shape \(3,\)|node 'a'.*of shape \(2,\)"),
        ({"a": 1, "b": 2**63}, r"node 'b'.*is 9223372036854775808; expected a number that fits"),
        ({"a": -1, "b": 2**70}, r"node 'b'.*do not fit"),
        ({"a": {"k": 1}}, r"node 'a'.*is \{'k': 1\}"),
    ],
)
def test_a_node_that_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_networkx(table(values), x="feat")
    with pytest.raises(ValueError, match=message):
        from_networkx(table(values), x=["feat"])


def test_an_edge_that_does_not_fit_is_named_with_its_key():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", key="k", w=1.0)
    graph.add_edge("a", "b", key=("l", 0))
    with pytest.raises(
        ValueError, match=r"edge \('a', 'b', \('l', 0\)\) has no attribute 'w', asked for by edge_weight="
    ):
        from_networkx(graph, edge_weight="w")
    graph.edges["a", "b", ("l", 0)]["w"] = "heavy"
    with pytest.raises(ValueError, match=r"edge \('a', 'b', \('l', 0\)\).*'heavy'.*edge_weight=lambda u, v, key"):
        from_networkx(graph, edge_weight="w")


def test_an_undirected_edge_that_does_not_fit_counts_once():
    graph = nx.Graph([("a", "b", {"w": 1}), ("b", "c", {"w": "heavy"}), ("c", "d")])
    with pytest.raises(ValueError, match=r"edge \('c', 'd'\) has no attribute 'w'.*1 of 3 have none"):
        from_networkx(graph, edge_weight="w")
    with pytest.raises(ValueError, match=r"edge \('b', 'c'\).*'heavy'.*1 of 2 do not fit"):
        from_networkx(graph, edge_weight="w", fill=0)


def test_a_name_that_no_node_has_lists_the_names_there_are():
    with pytest.raises(ValueError, match=r"no attribute 'feta'.*2 of 2.*Attributes there are: 'feat'.*with edge_"):
        from_networkx(table({"a": 1, "b": 2}), x="feta")


def test_a_function_that_gives_none_or_text_is_named_with_its_node():
    with pytest.raises(ValueError, match=r"x= gave None for node 'b'.*1 of 2 have none. Add them"):
        from_networkx(table({"a": 1, "b": 2}), x={"a": 1.0}.get)
    with pytest.raises(ValueError, match=r"x= of node 'a' is 'a'; expected a number"):
        from_networkx(table({"a": 1, "b": 2}), x=lambda node: node)


def test_an_error_of_a_function_names_what_it_was_called_with():
    graph = nx.MultiDiGraph()
    graph.add_nodes_from([("a", {"age": 3}), ("b", {})])
    graph.add_edge("a", "b", key=7)
    with pytest.raises(KeyError) as told:
        from_networkx(graph, x=lambda node: graph.nodes[node]["age"])
    assert told.value.__notes__ == ["from_networkx: raised by the function x=, called with ('b')."]
    with pytest.raises(TypeError) as told:
        from_networkx(graph, edge_weight=lambda edge: 1.0)
    assert told.value.__notes__ == ["from_networkx: raised by the function edge_weight=, called with ('a', 'b', 7)."]
    with pytest.raises(KeyError) as told:
        from_networkx(graph, node_type={"a": "letter"}.__getitem__)
    assert told.value.__notes__ == ["from_networkx: raised by the function node_type=, called with ('b')."]


def test_fill_stands_in_for_missing_and_none_but_not_for_text():
    graph = table({"a": 2, "b": ..., "c": None})
    assert from_networkx(graph, x="feat", fill=-1).x.tolist() == [2, -1, -1]
    assert from_networkx(graph, x="feat", fill=0.5).x.tolist() == [2, 0.5, 0.5]
    assert from_networkx(graph, x=["feat"], fill={"x": 7}).x.tolist() == [[2], [7], [7]]
    assert from_networkx(graph, x="none has it", fill=1).x.tolist() == [1, 1, 1]
    vectors = table({"a": torch.ones(2, dtype=torch.float16), "b": ...})
    x = from_networkx(vectors, x="feat", fill=0.0).x
    assert x.tolist() == [[1, 1], [0, 0]] and x.dtype == torch.float16
    with pytest.raises(ValueError, match="node 'b'.*'red'"):
        from_networkx(table({"a": ..., "b": "red"}), x="feat", fill=0)


def test_fill_for_one_field_leaves_the_others_strict():
    graph = table({"a": 2, "b": ...})
    with pytest.raises(ValueError, match="node 'b' has no attribute 'feat', asked for by y="):
        from_networkx(graph, x="feat", y="feat", fill={"x": 0})
    with pytest.raises(ValueError, match=r"fill= names the field 'z'"):
        from_networkx(graph, x="feat", fill={"z": 0})
    with pytest.raises(TypeError, match="fill='0'"):
        from_networkx(graph, x="feat", fill="0")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"node_attrs": {"edge_index": "feat"}}, "'edge_index'.*uses itself.*x='edge_index'"),
        ({"edge_index": "feat"}, "'edge_index'.*uses itself"),
        ({"num_nodes": "feat"}, "'num_nodes'.*uses itself"),
        ({"keys": "feat"}, "'keys'.*uses itself"),
        ({"networkx": "feat"}, "'networkx'.*uses itself"),
        ({"class_index": "feat"}, "'class_index'.*shifts the values of such fields in a batch"),
        ({"batches": "feat"}, "'batches'.*shifts"),
        ({"node_attrs": {3: "feat"}}, "3, asked for as a field of the nodes, is no public identifier.*x=3"),
        ({"edge_attrs": {"weight": "feat"}}, "'weight'.*does not start with 'edge_'"),
        ({"knowledge": "feat"}, "'knowledge'.*contains 'edge'"),
        ({"y": "feat", "graph_attrs": {"y": "label"}}, "'y' is asked for 2 times"),
        ({"x": []}, r"x=\[\] names no attribute"),
        ({"x": {"paper": "feat"}}, r"x= has sources for the types \['paper'\], but none for the node type 'node'"),
    ],
)
def test_a_field_name_that_would_go_wrong_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        from_networkx(table({"a": 1, "b": 2}), **asked)


def test_matrices_are_no_columns():
    with pytest.raises(ValueError, match=r"values of 'feat' have shape \(2, 2\); expected numbers or vectors"):
        from_networkx(table({"a": torch.eye(2)}), x=["feat"])
    assert from_networkx(table({"a": torch.eye(2)}), x="feat").x.shape == (1, 2, 2)


# ------------------------------------------------------------------------------------- ids, batching, moving, slicing


def test_ids_and_positions_are_each_others_inverse():
    data = from_networkx(odd_graph(nx.DiGraph))
    assert node_ids(data) == ODD_IDS
    assert [node_positions(data)[name] for name in ODD_IDS] == [0, 1, 2, 3, 4, 5]


def test_a_batch_of_two_keeps_ids_keys_and_numbers():
    one = from_networkx(odd_graph(nx.MultiGraph), x="size", edge_weight="w")
    two = from_networkx(nx.MultiGraph([("b", "z", {"w": 1})]), x=lambda node: 0.5, edge_weight="w")
    batch = next(iter(DataLoader([one, two], batch_size=2))).to("cpu")
    assert batch.num_nodes == 8
    assert node_ids(batch) == [*ODD_IDS, "b", "z"]
    assert node_positions(batch)[1, "b"] == 6 and node_positions(batch)[0, "b"] == 0
    assert batch.node_number.tolist() == [0, 1, 2, 3, 4, 5, 0, 1] and batch.edge_number.tolist()[-2:] == [0, 0]
    graphs = [to_networkx(data) for data in batch.to_data_list()]
    assert list(graphs[0].edges(keys=True)) == list(odd_graph(nx.MultiGraph).edges(keys=True))
    assert list(graphs[1].edges(keys=True)) == [("b", "z", 0)]
    with pytest.raises(TypeError, match=r"data is a DataBatch.*to_data_list"):
        to_networkx(batch)


@pytest.mark.parametrize("carry", [lambda d: d.to("cpu"), lambda d: d.clone(), copy.copy, copy.deepcopy])
def test_ids_survive_moving_and_copying(carry):
    data = carry(from_networkx(odd_graph(nx.MultiDiGraph), x="rank"))
    assert node_ids(data) == ODD_IDS
    assert list(to_networkx(data).edges(keys=True)) == list(odd_graph(nx.MultiDiGraph).edges(keys=True))


def test_saved_data_loads_without_trusting_the_file():
    file = io.BytesIO()
    data = from_networkx(nx.MultiGraph([("a", "b"), ("a", "b")]), x=lambda node: 1.0)
    torch.save(data.to_dict(), file)  # as torch_geometric's data sets do
    file.seek(0)
    loaded = Data.from_dict(torch.load(file, weights_only=True))
    assert node_ids(loaded) == ["a", "b"] and list(to_networkx(loaded).edges(keys=True)) == [
        ("a", "b", 0),
        ("a", "b", 1),
    ]


def test_a_subgraph_keeps_its_ids_and_keys():
    graph = odd_graph(nx.MultiGraph)
    data = from_networkx(graph, x="rank", edge_weight="w")
    kept = data.subgraph(torch.tensor([1, 2, 3]))
    assert node_ids(kept) == [("a", 1), 7, -2.5]
    expected = graph.subgraph([("a", 1), 7, -2.5])
    assert set(to_networkx(kept).edges(keys=True, data="w")) == set(expected.edges(keys=True, data="w"))


def test_numbers_that_no_longer_fit_are_errors_not_wrong_ids():
    data = from_networkx(nx.MultiGraph([("a", "b"), ("b", "c")]))
    longer = copy.copy(data)
    longer.num_nodes = 4
    with pytest.raises(ValueError, match="node_number has 3 rows.*for 4 nodes.*delete it"):
        node_ids(longer)
    beyond = copy.copy(data)
    beyond.node_number = torch.tensor([0, 1, 3])
    with pytest.raises(ValueError, match="node_number has 3 rows and a maximum of 3, for 3 nodes"):
        node_ids(beyond)
    del longer.node_number
    assert node_ids(longer) == [0, 1, 2, 3]
    with pytest.warns(UserWarning, match="num_nodes"):  # torch_geometric's
        assert node_ids(Data()) == []
    twice = copy.copy(data)
    twice.node_number = torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="the id 'b' belongs to several nodes"):
        to_networkx(twice)
    more = copy.copy(data)
    more.edge_index = torch.cat([data.edge_index, torch.tensor([[0], [0]])], dim=1)
    with pytest.raises(ValueError, match="edge_number does not fit the edges: it has 4 rows for 5 edges.*delete it"):
        to_networkx(more)
    del more.edge_number
    assert sorted(map(sorted, to_networkx(more).edges())) == [["a", "a"], ["a", "b"], ["b", "c"]]
    mixed = copy.copy(data)
    mixed.edge_number = torch.tensor([0, 1, 1, 0])
    with pytest.raises(ValueError, match="0 stands for 'a' -> 'b' and 'c' -> 'b'"):
        to_networkx(mixed)
    beyond = copy.copy(data)
    beyond.edge_number = torch.tensor([0, 2, 0, 2])
    with pytest.raises(ValueError, match="has the number 2, of a graph that had 2 edges"):
        to_networkx(beyond)
    parallel = from_networkx(nx.MultiDiGraph([("a", "b"), ("a", "b")]))
    parallel.edge_number = torch.tensor([0, 0])
    with pytest.raises(ValueError, match="1 of 2 edges have the ends and key of another"):
        to_networkx(parallel)


def test_a_number_without_rows_belongs_to_the_graph():
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, loss=torch.tensor(0.5), gap=np.array(2))
    assert to_networkx(data).graph == {"loss": torch.tensor(0.5), "gap": np.array(2)}


def test_what_torch_geometric_counts_in_the_last_axis_belongs_to_the_graph():
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=3, face=torch.eye(3).long(), pair_index=torch.ones(3, 4))
    graph = to_networkx(data)
    assert set(graph.graph) == {"face", "pair_index"} and graph.nodes[0] == {}


# -------------------------------------------------------------------------------------------- data from elsewhere


def test_data_from_elsewhere_converts_with_all_its_fields():
    data = Data(
        x=torch.eye(3, dtype=torch.float64),
        edge_index=torch.tensor([[0, 1, 0], [1, 0, 1]]),
        edge_weight=torch.tensor([1.0, 2.0, 3.0]),  # as many edges as nodes
        y=torch.tensor([1]),
        names=["p", "q", "r"],
        num_nodes=3,
    )
    graph = to_networkx(data)
    assert type(graph) is nx.MultiDiGraph  # because 0 -> 1 is there twice
    assert [w for _, _, w in graph.edges(data="edge_weight")] == [1, 3, 2]
    assert graph.nodes[2]["names"] == "r" and graph.nodes[2]["x"].dtype == torch.float64
    assert graph.graph["y"].tolist() == [1]


def test_data_without_edges_converts_and_sparse_edges_are_refused():
    data = Data(x=torch.ones(2, 1))
    assert list(to_networkx(data)) == [0, 1]
    data.adj_t = torch.eye(2).to_sparse_csr()
    with pytest.raises(ValueError, match="are a sparse matrix; expected edge_index"):
        to_networkx(data)


def test_directions_are_paired_by_their_ends_where_there_are_no_numbers():
    edge_index = torch.tensor([[0, 1, 0, 1, 2, 2], [1, 0, 1, 0, 2, 0]])
    graph = to_networkx(Data(edge_index=edge_index, num_nodes=3), directed=False)
    assert type(graph) is nx.MultiGraph and sorted(graph.edges()) == [(0, 1), (0, 1), (0, 2), (2, 2)]


def test_a_directed_multigraph_made_undirected_pairs_equal_keys():
    graph = nx.MultiDiGraph([("a", "b", "k"), ("b", "a", "k"), ("b", "a", "l")])
    back = to_networkx(from_networkx(graph), directed=False)
    assert list(back.edges(keys=True)) == [("a", "b", "k"), ("a", "b", "l")]


def test_two_fields_for_one_attribute_must_agree():
    data = from_networkx(table({"a": 1, "b": 2}), x="feat", y="feat")
    assert to_networkx(data).nodes["b"] == {"feat": 2}
    data.y = data.y + 1
    with pytest.raises(ValueError, match="two fields give the attribute 'feat', with different values 1 and 2"):
        to_networkx(data)


# -------------------------------------------------------------------------------------------------------------- types


def library(kind):
    graph = kind()
    graph.add_node("p1", kind="paper", words=[1.0, 0.0], year=1999)
    graph.add_node("Ann", kind="author", age=30)
    graph.add_node("p2", kind="paper", words=[0.0, 1.0], year=2001)
    graph.add_node("Bob", kind="author", age=40)
    for u, v, rel, w in [("Ann", "p1", "wrote", 1), ("p2", "p1", "cites", 2), ("Bob", "p2", "wrote", 3)]:
        graph.add_edge(u, v, rel=rel, w=w)
    return graph


def test_types_become_stores_with_triples():
    x = {"paper": ["words", "year"], "author": "age"}
    data = from_networkx(library(nx.DiGraph), node_type="kind", edge_type="rel", x=x, edge_weight="w")
    assert isinstance(data, HeteroData)
    assert data.metadata() == (["paper", "author"], [("author", "wrote", "paper"), ("paper", "cites", "paper")])
    assert data["paper"].x.tolist() == [[1, 0, 1999], [0, 1, 2001]] and data["author"].x.tolist() == [30, 40]
    assert data["author", "wrote", "paper"].edge_index.tolist() == [[0, 1], [0, 1]]
    assert data["paper", "cites", "paper"].edge_weight.tolist() == [2]
    assert node_ids(data, "author") == ["Ann", "Bob"] and node_positions(data, "paper") == {"p1": 0, "p2": 1}
    assert data.validate()


@pytest.mark.parametrize("kind", KINDS)
def test_a_typed_graph_survives_the_round_trip_in_its_order(kind):
    graph = library(kind)
    x = {"paper": ["words", "year"], "author": "age"}
    back = to_networkx(from_networkx(graph, node_type="kind", edge_type="rel", x=x, edge_attr="w"))
    assert same(back, graph)


def test_an_undirected_relation_is_stored_in_both_directions():
    data = from_networkx(
        library(nx.Graph), node_type="kind", edge_type="rel", edge_weight={"wrote": "w", "cites": None}
    )
    assert data["paper", "wrote", "author"].edge_index.tolist() == [[0, 1], [0, 1]]
    assert data["author", "wrote", "paper"].edge_weight.tolist() == [1, 3]
    assert data["paper", "cites", "paper"].edge_index.tolist() == [[0, 1], [1, 0]]
    assert "edge_weight" not in data["paper", "cites", "paper"]


def test_one_kind_of_type_is_enough_and_functions_will_do():
    data = from_networkx(library(nx.DiGraph), node_type=lambda node: "author" if node.istitle() else "paper")
    assert data.edge_types == [("author", "to", "paper"), ("paper", "to", "paper")]
    assert to_networkx(data).nodes["Ann"] == {"node_type": "author"}
    data = from_networkx(library(nx.MultiDiGraph), edge_type=lambda u, v, key: f"r{key}")
    assert data.metadata() == (["node"], [("node", "r0", "node")]) and data["node"].num_nodes == 4


def test_a_typed_batch_of_two_keeps_ids():
    data = from_networkx(library(nx.Graph), node_type="kind", edge_type="rel")
    batch = Batch.from_data_list([data, data])
    assert node_ids(batch, "author") == ["Ann", "Bob", "Ann", "Bob"]
    assert node_positions(batch, "paper")[1, "p2"] == 3
    back = to_networkx(batch.to_data_list()[1])
    assert list(back) == ["p1", "Ann", "p2", "Bob"] and back.number_of_edges() == 3


def test_a_type_that_is_missing_or_no_text_is_named():
    graph = library(nx.DiGraph)
    graph.add_node("lost")
    with pytest.raises(
        ValueError, match=r"type of node 'lost' \(attribute 'kind', asked for by node_type=\) is None.*1 of 5"
    ):
        from_networkx(graph, node_type="kind")
    with pytest.raises(ValueError, match=r"type of edge \('Ann', 'p1'\).*is 1; expected a string.*3 of 3"):
        from_networkx(graph, edge_type="w")


def test_types_without_a_source_are_named():
    with pytest.raises(
        ValueError, match=r"x= has sources for the types \['paper'\], but none for the node type 'author'"
    ):
        from_networkx(library(nx.DiGraph), node_type="kind", x={"paper": "year"})
    with pytest.raises(ValueError, match=r"none for the edge type \('paper', 'cites', 'paper'\)"):
        from_networkx(library(nx.DiGraph), node_type="kind", edge_type="rel", edge_attr={"wrote": "w"})
    with pytest.raises(ValueError, match=r"node 'Ann' has no attribute 'year'.*Attributes there are: 'kind', 'age'"):
        from_networkx(library(nx.DiGraph), node_type="kind", x="year")


def test_ids_of_a_typed_graph_need_the_type():
    data = from_networkx(library(nx.DiGraph), node_type="kind")
    with pytest.raises(ValueError, match="node_type=None; expected one of 'paper', 'author'"):
        node_ids(data)
    with pytest.raises(ValueError, match="node_type='paper'; expected None"):
        node_ids(from_networkx(nx.path_graph(2)), "paper")


def test_typed_data_from_elsewhere_has_types_and_positions_for_ids():
    data = HeteroData()
    data["a"].num_nodes, data["b"].x = 1, torch.ones(2, 1)
    data["a", "to", "b"].edge_index = torch.tensor([[0], [1]])
    data.split = "train"
    data["a"].source = "catalogue"
    graph = to_networkx(data)
    assert list(graph) == [("a", 0), ("b", 0), ("b", 1)] and list(graph.edges(data="edge_type")) == [
        (("a", 0), ("b", 1), "to")
    ]
    assert graph.nodes["a", 0] == {"node_type": "a"} and graph.graph == {"split": "train", ("a", "source"): "catalogue"}
    data["b", "to", "c"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(ValueError, match="ends of type 'c', of which data has no nodes"):
        to_networkx(data)


# --------------------------------------------------------------------------------------------------------------- time


def test_time_grows_with_the_number_of_edges_and_not_with_its_square():
    def seconds(count):
        graph = nx.DiGraph()
        graph.add_edges_from((f"n{e % (count // 10)}", f"n{e * 7 % count}", {"w": 0.5}) for e in range(count))
        taken = []
        for _ in range(3):
            start = time.process_time()
            assert from_networkx(graph, edge_weight="w").num_edges == graph.number_of_edges()
            taken.append((time.process_time() - start) / graph.number_of_edges())
        return min(taken)

    assert seconds(80_000) < 8 * seconds(5_000)  # per edge; a square would give 16

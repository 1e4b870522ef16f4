import pytest
import torch
from torch import nn
from torch_geometric import nn as geometric
from torch_geometric.data import Batch, Data, HeteroData

import mpnn
from mpnn.containers import apply


def data(num_nodes=3):
    chain = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    return Data(x=torch.randn(num_nodes, 4), edge_index=chain, y=torch.tensor([1]))


def test_the_result_is_in_x_of_a_copy_and_the_original_is_as_it_was():
    before = data()
    x, fields = before.x, before.keys()
    layer = mpnn.nn.GCN(4, 2)
    after = apply(layer, before)
    assert torch.equal(after.x, layer(x, before.edge_index))
    assert before.x is x and before.keys() == fields
    assert after.edge_index is before.edge_index and after.y is before.y


def test_weights_are_passed_to_those_who_ask_for_them_only():
    given = data()
    given.edge_weight = torch.rand(2)
    layer, other = mpnn.nn.GCN(4, 2), mpnn.nn.GAT(4, 2)
    assert torch.equal(apply(layer, given).x, layer(given.x, given.edge_index, given.edge_weight))
    assert torch.equal(apply(other, given).x, other(given.x, given.edge_index))
    assert torch.equal(
        apply(layer, given, edge_weight=torch.ones(2)).x, layer(given.x, given.edge_index, torch.ones(2))
    )


def test_a_stack_is_a_loop_and_modules_on_rows_fit_in():
    batch = Batch.from_data_list([data(3), data(5)])
    layers = [
        mpnn.nn.GIN(nn.Linear(4, 4)),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        geometric.SAGEConv(4, 2),
        mpnn.nn.GraphReadout("mean"),
    ]
    expected = batch.x
    more_inputs = [(batch.edge_index,), (), (), (batch.edge_index,), (batch.batch,)]
    for layer, more in zip(layers, more_inputs, strict=True):
        expected = layer(expected, *more)
    layers[1].reset_running_stats()
    out = batch
    for layer in layers:
        out = apply(layer, out)
    assert torch.equal(out.x, expected)
    assert isinstance(out, Batch) and out.num_graphs == 2


def test_a_graph_network_leaves_edges_and_graphs_under_their_names():
    batch = Batch.from_data_list([data(3), data(5)])
    batch.edge_attr, batch.u = torch.randn(6, 2), torch.randn(2, 3)
    layer = mpnn.nn.GraphNetwork(
        edge=nn.Linear(2 + 4 + 4 + 3, 5), node=nn.Linear(5 + 4 + 3, 6), graph=nn.Linear(5 + 6 + 3, 7)
    )
    out = apply(layer, batch)
    x, edge_attr, u = layer(batch.x, batch.edge_index, batch.edge_attr, batch.u, batch.batch)
    assert torch.equal(out.x, x) and torch.equal(out.edge_attr, edge_attr) and torch.equal(out.u, u)
    assert batch.edge_attr.shape == (6, 2)


def test_a_plan_in_the_container_stands_in_for_its_edges(monkeypatch):
    given = data()
    given.plan = mpnn.plan(given)
    layer = mpnn.nn.GIN(nn.Linear(4, 2))
    expected = layer(given.x, given.edge_index)
    given.edge_index = None
    assert torch.equal(apply(layer, given).x, expected)


def test_a_state_of_several_fields_is_named_by_the_layer():
    class Twice(mpnn.MessagePassing):
        state = ("h", "c")

        def forward(self, x, edge_index):
            return self.propagate(edge_index, h=x, c=2 * x)

        def message(self, h_j, c_j):
            return h_j, c_j

    given = data()
    out = apply(Twice(), given)
    assert torch.equal(out.x[1:], given.x[:-1]) and torch.equal(out.c[1:], 2 * given.x[:-1])


def test_what_the_data_lacks_is_named_with_what_it_has():
    layer = mpnn.nn.EdgeReadout(nn.Bilinear(4, 4, 1))
    with pytest.raises(
        TypeError, match="EdgeReadout asks for 'edge_index', but the data has only x. Set data.edge_index"
    ):
        apply(layer, Data(x=torch.ones(2, 4)))


def test_results_without_names_are_refused():
    with pytest.raises(
        ValueError, match="LSTM returned 2 values and names 0; expected a name for each. Set LSTM.returns"
    ):
        apply(nn.LSTM(4, 2), data())


def test_what_is_no_container_is_refused():
    with pytest.raises(TypeError, match="data is a Tensor; expected a torch_geometric Data, HeteroData or Batch"):
        apply(nn.ReLU(), torch.ones(2))


def typed():
    graph = HeteroData(paper={"x": torch.randn(3, 4)}, author={"x": torch.randn(2, 4)}, venue={"num_nodes": 1})
    graph["author", "writes", "paper"].edge_index = torch.tensor([[0, 1], [2, 0]])
    graph["paper", "cites", "paper"].edge_index = torch.tensor([[0], [1]])
    graph["paper", "cites", "paper"].edge_weight = torch.tensor([0.5])
    return graph


def test_of_many_types_a_layer_is_given_the_fields_by_type_and_changes_those_it_names():
    layer = mpnn.nn.RelationWise(
        {("author", "writes", "paper"): mpnn.nn.GAT(4, 2), ("paper", "cites", "paper"): mpnn.nn.GCN(4, 2)}, "cat"
    )
    before = typed()
    x = before.x_dict
    after = apply(nn.ReLU(), apply(layer, before))
    weight = {("paper", "cites", "paper"): before["paper", "cites", "paper"].edge_weight}
    expected = layer(x, before.edge_index_dict, edge_weight=weight)["paper"]
    assert torch.equal(after["paper"].x, expected.relu()) and torch.equal(after["author"].x, x["author"].relu())
    assert not torch.equal(expected, layer(x, before.edge_index_dict)["paper"])
    assert before["paper"].x is x["paper"] and after["venue"].num_nodes == 1 and "x" not in after["venue"]


def test_a_batch_of_many_types_gives_the_graph_of_each_node():
    PAP = ("paper", "cites", "paper")
    layer = mpnn.nn.HAN(4, 2, [PAP, ("author", "writes", "paper")], heads=2)
    given = [typed(), typed()]
    together = apply(layer, Batch.from_data_list(given))["paper"].x
    alone = torch.cat([apply(layer, graph)["paper"].x for graph in given])
    torch.testing.assert_close(together, alone)


def test_layers_of_torch_geometric_with_many_types_fit_in():
    graph = typed()
    layer = geometric.HANConv(4, 6, graph.metadata(), heads=2)
    del graph["venue"]
    assert torch.equal(apply(layer, graph)["paper"].x, layer(graph.x_dict, graph.edge_index_dict)["paper"])
    assert apply(layer, graph)["author"].x is graph["author"].x


def test_of_many_types_a_layer_that_asks_for_the_numbers_of_nodes_has_one_for_each_type():
    graph = typed()
    seen = []

    class Counted(nn.Module):
        def forward(self, x, edge_index, num_nodes, num_nodes_dict):
            seen.extend([num_nodes, num_nodes_dict])
            return x

    apply(Counted(), graph)
    assert seen == [{"paper": 3, "author": 2, "venue": 1}] * 2

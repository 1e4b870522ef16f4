import pytest
import torch
from compare import assert_close, assert_golden, assert_same, randomised, tuple_of
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import MetaLayer
from torch_geometric.utils import scatter
from zoo import graphs

import mpnn


def full():
    """3 node features, 2 edge features and 2 graph features in; 5, 4 and 6 out."""
    return mpnn.nn.GraphNetwork(
        edge=nn.Linear(2 + 3 + 3 + 2, 4), node=nn.Linear(4 + 3 + 2, 5), graph=nn.Linear(4 + 5 + 2, 6)
    )


def inputs(data, num_graphs=1):
    """x, edge_index, edge_attr, u"""
    x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(data.num_edges, 2, dtype=torch.float64, requires_grad=True)
    u = torch.randn(num_graphs, 2, dtype=torch.float64, requires_grad=True)
    return x, data.edge_index, edge_attr, u


def paper_graph_network(layer, V, edges, E, u):  # arXiv:1806.01261, algorithm 1, sums for all three rho
    E_new, V_new = [], []
    for k, (s, r) in enumerate(edges.t().tolist()):
        E_new.append(layer.edge(torch.cat([E[k], V[s], V[r], u[0]])))
    for i in range(len(V)):
        e_bar = sum((E_new[k] for k, r in enumerate(edges[1].tolist()) if r == i), V.new_zeros(layer.edge.out_features))
        V_new.append(layer.node(torch.cat([e_bar, V[i], u[0]])))
    e_bar = sum(E_new, V.new_zeros(layer.edge.out_features))
    v_bar = sum(V_new, V.new_zeros(layer.node.out_features))
    u_new = layer.graph(torch.cat([e_bar, v_bar, u[0]]))[None]
    return (
        torch.stack(V_new) if V_new else V.new_zeros(0, layer.node.out_features),
        torch.stack(E_new) if E_new else V.new_zeros(0, layer.edge.out_features),
        u_new,
    )


def test_graph_network_is_the_papers_algorithm():
    for name, data in graphs().items():
        layer = randomised(full())
        x, edge_index, edge_attr, u = inputs(data)
        theirs = paper_graph_network(layer, x, edge_index, edge_attr, u)
        leaves = [x, edge_attr, u, *layer.parameters()]
        assert_same(layer(x, edge_index, edge_attr, u), theirs, leaves, what=name)


class EdgeModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(10, 4)

    def forward(self, src, dst, edge_attr, u, batch):
        return self.f(torch.cat([edge_attr, src, dst, u[batch]], 1))


class NodeModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(9, 5)

    def forward(self, x, edge_index, edge_attr, u, batch):
        into = scatter(edge_attr, edge_index[1], dim_size=x.shape[0], reduce="sum")
        return self.f(torch.cat([into, x, u[batch]], 1))


class GlobalModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(11, 6)

    def forward(self, x, edge_index, edge_attr, u, batch):
        edges = scatter(edge_attr, batch[edge_index[1]], dim_size=u.shape[0], reduce="sum")
        return self.f(torch.cat([edges, scatter(x, batch, dim_size=u.shape[0], reduce="sum"), u], 1))


def test_graph_network_equals_torch_geometrics_meta_layer_on_a_batch():
    data = Batch.from_data_list(list(graphs().values()))
    names = {
        f"{a}.{kind}": f"{b}_model.f.{kind}"
        for a, b in (("edge", "edge"), ("node", "node"), ("graph", "global"))
        for kind in ("weight", "bias")
    }
    values = [value.detach() if value.is_floating_point() else value for value in inputs(data, data.num_graphs)]
    assert_golden(
        full().double(), MetaLayer(EdgeModel(), NodeModel(), GlobalModel()).double(), names, *values, data.batch
    )


def test_a_part_that_is_switched_off_keeps_its_values():
    data = graphs()["random"]
    x, edge_index, edge_attr, u = inputs(data)
    kept = mpnn.nn.GraphNetwork()(x, edge_index, edge_attr, u)
    for before, after in zip((x, edge_attr, u), kept, strict=True):
        assert torch.equal(before, after)
    layer = mpnn.nn.GraphNetwork(node=nn.Linear(2 + 3 + 2, 5)).double()
    new_x, new_e, new_u = layer(x, edge_index, edge_attr, u)
    assert torch.equal(new_e, edge_attr) and torch.equal(new_u, u)
    into = scatter(edge_attr, edge_index[1], dim_size=8, reduce="sum")
    assert_close(new_x, layer.node(torch.cat([into, x, u.expand(8, 2)], 1)), "nodes")


def test_without_edge_values_it_is_a_deep_set():  # arXiv:1703.06114
    batch = torch.tensor([0, 0, 0, 2, 2])
    layer = mpnn.nn.GraphNetwork(node=nn.Linear(3, 5), graph=nn.Linear(5, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    new_x, new_e, u = layer(x, torch.tensor([[0, 1], [1, 2]]), batch=batch, num_graphs=3)
    phi = layer.node(x)
    rho = layer.graph(torch.stack([phi[:3].sum(0), torch.zeros_like(phi[0]), phi[3:].sum(0)]))
    assert_same((new_x, u), (phi, rho), [x, *layer.parameters()])
    assert new_e.shape == (2, 0)


@pytest.mark.parametrize("aggr", ["mean", "max"])
def test_other_aggregations_and_readouts(aggr):
    data = graphs()["random"]
    layer = mpnn.nn.GraphNetwork(nn.Linear(6, 4), nn.Linear(7, 5), nn.Linear(9, 2), aggr=aggr, readout=aggr).double()
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    src, dst = data.edge_index
    e = layer.edge(torch.cat([x[src], x[dst]], 1))
    v = layer.node(torch.cat([scatter(e, dst, dim_size=8, reduce=aggr), x], 1))
    pool = {"mean": lambda t: t.mean(0, keepdim=True), "max": lambda t: t.max(0, keepdim=True).values}[aggr]
    u = layer.graph(torch.cat([pool(e), pool(v)], 1))
    assert_same(layer(x, data.edge_index), (v, e, u), [x, *layer.parameters()])


def test_number_of_graphs_is_read_from_the_batch_or_given():
    x, edge_index = torch.ones(4, 3), torch.tensor([[0, 2], [1, 3]])
    layer = mpnn.nn.GraphNetwork(graph=nn.Linear(3, 2))
    batch = torch.tensor([0, 0, 1, 1])
    assert layer(x, edge_index)[2].shape == (1, 2)
    assert layer(x, edge_index, batch=batch)[2].shape == (2, 2)
    assert layer(x, edge_index, batch=batch, num_graphs=3)[2].shape == (3, 2)
    assert len(tuple_of(layer(x, edge_index))) == 3


def test_values_of_several_graphs_ask_for_a_batch():
    layer, edge_index = mpnn.nn.GraphNetwork(graph=nn.Linear(3 + 2, 2)), torch.tensor([[0, 2], [1, 3]])
    for rows in (2, 4):  # 4: as many as nodes
        with pytest.raises(ValueError, match=f"GraphNetwork: 'u' has {rows} rows, but without batch .* Pass batch="):
            layer(torch.ones(4, 3), edge_index, u=torch.ones(rows, 2))

import pytest
import torch
from compare import assert_close, assert_golden, assert_same, randomised
from networks import PAP, PSP, PTA, TAP, typed
from torch_geometric.nn import HeteroConv, SAGEConv

import mpnn
from mpnn.hetero import complete
from mpnn.loader import collate
from mpnn.nn import GAT, GCN, GIN, LSTM, ChildSumTreeLSTM, GraphSAGE, RelationWise, SemanticAttention

CITES = ("paper", "cites", "paper")


def same_width(**options):
    """Papers and terms, both 3 features wide."""
    data = typed(**options)
    data["term"].x = torch.randn(data["term"].num_nodes, 3).double()
    return data


@pytest.mark.parametrize("combine", ["sum", "mean", "max", "cat"])
def test_with_sage_it_equals_heteroconv_of_torch_geometric(combine):
    paths = [PAP, PSP, TAP, PTA]
    for seed in range(3):
        data = same_width(seed=seed)
        ours = RelationWise({path: GraphSAGE(3, 2) for path in paths}, combine).double()
        theirs = HeteroConv({path: SAGEConv(3, 2) for path in paths}, combine).double()
        names = {}
        for path in paths:
            key = f"<{'___'.join(path)}>"
            names |= {f"layers.{key}.neighbour.{part}": f"convs.{key}.lin_l.{part}" for part in ("weight", "bias")}
            names[f"layers.{key}.own.weight"] = f"convs.{key}.lin_r.weight"

        def of(layer):
            def call(paper, term):
                out = layer({"paper": paper, "term": term}, data.edge_index_dict)  # noqa: B023
                return out["paper"], out["term"]

            return call

        inputs = data["paper"].x, data["term"].x
        assert_golden(ours, theirs, names, *inputs, calls=(of(ours), of(theirs)), what=combine)


@pytest.mark.parametrize("make", [GCN, GAT, GraphSAGE, lambda n, m: GIN(torch.nn.Linear(n, m))])
def test_two_types_side_by_side_are_one_graph(make):
    data = same_width()
    layer = randomised(make(3, 2))
    x = torch.cat([data["term"].x, data["paper"].x])
    shift = torch.tensor([[0], [3]])
    expected = layer(x, data[TAP].edge_index + shift)[3:]
    ours = RelationWise({TAP: layer})(data.x_dict, data.edge_index_dict)
    assert_same(ours["paper"], expected, list(layer.parameters()))
    assert list(ours) == ["paper"]


def test_attention_over_relations_is_the_one_of_han():
    data, mix = same_width(), SemanticAttention(2, 4)
    layer = randomised(RelationWise({PAP: GCN(3, 2), TAP: GAT(3, 2), PTA: GCN(3, 2)}, mix))
    ours = layer(data.x_dict, data.edge_index_dict)
    x, edges = data.x_dict, data.edge_index_dict
    along = [RelationWise({path: layer.layers[path]})(x, edges)["paper"] for path in (PAP, TAP)]
    assert_close(ours["paper"], mix(along), "")
    assert_close(ours["term"], RelationWise({PTA: layer.layers[PTA]})(x, edges)["term"], "alone, it has all weight")


def test_recurrent_layers_run_under_their_own_schedule_and_give_their_first_state():
    data = same_width()
    data[CITES].edge_index = torch.tensor([[0, 1, 2], [1, 2, 4]])
    data[TAP].edge_index = torch.tensor([[0, 1, 2], [4, 4, 1]])
    chain, tree = randomised(LSTM(3, 2)), randomised(ChildSumTreeLSTM(3, 2))
    ours = RelationWise({CITES: chain, TAP: tree}, "cat")(data.x_dict, data.edge_index_dict)["paper"]
    below = tree(torch.cat([data["term"].x, data["paper"].x]), data[TAP].edge_index + torch.tensor([[0], [3]]))[0][3:]
    assert_close(ours, torch.cat([chain(data["paper"].x, data[CITES].edge_index)[0], below], 1), "")


def test_weights_of_edges_reach_the_layers_that_ask_for_them():
    data = same_width()
    weight = {path: torch.rand(9).double() for path in (PAP, TAP)}
    gcn, gat = randomised(GCN(3, 2)), randomised(GAT(3, 2))
    ours = RelationWise({PAP: gcn, TAP: gat, PSP: gcn})(data.x_dict, data.edge_index_dict, edge_weight=weight)["paper"]
    x = data["paper"].x
    expected = gcn(x, data[PAP].edge_index, weight[PAP]) + gcn(x, data[PSP].edge_index)
    expected = expected + RelationWise({TAP: gat})(data.x_dict, data.edge_index_dict)["paper"]
    assert_close(ours, expected, "")


@pytest.mark.parametrize("combine", ["sum", "mean", "max", "cat", SemanticAttention(2, 4)], ids=str)
def test_a_graph_alone_and_in_a_batch_gives_the_same_where_some_have_no_node_or_edge_of_a_type(combine):
    layer = randomised(RelationWise({PAP: GAT(3, 2), TAP: GCN(3, 2), PTA: GraphSAGE(3, 2), PSP: GAT(3, 2)}, combine))
    given = [same_width(seed=0), same_width(papers=3, terms=2, seed=1), same_width(papers=2, seed=2)]
    del given[0][PSP], given[1]["term"], given[1][TAP], given[1][PTA], given[2]["paper"]
    for path in (PAP, PSP, TAP, PTA):
        del given[2][path]
    for order in ([0, 1, 2], [2, 1, 0]):
        batch = collate(complete([given[k] for k in order]))
        together = layer(batch.x_dict, batch.edge_index_dict, batch.batch_dict, batch.num_graphs)
        for place, k in enumerate(order):
            alone = layer(given[k].x_dict, given[k].collect("edge_index", allow_empty=True))
            assert set(alone) == set(given[k].node_types)
            for kind, values in alone.items():
                assert_close(together[kind][batch[kind].batch == place], values, f"graph {k}, {kind}")


def test_the_joined_graph_is_made_and_planned_once():
    data = same_width()
    seen = []

    class Watched(GCN):
        def forward(self, x, edge_index):
            seen.append(edge_index)
            return super().forward(x, edge_index)

    layer = RelationWise({TAP: Watched(3, 2)}).double()
    layer(data.x_dict, data.edge_index_dict), layer(data.x_dict, data.edge_index_dict)
    assert seen[0] is seen[1]
    data[TAP].edge_index[0, 0] = (data[TAP].edge_index[0, 0] + 1) % 3  # written to: made anew
    layer(data.x_dict, data.edge_index_dict)
    assert not torch.equal(seen[2], seen[1])


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="combine='max-pool' is unknown; expected 'sum', 'mean', 'max', 'cat'"):
        RelationWise({PAP: GCN(3, 2)}, "max-pool")
    with pytest.raises(ValueError, match="layers is empty"):
        RelationWise({})
    with pytest.raises(ValueError, match=r"'TAP', 'paper'\) joins 'term' with 2 features and 'paper' with 3.*Linear"):
        RelationWise({TAP: GCN(3, 2)}).double()(typed().x_dict, typed().edge_index_dict)
    data = same_width()
    data[TAP].edge_index[1, 2] = 5
    with pytest.raises(ValueError, match=r"RelationWise.*'TAP'.*edge 2 \(. -> 5\) leaves the graph"):
        RelationWise({TAP: GCN(3, 2)}).double()(data.x_dict, data.edge_index_dict)


def test_it_goes_through_apply_also_where_the_loader_has_planned_all_types():
    data = same_width()
    layer = randomised(RelationWise({PAP: GCN(3, 2), TAP: GCN(3, 2)}))
    out = mpnn.apply(layer, data)
    assert_close(out["paper"].x, layer(data.x_dict, data.edge_index_dict)["paper"], "")
    planned = mpnn.apply(layer, collate([data, data], "coloured"))
    assert_close(planned["paper"].x, torch.cat([out["paper"].x] * 2), "planned")
    assert out["term"].x is data["term"].x


def test_misspelt_edge_types_are_not_taken_for_a_graph_without_edges():
    data, layer = same_width(), RelationWise({("author", "wrote", "paper"): GCN(3, 2)}).double()
    with pytest.raises(ValueError, match=r"RelationWise: there are no edges of .* \('author', 'wrote', 'paper'\)"):
        layer(data.x_dict, data.edge_index_dict)
    with pytest.raises(ValueError, match=r"RelationWise: there are no edges .*, only of .*'TAP', 'paper'\)"):
        layer(data.x_dict, mpnn.plan(data, "synchronous"))
    assert layer(data.x_dict, {}).keys() == {"paper"}
    for key in ("PAP", ("paper", "paper")):
        with pytest.raises(TypeError, match=r"RelationWise: layers has .*; expected edge types, \(source type"):
            RelationWise({key: GCN(3, 2)})

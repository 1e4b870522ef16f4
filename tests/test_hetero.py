import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch, HeteroData
from torch_geometric.transforms import AddMetaPaths

import mpnn
from mpnn.hetero import add_metapaths, complete, compose
from mpnn.loader import collate

AP, PT = ("author", "writes", "paper"), ("paper", "has", "term")
PA, TP = ("paper", "by", "author"), ("term", "in", "paper")
SIZES = st.tuples(*[st.integers(0, 4)] * 3)


@st.composite
def networks(draw):
    """Authors, papers and terms, any number of them none, with double edges; each relation for itself."""
    data = HeteroData()
    for kind, count in zip(("author", "paper", "term"), draw(SIZES), strict=True):
        data[kind].num_nodes = count
    for kind in (AP, PT, PA, TP):
        rows, cols = data[kind[0]].num_nodes, data[kind[2]].num_nodes
        pairs = [(j, i) for j in range(rows) for i in range(cols)]
        some = draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else []
        data[kind].edge_index = torch.tensor(some, dtype=torch.long).reshape(-1, 2).t()
    return data


def walks(data, path):
    """Every walk along a meta-path, by its ends: one edge after the other."""
    found = [(i, i) for i in range(data[path[0][0]].num_nodes)]
    for step in path:
        edges = data[step].edge_index.t().tolist()
        found = [(start, i) for start, here in found for j, i in edges if j == here]
    return found


PATHS = [[AP], [AP, PA], [AP, PT, TP, PA], [PT, TP], [TP, PA, AP, PT], [AP, PT]]


@given(networks(), st.sampled_from(PATHS), st.booleans())
def test_composing_counts_the_walks(data, path, self_pairs):
    sizes = {kind: data[kind].num_nodes for kind in data.node_types}
    pairs, count = compose(data.edge_index_dict, path, sizes, self_pairs)
    expected = walks(data, path)
    if not self_pairs and path[0][0] == path[-1][2]:
        expected = [(j, i) for j, i in expected if j != i]
    assert pairs.t().tolist() == [list(pair) for pair in sorted(set(expected))]
    assert count.tolist() == [expected.count(pair) for pair in sorted(set(expected))]
    assert pairs.dtype == count.dtype == torch.int64 and pairs.shape == (2, len(count))


def test_pairs_of_a_node_with_itself_stay_where_the_ends_are_of_other_types():
    edges = {AP: torch.tensor([[0, 1], [0, 1]])}
    assert compose(edges, [AP], {"author": 2, "paper": 2}, self_pairs=False)[1].tolist() == [1, 1]


def test_the_pairs_are_those_of_torch_geometric():
    torch.manual_seed(0)
    data = HeteroData(author={"num_nodes": 6}, paper={"num_nodes": 8}, term={"num_nodes": 3})
    for kind in (AP, PT, PA, TP):
        rows, cols = data[kind[0]].num_nodes, data[kind[2]].num_nodes
        data[kind].edge_index = torch.rand(rows, cols).lt(0.3).nonzero().t().contiguous()
    for path in PATHS[1:]:
        theirs = AddMetaPaths([path], weighted=True)(data.clone())[path[0][0], "metapath_0", path[-1][2]]
        ours = add_metapaths(data, {"new": path}, counted=True)[path[0][0], "new", path[-1][2]]
        order = (theirs.edge_index[0] * 10 + theirs.edge_index[1]).argsort()
        assert torch.equal(ours.edge_index, theirs.edge_index[:, order])
        assert torch.equal(ours.edge_weight, theirs.edge_weight[order].float())


def test_meta_paths_are_added_to_a_copy_with_counts_if_asked():
    data = HeteroData(author={"num_nodes": 2}, paper={"num_nodes": 3})
    data[AP].edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    data[PA].edge_index = data[AP].edge_index.flip(0)
    out = add_metapaths(data, {"APA": [AP, PA], "PAP": [PA, AP]}, counted=True, self_pairs=False)
    assert out["author", "APA", "author"].edge_weight.tolist() == [2, 2]
    assert out["paper", "PAP", "paper"].edge_index.tolist() == [[0, 1], [1, 0]]
    assert "edge_weight" not in add_metapaths(data, {"APA": [AP, PA]})["author", "APA", "author"]
    assert len(data.edge_types) == 2 and out[AP].edge_index is data[AP].edge_index


def test_a_typed_graph_of_networkx_has_its_meta_paths():
    graph = nx.Graph()
    for paper, author in [("p1", "Ann"), ("p1", "Bob"), ("p2", "Bob"), ("p2", "Cy"), ("p3", "Cy")]:
        graph.add_node(paper, kind="paper")
        graph.add_node(author, kind="author")
        graph.add_edge(paper, author, role="by")
    data = mpnn.from_networkx(graph, node_type="kind", edge_type="role", x={"paper": None, "author": lambda _: [1.0]})
    path = [("author", "by", "paper"), ("paper", "by", "author")]
    pairs = add_metapaths(data, {"APA": path}, self_pairs=False)["author", "APA", "author"].edge_index
    ids = mpnn.node_ids(data, "author")
    assert {(ids[j], ids[i]) for j, i in pairs.t().tolist()} == {
        ("Ann", "Bob"), ("Bob", "Ann"), ("Bob", "Cy"), ("Cy", "Bob"),
    }  # fmt: skip
    layer = mpnn.nn.HAN(1, 2, [("author", "APA", "author")], heads=2)
    out = mpnn.apply(layer, add_metapaths(data, {"APA": path}))
    assert out["author"].x.shape == (3, 4)


def test_broken_paths_name_the_step():
    edges, sizes = {AP: torch.zeros(2, 1).long(), PT: torch.tensor([[0], [4]])}, {"author": 1, "paper": 1, "term": 1}
    with pytest.raises(ValueError, match="the meta-path is empty"):
        compose(edges, [], sizes)
    with pytest.raises(KeyError, match=r"no edges of type \('paper', 'by', 'author'\).*ToUndirected"):
        compose(edges, [AP, PA], sizes)
    with pytest.raises(ValueError, match=r"step 1.*ends in 'term', but the next.*begins at 'author'"):
        compose(edges, [PT, AP], sizes)
    with pytest.raises(ValueError, match=r"compose \(edge type .*edge 0 \(0 -> 4\) leaves the graph"):
        compose(edges, [AP, PT], sizes)


def some(**kinds):
    graph = HeteroData(**{kind: {"x": torch.ones(n, 2)} for kind, n in kinds.items()})
    if "paper" in kinds and "author" in kinds:
        graph[AP].edge_index, graph[AP].edge_attr = torch.zeros(2, 1).long(), torch.ones(1, 4)
    return graph


def test_completed_graphs_batch_in_any_order_and_keep_what_they_have():
    given = [some(paper=2), some(author=1, paper=1), some(author=3)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        batch = collate(complete([given[k] for k in order]))
        assert batch["paper"].x.shape == (3, 2) and batch["author"].x.shape == (4, 2)
        assert batch[AP].edge_attr.shape == (1, 4) and batch[AP].edge_index.shape == (2, 1)
        first = {k: sum(given[n]["author"].num_nodes for n in order[:place] if "author" in given[n].node_types)
                 for place, k in enumerate(order)}  # fmt: skip
        assert int(batch[AP].edge_index[0, 0]) == first[1]
    assert given[0].node_types == ["paper"] and given[0].edge_types == []
    bare = complete(given)[0]
    assert bare["author"].x.shape == (0, 2)
    assert bare[AP].edge_index.shape == (2, 0) and bare[AP].edge_attr.shape == (0, 4)


def test_without_completing_the_order_decides_what_torch_geometric_keeps():
    given = [some(paper=2), some(author=1, paper=1)]
    assert Batch.from_data_list(given).node_types == ["paper"]  # why complete is there
    with pytest.raises(ValueError, match="graph 1 of the batch has the field .*author"):
        collate(given)


def test_only_heterodata_are_completed():
    with pytest.raises(TypeError, match="complete: graph 1 is a Tensor; expected a HeteroData"):
        complete([some(paper=1), torch.ones(2)])

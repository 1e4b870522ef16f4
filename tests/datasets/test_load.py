import shutil

import pytest
import torch
import torch_geometric.datasets as peers
import torch_geometric.transforms as T
from torch_geometric.loader import DataLoader

import mpnn.datasets as datasets
from mpnn.datasets import store

LOADED = [name for name, card in datasets.cards().items() if card.reader not in ("", "ogb")]


def same(ours, theirs):
    """Every field that the peer has is equal, edges in any order."""
    for key in theirs.keys():  # noqa: SIM118 (Data is no dict)
        a, b = ours[key], theirs[key]
        if key == "edge_index":
            a, b = (index[:, (index[0] * theirs.num_nodes + index[1]).argsort()] for index in (a, b))
        if key != "edge_attr":
            assert torch.equal(a.to_dense() if a.layout == torch.sparse_csr else a, b), key
    assert ours.num_nodes == theirs.num_nodes


@pytest.fixture
def peer_root(mpnn_data, tmp_path):
    """Links one set into a folder that torch_geometric may write to."""

    def link(*parts):
        target = tmp_path.joinpath(*parts[1:])
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(mpnn_data.joinpath(*parts, "raw"), target / "raw")
        return str(tmp_path)

    return link


def test_sets_without_a_loader_say_so_and_where_the_files_belong(monkeypatch):
    monkeypatch.delenv("MPNN_DATA", raising=False)
    with pytest.raises(NotImplementedError, match=r"'word-vectors' has a card but no loader yet.*glove\.twitter"):
        datasets.load("word-vectors")


def test_options_for_words_are_refused_elsewhere():
    with pytest.raises(ValueError, match="do not apply to 'mutag'"):
        datasets.load("mutag", normalize="row")


def test_other_counts_than_the_card_are_refused():
    data = datasets.parse.adjacency({0: [1]}, 2)
    graph = datasets.Data(edge_index=data, num_nodes=2, x=torch.ones(2, 1), y=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="'cora' has 2 nodes where the card says 2708"):
        datasets.check_counts("cora", graph)


@pytest.mark.parametrize("name", LOADED)
def test_every_set_loads_and_counts_what_its_card_says(name, mpnn_data):
    graphs = datasets.load(name, download=False)
    counts = datasets.card(name).counts
    assert {"nodes", "edges"} - set(counts) <= ({"edges"} if name == "camvid" else set())  # pixels have no edges yet
    assert {key: datasets.count(graphs)[key] for key in counts} == counts


def test_loading_leaves_mpnn_data_alone(mpnn_data):
    before = sorted(mpnn_data.rglob("*"))
    for name in ("cora", "mutag", "minesweeper"):
        datasets.load(name)
    assert sorted(mpnn_data.rglob("*")) == before


@pytest.mark.parametrize("name", ["Cora", "CiteSeer", "PubMed"])
def test_planetoid_equals_torch_geometric(name, peer_root):
    theirs = peers.Planetoid(peer_root("planetoid", name), name)[0]
    ours = datasets.load(name)
    same(ours, theirs)
    assert torch.equal(ours.edge_index, theirs.edge_index)  # their order, too


@pytest.mark.parametrize("name", ["Cora", "CiteSeer", "PubMed"])
def test_row_normalisation_equals_torch_geometric_on_planetoid(name, peer_root):
    theirs = T.NormalizeFeatures()(peers.Planetoid(peer_root("planetoid", name), name)[0])
    ours = datasets.load(name, normalize="row", sparse=False)
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-6, atol=0)


def test_citeseer_has_fifteen_test_ids_without_a_row(mpnn_data):
    data = datasets.load("citeseer", sparse=False)
    missing = (data.x.sum(dim=1) == 0) & ~data.test_mask
    assert int(missing[2312:].sum()) == 15 and data.y[2312:][missing[2312:]].eq(0).all()


def test_amazon_and_coauthor_equal_torch_geometric(peer_root):
    same(datasets.load("amazon-photo"), peers.Amazon(peer_root("amazon", "Photo"), "Photo")[0])
    same(datasets.load("coauthor-cs"), peers.Coauthor(peer_root("coauthor", "CS"), "CS")[0])


def test_coauthor_stays_sparse(mpnn_data):
    x = datasets.load("coauthor-physics").x
    assert x.layout == torch.sparse_csr and x.values().unique().tolist() == [1]


def test_heterophilous_equals_torch_geometric(peer_root):
    theirs = peers.HeterophilousGraphDataset(peer_root("heterophilous", "minesweeper"), "Minesweeper")[0]
    same(datasets.load("minesweeper"), theirs)


def test_one_of_ten_splits_is_a_partition(mpnn_data):
    data = datasets.split.given(datasets.load("actor"), 9)
    masks = data.train_mask.int() + data.val_mask.int() + data.test_mask.int()
    assert masks.eq(1).all()


@pytest.mark.parametrize("name", ["MUTAG", "Cuneiform", "ENZYMES"])
def test_tu_equals_torch_geometric(name, peer_root):
    theirs = peers.TUDataset(peer_root("tu", name), name, use_node_attr=True, use_edge_attr=True)
    ours = datasets.load(name)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)
        assert torch.equal(a.edge_index, b.edge_index)
        assert b.edge_attr is None or torch.equal(a.edge_attr, b.edge_attr)


def test_molecules_batch_without_moving_their_fields(mpnn_data):
    graphs = datasets.load("esol")
    batch = next(iter(DataLoader(graphs[:2], batch_size=2)))
    assert torch.equal(batch.x, torch.cat([graphs[0].x, graphs[1].x]))
    assert torch.equal(batch.edge_index[:, graphs[0].num_edges :] - graphs[0].num_nodes, graphs[1].edge_index)
    assert batch.y.shape == (2, 1)


def test_a_missing_set_names_the_place_for_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MPNN_DATA", str(tmp_path))
    monkeypatch.setattr(store, "home", lambda: tmp_path / "home")
    with pytest.raises(FileNotFoundError, match="home/amazon/Photo/raw/amazon_electronics_photo.npz"):
        datasets.load("amazon-photo")

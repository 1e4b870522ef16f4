import builtins
import gzip
import zipfile
from types import SimpleNamespace

import pytest
import torch

from mpnn.datasets import ogb, store

pytest.importorskip("ogb", reason="the ogb extra is not installed")

NODE_FILES = {
    "raw/edge.csv.gz": "0,1\n1,2\n3,0\n",
    "raw/num-node-list.csv.gz": "5\n",
    "raw/num-edge-list.csv.gz": "3\n",
    "raw/node-feat.csv.gz": "0.5,1\n1,0\n0,0\n2,2\n0,3\n",
    "raw/node-label.csv.gz": "0\n1\n0\n2\n1\n",
    "raw/node_year.csv.gz": "2001\n2002\n2003\n2004\n2005\n",
    "split/time/train.csv.gz": "3\n0\n",
    "split/time/valid.csv.gz": "1\n",
    "split/time/test.csv.gz": "2\n4\n",
}
GRAPH_FILES = {
    "raw/edge.csv.gz": "0,1\n0,1\n1,2\n",
    "raw/num-node-list.csv.gz": "2\n3\n",
    "raw/num-edge-list.csv.gz": "1\n2\n",
    "raw/node-feat.csv.gz": "5,0\n6,1\n7,0\n8,0\n9,1\n",
    "raw/edge-feat.csv.gz": "1\n2\n3\n",
    "raw/graph-label.csv.gz": "0\n1\n",
    "split/scaffold/train.csv.gz": "1\n",
    "split/scaffold/valid.csv.gz": "0\n",
    "split/scaffold/test.csv.gz": "0\n",
}


def write(folder, files, version=1):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / path, "wt") as stream:
            stream.write(text)
    (folder / f"RELEASE_v{version}.txt").write_text("")
    return folder


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """No $MPNN_DATA, an empty data folder, and no keyboard."""

    def asked(*args):
        raise AssertionError(f"asked on the keyboard: {args}")

    monkeypatch.delenv("MPNN_DATA", raising=False)
    monkeypatch.setattr(store, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(builtins, "input", asked)
    return tmp_path


def test_a_node_set_is_one_graph_with_its_split_in_masks(places):
    folder = write(places / "home/ogb/ogbn_arxiv", NODE_FILES)
    data = ogb.read("ogbn-arxiv", folder, ogb.information("ogbn-arxiv"))
    assert data.edge_index.tolist() == [[0, 1, 3], [1, 2, 0]]
    assert data.x.tolist() == [[0.5, 1], [1, 0], [0, 0], [2, 2], [0, 3]]
    assert data.y.tolist() == [[0], [1], [0], [2], [1]] and data.node_year[4].item() == 2005
    assert data.train_mask.tolist() == [True, False, False, True, False]
    assert data.val_mask.tolist() == [False, True, False, False, False]
    assert data.test_mask.tolist() == [False, False, True, False, True]
    assert data.num_nodes == 5


def test_the_second_load_reads_the_processed_file_under_safe_loading(places, monkeypatch):
    folder = write(places / "home/ogb/ogbn_arxiv", NODE_FILES)
    first = ogb.load("ogbn-arxiv")
    assert (folder / "processed").is_dir()
    seen = {}  # torch_geometric also reads its own pre_transform.pt
    plain = torch.load

    def load(path, *args, **kwargs):
        seen[getattr(path, "name", path)] = kwargs
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    assert torch.equal(ogb.load("ogbn-arxiv").x, first.x)
    assert seen[str(folder / "processed/geometric_data_processed.pt")].get("weights_only") is not False
    allowed = [getattr(item, "__name__", "") for item in torch.serialization.get_safe_globals()]
    assert "GlobalStorage" not in allowed  # nothing stays allowed afterwards


def test_a_graph_set_is_a_sequence_with_splits(places):
    write(places / "home/ogb/ogbg_molhiv", GRAPH_FILES)
    graphs = ogb.load("ogbg-molhiv")
    assert [graph.num_nodes for graph in graphs] == [2, 3]
    assert graphs[1].x.tolist() == [[7, 0], [8, 0], [9, 1]] and graphs[1].y.tolist() == [[1]]
    assert graphs[0].edge_index.tolist() == [[0, 1], [1, 0]]  # OGB's table asks for inverse edges
    parts = ogb.splits("ogbg-molhiv")
    assert {key: index.tolist() for key, index in parts.items()} == {"train": [1], "valid": [0], "test": [0]}
    assert len(graphs[parts["train"]]) == 1


def test_the_evaluator_is_ogbs_own(places):
    write(places / "home/ogb/ogbn_arxiv", NODE_FILES)
    y = ogb.load("ogbn-arxiv").y
    wrong = torch.zeros_like(y)
    assert ogb.evaluator("ogbn-arxiv").eval({"y_true": y, "y_pred": wrong}) == {"acc": pytest.approx(0.4)}


def test_mpnn_data_is_read_and_not_written(places, monkeypatch):
    folder = write(places / "given/ogb/ogbn_arxiv", NODE_FILES)
    monkeypatch.setenv("MPNN_DATA", str(places / "given"))
    (folder / "processed").mkdir()
    (folder / "processed/geometric_data_processed.pt").write_bytes(b"of an older version")
    before = sorted(folder.rglob("*"))
    assert ogb.load("ogbn-arxiv").num_nodes == 5
    assert sorted(folder.rglob("*")) == before
    assert (places / "home/ogb-processed/ogbn_arxiv/processed").is_dir()
    assert ogb.load("ogbn-arxiv").num_nodes == 5  # the links are there already


def test_another_release_is_an_error_and_no_question(places):
    write(places / "home/ogb/ogbn_arxiv", NODE_FILES, version=2)
    with pytest.raises(FileNotFoundError, match=r"no RELEASE_v1\.txt"):
        ogb.load("ogbn-arxiv")


def test_missing_raw_files_are_an_error_and_no_download(places):
    (places / "home/ogb/ogbn_arxiv").mkdir(parents=True)
    (places / "home/ogb/ogbn_arxiv/RELEASE_v1.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="has no raw"):
        ogb.load("ogbn-arxiv")


def test_no_network_says_where_the_folder_belongs(places, monkeypatch):
    import requests

    def no_network(*args, **kwargs):
        assert kwargs["timeout"] <= 60
        raise requests.ConnectionError("Network is unreachable")

    monkeypatch.setattr(requests, "head", no_network)
    with pytest.raises(FileNotFoundError, match="Network is unreachable") as caught:
        ogb.load("ogbn-arxiv")
    assert str(places / "home/ogb/ogbn_arxiv") in str(caught.value) and "arxiv.zip" in str(caught.value)


def test_a_large_archive_is_refused_with_its_size_and_the_way_out(places, monkeypatch):
    import requests

    class Answer:
        headers = {"Content-Length": str(3 * 2**30)}

    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: Answer)
    with pytest.raises(FileNotFoundError, match=r"3\.0 GiB.*download=True"):
        ogb.load("ogbn-products")


@pytest.mark.parametrize("size, download", [(1000, "auto"), (3 * 2**30, True)])
def test_a_small_archive_is_fetched_at_once_and_a_large_one_when_asked_for(places, monkeypatch, size, download):
    import pooch
    import requests

    archive = zipped(places)
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: SimpleNamespace(headers={"Content-Length": size}))
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: str(archive))
    assert ogb.load("ogbn-arxiv", download=download).num_nodes == 5 and not archive.exists()


def test_download_false_stays_off_the_network(places):
    with pytest.raises(FileNotFoundError, match="download=False"):
        ogb.load("ogbn-arxiv", download=False)


def zipped(places):
    """An archive as the address of the set has it."""
    source = write(places / "arxiv", NODE_FILES)
    archive = places / "home/ogb/ogbn_arxiv.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as stream:
        for path in source.rglob("*"):
            stream.write(path, path.relative_to(places))
    return archive


def test_an_archive_is_unpacked_under_the_name_of_the_set(places):
    ogb.unpack(zipped(places), "arxiv", places / "home/ogb/ogbn_arxiv")
    assert ogb.load("ogbn-arxiv").num_nodes == 5
    assert not (places / "home/ogb/ogbn_arxiv.part").exists()


def test_an_unknown_set_lists_those_there_are():
    with pytest.raises(KeyError, match="no 'ogbn-nothing'; expected one of ogbn-proteins"):
        ogb.load("ogbn-nothing")

import shutil

import numpy as np
import pytest
import scipy.sparse
import torch
import torch_geometric.datasets as peers

import mpnn.datasets as datasets
from mpnn.datasets import hetero
from mpnn.hetero import compose


def test_acm3025_has_the_papers_own_pairs_and_split():
    arrays = {
        "feature": np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8),
        "label": np.array([[0, 1], [1, 0], [0, 1]]),
        "PAP": np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]]),
        "PLP": np.eye(3),
        "train_idx": np.array([[2]]),
        "val_idx": np.array([[0]]),
        "test_idx": np.array([[1]]),
    }
    data = hetero.acm3025(arrays)
    assert data["paper"].x.tolist() == [[1, 0], [0, 1], [1, 1]] and data["paper"].y.tolist() == [1, 0, 1]
    assert data["paper"].train_mask.tolist() == [False, False, True]
    assert data["paper", "PAP", "paper"].edge_index.tolist() == [[0, 0, 1, 2], [0, 2, 1, 2]]
    assert hetero.count(data) == {
        "nodes": 3, "edges": 7, "features": 2, "classes": 2, "train": 1, "val": 1, "test": 1,
    }  # fmt: skip


def test_imdb4780_numbers_classes_from_0_and_names_its_meta_paths():
    adj = np.empty((1, 3), dtype=object)
    adj[0, :] = [scipy.sparse.eye(2), scipy.sparse.csr_matrix([[0, 1], [0, 0]]), scipy.sparse.csr_matrix((2, 2))]
    data = hetero.imdb4780({"X": np.ones((2, 1)), "Y": np.array([[3, 1]], dtype=np.uint8), "adj": adj})
    assert data["movie"].y.tolist() == [2, 0]
    assert [data["movie", name, "movie"].num_edges for name in ("MAM", "MDM", "MYM")] == [2, 1, 0]


def test_acm4019_has_edges_both_ways_and_three_splits():
    words = scipy.sparse.csr_matrix([[0.5, 0.5], [0, 1]])
    arrays = {
        "feat_data": words.data, "feat_indices": words.indices, "feat_indptr": words.indptr, "feat_shape": words.shape,
        "labels": np.array([1, 0], dtype=np.int8), "paper_author": np.array([[0, 2], [1, 0]]),
        "paper_subject": np.array([[1, 1]]), "num_nodes": np.array([2, 3, 2]),
    }  # fmt: skip
    for number, labels in enumerate((20, 40, 60)):
        arrays |= {f"train_{labels}": np.array([number % 2]), f"val_{labels}": np.array([], dtype=int)}
        arrays[f"test_{labels}"] = np.array([1 - number % 2])
    data = hetero.acm4019(arrays)
    assert data["paper", "to", "author"].edge_index.tolist() == [[0, 1], [2, 0]]
    assert data["author", "to", "paper"].edge_index.tolist() == [[2, 0], [0, 1]]
    assert data["author"].num_nodes == 3 and data["subject"].num_nodes == 2
    assert data["paper"].train_mask.tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize("name", ["DBLP", "IMDB"])
def test_magnns_sets_equal_torch_geometric(name, mpnn_data, tmp_path):
    shutil.copytree(mpnn_data / "hetero" / name / "raw", tmp_path / "raw")
    theirs = getattr(peers, name)(str(tmp_path))[0]
    ours = datasets.load(name.lower(), sparse=False)
    assert ours.node_types == theirs.node_types and set(ours.edge_types) == set(theirs.edge_types)
    for mine, other in zip(ours.node_stores, theirs.node_stores, strict=True):
        for key, value in other.items():
            assert torch.equal(mine[key], value) if isinstance(value, torch.Tensor) else mine[key] == value, key
    for kind in theirs.edge_types:
        assert torch.equal(ours[kind].edge_index, theirs[kind].edge_index), kind


def test_splits_of_dblp_are_disjoint_and_of_the_stated_sizes(mpnn_data):
    author = datasets.load("dblp")["author"]
    assert [int(author[f"hgb_{part}_mask"].sum()) for part in ("train", "test")] == [1217, 2840]
    sizes = {part: author[f"heco_{part}_mask"].sum(0).tolist() for part in ("train", "val", "test")}
    assert sizes == {"train": [80, 160, 240], "val": [1000] * 3, "test": [1000] * 3}
    assert int(sum(author[f"heco_{part}_mask"].int() for part in sizes).max()) == 1


def test_meta_paths_of_acm4019_are_as_many_as_its_source_says(mpnn_data):
    data = datasets.load("acm4019")
    nodes = {kind: data[kind].num_nodes for kind in data.node_types}
    for kind, expected in (("author", 57_853), ("subject", 4_338_213)):
        path = [("paper", "to", kind), (kind, "to", "paper")]
        assert compose(data.edge_index_dict, path, nodes)[0].shape[1] == expected


def test_subjects_of_acm3025_are_56_cliques(mpnn_data):
    src, dst = datasets.load("acm3025")["paper", "PLP", "paper"].edge_index
    first = torch.full((3025,), 3025).scatter_reduce(0, dst, src, "amin")  # the first paper of each one's subject
    assert len(first.unique()) == 56 and torch.equal(first[src], first[dst])
    assert len(src) == int((torch.bincount(first) ** 2).sum())


def test_bags_of_words_are_scaled_and_other_numbers_are_not(mpnn_data):
    data = datasets.load("dblp", normalize="row", sparse=False)
    total = data["author"].x.sum(1)  # some authors have no word
    assert torch.allclose(total, (total > 0).float()) and int((total > 0).sum()) > 3000
    assert torch.equal(data["term"].x, datasets.load("dblp")["term"].x)

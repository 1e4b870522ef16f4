import io
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch

from mpnn.datasets import parse

# A graph of 7 nodes: 2 labelled, 4 in allx, test ids 6 and 4 (5 has no row).
WORDS = scipy.sparse.csr_matrix(np.eye(4, 30, dtype=np.float32))
TEST_WORDS = scipy.sparse.csr_matrix(([5.0, 6.0], ([0, 1], [4, 5])), shape=(2, 30), dtype=np.float32)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str, as in the public files."""

    def save_str2(self, raw):
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(raw)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_str2}


def python2_pickle(value) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    new_names = {b"scipy.sparse._csr": b"scipy.sparse.csr", b"numpy._core.multiarray": b"numpy.core.multiarray"}
    raw = stream.getvalue()
    for new, old in new_names.items():
        raw = raw.replace(b"c" + new, b"c" + old)
    return raw


def planetoid_files() -> dict[str, bytes]:
    one_hot = np.eye(2, dtype=np.int32)
    items = {
        "x": WORDS[:2],
        "allx": WORDS,
        "tx": TEST_WORDS,
        "y": one_hot[[0, 1]],
        "ally": one_hot[[0, 1, 0, 1]],
        "ty": one_hot[[1, 0]],
        "graph": {0: [1, 1, 0], 1: [0, 6], 6: [1]},
    }
    return {**{key: python2_pickle(value) for key, value in items.items()}, "test.index": b"6\n4\n"}


def test_planetoid_puts_test_rows_at_their_ids_and_zeros_where_a_row_is_missing():
    data = parse.planetoid(planetoid_files())
    assert data.x.layout == torch.sparse_csr
    x = data.x.to_dense()
    assert x.shape == (7, 30)
    assert torch.equal(x[:4], torch.eye(4, 30))
    assert (x[6, 4], x[4, 5]) == (5, 6)  # rows of tx are in the order of test.index
    assert x[5].count_nonzero() == 0
    assert data.y.tolist() == [0, 1, 0, 1, 0, 0, 1]


def test_planetoid_edges_have_no_self_loops_and_no_doubles():
    edge_index = parse.planetoid(planetoid_files()).edge_index
    assert sorted(edge_index.t().tolist()) == [[0, 1], [1, 0], [1, 6], [6, 1]]


def test_planetoid_masks_are_the_public_split():
    data = parse.planetoid(planetoid_files())
    assert data.train_mask.nonzero().view(-1).tolist() == [0, 1]
    assert data.val_mask.nonzero().view(-1).tolist() == [2, 3, 4, 5, 6]  # the next 500, as far as there are any
    assert data.test_mask.nonzero().view(-1).tolist() == [4, 6]


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_that_names_a_function_is_refused_and_not_run(capsys):
    with pytest.raises(pickle.UnpicklingError, match="builtin.*print"):
        parse.unpickle(pickle.dumps(Evil(), protocol=2))
    assert capsys.readouterr().out == ""


def csr_arrays(matrix, key):
    matrix = scipy.sparse.csr_matrix(matrix)
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": np.array(matrix.shape)}
    return {f"{key}_{part}": value for part, value in parts.items()}


def test_gnn_benchmark_makes_edges_undirected_without_self_loops_and_counts_binary():
    adjacency = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    words = np.array([[0, 3, 0], [1, 0, 0], [0, 0, 0], [2, 2, 0]])  # the last one is in no node
    arrays = {**csr_arrays(adjacency, "adj"), **csr_arrays(words, "attr"), "labels": np.array([0, 1, 1, 0])}
    arrays |= {"attr_data": np.array([3, 1, 0, 2, 2]), "attr_indices": np.array([1, 0, 0, 0, 1])}  # a 0 is written down
    arrays["attr_indptr"] = np.array([0, 1, 2, 3, 5])
    data = parse.gnn_benchmark(arrays)
    assert sorted(data.edge_index.t().tolist()) == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert data.x.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert data.y.tolist() == [0, 1, 1, 0] and data.num_nodes == 4
    shares = parse.gnn_benchmark(arrays, normalize="row", sparse=True).x
    assert shares.layout == torch.sparse_csr and shares.to_dense()[3].tolist() == [0.5, 0.5, 0]


def test_heterophilous_adds_reverse_edges_and_keeps_one_column_a_split():
    masks = {f"{part}_masks": np.zeros((10, 3), dtype=bool) for part in ("train", "val", "test")}
    masks["train_masks"][4, 1] = True
    arrays = {"node_features": np.ones((3, 2), "float32"), "node_labels": np.array([0, 1, 0])}
    data = parse.heterophilous({**arrays, **masks, "edges": np.array([[0, 2]])})
    assert sorted(data.edge_index.t().tolist()) == [[0, 2], [2, 0]]
    assert data.train_mask.shape == (3, 10)
    assert data.train_mask.nonzero().tolist() == [[1, 4]]


TU = {
    "A": "1, 2\n2, 1\n4, 5\n5, 4\n5, 5\n",
    "graph_indicator": "1\n1\n1\n2\n2\n",
    "graph_labels": "1\n-1\n",
    "node_labels": "3\n5\n4\n3\n3\n",
    "node_attributes": "0.5, 1\n0, 1\n0, 1\n0, 1\n0, 2.5\n",
    "edge_labels": "0\n0\n1\n1\n0\n",
}


def test_tu_numbers_nodes_within_each_graph_and_drops_self_loops():
    first, second = parse.tu(TU)
    assert first.edge_index.tolist() == [[0, 1], [1, 0]]
    assert second.edge_index.tolist() == [[0, 1], [1, 0]]
    assert (first.num_nodes, second.num_nodes) == (3, 2)  # node 3 has no edge and is kept
    *_, third = parse.tu(TU | {"graph_labels": "1\n-1\n1\n"})
    assert third.num_nodes == 0 and third.edge_index.shape == (2, 0)


def test_tu_features_are_attributes_then_one_hot_labels():
    first, second = parse.tu(TU)
    assert first.x.tolist() == [[0.5, 1, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 1, 0]]
    assert second.x.tolist() == [[0, 1, 1, 0, 0], [0, 2.5, 1, 0, 0]]
    assert second.edge_attr.tolist() == [[0, 1], [0, 1]]


def test_tu_classes_are_numbered_from_zero():
    assert [graph.y.tolist() for graph in parse.tu(TU)] == [[1], [0]]


def test_tu_without_node_or_edge_files_still_has_its_nodes():
    first, second = parse.tu({key: TU[key] for key in ("A", "graph_indicator", "graph_labels")})
    assert first.x is None and first.edge_attr is None
    assert (first.num_nodes, second.num_nodes) == (3, 2)


def test_tu_names_an_edge_between_graphs_and_a_node_out_of_order():
    with pytest.raises(ValueError, match="line 2 joins graph 1 to graph 2"):
        parse.tu({**TU, "A": "1, 2\n3, 4\n"})
    with pytest.raises(ValueError, match="node 4 belongs to an earlier graph"):
        parse.tu({**TU, "graph_indicator": "1\n1\n2\n1\n2\n"})


def test_molecules_are_cut_at_their_offsets():
    arrays = {
        "x": np.arange(6, dtype="uint8").reshape(3, 2),
        "edge_index": np.array([[0, 1], [1, 0]], dtype="uint8"),
        "edge_attr": np.array([[1], [2]], dtype="uint8"),
        "node_ptr": np.array([0, 2, 3]),
        "edge_ptr": np.array([0, 2, 2]),
        "y": np.array([0.5, -1], dtype="float32"),
    }
    first, second = parse.molecules(arrays)
    assert first.x.tolist() == [[0, 1], [2, 3]] and second.x.tolist() == [[4, 5]]
    assert first.edge_index.dtype == torch.int64 and first.edge_attr.tolist() == [[1], [2]]
    assert second.edge_index.shape == (2, 0) and second.num_nodes == 1  # a molecule of one atom
    assert (first.y.tolist(), second.y.tolist()) == ([[0.5]], [[-1]])

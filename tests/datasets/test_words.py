import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import Batch, Data

from mpnn.datasets import features

COUNTS = [[0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0], [0] * 11, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]]


def test_few_words_give_a_csr_tensor_and_many_a_dense_one():
    assert features(COUNTS).layout == torch.sparse_csr  # 3 of 33 entries
    assert features([[1, 0], [1, 1]]).layout == torch.strided


def test_a_share_of_exactly_one_fifth_is_dense():
    assert features([[1, 0, 0, 0, 0]]).layout == torch.strided


def test_the_layout_can_be_forced_and_changes_no_value():
    for matrix in (COUNTS, [[1, 0], [1, 1]]):
        sparse, dense = features(matrix, sparse=True), features(matrix, sparse=False)
        assert sparse.layout == torch.sparse_csr and dense.layout == torch.strided
        assert torch.equal(sparse.to_dense(), dense)
        assert dense.dtype == sparse.dtype == torch.float32


def test_rows_are_divided_by_their_sum_and_empty_rows_stay():
    x = features(COUNTS, normalize="row", sparse=False)
    assert x.sum(dim=1).tolist() == [1, 0, 1]
    assert x[0, 1] == 0.5
    assert features([[1, -1], [3, 1]], normalize="row").tolist() == [[1, -1], [0.75, 0.25]]


def test_stored_zeros_and_doubles_are_merged():
    x = features(scipy.sparse.csr_matrix(([1.0, 2.0, 0.0], [3, 3, 2], [0, 2, 3]), shape=(2, 20)))
    assert x.values().tolist() == [3]


def test_the_matrix_of_the_caller_is_not_written_to():
    data = np.array([0, 1, 3], dtype="float32")
    matrix = scipy.sparse.csr_matrix((data, [0, 1, 2], [0, 3]), shape=(1, 3))
    features(matrix, sparse=True).values().zero_()
    assert data.tolist() == matrix.data.tolist() == [0, 1, 3]


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="normalize='column'"):
        features(COUNTS, normalize="column")
    with pytest.raises(ValueError, match="sparse='coo'"):
        features(COUNTS, sparse="coo")


def graph() -> Data:
    return Data(x=features(COUNTS), edge_index=torch.tensor([[0, 1], [1, 2]]))


def test_data_with_csr_features_can_be_moved_pickled_shallow_copied_and_shown():
    data = graph()
    assert data.num_nodes == 3 and data.num_features == 11
    assert "x=[3, 11]" in repr(data)
    for other in (data.to("cpu"), pickle.loads(pickle.dumps(data)), copy.copy(data), data.clone()):
        assert torch.equal(other.x.to_dense(), data.x.to_dense())


def test_data_with_csr_features_can_be_batched():
    batch = Batch.from_data_list([graph(), graph()])
    assert torch.equal(batch.x.to_dense(), torch.cat([features(COUNTS, sparse=False)] * 2))


def test_csr_features_give_a_linear_layer_its_gradient():
    linear = torch.nn.Linear(11, 2)
    linear(graph().x).sum().backward()
    assert torch.equal(linear.weight.grad, features(COUNTS, sparse=False).sum(dim=0).expand(2, 11))

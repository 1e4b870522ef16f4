import pytest
import torch
from hypothesis import given as randomly
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from mpnn.datasets import split


def assert_partition(masks, num_nodes):
    assert torch.equal(sum(mask.int() for mask in masks), torch.ones(num_nodes, dtype=torch.int32))


@randomly(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 100))
def test_per_class_takes_exactly_so_many_of_every_class(extra, seed):
    y = torch.tensor([0, 1, 2, 3] * 3 + extra)
    masks = split.per_class(y, seed, train=2, val=1)
    assert_partition(masks, len(y))
    assert torch.bincount(y[masks[0]]).tolist() == [2, 2, 2, 2]
    assert torch.bincount(y[masks[1]]).tolist() == [1, 1, 1, 1]


def test_without_numbers_it_is_20_and_30_of_a_class():
    train, val, _ = split.per_class(torch.arange(3).repeat(60), 0)
    assert (int(train.sum()), int(val.sum())) == (60, 90)


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    y = torch.arange(2).repeat(100)
    first, again, other = (split.per_class(y, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_generator_moves_on_and_the_global_one_stays():
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(0)
    first, second = (split.fractions(50, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="class 1 has 2 nodes"):
        split.per_class(torch.tensor([0, 0, 0, 1, 1]), 0, train=2, val=1)


@randomly(st.integers(0, 40), st.floats(0, 0.5), st.floats(0, 0.5))
def test_fractions_cover_all_nodes_once(num_nodes, train, val):
    masks = split.fractions(num_nodes, 0, train=train, val=val)
    assert_partition(masks, num_nodes)
    assert int(masks[0].sum()) == round(train * num_nodes)


@pytest.mark.parametrize("train, val", [(0.6, 0.5), (-0.1, 0.5), (0.5, -0.1)])
def test_shares_below_zero_and_above_one_are_refused(train, val):
    with pytest.raises(ValueError, match=f"train={train}, val={val}; expected shares of at least 0"):
        split.fractions(10, 0, train=train, val=val)


def many_splits() -> Data:
    masks = {f"{part}_mask": torch.eye(4, 3).roll(at, 0).bool() for at, part in enumerate(("train", "val", "test"))}
    return Data(x=torch.ones(4, 1), **masks)


def test_given_takes_one_column_of_every_mask_and_leaves_the_data_alone():
    data = many_splits()
    one = split.given(data, 2)
    assert [one[f"{part}_mask"].nonzero().item() for part in ("train", "val", "test")] == [2, 3, 0]
    assert data.train_mask.shape == (4, 3) and one.x is data.x
    assert Batch.from_data_list([one, one]).train_mask.shape == (8,)


def test_given_names_a_split_that_does_not_exist():
    with pytest.raises(ValueError, match="split 3 does not exist; expected 0 to 2"):
        split.given(many_splits(), 3)
    with pytest.raises(ValueError, match="train_mask"):
        split.given(Data(x=torch.ones(2, 1)), 0)
    with pytest.raises(ValueError, match=r"train_mask is not a mask of shape \(N, splits\)"):
        split.given(split.given(many_splits(), 2), 2)


@randomly(st.lists(st.integers(0, 2), min_size=4, max_size=40), st.integers(2, 4))
def test_k_folds_test_every_graph_once_and_share_the_classes(labels, k):
    y = torch.tensor(labels)
    folds = list(split.k_folds(y, 0, k=k))
    assert len(folds) == k
    assert torch.cat([test for _, test in folds]).sort().values.tolist() == list(range(len(y)))
    for train, test in folds:
        assert torch.cat([train, test]).sort().values.tolist() == list(range(len(y)))
        for label in y.unique():
            assert abs(int((y[test] == label).sum()) - int((y == label).sum()) / k) < 2


def test_k_folds_takes_graphs_too():
    graphs = [Data(y=torch.tensor([label])) for label in (0, 1, 0, 1)]
    for (train, test), (train2, test2) in zip(
        split.k_folds(graphs, 3, k=2), split.k_folds(torch.tensor([0, 1, 0, 1]), 3, k=2), strict=True
    ):
        assert torch.equal(train, train2) and torch.equal(test, test2)


def test_more_folds_than_graphs_are_refused():
    with pytest.raises(ValueError, match="k=10 for 3 graphs"):
        split.k_folds(torch.tensor([0, 1, 0]), 0)

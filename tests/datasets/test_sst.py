from collections import Counter

import pytest
import torch
from torch_geometric.data import Batch

import mpnn
from mpnn.datasets import sst
from mpnn.schedule import topological

LINES = "(3 (2 It) (4 (2 's) (3 good)))\n\n(2 (2 8\u00a01\\/2) (1 (0 -LRB-) (2 .)))\n"


def test_trees_have_a_sentiment_on_every_node_and_words_in_the_order_of_the_sentence():
    first, second = sst.trees(LINES)
    assert first.y.tolist() == [3, 2, 4, 2, 3] and first.word == [None, "It", None, "'s", "good"]
    assert first.edge_index.tolist() == [[1, 2, 3, 4], [0, 0, 2, 2]] and first.child.tolist() == [0, 1, 0, 1]
    assert second.word == [None, "8\u00a01\\/2", None, "-LRB-", "."]  # a no-break space is part of the word


def test_trees_batch_with_their_labels():
    first, second = sst.trees(LINES)
    batch = Batch.from_data_list([first, second])
    assert batch.y.tolist() == [3, 2, 4, 2, 3, 2, 2, 1, 0, 2] and batch.word == [first.word, second.word]
    assert topological(batch).tolist() == [2, 0, 1, 0, 0] * 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("(2 a)\n(5 b)", "dev: line 2: label '5'; expected a sentiment, 0 to 4, on every node. 1 of 1 nodes"),
        ("(2 a)\n\n(2 (2 b) (NP c))", "dev: line 3: label 'NP'"),
        ("(2 a", "dev: line 1: brackets: at the end of the text 1 brackets are still open"),
    ],
)
def test_a_line_that_is_no_tree_of_sentiments_is_an_error_that_names_it(text, message):
    with pytest.raises(ValueError, match=message):
        sst.trees(text, "dev")


def test_with_two_classes_neutral_phrases_are_ignored_and_neutral_sentences_left_out():
    given = sst.trees("(4 (1 a) (2 b))\n(2 (2 c) (0 d))\n(0 e)")
    chosen = sst.binary(given)
    assert [tree.y.tolist() for tree in chosen] == [[1, 0, -100], [0]]
    assert given[0].y.tolist() == [4, 1, 2]
    assert sst.binary(given, ignored=-1)[0].y.tolist() == [1, 0, -1]


def test_the_treebank_is_the_published_one(mpnn_data):
    parts = mpnn.datasets.load("sst")
    assert [len(parts[part]) for part in ("train", "val", "test")] == [8544, 1101, 2210]
    assert [len(sst.binary(parts[part])) for part in ("train", "val", "test")] == [6920, 872, 1821]
    roots = Counter(int(tree.y[0]) for tree in parts["test"])
    assert [roots[k] for k in range(5)] == [279, 633, 389, 510, 399]
    every = [tree for part in parts.values() for tree in part]
    words = Counter(word for tree in every for word in tree.word if word is not None)
    assert (sum(words.values()), len(words)) == (163_563 + 21_274 + 42_405, 21_701)
    assert sum("\u00a0" in word for tree in every for word in tree.word if word) == 3
    for tree in every[:500]:
        children = torch.bincount(tree.edge_index[1], minlength=tree.num_nodes)
        assert set(children.tolist()) <= {0, 2}
        assert [word is None for word in tree.word] == children.bool().tolist()

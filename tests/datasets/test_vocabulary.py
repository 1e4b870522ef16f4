import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from mpnn.datasets import Vocabulary, count


def test_words_are_numbered_by_frequency_then_by_name_and_rare_ones_are_unknown():
    known = Vocabulary([["b", "b", "c"], ["a", "a", "c", "d"]], min_count=2)
    assert known.words == ["<unk>", "a", "b", "c"]
    assert known(["c", "d", "a"]).tolist() == [3, 0, 1]
    assert list(known) == known.words and len(known) == 4


def test_a_text_that_holds_the_unknown_word_does_not_shift_numbers():
    known = Vocabulary([["<unk>", "a"]])
    assert known.words == ["<unk>", "a"] and known(["<unk>"]).tolist() == [0]


def test_known_vectors_go_to_their_words_and_others_are_drawn():
    known = Vocabulary(["abc"])
    table, found = known.embedding(["c", "x", "a"], np.arange(6, dtype=np.float16).reshape(3, 2))
    assert found.tolist() == [False, True, False, True]
    assert torch.equal(table.weight[known(["c", "a"])], torch.tensor([[0.0, 1.0], [4.0, 5.0]]))
    assert table.weight[2].abs().max() < 0.5 and table.weight[2].abs().min() > 0


def test_vectors_of_another_number_than_words_are_refused():
    with pytest.raises(ValueError, match="3 words, but 2 vectors"):
        Vocabulary(["abc"]).embedding(["a", "b", "c"], np.ones((2, 2)))


def test_graphs_in_parts_count_as_one_set_and_by_part():
    graph = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)
    assert count({"train": [graph, graph], "test": [graph]}) == {
        "graphs": 3, "nodes": 6, "edges": 3, "train": 2, "test": 1,
    }  # fmt: skip

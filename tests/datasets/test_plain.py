import lzma

import pytest

import mpnn
from mpnn.datasets import plain


def written(tmp_path, text: str) -> dict:
    path = tmp_path / "text.xz"
    path.write_bytes(lzma.compress(text.encode()))
    return plain.read({"text.xz": path})


def test_the_first_nine_tenths_are_for_training_and_nothing_is_lost(tmp_path):
    parts = written(tmp_path, "Who's there? Nay!\n\nEnd.")  # 23 characters
    (train,), (test,) = parts["train"], parts["test"]
    assert "".join(train.word) == "Who's there? Nay!\n\nE" and "".join(test.word) == "nd."
    assert train.num_nodes == 20 and test.num_nodes == 3


def test_a_text_is_a_chain_of_its_characters():
    data = plain.characters("a\nä")
    assert data.word == ["a", "\n", "ä"] and data.edge_index.tolist() == [[0, 1], [1, 2]]
    assert mpnn.datasets.Vocabulary([data.word])("ä?").tolist() == [3, 0]


@pytest.mark.parametrize("text", ["", "a"])
def test_very_short_texts_have_no_edge(text):
    assert plain.characters(text).num_edges == 0 and plain.characters(text).num_nodes == len(text)


def test_shakespeare_is_what_it_should_be(mpnn_data):
    parts = mpnn.datasets.load("char-lm")
    (train,), (test,) = parts["train"], parts["test"]
    assert (train.num_nodes, test.num_nodes) == (1_003_854, 111_540)
    known = mpnn.datasets.Vocabulary([train.word])
    assert len(known) == 66 and bool((known(test.word) > 0).all())
    assert "".join(train.word[:14]) == "First Citizen:"
    assert bool((test.edge_index.diff(dim=0) == 1).all()) and test.num_edges == 111_539

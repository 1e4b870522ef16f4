import lzma

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch

import mpnn
from mpnn.lattice import EDGES, Lexicon, jieba_words, lattice, levels, relations
from mpnn.loader import DataLoader
from mpnn.nn import LatticeLSTM

letters = st.text("ab", max_size=9)


@given(letters, st.lists(letters, max_size=6))
def test_a_lexicon_finds_every_place_where_a_word_stands_and_no_other(text, words):
    brute = [
        (first, last, text[first : last + 1])
        for first in range(len(text))
        for last in range(first + 1, len(text))
        if text[first : last + 1] in words
    ]
    lexicon = Lexicon(words)
    assert list(lexicon.matches(text)) == brute
    assert len(lexicon) == len({word for word in words if len(word) > 1})


@given(letters, st.lists(letters, max_size=6))
def test_a_lattice_has_the_characters_in_a_row_and_a_word_from_its_first_to_its_last(text, words):
    data = lattice(text, words)
    edges, found = relations(data), list(Lexicon(words).matches(text))
    assert data["character"].token == list(text) and data["word"].token == [word for *_, word in found]
    assert edges["next"].tolist() == [list(range(len(text) - 1)), list(range(1, len(text)))]
    assert edges["begins"].tolist() == [[first for first, *_ in found], list(range(len(found)))]
    assert edges["ends"].tolist() == [list(range(len(found))), [last for _, last, _ in found]]
    assert all(pair.dtype == torch.int64 for pair in edges.values())


def test_words_of_any_alphabet_are_found():
    assert lattice(["in", "New", "York", "City"], [("New", "York"), ("New", "York", "City")])["word"].token == [
        ("New", "York"),
        ("New", "York", "City"),
    ]
    assert lattice([3, 1, 4, 1], [[1, 4], (4, 1)])["word"].token == [[1, 4], (4, 1)]


def test_one_character_is_no_word_and_the_shortest_may_be_longer():
    assert len(Lexicon(["a", "", "ab", "ab"])) == 1
    assert lattice("abc", Lexicon(["ab", "abc"], shortest=3))["word"].token == ["abc"]
    with pytest.raises(ValueError, match="shortest=1; expected 2 or more"):
        Lexicon(["ab"], shortest=1)


def test_levels_let_every_source_fire_before_its_target_in_a_batch_and_back():
    batch = Batch.from_data_list([lattice("abab", ["ab", "bab"]), lattice("a", []), lattice("aab", ["aab", "ab"])])
    edges, C = relations(batch), batch["character"].num_nodes
    level = levels(batch)
    assert (level[edges["next"][0]] < level[edges["next"][1]]).all()
    assert (level[edges["begins"][0]] < level[C + edges["begins"][1]]).all()
    assert (level[C + edges["ends"][0]] < level[edges["ends"][1]]).all()


def test_the_loader_makes_batches_of_lattices():
    data = [lattice("abab", ["ab", "bab"]), lattice("b", ["ab"]), lattice("aab", ["aab", "ab"])]
    (batch,) = DataLoader(data, batch_size=3)
    assert [len(some) for some in batch["word"].token] == [3, 0, 2]
    assert relations(batch)["ends"].tolist() == [[0, 1, 2, 3, 4], [1, 3, 3, 7, 7]]


def graph_of(text, words):
    """The lattice as one would write it in networkx, with places as ids, nodes and edges in no good order."""
    graph = nx.DiGraph()
    for first, last, word in reversed(list(Lexicon(words).matches(text))):
        graph.add_node((first, last), kind="word", token=word)
    for k in reversed(range(len(text))):
        graph.add_node(k, kind="character", token=text[k])
    for first, last, _ in Lexicon(words).matches(text):
        graph.add_edge((first, last), last, relation="ends")
        graph.add_edge(first, (first, last), relation="begins")
    graph.add_edges_from(((k, k + 1) for k in range(len(text) - 1)), relation="next")
    return graph


@pytest.mark.parametrize("words", [["ab", "bab", "aba"], []], ids=["words", "no words"])
def test_a_networkx_graph_with_types_is_a_lattice(words):
    text = "abab"
    graph, ours = graph_of(text, words), lattice(text, words)
    data = mpnn.from_networkx(graph, node_type="kind", edge_type="relation")
    layer, vectors = LatticeLSTM(2, 4, bidirectional=True), {}

    def features(tokens):
        rows = [vectors.setdefault(token, torch.randn(2)) for token in tokens]
        return torch.stack(rows) if rows else torch.zeros(0, 2)

    expected, _ = layer(features(ours["character"].token), features(ours["word"].token), relations(ours))
    ids = {kind: mpnn.node_ids(data, kind) for kind in data.node_types}
    characters, found = (ids.get(kind, []) for kind in ("character", "word"))
    token = graph.nodes(data="token")
    h, _ = layer(
        features([token[k] for k in characters]), features([token[w] for w in found]), relations(data)
    )
    torch.testing.assert_close(h, expected[characters])


def test_other_types_of_edges_are_refused():
    graph = nx.DiGraph([("a", "b")])
    data = mpnn.from_networkx(graph, node_type=lambda node: "character", edge_type=lambda u, v: "after")
    with pytest.raises(ValueError, match="'after'.*none of a lattice's.*'next'"):
        relations(data)


def test_a_lattice_is_drawn(tmp_path):
    mpnn.draw(lattice("abab", ["ab", "bab"]), schedule="topological", path=tmp_path / "lattice.png")
    assert (tmp_path / "lattice.png").stat().st_size > 5_000


def test_the_words_of_jieba_are_those_of_the_lexicon_that_comes_with_resume(mpnn_data):
    pytest.importorskip("jieba")
    text = lzma.decompress(mpnn.datasets.files("resume-ner")["lexicon.txt.xz"].read_bytes()).decode("utf-8")
    given = {line.split()[0] for line in text.splitlines()}
    everything = list(jieba_words())
    assert len(everything) == 349_046 and given <= set(everything)
    assert "的" in jieba_words(10_000) and len(list(jieba_words(10_000))) < 2_000
    sentences = mpnn.datasets.load("resume-ner")["test"]
    ours, theirs = Lexicon(given), Lexicon(everything)
    for data in sentences[:50]:
        assert list(ours.matches(data.word)) == list(theirs.matches(data.word))


def test_without_jieba_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mpnn\[lattice\]'"):
        next(jieba_words())


def test_the_types_of_edges_say_what_they_join():
    for name, (source, relation, target) in EDGES.items():
        assert name == relation and {source, target} <= {"character", "word"}

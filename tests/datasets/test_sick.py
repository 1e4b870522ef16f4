import pytest
import torch
from torch_geometric.data import Batch

import mpnn
from mpnn.datasets import sick
from mpnn.loader import DataLoader

COLUMNS = ("toks", "parents", "rels", "cparents")
HEADER = ["id", "relatedness", "entailment", *(f"{side}_{name}" for side in "ab" for name in COLUMNS)]
LONG = ('"A" small dog runs', "3 3 4 0", "det amod nsubj root", "5 6 6 7 7 5 0")  # [A [small dog]] runs
SHORT = ("Dogs run", "2 0", "nsubj root", "3 3 0")
ONE = ("Run", "0", "root", "0")
RIGHT_FIRST = ("a b c d e", "2 0 2 2 2", "x x x x x", "9 7 7 6 6 8 8 9 0")


def table(*pairs) -> str:
    rows = [[str(k + 1), score, kind, *a, *b] for k, (score, kind, a, b) in enumerate(pairs)]
    return "\n".join("\t".join(row) for row in [HEADER, *rows])


def one(a, b):
    return sick.parse(table(("3.5", "NEUTRAL", a, b)))[0]


def test_a_pair_is_one_graph_of_two_dependency_trees():
    first, second = sick.parse(table(("3.5", "NEUTRAL", LONG, SHORT), ("5", "CONTRADICTION", ONE, ONE)))
    assert first.word == ['"A"', "small", "dog", "runs", "Dogs", "run"]  # quotes are part of words
    assert first.label == ["det", "amod", "nsubj", "root", "nsubj", "root"]
    assert first.edge_index.tolist() == [[0, 1, 2, 4], [2, 2, 3, 5]]
    assert first.sentence.tolist() == [0, 0, 0, 0, 1, 1] and first.root_index.tolist() == [3, 5]
    assert (first.y.tolist(), first.entailment.tolist(), first.pair) == ([3.5], [0], 1)
    assert second.edge_index.shape == (2, 0) and second.root_index.tolist() == [0, 1]
    assert second.entailment.tolist() == [2]


def test_a_line_ends_at_its_newline_whatever_stands_in_a_word():
    odd = ("two\x0cpages two\u2028lines", "2 0", "x root", "3 3 0")
    text = table(("3.5", "NEUTRAL", odd, ONE), ("4", "NEUTRAL", ONE, SHORT))
    for lines in (text, text + "\n", text.replace("\n", "\r\n")):
        first, second = sick.parse(lines)
        assert (first.word, second.word) == (["two\x0cpages", "two\u2028lines", "Run"], ["Run", "Dogs", "run"])


def test_phrases_are_binary_trees_whose_leaves_read_in_order_are_the_words():
    for a, b in [(LONG, SHORT), (SHORT, LONG), (ONE, LONG), (LONG, ONE), (ONE, ONE), (RIGHT_FIRST, SHORT)]:
        pair = one(a, b)
        tree = sick.constituency(pair)
        assert tree.num_nodes == 2 * pair.num_nodes - 2 == len(tree.word) and "label" not in tree
        children = {}
        for child, phrase, place in zip(*tree.edge_index.tolist(), tree.child.tolist()):
            children.setdefault(phrase, {})[place] = child
        assert all(set(places) == {0, 1} for places in children.values())

        def leaves(node, children=children):
            if node not in children:
                return [node]
            return [leaf for place in (0, 1) for leaf in leaves(children[node][place])]

        read = [leaves(root) for root in tree.root_index.tolist()]
        assert read[0] + read[1] == list(range(pair.num_nodes))
        assert len(read[0]) == len(a[0].split())
        assert torch.equal(*tree.sentence[tree.edge_index])  # no edge leads from one sentence into the other


def test_the_phrases_are_those_of_the_file():
    tree = sick.constituency(one(LONG, ONE))  # words 0 to 3, then 4; phrases in the order of the file
    assert tree.edge_index.tolist() == [[0, 1, 2, 3, 5, 6], [5, 6, 6, 7, 7, 5]]
    assert tree.child.tolist() == [0, 0, 1, 1, 0, 1]
    assert tree.root_index.tolist() == [7, 4]  # first the first sentence, whatever the numbers


def test_a_chain_does_not_lead_from_one_sentence_into_the_other():
    pair = sick.chain(one(LONG, SHORT))
    assert pair.edge_index.tolist() == [[0, 1, 2, 4], [1, 2, 3, 5]]
    assert pair.root_index.tolist() == [3, 5] and pair.first_index.tolist() == [0, 4]
    assert sick.chain(one(ONE, ONE)).root_index.tolist() == [0, 1]


@pytest.mark.parametrize("view", [lambda pair: pair, sick.constituency, sick.chain])
def test_in_a_batch_roots_follow_each_other_pair_by_pair(view):
    pairs = [view(one(LONG, SHORT)), view(one(ONE, RIGHT_FIRST))]
    batch = next(iter(DataLoader(pairs, 2, schedule="topological")))
    size = pairs[0].num_nodes
    assert batch.root_index.tolist() == [*pairs[0].root_index.tolist(), *(pairs[1].root_index + size).tolist()]
    assert torch.equal(batch.edge_index, Batch.from_data_list(pairs).edge_index) and batch.y.shape == (2,)
    roots = set(range(batch.num_nodes)) - set(batch.edge_index[0].tolist())
    assert set(batch.root_index.tolist()) == roots


@pytest.mark.parametrize(
    "b, message",
    [
        (("Dogs run", "2 0", "nsubj", "3 3 0"), "sentence b of pair 1 has 2 words, 1 relations, 2 heads and 3"),
        (("Dogs run", "2 0", "nsubj root", "3 3"), "sentence b of pair 1 has 2 words, 2 relations, 2 heads and 2"),
        (("Dogs run", "0 0", "root root", "3 3 0"), "pair 1 has 2 roots among its heads"),
        (("Dogs run", "2 0", "nsubj root", "0 3 0"), "pair 1 has 2 roots among its constituents"),
        (("Dogs run", "2 0", "nsubj root", "3 1 0"), "pair 1: expected phrases of two children"),
        (("a b c d", "2 0 2 2", "x x x x", "5 5 5 6 7 7 0"), "pair 1: expected phrases of two children"),
        (("Dogs run", "3 0", "nsubj root", "3 3 0"), "sentence b of pair 1: word 1 has head 3"),
    ],
)
def test_what_is_no_pair_of_trees_is_refused_by_its_number(b, message):
    with pytest.raises(ValueError, match=message):
        one(LONG, b)


def test_the_real_pairs_are_those_of_the_original_files(mpnn_data):
    parts = mpnn.datasets.load("sick")
    pairs = [pair for part in parts.values() for pair in part]
    assert [sum(int(pair.entailment) == k for pair in pairs) for k in (0, 1, 2)] == [5611, 2857, 1459]
    assert [sum(pair.num_nodes for pair in parts[part]) for part in parts] == [87089, 9884, 95218]
    assert len({word for pair in pairs for word in pair.word}) == 2408
    words, _ = mpnn.datasets.word_vectors("glove.840B.300d.sick")
    assert len({word for pair in pairs for word in pair.word} - set(words)) == 6
    for pair in parts["val"]:
        tree, line = sick.constituency(pair), sick.chain(pair)
        assert tree.num_edges == 2 * pair.num_edges == 2 * line.num_edges
        assert torch.bincount(tree.edge_index[1], minlength=tree.num_nodes).unique().tolist() == [0, 2]

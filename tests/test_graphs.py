import itertools
import random
import re

import networkx as nx
import pytest
import torch
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import brackets, chain, conllu, delays, grid, heads, relations, thread
from mpnn.schedule import CycleError, topological


def edges(edge_index):
    return [tuple(pair) for pair in edge_index.t().tolist()]


def test_a_chain_fires_one_node_a_level():
    for length in (0, 1, 2, 7):
        data = chain(length)
        assert edges(data.edge_index) == [(i, i + 1) for i in range(length - 1)]
        assert topological(data).tolist() == list(range(length))


def test_a_chain_of_negative_length_is_an_error():
    with pytest.raises(ValueError, match="chain: num_nodes=-1; expected 0 or more"):
        chain(-1)


@pytest.mark.parametrize("sizes", [(1,), (4,), (2, 3), (3, 1, 2), (2, 2, 2, 2), (0,), (0, 3), (2, 0)])
def test_a_grid_has_an_edge_to_the_next_node_along_each_dimension(sizes):
    data = grid(*sizes)
    places = list(itertools.product(*map(range, sizes)))
    assert [tuple(place) for place in data.position.tolist()] == places and data.num_nodes == len(places)
    steps = [tuple(int(e == d) for e in range(len(sizes))) for d in range(len(sizes))]
    found = [(places[j], places[i], d) for (j, i), d in zip(edges(data.edge_index), data.dimension.tolist())]
    onward = [(a, tuple(map(sum, zip(a, step))), d) for d, step in enumerate(steps) for a in places]
    assert found == [(a, b, d) for a, b, d in onward if b in places]


def test_a_turned_dimension_of_a_grid_leads_back():
    data, turned = grid(2, 3, 2), grid(2, 3, 2, turned=[0, 2])
    back = data.dimension != 1
    assert torch.equal(turned.dimension, data.dimension)
    assert torch.equal(turned.edge_index[:, back], data.edge_index[:, back].flip(0))
    assert torch.equal(turned.edge_index[:, ~back], data.edge_index[:, ~back])


@pytest.mark.parametrize(("sizes", "turned"), [((), []), ((2, -1), []), ((2, 3), [2])])
def test_a_grid_that_cannot_be_is_an_error(sizes, turned):
    with pytest.raises(ValueError, match=rf"grid: sizes {re.escape(str(sizes))}, turned .*; expected one size"):
        grid(*sizes, turned=turned)


# Brackets -------------------------------------------------------------------------------------------------------------


def written(tree, node=0):
    """The tree in brackets again."""
    children = [j for j, i in edges(tree.edge_index) if i == node]
    children.sort(key=lambda j: int(tree.child[j - 1]))
    inside = [tree.word[node]] if tree.word[node] is not None else [written(tree, j) for j in children]
    return f"({' '.join([tree.label[node], *inside])})"


@pytest.mark.parametrize(
    "text",
    [
        "(2 word)",
        "(3 (2 (2 The) (2 Rock)) (4 (3 (2 is) (4 destined)) (2 .)))",
        "(S (NP (DT the) (JJ old) (NN man)) (VP (VBD sat) (PP (IN on) (NP (PRP it)))) (. .))",
        "( (S (NP (-NONE- *)) (VP (VB go))))",
        "(2 (2 3\\/4) (2 -LRB-))",
    ],
)
def test_brackets_come_back(text):
    tree = brackets(text)
    assert written(tree) == text
    spread = text.replace("(", " (\n  ").replace(")", " ) ")
    assert written(brackets(spread)) == text or text.startswith("( ")
    assert (topological(tree)[0] > topological(tree)[1:]).all()


def test_only_ascii_white_space_parts_words():
    tree = brackets("(2\t(2 8\u00a01\\/2)\n(2\u2003 a\x85b\x1c))")
    assert tree.word == [None, "8\u00a01\\/2", "a\x85b\x1c"] and tree.label == ["2", "2", "2\u2003"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "there is no tree"),
        ("(a (b c)", "1 brackets are still open, the last one 'a'"),
        ("(a b))", "at character 5: '\\)' closes no bracket"),
        ("(a b) (c d)", "at character 6: a second tree begins"),
        ("(a b) c", "at character 6: 'c' is outside of all brackets"),
        ("(a b c)", "at character 5: node 'a' has the word 'c'"),
        ("(a b (c d))", "at character 5: node 'a' has the word 'b'"),
        ("(a (c d) b)", "at character 9: node 'a' has the word 'b'"),
    ],
)
def test_malformed_brackets_are_an_error_that_says_where(text, message):
    with pytest.raises(ValueError, match=message):
        brackets(text)


def test_deep_brackets_have_no_limit():
    tree = brackets("(a " * 5000 + "w" + ")" * 5000)
    assert edges(tree.edge_index) == [(i + 1, i) for i in range(4999)]
    assert mpnn.plan(tree, "topological").num_levels == 5000


def test_trees_batch_with_their_positions():
    first, second = brackets("(a (b c) (d e))"), brackets("(x (y z) (v (u w) (s t)))")
    batch = Batch.from_data_list([first, second])
    assert edges(batch.edge_index) == edges(first.edge_index) + [(j + 3, i + 3) for j, i in edges(second.edge_index)]
    assert batch.child.tolist() == [0, 1, 0, 1, 0, 1]
    assert batch.word == [first.word, second.word]


# Heads ----------------------------------------------------------------------------------------------------------------

SENTENCES = """# sent_id = 1
# text = Don't stop
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
2.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
3\tstop\tstop\tVERB\tVB\t_\t0\troot\t_\t_


1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
"""


def test_sentences_in_conllu_are_trees_of_their_words():
    first, second = conllu(SENTENCES)
    assert first.word == ["Do", "n't", "stop"] and first.tag == ["AUX", "PART", "VERB"]
    assert first.label == ["aux", "advmod", "root"]
    assert edges(first.edge_index) == [(0, 2), (1, 2)] and first.node_id.tolist() == [1, 2, 3]
    assert (second.num_nodes, second.num_edges, second.word) == (1, 0, ["Go"])
    assert conllu("") == []


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c"])
def test_a_word_may_hold_what_is_a_line_break_elsewhere(mark):
    (tree,) = conllu(f"# text = a{mark}b c\n1\ta{mark}b\t_\tX\t_\t_\t2\tdep\t_\t_\n2\tc\t_\tX\t_\t_\t0\troot\t_\t_")
    assert tree.word == [f"a{mark}b", "c"]


def test_lines_may_end_as_on_windows():
    plain, there = conllu(SENTENCES), conllu(SENTENCES.replace("\n", "\r\n"))
    assert [tree.word for tree in there] == [tree.word for tree in plain]
    (short,) = conllu("\r\n\r\n1\tGo\t_\tX\t_\t_\t0\troot\t_\t_\r\n\r\n")
    assert short.label == ["root"]


def test_heads_point_from_the_word_to_its_head():
    assert edges(heads([2, 0, 2, 3]).edge_index) == [(0, 1), (2, 1), (3, 2)]
    assert heads([]).num_nodes == 0


def test_a_head_outside_of_the_sentence_is_an_error_that_names_the_word():
    with pytest.raises(ValueError, match="heads: word 2 has head 4; expected 0 for the root, or a word, 1 to 3"):
        heads([0, 4, 1])
    with pytest.raises(ValueError, match="begins in line 10: word 1 has head 7"):
        conllu(SENTENCES.replace("VB\t_\t0\troot\t_\t_\n", "VB\t_\t7\troot\t_\t_\n").replace("VB\t_\t7", "VB\t_\t0", 1))


def test_heads_in_a_circle_are_an_error_that_shows_the_words_numbers():
    with pytest.raises(CycleError, match="2 -> 3 -> 2|3 -> 2 -> 3"):
        heads([0, 3, 2])


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 a b", "line 1 has 1 columns; expected 10"),
        ("2\ta\t_\t_\t_\t_\t0\troot\t_\t_", "line 1 has the number '2' and the head '0'; expected the number 1"),
        ("1\ta\t_\t_\t_\t_\t_\troot\t_\t_", "line 1 has the number '1' and the head '_'"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_it(line, message):
    with pytest.raises(ValueError, match=message):
        conllu(line)


# Threads --------------------------------------------------------------------------------------------------------------

LECTURE = [("t1", None, 1), ("t2", "t1", 2), ("t3", "t1", 3), ("t4", "t2", 4), ("t5", "t1", 5)]


def named(data):
    ids = data.node_id
    return {kind: {(ids[j], ids[i]) for j, i in edges(index)} for kind, index in relations(data).items()}


def test_the_lectures_thread_has_the_lectures_edges_in_whatever_order_it_is_given():
    expected = {
        "parent": {("t1", "t2"), ("t1", "t3"), ("t2", "t4"), ("t1", "t5")},
        "sibling": {("t2", "t3"), ("t3", "t5")},
    }
    for seed in range(5):
        shuffled = random.Random(seed).sample(LECTURE, len(LECTURE))
        assert named(thread(shuffled)) == expected
        assert thread(shuffled).node_id == [comment for comment, _, _ in shuffled]


def test_a_networkx_graph_with_parent_and_time_is_the_same_thread():
    graph = nx.Graph()
    for comment, parent, time in LECTURE:
        graph.add_node(comment, parent=parent, time=time)
    assert named(thread(graph)) == named(thread(LECTURE))
    del graph.nodes["t3"]["time"]
    with pytest.raises(ValueError, match="thread: node 't3' has no attribute 'time'"):
        thread(graph)


def test_equal_times_are_in_the_order_given_and_roots_are_siblings():
    data = thread([("a", None, 5), ("b", None, 5), ("c", None, 1)])
    assert named(data) == {"parent": set(), "sibling": {("c", "a"), ("a", "b")}}


def test_threads_batch():
    one, two = thread(LECTURE), thread(LECTURE[:3])
    batch = Batch.from_data_list([one, two])
    for kind, index in relations(batch).items():
        assert edges(index) == edges(relations(one)[kind]) + [(j + 5, i + 5) for j, i in edges(relations(two)[kind])]
    assert batch.num_nodes == 8


@pytest.mark.parametrize(
    "comments, message",
    [
        ([("a", None, 0), ("a", None, 1)], "the id 'a' comes twice, at 0 and at 1"),
        ([("a", None, 0), ("b", "gone", 1)], "comment 'b' replies to 'gone', which is not among the 2 comments"),
        ([("a", None, float("nan"))], "comment 'a' has the time nan"),
        ([("a", None, None)], "comment 'a' has the time None"),
    ],
)
def test_a_malformed_thread_is_an_error_that_names_the_comment(comments, message):
    with pytest.raises(ValueError, match=f"thread: {message}"):
        thread(comments)


def test_replies_in_a_circle_are_an_error_that_names_the_comments():
    with pytest.raises(CycleError, match="a -> b -> a|b -> a -> b"):
        thread([("a", "b", 0), ("b", "a", 1)])


def test_long_and_deep_threads_have_no_limit():
    deep = thread([(k, k - 1 if k else None, k) for k in range(5000)])
    wide = thread([(k, 0 if k else None, k) for k in range(5000)])
    assert mpnn.plan(relations(deep), "topological", 5000).num_levels == 5000
    assert mpnn.plan(relations(wide), "topological", 5000).num_levels == 5000
    assert mpnn.plan(chain(100_000), "topological").num_levels == 100_000
    assert torch.equal(relations(wide)["sibling"][1], torch.arange(2, 5000))


# Delays ---------------------------------------------------------------------------------------------------------------


def test_delays_lead_from_each_node_to_those_some_steps_on_in_sequences_of_any_length_and_order():
    lengths, name = (5, 1, 0, 8), torch.randperm(14, generator=torch.Generator().manual_seed(0))
    batch = Batch.from_data_list([chain(n) for n in lengths])
    edge_index, delay = delays(name[batch.edge_index], [2, 1, 4])
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    expected = [
        (int(name[t - k]), int(name[t]), k)
        for start, n in zip(starts, lengths, strict=False)
        for t in range(start, start + n)
        for k in (1, 2, 4)
        if t - k >= start
    ]
    assert sorted(zip(*edge_index.tolist(), delay.tolist(), strict=True)) == sorted(expected)


def test_delays_on_a_tree_away_from_the_root_come_from_ancestors():
    edge_index, delay = delays(torch.tensor([[0, 0, 1], [1, 2, 3]]), [2])
    assert edges(edge_index) == [(0, 3)] and delay.tolist() == [2]


def test_delays_of_nothing_are_nothing():
    for edge_index, lags in ((chain(0).edge_index, [1, 2]), (chain(1).edge_index, [1]), (chain(5).edge_index, [])):
        found, delay = delays(edge_index, lags)
        assert found.shape == (2, 0) and delay.shape == (0,) and found.dtype == delay.dtype == torch.long


def test_delays_need_one_predecessor_and_lags_of_a_step_or_more():
    with pytest.raises(ValueError, match=r"delays: node 2 has the predecessors \[0, 1\]; expected at most one"):
        delays(torch.tensor([[0, 1], [2, 2]]), [1])
    with pytest.raises(ValueError, match="delays: lag 0; expected 1 or more"):
        delays(chain(3).edge_index, [0, 1])


def test_what_is_no_size_no_head_and_no_edge_index_is_said_in_our_words():
    with pytest.raises(TypeError, match=r"chain: \[3, 4\] is no size; expected a whole number. Several chains"):
        chain([3, 4])
    with pytest.raises(TypeError, match=r"chain: 2.5 is no size"):
        chain(2.5)
    with pytest.raises(TypeError, match=r"grid: \(2, 3\) is no size; .*grid\(\*sizes\)"):
        grid((2, 3))
    with pytest.raises(TypeError, match="delays: edge_index is a Data; .*Pass data.edge_index"):
        delays(chain(5), [1, 2])
    for head in (["2", "0"], [None, 0], [[1], [0, 2]]):
        with pytest.raises(TypeError, match=r"heads: head is \[.*; expected a whole number for each word"):
            heads(head)
    assert chain(torch.tensor(3)).num_nodes == 3

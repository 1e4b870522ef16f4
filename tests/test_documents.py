import re
from pathlib import Path

import networkx as nx
import pytest
import torch

import mpnn
from mpnn.documents import document, shaded
from mpnn.loader import DataLoader

CAT = [["a", "cat", "sat"], ["it"], ["it", "slept"]]


def edges(data, *kind):
    return data[kind].edge_index.t().tolist()


def test_words_and_sentences_are_in_a_row_and_each_is_in_one_above():
    data = document(CAT)
    assert data["word"].word == ["a", "cat", "sat", "it", "it", "slept"]
    assert data.num_nodes_dict == {"word": 6, "sentence": 3, "document": 1}
    assert edges(data, "word", "next", "word") == [[0, 1], [1, 2], [4, 5]]
    assert edges(data, "word", "in", "sentence") == [[0, 0], [1, 0], [2, 0], [3, 1], [4, 2], [5, 2]]
    assert edges(data, "sentence", "next", "sentence") == [[0, 1], [1, 2]]
    assert edges(data, "sentence", "in", "document") == [[0, 0], [1, 0], [2, 0]]


def test_documents_batch_and_even_one_word_has_all_edge_types():
    (batch,) = DataLoader([document(CAT), document([["yes"]]), document(CAT[1:])], batch_size=3)
    assert batch.num_nodes_dict == {"word": 10, "sentence": 6, "document": 3}
    assert edges(batch, "word", "next", "word") == [[0, 1], [1, 2], [4, 5], [8, 9]]
    assert edges(batch, "sentence", "next", "sentence") == [[0, 1], [1, 2], [4, 5]]
    assert edges(batch, "sentence", "in", "document") == [[0, 0], [1, 0], [2, 0], [3, 1], [4, 2], [5, 2]]
    assert batch["sentence"].batch.tolist() == [0, 0, 0, 1, 2, 2]


def test_what_is_empty_is_named():
    with pytest.raises(ValueError, match="cv007 has no sentences"):
        document([], "cv007")
    with pytest.raises(ValueError, match="in cv007, sentence 2 of 3 has no words"):
        document([["a"], ["b"], []], "cv007")


def test_a_string_is_no_sentence():
    with pytest.raises(TypeError, match=r"sentence 1 is the string 'a cat'.*\.split\(\)"):
        document([["a"], "a cat"])


def test_a_typed_networkx_graph_is_the_same_document():
    graph, told = nx.DiGraph(), document(CAT)
    graph.add_node("it all", kind="document")
    for s, words in enumerate(CAT):
        for w, word in reversed(list(enumerate(words))):  # nodes in another order
            graph.add_node((s, w), kind="word", text=len(word))
            graph.add_edge((s, w), s, relation="in")
            if w + 1 < len(words):
                graph.add_edge((s, w), (s, w + 1), relation="next")
        graph.add_node(s, kind="sentence")
        graph.add_edge(s, "it all", relation="in")
        if s:
            graph.add_edge(s - 1, s, relation="next")
    source = {"word": "text", "sentence": None, "document": None}
    data = mpnn.from_networkx(graph, node_type="kind", edge_type="relation", x=source)
    assert set(data.edge_types) == set(told.edge_types) and data.num_nodes_dict == told.num_nodes_dict
    torch.manual_seed(0)
    layer = mpnn.nn.HierarchicalAttention(1, 4).double()
    lengths = {"word": torch.tensor([[len(word)] for word in told["word"].word]).double()}
    drawn = {"word": data["word"].x.double()[:, None]}
    assert not torch.equal(drawn["word"], lengths["word"])
    ours, theirs = (
        layer(x, some.edge_index_dict, some.num_nodes_dict)["document"] for x, some in ((drawn, data), (lengths, told))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_the_page_shades_a_word_by_its_own_and_its_sentences_weight():
    data = document([["<b>", "&"], ["fine"]])
    page = shaded(data, torch.tensor([0.25, 0.75, 1.0]), torch.tensor([0.64, 0.36]), "1 < 2", "so & so")
    shades = [float(part.split(")")[0].rpartition(",")[2]) for part in page.split("rgba(")[1:]]
    assert shades == pytest.approx([0.25 * 0.8 / 0.6, 1.0, 1.0], abs=1e-3)  # the largest is full
    assert [float(part.split("em")[0]) for part in page.split('<i style="width:')[1:]] == pytest.approx([4, 2.25])
    assert "&lt;b&gt;" in page and "<b>" not in page and "1 &lt; 2" in page and "so &amp; so" in page


def test_weights_of_another_document_are_refused():
    with pytest.raises(ValueError, match=r"weights of sentences have shape \(2,\); expected \(3,\)"):
        shaded(document(CAT), torch.ones(6), torch.ones(2))


def test_the_program_of_the_guide_runs():
    guide, names = Path(__file__).parent.parent / "docs" / "guide.md", {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", guide.read_text(), re.S) if "shaded" in text)
    exec(compile(program, "guide.md", "exec"), names)
    assert names["vectors"].shape == (2, 64) and torch.equal(*names["vectors"])
    assert names["page"].count("<span") == 8

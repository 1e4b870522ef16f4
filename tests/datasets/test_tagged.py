import lzma
import sys

import pytest
from torch_geometric.data import Batch

import mpnn
from mpnn.datasets import tagged
from mpnn.nn import forbidden_transitions

CHUNKS = "We PRP B-NP\nwon VBD B-VP\n. . O\n\n\nYes UH B-INTJ\n"


def packed(tmp_path, files):
    """Files as a card has them: by name, compressed."""
    for name, text in files.items():
        (tmp_path / name).write_bytes(lzma.compress(text.encode()))
    return {name: tmp_path / name for name in files}


def test_sentences_are_chains_with_a_list_for_each_column():
    first, second = tagged.columns(CHUNKS, ("word", "part_of_speech", "tag"))
    assert first.edge_index.tolist() == [[0, 1], [1, 2]] and first.num_nodes == 3
    assert first.word == ["We", "won", "."] and first.part_of_speech == ["PRP", "VBD", "."]
    assert first.tag == ["B-NP", "B-VP", "O"]
    assert second.num_nodes == 1 and second.edge_index.shape == (2, 0) and second.tag == ["B-INTJ"]
    assert Batch.from_data_list([first, second]).word == [first.word, second.word]


def test_windows_line_ends_a_missing_last_newline_and_words_that_are_spaces_are_read():
    spaces = ["a\u00a0b", "\u3000", "\u2028"]  # a no-break space, an ideographic one, a separator of lines
    (data,) = tagged.columns("\r\n".join(f"{word} O" for word in spaces), ("word", "tag"))
    assert data.word == spaces and data.tag == ["O"] * 3
    assert tagged.columns("", ("word", "tag")) == []


def test_a_line_with_other_columns_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"line 3 has 1 columns, 'c'; expected 2: word, tag, with ' ' between"):
        tagged.columns("a O\nb O\nc", ("word", "tag"))


def test_parts_are_told_by_the_names_of_their_files_and_other_files_left_out(tmp_path):
    names = ["lexicon.txt.xz", "dev.char.bmes.xz", "test.char.bmes.xz", "train.char.bmes.xz"]
    paths = packed(tmp_path, {name: f"{name[0]} S-LOC\n" for name in names})
    parts = tagged.read_bmes(paths)
    assert {part: some[0].word for part, some in parts.items()} == {"train": ["t"], "val": ["d"], "test": ["t"]}


def test_of_weibo_the_place_in_a_word_is_dropped(tmp_path):
    paths = packed(tmp_path, {"weiboNER_2nd_conll.dev.xz": "科0\tB-ORG.NAM\n技1\tI-ORG.NAM\n\ufffd\ufffd0\tO\n"})
    (data,) = tagged.read_weibo(paths)["val"]
    assert data.word == ["科", "技", "\ufffd"] and data.tag == ["B-ORG.NAM", "I-ORG.NAM", "O"]


def test_spans_count_if_ends_and_kind_are_right():
    true = [["B-X", "I-X", "O", "B-Y"], ["B-X", "B-X"]]
    assert tagged.entity_f1(true, true) == 100 and tagged.entity_f1([["O"]], [["O"]]) == 0
    assert tagged.entity_f1(true, [["B-X", "I-X", "I-X", "B-Y"], ["B-X", "I-X"]]) == pytest.approx(200 / 7)  # 1 of 4, 3
    assert tagged.entity_f1(true, [["B-Y", "I-Y", "O", "O"], ["O", "O"]]) == 0
    bmes = [["B-X", "M-X", "M-X", "E-X", "S-X", "B-X", "E-X"]]
    assert tagged.entity_f1(bmes, bmes) == 100
    assert tagged.entity_f1(bmes, [["B-X", "M-X", "E-X", "O", "S-X", "B-X", "E-X"]]) == pytest.approx(200 / 3)
    assert tagged.entity_f1([["B-X", "E-X"] * 2], [["B-X", "M-X", "B-X", "E-X"]]) == 100  # M may end one, as I may
    assert tagged.entity_f1(bmes, [["S-X"] * 7]) == pytest.approx(20)  # 1 of 3 found, 1 of 7 right


def test_without_seqeval_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(ImportError, match=r"needs the seqeval package; .*'mpnn\[tags\]'"):
        tagged.entity_f1([["O"]], [["O"]])


@pytest.mark.parametrize("name, kinds", [("conll2000", 23), ("resume-ner", 28), ("weibo-ner", 17)])
def test_the_tags_of_every_sentence_are_of_the_scheme_but_for_the_few_known(name, kinds, mpnn_data):
    parts = mpnn.datasets.load(name)
    tags = sorted({tag for some in parts.values() for data in some for tag in data.tag})
    number, K = {tag: k for k, tag in enumerate(tags)}, len(tags)
    forbidden = forbidden_transitions(tags, "BMES" if name == "resume-ner" else "BIO")
    rows = [[K, *(number[tag] for tag in data.tag), K] for some in parts.values() for data in some]
    wrong = sum(any(forbidden[a, b] for a, b in zip(row, row[1:])) for row in rows)
    assert (K, wrong) == (kinds, {"conll2000": 0, "resume-ner": 4, "weibo-ner": 12}[name])


def test_universal_dependencies_are_trees_with_tags(mpnn_data):
    parts = mpnn.datasets.load("ud-english-ewt")
    assert set(parts) == {"val", "test"} and len({tag for data in parts["test"] for tag in data.tag}) == 17
    data = parts["val"][0]
    assert data.num_edges == data.num_nodes - 1 == len(data.word) - 1

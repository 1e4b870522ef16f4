"""The script on named entities: what is the same in both models, what goes on after a kill, the picture."""

import json
import sys
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from run_scripts import killed, load, saving

from mpnn.lattice import lattice, relations


@pytest.fixture(scope="module")
def script():
    return load("lattice_ner")


@pytest.fixture
def corpus(script, mpnn_data):
    return read(script)


@cache
def read(script):
    return script.Corpus(script.Config(smoke=True))


def run(script, tmp_path, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lattice_ner", *arguments, "--json", str(tmp_path / "rows.json")])
    script.start(script.Config, script.main)
    return json.loads((tmp_path / "rows.json").read_text())


def test_both_models_start_from_the_same_vectors_of_characters(script, corpus):
    vectors = []
    for kind in ("character", "lattice"):
        torch.manual_seed(3)
        vectors.append(script.Tagger(corpus, kind, script.Config()).characters.weight)
    assert torch.equal(*vectors)
    assert vectors[0].var().item() == pytest.approx(1 / 50, rel=0.05)


def test_a_run_goes_on_where_it_was_killed(script, mpnn_data, tmp_path, monkeypatch):
    options = ("--smoke", "--model", "lattice", "--hidden", "16", "--out", str(tmp_path))
    figures = [f"{task}_{what}" for task in ("train", "tag") for what in (1, 32, "ratio")]
    monkeypatch.setattr(script, "speeds", lambda *_: dict.fromkeys(figures, 1.0))
    (whole,) = run(script, tmp_path, monkeypatch, *options)
    assert whole["mean"] >= 0 and not list(tmp_path.glob("lattice_ner-*/*.pt"))
    with killed():
        run(script, tmp_path, monkeypatch, *options)
    with saving() as epochs:
        (resumed,) = run(script, tmp_path, monkeypatch, *options)
    assert epochs == [2, 3]
    assert (resumed["by_seed"], resumed["val"], resumed["epoch"]) == (whole["by_seed"], whole["val"], whole["epoch"])


def test_the_tags_of_a_sentence_do_not_depend_on_its_batch(script, corpus):
    torch.manual_seed(0)
    model = script.Tagger(corpus, "lattice", script.Config(hidden=8)).double().eval()
    sentences = corpus.test[:6]
    together = model(script.collate(sentences, exclude_keys=["token"]))
    alone = [model(script.collate([data], exclude_keys=["token"])) for data in sentences]
    torch.testing.assert_close(together, torch.cat(alone))


def test_batches_are_of_sentences_of_about_as_many_characters(script, corpus):
    batches = list(corpus.loader(corpus.train, 32, shuffle=True).batch_sampler)
    assert sorted(k for batch in batches for k in batch) == list(range(len(corpus.train)))
    lengths = [[corpus.train[k]["character"].num_nodes for k in batch] for batch in batches]
    assert sum(max(some) - min(some) for some in lengths) <= max(map(max, lengths))


def test_words_add_what_the_difference_seed_by_seed_says(script, capsys):
    gain = script.compared({"by_seed": [90.0, 91.0, 92.0]}, {"by_seed": [91.0, 93.0, 91.0]})
    assert gain == {"mean": 0.667, "std": 1.528}
    assert "+0.67 +- 1.53 (2 of 3 seeds)" in capsys.readouterr().out


def test_speeds_are_of_training_and_tagging(script, corpus):
    out = script.speeds(script.Config(smoke=True, hidden=8), corpus, "character")
    assert out["tag_32"] > out["tag_1"] > 0 and out["train_32"] > out["train_1"] > 0
    assert out["tag_ratio"] == pytest.approx(out["tag_32"] / out["tag_1"], rel=0.01)
    assert out["train_ratio"] == pytest.approx(out["train_32"] / out["train_1"], rel=0.01)


def test_the_lattice_of_a_sentence_is_drawn(script, corpus, tmp_path):
    model = script.Tagger(corpus, "lattice", script.Config(hidden=8)).eval()
    path = script.picture(script.Config(out=tmp_path, hidden=8), corpus, model)
    assert path.stat().st_size > 20_000


def test_that_there_is_no_font_with_the_letters_is_said_once(script, corpus, tmp_path, monkeypatch):
    model = script.Tagger(corpus, "lattice", script.Config(hidden=8)).eval()
    monkeypatch.setattr(script, "FONT", "no_such_font")
    script.font.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            script.picture(script.Config(out=tmp_path, hidden=8), corpus, model)
    script.font.cache_clear()
    (told,) = [one for one in told if issubclass(one.category, UserWarning)]
    assert "pip install 'mpnn[lattice]'" in str(told.message)


def test_bars_of_words_do_not_lie_upon_each_other(script):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable

    data = lattice("abcabc", ["ab", "abc", "bca", "ca", "abcabc"])
    figure, ax = plt.subplots()
    script.draw_lattice(ax, data, [0.5] * data["word"].num_nodes, ["O"] * 6, ScalarMappable())
    boxes = [bar.get_bbox() for bar in ax.patches]
    assert len(boxes) == data["word"].num_nodes == 7
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    spans = zip(relations(data)["begins"][0].tolist(), relations(data)["ends"][1].tolist(), strict=True)
    assert [(round(box.x0 + 0.4), round(box.x1 - 0.4)) for box in boxes] == list(spans)
    plt.close(figure)


def test_sets_with_other_tags_are_taken(script, mpnn_data, tmp_path):
    config = replace(script.Config(), dataset="weibo-ner", smoke=True, out=tmp_path)
    corpus = script.Corpus(config)
    assert "B-PER.NAM" in corpus.tags and len(corpus.train) > 390 and len(corpus.words) > 100
    assert corpus.train[0]["character"].y.numel() == corpus.train[0]["character"].num_nodes

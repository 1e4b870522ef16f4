"""The models of scripts/sst.py: what they make of phrases, beside loops over single phrases."""


import pytest
import torch
from run_scripts import load
from torch import nn

from mpnn.datasets import Vocabulary, sst
from mpnn.loader import DataLoader

LINES = "(3 (2 It) (4 (2 's) (3 good)))\n(2 a)\n(1 (1 (2 not) (3 (2 a) (4 good))) (2 (2 one) (2 .)))"


@pytest.fixture(scope="module")
def script():
    return load("sst")


@pytest.fixture
def trees():
    return sst.trees(LINES)


def phrases(tree):
    """The words of each phrase, by a loop over the nodes."""
    words = [[word] if word else [] for word in tree.word]
    for child, parent in reversed(tree.edge_index.t().tolist()):
        words[parent] = words[child] + words[parent]
    return words


def run(script, kind, trees):
    """A model in evaluation mode with its batch of all trees, in float64, and the words' numbers."""
    known = Vocabulary([sst.plain(word) for word in tree.word if word] for tree in trees)
    torch.manual_seed(0)
    model = script.Net(kind, nn.Embedding(len(known), 6), 5, 3, 0.5).double().eval()
    data = [model.phrases.prepare(tree, known) for tree in trees]
    (batch,) = DataLoader(data, len(data), schedule=model.phrases.schedule)
    return model, batch, known


@pytest.mark.parametrize("kind", ["bag", "recnn", "bilstm", "torch", "tree-lstm"])
def test_every_phrase_has_a_score_and_its_label(script, trees, kind):
    model, batch, _ = run(script, kind, trees)
    assert model(batch).shape == (5 + 1 + 9, 3)
    assert batch.y.tolist() == [label for tree in trees for label in tree.y.tolist()]
    assert batch.root.nonzero().flatten().tolist() == [0, 5, 6]
    model(batch).sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters())


def test_the_bag_is_the_mean_of_the_phrases_words(script, trees):
    model, batch, known = run(script, "bag", trees)
    table = model.words.weight
    every = [words for tree in trees for words in phrases(tree)]
    expected = torch.stack([table[known(map(sst.plain, words))].mean(0) for words in every])
    torch.testing.assert_close(model.phrases.mean(model.words(batch.word), batch), expected)


def test_a_sentence_is_the_last_states_of_the_lstm_and_a_phrase_what_its_words_change(script, trees):
    model, batch, known = run(script, "bilstm", trees)
    theirs = nn.LSTM(6, 5, bidirectional=True).double()
    theirs.load_state_dict(model.phrases.layer.state_dict())
    expected = []
    for tree in trees:
        words = [word for word in tree.word if word]
        h, (last, _) = theirs(model.words(known(map(sst.plain, words))))
        up, down = (torch.cat([torch.zeros(1, 5), half]) for half in (h[:, :5], h[:, 5:].flip(0)))
        for k, phrase in enumerate(phrases(tree)):
            first = sum(word is not None for word in tree.word[:k])
            end, after = first + len(phrase), len(words) - first - len(phrase)
            expected.append(torch.cat([up[end] - up[first], down[len(words) - first] - down[after]]))
        torch.testing.assert_close(expected[-tree.num_nodes], last.flatten())
    torch.testing.assert_close(model.phrases(model.words(batch.word), batch), torch.stack(expected))


def test_the_lstm_of_torch_gives_the_same_phrases(script, trees):
    ours, batch, _ = run(script, "bilstm", trees)
    theirs, same, _ = run(script, "torch", trees)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(same), ours(batch), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["recnn", "tree-lstm"])
def test_a_phrase_of_a_tree_has_the_score_it_has_alone(script, trees, kind):
    model, batch, known = run(script, kind, trees)
    alone = sst.trees("(1 (2 not) (3 (2 a) (4 good)))\n(4 good)")
    data = [model.phrases.prepare(tree, known) for tree in alone]
    (small,) = DataLoader(data, 2, schedule="topological")
    torch.testing.assert_close(model(small), model(batch)[[7, 8, 9, 10, 11, 11]])


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(script, trees, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "embedding", lambda config, known: nn.Embedding(len(known), 6, sparse=True))
    config = script.Config(hidden=5, batch_size=2)
    parts = {"train": trees * 3, "val": trees, "test": trees}
    known = Vocabulary([sst.plain(word) for word in tree.word if word] for tree in trees)

    def outcome(path, *epochs):
        for last in epochs:
            torch.manual_seed(3)
            _, model = script.train(script.replace(config, epochs=last), "tree-lstm", parts, known, path)
        return torch.load(path, weights_only=True)["model"], model.state_dict()

    whole, parted = outcome(tmp_path / "whole.pt", 4), outcome(tmp_path / "parted.pt", 1, 3, 4)
    for one, other in zip(whole, parted, strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("task, classes", [("fine", 5), ("binary", 2)])
def test_the_picture_shows_a_sentence_with_both_sentiments(script, trees, tmp_path, task, classes):
    trees = sst.binary(trees) if task == "binary" else trees
    known = Vocabulary([sst.plain(word) for word in tree.word if word] for tree in trees)
    model = script.Net("tree-lstm", nn.Embedding(len(known), 6), 5, classes, 0.5).eval()
    path = script.picture(script.Config(task=task, out=tmp_path), model, trees, known)
    assert path.name == f"sst-{task}.png" and path.stat().st_size > 20_000

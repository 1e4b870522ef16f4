"""The script on sentence pairs: a batch is the pairs one by one, and a run that was cut off ends like any other."""


import pytest
import torch
import torch.nn.functional as F
from run_scripts import load

from mpnn.datasets import sick
from mpnn.graphs import chain, heads
from mpnn.loader import DataLoader

TABLE = """id relatedness entailment a_toks a_parents a_rels a_cparents b_toks b_parents b_rels b_cparents
1 3.25 NEUTRAL a,small,dog,runs 3,3,4,0 -,-,-,- 5,6,6,7,7,5,0 dogs,run 2,0 -,- 3,3,0
2 5 ENTAILMENT run 0 - 0 dogs,run 2,0 -,- 3,3,0
3 1 NEUTRAL a,dog,runs 2,3,0 -,-,- 4,4,5,5,0 run 0 - 0"""
WORDS = ["a", "small", "dog", "runs", "dogs", "run"]


@pytest.fixture(scope="module")
def script():
    return load("sick")


def pairs(view):
    """Three pairs, with tokens from 1, and 0 at phrases."""
    seen = [view(pair) for pair in sick.parse(TABLE.replace(" ", "\t").replace(",", " "))]
    for pair in seen:
        pair.token = torch.tensor([0 if word is None else WORDS.index(word) + 1 for word in pair.word])
    return seen


def model_of(script, kind, seed=0):
    torch.manual_seed(seed)
    what = script.MODELS[kind]
    table = torch.randn(len(WORDS) + 1, 4).index_fill(0, torch.tensor([0]), 0.0)
    width = {"mean": 4}.get(kind, what.width)
    return script.Relatedness(what.encoder(4), width, 6, table).double()


def loader(view, size, **options):
    return DataLoader(pairs(view), size, schedule="topological", exclude_keys=["word", "label", "phrase"], **options)


def sentence(kind, layer, table, words, head):
    """The vector of one sentence, from a graph of its own."""
    x = table[torch.tensor([WORDS.index(word) + 1 for word in words])]
    if kind == "mean":
        return x.mean(0)
    if kind == "dependency":
        return layer(x, heads(head).edge_index)[0][head.index(0)]
    h, _ = layer(x, chain(len(words)).edge_index)
    return h[-1] if kind == "lstm" else torch.cat([h[-1, :150], h[0, 150:]])


@pytest.mark.parametrize("kind", ["mean", "lstm", "bilstm", "dependency"])
def test_a_batch_of_pairs_is_the_loop_over_pairs_and_sentences(kind, script):
    model = model_of(script, kind)
    batch = next(iter(loader(script.MODELS[kind].view, 3)))
    rows = [dict(zip(TABLE.split("\n")[0].split(), line.split())) for line in TABLE.split("\n")[1:]]
    expected = []
    for row in rows:
        left, right = (
            sentence(
                kind, getattr(model.encoder, "layer", None), model.table, row[f"{side}_toks"].split(","),
                [int(head) for head in row[f"{side}_parents"].split(",")],
            )
            for side in "ab"
        )  # fmt: skip
        W, b = model.compare.weight, model.compare.bias
        half = W.shape[1] // 2
        hidden = torch.sigmoid(W[:, :half] @ (left * right) + W[:, half:] @ (left - right).abs() + b)
        expected.append(F.softmax(model.score.weight @ hidden + model.score.bias, dim=0))
    torch.testing.assert_close(model(batch).exp(), torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_a_phrase_has_no_input_and_its_children_have_their_sides(script):
    model = model_of(script, "constituency")
    layer = model.encoder.layer
    batch = next(iter(loader(sick.constituency, 3)))
    x = torch.zeros(7, 4, dtype=torch.double)  # words a, small, dog, runs, then [small dog], [a [small dog]], all
    x[:4] = model.table[1:5]
    edges = torch.tensor([[1, 2, 0, 4, 5, 3], [4, 4, 5, 5, 6, 6]])
    h, _ = layer(x, edges, torch.tensor([0, 1, 0, 1, 0, 1]))
    ours = model.encoder(F.embedding(batch.token, model.table), batch)
    torch.testing.assert_close(ours[0], h[6], rtol=1e-10, atol=1e-12)
    for k in range(3):  # a pair alone
        alone = next(iter(DataLoader([pairs(sick.constituency)[k]], 1, schedule="topological", exclude_keys=["word"])))
        torch.testing.assert_close(model(batch)[k], model(alone)[0], rtol=1e-10, atol=1e-12)


def test_the_target_is_a_distribution_over_the_two_nearest_scores_with_the_right_mean(script):
    y = torch.tensor([1.0, 3.25, 4.5, 5.0])
    expected = [[1, 0, 0, 0, 0], [0, 0, 0.75, 0.25, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 1]]
    assert script.target(y).tolist() == expected
    assert torch.equal(script.target(y) @ script.SCORES, y)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(script, tmp_path):
    def run(checkpoint, epochs, seed):
        model = model_of(script, "dependency").float()
        torch.manual_seed(seed)
        parts = {"train": loader(lambda pair: pair, 1, shuffle=True), "val": loader(lambda pair: pair, 3)}
        return script.train(script.Config(epochs=epochs), model, parts, tmp_path / checkpoint)

    whole = run("whole.pt", 4, seed=1)
    run("cut.pt", 2, seed=1)
    again = run("cut.pt", 4, seed=2)  # the seed of a process that goes on does not matter
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_evaluation_sees_running_means_of_the_weights(script, tmp_path):
    batch = next(iter(loader(lambda pair: pair, 3)))
    model = model_of(script, "dependency").float()
    smoothed = script.Smoothed(model, 0.75)
    smoothed.step()  # the first step is taken as it is
    first = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    smoothed.step()
    for mean, p in zip(smoothed.mean.parameters(), first, strict=True):
        torch.testing.assert_close(mean, p + 0.25)
    assert torch.equal(smoothed.train()(batch), model(batch)) and not torch.equal(smoothed.eval()(batch), model(batch))
    plain = script.Smoothed(model, 0.0)
    plain.step()
    assert torch.equal(plain.eval()(batch), model(batch))

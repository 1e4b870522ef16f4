"""What scripts/documents.py does around its models."""


import pytest
import torch
from run_scripts import load

from mpnn.datasets import Vocabulary
from mpnn.documents import document
from mpnn.loader import DataLoader


@pytest.fixture(scope="module")
def script():
    return load("documents")


def review(k, sentences=(("good", "film"), ("so", "good"))):
    data = document(sentences, f"review {k}")
    data.y, data.fold, data.rating, data.name = *torch.tensor([[k % 2], [1 + k % 10], [k]]), f"review {k}"
    return data


def test_every_review_is_tested_once_and_none_is_in_two_parts(script, monkeypatch):
    reviews = [review(k) for k in range(40)]
    monkeypatch.setattr(script, "load", lambda name, words: reviews)
    tested = []
    for seed in range(10):
        parts = script.parts_of(script.Config(dataset="movie-reviews"), seed)
        assert {part: len(some) for part, some in parts.items()} == {"train": 32, "val": 4, "test": 4}
        assert sorted(data.name for some in parts.values() for data in some) == sorted(data.name for data in reviews)
        tested += [data.name for data in parts["test"]]
    assert len(set(tested)) == 40


def test_a_tenth_of_the_training_reviews_of_imdb_chooses(script, monkeypatch):
    whole = {"train": [review(k) for k in range(30)], "test": [review(k) for k in range(30, 40)]}
    monkeypatch.setattr(script, "load", lambda name, words: whole)
    parts = [script.parts_of(script.Config(dataset="imdb-reviews"), seed) for seed in (0, 0, 1)]
    names = [{data.name for data in some["val"]} for some in parts]
    assert names[0] == names[1] != names[2] and len(names[0]) == 3
    assert names[0].isdisjoint(data.name for data in parts[0]["train"]) and len(parts[0]["train"]) == 27
    assert parts[0]["test"] == whole["test"]


@pytest.mark.parametrize(("words", "left"), [(1, 1), (3, 1), (4, 1), (5, 2), (9, 2), (10, 3), (99, 3)])
def test_of_a_long_document_whole_sentences_at_the_end_are_read(script, words, left):
    sentences = [["a", "b", "c", "d", "e"], ["f"], ["g", "h", "i", "j"]]
    short = script.ending(review(3, sentences), words)
    assert short["sentence"].num_nodes == left and short["document"].num_nodes == 1
    assert short["word"].word == [word for sentence in sentences[-left:] for word in sentence]
    assert (short.name, short.y, short.fold, short.rating) == ("review 3", 1, 4, 3)


def test_all_models_see_the_same_words_and_a_batch_is_its_documents(script):
    reviews = [review(0), review(1, [["bad"], ["bad", "bad", "film"]]), review(2, [["good"]])]
    known = Vocabulary([data["word"].word for data in reviews])
    for kind, model_class in script.MODELS.items():
        torch.manual_seed(0)
        table = torch.nn.Embedding(len(known), 6)
        model = model_class(script.Words(table, 0.5), 4, 2, 0.5).double().eval()
        data = [model.prepare(one, known) for one in reviews]
        (batch,) = DataLoader(data, 3, schedule=model.schedule)
        alone = [model(one) for one in DataLoader(data, 1, schedule=model.schedule)]
        torch.testing.assert_close(model(batch), torch.cat(alone), rtol=1e-10, atol=1e-12, msg=kind)
        number = batch["word"].number if kind == "han" else batch.number
        assert [known[n] for n in number.tolist()] == [word for one in reviews for word in one["word"].word]


def test_the_error_of_ratings_is_that_of_the_expected_one(script):
    class Sure(torch.nn.Module):
        def forward(self, batch):
            return torch.tensor([[0.0] * 8, [-99.0] * 7 + [99.0]])  # all alike: 5.5 on average; surely 10

    class Batch:
        y = torch.tensor([3, 7])  # 4 and 10

    found = script.figures(Sure(), [Batch], True)
    assert found["mse"] == pytest.approx((1.5**2 + 0) / 2) and found["accuracy"] == 50
    assert found["mse_likeliest"] == pytest.approx((3**2 + 0) / 2)

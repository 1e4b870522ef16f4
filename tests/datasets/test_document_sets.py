import json
import lzma
from collections import Counter

import mpnn.datasets as datasets
from mpnn.datasets import documents
from mpnn.loader import DataLoader


def file(folder, name, rows):
    path = folder / name
    path.write_bytes(lzma.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")))
    return {name: path}


def test_words_are_parted_from_signs_and_contractions():
    assert documents.words("They'll CAN'T, won’t!") == ["they", "'ll", "ca", "n't", ",", "wo", "n’t", "!"]
    assert documents.words("the 'real' O'Hara's $3.5") == [
        "the", "'", "real", "'", "o", "'", "hara", "'s", "$", "3", ".", "5",
    ]  # fmt: skip


def test_a_movie_review_has_its_label_and_fold(tmp_path):
    rows = [
        {"id": "cv1", "fold": 7, "label": 1, "sents": ["it 's good .", "very"]},
        {"id": "cv2", "fold": 8, "label": 0, "sents": ["a line\u2028break"]},
    ]
    one, two = documents.read_movie_reviews(file(tmp_path, "movie_reviews.jsonl.xz", rows))
    assert one["word"].word == ["it", "'s", "good", ".", "very"] and one["sentence"].num_nodes == 2
    (batch,) = DataLoader([one, two], batch_size=2)
    assert batch.y.tolist() == [1, 0] and batch.fold.tolist() == [7, 8] and batch.name == ["cv1", "cv2"]


def test_ratings_of_imdb_are_numbered_without_those_that_are_not_there(tmp_path):
    paths = {}
    for part, ratings in (("train", range(1, 11)), ("test", [10])):
        rows = [{"id": f"{r}", "rating": r, "sents": ["Fine!", "  "]} for r in ratings if r not in (5, 6)]
        paths |= file(tmp_path, f"imdb.{part}.jsonl.xz", rows)
    parts = documents.read_imdb(paths)
    assert [(int(data.y), int(data.rating)) for data in parts["train"]] == list(enumerate([1, 2, 3, 4, 7, 8, 9, 10]))
    assert [data["word"].word for data in parts["test"]] == [["fine", "!"]]


def test_folds_and_ratings_are_balanced(mpnn_data):
    folds = Counter((int(data.fold), int(data.y)) for data in datasets.load("movie-reviews"))
    assert folds == {(fold, label): 100 for fold in range(1, 11) for label in (0, 1)}
    parts = datasets.load("imdb-reviews")
    for part, each in (("train", 500), ("test", 250)):
        ratings = Counter(int(data.rating) for data in parts[part])
        assert ratings == dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 10), each)

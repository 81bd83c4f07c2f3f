"""Labelled texts as reviews, and reviews as token ids."""

import json

import numpy as np
import pytest

from gptft import Tokenizer
from gptft.data.imdb import IMDbDataset, Review, load_reviews
from gptft.errors import DataError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def folder(path, train, val, test):
    for name, rows in (("train", train), ("val", val), ("test", test)):
        jsonl(path / f"{name}.jsonl", rows)
    return path


def rows(labels, prefix="text"):
    return [{"text": f"{prefix} {i}", "label": label} for i, label in enumerate(labels)]


# ---------------------------------------------------------------- load_reviews


def test_the_bundled_sample():
    """Counts as the samples' README states them; each split balanced, the challenge set apart."""
    reviews = load_reviews()
    assert reviews.classes == ["neg", "pos"] and reviews.name == "sample"
    counts = {
        split: np.bincount([review.label for review in of]).tolist()
        for split, of in reviews.splits.items()
    }
    assert counts == {
        "train": [240, 240],
        "val": [60, 60],
        "test": [100, 100],
        "implied": [320, 320],
    }
    assert "Predictable from start to finish" in reviews.splits["train"][0].text
    assert reviews.splits["train"][0].label == 0


def test_classes_are_in_the_order_a_person_expects(tmp_path):
    """Sorted as strings, class 10 would stand before class 2 and every name after it would be wrong."""
    held = rows([2, 10])
    integers = load_reviews(folder(tmp_path, rows([10, 2, -1, 2]), held, held))
    assert integers.classes == ["-1", "2", "10"]
    assert [review.label for review in integers.splits["train"]] == [2, 1, 0, 1]
    names = load_reviews(folder(tmp_path, rows(["sad", "glad", "10"]), rows(["sad"]), rows(["10"])))
    assert names.classes == ["10", "glad", "sad"]
    assert [review.label for review in names.splits["train"]] == [2, 1, 0]


def test_csv_and_jsonl_name_the_same_classes(tmp_path):
    """CSV knows only strings: "1" there and 1 in JSON must be one class."""
    folder(tmp_path, rows([0, 1]), rows([1]), rows([0]))
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "test.csv").write_text("label,text\n 1 ,a\n0,b\n", encoding="utf-8")
    assert [review.label for review in load_reviews(tmp_path).splits["test"]] == [1, 0]


def test_ids(tmp_path):
    """Predictions are compared between runs by id: own ids are kept, others are the line numbers."""
    train = [{"id": "a", "text": "x", "label": 0}, {"id": 7, "text": "y", "label": 1}]
    reviews = load_reviews(folder(tmp_path, train, rows([0, 1]), rows([1])))
    assert reviews.splits["train"] == [Review("a", 0, "x"), Review(7, 1, "y")]
    assert [review.id for review in reviews.splits["val"]] == [1, 2]


def test_class_names_of_a_folder(tmp_path):
    """A prepared folder says what 0 and 1 mean; names that don't fit the labels are an error, not a guess."""
    folder(tmp_path, rows([0, 1]), rows([0]), rows([1]))
    (tmp_path / "classes.json").write_text('["down", "up"]', encoding="utf-8")
    assert load_reviews(tmp_path).classes == ["down", "up"]
    for content in ('["down"', '{"0": "down"}', '["a", "a"]', '["a", "b", "c"]', "[0, 1]"):
        (tmp_path / "classes.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="classes.json; repair or remove it"):
            load_reviews(tmp_path)


BAD = [  # train, val, test, message
    (
        rows([0, 0]),
        rows([0]),
        rows([0]),
        "only one class \\('0'\\) in the training data, .*train.jsonl",
    ),
    (
        rows([0, 1]),
        rows([0, 2]),
        rows([1]),
        "label '2' never occurs in the training data, .*val.jsonl, line 2.*: 0, 1",
    ),
    (
        rows([0, 1]),
        rows([0]),
        [{"text": "a", "label": 1}, {"label": 1}],
        "no field 'text', .*test.jsonl, line 2",
    ),
    (
        [{"id": 3, **row} for row in rows([0, 1])],
        rows([0]),
        rows([1]),
        "id 3 is used twice, .*line 2 .before: .*1",
    ),
    (
        [{"id": 1.5, **row} for row in rows([0, 1])],
        rows([0]),
        rows([1]),
        "id is neither .*train.jsonl, line 1",
    ),
]


@pytest.mark.parametrize("train, val, test, message", BAD)
def test_bad_reviews(tmp_path, train, val, test, message):
    """What would give a wrong number in silence is refused with file and line."""
    with pytest.raises(DataError, match=message):
        load_reviews(folder(tmp_path, train, val, test))


# ---------------------------------------------------------------- IMDbDataset


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


TEXTS = [
    "one two three four five six seven eight nine ten",
    "short",
    "one two three four five six seven eight",
]
REVIEWS = [Review(i, i % 2, text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    "truncate, kept",
    [
        ("head", "one two three four five six seven eight"),
        ("tail", " three four five six seven eight nine ten"),
        (
            "head+tail",
            "one two five six seven eight nine ten",
        ),  # the first quarter and the last three quarters of eight
    ],
)
def test_truncation(tokenizer, truncate, kept):
    """Each of these words is one token. Cut at the wrong end, a model never sees the verdict."""
    dataset = IMDbDataset(REVIEWS, tokenizer, max_length=8, truncate=truncate)
    assert [tokenizer.decode(list(ids)) for ids, _ in dataset] == [kept, TEXTS[1], TEXTS[2]]
    assert [label for _, label in dataset] == [0, 1, 0] == dataset.labels.tolist()
    assert [len(ids) for ids, _ in dataset] == dataset.lengths.tolist() == [8, 1, 8]
    assert (
        len(dataset) == 3 and dataset.labels.dtype == np.int64 and dataset[0][0].dtype == np.uint16
    )


@pytest.mark.parametrize("truncate", ["head", "tail", "head+tail"])
def test_no_length_is_exceeded(tokenizer, truncate):
    """`ids[-0:]` is everything: the shortest lengths are where slices go wrong."""
    for max_length in range(1, 12):
        dataset = IMDbDataset(REVIEWS, tokenizer, max_length, truncate)
        assert (
            [len(ids) for ids, _ in dataset]
            == [min(n, max_length) for n in (10, 1, 8)]
            == dataset.lengths.tolist()
        )


def test_no_limit(tokenizer):
    dataset = IMDbDataset(REVIEWS, tokenizer)
    assert [tokenizer.decode(list(ids)) for ids, _ in dataset] == TEXTS


def test_bad_arguments(tokenizer):
    for arguments in ({"truncate": "middle"}, {"max_length": 0}):
        with pytest.raises(ValueError, match="must be"):
            IMDbDataset(REVIEWS, tokenizer, **arguments)

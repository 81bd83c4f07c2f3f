"""Labelled texts as reviews, and reviews as token ids."""

import numpy as np
import pytest
from script_runs import write_rows

from gptft.data.classification import IMDbDataset, Review
from gptft.data.examples import load_reviews
from gptft.errors import DataError
from gptft.predict import read_texts


def folder(path, train, val, test):
    for name, rows in (("train", train), ("val", val), ("test", test)):
        write_rows(path / f"{name}.jsonl", rows)
    return path


def rows(*labels, **more):
    return [{"text": f"text {i}", "label": label, **more} for i, label in enumerate(labels)]


# ---------------------------------------------------------------- load_reviews


def test_the_bundled_sample():
    """The counts that the samples' README states. The reviews of implied opinions are apart."""
    reviews = load_reviews()
    assert reviews.classes == ["neg", "pos"] and reviews.name == "sample"
    counts = {
        split: np.bincount([review.label for review in rows]).tolist()
        for split, rows in reviews.splits.items()
    }
    expected = {"train": 240, "val": 60, "test": 100, "implied": 320}
    assert counts == {split: [n, n] for split, n in expected.items()}
    assert reviews.notes == [
        "text from 'text', label from 'label', id from 'id', split from 'split'",
        "2 classes: 'neg', 'pos'",
    ]
    first = reviews.splits["train"][0]
    assert "Predictable from start to finish" in first.text and first.label == 0


@pytest.mark.parametrize(
    "labels, classes, indices",
    [
        ([10, 2, -1, 2], ["-1", "2", "10"], [2, 1, 0, 1]),
        (["sad", "glad", "10"], ["10", "glad", "sad"], [2, 1, 0]),
    ],
)
def test_the_order_of_classes(tmp_path, labels, classes, indices):
    """Integers are in numerical order: as strings, 10 would come before 2."""
    held_out = rows(*labels[:2])
    reviews = load_reviews(folder(tmp_path, rows(*labels), held_out, held_out))
    assert reviews.classes == classes
    assert [review.label for review in reviews.splits["train"]] == indices


def test_ids(tmp_path):
    """Predictions of two runs are compared by id: the record's own, or else its line."""
    train = [rows(0)[0] | {"id": "a"}, rows(1)[0] | {"id": 7}]
    splits = load_reviews(folder(tmp_path, train, rows(0, 1), rows(1))).splits
    assert splits["train"] == [Review("a", 0, "text 0"), Review(7, 1, "text 0")]
    assert splits["val"] == [Review(1, 0, "text 0"), Review(2, 1, "text 1")]


@pytest.mark.parametrize(
    "name, header, row, columns, note",
    [  # Kaggle's IMDb, SST-2, a spreadsheet, SMS spam (UCI's and Kaggle's), AG News
        (
            "a.csv",
            "Review,sentiment\n",
            '"{}",{}\n',
            None,
            "text from 'Review', label from 'sentiment'",
        ),
        (
            "a.tsv",
            "sentence\tlabel\n",
            "{}\t{}\n",
            None,
            "text from 'sentence', label from 'label'",
        ),
        (
            "a.csv",
            "7;class;body\n",
            "7;{1};{0}\n",
            None,
            "text from 'body', label from 'class'; unused: '7'",
        ),
        ("a.tsv", "", "{1}\t{0}\n", "2,1", "text from '2', label from '1'"),
        (
            "a.csv",
            "v1,v2,\n",
            '{1},"{0}",\n',
            "v2,v1",
            "text from 'v2', label from 'v1'; unused: '3'",
        ),
        ("a.csv", "", '"{1}","t","{0}"\n', "3,1", "text from '3', label from '1'; unused: '2'"),
        (
            "a.csv",
            "label,text\n",
            '"{}",{}\n',
            "label,text",
            "text from 'label', label from 'text'",
        ),
    ],
)
def test_columns(tmp_path, name, header, row, columns, note):
    lines = [row.format(f"one<br /><br/>two {i}", i % 2) for i in range(20)]
    path = tmp_path / name
    path.write_text(header + "".join(lines), encoding="utf-8")
    reviews = load_reviews(path, columns=columns)
    found = {(row.text, row.label) for rows in reviews.splits.values() for row in rows}
    assert found == {(f"one two {i}", i % 2) for i in range(20)}
    assert reviews.notes[:2] == [note, "<br /> became a space in 20 texts"]
    texts = [record.fields["text"] for record in read_texts([], path, columns)]
    assert texts == [f"one two {i}" for i in range(20)]


def test_the_usual_name_comes_first(tmp_path):
    """Of several names, and record by record."""
    train = [{"text": "a", "content": "x", "stars": 1, "label": 0}, {"comment": "b", "polarity": 1}]
    reviews = load_reviews(folder(tmp_path, train, rows(0, 1), rows(0)))
    assert [(row.text, row.label) for row in reviews.splits["train"]] == [("a", 0), ("b", 1)]
    assert reviews.notes[0].endswith("label from 'polarity'; unused: 'content', 'stars'")


def test_equal_texts_with_different_labels_are_counted(tmp_path):
    twice = rows(0, 1, 1) + rows(1, 1, 1)
    notes = load_reviews(folder(tmp_path, twice, rows(0), rows(1))).notes
    assert notes[-1] == "1 texts occur with more than one label"


def test_classes_json_names_the_classes(tmp_path):
    """Names that don't fit the labels are an error, not a guess."""
    folder(tmp_path, rows(0, 1), rows(0), rows(1))
    file = tmp_path / "classes.json"
    file.write_text('["down", "up"]', encoding="utf-8")
    assert load_reviews(tmp_path).classes == ["down", "up"]
    for content in ('["down"', '{"0": "down"}', '["a", "a"]', '["a", "b", "c"]', "[0, 1]"):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="classes.json; repair or remove it"):
            load_reviews(tmp_path)


# ---------------------------------------------------------------- IMDbDataset

TEXTS = ["one two three four five six seven eight nine ten", "short", "one two three four five"]
REVIEWS = [Review(i, i % 2, text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    "truncate, kept",
    [
        ("head", "one two three four five six seven eight"),
        ("tail", " three four five six seven eight nine ten"),
        ("head+tail", "one two five six seven eight nine ten"),  # 2 and 6 of 8
    ],
)
def test_truncation(tokenizer, truncate, kept):
    """Each of these words is one token."""
    dataset = IMDbDataset(REVIEWS, tokenizer, max_length=8, truncate=truncate)
    assert [tokenizer.decode(list(ids)) for ids, _ in dataset] == [kept, *TEXTS[1:]]
    assert [label for _, label in dataset] == dataset.labels.tolist() == [0, 1, 0]
    assert dataset[0][0].dtype == np.uint16 and dataset.labels.dtype == np.int64
    for max_length in range(1, 12):  # ids[-0:] would be everything
        dataset = IMDbDataset(REVIEWS, tokenizer, max_length, truncate)
        expected = [min(n, max_length) for n in (10, 1, 5)]
        assert [len(ids) for ids, _ in dataset] == dataset.lengths.tolist() == expected


def test_no_limit(tokenizer):
    dataset = IMDbDataset(REVIEWS, tokenizer)
    assert [tokenizer.decode(list(ids)) for ids, _ in dataset] == TEXTS
    assert len(dataset) == 3

"""Labelled texts: film reviews, or any other classes of text.

`load_reviews` turns a source (see sources.py) into reviews with integer labels. `IMDbDataset` turns
reviews into token ids and labels. A review longer than `max_length` is cut; where it is cut
matters, because reviewers tend to give their verdict at the end.

Source: Maas et al. 2011 (the data); Sun et al. 2019, "How to Fine-Tune BERT for Text
Classification?", section 5.3.1 (truncation: head and tail together did best on IMDb).

Next on the evening's path: data/batches.py.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptft.data.records import Record, ids_of, label_field, read_records, text_field
from gptft.data.sources import SAMPLES, load_splits
from gptft.errors import DataError

SENTIMENTS = ["neg", "pos"]  # the bundled reviews' labels 0 and 1
TRUNCATE = ("head", "tail", "head+tail")
COLUMNS_HELP = (
    "TEXT,LABEL: the names of the columns, such as review,sentiment, or their numbers from 1 in a "
    "file without a header, such as 2,1 (default: found by name)"
)


class Review(NamedTuple):
    """A text and its class, an index into the list of classes."""

    id: int | str
    label: int
    text: str


class ReviewSet(NamedTuple):
    """The reviews of a source: lists by split (train, val, test), and `implied` of the sample."""

    name: str
    classes: list[str]
    splits: dict[str, list[Review]]
    notes: list[str]


def load_reviews(source="sample", seed=0, columns=None):
    """Read labelled texts -> ReviewSet.

    Args:
        source: what `--data` names: "sample", a folder, or a file. Records have `text` and `label`
            (an integer or a name), perhaps under other names, and may have `id`. A folder's
            classes.json may name the classes, as a list for the labels 0, 1, ...
        seed: int, of the split, if the source has none.
        columns: the names of the fields, or their numbers in a table without a header: "2,1".

    Raises DataError for a bad record, a single class, a label in val or test that train lacks, or
    an id that occurs twice in a split.
    """
    found = load_splits(source, "reviews.jsonl", seed, [text_field], label_field, columns)
    records = dict(found.splits)
    labels = _labels_of(records["train"])
    if source == "sample":
        classes = SENTIMENTS
        records["implied"] = read_records(SAMPLES / "reviews_implied.jsonl")
    else:
        classes = _class_names(Path(source), labels)
    index = {label: i for i, label in enumerate(labels)}
    splits = {split: _reviews(rows, index) for split, rows in records.items()}
    pairs = {(review.text, review.label) for rows in splits.values() for review in rows}
    n_unclear = len(pairs) - len({text for text, _ in pairs})
    if n_unclear:
        found.notes.append(f"{n_unclear:,} texts occur again with another label")
    return ReviewSet(found.name, list(classes), splits, found.notes)


def _labels_of(records):
    """The different labels of records: integers in order, names in alphabetical order."""
    labels = sorted({label_field(record) for record in records})
    if len(labels) < 2:
        what = f"all training records have the label '{labels[0]}'"
        hint = "add records of another class, or change --seed if val or test have some"
        raise DataError(f"{what}, {records[0].path}; {hint}")
    try:
        return sorted(labels, key=int)
    except ValueError:
        return labels


def _class_names(source, labels):
    """The names in a folder's classes.json, or else the labels themselves."""
    path = source / "classes.json"
    if not path.is_file():
        return labels
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        are_names = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    except (TypeError, ValueError, RecursionError):
        names, are_names = [], False
    if not are_names or labels != [str(i) for i in range(len(names))]:
        what = f"not a list of different names for the labels {', '.join(labels[:10])}"
        raise DataError(f"{what}, {path}; repair or remove it")
    return names


def _reviews(records: list[Record], index):
    """Check one split's records -> list[Review]."""
    reviews = []
    for record, id in zip(records, ids_of(records)):
        label = label_field(record)
        if label not in index:
            what = f"label '{label}' does not occur in the training data"
            raise DataError(f"{what}, {record.place}; labels there: {', '.join(list(index)[:10])}")
        reviews.append(Review(id, index[label], text_field(record)))
    return reviews


class IMDbDataset:
    """Reviews as token ids: `dataset[i]` is (token_ids, label), a (n,) uint16 array and an int.

    Args:
        reviews: list[Review].
        tokenizer: Tokenizer.
        max_length: maximum number of tokens of a review, at least 1; None for no limit.
        truncate: what is kept of a longer review. "head": its first max_length tokens; "tail": its
            last; "head+tail": the first quarter and the last three quarters of max_length.

    Attributes:
        labels: (N,) int64. lengths: (N,) int64, tokens of each review after truncation.
    """

    def __init__(self, reviews, tokenizer, max_length=None, truncate="head+tail"):
        self.max_length = max_length
        encoded = tokenizer.encode_batch([review.text for review in reviews])
        self.token_ids = [cut(ids, max_length, truncate) for ids in encoded]
        self.labels = np.array([review.label for review in reviews])
        self.lengths = np.array([len(ids) for ids in self.token_ids])

    def __len__(self):
        return len(self.token_ids)

    def __getitem__(self, i):
        return self.token_ids[i], int(self.labels[i])


def cut(token_ids, limit, truncate):
    """(n,) token ids -> at most `limit` of them, the part that `truncate` names."""
    n = len(token_ids)
    if limit is None or n <= limit:
        return token_ids
    n_head = {"head": limit, "tail": 0, "head+tail": limit // 4}[truncate]
    n_tail = limit - n_head
    return np.concatenate([token_ids[:n_head], token_ids[n - n_tail :]])

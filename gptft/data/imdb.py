"""Labelled texts: film reviews from IMDb, and any other classification data.

`load_reviews` turns a source (see sources.py) into reviews with integer labels and the names of the classes.
`IMDbDataset` turns reviews into what a classifier eats: token ids, cut to a length, and a label. A review longer than
`max_length` is cut at access, so that one tokenised store serves every length; where to cut matters, because reviewers
tend to give their verdict at the end.

Source: Maas et al. 2011 (the data); Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1
(truncation: the head and the tail together did best on IMDb).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptft.data.sources import (
    SAMPLES,
    Record,
    ids_of,
    label_field,
    load_splits,
    read_records,
    text_field,
)
from gptft.data.tokens import TokenStore
from gptft.errors import DataError

SENTIMENTS = ["neg", "pos"]  # what the labels 0 and 1 of the reviews mean
TRUNCATE = ("head", "tail", "head+tail")


class Review(NamedTuple):
    """A text and its class, a row number of `ReviewSet.classes`."""

    id: int | str
    label: int
    text: str


class ReviewSet(NamedTuple):
    """The reviews of a source. `splits` holds train, val and test, in this order (and `implied` for the sample)."""

    name: str
    classes: list[str]
    splits: dict[str, list[Review]]
    notes: list[str]


def load_reviews(source="sample", seed=0):
    """Read labelled texts -> ReviewSet.

    source: what `--data` names: "sample", a folder, or a .jsonl, .csv or .json file. Records have `text` and `label`
        (an integer or a name) and may have `id`, which otherwise is the line number. A folder's classes.json may
        name its classes, a list for the labels 0, 1, ...
    seed: of the split, where the source has none.
    Raises DataError: a bad record, one class only, a label in val or test that train has not, an id used twice.
    """
    found = load_splits(source, "reviews.jsonl", seed, text_field, label_field)
    records = dict(found.splits)
    if source == "sample":
        records["implied"] = read_records(SAMPLES / "reviews_implied.jsonl")
    labels = _classes(records["train"])
    classes = SENTIMENTS if source == "sample" else _class_names(Path(source), labels)
    index = {label: i for i, label in enumerate(labels)}
    splits = {split: _reviews(of_split, index) for split, of_split in records.items()}
    return ReviewSet(found.name, list(classes), splits, found.notes)


def _classes(records):
    """The labels of the training records, as strings: integers in their order, names in alphabetical order."""
    labels = sorted({label_field(record) for record in records})
    if len(labels) < 2:
        raise DataError(
            f"only one class ('{labels[0]}') in the training data, {records[0].path}; two are the least"
        )
    try:
        return sorted(labels, key=int)
    except ValueError:
        return labels


def _class_names(source, labels):
    """The names in a folder's classes.json, if it has one, else the labels themselves."""
    path = source / "classes.json"
    if not path.is_file():
        return labels
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"bad JSON ({error}), {path}; repair or remove it") from error
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise DataError(f"not a list of different names, {path}; repair or remove it")
    if labels != [str(i) for i in range(len(names))]:
        raise DataError(
            f"{len(names)} names but the labels are {', '.join(labels[:10])}, {path}; repair or remove it"
        )
    return names


def _reviews(records: list[Record], index):
    """Check the records of one split -> list[Review]."""
    reviews = []
    for record, id in zip(records, ids_of(records)):
        label = label_field(record)
        if label not in index:
            known = ", ".join(list(index)[:10])
            raise DataError(
                f"label '{label}' never occurs in the training data, {record.place}; labels there: {known}"
            )
        reviews.append(Review(id, index[label], text_field(record)))
    return reviews


class IMDbDataset:
    """Reviews as token ids: `dataset[i] -> (token_ids, label)`, a uint16 array of 1 to max_length ids, and an int.

    reviews: list[Review]. tokenizer: `Tokenizer`. max_length: tokens, None for no limit. Raises ValueError.
    truncate: what is kept of a longer review: "head" its first max_length tokens, "tail" its last, "head+tail" the
        first quarter and the last three quarters of max_length (Sun et al.: 128 + 382 of 510).
    cache: path stem for the tokenised texts on disk, see TokenStore; None keeps them in memory.
    """

    def __init__(self, reviews, tokenizer, max_length=None, truncate="head+tail", cache=None):
        if truncate not in TRUNCATE:
            raise ValueError(f"truncate must be one of {', '.join(TRUNCATE)}, not {truncate!r}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        self.reviews, self.max_length, self.truncate = reviews, max_length, truncate
        self.tokens = TokenStore.build([review.text for review in reviews], tokenizer, cache)
        self.labels = np.array([review.label for review in reviews], dtype=np.int64)  # (N,)

    @property
    def lengths(self):
        """(N,) int64, tokens of each review after truncation."""
        return np.minimum(self.tokens.lengths, self.max_length or np.iinfo(np.int64).max)

    def __len__(self):
        return len(self.reviews)

    def __getitem__(self, i):
        token_ids, limit = self.tokens[i], self.max_length
        if limit and len(token_ids) > limit:
            head = {"head": limit, "tail": 0, "head+tail": limit // 4}[self.truncate]
            token_ids = np.concatenate(
                [token_ids[:head], token_ids[len(token_ids) - (limit - head) :]]
            )
        return token_ids, int(self.labels[i])

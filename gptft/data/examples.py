"""Records to examples, each field checked: reviews with integer labels, and instructions.

Every record knows its file and line, and an error names them.
"""

import json
from pathlib import Path
from typing import NamedTuple

from gptft.data.classification import Review
from gptft.data.instructions import Example
from gptft.data.records import Record, field, ids_of, label_field, quoted, read_records, text_field
from gptft.data.sources import SAMPLES, first_exchange, load_splits
from gptft.errors import DataError

SENTIMENTS = ["neg", "pos"]  # the bundled reviews' labels 0 and 1
COLUMNS_HELP = (
    "TEXT,LABEL: the names of the columns, such as review,sentiment, or their numbers from 1 in a "
    "file without a header, such as 2,1 (default: found by name)"
)
WANTED = ("messages", "instruction", "input", "output")  # fields; see `name_fields`


# ---------------------------------------------------------------- reviews


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
    found.notes.append(f"{len(classes)} classes: {quoted(classes)}")
    index = {label: i for i, label in enumerate(labels)}
    splits = {split: _reviews(rows, index) for split, rows in records.items()}
    pairs = {(review.text, review.label) for rows in splits.values() for review in rows}
    n_unclear = len(pairs) - len({text for text, _ in pairs})
    if n_unclear:
        found.notes.append(f"{n_unclear:,} texts occur with more than one label")
    return ReviewSet(found.name, list(classes), splits, found.notes)


def _labels_of(records):
    """The distinct labels, as strings: integers in order, or names in alphabetical order."""
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


# ---------------------------------------------------------------- instructions


def load_instructions(source="sample", seed=0):
    """Read instructions -> Source, whose splits are lists of Example.

    Args:
        source: what `--data` names: "sample", a folder, or a file. Records have the fields that
            `read_example` describes. Records without an output are left out, with a note.
        seed: int, of the split, if the source has none. Equal instructions stay on one side; if
            they are too few to split, equal instructions with equal inputs do.

    Raises DataError.
    """

    def instruction_of(record):
        return read_example(record).instruction

    def prompt_of(record):
        return "\n".join(read_example(record)[1:3])

    keys = [instruction_of, prompt_of]  # the second if the first leaves too few to split
    found = load_splits(source, "instructions.jsonl", seed, keys, wanted=WANTED)
    splits, notes = {}, found.notes
    for split, records in found.splits.items():
        examples, more = read_examples(records)
        notes += [f"{split}: {note}" for note in more]
        splits[split] = [example for example in examples if example.output]
        n_empty = len(examples) - len(splits[split])
        if n_empty:
            notes.append(f"{split}: left out {n_empty:,} records whose output is empty")
        if not splits[split]:
            hint = "add examples with a response"
            raise DataError(f"every output of {split} is empty, {records[0].path}; {hint}")
    return found._replace(splits=splits)


def read_examples(records):
    """The records of a split -> (list[Example], list of notes).

    Raises DataError, also for an id that occurs twice.
    """
    ids_of(records)  # raises for an id that occurs twice
    examples = [read_example(record) for record in records]
    # Three turns may be those of system, user and assistant.
    n_long = sum(len(record.fields.get("messages", [])) > 3 for record in records)
    notes = [f"{n_long:,} conversations have further turns, which are ignored"] if n_long else []
    return examples, notes


def read_example(record):
    """A Record -> Example, its texts stripped of outer white space; the output may be empty.

    The fields are `instruction`, `output` and perhaps `input`; or else `messages`, which
    `first_exchange` turns into an instruction and an output. `name_fields` has given the fields
    these names. The id is the field `id`, or else the record's number.

    Raises DataError, naming the record.
    """
    if "messages" in record.fields:
        record = first_exchange(record)
    return Example(
        record.fields.get("id", record.number),
        text_field(record, "instruction").strip(),
        _optional_text(record, "input") if "input" in record.fields else "",
        _optional_text(record, "output"),
    )


def _optional_text(record, name):
    """As `text_field`, but "" for a field that is null or blank."""
    value = field(record, name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return text_field(record, name).strip()

"""What `--data` names, read and divided into train, val and test.

A source is "sample" (the bundled texts), a folder with a file for each split, or one file. If it
has no val or test, one is split off its training records, by one function for every script: seeded,
stratified by label, and independent of the order of the file. Equal texts always end up on the same
side, so that no model is tested on a text it was trained on.
"""

import itertools
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from gptft.data.records import SUFFIXES, field, read_records
from gptft.errors import DataError

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
SPLITS = ("train", "val", "test")
HELD_OUT = 0.1  # of the records, for each of val and test if the source has none
PREPARED = ("imdb", "alpaca")  # data/NAME is made by `python -m data_prep.NAME`


class Source(NamedTuple):
    """Records by split (or what was made of them), and notes to print about them."""

    name: str
    splits: dict[str, list]  # train, val, test
    notes: list[str]


def load_splits(data, sample, seed, text, label=None):
    """Read what `--data` names -> Source, always with train, val and test.

    Args:
        data: "sample"; a folder with train.jsonl, or another format that `read_records` reads (and
            perhaps val and test); or a file, whose records may have a field `split`.
        sample: the file in assets/samples that "sample" means.
        seed: int, of a split that is made here.
        text: Record -> str, the text that must not occur on both sides of a split.
        label: Record -> str, the class to stratify by, or None.

    Raises DataError.
    """
    path = SAMPLES / sample if data == "sample" else Path(data)
    if not path.exists():
        raise DataError(f"no such file or folder, {path}; {_how_to_make(path)}")
    found = _read_folder(path) if path.is_dir() else _by_split_field(read_records(path))
    if "train" not in found:
        hint = 'add train.jsonl to a folder, or "split": "train" to records'
        raise DataError(f"no training records, {path}; {hint}")
    missing = [split for split in ("test", "val") if split not in found]
    notes = []
    if missing:
        records = found["train"]
        texts = [text(record) for record in records]
        labels = [label(record) for record in records] if label else None
        rows = split_seeded(texts, dict.fromkeys(missing, HELD_OUT), seed, labels)
        if not all(rows.values()):
            what = f"{len(records)} records have too few different texts"
            raise DataError(f"{what} to split off {' and '.join(missing)}, {path}; add some")
        found |= {split: [records[row] for row in rows[split]] for split in rows}
        parts = " and ".join(f"{len(rows[split])} for {split}" for split in reversed(missing))
        notes.append(f"{path}: split {parts} off {len(records)} training records (seed {seed})")
    splits = {split: found[split] for split in SPLITS}
    return Source(str(data), splits, notes + _shared_texts(splits, text))


def split_seeded(texts, fractions, seed, labels=None):
    """Divide rows into parts -> dict, the name of each part -> its row numbers, ascending.

    Args:
        texts: list[str], one a row. Rows of equal text stay together.
        fractions: dict, name -> share of all rows; parts are filled in this order, and "train"
            gets the rest.
        seed: int. The result depends on texts, labels and seed, not on the order of the rows.
        labels: list[str]. Every part gets each label in proportion, as far as whole rows allow.

    Each label's texts are put in a line, ordered by a hash of seed and text, and spread evenly over
    the numbers from 0 to 1. Any stretch of these numbers then holds all labels in proportion, and
    the parts are cut from the front. With four rows of label a, two of label b, a test share of
    1/2:

        a: a3 a1 a4 a2  ->  1/8 3/8 5/8 7/8     merged: a3 b2 a1 | a4 b1 a2
        b: b2 b1        ->  1/4 3/4                     test       train
    """
    rows_of = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(text, []).append(row)
    lines = {}
    for text, rows in rows_of.items():
        digest = blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()
        label = min(labels[row] for row in rows) if labels else ""
        lines.setdefault(label, []).append((digest, rows))
    merged = []
    for label, line in lines.items():
        size = sum(len(rows) for _, rows in line)
        before = 0
        for digest, rows in sorted(line):
            position = (before + len(rows) / 2) / size
            merged.append((position, label, digest, rows))
            before += len(rows)
    parts = {name: [] for name in ["train", *fractions]}
    for *_, rows in sorted(merged):
        part = "train"
        for name, share in fractions.items():
            room = max(1, round(share * len(texts)))
            if len(parts[name]) + len(rows) <= room:
                part = name
                break
        parts[part] += rows
    return {name: sorted(rows) for name, rows in parts.items()}


def _how_to_make(path):
    if path.name not in PREPARED:
        return "check the path, or use --data sample"
    out = "" if path == Path("data") / path.name else f" --out {path}"
    return f"make it with: python -m data_prep.{path.name}{out}"


def _read_folder(folder):
    """A folder's records by split. Raises DataError for two files of one split, or a wrong
    label."""
    found = {}
    for split in SPLITS:
        names = [split + suffix + packed for suffix in SUFFIXES for packed in ("", ".gz")]
        files = [folder / name for name in names if (folder / name).exists()]
        if len(files) > 1:
            raise DataError(f"both {files[0].name} and {files[1].name}, {folder}; keep one")
        if files:
            found[split] = read_records(files[0])
            for record in found[split]:
                other = record.fields.get("split", split)
                if other in SPLITS and other != split:
                    what = f"a record of split '{other}' in the {split} file"
                    raise DataError(f"{what}, {record.place}; move or relabel it")
    return found


def _by_split_field(records):
    """One file's records by their field `split`; all of them are "train" if none has it."""
    if not any("split" in record.fields for record in records):
        return {"train": records}
    found = {}
    for record in records:
        split = field(record, "split")
        if split not in SPLITS:
            hint = "it must be train, val or test in every record"
            raise DataError(f"split is {split!r}, {record.place}; {hint}")
        found.setdefault(split, []).append(record)
    return found


def _shared_texts(splits, text):
    """A note for each pair of splits that share texts."""
    texts = {}
    for split, records in splits.items():
        texts[split] = {text(record) for record in records}
    notes = []
    for one, other in itertools.combinations(SPLITS, 2):
        shared = len(texts[one] & texts[other])
        if shared:
            notes.append(f"{shared} text{'s' * (shared > 1)} in both {one} and {other}")
    return notes

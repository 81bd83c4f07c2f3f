"""What `--data` names, read and divided into train, val and test.

A source is "sample" (the bundled texts), a folder with a file for each split, or one file. Its
fields are found under the names that people give them, and a note says which are used. If it has no
val or test, one is split off its training records, by one function for every script: seeded,
stratified by label, and independent of the order of the file. Equal texts always end up on the same
side, so that no model is tested on a text it was trained on.
"""

import itertools
import re
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from gptft.data.records import SUFFIXES, Record, field, quoted, read_records, read_text, suffix_of
from gptft.errors import DataError

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
SPLITS = ("train", "val", "test")
HELD_OUT = 0.1  # of the records, for each of val and test if the source has none
PREPARED = ("imdb", "alpaca")  # data/NAME is made by `python -m data_prep.NAME`
VAL_NAMES = ("val", "validation", "valid", "dev")
ELSEWHERE = ("classes.json", "unsup.jsonl")  # files of a folder that other functions read
FIELDS = {  # the names that a field may have, in upper or lower case; the first one counts
    "text": "text review sentence content message comment body tweet",
    "label": "label sentiment class category target polarity stars",
    "messages": "messages conversations",
    "instruction": "instruction prompt question",
    "input": "input context",
    "output": "output response completion answer",
}
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names
LINE_BREAK = re.compile(r"(<br\s*/?>\s*)+", re.IGNORECASE)


class Source(NamedTuple):
    """Records by split (or what was made of them), and notes to print about them."""

    name: str
    splits: dict[str, list]  # train, val, test
    notes: list[str]


def load_splits(data, sample, seed, texts, label=None, columns=None, wanted=("text", "label")):
    """Read what `--data` names -> Source, always with train, val and test.

    Args:
        data: "sample"; a folder with train.jsonl, or another format that `read_records` reads (and
            perhaps val and test), or laid out as aclImdb/; or a file, whose records may have a
            field `split`.
        sample: the file in assets/samples that "sample" means.
        seed: int, of a split that is made here.
        texts: functions Record -> str, the text that must not occur on both sides of a split. The
            first one is used under which records differ and can be split.
        label: Record -> str, the class to stratify by, or None.
        columns, wanted: as in `name_fields`.

    Raises DataError.
    """
    path = SAMPLES / sample if data == "sample" else Path(data)
    if not path.exists():
        raise DataError(f"no such file or folder, {path}; {_how_to_make(path)}")
    notes = []
    if path.is_dir():
        found = _read_folder(path, columns, notes)
    else:
        found = _by_split_field(read_records(path, columns))
    if "train" not in found:
        hint = 'add train.jsonl to a folder, or "split": "train" to records'
        raise DataError(f"no training records, {'; '.join(notes) or path}; {hint}")
    notes += name_fields(list(itertools.chain(*found.values())), wanted, columns)
    missing = [split for split in ("test", "val") if split not in found]
    records = found["train"]
    for text in texts:
        keys = [text(record) for record in records]
        labels = [label(record) for record in records] if label else None
        rows = split_seeded(keys, dict.fromkeys(missing, HELD_OUT), seed, labels)
        if len(set(keys)) > 1 and all(rows.values()):
            break
    if not all(rows.values()):
        what = f"{len(records)} records have too few different texts"
        raise DataError(
            f"{what} to split off {' and '.join(missing)}, {path}; add some, or check the columns"
        )
    found |= {split: [records[row] for row in rows[split]] for split in rows}
    if missing:
        parts = " and ".join(f"{len(rows[split])} for {split}" for split in reversed(missing))
        notes.append(f"{path}: set aside {parts} of {len(records)} training records (seed {seed})")
    splits = {split: found[split] for split in SPLITS}
    return Source(str(data), splits, notes + _shared_texts(splits, text))


def name_fields(records, wanted, columns=None):
    """Find the wanted fields under the names that people give them, and add them under ours.

        {"Review": "Fine.<br />See it!", "sentiment": "pos", "n": 7}
        gets "text": "Fine. See it!" and "label": "pos" in addition

    Args:
        records: list[Record], changed in place.
        wanted: keys of FIELDS. They need not exist: `field` reports a missing one.
        columns: what --columns gives, "TEXT,LABEL" or "TEXT": the names of the first wanted fields.

    Returns notes, a list of str: the fields that are used and unused, and the number of texts with
    HTML's line breaks, which become spaces. Raises DataError if two fields have equal claims.
    """
    chosen = dict(zip(wanted, columns.split(","))) if columns else {}
    found = {}  # the names in a record -> {wanted field: its name there}
    n_breaks = 0
    for record in records:
        names = tuple(record.fields)
        if names not in found:
            found[names] = chosen | _find_fields(record, wanted[len(chosen) :])
        values = {name: field(record, origin) for name, origin in found[names].items()}
        if isinstance(values.get("text"), str):
            values["text"], n = LINE_BREAK.subn(" ", values["text"])
            n_breaks += n > 0
        record.fields.update(values)
    used = dict.fromkeys(pair for fields in found.values() for pair in fields.items())
    notes = [", ".join(f"{name} from {origin!r}" for name, origin in used)]
    unused = set(itertools.chain(*found)) - {origin for _, origin in used}
    if unused:
        notes.append(f"unused: {quoted(sorted(unused))}")
    notes = ["; ".join(filter(None, notes))]
    if n_breaks:
        notes.append(f"<br /> became a space in {n_breaks:,} texts")
    return notes


def _find_fields(record, wanted):
    """The names under which a record holds the wanted fields, and `id` and `split` -> dict."""
    found = {}
    for name in wanted:
        for synonym in FIELDS[name].split():
            same = [key for key in record.fields if key.strip().casefold() == synonym]
            if len(same) > 1:
                hint = "choose with --columns" if name in ("text", "label") else "rename one"
                raise DataError(f"{quoted(same)} all mean the {name}, {record.place}; {hint}")
            if same:
                found[name] = same[0]
                break
    if "messages" in found:  # the other fields repeat parts of them
        found = {"messages": found["messages"]}
    return found | {name: name for name in ("id", "split") if name in record.fields}


def first_exchange(record):
    """A record with `messages` -> the same with `instruction`, `input` ("") and `output`.

    The first turn of a user that an assistant answers is taken, after the system's turn if there is
    one. A turn is {"role": "user", "content": ...} or {"from": "human", "value": ...}.

    Raises DataError if there is no such turn.
    """
    messages = record.fields["messages"]
    turns = []
    for turn in messages if isinstance(messages, list) else []:
        if isinstance(turn, dict):
            role = str(turn.get("role", turn.get("from")))
            text = turn.get("content", turn.get("value"))
            if isinstance(text, str):
                turns.append((ROLES.get(role, role), text.strip()))
    system = [text for role, text in turns[:1] if role == "system" and text]
    for (role, question), (other, answer) in itertools.pairwise(turns):
        if (role, other) == ("user", "assistant"):
            instruction = "\n\n".join([*system, question])
            fields = {"instruction": instruction, "input": "", "output": answer}
            return record._replace(fields=record.fields | fields)
    what = "no user turn answered by an assistant in messages"
    raise DataError(f"{what}, {record.place}; repair or remove the record")


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
    return f"make it with: python -m data_prep.{path.name} --out {path}"


def _read_folder(folder, columns, notes):
    """A folder's records by split. A note of the data files that are no split is added to `notes`.

    Raises DataError for two files of one split.
    """
    files = {}
    unused = []
    for path in sorted(folder.iterdir()):
        suffix = suffix_of(path)
        if suffix not in (*SUFFIXES, ".parquet"):
            continue
        split = _split_of(path.name.lower().removesuffix(".gz").removesuffix(suffix))
        if split in files:
            raise DataError(f"both {files[split].name} and {path.name}, {folder}; keep one")
        if split in SPLITS:
            files[split] = path
        elif path.name not in ELSEWHERE:
            unused.append(path.name)
    found = {split: read_records(files[split], columns) for split in SPLITS if split in files}
    if (folder / "train" / "unsup").is_dir():  # in aclImdb/
        unused.append("train/unsup")
    if unused:
        notes.append(f"{folder}: unused files: {quoted(unused)}")
    return found or _read_class_folders(folder)


def _read_class_folders(folder):
    """The texts SPLIT/CLASS/NAME.txt, as in aclImdb/ -> records by split.

    Those in the folder unsup have no class, and are left out.
    """
    found = {}
    for path in sorted(folder.glob("*/*/*.txt")):
        name = path.relative_to(folder).with_suffix("")
        split, label, _ = name.parts
        if label != "unsup" and _split_of(split) in SPLITS:
            fields = {"id": name.as_posix(), "label": label, "text": read_text(path)}
            found.setdefault(_split_of(split), []).append(Record(path, 1, fields))
    return found


def _split_of(name):
    return "val" if name in VAL_NAMES else name


def _by_split_field(records):
    """One file's records by their field `split`; all of them are "train" if none has it."""
    if not any("split" in record.fields for record in records):
        return {"train": records}
    found = {}
    for record in records:
        split = _split_of(field(record, "split"))
        if split not in SPLITS:
            hint = "it must be train, val or test in every record"
            raise DataError(f"split is {split!r}, {record.place}; {hint}")
        found.setdefault(split, []).append(record)
    return found


def _shared_texts(splits, text):
    """A note for each pair of splits that share texts."""
    texts = {split: set(map(text, records)) for split, records in splits.items()}
    notes = []
    for one, other in itertools.combinations(SPLITS, 2):
        shared = len(texts[one] & texts[other])
        if shared:
            notes.append(f"{shared} text{'s' * (shared > 1)} in both {one} and {other}")
    return notes

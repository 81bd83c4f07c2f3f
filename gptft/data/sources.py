"""From files on disk to records in train, val and test.

A source is what `--data` names: "sample" (the bundled texts), a folder with train, val and test files, or one file.
Files are .jsonl (one object a line), .csv (a header, then rows), .json (a list of objects) or .txt (documents between
lines of `<|endoftext|>` or, if it has none, between blank lines), in UTF-8. A record keeps
the place it came from, so that whatever is wrong with it later is reported by file and line. What has no split of its
own gets one here, by one function for every script: seeded, stratified, and blind to the order of the file, because a
text's turn is decided by a hash of the text itself. Equal texts always fall on the same side.

Left out: streaming (a source fits in memory), compressed files, other encodings.
"""

import csv
import json
import re
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from gptft.errors import DataError

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
SPLITS = ("train", "val", "test")
HELD_OUT = 0.1  # of the records, for each of val and test where the source has none
PREPARED = ("imdb", "alpaca")  # data/NAME is made by `python -m data_prep.NAME`
MAX_LINE = 1 << 24  # bytes; a longer line is a file of another kind rather than a text


class Record(NamedTuple):
    """One object of a data file: its fields and where it stands."""

    path: Path
    number: int  # of the line (.jsonl, .csv) or of the record in the file (.json, .txt), from 1
    fields: dict

    @property
    def place(self):
        """`FILE, line N`, for error messages."""
        return f"{self.path}, {'record' if self.path.suffix.lower() in ('.json', '.txt') else 'line'} {self.number}"


class Source(NamedTuple):
    """Records by split, or what was made of them, in the order train, val, test, and what a person should know about them."""

    name: str
    splits: dict[str, list]
    notes: list[str]


# ---------------------------------------------------------------- reading files


def read_records(path):
    """Read a .jsonl, .csv, .json or .txt file -> list[Record], at least one. Raises DataError that names file and line."""
    path = Path(path)
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".json": _read_json, ".txt": _read_txt}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"a data file must end in .jsonl, .csv, .json or .txt, {path}; rename or convert it"
        )
    try:
        records = list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise DataError(
            f"data file can't be read ({error.strerror}), {path}; check the path"
        ) from error
    if not records:
        raise DataError(f"no records, {path}; the file is empty")
    return records


def _read_jsonl(path):
    for number, line in _lines(path):
        if line and not line.isspace():
            yield Record(path, number, _object(line, path, number))


def _not_json(name):
    raise ValueError(f"{name} is no JSON")


JSON = json.JSONDecoder(parse_constant=_not_json)  # json.loads takes NaN and Infinity for numbers


def _read_json(path):
    hint = "a .json file holds one list of objects; name it .jsonl if every line is an object"
    text = decode(path.read_bytes(), path, 1)
    try:
        values = JSON.decode(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"bad JSON ({error}), {path}; {hint}") from error
    if not isinstance(values, list):
        raise DataError(f"not a list but {_kind(values)}, {path}; {hint}")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise DataError(f"not an object but {_kind(value)}, {path}, record {number}; {hint}")
        yield Record(path, number, value)


def _read_csv(path):
    csv.field_size_limit(
        MAX_LINE
    )  # Python's own limit, 131,072 characters, is shorter than some documents
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    header, number = None, 1  # where the row starts: a quoted field may hold line breaks
    try:
        for row in rows:  # a blank line is an empty one
            if row and header is None:
                header = [name.strip() for name in row]
                if len(set(header)) < len(header):
                    raise DataError(
                        f"a column name stands twice, {path}, line {number}; rename one"
                    )
            elif row and len(row) != len(header):
                raise DataError(
                    f"{len(row)} columns where the header has {len(header)}, {path}, line {number}; "
                    "put a text with commas or line breaks between double quotes"
                )
            elif row:
                yield Record(path, number, dict(zip(header, row)))
            number = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"bad CSV ({error}), {path}, line {number}; check its quotes") from error


def _read_txt(path):
    text, end = decode(path.read_bytes(), path, 1), "<|endoftext|>"
    documents = text.split(end) if end in text else re.split(r"\n\s*\n", text)
    for number, document in enumerate(filter(None, map(str.strip, documents)), 1):
        yield Record(path, number, {"text": document})


def _lines(path):
    """Yield (number from 1, line) of a UTF-8 text file, line ends as they are."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise DataError(
                    f"a line longer than {MAX_LINE:,} bytes, {path}, line {number}; is it a text file?"
                )
            yield number, decode(line, path, number)


def decode(data, path, number):
    """UTF-8 bytes that start at line `number` -> str, without an editor's byte order mark. Raises DataError."""
    if number == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number += data.count(b"\n", 0, error.start)
        raise DataError(
            f"not UTF-8 ({error.reason}), {path}, line {number}; save the file as UTF-8 text"
        ) from error
    if "\0" in text:
        number += text.count("\n", 0, text.index("\0"))
        raise DataError(f"a NUL byte, {path}, line {number}; save the file as UTF-8 text")
    return text


def _object(text, path, number):
    """One JSON object, of that line -> dict, or DataError."""
    try:
        value = JSON.decode(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested without end
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise DataError(
            f"bad JSON ({reason}), {path}, line {number}; every line must be one whole object"
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"not an object but {_kind(value)}, {path}, line {number}; every line must be one whole object"
        )
    return value


def _kind(value):
    """A JSON value's type in words."""
    names = {
        type(None): "null",
        bool: "true or false",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "a number")


# ---------------------------------------------------------------- fields


def text_field(record, name="text"):
    """The string in field `name`; DataError if it is missing, not a string, blank, or not encodable."""
    text = _field(record, name)
    if not isinstance(text, str):
        raise DataError(
            f"field '{name}' is {_kind(text)}, not a string, {record.place}; put its text between quotes"
        )
    if not text or text.isspace():
        raise DataError(f"field '{name}' is empty, {record.place}; fill it in or remove the record")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"half a character (lone surrogate) in '{name}', {record.place}; repair it"
            ) from error
    return text


def label_field(record):
    """The class in field `label`, an integer or a string, as a string: 1 in JSON and "1" in CSV are one class. Raises DataError."""
    label = _field(record, "label")
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise DataError(
            f"label is {_kind(label)}, {record.place}; labels are integers (0, 1, ...) or names"
        )
    label = str(label).strip()
    if not label or not label.isprintable():
        raise DataError(
            f"label is empty or not printable, {record.place}; labels are integers (0, 1, ...) or names"
        )
    return label


def ids_of(records):
    """Each record's field `id`, an integer or a string, or else its number -> list; DataError if one is used twice."""
    found = {}
    for record in records:
        id = record.fields.get("id", record.number)
        if isinstance(id, bool) or not isinstance(id, (int, str)) or not str(id).isprintable():
            raise DataError(
                f"id is neither an integer nor a printable string, {record.place}; correct or remove it"
            )
        if id in found:
            raise DataError(
                f"id {id!r} is used twice, {record.place} (before: {found[id].place}); make ids unique"
            )
        found[id] = record
    return list(found)


def _field(record, name):
    if name not in record.fields:
        found = ", ".join(f"'{field}'" for field in list(record.fields)[:8]) or "none"
        raise DataError(f"no field '{name}', {record.place} (fields: {found}); rename or add it")
    return record.fields[name]


# ---------------------------------------------------------------- splits


def load_splits(data, sample, seed, text, label=None):
    """Read what `--data` names -> Source, always with train, val and test.

    data: "sample", a folder with train.jsonl|csv|json (and val, test), or a file. A file's records may carry
        `split` (train, val or test). A val or test that is missing is split off train, 10 % each.
    sample: file name in assets/samples that "sample" stands for. seed: of that split.
    text, label: Record -> str, the text that must not stand on two sides and the class to stratify by.
    Raises DataError.
    """
    path = SAMPLES / sample if data == "sample" else Path(data)
    if not path.exists():
        raise DataError(f"no such file or folder, {path}; {_how_to_make(path)}")
    if path.is_dir():
        found = {
            split: _of_split(read_records(file), split)
            for split, file in _folder_files(path).items()
        }
    else:
        found = _by_split_field(read_records(path))
    if "train" not in found:
        raise DataError(
            f'no training records, {path}; add train.jsonl to a folder, or "split": "train" to records'
        )
    splits, notes = _complete(found, path, seed, text, label)
    return Source(str(data), splits, notes + _overlaps(splits, text))


def split_seeded(texts, fractions, seed, labels=None):
    """Divide rows -> {name: ascending row numbers} for each name of `fractions`, and "train" for the rest.

    texts: list[str]; rows of equal text stay together. fractions: {name: share of all rows}, filled in this order.
    labels: list[str]; every part gets each label in proportion, as far as whole rows allow.
    The result depends on the texts, the labels and the seed, not on the order of the rows.

    Each row's place in its label's line, ordered by a hash of seed and text, is a number in (0, 1). In the order of
    these numbers any first piece holds every label in proportion; the parts are cut from the front.
    """
    groups = {}
    for row, text in enumerate(texts):
        groups.setdefault(text, []).append(row)
    lines = {}
    for text, rows in groups.items():
        digest = blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()
        lines.setdefault(min(labels[row] for row in rows) if labels else "", []).append(
            (digest, rows)
        )
    turns = []
    for label, line in lines.items():
        size, before = sum(len(rows) for _, rows in line), 0
        for digest, rows in sorted(line):
            turns.append(((before + len(rows) / 2) / size, label, digest, rows))
            before += len(rows)
    room = {name: max(1, round(share * len(texts))) for name, share in fractions.items()}
    parts = {name: [] for name in ["train", *fractions]}
    for *_, rows in sorted(turns):
        name = next(
            (name for name in fractions if len(rows) <= room[name] - len(parts[name])), "train"
        )
        parts[name] += rows
    return {name: sorted(rows) for name, rows in parts.items()}


def _how_to_make(path):
    if path.name not in PREPARED:
        return "check the path, or use --data sample"
    out = "" if path == Path("data") / path.name else f" --out {path}"
    return f"make it with: python -m data_prep.{path.name}{out}"


def _folder_files(folder):
    """{split: file} of the splits that a folder holds; two files for one split are an error."""
    files = {}
    for split in SPLITS:
        found = [
            file
            for suffix in (".jsonl", ".csv", ".json")
            if (file := folder / (split + suffix)).exists()
        ]
        if len(found) > 1:
            raise DataError(f"{found[0].name} and {found[1].name} both stand in {folder}; keep one")
        if found:
            files[split] = found[0]
    return files


def _of_split(records, split):
    """The records of a split's own file; one that says it belongs to another split is an error."""
    for record in records:
        said = record.fields.get("split", split)
        if said in SPLITS and said != split:
            raise DataError(
                f"split '{said}' in the {split} file, {record.place}; move or relabel it"
            )
    return records


def _by_split_field(records):
    """The records of one file by their field `split`, all under "train" when none has it."""
    if not any("split" in record.fields for record in records):
        return {"train": records}
    found = {}
    for record in records:
        split = _field(record, "split")
        if split not in SPLITS:
            raise DataError(
                f"split is {split!r}, {record.place}; it must be train, val or test in every record"
            )
        found.setdefault(split, []).append(record)
    return found


def _complete(found, path, seed, text, label):
    """Split a missing val or test off train -> ({train, val, test: records}, notes)."""
    missing = {split: HELD_OUT for split in ("test", "val") if split not in found}
    if not missing:
        return {split: found[split] for split in SPLITS}, []
    train = found["train"]
    rows = split_seeded(
        [text(r) for r in train], missing, seed, [label(r) for r in train] if label else None
    )
    if not all(rows.values()):
        raise DataError(
            f"too few different texts to split {' and '.join(missing)} off {len(train)} records, {path}; add some"
        )
    found = found | {split: [train[row] for row in rows[split]] for split in rows}
    counts = " and ".join(f"{len(rows[split])} for {split}" for split in reversed(missing))
    notes = [f"{path}: {counts} split off {len(train)} training records (seed {seed})"]
    return {split: found[split] for split in SPLITS}, notes


def _overlaps(splits, text):
    """A note for each pair of splits that share texts."""
    texts = {split: {text(record) for record in records} for split, records in splits.items()}
    notes = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := len(texts[one] & texts[other]):
            notes.append(
                f"{shared} text{'s stand' if shared > 1 else ' stands'} in both {one} and {other}"
            )
    return notes

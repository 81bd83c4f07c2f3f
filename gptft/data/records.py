"""Data files to records: .jsonl, .json, .csv, .tsv and .txt, each also as .gz.

A record keeps the place it came from, so that whatever is wrong with it later is reported by file
and line. A file is read whole, because a fine-tuning set fits in memory.
"""

import csv
import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from gptft.errors import DataError

MAX_BYTES = 1 << 32  # of a file, unpacked
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SEPARATOR = "<|endoftext|>"  # between the documents of a .txt file
QUOTED = re.compile(r'\A"((?:[^"]|"")*)"\Z')  # a whole field, whose own quotes are doubled


class Record(NamedTuple):
    """One object of a data file."""

    path: Path
    number: int  # from 1: of the line (.jsonl, .csv, .tsv) or of the record (.json, .txt)
    fields: dict

    @property
    def place(self):
        """`FILE, line N`, for error messages."""
        unit = "record" if suffix_of(self.path) in (".json", ".txt") else "line"
        return f"{self.path}, {unit} {self.number}"


def suffix_of(path):
    """The suffix that names the format, in lower case: of "a.csv.gz" it is ".csv"."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_records(path, columns=None):
    """Read a data file -> list[Record], at least one.

    columns: what --columns gives. Numbers, such as "2,1", mean that a table has no header; its
    fields are then named "1", "2", ...

    Raises DataError, naming file and line.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix == ".parquet":
        name = path.with_suffix(".jsonl").name
        raise DataError(
            f"can't read Parquet, {path}; convert it: import pandas; pandas.read_parquet("
            f"{path.name!r}).to_json({name!r}, orient='records', lines=True)"
        )
    if suffix not in SUFFIXES:
        wanted = ", ".join(SUFFIXES)
        raise DataError(f"not one of {wanted} (or .gz), {path}; save it in one of these formats")
    text = read_text(path)
    if suffix in (".csv", ".tsv"):
        numbered = bool(columns) and columns.replace(",", "").isdigit()
        rows = _read_table(path, text, numbered)
    else:
        read = {".jsonl": _read_jsonl, ".json": _read_json, ".txt": _read_txt}[suffix]
        rows = read(path, text)
    records = [Record(path, number, fields) for number, fields in rows]
    if not records:
        raise DataError(f"no records, {path}; the file is empty, or has only a header")
    for record in records:
        if not isinstance(record.fields, dict):
            what = f"{json_type(record.fields)} instead of an object"
            hint = "a record is an object; a file with one list of them is named .json"
            raise DataError(f"{what}, {record.place}; {hint}")
    return records


def read_text(path):
    """A text file, perhaps compressed with gzip -> str. Raises DataError, or OSError."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"damaged gzip file ({error}), {path}; compress or download it again"
        ) from error
    if len(data) > MAX_BYTES:
        raise DataError(f"more than {MAX_BYTES:,} bytes, {path}; split the file")
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"a git-LFS pointer instead of the file, {path}; run: git lfs pull")
    if data.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"a web page (HTML) instead of data, {path}; download the file itself")
    return decode(data, path)


def decode(data, path, line=1):
    """Bytes that start at the given line -> str. Raises DataError, naming the line, if not UTF-8.

    A byte order mark of UTF-8 or UTF-16 is obeyed.
    """
    encoding = "UTF-16" if line == 1 and data.startswith(UTF16_MARKS) else "UTF-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        what = f"not {encoding} ({error.reason})"
        raise DataError(f"{what}, {path}, line {line}; save the file as UTF-8 text") from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(f"a NUL character, {path}, line {line}; save the file as UTF-8 text")
    return text


# ---------------------------------------------------------------- formats
#
# Each function yields the number and the fields of every record.


def _reject_constant(name):
    raise ValueError(f"{name} is not JSON, use null")


JSON = json.JSONDecoder(parse_constant=_reject_constant)  # json.loads accepts NaN and Infinity


def _read_jsonl(path, text):
    """One object a line."""
    hint = "every line must be one whole object"
    if text.lstrip().startswith("["):
        hint = "a file with one list of objects is named .json"
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace():
            try:
                yield number, JSON.decode(line)
            except (ValueError, RecursionError) as error:  # RecursionError: brackets without end
                reason = getattr(error, "msg", error)
                raise DataError(f"bad JSON ({reason}), {path}, line {number}; {hint}") from error


def _read_json(path, text):
    """One list of objects."""
    hint = "a .json file holds one list of objects; name it .jsonl if every line is an object"
    try:
        value = JSON.decode(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"bad JSON ({error}), {path}; {hint}") from error
    if isinstance(value, dict):
        lists = [name for name, entry in value.items() if isinstance(entry, list)]
        if lists:
            hint = f"save the lists ({quoted(lists)}) as files of their own, such as train.json"
    if not isinstance(value, list):
        raise DataError(f"{json_type(value)} instead of a list, {path}; {hint}")
    return enumerate(value, 1)


def _read_table(path, text, numbered):
    """Rows below a header. If the columns are `numbered`, there is no header."""
    rows = _rows(path, text)
    line, first = next(rows, (1, []))
    header = [name.strip() or str(i) for i, name in enumerate(first, 1)]
    if numbered:
        header = [str(i) for i in range(1, len(first) + 1)]
        yield line, dict(zip(header, first))
    elif len(set(header)) < len(header):
        hint = "rename one, or add a header if this is data"
        raise DataError(f"two columns with the same name, {path}, line {line}; {hint}")
    for line, row in rows:
        if len(row) != len(header):
            what = f"{len(row)} columns where the header has {len(header)}"
            hint = "put a text with separators or line breaks between double quotes"
            raise DataError(f"{what}, {path}, line {line}; {hint}")
        yield line, dict(zip(header, row))


def _rows(path, text):
    """Yield (the line on which it starts, list of str) for each row of a table.

    The first line of a .csv file decides on the separator: a tab, or else the more frequent one of
    comma and semicolon, outside quotes. Quotes are obeyed, but a file with the same number of tabs
    in every line is read literally: its writer may not have known quotes. Only a pair around a
    whole field, whose other quotes are doubled, is removed there.
    """
    first = re.sub('"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    is_tab = "\t" in first or suffix_of(path) == ".tsv"
    separator = "\t" if is_tab else max(",;", key=first.count)
    n_tabs = {line.count("\t") for line in text.split("\n") if line.strip()}
    literal = "\t" in first and len(n_tabs) == 1
    csv.field_size_limit(len(text) + 1)  # Python's own limit is shorter than some documents
    quoting = csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    line = 1  # a quoted field may hold line breaks
    try:
        for row in rows:
            if row:
                yield line, [QUOTED.sub(_unquote, cell) for cell in row] if literal else row
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"bad CSV ({error}), {path}, line {line}; check its quotes") from error


def _unquote(match):
    return match[1].replace('""', '"')


def _read_txt(path, text):
    """Documents between lines of <|endoftext|>, or else between blank lines."""
    pieces = text.split(SEPARATOR) if SEPARATOR in text else re.split(r"\n\s*\n", text)
    documents = [{"text": piece.strip()} for piece in pieces if piece.strip()]
    return enumerate(documents, 1)


def json_type(value):
    """The type of a JSON value, with an article."""
    names = {bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "a number")


# ---------------------------------------------------------------- fields


def field(record, name):
    """The value of a field. Raises DataError, listing the fields there are, if it is missing."""
    if name not in record.fields:
        found = quoted(record.fields) or "none"
        hint = "rename or add it"
        if name in ("text", "label"):
            hint += ", or use --columns TEXT,LABEL (numbers, as in 2,1, if the first line is data)"
        raise DataError(f"no field '{name}', {record.place} (fields: {found}); {hint}")
    return record.fields[name]


def quoted(names):
    """The first eight names, in quotes. A name may be a whole text, where a header is missing."""
    return ", ".join(repr(name[:40]) for name in list(names)[:8])


def text_field(record, name="text"):
    """The text of a field. Raises DataError if it is missing, blank or not a string."""
    text = field(record, name)
    if not isinstance(text, str):
        what = f"field '{name}' is {json_type(text)} instead of a string"
        raise DataError(f"{what}, {record.place}; put its text between quotes")
    if not text.strip():
        raise DataError(f"field '{name}' is empty, {record.place}; fill it in or remove the record")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise DataError(f"half a character (lone surrogate) in '{name}', {record.place}; repair it")
    return text


def label_field(record, name="label"):
    """The class of a record, an integer or a name, as a string. Raises DataError.

    1 in JSON and "1" in CSV are one class.
    """
    label = field(record, name)
    hint = "labels are integers (0, 1, ...) or names"
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError(f"the label is {json_type(label)}, {record.place}; {hint}")
    label = str(label).strip()
    if not label or not label.isprintable():
        raise DataError(f"the label is empty or not printable, {record.place}; {hint}")
    return label


def ids_of(records):
    """The `id` of each record, an integer or a string, or else its number -> list.

    Raises DataError if an id occurs twice.
    """
    found = {}
    for record in records:
        id = record.fields.get("id", record.number)
        if isinstance(id, bool) or not isinstance(id, int | str) or not str(id).isprintable():
            what = "the id is neither an integer nor a printable string"
            raise DataError(f"{what}, {record.place}; correct or remove it")
        if id in found:
            first = found[id].place
            hint = "make ids unique, or rename the field"
            raise DataError(f"id {id!r} occurs twice, {record.place} and {first}; {hint}")
        found[id] = record
    return list(found)

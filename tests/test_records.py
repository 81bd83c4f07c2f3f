"""Data files read as records: the formats, encodings and compression that people have, and one
error line for every file that can't be read."""

import codecs
import gzip
import json

import pytest

from gptft.data import records
from gptft.data.records import label_field, read_records
from gptft.errors import DataError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------- formats

ROWS = [
    {"text": 'He said "wow",\nthen; left\t— naïve.', "label": "1"},
    {"text": "b\r\nc", "label": "x y"},
    {"text": "long " * 40_000, "label": "2"},  # beyond the csv module's own limit
]


def table(separator, line_end="\n"):
    lines = [f" text {separator} label "]
    for row in ROWS:
        text = row["text"].replace('"', '""')
        lines.append(f'"{text}"{separator}{row["label"]}')
    return line_end.join(lines) + line_end


FORMS = {
    "lines.jsonl": "\n\n".join(map(json.dumps, ROWS)),
    "list.json": json.dumps(ROWS, indent=1),
    "comma.csv": table(","),
    "UPPER.CSV": table(",", "\r\n"),
    "semicolon.csv": table(";"),
    "tab.csv": table("\t"),
    "tab.tsv": table("\t"),
}
ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16 little": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", FORMS)
def test_all_forms_hold_the_same_records(tmp_path, name, encoding):
    """Spreadsheets choose the separator, the encoding and a byte order mark; none may change a
    field or its name."""
    content = ENCODINGS[encoding](FORMS[name])
    plain = write(tmp_path / name, content)
    packed = write(tmp_path / f"{name}.gz", gzip.compress(content, 1))
    for file in (plain, packed):
        assert [record.fields for record in read_records(file)] == ROWS


@pytest.mark.parametrize(
    "content, text",
    [
        ('"Open, and so\t1', '"Open, and so'),
        ('He said "no"\t1', 'He said "no"'),
        ('"No" he "said"\t1', '"No" he "said"'),
        ('"He ""said"" no"\t1', 'He "said" no'),
        ('"\t1', '"'),
    ],
)
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_quotes_between_tabs(tmp_path, name, content, text):
    """SST-2 and SMS spam have quotes that are only text; a spreadsheet's surround a field."""
    path = write(tmp_path / name, f'text\tlabel\n{content}\n"b\t2\nc"\t3\n')
    assert read_records(path)[0].fields == {"text": text, "label": "1"}


def test_columns_without_names(tmp_path):
    """Kaggle's SMS spam has three without a name; other files have no header at all."""
    path = write(tmp_path / "a.csv", '"x; y; z; u; v",b,,\n1,2,,\n')
    assert [*read_records(path)[0].fields] == ["x; y; z; u; v", "b", "3", "4"]
    found = read_records(path, columns="2,1")
    assert [(record.number, record.fields["1"]) for record in found] == [
        (1, "x; y; z; u; v"),
        (2, "1"),
    ]


@pytest.mark.parametrize(
    "content, documents",
    [
        ("one\nline two\n\n \nthree\r\n\r\n\r\nfour\n", ["one\nline two", "three", "four"]),
        ("one\n\nstill one\n<|endoftext|>\ntwo", ["one\n\nstill one", "two"]),
    ],
)
def test_plain_text(tmp_path, content, documents):
    found = read_records(write(tmp_path / "a.txt", content))
    assert [record.fields["text"] for record in found] == documents


@pytest.mark.parametrize(
    "name, content, places",
    [
        ("a.jsonl", '\n{"text": "a"}\n\n  \n{"text": "b"}', ["line 2", "line 5"]),
        ("a.csv", 'text\n"a\nb"\n\nc\n', ["line 2", "line 5"]),
        ("a.json", '[{"text": "a"},\n\n{"text": "b"}]', ["record 1", "record 2"]),
        ("a.txt", "a\n\n\n\nb", ["record 1", "record 2"]),
    ],
)
def test_places(tmp_path, name, content, places):
    """A place is the line that an editor shows: blank lines count, and so do those in quotes."""
    path = write(tmp_path / name, content)
    assert [record.place for record in read_records(path)] == [f"{path}, {at}" for at in places]


# ---------------------------------------------------------------- files that can't be read

GZIP = gzip.compress(b'{"a": 1}\n' * 99)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

BAD_FILES = [  # name, content, what the error says
    ("a.jsonl", "", r"no records, .*a\.jsonl"),
    ("a.jsonl", codecs.BOM_UTF8 + b"\n \n", "no records"),
    ("a.csv", "text,label\n", "no records"),
    ("a.json", "[]", "no records"),
    ("a.json", "", "no records"),
    ("a.txt", "\n\n \n", "no records"),
    ("a.jsonl.gz", gzip.compress(b""), "no records"),
    ("a.jsonl", '{"a": 1}\n{"a": \n', r"bad JSON \(Expecting value\), .*a\.jsonl, line 2; "),
    ("a.jsonl", '{"a": 1} {"b": 2}\n', "bad JSON .*line 1"),
    ("a.jsonl", '{"a": 1}\n[1, 2]\n', "a list instead of an object, .*line 2"),
    ("a.jsonl", "null\n", "null instead of an object, .*line 1"),
    ("a.jsonl", '[{"a": 1}]', r"a list instead of an object, .*line 1; .* named \.json$"),
    ("a.jsonl", '[{"a": 1},\n {"a": 2}]', r"line 1; a file with one list .* named \.json$"),
    ("a.jsonl", "[" * 100_000, "bad JSON .*line 1"),
    ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "bad JSON .*line 1"),
    ("a.jsonl", '{"a": NaN}', r"bad JSON \(NaN is not JSON, use null\), .*line 1"),
    ("a.json", '[{"a": -Infinity}]', "-Infinity is not JSON"),
    ("a.json", '{"a": 1}\n{"a": 2}\n', r"bad JSON .*line 2.*name it \.jsonl"),
    ("a.json", '{"a": 1}', "an object instead of a list"),
    ("a.json", '{"train": [{"a": 1}], "n": 1}', r"save the lists \('train'\) as .*train\.json"),
    ("a.json", '[{"a": 1}, 2]', "a number instead of an object, .*record 2"),
    ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', "not UTF-8 .*line 2; save the file as UTF-8"),
    ("a.csv", b"text\nok\n\xff\n", "not UTF-8 .*line 3"),
    ("a.csv", codecs.BOM_UTF16_LE + b"t", "not UTF-16 .*line 1"),
    ("a.csv", "text\nhi".encode("utf-16-le"), "a NUL character, .*line 1"),
    ("a.jsonl", b'{"a": 1}\n\x00\x00\n', "a NUL character, .*line 2"),
    ("a.csv", "text,label\na,1\nb\n", "1 columns where the header has 2, .*line 3"),
    ("a.csv", "text,label\na, b,1\n", "3 columns where the header has 2, .*line 2"),
    ("a.tsv", "text\tlabel\na,1\n", "1 columns where the header has 2, .*line 2"),
    ("a.csv", "text,text\na,b\n", "two columns with the same name, .*line 1"),
    ("a.csv", 'text\na\n"never closed\nb\nc\n', r"bad CSV \(unexpected end of data\), .*line 3"),
    ("a.csv", 'text\n"a"b\n', "bad CSV .*line 2"),
    ("a.jsonl", GZIP, "not UTF-8"),
    ("a.jsonl.gz", GZIP[:-9], "damaged gzip file .*a.jsonl.gz; compress or download it again"),
    ("a.jsonl.gz", GZIP[:20] + b"\xff" + GZIP[21:], "damaged gzip file"),
    ("a.jsonl.gz", GZIP[:-8] + b"1234" + GZIP[-4:], "damaged gzip file .CRC"),
    ("a.csv.gz", "text\nhi\n", "damaged gzip file"),
    ("a.jsonl", POINTER, "a git-LFS pointer .*; run: git lfs pull"),
    ("a.csv", "\n<!DOCTYPE html><title>404</title>", r"a web page \(HTML\) .*; download the file"),
    ("a.json", "<html>", "a web page"),
    (
        "a.parquet",
        b"PAR1",
        r"import pandas; pandas\.read_parquet\('a\.parquet'\)"
        r"\.to_json\('a\.jsonl', orient='records', lines=True\)",
    ),
    ("a.doc", "hello", r"not one of \.jsonl, \.json, \.csv, \.tsv, \.txt \(or \.gz\)"),
]


@pytest.mark.parametrize("name, content, message", BAD_FILES)
def test_bad_files(tmp_path, name, content, message):
    """Each kind of damage is a DataError with the file and the line, never another exception."""
    with pytest.raises(DataError, match=message) as caught:
        read_records(write(tmp_path / name, content))
    assert name in str(caught.value)


def test_the_size_is_bounded(tmp_path, monkeypatch):
    """A kilobyte of gzip can unpack to a gigabyte. Reading stops at the limit, and so never gets to
    the damaged end of this one."""
    line = b'{"a": 1}\n'
    bomb = gzip.compress(line * 10**6)[:-9]
    monkeypatch.setattr(records, "MAX_BYTES", 10 * len(line))
    assert len(read_records(write(tmp_path / "a.jsonl", line * 10))) == 10
    for name, content in (("a.jsonl", line * 10 + b"\n"), ("a.jsonl.gz", bomb)):
        with pytest.raises(DataError, match=f"more than 90 bytes, .*{name}; split the file"):
            read_records(write(tmp_path / name, content))


def test_labels_are_equal_in_every_format(tmp_path):
    """1 in JSON and "1" in CSV are one class."""
    for name, content in (("a.jsonl", '{"label": 1}'), ("a.csv", "label\n 1 \n")):
        assert label_field(read_records(write(tmp_path / name, content))[0]) == "1"

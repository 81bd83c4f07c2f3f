"""Reading records and splitting them: what comes out, and what is said of files that are wrong."""

import codecs
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from gptft.data.sources import label_field, load_splits, read_records, split_seeded, text_field
from gptft.errors import DataError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def load(data, seed=0):
    return load_splits(data, "reviews.jsonl", seed, text_field, label_field)


# ---------------------------------------------------------------- files


def test_the_three_kinds_hold_the_same_records(tmp_path):
    """One reader per kind must agree on fields, on quotes, commas, line breaks and letters beyond ASCII."""
    rows = [
        {"text": 'He said "wow",\nthen left — naïve.', "label": "1"},
        {"text": "b\r\nc", "label": "x y"},
    ]
    quoted = "".join(
        '"{}",{}\n'.format(row["text"].replace('"', '""'), row["label"]) for row in rows
    )
    files = [
        jsonl(tmp_path / "a.jsonl", rows),
        write(tmp_path / "a.json", json.dumps(rows, indent=1)),
        write(tmp_path / "a.csv", " text , label \n" + quoted),
        write(tmp_path / "A.CSV", "text,label\r\n" + quoted),
    ]
    for file in files:
        assert [record.fields for record in read_records(file)] == rows, file


def test_places(tmp_path):
    """An error must name the line a person sees in an editor: blank lines count, a quoted field spans some."""
    lines = read_records(write(tmp_path / "a.jsonl", '\n{"text": "a"}\n\n  \n{"text": "b"}'))
    rows = read_records(write(tmp_path / "a.csv", 'text\n"a\nb"\n\nc\n'))
    items = read_records(write(tmp_path / "a.json", '[{"text": "a"},\n\n{"text": "b"}]'))
    assert [record.number for record in lines] == [2, 5]
    assert [record.number for record in rows] == [2, 5]
    assert [record.place for record in items] == [
        f"{tmp_path / 'a.json'}, record {n}" for n in (1, 2)
    ]


def test_byte_order_mark_is_not_part_of_a_name(tmp_path):
    """Spreadsheets save CSV with a BOM; read as text it would turn the column `text` into `\\ufefftext`."""
    for name, content in (
        ("a.csv", "text\nhi"),
        ("a.jsonl", '{"text": "hi"}'),
        ("a.json", '[{"text": "hi"}]'),
    ):
        records = read_records(write(tmp_path / name, codecs.BOM_UTF8 + content.encode()))
        assert records[0].fields == {"text": "hi"}


def test_long_csv_fields(tmp_path):
    """Python's csv module gives up on fields over 131,072 characters unless told otherwise."""
    assert (
        len(read_records(write(tmp_path / "a.csv", "text\n" + "x" * 200_000))[0].fields["text"])
        == 200_000
    )


def test_a_one_line_json_file_may_be_large(tmp_path, monkeypatch):
    """json.dump writes the whole list on one line; the limit on lines is for .jsonl and .csv."""
    monkeypatch.setattr("gptft.data.sources.MAX_LINE", 50)
    assert (
        len(read_records(write(tmp_path / "a.json", json.dumps([{"text": "word " * 20}] * 3)))) == 3
    )
    with pytest.raises(DataError, match="longer than 50 bytes.*a.jsonl, line 2"):
        read_records(
            write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "' + "word " * 20 + '"}\n')
        )


BAD_FILES = [  # name, content, what the message must hold
    ("a.jsonl", "", r"no records, .*a\.jsonl"),
    ("a.jsonl", "\n \n", "no records"),
    ("a.jsonl", codecs.BOM_UTF8, "no records"),
    ("a.csv", "text,label\n", "no records"),
    ("a.json", "", "no records"),
    ("a.json", "[]", "no records"),
    ("a.jsonl", '{"a": 1}\n{"a": \n', r"bad JSON \(Expecting value\), .*a\.jsonl, line 2; "),
    ("a.jsonl", '{"a": 1} {"b": 2}\n', "bad JSON .*line 1"),
    ("a.jsonl", '{"a": 1}\n[1, 2]\n', "not an object but a list, .*line 2"),
    ("a.jsonl", "null\n", "not an object but null, .*line 1"),
    ("a.jsonl", "[" * 100_000, "bad JSON .*line 1"),
    ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "bad JSON .*line 1"),
    ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', "not UTF-8 .*line 2; save the file as UTF-8"),
    ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "not UTF-8 .*line 1"),
    ("a.jsonl", b'{"a": 1}\n\x00\x00\n', "a NUL byte, .*line 2"),
    ("a.jsonl", b"\x1f\x8b\x08\x00rest", "not UTF-8 .*line 1"),
    ("a.csv", b"text\nok\n\xff\n", "not UTF-8 .*line 3"),
    ("a.csv", b"text\na\0b\n", "a NUL byte, .*line 2"),
    ("a.csv", "text,label\na,1\nb\n", "1 columns where the header has 2, .*line 3"),
    ("a.csv", "text,label\na, b,1\n", "3 columns where the header has 2, .*line 2"),
    ("a.csv", "text,text\na,b\n", "a column name stands twice, .*line 1"),
    ("a.csv", 'text\na\n"never closed\nb\nc\n', r"bad CSV \(unexpected end of data\), .*line 3"),
    ("a.csv", 'text\n"a"b\n', "bad CSV .*line 2"),
    ("a.json", '{"a": 1}', "not a list but an object"),
    ("a.json", '{"a": 1}\n{"a": 2}\n', r"bad JSON .*line 2.*name it \.jsonl"),
    ("a.json", '[{"a": 1}, 2]', "not an object but a number, .*record 2"),
    ("a.json", b'[{"a": 1},\n{"a": "\xe9"}]', "not UTF-8 .*line 2"),
    ("a.json", b'[\n\n"\0"]', "a NUL byte, .*line 3"),
    ("a.doc", "hello", r"must end in \.jsonl, \.csv, \.json or \.txt"),
]


@pytest.mark.parametrize("name, content, message", BAD_FILES)
def test_bad_files(tmp_path, name, content, message):
    """Each kind of damage is one DataError with the file and the line, never another exception."""
    with pytest.raises(DataError, match=message) as caught:
        read_records(write(tmp_path / name, content))
    assert name in str(caught.value)


def test_absent_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="can't be read .*a.jsonl"):
        read_records(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(DataError, match="can't be read .*b.jsonl"):
        read_records(tmp_path / "b.jsonl")


BAD_FIELDS = [
    ({"label": 1}, r"no field 'text', .*line 1 \(fields: 'label'\)"),
    ({"text": None, "label": 1}, "'text' is null, not a string"),
    ({"text": 5, "label": 1}, "'text' is a number, not a string"),
    ({"text": " \n", "label": 1}, "'text' is empty"),
    ({"text": "half \ud83d", "label": 1}, "half a character"),
    ({"text": "a"}, "no field 'label'"),
    ({"text": "a", "label": 1.0}, "label is a number, .*labels are integers"),
    ({"text": "a", "label": True}, "label is true or false"),
    ({"text": "a", "label": None}, "label is null"),
    ({"text": "a", "label": " "}, "label is empty"),
    ({"text": "a", "label": "a\nb"}, "label is empty or not printable"),
    ({"text": "a", "label": "\ud83d"}, "label is empty or not printable"),
]


@pytest.mark.parametrize("fields, message", BAD_FIELDS)
def test_bad_fields(tmp_path, fields, message):
    """A missing field and one of the wrong type are named with their place before any training starts."""
    record = read_records(jsonl(tmp_path / "a.jsonl", [fields]))[0]
    with pytest.raises(DataError, match=message) as caught:
        text_field(record), label_field(record)
    assert "a.jsonl, line 1" in str(caught.value)


# ---------------------------------------------------------------- the split


def texts_and_labels(n=1000):
    return [f"text number {i}" for i in range(n)], [
        "rare" if i % 10 == 0 else "common" for i in range(n)
    ]


def test_split_is_disjoint_whole_and_in_proportion():
    """A row on two sides is a leak; a label missing from val makes its accuracy meaningless."""
    texts, labels = texts_and_labels()
    parts = split_seeded(texts, {"test": 0.1, "val": 0.2}, 0, labels)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 700,
        "test": 100,
        "val": 200,
    }
    assert sorted(sum(parts.values(), [])) == list(range(1000))
    assert [Counter(labels[row] for row in parts[name])["rare"] for name in parts] == [70, 10, 20]


def test_split_depends_on_texts_and_seed_alone():
    """The same texts in another order (a shuffled file, another tar) must fall on the same sides."""
    texts, labels = texts_and_labels()
    parts = split_seeded(texts, {"val": 0.2}, 0, labels)
    turned = split_seeded(texts[::-1], {"val": 0.2}, 0, labels[::-1])
    other = split_seeded(texts, {"val": 0.2}, 1, labels)
    assert {999 - row for row in turned["val"]} == set(parts["val"])
    assert len(set(other["val"]) & set(parts["val"])) in range(
        20, 61
    )  # 40 of 200 expected by chance


def test_split_is_the_same_on_every_machine():
    """Resuming elsewhere, or with a newer Python, must not move a row. Unlabelled, the order is that of the hashes."""
    texts = [f"text {i}" for i in range(10)]
    order = sorted(
        range(10), key=lambda i: hashlib.blake2b(f"7\ntext {i}".encode(), digest_size=16).digest()
    )
    assert set(order[:2]) == {4, 7} and set(order[2:4]) == {3, 8}
    parts = split_seeded(texts, {"test": 0.2, "val": 0.2}, 7)
    assert parts == {"train": [0, 1, 2, 5, 6, 9], "test": [4, 7], "val": [3, 8]}


def test_equal_texts_stay_together():
    """A text in train and val alike lets a model be chosen by what it knows by heart, whatever the labels say."""
    texts = [f"text {i % 24}" for i in range(120)]
    labels = [str(i % 5) for i in range(120)]
    parts = split_seeded(texts, {"test": 0.1, "val": 0.1}, 0, labels)
    sides = [{texts[row] for row in rows} for rows in parts.values()]
    assert sum(len(side) for side in sides) == 24 and len(set.union(*sides)) == 24
    assert [len(rows) for rows in parts.values()] == [
        100,
        10,
        10,
    ]  # groups of five: 12 is never exceeded


def test_a_class_of_one_is_for_training():
    """A label that only val had could not be learned."""
    texts, labels = texts_and_labels(40)
    labels[17] = "once"
    assert 17 in split_seeded(texts, {"test": 0.1, "val": 0.1}, 0, labels)["train"]


# ---------------------------------------------------------------- what --data names


def rows(n, start=0, **more):
    return [{"text": f"text {i}", "label": i % 2, **more} for i in range(start, start + n)]


def sizes(source):
    return {split: len(records) for split, records in source.splits.items()}


def test_the_bundled_sample_keeps_its_splits():
    source = load("sample")
    assert sizes(source) == {"train": 480, "val": 120, "test": 200}
    assert source.notes == []


def test_one_file_is_split_80_10_10(tmp_path):
    """The same seed must give the same rows, another seed others, and the user is told."""
    path = jsonl(tmp_path / "mine.jsonl", rows(200))
    source = load(path, seed=3)
    assert sizes(source) == {"train": 160, "val": 20, "test": 20}
    assert source.notes == [
        f"{path}: 20 for val and 20 for test split off 200 training records (seed 3)"
    ]
    assert load(path, seed=3) == source
    assert load(path, seed=4).splits["test"] != source.splits["test"]


def test_a_split_field_is_honoured(tmp_path):
    """Someone's own test set must stay the test set; only what is missing is split off train."""
    held = rows(10, 100, split="test")
    source = load(jsonl(tmp_path / "a.jsonl", rows(50, split="train") + held))
    assert [record.fields for record in source.splits["test"]] == held
    assert sizes(source) == {"train": 45, "val": 5, "test": 10}
    assert list(source.splits) == ["train", "val", "test"]


def test_a_folder(tmp_path):
    """Kinds may differ from split to split; a missing val is split off train and said."""
    jsonl(tmp_path / "train.jsonl", rows(100))
    write(
        tmp_path / "test.csv",
        "label,text\n" + "".join(f"{i % 2},held out {i}\n" for i in range(30)),
    )
    source = load(tmp_path)
    assert sizes(source) == {"train": 90, "val": 10, "test": 30}
    assert source.notes == [f"{tmp_path}: 10 for val split off 100 training records (seed 0)"]
    write(tmp_path / "val.json", json.dumps(rows(8, 200)))
    assert (
        sizes(load(tmp_path)) == {"train": 100, "val": 8, "test": 30} and load(tmp_path).notes == []
    )


def test_shared_texts_are_counted(tmp_path):
    """Overlap between someone's own train and test makes the accuracy look better than it is: say so."""
    jsonl(tmp_path / "train.jsonl", rows(20))
    jsonl(tmp_path / "val.jsonl", rows(5, 19))
    jsonl(tmp_path / "test.jsonl", rows(10, 15))
    assert load(tmp_path).notes == [
        "1 text stands in both train and val",
        "5 texts stand in both train and test",
        "5 texts stand in both val and test",
    ]


def test_bad_sources(tmp_path, monkeypatch):
    """What is absent or contradicts itself is named, with the command that mends it."""

    def check(data, message):
        with pytest.raises(DataError, match=message):
            load(data)

    monkeypatch.chdir(tmp_path)
    check(
        "data/imdb", r"no such file or folder, data/imdb; make it with: python -m data_prep\.imdb$"
    )
    check("else/alpaca", r"make it with: python -m data_prep\.alpaca --out else/alpaca")
    check("nowhere.jsonl", "no such file or folder, nowhere.jsonl; check the path")
    folder = Path("folder")
    folder.mkdir()
    check(folder, "no training records, folder")
    jsonl(folder / "train.jsonl", rows(20))
    jsonl(folder / "train.csv", rows(20))
    check(folder, "train.jsonl and train.csv both stand in folder; keep one")
    (folder / "train.csv").unlink()
    jsonl(folder / "train.jsonl", rows(20) + rows(1, 50, split="test"))
    check(folder, "split 'test' in the train file, .*train.jsonl, line 21")
    some = jsonl(tmp_path / "some.jsonl", rows(5, split="train") + rows(1))
    check(some, "no field 'split', .*line 6")
    for split in ("dev", None, ["train"]):
        check(
            jsonl(tmp_path / "odd.jsonl", rows(5, split=split)),
            "split is .*line 1; it must be train, val or test",
        )
    jsonl(
        folder / "train.jsonl", rows(100, split=["anything"])
    )  # a column of that name may mean something else
    assert len(load(folder).splits["train"]) == 80
    check(jsonl(tmp_path / "test.jsonl", rows(5, split="test")), "no training records")
    same = jsonl(tmp_path / "same.jsonl", [{"text": "a", "label": 0}] * 30)
    check(same, "too few different texts to split test and val off 30 records, .*same.jsonl")

"""What --data names, and how it is split: the sample, a file, a folder."""

import gzip
import json
from collections import Counter

import pytest
from script_runs import write_rows

from gptft.data.records import label_field, text_field
from gptft.data.sources import load_splits, split_seeded

# ---------------------------------------------------------------- the split


def test_the_worked_example_of_the_docstring():
    """Texts are ordered by a hash, so the split is the same on every machine."""
    texts = ["a1", "a2", "a3", "a4", "b1", "b2"]
    merged = ["a3", "b2", "a1", "a4", "b1", "a2"]
    for n in range(1, 6):
        parts = split_seeded(texts, {"test": n / 6}, seed=2, labels=["a"] * 4 + ["b"] * 2)
        assert [texts[row] for row in parts["test"]] == sorted(merged[:n])
        assert [texts[row] for row in parts["train"]] == sorted(merged[n:])


TEXTS = [f"text number {i}" for i in range(1000)]
LABELS = ["rare" if i % 10 == 0 else "common" for i in range(1000)]


def test_a_split_is_disjoint_complete_and_stratified():
    parts = split_seeded(TEXTS, {"test": 0.1, "val": 0.2}, 0, LABELS)
    assert {name: len(rows) for name, rows in parts.items()} == dict(train=700, test=100, val=200)
    assert sorted(sum(parts.values(), [])) == list(range(1000))
    rare = {name: Counter(LABELS[row] for row in rows)["rare"] for name, rows in parts.items()}
    assert rare == dict(train=70, test=10, val=20)


def test_a_split_depends_on_texts_and_seed_only():
    """A shuffled file must give the same split; another seed gives an independent one."""
    val = set(split_seeded(TEXTS, {"val": 0.2}, 0, LABELS)["val"])
    reversed_val = split_seeded(TEXTS[::-1], {"val": 0.2}, 0, LABELS[::-1])["val"]
    other_val = split_seeded(TEXTS, {"val": 0.2}, 1, LABELS)["val"]
    assert {999 - row for row in reversed_val} == val
    assert 20 <= len(val & set(other_val)) <= 60  # 40 by chance


def test_equal_texts_stay_together():
    """They may even have different labels. A part may have fewer rows than its share, never more:
    the groups here have five rows, and a tenth is twelve."""
    texts = [f"text {i % 24}" for i in range(120)]
    labels = [str(i % 5) for i in range(120)]
    parts = split_seeded(texts, {"test": 0.1, "val": 0.1}, 0, labels)
    sides = [{texts[row] for row in rows} for rows in parts.values()]
    assert sum(map(len, sides)) == len(set(texts))
    assert [len(rows) for rows in parts.values()] == [100, 10, 10]


def test_a_class_of_one_row_is_trained_on():
    labels = LABELS[:40]
    labels[17] = "once"
    assert 17 in split_seeded(TEXTS[:40], {"test": 0.1, "val": 0.1}, 0, labels)["train"]


# ---------------------------------------------------------------- what --data names


def rows(n, start=0, **more):
    return [{"text": f"text {i}", "label": i % 2, **more} for i in range(start, start + n)]


NAMED = "text from 'text', label from 'label'"


def load(data, seed=0):
    return load_splits(data, "reviews.jsonl", seed, [text_field], label_field)


def sizes(source):
    return {split: len(records) for split, records in source.splits.items()}


def test_one_file_is_split_80_10_10(tmp_path):
    path = write_rows(tmp_path / "mine.jsonl", rows(200))
    source = load(path, seed=3)
    assert sizes(source) == {"train": 160, "val": 20, "test": 20}
    split = "set aside 20 for val and 20 for test of 200 training records (seed 3)"
    assert source.notes == [NAMED, f"{path}: {split}"]
    assert load(path, seed=3) == source
    assert load(path, seed=4).splits["test"] != source.splits["test"]


def test_the_layout_of_acl_imdb(tmp_path):
    """A text a file; unsup has no labels."""
    for name in ("train/pos", "train/neg", "train/unsup", "test/pos", "dev/neg"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(9):
            (tmp_path / name / f"{i}_7.txt").write_text(f"{name} {i}", encoding="utf-8")
    source = load(tmp_path)
    assert sizes(source) == {"train": 18, "val": 9, "test": 9}
    first = {"id": "test/pos/0_7", "label": "pos", "text": "test/pos 0"}
    assert source.splits["test"][0].fields == first
    assert source.notes[0] == f"{tmp_path}: unused files: 'train/unsup'"


def test_a_split_field_is_obeyed(tmp_path):
    """The user's own test set stays the test set; a missing val is split off train."""
    test = rows(10, 100, split="test")
    dev = rows(9, split="train") + rows(3, 110, split="dev")
    assert sizes(load(write_rows(tmp_path / "b.jsonl", dev)))["val"] == 3
    source = load(write_rows(tmp_path / "a.jsonl", rows(50, split="train") + test))
    assert sizes(source) == {"train": 45, "val": 5, "test": 10}
    assert [record.fields for record in source.splits["test"]] == test


@pytest.mark.parametrize(
    "name", ["val.jsonl.gz", "Validation.jsonl.gz", "valid.JSONL.gz", "dev.jsonl.gz"]
)
def test_a_folder(tmp_path, name):
    """The files may have different formats, and a column `split` that means something else."""
    write_rows(tmp_path / "train.jsonl", rows(100, split=["by length"]))
    test = "".join(f"{i % 2}\theld out {i}\n" for i in range(30))
    (tmp_path / "test.tsv").write_text(f"label\ttext\n{test}", encoding="utf-8")
    source = load(tmp_path)
    assert sizes(source) == {"train": 90, "val": 10, "test": 30}
    split = f"{tmp_path}: set aside 10 for val of 100 training records (seed 0)"
    assert source.notes == [f"{NAMED}, split from 'split'", split]
    val = "".join(json.dumps(row) + "\n" for row in rows(8, 200))
    (tmp_path / name).write_bytes(gzip.compress(val.encode()))
    source = load(tmp_path)
    assert sizes(source) == {"train": 100, "val": 8, "test": 30} and source.notes[1:] == []
    for other in ("val2.csv", "classes.json", "unsup.jsonl", "README", "notes.txt"):
        (tmp_path / other).write_text("x", encoding="utf-8")
    assert load(tmp_path).notes[0] == f"{tmp_path}: unused files: 'notes.txt', 'val2.csv'"


def test_texts_in_two_splits_are_reported(tmp_path):
    for split, n, start in (("train", 20, 0), ("val", 5, 19), ("test", 10, 15)):
        write_rows(tmp_path / f"{split}.jsonl", rows(n, start))
    assert load(tmp_path).notes[1:] == [
        "1 text in both train and val",
        "5 texts in both train and test",
        "5 texts in both val and test",
    ]

"""`python -m data_prep.imdb` on small archives, sound and damaged, and on the real one."""

import gzip
import io
import os
import random
import tarfile
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from data_prep import imdb
from gptft.data.examples import load_reviews

COUNTS = {"train/neg": 10, "train/pos": 10, "test/neg": 10, "test/pos": 10, "train/unsup": 20}
STARS = {"neg": 2, "pos": 9, "unsup": 0}
JSONL = ("train.jsonl", "val.jsonl", "test.jsonl", "unsup.jsonl")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imdb, "COUNTS", COUNTS)


def official():
    """{name: bytes} of a small archive in the official layout."""
    files = {
        "aclImdb/imdb.vocab": b"the\nand\n",
        "aclImdb/train/labeledBow.feat": b"9 0:9 1:1",
        "aclImdb/train/urls_pos.txt": b"http://www.imdb.com/title/tt0453418/usercomments",
    }
    for group, count in COUNTS.items():
        stars = STARS[group.split("/")[1]]
        for i in range(count):
            files[f"aclImdb/{group}/{i}_{stars}.txt"] = f"Review {i} of {group}.".encode()
    return files


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def write_tar(path, members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if data else None)
    path.write_bytes(gzip.compress(buffer.getvalue(), 1))
    return path


@pytest.fixture
def make():
    """make(files, extra): an archive of the official files, changed by `files` (None leaves a file
    out), and of the members `extra`."""

    def make(files=None, extra=()):
        files = official() | (files or {})
        members = [member(name, data) for name, data in files.items() if data is not None]
        folder = member("aclImdb/train/neg/folder", type=tarfile.DIRTYPE)
        return write_tar(Path("a.tar.gz"), [*members, folder, *extra])

    return make


def prepare(archive, out):
    return imdb.main(["--archive", str(archive), "--out", str(out)])


def contents(folder):
    return [Path(folder, name).read_bytes() for name in JSONL]


# ---------------------------------------------------------------- what is written


def test_what_is_written(make):
    """The files load without further notes. Train and val are the official training set."""
    out = Path("data/imdb")
    assert prepare(make(), out) == 0
    assert set(os.listdir(out)) == {*JSONL, "classes.json", "README"}
    assert os.listdir(out.parent) == ["imdb"]
    reviews = load_reviews(str(out))
    assert reviews.classes == ["neg", "pos"]
    fields = "text from 'text', label from 'label', id from 'id'"
    assert reviews.notes == [fields, "2 classes: 'neg', 'pos'"]
    counts = {split: Counter(r.label for r in of) for split, of in reviews.splits.items()}
    assert counts == {"train": {0: 8, 1: 8}, "val": {0: 2, 1: 2}, "test": {0: 10, 1: 10}}
    unsup = (out / "unsup.jsonl").read_text(encoding="utf-8").splitlines()
    assert unsup[19] == '{"id": "train/unsup/19_0", "text": "Review 19 of train/unsup."}'
    test = (out / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert test[1] == '{"id": "test/pos/0_9", "label": 1, "text": "Review 0 of test/pos."}'


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("Good.<br /><br />Bad.", "Good.\n\nBad."),
        (" one <br /> two<br>three<br/>", "one\ntwo\nthree"),
        ("a < b <i>c</i>  d", "a < b <i>c</i>  d"),
    ],
)
def test_line_breaks(text, cleaned):
    assert imdb.clean(text) == cleaned


def test_order_of_the_files_does_not_matter(make):
    """Another tar and an unpacked folder give the same bytes."""
    files = [*official().items()]
    random.Random(0).shuffle(files)
    for name, data in files:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shuffled = [member(name, data) for name, data in files]
    assert prepare(make(), "a") == 0
    assert prepare(write_tar(Path("b.tar.gz"), shuffled), "b") == 0
    assert prepare("aclImdb", "c") == 0
    a, b, c = (contents(name) for name in "abc")
    assert a == b == c


def test_each_text_is_kept_once(make):
    """All of train/pos is in test too; test, train and unsup have texts of their own twice. Only
    the official test set keeps its duplicates."""
    texts = {f"train/pos/{i}_9": f"Review {i} of test/pos." for i in range(10)}
    texts["test/neg/0_2"] = "The same in test.<br />"
    texts["test/neg/1_2"] = "The same in test.<br />"
    texts["train/neg/3_2"] = "The same in train."
    texts["train/neg/4_2"] = "The same in train."
    texts["train/unsup/0_0"] = "The same in train."
    texts["train/unsup/1_0"] = "Review 3 of test/pos."
    texts["train/unsup/2_0"] = "Review 3 of train/unsup."
    copied = make({f"aclImdb/{id}.txt": text.encode() for id, text in texts.items()})
    splits = imdb.without_copies(imdb.make_splits(imdb.read_archive(copied)))
    texts = {split: [review.text for review in of] for split, of in splits.items()}
    assert len(texts["test"]) == 20
    assert len(set(texts["test"])) == 19
    others = texts["train"] + texts["val"] + texts["unsup"]
    assert len(texts["unsup"]) == 17
    assert len(others) == 26
    assert len(set(others)) == len(others)
    assert not set(others) & set(texts["test"])


# ---------------------------------------------------------------- the folder


def test_an_existing_folder_is_not_replaced(make, capsys):
    archive = make()
    out = Path("out")
    assert prepare(archive, out) == 0
    (out / "val.jsonl").write_text("mine\n", encoding="utf-8")
    before = contents(out)
    assert prepare(archive, out) == 2
    assert "--out exists already, out;" in capsys.readouterr().err
    assert contents(out) == before


@pytest.mark.parametrize(
    "error, code", [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_nothing_is_half_written(make, monkeypatch, error, code):
    """A full disk or Ctrl-C leaves no folder."""
    archive = make()

    def rows():
        yield "written"
        raise error

    monkeypatch.setattr(imdb, "map", lambda as_row, reviews: rows(), raising=False)
    assert prepare(archive, "new") == code
    assert os.listdir() == ["a.tar.gz"]


# ---------------------------------------------------------------- bad archives

NEG = "aclImdb/train/neg/3_2.txt"


@pytest.fixture
def refused(capsys):
    """refused(archive, message): the error is one line that names it, and nothing is written."""

    def check(archive, message):
        assert prepare(archive, "out") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert str(archive) in line
        assert os.listdir() == [archive.name]

    return check


@pytest.mark.parametrize(
    "name, data, message",
    [
        (NEG, None, "9 of 10 files in train/neg"),
        (NEG, b" <br /> ", "empty"),
        (NEG, b"caf\xe9", "not UTF-8"),
        (NEG, b"x" * (1 << 20) + b"y", "has 1,048,577 bytes"),
        ("aclImdb/test/pos/77_7.txt", b"x", "11 of 10 files in test/pos"),
        ("aclImdb/train/pos/x_9.txt", b"x", "not named NUMBER_STARS.txt"),
    ],
)
def test_bad_files(make, refused, name, data, message):
    refused(make({name: data}), message)


def test_a_repeated_file_does_not_replace_a_missing_one(make, refused):
    again = member("aclImdb/train/neg/4_2.txt", b"Again.")
    refused(make({NEG: None}, [again]), "9 of 10 files in train/neg")


@pytest.mark.parametrize(
    "name, type",
    [
        ("/etc/passwd", tarfile.REGTYPE),
        ("aclImdb/../../x", tarfile.REGTYPE),
        ("aclImdb/link", tarfile.SYMTYPE),
        (NEG, tarfile.LNKTYPE),
        ("aclImdb/pipe", tarfile.FIFOTYPE),
        ("aclImdb/sparse", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_unsafe_members(make, refused, name, type):
    archive = make({NEG: None}, [member(name, type=type, linkname="aclImdb/imdb.vocab")])
    refused(archive, f"unexpected archive member {name!r}")


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}


@pytest.mark.parametrize(
    "members, message",
    [
        ([member("aclImdb/x", b"no\nnumbers\n" * 99, pax_headers=SPARSE)], "damaged archive"),
        ([member("aclImdb/x", type=tarfile.XHDTYPE)] * 3000, "damaged archive"),  # read recursively
        # tarfile would look for the next member there, in vain or forever.
        ([member("aclImdb/x", size=1 << 60)], "damaged archive"),
        ([member("aclImdb/x", size=1 << 80)], "damaged archive"),
        ([member("aclImdb/x", size=-512)], "unexpected archive member"),
    ],
)
def test_malformed_headers(make, refused, members, message):
    refused(make(extra=members), message)


@pytest.mark.parametrize("type", [tarfile.REGTYPE, tarfile.XHDTYPE])
def test_gzip_bombs(make, refused, monkeypatch, type):
    monkeypatch.setattr(imdb, "MAX_ARCHIVE", 1 << 20)
    big = member("aclImdb/train/labeledBow.feat", bytes(1 << 24), type=type)
    refused(make(extra=[big]), "more than 1,048,576 bytes")


@pytest.mark.parametrize(
    "end, tail",
    [
        (500, b""),
        (-1, b""),
        (0, gzip.compress(b"hello" * 999)),
        (30, b"\xff" * 999),
        (-8, bytes(8)),  # gzip's checksum and size
    ],
)
def test_damaged_archives(make, refused, end, tail):
    archive = make()
    archive.write_bytes(archive.read_bytes()[:end] + tail)
    refused(archive, "damaged archive")


def test_download_when_no_archive_is_given(make, monkeypatch):
    download = Mock(side_effect=lambda urls, path, size, sha256: make().rename(path))
    monkeypatch.setattr(imdb, "download", download)
    assert imdb.main(["--out", "imdb"]) == 0
    download.assert_called_once_with(
        ["https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"],
        Path("aclImdb_v1.tar.gz"),
        84125825,
        "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    )


def test_the_real_archive(shared, monkeypatch):
    """Sizes and copies against figures counted elsewhere, on the texts before they are cleaned."""
    monkeypatch.undo()
    monkeypatch.setattr(imdb, "clean", lambda text: text)
    found = imdb.read_archive(shared / "aclImdb_texts.tar.gz")
    sizes = [sum(len(review.text.encode()) for review in of) for of in found.values()]
    assert sizes[:4] == [16289992, 16842831, 16067328, 16283357]
    splits = imdb.make_splits(found)
    assert [len(of) for of in splits.values()] == [20000, 5000, 25000, 50000]
    train, val, test = ({r.text for r in splits[split]} for split in ("train", "val", "test"))
    assert len(test) == 25000 - 199
    assert len(train | val) == 25000 - 96
    assert not train & val
    assert sum(r.text in test for split in ("train", "val") for r in splits[split]) == 123

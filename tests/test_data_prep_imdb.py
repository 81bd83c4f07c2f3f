"""`python -m data_prep.imdb` on archives of forty reviews, sound and damaged, and on the real one if at hand."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from data_prep import folder, imdb
from gptft.data.imdb import load_reviews

REAL = Path(__file__).parents[2] / "shared" / "data" / "aclImdb_texts.tar.gz"
COUNTS = {"train/neg": 10, "train/pos": 10, "test/neg": 10, "test/pos": 10, "train/unsup": 20}
STARS = {"neg": 2, "pos": 9, "unsup": 0}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(imdb, "COUNTS", COUNTS)


def official():
    """{name: bytes} of a small archive in the official layout."""
    files = {}
    for group, count in COUNTS.items():
        for i in range(count):
            files[f"aclImdb/{group}/{i}_{STARS[group.split('/')[1]]}.txt"] = (
                f"Review {i} of {group}.".encode()
            )
    files["aclImdb/README"] = b"about"
    files["aclImdb/imdb.vocab"] = b"the\nand\n"
    files["aclImdb/train/labeledBow.feat"] = b"9 0:9 1:1"
    files["aclImdb/train/urls_pos.txt"] = b"http://www.imdb.com/title/tt0453418/usercomments"
    return files


def member(name, data=b"", **more):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def write_tar(path, members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(buffer.getvalue(), 1))
    return path


@pytest.fixture
def make(tmp_path):
    """make({name: bytes} to add or replace, without=names to leave out, extra=members) -> path of an archive."""

    def make(files=None, without=(), extra=()):
        files = {
            name: data for name, data in (official() | (files or {})).items() if name not in without
        }
        return write_tar(
            tmp_path / "a.tar.gz",
            [member(name, data) for name, data in files.items()] + list(extra),
        )

    return make


def prepare(archive, out, *flags):
    return imdb.main(["--archive", str(archive), "--out", str(out), *flags])


def rows(file):
    return [json.loads(line) for line in file.read_bytes().decode("utf-8").split("\n")[:-1]]


# ---------------------------------------------------------------- what is written


def test_files(make, tmp_path):
    """Counts, fields and labels of every file; train and val are the official train set, test the official test set."""
    out = tmp_path / "data" / "imdb"
    assert prepare(make(), out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README",
        "classes.json",
        "test.jsonl",
        "train.jsonl",
        "unsup.jsonl",
        "val.jsonl",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["imdb"]
    splits = {split: rows(out / f"{split}.jsonl") for split in ("train", "val", "test", "unsup")}
    labels = {split: Counter(row.get("label") for row in of) for split, of in splits.items()}
    assert labels == {
        "train": {0: 8, 1: 8},
        "val": {0: 2, 1: 2},
        "test": {0: 10, 1: 10},
        "unsup": {None: 20},
    }
    assert splits["test"][1] == {"id": "test/pos/0_9", "label": 1, "text": "Review 0 of test/pos."}
    assert splits["unsup"][-1] == {"id": "train/unsup/19_0", "text": "Review 19 of train/unsup."}
    ids = [row["id"] for split in ("train", "val") for row in splits[split]]
    assert sorted(ids) == sorted(
        f"train/{name}/{i}_{STARS[name]}" for name in ("neg", "pos") for i in range(10)
    )


def test_readme_states_what_is_there(make, tmp_path):
    """The checksums are those of the files, so that a copy can be checked with sha256sum."""
    archive = make()
    prepare(archive, tmp_path / "out", "--seed", "5")
    text = (tmp_path / "out" / "README").read_text(encoding="utf-8")
    for split in ("train", "val", "test", "unsup"):
        content = (tmp_path / "out" / f"{split}.jsonl").read_bytes()
        assert f"{hashlib.sha256(content).hexdigest()}  {split}.jsonl" in text
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in text
    assert "seed 5" in text and "not the official archive" in text


def test_what_is_written_loads(make, tmp_path):
    prepare(make(), tmp_path / "out")
    reviews = load_reviews(str(tmp_path / "out"))
    assert reviews.classes == ["neg", "pos"] and reviews.notes == []
    assert {split: len(of) for split, of in reviews.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 20,
    }
    assert all(("neg", "pos")[review.label] in review.text for review in reviews.splits["test"])


def test_line_breaks():
    """`<br />` between two words must not make one word of them, nor stay as a tag to be learned."""
    assert imdb.clean("Good.<br /><br />Bad.") == "Good.\n\nBad."
    assert imdb.clean(" one <br /> two<br>three<br/>") == "one\ntwo\nthree"
    assert imdb.clean("a < b <i>c</i>  d") == "a < b <i>c</i>  d"


def test_order_in_the_archive_does_not_matter(make, tmp_path):
    """Another tar of the same files must give the same bytes, another seed another val."""
    archive = make()
    with tarfile.open(archive) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]
    prepare(archive, tmp_path / "a")
    random.Random(0).shuffle(members)
    prepare(write_tar(archive, members), tmp_path / "b")
    prepare(archive, tmp_path / "c", "--seed", "1")
    for split in ("train", "val", "test", "unsup"):
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (
            tmp_path / "b" / f"{split}.jsonl"
        ).read_bytes()
    assert rows(tmp_path / "a" / "val.jsonl") != rows(tmp_path / "c" / "val.jsonl")


@pytest.fixture
def copied(make):
    """An archive in which train/pos stands in test too, test holds a text twice, train another, unsup some of each."""
    texts = {f"train/pos/{i}_9": f"Review {i} of test/pos." for i in range(10)}
    texts["test/neg/0_2"] = texts["test/neg/1_2"] = "The same in test.<br />"
    texts["train/neg/3_2"] = texts["train/neg/4_2"] = texts["train/unsup/0_0"] = (
        "The same in train."
    )
    texts["train/unsup/1_0"], texts["train/unsup/2_0"] = (
        "Review 3 of test/pos.",
        "Review 3 of train/unsup.",
    )
    return make({f"aclImdb/{id}.txt": text.encode() for id, text in texts.items()})


def test_copies_are_claimed_once(copied, tmp_path, capsys):
    """No text of train or unsup may stand in val or test, none of val in test, none twice; test stays whole."""
    prepare(copied, tmp_path / "out")
    texts = {}
    for split in ("train", "val", "test", "unsup"):
        texts[split] = [row["text"] for row in rows(tmp_path / "out" / f"{split}.jsonl")]
    assert {split: len(of) for split, of in texts.items() if split in ("test", "unsup")} == {
        "test": 20,
        "unsup": 17,
    }
    assert len(texts["train"]) + len(texts["val"]) == 9 and len(set(texts["test"])) == 19
    others = texts["train"] + texts["val"] + texts["unsup"]
    assert len(set(others)) == len(others) and not set(others) & set(texts["test"])
    table = capsys.readouterr().out
    assert "| none (1 of a text in test; the test set stays whole) |" in table
    assert "| 8 of a text in test" in table and "| 2 of a text in test" in table


def test_keep_duplicates(copied, tmp_path, capsys):
    """For comparison with papers every official row stays, and load_reviews says what overlaps."""
    prepare(copied, tmp_path / "out", "--keep-duplicates")
    assert "copies kept" in capsys.readouterr().out
    sizes = {
        split: len(rows(tmp_path / "out" / f"{split}.jsonl"))
        for split in ("train", "val", "test", "unsup")
    }
    assert sizes == {"train": 16, "val": 4, "test": 20, "unsup": 20}
    assert "8 texts stand in both train and test" in load_reviews(tmp_path / "out").notes


# ---------------------------------------------------------------- the folder


def test_an_existing_folder(make, tmp_path, capsys):
    """Prepared data is replaced only on demand; a folder of someone's own is never touched."""
    archive, out = make(), tmp_path / "out"
    out.mkdir()
    assert prepare(archive, out) == 0  # an empty folder is no obstacle
    before = rows(out / "val.jsonl")
    assert prepare(archive, out, "--seed", "1") == 2
    assert "give --overwrite" in capsys.readouterr().err and rows(out / "val.jsonl") == before
    assert prepare(archive, out, "--seed", "1", "--overwrite") == 0
    assert rows(out / "val.jsonl") != before
    (out / "README").write_text("my own notes", encoding="utf-8")
    assert prepare(archive, out, "--overwrite") == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(make, tmp_path, monkeypatch, capsys, error):
    """A full disk or Ctrl-C in the middle: no folder, no remains; a folder that stood there still stands."""
    archive, out = make(), tmp_path / "out"
    prepare(archive, out)
    before = rows(out / "train.jsonl")
    write = folder._write_jsonl

    def fail_late(path, reviews):
        if path.name == "test.jsonl":
            raise error
        return write(path, reviews)

    monkeypatch.setattr(folder, "_write_jsonl", fail_late)
    code = {OSError: 2, KeyboardInterrupt: 130}[type(error)]
    assert (
        prepare(archive, tmp_path / "new") == code and prepare(archive, out, "--overwrite") == code
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    assert rows(out / "train.jsonl") == before
    if code == 2:
        assert "error: can't write (No space left on device)" in capsys.readouterr().err


# ---------------------------------------------------------------- archives that are not what they should be

NEG = "aclImdb/train/neg/3_2.txt"
BAD_ARCHIVES = [  # arguments of make, what the error must say
    (dict(without=[NEG]), "9 of 10 files in aclImdb/train/neg"),
    (
        dict(extra=[member("aclImdb/test/pos/77_7.txt", b"One more.")]),
        "11 of 10 files in aclImdb/test/pos",
    ),
    (
        dict(without=[NEG], extra=[member("aclImdb/train/neg/4_2.txt", b"Again.")]),
        "stands twice in aclImdb/train/neg",
    ),
    (
        dict(without=[NEG], extra=[member("aclImdb/train/neg/3_7.txt", b"Seven.")]),
        "not a NUMBER_RATING.txt of train",
    ),
    (
        dict(extra=[member("aclImdb/train/pos/x_9.txt", b"x")]),
        "not a NUMBER_RATING.txt of train/pos",
    ),
    (dict(files={NEG: b""}), "a review of 0 bytes"),
    (dict(files={NEG: b" <br /> "}), "a review is empty"),
    (dict(files={NEG: b"caf\xe9"}), "a review is not UTF-8"),
    (dict(files={NEG: b"x" * (1 << 20) + b"y"}), "a review of 1,048,577 bytes"),
    (dict(extra=[member("/etc/passwd", b"x")]), "leaves the archive's folder"),
    (dict(extra=[member("aclImdb/../../x", b"x")]), "leaves the archive's folder"),
    (dict(extra=[member("aclImdb\\..\\x", b"x")]), "leaves the archive's folder"),
    (dict(extra=[member("C:x", b"x")]), "leaves the archive's folder"),
    (
        dict(extra=[member("aclImdb/l", type=tarfile.SYMTYPE, linkname="/etc/passwd")]),
        "a link or a device",
    ),
    (
        dict(without=[NEG], extra=[member(NEG, type=tarfile.LNKTYPE, linkname="aclImdb/README")]),
        "a link or a device",
    ),
    (dict(extra=[member("aclImdb/d", type=tarfile.CHRTYPE)]), "a link or a device"),
    (dict(extra=[member("aclImdb/f", type=tarfile.FIFOTYPE)]), "a link or a device"),
]


def check_refused(archive, message, tmp_path, capsys):
    assert prepare(archive, tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 1
        and lines[0].startswith("error: ")
        and message in lines[0]
        and str(archive) in lines[0]
    )
    assert [path.name for path in tmp_path.iterdir()] in ([], [archive.name])


@pytest.mark.parametrize("arguments, message", BAD_ARCHIVES)
def test_bad_members(make, tmp_path, capsys, arguments, message):
    """Anything but the official files is refused with the member's name, and nothing is written."""
    check_refused(make(**arguments), message, tmp_path, capsys)


def test_damaged_archives(make, tmp_path, capsys):
    """Cut short anywhere, a flipped bit, not gzip, not tar, absent: one clear error each."""
    archive = make()
    whole = archive.read_bytes()
    packer = zlib.compressobj(wbits=31)  # a whole tar, and then bytes that are no deflate
    broken = (
        packer.compress(gzip.decompress(whole) + bytes(1 << 16))
        + packer.flush(zlib.Z_FULL_FLUSH)
        + b"\xff" * 99
    )
    not_tar = gzip.compress(b"hello" * 999)
    for content in (
        whole[: len(whole) // 2],
        whole[:-6],
        whole[:-1],
        b"",
        b"hello",
        broken,
        not_tar,
    ):
        archive.write_bytes(content)
        check_refused(
            archive, "archive is damaged or cut short" if content else "", tmp_path, capsys
        )
    for place in (10, 20, len(whole) // 2, len(whole) - 5):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        check_refused(archive, "", tmp_path, capsys)
    archive.unlink()
    check_refused(archive, "no such archive", tmp_path, capsys)


def test_gzip_bomb(tmp_path, capsys, monkeypatch):
    """Kilobytes that unfold into gigabytes, in a file to skip or a header that is read whole, end at the limit."""
    monkeypatch.setattr(imdb, "MAX_ARCHIVE", 1 << 20)
    archive = write_tar(
        tmp_path / "a.tar.gz", [member("aclImdb/train/labeledBow.feat", bytes(1 << 24))]
    )
    check_refused(archive, "unpacks to more than 1,048,576 bytes", tmp_path, capsys)
    write_tar(archive, [member("x", bytes(1 << 24), type=tarfile.XHDTYPE)])
    check_refused(archive, "unpacks to more than 1,048,576 bytes", tmp_path, capsys)


def test_a_broken_sparse_map(tmp_path, capsys):
    """tarfile reads such maps with int() and lets its ValueError out."""
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    archive = write_tar(
        tmp_path / "a.tar.gz", [member("x", b"not\nnumbers\n" * 99, pax_headers=sparse)]
    )
    check_refused(archive, "archive is damaged", tmp_path, capsys)


def test_a_size_beyond_the_end(tmp_path, capsys):
    """A member that claims 2 ** 60 bytes: tarfile would look for its end block by block, for years."""
    huge = member("aclImdb/imdb.vocab")[0]
    huge.size = 1 << 60
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(huge.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    check_refused(archive, "ends in the middle of a file", tmp_path, capsys)


def test_headers_within_headers(tmp_path, capsys):
    """tarfile reads a chain of extended headers by recursion: a long chain must not end in a traceback."""
    archive = write_tar(tmp_path / "a.tar.gz", [member("x", type=tarfile.XHDTYPE)] * 3000)
    check_refused(archive, "recursion", tmp_path, capsys)


def test_mutated_archives(make, tmp_path, capsys):
    """Headers broken at random are refused or, where the break does no harm, read to the very same reviews."""
    archive = make()
    good = imdb.read_archive(archive)
    data = bytearray(gzip.decompress(archive.read_bytes()))
    rng, refused = random.Random(0), 0
    for _ in range(150):
        broken = bytearray(data)
        at = 512 * rng.randrange(len(data) // 512)
        for _ in range(rng.randrange(1, 4)):
            broken[at + rng.randrange(512)] = rng.choice(b"\x00\x80\xff0179x/")
        archive.write_bytes(gzip.compress(bytes(broken), 1))
        try:
            found = imdb.read_archive(archive)
        except imdb.DataError:
            refused += 1
        else:
            texts = sum(a != b for group in good for a, b in zip(good[group], found[group]))
            assert texts <= 1  # a byte of a review's own text has no checksum inside the tar
    assert refused > 50


def test_download_when_no_archive_is_given(make, tmp_path, monkeypatch):
    """Without --archive the official file is fetched, with its size and checksum, beside --out."""
    asked = []

    def download(urls, path, **checks):
        asked.append((urls, path, checks))
        path.parent.mkdir(parents=True)
        archive.rename(path)

    archive = make()
    monkeypatch.setattr(imdb, "download", download)
    assert imdb.main(["--out", str(tmp_path / "data" / "imdb")]) == 0
    checks = {
        "size": 84125825,
        "sha256": "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    }
    url = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
    assert asked == [([url], tmp_path / "data" / "aclImdb_v1.tar.gz", checks)]


@pytest.mark.skipif(not REAL.exists(), reason="the real archive is not beside the repository")
def test_the_real_archive(monkeypatch):
    """Bytes of the texts and copies among them, against figures counted elsewhere (before cleaning: 96, 199, 123).

    Two more copies within train differ only in the blanks beside a `<br />`.
    """
    monkeypatch.undo()
    monkeypatch.setattr(imdb, "clean", lambda text: text)
    found = imdb.read_archive(REAL)
    sizes = {group: sum(len(review.text.encode()) for review in of) for group, of in found.items()}
    assert sizes["train/neg"] == 16289992 and sizes["train/pos"] == 16842831
    assert sizes["test/neg"] == 16067328 and sizes["test/pos"] == 16283357
    splits, copies = imdb.divide(found, seed=0, keep_duplicates=True)
    assert [len(splits[split]) for split in ("train", "val", "test", "unsup")] == [
        20000,
        5000,
        25000,
        50000,
    ]
    assert Counter(review.label for review in splits["val"]) == {0: 2500, 1: 2500}
    assert copies["test", "test"] == 199
    assert copies["train", "test"] + copies["val", "test"] == 123
    assert copies["train", "val"] == 0 and copies["val", "train"] == 0
    distinct = {review.text for split in ("train", "val") for review in splits[split]}
    assert len(distinct) == 25000 - 96

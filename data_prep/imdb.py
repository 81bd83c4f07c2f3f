"""The IMDb film reviews as four plain files: `python -m data_prep.imdb`.

The official archive is a tar of 100,000 small files. It is read as one stream and never unpacked on disk; every member
is checked, because an archive can name files outside its folder, hold links, or unfold into more than the disk takes.
The official test set stays whole and untouched. Validation is a seeded, stratified 20 % of the official training set.
A text that occurs again would let a model be tested, or chosen, on what it has learned by heart; so a text is claimed
once, by test first, then val, train and unsup, and its later copies are left out (--keep-duplicates keeps them).

Written: train, val, test and unsup.jsonl with id, label (0 negative, 1 positive; none in unsup) and text; classes.json;
README with counts and checksums. The same archive and seed give the same bytes.

Left out: the archive's bag-of-words features and film addresses. Source: Maas et al. 2011, "Learning Word Vectors for
Sentiment Analysis", and the README in its archive.
"""

import gzip
import re
import sys
import tarfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep.download import digest_of, download
from data_prep.folder import check_replaceable, write_folder
from gptft.data.sources import split_seeded
from gptft.errors import DataError, Parser, command

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SIZE = 84125825
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"

COUNTS = {
    "train/neg": 12500,
    "train/pos": 12500,
    "test/neg": 12500,
    "test/pos": 12500,
    "train/unsup": 50000,
}
RATINGS = {"neg": range(1, 5), "pos": range(7, 11), "unsup": range(1)}  # of ten stars; 0: not told
LABELS = {"neg": 0, "pos": 1, "unsup": None}
VAL_SHARE = 0.2
MAX_REVIEW = 1 << 20  # bytes; the longest real one has 14,282
MAX_ARCHIVE = 1 << 30  # bytes unpacked; the real texts alone take 209 million in a tar
ADVICE = "use the official aclImdb_v1.tar.gz"
TITLE = "# IMDb reviews, written by `python -m data_prep.imdb`"


class Review(NamedTuple):
    """One file of the archive; the order of the fields is the order of the rows."""

    number: int
    label: int | None
    id: str
    text: str


@command
def main(argv=None):
    parser = Parser(
        prog="python -m data_prep.imdb", description="Prepare the IMDb film reviews for training."
    )
    parser.add_argument(
        "--archive", metavar="FILE", help="aclImdb_v1.tar.gz; default: download it, beside --out"
    )
    parser.add_argument(
        "--out", metavar="DIR", default="data/imdb", help="folder to write (default: data/imdb)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split into train and val (default: 0)"
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep texts that occur again, as papers do"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out if this command wrote it"
    )
    args = parser.parse_args(argv)

    start, out = time.monotonic(), Path(args.out)
    check_replaceable(out, TITLE, args.overwrite)
    archive = Path(args.archive) if args.archive else fetch(out.parent / "aclImdb_v1.tar.gz")
    official = read_archive(archive)
    splits, copies = divide(official, args.seed, args.keep_duplicates)
    table = describe(splits, copies, args.keep_duplicates)
    files = {f"{split}.jsonl": map(row, reviews) for split, reviews in splits.items()}
    write_folder(out, files | {"classes.json": [["neg", "pos"]]}, readme(archive, args, table))
    print(f"{table}\n\nwritten to {out} in {time.monotonic() - start:.1f} s")
    print(
        f"next: python scripts/train_logreg.py --data {out}, or python scripts/finetune_imdb.py --data {out}"
    )


def fetch(path):
    """Download the official archive to `path` unless it is there and whole -> path."""
    download([URL], path, size=SIZE, sha256=SHA256)
    return path


# ---------------------------------------------------------------- the archive


def read_archive(path):
    """Read the tar.gz as a stream -> {"train/neg": [Review], ...}, in the order of their numbers. Raises DataError."""
    found = {group: [] for group in COUNTS}
    if not path.is_file():
        raise DataError(
            f"no such archive, {path}; give --archive FILE, or leave it out to download"
        )
    try:
        with gzip.open(path) as unpacked:
            stream = _Bounded(unpacked)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    _read_member(tar, member, found, path)
            while not stream.ended:  # on to the end, where gzip keeps its checksum
                stream.read(1 << 20)
    except (
        tarfile.TarError,
        zlib.error,
        EOFError,
        gzip.BadGzipFile,
        ValueError,
        RecursionError,
    ) as error:
        raise DataError(
            f"archive is damaged or cut short ({error}), {path}; download it again"
        ) from error
    for group, reviews in found.items():
        reviews.sort()
        if len({review.id for review in reviews}) < len(reviews):
            raise DataError(f"a file stands twice in aclImdb/{group}, {path}; download it again")
        if len(reviews) != COUNTS[group]:
            raise DataError(
                f"{len(reviews)} of {COUNTS[group]} files in aclImdb/{group}, {path}; download it again"
            )
    return found


class _Bounded:
    """A stream that ends in an error rather than in a full memory or a long wait.

    A few kilobytes of gzip can unfold into gigabytes, and a header that claims exabytes has tarfile skip them one block
    after the other, also past the end.
    """

    def __init__(self, file):
        self.file, self.total, self.ended = file, 0, False

    def read(self, size):
        if self.ended:
            raise EOFError("it ends in the middle of a file")
        data = self.file.read(size)
        self.total += len(data)
        self.ended = not data
        if self.total > MAX_ARCHIVE:
            raise DataError(
                f"archive unpacks to more than {MAX_ARCHIVE:,} bytes, {self.file.name}; download it again"
            )
        return data


def _read_member(tar, member, found, path):
    """Check one member of the archive and, if it is a review, add it to `found`."""
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name:
        raise DataError(
            f"a name that leaves the archive's folder, {member.name!r} in {path}; don't trust this file"
        )
    if not (member.isfile() or member.isdir()):
        raise DataError(
            f"a member is a link or a device, {member.name!r} in {path}; don't trust this file"
        )
    group = "/".join(parts[1:3])
    if member.isdir() or parts[0] != "aclImdb" or len(parts) != 4 or group not in COUNTS:
        return
    name = re.fullmatch(r"([0-9]{1,6})_([0-9]{1,2})\.txt", parts[3])
    if not name or int(name[2]) not in RATINGS[parts[2]]:
        raise DataError(f"not a NUMBER_RATING.txt of {group}, {member.name!r} in {path}; {ADVICE}")
    if not 0 < member.size <= MAX_REVIEW:
        raise DataError(f"a review of {member.size:,} bytes, {member.name!r} in {path}; {ADVICE}")
    try:
        text = tar.extractfile(member).read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"a review is not UTF-8, {member.name!r} in {path}; {ADVICE}") from error
    text = clean(text)
    if not text:
        raise DataError(f"a review is empty, {member.name!r} in {path}; {ADVICE}")
    found[group].append(Review(int(name[1]), LABELS[parts[2]], f"{group}/{name[0][:-4]}", text))


def clean(text):
    """Each `<br />` becomes a line break, and the blanks beside it go: "one.<br /><br />Two" -> "one.\\n\\nTwo"."""
    return re.sub(r"\s*<br\s*/?>\s*", "\n", text).strip()


# ---------------------------------------------------------------- the splits


def divide(official, seed, keep_duplicates=False):
    """Divide the archive's reviews -> ({split: [Review]}, copies).

    copies: Counter of (split, claimant), the rows of `split` whose text `claimant` holds already. They are left out of
    all splits but test, unless `keep_duplicates`.
    """
    labelled = sorted(official["train/neg"] + official["train/pos"])
    rows = split_seeded(
        [r.text for r in labelled], {"val": VAL_SHARE}, seed, [str(r.label) for r in labelled]
    )
    splits = {split: [labelled[row] for row in rows[split]] for split in ("train", "val")}
    splits["test"] = sorted(official["test/neg"] + official["test/pos"])
    splits["unsup"] = official["train/unsup"]

    claimants, copies = {}, Counter()
    for split in ("test", "val", "train", "unsup"):
        kept = []
        for review in splits[split]:
            if review.text in claimants:
                copies[split, claimants[review.text]] += 1
            if review.text not in claimants or split == "test" or keep_duplicates:
                kept.append(review)
            claimants.setdefault(review.text, split)
        splits[split] = kept
    return splits, copies


def describe(splits, copies, keep_duplicates):
    """The `splits` and the `copies` found, kept or not (`keep_duplicates`), as a table for a terminal and for Markdown."""
    lines = [
        f"| file        | reviews | negative | positive | copies {'kept' if keep_duplicates else 'left out'} |"
    ]
    lines.append("|---|--:|--:|--:|---|")
    for split, reviews in splits.items():
        labels = Counter(review.label for review in reviews)
        found = ", ".join(
            f"{n} of a text in {first}" for (of, first), n in sorted(copies.items()) if of == split
        )
        if found and split == "test" and not keep_duplicates:
            found = f"none ({found}; the test set stays whole)"
        negative, positive = (
            f"{labels[label]:,}" if None not in labels else "-" for label in (0, 1)
        )
        found = found or "none"
        lines.append(
            f"| {split + '.jsonl':11} | {len(reviews):7,} | {negative:>8} | {positive:>8} | {found} |"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------- the folder


def row(review):
    """A Review -> the dict that is written for it."""
    label = {} if review.label is None else {"label": review.label}
    return {"id": review.id, **label, "text": review.text}


def readme(archive, args, table):
    """The text of the folder's README, without checksums: where the data come from (`archive`), the flags (`args`), the `table`.

    No dates: equal input, equal bytes.
    """
    sha256 = digest_of(archive)
    origin = (
        "the official archive"
        if sha256 == SHA256
        else "not the official archive, but with its files and counts"
    )
    kept = "kept" if args.keep_duplicates else "left out"
    return f"""{TITLE}

Film reviews of the Large Movie Review Dataset (Maas et al. 2011), for research; the texts belong to their authors.
One JSON object a line: id (split/class/NUMBER_RATING of the archive), label (0 negative, 1 positive; none in unsup),
text. Each `<br />` was made a line break.

- archive: {archive.name}, {archive.stat().st_size} bytes, sha256 {sha256} ({origin})
- seed {args.seed}: val is a stratified {VAL_SHARE:.0%} of the official training set; equal texts are never divided
- copies: a text is claimed by test first, then val, train, unsup; later copies are {kept}

{table}
"""


if __name__ == "__main__":
    sys.exit(main())

"""Prepare the IMDb film reviews: `python -m data_prep.imdb`.

The official archive is a tar of 100,000 small files, one review each. It is read in memory, never
unpacked on disk. The official test set is kept as it is; a seeded, stratified 20 % of the official
training set becomes val. Some texts occur more than once, and a model must not be tested on a text
that it was trained on. Each text is therefore kept once, in the first of test, val, train and unsup
that has it. Only the test set keeps its own duplicates.

Output: train, val, test and unsup.jsonl with id, label (0 negative, 1 positive; none in unsup) and
text; classes.json; a README with counts and checksums. The same input gives the same bytes.

Source: Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis", and the archive's README.
"""

import gzip
import io
import re
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep.download import download, file_digest
from data_prep.folder import check_absent, write_folder
from gptft.data.sources import split_seeded
from gptft.errors import DataError, Parser, command

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SIZE = 84125825  # bytes
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"

COUNTS = {  # files in each folder of the archive
    "train/neg": 12500,
    "train/pos": 12500,
    "test/neg": 12500,
    "test/pos": 12500,
    "train/unsup": 50000,
}
LABELS = {"neg": 0, "pos": 1}
VAL_SHARE = 0.2
SEED = 0  # of the split into train and val
MAX_REVIEW = 1 << 20  # bytes; the longest review has 14,282
MAX_ARCHIVE = 1 << 30  # bytes after decompression; the reviews alone take 209 million
ADVICE = "use the official aclImdb_v1.tar.gz"


class Review(NamedTuple):
    """One review; sorting by these fields puts reviews in the order of their numbers."""

    number: int
    label: int | None
    id: str  # such as "train/neg/3_2": the path in the archive, NUMBER_STARS
    text: str


@command
def main(argv):
    parser = Parser(
        prog="python -m data_prep.imdb", description="Prepare the IMDb film reviews for training."
    )
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="PATH",
        help="aclImdb_v1.tar.gz, or its unpacked folder; default: download it beside --out",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default="data/imdb", help="default: data/imdb"
    )
    args = parser.parse_args(argv)

    check_absent(args.out)
    archive = args.archive or args.out.parent / "aclImdb_v1.tar.gz"
    if not args.archive:
        download([URL], archive, SIZE, SHA256)
    official = make_splits(read_archive(archive))
    splits = without_copies(official)
    table = describe(splits, official)
    files = {f"{split}.jsonl": map(as_row, reviews) for split, reviews in splits.items()}
    files["classes.json"] = [list(LABELS)]
    write_folder(args.out, files, readme(archive, table))
    print(
        f"{table}\n\nwritten to {args.out}\n"
        f"next: python scripts/train_logreg.py --data {args.out}\n"
        f"  or: python scripts/finetune_imdb.py --data {args.out}"
    )


def read_archive(path):
    """Read the official archive, or the folder aclImdb that it unpacks to.

    Returns {"train/neg": list[Review], ...} with the keys of COUNTS, in the order of the numbers.
    Raises DataError if it is unsafe, damaged or incomplete.
    """
    found = {group: {} for group in COUNTS}  # reviews by file name
    for group, name, content in _folder_files(path) if path.is_dir() else _archive_files(path):
        found[group][name] = parse_review(group, name, content, path)
    for group, count in COUNTS.items():
        if len(found[group]) != count:
            raise DataError(f"{len(found[group])} of {count} files in {group}, {path}; {ADVICE}")
    return {group: sorted(reviews.values()) for group, reviews in found.items()}


def _folder_files(folder):
    """Yield (group, file name, bytes) of each review in an unpacked archive."""
    for group in COUNTS:
        for path in (folder / group).glob("*.txt"):
            yield group, path.name, path.read_bytes()


def _archive_files(path):
    """Yield (group, file name, bytes) of each review in a tar.gz. Raises DataError."""
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_ARCHIVE + 1)  # to the end, where gzip keeps its checksum
        if len(content) > MAX_ARCHIVE:
            raise DataError(
                f"more than {MAX_ARCHIVE:,} bytes after decompression, {path}; {ADVICE}"
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                # The official archive has no links, devices, sparse files or paths that lead
                # elsewhere, and no negative sizes, which some versions of tarfile follow forever.
                top, *parts = member.name.split("/")
                is_plain = (member.isfile() and not member.issparse()) or member.isdir()
                if not is_plain or member.size < 0 or top != "aclImdb" or ".." in parts:
                    raise DataError(f"unexpected archive member {member.name!r}, {path}; {ADVICE}")
                group = "/".join(parts[:-1])
                if member.isdir() or group not in COUNTS:
                    continue
                if member.size > MAX_REVIEW:
                    raise DataError(f"{member.name!r} has {member.size:,} bytes, {path}; {ADVICE}")
                yield group, parts[-1], tar.extractfile(member).read()
    except (
        gzip.BadGzipFile,
        zlib.error,
        tarfile.TarError,
        EOFError,
        ValueError,  # tarfile raises these three for some malformed headers
        OverflowError,
        RecursionError,
    ) as error:
        raise DataError(f"damaged archive ({error}), {path}; download it again") from error


def parse_review(group, name, content, path):
    """Check one file, bytes `content`, of the archive `path` -> Review. Raises DataError."""
    place = f"{group}/{name} in {path}"
    try:
        text = clean(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason}), {place}; {ADVICE}") from error
    match = re.fullmatch(r"([0-9]{1,6})_[0-9]{1,2}\.txt", name)
    if not match or not text:
        raise DataError(f"empty, or not named NUMBER_STARS.txt, {place}; {ADVICE}")
    label = LABELS.get(group.split("/")[1])  # None for unsup
    return Review(int(match[1]), label, f"{group}/{name.removesuffix('.txt')}", text)


def clean(text):
    """Turn each `<br />` and the blanks around it into a line break.

    "One.<br /><br />Two." -> "One.\\n\\nTwo."
    """
    return re.sub(r"\s*<br\s*/?>\s*", "\n", text).strip()


def make_splits(reviews):
    """Split val off the official training set, stratified by label -> {split: list[Review]}.

    reviews: as from `read_archive`. Reviews with equal texts go to the same split.
    """
    train = sorted(reviews["train/neg"] + reviews["train/pos"])
    texts = [review.text for review in train]
    labels = [str(review.label) for review in train]
    rows = split_seeded(texts, {"val": VAL_SHARE}, SEED, labels)
    return {
        "train": [train[row] for row in rows["train"]],
        "val": [train[row] for row in rows["val"]],
        "test": sorted(reviews["test/neg"] + reviews["test/pos"]),
        "unsup": reviews["train/unsup"],
    }


def without_copies(splits):
    """Keep each text in the first of test, val, train and unsup that has it.

    splits, and the result: {split: list[Review]}. The test set keeps its own duplicates, so that
    results remain comparable.
    """
    kept = {"train": [], "val": [], "test": splits["test"], "unsup": []}
    seen = {review.text for review in splits["test"]}
    for split in ("val", "train", "unsup"):
        for review in splits[split]:
            if review.text not in seen:
                seen.add(review.text)
                kept[split].append(review)
    return kept


def describe(splits, official):
    """Return a Markdown table of the reviews in `splits` and of those in `official` left out."""
    lines = [
        "| file        | reviews | negative | positive | copies left out |",
        "|-------------|--------:|---------:|---------:|----------------:|",
    ]
    for split, reviews in splits.items():
        labels = Counter(review.label for review in reviews)
        lines.append(
            f"| {split + '.jsonl':11} | {len(reviews):7,} | {labels[0]:8,} | {labels[1]:8,} "
            f"| {len(official[split]) - len(reviews):15,} |"
        )
    return "\n".join(lines)


def as_row(review):
    """Return the JSON object for `review` as a dict."""
    label = {} if review.label is None else {"label": review.label}
    return {"id": review.id, **label, "text": review.text}


def readme(archive, table):
    """Return the README: the source `archive` and the `table` of counts.

    It has no date, so that equal input gives equal bytes.
    """
    origin = f"sha256 {file_digest(archive)}" if archive.is_file() else "a folder"
    return f"""# IMDb reviews, written by `python -m data_prep.imdb`

Film reviews of the Large Movie Review Dataset (Maas et al. 2011), for research. The texts belong to
their authors. Each line is a JSON object with id (path in the archive: split/class/NUMBER_STARS),
label (0 negative, 1 positive; absent in unsup) and text. Each `<br />` has become a line break.

- source: {archive.name}, {origin} (the official archive has sha256 {SHA256})
- seed {SEED}: val is a stratified {VAL_SHARE:.0%} of the official training set
- copies left out: each text is kept once, in the first of test, val, train and unsup that has it

{table}
"""


if __name__ == "__main__":
    sys.exit(main())

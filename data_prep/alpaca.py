"""Instructions and responses as three plain files: `python -m data_prep.alpaca`.

The official file holds 52,002 of Stanford Alpaca's instructions with responses by GPT-4. Any other file of instructions
will do (--file): what a record may look like is told in gptft/data/alpaca.py. Left out are records that would teach a
model nothing, or the wrong thing: an empty output, one that only says that a picture, sound or link can't be had, and
a prompt that stands there before. All records of one instruction fall on the same side of the split, so that no model is
tested on an instruction it has learned.

Written: train, val and test.jsonl with id, instruction, input and output; README with counts and checksums. The same file
and seed give the same bytes.

Source: Peng et al. 2023, "Instruction Tuning with GPT-4"; Taori et al. 2023, "Stanford Alpaca".
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path

from data_prep.download import digest_of, download
from data_prep.folder import check_replaceable, write_folder
from gptft.data.records import read_records
from gptft.data.sources import split_seeded
from gptft.errors import DataError, Parser, command

URL = "https://raw.githubusercontent.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/alpaca_gpt4_data.json"
GIT_BLOB = "25508714b7879a1e5a6764ba7f979a980f549f1a"

SHARE = 0.05  # of the records, for each of val and test
TITLE = "# Instructions, written by `python -m data_prep.alpaca`"

# Ways in which Alpaca says that a field is empty: "<noinput>", "No input required.", "N/A".
NOTHING = re.compile(
    r"\W*(no\s?(in|out)puts?(\s(is\s)?(required|needed|provided|given))?|n/a|<none>)\W*",
    re.IGNORECASE,
)

# A refusal is short, begins like one, says that something can't be done, and names what a text can't hold.
REFUSAL = 300  # characters at most; a longer one goes on to help
BEGINS = re.compile(
    r"\W*(no\s?output|((i am|i'm|we are)\s)?(very\s)?sorry|(i\s)?apologi|unfortunately|as an? (ai|language)|"
    r"((i|we)\s)?(can\s?not|can't|(am\s|i'm\s)?(unable|not able) to|do not|don't)\s(have|see|view|access|open|hear|play|read|"
    r"create|generate|draw|produce|provide|display|show|process|edit)|"
    r"this (task|instruction|request)|you are requesting|it is not possible|there (is|was) no|"
    r"(the|your|this) (image|link|picture|video|audio|file|photo|url|article|website))",
    re.IGNORECASE,
)
UNABLE = re.compile(
    r"\b(cannot|can't|can not|unable|not (able|possible|feasible|provided|suitable)|do(es)? not have|do(es)?n't have|"
    r"no\s?output|beyond)\b",
    re.IGNORECASE,
)
MEDIUM = re.compile(
    r"\b(image|picture|photo|photograph|graphic|visual|video|audio|audible|sound|link|url|website|web ?page|file|attachment|"
    r"poster|interface|drawing|painting)s?\b",
    re.IGNORECASE,
)


@command
def main(argv):
    parser = Parser(
        prog="python -m data_prep.alpaca",
        description="Prepare instructions and responses for training.",
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help=".json or .jsonl with fields instruction, input and output, or prompt "
        "and completion, or messages; default: download alpaca_gpt4_data.json, beside --out",
    )
    parser.add_argument(
        "--out", metavar="DIR", default="data/alpaca", help="folder to write (default: data/alpaca)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out if this command wrote it"
    )
    args = parser.parse_args(argv)

    start, out = time.monotonic(), Path(args.out)
    check_replaceable(out, TITLE, args.overwrite)
    source = Path(args.file) if args.file else fetch(out.parent / "alpaca_gpt4_data.json")
    examples, counts = clean(read(source))
    splits = divide(examples, args.seed, source)
    table = describe(splits, counts)
    files = {
        f"{split}.jsonl": (example._asdict() for example in of) for split, of in splits.items()
    }
    write_folder(out, files, readme(source, args.seed, table))
    print(f"{table}\n\nwritten to {out} in {time.monotonic() - start:.1f} s")
    print(f"next: python scripts/finetune_alpaca.py --data {out}")


def fetch(path):
    """Download the official file to `path` unless it is there and whole -> path."""
    download([URL], path, git_blob=GIT_BLOB)
    return path


def read(path):
    """A file of instructions -> list[Example]. Raises DataError with file and line or record."""
    from gptft.data.instructions import read_examples  # here, because it brings numpy along

    return read_examples(read_records(path))


def clean(examples):
    """-> (the examples worth learning, Counter of what was changed or left out, and why)."""
    kept, counts, seen = [], Counter(), set()
    for example in examples:
        if NOTHING.fullmatch(example.input):
            example = example._replace(input="")
            counts["inputs that said there is none were emptied"] += 1
        prompt = (key(example.instruction), key(example.input))
        if not example.output or NOTHING.fullmatch(example.output):
            counts["left out: empty output"] += 1
        elif is_refusal(example.output):
            counts["left out: the output only says that a picture, sound or link can't be had"] += 1
        elif prompt in seen:
            counts["left out: the same instruction and input stand there before"] += 1
        else:
            kept.append(example)
            seen.add(prompt)
    return kept, counts


def is_refusal(output):
    """Whether an output does no more than to say that a picture, sound or link can't be had."""
    return bool(
        len(output) <= REFUSAL
        and BEGINS.match(output)
        and UNABLE.search(output)
        and MEDIUM.search(output)
    )


def key(text):
    """What makes two texts the same: the words, not their case or spacing."""
    return " ".join(text.lower().split())


def divide(examples, seed, source):
    """-> {"train", "val", "test": list[Example]}; no instruction in two of them. Raises DataError if there are too few."""
    rows = split_seeded(
        [key(example.instruction) for example in examples], {"val": SHARE, "test": SHARE}, seed
    )
    if not all(rows.values()):
        raise DataError(f"{len(examples)} usable records are too few to split, {source}; add some")
    return {split: [examples[row] for row in rows[split]] for split in ("train", "val", "test")}


def describe(splits, counts):
    """The splits, and `counts` of what was done to them, as a table that reads well on a terminal and in Markdown."""
    lines = ["| file        | examples | with input | words of output |", "|---|--:|--:|--:|"]
    for split, examples in splits.items():
        with_input = sum(bool(example.input) for example in examples)
        words = sum(len(example.output.split()) for example in examples)
        lines.append(
            f"| {split + '.jsonl':11} | {len(examples):8,} | {with_input:10,} | {words:15,} |"
        )
    return "\n".join([*lines, "", *(f"- {n:,} {reason}" for reason, n in sorted(counts.items()))])


def readme(source, seed, table):
    """The text of the folder's README, without checksums: where the data come from (`source`), the `table`.

    No dates: equal input, equal bytes.
    """
    size = source.stat().st_size
    official = digest_of(source, "sha1", f"blob {size}\0".encode()) == GIT_BLOB
    origin = (
        "the official alpaca_gpt4_data.json; CC BY-NC 4.0, for research"
        if official
        else "not the official file"
    )
    return f"""{TITLE}

One JSON object a line: id (number of the record in the source, or its own), instruction, input (may be empty), output.

- source: {source.name}, {size} bytes, sha256 {digest_of(source)} ({origin})
- seed {seed}: val and test are {SHARE:.0%} each; all records of one instruction are in the same file

{table}
"""


if __name__ == "__main__":
    sys.exit(main())

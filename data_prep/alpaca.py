"""Prepare instructions and responses: `python -m data_prep.alpaca`.

The official file holds the 52,002 instructions of Stanford Alpaca with responses by GPT-4. Any
other file that `gptft.data.instructions` reads works too (--file). Three kinds of records are left
out: empty outputs, outputs that only decline because a text cannot hold a picture or a sound, and
repeated prompts. All records of one instruction go to the same split, so that no model is tested on
an instruction that it was trained on.

Output: train, val and test.jsonl with id, instruction, input and output; a README with counts and
checksums. The same input gives the same bytes.

Source: Peng et al. 2023, "Instruction Tuning with GPT-4"; Taori et al. 2023, "Stanford Alpaca".
"""

import re
import sys
from collections import Counter
from pathlib import Path

from data_prep.download import download, file_digest
from data_prep.folder import check_absent, write_folder
from gptft.data.examples import WANTED, read_examples
from gptft.data.records import read_records
from gptft.data.sources import name_fields, split_seeded
from gptft.errors import DataError, Parser, command

URL = (
    "https://raw.githubusercontent.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/"
    "alpaca_gpt4_data.json"
)
GIT_BLOB = "25508714b7879a1e5a6764ba7f979a980f549f1a"
SHARE = 0.05  # of the examples, for each of val and test
SEED = 0  # of the split

# Alpaca's ways to say that a field is empty: "<noinput>", "No input required.", "N/A".
NOTHING = re.compile(
    r"\W*(no\s?(in|out)puts?(\s(is\s)?(required|needed|provided|given))?|n/a|<none>)\W*",
    re.IGNORECASE,
)

# A refusal is short, starts like one, says that something is impossible and names a medium.
MAX_REFUSAL = 300  # characters; longer outputs go on to help
REFUSAL_START = re.compile(
    r"\W*(no\s?output|((i am|i'm|we are)\s)?(very\s)?sorry|(i\s)?apologi|unfortunately|"
    r"as an? (ai|language)|"
    r"((i|we)\s)?(can\s?not|can't|(am\s|i'm\s)?(unable|not able) to|do not|don't)\s(have|see|view|"
    r"access|open|hear|play|read|create|generate|draw|produce|provide|display|show|process|edit)|"
    r"this (task|instruction|request)|you are requesting|it is not possible|there (is|was) no|"
    r"(the|your|this) (image|link|picture|video|audio|file|photo|url|article|website))",
    re.IGNORECASE,
)
IMPOSSIBLE = re.compile(
    r"\b(cannot|can't|can not|unable|not (able|possible|feasible|provided|suitable)|"
    r"do(es)? not have|do(es)?n't have|no\s?output|beyond)\b",
    re.IGNORECASE,
)
MEDIUM = re.compile(
    r"\b(image|picture|photo|photograph|graphic|visual|video|audio|audible|sound|link|url|website|"
    r"web ?page|file|attachment|poster|interface|drawing|painting)s?\b",
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
        type=Path,
        metavar="FILE",
        help=".json or .jsonl with instruction, input and output, or prompt and completion, "
        "or messages; default: download alpaca_gpt4_data.json beside --out",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default="data/alpaca", help="default: data/alpaca"
    )
    args = parser.parse_args(argv)

    check_absent(args.out)
    source = args.file or args.out.parent / "alpaca_gpt4_data.json"
    if not args.file:
        download([URL], source, git_blob=GIT_BLOB)
    records = read_records(source)
    notes = name_fields(records, WANTED)
    examples, more = read_examples(records)
    print(*notes, *more, sep="\n")
    examples, counts = clean(examples)
    splits = make_splits(examples)
    if not all(splits.values()):
        raise DataError(f"{len(examples)} usable records are too few to split, {source}; add some")
    table = describe(splits, counts)
    files = {
        f"{split}.jsonl": [example._asdict() for example in rows] for split, rows in splits.items()
    }
    write_folder(args.out, files, readme(source, table))
    print(
        f"{table}\n\nwritten to {args.out}\n"
        f"next: python scripts/finetune_alpaca.py --data {args.out}"
    )


def clean(examples):
    """Leave out examples that teach nothing -> (list[Example], Counter of what was done).

    An input that only says that there is none, such as "<noinput>", becomes "".
    """
    kept, counts, prompts = [], Counter(), set()
    for example in examples:
        if NOTHING.fullmatch(example.input):
            example = example._replace(input="")
            counts['emptied: the input says "no input"'] += 1
        prompt = (normalize(example.instruction), normalize(example.input))
        if not example.output or NOTHING.fullmatch(example.output):
            counts["left out: empty output"] += 1
        elif is_refusal(example.output):
            counts["left out: the output declines to handle a picture, a sound or a link"] += 1
        elif prompt in prompts:
            counts["left out: repeated instruction and input"] += 1
        else:
            kept.append(example)
            prompts.add(prompt)
    return kept, counts


def is_refusal(output):
    """Return whether an output only declines to handle a picture, a sound or a link."""
    return bool(
        len(output) <= MAX_REFUSAL
        and REFUSAL_START.match(output)
        and IMPOSSIBLE.search(output)
        and MEDIUM.search(output)
    )


def normalize(text):
    """Return `text` without differences of case and spacing, to find equal instructions."""
    return " ".join(text.lower().split())


def make_splits(examples):
    """Split examples, keeping equal instructions together -> {split: list[Example]}."""
    instructions = [normalize(example.instruction) for example in examples]
    rows = split_seeded(instructions, {"val": SHARE, "test": SHARE}, SEED)
    return {split: [examples[row] for row in rows[split]] for split in rows}


def describe(splits, counts):
    """Return a Markdown table of the splits, followed by the `counts` of `clean`."""
    lines = ["| file        | examples | with input |", "|-------------|---------:|-----------:|"]
    for split, examples in splits.items():
        with_input = sum(bool(example.input) for example in examples)
        lines.append(f"| {split + '.jsonl':11} | {len(examples):8,} | {with_input:10,} |")
    lines.append("")
    lines += [f"- {n:,} {reason}" for reason, n in sorted(counts.items())]
    return "\n".join(lines)


def readme(source, table):
    """Return the README: the file `source` and the `table` of counts.

    It has no date, so that equal input gives equal bytes.
    """
    return f"""# Instructions, written by `python -m data_prep.alpaca`

Each line is a JSON object with id (of the source, or the number of the record), instruction, input
(may be empty) and output. The license of the official alpaca_gpt4_data.json is CC BY-NC 4.0.

- source: {source.name}, sha256 {file_digest(source)}
- seed {SEED}: val and test are {SHARE:.0%} each; all records of one instruction are in one file

{table}
"""


if __name__ == "__main__":
    sys.exit(main())

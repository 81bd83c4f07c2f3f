"""Classify texts with a trained model: `python -m gptft.predict "a fine film"`, or a file, or standard input.

A JSON line comes out for each text, in their order: id, label and the probability of each class. Texts are cut as they
were in training, which the run folder says. Standard output carries the results and nothing else; what was chosen goes
to standard error. `--explain` shows which tokens spoke for the verdict: on a terminal the text in colours (NO_COLOR and
FORCE_COLOR in the environment are minded), elsewhere as the field `tokens`, pairs of text and attribution.

Left out: the baseline's models; scripts/train_logreg.py reports them at once.
"""

import json
import os
import sys
from itertools import islice
from pathlib import Path

from gptft.errors import DataError, Parser, UserError, command
from gptft.generate import find_model, tell

CHUNK = 1024  # texts that are sorted by length together; a terminal is answered text by text
COLOURS = {
    True: (4, (153, 117, 75)),
    False: (24, (223, 215, 208)),
}  # underlined blue, weak to strong; plain orange


def parse(argv):
    parser = Parser(prog="python -m gptft.predict", description=__doc__)
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="a text; default: standard input, a text a line"
    )
    parser.add_argument(
        "--model", metavar="DIR", help="a classifier's folder; default: the newest one under runs/"
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help=".txt, a text a line; or .jsonl, .csv or .json with a field text and "
        "perhaps id, which otherwise is the number of the line",
    )
    parser.add_argument(
        "--explain", action="store_true", help="show what each token had to do with the verdict"
    )
    for flag, values, text in (
        ("--device", ("cpu", "cuda", "mps"), "where to compute"),
        ("--precision", ("fp32", "bf16", "fp16"), "of the matrix products"),
    ):
        parser.add_argument(
            flag, choices=("auto", *values), default="auto", help=f"{text} (default: auto)"
        )
    args = parser.parse_args(argv)
    if args.texts and args.file is not None:
        raise UserError("a TEXT and --file exclude each other; choose one")
    return args


@command
def main(argv):
    args = parse(argv)

    import numpy as np

    from gptft.classifier import GPT2Classifier
    from gptft.classify import explain, log_probabilities
    from gptft.data.imdb import IMDbDataset, Review
    from gptft.data.sources import text_field
    from gptft.hardware import choose_hardware, evaluating
    from gptft.language import check_vocabulary
    from gptft.pretrained import load_model
    from gptft.tokenizer import Tokenizer

    folder, why = find_model(args.model, classifier=True)
    hardware = choose_hardware(args.device, args.precision, n_steps=0)
    model, tokenizer = load_model(folder, device=hardware.device), Tokenizer()
    if not isinstance(model, GPT2Classifier):
        raise UserError(
            f"a language model has no classes, {folder}; give a classifier's folder, or use gptft.generate"
        )
    check_vocabulary(model, folder)
    limit, truncate = cut_in_training(folder, model.config.n_positions)
    names = model.class_names or [str(k) for k in range(model.n_classes)]
    tell(
        f"model: {folder} ({why}), classes: {', '.join(names)}; a text of more than {limit:,} tokens is cut: {truncate}\n"
        f"computing on {hardware.why}"
    )
    typed = not args.texts and args.file is None and sys.stdin.isatty()
    if typed:
        tell("enter a text a line; Ctrl-D ends")
    records = iter(read_texts(args.texts, args.file))
    while chunk := list(islice(records, 1 if typed else CHUNK)):
        dataset = IMDbDataset(
            [Review(r.fields.get("id", r.number), 0, text_field(r)) for r in chunk],
            tokenizer,
            limit,
            truncate,
        )
        with evaluating(model, hardware):
            probabilities = (
                np.exp(log_probabilities(model, dataset, tokenizer.eot, hardware)).round(6).tolist()
            )
        for i, (review, p) in enumerate(zip(dataset.reviews, probabilities)):
            row = {
                "id": review.id,
                "label": names[p.index(max(p))],
                "probabilities": dict(zip(names, p)),
            }
            if args.explain:
                row["tokens"] = explain(model, dataset[i][0], tokenizer)
            print(
                coloured(row)
                if args.explain and wants_colour()
                else json.dumps(row, ensure_ascii=False),
                flush=typed,
            )


def read_texts(texts, file):
    """Texts, or a file's name, or else standard input -> an iterable of Records with a field `text`. Raises DataError."""
    from gptft.data.sources import Record, decode, read_records

    if file and Path(file).suffix.lower() != ".txt":
        return read_records(file)
    if texts:
        return [Record(Path("command line"), i, {"text": text}) for i, text in enumerate(texts, 1)]
    name, lines = Path(file or "standard input"), open(file, "rb") if file else sys.stdin.buffer
    numbered = (
        (number, decode(line, name, number).strip()) for number, line in enumerate(lines, 1)
    )
    return (Record(name, number, {"text": text}) for number, text in numbered if text)


def cut_in_training(folder, n_positions):
    """(max_length, truncate) of the training of the run in a folder; elsewhere `n_positions`, the model's limit. Raises DataError."""
    from gptft.checkpoints.gpt2_config import read_json
    from gptft.data.imdb import TRUNCATE

    path = Path(folder) / "run.json"
    options = (
        read_json(path).get("options")
        if path.exists()
        else {"max_length": n_positions, "truncate": "head+tail"}
    )
    try:
        return min(max(options["max_length"], 1), n_positions), TRUNCATE[
            TRUNCATE.index(options["truncate"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"no max_length and truncate, {path}; it belongs to another run: restore or remove it"
        ) from error


def wants_colour():
    """Whether standard output shows colours: on a terminal, or if the environment says so."""
    return bool(os.environ.get("FORCE_COLOR")) or (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    )


def coloured(row):
    """A result with tokens -> lines for a terminal, black on colours: blue and underlined spoke for the verdict."""
    from gptft.tables import marked

    def mark(word, value, strength):
        underline, shades = COLOURS[value > 0]
        return f"\x1b[{underline};30;48;5;{shades[min(int(3 * strength), 2)]}m{word}\x1b[0m"

    said = "  ".join(f"{name} {p:.4f}" for name, p in row["probabilities"].items())
    return f"{row['id']}: {row['label']}  ({said})\n{marked(row['tokens'], mark)}\n"


if __name__ == "__main__":
    sys.exit(main())

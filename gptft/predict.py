"""Classify texts with a trained model: `python -m gptft.predict "a fine film"`.

Texts come from the command line, from a file, or from standard input, one a line, where each is
answered at once. A JSON line is printed for each text: id, label and the probability of each class.
Texts are cut as they were in training, which the run folder records. Notes about the model go to
standard error, and so does the accuracy on a file whose records have a label. `--explain` shows
which tokens spoke for the label: the field `tokens`, pairs of text and attribution.

Not here: the models of the baseline; scripts/train_logreg.py reports them.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from gptft.checkpoints.folders import load_model
from gptft.classifier import GPT2Classifier
from gptft.config import DEVICES, PRECISIONS
from gptft.data.classification import TRUNCATE, IMDbDataset, Review
from gptft.data.records import Record, quoted, read_records, suffix_of, text_field
from gptft.data.sources import name_fields
from gptft.data.tokenizer import Tokenizer
from gptft.errors import DataError, Parser, UserError, command, read_json
from gptft.evaluation.classification import explain, log_probabilities
from gptft.evaluation.metrics import wilson_interval
from gptft.generate import find_model, print_note, read_lines
from gptft.training.devices import choose_device
from gptft.training.start import check_vocabulary

CHUNK = 1024  # texts that are classified together


def parse(argv):
    parser = Parser(prog="python -m gptft.predict", description=__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: lines of standard input")
    parser.add_argument(
        "--model", metavar="DIR", help="a classifier's folder (default: the newest under runs/)"
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help=".txt with a text a line; or .jsonl, .json, .csv or .tsv (or .gz) with a field text, "
        "perhaps label and id (else the number of the line)",
    )
    parser.add_argument("--columns", metavar="TEXT,LABEL", help="names or numbers, in --file")
    parser.add_argument("--explain", action="store_true", help="show what each token contributed")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="(default: auto)")
    args = parser.parse_args(argv)
    if args.texts and args.file is not None:
        raise UserError("TEXT and --file exclude each other; choose one")
    return args


@command
def main(argv):
    args = parse(argv)
    folder, why = find_model(args.model, classifier=True)
    device = choose_device(args.device, args.precision)
    model = load_model(folder, device=device.name)
    if not isinstance(model, GPT2Classifier):
        raise UserError(
            f"a language model has no classes, {folder}; "
            "give a classifier's folder, or use python -m gptft.generate"
        )
    check_vocabulary(model, folder)
    tokenizer = Tokenizer()
    max_length, truncate = truncation_of(folder, model.config.n_positions)
    classes = model.class_names or list(map(str, range(model.n_classes)))
    print_note(
        f"model: {folder} ({why}), classes: {', '.join(classes)}\n"
        f"texts of more than {max_length:,} tokens are cut: {truncate}\ndevice: {device.reason}"
    )
    chunk_size = CHUNK
    if not args.texts and args.file is None:
        chunk_size = 1
        if sys.stdin.isatty():
            print_note("enter a text a line; Ctrl-D ends")
    class_of = {str(k): k for k in range(len(classes))}
    class_of |= {name: k for k, name in enumerate(classes)}
    correct, unknown = [], set()  # of the texts with a label
    records = read_texts(args.texts, args.file, args.columns)
    while chunk := list(islice(records, chunk_size)):
        reviews = [
            Review(record.fields.get("id", record.number), 0, text_field(record))
            for record in chunk
        ]
        dataset = IMDbDataset(reviews, tokenizer, max_length, truncate)
        probabilities = np.exp(log_probabilities(model, dataset, device)).round(6).tolist()
        for i, (review, p) in enumerate(zip(reviews, probabilities)):
            predicted = int(np.argmax(p))
            row = {"id": review.id, "label": classes[predicted]}
            row["probabilities"] = dict(zip(classes, p))
            if args.explain:
                row["tokens"] = explain(model, dataset[i][0], tokenizer)
            print(json.dumps(row, ensure_ascii=False), flush=chunk_size == 1)
            label = chunk[i].fields.get("label")
            if str(label) in class_of:
                correct.append(class_of[str(label)] == predicted)
            elif label not in (None, ""):
                unknown.add(str(label))
    if unknown:
        labels = quoted(sorted(unknown))
        print_note(f"{len(unknown)} labels are not the model's, and are not counted: {labels}")
    if correct:
        low, high = wilson_interval(sum(correct), len(correct))
        accuracy = f"{np.mean(correct):.4f} (95 % interval {low:.4f}..{high:.4f})"
        print_note(f"accuracy on {len(correct):,} labelled texts: {accuracy}")


def read_texts(texts, file, columns):
    """Yield a Record for each text that is not blank: of `texts`, of a file, or of standard
    input."""
    if texts:
        place = Path("command line")
        records = [Record(place, i, {"text": text}) for i, text in enumerate(texts, 1)]
    elif file and suffix_of(Path(file)) != ".txt":
        records = read_records(file, columns)
        print_note("; ".join(name_fields(records, ("text", "label"), columns)))
    else:
        records = read_lines(file)
    blank = []
    for record in records:
        if str(record.fields.get("text", "?")).strip():
            yield record
        else:
            blank.append(record.number)
    if blank:
        print_note(f"blank texts skipped: {len(blank):,}; the first is number {blank[0]}")


def truncation_of(folder, n_positions):
    """How texts were cut in the training of a run -> (max_length, truncate). Raises DataError.

    A folder that is not a run's has only the limit of its model.
    """
    path = Path(folder) / "run.json"
    if not path.exists():
        return n_positions, "head+tail"
    options = read_json(path).get("options")
    try:
        max_length = min(max(options["max_length"], 1), n_positions)
        truncate = TRUNCATE[TRUNCATE.index(options["truncate"])]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"no max_length and truncate, {path}; it is of another run: restore or remove it"
        ) from error
    return max_length, truncate


if __name__ == "__main__":
    sys.exit(main())

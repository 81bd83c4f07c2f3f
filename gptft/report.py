"""Results for people: the table a script prints, and the comparison of finished runs.

`python -m gptft.report RUN` prints a run's results; with several runs also whether their differences on the test set are
more than luck: a paired test (McNemar) over the rows both have predicted.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

from gptft.data.sources import read_records
from gptft.errors import DataError, Parser, command


def classification_table(splits, classes):
    """{split name: metrics of `classification_metrics`} and the class names -> lines of text."""
    lines = [f"{'':12}{'rows':>7}  {'accuracy':>8}  {'95 % interval':^15}  {'precision':>9}  {'recall':>6}  {'F1':>6}  {'loss':>6}"]
    for name, m in splits.items():
        low, high = m["accuracy_ci"]
        lines.append(f"{name:12}{m['n']:>7,}  {m['accuracy']:>8.4f}  {low:.4f}..{high:.4f}   {m['precision']:>9.4f}  "
                     f"{m['recall']:>6.4f}  {m['f1']:>6.4f}  {m['loss']:>6.4f}")  # fmt: skip
    return "\n".join(lines) + "\n\n" + confusion_table(splits["test"]["confusion"], classes)


def confusion_table(confusion, classes):
    """(K, K) counts, rows true and columns predicted -> lines of text."""
    width = max(8, *(len(name) + 2 for name in classes))
    lines = ["test, true class by row, predicted class by column:"]
    lines.append(" " * width + "".join(f"{name:>{width}}" for name in classes))
    lines += [f"{name:>{width}}" + "".join(f"{n:>{width},}" for n in row) for name, row in zip(classes, confusion)]
    return "\n".join(lines)


def instruction_table(base, tuned):
    """The results of `evaluate_instructions` before and after tuning -> lines of text, side by side."""
    lines = [f"{'':36}{'base':>24}{'tuned':>24}"]

    def line(name, show):
        lines.append(f"{name:36}" + "".join(f"{show(results):>24}" for results in (base, tuned)))

    def share(value, ci):
        return f"{value:.1%} ({ci[0]:.0%}..{ci[1]:.0%})"

    for split in ("train", "val", "test"):
        line(f"{split}, loss of response tokens", lambda r: f"{r[split]['loss']:.4f}")
        line(f"{split}, perplexity", lambda r: f"{r[split]['perplexity']:,.2f}")
    test = tuned["test"]
    lines.append(f"\nresponses to {test['n_generated']:,} test prompts")
    line("ended by itself", lambda r: share(r["test"]["end_of_text"], r["test"]["end_of_text_ci"]))
    line("keeps the format", lambda r: share(r["test"]["format"], r["test"]["format_ci"]))
    for key, name in (("rouge_l", "ROUGE-L"), ("distinct_1", "distinct-1"), ("distinct_2", "distinct-2"),
                      ("repeated_4grams", "repeated 4-grams"), ("words", "words")):  # fmt: skip
        line(name, lambda r: f"{r['test'][key]:.{1 if key == 'words' else 3}f}")
    for kind, title in (("written", "tasks whose written answer passes"), ("forced_choice", "tasks whose right answer is the likeliest of 4")):
        lines.append(f"\n{title}")
        line(f"all {tuned['tasks'][kind]['n']}", lambda r: share(r["tasks"][kind]["rate"], r["tasks"][kind]["ci"]))
        for category in tuned["tasks"][kind]["categories"]:
            line(f"  {category}", lambda r: "{passed} of {n}".format(**r["tasks"][kind]["categories"][category]))
    return "\n".join(lines)


def read_run(folder):
    """The results of a finished run folder, a dict. Raises DataError."""
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"not a finished run ({error.strerror}), {path}; give the --out of a run that ended") from error
    except ValueError as error:
        raise DataError(f"damaged results ({error}), {path}; run it again with --overwrite") from error
    if not isinstance(results, dict) or not {"task", "model", "data", "test"} <= set(results):
        raise DataError(f"not the results of a run, {path}; run it again with --overwrite")
    return results


def rows_right(folder):
    """{row id: whether the likeliest class is the true one} of a classification run's predictions. Raises DataError."""
    path, right = Path(folder) / "predictions.jsonl", {}
    for record in read_records(path):
        try:
            probabilities = record.fields["probabilities"]
            right[record.fields["id"]] = probabilities.index(max(probabilities)) == record.fields["label"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"not a prediction, {record.place}; run it again with --overwrite") from error
    return right


def compare(name_a, right_a, name_b, right_b):
    """Two runs' {row id: classified right} -> lines of text with the paired test over the rows both have."""
    from gptft.metrics import mcnemar

    shared = [row for row in right_a if row in right_b]
    if not shared:
        raise DataError(f"{name_a} and {name_b} have no test row in common; compare runs on the same data")
    m = mcnemar([right_a[row] for row in shared], [right_b[row] for row in shared])
    return (f"{name_a} against {name_b}, {m['n']:,} test rows of both: {m['difference']:+.4f} in accuracy\n"
            f"  only {name_a} is right: {m['only_a']:,}   only {name_b} is right: {m['only_b']:,}   "
            f"McNemar, exact: p = {m['p_value']:.3g}")  # fmt: skip


@command
def main(argv):
    parser = Parser(prog="python -m gptft.report", description="Print the results of runs and compare them on the same rows.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    args = parser.parse_args(argv)
    right = {}
    for folder in args.runs:
        results = read_run(folder)
        print(f"{folder}: {results['model']}, {results['data']}")
        if results["task"] == "classification":
            splits = {name: split for name, split in results.items() if isinstance(split, dict) and "accuracy_ci" in split}
            print(classification_table(splits, results["classes"]), "\n")
            right[folder] = rows_right(folder)
        else:
            print(instruction_table(results["base"], results), "\n")
    for a, b in combinations(right, 2):
        print(compare(a, right[a], b, right[b]))


if __name__ == "__main__":
    sys.exit(main())

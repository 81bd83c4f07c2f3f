"""Print and compare finished runs: `python -m gptft.report RUN [RUN ...]`.

Prints the tables of each run and writes its page (report.html) again. Several runs are compared,
too. Runs that differ only in their seed form one experiment, reported as a mean with its 95 % t
interval. Any two classifiers are compared by a paired test (McNemar) on the test rows that both
have predicted.
"""

import sys
from contextlib import contextmanager
from itertools import combinations

from gptft.errors import DataError, Parser, command, write_text
from gptft.evaluation.metrics import t_interval
from gptft.report.page import read_run, run_page
from gptft.report.tables import paired_test, results_text
from gptft.training.run_folder import FREE_TO_CHANGE

MAY_DIFFER = FREE_TO_CHANGE | {"seed", "texts"}  # within an experiment; a seed may split the data


def experiments(runs):
    """Group runs that differ only in their seed -> lists of RunFiles, one run for each seed."""
    groups = {}
    for run in runs:
        options = run.record.get("options", {})
        fixed = sorted((name, value) for name, value in options.items() if name not in MAY_DIFFER)
        by_seed = groups.setdefault(repr(fixed) if fixed else run.folder, {})
        by_seed[run.record.get("seed")] = run
    return [list(by_seed.values()) for by_seed in groups.values()]


def over_seeds(runs):
    """The runs of one experiment -> a line with the mean of their main metric on test."""
    metric = "accuracy" if runs[0].results["task"] == "classification" else "loss"
    mean, half_width = t_interval([run.results["test"][metric] for run in runs])
    names = ", ".join(f"{run.folder} (seed {run.record.get('seed')})" for run in runs)
    interval = f"95 % t interval over {len(runs)} seeds"
    return f"{names}: {metric} on test {mean:.4f} ± {half_width:.4f} ({interval})"


def compare(a, b):
    """The RunFiles of two classifiers -> lines with the paired test on the rows that both predicted.

    Raises DataError if there are none.
    """
    correct_a, correct_b = _correct(a), _correct(b)
    shared = [row for row in correct_a if row in correct_b]
    if not shared:
        raise DataError(
            f"{a.folder} and {b.folder} have no test row in common; compare runs on the same data"
        )
    right_a = [correct_a[row] for row in shared]
    right_b = [correct_b[row] for row in shared]
    return paired_test(a.folder, right_a, b.folder, right_b)


def _correct(run):
    """Whether each test row was predicted correctly, {id: bool}."""
    correct = {}
    for row in run.predictions:
        p = row["probabilities"]
        correct[row["id"]] = p.index(max(p)) == row["label"]
    return correct


@contextmanager
def naming_damage(where):
    """Turn the errors that a damaged file causes, such as text for a number, into a DataError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"not written by a run ({error!r}), {where}; run it again with --overwrite"
        ) from error


@command
def main(argv):
    parser = Parser(prog="python -m gptft.report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder; its report.html is written again"
    )
    args = parser.parse_args(argv)
    runs = [read_run(folder) for folder in args.runs]

    # Build everything before writing anything.
    texts, pages = [], {}
    for run in runs:
        if not run.results:
            raise DataError(
                f"not a finished run, {run.folder / 'results.json'} is absent or empty; "
                "give the --out of a run that has ended"
            )
        with naming_damage(run.folder):
            title = f"{run.folder}: {run.results['model']}, {run.results['data']}"
            texts.append(f"{title}\n{results_text(run.results)}\n")
            pages[run.folder / "report.html"] = run_page(run)
    with naming_damage(", ".join(args.runs)):
        texts += [over_seeds(group) for group in experiments(runs) if len(group) > 1]
        classifiers = [run for run in runs if run.predictions]
        texts += [compare(a, b) for a, b in combinations(classifiers, 2)]
    print(*texts, sep="\n")
    for path, page in pages.items():
        write_text(path, page)
        print(f"page: {path}")


if __name__ == "__main__":
    sys.exit(main())

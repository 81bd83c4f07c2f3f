"""Print and compare finished runs: `python -m gptft.report RUN [RUN ...]`.

Prints the tables of each run and writes its page (report.html) again. Several runs are compared,
too. Runs that differ only in their seed form one experiment, reported as a mean with its 95 % t
interval. Any two classifiers are compared by a paired test (McNemar) on the test rows that both
have predicted, unless the labels or lengths of these rows differ.
"""

import sys
from contextlib import contextmanager
from itertools import combinations

import numpy as np

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
        options = run.record.get("options", {}).items()
        fixed = [option for option in options if option[0] not in MAY_DIFFER]
        groups.setdefault(repr(fixed), {})[run.record.get("seed")] = run
    return [list(by_seed.values()) for by_seed in groups.values()]


def over_seeds(runs):
    """The runs of one experiment -> a line with the mean of their main metric on test."""
    metric = "accuracy" if "accuracy" in runs[0].results["test"] else "loss"
    mean, half_width = t_interval([run.results["test"][metric] for run in runs])
    names = ", ".join(f"{run.folder} (seed {run.record.get('seed')})" for run in runs)
    spread = f"± {half_width:.4f} (95 % t interval over {len(runs)} seeds)"
    return f"{names}: {metric} on test {mean:.4f} {spread}"


def compare(a, b):
    """Two classifiers' RunFiles -> the paired test on their common test rows, or why not."""
    rows_a, rows_b = ({row["id"]: row for row in run.predictions} for run in (a, b))
    shared = rows_a.keys() & rows_b.keys()
    # Other data may have the same ids by chance, but not also the same labels and lengths.
    texts_a, texts_b = (
        [(rows[id]["label"], rows[id]["words"]) for id in shared] for rows in (rows_a, rows_b)
    )
    if not shared or texts_a != texts_b:
        return f"{a.folder} and {b.folder} were tested on different rows and are not compared"
    right_a, right_b = (
        np.array([np.argmax(rows[id]["probabilities"]) == rows[id]["label"] for id in shared])
        for rows in (rows_a, rows_b)
    )
    return paired_test(a.folder, b.folder, right_a, right_b)


@contextmanager
def naming_damage(where):
    """Turn the errors that a damaged file causes into a DataError that names `where`.

    Such errors come from text for a number, or from a field that is missing.
    """
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
    folders = parser.parse_args(argv).runs
    runs = [read_run(folder) for folder in folders]

    # Build everything before writing anything.
    lines, pages = [], []
    for run in runs:
        if not run.results:
            raise DataError(
                f"not a finished run, {run.folder / 'results.json'} is absent or empty; "
                "give the --out of a run that has ended"
            )
        with naming_damage(run.folder):
            title = f"{run.folder}: {run.results['model']}, {run.results['data']}"
            lines += [title, results_text(run.results), ""]
            pages.append(run_page(run))
    with naming_damage(", ".join(folders)):
        lines += [over_seeds(group) for group in experiments(runs) if len(group) > 1]
        classifiers = [run for run in runs if run.results["task"] == "classification"]
        lines += [compare(a, b) for a, b in combinations(classifiers, 2)]

    print(*lines, sep="\n")
    for run, page in zip(runs, pages):
        write_text(run.folder / "report.html", page)
        print(f"page: {run.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())

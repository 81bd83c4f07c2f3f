"""Finished runs, shown and compared: `python -m gptft.report DIR [DIR ...]`.

Of each run the results are printed and the page (report.html) is made again. Of several runs it also says what is more
than luck: runs that differ in nothing but their seed are one experiment, told as a mean with its 95 % t interval, and
any two classifiers are compared by a paired test (McNemar) over the test rows that both have predicted.
"""

import sys
from contextlib import contextmanager
from itertools import combinations

from gptft.errors import DataError, Parser, command
from gptft.files import write_text

MAY_DIFFER = {"seed", "texts"}  # between runs of one experiment; a seed may also split the data


def score(run):
    """FinishedRun -> (what it is judged by, value on test, and its interval or nothing)."""
    name = "accuracy" if run.results["task"] == "classification" else "loss"
    return name, run.results["test"][name], *run.results["test"].get(f"{name}_ci", ())


def experiments(runs):
    """Group runs that differ only in their seed -> lists of FinishedRun, each seed once a list."""
    from gptft.run import FREE_TO_CHANGE

    groups = {}
    for run in runs:
        options = {
            k: v
            for k, v in run.record.get("options", {}).items()
            if k not in FREE_TO_CHANGE | MAY_DIFFER
        }
        groups.setdefault(repr(sorted(options.items())) if options else run.folder, {})[
            run.record.get("seed")
        ] = run
    return [list(by_seed.values()) for by_seed in groups.values()]


def over_seeds(runs):
    """Runs of one experiment -> a line with the mean of their score and its interval."""
    from gptft.metrics import t_interval

    mean, half = t_interval([score(run)[1] for run in runs])
    said = ", ".join(f"{run.folder} (seed {run.record.get('seed')})" for run in runs)
    return f"{said}: {score(runs[0])[0]} on test {mean:.4f} ± {half:.4f} (95 % t interval over {len(runs)} seeds)"


def compare(a, b):
    """Two FinishedRuns of classifications -> lines of text with the paired test over the rows both have. Raises DataError if there are none."""
    from gptft.tables import paired_test

    right_a, right_b = (
        {
            row["id"]: row["probabilities"].index(max(row["probabilities"])) == row["label"]
            for row in run.predictions
        }
        for run in (a, b)
    )
    shared = [row for row in right_a if row in right_b]
    if not shared:
        raise DataError(
            f"{a.folder} and {b.folder} have no test row in common; compare runs on the same data"
        )
    return paired_test(
        a.folder, [right_a[row] for row in shared], b.folder, [right_b[row] for row in shared]
    )


@contextmanager
def as_written(where):
    """Within it, an error that no file written by a run could cause, as by a word for a number, becomes a DataError that names `where`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"not what a run writes ({error!r}), {where}; run it again with --overwrite"
        ) from error


@command
def main(argv):
    parser = Parser(prog="python -m gptft.report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder; its report.html is written anew"
    )
    args = parser.parse_args(argv)

    from gptft.page import read_run, run_page
    from gptft.tables import results_text

    runs, texts, pages = (
        [read_run(folder) for folder in args.runs],
        [],
        {},
    )  # all is made before anything is written
    for run in runs:
        with as_written(run.folder):
            texts.append(
                f"{run.folder}: {run.results['model']}, {run.results['data']}\n{results_text(run.results)}\n"
            )
            pages[run.folder / "report.html"] = run_page(run)
    with as_written(", ".join(args.runs)):
        lines = [over_seeds(group) for group in experiments(runs) if len(group) > 1]
        lines += [
            compare(a, b) for a, b in combinations((run for run in runs if run.predictions), 2)
        ]
    print(*texts, *lines, sep="\n")
    for path, page in pages.items():
        write_text(path, page)
        print(f"page: {path}")


if __name__ == "__main__":
    sys.exit(main())

"""Train the baseline: logistic regression on a bag of words, in numpy.

unigram  counts of single words, as scikit-learn's CountVectorizer and LogisticRegression have it
nbsvm    which words and runs of 2 and 3 words stand in a text, weighted by naive-Bayes log-count ratios (Wang &
         Manning 2012); with the C found on val it is trained once more, on train and val, and reported as test_refit
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.errors import Parser, UserError, command, is_first_process

REAL_RUN = """nothing named: the bundled reviews. The real run:
  python -m data_prep.imdb
  python scripts/train_logreg.py --data data/imdb"""


def parse(argv):
    parser = Parser(prog="scripts/train_logreg.py", description=__doc__)
    parser.add_argument(
        "--data",
        default="sample",
        help="sample (bundled), a prepared folder such as data/imdb, or a "
        ".jsonl, .csv or .json file with fields text and label (default: sample)",
    )
    parser.add_argument(
        "--features",
        choices=("nbsvm", "unigram"),
        default="nbsvm",
        help="see above (default: nbsvm)",
    )
    parser.add_argument(
        "--C",
        type=float,
        metavar="X",
        help="inverse strength of the L2 penalty, as in scikit-learn; "
        "default: the one with the lowest loss on val",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of a split that is made here (default: 0)"
    )
    parser.add_argument("--overwrite", action="store_true", help="throw away what is in --out")
    parser.add_argument(
        "--out", default="runs/logreg", metavar="NAME", help="run folder (default: runs/logreg)"
    )
    args = parser.parse_args(argv)
    if args.C is not None and not 0 < args.C < float("inf"):
        raise UserError(f"--C must be a number above 0, got {args.C}")
    return args


@command
def main(argv):
    args = parse(argv)
    if not is_first_process():  # under torchrun, too, one process does it all
        return
    begun = time.perf_counter()

    import numpy as np

    from gptft.baseline.training import train_baseline
    from gptft.data.classification import load_reviews
    from gptft.errors import write_atomic
    from gptft.evaluation.classification import example_rows, prediction_rows
    from gptft.report.page import write_page
    from gptft.report.tables import results_text
    from gptft.speed import keep_freed_memory
    from gptft.training.progress import peak_memory
    from gptft.training.run_folder import open_run

    keep_freed_memory()
    reading = time.perf_counter()
    reviews = load_reviews(args.data, args.seed)
    reading = round(time.perf_counter() - reading, 2)
    run = open_run(
        args.out, ["python", "scripts/train_logreg.py", *argv], vars(args), overwrite=args.overwrite
    )
    if args.data == "sample":
        print(REAL_RUN)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in reviews.splits.items())
    print(
        *reviews.notes,
        f"data: {reviews.name}: {counts}",
        f"run folder: {run.folder}",
        sep="\n",
        flush=True,
    )

    nbsvm = args.features == "nbsvm"
    baseline = train_baseline(
        reviews, args.features, args.C, refit=nbsvm, say=lambda text: print(text, flush=True)
    )
    model, test = baseline.fit.model, (reviews.splits["test"], baseline.log_probs["test"])
    writing = time.perf_counter()
    run.write_predictions(prediction_rows(*test), example_rows(*test))
    arrays = model._asdict() | {
        "ngrams": baseline.bag.ngrams,
        "words": np.array("\n".join(baseline.words)),
        "classes": np.array(reviews.classes),
    }
    write_atomic(run.folder / "model.npz", lambda file: np.savez(file, **arrays))
    strongest = {
        name: baseline.bag.names(model.strongest(k, 12), baseline.words)
        for k, name in enumerate(reviews.classes)
    }
    seconds = (
        {"reading": reading}
        | baseline.seconds
        | {"writing": round(time.perf_counter() - writing, 2)}
    )
    total, memory = time.perf_counter() - begun, peak_memory()
    results = {
        "task": "classification",
        "model": args.features,
        "data": reviews.name,
        "classes": reviews.classes,
        "device": "cpu",
        "precision": "fp64",
        "seconds": round(total, 2),
        "phase_seconds": seconds,
        "tokens_per_second": round(baseline.n_words / total),
        "peak_memory_bytes": memory,
        "C": baseline.fit.C,
        "converged": baseline.fit.converged,
        "strongest": strongest,
        **baseline.tables,
    }
    run.write_results(results)
    write_page(run.folder)

    print(
        f"\nC {baseline.fit.C:.4g}, trained on train alone"
        + (" (test_refit: on train and val)" if nbsvm else "")
    )
    print(
        results_text(results),
        "\n\nwhat speaks most for each class:",
        sep="",
    )
    print(*(f"  {name}: " + " | ".join(ngrams) for name, ngrams in strongest.items()), sep="\n")
    print(
        "\n"
        + ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
        + f"; in all {total:.1f} s"
        + (f", at most {memory / 1e9:.2f} GB of memory" if memory else "")
        + f"\npage: {run.folder / 'report.html'}"
    )


if __name__ == "__main__":
    sys.exit(main())

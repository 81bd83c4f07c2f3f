"""Train the baseline: logistic regression on a bag of words, in numpy.

unigram  counts of single words, as scikit-learn's CountVectorizer and LogisticRegression have it
nbsvm    which words and runs of 2 and 3 words stand in a text, weighted by naive-Bayes log-count ratios (Wang &
         Manning 2012); with the C found on val it is trained once more, on train and val, and reported as test_refit
"""

import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.errors import Parser, UserError, command, is_first

FIRST_C = {"unigram": 0.01, "nbsvm": 10.0}  # where the search for C begins
SEARCH_TOLERANCE = 1e-2  # of the fits that are only compared; the best is then finished
MIN_DOCUMENTS = 2  # nbsvm leaves out what stands in one text only: a third of the entries, and nothing in accuracy
REAL_RUN = """nothing named: the bundled reviews. The real run:
  python -m data_prep.imdb
  python scripts/train_logreg.py --data data/imdb"""


def parse(argv):
    parser = Parser(prog="scripts/train_logreg.py", description=__doc__)
    parser.add_argument("--data", default="sample", help="sample (bundled), a prepared folder such as data/imdb, or a "
                        ".jsonl, .csv or .json file with fields text and label (default: sample)")  # fmt: skip
    parser.add_argument("--features", choices=tuple(FIRST_C), default="nbsvm", help="see above (default: nbsvm)")
    parser.add_argument("--C", type=float, metavar="X", help="inverse strength of the L2 penalty, as in scikit-learn; "
                        "default: the one with the lowest loss on val")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a split that is made here (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="throw away what is in --out")
    parser.add_argument("--out", default="runs/logreg", metavar="NAME", help="run folder (default: runs/logreg)")
    args = parser.parse_args(argv)
    if args.C is not None and not 0 < args.C < float("inf"):
        raise UserError(f"--C must be a number above 0, got {args.C}")
    return args


@contextlib.contextmanager
def timed(seconds, name):
    """Note in `seconds` how long the block took."""
    begun = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begun, 2)


@command
def main(argv):
    args = parse(argv)
    if not is_first():  # under torchrun, too, one process does it all
        return
    begun = time.perf_counter()

    import numpy as np

    from gptft.baseline.bag_of_words import BagOfNgrams, WordNumbers
    from gptft.baseline.logistic_regression import LogisticRegression, choose_C
    from gptft.data.imdb import load_reviews
    from gptft.files import write_atomic
    from gptft.metrics import classification_metrics, example_rows, prediction_rows
    from gptft.page import write_page
    from gptft.progress import peak_memory
    from gptft.run import open_run
    from gptft.tables import classification_table

    nbsvm, seconds = args.features == "nbsvm", {}
    with timed(seconds, "reading"):
        reviews = load_reviews(args.data, args.seed)
        labels = {split: np.array([review.label for review in rows]) for split, rows in reviews.splits.items()}
    run = open_run(args.out, ["python", "scripts/train_logreg.py", *argv], vars(args), overwrite=args.overwrite)
    if args.data == "sample":
        print(REAL_RUN)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in reviews.splits.items())
    print(*reviews.notes, f"data: {reviews.name}: {counts}", f"run folder: {run.folder}", sep="\n", flush=True)

    n_train = len(labels["train"])
    settings = dict(n_classes=len(reviews.classes), naive_bayes=nbsvm, min_documents=MIN_DOCUMENTS)

    with timed(seconds, "cutting words"):
        number = WordNumbers(marks=nbsvm)
        documents = {split: number([review.text for review in rows]) for split, rows in reviews.splits.items()}
    with timed(seconds, "counting n-grams"):
        # One matrix for train and val: columns that the rows in training don't have can't influence a model of them.
        bag = BagOfNgrams(3, MIN_DOCUMENTS, presence=True) if nbsvm else BagOfNgrams()
        by_row, by_column = bag.fit(documents["train"].followed_by(documents["val"]))
        rows = {"train": by_row.lists(0, n_train), "val": by_row.lists(n_train, None)}
        rows |= {split: bag.transform(documents[split]) for split in documents if split not in rows}
    print(f"{args.features}: {len(bag.ngrams):,} columns, {len(rows['train'].indices):,} entries in train", flush=True)

    def evaluate(fit, split):
        log_probs = fit.model.log_probs(rows[split])
        return classification_metrics(labels[split], log_probs), log_probs

    with timed(seconds, "fitting"):
        training = LogisticRegression(rows["train"], by_column.below(n_train), labels["train"], **settings)
        trials = []
        for fit, loss in choose_C(lambda C: training.fit(C, tolerance=SEARCH_TOLERANCE),
                                  lambda fit: evaluate(fit, "val")[0]["loss"],
                                  args.C or FIRST_C[args.features], most_steps=0 if args.C else 6):  # fmt: skip
            print(f"  C {fit.C:.4g}: loss on val {loss:.4f} after {fit.iterations} iterations", flush=True)
            trials.append((loss, fit))
        _, best = min(trials, key=lambda trial: trial[0])
        best = training.fit(best.C, start=best)
        print(f"  {best.describe()}")
    with timed(seconds, "scoring"):
        scored = {split: evaluate(best, split) for split in rows}
        tables = {split: table for split, (table, _) in scored.items()}
    if nbsvm:
        with timed(seconds, "refitting"):
            both = LogisticRegression(by_row, by_column, np.append(labels["train"], labels["val"]), **settings)
            refit = both.fit(best.C, start=best)
            tables["test_refit"], _ = evaluate(refit, "test")
        print(f"  {refit.describe()}; on train and val")

    with timed(seconds, "writing"):
        test = reviews.splits["test"], scored["test"][1]
        run.write_predictions(prediction_rows(*test), example_rows(*test))
        arrays = best.model._asdict() | {"ngrams": bag.ngrams, "words": np.array("\n".join(number.words)),
                                         "classes": np.array(reviews.classes)}  # fmt: skip
        write_atomic(run.folder / "model.npz", lambda file: np.savez(file, **arrays))
    strongest = {name: bag.names(best.model.strongest(k, 12), number.words) for k, name in enumerate(reviews.classes)}
    total, memory = time.perf_counter() - begun, peak_memory()
    run.write_results({
        "task": "classification", "model": args.features, "data": reviews.name, "classes": reviews.classes,
        "device": "cpu", "precision": "fp64", "seconds": round(total, 2), "phase_seconds": seconds,
        "tokens_per_second": round(sum(len(d.words) for d in documents.values()) / total),
        "peak_memory_bytes": memory, "C": best.C, "converged": best.converged, "strongest": strongest, **tables,
    })  # fmt: skip
    write_page(run.folder)

    print(f"\nC {best.C:.4g}, trained on train alone" + (" (test_refit: on train and val)" if nbsvm else ""))
    print(classification_table(tables, reviews.classes), "\n\nwhat speaks most for each class:", sep="")
    for name, ngrams in strongest.items():
        print(f"  {name}: " + " | ".join(ngrams))
    print("\n" + ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items()) + f"; in all {total:.1f} s"
          + (f", at most {memory / 1e9:.2f} GB of memory" if memory else "") + f"\npage: {run.folder / 'report.html'}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""Train the baseline: logistic regression on a bag of words, in numpy.

unigram  counts of words, as in scikit-learn's CountVectorizer and LogisticRegression
nbsvm    presence of words, pairs and triples of words, weighted by naive-Bayes log-count ratios
         (Wang & Manning 2012); it is fitted again on train and val, and reported as test_refit
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.baseline.logistic_regression import train_baseline
from gptft.config import option, parse_options
from gptft.data.examples import COLUMNS_HELP, load_reviews
from gptft.errors import command, write_atomic
from gptft.evaluation.predictions import example_rows, prediction_rows
from gptft.report.page import write_page
from gptft.report.tables import results_text
from gptft.training.run_folder import open_run

REAL_RUN = """A trial on the bundled reviews. The real run:
  python -m data_prep.imdb
  python scripts/train_logreg.py --data data/imdb"""


@dataclass(frozen=True)
class Options:
    data: str = option(
        "sample",
        "sample (bundled); a folder with the files train, val and test, such as data/imdb; or a "
        ".jsonl, .json, .csv or .tsv file of yours, which may be compressed (.gz)",
    )
    columns: str = option(None, COLUMNS_HELP)
    features: str = option("nbsvm", "of a text", choices=("nbsvm", "unigram"))
    C: float = option(
        None,
        "inverse strength of the L2 penalty, as in scikit-learn (default: the best on val)",
        1e-9,
        1e9,
    )
    seed: int = option(0, "of the split, where the data has none")
    overwrite: bool = option(False, "delete the results in --out")
    out: str = option("runs/logreg", "run folder")


@command
def main(argv):
    options = parse_options(Options, argv, "scripts/train_logreg.py", __doc__)
    began = time.perf_counter()

    # ---------------------------------------------------------------- data
    reviews = load_reviews(options.data, options.seed, options.columns)
    command_line = ["python", "scripts/train_logreg.py", *argv]
    run = open_run(options.out, command_line, asdict(options), overwrite=options.overwrite)
    if options.data == "sample":
        print(REAL_RUN)
    counts = [f"{len(rows):,} {split}" for split, rows in reviews.splits.items()]
    data = f"data: {reviews.name}: {', '.join(counts)}"
    print(*reviews.notes, data, f"run folder: {run.folder}", sep="\n", flush=True)

    # ---------------------------------------------------------------- training
    nbsvm = options.features == "nbsvm"
    baseline = train_baseline(reviews, options.features, options.C, refit=nbsvm, say=print)

    # ---------------------------------------------------------------- results
    test, log_probs = reviews.splits["test"], baseline.log_probs["test"]
    run.write_predictions(prediction_rows(test, log_probs), example_rows(test, log_probs))
    parts = baseline.model.parts  # z = x . w + b of each class
    arrays = {
        "weights": [part.weights() for part in parts],  # (K, D)
        "bias": [part.params[-1] for part in parts],  # (K,)
        "ngrams": "\n".join(baseline.bag.ngrams).encode("utf-8", "surrogatepass"),
        "classes": reviews.classes,
    }
    if nbsvm:
        arrays["ratios"] = [part.ratios for part in parts]  # (K, D)
    write_atomic(run.folder / "model.npz", lambda file: np.savez(file, **arrays))
    seconds = time.perf_counter() - began
    results = {
        "task": "classification",
        "model": options.features,
        "data": reviews.name,
        "classes": reviews.classes,
        "device": "cpu",
        "precision": "fp64",
        "seconds": round(seconds, 2),
        "tokens_per_second": round(baseline.bag.n_words / seconds),
        "C": baseline.model.C,
        "converged": baseline.model.converged(),
        "strongest": baseline.strongest,
    }
    results |= baseline.metrics
    run.write_results(results)
    write_page(run.folder)

    print(f"\nC {baseline.model.C:.4g}")
    print(results_text(results))
    print("\nstrongest n-grams of each class:")
    for name, ngrams in baseline.strongest.items():
        print(f"  {name}: {' | '.join(ngrams)}")
    print(f"\n{seconds:.1f} s\npage: {run.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())

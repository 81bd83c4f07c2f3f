"""The baseline as a whole: reviews in, a fitted logistic regression and what it says of each split out.

unigram  counts of single words, as scikit-learn's CountVectorizer and LogisticRegression have it
nbsvm    which words and runs of 2 and 3 words stand in a text, weighted by naive-Bayes log-count ratios

C, the inverse strength of the penalty, is the one with the lowest loss on val. Source: Wang and Manning 2012, "Baselines and
Bigrams".
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gptft.baseline.bag_of_words import BagOfNgrams
from gptft.baseline.logistic_regression import Fit, LogisticRegression, choose_C
from gptft.baseline.words import number_words
from gptft.evaluation.metrics import classification_metrics

FIRST_C = {"unigram": 0.01, "nbsvm": 10.0}  # where the search for C begins
SEARCH_TOLERANCE = 1e-2  # of the fits that are only compared; the best is then finished
MIN_DOCUMENTS = 2  # nbsvm leaves out what stands in one text only: a third of the entries, and nothing in accuracy


class Baseline(NamedTuple):
    """A fitted baseline. `log_probs` (N, K) and `tables`, the metrics, are by split; `seconds` by phase of the work."""

    fit: Fit
    bag: BagOfNgrams
    words: list[str]
    log_probs: dict[str, np.ndarray]
    tables: dict[str, dict]
    seconds: dict[str, float]
    n_words: int


def train_baseline(reviews, features, C=None, refit=False, say=lambda text: None):
    """Fit a baseline to a ReviewSet's train split -> Baseline.

    Args: features, a name of FIRST_C. C: instead of the best on val. refit: fit once more, on train and val together,
    reported as the table "test_refit". say: called with each line about the progress.
    """
    nbsvm, seconds = features == "nbsvm", {}
    labels = {
        split: np.array([review.label for review in rows]) for split, rows in reviews.splits.items()
    }
    n_train, settings = (
        len(labels["train"]),
        dict(n_classes=len(reviews.classes), naive_bayes=nbsvm, min_documents=MIN_DOCUMENTS),
    )

    with _timed(seconds, "cutting words"):
        documents, words = number_words(
            [review.text for rows in reviews.splits.values() for review in rows], marks=nbsvm
        )
        ends = dict(
            zip(labels, np.cumsum([len(rows) for rows in labels.values()]))
        )  # train and val come first
        scored_only = {
            split: documents.texts(end - len(labels[split]), end)
            for split, end in ends.items()
            if split not in ("train", "val")
        }
    with _timed(seconds, "counting n-grams"):
        # One matrix for train and val: columns that the rows in training don't have can't influence a model of them.
        bag = BagOfNgrams(3, MIN_DOCUMENTS, presence=True) if nbsvm else BagOfNgrams()
        by_row, by_column = bag.fit(documents.texts(0, ends["val"]))
        rows = {"train": by_row.lists(0, n_train), "val": by_row.lists(n_train, None)}
    say(f"{features}: {len(bag.ngrams):,} columns, {len(rows['train'].indices):,} entries in train")

    def evaluate(fit, split):
        log_probs = fit.model.log_probs(rows[split])
        return classification_metrics(labels[split], log_probs), log_probs

    with _timed(seconds, "fitting"), ThreadPoolExecutor(1) as beside:  # a fit leaves cores idle
        others = {split: beside.submit(bag.transform, part) for split, part in scored_only.items()}
        training = LogisticRegression(
            rows["train"], by_column.below(n_train), labels["train"], **settings
        )
        best = _search_C(
            training, lambda fit: evaluate(fit, "val")[0]["loss"], FIRST_C[features], C, say
        )
        rows |= {split: other.result() for split, other in others.items()}
    with _timed(seconds, "scoring"):
        scored = {split: evaluate(best, split) for split in rows}
        tables = {split: table for split, (table, _) in scored.items()}
    if refit:
        with _timed(seconds, "refitting"):
            both = LogisticRegression(
                by_row, by_column, np.append(labels["train"], labels["val"]), **settings
            )
            again = both.fit(best.C, start=best)
            tables["test_refit"], _ = evaluate(again, "test")
        say(f"  {again.describe()}; on train and val")
    log_probs = {split: log_probs for split, (_, log_probs) in scored.items()}
    return Baseline(best, bag, words, log_probs, tables, seconds, len(documents.words))


@contextlib.contextmanager
def _timed(seconds, name):
    """Note in `seconds` how long the block took."""
    begun = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begun, 2)


def _search_C(training, loss, first, given, say):
    """Look for the C with the lowest loss on val, from `first`; or take the one `given` -> its Fit, brought to its end."""
    trials = []
    for fit, found in choose_C(
        lambda C: training.fit(C, tolerance=SEARCH_TOLERANCE),
        loss,
        given or first,
        0 if given else 6,
    ):
        say(f"  C {fit.C:.4g}: loss on val {found:.4f} after {fit.iterations} iterations")
        trials.append((found, fit))
    _, best = min(trials, key=lambda trial: trial[0])
    best = training.fit(best.C, start=best)
    say(f"  {best.describe()}")
    return best

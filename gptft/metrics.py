"""Numbers that say how good a model is, from sums and counts over a whole split.

Nothing here averages averages: a metric is one division, made at the end, of a sum by a count. An accuracy comes with
its 95 % interval, because on 200 test rows two models that differ by four points may well be the same.

Source: Wilson 1927 (interval); McNemar 1947, exact form (paired test); the usual definitions of precision and recall.
"""

import math

import numpy as np


def wilson_interval(successes, n, z=1.959964):
    """95 % interval (low, high) of a proportion, both from 0 to 1; good for small n and near 0 or 1, too.

    successes of n; z: the normal quantile that says how sure. Raises ValueError if n is 0.
    """
    if n < 1:
        raise ValueError("an interval needs at least one row")
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def confusion_matrix(labels, predicted, n_classes):
    """(N,) and (N,) int -> (K, K) int64; entry [i, j] counts rows of class i that were called j."""
    counts = np.bincount(
        np.asarray(labels) * n_classes + np.asarray(predicted), minlength=n_classes**2
    )
    return counts.reshape(n_classes, n_classes)


def classification_metrics(labels, log_probs):
    """Every row's true class and log-probabilities -> dict of n, loss, accuracy, accuracy_ci, precision, recall, f1, confusion.

    Args: `labels` (N,) int; `log_probs` (N, K) float, natural logarithm, rows that sum to 1 after exp.
    The loss is the mean negative log-probability of the true class, in nats. With two classes, precision, recall and F1
    are those of class 1; with more, the plain mean over classes (macro). A ratio whose denominator is 0 counts as 0.
    """
    labels, log_probs = np.asarray(labels), np.asarray(log_probs, dtype=np.float64)
    n, n_classes = log_probs.shape
    confusion = confusion_matrix(labels, log_probs.argmax(1), n_classes)
    hits = np.diag(confusion)
    precision = hits / np.maximum(confusion.sum(0), 1)
    recall = hits / np.maximum(confusion.sum(1), 1)
    f1 = 2 * hits / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    reported = slice(1, 2) if n_classes == 2 else slice(None)
    correct = int(hits.sum())
    return {
        "n": n,
        "loss": float(-log_probs[np.arange(n), labels].sum() / n),
        "accuracy": correct / n,
        "accuracy_ci": list(wilson_interval(correct, n)),
        "precision": float(precision[reported].mean()),
        "recall": float(recall[reported].mean()),
        "f1": float(f1[reported].mean()),
        "confusion": confusion.tolist(),
    }


def mcnemar(correct_a, correct_b):
    """Paired test of two classifiers on the same rows: is one right where the other is wrong more often than chance?

    Args: correct_a, correct_b: (N,) bool, row by row. Raises ValueError if they differ in length.
    Returns: dict of n, only_a, only_b (rows that just one got right), difference (accuracy of a minus b) and p_value,
    the two-sided exact binomial probability of a split at least this uneven if both were equally good.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"a paired test needs the same rows twice, got {a.size} and {b.size}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    m, k = only_a + only_b, min(only_a, only_b)
    log_terms = [
        math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) - m * math.log(2)
        for i in range(k + 1)
    ]
    p_value = min(1.0, 2 * math.fsum(map(math.exp, log_terms)))
    return {
        "n": a.size,
        "only_a": only_a,
        "only_b": only_b,
        "difference": (only_a - only_b) / a.size,
        "p_value": p_value,
    }


def roc_curve(positive, scores):
    """(N,) bool and (N,) float -> (false positive rates, true positive rates, AUC), as the threshold falls past each score.

    Rows of equal score pass together. The area (AUC) is the chance that a positive row scores above a negative one, equal
    scores counting half (Hanley & McNeil 1982); NaN if there are no rows of one kind.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    positive, scores = np.asarray(positive, dtype=bool)[order], np.asarray(scores)[order]
    last = np.append(
        np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1
    )  # of each run of equal scores
    n_true = int(positive.sum())
    if n_true in (0, len(positive)):
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), math.nan
    true = np.append(0, np.cumsum(positive)[last]) / n_true
    false = np.append(0, np.cumsum(~positive)[last]) / (len(positive) - n_true)
    return false, true, float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())


def calibration(confidence, right, n_bins=15):
    """Do rows called with confidence p turn out right p of the time? -> (bins, ECE), by confidence, in equal widths.

    Args: (N,) float, the probability of the called class; (N,) bool. `bins` lists (mean confidence, rows right, rows) of
    each bin that is not empty; the expected calibration error is the mean gap over all rows (Guo et al. 2017, M = 15).
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    n, k, total = (np.bincount(place, weights, n_bins) for weights in (None, right, confidence))
    bins = [(float(total[b] / n[b]), int(k[b]), int(n[b])) for b in np.flatnonzero(n)]
    return bins, float(np.abs(total - k).sum() / len(confidence))


# Student's t, 97.5 %, for 1, 2, ... degrees of freedom (any table of it).
T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


def t_interval(values):
    """Results of runs that differ in their seed, two at least -> (mean, half the width of its 95 % t interval)."""
    values = np.asarray(values, dtype=np.float64)
    t = T_975[min(len(values) - 1, len(T_975)) - 1]  # beyond 16 runs a little too wide
    return float(values.mean()), float(t * values.std(ddof=1) / math.sqrt(len(values)))


def prediction_rows(reviews, log_probs):
    """Reviews and their (N, K) log-probabilities -> the dicts of predictions.jsonl; `words`, its spaces and one, is a text's length."""
    probabilities = np.exp(log_probs).round(6).tolist()
    return [
        {"id": r.id, "label": r.label, "probabilities": p, "words": r.text.count(" ") + 1}
        for r, p in zip(reviews, probabilities)
    ]


def example_rows(reviews, log_probs, explain=lambda row: None, n_wrong=10):
    """`reviews` and their `log_probs` -> the few rows that a report shows, with the text and what `explain(row number)` says of it.

    These are the `n_wrong` mistakes of most confidence, then of each class the row that was called rightly with most confidence.
    """
    labels, called = np.array([review.label for review in reviews]), log_probs.argmax(1)
    order = np.argsort(-log_probs.max(1), kind="stable")
    wrong, right = order[(called != labels)[order]], order[(called == labels)[order]]
    rows = [*wrong[:n_wrong], *(right[labels[right] == k][:1] for k in range(log_probs.shape[1]))]
    shown = np.hstack(rows).astype(int).tolist() if rows else []
    predictions = prediction_rows([reviews[i] for i in shown], log_probs[shown])
    return [p | {"text": reviews[i].text, "tokens": explain(i)} for i, p in zip(shown, predictions)]

"""Numbers that say how good a model is, from sums and counts over a whole split.

Nothing here averages averages: a metric is one division, made at the end, of a sum by a count. An accuracy comes with
its 95 % interval, because on 200 test rows two models that differ by four points may well be the same.

Source: Wilson 1927 (interval); McNemar 1947, exact form (paired test); the usual definitions of precision and recall.
"""

import math

import numpy as np


def wilson_interval(successes, n, z=1.959964):
    """95 % interval (low, high) of a proportion, both from 0 to 1; good for small n and near 0 or 1, too.

    Raises ValueError if n is 0.
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
    counts = np.bincount(np.asarray(labels) * n_classes + np.asarray(predicted), minlength=n_classes**2)
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

    Args: two (N,) bool arrays, row by row.
    Returns: dict of n, only_a, only_b (rows that just one got right), difference (accuracy of a minus b) and p_value,
    the two-sided exact binomial probability of a split at least this uneven if both were equally good.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"a paired test needs the same rows twice, got {a.size} and {b.size}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    m, k = only_a + only_b, min(only_a, only_b)
    log_terms = [math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) - m * math.log(2) for i in range(k + 1)]
    p_value = min(1.0, 2 * math.fsum(map(math.exp, log_terms)))
    return {"n": a.size, "only_a": only_a, "only_b": only_b, "difference": (only_a - only_b) / a.size, "p_value": p_value}


def prediction_rows(reviews, log_probs):
    """Reviews and their (N, K) log-probabilities -> the dicts of predictions.jsonl."""
    probabilities = np.exp(log_probs).round(6).tolist()
    return [{"id": r.id, "label": r.label, "probabilities": p} for r, p in zip(reviews, probabilities)]

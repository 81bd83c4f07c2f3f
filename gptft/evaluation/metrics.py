"""Metrics of a classifier, with their uncertainty.

Nothing here averages averages: every metric is one division, made at the end, of a sum by a count.
An accuracy comes with its 95 % interval, because on 200 test rows two models that differ by four
points may well be equally good.

Source: Wilson 1927 (interval of a proportion); McNemar 1947, exact form (paired test); Hanley &
McNeil 1982 (area under the ROC curve); Guo et al. 2017 (calibration).
"""

import math

import numpy as np

Z_975 = 1.959964  # 97.5 % quantile of the normal distribution
# The same of Student's t for 1, 2, ... degrees of freedom.
T_975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160]


def wilson_interval(successes, n):
    """95 % interval (low, high) of a proportion; also good for small n and near 0 or 1.

    Raises ValueError if n is 0.
    """
    if n < 1:
        raise ValueError("an interval needs at least one row")
    p = successes / n
    z2 = Z_975 * Z_975
    centre = p + z2 / (2 * n)
    spread = Z_975 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def t_interval(values):
    """Results of runs with different seeds, at least two -> (mean, half width of its 95 %
    interval)."""
    values = np.asarray(values, dtype=np.float64)
    degrees = min(len(values) - 1, len(T_975))  # beyond 14 runs a little too wide
    half = T_975[degrees - 1] * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(half)


def confusion_matrix(labels, predicted, n_classes):
    """Count rows by class: (N,) and (N,) int -> (K, K) int64; [i, j] is class i predicted as j."""
    pairs = np.asarray(labels) * n_classes + np.asarray(predicted)
    counts = np.bincount(pairs, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def classification_metrics(labels, log_probs):
    """Metrics of a split -> dict of n, loss, accuracy, accuracy_ci, precision, recall, f1,
    confusion.

    Args:
        labels: (N,) int. log_probs: (N, K) float, natural log-probabilities of the classes.

    The loss is the mean negative log-probability of the true class, in nats. With two classes,
    precision, recall and F1 are those of class 1; with more, the mean over classes (macro). A ratio
    with a denominator of 0 counts as 0.
    """
    labels = np.asarray(labels)
    log_probs = np.asarray(log_probs, dtype=np.float64)
    n, n_classes = log_probs.shape
    confusion = confusion_matrix(labels, log_probs.argmax(axis=1), n_classes)
    hits = np.diag(confusion)
    n_predicted = confusion.sum(axis=0)
    n_true = confusion.sum(axis=1)
    precision = hits / np.maximum(n_predicted, 1)
    recall = hits / np.maximum(n_true, 1)
    f1 = 2 * hits / np.maximum(n_predicted + n_true, 1)
    reported = slice(1, 2) if n_classes == 2 else slice(None)
    n_correct = int(hits.sum())
    return {
        "n": n,
        "loss": float(-log_probs[np.arange(n), labels].sum() / n),
        "accuracy": n_correct / n,
        "accuracy_ci": list(wilson_interval(n_correct, n)),
        "precision": float(precision[reported].mean()),
        "recall": float(recall[reported].mean()),
        "f1": float(f1[reported].mean()),
        "confusion": confusion.tolist(),
    }


def mcnemar(correct_a, correct_b):
    """Paired test of two classifiers on the same rows -> dict of n, only_a, only_b, difference,
    p_value.

    Args:
        correct_a, correct_b: (N,) bool, whether each classifier is right. Raises ValueError if they
            differ in length or are empty.

    only_a counts the rows that a alone gets right, difference is the accuracy of a minus that of b.
    p_value is the two-sided exact binomial probability of so uneven a split of only_a + only_b
    rows, if both classifiers are equally good.
    """
    a = np.asarray(correct_a, dtype=bool)
    b = np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"a paired test needs the same rows twice, got {a.size} and {b.size}")
    only_a = int((a & ~b).sum())
    only_b = int((b & ~a).sum())
    m = only_a + only_b
    tail = 0.0  # the probability of at most min(only_a, only_b) heads in m tosses
    for k in range(min(only_a, only_b) + 1):
        log_binomial = math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)
        tail += math.exp(log_binomial - m * math.log(2))
    return {
        "n": a.size,
        "only_a": only_a,
        "only_b": only_b,
        "difference": (only_a - only_b) / a.size,
        "p_value": min(1.0, 2 * tail),
    }


def roc_curve(positive, scores):
    """The ROC curve -> (false positive rates, true positive rates, area under the curve).

    Args:
        positive: (N,) bool. scores: (N,) float, higher for rows that look positive.

    The threshold falls past one score after the other; rows of equal score pass together. The area
    is the chance that a positive row scores above a negative one, where equal scores count half. It
    is NaN if all rows are of one kind.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    positive = np.asarray(positive, dtype=bool)[order]
    scores = np.asarray(scores)[order]
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), math.nan
    is_last = np.append(scores[1:] != scores[:-1], True)  # of the rows of one score
    true_rate = np.append(0, np.cumsum(positive)[is_last]) / n_positive
    false_rate = np.append(0, np.cumsum(~positive)[is_last]) / n_negative
    heights = (true_rate[1:] + true_rate[:-1]) / 2
    area = (heights * np.diff(false_rate)).sum()
    return false_rate, true_rate, float(area)


def calibration(confidence, correct, n_bins=15):
    """Are rows predicted with confidence p right with frequency p? -> (bins, expected error).

    Args:
        confidence: (N,) float, the probability of the predicted class. correct: (N,) bool.

    bins is a list of (mean confidence, rows that are right, rows) by confidence, in equal widths,
    without empty bins. The expected calibration error is the mean gap over all rows.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    correct = np.asarray(correct, dtype=bool)
    bin_of = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    n = np.bincount(bin_of, minlength=n_bins)
    n_correct = np.bincount(bin_of, correct, n_bins)
    total = np.bincount(bin_of, confidence, n_bins)
    bins = []
    for i in np.flatnonzero(n):
        bins.append((float(total[i] / n[i]), int(n_correct[i]), int(n[i])))
    return bins, float(np.abs(total - n_correct).sum() / len(confidence))

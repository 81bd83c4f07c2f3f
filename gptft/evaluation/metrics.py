"""Metrics of a classifier, with their uncertainty.

Nothing here averages averages: every metric is one division, made at the end, of a sum by a count.
An accuracy comes with its 95 % interval, because on 200 test rows two models that differ by four
points may well be equally good.

Source: Wilson 1927 (interval of a proportion); McNemar 1947, exact form (paired test); Hanley &
McNeil 1982 (area under the ROC curve); Guo et al. 2017 (calibration).
"""

import math
import statistics

import numpy as np

Z_975 = 1.959964  # 97.5 % quantile of the normal distribution
T_975 = [  # the same of Student's t, for 1, 2, ... degrees of freedom
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
]


def wilson_interval(successes, n):
    """95 % interval (low, high) of a proportion; also good for small n > 0 and near 0 or 1."""
    p = successes / n
    z2_n = Z_975 * Z_975 / n
    centre = p + z2_n / 2
    variance = p * (1 - p) / n + z2_n / (4 * n)
    spread = Z_975 * math.sqrt(variance)
    scale = 1 + z2_n
    low = (centre - spread) / scale
    high = (centre + spread) / scale
    return max(low, 0.0), min(high, 1.0)


def t_interval(values):
    """Results of runs with different seeds, at least two -> (mean, half width of its 95 %
    interval)."""
    n = len(values)
    t = T_975[min(n, 9) - 2]  # beyond 9 runs a little too wide
    half = t * statistics.stdev(values) / math.sqrt(n)
    return statistics.mean(values), half


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
    n, n_classes = log_probs.shape
    predicted = log_probs.argmax(axis=1)
    pairs = labels * n_classes + predicted
    confusion = np.bincount(pairs, minlength=n_classes**2)
    confusion = confusion.reshape(n_classes, n_classes)  # [i, j]: rows of class i predicted as j
    hits = np.diag(confusion)
    n_predicted = confusion.sum(axis=0)
    n_true = confusion.sum(axis=1)
    precision = hits / np.maximum(n_predicted, 1)
    recall = hits / np.maximum(n_true, 1)
    f1 = 2 * hits / np.maximum(n_predicted + n_true, 1)
    first = 1 if n_classes == 2 else 0  # of the classes that count
    n_correct = int(hits.sum())
    true_log_probs = log_probs[np.arange(n), labels]
    return {
        "n": n,
        "loss": float(-true_log_probs.mean()),
        "accuracy": n_correct / n,
        "accuracy_ci": list(wilson_interval(n_correct, n)),
        "precision": float(precision[first:].mean()),
        "recall": float(recall[first:].mean()),
        "f1": float(f1[first:].mean()),
        "confusion": confusion.tolist(),
    }


def mcnemar(a, b):
    """Paired test of two classifiers on the same rows -> dict of n, only_a, only_b, difference,
    p_value.

    Args:
        a, b: (N,) bool, N > 0, whether each classifier is right.

    only_a counts the rows that a alone gets right, difference is the accuracy of a minus that of b.
    p_value is the two-sided exact binomial probability of so uneven a split of only_a + only_b
    rows, if both classifiers are equally good.
    """
    only_a = int(np.sum(a & ~b))
    only_b = int(np.sum(b & ~a))
    m = only_a + only_b
    ways, tail = 1, 0  # (m over k), and their sum: integers, for floats would overflow
    for k in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (m - k) // (k + 1)
    p_value = 2 * tail / 2**m
    return {
        "n": a.size,
        "only_a": only_a,
        "only_b": only_b,
        "difference": (only_a - only_b) / a.size,
        "p_value": min(1.0, p_value),
    }


def roc_curve(positive, scores):
    """The ROC curve -> (false positive rates, true positive rates, area under the curve).

    Args:
        positive: (N,) bool. scores: (N,) float, higher for rows that look positive.

    The threshold falls past one score after the other; rows of equal score pass together. The area
    is the chance that a positive row scores above a negative one, where equal scores count half. It
    is NaN if all rows are of one kind.
    """
    if positive.all() or not positive.any():
        diagonal = np.array([0.0, 1.0])
        return diagonal, diagonal, math.nan
    order = np.argsort(-scores, kind="stable")
    positive, scores = positive[order], scores[order]
    n_true = np.cumsum(positive)
    n_false = np.cumsum(~positive)
    is_last = np.append(scores[1:] != scores[:-1], True)  # of the rows of one score
    n_true = np.append(0, n_true[is_last])
    n_false = np.append(0, n_false[is_last])
    true_rate = n_true / n_true[-1]
    false_rate = n_false / n_false[-1]
    heights = (true_rate[1:] + true_rate[:-1]) / 2
    area = heights @ np.diff(false_rate)
    return false_rate, true_rate, float(area)


def calibration(confidence, correct, n_bins=15):
    """Are rows predicted with confidence p right with frequency p? -> (bins, expected error).

    Args:
        confidence: (N,) float, the probability of the predicted class. correct: (N,) bool.

    bins is a list of (mean confidence, rows that are right, rows) by confidence, in equal widths,
    without empty bins. The expected calibration error is the mean gap over all rows.
    """
    bin_of = np.digitize(confidence, np.arange(1, n_bins) / n_bins)
    bins, gap = [], 0.0
    for i in np.unique(bin_of):
        inside = bin_of == i
        n = inside.sum()
        n_correct = correct[inside].sum()
        total = math.fsum(confidence[inside])
        bins.append((total / n, n_correct, n))
        gap += abs(total - n_correct)
    return bins, gap / len(confidence)

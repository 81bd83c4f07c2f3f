"""Metrics of a classifier against values worked by hand or quoted from their sources."""

import math

import numpy as np
import pytest

from gptft.evaluation.metrics import (
    calibration,
    classification_metrics,
    mcnemar,
    roc_curve,
    t_interval,
    wilson_interval,
)


def test_two_classes():
    # Classes 0 0 0 1 1, predicted as 0 1 0 1 0: one false positive, one false negative.
    p = np.array([0.1, 0.7, 0.4, 0.8, 0.3])
    m = classification_metrics([0, 0, 0, 1, 1], np.log(np.stack([1 - p, p], axis=1)))
    assert m.pop("loss") == pytest.approx(-math.log(0.9 * 0.3 * 0.6 * 0.8 * 0.3) / 5)
    assert m == {
        "n": 5,
        "accuracy": 0.6,
        "accuracy_ci": list(wilson_interval(3, 5)),
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "confusion": [[2, 1], [1, 1]],
    }


def test_three_classes_are_macro_averages():
    # Class 2 is never predicted, so its precision counts as 0.
    labels, predicted = [0, 0, 0, 1, 2], [0, 0, 1, 1, 0]
    m = classification_metrics(labels, np.log(0.1 + 0.7 * np.eye(3)[predicted]))
    assert m["confusion"] == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert m["precision"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert m["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert m["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_wilson_interval_of_published_proportions():
    # Newcombe 1998, table I.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_t_interval():
    # Standard deviation 1, 2 degrees of freedom: 4.303 / sqrt(3).
    assert t_interval([1, 2, 3]) == pytest.approx((2, 2.48434), abs=1e-4)


def test_exact_mcnemar():
    # Of 6 discordant rows a alone has 1: p = 2 * (C(6, 0) + C(6, 1)) / 2^6.
    a = np.array([1, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    b = np.array([0, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    m = mcnemar(a, b)
    assert m.pop("p_value") == pytest.approx(14 / 64)
    assert m == {"n": 8, "only_a": 1, "only_b": 5, "difference": -0.5}
    assert mcnemar(a, a)["p_value"] == 1.0
    with pytest.raises(ValueError):
        mcnemar(a, b[:3])
    rows = np.arange(25_000) % 3  # a sum of binomials of this size would overflow
    assert 0 <= mcnemar(rows > 0, rows > 1)["p_value"] < 1e-300


def test_roc_curve_with_equal_scores():
    # Of 4 pairs the positive row is ahead in 3 and level in one, which counts half.
    scores = np.array([0.9, 0.8, 0.8, 0.3])
    false_rate, true_rate, area = roc_curve(np.array([True, False, True, False]), scores)
    assert false_rate.tolist() == [0, 0, 0.5, 1]
    assert true_rate.tolist() == [0, 0.5, 1, 1]
    assert area == 3.5 / 4
    assert math.isnan(roc_curve(scores > 0, scores)[2])


def test_calibration():
    # A confidence of 1 belongs to the last bin.
    correct = np.array([True, True, False, True])
    bins, error = calibration(np.array([0.95, 0.55, 0.95, 1.0]), correct)
    assert bins == [(0.55, 1, 1), (pytest.approx(2.9 / 3), 2, 3)]
    assert error == pytest.approx((0.45 + 0.9) / 4)

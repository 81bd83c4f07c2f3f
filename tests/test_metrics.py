"""Metrics against values worked by hand or quoted from their sources."""

import math

import numpy as np
import pytest

from gptft.data.imdb import Review
from gptft.metrics import (
    calibration,
    classification_metrics,
    confusion_matrix,
    example_rows,
    mcnemar,
    roc_curve,
    t_interval,
    wilson_interval,
)


def test_two_classes_by_hand():
    # True 0 0 0 1 1, called 0 1 0 1 0: one false alarm, one miss.
    labels = np.array([0, 0, 0, 1, 1])
    p1 = np.array([0.1, 0.7, 0.4, 0.8, 0.3])
    m = classification_metrics(labels, np.log(np.stack([1 - p1, p1], 1)))
    assert m["confusion"] == [[2, 1], [1, 1]] and m["n"] == 5
    assert (m["accuracy"], m["precision"], m["recall"], m["f1"]) == (0.6, 0.5, 0.5, 0.5)
    assert m["loss"] == pytest.approx(-math.log(0.9 * 0.3 * 0.6 * 0.8 * 0.3) / 5)


def test_three_classes_are_macro_averages():
    # Confusion [[2,1,0],[0,1,0],[1,0,0]]: class 2 is never called, so its precision counts as 0.
    labels, called = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 0])
    log_probs = np.log(np.full((5, 3), 0.1) + 0.7 * np.eye(3)[called])
    m = classification_metrics(labels, log_probs)
    assert (
        m["confusion"]
        == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
        == confusion_matrix(labels, called, 3).tolist()
    )
    assert m["precision"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert m["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert m["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I: 81/263 gives 0.2553..0.3662; 0/20 gives 0..0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    with pytest.raises(ValueError):
        wilson_interval(0, 0)


def test_mcnemar_exact_by_hand():
    # 1 against 5 discordant rows of 8: two-sided binomial p = 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64.
    a = np.array([1, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    b = np.array([0, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    m = mcnemar(a, b)
    assert (m["n"], m["only_a"], m["only_b"], m["difference"]) == (8, 1, 5, -0.5)
    assert m["p_value"] == pytest.approx(14 / 64)
    assert mcnemar(a, a)["p_value"] == 1.0
    with pytest.raises(ValueError):
        mcnemar(a, b[:3])


def test_mcnemar_is_finite_for_thousands_of_rows():
    a = np.arange(25_000) % 3 > 0
    b = np.arange(25_000) % 3 > 1
    assert 0 <= mcnemar(a, b)["p_value"] < 1e-300


def test_roc_by_hand_with_equal_scores():
    # Of the 4 pairs the positive row is ahead in 3, and level in one, which counts half.
    false, true, area = roc_curve([True, False, True, False], [0.9, 0.8, 0.8, 0.3])
    assert false.tolist() == [0, 0, 0.5, 1] and true.tolist() == [0, 0.5, 1, 1] and area == 3.5 / 4
    assert roc_curve([True, False], [0.5, 0.5])[2] == 0.5
    assert math.isnan(roc_curve([True, True], [0.1, 0.2])[2])


def test_calibration_by_hand():
    # Confidence 0.95 twice, right once; 0.55, right; and 1, which must not fall out of the last bin.
    bins, error = calibration([0.95, 0.55, 0.95, 1.0], [True, True, False, True])
    assert [(pytest.approx(mean), k, n) for mean, k, n in bins] == [(0.55, 1, 1), (2.9 / 3, 2, 3)]
    assert error == pytest.approx((0.45 + 0.9) / 4)


def test_t_interval_by_hand():
    # Standard deviation 1, 2 degrees of freedom: 4.303 / sqrt(3).
    assert t_interval([1, 2, 3]) == pytest.approx((2, 2.48434), abs=1e-4)
    assert t_interval([1, 3])[1] == pytest.approx(12.706, abs=1e-3)


def test_examples_are_the_surest_mistakes_and_the_surest_right_of_each_class():
    p1 = np.array([0.9, 0.6, 0.2, 0.99, 0.01, 0.4, 0.97])
    reviews = [Review(f"r{i}", label, f"text {i}") for i, label in enumerate([0, 0, 0, 1, 0, 1, 1])]
    log_probs = np.log(np.stack([1 - p1, p1], 1))
    rows = example_rows(reviews, log_probs, lambda i: i, n_wrong=2)
    assert [row["id"] for row in rows] == ["r0", "r1", "r4", "r3"] and [
        row["tokens"] for row in rows
    ] == [0, 1, 4, 3]
    assert rows[0] == {
        "id": "r0",
        "label": 0,
        "probabilities": [0.1, 0.9],
        "words": 2,
        "text": "text 0",
        "tokens": 0,
    }
    assert [row["id"] for row in example_rows(reviews[3:4], log_probs[3:4])] == ["r3"]

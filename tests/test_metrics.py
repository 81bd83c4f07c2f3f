"""Metrics against values worked by hand or quoted from their sources."""

import math

import numpy as np
import pytest

from gptft.metrics import classification_metrics, confusion_matrix, mcnemar, wilson_interval


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
    assert m["confusion"] == [[2, 1, 0], [0, 1, 0], [1, 0, 0]] == confusion_matrix(labels, called, 3).tolist()
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

"""Logistic regression against worked values, a dense formula and scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from script_runs import read
from test_bag_of_words import dense, random_texts

from gptft.baseline import logistic_regression
from gptft.baseline.bag_of_words import WORDS_AND_MARKS, count_ngrams
from gptft.baseline.logistic_regression import (
    choose_C,
    fit,
    hessian_diagonal,
    lbfgs,
    log_count_ratios,
    objective,
    scale_by_ratios,
    train_baseline,
)

TIGHT = 1e-13
SKLEARN = np.load(ROOT / "tests" / "fixtures" / "sklearn_logreg.npz")


def read_sample(name, split):
    """-> texts and labels of a bundled file."""
    records = read(ROOT / "gptft" / "assets" / "samples" / name)
    chosen = [record for record in records if record["split"] == split]
    return [r["text"] for r in chosen], np.array([r["label"] for r in chosen])


def presence(texts, max_n=1, min_texts=1):
    """-> the matrix of all texts, and its n-grams."""
    bag = count_ngrams(texts, len(texts), WORDS_AND_MARKS, max_n, min_texts, presence=True)
    return bag.matrix(0, len(texts)), bag.ngrams


# ---------------------------------------------------------------- L-BFGS


def quadratic(curvature, target):
    def function(x):
        function.calls += 1
        return curvature @ (x - target) ** 2 / 2 + 1, curvature * (x - target)

    function.calls = 0
    return function


@pytest.mark.parametrize("known, most_calls", [(False, 1000), (True, 3)])
def test_lbfgs_finds_the_minimum_of_an_ill_conditioned_quadratic(known, most_calls):
    # Steepest descent takes 100,000 steps. With the exact diagonal of the Hessian, one is enough.
    curvature, target = np.logspace(0, 4, 30), np.linspace(-3, 5, 30)
    function = quadratic(curvature, target)
    diagonal = curvature if known else np.ones(30)
    x, converged = lbfgs(function, np.zeros(30), diagonal, tolerance=1e-14)
    np.testing.assert_allclose(x, target, atol=1e-6)
    assert converged and function.calls <= most_calls


def test_line_search_shortens_steps_that_overshoot():
    # With this diagonal, the first full step is 1000 times too long.
    def valley(x):
        return np.sum(np.logaddexp(5 * x, -5 * x)), 5 * np.tanh(5 * x)

    x, converged = lbfgs(valley, np.array([3.0, -2.0]), np.full(2, 1e-3), tolerance=1e-14)
    assert converged and abs(x).max() < 1e-6


def test_lbfgs_reports_that_it_has_not_converged(monkeypatch):
    monkeypatch.setattr(logistic_regression, "MAX_ITERATIONS", 4)
    function = quadratic(np.logspace(0, 1, 50), 1 / 3)
    assert not lbfgs(function, np.zeros(50), np.ones(50), 1e-9)[1]


# ---------------------------------------------------------------- the objective


def test_log_count_ratios_by_hand():
    # Texts of the class with the n-gram plus 1 (p), and other texts plus 1 (q). `fine` and `bad`
    # occur in one text only, so they get 0 and do not enter the sums 5 and 3.
    #          good  film  fine  bad
    # p          3     2     2    1
    # q          1     2     1    2
    X, names = presence(["good good film", "good fine", "bad film"])
    ratios = dict(zip(names, log_count_ratios(X, np.array([1.0, 1.0, 0.0]))))
    expected = {"good": math.log(3 / 5 * 3 / 1), "film": math.log(2 / 5 * 3 / 2)}
    assert ratios == pytest.approx(expected | {"fine": 0, "bad": 0}, abs=1e-12)


@pytest.mark.parametrize("naive_bayes", [True, False])
def test_objective_against_a_dense_formula(naive_bayes):
    X, _ = presence(random_texts(40, seed=0), max_n=2, min_texts=2)
    in_class = (np.random.default_rng(0).random(40) < 0.4).astype(np.float64)
    x, signs, C = dense(X), 2 * in_class - 1, 0.7
    if naive_bayes:
        ratios = log_count_ratios(X, in_class)
        X = scale_by_ratios(X, ratios)
        x = x * ratios / np.maximum(np.linalg.norm(x * ratios, axis=1, keepdims=True), 1e-12)
    n, d = x.shape

    def plain(params):
        w, b = params[:-1], params[-1]
        return np.mean(np.log1p(np.exp(-signs * (x @ w + b)))) + w @ w / (2 * C * n)

    point = np.random.default_rng(1).normal(size=d + 1)
    value, gradient = objective(X, signs, C, point)
    assert value == pytest.approx(plain(point), rel=1e-12)
    for j in [*range(0, d, 5), d]:  # the last is the intercept
        e = np.where(np.arange(d + 1) == j, 1e-5, 0)
        slope = (plain(point + e) - plain(point - e)) / 2e-5
        assert gradient[j] == pytest.approx(slope, abs=1e-9)
    diagonal = (x**2).sum(0) / (4 * n) + 1 / (C * n)
    np.testing.assert_allclose(hessian_diagonal(X, C), np.append(diagonal, 1 / 4))

    far = np.append(np.zeros(d), 2000.0)  # exp(2000) is beyond float64
    with np.errstate(over="raise", invalid="raise"):
        value, gradient = objective(X, signs, C, far)
    assert value == pytest.approx(2000 * np.mean(signs < 0))
    assert gradient[-1] == pytest.approx(np.mean(signs < 0))


# ---------------------------------------------------------------- fitted models


def split_sample(third):
    """Bundled train and test texts as scikit-learn got them: with or without a third class."""
    texts, labels = read_sample("reviews.jsonl", "train")
    if third:
        texts += read_sample("reviews_implied.jsonl", "test")[0][:200]
        labels = np.append(labels, [2] * 200)
    others, _ = read_sample("reviews.jsonl", "test")
    n = len(texts)
    bag = count_ngrams(texts + others, n)
    return bag.matrix(0, n), labels, bag.matrix(n, n + len(others)), bag.ngrams


@pytest.mark.parametrize("i", [0, 1])
def test_the_model_of_scikit_learn(i):
    X, labels, X_test, ngrams = split_sample(third=False)
    C, expected = SKLEARN["C"][i], SKLEARN["test_probabilities"][i]
    model = fit(X, labels, 2, C, tolerance=TIGHT)
    weights = dict(zip(ngrams, model.parts[1].weights()))
    known = dict(zip(SKLEARN["words"].item().split("\n"), SKLEARN["weights"][i]))
    assert weights == pytest.approx(known, abs=1e-5)
    assert model.parts[1].params[-1] == pytest.approx(SKLEARN["bias"][i], abs=1e-5)
    probabilities = np.exp(model.log_probs(X_test))
    np.testing.assert_allclose(probabilities, np.stack([1 - expected, expected], 1), atol=1e-5)
    # At the tolerance in use, no more than one row in 200 changes sides.
    predicted = fit(X, labels, 2, C).log_probs(X_test).argmax(1)
    assert np.mean(predicted != (expected > 0.5)) <= 0.005


def test_three_classes_as_in_scikit_learn():
    X, labels, X_test, _ = split_sample(third=True)
    probabilities = np.exp(fit(X, labels, 3, 0.1, tolerance=TIGHT).log_probs(X_test))
    np.testing.assert_allclose(probabilities, SKLEARN["three_probabilities"], atol=1e-5)


def test_any_start_leads_to_the_same_model():
    X, _ = presence(random_texts(80, 5), max_n=2, min_texts=2)
    labels = np.random.default_rng(5).integers(0, 2, 80)
    cold = fit(X, labels, 2, 5.0, True, tolerance=TIGHT)
    warm = fit(X, labels, 2, 5.0, True, start=fit(X, 1 - labels, 2, 0.1, True), tolerance=TIGHT)
    np.testing.assert_allclose(warm.log_probs(X), cold.log_probs(X), atol=1e-6)


def test_texts_without_words_get_the_shares_of_the_classes():
    # There is nothing to learn but the intercept, and it is not penalised.
    X, _ = presence(["", "", "", ""])
    with np.errstate(all="raise"):
        model = fit(X, np.array([1, 0, 0, 0]), 2, 1e-3, tolerance=TIGHT)
        balanced = fit(X, np.array([1, 0, 1, 0]), 2, 1.0, naive_bayes=True)
    np.testing.assert_allclose(np.exp(model.log_probs(X)), [[0.75, 0.25]] * 4, atol=1e-6)
    assert balanced.converged() and model.strongest(1, 5).shape == (0,)


@pytest.mark.parametrize("classes", [["bad", "good"], ["good", "bad"], ["bad", "good", "odd"]])
def test_strongest_ngrams(classes):
    X, ngrams = presence([f"{word} {noun}" for word in classes for noun in ("film", "plot")])
    model = fit(X, np.repeat(range(len(classes)), 2), len(classes), 10.0)
    assert [ngrams[model.strongest(k, 1)[0]] for k in range(len(classes))] == classes


# ---------------------------------------------------------------- the choice of C


@pytest.mark.parametrize(
    "losses, chosen",
    [
        ([1, 2], 0),
        ([9, 5, 3, 4], 2),
        ([9, 8.99, 5, 4.98, 4.97, 6], 4),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 8),  # the search ends here
    ],
)
def test_search_for_C(losses, chosen):
    left, tried = iter(losses), []

    def try_C(C, start):
        tried.append(C)
        return next(left), C

    assert choose_C(try_C, 0.3) == tried[chosen]
    assert tried == pytest.approx([0.3 * 10 ** (step / 2) for step in range(len(losses))])


def baseline(features, C=None, **splits):
    """train_baseline on splits, which are pairs of texts and labels."""
    rows = {
        split: [SimpleNamespace(text=text, label=int(label)) for text, label in zip(*pair)]
        for split, pair in splits.items()
    }
    return train_baseline(SimpleNamespace(classes=["neg", "pos"], splits=rows), features, C)


@pytest.mark.parametrize("features", ["unigram", "nbsvm"])
def test_val_chooses_C_and_test_does_not(features):
    train, val = read_sample("reviews.jsonl", "train"), read_sample("reviews.jsonl", "val")
    test = read_sample("reviews.jsonl", "test")
    first = baseline(features, train=train, val=val, test=test)
    other = baseline(features, train=train, val=val, test=(["unseen words"] * 9, np.arange(9) % 2))
    assert other.model.C == first.model.C and other.bag.ngrams == first.bag.ngrams
    assert (other.log_probs["val"] == first.log_probs["val"]).all()
    # With wrong labels, the strongest penalty costs the least.
    wrong = baseline(features, train=train, val=(val[0], 1 - val[1]), test=test)
    assert logistic_regression.FIRST_C[features] == wrong.model.C


@pytest.mark.parametrize("features", ["unigram", "nbsvm"])
def test_texts_of_val_do_not_change_the_model_of_train(features):
    # Train and val choose the columns together, so val brings columns that train lacks.
    labels = np.random.default_rng(3).integers(0, 2, 60)
    vocabulary = [2 * letter for letter in "abcdefghijklm"]
    train = (random_texts(60, 1, vocabulary[:10]), labels)
    test = (random_texts(40, 2, vocabulary), labels[:40])
    a = baseline(features, 1.0, train=train, val=(["aa"], [0]), test=test)
    b = baseline(features, 1.0, train=train, val=test, test=test)
    assert len(a.bag.ngrams) < len(b.bag.ngrams)
    np.testing.assert_allclose(a.log_probs["test"], b.log_probs["test"], atol=1e-3)

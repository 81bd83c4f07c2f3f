"""Logistic regression against worked values, finite differences of a dense formula, and scikit-learn's figures."""

import json
import math

import numpy as np
import pytest
from conftest import ROOT
from test_bag_of_words import dense, random_texts

from gptft.baseline.bag_of_words import BagOfNgrams
from gptft.baseline.logistic_regression import (
    LogisticRegression,
    Task,
    _inverse_hessian_times,
    _line_search,
    choose_C,
    lbfgs,
    log_count_ratios,
)
from gptft.baseline.words import number_words

SAMPLES = ROOT / "gptft" / "assets" / "samples"


def records(name, split):
    lines = (SAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def bag_of(texts, *bag, marks=True, others=()):
    """-> words, bag, by_row, by_column; and by_row of `others`, texts that the bag was not fitted to."""
    documents, words = number_words([*texts, *others], marks)
    bag = BagOfNgrams(*bag)
    fitted = bag.fit(documents.texts(0, len(texts)))
    return words, bag, *fitted, bag.transform(documents.texts(len(texts), documents.n))


def toy(n=40, naive_bayes=True, seed=0):
    """Random texts of two classes -> (Task, its dense X, its signs)."""
    texts = random_texts(n, seed)
    _, bag, by_row, by_column, _ = bag_of(texts, 2, 2, naive_bayes)
    in_class = np.random.default_rng(seed).random(n) < 0.4
    task = Task(by_row, by_column, in_class, naive_bayes, min_documents=2)
    x = dense(by_row, len(bag.ngrams))
    if naive_bayes:
        x = x * task.ratios
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return task, x, np.where(in_class, 1.0, -1.0)


# ---------------------------------------------------------------- L-BFGS


def test_lbfgs_finds_the_minimum_of_an_ill_conditioned_quadratic():
    curvature, target = np.logspace(0, 4, 30), np.linspace(-3, 5, 30)

    def function(x):
        difference = x[0] - target
        return 0.5 * curvature @ difference**2, curvature * difference

    found = lbfgs(function, lambda a: a, np.zeros((2, 30)), tolerance=1e-9)
    np.testing.assert_allclose(found.x[0], target, atol=1e-8)
    assert found.converged and found.gradient_norm <= 1e-9 and found.value < 1e-16
    assert found.iterations < 600  # steepest descent takes 100,000


def test_lbfgs_on_coefficients_takes_the_steps_it_takes_on_vectors():
    # The claim that the file rests on: in coefficients of rows, with their Gram matrix, the search is the same one.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 20))

    def loss(w):  # log cosh(row . w - 1), and a penalty; convex, not quadratic
        t = rows @ w - 1
        return np.log(np.cosh(t)).sum() + 0.05 * w @ w, np.tanh(t), w

    def in_w(x):
        value, slopes, w = loss(x[0])
        return value, rows.T @ slopes + 0.1 * w

    def in_a(x):
        value, slopes, _ = loss(rows.T @ x[0])
        return value, slopes + 0.1 * x[0]

    for limit in (1, 2, 5, 12, 100):
        w = lbfgs(in_w, lambda a: a, np.zeros((2, 20)), 1e-10, limit)
        a = lbfgs(in_a, lambda a: rows @ (rows.T @ a), np.zeros((2, 6)), 1e-10, limit)
        assert a.iterations == w.iterations
        np.testing.assert_allclose(rows.T @ a.x[0], w.x[0], atol=1e-8)
        np.testing.assert_allclose(
            [a.value, a.gradient_norm], [w.value, w.gradient_norm], atol=1e-8
        )
    assert w.converged and w.iterations < 100


def test_lbfgs_says_when_it_has_not_converged():
    def function(x):
        return 0.5 * np.sum(np.logspace(0, 6, 50) * x[0] ** 2), np.logspace(0, 6, 50) * x[0]

    cut = lbfgs(function, lambda a: a, np.ones((2, 50)), 1e-9, max_iterations=4)
    assert cut.iterations == 4 and not cut.converged and cut.gradient_norm > 1e-9

    # No tolerance of 0 can be met in float64: the search must end all the same, and without a warning.
    def bowl(x):
        return np.sum(np.cosh(x[0] - 1 / 3)), np.sinh(x[0] - 1 / 3)

    with np.errstate(all="raise", under="ignore"):
        exhausted = lbfgs(bowl, lambda a: a, np.zeros((2, 3)), 0.0)
    assert exhausted.gradient_norm < 1e-12


def test_two_loops_equal_the_matrix_they_stand_for():
    # BFGS's update of the inverse Hessian (Nocedal & Wright, 6.17), written out, from a multiple of the identity.
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 5))
    hessian = half @ half.T + np.eye(5)
    steps = rng.normal(size=(3, 5))
    pairs = [(s, hessian @ s) for s in steps]
    inverse = np.eye(5) * (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
    for s, y in pairs:
        left = np.eye(5) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    history = [(np.stack([s, s]), np.stack([y, y]), 1 / (s @ y)) for s, y in pairs]
    q = rng.normal(size=5)
    np.testing.assert_allclose(
        _inverse_hessian_times(np.stack([q, q]), history)[0], inverse @ q, rtol=1e-10
    )


def test_line_search_gives_up_where_nothing_slopes():
    assert (
        _line_search(lambda x: (0.0, np.zeros(3)), np.zeros((2, 3)), np.ones((2, 3)), 0.0) is None
    )


# ---------------------------------------------------------------- the objective


def test_log_count_ratios_by_hand():
    # Two texts of the class, one of the others, presence of words, each sum plus 1:
    #          good  film  fine  bad
    # p          3     2     2    1   (sum 8)
    # q          1     2     1    2   (sum 6)
    words, bag, _, by_column, _ = bag_of(["good good film", "good fine", "bad film"], 1, 1, True)
    names = bag.names(range(4), words)
    r = dict(zip(names, log_count_ratios(by_column, np.array([True, True, False]))))
    log = math.log
    expected = {
        "good": 3 / 8 * 6 / 1,
        "film": 2 / 8 * 6 / 2,
        "fine": 2 / 8 * 6 / 1,
        "bad": 1 / 8 * 6 / 2,
    }
    assert r == pytest.approx({word: log(ratio) for word, ratio in expected.items()}, abs=1e-12)
    # With two documents at least, `fine` and `bad` are out, and out of the sums 5 and 3 as well.
    r = dict(
        zip(names, log_count_ratios(by_column, np.array([True, True, False]), min_documents=2))
    )
    assert r == pytest.approx(
        {"good": log(3 / 5 * 3 / 1), "film": log(2 / 5 * 3 / 2), "fine": 0, "bad": 0}, abs=1e-12
    )


@pytest.mark.parametrize("naive_bayes", [True, False])
def test_objective_and_gradient_against_finite_differences(naive_bayes):
    task, x, signs = toy(naive_bayes=naive_bayes)
    n, C, rng = len(signs), 0.7, np.random.default_rng(1)

    def objective(w, b):
        return np.mean(np.log1p(np.exp(-signs * (x @ w + b)))) + w @ w / (2 * C * n)

    a, bias = rng.normal(size=n), 0.3
    point = np.stack([np.append(a, bias), task.kernel(np.append(a, bias))])
    value, coefficients = task.objective(point, C)
    w = x.T @ a
    assert value == pytest.approx(objective(w, bias), rel=1e-12)
    gradient = x.T @ coefficients[:-1]
    for j in range(0, len(w), 5):
        step = np.zeros(len(w))
        step[j] = 1e-5
        assert gradient[j] == pytest.approx(
            (objective(w + step, bias) - objective(w - step, bias)) / 2e-5, abs=1e-9
        )
    assert coefficients[-1] == pytest.approx(
        (objective(w, bias + 1e-5) - objective(w, bias - 1e-5)) / 2e-5, abs=1e-9
    )


def test_objective_is_exact_where_exponentials_overflow():
    task, _, signs = toy(naive_bayes=False)
    far = np.zeros((2, len(signs) + 1))
    far[:, -1] = 2000.0
    with np.errstate(over="raise", invalid="raise"):
        value, coefficients = task.objective(far, 1.0)
    assert value == pytest.approx(2000 * np.mean(signs < 0)) and coefficients[-1] == pytest.approx(
        np.mean(signs < 0)
    )


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("i", [0, 1])
def test_same_model_as_scikit_learn(i):
    # At a tight tolerance both reach the one minimum: weights, bias and probabilities agree to scikit-learn's digits.
    expected = np.load(ROOT / "tests/fixtures/sklearn_logreg.npz")
    train, test = records("reviews.jsonl", "train"), records("reviews.jsonl", "test")
    texts, others = ([r["text"] for r in rows] for rows in (train, test))
    words, bag, by_row, by_column, other_rows = bag_of(texts, marks=False, others=others)
    training = LogisticRegression(by_row, by_column, np.array([r["label"] for r in train]), 2)
    fit = training.fit(expected["C"][i], tolerance=1e-8)
    assert fit.converged
    weights = dict(zip(bag.names(range(len(bag.ngrams)), words), fit.model.weights[0]))
    known = expected["words"].item().split("\n")
    np.testing.assert_allclose([weights[word] for word in known], expected["weights"][i], atol=1e-5)
    assert fit.model.bias[0] == pytest.approx(expected["bias"][i], abs=1e-5)
    probabilities = np.exp(fit.model.log_probs(other_rows))[:, 1]
    np.testing.assert_allclose(probabilities, expected["test_probabilities"][i], atol=1e-5)
    # At the tolerance that is used, no more than a row in a thousand may change sides.
    loose = LogisticRegression(by_row, by_column, np.array([r["label"] for r in train]), 2)
    called = np.exp(loose.fit(expected["C"][i]).model.log_probs(other_rows))[:, 1] > 0.5
    assert np.mean(called != (expected["test_probabilities"][i] > 0.5)) <= 0.005


def test_three_classes_as_scikit_learn_has_them():
    train, test = records("reviews.jsonl", "train"), records("reviews.jsonl", "test")
    third = records("reviews_implied.jsonl", "test")[:200]
    labels = np.array([r["label"] for r in train] + [2] * 200)
    texts, others = ([r["text"] for r in rows] for rows in (train + third, test))
    _, _, by_row, by_column, other_rows = bag_of(texts, marks=False, others=others)
    fit = LogisticRegression(by_row, by_column, labels, 3).fit(0.1, tolerance=1e-8)
    probabilities = np.exp(fit.model.log_probs(other_rows))
    expected = np.load(ROOT / "tests/fixtures/sklearn_logreg.npz")["three_probabilities"]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_columns_of_other_texts_change_nothing():
    # The script counts n-grams of train and val together; a model of the train rows must be that of train alone.
    train, val = random_texts(60, 1, "abcdefghij"), random_texts(40, 2, "abcdefghijklm")
    labels = np.random.default_rng(3).integers(0, 2, 60)
    documents, _ = number_words([*train, *val], marks=True)
    alone, joint = BagOfNgrams(3, 2, True), BagOfNgrams(3, 2, True)
    by_row, by_column = alone.fit(documents.texts(0, 60))
    expected = LogisticRegression(by_row, by_column, labels, 2, True, 2).fit(10.0, tolerance=1e-9)
    both_rows, both_columns = joint.fit(documents)
    assert len(joint.ngrams) > len(alone.ngrams)
    training = LogisticRegression(
        both_rows.lists(0, 60), both_columns.below(60), labels, 2, True, 2
    )
    found = training.fit(10.0, tolerance=1e-9)
    np.testing.assert_allclose(
        found.model.log_probs(both_rows.lists(60, None)),
        expected.model.log_probs(alone.transform(documents.texts(60, 100))),
        atol=1e-6,
    )


def test_a_long_text_is_not_a_surer_one():
    texts, others = ["good film", "fine film", "bad film", "dull film"], ["good", "good fine"]
    _, _, by_row, by_column, other_rows = bag_of(texts, 1, 1, True, others=others)
    fit = LogisticRegression(by_row, by_column, np.array([1, 1, 0, 0]), 2, naive_bayes=True).fit(
        10.0
    )
    short, long = np.exp(fit.model.log_probs(other_rows))[:, 1]
    scores = np.log([short / (1 - short), long / (1 - long)]) - fit.model.bias[0]
    assert scores[1] / scores[0] == pytest.approx(
        math.sqrt(2), rel=1e-6
    )  # two equal words in a row of length sqrt(2)


def test_fit_goes_on_from_another_and_ends_at_the_same_minimum():
    # Refitting starts from the coefficients of the first rows; the start may cost iterations but not change the model.
    texts, labels = random_texts(80, 5), np.random.default_rng(5).integers(0, 2, 80)
    _, _, by_row, by_column, _ = bag_of(texts, 2, 2, True)
    first = LogisticRegression(
        by_row.lists(0, 60), by_column.below(60), labels[:60], 2, True, 2
    ).fit(5.0)
    cold = LogisticRegression(by_row, by_column, labels, 2, True, 2).fit(5.0, tolerance=1e-9)
    warm = LogisticRegression(by_row, by_column, labels, 2, True, 2).fit(
        5.0, start=first, tolerance=1e-9
    )
    np.testing.assert_allclose(warm.model.weights, cold.model.weights, atol=1e-6)
    task = LogisticRegression(
        by_row.lists(0, 60), by_column.below(60), labels[:60], 2, True, 2
    ).fit(5.0, start=first)
    assert task.iterations == 0 and first.iterations > 0


def test_fit_says_in_words_when_it_stopped_at_the_limit():
    _, _, by_row, by_column, _ = bag_of(random_texts(80, 6), 2, 2, True)
    labels = np.random.default_rng(6).integers(0, 2, 80)
    fit = LogisticRegression(by_row, by_column, labels, 2, True).fit(
        100.0, tolerance=1e-9, max_iterations=2
    )
    assert not fit.converged and "NOT CONVERGED after 2 iterations" in fit.describe()


def test_texts_without_words_get_the_share_of_the_classes():
    # Nothing to learn from but the labels: the probability of a class is its share, because the bias is not penalised.
    _, _, by_row, by_column, _ = bag_of(["!", "?", "", "!"], marks=False)
    with np.errstate(all="raise"):
        fit = LogisticRegression(by_row, by_column, np.array([1, 0, 0, 0]), 2).fit(
            1.0, tolerance=1e-9
        )
        balanced = LogisticRegression(by_row, by_column, np.array([1, 0, 1, 0]), 2, True, 2).fit(
            1.0
        )
    np.testing.assert_allclose(np.exp(fit.model.log_probs(by_row)), [[0.75, 0.25]] * 4, atol=1e-6)
    assert balanced.converged and fit.model.strongest(1, 5).shape == (0,)


@pytest.mark.parametrize(
    "lowest, tried",
    [
        (0, [0, 1, -1]),
        (2, [0, 1, 2, 3]),
        (-2, [0, 1, -1, -2, -3]),
        (9, [0, 1, 2, 3, 4]),
        (-9, [0, 1, -1, -2, -3, -4]),
    ],
)
def test_search_for_C(lowest, tried):
    # Half powers of ten from the start; up, or else down, until the loss rises or 4 steps away.
    def step(C):
        return 2 * math.log10(C / 0.3)

    found = choose_C(fit=lambda C: C, loss=lambda C: abs(step(C) - lowest), start=0.3, most_steps=4)
    assert [round(step(C)) for C, _ in found] == tried


def test_strongest_columns():
    words, bag, by_row, by_column, _ = bag_of(
        ["good film", "good plot", "bad film", "bad plot", "odd film", "odd plot"]
    )
    for labels, n_classes in ([1, 1, 0, 0, 0, 0], 2), ([0, 0, 1, 1, 2, 2], 3):
        model = LogisticRegression(by_row, by_column, np.array(labels), n_classes).fit(10.0).model
        best = [bag.names(model.strongest(k, 1), words)[0] for k in range(n_classes)]
        assert best == ["good", "bad", "odd"] or (
            n_classes == 2 and best[0] in ("bad", "odd") and best[1] == "good"
        )

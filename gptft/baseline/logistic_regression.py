"""Logistic regression on counts of n-grams, fitted by a hand-written L-BFGS, and the baseline.

The log-odds of a class against all others are z = x . w + b, and the probabilities of the classes
are the sigmoids of their z divided by the sum. (For two classes, z_0 = -z_1.) Each pair of w and b
minimises

    mean_i log(1 + exp(-s_i z_i)) + |w|^2 / (2 C N)      s_i = 1 in the class, -1 outside it

which is scikit-learn's objective divided by C N, so C means the same. b is not penalised.

Naive-Bayes features (NB-SVM): column j is multiplied by the log-count ratio r_j, which compares how
often its n-gram occurs in the class and outside it. The penalty then weighs less on the n-grams
that separate the classes. Each row is divided by its Euclidean length, which the paper does not do:
a long review is not a more certain one.

Left out: L1, class weights, softmax over classes, the paper's interpolation with uniform weights.
Sources: Wang & Manning 2012, "Baselines and Bigrams", section 2; Nocedal & Wright 2006, "Numerical
Optimization", algorithms 3.1 (backtracking) and 7.4 (two-loop recursion).
"""

from collections import deque
from functools import partial
from typing import NamedTuple

import numpy as np

from gptft.baseline.bag_of_words import WORDS_AND_MARKS, Bag, count_ngrams
from gptft.evaluation.metrics import classification_metrics

TOLERANCE = 1e-5  # of the objective's value
MAX_ITERATIONS = 1000
MEMORY = 10  # past steps from which L-BFGS approximates the Hessian
FIRST_C = {"unigram": 0.001, "nbsvm": 1.0}  # the least C that is tried
MAX_C_STEPS = 8  # each by a factor of sqrt(10)
MIN_TEXTS = 2  # nbsvm gives weight 0 to n-grams that occur in one text only
N_STRONGEST = 12  # n-grams listed for each class


def inner(u, v):
    """The inner product of two vectors, (n,) each. The sums of BLAS would depend on the cores."""
    return float(np.einsum("i,i", u, v))


def lbfgs(function, x, diagonal, tolerance=TOLERANCE):
    """Minimise a smooth convex function by limited-memory BFGS.

    Args: function, x -> (value, gradient); x, (n,) float64, the start; diagonal, (n,), a rough
    diagonal of the Hessian. The search converges when the next step promises to lower the value by
    no more than `tolerance` times the value.
    Returns x, (n,) float64, and whether the search converged within MAX_ITERATIONS, bool.
    """
    value, gradient = function(x)
    history = deque(maxlen=MEMORY)  # (step, change of the gradient, their product)
    for _ in range(MAX_ITERATIONS):
        direction = -_solve(gradient, history, diagonal)
        slope = inner(gradient, direction)
        if -slope / 2 <= tolerance * value:  # exact for a quadratic function
            return x, True
        # Backtracking line search: try the full step, and halve it until the value falls by at
        # least 1e-4 of what the slope promises.
        size = 1.0
        new_value, new_gradient = function(x + direction)
        while new_value > value + 1e-4 * size * slope:
            size /= 2
            if size < 1e-10:
                return x, False
            new_value, new_gradient = function(x + size * direction)
        step = size * direction
        change = new_gradient - gradient
        product = inner(step, change)
        if product > 0:  # always, for a convex function, but for rounding
            history.append((step, change, product))
        x = x + step
        value = new_value
        gradient = new_gradient
    return x, False


def _solve(gradient, history, diagonal):
    """The two-loop recursion: the inverse of the approximate Hessian, times gradient, (n,)."""
    q = gradient.copy()
    alphas = []
    for step, change, product in reversed(history):
        alpha = inner(step, q) / product
        q -= alpha * change
        alphas.append(alpha)
    q /= diagonal
    if history:  # rescale the diagonal to the curvature along the last step
        _, change, product = history[-1]
        q *= product / inner(change, change / diagonal)
    for (step, change, product), alpha in zip(history, reversed(alphas)):
        q += (alpha - inner(change, q) / product) * step
    return q


def objective(X, signs, C, params):
    """The objective of one model and its gradient -> float, (D + 1,).

    Args: X, SparseMatrix (N, D); signs, (N,) of 1 and -1; params, (D + 1,), w and then b.
    """
    w = params[:-1]
    b = params[-1]
    N = len(signs)
    margins = signs * (X.times(w) + b)  # (N,)
    losses = np.logaddexp(0, -margins)  # log(1 + exp(-m)), without overflow
    slopes = -signs * np.exp(-np.logaddexp(0, margins)) / N  # of the mean loss, by z: (N,)
    value = losses.mean() + inner(w, w) / (2 * C * N)
    gradient = X.transposed_times(slopes) + w / (C * N)  # (D,)
    return float(value), np.append(gradient, slopes.sum())


def hessian_diagonal(X, C):
    """The diagonal of the objective's Hessian at zero weights -> (D + 1,).

    A loss has curvature 1/4 there. A count of k enters as k instead of k^2: a rough value will do.
    """
    N = X.shape[0]
    squared = X._replace(row_scale=X.row_scale**2, column_scale=X.column_scale**2)
    squares = squared.transposed_times(np.ones(N))  # (D,)
    return np.append(squares / (4 * N) + 1 / (C * N), 1 / 4)


def log_count_ratios(X, in_class):
    """How much more often each n-gram occurs in texts of a class than in others -> (D,) float64.

    Args: X, SparseMatrix (N, D) of presence; in_class, (N,) float64 of 1 and 0.
    Returns log((p / sum(p)) / (q / sum(q))), where p is 1 plus the number of texts of the class
    with the n-gram, and q the same for other texts. An n-gram of fewer than MIN_TEXTS texts gets 0.
    """
    p = 1 + X.transposed_times(in_class)
    q = 1 + X.transposed_times(1 - in_class)
    known = p + q - 2 >= MIN_TEXTS
    p /= p[known].sum()
    q /= q[known].sum()
    return np.where(known, np.log(p / q), 0.0)


def scale_by_ratios(X, ratios):
    """Multiply column j of X by ratios[j], and divide each row by its length -> SparseMatrix."""
    squares = X.times(ratios**2)  # (N,): squared lengths, because X holds ones
    row_scale = 1 / np.sqrt(np.where(squares > 0, squares, 1))
    return X._replace(row_scale=row_scale, column_scale=ratios)


class BinaryModel(NamedTuple):
    """The log-odds of one class against the others."""

    params: np.ndarray  # (D + 1,) float64: w, then b
    ratios: np.ndarray | None  # (D,) float64 log-count ratios, or None for plain counts
    converged: bool

    def scores(self, X):
        """SparseMatrix (N, D) -> z, (N,) float64."""
        if self.ratios is not None:
            X = scale_by_ratios(X, self.ratios)
        return X.times(self.params[:-1]) + self.params[-1]

    def weights(self):
        """What an n-gram adds to z, before the division by the row's length -> (D,) float64."""
        ratios = 1 if self.ratios is None else self.ratios
        return ratios * self.params[:-1]


class Model(NamedTuple):
    """A fitted classifier of K classes."""

    C: float
    parts: list[BinaryModel]  # one for each class

    def converged(self):
        """Whether the fits of all parts converged."""
        return all(part.converged for part in self.parts)

    def log_probs(self, X):
        """SparseMatrix (N, D) -> natural logarithms of the probabilities, (N, K) float64."""
        scores = np.stack([part.scores(X) for part in self.parts], axis=1)
        log_sigmoids = -np.logaddexp(0, -scores)  # (N, K)
        return log_sigmoids - np.logaddexp.reduce(log_sigmoids, axis=1, keepdims=True)

    def strongest(self, k, n):
        """The n columns with the largest weights for class k, the largest first -> (n,) int64."""
        return np.argsort(-self.parts[k].weights(), kind="stable")[:n]


def fit_binary(X, in_class, C, naive_bayes, start, tolerance):
    """Fit one class against the others -> BinaryModel. in_class: (N,) float64 of 1 and 0."""
    ratios = None
    if naive_bayes:
        ratios = log_count_ratios(X, in_class)
        X = scale_by_ratios(X, ratios)
    diagonal = hessian_diagonal(X, C)
    params = start.params if start else np.zeros(len(diagonal))
    function = partial(objective, X, 2 * in_class - 1, C)
    params, converged = lbfgs(function, params, diagonal, tolerance)
    return BinaryModel(params, ratios, converged)


def fit(
    X,  # SparseMatrix (N, D), of presence if naive_bayes
    labels,  # (N,) int, 0 .. n_classes - 1
    n_classes,
    C,  # inverse strength of the penalty
    naive_bayes=False,
    start=None,  # a Model to begin the search from
    tolerance=TOLERANCE,
):
    """Fit a classifier -> Model."""
    parts = []
    for k in [1] if n_classes == 2 else range(n_classes):
        in_class = (labels == k).astype(np.float64)
        first = start.parts[k] if start else None
        parts.append(fit_binary(X, in_class, C, naive_bayes, first, tolerance))
    if n_classes == 2:  # the odds of class 0 are those of class 1, inverted
        parts.insert(0, parts[0]._replace(params=-parts[0].params))
    return Model(C, parts)


def choose_C(try_C, first_C):
    """Increase C from first_C, by factors of sqrt(10), until the loss on val rises.

    Args: try_C, (C, start) -> (loss on val, Model), where start is a Model or None.
    Returns the Model with the lowest loss.
    """
    lowest = np.inf
    best = model = None
    for step in range(MAX_C_STEPS + 1):
        loss, model = try_C(first_C * 10 ** (step / 2), model)
        if loss > lowest:
            break
        lowest, best = loss, model
    return best


class Baseline(NamedTuple):
    """A fitted baseline and its results."""

    model: Model
    bag: Bag
    log_probs: dict[str, np.ndarray]  # by split: (N, K) float64
    metrics: dict[str, dict]  # by split, as classification_metrics returns them
    strongest: dict[str, list[str]]  # by class: its strongest n-grams


def train_baseline(reviews, features, C=None, refit=False, say=lambda line: None):
    """Fit a baseline to the train split of a ReviewSet -> Baseline.

    Args: features, "unigram" (counts of words) or "nbsvm" (words, pairs and triples with
    naive-Bayes ratios); C, None for the best on val; refit, True to fit again on train and val and
    report it as "test_refit"; say, a function that is called with each line of progress.
    """
    nbsvm = features == "nbsvm"
    n_classes = len(reviews.classes)
    labels, texts = {}, []
    for split, rows in reviews.splits.items():
        labels[split] = np.array([review.label for review in rows])
        texts += [review.text for review in rows]

    # 1) Count all splits at once. Train and val choose the columns. An n-gram that train lacks gets
    #    weight 0, so a model of train does not depend on val.
    n_fit = len(labels["train"]) + len(labels["val"])
    if nbsvm:
        bag = count_ngrams(texts, n_fit, WORDS_AND_MARKS, 3, MIN_TEXTS, presence=True)
    else:
        bag = count_ngrams(texts, n_fit)
    X, first = {}, 0
    for split, y in labels.items():
        X[split] = bag.matrix(first, first + len(y))
        first += len(y)
    say(f"{features}: {len(bag.ngrams):,} columns, {len(X['train'].rows):,} entries in train")

    def evaluate(model, split):
        log_probs = model.log_probs(X[split])
        return log_probs, classification_metrics(labels[split], log_probs)

    # 2) Choose C on val.
    def try_C(C, start):
        model = fit(X["train"], labels["train"], n_classes, C, nbsvm, start)
        loss = evaluate(model, "val")[1]["loss"]
        end = "converged" if model.converged() else "NOT CONVERGED"
        say(f"  C {C:.4g}: loss on val {loss:.4f}, {end}")
        return loss, model

    if C is None:
        model = choose_C(try_C, FIRST_C[features])
    else:
        _, model = try_C(C, None)

    # 3) Evaluate.
    log_probs, metrics, strongest = {}, {}, {}
    for split in X:
        log_probs[split], metrics[split] = evaluate(model, split)
    if refit:
        y = np.append(labels["train"], labels["val"])
        refitted = fit(bag.matrix(0, n_fit), y, n_classes, model.C, nbsvm, model)
        _, metrics["test_refit"] = evaluate(refitted, "test")
    for k, name in enumerate(reviews.classes):
        strongest[name] = [bag.ngrams[column] for column in model.strongest(k, N_STRONGEST)]
    return Baseline(model, bag, log_probs, metrics, strongest)

"""Logistic regression on sparse counts, plain or with naive-Bayes weights, minimised by a hand-written L-BFGS.

For two classes the log-odds of class 1 are z = x . w + b. With more there is one such model a class ("this one or
another?"), and the probabilities are their sigmoids divided by the sum. Two classes are the case K = 2 of that rule
with z_0 = -z_1, so the same lines serve both. Each model minimises

    mean_i log(1 + exp(-s_i z_i)) + |w|^2 / (2 C n)        s_i = 1 in the class, -1 elsewhere; b is not penalised

which is scikit-learn's objective divided by C n, so C means the same.

Naive-Bayes weights (Wang & Manning's NB-SVM): column j is multiplied by r_j, the logarithm of how much more often its
n-gram stands in texts of the class than in others. The penalty then pulls w towards a multiple of naive Bayes, which
learns from few occurrences, and not towards knowing nothing. Rows are divided by their Euclidean length, which the
paper does not do: a long review is not a surer one.

The search never handles w, which may have a million numbers. The gradient in w is a mix of the rows of X plus a
multiple of w, so a search that starts at 0 only ever meets mixes of rows, X.T @ a, whose inner products are
(X.T a) . (X.T c) = a . (X X.T c). And L-BFGS does nothing with vectors but add them, scale them and take inner
products. So a vector is kept as the pair of a and X X.T a, two numbers a row: the iterates are the same, and the scores
X w are at hand wherever a line search wants to look.

Left out: L1, class weights, a softmax over classes, the paper's interpolation with uniform weights.
Sources: Wang & Manning 2012, "Baselines and Bigrams", section 2; Nocedal & Wright 2006, algorithms 7.4 and 7.5;
scikit-learn's LogisticRegression for C and the free intercept.
"""

import math
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-3  # of the gradient's norm, as a share of its norm at w = 0
MAX_ITERATIONS = 1000


class Minimum(NamedTuple):
    """Where a search ended: x as `lbfgs` takes it; `converged` if the gradient's norm came down to the tolerance."""

    x: np.ndarray
    value: float
    gradient_norm: float
    iterations: int
    converged: bool
    history: list[
        tuple[np.ndarray, np.ndarray]
    ]  # of the last steps: the step s, and the change of the gradient y


def _inner(u, v):
    """Inner product of two vectors, each a pair (a, kernel(a)). BLAS is left alone: its sums depend on the cores."""
    return float(np.sum(u[0] * v[1]))


def _norm(u):
    """Euclidean norm of a pair. The square of next to nothing may come out below 0."""
    return math.sqrt(max(0.0, _inner(u, u)))


def lbfgs(function, kernel, x, tolerance, max_iterations=MAX_ITERATIONS, memory=20, history=()):
    """Minimise a smooth convex function of sum_i a_i v_i over the coefficients a, (n,) float64 -> Minimum.

    kernel: a -> G a, where G is the matrix of inner products v_i . v_j (the identity for an ordinary vector).
    x: (2, n) float64, the start: a, and kernel(a). function: x -> (value, the coefficients of the gradient, (n,)).
    tolerance: the search ends when the gradient's Euclidean norm is at most this. history: of a search before.
    """
    value, coefficients = function(x)
    gradient = np.stack([coefficients, kernel(coefficients)])
    history = [(s, y, 1 / _inner(s, y)) for s, y in history]
    for iteration in range(max_iterations + 1):
        norm = _norm(gradient)
        if norm <= tolerance or iteration == max_iterations:
            break
        direction = -_inverse_hessian_times(gradient, history) if history else -gradient / norm
        size = _line_search(function, x, direction, _inner(gradient, direction))
        if size is None:
            break
        step = size * direction
        x = x + step
        value, coefficients = function(x)
        last, gradient = gradient, np.stack([coefficients, kernel(coefficients)])
        change = gradient - last
        history = [*history, (step, change, 1 / _inner(step, change))][-memory:]
    return Minimum(x, value, norm, iteration, norm <= tolerance, [(s, y) for s, y, _ in history])


def _inverse_hessian_times(q, history):
    """The two-loop recursion: q times the inverse Hessian, as far as the history tells."""
    q, alphas = q.copy(), []
    for s, y, rho in reversed(history):
        alphas.append(rho * _inner(s, q))
        q -= alphas[-1] * y
    s, y, rho = history[-1]
    q /= rho * _inner(
        y, y
    )  # in directions the history says nothing about: the curvature of the last step
    for (s, y, rho), alpha in zip(history, reversed(alphas)):
        q += (alpha - rho * _inner(y, q)) * s
    return q


def _line_search(function, x, direction, slope):
    """A step along `direction` after which the slope is still downhill, but at most a tenth of what it was.

    The slope of a convex function rises along the line; the step is doubled until it is past a tenth, and the interval
    halved until it falls between that and 0. Such a step meets the strong Wolfe conditions' demand on the slope, and
    lowers the value, because it is downhill all the way. None if there is none, for lack of digits.
    """
    low, high, step = 0.0, np.inf, 1.0
    for _ in range(60):
        new_slope = np.sum(function(x + step * direction)[1] * direction[1])
        if new_slope > 0:
            high = step
        elif new_slope < 0.1 * slope:
            low = step
        elif slope < 0:
            return step
        step = (low + high) / 2 if high < np.inf else 2 * step
    return None


def log_count_ratios(by_column, in_class, min_documents=1, alpha=1.0):
    """How much more often each column is counted in the rows of a class than in the others, as a logarithm.

    by_column: IndexLists of n_columns; in_class: (n_rows,) bool. Returns (n_columns,) float64,
    log((p / |p|_1) / (q / |q|_1)), with p and q the sums over the rows in the class and not in it, each plus `alpha`.
    A column with fewer than `min_documents` entries is left out: its ratio is 0.
    """
    counted = by_column.sums(in_class.astype(np.float64))
    p, q = alpha + counted, alpha + (by_column.lengths - counted)
    known = by_column.lengths >= min_documents
    return np.where(known, np.log(p / p[known].sum()) - np.log(q / q[known].sum()), 0)


def row_lengths(by_row, ratios):
    """Lengths of the rows of `by_row` once column j is multiplied by ratios[j], (n_rows,) float64; 1 for a row of zeros."""
    squares = by_row.sums(ratios**2)
    return np.sqrt(np.where(squares > 0, squares, 1))


class Task:
    """One class against the others on some rows. `minimise` goes on from where it stopped, with another C, say.

    by_row, by_column: IndexLists of the same matrix; in_class: (n,) bool. naive_bayes: whether columns get
    naive-Bayes weights, see the top; min_documents: see `log_count_ratios`.
    """

    def __init__(self, by_row, by_column, in_class, naive_bayes, min_documents):
        self.by_row, self.by_column = by_row, by_column
        self.signs = np.where(in_class, 1.0, -1.0)
        self.ratios = log_count_ratios(by_column, in_class, min_documents) if naive_bayes else 1.0
        self.lengths = row_lengths(by_row, self.ratios) if naive_bayes else 1.0
        self.x = np.zeros(
            (2, len(in_class) + 1)
        )  # as in `lbfgs`; the bias stands last, as if for one more row
        self.history, self.C = [], np.inf  # of the last search
        _, gradient = self.objective(self.x, C=1.0)
        self.norm_at_zero = _norm((gradient, self.kernel(gradient)))

    def weights(self, a):
        """Coefficients of the rows, (n,) -> what one occurrence of each column adds to a score: ratios * (X.T @ a)."""
        return self.ratios**2 * self.by_column.sums(a / self.lengths)

    def kernel(self, x):
        """(a, bias) -> (X X.T a, bias), both (n + 1,)."""
        return np.append(self.by_row.sums(self.weights(x[:-1])) / self.lengths, x[-1])

    def objective(self, x, C):
        """x: (2, n + 1) -> the value, and the coefficients of the gradient, (n + 1,)."""
        a, scores, bias, n = x[0, :-1], x[1, :-1], x[0, -1], len(self.signs)
        margins = self.signs * (scores + bias)
        softplus = np.logaddexp(0, margins)  # log(1 + e^m); the loss log(1 + e^-m) is m less
        slopes = -self.signs * np.exp(-softplus) / n
        value = np.mean(softplus - margins) + np.sum(a * scores) / (
            2 * C * n
        )  # a . X X.T a = |w|^2
        return float(value), np.append(slopes + a / (C * n), slopes.sum())

    def start(self, x):
        """Begin the next search at these coefficients: of the first rows (the others 0) and, last, the bias."""
        self.x[0] = 0
        self.x[0, : len(x) - 1], self.x[0, -1] = x[:-1], x[-1]
        self.x[1] = self.kernel(self.x[0])

    def minimise(self, C, tolerance, max_iterations):
        """Search until the gradient's norm is `tolerance` times its norm at w = 0 -> Minimum."""
        limit = tolerance * self.norm_at_zero
        # Another C adds a multiple of w to the gradient, and of s to its change: what was learned of the loss stays true.
        change = (1 / C - 1 / self.C) / len(self.signs) * np.append(np.ones(len(self.signs)), 0)
        history = [(s, y + change * s) for s, y in self.history]
        found = lbfgs(
            lambda x: self.objective(x, C),
            self.kernel,
            self.x,
            limit,
            max_iterations,
            history=history,
        )
        self.x, self.history, self.C = found.x, found.history, C
        return found


class LinearModel(NamedTuple):
    """A trained classifier of K classes: M = K models "this one or another?", or M = 1, of class 1, for two classes."""

    weights: (
        np.ndarray
    )  # (M, n_columns) float64, what one occurrence adds to the score, before the row's length
    bias: np.ndarray  # (M,) float64
    ratios: (
        np.ndarray
    )  # (M, n_columns) float64, which give rows their lengths; (M, 0) where rows stay as they are

    def strongest(self, k, n):
        """The `n` columns that speak most for class k, the strongest first -> (n,) int."""
        weights = (
            self.weights[k] if len(self.weights) > 1 else self.weights[0] * (1 if k == 1 else -1)
        )
        return np.argsort(-weights, kind="stable")[:n]

    def log_probs(self, by_row):
        """IndexLists of N rows -> (N, K) float64, natural logarithms of the probabilities."""
        scores = []
        for weights, bias, ratios in zip(self.weights, self.bias, self.ratios):
            lengths = row_lengths(by_row, ratios) if len(ratios) else 1.0
            scores.append(by_row.sums(weights) / lengths + bias)
        scores = np.stack([-scores[0], scores[0]] if len(scores) == 1 else scores, axis=1)
        log_sigmoids = -np.logaddexp(0, -scores)
        return log_sigmoids - np.logaddexp.reduce(log_sigmoids, axis=1, keepdims=True)


class Fit(NamedTuple):
    """A model and how its search ended; of several classes, the sum of the iterations and the worst of the rest."""

    C: float
    model: LinearModel
    iterations: int
    gradient_norm: float  # as a share of the norm at w = 0
    converged: bool
    coefficients: list[np.ndarray]  # of the rows and the bias, for another search to start from

    def describe(self):
        """One line for people."""
        end = "converged" if self.converged else "NOT CONVERGED"
        norm = f"gradient norm {self.gradient_norm:.1e} of that at w = 0"
        return f"C {self.C:.4g}: {end} after {self.iterations} iterations, {norm}"


class LogisticRegression:
    """All classes' tasks on some rows.

    by_row, by_column: IndexLists of the same matrix; labels: (n,) int, 0 .. n_classes - 1.
    naive_bayes, min_documents: as in `Task`.
    """

    def __init__(self, by_row, by_column, labels, n_classes, naive_bayes=False, min_documents=1):
        classes = [1] if n_classes == 2 else range(n_classes)
        self.naive_bayes = naive_bayes
        self.tasks = [
            Task(by_row, by_column, labels == k, naive_bayes, min_documents) for k in classes
        ]

    def fit(self, C, start=None, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS):
        """Minimise at this C -> Fit.

        The search starts from `start`, a Fit on the first of these rows, or from where the last one ended. It ends when
        the gradient's norm is `tolerance` times that at w = 0, or after `max_iterations`.
        """
        if start:
            for task, x in zip(self.tasks, start.coefficients):
                task.start(x)
        ends = [task.minimise(C, tolerance, max_iterations) for task in self.tasks]
        weights = np.stack([task.weights(end.x[0, :-1]) for task, end in zip(self.tasks, ends)])
        ratios = np.stack([task.ratios if self.naive_bayes else np.empty(0) for task in self.tasks])
        model = LinearModel(weights, np.array([end.x[0, -1] for end in ends]), ratios)
        norm = max(
            end.gradient_norm / max(task.norm_at_zero, 1e-300)
            for task, end in zip(self.tasks, ends)
        )
        converged = all(end.converged for end in ends)
        return Fit(
            C,
            model,
            sum(end.iterations for end in ends),
            norm,
            converged,
            [end.x[0] for end in ends],
        )


def choose_C(fit, loss, start, most_steps=6):
    """Look for the C with the lowest loss in steps of half a power of ten, upward from `start` or else downward.

    fit: C -> Fit; loss: Fit -> float, on rows that `fit` has not seen. Yields (Fit, loss) of each C when it is tried;
    the search ends where the loss no longer falls, or `most_steps` away from the start.
    """
    fitted = fit(start)
    best, lowest = 0, loss(fitted)
    yield fitted, lowest
    for direction in (1, -1):
        while abs(best + direction) <= most_steps:
            fitted = fit(start * 10 ** ((best + direction) / 2))
            found = loss(fitted)
            yield fitted, found
            if found >= lowest:
                break
            best, lowest = best + direction, found
        if best > 0:
            break

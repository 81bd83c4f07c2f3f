"""The bag of words against scikit-learn's words, a plain Counter and dense arithmetic."""

import doctest
import re
from collections import Counter

import numpy as np
import pytest

from gptft.baseline import bag_of_words
from gptft.baseline.bag_of_words import WORDS, WORDS_AND_MARKS, count_ngrams, number_words

TEXTS = ["a b a b c", "", "b", "c a b", "a b c a b c", "zz", "b a"]
SKLEARN = re.compile(r"(?u)\b\w\w+\b")  # CountVectorizer's default token_pattern


def random_texts(n, seed, vocabulary="abcdefgh", longest=15):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n)
    return [" ".join(rng.choice(list(vocabulary), length)) for length in lengths]


def dense(X):
    """SparseMatrix -> (N, D) float64."""
    return np.array([X.times(unit) for unit in np.eye(X.shape[1])]).T


def plain_counts(text, max_n):
    """The n-grams of a text by plain Python -> Counter."""
    words = text.split()
    sizes = range(1, max_n + 1)
    return Counter(" ".join(words[i : i + n]) for n in sizes for i in range(len(words) - n + 1))


def words_of(text, pattern):
    words, numbers, _ = number_words([text], pattern)
    return [words[number] for number in numbers]


def test_words_are_those_of_scikit_learn_for_every_character():
    # Alone, between letters, and doubled. JSON files can contain the lone surrogates, too. Beyond
    # the first four of 17 planes Unicode has no letters.
    characters = map(chr, range(4 << 16))
    text = "".join(f"{c} x{c}y {c}{c} " for c in characters)
    assert words_of(text, WORDS) == SKLEARN.findall(text.lower())


def test_punctuation_marks_are_words_of_their_own():
    text = "Don't! It's A mother-in-law b_c Naïve 10/10 (ÉTÉ).. Ελλάδα\nthe\tfilm"
    expected = "don ' t ! it ' s a mother - in - law b_c naïve 10 / 10 ( été ) . . "
    expected += "ελλάδα the film"
    assert words_of(text, WORDS_AND_MARKS) == expected.split()


@pytest.mark.parametrize("presence", [True, False])
@pytest.mark.parametrize("max_n, min_texts", [(1, 1), (2, 1), (3, 2), (3, 5), (4, 1)])
def test_counts_equal_those_of_a_plain_counter(max_n, min_texts, presence):
    # The first texts choose the columns. Among the others are words that only occur there.
    fitted = TEXTS + random_texts(60, seed=max_n)
    others = ["", "new a b", "h new h", "a b c d", "newer", *random_texts(30, 2, "abcdxyz")]
    bags = [plain_counts(text, max_n) for text in fitted + others]
    n_texts = Counter(ngram for bag in bags[: len(fitted)] for ngram in bag)
    expected = {ngram for ngram, n in n_texts.items() if n >= min_texts}

    bag = count_ngrams(
        fitted + others, len(fitted), WORDS_AND_MARKS, max_n, min_texts, presence=presence
    )
    assert set(bag.ngrams) == expected and len(bag.ngrams) == len(expected)
    assert bag.n_words == len(" ".join(fitted + others).split())
    counts = np.array([[plain[ngram] for ngram in bag.ngrams] for plain in bags])
    if presence:
        counts = np.minimum(counts, 1)
    for first, last in ((0, len(bags)), (50, 80)):  # the second has empty rows and columns
        X = bag.matrix(first, last)
        assert (dense(X) == counts[first:last]).all()
        x = np.random.default_rng(0).normal(size=last - first)
        np.testing.assert_allclose(X.transposed_times(x), counts[first:last].T @ x, atol=1e-12)


def test_keys_larger_than_32_bits():
    # 60,000 words have up to 3.6e9 keys of pairs.
    words = [f"w{i}" for i in np.random.default_rng(0).permutation(60_000)]
    bag = count_ngrams([" ".join(words)] * 2, 2, max_n=2)
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:])]
    assert bag.ngrams[:60_000] == words and sorted(bag.ngrams[60_000:]) == sorted(pairs)


@pytest.mark.parametrize("texts", [[""], ["", "?"], ["a"], ["a b"]])
def test_texts_almost_without_words(texts):
    X = count_ngrams(texts, len(texts), max_n=4, min_texts=2).matrix(0, len(texts))
    assert X.times(np.zeros(0)).tolist() == [0.0] * len(texts)
    assert X.transposed_times(np.ones(len(texts))).shape == (0,)


def test_the_example_of_the_documentation():
    assert doctest.testmod(bag_of_words).failed == 0

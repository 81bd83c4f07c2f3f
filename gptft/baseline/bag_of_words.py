"""Texts -> words -> n-grams -> a sparse matrix of counts, in numpy alone.

A bag of words forgets the order of a text and keeps how often each n-gram (a run of n words)
occurs in it. The counts form a matrix with a row for each text and a column for each n-gram:

1. A regular expression cuts a text into words, and a dictionary numbers the distinct words.
2. An n-gram has the integer key prefix * V + word. `prefix` is the column of its first n - 1 words,
   `word` is the number of its last word, and V is the number of distinct words. Sorting the keys
   brings equal n-grams together.
3. An n-gram that occurs in enough texts gets a column. A longer n-gram cannot be more frequent than
   its parts, so only n-grams whose parts have columns are looked at in the next round.

Left out: stop words, stemming, tf-idf.
Sources: scikit-learn's CountVectorizer (words and counts); Wang & Manning 2012, "Baselines and
Bigrams" (n-grams up to n = 3, and their presence instead of their count).
"""

import re
from array import array
from collections import defaultdict
from typing import NamedTuple

import numpy as np

WORDS = re.compile(r"\w\w+")  # as in scikit-learn: two or more letters, digits or underscores
WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")  # every word, and every punctuation mark
BLOCK = 1 << 18  # ones that are multiplied at once, so that they fit in the processor's cache


def starts_run(values):
    """Where a value differs from the one before it: (n,) int of 0 or more -> (n,) bool."""
    return np.append(-1, values[:-1]) != values


class SparseMatrix(NamedTuple):
    """A matrix of counts that may be scaled: diag(row_scale) @ counts @ diag(column_scale).

    The counts are stored as a list of ones. A position that is listed twice counts 2.
    """

    rows: np.ndarray  # (n_ones,) int64
    columns: np.ndarray  # (n_ones,) int64, ascending
    starts: np.ndarray  # (n_filled,) int64, where the ones of each column that has any begin
    shape: tuple[int, int]  # (N, D)
    row_scale: np.ndarray | float = 1.0  # (N,) float64
    column_scale: np.ndarray | float = 1.0  # (D,) float64

    def times(self, x):
        """The product X @ x: (D,) -> (N,), both float64."""
        x = self.column_scale * x
        product = np.zeros(self.shape[0])
        for i in range(0, len(self.rows), BLOCK):
            values = x.take(self.columns[i : i + BLOCK])
            product += np.bincount(self.rows[i : i + BLOCK], values, len(product))
        return self.row_scale * product

    def transposed_times(self, x):
        """The product X.T @ x: (N,) -> (D,), both float64."""
        values = (self.row_scale * x).take(self.rows)  # (n_ones,)
        product = np.zeros(self.shape[1])
        filled = self.columns[self.starts]
        product[filled] = np.add.reduceat(values, self.starts)
        return self.column_scale * product


class Bag(NamedTuple):
    """The n-grams that occur in texts, as the positions of ones in a matrix of counts."""

    rows: np.ndarray  # (n_ones,) int32, the text
    columns: np.ndarray  # (n_ones,) int32, the n-gram, ascending
    ngrams: list[str]  # of each column, the words separated by one space
    n_words: int  # in all texts, with repetitions

    def matrix(self, first, last):
        """The counts in the texts first .. last - 1 -> SparseMatrix."""
        inside = (self.rows >= first) & (self.rows < last)
        rows = self.rows[inside].astype(np.int64)  # numpy's own index type is the fastest
        columns = self.columns[inside].astype(np.int64)
        starts = np.flatnonzero(starts_run(columns))
        return SparseMatrix(rows - first, columns, starts, (last - first, len(self.ngrams)))


def number_words(texts, pattern):
    """Cut lower-cased texts into words, and number the distinct words in the order of first use.

    Args: texts, list[str]; pattern, the compiled regular expression of a word.
    Returns the distinct words, list[str]; the number of each word of the texts, one text after the
    other, (n_words,) int32; and the text that each of these words is in, (n_words,) int32.
    """
    vocabulary = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
    numbers = array("i")
    lengths = []
    for text in texts:
        found = pattern.findall(text.lower())
        numbers.extend(map(vocabulary.__getitem__, found))
        lengths.append(len(found))
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    return list(vocabulary), np.array(numbers), rows


def count_ngrams(
    texts,  # list[str]
    n_fit,  # the first n_fit texts choose the columns
    pattern=WORDS,  # the compiled regular expression of a word
    max_n=1,  # count n-grams of 1 .. max_n words
    min_texts=1,  # an n-gram gets a column if it occurs in so many of the n_fit texts
    presence=False,  # count an n-gram at most once in a text
):
    """Count n-grams in texts -> Bag.

    >>> bag = count_ngrams(["good fun", "good good", "bad fun"], n_fit=2)
    >>> bag.ngrams
    ['good', 'fun']
    >>> bag.matrix(0, 3).times(np.array([1.0, 10.0]))  # the rows are [1 1], [2 0], [0 1]
    array([11.,  2., 10.])
    """
    words, numbers, rows = number_words(texts, pattern)
    all_rows, all_columns, ngrams = [], [], []
    starts = np.arange(len(numbers))
    keys = numbers
    column_at = None
    for n in range(1, max_n + 1):
        if n > 1:  # keys of the n-grams whose two (n-1)-grams have columns
            known = column_at >= 0
            starts = np.flatnonzero(known[:-1] & known[1:] & (rows[:-1] == rows[1:]))
            prefix = column_at[starts].astype(np.int64)
            keys = prefix * len(words) + numbers[starts + n - 1]

        # Columns. A stable sort keeps equal n-grams in the order of the texts.
        order = np.argsort(keys, kind="stable")
        starts = starts[order]
        texts_of = rows[starts]
        columns, is_first, kept = _choose_columns(keys[order], texts_of, n_fit, min_texts)
        columns[columns >= 0] += len(ngrams)
        column_at = np.full(len(numbers), -1, np.int32)  # of the n-gram that starts at a word
        column_at[starts] = columns

        # Entries of the matrix, sorted by column.
        counted = columns >= 0
        if presence:
            counted &= is_first
        all_rows.append(texts_of[counted])
        all_columns.append(columns[counted].astype(np.int32))

        # Names. Words without a column are forgotten, and the others numbered by their columns.
        if n == 1:
            words = [words[i] for i in kept]
            numbers = column_at
            ngrams = words.copy()
        else:
            for key in kept.tolist():
                prefix, last = divmod(key, len(words))
                ngrams.append(f"{ngrams[prefix]} {words[last]}")

    return Bag(np.concatenate(all_rows), np.concatenate(all_columns), ngrams, len(numbers))


def _choose_columns(keys, rows, n_fit, min_texts):
    """Number the distinct keys that occur in at least min_texts of the rows 0 .. n_fit - 1.

    Args: keys, (n,), sorted; rows, (n,), ascending among equal keys.
    Returns the number of each key, (n,) int64, -1 for a rare one; whether a key is the first of its
    kind in its row, (n,) bool; and the numbered keys, ascending.
    """
    is_new = starts_run(keys)
    is_first = is_new | starts_run(rows)
    group = np.cumsum(is_new) - 1  # (n,)
    seen = group[is_first & (rows < n_fit)]
    frequent = np.bincount(seen, minlength=is_new.sum()) >= min_texts
    number = np.where(frequent, np.cumsum(frequent) - 1, -1)
    return number[group], is_first, keys[is_new][frequent]

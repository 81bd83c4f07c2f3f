"""Word numbers -> n-grams -> a sparse matrix, in numpy alone.

A bag of words forgets the order of a text and keeps which n-grams (runs of n words) stand in it. Two steps:

1. `BagOfNgrams` gives each distinct n-gram a column. An n-gram is the (n-1)-gram before it plus one word, so its key is
   the column of the one and the number of the other in one integer: exact, nothing is hashed. Equal n-grams are
   brought together by sorting integers that hold the key above the position in the text; n-grams of rare words are
   never looked at, because their rare parts have lost their columns before.
2. `IndexLists` holds the matrix, all ones, as the list of columns of each row, or of rows of each column. Both products
   a linear model needs, X @ w and X.T @ g, are then one operation: gather, and add up each list.

Left out: stop words, stemming, idf, and any matrix whose entries are not counts.
Source: the n-grams of Wang & Manning 2012.
"""

from typing import NamedTuple

import numpy as np

from gptft.baseline.words import in_threads

KEY_BITS, POSITION_BITS = 32, 31  # of the integers that are sorted
LEAST_PART_BITS = 3  # the sort is divided into 8 parts, for the threads; into more where keys are longer than KEY_BITS
BLOCK = 1 << 18  # list entries that a thread gathers at a time


class IndexLists:
    """A sparse matrix of ones: for each row, the list of the columns where it has a one (two of them make a two).

    indices: (n_entries,) int32, one list after the other; lengths: (n_lists,) int64.
    """

    def __init__(self, indices, lengths):
        self.indices, self.lengths = indices, lengths
        self.filled = np.flatnonzero(lengths)  # reduceat can't add up an empty list
        self.starts = np.append(0, np.cumsum(lengths[self.filled]))
        blocks = np.searchsorted(self.starts, np.arange(0, len(indices), BLOCK))
        self.blocks = np.unique(np.append(blocks, len(self.filled)))

    def lists(self, first, last):
        """The lists first .. last - 1 -> IndexLists."""
        begin, end = self.lengths[:first].sum(), self.lengths[:last].sum()
        return IndexLists(self.indices[begin:end], self.lengths[first:last])

    def below(self, n):
        """The indices below `n` of all lists -> IndexLists."""
        keep = self.indices < n
        lengths = np.zeros_like(self.lengths)
        lengths[self.filled] = np.add.reduceat(keep, self.starts[:-1], dtype=np.int64)
        return IndexLists(self.indices[keep], lengths)

    def sums(self, x):
        """x: (n_columns,) float64 -> (n_lists,) float64, the sum of x over each list: this matrix times x."""
        totals = np.empty(len(self.filled))

        def add_up(first, last):
            starts = self.starts[first : last + 1]
            # mode="clip" only spares a check; every index is within x.
            values = x.take(self.indices[starts[0] : starts[-1]], mode="clip")
            np.add.reduceat(values, starts[:-1] - starts[0], out=totals[first:last])

        in_threads(add_up, self.blocks[:-1], self.blocks[1:])
        if len(totals) == len(self.lengths):
            return totals
        sums = np.zeros(len(self.lengths))
        sums[self.filled] = totals
        return sums


class _Groups(NamedTuple):
    """Occurrences of n-grams, sorted so that equal ones stand together, in the order of the texts."""

    keys: np.ndarray  # (n_groups,) int64, ascending, each once
    occurrences: np.ndarray  # (n_groups,) int64
    documents: np.ndarray  # (n_groups,) int64, texts with this n-gram
    positions: np.ndarray  # (n_occurrences,) int64, where each begins
    rows: np.ndarray  # (n_occurrences,) int32, in which text
    first: np.ndarray  # (n_occurrences,) bool, the first of this n-gram in its text


def _group(keys, positions, rows):
    """keys, positions: (n_occurrences,) int64, below 2**32 and 2**31 -> _Groups."""
    packed = keys << POSITION_BITS | positions
    packed.sort()
    positions = packed & (1 << POSITION_BITS) - 1
    packed >>= POSITION_BITS
    rows = rows[positions]
    new = np.append(True, packed[1:] != packed[:-1])[: len(packed)]
    first = new | np.append(True, rows[1:] != rows[:-1])[: len(packed)]
    begins = np.flatnonzero(new)
    occurrences = np.diff(begins, append=len(packed))
    documents = np.diff(np.append(0, np.cumsum(first))[np.append(begins, len(packed))])
    return _Groups(packed[begins], occurrences, documents, positions, rows, first)


def _group_in_parts(keys, positions, rows, part_bits):
    """Group the occurrences in 2**part_bits parts, told apart by the low bits of the key -> list[_Groups]."""
    parts = keys & (1 << part_bits) - 1

    def group(part):
        mine = np.flatnonzero(parts == part)
        return _group(keys[mine] >> part_bits, positions[mine], rows)

    return in_threads(group, range(1 << part_bits))


def _find(keys, known):
    """Where each of `keys` stands in `known`, both ascending; -1 where it does not."""
    place = np.searchsorted(known, keys)
    return np.where(np.append(known, -1)[place] == keys, place, -1)


class BagOfNgrams:
    """A column for each run of 1 .. `max_n` words that stands in at least `min_documents` texts.

    presence: entries are 1 where the n-gram stands in the text at all; otherwise they are counts.
    `fit` sets `ngrams`, (n_columns, max_n) int32: each column's word numbers, -1 beyond the end of a shorter n-gram.
    """

    def __init__(self, max_n=1, min_documents=1, presence=False):
        self.max_n, self.min_documents, self.presence = max_n, min_documents, presence

    def fit(self, documents):
        """Documents -> (by_row, by_column): their matrix as IndexLists of its rows and of its columns."""
        self.ngrams = np.empty((0, self.max_n), np.int32)
        self._known = []  # for each n: a list of the keys that have a column, ascending, for each part
        self._first_columns = []  # for each n: the column of the first of them, for each part
        by_row, entry_rows = self._read(documents, fitting=True)
        lengths = np.bincount(by_row.indices, minlength=len(self.ngrams))
        return by_row, IndexLists(np.concatenate(entry_rows), lengths)

    def transform(self, documents):
        """Documents -> by_row: their matrix in the columns of `fit`, as IndexLists of its rows."""
        if self.max_n > 1 or self.presence:
            return self._read(documents, fitting=False)[0]
        columns = np.full(
            max(documents.words.max(initial=0), self.ngrams.max(initial=0)) + 1, -1, np.int32
        )  # by word
        columns[self.ngrams[:, 0]] = np.arange(len(self.ngrams))
        columns = columns[documents.words]
        return IndexLists(
            columns[columns >= 0], np.bincount(documents.rows[columns >= 0], minlength=documents.n)
        )

    def names(self, columns, words):
        """Column numbers and the list of words -> list[str], the n-grams."""
        return [" ".join(words[i] for i in self.ngrams[column] if i >= 0) for column in columns]

    def _read(self, documents, fitting):
        """-> by_row, and the rows of all entries in the order of their columns (a list of arrays)."""
        words, rows, n_words = documents.words, documents.rows, len(documents.words)
        prefix = np.zeros(
            n_words, np.int32
        )  # the column of the n-gram one word shorter that begins here; -1 for none
        entries = np.empty(
            (n_words, self.max_n), np.int32
        )  # the columns that count what begins here; -1 for none
        entry_rows = []
        for more in range(self.max_n):  # words after the first
            last = words[more:]
            begin = prefix[: len(last)]
            positions = np.flatnonzero(
                (begin >= 0) & (last >= 0) & (rows[: len(last)] == rows[more:])
            )
            keys = last[positions].astype(np.int64)
            if more:
                keys += begin[positions].astype(np.int64) * self._n_single
            if fitting:
                largest = (
                    len(self.ngrams) * self._n_single if more else 0
                )  # the number of a word always fits
                part_bits = max(LEAST_PART_BITS, largest.bit_length() - KEY_BITS)
            else:
                part_bits = len(self._known[more]).bit_length() - 1
            groups = _group_in_parts(keys, positions, rows, part_bits)
            if fitting:
                self._learn(groups, more, part_bits)
            columns, counted = np.full(n_words, -1, np.int32), np.ones(n_words, bool)

            def enter(group, known, first_column):
                """Write a part's columns to where its n-grams begin -> the rows of its entries."""
                place = _find(group.keys, known)
                column = np.repeat(
                    np.where(place >= 0, place + first_column, -1), group.occurrences
                )
                columns[group.positions] = column
                if not self.presence:
                    return group.rows[column >= 0]
                counted[group.positions] = group.first
                return group.rows[group.first & (column >= 0)]

            entry_rows += in_threads(enter, groups, self._known[more], self._first_columns[more])
            entries[:, more] = np.where(counted, columns, -1)
            prefix, words = columns, words if more else columns
        lengths = sum(np.bincount(part, minlength=documents.n) for part in entry_rows)
        return IndexLists(entries[entries >= 0], lengths), entry_rows

    def _learn(self, groups, more, part_bits):
        """Give columns to the n-grams that stand in enough texts."""
        known = [group.keys[group.documents >= self.min_documents] for group in groups]
        keys = np.concatenate([keys << part_bits | part for part, keys in enumerate(known)])
        ngrams = np.full((len(keys), self.max_n), -1, np.int32)
        if more:
            prefix, last = np.divmod(keys, self._n_single)
            ngrams[:, :more] = self.ngrams[prefix, :more]
            ngrams[:, more] = self.ngrams[last, 0]
        else:
            ngrams[:, 0] = keys
            self._n_single = len(
                keys
            )  # words that have a column; the keys of longer n-grams count in this base
        self._known.append(known)
        self._first_columns.append(len(self.ngrams) + np.cumsum([0, *map(len, known)]))
        self.ngrams = np.concatenate([self.ngrams, ngrams])

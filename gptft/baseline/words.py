"""Texts -> words -> a number for each distinct word, in numpy alone.

A loop that handles one word after the other, in one thread, would be most of the baseline's time. So a thousand texts are
one array of bytes, in UTF-8. A table says of each byte whether it is part of a word; words begin and end where that
changes. Up to seven bytes of a word, and how many they are, make one integer, and integers are compared by the million.
A longer word is such an integer and then another: what it begins with, and its next seven bytes. The distinct words of
each thousand texts are then put together in the same way.

Equal integers find each other through a table with a place for each hash: every word writes its index there, one of
them stays, and all that read it back and are equal to it are one word. The few whose place went to another are sorted.
Nothing is merely likely: numbers are equal exactly if the words are.

Source: scikit-learn's CountVectorizer, and Python's re module, for what a word is.
"""

import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

TEXTS = 1000  # that a thread takes at a time
PIECE = 7  # bytes of a word that are compared at once
LONG = 63  # bytes; longer words are so few that Python compares them
SPACE, LETTER, MARK = 0, 1, 2
ASCII = bytes(
    LETTER if chr(i).isalnum() or chr(i) == "_" else SPACE if chr(i).isspace() else MARK
    for i in range(128)
)


@functools.cache
def _threads():
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def in_threads(function, *arguments):
    """`list(map(function, *arguments))` on up to 8 cores: numpy sorts, gathers and adds up without Python's lock."""
    return list(_threads().map(function, *arguments))


class Documents(NamedTuple):
    """Texts as word numbers, one text after the other."""

    words: np.ndarray  # (n_words,) int32
    rows: np.ndarray  # (n_words,) int32, ascending: the text that the word stands in
    n: int  # texts, those without a word included

    def texts(self, first, last):
        """The texts first .. last - 1 -> Documents."""
        begin, end = np.searchsorted(self.rows, (first, last))
        return Documents(
            self.words[begin:end], self.rows[begin:end] - np.int32(first), last - first
        )


def number_words(texts, marks=False):
    """Cut lower-cased texts into words and number these, the most frequent first -> (Documents, list[str], the words).

    texts: list[str], at least one. marks: True for every word and, as a word of its own, each punctuation mark; False for
    scikit-learn's words, which have two letters or more.
    """
    blocks = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
    octets, found, begins, ends, uses, counts = zip(
        *in_threads(functools.partial(_cut, marks=marks), blocks)
    )
    # What is distinct within the blocks is put together in the same way.
    offsets = np.cumsum([0, *map(len, octets)], dtype=np.int64)
    octets = np.concatenate(octets)
    begins, ends = (
        np.concatenate([part + offset for part, offset in zip(parts, offsets)])
        for parts in (begins, ends)
    )
    words, some = _distinct(octets, begins, ends)
    order = np.argsort(-np.bincount(words, np.concatenate(uses), len(some)), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    rank_of_found = np.split(rank[words], np.cumsum([len(use) for use in uses])[:-1])
    numbers = np.concatenate(in_threads(lambda rank, found: rank[found], rank_of_found, found))
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), np.concatenate(counts))
    places = zip(begins[some[order]], ends[some[order]])
    names = [octets[begin:end].tobytes().decode("utf-8", "surrogatepass") for begin, end in places]
    return Documents(numbers, rows, len(texts)), names


def _cut(texts, marks):
    """Texts as UTF-8, and their distinct words.

    -> the (n,) uint8 octets; for each word in the texts its number among the distinct ones; of these, where one of each
    begins and ends, and how often it is used; and for each text the number of its words.
    """
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    text_ends = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
    octets = b" ".join(encoded) + b" " * (
        9 + -text_ends[-1] % 8
    )  # whole groups of 8, and one more to read at the last word
    kinds = np.frombuffer(bytearray(octets.translate(ASCII + bytes(128))), np.uint8)
    octets = np.frombuffer(octets, np.uint8)
    high = np.flatnonzero(octets >= 0x80)  # in UTF-8 all that is not ASCII, and nothing else
    firsts = np.flatnonzero(
        octets[high] >= 0xC0
    )  # bytes that begin a character; all its bytes are of its kind
    kinds[high] = np.repeat(_kinds(octets[high].tobytes()), np.diff(firsts, append=len(high)))

    inside = np.append(False, kinds == LETTER)
    begin, end = inside[1:] & ~inside[:-1], inside[:-1] & ~inside[1:]
    if marks:  # each is a word, that ends where the next character begins
        first, mark = (octets & 0xC0) != 0x80, kinds == MARK
        begin |= mark & first
        end[1:] |= mark[:-1] & first[1:]
    begins, ends = np.flatnonzero(begin), np.flatnonzero(end)
    if not marks:
        width = 1 + sum(
            octets[begins] >= byte for byte in (0xC0, 0xE0, 0xF0)
        )  # bytes of the first letter
        begins, ends = (edges[ends - begins > width] for edges in (begins, ends))
    numbers, some = _distinct(octets, begins, ends)
    counts = np.diff(np.searchsorted(begins, text_ends), prepend=0)
    return (
        octets,
        numbers,
        begins[some],
        ends[some],
        np.bincount(numbers, minlength=len(some)),
        counts,
    )


def _kinds(octets):
    """Characters in UTF-8 -> (n_characters,) uint8, SPACE, LETTER or MARK."""
    characters = np.frombuffer(
        octets.decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass"), "<u4"
    )
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    kinds[characters] = 1
    used = np.flatnonzero(kinds)  # few: Python looks at each of them once
    kinds[used] = [
        LETTER if c.isalnum() else SPACE if c.isspace() else MARK for c in map(chr, used.tolist())
    ]
    return kinds[characters]


def _distinct(octets, begins, ends):
    """Words at octets[begins:ends], at most 2**31 -> (their numbers, (n_words,) int32; for each number, where such a word is)."""
    words = octets.view("<u8")

    def pieces(begins, left):
        """The first 7 bytes of what is left of each word, and how many these are, or 8 for more."""
        at, shift = begins >> 3, (begins << 3 & 56).astype(np.uint64)
        eight = (
            words[at] >> shift | words[at + 1] << np.uint64(64) - shift
        )  # in numpy a shift by 64 leaves nothing
        length = np.minimum(left, PIECE + 1)
        masks = np.array([(1 << 8 * n) - 1 for n in (*range(PIECE + 1), PIECE)], np.uint64)
        return eight & masks[length] | length.astype(np.uint64) << np.uint64(56)

    lengths = ends - begins
    same = _index_of_equal(
        pieces(begins, lengths)
    )  # for each word, the index of one that is equal as far as `read`
    longer, read = np.flatnonzero(lengths > PIECE), PIECE
    while len(longer) and read < LONG:
        next_pieces = _index_of_equal(pieces(begins[longer] + read, lengths[longer] - read))
        same[longer] = longer[_index_of_equal(same[longer] << np.int64(32) | next_pieces)]
        longer, read = longer[lengths[longer] > read + PIECE], read + PIECE
    known = {}
    for i in longer.tolist():
        same[i] = known.setdefault(octets[begins[i] : ends[i]].tobytes(), i)
    first = same == np.arange(len(same))
    return (np.cumsum(first, dtype=np.int32) - np.int32(1))[same], np.flatnonzero(first)


def _index_of_equal(keys):
    """(n,) 64-bit integers -> (n,) int64: for each the index of one that is equal to it, for all equal ones the same."""
    keys = keys.view(np.uint64)
    bits = max(1, len(keys).bit_length())
    places = keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)  # Fibonacci hashing
    table = np.empty(1 << bits, np.int64)
    table[places] = np.arange(len(keys))
    found = table[places]
    missed = np.flatnonzero(keys[found] != keys)
    _, index, inverse = np.unique(keys[missed], return_index=True, return_inverse=True)
    found[missed] = missed[index[inverse]]
    return found

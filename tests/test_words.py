"""Words and their numbers against worked values, Python's re module and a plain Counter."""

import re
import sys
from collections import Counter

import numpy as np
import pytest

from gptft.baseline import words
from gptft.baseline.words import Documents, number_words


def by_expression(texts, marks):
    """The same words by Python's re: a list for each text."""
    expression = re.compile(r"\w+|[^\w\s]" if marks else r"\w\w+")
    return [expression.findall(text.lower()) for text in texts]


def spelt(documents, names):
    """Documents -> a list of words for each text."""
    texts = [[] for _ in range(documents.n)]
    for row, number in zip(documents.rows, documents.words):
        texts[row].append(names[number])
    return texts


@pytest.mark.parametrize(
    "marks, expected",
    [
        (False, ["don it mother in law", "", "b_c naïve 10 10 été ελλάδα the film"]),
        (
            True,
            [
                "don ' t ! it ' s a mother - in - law",
                "",
                "b_c naïve 10 / 10 ( été ) . . . ελλάδα the film",
            ],
        ),
    ],
)
def test_words(marks, expected):
    # Worked by hand. Without marks it must agree with scikit-learn, whose words have two characters or more.
    texts = ["Don't! It's A mother-in-law", "", "b_c Naïve 10/10 (ÉTÉ)... Ελλάδα\nthe\tfilm"]
    documents, names = number_words(texts, marks)
    assert spelt(documents, names) == [text.split() for text in expected]
    assert (
        documents.words.dtype == documents.rows.dtype == np.int32
        and (np.diff(documents.rows) >= 0).all()
    )


def test_the_most_frequent_word_is_number_0():
    documents, names = number_words(["b a c a", "c a", "d"])
    assert names == [] and documents.n == 3  # one letter is no word
    documents, names = number_words(["b a c a", "c a", "d"], marks=True)
    assert names[:2] == ["a", "c"] and sorted(names[2:]) == [
        "b",
        "d",
    ]  # the order of equally frequent ones means nothing
    b, d = names.index("b"), names.index("d")
    assert documents.words.tolist() == [b, 0, 1, 0, 1, 0, d] and documents.rows.tolist() == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
    ]


@pytest.mark.parametrize("marks", [False, True])
def test_every_character_is_taken_as_re_takes_it(marks):
    # Alone, between letters, and doubled; the lone surrogates, too, which a JSON file can contain.
    characters = [chr(i) for i in range(sys.maxunicode + 1)]
    texts = [
        "".join(f"{c} x{c}y {c}{c} " for c in characters[i : i + 500])
        for i in range(0, len(characters), 500)
    ]
    assert spelt(*number_words(texts, marks)) == by_expression(texts, marks)


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_long_words_and_texts_in_several_parts(monkeypatch, marks, at_once):
    # Words of 1 to 63 bytes that begin or end alike, so that each boundary between pieces is met, and some far longer.
    monkeypatch.setattr(words, "TEXTS", at_once)
    rng = np.random.default_rng(0)
    parts = [
        "",
        "a",
        "aaaaaa",
        "aaaaaaa",
        "aaaaaaaa",
        "aaaaaaaaaaaaaaaaaaaaa",
        "b",
        "é",
        "ééé",
        "漢字",
        "𝒜",
        "_9",
    ]
    texts = [
        " ".join("".join(rng.choice(parts, 3)) for _ in range(rng.integers(0, 60)))
        for _ in range(50)
    ]
    texts += ["", "  ", *("x" * n + end for n in (62, 63, 64, 2_000_000) for end in "xyx")]
    documents, names = number_words(texts, marks)
    expected = by_expression(texts, marks)
    assert spelt(documents, names) == expected and len(set(names)) == len(names)
    counts = Counter(word for text in expected for word in text)
    assert np.bincount(documents.words, minlength=len(names)).tolist() == [
        counts[name] for name in names
    ]
    assert sorted(counts.values(), reverse=True) == [counts[name] for name in names]


@pytest.mark.parametrize("n_distinct", [1, 2, 1000, 100_000])
def test_equal_keys_find_each_other(n_distinct):
    # With as many distinct keys as places in the table, a third of the keys lose theirs.
    rng = np.random.default_rng(0)
    keys = rng.integers(2**64, size=n_distinct, dtype=np.uint64)[
        rng.integers(n_distinct, size=100_000)
    ]
    found = words._index_of_equal(keys)
    assert (keys[found] == keys).all() and len(np.unique(found)) == len(np.unique(keys))


def test_texts_of_documents():
    documents, _ = number_words(["x y", "", "y z x"], marks=True)
    part = documents.texts(1, 3)
    assert (
        part.n == 2
        and part.rows.tolist() == [1, 1, 1]
        and part.words.tolist() == documents.words[2:].tolist()
    )
    assert documents.texts(1, 2).n == 1 and not len(documents.texts(1, 2).words)
    assert isinstance(part, Documents)

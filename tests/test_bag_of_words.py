"""The bag of words against dense arithmetic, a plain Counter and scikit-learn's figures."""

import functools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT

from gptft.baseline import bag_of_words, words
from gptft.baseline.bag_of_words import BagOfNgrams, IndexLists
from gptft.baseline.words import number_words

TEXTS = ["a b a b c", "", "b", "c a b", "a b c a b c", "zz", "b a"]


def dense(by_row, n_columns):
    """IndexLists -> (n_lists, n_columns) counts."""
    matrix = np.zeros((len(by_row.lengths), n_columns))
    rows = np.repeat(np.arange(len(by_row.lengths)), by_row.lengths)
    np.add.at(matrix, (rows, by_row.indices), 1)
    return matrix


def counted(texts, max_n, min_documents, presence):
    """The same bag by plain Python: {n-gram: [count in each text]}."""
    bags = []
    for text in texts:
        words = text.split()
        bags.append(
            Counter(
                " ".join(words[i : i + n])
                for n in range(1, max_n + 1)
                for i in range(len(words) - n + 1)
            )
        )
    documents = Counter(ngram for bag in bags for ngram in bag)
    most = 1 if presence else max(map(len, texts))
    return {
        g: [min(bag[g], most) for bag in bags] for g, n in documents.items() if n >= min_documents
    }


def random_texts(n, seed, vocabulary="abcdefgh", longest=15):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list(vocabulary), rng.integers(0, longest))) for _ in range(n)]


def test_same_words_and_counts_as_scikit_learn():
    reviews = (ROOT / "gptft/assets/samples/reviews.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [r["text"] for r in map(json.loads, reviews) if r["split"] == "train"]
    bag, (documents, vocabulary) = BagOfNgrams(), number_words(texts)
    by_row, by_column = bag.fit(documents)
    expected = np.load(ROOT / "tests/fixtures/sklearn_logreg.npz")
    names = bag.names(range(len(bag.ngrams)), vocabulary)
    assert dict(zip(names, by_column.lengths)) == dict(
        zip(expected["words"].item().split("\n"), expected["counts"])
    )


@pytest.mark.parametrize("presence", [True, False])
@pytest.mark.parametrize("max_n, min_documents", [(1, 1), (2, 1), (3, 2), (3, 5), (4, 1)])
def test_ngrams_are_those_of_a_plain_counter(max_n, min_documents, presence):
    # Guards against n-grams across two texts, a text counted twice, and columns lost or shared by two n-grams.
    texts = TEXTS + random_texts(60, seed=max_n)
    bag, (documents, vocabulary) = (
        BagOfNgrams(max_n, min_documents, presence),
        number_words(texts, marks=True),
    )
    by_row, by_column = bag.fit(documents)
    expected = counted(texts, max_n, min_documents, presence)
    names = bag.names(range(len(bag.ngrams)), vocabulary)
    assert sorted(names) == sorted(expected)
    matrix = np.array([expected[name] for name in names]).T
    assert (dense(by_row, len(names)) == matrix).all()
    assert (dense(by_column, len(texts)) == matrix.T).all()


def test_transform_finds_the_columns_of_fit_and_nothing_else():
    train = random_texts(50, seed=1)
    test = ["", "new a b", "h new h", "a b c d", "newer", *random_texts(30, 2, "abcdxyz")]
    bag, (documents, vocabulary) = (
        BagOfNgrams(3, 2, presence=True),
        number_words([*train, *test], marks=True),
    )
    bag.fit(documents.texts(0, len(train)))
    names = bag.names(range(len(bag.ngrams)), vocabulary)
    seen = counted(test, 3, 1, presence=True)
    expected = np.array([seen.get(name, [0] * len(test)) for name in names]).T
    assert (
        dense(bag.transform(documents.texts(len(train), documents.n)), len(names)) == expected
    ).all()


def test_keys_longer_than_the_sort_can_hold_are_divided_into_more_parts(monkeypatch):
    # Stands in for millions of n-grams, whose keys would otherwise run over into the bits of the position.
    texts = random_texts(200, seed=3, vocabulary="abcdefghijklmnopqrstuvwxyz")
    documents, vocabulary = number_words(texts, marks=True)
    plain, divided = BagOfNgrams(3, 2), BagOfNgrams(3, 2)
    plain_rows, _ = plain.fit(documents)
    monkeypatch.setattr(bag_of_words, "KEY_BITS", 4)
    divided.fit(documents)
    divided_rows = divided.transform(documents)
    assert len(divided._known[2]) > len(plain._known[2])
    order = [plain.names([c], vocabulary)[0] for c in range(len(plain.ngrams))]
    index = {
        name: c for c, name in enumerate(divided.names(range(len(divided.ngrams)), vocabulary))
    }
    a, b = dense(plain_rows, len(order)), dense(divided_rows, len(order))
    assert (a == b[:, [index[name] for name in order]]).all()


def test_more_documents_than_fit_16_bits():
    texts = [f"w{i % 7} end" for i in range(70_000)]
    bag, (documents, vocabulary) = BagOfNgrams(2, 2, presence=True), number_words(texts)
    by_row, by_column = bag.fit(documents)
    names = bag.names(range(len(bag.ngrams)), vocabulary)
    expected = (
        {"end": 70_000}
        | {f"w{k}": 10_000 for k in range(7)}
        | {f"w{k} end": 10_000 for k in range(7)}
    )
    assert dict(zip(names, by_column.lengths)) == expected and (by_row.lengths == 3).all()


@pytest.mark.parametrize("texts", [[""], ["", "?"], ["a"], ["a b"]])
def test_texts_almost_without_words(texts):
    bag, (documents, _) = BagOfNgrams(4, 2, presence=True), number_words(texts, marks=True)
    by_row, by_column = bag.fit(documents)
    assert len(bag.ngrams) == 0 and by_row.sums(np.zeros(0)).tolist() == [0.0] * len(texts)
    assert by_column.sums(np.ones(len(texts))).shape == (0,) and by_column.below(
        1
    ).lengths.shape == (0,)


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_products_and_slices_of_index_lists(monkeypatch, block):
    # With empty lists first, in the middle and last, a count of two, and blocks that end anywhere.
    monkeypatch.setattr(bag_of_words, "BLOCK", block)
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 50)
    lengths[[0, 1, 20, 48, 49]] = 0
    lists = IndexLists(rng.integers(0, 12, lengths.sum()).astype(np.int32), lengths)
    matrix, x = dense(lists, 12), rng.normal(size=12)
    assert matrix.max() > 1
    np.testing.assert_allclose(lists.sums(x), matrix @ x, atol=1e-12)
    np.testing.assert_allclose(lists.lists(10, 30).sums(x), (matrix @ x)[10:30], atol=1e-12)
    np.testing.assert_allclose(lists.lists(30, None).sums(x), (matrix @ x)[30:], atol=1e-12)
    np.testing.assert_allclose(lists.below(5).sums(x), matrix[:, :5] @ x[:5], atol=1e-12)


def test_products_do_not_depend_on_the_number_of_threads(monkeypatch):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 3000, 500)
    lists = IndexLists(rng.integers(0, 1000, lengths.sum()).astype(np.int32), lengths)
    x = rng.normal(size=1000)
    several = lists.sums(x)
    monkeypatch.setattr(words, "_threads", functools.cache(lambda: ThreadPoolExecutor(1)))
    assert (lists.sums(x) == several).all()

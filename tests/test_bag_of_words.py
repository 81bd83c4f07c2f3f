"""The bag of words against dense arithmetic, a plain Counter and scikit-learn's figures."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT

from gptft.baseline import bag_of_words
from gptft.baseline.bag_of_words import BagOfNgrams, IndexLists, WordNumbers

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
        bags.append(Counter(" ".join(words[i : i + n]) for n in range(1, max_n + 1) for i in range(len(words) - n + 1)))
    documents = Counter(ngram for bag in bags for ngram in bag)
    most = 1 if presence else max(map(len, texts))
    return {g: [min(bag[g], most) for bag in bags] for g, n in documents.items() if n >= min_documents}


def random_texts(n, seed, vocabulary="abcdefgh", longest=15):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list(vocabulary), rng.integers(0, longest))) for _ in range(n)]


@pytest.mark.parametrize("marks, words", [
    (False, "don it mother in law b_c naïve 10 10 été ελλάδα the film".split()),
    (True, "don ' t ! it ' s a mother - in - law b_c naïve 10 / 10 ( été ) . . . ελλάδα the film".split()),
])  # fmt: skip
def test_words(marks, words):
    # Worked by hand. Without marks it must agree with scikit-learn, whose words have two characters or more.
    number = WordNumbers(marks)
    documents = number(["Don't! It's A mother-in-law", "", "b_c Naïve 10/10 (ÉTÉ)... Ελλάδα\nthe\tfilm"])
    assert [number.words[i] for i in documents.words] == words
    assert documents.n == 3 and set(documents.rows) == {0, 2}
    assert (np.bincount(documents.words) == [Counter(words)[w] for w in number.words]).all()


def test_numbers_of_words_last_from_call_to_call():
    # Train, val and test are cut one after the other; a word must keep its number.
    number = WordNumbers(marks=True)
    one, other = number(["x y"]), number(["y z x"])
    assert one.words.tolist() == [0, 1] and other.words.tolist() == [1, 2, 0]
    both = one.followed_by(other)
    assert both.words.tolist() == [0, 1, 1, 2, 0] and both.rows.tolist() == [0, 0, 1, 1, 1] and both.n == 2


def test_two_processes_number_words_as_one_does(monkeypatch):
    texts = random_texts(50, seed=1) + ["", "new a b", *random_texts(30, 2, "abcdxyz")]
    plain, divided = WordNumbers(marks=True), WordNumbers(marks=True)
    expected = plain(texts)
    monkeypatch.setattr(bag_of_words, "MANY_TEXTS", 1)
    found = divided(texts)
    assert (found.words == expected.words).all() and (found.rows == expected.rows).all() and found.n == expected.n
    assert divided.words == plain.words
    part = expected.texts(50, 52)  # the empty one, and the one after it
    assert part.n == 2 and part.rows.tolist() == [1, 1, 1] and [plain.words[i] for i in part.words] == ["new", "a", "b"]


def test_same_words_and_counts_as_scikit_learn():
    reviews = (ROOT / "gptft/assets/samples/reviews.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [r["text"] for r in map(json.loads, reviews) if r["split"] == "train"]
    number, bag = WordNumbers(), BagOfNgrams()
    by_row, by_column = bag.fit(number(texts))
    expected = np.load(ROOT / "tests/fixtures/sklearn_logreg.npz")
    names = bag.names(range(len(bag.ngrams)), number.words)
    assert dict(zip(names, by_column.lengths)) == dict(zip(expected["words"].item().split("\n"), expected["counts"]))


@pytest.mark.parametrize("presence", [True, False])
@pytest.mark.parametrize("max_n, min_documents", [(1, 1), (2, 1), (3, 2), (3, 5), (4, 1)])
def test_ngrams_are_those_of_a_plain_counter(max_n, min_documents, presence):
    # Guards against n-grams across two texts, a text counted twice, and columns lost or shared by two n-grams.
    texts = TEXTS + random_texts(60, seed=max_n)
    number, bag = WordNumbers(marks=True), BagOfNgrams(max_n, min_documents, presence)
    by_row, by_column = bag.fit(number(texts))
    expected = counted(texts, max_n, min_documents, presence)
    names = bag.names(range(len(bag.ngrams)), number.words)
    assert sorted(names) == sorted(expected)
    matrix = np.array([expected[name] for name in names]).T
    assert (dense(by_row, len(names)) == matrix).all()
    assert (dense(by_column, len(texts)) == matrix.T).all()


def test_transform_finds_the_columns_of_fit_and_nothing_else():
    train = random_texts(50, seed=1)
    test = ["", "new a b", "h new h", "a b c d", "newer", *random_texts(30, 2, "abcdxyz")]
    number, bag = WordNumbers(marks=True), BagOfNgrams(3, 2, presence=True)
    documents = number(train), number(test)  # words of test that train has not have numbers beyond all of train's
    bag.fit(documents[0])
    names = bag.names(range(len(bag.ngrams)), number.words)
    seen = counted(test, 3, 1, presence=True)
    expected = np.array([seen.get(name, [0] * len(test)) for name in names]).T
    assert (dense(bag.transform(documents[1]), len(names)) == expected).all()


def test_keys_longer_than_the_sort_can_hold_are_divided_into_more_parts(monkeypatch):
    # Stands in for millions of n-grams, whose keys would otherwise run over into the bits of the position.
    texts = random_texts(200, seed=3, vocabulary="abcdefghijklmnopqrstuvwxyz")
    number = WordNumbers(marks=True)
    documents = number(texts)
    plain, divided = BagOfNgrams(3, 2), BagOfNgrams(3, 2)
    plain_rows, _ = plain.fit(documents)
    monkeypatch.setattr(bag_of_words, "KEY_BITS", 4)
    divided.fit(documents)
    divided_rows = divided.transform(documents)
    assert len(divided._known[2]) > len(plain._known[2])
    order = [plain.names([c], number.words)[0] for c in range(len(plain.ngrams))]
    index = {name: c for c, name in enumerate(divided.names(range(len(divided.ngrams)), number.words))}
    a, b = dense(plain_rows, len(order)), dense(divided_rows, len(order))
    assert (a == b[:, [index[name] for name in order]]).all()


def test_more_documents_than_fit_16_bits():
    texts = [f"w{i % 7} end" for i in range(70_000)]
    bag = BagOfNgrams(2, 2, presence=True)
    number = WordNumbers()
    by_row, by_column = bag.fit(number(texts))
    names = bag.names(range(len(bag.ngrams)), number.words)
    expected = {"end": 70_000} | {f"w{k}": 10_000 for k in range(7)} | {f"w{k} end": 10_000 for k in range(7)}
    assert dict(zip(names, by_column.lengths)) == expected and (by_row.lengths == 3).all()


@pytest.mark.parametrize("texts", [[""], ["", "?"], ["a"], ["a b"]])
def test_texts_almost_without_words(texts):
    bag, number = BagOfNgrams(4, 2, presence=True), WordNumbers(marks=True)
    by_row, by_column = bag.fit(number(texts))
    assert len(bag.ngrams) == 0 and by_row.sums(np.zeros(0)).tolist() == [0.0] * len(texts)
    assert by_column.sums(np.ones(len(texts))).shape == (0,) and by_column.below(1).lengths.shape == (0,)


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
    monkeypatch.setattr(bag_of_words.os, "cpu_count", lambda: 1)
    assert (lists.sums(x) == several).all()

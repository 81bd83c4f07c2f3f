"""Text metrics against values worked by hand, quoted from their sources, or of rouge_score where it is installed."""

import random

import numpy as np
import pytest

from gptft.text_metrics import (
    Response,
    distinct,
    ends_in_loop,
    keeps_format,
    lcs_length,
    longest_copy,
    rouge_l,
    text_metrics,
    words,
)


def test_rouge_l_of_lins_example():
    # Lin 2004, section 3.1: S1 is the reference; S2 shares "police the gunman", S3 only "the gunman".
    s1, s2, s3 = "police killed the gunman", "police kill the gunman", "the gunman kill police"
    assert rouge_l(s2, s1) == 0.75 and rouge_l(s3, s1) == 0.5


def test_rouge_l_by_hand():
    # Candidate of 3 words, reference of 5, 2 in common and in order: P = 2/3, R = 2/5, F = 2PR/(P+R) = 0.5.
    assert rouge_l("cat the sat", "The cat sat, there now") == pytest.approx(0.5)
    assert rouge_l("It's 7:30!", "it s 7 30") == 1.0  # lower-cased runs of [a-z0-9]
    assert (
        rouge_l("", "a") == rouge_l("a", "") == rouge_l("?!", "a b") == rouge_l("x", "a b") == 0.0
    )


def slow_lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_lcs_equals_the_table_of_the_textbook():
    """The bit-parallel form is short and easily wrong, above all past 64 entries."""
    rng = random.Random(0)
    for n in [*range(12), 63, 64, 65, 130]:
        for letters in (2, 5, 50):
            a, b = ([rng.randrange(letters) for _ in range(rng.randint(0, n))] for _ in range(2))
            assert lcs_length(a, b) == slow_lcs(a, b)
    assert lcs_length("abc" * 50, "abc" * 50) == 150


def test_rouge_score_agrees():
    scorer = pytest.importorskip(
        "rouge_score.rouge_scorer",
        reason="rouge_score, the reference implementation, is not installed",
    )
    score = scorer.RougeScorer(["rougeL"], use_stemmer=False).score
    rng = random.Random(1)
    for _ in range(50):
        a, b = (
            " ".join(
                rng.choice(["The", "cat,", "it's", "a", "B-2", "7.5"])
                for _ in range(rng.randint(0, 40))
            )
            for _ in range(2)
        )
        assert rouge_l(a, b) == pytest.approx(score(b, a)["rougeL"].fmeasure)


def test_words():
    assert words("Don't panic: É 42x!") == ["don", "t", "panic", "42x"]


def test_distinct():
    # "a b a" and "a b": unigrams a b a a b (2 of 5), bigrams ab ba ab (2 of 3).
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct(texts, 1) == 2 / 5 and distinct(texts, 2) == 2 / 3 and distinct([["a"]], 2) == 0


def test_ends_in_loop():
    """A loop is three copies and twelve tokens at least; "ha ha ha" and a list of similar lines are none."""
    lead = list(range(100, 130))
    assert ends_in_loop(lead + [1] * 12) and not ends_in_loop(lead + [1] * 11)
    assert ends_in_loop(lead + [1, 2, 3, 4] * 3) and not ends_in_loop(lead + [1, 2, 3] * 3)
    assert ends_in_loop([2] + [1, 2] * 6) and ends_in_loop(lead + list(range(20)) * 3)
    assert (
        not ends_in_loop(lead + list(range(20)) * 2)
        and not ends_in_loop(lead)
        and not ends_in_loop([])
    )
    assert not ends_in_loop([1] * 12 + lead)


def test_keeps_format():
    markers = ("### Response:",)
    assert keeps_format(Response([1], "Fine.", True), markers) and keeps_format(
        Response([1], "北京", True), markers
    )
    assert not keeps_format(Response([], "", True), markers) and not keeps_format(
        Response([1], " \n", True), markers
    )
    assert not keeps_format(Response([1], "Fine. ### Response: x", True), markers)
    assert keeps_format(Response([1] * 20, "no " * 20, True), markers)  # it ended by itself
    assert not keeps_format(Response([1] * 20, "no " * 20, False), markers)


def test_all_together():
    responses = [
        Response([1, 2], "the cat sat", True),
        Response([3] * 12, "a a a a a a a a a a a a", False),
    ]
    m = text_metrics(responses, ["the cat sat", "b"], ("###",))
    assert (m["n_generated"], m["end_of_text"], m["format"], m["rouge_l"], m["words"]) == (
        2,
        0.5,
        0.5,
        0.5,
        7.5,
    )
    # 15 words of 4 kinds; 2 + 11 bigrams of 3 kinds; no 4-gram and 9 of one kind, so 8 of 9 are repeats.
    assert (m["distinct_1"], m["distinct_2"], m["repeated_4grams"]) == (4 / 15, 3 / 13, 8 / 9)
    assert (
        m["end_of_text_ci"] == m["format_ci"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    )  # Wilson, 1 of 2
    assert text_metrics([Response([], "", True)], ["x"], ())["repeated_4grams"] == 0


def test_longest_copy():
    stream = np.array([5, 6, 7, 8, 9, 6, 7, 9, 5], dtype=np.uint16).tobytes()
    assert longest_copy([1, 6, 7, 9, 2, 7, 8], stream) == (1, 3)
    assert longest_copy([7, 8, 9, 6], stream) == (0, 4)  # whole
    assert longest_copy([1, 5, 1, 6], stream) == (1, 1)
    assert longest_copy([1, 2], stream) == longest_copy([], stream) == (0, 0)
    # 0x0201 0x0403 holds the bytes 01 02 03 04, among which 02 03, 0x0302, is no number of its own.
    assert longest_copy([0x0302], np.array([0x0201, 0x0403], dtype=np.uint16).tobytes()) == (0, 0)
    assert longest_copy(
        [0x0302], np.array([0x0201, 0x0403, 0x0302], dtype=np.uint16).tobytes()
    ) == (0, 1)


def test_longest_copy_against_the_plain_way():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stream, ids = rng.integers(0, 3, 60).astype(np.uint16), rng.integers(0, 3, 12).tolist()
        runs = {tuple(stream[i : i + n].tolist()) for n in range(1, 13) for i in range(60)}
        best = max(
            (n, -i)
            for n in range(13)
            for i in range(13 - n)
            if n == 0 or tuple(ids[i : i + n]) in runs
        )
        assert longest_copy(ids, stream.tobytes()) == (-best[1], best[0])

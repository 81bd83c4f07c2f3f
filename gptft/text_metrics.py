"""How good generated responses are, as far as counting can tell.

Compared with a reference: ROUGE-L, the share of words two texts have in common in the same order. By themselves: did
the response end, is it free of the prompt's wording and of endless repetition, how varied are its words. Compared with
what was trained on: how long a passage was learned by heart. None of these knows what is true; they catch a model that
rambles, parrots or loops. (Whether it does what it was told: see tasks.py.)

Words are lower-cased runs of [a-z0-9]; no stemming. Ratios are of sums over all responses, divided once.
Source: Lin 2004 (ROUGE-L; F with equal weight of precision and recall, as in Google's rouge_score); Li et al. 2016
(distinct-n); Welleck et al. 2020 (repeated n-grams); Hyyrö 2004 (the bit-parallel LCS).
"""

import re
from typing import NamedTuple

import numpy as np

from gptft.metrics import wilson_interval

LOOP = (
    12  # tokens at a response's end that must repeat, at least three times over, to count as a loop
)


class Response(NamedTuple):
    """What a model answered: its new token ids without end-of-text, their text, and whether it ended by itself."""

    ids: list[int]
    text: str
    ended: bool


def words(text):
    """str -> list of its words."""
    return re.findall("[a-z0-9]+", text.lower())


def lcs_length(a, b):
    """Length of the longest common subsequence of two lists, exactly.

    One bit for each entry of `a`; a 0 marks where the row of the usual table of lengths rises. Python's long integers
    take a whole row at once, so the cost is len(b) additions.
    """
    where = {}
    for i, entry in enumerate(a):
        where[entry] = where.get(entry, 0) | 1 << i
    everywhere = (1 << len(a)) - 1
    row = everywhere
    for entry in b:
        matched = row & where.get(entry, 0)
        row = ((row + matched) | (row - matched)) & everywhere
    return (everywhere ^ row).bit_count()


def rouge_l(text, reference):
    """ROUGE-L of a text and a `reference`, from 0 to 1: the F-measure of their longest common subsequence of words."""
    a, b = words(text), words(reference)
    common = lcs_length(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def ngrams(entries, n):
    """The runs of n neighbours in a list, `entries`, as tuples."""
    return list(zip(*(entries[i:] for i in range(n))))


def ends_in_loop(ids):
    """Whether a list, `ids`, ends in at least three copies of the same piece, of LOOP entries or more together."""
    for period in range(1, len(ids) // 3 + 1):
        tail = ids[-max(3 * period, LOOP) :]
        if len(tail) >= LOOP and tail[period:] == tail[:-period]:
            return True
    return False


def longest_copy(ids, stream):
    """The longest passage of a text that stands word for word in a stream, both token ids -> where it begins, its length.

    stream: the bytes of its ids as uint16. Of several that are equally long, the first; (0, 0) if no token of the text occurs.
    """
    text, begin, longest = np.asarray(ids, dtype=np.uint16).tobytes(), 0, 0
    for i in range(len(ids)):
        while i + longest < len(ids) and _stands_in(text[2 * i : 2 * (i + longest + 1)], stream):
            begin, longest = i, longest + 1
    return begin, longest


def _stands_in(part, whole):
    """Whether the two-byte numbers of `part` stand in a row among those of `whole`; both are bytes."""
    place = whole.find(part)
    while place >= 0 and place % 2:  # half of one number and half of the next
        place = whole.find(part, place + 1)
    return place >= 0


def keeps_format(response, markers):
    """Whether a `response` holds text and none of `markers`, pieces of the prompt's wording, and doesn't break off in a loop."""
    clean = response.text.strip() and not any(marker in response.text for marker in markers)
    return bool(clean) and (response.ended or not ends_in_loop(response.ids))


def text_metrics(responses, references, markers):
    """Generated responses against the wanted texts -> dict of n_generated, the rates and the scores.

    Args: list[Response], at least one; list[str] of as many; the template's markers. Rates come with their 95 % interval.
    """
    texts = [words(response.text) for response in responses]
    four = [ngrams(text, 4) for text in texts]
    n, n_four = len(texts), sum(map(len, four))
    ended = sum(response.ended for response in responses)
    clean = sum(keeps_format(response, markers) for response in responses)
    return {
        "n_generated": n,
        "end_of_text": ended / n,
        "end_of_text_ci": list(wilson_interval(ended, n)),
        "format": clean / n,
        "format_ci": list(wilson_interval(clean, n)),
        "rouge_l": sum(map(rouge_l, (response.text for response in responses), references)) / n,
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "repeated_4grams": sum(len(grams) - len(set(grams)) for grams in four) / max(n_four, 1),
        "words": sum(map(len, texts)) / n,
    }


def distinct(texts, n):
    """Different n-grams of all texts (lists of words) as a share of all their n-grams; 0 if there are none."""
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / max(len(grams), 1)

"""Labelled texts: film reviews, or any other classes of text.

`IMDbDataset` turns reviews into token ids and labels. A review longer than `max_length` is cut;
where it is cut matters, because reviewers tend to give their verdict at the end. examples.py reads
reviews from files.

Source: Maas et al. 2011 (the data); Sun et al. 2019, "How to Fine-Tune BERT for Text
Classification?", section 5.3.1 (truncation: head and tail together did best on IMDb).

Next on the evening's path: data/batches.py.
"""

from typing import NamedTuple

import numpy as np

TRUNCATE = ("head", "tail", "head+tail")


class Review(NamedTuple):
    """A text and its class, an index into the list of classes."""

    id: int | str
    label: int
    text: str


class IMDbDataset:
    """Reviews as token ids: `dataset[i]` is (token_ids, label), a (n,) uint16 array and an int.

    Args:
        reviews: list[Review].
        tokenizer: Tokenizer.
        max_length: maximum number of tokens of a review, at least 1; None for no limit.
        truncate: what is kept of a longer review. "head": its first max_length tokens; "tail": its
            last; "head+tail": its first max_length // 4 tokens, and the rest from its end.

    Attributes:
        labels: (N,) int64. lengths: (N,) int64, tokens of each review after truncation.
    """

    def __init__(self, reviews, tokenizer, max_length=None, truncate="head+tail"):
        self.max_length = max_length
        encoded = tokenizer.encode_batch([review.text for review in reviews])
        self.token_ids = [cut(ids, max_length, truncate) for ids in encoded]
        self.labels = np.array([review.label for review in reviews])
        self.lengths = np.array([len(ids) for ids in self.token_ids])

    def __len__(self):
        return len(self.token_ids)

    def __getitem__(self, i):
        return self.token_ids[i], int(self.labels[i])


def cut(token_ids, limit, truncate):
    """(n,) token ids -> at most `limit` of them, the part that `truncate` names."""
    n = len(token_ids)
    if limit is None or n <= limit:
        return token_ids
    n_head = {"head": limit, "tail": 0, "head+tail": limit // 4}[truncate]
    n_tail = limit - n_head
    head = token_ids[:n_head]
    tail = token_ids[n - n_tail :]  # [-n_tail:] would be everything for 0
    return np.concatenate([head, tail])

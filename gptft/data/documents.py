"""Documents for pretraining: texts without labels, joined into one stream of tokens and cut into windows.

Each document is followed by end-of-text, all stand one after the other, and the last is followed by the first: the
stream is a circle. An epoch begins somewhere on it and cuts it into windows of equal length, so that each token is to
be predicted exactly once an epoch, and from other windows in the next. The windows come in an order of their own, a
permutation fixed by (seed, epoch), so a resumed run gets the very batch it would have had.

What other commands keep for val and test stays out of the training stream here, too: the splits are theirs, and a text
that stands in val or test is left out wherever else it stands.

Shapes: N tokens of the stream, T of a window, B windows of a batch.
Source: Radford et al. 2018, section 4.1 (contiguous text); end-of-text as the border is GPT-2's.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gptft.data.batching import TrainBatches
from gptft.data.sources import label_field, load_splits, read_records, text_field
from gptft.data.tokens import IGNORED
from gptft.errors import DataError


class WindowBatch(NamedTuple):
    """One forward pass. `n` counts the targets that are learned, `n_tokens` the tokens that are read."""

    token_ids: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64, what follows each token; -100 where nothing is learned
    n: int
    n_tokens: int


def load_documents(data, seed):
    """Read what `--data` names -> Source, with a text for each record.

    data, seed: as `load_splits` takes them; a folder's unsup.jsonl belongs to train. The splits of a source with labels
        are those of the classifier's script.
    Raises DataError.
    """
    source = load_splits(
        data,
        "reviews.jsonl",
        seed,
        text_field,
        lambda r: label_field(r) if "label" in r.fields else "",
    )
    splits = {
        split: [text_field(record) for record in records]
        for split, records in source.splits.items()
    }
    unlabelled = Path(data) / "unsup.jsonl"
    if unlabelled.is_file():
        splits["train"] += [text_field(record) for record in read_records(unlabelled)]
    held_out = {
        *splits["val"],
        *splits["test"],
    }  # a set of hashes: a text is found wherever it stands
    train = [text for text in splits["train"] if text not in held_out]
    left_out = len(splits["train"]) - len(train)
    if not train:
        raise DataError(f"every training text stands in val or test, too, {data}; add others")
    notes = [*source.notes, f"{left_out} texts that stand in val or test were left out of train"]
    return source._replace(splits=splits | {"train": train}, notes=notes)


def some_documents(texts, store, n_tokens):
    """Whole documents, evenly spaced, with about `n_tokens` tokens -> (their stream, their number, their UTF-8 bytes)."""
    n = max(1, min(len(texts), int(len(texts) * n_tokens / len(store.ids))))
    rows = np.linspace(0, len(texts) - 1, n).astype(int)
    return (
        np.concatenate([store[row] for row in rows]),
        n,
        sum(len(texts[row].encode()) for row in rows),
    )


def frequent_tokens(stream, n):
    """The `n` most frequent ids of a stream, or all that occur -> (K,) int64, ascending."""
    counts = np.bincount(stream)
    return np.sort(np.argsort(-counts, kind="stable")[: min(n, np.count_nonzero(counts))])


class Windows:
    """A stream cut into windows: `windows[k] -> (token_ids, targets)`, each (T,) int64.

    stream: (N,) token ids. length: T. vocabulary: (K,) int64, the ids that are learned, or None for all; targets are
        then their numbers in it. The last window may reach round to tokens of the first; these are not learned again.
    `begin` (attribute, 0 to N - 1) is where the first window begins; `numbers` maps ids to targets, None for themselves.
    """

    def __init__(self, stream, length, vocabulary=None):
        self.stream, self.length, self.begin = stream, length, 0
        self.lengths = np.full(-(-len(stream) // length), length)
        self.numbers = None
        if vocabulary is not None:
            self.numbers = np.full(1 << 16, IGNORED)  # by id, which is a uint16
            self.numbers[vocabulary] = np.arange(len(vocabulary))

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, k):
        place = k * self.length + np.arange(self.length + 1)
        ids = self.stream[(self.begin + place) % len(self.stream)].astype(np.int64)
        targets = ids[1:] if self.numbers is None else self.numbers[ids[1:]]
        return ids[:-1], np.where(place[:-1] < len(self.stream), targets, IGNORED)


def window_batch(windows, rows, _pad_id=None):
    """Windows of the given numbers -> WindowBatch."""
    token_ids, targets = (
        torch.from_numpy(np.stack(part)) for part in zip(*(windows[int(row)] for row in rows))
    )
    return WindowBatch(token_ids, targets, int((targets != IGNORED).sum()), token_ids.numel())


class WindowBatches(TrainBatches):
    """`TrainBatches` of windows; each epoch begins at a place of its own."""

    def __init__(self, windows, options):
        super().__init__(windows, window_batch, None, options)

    def step(self, epoch, i):
        """As `TrainBatches.step`: this process's micro-batches of step `i`."""
        self.dataset.begin = int(
            np.random.default_rng((self.options.seed, epoch, 1)).integers(len(self.dataset.stream))
        )
        return super().step(epoch, i)

"""Documents for pretraining: texts without labels, joined to one stream of tokens.

Each document is followed by end-of-text, and the last document by the first: the stream is a
circle. An epoch starts somewhere on it and cuts it into windows of equal length, so that every
token is predicted exactly once an epoch, and in other windows in the next. Windows cross the
borders of documents, as GPT-2's did.

The splits are those of the other scripts, and a text of val or test is left out of the training
stream wherever else it occurs.

Shapes: N tokens of the stream, B windows of T tokens.
Source: Radford et al. 2019 (end-of-text between documents).
"""

from pathlib import Path

import numpy as np
import torch

from gptft.config import IGNORED
from gptft.data.batches import Batch, TrainBatches
from gptft.data.records import label_field, read_records, text_field
from gptft.data.sources import load_splits
from gptft.errors import DataError


def load_documents(data, seed):
    """Read what `--data` names -> Source, whose splits are lists of str.

    data, seed: as in `load_splits`. A folder's unsup.jsonl belongs to train. A source with labels
    is split as the classifier's script splits it.

    Raises DataError.
    """

    def label_of(record):
        """The class to stratify by, or "" without one."""
        try:
            return label_field(record)
        except DataError:
            return ""

    source = load_splits(data, "reviews.jsonl", seed, [text_field], label_of)
    splits = {
        split: [text_field(record) for record in records]
        for split, records in source.splits.items()
    }
    unlabelled = Path(data) / "unsup.jsonl"
    if unlabelled.is_file():
        splits["train"] += [text_field(record) for record in read_records(unlabelled)]
    held_out = {*splits["val"], *splits["test"]}
    train = [text for text in splits["train"] if text not in held_out]
    n_left_out = len(splits["train"]) - len(train)
    if not train:
        raise DataError(f"every training text is also in val or test, {data}; add others")
    notes = [*source.notes, f"left {n_left_out} texts of val or test out of train"]
    return source._replace(splits=splits | {"train": train}, notes=notes)


def join_documents(token_ids, eot):
    """The ids of several texts, each followed by end-of-text: list of (n,) uint16 -> (N,)
    uint16."""
    end = np.array([eot], dtype=np.uint16)
    pieces = []
    for ids in token_ids:
        pieces += [ids, end]
    return np.concatenate(pieces)


def sample_documents(token_ids, n_tokens):
    """The rows, evenly spaced, of documents that have about n_tokens together -> list[int]."""
    n_all = len(token_ids)
    total = sum(len(ids) + 1 for ids in token_ids)
    n = int(n_all * n_tokens / total)
    n = max(1, min(n_all, n))
    rows = np.linspace(0, n_all - 1, n)
    return rows.astype(int).tolist()


class Windows:
    """A stream cut into windows: `windows[k]` is (token_ids, targets), each (T,) int64.

    The last window may reach around the circle to tokens that the first has already; they are not
    learned again.

    Args:
        stream: (N,) token ids. length: T.

    Attributes:
        start: where the first window starts, 0 to N - 1. lengths: T for each window.
    """

    def __init__(self, stream, length):
        self.stream = stream
        self.length = length
        self.start = 0
        n_windows = -(-len(stream) // length)
        self.lengths = np.full(n_windows, length)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, k):
        n = len(self.stream)
        place = k * self.length + np.arange(self.length + 1)
        place_in_stream = (self.start + place) % n
        token_ids = self.stream[place_in_stream].astype(np.int64)
        is_new = place[:-1] < n
        targets = np.where(is_new, token_ids[1:], IGNORED)
        return token_ids[:-1], targets


def window_batch(windows, rows):
    """Windows of the given numbers -> Batch."""
    examples = [windows[row] for row in rows]
    token_ids, targets = zip(*examples)
    token_ids = torch.from_numpy(np.stack(token_ids))  # (B, T)
    targets = torch.from_numpy(np.stack(targets))  # (B, T)
    return Batch(
        inputs=(token_ids,),
        targets=targets,
        rows=torch.as_tensor(rows),
        n=int((targets != IGNORED).sum()),
        n_tokens=token_ids.numel(),
    )


class WindowBatches(TrainBatches):
    """TrainBatches of windows; each epoch starts at another place of the stream."""

    def __init__(self, windows, options):
        super().__init__(windows, window_batch, options)

    def micro_batches(self, epoch, i):
        """As `TrainBatches.micro_batches`."""
        windows = self.dataset
        rng = np.random.default_rng((self.options.seed, epoch, 1))
        windows.start = int(rng.integers(len(windows.stream)))
        return super().micro_batches(epoch, i)

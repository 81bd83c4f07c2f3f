"""Examples to batches: rows of similar length together, padded on the right.

A review of 50 tokens padded to 500 is nine tenths wasted work. So rows are sorted by length within
pools of some batches, and then all batches of the epoch are shuffled. Each epoch is a permutation
fixed by (seed, epoch): every row occurs once, and the number of the step says where a run is, so a
resumed run gets exactly the batch it would have had. The largest batch is moved to the front of the
first epoch, so that a run that needs too much memory fails at its start.

Shapes: B rows, T positions of the padded batch.

Next on the evening's path: model.py.
"""

from typing import NamedTuple

import numpy as np
import torch

from gptft import distributed
from gptft.config import IGNORED

# Padded lengths. Each new shape of a batch costs a compiled model a compilation.
BUCKETS = (*range(32, 512, 32), *range(512, 1025, 128))
POOL = 32  # batches whose rows are sorted together
EVAL_BATCH = 32  # rows of a batch in evaluation, unless the caller says otherwise
PADDING = 0  # any id will do: no real token sees it (attention is causal), and no result is used


class Batch(NamedTuple):
    """One forward pass: `model(*inputs, targets=targets)` is the sum of its losses."""

    inputs: tuple  # (token_ids,), or for a classifier (token_ids, lengths): (B, T) and (B,) int64
    targets: torch.Tensor  # (B, T) tokens or (B,) classes, int64; -100 where nothing is learned
    rows: torch.Tensor  # (B,) int64, the row numbers in the dataset
    n: int  # targets that are learned
    n_tokens: int  # tokens without padding

    def to(self, device):
        """The batch with inputs and targets on a device. Copies to a GPU are asynchronous."""
        if device == "cpu":
            return self
        *inputs, targets = [
            tensor.pin_memory().to(device, non_blocking=True)
            for tensor in (*self.inputs, self.targets)
        ]
        return self._replace(inputs=tuple(inputs), targets=targets)


def bucket_length(length, limit=None):
    """The padded length of a batch whose longest row has `length` tokens, at most `limit`."""
    padded = next((bucket for bucket in BUCKETS if bucket >= length), length)
    return min(padded, limit or padded)


def pad(rows, length, value):
    """list of (n,) integer arrays -> (B, length) int64, filled with `value` on the right."""
    padded = np.full((len(rows), length), value)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def classifier_batch(dataset, rows):
    """Rows of a dataset of (token_ids, label) -> Batch."""
    token_ids, labels = zip(*(dataset[row] for row in rows))
    lengths = torch.tensor([len(ids) for ids in token_ids])
    T = bucket_length(int(lengths.max()), dataset.max_length)
    return Batch(
        inputs=(pad(token_ids, T, PADDING), lengths),
        targets=torch.tensor(labels),
        rows=torch.as_tensor(rows),
        n=len(rows),
        n_tokens=int(lengths.sum()),
    )


def language_model_batch(dataset, rows):
    """Rows of a dataset of (token_ids, labels), aligned -> Batch.

    The logits of a position predict the token after it. So labels move one position to the left,
    and the last position has no target:

        token_ids   A  B  C        labels   -100  B  C        targets   B  C  -100
    """
    token_ids, labels = zip(*(dataset[row] for row in rows))
    lengths = [len(ids) for ids in token_ids]
    T = bucket_length(max(lengths), dataset.max_length)
    shifted = [ids[1:] for ids in labels]
    targets = pad(shifted, T, IGNORED)
    return Batch(
        inputs=(pad(token_ids, T, PADDING),),
        targets=targets,
        rows=torch.as_tensor(rows),
        n=int((targets != IGNORED).sum()),
        n_tokens=sum(lengths),
    )


def epoch_batches(lengths, batch_size, seed, epoch):
    """The row numbers of each batch of an epoch: list of (batch_size,) arrays, one maybe shorter.

    lengths: (N,) int, in tokens. The same (seed, epoch) gives the same batches on every machine.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    batches = []
    size = POOL * batch_size
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        by_length = np.argsort(lengths[pool], kind="stable")
        pool = pool[by_length]
        batches += np.split(pool, range(batch_size, len(pool), batch_size))
    batches = [batches[i] for i in rng.permutation(len(batches))]
    if epoch == 0:
        sizes = [len(batch) * lengths[batch].max() for batch in batches]
        largest = batches.pop(np.argmax(sizes))
        batches.insert(0, largest)
    return batches


class TrainBatches:
    """The micro-batches of every step of a training run.

    Args:
        dataset: has `lengths`, and makes examples.
        collate: (dataset, rows) -> Batch.
        options: TrainOptions; uses epochs, max_steps, seed, batch_size (rows of a step over all
            processes) and micro_batch_size (rows that a process takes at once).
    """

    def __init__(self, dataset, collate, options):
        self.dataset = dataset
        self.collate = collate
        self.options = options
        self.steps_per_epoch = -(-len(dataset) // options.batch_size)
        self.n_steps = options.epochs * self.steps_per_epoch
        if options.max_steps:
            self.n_steps = min(self.n_steps, options.max_steps)
        self._epoch, self._batches = None, None

    def rows(self, epoch, i):
        """The rows of step i of an epoch, both from 0, over all processes: (n,) int64."""
        if epoch != self._epoch:
            self._batches = epoch_batches(
                self.dataset.lengths,
                self.options.batch_size,
                self.options.seed,
                epoch,
            )
            self._epoch = epoch
        return self._batches[i]

    def micro_batches(self, epoch, i):
        """This process's micro-batches of step i of an epoch: list[Batch], at least one."""
        rows = self.rows(epoch, i)
        own = rows[distributed.rank() :: distributed.world_size()]
        if not len(own):
            # The processes wait for each other to add up their gradients. Without targets, this
            # one's is 0.
            batch = self.collate(self.dataset, rows[:1])
            nothing = torch.full_like(batch.targets, IGNORED)
            return [batch._replace(targets=nothing, n=0, n_tokens=0)]
        size = self.options.micro_batch_size or len(own)
        return [
            self.collate(self.dataset, own[start : start + size])
            for start in range(0, len(own), size)
        ]


def eval_batches(dataset, collate, batch_size=EVAL_BATCH, rows=None):
    """Yield batches of the given rows (default: all), each row once over all processes.

    The longest rows come first, so that a lack of memory shows at once.
    """
    if rows is None:
        rows = np.arange(len(dataset))
    longest_first = np.argsort(-dataset.lengths[rows], kind="stable")
    rows = rows[longest_first]
    own = rows[distributed.rank() :: distributed.world_size()]
    for start in range(0, len(own), batch_size):
        yield collate(dataset, own[start : start + batch_size])

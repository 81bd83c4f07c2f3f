"""Examples -> batches: rows of similar length together, padded on the right to one of a few lengths.

A review of 50 tokens padded to 500 is nine tenths wasted work, so rows are sorted by length within pools of some
batches, and the batches are then shuffled: order stays random where it matters. Only the very first batch of a run is
its largest, so that a run which needs more memory than there is says so in its first step. Each epoch is a permutation
fixed by (seed, epoch), so every row is seen exactly once an epoch, and a position in training is just two numbers: a
resumed run asks for the next step and gets the very batch it would have had. Padded lengths come from a short list,
because every new shape costs a compiled model a recompilation.

Shapes: B rows, T positions of the padded batch.
"""

from typing import NamedTuple

import numpy as np
import torch

from gptft import distributed
from gptft.data.tokens import IGNORED

BUCKETS = (*range(32, 512, 32), *range(512, 1025, 128))  # padded lengths, in tokens
POOL = 32  # batches that are sorted by length together
EVAL_BATCH = 32  # rows of a pass of evaluation, or prompts answered at the same time, at most


class ClassifierBatch(NamedTuple):
    """One forward pass of a classifier. `n` counts what the loss sums over (rows), `n_tokens` the real tokens."""

    token_ids: torch.Tensor  # (B, T) int64
    lengths: torch.Tensor  # (B,) int64, real tokens a row
    labels: torch.Tensor  # (B,) int64
    rows: torch.Tensor  # (B,) int64, row numbers in the dataset
    n: int
    n_tokens: int


class LMBatch(NamedTuple):
    """One forward pass of a language model. `n` counts the tokens that are learned, `n_tokens` the real ones.

    `learned` says where: entry p = row * T + t stands for position t of a row, whose logits are judged by the label of
    the next position, labels.flatten()[p + 1]. So the labels are not shifted, and the first of a row is never learned.
    """

    token_ids: torch.Tensor  # (B, T) int64
    labels: torch.Tensor  # (B, T) int64, -100 where nothing is learned
    learned: torch.Tensor  # (n,) int64, ascending
    rows: torch.Tensor  # (B,) int64, row numbers in the dataset
    n: int
    n_tokens: int


def bucket_length(length, limit=None):
    """The padded length for a longest row of `length` tokens, at most `limit`."""
    padded = next((bucket for bucket in BUCKETS if bucket >= length), length)
    return min(padded, limit or padded)


def pad(rows, length, value):
    """list of (n_i,) integer arrays -> (B, length) int64 tensor, filled with `value` on the right."""
    out = torch.full((len(rows), length), value, dtype=torch.int64)
    for target, row in zip(out, rows):
        target[: len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
    return out


def _read(dataset, rows, pad_id):
    """Rows of a dataset -> their ids, padded, (B, T) int64; what stands beside each; their lengths; `rows`, (B,) int64."""
    token_ids, labels = zip(*(dataset[int(row)] for row in rows))
    lengths = [len(ids) for ids in token_ids]
    padded = pad(token_ids, bucket_length(max(lengths), dataset.max_length), pad_id)
    return padded, labels, lengths, torch.from_numpy(np.asarray(rows, dtype=np.int64))


def classifier_batch(dataset, rows, pad_id):
    """Rows of a dataset of (token_ids, label) -> ClassifierBatch."""
    token_ids, labels, lengths, rows = _read(dataset, rows, pad_id)
    return ClassifierBatch(
        token_ids,
        torch.tensor(lengths),
        torch.tensor(labels),
        rows,
        n=len(rows),
        n_tokens=sum(lengths),
    )


def lm_batch(dataset, rows, pad_id):
    """Rows of a dataset of (token_ids, labels), labels aligned and -100 where nothing is learned -> LMBatch."""
    token_ids, labels, lengths, rows = _read(dataset, rows, pad_id)
    T = token_ids.shape[1]
    labels = pad(labels, T, IGNORED)  # never by pad_id, which is learned where it ends a text
    row, t = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    return LMBatch(token_ids, labels, row * T + t, rows, n=len(row), n_tokens=sum(lengths))


def epoch_batches(lengths, batch_size, seed, epoch):
    """The row numbers of each batch of one epoch: list of (batch_size,) int64 arrays, one of them maybe shorter.

    Args: `lengths` (N,) int, in tokens. The same (seed, epoch) gives the same batches, on any machine.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pools = [order[i : i + POOL * batch_size] for i in range(0, len(order), POOL * batch_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    batches = [batches[i] for i in rng.permutation(len(batches))]
    if epoch == 0:
        largest = max(
            range(len(batches)), key=lambda i: len(batches[i]) * lengths[batches[i]].max()
        )
        batches.insert(0, batches.pop(largest))
    return batches


class TrainBatches:
    """All optimizer steps of a training run: `batches.step(epoch, i)` -> this process's micro-batches of that step.

    Args: `dataset` has `lengths` and makes examples, `collate(dataset, rows, pad_id)` makes a batch of them; TrainOptions
    give epochs, max_steps, seed, `batch_size` (rows of a step over all processes) and `micro_batch_size` (rows that
    one process takes at once).
    """

    def __init__(self, dataset, collate, pad_id, options):
        self.dataset, self.collate, self.pad_id, self.options = dataset, collate, pad_id, options
        self.steps_per_epoch = -(-len(dataset) // options.batch_size)
        self.n_steps = min(options.epochs * self.steps_per_epoch, options.max_steps or 2**62)
        self._epoch, self._batches = None, None

    def rows(self, epoch, i):
        """The row numbers of step i (from 0) of an epoch (from 0), those of all processes, (n,) int64."""
        if epoch != self._epoch:
            batches = epoch_batches(
                self.dataset.lengths, self.options.batch_size, self.options.seed, epoch
            )
            self._epoch, self._batches = epoch, batches
        return self._batches[i]

    def step(self, epoch, i):
        """This process's micro-batches of step i of an epoch, at least one.

        Where the rows are fewer than the processes, one that has none gets another's first row, with n = 0: it must take
        part in the exchange of gradients, and what counts 0 changes nothing.
        """
        whole = self.rows(epoch, i)
        rows = whole[distributed.rank() :: distributed.world_size()]
        if not len(rows):
            return [self.collate(self.dataset, whole[:1], self.pad_id)._replace(n=0, n_tokens=0)]
        size = self.options.micro_batch_size or len(rows)
        return [
            self.collate(self.dataset, rows[j : j + size], self.pad_id)
            for j in range(0, len(rows), size)
        ]


def eval_batches(dataset, collate, pad_id, batch_size, rows=None):
    """Yields batches of `batch_size`, made by `collate`: each of `rows` (default: all) once over all processes, the longest first."""
    rows = np.arange(len(dataset)) if rows is None else rows
    rows = rows[np.argsort(-dataset.lengths[rows], kind="stable")][
        distributed.rank() :: distributed.world_size()
    ]
    for i in range(0, len(rows), batch_size):
        yield collate(dataset, rows[i : i + batch_size], pad_id)

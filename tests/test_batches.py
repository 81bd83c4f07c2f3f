"""Batches: every row once an epoch, rows of similar length together, padding that is never read."""

import numpy as np
import pytest
import torch

from gptft.config import TrainOptions
from gptft.data.batches import (
    TrainBatches,
    bucket_length,
    classifier_batch,
    epoch_batches,
    eval_batches,
)
from gptft.data.classification import IMDbDataset, Review


@pytest.fixture
def dataset(tokenizer):
    reviews = [Review(i, i % 2, "very good " * (1 + 7 * i % 60)) for i in range(37)]
    return IMDbDataset(reviews, tokenizer, max_length=100)


def test_padded_lengths():
    """Few different lengths, each at most an eighth above what a long row needs."""
    padded = {1: 32, 32: 32, 33: 64, 256: 256, 257: 288, 513: 640, 1024: 1024, 1500: 1500}
    assert {n: bucket_length(n) for n in padded} == padded
    assert bucket_length(165, limit=180) == 180 and bucket_length(100, limit=180) == 128


def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 300, size=1003)
    batches = epoch_batches(lengths, 8, seed=1, epoch=1)
    assert sorted(np.concatenate(batches)) == list(range(1003)) and len(batches) == 126
    again, *others = (epoch_batches(lengths, 8, *key) for key in ((1, 1), (1, 2), (2, 1)))
    assert all(map(np.array_equal, batches, again))
    for other in others:
        assert not all(map(np.array_equal, batches, other))


def test_batches_of_similar_length_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 500, size=2000)
    batches = epoch_batches(lengths, 16, seed=0, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert 1 - lengths.sum() / padded < 0.08  # nearly half in random order
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.25  # no drift from short to long


def test_the_largest_batch_comes_first():
    """A lack of memory then shows in the first step, not after an hour. A short batch of long rows
    needs less."""
    lengths = np.random.default_rng(0).integers(1, 500, size=1000)
    first, second = (epoch_batches(lengths, 16, seed=0, epoch=epoch) for epoch in (0, 1))
    assert lengths[first[0]].max() == lengths.max() > lengths[second[0]].max()
    assert sorted(np.concatenate(first)) == list(range(1000)) and len(first[0]) == 16
    assert len(epoch_batches(np.full(10, 99), 4, seed=0, epoch=0)[0]) == 4


def test_the_contents_of_a_batch(dataset):
    batch = classifier_batch(dataset, np.array([5, 0]))
    token_ids, lengths = batch.inputs
    assert token_ids.shape == (2, 96)  # for 72 tokens
    for row, i in enumerate((5, 0)):
        ids, label = dataset[i]
        assert token_ids[row, : lengths[row]].tolist() == ids.tolist()
        assert lengths[row] == len(ids) and batch.targets[row] == label
    assert batch.rows.tolist() == [5, 0] and batch.n == 2 and batch.n_tokens == lengths.sum()
    assert token_ids.dtype == lengths.dtype == batch.targets.dtype == torch.int64


def test_micro_batches_are_a_partition_of_the_step(dataset):
    def batches(**options):
        options = TrainOptions(epochs=2, batch_size=8, **options)
        return TrainBatches(dataset, classifier_batch, options)

    whole, parts = batches(), batches(micro_batch_size=3)
    assert whole.steps_per_epoch == 5 and whole.n_steps == 10
    assert batches(max_steps=7).n_steps == 7
    for i in range(5):
        [one], several = whole.micro_batches(1, i), parts.micro_batches(1, i)
        rows = [batch.rows.tolist() for batch in several]
        assert sum(rows, []) == one.rows.tolist() and max(map(len, rows)) <= 3


def test_a_process_without_rows_learns_nothing(dataset, monkeypatch):
    monkeypatch.setattr("gptft.distributed.rank", lambda: 2)
    monkeypatch.setattr("gptft.distributed.world_size", lambda: 3)
    options = TrainOptions(epochs=1, batch_size=2)
    [batch] = TrainBatches(dataset, classifier_batch, options).micro_batches(0, 0)
    assert batch.targets.tolist() == [-100] and batch.n == batch.n_tokens == 0


@pytest.mark.parametrize("rows, batch_size", [(range(37), 1), (range(37), 64), ([30, 2, 7], 2)])
def test_evaluation_reads_each_row_once(dataset, rows, batch_size):
    """The longest rows come first, again for lack of memory."""
    batches = list(eval_batches(dataset, classifier_batch, batch_size, np.array(rows)))
    found = torch.cat([batch.rows for batch in batches]).tolist()
    assert sorted(found) == sorted(rows)
    assert max(len(batch.rows) for batch in batches) <= batch_size
    assert dataset.lengths[found[0]] == dataset.lengths[rows].max()


def test_evaluation_reads_all_rows(dataset):
    assert sum(batch.n for batch in eval_batches(dataset, classifier_batch)) == 37

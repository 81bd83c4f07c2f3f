"""Token stores and batches: every row once, nothing lost between epochs, caches that notice a change."""

import numpy as np
import pytest
import torch

from gptft.config import TrainOptions
from gptft.data.batching import (
    BUCKETS,
    TrainBatches,
    bucket_length,
    classifier_batch,
    epoch_batches,
    eval_batches,
)
from gptft.data.imdb import IMDbDataset, Review
from gptft.data.tokens import TokenStore, cache_stem

TEXTS = ["one", "", "two words", "naïve 北京 " * 40, "<|endoftext|>"]


@pytest.fixture
def dataset(tokenizer):
    reviews = [Review(i, i % 2, "very good " * (1 + 7 * i % 60)) for i in range(37)]
    return IMDbDataset(reviews, tokenizer, max_length=100)


def test_store_holds_the_tokens_of_each_text(tokenizer):
    store = TokenStore.build(TEXTS, tokenizer)
    assert [list(store[i]) for i in range(len(store))] == [tokenizer.encode(text) for text in TEXTS]
    assert store.ids.dtype == np.uint16 and list(store.lengths) == [
        len(tokenizer.encode(text)) for text in TEXTS
    ]


def test_cache_is_read_when_fresh_and_not_when_stale(tokenizer, tmp_path, monkeypatch):
    stem = tmp_path / ".tokens" / "train"
    first = TokenStore.build(TEXTS, tokenizer, stem)
    monkeypatch.setattr(tokenizer, "encode_batch", None)  # tokenising again would fail
    again = TokenStore.build(TEXTS, tokenizer, stem)
    assert isinstance(again.ids, np.memmap) and np.array_equal(again.ids, first.ids)
    monkeypatch.undo()
    # One changed text, or the same characters cut elsewhere, is another list.
    for changed in (["One", *TEXTS[1:]], ["onet", "", "wo words", *TEXTS[3:]]):
        assert list(TokenStore.build(changed, tokenizer, stem)[0]) == tokenizer.encode(changed[0])
        assert (
            len(list(stem.parent.iterdir())) == 2
        )  # the stale pair is gone, no temporary file is left


def test_folder_that_cannot_be_written_means_no_cache(tokenizer, tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    assert len(TokenStore.build(TEXTS, tokenizer, tmp_path / "file" / "train")) == len(TEXTS)


def test_where_caches_go(tmp_path):
    assert cache_stem("sample", "val") is None
    assert cache_stem(tmp_path, "val") == tmp_path / ".tokens" / "val"
    assert cache_stem(tmp_path / "my.csv", "val") == tmp_path / ".tokens" / "my-val"


def test_bucket_lengths():
    assert [bucket_length(n) for n in (1, 32, 33, 256, 257, 513, 1024, 1500)] == [
        32,
        32,
        64,
        256,
        288,
        640,
        1024,
        1500,
    ]
    assert bucket_length(165, limit=180) == 180 and bucket_length(100, limit=180) == 128
    assert list(BUCKETS) == sorted(BUCKETS)


def test_an_epoch_is_a_permutation_fixed_by_seed_and_number():
    lengths = np.random.default_rng(0).integers(1, 300, size=1003)
    batches = epoch_batches(lengths, 8, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(1003)) and len(batches) == 126
    same, other_epoch, other_seed = (
        epoch_batches(lengths, 8, *key) for key in ((1, 0), (1, 1), (2, 0))
    )
    assert all(map(np.array_equal, batches, same))
    assert not all(map(np.array_equal, batches, other_epoch)) and not all(
        map(np.array_equal, batches, other_seed)
    )


def test_batches_hold_rows_of_similar_length_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 500, size=2000)
    batches = epoch_batches(lengths, 16, seed=0, epoch=0)
    padding = 1 - lengths.sum() / sum(lengths[b].max() * len(b) for b in batches)
    assert padding < 0.08  # a random order wastes nearly half
    means = np.array([lengths[b].mean() for b in batches])
    assert (
        abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25
    )  # no drift from short to long


def test_a_run_begins_with_its_longest_row_and_so_does_an_evaluation(dataset):
    # Too little memory then shows in the first step, not after an hour.
    lengths = np.random.default_rng(0).integers(1, 500, size=1000)
    first, second = (epoch_batches(lengths, 16, seed=0, epoch=epoch) for epoch in (0, 1))
    assert lengths[first[0]].max() == lengths.max()
    assert sorted(np.concatenate(first)) == list(range(1000)) and len(first[0]) == 16
    assert lengths[second[0]].max() < lengths.max()
    assert (
        len(epoch_batches(np.full(10, 99), 4, seed=0, epoch=0)[0]) == 4
    )  # not the short one, which needs less
    first_pass = next(eval_batches(dataset, classifier_batch, 0, 4))
    assert first_pass.lengths.max() == dataset.lengths.max()


def test_batch_contents(dataset, tokenizer):
    batch = classifier_batch(dataset, np.array([5, 0]), pad_id=tokenizer.eot)
    assert batch.token_ids.shape == (2, bucket_length(max(len(dataset[5][0]), len(dataset[0][0]))))
    for row, i in enumerate((5, 0)):
        ids, label = dataset[i]
        n = batch.lengths[row]
        assert batch.token_ids[row, :n].tolist() == list(ids) and batch.labels[row] == label
        assert (batch.token_ids[row, n:] == tokenizer.eot).all()
    assert batch.n == 2 and batch.n_tokens == batch.lengths.sum() and batch.rows.tolist() == [5, 0]


def test_micro_batches_are_a_partition_of_the_step(dataset):
    whole = TrainBatches(dataset, classifier_batch, 0, TrainOptions(epochs=2, batch_size=8))
    parts = TrainBatches(
        dataset, classifier_batch, 0, TrainOptions(epochs=2, batch_size=8, micro_batch_size=3)
    )
    assert whole.steps_per_epoch == 5 and whole.n_steps == 10
    for i in range(5):
        [one], several = whole.step(1, i), parts.step(1, i)
        assert torch.cat([b.rows for b in several]).tolist() == one.rows.tolist()
        assert max(len(b.rows) for b in several) <= 3
    assert (
        TrainBatches(
            dataset, classifier_batch, 0, TrainOptions(epochs=2, batch_size=8, max_steps=7)
        ).n_steps
        == 7
    )


def test_evaluation_counts_each_row_once(dataset):
    for batch_size in (1, 5, 64):
        rows = torch.cat([b.rows for b in eval_batches(dataset, classifier_batch, 0, batch_size)])
        assert sorted(rows.tolist()) == list(range(37))
    some = torch.cat(
        [b.rows for b in eval_batches(dataset, classifier_batch, 0, 4, rows=np.array([30, 2, 7]))]
    )
    assert sorted(some.tolist()) == [2, 7, 30]

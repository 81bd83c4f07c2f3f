"""Documents joined to a stream and cut into windows: nothing lost, nothing twice, nothing that is kept for a test."""

import json
import math

import numpy as np
import pytest
import torch

from gptft.config import TrainOptions
from gptft.data.documents import (
    WindowBatches,
    Windows,
    frequent_tokens,
    load_documents,
    some_documents,
    window_batch,
)
from gptft.data.imdb import load_reviews
from gptft.data.tokens import TokenStore
from gptft.errors import DataError


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder)


# ---------------------------------------------------------------- reading


def test_what_is_kept_for_val_and_test_is_never_trained_on(tmp_path):
    """A review that also stands among the unlabelled ones would be learned by heart, and then found easy."""
    unsup = [*"abcdef", "in val", "in test", "in test"]
    data = write(
        tmp_path / "d",
        train=["t1", "in val", "t2"],
        val=["in val", "v"],
        test=["in test", "u"],
        unsup=unsup,
    )
    documents = load_documents(data, seed=0)
    assert documents.splits == {
        "train": ["t1", "t2", *"abcdef"],
        "val": ["in val", "v"],
        "test": ["in test", "u"],
    }
    assert "4 texts that stand in val or test were left out of train" in documents.notes


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    with pytest.raises(DataError, match="every training text stands in val or test"):
        load_documents(write(tmp_path / "d", train=["a"], val=["a"], test=["b"]), seed=0)


def test_the_split_is_the_one_of_the_classifier(tmp_path):
    """Pretrained on a file, then fine-tuned on it: split in another way, the first would have read the second's test."""
    rows = [{"text": f"text {i}", "label": "ab"[i % 3 == 0]} for i in range(60)]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for seed in range(3):
        reviews = {
            split: [review.text for review in reviews]
            for split, reviews in load_reviews(path, seed).splits.items()
        }
        assert load_documents(str(path), seed).splits == reviews
    assert {split: len(texts) for split, texts in load_documents("sample", 0).splits.items()} == {
        "train": 480,
        "val": 120,
        "test": 200,
    }


@pytest.mark.parametrize(
    "text, border, documents",
    [
        ("one\nline two\n\n \nthree\r\n\r\n\r\nfour\n", "\n\n", ["one\nline two", "three", "four"]),
        ("one\n\nstill one\n<|endoftext|>\ntwo", "<|endoftext|>", ["one\n\nstill one", "two"]),
    ],
)
def test_plain_text(tmp_path, text, border, documents):
    more = [f"filler {i}" for i in range(30)]  # so that there is something to split off
    (tmp_path / "my.txt").write_bytes(border.join([text, *more]).encode())
    found = load_documents(str(tmp_path / "my.txt"), 0).splits
    assert sorted(sum(found.values(), [])) == sorted(documents + more) and len(found["val"]) == 3


# ---------------------------------------------------------------- the stream


def test_each_document_is_ended(tokenizer):
    store = TokenStore.build(["one two", "<|endoftext|>", "3"], tokenizer, end=tokenizer.eot)
    spelled = tokenizer.encode("<|endoftext|>")  # in a text it is a text
    assert 50256 not in spelled
    assert store.ids.tolist() == [
        *tokenizer.encode("one two"),
        50256,
        *spelled,
        50256,
        *tokenizer.encode("3"),
        50256,
    ]
    assert store.ids.dtype == np.uint16 and store[2].tolist() == [18, 50256]


def test_some_documents_are_whole_and_counted_in_bytes(tokenizer):
    texts = ["é" * (i + 1) for i in range(100)]
    store = TokenStore.build(texts, tokenizer, end=tokenizer.eot)
    stream, n, n_bytes = some_documents(texts, store, len(store.ids) // 10)
    kept = tokenizer.decode(stream.tolist()).split("<|endoftext|>")
    assert kept.pop() == "" and kept == [texts[i] for i in (0, 11, 22, 33, 44, 55, 66, 77, 88, 99)]
    assert n == 10 and n_bytes == sum(len(text.encode()) for text in kept) == 2 * (10 + 495)
    stream, n, n_bytes = some_documents(texts, store, 10**9)
    assert np.array_equal(stream, store.ids) and n == 100 and n_bytes == 2 * 5050


def test_frequent_tokens_by_hand():
    stream = np.array([5, 5, 5, 9, 9, 2, 7, 7], dtype=np.uint16)
    assert frequent_tokens(stream, 2).tolist() == [5, 7]  # of equals the smaller id
    assert frequent_tokens(stream, 3).tolist() == [5, 7, 9]
    assert frequent_tokens(stream, 100).tolist() == [2, 5, 7, 9]  # none that never occurs


# ---------------------------------------------------------------- windows


def test_windows_by_hand():
    windows = Windows(np.arange(10, 20, dtype=np.uint16), 4)
    rows = [
        (ids.tolist(), targets.tolist())
        for ids, targets in (windows[k] for k in range(len(windows)))
    ]
    assert rows == [
        ([10, 11, 12, 13], [11, 12, 13, 14]),
        ([14, 15, 16, 17], [15, 16, 17, 18]),
        ([18, 19, 10, 11], [19, 10, -100, -100]),
    ]
    windows.begin = 7
    rows = [(ids.tolist(), targets.tolist()) for ids, targets in (windows[k] for k in range(3))]
    assert rows == [
        ([17, 18, 19, 10], [18, 19, 10, 11]),
        ([11, 12, 13, 14], [12, 13, 14, 15]),
        ([15, 16, 17, 18], [16, 17, -100, -100]),
    ]
    batch = window_batch(windows, [2, 0])
    assert batch.token_ids.tolist() == [[15, 16, 17, 18], [17, 18, 19, 10]] and (
        batch.n,
        batch.n_tokens,
    ) == (6, 8)


def test_windows_of_a_vocabulary_learn_only_its_tokens():
    stream = np.array([5, 8, 5, 50256, 6, 8], dtype=np.uint16)
    ids, targets = Windows(stream, 6, np.array([5, 8]))[0]
    assert ids.tolist() == stream.tolist() and targets.tolist() == [1, 0, -100, -100, 1, 0]
    assert window_batch(Windows(stream, 3, np.array([5, 8])), [0, 1]).n == 4


def epoch_of(batches, epoch):
    """All (token, target) pairs of an epoch that are learned, and the windows as tuples."""
    pairs, rows = [], []
    for i in range(batches.steps_per_epoch):
        for batch in batches.step(epoch, i):
            learned = batch.targets != -100
            assert batch.n == learned.sum() and batch.n_tokens == batch.token_ids.numel()
            pairs += zip(batch.token_ids[learned].tolist(), batch.targets[learned].tolist())
            rows += map(tuple, batch.token_ids.tolist())
    return pairs, rows


@pytest.mark.parametrize(
    "N, T, batch_size, micro",
    [(1000, 16, 8, None), (1003, 16, 7, 3), (40, 64, 2, None), (64, 64, 1, 1)],
)
def test_an_epoch_learns_each_token_once_and_the_next_cuts_elsewhere(N, T, batch_size, micro):
    """Lost or repeated tokens would not show in any loss."""
    stream = np.random.default_rng(0).permutation(N).astype(np.uint16)  # all different
    follows = {int(a): int(b) for a, b in zip(stream, np.roll(stream, -1))}
    batches = WindowBatches(
        Windows(stream, T),
        TrainOptions(epochs=3, batch_size=batch_size, micro_batch_size=micro, seed=1),
    )
    assert (
        batches.steps_per_epoch == math.ceil(math.ceil(N / T) / batch_size)
        and batches.n_steps == 3 * batches.steps_per_epoch
    )
    epochs = [epoch_of(batches, epoch) for epoch in range(3)]
    for pairs, _ in epochs:
        assert sorted(pairs) == sorted(follows.items())
    assert len({frozenset(rows) for _, rows in epochs}) == 3
    # A resumed run asks for a step in the middle, and a new one has another seed.
    last = batches.steps_per_epoch - 1
    again = WindowBatches(Windows(stream, T), batches.options).step(1, last)
    assert torch.equal(again[-1].token_ids, batches.step(1, last)[-1].token_ids)
    other = TrainOptions(epochs=3, batch_size=batch_size, seed=2)
    assert epoch_of(WindowBatches(Windows(stream, T), other), 0)[1] != epochs[0][1]


def test_the_windows_are_shuffled():
    """In the order of the file a batch would hold neighbours, and the last documents would be the best remembered."""
    batches = WindowBatches(
        Windows(np.arange(4096, dtype=np.uint16), 16), TrainOptions(epochs=1, batch_size=8)
    )
    first = [row[0] for row in epoch_of(batches, 0)[1]]
    assert np.abs(np.diff(first)).min() >= 16 and np.mean(np.abs(np.diff(first)) == 16) < 0.05

"""Documents joined to a stream and cut into windows: nothing is lost or repeated, and nothing of
val or test is trained on."""

import math

import numpy as np
import pytest
import torch
from script_runs import write_rows

from gptft.config import TrainOptions
from gptft.data.documents import (
    WindowBatches,
    Windows,
    join_documents,
    load_documents,
    sample_documents,
    window_batch,
)
from gptft.data.examples import load_reviews

# ---------------------------------------------------------------- reading


def write(folder, **files):
    for name, texts in files.items():
        write_rows(folder / f"{name}.jsonl", [{"text": text} for text in texts])


def test_texts_of_val_and_test_are_left_out_of_train(tmp_path):
    """The unlabelled reviews of IMDb repeat some labelled ones."""
    val, test = ["in val", "v"], ["in test", "u"]
    unsup = ["a", "in val", "b", "in test", "in test"]
    write(tmp_path, train=["t1", "in val", "t2"], val=val, test=test, unsup=unsup)
    documents = load_documents(tmp_path, seed=0)
    assert documents.splits == {"train": ["t1", "t2", "a", "b"], "val": val, "test": test}
    assert "left 4 texts of val or test out of train" in documents.notes


def test_the_split_is_that_of_the_classifier(tmp_path):
    """Otherwise a model pretrained on a file had read the test set of its own fine-tuning."""
    rows = [{"text": f"text {i}", "label": "ab"[i % 3 == 0]} for i in range(60)]
    path = write_rows(tmp_path / "my.jsonl", rows)
    for seed in range(3):
        reviews = load_reviews(path, seed).splits
        texts = {split: [review.text for review in of] for split, of in reviews.items()}
        assert load_documents(path, seed).splits == texts
    path.write_text(path.read_text(encoding="utf-8").replace("label", "Class"), encoding="utf-8")
    documents = load_documents(path, seed)
    assert documents.splits == texts
    assert documents.notes[0] == "text from 'text', label from 'Class'"
    path.write_text('{"body": "a", "class": [1]}\n{"body": "b"}\n{"body": "c"}', encoding="utf-8")
    assert load_documents(path, 0).notes[0] == "text from 'body', label from 'class'"
    sizes = {split: len(texts) for split, texts in load_documents("sample", 0).splits.items()}
    assert sizes == {"train": 480, "val": 120, "test": 200}


# ---------------------------------------------------------------- the stream


def test_each_document_ends_with_end_of_text(tokenizer):
    """Its spelling in a text is only text."""
    texts = ["one two", "<|endoftext|>", "3"]
    stream = join_documents(tokenizer.encode_batch(texts), tokenizer.eot)
    expected = [id for text in texts for id in [*tokenizer.encode(text), 50256]]
    assert stream.tolist() == expected and stream.dtype == np.uint16
    assert expected.count(50256) == 3


def test_a_sample_is_spread_over_all_documents():
    """About n_tokens, with an end-of-text for each document: here one of ten has 11 tokens."""
    token_ids = [np.zeros(10, dtype=np.uint16)] * 100
    assert sample_documents(token_ids, 110) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert sample_documents(token_ids, 10**9) == list(range(100))
    assert sample_documents(token_ids, 1) == [0]


# ---------------------------------------------------------------- windows


def test_windows_worked_by_hand():
    """The last window reaches around the circle, and learns nothing there a second time."""
    windows = Windows(np.arange(10, 20, dtype=np.uint16), 4)
    windows.start = 7
    batch = window_batch(windows, [2, 0, 1])
    [token_ids] = batch.inputs
    assert token_ids.tolist() == [[15, 16, 17, 18], [17, 18, 19, 10], [11, 12, 13, 14]]
    assert batch.targets.tolist() == [[16, 17, -100, -100], [18, 19, 10, 11], [12, 13, 14, 15]]
    assert (len(windows), batch.n, batch.n_tokens) == (3, 10, 12)


def epoch_of(batches, epoch):
    """The (token, target) pairs that an epoch learns, and its windows as tuples."""
    pairs, windows = [], []
    for i in range(batches.steps_per_epoch):
        for batch in batches.micro_batches(epoch, i):
            [token_ids] = batch.inputs
            learned = batch.targets != -100
            pairs += zip(token_ids[learned].tolist(), batch.targets[learned].tolist())
            windows += map(tuple, token_ids.tolist())
    return pairs, windows


@pytest.mark.parametrize(
    "N, T, batch_size, micro",
    [(1003, 16, 7, 3), (40, 64, 2, None), (64, 64, 1, 1)],
)
def test_an_epoch_learns_each_token_once(N, T, batch_size, micro):
    """The next epoch cuts elsewhere, and so does another seed."""
    stream = np.random.default_rng(0).permutation(N).astype(np.uint16)  # all different
    options = TrainOptions(epochs=3, batch_size=batch_size, micro_batch_size=micro, seed=1)
    batches = WindowBatches(Windows(stream, T), options)
    assert batches.steps_per_epoch == math.ceil(math.ceil(N / T) / batch_size)
    epochs = [epoch_of(batches, epoch) for epoch in range(3)]
    for pairs, _ in epochs:
        assert sorted(pairs) == sorted(zip(stream.tolist(), np.roll(stream, -1).tolist()))
    assert len({frozenset(windows) for _, windows in epochs}) == 3
    other = TrainOptions(epochs=3, batch_size=batch_size, seed=2)
    assert epoch_of(WindowBatches(Windows(stream, T), other), 0)[1] != epochs[0][1]
    # A resumed run asks for a step in the middle.
    last = batches.steps_per_epoch - 1
    resumed = WindowBatches(Windows(stream, T), options).micro_batches(1, last)[0]
    assert torch.equal(resumed.inputs[0], batches.micro_batches(1, last)[0].inputs[0])


def test_windows_are_shuffled():
    """Batches of neighbours would be alike, and the last documents best remembered."""
    windows = Windows(np.arange(4096, dtype=np.uint16), 16)
    batches = WindowBatches(windows, TrainOptions(epochs=1, batch_size=8))
    first = [window[0] for window in epoch_of(batches, 0)[1]]
    assert np.mean(np.abs(np.diff(first)) == 16) < 0.05

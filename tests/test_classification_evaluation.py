"""Log-probabilities, examples and explanations of a classifier.

The oracles are each text read on its own, and difference quotients.
"""

import numpy as np
import pytest
import torch
from toy_run import FP32

from gptft import GPT2Classifier, GPT2Config
from gptft.data.classification import IMDbDataset, Review
from gptft.evaluation.classification import (
    attributions,
    explain,
    log_probabilities,
)
from gptft.evaluation.predictions import example_rows, prediction_rows

TEXTS = ["Fine.", "A bad film, and a long one at that.", "Oh no", "naïve 😀 fun", "so-so " * 9]
REVIEWS = [Review(f"r{i}", i % 3, text) for i, text in enumerate(TEXTS)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, dropout=0.5)
    model = GPT2Classifier(config, n_classes=3)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_log_probabilities_are_those_of_each_text_alone(model, tokenizer, batch_size):
    # Rows are sorted by length for speed: each must come back to its place, without dropout.
    dataset = IMDbDataset(REVIEWS, tokenizer, max_length=12)
    rows = np.array([3, 0, 4, 1])
    found = log_probabilities(model, dataset, FP32, rows, batch_size)
    assert model.training
    model.eval()
    for row, log_probs in zip(rows, found, strict=True):
        ids = torch.from_numpy(dataset[row][0].astype(np.int64))
        logits = model(ids[None], torch.tensor([len(ids)]))[0]
        assert log_probs == pytest.approx(logits.log_softmax(-1).tolist(), abs=1e-5)


def test_examples_are_the_most_confident_mistakes_and_hits(monkeypatch):
    monkeypatch.setattr("gptft.evaluation.predictions.N_WRONG", 2)
    p = np.array([0.9, 0.6, 0.2, 0.99, 0.01, 0.4, 0.97])
    log_probs = np.log(np.stack([1 - p, p], axis=1))
    labels = [0, 0, 0, 1, 0, 1, 1]
    reviews = [Review(f"r{i}", label, f"text {i}") for i, label in enumerate(labels)]
    rows = example_rows(reviews, log_probs, lambda i: i)
    assert [row["id"] for row in rows] == ["r0", "r1", "r4", "r3"]
    prediction = {"id": "r0", "label": 0, "probabilities": [0.1, 0.9], "words": 2}
    assert prediction_rows(reviews, log_probs)[0] == prediction
    assert rows[0] == prediction | {"text": "text 0", "tokens": 0}


def test_attribution_is_the_slope_of_the_score_in_the_size_of_an_embedding(model, tokenizer):
    model.double().eval()
    ids = tokenizer.encode(TEXTS[1])
    found = attributions(model, ids)
    assert not model.transformer.wte._forward_hooks

    def score(t, size):
        def scale(module, args, output):
            output[0, t] *= size

        hook = model.transformer.wte.register_forward_hook(scale)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.tensor([len(ids)]))[0].sort().values
        hook.remove()
        return (logits[2] - logits[:2].mean()).item()

    h = 1e-5
    slopes = [(score(t, 1 + h) - score(t, 1 - h)) / (2 * h) for t in range(len(ids))]
    assert found.tolist() == pytest.approx(slopes, rel=1e-5)
    assert min(map(abs, slopes)) > 1e-4


def test_explained_pieces_are_the_text(model, tokenizer):
    # An emoji is several tokens, none of which is a character.
    ids = tokenizer.encode(TEXTS[3])
    pieces = explain(model.eval(), ids, tokenizer)
    assert "".join(text for text, _ in pieces) == "naïve 😀 fun"
    total = sum(value for _, value in pieces)
    assert total == pytest.approx(attributions(model, ids).sum().item(), abs=1e-3)
    cut = explain(model, ids[:3], tokenizer)
    assert "".join(text for text, _ in cut) == "naïve \ufffd"

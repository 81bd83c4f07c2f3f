"""The loss of a language model on documents, and what it copies from its training texts."""

import math

import numpy as np
import pytest
import torch
from toy_run import FP32

from gptft import GPT2, GPT2Config
from gptft.data.documents import join_documents
from gptft.evaluation.language_model import document_loss

TEXTS = ["naïve", "a b c d e f g"]
N_BYTES = 6 + 13


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(n_positions=32, n_embd=16, n_layer=1, n_head=2, dropout=0.5)
    return GPT2(config)


@pytest.fixture
def stream(tokenizer):
    return join_documents(tokenizer.encode_batch(TEXTS), tokenizer.eot)


@pytest.mark.parametrize("length", [1, 4, 32])
def test_units_of_a_uniform_model(model, stream, length):
    # It gives each of V tokens the probability 1 / V, however the windows divide the stream.
    torch.nn.init.zeros_(model.ln_f.weight)
    m = document_loss(model, stream, length, len(TEXTS), N_BYTES, FP32)
    n, V = len(stream), 50257
    assert m == {
        "n": 2,
        "tokens": n,
        "loss": pytest.approx(math.log(V), rel=1e-6),
        "perplexity": pytest.approx(V, rel=1e-4),
        "bits_per_byte": pytest.approx(n * math.log2(V) / N_BYTES, rel=1e-6),
    }


@pytest.mark.parametrize("window_tokens", [1, 8, 1000])
def test_document_loss_is_the_mean_over_tokens(model, stream, window_tokens, monkeypatch):
    # Windows of 4; the last one reaches around to the start, where nothing is counted twice.
    monkeypatch.setattr("gptft.evaluation.language_model.WINDOW_TOKENS", window_tokens)
    m = document_loss(model, stream, 4, 2, N_BYTES, FP32)
    assert model.training  # again, and dropout was off
    model.eval()
    around = torch.from_numpy(np.concatenate([stream, stream]).astype(np.int64))
    losses = []
    for i in range(len(stream)):
        start = i - i % 4
        log_probs = model(around[start : i + 1][None])[0, -1].log_softmax(-1)
        losses.append(-log_probs[around[i + 1]].item())
    assert len(stream) % 4
    assert m["loss"] == pytest.approx(np.mean(losses), abs=1e-5)

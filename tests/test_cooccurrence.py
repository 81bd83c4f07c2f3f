"""Vectors from counts: the counts by hand, the information by the formula, and what the vectors are for."""

import math

import numpy as np
import pytest
import torch

from gptft import cooccurrence
from gptft.config import GPT2Config
from gptft.cooccurrence import (
    context_tokens,
    cooccurrences,
    count_vectors,
    embed_by_counts,
    positive_information,
)
from gptft.errors import UserError
from gptft.model import GPT2

SMALL = GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=1, n_head=1)


def test_counts_by_hand(monkeypatch):
    monkeypatch.setattr(cooccurrence, "REACH", 2)
    # 0 1 2 0: pairs at distance 1 are 01, 12, 20; at distance 2 they are 02 and 10, each counting a half, both ways.
    expected = [[1.5, 0.0], [1.0, 1.5], [0.0, 1.5], [0.0, 0.0]]
    for tokens in (100, 1, 2, 3):  # at a time: no pair is lost or counted twice where parts meet
        monkeypatch.setattr(cooccurrence, "TOKENS", tokens)
        assert cooccurrences(np.array([0, 1, 2, 0]), np.array([2, 0]), 4).tolist() == expected
    assert cooccurrences(np.array([1]), np.array([1]), 2).tolist() == [[0.0], [0.0]]


def test_information_is_the_formula():
    counts = np.random.default_rng(0).poisson(0.7, (30, 8)).astype(np.float32)
    counts[3] = 0
    p_context = counts.sum(0) ** 0.75 / (counts.sum(0) ** 0.75).sum()
    expected = [
        [
            max(0.0, math.log(c / counts[v].sum() / p_context[k])) if c else 0.0
            for k, c in enumerate(row)
        ]
        for v, row in enumerate(counts)
    ]
    torch.testing.assert_close(
        positive_information(torch.from_numpy(counts)), torch.tensor(expected), atol=1e-5, rtol=1e-4
    )


def interchangeable(n=4000, seed=0):
    """A stream of 24 tokens in which 2k and 2k + 1 stand in the same places, each followed by its own group's next."""
    rng = np.random.default_rng(seed)
    group = np.cumsum(rng.choice([0, 1, 1, 1, 5], n)) % 12
    return (2 * group + rng.integers(0, 2, n)).astype(np.uint16)


@pytest.mark.parametrize(
    "n_contexts", [24, 16]
)  # 16: as with a real vocabulary, some tokens are no contexts themselves
def test_tokens_that_stand_in_the_same_places_get_similar_vectors(monkeypatch, n_contexts):
    monkeypatch.setattr(cooccurrence, "CONTEXTS", n_contexts)
    torch.manual_seed(0)
    model, stream = GPT2(SMALL), interchangeable()
    contexts = context_tokens(stream, SMALL)
    assert len(contexts) == n_contexts
    embed_by_counts(model, stream, contexts)
    vectors = model.wte.weight.detach()
    assert vectors.isfinite().all() and model.wte.weight.requires_grad
    unit = vectors[:24] / vectors[:24].norm(dim=1, keepdim=True)
    similar = unit @ unit.T
    partners = similar[torch.arange(24), torch.arange(24) ^ 1]
    others = similar[~torch.kron(torch.eye(12), torch.ones(2, 2)).bool()]
    assert partners.min() > 0.85 > others.max()
    assert (vectors[24:].norm(dim=1) > 0).all()  # the six that never occur are random
    assert vectors[contexts].std().item() == pytest.approx(cooccurrence.STD, rel=0.1)


def test_inner_products_are_those_of_an_exact_decomposition():
    # numpy's full decomposition as the oracle: the vectors may be turned, their products may not change.
    stream = interchangeable(seed=1)
    contexts = context_tokens(stream, SMALL)
    information = positive_information(cooccurrences(stream, contexts, 24)).double().numpy()
    _, s, directions = np.linalg.svd(information[contexts])
    exact = information @ directions[:6].T / np.sqrt(s[:6])
    exact -= exact.mean(0)
    exact *= cooccurrence.STD / exact.std()
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    exact *= np.minimum(1, lengths.mean() / lengths)
    found = count_vectors(stream, contexts, 24, 6).double().numpy()
    np.testing.assert_allclose(
        found @ found.T, exact @ exact.T, atol=0.02 * cooccurrence.STD**2 * 6
    )


def test_a_stream_that_tells_nothing_gives_no_nan():
    # Each token beside each other equally often: no information, and nothing to divide by.
    stream = np.tile(np.arange(8), 3).astype(np.uint16)
    assert count_vectors(stream, np.arange(8), 10, 8).isfinite().all()


def test_too_few_different_tokens():
    with pytest.raises(
        UserError,
        match="--embedding counts needs at least 8 different tokens to count, but the data has 3",
    ):
        context_tokens(np.array([0, 1, 2, 1], dtype=np.uint16), SMALL)

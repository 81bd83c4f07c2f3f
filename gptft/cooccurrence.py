"""Token vectors from counts: tokens that keep the same company begin with similar vectors.

From random weights, a small model spends its first million tokens finding out which tokens stand in the same places.
That can simply be counted: how much more often than by chance does token v stand near token c? The positive part of the
logarithm of that, PPMI, is a row of K numbers for each token. The K commonest tokens make a square matrix, whose truncated
singular value decomposition finds the few directions that tell most of it; along these every token, common or rare, gets
its short vector. Training then goes on from there.

Shapes: N tokens of the stream, V of the vocabulary, K context tokens, the most frequent ones, C = n_embd.
Left out: vectors of contexts (the tied head would be the place), anything that depends on order, and sums beyond float32:
from some hundred million tokens on, the commonest pairs are no longer counted to the last.
Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"; Levy et al. 2015, "Improving
Distributional Similarity" (near neighbours count more; frequent contexts smoothed by the power 0.75; half of the singular values).
"""

import numpy as np
import torch

from gptft.errors import UserError

REACH = 5  # tokens to either side that are company; one at distance d counts 1 / d
CONTEXTS = 8192  # K: a matrix of 50,257 x 8,192 float32 takes 1.6 GB
SMOOTHING = 0.75
ROWS, TOKENS = 4096, 1 << 22  # of the matrix and of the stream, at a time
FAINT = 1e-3  # directions with less than this share of the largest singular value tell nothing
STD = 0.05  # of the vectors; GPT-2's random ones have 0.02


def context_tokens(stream, config):
    """The ids that count as company: the most frequent ones of a stream, (N,) ids -> (K,) int64, commonest first.

    Raises UserError if they are fewer than a vector of this GPT2Config has numbers.
    """
    times = np.bincount(stream, minlength=config.vocab_size)
    contexts = np.argsort(-times, kind="stable")[: min(CONTEXTS, np.count_nonzero(times))]
    if len(contexts) < config.n_embd:
        raise UserError(
            f"--embedding counts needs at least {config.n_embd} different tokens to count, but the data has "
            f"{len(contexts)}; leave it out"
        )
    return contexts


@torch.no_grad()
def embed_by_counts(gpt2, stream, contexts):
    """Give the tokens of `gpt2`, a GPT2, vectors by the company they keep in `stream`, (N,) ids; in place.

    contexts: as `context_tokens` finds them. A token that never occurs keeps a random vector. Draws from torch's generator.
    """
    vectors = count_vectors(stream, contexts, gpt2.config.vocab_size, gpt2.config.n_embd)
    occurs = torch.from_numpy(np.bincount(stream, minlength=len(vectors)) > 0)[:, None]
    gpt2.wte.weight.copy_(torch.where(occurs, vectors, torch.randn_like(vectors) * STD))


def count_vectors(stream, contexts, vocab_size, n_embd):
    """-> (V, C) float32, with mean 0 and standard deviation STD over the context tokens before the long ones are shortened."""
    information = positive_information(cooccurrences(stream, contexts, vocab_size))
    _, values, directions = torch.svd_lowrank(
        information[contexts], q=min(n_embd + 32, len(contexts)), niter=4
    )
    values, directions = values[:n_embd], directions[:, :n_embd]
    vectors = information @ directions * torch.where(values > FAINT * values[0], values.rsqrt(), 0)
    vectors -= vectors[contexts].mean(0)
    # Turned at random: else the first columns would hold most of the variance, and the last next to nothing.
    vectors = vectors @ torch.linalg.qr(torch.randn(n_embd, n_embd)).Q
    vectors *= STD / vectors[contexts].std(correction=0).clamp(min=1e-30)
    # What is counted of a rare token is little and extreme: it shall not be longer than a common one.
    length, usual = vectors.norm(dim=1, keepdim=True), vectors[contexts].norm(dim=1).mean()
    return vectors * (usual / length.clamp(min=1e-30)).clamp(max=1)


def cooccurrences(stream, contexts, vocab_size):
    """How often each token stands near each context token, near ones counting more -> (V, K) float32.

    stream: (N,) token ids. contexts: (K,) int64, different ids.
    """
    number = np.full(vocab_size, -1)
    number[contexts] = np.arange(len(contexts))
    counts = torch.zeros(vocab_size * len(contexts))
    for begin in range(0, len(stream), TOKENS):
        part = np.asarray(stream[begin : begin + TOKENS + REACH], dtype=np.int64)
        for distance in range(1, REACH + 1):
            left, right = (
                part[:-distance][:TOKENS],
                part[distance:][:TOKENS],
            )  # pairs that begin in this part
            for token, near in ((left, right), (right, left)):
                column = number[near]
                cell = torch.from_numpy((token * len(contexts) + column)[column >= 0])
                counts.index_add_(0, cell, torch.full((len(cell),), 1 / distance))
    return counts.view(vocab_size, len(contexts))


def positive_information(counts):
    """Counts (V, K) -> max(0, log p(v, c) / (p(v) p(c))), p(c) smoothed; in place, and 0 for a token without company."""
    context = counts.sum(0) ** SMOOTHING
    context /= context.sum().clamp(min=1e-30)
    for rows in counts.split(ROWS):
        expected = rows.sum(1, keepdim=True) * context
        rows.div_(expected.clamp_(min=1e-30)).clamp_(min=1).log_()
    return counts

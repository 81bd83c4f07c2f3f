"""Token vectors from counts: tokens that keep the same company begin with similar vectors.

From random weights, a small model spends its first million tokens finding out which tokens stand in the same places.
That can simply be counted: how much more often than by chance does token v stand near token c? The positive part of the
logarithm of that, PPMI, is a matrix of V rows, and its best approximation by few columns, a truncated singular value
decomposition, gives each token a short vector. Training then goes on from there.

Shapes: N tokens of the stream, V tokens of the vocabulary, K context tokens, the most frequent ones, C = n_embd.
Left out: vectors of contexts (the tied head would be the place), and anything that depends on order.
Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"; Levy et al. 2015, "Improving
Distributional Similarity" (near neighbours count more; frequent contexts smoothed by the power 0.75; half of the singular values).
"""

import numpy as np
import torch

from gptft.errors import UserError

REACH = 5  # tokens to either side that are company; one at distance d counts 1 / d
CONTEXTS = 8192  # K: a matrix of 50,257 x 8,192 float32 takes 1.6 GB
SMOOTHING = 0.75
PART = 4096  # rows of the matrix at a time
STD = 0.05  # of the vectors; GPT-2's random ones have 0.02


def cooccurrences(stream, contexts, vocab_size):
    """How often each token stands near each context token, near ones counting more -> (V, K) float32.

    stream: (N,) token ids. contexts: (K,) int64, different ids.
    """
    number = np.full(vocab_size, -1)
    number[contexts] = np.arange(len(contexts))
    counts = torch.zeros(vocab_size * len(contexts))
    stream = np.asarray(stream, dtype=np.int64)
    for distance in range(1, REACH + 1):
        left, right = stream[:-distance], stream[distance:]
        for token, near in ((left, right), (right, left)):
            column = number[near]
            cell = torch.from_numpy((token * len(contexts) + column)[column >= 0])
            counts.index_add_(0, cell, torch.full((len(cell),), 1 / distance))
    return counts.view(vocab_size, len(contexts))


def positive_information(counts):
    """Counts (V, K) -> max(0, log p(v, c) / (p(v) p(c))), p(c) smoothed; in place, and 0 for a token without company."""
    context = counts.sum(0) ** SMOOTHING
    context /= context.sum().clamp(min=1e-30)
    for rows in counts.split(PART):
        expected = rows.sum(1, keepdim=True) * context
        rows.div_(expected.clamp_(min=1e-30)).clamp_(min=1).log_()
    return counts


@torch.no_grad()
def embed_by_counts(gpt2, stream):
    """Give the tokens of a GPT2 with random weights vectors by the company they keep in `stream`, (N,) ids; in place.

    Raises UserError if the stream has fewer different tokens than a vector has numbers.
    """
    weight = gpt2.wte.weight
    times = np.bincount(stream, minlength=len(weight))
    contexts = np.argsort(-times, kind="stable")[: min(CONTEXTS, np.count_nonzero(times))]
    if len(contexts) < gpt2.config.n_embd:
        raise UserError(f"--embedding counts needs at least {gpt2.config.n_embd} different tokens to count, but the data has "
                        f"{len(contexts)}; leave it out")  # fmt: skip
    weight.copy_(count_vectors(stream, times, contexts, gpt2.config.n_embd))


def count_vectors(stream, times, contexts, n_embd):
    """Vectors for a vocabulary, (V, C) float32, of mean 0 and standard deviation STD over the context tokens.

    stream, contexts: as in `cooccurrences`; times: (V,) int, how often each token occurs. One that never occurs gets a
    random vector. Draws from torch's generator.
    """
    information = positive_information(cooccurrences(stream, contexts, len(times)))
    _, values, directions = torch.svd_lowrank(information[contexts], q=min(n_embd + 32, len(contexts)), niter=4)
    vectors = information @ directions[:, :n_embd] / values[:n_embd].clamp(min=1e-6).sqrt()
    vectors -= vectors[contexts].mean(0)
    # Turned at random: else the first columns would hold most of the variance, and the last next to nothing.
    vectors = vectors @ torch.linalg.qr(torch.randn(n_embd, n_embd)).Q
    vectors *= STD / vectors[contexts].std()
    # What is counted of a rare token is little and extreme: it shall not be longer than a common one.
    length, usual = vectors.norm(dim=1, keepdim=True), vectors[contexts].norm(dim=1).mean()
    vectors *= (usual / length.clamp(min=1e-30)).clamp(max=1)
    return torch.where(torch.from_numpy(times > 0)[:, None], vectors, torch.randn_like(vectors) * STD)

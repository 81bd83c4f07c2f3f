"""Which token comes next: logits to one id a row.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, and a draw from
what is left. The draw looks up a uniform number in the cumulative distribution. All numbers of a
row are drawn before generation starts, from a generator of its own, so the text of a row does not
depend on the other rows of its batch. (Rounding in matrix products depends on the batch size. In
float32 the difference is too small to change a text in practice; in bf16 it may change one.)

Shapes: B rows, V ids.
Source: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Keskar et al. 2019, section 4.1
(repetition penalty).

Next on the evening's path: generation/decoding.py.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gptft.speed import top_p_candidates


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    temperature: divides the logits; 0 takes the most likely id (greedy).
    top_k: choose among the k most likely ids; None for all.
    top_p: choose among the fewest ids whose probabilities add up to p; None for all.
    repetition_penalty: above 1, ids of the prompt and of the text so far become less likely.

    Raises ValueError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")


class Sampler:
    """Chooses the next ids of a batch: `sampler(logits)`, (B, V) float32 -> (B,) int64.

    Args:
        sampling: Sampling.
        prompts: B lists of ids, for the repetition penalty.
        numbers: B ints, the number of each row's prompt in the caller's list. Row i draws from a
            generator seeded with (seed, numbers[i]).
        n_tokens: how many ids each row may need.
        n_ids: V. seed: int. device: where the logits are.
    """

    def __init__(self, sampling, prompts, numbers, n_tokens, n_ids, seed, device):
        self.sampling = sampling
        self.step = 0
        self.uniforms = None  # (B, n_tokens) from [0, 1)
        self.seen = None  # (B, V) bool, ids of the prompt and the text so far
        if sampling.temperature > 0:
            generators = [np.random.default_rng((seed, number)) for number in numbers]
            uniforms = [generator.random(n_tokens, np.float32) for generator in generators]
            self.uniforms = torch.from_numpy(np.stack(uniforms)).to(device)
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(len(prompts), n_ids, dtype=torch.bool)
            for row, prompt in zip(seen, prompts):
                row[prompt] = True
            self.seen = seen.to(device)

    def __call__(self, logits):
        if self.seen is not None:
            logits = penalize(logits, self.seen, self.sampling.repetition_penalty)
        if self.uniforms is None:
            ids = logits.argmax(dim=-1)
        else:
            ids = draw(logits, self.uniforms[:, self.step], self.sampling)
        if self.seen is not None:
            self.seen.scatter_(1, ids[:, None], True)
        self.step += 1
        return ids

    def select(self, rows):
        """Keep only the given rows, a list of int, in this order."""
        if self.uniforms is not None:
            self.uniforms = self.uniforms[rows]
        if self.seen is not None:
            self.seen = self.seen[rows]


def penalize(logits, seen, penalty):
    """Make ids that were seen less likely: divide their logits, or multiply those below zero.

    logits: (B, V) float. seen: (B, V) bool.
    """
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


def draw(logits, uniforms, sampling):
    """Draw one id a row: logits (B, V) float32, uniforms (B,) from [0, 1) -> (B,) int64."""
    V = logits.shape[1]
    top_k, top_p = sampling.top_k or V, sampling.top_p or 1.0
    ids = None  # the id of each column, once columns are sorted
    if top_k < V:
        # Before the temperature, which does not change the order.
        logits, ids = logits.topk(top_k)  # sorted, most likely first
    logits = logits - logits.amax(dim=-1, keepdim=True)  # so that no temperature overflows
    probs = torch.softmax(logits / sampling.temperature, dim=-1)
    if top_p < 1:
        if ids is None:
            # Top-p keeps at most n ids. Sorting all V would give the same result, more slowly.
            n = top_p_candidates(probs, top_p)
            probs, ids = probs.topk(n)  # sorted, most likely first
        # Drop an id if the more likely ones reach p without it.
        probs = probs * (probs.cumsum(dim=-1) - probs < top_p)
    # Where does the uniform number fall in the cumulative distribution? The first id whose sum is
    # above the target is chosen: never one of probability 0, which adds nothing to the sum. There
    # is always one, because even the largest uniform, 1 - 2**-24, makes the last sum smaller.
    cumulative = probs.cumsum(dim=-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, target, right=True)
    if ids is not None:
        choice = ids.gather(1, choice)
    return choice[:, 0]

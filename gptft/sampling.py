"""Which token comes next: logits -> one id a row.

In this order, which is also transformers': the repetition penalty, the temperature, top-k, top-p, a draw from what is
left. A draw looks up a uniform number in the cumulative distribution. So a token costs a row one number, all its
numbers are drawn before it starts, and neither the other rows nor the device change what it gets.

Shapes: B rows, V ids that may be chosen.
Left out: beam search, and other filters (min-p, typical).
Source: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Keskar et al. 2019, section 4.1 (repetition penalty).
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. Raises ValueError for a value out of range.

    temperature: divides the logits; 0 takes the likeliest id. top_k: only the k likeliest. top_p: only the fewest ids
    whose probabilities reach p. repetition_penalty: above 1, ids of the prompt and the text so far become less likely.
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
    """Chooses a batch's ids, one token after the other: `sampler(logits)`, (B, V) float32 -> ids (B,) int64.

    sampling: Sampling. prompts: B lists of ids below n_ids. numbers: B int; row i's random numbers come from a generator
    seeded with (seed, numbers[i]). n_tokens: how often it will be called. device: of the logits.
    """

    def __init__(self, sampling, prompts, numbers, n_tokens, n_ids, seed, device):
        self.sampling, self.step = sampling, 0
        self.uniforms = self.seen = None
        if sampling.temperature > 0:
            rows = [
                np.random.default_rng((seed, number)).random(n_tokens, dtype=np.float32)
                for number in numbers
            ]
            self.uniforms = torch.from_numpy(np.stack(rows)).to(device)  # (B, n_tokens)
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(len(prompts), n_ids, dtype=torch.bool)
            for row, prompt in zip(self.seen, prompts):
                row[prompt] = True
            self.seen = self.seen.to(device)

    def __call__(self, logits):
        if self.seen is not None:
            logits = penalize(logits, self.seen, self.sampling.repetition_penalty)
        ids = (
            logits.argmax(-1)
            if self.uniforms is None
            else draw(logits, self.uniforms[:, self.step], self.sampling)
        )
        if self.seen is not None:
            self.seen.scatter_(1, ids[:, None], True)
        self.step += 1
        return ids

    def arrange(self, rows):
        """Row i becomes what row rows[i] was, rows: list of int."""
        if self.uniforms is not None:
            self.uniforms = self.uniforms[rows]
        if self.seen is not None:
            self.seen = self.seen[rows]


def penalize(logits, seen, penalty):
    """Make the ids that a row has seen less likely, in (B, V) float and bool: a logit is divided by the penalty, or
    multiplied if it is negative."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits, uniforms, sampling):
    """(B, V) float32 and a number from [0, 1) for each row -> ids (B,) int64."""
    ids = None
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits, ids = logits.topk(sampling.top_k)
    logits = logits - logits.amax(-1, keepdim=True)  # so that no temperature makes them overflow
    probs = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p is not None and sampling.top_p < 1:
        if ids is None:
            probs, ids = probs.topk(
                _n_candidates(probs, sampling.top_p)
            )  # likeliest first, as after top-k
        kept = probs.cumsum(-1) - probs < sampling.top_p  # the likelier ids alone don't reach p
        probs = probs * kept
    cumulative = probs.cumsum(-1)
    # The first id whose cumulative probability exceeds the number: never one of probability 0.
    choice = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return (choice if ids is None else ids.gather(1, choice))[:, 0]


def _n_candidates(probs, top_p):
    """How many ids to sort for top-p. All ids below (1 - p) / V together have less than 1 - p: none of them is needed.

    On a CPU, where it costs nothing to look, they are not sorted: that is ten times faster for a real vocabulary.
    """
    V = probs.shape[-1]
    return V if probs.device.type != "cpu" else int((probs >= (1 - top_p) / V).sum(-1).max())

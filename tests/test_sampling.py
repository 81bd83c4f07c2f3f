"""Sampling against worked values and transformers' filters (fixture).

`draw` takes its uniform numbers as an argument: fed with an even grid of N numbers it must give each id its probability
times N, within one. So a wrong distribution is found exactly, without luck.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from gptft.sampling import Sampler, Sampling, draw, penalize

N = 20_000
GRID = (torch.arange(N) + 0.5) / N
PROBS = torch.tensor([0.05, 0.5, 0.15, 0.3])


def frequencies(logits, **options):
    """The share of the grid's numbers that each id gets, (V,)."""
    ids = draw(logits.expand(N, -1), GRID, Sampling(**options))
    return torch.bincount(ids, minlength=logits.shape[-1]) / N


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        (
            dict(temperature=0.5),
            [0.0025 / 0.365, 0.25 / 0.365, 0.0225 / 0.365, 0.09 / 0.365],
        ),  # squares, of sum 0.365
        (dict(top_k=2), [0, 0.625, 0, 0.375]),
        (dict(top_k=1), [0, 1, 0, 0]),
        (dict(top_k=99), [0.05, 0.5, 0.15, 0.3]),
        (dict(top_p=0.79), [0, 0.625, 0, 0.375]),  # 0.5 falls short, 0.8 reaches it
        (dict(top_p=0.81), [0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95]),
        (dict(top_p=0.01), [0, 1, 0, 0]),  # the likeliest always stays
        (dict(top_p=1.0), [0.05, 0.5, 0.15, 0.3]),
        (
            dict(top_k=3, top_p=0.6),
            [0, 0.625, 0, 0.375],
        ),  # of 0.95 that top-k leaves, 0.526 falls short
        (
            dict(temperature=0.5, top_p=0.6),
            [0, 1, 0, 0],
        ),  # p counts after the temperature: 0.685 for the likeliest
        (dict(temperature=1e-30), [0, 1, 0, 0]),
    ],
)
def test_distributions_are_the_worked_ones(options, expected):
    for offset in (
        0,
        1e4,
        -1e4,
    ):  # a constant added to the logits changes nothing, and overflows nothing
        found = frequencies((PROBS.double().log() + offset).float(), **options)
        assert (found - torch.tensor(expected)).abs().max() < 1e-3


def test_filters_are_those_of_transformers():
    with np.load(Path(__file__).parent / "fixtures" / "transformers_generation.npz") as f:
        arrays = {name: torch.from_numpy(f[name]) for name in f.files if name.startswith("filter")}
    seen = torch.zeros(4, 131, dtype=torch.bool).scatter_(1, arrays["filter_seen"], True)
    for name, penalty, options in [
        ("top_k", 1.0, dict(top_k=5, temperature=0.7)),
        ("top_p", 1.0, dict(top_p=0.8, temperature=1.5)),
        ("all", 1.7, dict(top_k=20, top_p=0.6, temperature=2.0)),
    ]:
        for row, expected in zip(
            penalize(arrays["filter_logits"], seen, penalty), arrays[f"filtered/{name}"]
        ):
            found = frequencies(row, **options)
            assert (found - expected).abs().max() < 1.5 / N
            assert not found[expected == 0].any()


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
def test_top_p_of_a_real_vocabulary(top_p):
    # Only ids that can matter are sorted: leaving out one too many would cut the tail off, unseen in small cases.
    generator = np.random.default_rng(1)
    logits = torch.from_numpy(generator.normal(0, [[1], [4]], (2, 50257)).astype(np.float32))
    for row in logits:
        probs = row.double().softmax(-1).numpy()
        order = np.argsort(-probs)
        mass = probs[order].cumsum()
        last = draw(
            row[None], torch.tensor([1 - 2**-24]), Sampling(top_p=top_p)
        ).item()  # the least likely id left
        assert abs(mass[order.tolist().index(last)] - mass[np.searchsorted(mass, top_p)]) < 1e-5


def test_an_improbable_id_never_comes():
    # Both ends of the numbers: 0 must not find an id of probability 0, nor the largest float below 1 run off the end.
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    for uniform, id in ((0.0, 1), (1 - 2**-24, 2)):
        assert draw(logits, torch.tensor([uniform]), Sampling()).tolist() == [id]
        assert draw(logits, torch.tensor([uniform]), Sampling(top_p=0.99)).tolist() == [
            3 - id
        ]  # likeliest first


def test_repetition_penalty_follows_ctrl():
    # Keskar et al. 2019 divide the logit; transformers, since that would favour a negative one, multiplies there.
    logits, seen = (
        torch.tensor([[2.0, -2.0, 1.0, -1.0]]),
        torch.tensor([[True, True, False, False]]),
    )
    assert penalize(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0, -1.0]]


def test_prompt_and_new_ids_are_penalized():
    sampler = Sampler(Sampling(0, repetition_penalty=10.0), [[0], [1, 2]], [0, 1], 5, 4, 0, "cpu")
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(2, -1)
    assert torch.stack([sampler(logits) for _ in range(4)], 1).tolist() == [
        [1, 2, 3, 0],
        [0, 3, 0, 0],
    ]


def test_rows_draw_from_generators_of_their_own():
    # Numbers shared by rows would give equal prompts equal texts; numbers drawn by the batch would depend on its rows.
    def ids(numbers, seed=7):
        sampler = Sampler(Sampling(), [[0]] * len(numbers), numbers, 50, 1000, seed, "cpu")
        return [
            row.tolist()
            for row in torch.stack([sampler(torch.zeros(len(numbers), 1000)) for _ in range(50)], 1)
        ]

    together = ids([0, 1, 2, 3])
    assert len(set(map(tuple, together))) == 4
    assert ids([2]) == together[2:3] and ids([3, 0]) == [together[3], together[0]]
    assert ids([0], seed=8) != together[:1]

    sampler = Sampler(Sampling(repetition_penalty=1.5), [[0]] * 3, [0, 1, 2], 4, 1000, 7, "cpu")
    other = Sampler(Sampling(repetition_penalty=1.5), [[0]] * 2, [0, 2], 4, 1000, 7, "cpu")
    logits = torch.linspace(0, 3, 1000).expand(3, -1)
    assert sampler(logits)[[0, 2]].tolist() == other(logits[:2]).tolist()
    sampler.arrange([0, 2])
    for _ in range(3):
        assert torch.equal(sampler(logits[:2]), other(logits[:2]))


def test_the_numbers_of_all_rows_are_uniform():
    # Chi-square of 10,000 draws from PROBS, rows times steps: one seed in 1,000 gives more than 16.27 (3 degrees).
    sampler = Sampler(Sampling(), [[0]] * 100, range(100), 100, 4, 123, "cpu")
    ids = torch.cat([sampler(PROBS.log().expand(100, -1)) for _ in range(100)])
    expected = 10_000 * PROBS
    assert ((torch.bincount(ids, minlength=4) - expected) ** 2 / expected).sum() < 16.27


@pytest.mark.parametrize(
    "wrong",
    [
        dict(temperature=-0.1),
        dict(temperature=float("nan")),
        dict(top_k=0),
        dict(top_p=0.0),
        dict(top_p=1.1),
        dict(repetition_penalty=0.0),
    ],
    ids=str,
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(
        ValueError, match=f"{next(iter(wrong))} must be .*{next(iter(wrong.values()))}"
    ):
        Sampling(**wrong)

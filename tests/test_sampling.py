"""Sampling, against distributions worked by hand and transformers' filters (a fixture).

`draw` takes its uniform numbers as an argument. From an even grid of N numbers it must give each id
its probability times N, within one, so that a wrong distribution shows without any luck.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from gptft.generation.sampling import Sampler, Sampling, draw, penalize

N = 20_000
GRID = (torch.arange(N) + 0.5) / N
PROBS = torch.tensor([0.05, 0.5, 0.15, 0.3])


def frequencies(logits, **options):
    """The share of the grid that each id gets, (V,)."""
    ids = draw(logits.expand(N, -1), GRID, Sampling(**options))
    return torch.bincount(ids, minlength=len(logits)) / N


@pytest.mark.parametrize("offset", [0, 1e4, -1e4])  # added to all logits, it changes nothing
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        (dict(temperature=0.5), [0.00685, 0.68493, 0.06164, 0.24658]),  # squares, over their sum
        (dict(temperature=1e-40), [0, 1, 0, 0]),
        (dict(top_k=2), [0, 0.625, 0, 0.375]),
        (dict(top_k=1), [0, 1, 0, 0]),
        (dict(top_k=99), [0.05, 0.5, 0.15, 0.3]),
        (dict(top_p=0.79), [0, 0.625, 0, 0.375]),  # 0.5 falls short, 0.8 reaches it
        (dict(top_p=0.81), [0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95]),
        (dict(top_p=0.01), [0, 1, 0, 0]),  # the most likely id always stays
        # Top-p comes after top-k (0.5 / 0.95 falls short of 0.6) and after the temperature
        # (0.25 / 0.365 reaches it).
        (dict(top_k=3, top_p=0.6), [0, 0.625, 0, 0.375]),
        (dict(temperature=0.5, top_p=0.6), [0, 1, 0, 0]),
    ],
)
def test_distributions_are_the_worked_ones(options, expected, offset):
    logits = (PROBS.double().log() + offset).float()
    assert (frequencies(logits, **options) - torch.tensor(expected)).abs().max() < 1e-3


@pytest.mark.parametrize(
    "name, penalty, options",
    [
        ("top_k", 1.0, dict(top_k=5, temperature=0.7)),
        ("top_p", 1.0, dict(top_p=0.8, temperature=1.5)),
        ("all", 1.7, dict(top_k=20, top_p=0.6, temperature=2.0)),
    ],
)
def test_filters_equal_transformers(name, penalty, options):
    with np.load(Path(__file__).parent / "fixtures" / "transformers_generation.npz") as file:
        names = ("filter_logits", "filter_seen", f"filtered/{name}")
        logits, seen_ids, filtered = (torch.from_numpy(file[name]) for name in names)
    seen = torch.zeros(logits.shape, dtype=torch.bool).scatter_(1, seen_ids, True)
    for row, expected in zip(penalize(logits, seen, penalty), filtered):
        found = frequencies(row, **options)
        assert (found - expected).abs().max() < 1.5 / N
        assert not found[expected == 0].any()


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("scale", [1, 4])
def test_top_p_over_the_whole_vocabulary(top_p, scale):
    # Only some ids are sorted. Too few of them would cut off the tail, which no small case shows.
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, scale, 50257))
    probs, order = logits.softmax(0).sort(descending=True)
    mass = probs.cumsum(0)
    id = draw(logits.float()[None], torch.tensor([1 - 2**-24]), Sampling(top_p=top_p))
    rank = (order == id).nonzero().item()  # of the least likely id that is left
    assert abs(mass[rank] - mass[torch.searchsorted(mass, top_p)]) < 1e-5


@pytest.mark.parametrize(
    "uniform, options, id",
    [
        (0.0, {}, 1),
        (1 - 2**-24, {}, 2),
        (0.0, dict(top_p=0.99), 2),  # sorted, the most likely first
        (1 - 2**-24, dict(top_p=0.99), 1),
    ],
)
def test_an_impossible_id_is_never_drawn(uniform, options, id):
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    assert draw(logits, torch.tensor([uniform]), Sampling(**options)).item() == id


def test_prompt_and_new_ids_are_penalized():
    # Keskar et al. 2019 always divide, which would make a negative logit more likely.
    sampler = Sampler(Sampling(0, repetition_penalty=10.0), [[0], [1, 2]], [0, 1], 4, 4, 0, "cpu")
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [-4.0, -3.0, -2.0, -1.0]])
    ids = torch.stack([sampler(logits) for _ in range(4)], dim=1)
    assert ids.tolist() == [[1, 2, 3, 0], [3, 0, 3, 3]]


def sample(rows, seed=7, steps=50):
    """Draw from 1,000 equally likely ids -> a list of ids for each row."""
    sampler = Sampler(Sampling(), [[0]] * len(rows), rows, steps, 1000, seed, "cpu")
    logits = torch.zeros(len(rows), 1000)
    return torch.stack([sampler(logits) for _ in range(steps)], dim=1).tolist()


def test_each_row_has_its_own_generator():
    # With shared numbers, equal prompts get equal texts, or a text depends on its batch.
    together = sample([0, 1, 2, 3])
    assert len({id for ids in together for id in ids[:10]}) > 30
    assert sample([2]) == together[2:3]
    assert sample([3, 0]) == [together[3], together[0]]
    assert sample([0], seed=8) != together[:1]


def test_selected_rows_keep_their_numbers_and_their_penalty():
    logits = torch.linspace(0, 3, 1000).expand(3, -1)
    sampling = Sampling(repetition_penalty=1.5)
    some = Sampler(sampling, [[0], [1], [2]], [0, 1, 2], 40, 1000, 7, "cpu")
    others = Sampler(sampling, [[0], [2]], [0, 2], 40, 1000, 7, "cpu")
    some(logits)
    others(logits[:2])
    some.select([0, 2])
    for _ in range(39):
        assert torch.equal(some(logits[:2]), others(logits[:2]))


def test_the_numbers_of_all_rows_and_steps_are_uniform():
    # Chi-square with 9 degrees of freedom: 27.9 is exceeded once in a thousand seeds.
    ids = torch.tensor(sample(range(100), seed=123, steps=100))
    counts = torch.bincount(ids.flatten() // 100)
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 27.9


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        Sampling(**{name: value})

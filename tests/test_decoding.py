"""Generation equals transformers' (a fixture) and the plain loop; no row affects another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gptft import GPT2, GPT2Config, UserError
from gptft.generation.cuda_graph import RecordableCache
from gptft.generation.decoding import decode, generate, greedy
from gptft.generation.sampling import Sampling
from gptft.model import KVCache

STOP = 66  # an id that ends the greedy texts of the fixture at four different times


@pytest.fixture(scope="module")
def fixture():
    with np.load(Path(__file__).parent / "fixtures" / "transformers_generation.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(fixture):
    """The fixture's random GPT-2 of 131 ids and 256 positions."""
    config = GPT2Config(131, 256, n_embd=24, n_layer=2, n_head=3, dropout=0.0)
    model = GPT2(config)
    names = model.state_dict()
    model.load_state_dict({n: torch.from_numpy(fixture[f"weight/{n}"]).float() for n in names})
    return model.eval()


@pytest.fixture(scope="module")
def prompts(fixture):
    """Four prompts, of 1 to 56 ids."""
    return [[id for id in row if id >= 0] for row in fixture["prompts"].tolist()]


def cut_after(ids, eos_id):
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


# ---------------------------------------------------------------- the right ids


def test_greedy_texts_equal_transformers(fixture, model, prompts):
    # A wrong position, a padding token that is seen or a cache off by one shows within 200 tokens.
    # With the longest prompt, they are the whole context.
    expected = fixture["greedy"].tolist()
    assert generate(model, prompts, 200, temperature=0) == expected
    assert generate(model, prompts, 200, top_k=1) == expected


def test_penalized_texts_equal_transformers(fixture, model, prompts):
    found = generate(model, prompts, 200, temperature=0, repetition_penalty=1.3)
    assert found == fixture["penalized"].tolist()


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_cached_batches_equal_the_plain_loop(model, prompts, batch_size):
    expected = [greedy(model, prompt, 60, STOP) for prompt in prompts]
    found = generate(model, prompts, 60, temperature=0, eos_id=STOP, batch_size=batch_size)
    assert found == expected


def test_rows_that_end_leave_the_batch(fixture, model, prompts, monkeypatch):
    expected = [cut_after(ids, STOP) for ids in fixture["greedy"].tolist()]
    n_rows, hidden_states = [], GPT2.hidden_states

    def counting(self, token_ids, cache=None):
        n_rows.append(len(token_ids))
        return hidden_states(self, token_ids, cache)

    monkeypatch.setattr(GPT2, "hidden_states", counting)
    assert len(set(map(len, expected))) == 4
    assert generate(model, prompts, 200, temperature=0, eos_id=STOP) == expected
    # Reading the prompts gives the first new tokens; each further token takes one row of work.
    assert sum(n_rows) == sum(map(len, expected))


@pytest.mark.parametrize("lengths", [[3, 11, 1], [11, 11, 11]], ids=str)
@torch.no_grad()
def test_steps_that_can_be_recorded_equal_those_of_the_cache(model, lengths):
    padding = 11 - torch.tensor(lengths)
    token_ids = torch.randint(0, 131, (3, 31))
    caches = [KVCache(model, padding, 31) for _ in range(2)]
    for cache in caches:
        model.hidden_states(token_ids[:, :11], cache)
    recordable = RecordableCache(caches[1])
    for ids in token_ids[:, 11:].split(1, dim=1):  # up to the last slot
        expected = model.hidden_states(ids, caches[0])
        torch.testing.assert_close(model.hidden_states(ids, recordable), expected)
        recordable.slot += 1


# ---------------------------------------------------------------- promises


@pytest.mark.parametrize(
    "options", [{}, dict(top_k=20, temperature=1.3), dict(top_p=0.9, repetition_penalty=1.2)]
)
def test_a_text_depends_on_its_seed_and_row_only(model, options):
    prompts = [[1, 2, 3], [4], list(range(40)), [1, 2, 3]]
    texts = generate(model, prompts, 60, seed=11, **options)
    assert texts[0] != texts[3]  # equal prompts in different rows
    assert generate(model, prompts, 60, seed=11, batch_size=2, **options) == texts
    others = generate(model, [[7] * 90, [5, 5], prompts[2]], 60, seed=11, **options)
    assert others[2] == texts[2]
    eos_id = texts[0][20]
    ended = generate(model, prompts, 60, seed=11, eos_id=eos_id, **options)
    assert ended == [cut_after(ids, eos_id) for ids in texts]


def test_seeds_give_different_texts(model):
    assert len({str(generate(model, [[1]], 60, seed=seed)) for seed in (1, 2, None, None)}) == 4


@pytest.mark.parametrize("special_tokens", [[], ["<|a|>", "<|b|>"]], ids=len)
@pytest.mark.parametrize("options", [dict(temperature=0), {}, dict(top_k=60)], ids=str)
def test_ids_of_a_padded_embedding_are_never_chosen(special_tokens, options):
    # Rows beyond the vocabulary were never trained, and no text belongs to them.
    model = GPT2(GPT2Config(vocab_size=50304, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    model.special_tokens = special_tokens
    model.ln_f.weight.data.zero_()
    model.ln_f.bias.data.fill_(1.0)
    model.wte.weight.data[50257:] = 10.0  # by far the most likely ids
    (ids,) = generate(model, [[1]], 12, **options)
    assert max(ids) <= 50256 + len(special_tokens)
    assert (max(ids) > 50256) == bool(special_tokens)


@pytest.mark.parametrize(
    "wrong, match",
    [
        (dict(prompts=[[1], []]), "prompt 1 .* 0 to 130"),
        (dict(prompts=[[131]]), "prompt 0"),
        (dict(prompts=[[-1]]), "prompt 0"),
        (dict(max_new_tokens=0), "at least 1, got 0"),
        (dict(prompts=[[2], [1] * 255]), "255 tokens and 2 new ones make 257, .* n_positions, 256"),
    ],
    ids=str,
)
def test_impossible_requests_are_refused(model, wrong, match):
    with pytest.raises((ValueError, UserError), match=match):
        generate(model, **dict(prompts=[[1]], max_new_tokens=2) | wrong)


def test_no_prompts_give_no_texts(model):
    assert generate(model, [], 5) == []


def test_dropout_is_off_and_training_mode_returns(model):
    dropping = GPT2(replace(model.config, dropout=0.5))
    dropping.load_state_dict(model.state_dict())
    assert generate(dropping, [[1]], 20, seed=1) == generate(model, [[1]], 20, seed=1)
    ids = decode(dropping, [[1]], 20, Sampling())
    next(ids)
    ids.close()  # a reader that stops halfway
    assert dropping.h[0].attn.training
    assert not torch.is_inference_mode_enabled()

"""GPT2, GPT2Classifier and KVCache.

The oracles are transformers' logits, loss and gradients (a fixture), F.cross_entropy, and each row
of a batch on its own.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptft import GPT2, GPT2Classifier, GPT2Config
from gptft.model import KVCache

TINY = GPT2Config(vocab_size=97, n_positions=24, n_embd=16, n_layer=2, n_head=4, dropout=0.0)
T = TINY.n_positions


@pytest.fixture(scope="module")
def fixture():
    with np.load(Path(__file__).parent / "fixtures" / "transformers_gpt2.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file if name != "versions"}


@pytest.fixture
def reference_model(fixture):
    model = GPT2(TINY)
    model.load_state_dict({name: fixture[f"weight/{name}"] for name in model.state_dict()})
    return model


def randomized(model):
    """Weights that are large enough for every part of the model to matter."""
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def assert_close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------- logits, losses, gradients


def test_logits_loss_and_gradients_equal_transformers(fixture, reference_model):
    # Shapes prove little: attn.c_proj is square, so a transposed matrix fits.
    token_ids = fixture["token_ids"]
    logits = reference_model(token_ids)
    assert_close(logits, fixture["logits"], 1e-5)
    targets = F.pad(fixture["labels"][:, 1:], (0, 1), value=-100)  # transformers shifts its labels
    loss = reference_model(token_ids, targets) / (targets != -100).sum()
    assert_close(loss, fixture["loss"], 1e-6)
    loss.backward()
    for name, p in reference_model.named_parameters():
        expected = fixture[f"grad/{name}"]
        assert (p.grad - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("width, pad_id, order", [(17, 96, [0, 1, 2]), (24, 0, [2, 0, 1])])
def test_class_logits_do_not_depend_on_the_batch(width, pad_id, order):
    # The classic mistake is to read a padding position.
    model = randomized(GPT2Classifier(TINY, n_classes=3)).eval()
    texts = torch.randint(0, 97, (3, width))
    lengths, targets = torch.tensor([1, 17, 5])[order], torch.tensor([2, -100, 1])
    alone = [model(ids[None, :n], n[None]) for ids, n in zip(texts, lengths)]
    texts[torch.arange(width) >= lengths[:, None]] = pad_id
    assert_close(model(texts, lengths), torch.cat(alone), 1e-5)
    loss = F.cross_entropy(torch.cat(alone), targets, reduction="sum")
    assert_close(model(texts, lengths, targets), loss, 1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_loss_is_the_cross_entropy_of_the_logits(autocast):
    model = randomized(GPT2(TINY))
    if not autocast:
        model.double()
    token_ids, targets = torch.randint(0, 97, (2, 3, T))
    targets[:, ::4] = -100
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, logits = model(token_ids, targets), model(token_ids)
    logits = logits.to(loss.dtype).flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), reduction="sum")
    assert_close(loss, expected, 1e-6 if autocast else 1e-12)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, parameters)):
        assert (found - wanted).norm() <= (0.01 if autocast else 1e-12) * wanted.norm()


def test_nothing_to_learn_is_a_loss_and_gradients_of_zero():
    # A mean over no targets would be NaN; a missing gradient would leave an all-reduce waiting.
    token_ids, lengths = torch.randint(0, 97, (2, 6)), torch.tensor([6, 4])
    for model, inputs in (
        (GPT2(TINY), (token_ids, torch.full((2, 6), -100))),
        (GPT2Classifier(TINY), (token_ids, lengths, torch.full((2,), -100))),
    ):
        loss = randomized(model)(*inputs)
        loss.backward()
        assert loss == 0
        assert not any(p.grad.any() for p in model.parameters())


def test_checkpointed_activations_give_the_same_gradients():
    model = randomized(GPT2(replace(TINY, dropout=0.2)))
    token_ids = torch.randint(0, 97, (2, 12))
    gradients = []
    for model.checkpoint_activations in (False, True):
        torch.manual_seed(1)  # the same dropout, which the second computation has to repeat
        gradients.append(torch.autograd.grad(model(token_ids, token_ids), model.parameters()))
    for kept, computed_again in zip(*gradients):
        assert_close(computed_again, kept, 1e-5)


@pytest.mark.parametrize("dropout, attention_dropout", [(0.3, 0.0), (0.0, 0.3)])
def test_dropout_acts_in_training_only(dropout, attention_dropout):
    # SDPA drops weights whenever it is asked to, also in evaluation mode.
    config = replace(TINY, dropout=dropout, attention_dropout=attention_dropout)
    model, token_ids = GPT2(config), torch.randint(0, 97, (2, 12))
    assert torch.equal(model.eval()(token_ids), model(token_ids))
    assert not torch.equal(model.train()(token_ids), model(token_ids))


def test_dropout_reaches_the_embeddings_and_both_terms_of_a_block():
    model = randomized(GPT2(replace(TINY, dropout=1 - 1e-9)))  # it drops everything
    hidden = model.hidden_states(torch.randint(0, 97, (2, 12)))
    assert_close(hidden, model.ln_f.bias.expand_as(hidden))


def test_initial_weights_follow_gpt2():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=2000, n_positions=256, n_embd=128, n_layer=8, n_head=4))
    parameters = dict(model.named_parameters())
    for name, std in {
        "wte.weight": 0.02,
        "wpe.weight": 0.01,
        "h.3.attn.c_attn.weight": 0.02,
        "h.3.attn.c_proj.weight": 0.02 / 4,  # 1 / sqrt(2 * 8 layers)
        "h.3.mlp.c_proj.weight": 0.02 / 4,
    }.items():
        assert parameters[name].std().item() == pytest.approx(std, rel=0.03)
    assert not any(p.any() for name, p in parameters.items() if name.endswith("bias"))
    assert not GPT2Classifier(TINY).score.weight.any()  # equal odds


def test_impossible_inputs_are_refused():
    with pytest.raises(ValueError, match="25 tokens .* 24"):
        GPT2(TINY)(torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        GPT2Classifier(TINY, n_classes=1)
    with pytest.raises(ValueError, match="3 classes but 2"):
        GPT2Classifier(TINY, n_classes=3, class_names=["a", "b"])


# ---------------------------------------------------------------- the key-value cache


@pytest.fixture(scope="module")
def model():
    """Float64, so that rounding can't hide a mistake."""
    return randomized(GPT2(replace(TINY, dropout=0.1))).double().eval()


@pytest.mark.parametrize("pieces", [[1] * T, [T], [7, 1, 1, 10, 5]], ids=str)
@torch.no_grad()
def test_a_text_in_pieces_equals_the_whole(model, pieces):
    # is_causal is aligned top-left: with it, a single query would see only the first key.
    token_ids = torch.randint(0, 97, (3, T))
    cache = KVCache(model, torch.zeros(3, dtype=torch.int64), T)
    found = [model.hidden_states(piece, cache) for piece in token_ids.split(pieces, dim=1)]
    assert_close(torch.cat(found, dim=1), model.hidden_states(token_ids))


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2], [1], [2, 1, 1, 0]], ids=str)
@pytest.mark.parametrize(
    "lengths, pieces",
    [([3, 11, 1], [11]), ([3, 11, 1], [4, 7]), ([11, 11, 11], [11])],
    ids=str,
)
@torch.no_grad()
def test_each_row_of_a_batch_equals_its_single_run(model, lengths, pieces, rows):
    padding = 11 - torch.tensor(lengths)
    token_ids = torch.randint(0, 97, (3, T))  # the padding may be any token
    cache = KVCache(model, padding, T)
    prompt, steps = token_ids.split([11, 13], dim=1)
    for piece in prompt.split(pieces, dim=1):
        model.hidden_states(piece, cache)
    cache.select(rows)
    for n, step in enumerate(steps[rows].split(1, dim=1)):
        for i, hidden in zip(rows, model.hidden_states(step, cache)):
            text = token_ids[i, padding[i] : 12 + n]
            assert_close(hidden[-1], model.hidden_states(text[None])[0, -1])


@torch.no_grad()
def test_a_full_cache_refuses_and_stays_as_it_was(model):
    token_ids = torch.randint(0, 97, (1, T))
    cache = KVCache(model, torch.tensor([0]), T)
    model.hidden_states(token_ids[:, :-1], cache)
    for _ in range(2):
        with pytest.raises(ValueError, match="25 tokens .* 24 slots"):
            model.hidden_states(token_ids[:, :2], cache)
    last = model.hidden_states(token_ids[:, -1:], cache)
    assert_close(last, model.hidden_states(token_ids)[:, -1:])


def test_every_query_sees_a_slot(model):
    # Also a padding token: a softmax over nothing is NaN in some kernels, and 0 * NaN is NaN.
    cache = KVCache(model, torch.tensor([7, 0]), T)
    for n in (4, 6, 1):
        _, mask = cache.advance(n)
        assert mask.any(dim=-1).all()


@pytest.mark.parametrize("has_amx", [False, True])
@torch.no_grad()
def test_bfloat16_weights_lose_no_more_with_a_cache(model, has_amx, monkeypatch):
    monkeypatch.setattr("gptft.speed.HAS_AMX", has_amx)
    token_ids = torch.randint(0, 97, (1, T))
    exact = model.hidden_states(token_ids)
    halved = copy.deepcopy(model).to(torch.bfloat16)
    cache = KVCache(halved, torch.tensor([0]), T)
    assert (cache.kv.dtype == torch.bfloat16) == has_amx
    steps = token_ids.split(1, dim=1)
    found = torch.cat([halved.hidden_states(ids, cache) for ids in steps], dim=1)
    whole = halved.hidden_states(token_ids)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 1.2 * (whole - exact).norm() < 0.1 * exact.norm()

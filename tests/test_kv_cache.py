"""The KV cache: reading a text in pieces, alone or beside others, gives what reading it at once gives."""

import pytest
import torch
import torch.nn.functional as F

from gptft.config import GPT2Config
from gptft.model import GPT2, KVCache

P = 24


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = (
        GPT2(GPT2Config(vocab_size=61, n_positions=P, n_embd=16, n_layer=2, n_head=4, dropout=0.1))
        .double()
        .eval()
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "pieces", [[1] * P, [P], [7, 1, 1, 10, 5], [1, P - 1], [P - 1, 1]], ids=str
)
def test_pieces_give_what_the_whole_gives(model, pieces):
    # is_causal is aligned top-left: with it a single query would see only key 0, and a second chunk the wrong keys.
    ids = torch.randint(0, 61, (3, P))
    cache = KVCache(model, 3, P)
    found = [model.hidden_states(piece, cache) for piece in ids.split(pieces, dim=1)]
    close(torch.cat(found, 1), model.hidden_states(ids))


def test_the_last_position_is_the_last(model):
    # Silent wrapping or clipping at the end of the context would give text, and wrong text.
    cache = KVCache(model, 1, P)
    ids = torch.randint(0, 61, (1, P))
    model.hidden_states(ids[:, :-1], cache)
    close(model.hidden_states(ids[:, -1:], cache), model.hidden_states(ids)[:, -1:])
    for _ in range(2):  # a refusal changes nothing
        with pytest.raises(ValueError, match=f"{P} tokens and 1 more .* {P} slots"):
            model.hidden_states(ids[:, -1:], cache)
    with pytest.raises(ValueError, match=f"{P + 1} slots.* {P}"):
        KVCache(model, 1, P + 1)


def test_rows_of_unequal_length_are_as_they_are_alone(model):
    # The padding after a short prompt must not be seen, nor move the positions of what follows.
    rows = [torch.randint(0, 61, (n,)) for n in (3, 11, 1)]
    more = torch.randint(0, 61, (3, 9))
    alone = []
    for row, new in zip(rows, more):
        alone.append(model.hidden_states(torch.cat([row, new])[None])[0, len(row) :])
    for pad_id in (0, 60):
        cache = KVCache(model, 3, P)
        padded = torch.full((3, 11), pad_id)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        model.hidden_states(padded, cache)
        cache.truncate([3, 11, 1])
        cache.kv[:, :, 0, :, 3:] = cache.kv[:, :, 2, :, 1:] = (
            1e6  # what lies behind a row's length may be anything
        )
        found = [model.hidden_states(piece, cache) for piece in more.split([1, 1, 4, 1, 2], dim=1)]
        close(torch.cat(found, 1), torch.stack(alone))


@pytest.mark.parametrize("order", [[0, 2], [1], [0, 0, 1, 2], [2, 1, 1]], ids=str)
def test_rows_are_dropped_and_repeated(model, order):
    ids, more = torch.randint(0, 61, (3, 6)), torch.randint(0, 61, (len(order), 4))
    cache = KVCache(model, 4, P)
    cache.arrange([0, 1, 2])
    model.hidden_states(ids, cache)
    cache.truncate([6, 2, 4])
    cache.arrange(order)
    found = torch.cat([model.hidden_states(token, cache) for token in more.split(1, dim=1)], 1)
    for i, old in enumerate(order):
        text = torch.cat([ids[old, : [6, 2, 4][old]], more[i]])[None]
        close(found[i], model.hidden_states(text)[0, -4:])


def test_no_mask_where_causal_suffices(model, monkeypatch):
    # A mask tensor takes the fast kernels away: none in training, none when prompts are read.
    seen, attention = [], F.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, is_causal=False, **rest):
        seen.append((attn_mask is None, is_causal))
        return attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    ids = torch.randint(0, 61, (2, 5))
    model(ids)
    model.hidden_states(ids, KVCache(model, 2, P))
    assert seen == [(True, True)] * 4


def test_bfloat16_weights_keep_a_float32_cache(model):
    weights = GPT2(model.config).eval()
    weights.load_state_dict(model.state_dict())
    ids = torch.randint(0, 61, (2, P))
    exact = model.hidden_states(ids)
    weights.to(torch.bfloat16)
    cache = KVCache(weights, 2, P)
    found = torch.cat([weights.hidden_states(token, cache) for token in ids.split(1, dim=1)], 1)
    assert found.dtype == torch.bfloat16 and cache.kv.dtype == torch.float32
    plain = weights.hidden_states(ids)
    assert (found - exact).norm() < 1.2 * (plain - exact).norm() < 0.1 * exact.norm()

"""Each fast kernel equals the plain code that it replaces."""

import pytest
import torch
import torch.nn.functional as F

from gptft import speed
from gptft.model import plain_attention
from gptft.speed import attention, linear, linear_cross_entropy

DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.01)]
CAUSAL = torch.ones(12, 12, dtype=torch.bool).tril()


def assert_near(found, expected, tolerance):
    """The norm of the error is a small share of the norm."""
    assert (found.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("mask", [None, CAUSAL.triu(-4)], ids=["causal", "mask"])
def test_attention_equals_sdpa_in_float64(mask, dtype, tolerance):
    # In bf16 on a CPU, training uses the formula itself: with a wrong scale it would still train.
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 4, 12, 8, dtype=torch.float64)  # q, k, v: (B, H, T, D)
    weight = torch.randn(2, 4, 12, 8, dtype=torch.float64)
    exact = qkv.clone().requires_grad_()
    visible = CAUSAL if mask is None else mask
    expected = F.scaled_dot_product_attention(*exact, attn_mask=visible)
    expected.backward(weight)
    given = qkv.to(dtype, copy=True).requires_grad_()
    found = attention(*given, mask)
    if mask is None:
        assert torch.allclose(plain_attention(*exact), expected)
    found.backward(weight.to(dtype))
    assert found.dtype == dtype
    assert_near(found, expected, tolerance)
    assert_near(given.grad, exact.grad, tolerance)


def test_attention_by_products_drops_weights():
    q, k = torch.randn(2, 1, 1, 64, 64, dtype=torch.bfloat16, requires_grad=True)
    v = torch.eye(64, dtype=q.dtype)[None, None]  # so that the result is the weights themselves
    share = (attention(q, k, v, dropout=0.25) != 0).sum() / (64 * 65 / 2)
    assert 0.7 < share < 0.8


@pytest.mark.parametrize("has_amx", [False, True])
@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (1, 1, 40), (1, 3, 40)], ids=str)
def test_linear_equals_f_linear(shape, with_bias, dtype, tolerance, has_amx, monkeypatch):
    monkeypatch.setattr(speed, "HAS_AMX", has_amx)
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(24, 40).to(dtype)
    bias = torch.randn(24).to(dtype) if with_bias else None
    expected = F.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    with torch.no_grad():
        found = linear(x, weight, bias)
    assert found.shape == expected.shape and found.dtype == dtype
    assert_near(found, expected, tolerance)
    assert torch.backends.mkldnn.enabled


def test_linear_of_one_vector_passes_gradients_on():
    weight = torch.zeros(24, 40, requires_grad=True)
    linear(torch.ones(1, 40), weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(24, 40))


# ---------------------------------------------------------------- head and loss


def head_and_targets(dtype=torch.float64):
    """hidden (N, C), weight (V, C), and targets (N,) of which 112 count."""
    torch.manual_seed(0)
    targets = torch.randint(0, 30, (150,))
    targets[::4] = -100
    hidden, weight = torch.randn(150, 8, dtype=dtype), torch.randn(30, 8, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("chunk", [1, 7, 56, 100, 1000])
def test_loss_in_chunks_equals_cross_entropy(chunk, monkeypatch):
    monkeypatch.setitem(speed.CHUNK, "cpu", chunk)
    hidden, weight, targets = head_and_targets()
    loss = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    # 0.3: the backward pass scales both gradients, as a division by the step's count does.
    gradients = torch.autograd.grad(0.3 * loss, (hidden, weight))
    for found, wanted in zip(gradients, torch.autograd.grad(0.3 * expected, (hidden, weight))):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_compiled_loss_equals_cross_entropy(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    hidden, weight, targets = head_and_targets(torch.float32)
    loss = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, targets, reduction="sum"))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen):
    hidden, weight, targets = head_and_targets()
    (hidden, weight)[frozen].requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert [hidden.grad is None, weight.grad is None] == [frozen == 0, frozen == 1]

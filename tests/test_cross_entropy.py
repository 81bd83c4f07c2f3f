"""The head and its loss in one: the same numbers as the two steps apart, for all that goes in and comes back."""

import pytest
import torch
import torch.nn.functional as F

from gptft import cross_entropy
from gptft.cross_entropy import linear_cross_entropy


def inputs(N=150, C=8, V=30, dtype=torch.float64):
    torch.manual_seed(0)
    targets = torch.randint(0, V, (N,))
    targets[::4] = -100
    return (
        torch.randn(N, C, dtype=dtype, requires_grad=True),
        torch.randn(V, C, dtype=dtype, requires_grad=True),
        targets,
    )


@pytest.mark.parametrize("positions", [7, 100, 1000])
def test_it_equals_the_two_steps_apart(positions, monkeypatch):
    monkeypatch.setitem(cross_entropy.POSITIONS, "cpu", positions)
    hidden, weight, targets = inputs()
    together = linear_cross_entropy(hidden, weight, targets)
    apart = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    assert (
        together.item() == pytest.approx(apart.item(), rel=1e-12)
        and together.dtype == torch.float64
    )
    # 0.3: what comes before it in the backward pass, such as the division by the step's count, scales both gradients.
    for one, other in zip(
        torch.autograd.grad(0.3 * together, (hidden, weight)),
        torch.autograd.grad(0.3 * apart, (hidden, weight)),
    ):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, targets).item() == together.item()


def test_nothing_to_learn_is_zero_with_a_gradient_of_zero():
    hidden, weight, targets = inputs()
    total = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    total.backward()
    assert total == 0 and not hidden.grad.any() and not weight.grad.any()


def test_under_autocast_the_products_are_rounded_and_nothing_else():
    hidden, weight, targets = inputs(C=32, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = linear_cross_entropy(hidden, weight, targets)
        apart = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    assert together.dtype == torch.float32 and together.item() == pytest.approx(
        apart.item(), rel=1e-6
    )
    for one, other in zip(
        torch.autograd.grad(together, (hidden, weight)),
        torch.autograd.grad(apart, (hidden, weight)),
    ):
        assert one.dtype == torch.float32 and (one - other).norm() < 0.01 * other.norm()


def test_a_frozen_weight_gets_no_gradient():
    hidden, weight, targets = inputs()
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None and hidden.grad.any()

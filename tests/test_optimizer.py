"""The learning rate of each step against worked values, and which weights decay."""

from dataclasses import replace

import pytest
from toy_run import OPTIONS, toy_model

from gptft.training.optimizer import build_optimizer, learning_rate


@pytest.mark.parametrize(
    "options, expected",
    [
        # Two of ten steps warm up, and eight equal steps lead from the peak towards 0.
        (dict(warmup=0.2), [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (dict(warmup=1.0), [0.25, 0.5, 0.75, 1]),
        (dict(warmup=0.1), [1]),
        # (1 + cos x) / 2 at 0, pi/4, pi/2 and 3 pi/4.
        (dict(warmup=0.0, schedule="cosine"), [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rate_by_hand(options, expected):
    options = replace(OPTIONS, learning_rate=2.0, **options)
    rates = [learning_rate(step, len(expected), options) for step in range(len(expected))]
    assert rates == pytest.approx([2 * rate for rate in expected], abs=1e-5)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'cosine', not 'step'"):
        learning_rate(0, 10, replace(OPTIONS, warmup=0.0, schedule="step"))


def test_only_trained_matrices_decay():
    model = toy_model()
    model.transformer.wpe.requires_grad_(False)
    groups = build_optimizer(model, OPTIONS).param_groups
    # Token embedding, four linear layers and the head; their biases, and three norms.
    assert [[p.dim() for p in group["params"]] for group in groups] == [[2] * 6, [1] * 10]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]

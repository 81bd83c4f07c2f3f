"""The schedule against worked values, and which weights decay."""

import pytest

from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config, TrainOptions
from gptft.optim import learning_rate, parameter_groups


def rates(n_steps, **options):
    options = TrainOptions(learning_rate=1.0, **options)
    return [learning_rate(step, n_steps, options) for step in range(n_steps)]


def test_linear_schedule_by_hand():
    # 2 of 10 steps warm up: 1/2, 1; then 8 equal steps down from the peak towards 0.
    assert rates(10, warmup=0.2) == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


def test_cosine_schedule_by_hand():
    # cos(0), cos(pi/4), cos(pi/2), cos(3 pi/4) -> 1, 0.8536, 0.5, 0.1464; scaled to end at a tenth of the peak.
    fall = [1, 0.853553, 0.5, 0.146447]
    assert rates(4, warmup=0.0, schedule="cosine") == pytest.approx(fall, abs=1e-6)
    assert rates(4, warmup=0.0, schedule="cosine", final_rate=0.1) == pytest.approx(
        [0.1 + 0.9 * f for f in fall], abs=1e-6
    )


def test_extreme_warmups():
    assert rates(4, warmup=1.0) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates(1, warmup=0.1) == [1.0]


def test_only_matrices_decay():
    model = GPT2Classifier(GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    decayed, free = parameter_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].split(".")[-1] for p in free["params"]} == {"weight", "bias"}
    assert all(".ln_" in n or n.endswith("bias") for n in (names[id(p)] for p in free["params"]))
    assert (
        len(decayed["params"]) == 2 + 4 + 1
        and decayed["weight_decay"] == 0.1
        and free["weight_decay"] == 0.0
    )
    model.transformer.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == [1, 0]

"""The training loop: gradients, clipping, loss scaling, compilation, evaluation and the log."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from toy_run import (
    FP16,
    FP32,
    OPTIONS,
    ToyBatches,
    ToyTexts,
    assert_equal,
    read_log,
    saved_state,
    step_gradient,
    toy_model,
    toy_trainer,
    train,
)

from gptft.checkpoints.folders import load_model
from gptft.config import IGNORED
from gptft.errors import UserError
from gptft.training.devices import choose_device


@pytest.mark.parametrize("kind", ["class", "tokens"])
def test_gradient_does_not_depend_on_the_micro_batches(kind):
    # Rows have unequal lengths and numbers of targets: averages of averages would weigh them
    # wrongly. In float64 only rounding is left.
    data = ToyTexts(8, kind=kind)
    model = toy_model(kind).double()
    batches = [data.collate(data, [row]) for row in range(8)]
    losses = [model(*batch.inputs, targets=batch.targets) for batch in batches]
    loss = sum(losses) / sum(batch.n for batch in batches)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert expected.norm() > 0.1
    for size in (8, 2, 3):
        trainer = toy_trainer(toy_model(kind).double(), data, micro_batch_size=size, clip=1e9)
        torch.testing.assert_close(step_gradient(trainer), expected, atol=1e-12, rtol=1e-9)
        assert trainer.unread[0].loss.item() == pytest.approx(loss.item())


def test_batch_without_targets_has_zero_loss_and_gradient():
    # The mean over nothing is NaN, and one such batch would destroy the weights.
    data = ToyTexts(8, kind="tokens")
    data.targets = [np.full_like(row, IGNORED) for row in data.rows]
    trainer = toy_trainer(toy_model("tokens"), data, micro_batch_size=3)
    assert not step_gradient(trainer).any()
    assert trainer.unread[0].loss == 0


@pytest.mark.parametrize("device", [FP32, FP16], ids=["fp32", "fp16"])
def test_clipping_shortens_the_true_gradient(device):
    # Clipped before it is unscaled, an fp16 gradient would be 65,536 times too short.
    def gradient(device, clip):
        return step_gradient(toy_trainer(toy_model(gain=0.1), ToyTexts(8), device, clip=clip))

    expected = gradient(FP32, 1e9)
    assert expected.norm() > 0.01
    torch.testing.assert_close(gradient(device, 1e9), expected, atol=1e-3, rtol=0)
    clipped = gradient(device, 1e-3) / 1e-3
    torch.testing.assert_close(clipped, expected / expected.norm(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "precision, compile",
    [
        ("bf16", "off"),
        ("fp16", "off"),
        ("bf16", "on"),
    ],
)
def test_precision_and_compile_leave_the_loss_as_it_is(tmp_path, precision, compile):
    chosen = choose_device("cpu", precision, compile)
    if compile == "on" and not chosen.compile:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = []
    for device in (FP32, chosen):
        folder = tmp_path / device.precision
        train(folder, toy_model(gain=0.3), device, learning_rate=0.01)
        losses.append([row["loss"] for row in read_log(folder)])
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    # The state has no "_orig_mod." before its names, as those of a compiled module have.
    assert saved_state(folder)["model"].keys() == toy_model().state_dict().keys()
    # One graph for the first shape, one for all lengths, one for the smaller last batch.
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= n_graphs <= 3 if chosen.compile else n_graphs == 0


def test_best_weights_are_kept(tmp_path):
    weights = []

    def keep(model):
        weights.append(deepcopy(model.state_dict()))

    _, position = train(tmp_path / "run", epochs=20, on_eval=keep)
    assert position.best["accuracy"] >= 0.75
    vals = [row["val"] for row in read_log(tmp_path / "run", "val")]
    scores = [(val["accuracy"], -val["loss"]) for val in vals]
    best = scores.index(max(scores))
    assert best < 19
    assert_equal(load_model(tmp_path / "run").state_dict(), weights[best])
    assert position.best_step == 8 * (best + 1)
    assert position.best == vals[best]


def test_log_has_a_row_for_each_step_and_evaluation(tmp_path):
    _, position = train(tmp_path / "run", epochs=2, warmup=0.0)
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 17))
    assert [row["learning_rate"] for row in rows[::8]] == [3e-3, 1.5e-3]
    assert [row["epoch"] for row in rows[7:9]] == [0.875, 1.0]
    assert {"grad_norm", "tokens_per_second", "seconds"} < rows[0].keys()
    assert [row["step"] for row in read_log(tmp_path / "run", "val")] == [8, 16]
    assert position.tokens == 2 * ToyTexts(61).lengths.sum()


def test_evaluation_does_not_change_training(tmp_path):
    modes = []

    def note(model):
        modes.append(model.training)

    often, _ = train(tmp_path / "often", toy_model(dropout=0.2), eval_every=1, on_eval=note)
    # A loaded model is in evaluation mode.
    rarely, _ = train(tmp_path / "rarely", toy_model(dropout=0.2).eval(), on_eval=note)
    assert modes == [False] * (24 + 3)
    assert_equal(often.state_dict(), rarely.state_dict())


def test_patience_stops_early(tmp_path, capsys):
    # With a learning rate of 0 no evaluation is better than the first.
    settings = dict(epochs=50, learning_rate=0.0, eval_every=2, patience=2)
    _, position = train(tmp_path / "run", **settings)
    assert (position.best_step, position.step) == (2, 6)
    assert "stopped early, at step 6" in capsys.readouterr().out


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = toy_model()

    def poison(step):
        if step == 12:
            torch.nn.init.constant_(model.score.weight, math.nan)

    rows = ", ".join(map(str, sorted(ToyBatches(ToyTexts(61), OPTIONS).rows(1, 3))))
    with pytest.raises(UserError) as error:
        train(tmp_path / "run", model, on_step=poison, save_every=1, log_every=10)
    assert f"step 12 is not finite, epoch 2, training rows {rows}, {tmp_path}" in str(error.value)
    assert saved_state(tmp_path / "run")["position"]["step"] == 11


def test_val_loss_that_is_not_finite_stops_the_run(tmp_path):
    # NaN compares false with everything: as the first best it would stay the best.
    with pytest.raises(UserError, match="the loss on val is nan at step 4"):
        train(
            tmp_path / "run",
            on_eval=lambda model: model.score.weight.fill_(math.nan),
            eval_every=4,
        )
    assert not (tmp_path / "run" / "model.safetensors").exists()

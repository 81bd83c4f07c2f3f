"""The training loop: exact accumulation, exact resume, equal results in every precision, and what stops it."""

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from gptft import trainer
from gptft.classifier import GPT2Classifier, classification_loss
from gptft.classify import log_probabilities
from gptft.config import GPT2Config, TrainOptions
from gptft.data.batching import TrainBatches, classifier_batch
from gptft.errors import CheckpointError, Interrupted, UserError
from gptft.hardware import Hardware, choose_hardware, evaluating
from gptft.metrics import classification_metrics
from gptft.pretrained import load_model
from gptft.run import Run, open_run
from gptft.trainer import fit

FP32 = Hardware("cpu", "fp32", False, "test")


class Toy:
    """Rows of random ids and random length; a row is of class 1 if token 1 occurs in it more often than token 2."""

    max_length = 24

    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.rows = [
            rng.integers(1, 3, size=rng.integers(3, 24)).astype(np.uint16) for _ in range(n)
        ]
        self.labels = np.array([int((row == 1).sum() > (row == 2).sum()) for row in self.rows])
        self.lengths = np.array([len(row) for row in self.rows])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i], int(self.labels[i])


def toy_model(dropout=0.0, seed=0, n_layer=2):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=5, n_positions=24, n_embd=16, n_layer=n_layer, n_head=2, dropout=dropout
    )
    return GPT2Classifier(config, pooling="mean")


def train(folder, model=None, hardware=FP32, on_eval=None, loss=classification_loss, **options):
    """Fit a toy classifier in `folder` -> (model, FitResult)."""
    defaults = dict(
        epochs=3,
        batch_size=8,
        learning_rate=3e-3,
        weight_decay=0.1,
        dropout=0.0,
        max_length=24,
        log_every=2,
    )
    options = TrainOptions(**{**defaults, **options})
    model = model or toy_model()
    train_set, val_set = Toy(61), Toy(40, seed=1)
    torch.manual_seed(7)

    def evaluate(model):
        if on_eval:
            on_eval(model)
        return classification_metrics(
            val_set.labels, log_probabilities(model, val_set, 0, hardware)
        )

    run = open_run(folder, ["test"], dataclasses.asdict(options), options.resume, options.overwrite)
    batches = TrainBatches(train_set, classifier_batch, 0, options)
    fitted = fit(
        model,
        batches,
        loss,
        evaluate,
        lambda m: (m["accuracy"], -m["loss"]),
        options,
        hardware,
        run,
    )
    return model, fitted


def read_log(folder, kind="loss"):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if kind in row]


def equal_weights(a, b):
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_four_micro_batches_of_two_equal_one_batch_of_eight(tmp_path):
    # Averages of averages weigh short rows wrongly; sums and one count do not. Float64 leaves only rounding.
    data, gradients = Toy(8, seed=3), []
    for size in (8, 2, 3):
        model = toy_model().double()
        torch.nn.init.normal_(model.score.weight)
        options = TrainOptions(
            epochs=1, batch_size=8, micro_batch_size=size, learning_rate=1e-3, weight_decay=0.0
        )
        batches = TrainBatches(data, classifier_batch, 0, options)
        trainer._Trainer(model, batches, classification_loss, options, FP32, None)._backward(
            batches.step(0, 0), 8
        )
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert gradients[0].dtype == torch.float64 and gradients[0].norm() > 0.1
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-10


def test_micro_batches_leave_the_run_as_it_is(tmp_path):
    # The same through fit(), last and shorter batch of an epoch included.
    whole, _ = train(tmp_path / "a", toy_model().double(), epochs=1)
    parts, _ = train(tmp_path / "b", toy_model().double(), epochs=1, micro_batch_size=3)
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
    assert [r["loss"] for r in read_log(tmp_path / "a")] == pytest.approx(
        [r["loss"] for r in read_log(tmp_path / "b")]
    )


def test_it_learns_and_keeps_the_best_weights(tmp_path):
    model, fitted = train(tmp_path / "run", epochs=20)
    assert fitted.best["accuracy"] >= 0.9
    vals = read_log(tmp_path / "run", "val")
    assert fitted.best == max((v["val"] for v in vals), key=lambda m: (m["accuracy"], -m["loss"]))
    assert fitted.best_step == next(v["step"] for v in vals if v["val"] == fitted.best)
    # The folder holds that model, not the last one.
    val_set, best = Toy(40, seed=1), load_model(tmp_path / "run")
    with evaluating(best, FP32):
        again = classification_metrics(val_set.labels, log_probabilities(best, val_set, 0, FP32))
    assert again["loss"] == pytest.approx(fitted.best["loss"], abs=1e-6)


def test_log_shows_each_step_once_with_its_rate(tmp_path):
    _, fitted = train(tmp_path / "run", log_every=1, epochs=2, warmup=0.0)
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 17)) and fitted.steps == 16
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [3e-3 * (1 - i / 16) for i in range(16)]
    )
    assert rows[7]["epoch"] < 1 <= rows[8]["epoch"] and fitted.tokens == 2 * Toy(61).lengths.sum()


@pytest.mark.parametrize("precision, compile", [("bf16", False), ("fp16", False), ("bf16", True)])
def test_lower_precision_and_compile_train_to_the_same_loss(tmp_path, precision, compile):
    # The paths that CUDA uses, exercised on a CPU: autocast, GradScaler, torch.compile with dynamic shapes.
    hardware = choose_hardware("cpu", precision, "on" if compile else "off")
    if compile and not hardware.compile:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    reference = [row["loss"] for row in train_and_log(tmp_path / "fp32", FP32)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = [row["loss"] for row in train_and_log(tmp_path / "other", hardware)]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert (
        1 <= graphs <= 3 if compile else graphs == 0
    )  # lengths differ from batch to batch; a graph for each would be many
    assert len(losses) == len(reference) and np.mean(losses[-4:]) == pytest.approx(
        np.mean(reference[-4:]), rel=0.02
    )


def train_and_log(folder, hardware):
    train(folder, toy_model(n_layer=1), hardware, epochs=2, learning_rate=1e-3)
    return read_log(folder)


def test_fp16_overflow_skips_the_step_and_lowers_the_scale(tmp_path):
    # The scale starts at 65536; a loss times 1e3 overflows the first gradients, which must not count as an error.
    hardware = Hardware("cpu", "fp16", False, "test")
    model = toy_model()
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(300)
        model.score.weight.normal_()
    _, fitted = train(tmp_path / "run", model, hardware, log_every=1)
    assert 0 < fitted.skipped < fitted.steps and all(p.isfinite().all() for p in model.parameters())


def test_fp16_clips_the_true_gradient(tmp_path):
    # Clipped before it is unscaled, the gradient would be 65536 times too large, and every step as good as nothing.
    norms = []
    for precision in ("fp32", "fp16"):
        train(
            tmp_path / precision,
            hardware=Hardware("cpu", precision, False, "test"),
            max_steps=1,
            log_every=1,
        )
        norms += [row["grad_norm"] for row in read_log(tmp_path / precision)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_scaler_is_resumed(tmp_path, monkeypatch):
    # A forgotten scale starts again at 65536 and throws steps away that the run which never stopped did not.
    def overflowing():
        model = toy_model()
        with torch.no_grad():
            model.transformer.ln_f.weight.mul_(300)
            model.score.weight.normal_()
        return model

    hardware = Hardware("cpu", "fp16", False, "test")
    straight, fitted = train(tmp_path / "straight", overflowing(), hardware, log_every=1)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signal_after(20, signal.SIGTERM, patch)
        train(tmp_path / "resumed", overflowing(), hardware, log_every=1)
    resumed, again = train(tmp_path / "resumed", overflowing(), hardware, log_every=1, resume=True)
    assert 0 < again.skipped == fitted.skipped < 20 and equal_weights(straight, resumed)


def test_evaluation_leaves_training_as_it_was(tmp_path):
    # Evaluating twice as often must change nothing: same dropout, same weights; and it happens in eval mode.
    modes = []
    often, _ = train(
        tmp_path / "a", toy_model(0.2), eval_every=1, on_eval=lambda m: modes.append(m.training)
    )
    rarely, _ = train(tmp_path / "b", toy_model(0.2))
    assert equal_weights(often, rarely) and modes and not any(modes) and often.training


def signal_after(steps, signum, monkeypatch):
    """Let this process get a signal at the end of a step."""
    step_once = trainer._Trainer.train_step

    def step_and_signal(self):
        step_once(self)
        if self.step == steps:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(trainer._Trainer, "train_step", step_and_signal)


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, stop):
    # Dropout on, mid-epoch, with accumulation: weights, log and best must equal those of the run that never stopped.
    settings = dict(micro_batch_size=3, eval_every=3, save_every=3, log_every=1)
    straight, fitted = train(tmp_path / "straight", toy_model(0.3), **settings)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=f"step {stop}") as stopped,
    ):
        signal_after(stop, signal.SIGTERM, patch)
        train(tmp_path / "resumed", toy_model(0.3), **settings)
    assert stopped.value.code == 128 + signal.SIGTERM
    resumed, again = train(tmp_path / "resumed", toy_model(0.3, seed=5), resume=True, **settings)
    assert equal_weights(straight, resumed) and equal_weights(
        *(load_model(tmp_path / n) for n in ("straight", "resumed"))
    )
    assert (again.best, again.best_step, again.steps, again.tokens) == (
        fitted.best,
        fitted.best_step,
        fitted.steps,
        fitted.tokens,
    )
    logs = [
        [(row["step"], row.get("loss"), row.get("val")) for row in read_log(tmp_path / n, "step")]
        for n in ("straight", "resumed")
    ]
    assert logs[0] == logs[1]


def test_resume_after_a_crash_repeats_from_the_last_save(tmp_path, monkeypatch):
    # Killed two steps after a save: the log is cut back to the save, and nothing stands in it twice.
    settings = dict(save_every=4, eval_every=4, log_every=1)
    straight, _ = train(tmp_path / "straight", toy_model(0.3), **settings)

    class Killed(BaseException):
        pass

    def die(self):
        if self.step == 6:
            raise Killed
        step_once(self)

    step_once = trainer._Trainer.train_step
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer._Trainer, "train_step", die)
        train(tmp_path / "crashed", toy_model(0.3), **settings)
    resumed, _ = train(tmp_path / "crashed", toy_model(0.3), resume=True, **settings)
    assert equal_weights(straight, resumed)
    assert [row["step"] for row in read_log(tmp_path / "crashed")] == list(range(1, 25))


def test_resuming_with_other_options_names_the_difference(tmp_path):
    train(tmp_path / "run", max_steps=4, save_every=2)
    with pytest.raises(UserError, match="learning_rate was 0.003, is 0.1"):
        train(tmp_path / "run", max_steps=4, save_every=2, learning_rate=0.1, resume=True)


def test_damaged_state_is_one_clear_error(tmp_path):
    train(tmp_path / "run", max_steps=2)
    state = tmp_path / "run" / "last" / "state.pt"
    content = state.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"not a state"):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="state.pt"):
            train(tmp_path / "run", max_steps=2, resume=True)


def test_state_of_another_model_or_version_is_one_clear_error(tmp_path):
    train(tmp_path / "run", max_steps=2)
    run = Run(tmp_path / "run")
    state = run.load_state()
    for wrong in (
        {"step": 1},
        state | {"model": {"x": torch.zeros(2)}},
        state | {"generators": 3},
        state | {"optimizer": {}},
    ):
        run.save_state(wrong)
        run.log({"step": 3})  # of a step after the save, and all that tells of it
        log = (run.folder / "metrics.jsonl").read_bytes()
        with pytest.raises(
            CheckpointError,
            match="of another model or version.*state.pt; start again with --overwrite",
        ):
            train(tmp_path / "run", max_steps=2, resume=True)
        assert (
            run.folder / "metrics.jsonl"
        ).read_bytes() == log  # nothing is cut for a state that isn't taken over


def test_other_threads_are_noted_when_a_run_is_resumed(tmp_path, monkeypatch, capsys):
    # Sums are then rounded in another order: close, which must not pass for the same bits.
    train(tmp_path / "run", max_steps=4)
    train(tmp_path / "run", max_steps=4, resume=True)
    assert "resumed with other" not in capsys.readouterr().out
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    train(tmp_path / "run", max_steps=4, resume=True)
    assert (
        f"resumed with other surroundings (threads {threads}, now {threads + 1}): what follows is close"
        in capsys.readouterr().out
    )


def test_saved_state_has_plain_names(tmp_path):
    # torch.compile and DistributedDataParallel put prefixes before the names; another program could not read them.
    train(tmp_path / "run", max_steps=2)
    names = Run(tmp_path / "run").load_state()["model"]
    assert set(names) == set(toy_model().state_dict())


def test_loss_that_is_not_a_number_stops_the_run_and_keeps_what_was_good(tmp_path):
    calls = iter(range(1, 100))

    def poisoned(model, batch):
        return classification_loss(model, batch) * (math.nan if next(calls) > 11 else 1)

    with pytest.raises(
        UserError,
        match=r"step 12 \(epoch 2, batch 4\): its loss \(nan\).* not finite; training rows, from 0: (\d+, ){7}\d+, .*run",
    ):
        train(tmp_path / "run", loss=poisoned, save_every=1, eval_every=4, log_every=10)
    state = Run(tmp_path / "run").load_state()
    assert state["step"] == 11 and all(t.isfinite().all() for t in state["model"].values())
    assert all(p.isfinite().all() for p in load_model(tmp_path / "run").parameters())


def test_loss_on_val_that_is_not_a_number_stops_the_run(tmp_path):
    # Nothing compares with NaN: met first, it would stay the best; met later, training would go on with a broken model.
    def break_at_second(model):
        if Run(tmp_path / "run").resumable():
            model.score.weight.fill_(math.nan)

    with pytest.raises(UserError, match="the loss on val is nan at step 8"):
        train(tmp_path / "run", on_eval=break_at_second, eval_every=4)
    assert Run(tmp_path / "run").load_state()["step"] == 4 and all(
        p.isfinite().all() for p in load_model(tmp_path / "run").parameters()
    )


def test_steps_that_are_not_finite_can_be_left_out(tmp_path, capsys):
    # Left out whole: the weights, the moments and the decay of the other steps are those of a run without it.
    def poison(bad, value):
        calls = iter(range(1, 100))
        return lambda model, batch: (
            classification_loss(model, batch) * (value if next(calls) in bad else 1)
        )

    model, fitted = train(
        tmp_path / "run",
        loss=poison((3, 4), math.nan),
        skip_nonfinite=True,
        epochs=1,
        log_every=1,
        save_every=4,
    )
    assert fitted.skipped == 2 and all(p.isfinite().all() for p in model.parameters())
    assert [row["loss"] is None for row in read_log(tmp_path / "run")] == [
        step in (3, 4) for step in range(1, 9)
    ]
    said = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("left out step")
    ]
    assert (
        len(said) == 2
        and "left out step 3 (epoch 1, batch 3): its loss (nan)" in said[0]
        and "training rows, from 0: " in said[0]
    )
    once, _ = train(
        tmp_path / "other", loss=poison((3, 4), math.inf), skip_nonfinite=True, epochs=1
    )
    assert equal_weights(model, once)
    # A run that stopped there can go on in this way.
    with pytest.raises(UserError, match="--resume --skip-nonfinite"):
        train(tmp_path / "stopped", loss=poison((3, 4), math.nan), epochs=1, save_every=2)
    resumed, _ = train(
        tmp_path / "stopped",
        loss=poison((1, 2), math.nan),
        epochs=1,
        save_every=2,
        resume=True,
        skip_nonfinite=True,
    )
    assert equal_weights(model, resumed)


def test_patience_stops_early(tmp_path):
    # With a rate of 0 no evaluation is better than the first: two more, then the end.
    _, fitted = train(tmp_path / "run", epochs=50, learning_rate=0.0, eval_every=2, patience=2)
    assert (fitted.best_step, fitted.steps) == (2, 6)


def test_clipping_bounds_the_update(tmp_path):
    # AdamW hides the gradient's size, so look at the logged norm (before clipping) and at a run without clipping.
    _, _ = train(tmp_path / "clipped", max_steps=5, clip=1e-3, log_every=1)
    _, _ = train(tmp_path / "free", max_steps=5, clip=1e9, log_every=1)
    clipped, free = (read_log(tmp_path / name) for name in ("clipped", "free"))
    assert clipped[0]["grad_norm"] == free[0]["grad_norm"] > 1e-3
    assert clipped[-1]["loss"] != free[-1]["loss"]

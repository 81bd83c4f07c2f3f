"""A training run that takes a second, for the tests of training: toy texts and tiny models.

Whatever happens to a run at a given step (a signal, an error) happens in `on_step`, which is called
when the step fetches its batch.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict, replace

import numpy as np
import torch

from gptft import distributed
from gptft.checkpoints.safetensors import read_safetensors
from gptft.classifier import GPT2Classifier
from gptft.config import IGNORED, GPT2Config, TrainOptions
from gptft.data.batches import TrainBatches, classifier_batch, language_model_batch
from gptft.evaluation.classification import log_probabilities
from gptft.evaluation.metrics import classification_metrics
from gptft.model import GPT2
from gptft.training.devices import Device
from gptft.training.loop import Trainer, fit
from gptft.training.run_folder import Run, open_run

FP32 = Device("cpu", "fp32", False, "test")
FP16 = Device("cpu", "fp16", False, "test")
SHAPE = GPT2Config(vocab_size=5, n_positions=100, n_embd=16, n_layer=1, n_head=2, dropout=0.0)
OPTIONS = TrainOptions(
    epochs=3,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=0.1,
    dropout=0.0,
    max_length=100,
    log_every=1,
)


def no_action(_):
    """For `on_step` and `on_eval`."""


class ToyTexts:
    """Rows of tokens 1 and 2, of random length.

    kind: "class": a row's target is 1 if token 1 is the more frequent. "tokens": its targets are
    its tokens from a random one on, perhaps none.
    """

    max_length = 100

    def __init__(self, n, seed=0, kind="class"):
        rng = np.random.default_rng(seed)
        self.rows = [rng.integers(1, 3, size=rng.integers(3, 100)) for _ in range(n)]
        self.lengths = np.array([len(row) for row in self.rows])
        self.labels = np.array([int(row.mean() < 1.5) for row in self.rows])
        self.targets = self.labels
        self.collate = classifier_batch
        if kind == "tokens":
            self.collate = language_model_batch
            self.targets = [row.copy() for row in self.rows]
            for target in self.targets:
                target[: rng.integers(len(target) + 1)] = IGNORED

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i], self.targets[i]


class ToyBatches(TrainBatches):
    """TrainBatches of ToyTexts, with `on_step(step)` called before each step, from 1."""

    def __init__(self, data, options, on_step=no_action):
        super().__init__(data, data.collate, options)
        self.on_step = on_step

    def micro_batches(self, epoch, i):
        self.on_step(epoch * self.steps_per_epoch + i + 1)
        return super().micro_batches(epoch, i)


def toy_model(kind="class", dropout=0.0, seed=0, gain=1.0):
    """A classifier, or for kind "tokens" a GPT2. A gain of 300 makes gradients overflow in fp16."""
    torch.manual_seed(seed)
    model = GPT2(replace(SHAPE, dropout=dropout))
    torch.nn.init.constant_(model.ln_f.weight, gain)
    if kind == "class":
        model = GPT2Classifier(SHAPE, body=model)
        torch.nn.init.normal_(model.score.weight, std=0.1)
    return model


def toy_trainer(model, data, device=FP32, **options):
    """A Trainer without evaluation and run folder."""
    options = replace(OPTIONS, **options)
    return Trainer(model, ToyBatches(data, options), None, options, device, None)


def step_gradient(trainer):
    """Make one step -> the gradient that the optimizer is given, flattened."""
    trainer.optimizer.zero_grad = lambda set_to_none: None
    trainer.train_step()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    trainer.model.zero_grad()
    return gradient


def train(folder, model=None, device=FP32, on_step=no_action, on_eval=no_action, **options):
    """Train a classifier of toy texts in a run folder, 24 steps -> (model, Position).

    on_eval: called with the model before each evaluation.
    """
    options = replace(OPTIONS, **options)
    model = model or toy_model()
    val = ToyTexts(40, seed=1)
    torch.manual_seed(7)

    def val_metrics(model):
        on_eval(model)
        return classification_metrics(val.labels, log_probabilities(model, val, device))

    run = Run(folder)
    with distributed.main_first():
        if distributed.is_main():
            run = open_run(folder, [], asdict(options), options.resume, options.overwrite)
    batches = ToyBatches(ToyTexts(61), options, on_step)
    return model, fit(model, batches, val_metrics, options, device, run)


def send(number, at, times=1):
    """An `on_step` that sends this process a signal in step `at`."""

    def on_step(step):
        if step == at:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return on_step


def saved_state(folder):
    """The content of last/state.pt -> dict."""
    return torch.load(folder / "last" / "state.pt", weights_only=True)


def read_log(folder, kind="loss"):
    """The rows of metrics.jsonl that have a value called `kind` -> list of dict."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if kind in row]


def assert_equal(a, b):
    """Nested tensors and numbers, such as state dicts, must have the same bits."""
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_same_bits(*folders):
    """All that two finished runs leave must be equal, except times."""
    left = []
    for folder in folders:
        state = saved_state(folder)
        state["position"]["seconds"] = 0
        names = ("model", "optimizer", "scaler", "position", "generators")
        log = [(row["step"], row.get("loss"), row.get("val")) for row in read_log(folder, "step")]
        best = read_safetensors(folder / "model.safetensors")
        left.append([log, best, *(state[name] for name in names)])
    assert_equal(*left)


def fork(act, output):
    """Fork a child that calls `act()`, which returns its exit code -> its process id.

    output: a file for what it prints.
    """
    if pid := os.fork():
        return pid
    code = 70
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        torch.set_num_threads(1)
        code = act()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)

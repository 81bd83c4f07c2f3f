"""One training loop for every task.

`fit` alternates three things until the last step: an optimizer step, now and then an evaluation on
val that keeps the best weights, and now and then a saved state. `Trainer.train_step` is the whole
of a step. Signals, the log and the progress line are in progress.py; the state's file is in
state.py.

A loss is a sum over targets. Whatever part of the batch it comes from, it is divided by one number:
the targets in all micro-batches of all processes. So, dropout aside, neither the micro-batch size
nor the number of processes changes the gradient.

Source: nanoGPT's train.py for the order of a step; torch.amp's documentation for the scaler.

Next on the evening's path: data/instructions.py.
"""

import contextlib
import math
import time

import torch
from torch.nn.parallel import DistributedDataParallel

from gptft import distributed
from gptft.checkpoints.folders import save_model
from gptft.errors import Interrupted, UserError
from gptft.speed import keep_freed_memory
from gptft.training import state
from gptft.training.devices import evaluating
from gptft.training.optimizer import build_optimizer, learning_rate
from gptft.training.progress import Progress, Signals, Step, advice_on_memory, report_steps


def fit(model, batches, val_metrics, options, device, run, write_page=None):
    """Train a model in place; the best weights go into the run folder -> Position.

    Args:
        model: GPT2 or GPT2Classifier, on the device.
        batches: TrainBatches.
        val_metrics: model in evaluation mode -> dict of metrics on val, with "loss". An evaluation
            is better if its accuracy is higher (where there is one), then if its loss is lower.
        options: TrainOptions, complete. device: Device. run: Run.
        write_page: run folder -> None, called after each evaluation; None for no page.

    Raises UserError for a loss that is not finite, OutOfMemory, and Interrupted after a signal,
    with the state saved. Under torchrun, every process calls it, with its own device.
    """
    trainer = Trainer(model, batches, val_metrics, options, device, run)
    position = trainer.position
    with Signals() as signals, advice_on_memory(trainer):
        while not trainer.is_done():
            trainer.train_step()
            # The number of a signal, or 0. All processes stop at the same step.
            stop = distributed.largest(signals.received)
            if trainer.is_due(options.log_every):
                report_steps(trainer)
            if trainer.is_due(trainer.eval_every):
                trainer.evaluate()
                if write_page and distributed.is_main():
                    # It is written again at the end of the run: an error counts then.
                    with contextlib.suppress(OSError, UserError):
                        write_page(run.folder)
            if trainer.is_due(trainer.save_every) or stop:
                report_steps(trainer)
                # Here all processes wait for each other, the last time at the end of the run. So
                # when `fit` returns, the best weights are written, and all can read them.
                state.save(trainer)
            if stop:
                raise Interrupted(f"stopped at step {position.step}; go on with --resume", stop)
    if position.step < batches.n_steps:
        trainer.progress.say(
            f"stopped early, at step {position.step:,}: {options.patience} evaluations without a "
            "better one (--patience)"
        )
    return position


class Trainer:
    """A model in training, and what is done to it."""

    def __init__(self, model, batches, val_metrics, options, device, run):
        self.model = model
        self.batches = batches
        self.val_metrics = val_metrics
        self.options = options
        self.device = device
        self.run = run
        self.position = state.Position()
        self.eval_every = options.eval_every or batches.steps_per_epoch
        self.save_every = options.save_every or self.eval_every
        # Steps whose losses are still on the device: Python runs ahead of the GPU, and reading one
        # would wait for it. Now and then `report_steps` reads them, adds up the shares of all
        # processes, and stops the run if one is not finite.
        self.unread = []
        if device.name == "cpu":
            keep_freed_memory()  # faster: the next step's tensors reuse it
        self.optimizer = build_optimizer(model, options)
        # Scales the loss up in fp16, where small gradients would become 0; otherwise does nothing.
        self.scaler = device.scaler()
        # The model as training calls it, compiled or wrapped, with the same weights.
        self.parallel = torch.compile(model) if device.compile else model
        if distributed.world_size() > 1:
            self.parallel = DistributedDataParallel(self.parallel)
            if distributed.rank():
                # Each process draws its own dropout masks. As --seed is below 2**32, seeds differ.
                torch.manual_seed(options.seed + (distributed.rank() << 32))
        if options.resume:
            state.load(self)
        self.progress = Progress(batches.n_steps, self.position.step, device.name)

    def train_step(self):
        """One optimizer step."""
        began = time.perf_counter()
        position, options = self.position, self.options

        # 1) this process's share of the batch, and what the mean loss is a mean over
        epoch, i = divmod(position.step, self.batches.steps_per_epoch)
        micro_batches = self.batches.micro_batches(epoch, i)
        counts = [[batch.n, batch.n_tokens] for batch in micro_batches]
        n, n_tokens = distributed.sum_over_processes(torch.tensor(counts).sum(0)).tolist()

        # 2) add up the gradients of all micro-batches
        self.model.train()
        loss = torch.zeros((), device=self.device.name)
        for k, batch in enumerate(micro_batches):
            batch = batch.to(self.device.name)
            # Several processes exchange gradients once a step, in its last backward pass. DDP
            # reads this attribute, which its no_sync() sets; other modules ignore it.
            self.parallel.require_backward_grad_sync = k == len(micro_batches) - 1
            with self.device.autocast():
                part = self.parallel(*batch.inputs, targets=batch.targets) / max(n, 1)
            # The all-reduce takes the mean over processes; the sum is wanted.
            self.scaler.scale(part * distributed.world_size()).backward()
            loss += part.detach()  # the share of this process

        # 3) clip the true gradient, not the one that fp16 has scaled. `unscale_` notes an overflow.
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)

        # 4) update the weights, with the learning rate of this step. After an overflow, the scaler
        #    leaves them alone and lowers its scale; the step counts all the same.
        rate = learning_rate(position.step, self.batches.n_steps, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

        position.step += 1
        self.unread.append(Step(position.step, began, loss, norm, rate, n_tokens))

    def is_done(self):
        """Whether the last step is done, or --patience evaluations in a row were no better."""
        position, patience = self.position, self.options.patience
        is_out_of_patience = 0 < patience <= position.evaluations_since_best
        return position.step == self.batches.n_steps or is_out_of_patience

    def is_due(self, every):
        """Whether something is due that happens every `every` steps and at the end of the run."""
        return self.is_done() or self.position.step % every == 0

    def evaluate(self):
        """Evaluate on val, and keep the weights if they are the best so far."""
        report_steps(self)
        began = time.perf_counter()
        with evaluating(self.model, self.device):  # no dropout, no gradients, autocast
            metrics = self.val_metrics(self.model)
        position = self.position
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"the loss on val is {metrics['loss']} at step {position.step}, "
                f"{self.run.folder}; start again with --overwrite and a lower --learning-rate"
            )
        is_best = not position.best or quality(metrics) > quality(position.best)
        position.evaluations_since_best += 1
        if is_best:
            position.best, position.best_step = metrics, position.step
            position.evaluations_since_best = 0
        if distributed.is_main():
            if is_best:
                save_model(self.model, self.run.folder)
            self.run.log({"step": position.step, "val": metrics})
            seconds = time.perf_counter() - began
            self.progress.evaluated(position.step, metrics, seconds, is_best)


def quality(metrics):
    """A tuple that is larger for a better evaluation."""
    return metrics.get("accuracy", 0.0), -metrics["loss"]

"""The training loop: one `fit()` for every task.

A step takes a batch, computes the loss, its gradient, and lets AdamW move the weights. Three things around it decide
whether the numbers can be trusted:

- The loss is a sum, and the sum is divided once by the count of the whole step. Splitting a batch into micro-batches
  (gradient accumulation) or over processes then changes nothing, however unequal the parts are.
- The state that is saved is complete: weights, optimizer, loss scaler, random generators, position, best so far. A run
  that was stopped and resumed ends with the same weights as one that was not; where that can't be promised (other
  threads, another device), a line says so.
- The loss is looked at (which makes a GPU wait) only every few steps, and always before anything is evaluated or
  saved, so a loss that is not a number never reaches a checkpoint.

Left out: everything that belongs to a task (data, loss, evaluation comes in as functions) and sharded models.
Source: Goyal et al. 2017, section 3 (accumulation and normalisation); torch.amp's documentation for the scaler's order.
"""

import contextlib
import math
import signal
import sys
import time
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from gptft import distributed
from gptft.errors import CheckpointError, Interrupted, OutOfMemory, UserError, is_out_of_memory
from gptft.hardware import evaluating
from gptft.memory import keep_freed_memory
from gptft.optim import build_optimizer, learning_rate
from gptft.pretrained import save_model
from gptft.progress import Progress

GENTLER = "start again with --overwrite and a lower --learning-rate, or --precision fp32"
# The attributes of a run that are saved, beside its tensors.
POSITION = ("step", "tokens", "seconds", "skipped", "best", "best_step", "evals_since_best")


@dataclass
class FitResult:
    """What a run did, in all its parts: steps, seconds and real tokens of training, the best evaluation and its step."""

    steps: int
    seconds: float
    tokens: int
    best: dict
    best_step: int
    skipped: int  # steps left out: by the fp16 scaler, or by --skip-nonfinite
    graphs: int  # that torch.compile made; many would mean that it compiled again and again


def fit(model, batches, loss, evaluate, score, options, hardware, run):
    """Train `model` in place, keeping the best weights in the run folder -> FitResult.

    Args:
        model: a GPT2 or GPT2Classifier on the device.
        batches: TrainBatches, or what has its `n_steps`, `steps_per_epoch`, `step(epoch, i)` and `rows(epoch, i)`.
        loss: (model, micro-batch on the device) -> scalar tensor, the SUM of the losses.
        evaluate: (model in eval mode) -> dict of metrics on val, with "loss".
        score: (that dict) -> a tuple that is larger for a better model.
        options: TrainOptions with every value filled in. hardware: Hardware. run: Run.
    Raises UserError for a loss that is not finite; OutOfMemory; Interrupted after Ctrl-C, SIGTERM or the loss of the
    terminal, with the state saved. With several processes all call it alike, each in its own place.
    """
    trainer = _Trainer(model, batches, loss, options, hardware, run)
    if options.resume:
        trainer.load()
    progress = Progress(trainer.n_steps, trainer.step, hardware.type)
    with _Signals() as signals, _advice(trainer):
        while not trainer.done():
            trainer.train_step()
            stop = distributed.largest(signals.received)  # so that all stop at the same step
            if trainer.done() or trainer.step % options.log_every == 0:
                trainer.drain(progress)
            if trainer.done() or trainer.step % trainer.eval_every == 0:
                trainer.evaluate(evaluate, score, progress)
            if trainer.done() or trainer.step % trainer.save_every == 0 or stop:
                trainer.drain(progress)
                trainer.save()
            if stop:
                raise Interrupted(f"stopped at step {trainer.step}; continue with --resume", stop)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] if hardware.compile else 0
    return FitResult(
        trainer.step,
        trainer.seconds,
        trainer.tokens,
        trainer.best,
        trainer.best_step,
        trainer.skipped,
        graphs,
    )


@contextlib.contextmanager
def _advice(trainer):
    """Say what to try when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        go_on = "continue with --resume and" if trainer.run.resumable() else "start again with"
        raise OutOfMemory(
            f"out of memory at step {trainer.step + 1}, {trainer.run.folder}; {go_on} a smaller --micro-batch-size "
            f"(now {distributed.rows_at_once(trainer.options)}) or --checkpoint-activations; or, in "
            "a new run, a smaller --max-length, or --precision bf16"
        ) from error


class _Trainer:
    """The state of a run and the things done to it."""

    def __init__(self, model, batches, loss, options, hardware, run):
        self.model, self.batches, self.loss = model, batches, loss
        self.options, self.hardware, self.run = options, hardware, run
        if hardware.type == "cpu":
            keep_freed_memory()
        self.optimizer = build_optimizer(model, options, hardware.type)
        self.scaler = hardware.scaler()
        # What is called in a step: the model, compiled and wrapped for several processes; its weights are the model's own.
        self.module = torch.compile(model, dynamic=True) if hardware.compile else model
        if distributed.world_size() > 1:
            self.module = DistributedDataParallel(self.module)
            if distributed.rank():  # the weights are equal by now; what is dropped should not be
                torch.manual_seed(options.seed + (distributed.rank() << 32))
        self.n_steps = batches.n_steps
        self.eval_every = options.eval_every or batches.steps_per_epoch
        self.save_every = options.save_every or self.eval_every
        self.step = self.skipped = self.tokens = self.best_step = 0
        self.seconds = 0.0
        self.best, self.best_score, self.evals_since_best = {}, None, 0
        self.pending, self.pending_since = (
            [],
            0.0,
        )  # (step, loss, gradient norm, rate, tokens) not yet looked at

    def train_step(self):
        """One optimizer step."""
        if not self.pending:
            self.pending_since = time.perf_counter()
        epoch, i = divmod(self.step, self.batches.steps_per_epoch)
        micro_batches = self.batches.step(epoch, i)
        counts = torch.tensor(
            [sum(b.n for b in micro_batches), sum(b.n_tokens for b in micro_batches)]
        )
        n, n_tokens = distributed.sum_over_processes(counts).tolist()
        rate = learning_rate(self.step, self.n_steps, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = self._backward(micro_batches, n)
        self.scaler.unscale_(self.optimizer)  # before clipping, which must see the true gradient
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        if (
            not self.options.skip_nonfinite or norm.isfinite()
        ):  # asked at each step, which makes a GPU wait
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.pending.append((self.step, total, norm, rate, n_tokens))

    def _backward(self, micro_batches, n):
        """Add up the gradient of the step's mean loss; returns this process's share of that loss, still on the device."""
        self.model.train()
        total = torch.zeros((), device=self.hardware.device)
        for k, batch in enumerate(micro_batches):
            last = k == len(micro_batches) - 1
            # Several processes exchange gradients once a step, in the last backward pass.
            wait = (
                contextlib.nullcontext()
                if last or distributed.world_size() == 1
                else self.module.no_sync()
            )
            with wait:
                with self.hardware.autocast():
                    # A step with nothing to learn has n = 0 and loss 0: its gradient is 0, not 0/0.
                    part = (
                        self.loss(self.module, self.hardware.put(batch)) / max(n, 1) * (batch.n > 0)
                    )
                # DistributedDataParallel takes the mean over processes; the sum is wanted.
                self.scaler.scale(part * distributed.world_size()).backward()
            total += part.detach()
        return total

    def drain(self, progress):
        """Look at the losses since the last time: stop if one is not finite, else log and show them."""
        if not self.pending:
            return
        losses = distributed.sum_over_processes(
            torch.stack([loss for _, loss, *_ in self.pending])
        ).tolist()
        norms = torch.stack([norm for _, _, norm, *_ in self.pending]).tolist()
        for (step, *_), loss, norm in zip(self.pending, losses, norms):
            if not math.isfinite(norm) and math.isfinite(loss) and self.scaler.is_enabled():
                self.skipped += (
                    1  # the scaler saw the overflow, skipped the step and lowered its scale
                )
            elif not math.isfinite(norm) and self.options.skip_nonfinite:
                self.skipped += 1
                progress.say(f"left out {self._not_finite(step, loss, norm)}")
            elif not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"{self._not_finite(step, loss, norm)}, {self.run.folder} (what was saved there before is good); "
                    f"continue with --resume --skip-nonfinite, or {GENTLER}"
                )
        tokens, seconds = sum(p[4] for p in self.pending), time.perf_counter() - self.pending_since
        self.tokens += tokens
        self.seconds += seconds
        step, _, _, rate, _ = self.pending[-1]
        epoch = (step - 1) / self.batches.steps_per_epoch
        finite = [loss for loss in losses if math.isfinite(loss)]
        mean_loss = sum(finite) / len(finite) if finite else math.nan
        self.pending = []
        if distributed.is_main():
            self.run.log(
                {
                    "step": step,
                    "epoch": round(epoch, 4),
                    "loss": mean_loss,
                    "learning_rate": rate,
                    "grad_norm": norms[-1],
                    "tokens_per_second": round(tokens / seconds, 1),
                    "seconds": round(self.seconds, 2),
                }
            )
            progress.update(step, int(epoch) + 1, mean_loss, rate, tokens / seconds)

    def _not_finite(self, step, loss, norm):
        """What is known of a step whose loss or gradient is not a finite number, for people."""
        epoch, i = divmod(step - 1, self.batches.steps_per_epoch)
        rows = ", ".join(map(str, sorted(self.batches.rows(epoch, i))))
        return (
            f"step {step} (epoch {epoch + 1}, batch {i + 1}): its loss ({loss}) or gradient ({norm}) is not finite; "
            f"training rows, from 0: {rows}"
        )

    def evaluate(self, evaluate, score, progress):
        """Evaluate on val; keep the weights if they are the best so far."""
        self.drain(progress)
        began = time.perf_counter()
        with evaluating(self.model, self.hardware):
            metrics = evaluate(self.model)
        if not math.isfinite(
            metrics["loss"]
        ):  # nothing compares with NaN: it would be the best for ever
            raise UserError(
                f"the loss on val is {metrics['loss']} at step {self.step}, {self.run.folder}; {GENTLER}"
            )
        value = score(metrics)
        better = self.best_score is None or value > self.best_score
        self.evals_since_best += 1
        if better:
            self.best, self.best_score, self.best_step, self.evals_since_best = (
                metrics,
                value,
                self.step,
                0,
            )
        if distributed.is_main():
            if better:
                save_model(self.model, self.run.folder)
            self.run.log({"step": self.step, "val": metrics})
            progress.evaluated(self.step, metrics, time.perf_counter() - began, better)

    def done(self):
        """All steps are made, or patience is at its end."""
        return self.step == self.n_steps or 0 < self.options.patience <= self.evals_since_best

    def save(self):
        """Write all that `load` needs; the processes go on together when it is written."""
        generators = distributed.gather(
            [self.hardware.rng_state()]
        )  # the one thing in which they differ
        if distributed.is_main():
            self.run.save_state(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "generators": generators,
                    "surroundings": self._surroundings(),
                    **{name: getattr(self, name) for name in POSITION},
                    "best_score": self.best_score and list(self.best_score),
                }
            )
        distributed.barrier()

    def load(self):
        """Continue from the saved state. Raises CheckpointError if it is none, or one of another model or version."""
        with distributed.main_first():
            state = self.run.load_state()
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if distributed.rank() < len(
                state["generators"]
            ):  # one process more than there were goes on from its seed
                self.hardware.set_rng_state(state["generators"][distributed.rank()])
            for name in POSITION:
                setattr(self, name, state[name])
            self.best_score = state["best_score"] and tuple(state["best_score"])
            before, now = state["surroundings"], self._surroundings()
            other = [
                f"{name} {before[name]}, now {now[name]}"
                for name in now
                if before[name] != now[name]
            ]
            if distributed.is_main():
                self.run.cut_log(state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the saved state is of another model or version ({type(error).__name__}), "
                f"{self.run.state_file}; start again with --overwrite"
            ) from error
        if other:
            print(
                f"resumed with other surroundings ({'; '.join(other)}): what follows is close to an unbroken run, not bit-equal"
            )

    def _surroundings(self):
        """What must be the same for a resumed run to end with the same bits."""
        return {
            "processes": distributed.world_size(),
            "threads": torch.get_num_threads(),
            "device": self.hardware.device,
            "compiled": self.hardware.compile,
            "micro-batch": self.options.micro_batch_size,
            "torch": str(torch.__version__),
        }


class _Signals:
    """Ctrl-C, SIGTERM and a closed terminal ask the loop to stop after the current step; a second one stops at once.

    `received` is the signal's number, or 0.
    """

    def __enter__(self):
        self.received = 0
        self.previous = {}
        try:
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                signum = getattr(signal, name, None)  # Windows has no SIGHUP
                if (
                    signum and signal.getsignal(signum) != signal.SIG_IGN
                ):  # nohup's wish is respected
                    self.previous[signum] = signal.signal(signum, self._receive)
        except (
            ValueError
        ):  # signals can be set in the main thread only; elsewhere the default stays
            pass
        return self

    def _receive(self, signum, frame):
        if self.received:
            raise KeyboardInterrupt
        self.received = int(signum)
        with contextlib.suppress(OSError):  # there may be no terminal any more
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    def __exit__(self, *_):
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

"""What you see while a model trains, and how a run stops.

`report_steps` reads the losses of the latest steps and adds a row to metrics.jsonl. `Progress`
prints one line that renews itself on a terminal, or plain lines into a file. `Signals` turns Ctrl-C
into a request to stop after the current step. The errors at the end say what to do about a loss
that is not finite, and about too little memory.
"""

import contextlib
import math
import shutil
import signal
import sys
import time
from typing import NamedTuple

import torch

from gptft import distributed
from gptft.errors import OutOfMemory, UserError, is_out_of_memory

try:
    import resource
except ImportError:  # Windows
    resource = None

LINE_EVERY = 10  # seconds between lines in a file
ERASE = "\r\x1b[K"  # clears the line of a terminal


def duration(seconds):
    """Seconds -> "42 s", "3 m 20 s" or "1 h 05 m"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} m"
    return f"{minutes} m {seconds:02d} s" if minutes else f"{seconds} s"


def peak_memory(device="cpu"):
    """The most memory so far, in bytes: of the GPU for "cuda", else of this process.

    0 on Windows, which does not say.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Step(NamedTuple):
    """An optimizer step. Its loss stays on the device: reading it at once would make a GPU wait."""

    step: int
    began: float  # by time.perf_counter
    loss: torch.Tensor
    grad_norm: torch.Tensor
    learning_rate: float
    n_tokens: int


def read_steps(steps):
    """A list of Steps -> the same with loss and norm as floats, the loss over all processes."""
    losses = distributed.sum_over_processes(torch.stack([step.loss for step in steps]))
    norms = torch.stack([step.grad_norm for step in steps])
    values = zip(steps, losses.tolist(), norms.tolist())
    return [step._replace(loss=loss, grad_norm=norm) for step, loss, norm in values]


def report_steps(trainer):
    """Read the losses since the last time, stop if one is not finite, and report them.

    trainer: a Trainer; its position counts their tokens and seconds.
    """
    if not trainer.unread:
        return
    steps, trainer.unread = read_steps(trainer.unread), []
    for step in steps:
        # Where a gradient overflows in fp16, the scaler skips the step and lowers its scale.
        norm = 0.0 if trainer.scaler.is_enabled() else step.grad_norm
        if not math.isfinite(step.loss + norm):
            raise not_finite(trainer, step)
    seconds = time.perf_counter() - steps[0].began
    n_tokens = sum(step.n_tokens for step in steps)
    trainer.position.seconds += seconds
    trainer.position.tokens += n_tokens
    if distributed.is_main():
        last = steps[-1]
        entry = {
            "step": last.step,
            "epoch": round((last.step - 1) / trainer.batches.steps_per_epoch, 4),
            "loss": sum(step.loss for step in steps) / len(steps),
            "learning_rate": last.learning_rate,
            "grad_norm": last.grad_norm,
            "tokens_per_second": round(n_tokens / seconds, 1),
            "seconds": round(trainer.position.seconds, 2),
        }
        trainer.run.log(entry)
        trainer.progress.update(entry)


class Progress:
    """Prints the state of a training run.

    Args:
        n_steps: optimizer steps of the run. start: steps made before, in a resumed run.
        device: "cuda" to show the GPU's memory.
    """

    def __init__(self, n_steps, start=0, device="cpu"):
        self.live = sys.stdout.isatty()
        self.n_steps = n_steps
        self.start = start
        self.device = device
        self.began = self.printed = time.monotonic()

    def update(self, entry):
        """Show the state after a step: the row of metrics.jsonl, a dict."""
        now, step = time.monotonic(), entry["step"]
        if not self.live and now - self.printed < LINE_EVERY and step < self.n_steps:
            return
        self.printed = now
        left = (now - self.began) / max(1, step - self.start) * (self.n_steps - step)
        parts = [
            f"step {step:>5,}/{self.n_steps:,}",
            f"epoch {int(entry['epoch']) + 1}",
            f"loss {entry['loss']:.4f}",
            f"{entry['tokens_per_second']:,.0f} tokens/s",
            f"{duration(left)} left",
            f"{peak_memory(self.device) / 1e9:.2f} GB",
            f"rate {entry['learning_rate']:.1e}",
        ]
        line = "  ".join(parts)
        if self.live:
            line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line can't be renewed
            print(ERASE + line, end="", flush=True)
        else:
            self.say(line)

    def evaluated(self, step, metrics, seconds, is_best):
        """Print an evaluation on val, a line that stays."""
        values = [f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float)]
        best = "  (best)" if is_best else ""
        self.say(f"step {step:>5,}  val {'  '.join(values)}  in {duration(seconds)}{best}")

    def say(self, line):
        """Print a line that stays."""
        print(ERASE + line if self.live else line, flush=True)


class Signals:
    """A context in which Ctrl-C, SIGTERM and SIGHUP only set `received`, the number of the signal.

    A second signal stops at once. A signal that is ignored, as under nohup, stays ignored.
    """

    def __init__(self):
        self.received = 0
        self.handlers = {}

    def __enter__(self):
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number and signal.getsignal(number) != signal.SIG_IGN:
                self.handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.received:
            raise KeyboardInterrupt
        self.received = int(number)
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)


def not_finite(trainer, step):
    """The UserError for a Step whose loss or gradient norm is not finite."""
    epoch, i = divmod(step.step - 1, trainer.batches.steps_per_epoch)
    rows = ", ".join(map(str, sorted(trainer.batches.rows(epoch, i).tolist())))
    what = (
        f"the loss ({step.loss}) or gradient ({step.grad_norm}) of step {step.step} is not finite"
    )
    where = f"epoch {epoch + 1}, training rows {rows}, {trainer.run.folder}"
    hint = "start again with --overwrite and a lower --learning-rate, or --precision fp32"
    return UserError(f"{what}, {where}; {hint}")


@contextlib.contextmanager
def advice_on_memory(trainer):
    """Turn an error for lack of memory into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        again = "start again with"
        if trainer.run.state_file.exists():
            again = "go on with --resume and"
        n_rows = distributed.rows_per_process(trainer.options)
        raise OutOfMemory(
            f"out of memory at step {trainer.position.step + 1}, {trainer.run.folder}; {again} a "
            f"smaller --micro-batch-size (now {n_rows}) or --checkpoint-activations; in a new run "
            "also a smaller --max-length, or --precision bf16"
        ) from error

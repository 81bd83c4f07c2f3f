"""What a person sees while a model trains: one line that renews itself on a terminal, plain lines in a file."""

import shutil
import sys
import time

from gptft.memory import peak_memory


def duration(seconds):
    """Seconds -> "42 s", "3 m 20 s" or "1 h 05 m"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} m"


class Progress:
    """Prints a training run's state. `n_steps` counts optimizer steps, `start` those done before (a resumed run).

    device: "cuda" to tell of the GPU's memory. stream: a text file, by default standard output.
    """

    def __init__(self, n_steps, start=0, device="cpu", stream=None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.n_steps, self.start, self.device = n_steps, start, device
        self.began = self.printed = time.monotonic()
        self.width = 0
        self.on_val = ""

    def update(self, step, epoch, loss, rate, tokens_per_second):
        """Show the state after `step` steps, in `epoch` (from 1): loss, learning rate, `tokens_per_second`.

        In a file, a line every 10 seconds at most.
        """
        now = time.monotonic()
        if not self.live and now - self.printed < 10 and step < self.n_steps:
            return
        self.printed = now
        left = (now - self.began) / max(1, step - self.start) * (self.n_steps - step)
        memory = peak_memory(self.device)
        held = f"  {memory / 1e9:.2f} GB" if memory else ""
        text = (
            f"step {step:>5,}/{self.n_steps:,}  epoch {epoch}  loss {loss:.4f}{self.on_val}  "
            f"{tokens_per_second:,.0f} tokens/s  {duration(left)} left{held}  rate {rate:.1e}"
        )
        if not self.live:
            return self.say(text)
        text = text[
            : shutil.get_terminal_size().columns - 1
        ]  # a longer one would leave a line behind each time
        self.stream.write("\r" + text.ljust(self.width))
        self.width = len(text)
        self.stream.flush()

    def evaluated(self, step, metrics, seconds, best):
        """Print an evaluation on val, a line that stays: `metrics` after `step` steps, the `seconds` it took, if it is the `best`.

        An accuracy then stands in the other lines, too.
        """
        shown = "  ".join(
            f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)
        )
        self.say(
            f"step {step:>5,}  val {shown}  in {duration(seconds)}{'  (best)' if best else ''}"
        )
        if "accuracy" in metrics:
            self.on_val = f"  val accuracy {metrics['accuracy']:.4f}"

    def say(self, text):
        """Print a line that stays."""
        if self.live and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

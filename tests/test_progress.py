"""What is printed while a model trains: on a terminal one line that renews itself, in a file lines that can be read later."""

import io
import sys
import types

import pytest

from gptft import progress
from gptft.memory import peak_memory
from gptft.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets; a process that has held 1.5 GB; a terminal of 100 columns."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(progress, "peak_memory", lambda device: 1_500_000_000)
    monkeypatch.setattr(
        progress.shutil, "get_terminal_size", lambda: types.SimpleNamespace(columns=100)
    )
    return now


def test_a_file_gets_lines_now_and_then(clock):
    # A carriage return, or a line for each step, makes a log of a long run unreadable.
    stream = io.StringIO()
    shown = Progress(40, stream=stream)
    for step in range(1, 41):
        clock.seconds = 2.0 * step
        shown.update(step, 1, 0.5, 1e-3, 1234.5)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and len(lines) == 8
    assert (
        lines[0]
        == "step     5/40  epoch 1  loss 0.5000  1,234 tokens/s  1 m 10 s left  1.50 GB  rate 1.0e-03"
    )
    assert (
        lines[-1].startswith("step    40/40") and "  0 s left" in lines[-1]
    )  # the last step is always shown


def test_time_left_counts_only_the_steps_made_here(clock):
    # A resumed run that counts the steps before it promises to end at once.
    stream = io.StringIO()
    shown = Progress(100, start=80, stream=stream)
    clock.seconds = 20.0
    shown.update(90, 1, 0.5, 1e-3, 1)
    assert "  20 s left" in stream.getvalue()


def test_a_terminal_gets_one_line_that_fits(clock):
    stream = Terminal()
    shown = Progress(40, stream=stream)
    shown.update(1, 1, 0.123456, 1e-3, 1e9)
    shown.update(2, 1, 0.5, 1e-3, 1)
    first, second = stream.getvalue().split("\r")[1:]
    assert len(first) <= 99 and len(second) == len(first) and "\n" not in stream.getvalue()
    shown.say("stays")
    assert stream.getvalue().endswith("\r" + " " * len(second.rstrip()) + "\rstays\n")


def test_the_accuracy_on_val_stands_in_the_line_once_it_is_known(clock):
    stream = io.StringIO()
    shown = Progress(2, stream=stream)
    shown.update(2, 1, 0.5, 1e-3, 1)
    shown.evaluated(
        2, {"n": 7, "loss": 0.25, "accuracy": 0.75, "confusion": [[1]]}, 61.2, best=True
    )
    shown.update(2, 1, 0.5, 1e-3, 1)
    before, val, after = stream.getvalue().splitlines()
    assert val == "step     2  val loss 0.2500  accuracy 0.7500  in 1 m 01 s  (best)"
    assert "accuracy" not in before and "loss 0.5000  val accuracy 0.7500  " in after


def test_durations():
    assert [duration(s) for s in (0.4, 59.4, 59.6, 200, 3900)] == [
        "0 s",
        "59 s",
        "1 m 00 s",
        "3 m 20 s",
        "1 h 05 m",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_peak_memory_is_in_bytes():
    # Linux counts in KiB, macOS in bytes: a factor of 1,024 in either direction is the mistake to make here.
    ballast = bytearray(200_000_000)
    assert len(ballast) < peak_memory() < 1 << 40

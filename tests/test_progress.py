"""What is printed during training: one line that renews itself, or lines in a file."""

import sys
from types import SimpleNamespace

import pytest

from gptft.training import progress
from gptft.training.progress import Progress, duration, peak_memory


def row(step, tokens_per_second=1):
    """A row of metrics.jsonl."""
    entry = {"step": step, "epoch": 0.5, "loss": 0.5, "learning_rate": 1e-3}
    return entry | {"tokens_per_second": tokens_per_second}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, a process that has used 1.5 GB, a terminal of 100 columns."""
    now = SimpleNamespace(seconds=0.0)
    size = SimpleNamespace(columns=100)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(progress, "peak_memory", lambda device: 1_500_000_000)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: size)
    return now


def test_file_gets_a_line_now_and_then(clock, capsys):
    # The time left is that of a resumed run, which has made its first 100 steps before.
    shown = Progress(140, start=100)
    for step in range(101, 141):
        clock.seconds += 2.0
        shown.update(row(step, 1234.5))
    first, *_, last = lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert first == (
        "step   105/140  epoch 1  loss 0.5000  1,234 tokens/s  1 m 10 s left  1.50 GB  rate 1.0e-03"
    )
    assert last.startswith("step   140/140")


def test_terminal_gets_one_line_that_fits(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = Progress(40)
    shown.update(row(1, 1e30))
    shown.update(row(2))
    shown.say("stays")
    before, first, second, last = capsys.readouterr().out.split(progress.ERASE)
    assert (before, len(first), last) == ("", 99, "stays\n")
    assert second.startswith("step     2/40 ") and "\n" not in first + second


def test_evaluation_is_a_line_of_its_own(clock, capsys):
    shown = Progress(2)
    shown.evaluated(2, {"n": 7, "loss": 0.25, "accuracy": 0.75}, 61.2, is_best=True)
    line = "step     2  val loss 0.2500  accuracy 0.7500  in 1 m 01 s  (best)\n"
    assert capsys.readouterr().out == line


def test_duration():
    texts = [duration(seconds) for seconds in (0.4, 59.4, 59.6, 200, 3900)]
    assert texts == ["0 s", "59 s", "1 m 00 s", "3 m 20 s", "1 h 05 m"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_peak_memory_is_in_bytes():
    # Linux counts in KiB, macOS in bytes.
    ballast = bytearray(200_000_000)
    assert len(ballast) < peak_memory() < 1 << 40

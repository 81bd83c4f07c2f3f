"""What happens to a run from outside: a full disk, signals, too little memory, a kill.

Each ends it with a line that says what to do, and what was saved resumes to the same bits.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_run import assert_same_bits, saved_state, send, toy_model, train

from gptft.errors import command
from gptft.training.run_folder import Run


def exit_code(folder, **options):
    """Train as a command does, with a save every second step -> its exit code."""
    settings = dict(save_every=2, eval_every=4) | options
    main = command(lambda argv: train(folder, toy_model(dropout=0.3), **settings))
    return main([])


def check_resume(folder, tmp_path):
    """Resume a run and compare it with one that nothing happened to."""
    assert exit_code(folder, resume=True) == 0
    assert exit_code(tmp_path / "straight") == 0
    assert_same_bits(folder, tmp_path / "straight")
    assert not list(folder.rglob("*.tmp"))


@pytest.fixture
def error_line(capsys):
    """A function: what is on standard error, which must be one line."""

    def read():
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        return line

    return read


def test_disk_that_is_full_in_the_middle_of_a_save(tmp_path, error_line):
    # A limit to the size of files stands for the end of the disk. torch hides the reason.
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = Run(tmp_path / "run")

    def set_limit(step):
        if step == 4:
            size = run.state_file.stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    try:
        assert exit_code(run.folder, on_step=set_limit) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = error_line()
    assert "File too large" in line and "state.pt" in line and "free disk space" in line
    assert saved_state(run.folder)["position"]["step"] == 2
    check_resume(run.folder, tmp_path)


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_saves_the_run_and_says_how_to_go_on(tmp_path, capsys, name, code):
    # A closed terminal sends SIGHUP.
    number = getattr(signal, name, None) or pytest.skip(f"no {name} on this system")
    before = signal.getsignal(number)
    assert exit_code(tmp_path / "run", on_step=send(number, 5)) == code
    assert "stopped at step 5; go on with --resume" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert saved_state(tmp_path / "run")["position"]["step"] == 5
    check_resume(tmp_path / "run", tmp_path)


def test_second_ctrl_c_stops_at_once(tmp_path):
    assert exit_code(tmp_path / "run", on_step=send(signal.SIGINT, 5, times=2)) == 130
    assert saved_state(tmp_path / "run")["position"]["step"] == 4


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert exit_code(tmp_path / "run", on_step=send(signal.SIGINT, 2), max_steps=4) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("step, again", [(1, "start again with"), (6, "go on with --resume and")])
def test_advice_when_memory_runs_out(tmp_path, error_line, step, again):
    def fail(now):
        if now == step:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ... 9 bytes")

    assert exit_code(tmp_path / "run", on_step=fail) == 2
    line = error_line()
    assert f"out of memory at step {step}, {tmp_path}" in line
    assert f"{again} a smaller --micro-batch-size (now 8)" in line
    # A resumed run may have another one.
    assert exit_code(tmp_path / "run", resume=step > 1, micro_batch_size=2) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills.py forks, which Windows can't")
def test_killed_run_resumes_to_the_same_bits(tmp_path):
    kills = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, kills, "4"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr

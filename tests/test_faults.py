"""What machines and people do to a run: full and read-only disks, signals, no memory, files that change under it, kills.

After each of them the run ends with a line that says what to do, and what was saved before resumes to the same bits.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_trainer import equal_weights, signal_after, toy_model, train

from gptft import trainer
from gptft.errors import command
from gptft.pretrained import load_model
from gptft.run import Run
from scripts import finetune_imdb

SAVING = dict(save_every=2, eval_every=4, log_every=1)


@pytest.fixture
def mounted(tmp_path):
    """A disk of 1 MB of its own, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder])


def exit_code(*args, **kwargs):
    """The exit code that a command training like this would end with."""
    return command(lambda argv: train(*args, **kwargs))([])


def resumes_to_the_same_bits(folder, straight):
    """Resume a run and compare it with one that nothing happened to."""
    expected, _ = train(straight, toy_model(0.3), **SAVING)
    resumed, _ = train(folder, toy_model(0.3), resume=True, **SAVING)
    assert equal_weights(expected, resumed) and equal_weights(
        load_model(straight), load_model(folder)
    )
    assert not list(folder.rglob("*.tmp"))


def one_line(capsys):
    """The error line of a command, which must be alone."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_disk_that_fills_up_during_a_save(tmp_path, mounted, capsys):
    # torch reports a full disk as "unexpected pos 768 vs 662": a traceback, as if it were a bug.
    filler = mounted / "filler"

    def fill(model):
        if (
            Run(mounted / "run").load_state()["step"] == 2
        ):  # at step 4, which saves after it has evaluated
            space = shutil.disk_usage(mounted).free
            filler.write_bytes(
                bytes(space - 150_000)
            )  # room for the best weights and half of a state

    assert exit_code(mounted / "run", toy_model(0.3), on_eval=fill, **SAVING) == 2
    err = one_line(capsys)
    assert "No space left on device" in err and "state.pt" in err and "free disk space" in err
    filler.unlink()
    assert Run(mounted / "run").load_state()["step"] == 2
    resumes_to_the_same_bits(mounted / "run", tmp_path / "straight")


def test_file_that_may_not_grow(tmp_path, monkeypatch, capsys):
    # The same without the right to mount: a quota, met in the middle of a save.
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    step_once, limits = trainer._Trainer.train_step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def step_and_limit(self):
        step_once(self)
        if self.step == 4:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (self.run.state_file.stat().st_size // 2, limits[1])
            )

    try:
        with monkeypatch.context() as patch:
            patch.setattr(trainer._Trainer, "train_step", step_and_limit)
            assert (
                exit_code(
                    tmp_path / "run", toy_model(0.3), save_every=2, eval_every=100, log_every=1
                )
                == 2
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in one_line(capsys)
    state = Run(tmp_path / "run").load_state()
    assert state["step"] == 2 and not list((tmp_path / "run").rglob("*.tmp"))


def test_folder_that_cannot_be_written(tmp_path, mounted, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        signal_after(5, signal.SIGTERM, patch)
        assert exit_code(mounted / "run", toy_model(0.3), **SAVING) == 143
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    capsys.readouterr()
    for folder, more in (("run", {"resume": True}), ("run", {"overwrite": True}), ("new", {})):
        assert exit_code(mounted / folder, toy_model(0.3), **SAVING, **more) == 2
        assert "Read-only file system" in one_line(capsys)
    subprocess.run(["mount", "-o", "remount,rw", mounted], check=True)
    resumes_to_the_same_bits(mounted / "run", tmp_path / "straight")


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_save_and_say_how_to_go_on(tmp_path, monkeypatch, capsys, name, code):
    # SIGHUP is what a closed terminal sends.
    signum = getattr(signal, name, None) or pytest.skip(f"no {name} on this system")
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        signal_after(5, signum, patch)
        assert exit_code(tmp_path / "run", toy_model(0.3), **SAVING) == code
    assert (
        "stopped at step 5; continue with --resume" in capsys.readouterr().err
        and signal.getsignal(signum) is before
    )
    resumes_to_the_same_bits(tmp_path / "run", tmp_path / "straight")


def test_nohup_is_respected(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signal_after(2, signal.SIGINT, monkeypatch)
        _, fitted = train(tmp_path / "run", max_steps=4)
        assert fitted.steps == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_advice_when_memory_runs_out(tmp_path, monkeypatch, capsys):
    # It names flags that the command has, and those that --resume allows to change.
    step_once, full_at = trainer._Trainer.train_step, 1

    def step(self):
        if self.step + 1 == full_at:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        step_once(self)

    monkeypatch.setattr(trainer._Trainer, "train_step", step)
    assert exit_code(tmp_path / "run", toy_model(0.3), **SAVING) == 2
    assert (
        "out of memory at step 1" in (err := one_line(capsys))
        and "start again with a smaller --micro-batch-size (now 8)" in err
    )
    full_at = 6
    assert exit_code(tmp_path / "run", toy_model(0.3), **SAVING) == 2
    assert (
        "at step 6" in (err := one_line(capsys))
        and "continue with --resume and a smaller --micro-batch-size (now 8)" in err
    )
    full_at = 0
    _, fitted = train(tmp_path / "run", toy_model(0.3), resume=True, micro_batch_size=2, **SAVING)
    assert fitted.steps == 24

    @command
    def generate(argv):
        raise MemoryError

    assert generate([]) == 2 and "--micro-batch-size" not in one_line(capsys)


def test_data_file_that_changes_during_a_run(tmp_path, monkeypatch, capsys):
    # It was read once, so the run is what it would have been; to resume it with other data is another thing.
    data = tmp_path / "data.jsonl"
    rows = [
        {"text": f"film {i} was {word} to see", "label": word}
        for i in range(30)
        for word in ("fine", "dull")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    tiny = [
        "--n-layer",
        "1",
        "--n-head",
        "2",
        "--n-embd",
        "16",
        "--n-positions",
        "32",
        "--max-length",
        "32",
        "--precision",
        "fp32",
        "--epochs",
        "1",
        "--eval-every",
        "2",
    ]
    results = []
    for changes in (False, True):
        data.write_text(lines, encoding="utf-8")
        if changes:
            step_once = trainer._Trainer.train_step

            def step(self):
                step_once(self)
                data.write_text(lines.replace("film", "play"), encoding="utf-8")

            monkeypatch.setattr(trainer._Trainer, "train_step", step)
        argv = ["--data", str(data), *tiny, "--out", str(tmp_path / f"changes {changes}")]
        assert finetune_imdb.main(argv) == 0
        results.append(
            json.loads(
                (tmp_path / f"changes {changes}" / "results.json").read_text(encoding="utf-8")
            )
        )
    assert results[0]["test"] == results[1]["test"] and results[0]["val"] == results[1]["val"]
    capsys.readouterr()
    assert finetune_imdb.main([*argv, "--resume"]) == 2
    assert "can't resume with other options (texts was" in one_line(capsys)


def test_no_terminal_and_no_output(tmp_path, monkeypatch):
    # Started by a service that closes them, Python has None for stdout and stderr.
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert exit_code(tmp_path / "run", max_steps=2) == 0


def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(tmp_path):
    # SIGKILL, half of the time while a file is being written; GPTFT_KILLS=30 for more than a few.
    if not hasattr(os, "fork"):
        pytest.skip("kills.py forks, which Windows can't")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), os.environ.get("GPTFT_KILLS", "4")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "ended with the same bits" in done.stdout, (
        done.stdout + done.stderr
    )

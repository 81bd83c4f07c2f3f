"""The saved state: a resumed run ends with the same bits, and a bad state is refused."""

import io
import signal

import pytest
import torch
from toy_run import FP16, FP32, assert_same_bits, saved_state, send, toy_model, train

from gptft.errors import CheckpointError, Interrupted
from gptft.training.run_folder import Run
from gptft.training.state import _write


def crash(step):
    """An `on_step`: this process ends in step 12, two steps after its last save."""
    if step == 12:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "device, stop, error",
    [
        (FP32, send(signal.SIGTERM, 3), Interrupted),
        (FP32, send(signal.SIGTERM, 8), Interrupted),
        (FP32, crash, KeyboardInterrupt),
        (FP16, send(signal.SIGTERM, 20), Interrupted),
    ],
)
def test_resumed_run_ends_with_the_same_bits(tmp_path, device, stop, error, capsys):
    # With dropout and accumulation, stopped within an epoch or at its end. In fp16 the scaler skips
    # the first steps; a run that lost its scale would skip some again.
    def start(folder, seed=0, **more):
        model = toy_model(dropout=0.3, seed=seed, gain=300.0)
        settings = dict(micro_batch_size=3, eval_every=3, save_every=3)
        train(tmp_path / folder, model, device, **settings, **more)

    start("straight")
    if device is FP16:
        assert saved_state(tmp_path / "straight")["scaler"]["scale"] < 65536
    with pytest.raises(error):
        start("stopped", on_step=stop)
    start("stopped", seed=5, resume=True)
    assert "resuming at step " in capsys.readouterr().out
    assert_same_bits(tmp_path / "straight", tmp_path / "stopped")


@pytest.fixture
def run(tmp_path):
    """A finished run."""
    train(tmp_path / "run", max_steps=2)
    return Run(tmp_path / "run")


def resume(run):
    train(run.folder, max_steps=2, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"position": {"step": 2, "evals_since_best": 0}},
        {"model": {"x": torch.zeros(2)}},
        {"optimizer": {}},
        {"generators": 3},
        None,
    ],
)
def test_state_of_another_version_or_model_is_refused(run, change):
    state = saved_state(run.folder)
    if change is None:  # the first edition had no position, but its values
        change = state.pop("position")
    torch.save(state | change, run.state_file)
    log = run.log_file.read_bytes()
    with pytest.raises(CheckpointError, match="of another model or version.* --overwrite"):
        resume(run)
    assert run.log_file.read_bytes() == log


class SignalledFile(io.FileIO):
    """A file whose second write meets Ctrl-C."""

    n_writes = 0

    def write(self, data):
        self.n_writes += 1
        if self.n_writes == 2:
            raise KeyboardInterrupt
        return super().write(data)


def test_ctrl_c_while_a_state_is_written(tmp_path):
    """torch turns it into a RuntimeError, which would end in a traceback."""
    with SignalledFile(tmp_path / "state", "wb") as file, pytest.raises(KeyboardInterrupt):
        _write({"weights": torch.zeros(10**6)}, file)

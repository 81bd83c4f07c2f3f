"""The run folder: what it records, what is refused, and what survives."""

import json
import os
import signal
import time

import pytest
from toy_run import fork

from gptft.errors import UserError
from gptft.training.run_folder import WRITTEN, open_run

OPTIONS = {"epochs": 3, "texts": "aa", "seed": 5, "device": "cpu"}


@pytest.fixture
def run(tmp_path):
    """A new run."""
    return open_run(tmp_path / "run", ["python", "x.py", "--data", "my file.csv"], OPTIONS)


def reopen(run, **flags):
    return open_run(run.folder, [], OPTIONS, **flags)


def save_state(run):
    run.state_file.parent.mkdir(exist_ok=True)
    run.state_file.touch()


def read_record(run):
    return json.loads((run.folder / "run.json").read_text(encoding="utf-8"))


def test_run_json_holds_the_command_and_the_environment(run):
    record = read_record(run)
    assert record["command"] == "python x.py --data 'my file.csv'"
    assert record["options"] == OPTIONS
    assert record["seed"] == 5
    assert record["versions"].keys() == {"python", "torch", "numpy", "tiktoken"}
    assert {"git_commit", "platform", "processes"} < record.keys()


def test_finished_or_resumable_run_is_refused(run):
    reopen(run)  # it died before its first save, and starts over
    save_state(run)
    with pytest.raises(UserError, match="a resumable state.*--resume, --overwrite"):
        reopen(run)
    run.write_results({})
    with pytest.raises(UserError, match="results"):
        reopen(run)
    reopen(run, resume=True)
    assert run.state_file.exists()


def test_overwrite_deletes_only_what_a_run_writes(run):
    save_state(run)
    (run.folder / "adapter").mkdir()
    for name in (*WRITTEN, "notes.txt"):
        (run.folder / name).touch()
    reopen(run, overwrite=True)
    left = {path.name for path in run.folder.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "run.json", ".lock"}


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("epochs", 5, "epochs was 3, is 5"),
        ("added", 1, "added was None, is 1"),
        ("device", "cuda", None),
        ("micro_batch_size", 2, None),
        ("data", "moved.csv", None),
    ],
)
def test_options_that_a_resumed_run_may_change(run, name, value, says):
    save_state(run)
    changed = OPTIONS | {name: value}
    if says:
        with pytest.raises(UserError, match=f"{says}.*use the command in its run.json"):
            open_run(run.folder, [], changed, resume=True)
    else:
        open_run(run.folder, [], changed, resume=True)
    assert read_record(run)["options"] == OPTIONS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither fork nor such a lock")
def test_two_processes_cannot_have_one_folder(tmp_path):
    folder = tmp_path / "run"

    def act():
        run = open_run(folder, [], OPTIONS)
        time.sleep(60)
        return run is None

    other = fork(act, tmp_path / "output")
    while not (folder / "run.json").exists():
        assert os.waitpid(other, os.WNOHANG) == (0, 0)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="another process trains into --out"):
            open_run(folder, [], OPTIONS, overwrite=overwrite)
    # The lock ends with its process, however that ends.
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    open_run(folder, [], OPTIONS)


def test_log_is_strict_json_and_can_be_cut(run):
    run.log({"step": 1, "loss": float("nan"), "val": {"loss": float("inf")}})
    size = run.log_size()
    run.log({"step": 2})
    run.cut_log(size)
    line = '{"step": 1, "loss": null, "val": {"loss": null}}\n'
    assert run.log_file.read_text(encoding="utf-8") == line

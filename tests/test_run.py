"""The run folder: what is refused, what survives, and what a run says of itself."""

import json

import pytest
import torch

from gptft.errors import CheckpointError, UserError
from gptft.files import write_atomic, write_text
from gptft.run import open_run


def test_run_json_holds_the_command_and_the_surroundings(tmp_path):
    open_run(tmp_path / "run", ["python", "scripts/x.py", "--data", "my file.csv"], {"epochs": 3, "seed": 5})
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["command"] == "python scripts/x.py --data 'my file.csv'"
    assert record["options"] == {"epochs": 3, "seed": 5} and record["seed"] == 5
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"] == torch.__version__
    assert {"python", "numpy", "tiktoken"} <= set(record["versions"]) and "git_commit" in record


def test_finished_or_resumable_run_is_refused(tmp_path):
    run = open_run(tmp_path / "a", [], {})
    open_run(tmp_path / "a", [], {})  # died before its first save: starts over
    run.save_state({"step": 1})
    with pytest.raises(UserError, match="a resumable state.*--resume, --overwrite"):
        open_run(tmp_path / "a", [], {})
    assert open_run(tmp_path / "a", [], {}, resume=True).load_state()["step"] == 1
    run.write_results({})
    with pytest.raises(UserError, match="results"):
        open_run(tmp_path / "a", [], {})
    open_run(tmp_path / "a", [], {}, overwrite=True)
    assert not run.state_file.exists() and not (run.folder / "results.json").exists()


def test_overwrite_deletes_only_what_a_run_writes(tmp_path):
    # --out may be mistyped: a folder of something else is refused, and a stray file in a run survives.
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError):
            open_run(tmp_path, [], {}, **flags)
    run = open_run(tmp_path / "run", [], {})
    (run.folder / "notes.txt").write_text("mine", encoding="utf-8")
    open_run(run.folder, [], {}, overwrite=True)
    assert (run.folder / "notes.txt").exists() and (tmp_path / "thesis.txt").exists()


def test_nothing_to_resume(tmp_path):
    for prepare in (lambda: None, lambda: open_run(tmp_path / "a", [], {})):
        prepare()
        with pytest.raises(UserError, match="nothing to resume"):
            open_run(tmp_path / "a", [], {}, resume=True)
    with pytest.raises(UserError, match="exclude each other"):
        open_run(tmp_path / "a", [], {}, resume=True, overwrite=True)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "file", [], {})


def test_loading_the_log_back_to_the_saved_position(tmp_path):
    run = open_run(tmp_path / "a", [], {})
    run.log({"step": 1})
    run.save_state({"step": 1})
    run.log({"step": 2})
    assert run.load_state()["step"] == 1
    assert (run.folder / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1}\n'


def test_state_that_would_run_code_is_refused(tmp_path):
    # A pickle can call anything; weights_only must stand between a downloaded run and the user's machine.
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    run = open_run(tmp_path / "a", [], {})
    run.state_file.parent.mkdir()
    torch.save({"metrics_bytes": 0, "x": Evil()}, run.state_file)
    with pytest.raises(CheckpointError):
        run.load_state()
    assert not (tmp_path / "pwned").exists()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old é\r\n")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_atomic(path, fail)
    assert path.read_bytes() == "old é\r\n".encode() and list(tmp_path.iterdir()) == [path]

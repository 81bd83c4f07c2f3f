"""The run folder: what is refused, what survives, and what a run says of itself."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from gptft.errors import CheckpointError, UserError
from gptft.files import write_atomic, write_text
from gptft.run import open_run


def test_run_json_holds_the_command_and_the_surroundings(tmp_path):
    open_run(
        tmp_path / "run",
        ["python", "scripts/x.py", "--data", "my file.csv"],
        {"epochs": 3, "seed": 5},
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["command"] == "python scripts/x.py --data 'my file.csv'"
    assert record["options"] == {"epochs": 3, "seed": 5} and record["seed"] == 5
    assert (
        record["versions"]["torch"] == torch.__version__.split("+")[0]
        or record["versions"]["torch"] == torch.__version__
    )
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
    run.cut_log(run.load_state())
    assert (run.folder / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1}\n'


def test_damaged_state_falls_back_to_the_one_before(tmp_path, capsys):
    # torch reads flipped bits without a word: they would become weights.
    run = open_run(tmp_path / "run", [], {})
    log = run.folder / "metrics.jsonl"
    saved, before = [{"step": step, "weights": torch.full((5000,), step + 0.5)} for step in (2, 1)]
    for state in (before, saved):
        run.log({"step": state["step"]})
        run.save_state(state)
    run.log({"step": 3})
    contents = {file: file.read_bytes() for file in (log, run.state_file, run.previous_file)}
    assert run.load_state()["step"] == 2 and not capsys.readouterr().out
    flipped = bytearray(contents[run.state_file])
    flipped[len(flipped) // 2] ^= 16
    for damage in (bytes(flipped), contents[run.state_file][:9000], b"", None):
        for file, content in contents.items():
            file.write_bytes(content)
        run.state_file.unlink()
        if damage is not None:
            run.state_file.write_bytes(damage)
        state = run.load_state()
        run.cut_log(state)
        assert state["step"] == 1 and torch.equal(state["weights"], before["weights"])
        printed = capsys.readouterr().out
        assert (
            "state.pt" in printed
            and printed.endswith("; going on from the one saved before it\n")
            and printed.count("\n") == 1
        )
        assert log.read_text(encoding="utf-8") == '{"step": 1}\n'
        # It has taken the damaged one's place: the next save must not push out the last good state.
        assert run.load_state()["step"] == 1 and not run.previous_file.exists()
    run.state_file.write_bytes(bytes(flipped))
    with pytest.raises(CheckpointError, match="checksum.*state.pt; start again with --overwrite"):
        run.load_state()


def test_a_state_stands_at_every_moment_of_a_save(tmp_path, monkeypatch):
    # Stopped before the new state is whole, a run resumes from the old one; also where there are no hard links.
    def stop(*_):
        raise KeyboardInterrupt

    for links in (True, False):
        run = open_run(tmp_path / f"links {links}", [], {})
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: os.stat("no such file"))
        for step in (1, 2):
            run.save_state({"step": step})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "save", stop)
            run.save_state({"step": 3})
        assert run.state_file.exists() == links and run.resumable()
        assert open_run(run.folder, [], {}, resume=True).load_state()["step"] == 2
        assert not list(run.folder.rglob("*.tmp"))


def test_two_processes_cannot_have_one_folder(tmp_path):
    # Their logs and states would mix. The lock goes with its process, however that ends.
    pytest.importorskip("fcntl", reason="Windows has no such lock")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from gptft.run import open_run; run = open_run('run', [], {{}}); print(); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    other.stdout.readline()
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="another process trains into --out"):
            open_run(tmp_path / "run", [], {}, **flags)
    other.kill()
    other.communicate()
    open_run(tmp_path / "run", [], {})


def test_what_may_change_when_a_run_is_resumed(tmp_path, capsys):
    options = {"epochs": 3, "batch_size": 8, "texts": "aa", "resume_anyway": False, "device": "cpu"}
    run = open_run(tmp_path / "run", ["first"], options)
    run.save_state({})
    open_run(run.folder, [], options | {"device": "cuda"}, resume=True)
    with pytest.raises(UserError, match="epochs was 3, is 5.*or add --resume-anyway"):
        open_run(run.folder, [], options | {"epochs": 5}, resume=True)
    anyway = options | {"epochs": 5, "resume_anyway": True}
    for changed in (
        {"batch_size": 4},
        {"texts": "bb"},
    ):  # the position in the data would lose its meaning
        with pytest.raises(
            UserError, match=f"{[*changed][0]} was .* use the command in its run.json$"
        ):
            open_run(run.folder, [], anyway | changed, resume=True)
    with pytest.raises(UserError, match="--resume-anyway goes with --resume"):
        open_run(run.folder, [], anyway)
    open_run(run.folder, ["second"], anyway, resume=True)
    assert capsys.readouterr().out == "resumed anyway: epochs was 3, is 5\n"
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert (
        record["options"]["epochs"] == 5
        and record["resumed"] == ["second (epochs was 3, is 5)"]
        and record["command"] == "first"
    )
    open_run(run.folder, [], options | {"epochs": 5}, resume=True)


def test_log_is_json_also_for_what_is_no_number(tmp_path):
    # NaN and Infinity, which Python would write, no other reader of JSON takes.
    run = open_run(tmp_path / "run", [], {})
    run.log({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert (run.folder / "metrics.jsonl").read_text(
        encoding="utf-8"
    ) == '{"step": 1, "loss": null, "grad_norm": null}\n'


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

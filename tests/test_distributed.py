"""Two processes do what one does: the same gradients, the same evaluation, the same metrics; and they end together.

The processes exchange what they have by gloo, on the CPU. What they do stands in ranks.py, which plays all scenes once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the processes are forked, which Windows can't"
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The folder that ranks.py has filled, and the exit codes of the processes of each scene."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("ranks.py"), folder],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "codes.json").read_text(encoding="utf-8"))


def read(played, scene, n=2):
    """What the processes of a scene noted."""
    folder, codes = played
    assert codes[scene] == [0] * n, (folder / f"{scene}-0.txt").read_text(encoding="utf-8")
    return [
        json.loads((folder / f"{scene}-{rank}.json").read_text(encoding="utf-8"))
        for rank in range(n)
    ]


def output(played, scene, rank):
    return (played[0] / f"{scene}-{rank}.txt").read_text(encoding="utf-8")


def test_gradients_of_two_processes_equal_those_of_one(played):
    # Rows, or learned tokens, are uneven over processes and micro-batches; one step has a single row for both processes.
    [one], two = read(played, "gradients-1", 1), read(played, "gradients-2")
    assert len(one) == 16 and any(len(step["rows"]) == 1 for step in one.values())
    for name, step in one.items():
        scale = np.abs(step["gradient"]).max()
        assert scale > 1e-3
        for process in two:
            assert (
                np.abs(np.subtract(process[name]["gradient"], step["gradient"])).max()
                < 1e-6 * scale
            ), name
            assert (
                process[name]["loss"] == pytest.approx(step["loss"], rel=1e-6)
                and process[name]["counts"] == step["counts"]
            )
        rows = sorted(row for process in two for row in process[name]["rows"])
        # The same batch, each row in one process; a process without rows goes through the motions with another's.
        assert rows == step["rows"] or (rows == 2 * step["rows"] and len(step["rows"]) == 1)


def test_evaluation_counts_each_row_once(played):
    [one], two = read(played, "evaluation-1", 1), read(played, "evaluation-2")
    for n in (41, 1):
        assert (
            sorted(two[0][str(n)]["rows"]) == list(range(n))
            and abs(len(two[0][str(n)]["mine"]) - len(two[1][str(n)]["mine"])) <= 1
        )
        for process in two:
            np.testing.assert_allclose(
                process[str(n)]["log_probs"], one[str(n)]["log_probs"], atol=1e-6
            )


def numbers(value, path=""):
    """The numbers of a nested result, by their path; without speed and time, which may differ."""
    if isinstance(value, dict):
        return {
            k: v for key, part in value.items() for k, v in numbers(part, f"{path}/{key}").items()
        }
    if isinstance(value, list):
        return {
            k: v for i, part in enumerate(value) for k, v in numbers(part, f"{path}/{i}").items()
        }
    timed = any(word in path for word in ("seconds", "tokens_per_second", "memory"))
    return {path: value} if isinstance(value, (int, float)) and not timed else {}


@pytest.mark.parametrize("script", ["finetune_imdb", "finetune_alpaca", "pretrain"])
def test_scripts_report_the_same_with_two_processes(played, script):
    read(played, f"{script}-1", 1), read(played, f"{script}-2")
    results = [
        json.loads((played[0] / f"{script}-{n}" / "results.json").read_text(encoding="utf-8"))
        for n in (1, 2)
    ]
    expected, found = map(numbers, results)
    assert found.keys() == expected.keys() and len(expected) > 10
    for path, value in expected.items():
        assert found[path] == pytest.approx(value, abs=1e-5, rel=1e-5), path
    # The first process alone prints and writes.
    assert "run folder:" in output(played, f"{script}-2", 0) and not output(
        played, f"{script}-2", 1
    )


def test_what_is_dropped_differs_between_processes(played):
    one, other = (process["draw"] for process in read(played, "straight"))
    assert one != other


def test_a_signal_to_one_stops_all_and_they_resume_with_the_same_bits(played):
    folder, codes = played
    assert codes["stopped"] == [143, 143]
    assert "stopped at step 3; continue with --resume" in output(
        played, "stopped", 0
    ) and "stopped at" not in output(played, "stopped", 1)
    read(played, "resumed")
    states = [
        torch.load(folder / name / "last" / "state.pt", weights_only=True)
        for name in ("straight", "stopped")
    ]
    assert len(states[0]["generators"]) == 2
    assert all(map(torch.equal, states[0]["model"].values(), states[1]["model"].values()))


def test_an_error_of_the_first_ends_all_with_one_line(played):
    _, codes = played
    assert codes["refused"][0] == 2 and codes["refused"][1]
    assert output(played, "refused", 0).count("\n") == 1 and output(
        played, "refused", 0
    ).startswith("error: --out already holds")
    assert "Traceback" not in output(played, "refused", 1) and "error" not in output(
        played, "refused", 1
    )


def test_a_killed_process_ends_the_run_and_it_resumes_on_one(played):
    _, codes = played
    assert codes["killed"] == [2, -9]
    said = output(played, "killed", 0)
    assert (
        "error: another process of this run has ended; continue with --resume" in said
        and "Traceback" not in said
    )
    read(played, "alone", 1)
    assert "processes 2, now 1" in output(played, "alone", 0)


def test_torchrun_starts_a_script(tmp_path):
    # The launcher itself, as people type it: one report, one run folder.
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    tiny = "--n-layer 1 --n-head 2 --n-embd 16 --n-positions 32 --max-length 16 --max-steps 2 --precision fp32 --device cpu"
    done = subprocess.run(
        [*torchrun, ROOT / "scripts" / "finetune_imdb.py", *tiny.split(), "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("the best weights") == 1 and (tmp_path / "run" / "results.json").exists()
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["processes"] == 2

"""Two processes compute what one computes, and they end together. ranks.py plays the scenes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_run import assert_same_bits, saved_state, toy_model

from scripts import finetune_alpaca, finetune_imdb, pretrain

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks.py forks; Windows can't")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that ranks.py has filled."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, Path(__file__).with_name("ranks.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def codes(folder):
    """The exit codes of the processes of each scene."""
    return read(folder / "codes.json")


@pytest.fixture
def printed(folder):
    """A function: what a process of a scene has printed."""
    return lambda scene, rank=0: (folder / f"{scene}-{rank}.txt").read_text(encoding="utf-8")


def test_two_processes_compute_the_figures_of_one(folder):
    one = read(folder / "one-0.json")
    for rank in (0, 1):
        two = read(folder / f"two-{rank}.json")
        assert two.keys() == one.keys()
        for name in one:
            scale = np.abs(one[name]).max()
            assert scale > 1e-3
            np.testing.assert_allclose(two[name], one[name], atol=1e-6 * scale, err_msg=name)


def test_signal_to_one_process_stops_all_and_they_resume_to_the_same_bits(folder, codes, printed):
    assert codes["stopped"] == [143, 143]
    assert "stopped at step 3; go on with --resume" in printed("stopped")
    assert "stopped at" not in printed("stopped", 1)
    assert codes["straight"] == codes["resumed"] == [0, 0]
    # Each process draws its own dropout.
    seeds = [read(folder / f"straight-{rank}.json")["seed"] for rank in (0, 1)]
    assert seeds[0] != seeds[1]
    assert_same_bits(folder / "straight", folder / "stopped")
    state = saved_state(folder / "straight")
    assert len(state["generators"]) == 2
    assert state["model"].keys() == toy_model().state_dict().keys()


def test_error_of_the_first_process_ends_all_with_one_line(codes, printed):
    assert codes["refused"][0] == 2
    assert codes["refused"][1] != 0
    assert printed("refused").startswith("error: --out already holds")
    assert printed("refused").count("\n") == 1
    assert "Traceback" not in printed("refused", 1)
    assert "error" not in printed("refused", 1)


def test_killed_process_ends_the_run_which_resumes_on_one(codes, printed):
    assert codes["killed"] == [2, -9]
    line = "error: another process of this run has ended; go on with --resume"
    assert line in printed("killed")
    assert "Traceback" not in printed("killed")
    assert codes["alone"] == [0]


def figures(path):
    """The numbers in results.json, which has one on a line, except times."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.search(r"(-?\d[-\d.e]*),?$", line) for line in lines if "second" not in line]
    return [float(number[1]) for number in found if number]


@pytest.mark.parametrize(
    "script, argv",
    [
        (finetune_imdb, "--batch-size 7 --micro-batch-size 3"),
        (finetune_alpaca, "--batch-size 7 --template short --test-prompts 2"),
        (pretrain, "--data documents.txt --batch-size 3 --max-length 16"),
    ],
)
def test_torchrun_reports_what_one_process_reports(tmp_path, monkeypatch, script, argv):
    monkeypatch.chdir(tmp_path)
    documents = "\n\n".join(f"document {i} of 100" for i in range(100))
    Path("documents.txt").write_text(documents, encoding="utf-8")
    tiny = (
        "--n-layer 1 --n-head 2 --n-embd 16 --n-positions 64 --device cpu --precision fp32 "
        "--dropout 0 --learning-rate 0.003 --max-steps 3 "
    )
    argv = (tiny + argv).split()
    assert script.main([*argv, "--out", "one"]) == 0
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2"
    command = [sys.executable, *torchrun.split(), script.__file__, *argv, "--out", "two"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the best weights") == 1  # only the first process prints
    expected, found = (figures(Path(out, "results.json")) for out in ("one", "two"))
    assert len(expected) > 10
    assert found == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert read(Path("two", "run.json"))["processes"] == 2

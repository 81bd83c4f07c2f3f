"""Training runs killed at random moments: each must resume, and end with the bits of a run that nobody killed.

    python tests/kills.py [COUNT]    30 kills by default; the tests make a few

The run of test_trainer.py, with dropout, accumulation and a save every second step, is killed (SIGKILL: nothing in it can
react), resumed, killed again, and so on. Every other kill waits until the state is being written, so that it falls into a
save. This process loads torch and computes nothing; it forks a child for each life of the run.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from test_trainer import toy_model, train  # noqa: E402

STATE = Path("last") / "state.pt"


def live(run, output):
    """Fork a child that trains in the folder `run`, 24 steps in all, its output going to a file -> its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        torch.set_num_threads(1)
        train(
            run,
            toy_model(0.3),
            micro_batch_size=3,
            save_every=2,
            eval_every=5,
            log_every=1,
            resume=(run / STATE).exists(),
        )
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def half_written(run):
    """Which state file is being written, or was when a life ended: its time in nanoseconds, or None."""
    try:
        return (run / "last" / ".state.pt.tmp").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def kill_somewhere(pid, run, rng, in_a_save, longest):
    """Kill a child at a random moment, or while it writes its state -> whether a save was cut short, None if it ended first."""
    end, left_over = time.monotonic() + rng.uniform(0, longest), half_written(run)
    while time.monotonic() < end or in_a_save:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, f"status {status}"
            return None
        if in_a_save and time.monotonic() >= end and half_written(run) not in (None, left_over):
            time.sleep(rng.choice([0, 0, 0.001, 0.003, 0.01]))  # also late in it, or just behind it
            break
        time.sleep(0 if in_a_save else 0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return half_written(run) not in (None, left_over)


def same_bits(a, b):
    """Compare all that two finished runs leave, but for times -> list of what differs."""
    states = [torch.load(run / STATE, weights_only=True) for run in (a, b)]
    wrong = [
        f"state: {name}"
        for name in states[0]["model"]
        if not torch.equal(*(state["model"][name] for state in states))
    ]
    moments = [
        [value for group in state["optimizer"]["state"].values() for value in group.values()]
        for state in states
    ]
    wrong += [
        "state: optimizer"
        for one, other in zip(*moments, strict=True)
        if not torch.equal(one, other)
    ]
    wrong += ["model.safetensors"] * (
        (a / "model.safetensors").read_bytes() != (b / "model.safetensors").read_bytes()
    )
    logs = [
        [
            json.loads(line)
            for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for run in (a, b)
    ]
    steps = [[(row["step"], row.get("loss"), row.get("val")) for row in log] for log in logs]
    return wrong + ["metrics.jsonl"] * (steps[0] != steps[1])


def end(pid):
    """Let a child end by itself."""
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"status {status}"


def campaign(count, folder, seed=0):
    """Kill runs `count` times in all, one run after another until each has ended -> (kills, of these in a save, runs)."""
    rng, output, run = random.Random(seed), folder / "output", folder / "killed"
    begun = time.monotonic()
    end(live(folder / "straight", output))
    longest = 0.7 * (time.monotonic() - begun)
    kills = in_saves = runs = 0
    while kills < count:
        cut = False
        while cut is not None:
            begun, pid = time.monotonic(), live(run, output)
            cut = (
                kill_somewhere(pid, run, rng, kills % 2 == 0, longest)
                if kills < count
                else end(pid)
            )
            kills, in_saves = kills + (cut is not None), in_saves + bool(cut)
        longest = min(longest, time.monotonic() - begun)  # the machine may be less busy than it was
        wrong = same_bits(folder / "straight", run)
        assert not wrong, f"after {kills} kills: {wrong}"
        runs += 1
        shutil.rmtree(run)
    return kills, in_saves, runs


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory() as folder:
        try:
            kills, in_saves, runs = campaign(count, Path(folder))
        except AssertionError as error:
            sys.exit(f"{(Path(folder) / 'output').read_text(encoding='utf-8')}\n{error}")
    print(
        f"{kills} kills, {in_saves} of them in the middle of a save; {runs} runs resumed and ended with the same bits"
    )


if __name__ == "__main__":
    main()

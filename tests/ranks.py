"""Scenes for test_distributed.py, each played by one process or two: python tests/ranks.py FOLDER

This process loads torch and computes nothing. It forks the processes of each scene and gives them
the environment that torchrun gives. What a process finds goes to FOLDER/SCENE-RANK.json, what it
prints to SCENE-RANK.txt, and the exit codes to codes.json.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from toy_run import (
    FP32,
    ToyTexts,
    fork,
    send,
    step_gradient,
    toy_model,
    toy_trainer,
    train,
)

from gptft import distributed
from gptft.errors import command
from gptft.evaluation.classification import log_probabilities

# ---------------------------------------------------------------- scenes: folder -> what is found


def figures(folder):
    """Gradients and losses of each step of an epoch, and predictions, as lists of numbers.

    A step has 7 rows, in micro-batches of at most 3, and the last step has a single row.
    """
    found = {}
    for kind in ("class", "tokens"):
        settings = dict(batch_size=7, micro_batch_size=3, learning_rate=0.0, clip=1e9)
        trainer = toy_trainer(toy_model(kind), ToyTexts(22, kind=kind), **settings)
        for step in range(4):
            gradient = step_gradient(trainer)
            loss = distributed.sum_over_processes(trainer.unread[-1].loss)
            found[f"{kind} {step}"] = [*gradient.tolist(), loss.item()]
    for n in (41, 1):  # with a single row, one process has none
        log_probs = log_probabilities(toy_model(), ToyTexts(n, seed=1), FP32, batch_size=4)
        found[f"predictions {n}"] = log_probs.tolist()
    return found


def run(name, number=None, at=None, **options):
    """A training run; the last process gets a signal in step `at`."""

    def scene(folder):
        is_last = distributed.rank() == distributed.world_size() - 1
        on_step = send(number, at if is_last else None)
        settings = dict(epochs=2, micro_batch_size=3, save_every=2, on_step=on_step) | options
        main = command(lambda argv: train(folder / name, toy_model(dropout=0.3), **settings))
        return {"code": main([]), "seed": torch.initial_seed()}

    return scene


SCENES = {  # name: (processes, scene)
    "one": (1, figures),
    "two": (2, figures),
    "straight": (2, run("straight")),
    "stopped": (2, run("stopped", signal.SIGTERM, 3)),
    "resumed": (2, run("stopped", resume=True)),
    "refused": (2, run("stopped")),
    "killed": (2, run("killed", signal.SIGKILL, 4)),
    "alone": (1, run("killed", resume=True)),
}

# ---------------------------------------------------------------- processes


def start(name, rank, port, folder):
    """Fork one process of a scene -> its id."""
    n, scene = SCENES[name]

    def act():
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, LOCAL_WORLD_SIZE=n)
        environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test")
        os.environ |= {variable: str(value) for variable, value in environment.items()}
        distributed.setup("cpu")
        found = scene(folder)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
        return found.get("code", 0)

    return fork(act, folder / f"{name}-{rank}.txt")


def play(name, folder):
    """Run a scene -> the exit codes of its processes; that of a killed one is minus the signal."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = range(SCENES[name][0])
    pids = [start(name, rank, port, folder) for rank in ranks]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    codes = {name: play(name, folder) for name in SCENES}
    (folder / "codes.json").write_text(json.dumps(codes), encoding="utf-8")

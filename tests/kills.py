"""A training run killed at random moments: it must end with the bits of one that nobody killed.

    python tests/kills.py [COUNT]    30 kills by default; the tests make 4

The run, with dropout, accumulation and a save every second step, is killed (SIGKILL: it can't
react), resumed, killed again, and so on. A step takes about as long as a save, so that many of the
kills fall into one. This process loads torch and computes nothing; it forks a child for each life.
"""

import os
import random
import signal
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toy_run import assert_same_bits, fork, toy_model, train


def live(run, epochs, n_steps=None, delay=0.0):
    """Let a run go on, and kill it `delay` seconds after it has begun `n_steps` steps.

    Returns the status of its process: 0, or the number of the signal.
    """
    steps = count()

    def on_step(step):
        if next(steps) == n_steps and not os.fork():
            time.sleep(delay)
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)

    def act():
        on_step(0)
        resume = (run / "last" / "state.pt").exists()
        settings = dict(micro_batch_size=3, save_every=2, eval_every=5, epochs=epochs)
        train(run, toy_model(dropout=0.3), on_step=on_step, resume=resume, **settings)
        return 0

    return os.waitpid(fork(act, run.with_suffix(".txt")), 0)[1]


def main():
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    epochs = 2 * n_kills  # of 8 steps; a life makes fewer
    rng = random.Random(0)
    half_written = set()
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = Path(folder, "straight"), Path(folder, "killed")
        statuses = [live(straight, epochs)]
        for _ in range(n_kills):
            statuses.append(live(killed, epochs, rng.randrange(8), rng.uniform(0, 0.02)))
            for state in killed.glob("last/.*.tmp"):
                half_written.add(state.stat().st_mtime_ns)
        statuses.append(live(killed, epochs))
        if statuses != [0, *[signal.SIGKILL] * n_kills, 0]:
            sys.exit(killed.with_suffix(".txt").read_text(encoding="utf-8"))
        assert_same_bits(straight, killed)
    print(f"{n_kills} kills, {len(half_written)} in a save; the run ended with the same bits")


if __name__ == "__main__":
    main()

"""What several processes must do alike, played through for test_distributed.py: python tests/ranks.py FOLDER

This process loads torch once and computes nothing; it forks the processes of each scene as torchrun would start them,
and like torchrun it ends the others when one has failed. What they find goes to FOLDER, SCENE-RANK.json; what they print
to SCENE-RANK.txt; how they end to codes.json.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from gptft import distributed, evaluate, trainer  # noqa: E402
from gptft.classifier import GPT2Classifier, classification_loss  # noqa: E402
from gptft.classify import log_probabilities  # noqa: E402
from gptft.config import GPT2Config, TrainOptions  # noqa: E402
from gptft.data.batching import TrainBatches, classifier_batch, eval_batches, lm_batch  # noqa: E402
from gptft.errors import command  # noqa: E402
from gptft.hardware import Hardware, evaluating  # noqa: E402
from gptft.language import language_loss  # noqa: E402
from gptft.metrics import classification_metrics  # noqa: E402
from gptft.model import GPT2  # noqa: E402
from gptft.run import Run, open_run  # noqa: E402
from gptft.tasks import load_tasks  # noqa: E402
from scripts import finetune_alpaca, finetune_imdb, pretrain  # noqa: E402

FP32 = Hardware("cpu", "fp32", False, "test")
CONFIG = GPT2Config(vocab_size=50, n_positions=24, n_embd=16, n_layer=2, n_head=2, dropout=0.0)


class Toy:
    """Rows of random ids; of each either its class or, unevenly, which of its tokens are learned."""

    max_length = 24

    def __init__(self, kind, n, seed=0):
        rng = np.random.default_rng(seed)
        self.rows = [rng.integers(0, 50, size=rng.integers(3, 24)) for _ in range(n)]
        self.lengths = np.array([len(row) for row in self.rows])
        self.labels = np.array([int(row[0] < 25) for row in self.rows])
        learned = [np.arange(len(row)) >= rng.integers(0, len(row)) for row in self.rows]
        self.kind, self.tokens = (
            kind,
            [np.where(mask, row, -100) for mask, row in zip(learned, self.rows)],
        )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i], (int(self.labels[i]) if self.kind == "classes" else self.tokens[i])


# ---------------------------------------------------------------- scenes: (folder) -> what to note


def gradients(folder):
    """Of all steps of an epoch: batches of 8, in micro-batches, a batch of 3, and, where the rows say so, of 1 row."""
    found = {}
    kinds = (
        ("classes", classification_loss, classifier_batch, GPT2Classifier),
        ("tokens", language_loss, lm_batch, GPT2),
    )
    for kind, loss, collate, model in kinds:
        for n in (27, 25):
            torch.manual_seed(5)
            model_ = model(CONFIG)
            if kind == "classes":
                torch.nn.init.normal_(model_.score.weight)
            options = TrainOptions(
                epochs=1,
                batch_size=8,
                micro_batch_size=3,
                learning_rate=0.0,
                weight_decay=0.0,
                dropout=0.0,
                clip=1e9,
            )
            batches = TrainBatches(Toy(kind, n), collate, 0, options)
            one = trainer._Trainer(model_, batches, loss, options, FP32, None)
            one.optimizer.zero_grad = lambda **_: None  # the gradient stays to be looked at
            for step in range(batches.n_steps):
                one.train_step()
                gradient = torch.cat([p.grad.flatten() for p in model_.parameters()])
                rows = sorted(row for batch in batches.step(0, step) for row in batch.rows.tolist())
                found[f"{kind} {n} {step}"] = {
                    "gradient": gradient.tolist(),
                    "rows": rows,
                    "counts": one.pending[-1][4],
                    "loss": distributed.sum_over_processes(one.pending[-1][1].clone()).item(),
                }
                for p in model_.parameters():
                    p.grad = None
    return found


def evaluation(folder):
    """Rows seen and probabilities of 41 rows, and of a single one, which leaves a process without any."""
    torch.manual_seed(5)
    model, found = GPT2Classifier(CONFIG), {}
    torch.nn.init.normal_(model.score.weight)
    for n in (41, 1):
        data = Toy("classes", n, seed=1)
        seen = [
            row
            for batch in eval_batches(data, classifier_batch, 0, 4)
            for row in batch.rows.tolist()
        ]
        with evaluating(model, FP32):
            found[str(n)] = {
                "mine": seen,
                "rows": distributed.gather(seen),
                "log_probs": log_probabilities(model, data, 0, FP32).tolist(),
            }
    return found


def script(module, *argv):
    def scene(folder):
        evaluate.TASK_TOKENS, evaluate.RESPONSE_TOKENS, evaluate.load_tasks = (
            4,
            8,
            lambda: load_tasks()[::50],
        )
        pretrain.EVAL_TOKENS, pretrain.NEW = 1000, 4
        out = folder / f"{module.__name__.removeprefix('scripts.')}-{os.environ['WORLD_SIZE']}"
        tiny = "--n-layer 1 --n-head 2 --n-embd 16 --n-positions 128 --precision fp32 --dropout 0 --learning-rate 0.003"
        return {"code": module.main([*tiny.split(), *argv, "--out", str(out)])}

    return scene


def toy_run(name, stop=None, die=None, **options):
    """Train in `folder / name`; the last process gets a SIGTERM after step `stop`, or a SIGKILL in step `die`."""

    def scene(folder):
        settings = TrainOptions(
            **{
                **dict(
                    epochs=2,
                    batch_size=8,
                    micro_batch_size=3,
                    learning_rate=3e-3,
                    weight_decay=0.1,
                    dropout=0.3,
                    max_length=24,
                    save_every=2,
                    log_every=1,
                ),
                **options,
            }
        )
        torch.manual_seed(3)
        model = GPT2Classifier(dataclasses.replace(CONFIG, dropout=0.3))
        distributed.setup("cpu")
        run = Run(folder / name)
        last = distributed.rank() == distributed.world_size() - 1
        step_once = trainer._Trainer.train_step

        def step(self):
            if last and self.step + 1 == die:
                os.kill(os.getpid(), signal.SIGKILL)
            step_once(self)
            if last and self.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer._Trainer.train_step = step

        def score_val(model):
            data = Toy("classes", 9, seed=2)
            return classification_metrics(data.labels, log_probabilities(model, data, 0, FP32))

        @command
        def main(argv):
            with distributed.main_first():
                if distributed.is_main():
                    open_run(run.folder, [], dataclasses.asdict(settings), settings.resume)
            batches = TrainBatches(Toy("classes", 27), classifier_batch, 0, settings)
            trainer.fit(
                model,
                batches,
                classification_loss,
                score_val,
                lambda m: (-m["loss"],),
                settings,
                FP32,
                run,
            )

        code = main([])
        return {"code": code, "draw": torch.rand(1).item()}

    return scene


SMALL = [
    "--epochs",
    "1",
    "--batch-size",
    "7",
    "--max-length",
    "48",
    "--max-steps",
    "6",
    "--eval-every",
    "3",
]
SCENES = {  # name: (processes, what they do)
    "gradients-1": (1, gradients),
    "gradients-2": (2, gradients),
    "evaluation-1": (1, evaluation),
    "evaluation-2": (2, evaluation),
    **{
        f"{module.__name__.removeprefix('scripts.')}-{n}": (n, script(module, *SMALL, *more))
        for n in (1, 2)
        for module, more in (
            (finetune_imdb, ["--micro-batch-size", "3"]),
            (finetune_alpaca, ["--test-prompts", "2"]),
            (pretrain, ["--batch-size", "3", "--max-length", "16"]),
        )
    },
    "straight": (2, toy_run("straight")),
    "stopped": (2, toy_run("stopped", stop=3)),
    "resumed": (2, toy_run("stopped", resume=True)),
    "refused": (2, toy_run("stopped")),
    "killed": (2, toy_run("killed", die=4)),
    "alone": (1, toy_run("killed", resume=True)),
}


def start(scene, rank, n, port, folder, name):
    """Fork one process -> its id."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        output = os.open(folder / f"{name}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n),
            "LOCAL_WORLD_SIZE": str(n),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        torch.set_num_threads(1)
        distributed.setup("cpu")
        found = scene(folder)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
        code = found.get("code", 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def play(name, n, scene, folder):
    """Run a scene in n processes -> their exit codes, minus the signal for one that was killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running, codes = (
        {start(scene, rank, n, port, folder, name): rank for rank in range(n)},
        [None] * n,
    )
    while running:
        pid, status = os.wait()
        codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        if status:
            time.sleep(0.5)  # torchrun looks at its processes from time to time
            for other in running:
                os.kill(other, signal.SIGTERM)
    return codes


def main():
    folder = Path(sys.argv[1])
    names = sys.argv[2:] or SCENES
    codes = {name: play(name, *SCENES[name], folder) for name in names}
    (folder / "codes.json").write_text(json.dumps(codes), encoding="utf-8")


if __name__ == "__main__":
    main()

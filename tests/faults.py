"""Seeded faults: one-line mistakes that codebases like this one make, each of which the suite must catch.

`python tests/faults.py [NAME ...]` copies the repository, plants one fault at a time and runs the tests named beside it;
a fault that no test notices is printed as MISSED, and the exit code is then 1. Run it before and after tests are
deleted. tests/test_faults_list.py checks that every line to be replaced is still there, exactly once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    """In `path`, the text `before` becomes `after`; the test files `tests` (words) must then fail."""

    name: str
    path: str
    before: str
    after: str
    tests: str


FAULTS = [
    Fault(
        "a cached query sees one key too many",
        "gptft/model.py",
        "unseen = slots > self.positions[:, None, :, None]",
        "unseen = slots > self.positions[:, None, :, None] + 1",
        "test_kv_cache",
    ),
    Fault(
        "a cache slot off by one",
        "gptft/model.py",
        "self.positions = self.lengths[:, None] + torch.arange(T, device=self.kv.device)",
        "self.positions = self.lengths[:, None] + torch.arange(T, device=self.kv.device) + 1",
        "test_kv_cache",
    ),
    Fault(
        "attention is not causal",
        "gptft/model.py",
        "attn_mask=mask, is_causal=mask is None, dropout_p=dropout",
        "attn_mask=mask, is_causal=False, dropout_p=dropout",
        "test_model",
    ),
    Fault(
        "dropout stays on in evaluation",
        "gptft/model.py",
        "self.dropout if self.training else 0.0",
        "self.dropout",
        "test_model",
    ),
    Fault(
        "the exact GELU instead of its tanh form",
        "gptft/model.py",
        'approximate="tanh"',
        'approximate="none"',
        "test_model",
    ),
    Fault(
        "residual projections start at full size",
        "gptft/model.py",
        'if name.endswith("c_proj") else 1.0',
        "if False else 1.0",
        "test_model",
    ),
    Fault(
        "the classifier reads a padding position",
        "gptft/classifier.py",
        "* T + lengths - 1",
        "* T + T - 1",
        "test_model",
    ),
    Fault(
        "end-of-text is not learned",
        "gptft/data/alpaca.py",
        "labels[: len(prompt)] = IGNORED",
        "labels[: len(prompt)] = labels[-1:] = IGNORED",
        "test_alpaca",
    ),
    Fault(
        "the first token of a response is not learned",
        "gptft/data/alpaca.py",
        "labels[: len(prompt)] = IGNORED",
        "labels[: len(prompt) + 1] = IGNORED",
        "test_alpaca",
    ),
    Fault(
        "pretraining targets are not shifted",
        "gptft/data/documents.py",
        "targets = ids[1:] if",
        "targets = ids[:-1] if",
        "test_documents",
    ),
    Fault(
        "equal texts may fall on two sides of a split",
        "gptft/data/sources.py",
        "groups.setdefault(text, []).append(row)",
        "groups.setdefault(f'{row} {text}', []).append(row)",
        "test_sources",
    ),
    Fault(
        "head+tail keeps half of the head",
        "gptft/data/imdb.py",
        "limit // 4",
        "limit // 2",
        "test_imdb",
    ),
    Fault(
        "evaluation drops the last rows",
        "gptft/data/batching.py",
        "for i in range(0, len(rows), batch_size):",
        "for i in range(0, len(rows) - batch_size + 1, batch_size):",
        "test_batching",
    ),
    Fault(
        "the loss is divided by the micro-batch",
        "gptft/trainer.py",
        "/ max(n, 1)",
        "/ max(batch.n, 1)",
        "test_trainer",
    ),
    Fault(
        "a resumed run repeats a batch",
        "gptft/trainer.py",
        '"best_score": self.best_score and list(self.best_score),',
        '"best_score": self.best_score and list(self.best_score), "step": self.step - 1,',
        "test_trainer",
    ),
    Fault(
        "a resumed run forgets the random generators",
        "gptft/trainer.py",
        'self.hardware.set_rng_state(state["generators"][distributed.rank()])',
        "pass",
        "test_trainer",
    ),
    Fault(
        "gradients are not clipped",
        "gptft/trainer.py",
        "self.model.parameters(), self.options.clip)",
        "self.model.parameters(), 1e9)",
        "test_trainer",
    ),
    Fault(
        "weight decay on biases",
        "gptft/optim.py",
        'if p.dim() < 2], "weight_decay": 0.0}',
        'if p.dim() < 2], "weight_decay": weight_decay}',
        "test_optim",
    ),
    Fault(
        "the warmup starts at zero",
        "gptft/optim.py",
        "* (step + 1) / n_warmup",
        "* step / n_warmup",
        "test_optim",
    ),
    Fault(
        "gradients are averaged over processes",
        "gptft/trainer.py",
        "part * distributed.world_size()",
        "part",
        "test_distributed",
    ),
    Fault(
        "a transposed square matrix",
        "gptft/checkpoints/gpt2_names.py",
        "found[name].T if name in table and table[name][2] else",
        "found[name].T if name in table and table[name][2] and 'attn.c_proj' not in name else",
        "test_pretrained",
    ),
    Fault(
        "a wrong CRC mask", "gptft/checkpoints/crc32c.py", "0xA282EAD8", "0xA282EAD9", "test_crc32c"
    ),
    Fault(
        "overlapping tensors are accepted",
        "gptft/checkpoints/safetensors.py",
        "if begin != expected:",
        "if begin > expected:",
        "test_safetensors",
    ),
    Fault(
        "an adapter without its scale",
        "gptft/lora.py",
        "self.alpha, self.scale, self.dropout = alpha, alpha / rank,",
        "self.alpha, self.scale, self.dropout = alpha, 1.0,",
        "test_lora",
    ),
    Fault(
        "top-p is measured before the temperature",
        "gptft/sampling.py",
        "kept = probs.cumsum(-1) - probs < sampling.top_p",
        "kept = logits.softmax(-1).cumsum(-1) - logits.softmax(-1) < sampling.top_p",
        "test_sampling",
    ),
    Fault(
        "top-p drops the token that reaches p",
        "gptft/sampling.py",
        "kept = probs.cumsum(-1) - probs < sampling.top_p",
        "kept = probs.cumsum(-1) < sampling.top_p",
        "test_sampling",
    ),
    Fault(
        "top-k keeps one too many",
        "gptft/sampling.py",
        "logits.topk(sampling.top_k)",
        "logits.topk(sampling.top_k + 1)",
        "test_sampling",
    ),
    Fault(
        "all rows draw the same numbers",
        "gptft/sampling.py",
        "default_rng((seed, number))",
        "default_rng((seed, 0))",
        "test_sampling",
    ),
    Fault(
        "generation goes on after end-of-text",
        "gptft/decoding.py",
        "if id in self.stop_ids:",
        "if id in ():",
        "test_generate",
    ),
    Fault(
        "a confusion matrix on its side",
        "gptft/metrics.py",
        "np.asarray(labels) * n_classes + np.asarray(predicted)",
        "np.asarray(predicted) * n_classes + np.asarray(labels)",
        "test_metrics",
    ),
    Fault(
        "a one-sided paired test", "gptft/metrics.py", "2 * math.fsum", "math.fsum", "test_metrics"
    ),
]


def is_caught(fault):
    """Plant a fault in a copy of the repository and run its tests -> whether one failed, and the last line printed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "repository")
        leave_out = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=leave_out)
        path = copy / fault.path
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
        tests = [f"tests/{name}.py" for name in fault.tests.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        # 1: a test failed. Anything else (no tests found, a syntax error) is not a catch.
        return done.returncode == 1 and bool(lines), (
            lines or done.stdout.splitlines() or [done.stderr]
        )[-1]


def main(names):
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    began, missed = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for fault, (caught, line) in zip(chosen, pool.map(is_caught, chosen)):
            missed += not caught
            print(f"{'caught' if caught else 'MISSED'}  {fault.name}: {line[:150]}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

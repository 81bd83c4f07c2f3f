"""Seeded faults: one-line mistakes that code like this often has. The suite must catch each one.

`python tests/faults.py [NAME ...]` copies the repository, plants one fault at a time and runs the
test file named beside it. It prints a fault that no test notices as MISSED, and ends with exit code
1. Run it before and after deleting tests. test_faults_list.py checks that every text to be replaced
occurs exactly once.
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
    """In the file `path`, the text `before` becomes `after`; tests/`test`.py must then fail."""

    name: str
    path: str
    before: str
    after: str
    test: str


FAULTS = [
    Fault(
        "a flipped mask",
        "gptft/model.py",
        "is_past = slots <= new_slots",
        "is_past = slots >= new_slots",
        "test_decoding",
    ),
    Fault(
        "a padding key is read",
        "gptft/model.py",
        "slots >= self.padding[:, None, None, None]",
        "slots >= 0",
        "test_decoding",
    ),
    Fault(
        "a cache slot off by one",
        "gptft/generation/cuda_graph.py",
        "torch.tensor([cache.length]",
        "torch.tensor([cache.length - 1]",
        "test_decoding",
    ),
    Fault(
        "attention is not causal",
        "gptft/speed.py",
        "is_causal=mask is None",
        "is_causal=False",
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
        "hidden states are taken before the last norm",
        "gptft/model.py",
        "return self.ln_f(x)",
        "return x",
        "test_model",
    ),
    Fault(
        "the classifier reads a padding position",
        "gptft/classifier.py",
        "hidden[rows, lengths - 1]",
        "hidden[rows, -1]",
        "test_model",
    ),
    Fault(
        "end-of-text is not learned",
        "gptft/data/instructions.py",
        "labels[: self.n_prompt[i]] = IGNORED",
        "labels[: self.n_prompt[i]] = labels[-1:] = IGNORED",
        "test_instructions",
    ),
    Fault(
        "the first token of a response is not learned",
        "gptft/data/instructions.py",
        "labels[: self.n_prompt[i]] = IGNORED",
        "labels[: self.n_prompt[i] + 1] = IGNORED",
        "test_instructions",
    ),
    Fault(
        "padding is learned",
        "gptft/data/batches.py",
        "pad(shifted, T, IGNORED)",
        "pad(shifted, T, PADDING)",
        "test_instructions",
    ),
    Fault(
        "every epoch has the same order",
        "gptft/data/batches.py",
        "default_rng((seed, epoch))",
        "default_rng((seed, 0))",
        "test_batches",
    ),
    Fault(
        "evaluation drops the last rows",
        "gptft/data/batches.py",
        "range(0, len(own), batch_size)",
        "range(0, len(own) - batch_size + 1, batch_size)",
        "test_batches",
    ),
    Fault(
        "pretraining targets are not shifted",
        "gptft/data/documents.py",
        "token_ids[1:], IGNORED)",
        "token_ids[:-1], IGNORED)",
        "test_documents",
    ),
    Fault(
        "test texts are pretrained on",
        "gptft/data/documents.py",
        "text not in held_out",
        'text not in splits["val"]',
        "test_documents",
    ),
    Fault(
        "equal texts may fall on two sides of a split",
        "gptft/data/sources.py",
        "rows_of.setdefault(text, [])",
        "rows_of.setdefault(f'{row} {text}', [])",
        "test_sources",
    ),
    Fault(
        "head+tail keeps half of the head",
        "gptft/data/classification.py",
        "limit // 4",
        "limit // 2",
        "test_classification_data",
    ),
    Fault(
        "a compressed file is read without a limit",
        "gptft/data/records.py",
        "file.read(MAX_BYTES + 1)",
        "file.read()",
        "test_records",
    ),
    Fault(
        "the loss is divided by the micro-batch",
        "gptft/training/loop.py",
        "/ max(n, 1)",
        "/ max(batch.n, 1)",
        "test_loop",
    ),
    Fault(
        "gradients are averaged over processes",
        "gptft/training/loop.py",
        "part * distributed.world_size()",
        "part",
        "test_distributed",
    ),
    Fault(
        "gradients are not clipped",
        "gptft/training/loop.py",
        "self.model.parameters(), options.clip)",
        "self.model.parameters(), 1e9)",
        "test_loop",
    ),
    Fault(
        "every evaluation counts as the best",
        "gptft/training/loop.py",
        "quality(metrics) > quality(position.best)",
        "quality(metrics)",
        "test_loop",
    ),
    Fault(
        "weight decay on biases",
        "gptft/training/optimizer.py",
        'if p.dim() < 2], "weight_decay": 0.0}',
        'if p.dim() < 2], "weight_decay": weight_decay}',
        "test_optimizer",
    ),
    Fault(
        "the warmup starts at zero",
        "gptft/training/optimizer.py",
        "* (step + 1) / n_warmup",
        "* step / n_warmup",
        "test_optimizer",
    ),
    Fault(
        "a resumed run repeats a batch",
        "gptft/training/state.py",
        "asdict(trainer.position)",
        'asdict(trainer.position) | {"step": trainer.position.step - 1}',
        "test_state",
    ),
    Fault(
        "a resumed run forgets the random generators",
        "gptft/training/state.py",
        "torch.set_rng_state(states[0])",
        "pass",
        "test_state",
    ),
    Fault(
        "loading a state may run code",
        "gptft/training/state.py",
        "weights_only=True)",
        "weights_only=False)",
        "test_bad_input",
    ),
    Fault(
        "a transposed square matrix",
        "gptft/checkpoints/names.py",
        "is_matrix = name.endswith(TRANSPOSED)",
        'is_matrix = name.endswith(TRANSPOSED) and "attn.c_proj" not in name',
        "test_folders",
    ),
    Fault(
        "a wrong CRC mask", "gptft/checkpoints/crc32c.py", "0xA282EAD8", "0xA282EAD9", "test_crc32c"
    ),
    Fault(
        "an adapter without its scale",
        "gptft/lora.py",
        "self.scale = alpha / rank",
        "self.scale = 1.0",
        "test_lora",
    ),
    Fault(
        "top-p is measured before the temperature",
        "gptft/generation/sampling.py",
        "probs.cumsum(dim=-1) - probs < top_p",
        "(p := logits.softmax(-1).topk(len(probs[0]))[0]).cumsum(-1) - p < top_p",
        "test_sampling",
    ),
    Fault(
        "all rows draw the same numbers",
        "gptft/generation/sampling.py",
        "default_rng((seed, number))",
        "default_rng((seed, 0))",
        "test_sampling",
    ),
    Fault(
        "generation goes on after end-of-text",
        "gptft/generation/decoding.py",
        "ended[k] = id == eos_id",
        "ended[k] = id is None",
        "test_decoding",
    ),
    Fault(
        "a confusion matrix on its side",
        "gptft/evaluation/metrics.py",
        "labels * n_classes + predicted",
        "labels + n_classes * predicted",
        "test_metrics",
    ),
    Fault(
        "a one-sided paired test", "gptft/evaluation/metrics.py", "2 * tail", "tail", "test_metrics"
    ),
    Fault(
        "the intercept is penalised",
        "gptft/baseline/logistic_regression.py",
        "slopes.sum()",
        "slopes.sum() + b / (C * N)",
        "test_logistic_regression",
    ),
    Fault(
        "counts of a class are smoothed by a half",
        "gptft/baseline/logistic_regression.py",
        "p = 1 + X",
        "p = 0.5 + X",
        "test_logistic_regression",
    ),
]


def is_caught(fault):
    """Plant a fault in a copy of the repository -> whether a test failed, and a line about it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "repository")
        leave_out = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=leave_out)
        path = copy / fault.path
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
        test = f"tests/{fault.test}.py"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        # 1: a test failed. Anything else (no tests found, a syntax error) is not a catch.
        caught = done.returncode == 1 and bool(lines)
        return caught, (lines or done.stdout.splitlines() or [done.stderr])[-1]


def main(names):
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    began, missed = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for fault, (caught, line) in zip(chosen, pool.map(is_caught, chosen)):
            missed += not caught
            print(f"{'caught' if caught else 'MISSED'}  {fault.name}: {line[:150]}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught in {time.monotonic() - began:.0f} s")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

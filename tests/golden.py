"""Golden figures: what the code computed before the second edition, written down so that a rewrite
can be held against it.

`python tests/golden.py` prints the figures as JSON (tests/fixtures/golden.json holds them);
tests/test_golden.py compares. Everything runs on one CPU thread in fp32, through commands and
public functions only, so a file may be renamed, split or rewritten without a change here. A figure
that changes on purpose is written anew in a commit of its own that says why.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FIXTURE = Path(__file__).parent / "fixtures" / "golden.json"

TINY = "--n-layer 2 --n-head 2 --n-embd 32 --n-positions 128"
STEPS = "--max-steps 20 --eval-every 1 --save-every 20 --batch-size 4 --micro-batch-size 3"
STEPS += " --learning-rate 1e-3 --weight-decay 0.1 --warmup 0.1 --seed 0 --device cpu"
STEPS += " --precision fp32 --compile off --epochs 9"
SCRIPTS = {  # name -> (script, data, its flags)
    "finetune_imdb": (
        "finetune_imdb.py",
        "reviews.jsonl",
        "--max-length 48 --truncate head+tail --dropout 0",
    ),
    "finetune_alpaca": (
        "finetune_alpaca.py",
        "instructions.jsonl",
        "--max-length 96 --test-prompts 2 --dropout 0",
    ),
    "pretrain": ("pretrain.py", "reviews.jsonl", "--max-length 32 --dropout 0.1"),
}
MODELS = {"tiny": TINY, "mini": "--model mini"}
PROMPTS = [
    "The film",
    "I never thought that a film about",
    "Once",
    "Worst. Ending. Ever, and the music was",
]


def own_file(name, folder):
    """A small file of one's own: every tenth bundled record, without its split -> its path."""
    lines = (ROOT / "gptft" / "assets" / "samples" / name).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[::10]]
    for record in records:
        record.pop("split", None)
    path = Path(folder, name)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def start(script, folder, *words):
    """Start a script on one thread, with its output in `folder` -> the process."""
    command = [sys.executable, str(ROOT / "scripts" / script), *words, "--out", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, env=environment, cwd=folder, **pipes)


def read_log(folder):
    """The rows of a run's metrics.jsonl, none if there is no such file."""
    log = Path(folder, "run", "metrics.jsonl")
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


def run_script(script, *words):
    """Run a script -> (its results, its log). It must end with exit code 0."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(script, folder, *words)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        results = json.loads(Path(folder, "run", "results.json").read_text(encoding="utf-8"))
        return results, read_log(folder)


def run_training_only(script, *words):
    """Run a script until its last step is evaluated and saved -> its log."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(script, folder, *words)
        while not Path(folder, "run", "last", "state.pt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        process.kill()
        process.communicate()
        return read_log(folder)


def training(name, model):
    """20 losses of a script, the losses on val between them, and the metrics of its evaluation at
    the end."""
    script, data, flags = SCRIPTS[name]
    with tempfile.TemporaryDirectory() as folder:
        words = f"--data {own_file(data, folder)} {MODELS[model]} {flags} {STEPS}".split()
        if (name, model) == ("finetune_alpaca", "mini"):  # its answers would take a minute
            return losses(run_training_only(script, *words))
        results, log = run_script(script, *words)
    keep = ("train", "val", "test", "tasks", "best_step")
    metrics = {key: results[key] for key in keep if key in results}
    return losses(log) | {"metrics": metrics}


def losses(log):
    """The losses of a log, on train and on val."""
    return {
        "losses": [row["loss"] for row in log if "learning_rate" in row],
        "val_losses": [row["val"]["loss"] for row in log if "val" in row],
    }


def baseline(features):
    """C, accuracies and the ten strongest features of each class, on the bundled reviews."""
    results, _ = run_script("train_logreg.py", "--features", features)
    accuracy = {
        split: m["accuracy"]
        for split, m in results.items()
        if isinstance(m, dict) and "accuracy" in m
    }
    strongest = {name: ngrams[:10] for name, ngrams in results["strongest"].items()}
    return {"C": results["C"], "accuracy": accuracy, "strongest": strongest}


def splits():
    """The row ids of every split of the bundled texts and of the small files."""
    from gptft.data.documents import load_documents
    from gptft.data.examples import load_instructions, load_reviews

    def ids(source):
        return {split: [row.id for row in rows] for split, rows in source.splits.items()}

    with tempfile.TemporaryDirectory() as folder:
        reviews, instructions = (
            own_file("reviews.jsonl", folder),
            own_file("instructions.jsonl", folder),
        )
        found = {
            "sample reviews": ids(load_reviews("sample", 0)),
            "sample instructions": ids(load_instructions("sample", 0)),
            "own reviews": ids(load_reviews(reviews, 0)),
            "own reviews, seed 1": ids(load_reviews(reviews, 1)),
            "own instructions": ids(load_instructions(instructions, 0)),
        }
        for name, data in (("sample documents", "sample"), ("own documents", reviews)):
            texts = load_documents(data, 0).splits
            found[name] = {split: [text[:24] for text in texts[split]] for split in texts}
    return found


def generation():
    """New ids of the bundled model after four prompts of unequal length, greedy and sampled."""
    import torch

    from gptft import Tokenizer, load_model
    from gptft.generate import generate

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, tokenizer = load_model(ROOT / "gptft" / "assets" / "mini"), Tokenizer()
        prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        return {
            "greedy": generate(model, prompts, 24, temperature=0, eos_id=tokenizer.eot),
            "penalty": generate(
                model, prompts, 24, temperature=0, repetition_penalty=1.3, eos_id=tokenizer.eot
            ),
            "sampled": generate(model, prompts, 24, seed=1, eos_id=tokenizer.eot),
            "top-k": generate(
                model, prompts, 24, temperature=0.8, top_k=20, seed=6, eos_id=tokenizer.eot
            ),
            "top-p": generate(
                model, prompts, 24, temperature=0.9, top_p=0.9, seed=7, eos_id=tokenizer.eot
            ),
        }
    finally:
        torch.set_num_threads(threads)


FIGURES = {
    **{f"{name}, {model}": (training, name, model) for name in SCRIPTS for model in MODELS},
    **{f"baseline, {features}": (baseline, features) for features in ("unigram", "nbsvm")},
    "splits": (splits,),
    "generation": (generation,),
}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(FIGURES)
    found = json.loads(FIXTURE.read_text(encoding="utf-8")) if FIXTURE.exists() else {}
    for name in wanted:
        function, *arguments = FIGURES[name]
        found[name] = function(*arguments)
        print(name, file=sys.stderr)
    print(json.dumps(found, indent=1))

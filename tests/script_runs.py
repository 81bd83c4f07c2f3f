"""What the tests of the training scripts share: models and commands that take a second."""

import json

import torch

from gptft import GPT2, GPT2Config, save_model

TINY = dict(n_layer=1, n_head=2, n_embd=16, n_positions=128, precision="fp32")  # flags
RESULT_KEYS = {"task", "model", "data", "device", "precision", "seconds", "tokens_per_second"}


def run(script, **flags):
    """Run the `main` of a script, with max_steps=2 as --max-steps 2 -> its exit code."""
    argv = []
    for name, value in flags.items():
        argv.append("--" + name.replace("_", "-"))
        if value is not True:
            argv.append(str(value))
    return script.main(argv)


def read(path):
    """The content of a .json file, or the rows of a .jsonl file."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))


def write_rows(path, rows):
    """Write a .jsonl file -> its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WORDS = {
    "good": ["great", "fine", "lovely"],
    "bad": ["awful", "boring", "dull"],
    "so-so": ["average", "usual", "plain"],
}


def write_films(path):
    """Write 120 texts, in each of which one of WORDS reveals the class -> their file."""
    rows = [
        {"text": f"film number {i} was {WORDS[label][i % 3]} to see", "label": label}
        for i in range(40)
        for label in WORDS
    ]
    return write_rows(path, rows)


def save_base(folder):
    """Save a language model with two blocks -> its folder."""
    torch.manual_seed(0)
    save_model(GPT2(GPT2Config(n_positions=128, n_embd=16, n_layer=2, n_head=2)), folder)
    return folder


def changed_names(before, after):
    """The names of the weights that differ between two models."""
    before = before.state_dict()
    return {
        name for name, weight in after.state_dict().items() if not torch.equal(weight, before[name])
    }

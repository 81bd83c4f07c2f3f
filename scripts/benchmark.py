"""Measure the speed of gptft beside its peers, on the same weights, batches and settings.

train-step  one optimizer step, as a classifier and as a language model
generate    greedy text from random prompts, one alone and 16 at once
tokenize    all texts of --data to token ids
baseline    scripts/train_logreg.py from start to end

The peers are transformers, scikit-learn, tiktoken and nanoGPT (--nanogpt), where installed.
Every contender has a process of its own, and they take turns, so that anything else that runs on
the machine slows all of them. The first turn is a warm-up. Shown are the median, shortest and
longest time, the time as a multiple of ours, peak memory, and the rate.

Training costs 6 N + 12 L C T flops a token, with N weights that a token meets: all but the position
embeddings, and for a classifier without the head (Chowdhery et al. 2022, PaLM, appendix B).
"""

import dataclasses
import importlib.util
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from gptft.config import add_flag
from gptft.errors import Parser, command
from gptft.training.progress import peak_memory
from scripts.contenders import PROMPT, Options, greedy_text, tokenize, train_step, whole_command

SCIKIT_LEARN = """
import json, sys
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
def read(split):
    rows = [json.loads(line) for line in open(f"{sys.argv[1]}/{split}.jsonl", encoding="utf-8")]
    return [row["text"] for row in rows], [row["label"] for row in rows]
(texts, labels), (others, expected), bag = read("train"), read("test"), CountVectorizer()
model = LogisticRegression(max_iter=1000).fit(bag.fit_transform(texts), labels)
print(model.score(bag.transform(others), expected))
"""


def serve(pipe, build, arguments):
    """The life of a contender's process: build it, then take a turn whenever asked.

    Each turn is answered with (seconds, the most memory so far in bytes: of the GPU, or of this
    process).
    """
    run = build(*arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    while pipe.recv():
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        pipe.send((seconds, peak_memory(device) or 0))


def race(title, contenders, options, n_tokens=0, flops=0):
    """Let contenders take turns, and print a line for each.

    contenders: dict, name -> (function that builds it, *arguments); ours comes first. n_tokens and
    flops are those of a turn.
    """
    print(f"\n{title}", flush=True)
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name, (build, *arguments) in contenders.items():
        pipes[name], end = context.Pipe()
        context.Process(target=serve, args=(end, build, arguments), daemon=True).start()
        end.close()  # so that a process that dies is noticed
    turns = {name: [] for name in contenders}
    for _ in range(1 + options.repeat):
        for name, pipe in pipes.items():
            pipe.send(True)
            turns[name].append(pipe.recv())
    ours = None
    for name, results in turns.items():
        pipes[name].send(False)
        seconds = [result[0] for result in results[1:]]
        median = statistics.median(seconds)
        ours = ours or median
        line = f"  {name:14} {median:8.4g} s  {min(seconds):.4g}..{max(seconds):.4g}"
        line += f"  {median / ours:.2f} x  {results[-1][1] / 1e9:.2f} GB"
        if n_tokens:
            line += f"  {n_tokens / median:,.4g} tokens/s"
        if flops:
            line += f"  {flops / median / 1e12:.4g} TFLOP/s"
        print(line, flush=True)


def installed(*names):
    """Those of the packages that can be imported."""
    return [name for name in names if importlib.util.find_spec(name)]


def race_train_step(options):
    B, T = options.batch_size or 4, options.length
    config = options.config()
    L, C = config.n_layer, config.n_embd
    for task in ("classifier", "lm") if options.task == "both" else (options.task,):
        n_weights = L * (12 * C * C + 13 * C) + 2 * C
        names = ["gptft", *installed("transformers")]
        if task == "lm":
            n_weights += config.vocab_size * C
            names += ["nanoGPT"] if options.nanogpt else []
        if options.train == "lora" or options.checkpoint_activations:
            names = ["gptft"]
        contenders = {name: (train_step, options, name, task, B, T) for name in names}
        flops = B * T * (6 * n_weights + 12 * L * C * T)
        race(f"train-step, {task}, {B} x {T}", contenders, options, B * T, flops)


def race_generate(options):
    for B in [options.batch_size] if options.batch_size else [1, 16]:
        names = ["gptft", *installed("transformers")]
        contenders = {name: (greedy_text, options, name, B) for name in names}
        title = f"generate, {B} x ({PROMPT} + {options.new_tokens})"
        race(title, contenders, options, B * options.new_tokens)


def race_tokenize(options):
    contenders = {name: (tokenize, options, name) for name in ("gptft", "tiktoken")}
    race("tokenize", contenders, options)


def race_baseline(options):
    script = str(ROOT / "scripts" / "train_logreg.py")
    data = str(Path(options.data).resolve())
    contenders = {
        features: (whole_command, script, "--data", data, "--features", features)
        for features in ("unigram", "nbsvm")
    }
    for name in installed("sklearn"):
        contenders[name] = (whole_command, "-c", SCIKIT_LEARN, data)
    race("baseline", contenders, options)


RACES = {
    "train-step": race_train_step,
    "generate": race_generate,
    "tokenize": race_tokenize,
    "baseline": race_baseline,
}


@command
def main(argv):
    parser = Parser(prog="scripts/benchmark.py", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=RACES, metavar="PART", help=", ".join(RACES))
    for f in dataclasses.fields(Options):
        add_flag(parser, f)
    values = vars(parser.parse_args(argv))
    parts = values.pop("parts")
    options = Options(**values)
    print(f"{options.model}, {options.choose_device().reason}")
    for part in parts:
        RACES[part](options)


if __name__ == "__main__":
    sys.exit(main())

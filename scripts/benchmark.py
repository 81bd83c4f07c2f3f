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
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from gptft.checkpoints.folders import save_model
from gptft.classifier import GPT2Classifier
from gptft.config import DEVICES, PRECISIONS, SHAPES, GPT2Config, TrainOptions, add_flag, option
from gptft.data.classification import load_reviews
from gptft.data.tokenizer import Tokenizer
from gptft.errors import Parser, command
from gptft.generation.decoding import generate
from gptft.lora import add_adapters
from gptft.model import GPT2
from gptft.speed import keep_freed_memory
from gptft.training.devices import choose_device
from gptft.training.optimizer import build_optimizer
from gptft.training.progress import peak_memory

PROMPT = 64  # tokens of a prompt in generate
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


@dataclass(frozen=True)
class Options:
    model: str = option("124M", "shape, with random weights", choices=tuple(SHAPES))
    task: str = option("both", "of train-step", choices=("classifier", "lm", "both"))
    batch_size: int = option(None, "rows (default: 4; in generate 1, then 16)", int, 1)
    length: int = option(256, "tokens of a row in train-step", low=2)
    new_tokens: int = option(256, "tokens generated after it", low=1)
    repeat: int = option(5, "turns that count", low=1)
    data: str = option("data/imdb", "a prepared folder, for tokenize and baseline")
    device: str = option("auto", "where to compute", choices=DEVICES)
    precision: str = option("auto", "of products; in generate of weights", choices=PRECISIONS)
    compile: str = option("auto", "torch.compile, in train-step", choices=("auto", "on", "off"))
    train: str = option("full", "weights that train-step trains", choices=("full", "lora"))
    checkpoint_activations: bool = option(False, "recompute blocks in the backward pass")
    nanogpt: str = option(None, "folder with nanoGPT's model.py", str)

    def config(self):
        """The GPT2Config, without dropout."""
        return dataclasses.replace(GPT2Config.named(self.model), dropout=0.0)

    def choose_device(self):
        """The Device; a benchmark has steps enough to compile for."""
        return choose_device(self.device, self.precision, self.compile, n_steps=1000)


# ---------------------------------------------------------------- contenders
# Each function builds one in its own process and returns what a turn calls.


def our_model(options, task):
    """The weights that all contenders share."""
    torch.manual_seed(0)
    return GPT2Classifier(options.config()) if task == "classifier" else GPT2(options.config())


def transformers_model(options, task):
    """The same weights in transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    model_class = transformers.GPT2LMHeadModel
    if task == "classifier":
        model_class = transformers.GPT2ForSequenceClassification
    with tempfile.TemporaryDirectory() as folder:
        save_model(our_model(options, task), folder)
        no_dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return model_class.from_pretrained(folder, **no_dropout)


def nanogpt_model(options):
    """The same weights in nanoGPT."""
    spec = importlib.util.spec_from_file_location("nanogpt", Path(options.nanogpt, "model.py"))
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
    config = options.config()
    names = ("vocab_size", "n_layer", "n_head", "n_embd", "dropout")
    shape = {name: getattr(config, name) for name in names}
    model = nanogpt.GPT(nanogpt.GPTConfig(block_size=config.n_positions, bias=True, **shape))
    weights = our_model(options, "lm").state_dict()
    weights = {f"transformer.{name}": weight for name, weight in weights.items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    return model


def random_ids(options, B, T):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(options.config().vocab_size, (B, T), generator=generator)


def train_step(options, who, task, B, T):
    device = options.choose_device()
    ids = random_ids(options, B, T).to(device.name)
    labels = torch.arange(B, device=device.name) % 2
    if who == "gptft":
        model = our_model(options, task)
        getattr(model, "transformer", model).checkpoint_activations = options.checkpoint_activations
        if options.train == "lora":
            add_adapters(model)
        if device.name == "cpu":
            keep_freed_memory()
        next_ids = ids.roll(-1, dims=1)
        next_ids[:, -1] = -100
        inputs, targets = (ids,), next_ids
        if task == "classifier":
            inputs, targets = (ids, torch.full_like(labels, T)), labels

        def loss_of(module):
            return module(*inputs, targets=targets) / (targets != -100).sum()

    elif who == "nanoGPT":
        model = nanogpt_model(options)

        def loss_of(module):
            return module(ids, ids.roll(-1, dims=1))[1]

    else:
        model = transformers_model(options, task)
        inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))

        def loss_of(module):
            return module(**inputs, labels=ids if task == "lm" else labels).loss

    model.to(device.name).train()
    optimizer = build_optimizer(model, TrainOptions(learning_rate=1e-5, weight_decay=0.1))
    # nanoGPT compiles by default, also on a CPU.
    compiled = who == "nanoGPT" or (device.compile and who == "gptft")
    module = torch.compile(model) if compiled else model

    def step():
        with device.autocast():
            loss = loss_of(module)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def greedy_text(options, who, B):
    device = options.choose_device()
    ids = random_ids(options, B, PROMPT)
    if who == "gptft":
        model = our_model(options, "lm").to(device.name, device.dtype)
        return lambda: generate(model, ids.tolist(), options.new_tokens, temperature=0)
    model = transformers_model(options, "lm").to(device.name, device.dtype).eval()
    model.generation_config.eos_token_id = None  # random weights should not end early
    ids = ids.to(device.name)
    settings = dict(max_new_tokens=options.new_tokens, do_sample=False, pad_token_id=0)
    return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **settings)


def tokenize(options, who):
    tokenizer = Tokenizer()
    reviews = load_reviews(options.data)
    texts = [review.text for rows in reviews.splits.values() for review in rows]
    if who == "gptft":
        return lambda: tokenizer.encode_batch(texts)
    n_threads = os.cpu_count() or 1
    return lambda: tokenizer._encoding.encode_ordinary_batch(texts, num_threads=n_threads)


def whole_command(*words):
    """A Python command from start to end; "OUT" is a folder that is thrown away."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, "run"))
            command = [sys.executable, *(out if word == "OUT" else word for word in words)]
            subprocess.run(command, check=True, capture_output=True)

    return run


# ---------------------------------------------------------------- turns


def timed(run):
    """Call run() -> (seconds, the most memory so far in bytes: of the GPU, or of this process)."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, peak_memory("cuda" if torch.cuda.is_available() else "cpu") or 0


def serve(pipe, build, arguments):
    """The life of a contender's process: build it, then take a turn whenever asked."""
    run = build(*arguments)
    while pipe.recv():
        pipe.send(timed(run))


def race(title, contenders, options, amount=0, unit="", flops=0):
    """Let contenders take turns, and print a line for each.

    contenders: dict, name -> (function that builds it, *arguments); ours comes first. amount, in
    units, and flops are what a turn does.
    """
    print(f"\n{title}", flush=True)
    context = multiprocessing.get_context("spawn")
    pipes, turns = {}, {name: [] for name in contenders}
    for name, (build, *arguments) in contenders.items():
        pipes[name], end = context.Pipe()
        context.Process(target=serve, args=(end, build, arguments), daemon=True).start()
        end.close()  # so that a process that dies is noticed
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
        parts = [
            f"  {name:14} {median:8.4g} s",
            f"{min(seconds):.4g}..{max(seconds):.4g}",
            f"{median / ours:.2f} x",
            f"{results[-1][1] / 1e9:.2f} GB",
        ]
        if amount:
            parts.append(f"{amount / median:,.4g} {unit}")
        if flops:
            parts.append(f"{flops / median / 1e12:.4g} TFLOP/s")
        print("  ".join(parts), flush=True)


def race_train_step(options, device):
    B, T = options.batch_size or 4, options.length
    plain = options.train == "full" and not options.checkpoint_activations
    config = options.config()
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    for task in ("classifier", "lm") if options.task == "both" else (options.task,):
        names = ["gptft"]
        if plain and importlib.util.find_spec("transformers"):
            names.append("transformers")
        if plain and options.nanogpt and task == "lm":
            names.append("nanoGPT")
        n_weights = L * (12 * C * C + 13 * C) + 2 * C
        n_weights += V * C if task == "lm" else 0
        flops = B * T * (6 * n_weights + 12 * L * C * T)
        contenders = {name: (train_step, options, name, task, B, T) for name in names}
        title = f"train-step, {task}, {options.model}, {device.precision}, {B} x {T}"
        race(title, contenders, options, B * T, "tokens/s", flops)


def race_generate(options, device):
    names = ["gptft"]
    if importlib.util.find_spec("transformers"):
        names.append("transformers")
    for B in [options.batch_size] if options.batch_size else [1, 16]:
        contenders = {name: (greedy_text, options, name, B) for name in names}
        shape = f"{B} x ({PROMPT} + {options.new_tokens})"
        title = f"generate, {options.model}, {device.precision}, {shape}"
        race(title, contenders, options, B * options.new_tokens, "tokens/s")


def race_tokenize(options, device):
    contenders = {name: (tokenize, options, name) for name in ("gptft", "tiktoken")}
    race(f"tokenize, {options.data}", contenders, options)


def race_baseline(options, device):
    script = str(ROOT / "scripts" / "train_logreg.py")
    contenders = {}
    for features in ("unigram", "nbsvm"):
        words = ["--data", options.data, "--out", "OUT", "--features", features]
        contenders[f"gptft, {features}"] = (whole_command, script, *words)
    if importlib.util.find_spec("sklearn"):
        contenders["scikit-learn"] = (whole_command, "-c", SCIKIT_LEARN, options.data)
    race(f"baseline, {options.data}", contenders, options)


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
    device = options.choose_device()
    print(device.reason)
    for part in parts:
        RACES[part](options, device)


if __name__ == "__main__":
    sys.exit(main())

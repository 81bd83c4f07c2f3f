"""Measure speed: of this machine, of gptft, and of its peers on the same weights, batches and settings.

roofline    a matrix product and reading memory: what nothing on this device can exceed (always measured)
train-step  one optimizer step, as a classifier and as a language model: forward, backward, clipping, AdamW
epoch       training a classifier on reviews of --data, with the lengths they have
generate    greedy text from random prompts, one alone and 16 at once
load        a model's folder, and the prepared data
tokenize    all texts of --data, to token ids on disk
baseline    scripts/train_logreg.py from start to end

Peers take part where they are installed: transformers, scikit-learn, tiktoken alone, nanoGPT with --nanogpt. Each
contender has a process of its own, so no memory or setting of one touches another, and they take turns: what else the
machine does, it does to all. The first turn is a warm-up. Shown are the median time, the shortest and the longest, the
time as a multiple of ours, the most memory the process held, and rates. Utilisation is of the roofline, or of the nominal
rate of a GPU listed here: training costs 6 N + 12 L C T flops a token, with N weights, the positions left out, and for a
classifier the head, which it lacks; a step of generation reads these weights once.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gptft.config import GPT2Config, TrainOptions, add_options, from_args, option
from gptft.errors import Parser, UserError, command
from gptft.errors import write_text
from scripts.speed import flops_per_token, n_weights, race, roofline, take_turns, whole_command

if (
    __name__ != "__main__"
):  # a contender's process; the one that parses and prints needs none of these
    import numpy as np
    import torch

    from gptft import GPT2, GPT2Classifier, IMDbDataset, Tokenizer, load_model, save_model
    from gptft.classifier import classification_loss
    from gptft.data.batching import ClassifierBatch, LMBatch, TrainBatches, classifier_batch
    from gptft.data.classification import load_reviews
    from gptft.data.tokens import TokenStore, cache_stem
    from gptft.generate import generate
    from gptft.hardware import choose_hardware
    from gptft.language import language_loss
    from gptft.lora import add_adapters
    from gptft.memory import keep_freed_memory
    from gptft.optim import build_optimizer
    from gptft.training.run_folder import Run
    from gptft.trainer import fit

PARTS = ("roofline", "train-step", "epoch", "generate", "load", "tokenize", "baseline")
PEERS = ("transformers", "accelerate", "sklearn")
NOMINAL = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}  # flop/s of dense bf16 products, by a part of the GPU's name
SCIKIT_LEARN = """
import json, sys
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
read = lambda split: zip(*[(r["text"], r["label"]) for r in map(json.loads, open(f"{sys.argv[1]}/{split}.jsonl", encoding="utf-8"))])
(texts, labels), (others, expected), bag = read("train"), read("test"), CountVectorizer()
print(LogisticRegression().fit(bag.fit_transform(texts), labels).score(bag.transform(others), expected))
"""


@dataclass(frozen=True)
class Options:
    """What is measured, and how often."""

    model: str = option("124M", "shape, with random weights: 124M, 355M, 774M, 1558M or mini")
    n_layer: int = option(None, "another number of blocks", int, 1)
    n_head: int = option(None, "another number of attention heads", int, 1)
    n_embd: int = option(None, "another width", int, 1)
    task: str = option("both", "of train-step", choices=("classifier", "lm", "both"))
    batch_size: int = option(
        None, "rows; default: 4 in train-step, 8 in epoch, 1 and then 16 in generate", int, 1
    )
    length: int = option(
        None, "tokens; default: 256 a row in train-step, at most 512 a review in epoch", int, 2
    )
    prompt_tokens: int = option(64, "tokens of a prompt in generate", low=1)
    new_tokens: int = option(256, "tokens written after it", low=1)
    rows: int = option(2000, "reviews in epoch", low=1)
    repeat: int = option(5, "turns that count", low=1)
    data: str = option(
        "data/imdb", "what epoch, load, tokenize and baseline read, as in the training scripts"
    )
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "auto", "of products; of weights in generate", choices=("auto", "fp32", "bf16", "fp16")
    )
    compile: str = option("auto", "torch.compile, in training", choices=("auto", "on", "off"))
    train: str = option(
        "full",
        "weights that train-step trains; with lora no peer takes part",
        choices=("full", "lora"),
    )
    checkpoint_activations: bool = option(
        False, "in train-step: recompute blocks in the backward pass, without peers"
    )
    nanogpt: str = option(None, "a folder with nanoGPT's model.py", str)
    no_peers: bool = option(False, "measure gptft alone")
    json: str = option(None, "also write the figures to this file", str)

    def config(self):
        """The GPT2Config, without dropout. Raises UserError for an impossible shape."""
        shape = {
            name: getattr(self, name)
            for name in ("n_layer", "n_head", "n_embd")
            if getattr(self, name)
        }
        try:
            return dataclasses.replace(GPT2Config.named(self.model), **shape, dropout=0.0)
        except ValueError as error:
            raise UserError(f"{error}; change --model, --n-head or --n-embd") from error


# ---------------------------------------------------------------- contenders: build(options, ...) -> what is timed


def hardware_of(options):
    return choose_hardware(options.device, options.precision, options.compile)


def ours(options, task="lm"):
    """The weights that all contenders share, drawn with a fixed seed -> GPT2 or GPT2Classifier."""
    torch.manual_seed(0)
    return (
        GPT2(options.config())
        if task == "lm"
        else GPT2Classifier(options.config(), class_names=["neg", "pos"])
    )


def theirs(options, task="lm", **settings):
    """The same weights as transformers' model, and its tokenizer."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    cls = (
        transformers.GPT2LMHeadModel if task == "lm" else transformers.GPT2ForSequenceClassification
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours(options, task), folder)
        model = cls.from_pretrained(
            folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **settings
        )
        return model, transformers.AutoTokenizer.from_pretrained(folder)


def nanogpt(options):
    """The same weights as nanoGPT's model, from the folder --nanogpt."""
    spec = importlib.util.spec_from_file_location(
        "nanogpt_model", Path(options.nanogpt, "model.py")
    )
    module, config = importlib.util.module_from_spec(spec), options.config()
    spec.loader.exec_module(module)
    shape = {
        name: getattr(config, name)
        for name in ("vocab_size", "n_layer", "n_head", "n_embd", "dropout")
    }
    model = module.GPT(module.GPTConfig(block_size=config.n_positions, bias=True, **shape))
    weights = {f"transformer.{name}": weight for name, weight in ours(options).state_dict().items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    return model


def random_ids(options, B, T):
    return torch.randint(
        options.config().vocab_size, (B, T), generator=torch.Generator().manual_seed(1)
    )


def train_step(options, who, task, B, T):
    hardware, ids, rows = hardware_of(options), random_ids(options, B, T), torch.arange(B)
    on_device = ids.to(hardware.device)
    labels = on_device if task == "lm" else rows.to(hardware.device) % 2
    if who == "gptft":
        model = ours(options, task)
        getattr(model, "transformer", model).checkpoint_activations = options.checkpoint_activations
        if options.train == "lora":
            add_adapters(model)
        if hardware.type == "cpu":
            keep_freed_memory()
        learned = (rows[:, None] * T + torch.arange(T - 1)).flatten()
        batch, loss_of = LMBatch(ids, ids, learned, rows, len(learned), B * T), language_loss
        if task == "classifier":
            batch, loss_of = (
                ClassifierBatch(ids, torch.full((B,), T), rows % 2, rows, B, B * T),
                classification_loss,
            )
        batch = hardware.put(batch)
        loss = lambda module: loss_of(module, batch) / batch.n  # noqa: E731
    elif who == "nanoGPT":
        model = nanogpt(options)
        loss = lambda module: module(on_device, on_device.roll(-1, 1))[1]  # noqa: E731
    else:  # gelu_new is the same function, in eight kernels
        model, _ = theirs(
            options, task, activation_function="gelu_pytorch_tanh" if "best" in who else "gelu_new"
        )
        inputs = dict(input_ids=on_device, attention_mask=torch.ones_like(on_device), labels=labels)
        loss = lambda module: module(**inputs).loss  # noqa: E731
    model.to(hardware.device).train()
    optimizer = build_optimizer(
        model, TrainOptions(learning_rate=1e-5, weight_decay=0.1), hardware.type
    )
    compiled = (
        hardware.compile and who != "transformers" or who == "nanoGPT"
    )  # which compiles by default
    module, scaler = (
        torch.compile(model, dynamic=who == "gptft" or None) if compiled else model,
        hardware.scaler(),
    )

    def step():
        with hardware.autocast():
            value = loss(module)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def epoch(options, who, B, length):
    """-> seconds by the trainer's own clock, which leaves out saving; real tokens, and the flops they cost."""
    hardware, rows = hardware_of(options), load_reviews(options.data).splits["train"]
    picked = np.random.default_rng(0).permutation(len(rows))[: options.rows]
    dataset = IMDbDataset([rows[i] for i in picked], Tokenizer(), length)
    tokens, recipe = dataset.lengths, dict(learning_rate=1e-5, weight_decay=0.01)
    flops = (tokens * flops_per_token(options.config(), tokens, head=False)).sum()
    if who == "gptft":
        training = TrainOptions(epochs=1, batch_size=B, dropout=0.0, max_length=length, **recipe)
        batches, model = (
            TrainBatches(dataset, classifier_batch, Tokenizer().eot, training),
            ours(options, "classifier"),
        )

        def train(folder):
            run = Run(folder)
            run.save_state = lambda state: None
            return fit(
                model.to(hardware.device),
                batches,
                classification_loss,
                lambda model: {"loss": 0.0},
                lambda metrics: (0,),
                training,
                hardware,
                run,
            ).seconds
    else:
        transformers, (model, tokenizer) = (
            importlib.import_module("transformers"),
            theirs(options, "classifier"),
        )
        examples = [{"input_ids": ids.tolist(), "labels": label} for ids, label in dataset]
        recipe |= {"train_sampling_strategy": "group_by_length"} if "best" in who else {}

        def train(folder):
            arguments = transformers.TrainingArguments(
                folder,
                per_device_train_batch_size=B,
                num_train_epochs=1,
                use_cpu=hardware.type == "cpu",
                report_to=[],
                bf16=hardware.precision == "bf16",
                fp16=hardware.precision == "fp16",
                torch_compile=hardware.compile,
                save_strategy="no",
                disable_tqdm=True,
                **recipe,
            )
            collate = transformers.DataCollatorWithPadding(
                tokenizer
            )  # to the longest row of the batch
            trainer = transformers.Trainer(
                model, arguments, train_dataset=examples, data_collator=collate
            )
            return trainer.train().metrics["train_runtime"]

    def run():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            return train(folder), int(tokens.sum()), int(flops)

    return run


def text(options, who, B):
    """Only the time is compared here; tests/test_generate.py compares the ids."""
    hardware, ids = hardware_of(options), random_ids(options, B, options.prompt_tokens)
    model = (
        (ours(options) if who == "gptft" else theirs(options)[0])
        .to(hardware.device, hardware.dtype)
        .eval()
    )
    if who == "gptft":
        return lambda: generate(model, ids.tolist(), options.new_tokens, temperature=0)
    model.generation_config.eos_token_id = None  # random weights should not end early
    ids = ids.to(hardware.device)
    return lambda: model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=options.new_tokens,
        do_sample=False,
        pad_token_id=0,
    )


def loading(options, who, folder):
    """A model's folder, or, if that is None, the prepared data."""
    tokenizer = Tokenizer()

    def data():
        for split, rows in load_reviews(options.data).splits.items():
            IMDbDataset(rows, tokenizer, cache=cache_stem(options.data, split))

    if who == "saving":
        return lambda: save_model(ours(options), folder)
    if who == "gptft":
        return (lambda: load_model(folder)) if folder else data
    if who == "transformers":
        cls = importlib.import_module("transformers").GPT2LMHeadModel
        return lambda: cls.from_pretrained(folder)
    if who == "json alone":
        return lambda: [
            [json.loads(line) for line in open(file, encoding="utf-8")]
            for file in files_of(options)
        ]
    return lambda: np.fromfile(Path(folder, "model.safetensors"), np.uint8)


def tokenizing(options, who):
    tokenizer = Tokenizer()
    texts = [review.text for rows in load_reviews(options.data).splits.values() for review in rows]

    def to_disk():
        with tempfile.TemporaryDirectory() as folder:
            TokenStore.build(texts, tokenizer, Path(folder, "all"))

    alone = tokenizer._encoding.encode_ordinary_batch  # tiktoken's own
    return to_disk if who == "gptft" else lambda: alone(texts, num_threads=os.cpu_count() or 1)


def rates(options):
    """-> the device's name, its roofline, the precision and why it was chosen."""
    hardware = hardware_of(options)
    cuda = hardware.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    limits = roofline(hardware.device, hardware.dtype, *((8192, 2**33) if cuda else (2048, 2**29)))
    return lambda: (name, *limits, hardware.precision, hardware.why)


def files_of(options):
    return [Path(options.data, f"{split}.jsonl") for split in ("train", "val", "test")]


def races(part, options, flops, memory, precision):
    """The races of a part: title, contenders with ours first, work of a turn by unit, and what the machine allows of the
    first unit. flops, memory: the roofline, in flop/s and bytes/s."""
    config, shape = options.config(), f"{options.model}, {precision}"
    plain = options.train == "full" and not options.checkpoint_activations  # what peers do, too
    has = [
        peer for peer in PEERS if not options.no_peers and plain and importlib.util.find_spec(peer)
    ]
    peers = [peer for peer in has if peer == "transformers"]
    if part == "train-step":
        B, T = options.batch_size or 4, options.length or 256
        for task in ("classifier", "lm") if options.task == "both" else (options.task,):
            names = ["gptft", *peers, *(f"{peer}, best" for peer in peers)]
            names += ["nanoGPT"] if options.nanogpt and task == "lm" and plain else []
            contenders = {name: (train_step, options, name, task, B, T) for name in names}
            limit = flops / flops_per_token(config, T, task == "lm") if plain else None
            yield f"train-step, {task}, {shape}, {B} x {T}", contenders, {"tokens/s": B * T}, limit
    elif part == "epoch":
        B, length = options.batch_size or 8, options.length or 512
        names = (
            ["gptft", "Trainer", "Trainer, best"] if "accelerate" in has and peers else ["gptft"]
        )
        contenders = {name: (epoch, options, name, B, length) for name in names}
        yield (
            f"epoch, {options.rows} reviews, {shape}, batch {B}",
            contenders,
            {"reviews/s": options.rows},
            flops,
        )
    elif part == "generate":
        for B in [options.batch_size] if options.batch_size else [1, 16]:
            title = f"generate, {shape}, {B} x ({options.prompt_tokens} + {options.new_tokens})"
            limit = B * memory / (n_weights(config) * (4 if precision == "fp32" else 2))
            contenders = {name: (text, options, name, B) for name in ["gptft", *peers]}
            yield title, contenders, {"tokens/s": B * options.new_tokens}, limit
    elif part == "load":
        with tempfile.TemporaryDirectory() as folder:
            take_turns({"": (loading, options, "saving", folder)}, 1)
            contenders = {
                name: (loading, options, name, folder)
                for name in ["gptft", "plain reading", *peers]
            }
            size = Path(folder, "model.safetensors").stat().st_size
            yield f"load, {options.model}", contenders, {"GB/s": size / 1e9}, None
        size = sum(file.stat().st_size for file in files_of(options))
        contenders = {name: (loading, options, name, None) for name in ("gptft", "json alone")}
        yield f"load, {options.data}", contenders, {"GB/s": size / 1e9}, None
    elif part == "tokenize":
        contenders = {name: (tokenizing, options, name) for name in ("gptft", "tiktoken alone")}
        yield f"tokenize, {options.data}", contenders, {}, None
    elif part == "baseline":
        words = (
            str(ROOT / "scripts" / "train_logreg.py"),
            "--data",
            options.data,
            "--out",
            "OUT",
            "--features",
        )
        contenders = {
            f"gptft, {features}": (whole_command, *words, features)
            for features in ("unigram", "nbsvm")
        }
        if "sklearn" in has:
            contenders["scikit-learn"] = (whole_command, "-c", SCIKIT_LEARN, options.data)
        yield f"baseline, {options.data}", contenders, {}, None


@command
def main(argv):
    parser = Parser(prog="scripts/benchmark.py", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add_options(parser, Options)
    args = parser.parse_args(argv)
    options = from_args(Options, args)
    options.config()  # an impossible shape is said at once
    ((name, product, memory, precision, why), _, _) = take_turns({"": (rates, options)}, 1)[""][0]
    flops = next((rate for part, rate in NOMINAL.items() if part in name), product)
    print(
        f"{name}; computing on {why}\nroofline: products {product / 1e9:,.1f} GFLOP/s (the limit is taken as "
        f"{flops / 1e9:,.1f}), reading {memory / 1e9:,.1f} GB/s",
        flush=True,
    )
    rows = []
    for part in args.parts:
        for arguments in races(part, options, flops, memory, precision):
            rows += [
                {"part": part} | row
                for row in race(*arguments, options.repeat, warm_up=part != "epoch")
            ]
    if options.json:
        machine = {
            "device": name,
            "computing": why,
            "flops_per_second": product,
            "bytes_per_second": memory,
        }
        machine["versions"] = {
            d.metadata["Name"]: d.version for d in importlib.metadata.distributions()
        }
        write_text(options.json, json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())

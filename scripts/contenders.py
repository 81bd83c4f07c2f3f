"""The contenders of benchmark.py: gptft and its peers on the same weights.

A contender is built in a process of its own by `train_step`, `greedy_text`, `tokenize` or
`whole_command`. Each returns the function that a turn calls.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import torch

from gptft.checkpoints.folders import save_model
from gptft.classifier import GPT2Classifier
from gptft.config import PRECISIONS, SHAPES, GPT2Config, TrainOptions, option
from gptft.data.examples import load_reviews
from gptft.data.tokenizer import Tokenizer
from gptft.generation.decoding import generate
from gptft.lora import add_adapters
from gptft.model import GPT2
from gptft.speed import keep_freed_memory
from gptft.training.devices import choose_device
from gptft.training.optimizer import build_optimizer

PROMPT = 64  # tokens of a prompt in generate


@dataclass(frozen=True)
class Options:
    model: str = option("124M", "shape, with random weights", choices=tuple(SHAPES))
    task: str = option("both", "of train-step", choices=("classifier", "lm", "both"))
    batch_size: int = option(None, "rows (default: 4; in generate 1, then 16)")
    length: int = option(256, "tokens of a row in train-step")
    new_tokens: int = option(256, "tokens generated from each prompt")
    repeat: int = option(5, "turns that count")
    data: str = option("data/imdb", "a prepared folder, for tokenize and baseline")
    precision: str = option("auto", "of products; in generate of weights", choices=PRECISIONS)
    train: str = option("full", "weights that train-step trains", choices=("full", "lora"))
    checkpoint_activations: bool = option(False, "recompute blocks in the backward pass")
    nanogpt: str = option(None, "folder with nanoGPT's model.py")

    def config(self):
        """The GPT2Config, without dropout."""
        return dataclasses.replace(GPT2Config.named(self.model), dropout=0.0)

    def choose_device(self):
        """The Device for a run long enough to be compiled."""
        return choose_device(precision=self.precision, n_steps=1_000_000)


def our_model(options, task):
    """The weights that all contenders share."""
    torch.manual_seed(0)
    model_class = GPT2Classifier if task == "classifier" else GPT2
    return model_class(options.config())


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
    sys.path.insert(0, options.nanogpt)
    nanogpt = importlib.import_module("model")
    shape = dataclasses.asdict(options.config())
    shape["block_size"] = shape.pop("n_positions")
    del shape["attention_dropout"]  # it has no such option
    model = nanogpt.GPT(nanogpt.GPTConfig(bias=True, **shape))
    model.transformer.load_state_dict(our_model(options, "lm").state_dict())  # the head is tied
    return model


def random_ids(options, B, T):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(options.config().vocab_size, (B, T), generator=generator)


def train_step(options, who, task, B, T):
    device = options.choose_device()
    ids = random_ids(options, B, T).to(device.name)
    next_ids = ids.roll(-1, dims=1)
    classes = torch.arange(B, device=device.name) % 2
    lengths = torch.full_like(classes, T)
    if who == "nanoGPT":
        model = nanogpt_model(options)
    elif who == "transformers":
        model = transformers_model(options, task)
    else:
        model = our_model(options, task)
        body = getattr(model, "transformer", model)
        body.checkpoint_activations = options.checkpoint_activations
        if device.name == "cpu":
            keep_freed_memory()
        if options.train == "lora":
            add_adapters(model)
    model.to(device.name).train()
    optimizer = build_optimizer(model, TrainOptions(learning_rate=1e-5, weight_decay=0.1))
    # nanoGPT compiles by default, also on a CPU.
    compiled = who == "nanoGPT" or (device.compile and who == "gptft")
    module = torch.compile(model) if compiled else model

    def mean_loss():
        if who == "nanoGPT":
            return module(ids, next_ids)[1]
        if who == "transformers":
            labels = ids if task == "lm" else classes
            return module(ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        if task == "lm":
            return module(ids, targets=next_ids) / ids.numel()
        return module(ids, lengths, targets=classes) / B

    def step():
        with device.autocast():
            loss = mean_loss()
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
    """A Python command from start to end, in a folder that is thrown away."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *words]
            subprocess.run(command, check=True, capture_output=True, cwd=folder)

    return run

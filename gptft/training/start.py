"""What the training scripts have in common before the first step: flags to a model, a device and a
run.

A model name means one folder: checkpoints/124M and so on, or the bundled assets/mini. A folder that
is named but absent is an error that says how to get it; random weights come only when asked for, by
--from-scratch or a shape.
"""

import dataclasses
import os
import zlib
from pathlib import Path

import torch
from torch import nn

from gptft import distributed
from gptft.checkpoints.folders import load_model, read_config
from gptft.classifier import GPT2Classifier
from gptft.config import ALIASES, BUNDLED, SHAPES, SIZES, GPT2Config
from gptft.data.instructions import TEMPLATES
from gptft.data.tokenizer import VOCAB_SIZE
from gptft.errors import UserError
from gptft.lora import add_adapters
from gptft.model import GPT2
from gptft.training.devices import choose_device
from gptft.training.run_folder import Run, open_run

# ---------------------------------------------------------------- models


def model_folder(name):
    """A model's name or folder -> its folder, a Path.

    Raises UserError if it is absent, with the command that fetches it. `load_model` refuses a file.
    """
    size = ALIASES.get(name, name)
    if size in SIZES:
        folder = Path("checkpoints") / size
        hint = f"no weights of {size}, {folder}; run: python -m data_prep.gpt2 --size {size}"
    elif name == "mini":
        folder = BUNDLED
        hint = f"the bundled weights are missing, {folder}; restore them from git"
    else:
        folder = Path(os.path.expanduser(name))
        known = ", ".join(["mini", *SIZES])
        hint = f"no such model, {name}; give {known} or the path of a folder"
    if not folder.exists():
        raise UserError(hint)
    return folder


def initial_model(options):
    """TrainOptions -> (GPT2 or GPT2Classifier in float32 on the CPU, a line that describes it).

    Raises UserError for an unknown name, an absent folder, or a model without GPT-2's vocabulary.
    """
    torch.manual_seed(options.seed)
    name = options.model
    if options.pretrained:
        folder = model_folder(name)
        model = load_model(folder, dropout=options.dropout)
        check_vocabulary(model, folder)
        source = "bundled" if folder == BUNDLED else str(folder)
        return model, f"{name}, pretrained weights ({source})"
    if ALIASES.get(name, name) in SHAPES:
        config = GPT2Config.named(name)
    elif options.shape():
        raise UserError(
            "--n-layer, --n-head, --n-embd and --n-positions set a shape of your own, "
            f"but --model {name} has one; leave out either"
        )
    else:
        config = read_config(model_folder(name))
    try:
        # From scratch, no attention weights are dropped: see GPT2Config.
        config = dataclasses.replace(
            config, **options.shape(), dropout=options.dropout, attention_dropout=0.0
        )
    except ValueError as error:
        raise UserError(f"{error}; change --n-embd or --n-head") from error
    shape = "a shape of your own" if options.shape() else f"the shape of {name}"
    return GPT2(config), f"{shape}, random weights"


def initial_language_model(options):
    """As `initial_model`, always a GPT2: of a classifier, its body."""
    model, description = initial_model(options)
    return getattr(model, "transformer", model), description


def initial_classifier(options, classes):
    """As `initial_model`, a GPT2Classifier. classes: list[str].

    A pretrained classifier of the same classes keeps its head; every other model gets a new one.
    """
    model, description = initial_model(options)
    if isinstance(model, GPT2Classifier):
        if model.class_names == classes:
            return model, description
        model = model.transformer
        description += ", with a new head"
    return GPT2Classifier(model.config, len(classes), classes, body=model), description


def initial_instructed(options, template=None):
    """As `initial_language_model`, prepared for a prompt template.

    template: a name in TEMPLATES; None for the model's own, or else "alpaca".
    Raises UserError if the model was tuned with an unknown template or other special tokens.
    """
    model, description = initial_language_model(options)
    model.template = template or model.template or "alpaca"
    if model.template not in TEMPLATES:
        what = f"the model was tuned with an unknown template, '{model.template}'"
        known = ", ".join(TEMPLATES)
        raise UserError(f"{what}, --model {options.model}; choose one with --template: {known}")
    add_special_tokens(model, TEMPLATES[model.template].special_tokens)
    return model, description


def check_vocabulary(model, place):
    """Raise UserError if a model lacks some of GPT-2's tokens. `place` names it."""
    n = model.config.vocab_size
    if n < VOCAB_SIZE:
        raise UserError(
            f"the model's vocabulary of {n} tokens is smaller than GPT-2's, {VOCAB_SIZE}, "
            f"{place}; use a model with GPT-2's tokens"
        )


@torch.no_grad()
def add_special_tokens(model, names):
    """Give a GPT2 special tokens with ids from 50257 on, in place, unless it has them already.

    Their embeddings start at the mean of GPT-2's own, so that a new token is about as likely as an
    average one (Hewitt 2021). Raises UserError if the model has other special tokens.
    """
    names = list(names)
    if names in ([], model.special_tokens):
        return
    if model.special_tokens:
        raise UserError(
            f"can't add the tokens {', '.join(names)} to a model that has others: "
            f"{', '.join(model.special_tokens)}; use another --template"
        )
    old = model.wte.weight
    n = max(len(old), VOCAB_SIZE + len(names))
    weight = old.new_empty(n, old.shape[1])
    weight[: len(old)] = old
    weight[VOCAB_SIZE : VOCAB_SIZE + len(names)] = old[:VOCAB_SIZE].mean(dim=0)
    model.wte = nn.Embedding.from_pretrained(weight, freeze=False)
    model.config = dataclasses.replace(model.config, vocab_size=n)
    model.special_tokens = names


def set_trainable(model, options):
    """Freeze what --train leaves out, or add adapters, in place.

    Raises UserError for a combination that can't be trained.
    """
    body = getattr(model, "transformer", model)
    if options.train == "lora":
        if not options.pretrained:
            raise UserError(
                "--train lora adapts pretrained weights, but these are random; "
                "leave out --from-scratch and the shape, or --train"
            )
        rank = options.lora_rank or 8
        alpha = 2.0 * rank if options.lora_alpha is None else options.lora_alpha
        size = ALIASES.get(options.model, options.model)
        # peft looks for a name on Hugging Face, or a path.
        base = SIZES.get(size) or str(model_folder(size).resolve())
        add_adapters(model, rank, alpha, base)
    elif options.train == "head":
        model.requires_grad_(False)
        head = getattr(model, "score", body.wte)  # a language model's is its token embedding
        head.requires_grad_(True)
    new = body.wte.weight[VOCAB_SIZE : VOCAB_SIZE + len(body.special_tokens)]
    if len(new) and not body.wte.weight.requires_grad and (new == new[0]).all():
        raise UserError(
            f"--train {options.train} would leave new special tokens untrained, "
            f"--template {body.template}; use another --template, or --train full"
        )


# ---------------------------------------------------------------- the run


def limit_length(options, given, n_positions):
    """Lower a default max_length to what the model can read.

    options: TrainOptions, complete; given: the same before the defaults were filled in.
    Raises UserError if --max-length was given and is above n_positions.
    """
    if options.max_length <= n_positions:
        return options
    if given.max_length is not None:
        raise UserError(
            f"--max-length {given.max_length} is above the model's n_positions, {n_positions}; "
            "lower it"
        )
    return dataclasses.replace(options, max_length=n_positions)


def begin(script, argv, options, model, batches, data, texts, notes):
    """Choose the device, move the model there, open the run folder and print the first lines.

    Args:
        script: its path. argv: the words after it.
        options: TrainOptions, complete.
        model: GPT2 or GPT2Classifier. batches: TrainBatches.
        data: has `name`, `splits` (a dict of lists) and `notes` (lines).
        texts: list[str], everything that is trained and tested on; a resumed run must have the
            same.
        notes: lines about the model.

    Returns (Device, Run).
    """
    device = choose_device(options.device, options.precision, options.compile, batches.n_steps)
    body = getattr(model, "transformer", model)
    body.checkpoint_activations = options.checkpoint_activations
    model.to(device.name)
    settings = dataclasses.asdict(options) | {"precision": device.precision}
    run = Run(options.out)
    with distributed.main_first():
        if distributed.is_main():
            command = ["python", script, *argv]
            run = open_run(options.out, command, settings, options.resume, options.overwrite)
    run.texts = [zlib.crc32(text.encode("utf-8", "backslashreplace")) for text in texts]
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    n_all = sum(p.numel() for p in model.parameters())
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = f"{8 * n / 1e6:,.1f} MB of optimizer state"
    lines = [
        *data.notes,
        f"data: {data.name}: {counts}",
        *notes,
        f"trained: {n:,} of {n_all:,} parameters, {memory}",
        f"device: {device.reason}",
        options.describe(),
        f"run folder: {run.folder}",
    ]
    print(*lines, sep="\n", flush=True)
    return device, run


def facts(task, model, data, device, position):
    """What results.json says of every kind of run, besides the metrics -> dict.

    task, model, data: str. device: Device. position: the Position that `fit` returned.
    """
    return {
        "task": task,
        "model": model,
        "data": data,
        "device": device.name,
        "precision": device.precision,
        "seconds": round(position.seconds, 1),
        "tokens_per_second": round(position.tokens / position.seconds),
        "best_step": position.best_step,
    }

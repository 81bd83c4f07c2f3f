"""What a training script starts from: `--model`, `--from-scratch` and the shape flags -> a model.

A name stands for one folder (checkpoints/124M, or the package's own assets/mini); a folder that is named but absent is
an error that says how to get it. Random weights come only when asked for, or as the default, which says so.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from torch import nn

from gptft.classifier import GPT2Classifier
from gptft.config import ALIASES, GPT2Config
from gptft.data.alpaca import TEMPLATES
from gptft.errors import UserError
from gptft.language import add_special_tokens
from gptft.model import GPT2
from gptft.pretrained import load_model, read_config
from gptft.tokenizer import Tokenizer

DEFAULT = "mini"
BUNDLED = Path(__file__).parent / "assets" / "mini"


class Initial(NamedTuple):
    """A starting point: a GPT2 or GPT2Classifier and a line that says what it is."""

    model: nn.Module
    name: str


def initial_model(options, dropout):
    """ModelOptions -> Initial, on the CPU in float32, with the probability `dropout`.

    Raises UserError for an unknown name, an absent folder or flags that exclude each other.
    """
    name, shape = options.model or DEFAULT, options.shape()
    if options.pretrained:
        folder = model_folder(name)
        return Initial(load_model(folder, dropout=dropout), f"{name}, pretrained weights from {folder}")
    if shape and Path(name).is_dir():
        raise UserError(f"--n-layer, --n-head, --n-embd and --n-positions set a shape of your own, but --model {name} has "
                        "one; leave out either")  # fmt: skip
    config = _named_config(name)
    try:
        # No dropped attention weights in models from scratch: see GPT2Config.
        config = dataclasses.replace(config, **shape, dropout=dropout, attention_dropout=0.0)
    except ValueError as error:
        raise UserError(f"{error}; change --n-embd or --n-head") from error
    said = "a shape of your own" if shape else f"the shape of {name}"
    return Initial(GPT2(config), f"{said} with random weights")


def initial_classifier(options, dropout, classes, pooling=None):
    """As `initial_model`, with a head for `classes` (list[str]).

    `pooling` None is what the model was trained with; for a language model "last", and "mean" from scratch, where no
    token has learned yet to sum up the text. A classifier of the same classes and pooling keeps its head.
    """
    model, name = initial_model(options, dropout)
    if isinstance(model, GPT2Classifier):
        pooling = pooling or model.pooling
        if (model.class_names, model.pooling) == (classes, pooling):
            return Initial(model, name)
        model, name = model.transformer, f"{name}, with a new head"
    pooling = pooling or ("last" if options.pretrained else "mean")
    _check_vocabulary(model, options)
    return Initial(GPT2Classifier.on(model, len(classes), pooling, classes), name)


def initial_instructed(options, dropout, template=None):
    """As `initial_model`, a GPT2 for the wording `template`: a name of TEMPLATES, None for the model's own or else "alpaca"."""
    model, name = initial_model(options, dropout)
    if isinstance(model, GPT2Classifier):
        model = model.transformer
    _check_vocabulary(model, options)
    model.template = template or model.template or "alpaca"
    if model.template not in TEMPLATES:
        raise UserError(f"the model was tuned with a wording unknown here, '{model.template}', --model {options.model}; "
                        f"choose one with --template: {', '.join(TEMPLATES)}")  # fmt: skip
    add_special_tokens(model, TEMPLATES[model.template].special_tokens)
    return Initial(model, name)


def model_folder(name):
    """A model's name or folder -> Path of the folder. Raises UserError, with the command that fetches it, if absent."""
    size = ALIASES.get(name, name)
    if size in ALIASES.values():
        folder = Path("checkpoints") / size
        if not folder.is_dir():
            raise UserError(f"no weights of {size}, {folder}; fetch them with: python -m data_prep.gpt2 --size {size}")
    elif name == "mini":
        folder = BUNDLED
        if not folder.is_dir():
            raise UserError(f"no bundled weights, {folder}; leave out --model, or add --from-scratch")
    else:
        folder = Path(name)
        if not folder.is_dir():
            raise UserError(f"no such model, {name}; use 124M, 355M, 774M, 1558M or the path of a folder")
    return folder


def _check_vocabulary(model, options):
    if model.config.vocab_size < Tokenizer.VOCAB_SIZE:
        raise UserError(f"the model's vocabulary, {model.config.vocab_size}, is smaller than the tokenizer's, "
                        f"{Tokenizer.VOCAB_SIZE}, --model {options.model}; use a model trained with GPT-2's tokens")  # fmt: skip


def _named_config(name):
    if Path(name).is_dir():
        return read_config(Path(name))
    try:
        return GPT2Config.named(name)
    except ValueError as error:
        raise UserError(f"{error}; or give the path of a folder") from error

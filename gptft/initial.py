"""What a training script starts from: `--model`, `--from-scratch` and the shape flags -> a model.

A name stands for one folder (checkpoints/124M, or the package's own assets/mini); a folder that is named but absent is
an error that says how to get it. Random weights come only when asked for, by `--from-scratch` or a shape. `--train` then
says which of the weights are trained.
"""

import dataclasses
from pathlib import Path

from gptft.classifier import GPT2Classifier
from gptft.config import ALIASES, BUNDLED, LORA_TARGETS, GPT2Config
from gptft.data.alpaca import TEMPLATES
from gptft.errors import UserError
from gptft.language import add_special_tokens, check_vocabulary
from gptft.lora import add_adapters
from gptft.model import GPT2
from gptft.pretrained import load_model, read_config
from gptft.tokenizer import Tokenizer


def initial_model(options, dropout):
    """ModelOptions -> (a GPT2 or GPT2Classifier, on the CPU in float32; a line that says what it is).

    dropout: its probability. Raises UserError for an unknown name, an absent folder or flags that exclude each other.
    """
    name, shape = options.model, options.shape()
    if options.pretrained:
        folder = model_folder(name)
        place = "of this package" if folder == BUNDLED else f"from {folder}"
        return load_model(folder, dropout=dropout), f"{name}, pretrained weights {place}"
    if shape and _is_folder(name):
        raise UserError(
            f"--n-layer, --n-head, --n-embd and --n-positions set a shape of your own, but --model {name} has "
            "one; leave out either"
        )
    try:
        config = read_config(Path(name)) if _is_folder(name) else GPT2Config.named(name)
    except ValueError as error:
        raise UserError(f"{error}; or give the path of a folder") from error
    try:
        # No dropped attention weights in models from scratch: see GPT2Config.
        config = dataclasses.replace(config, **shape, dropout=dropout, attention_dropout=0.0)
    except ValueError as error:
        raise UserError(f"{error}; change --n-embd or --n-head") from error
    said = "a shape of your own" if shape else f"the shape of {name}"
    return GPT2(config), f"{said} with random weights"


def initial_classifier(options, dropout, classes, pooling=None):
    """As `initial_model`, with a head for `classes` (list[str]).

    `pooling` None is what the model was trained with; for a language model "last", but "mean" for mini and from scratch,
    where no token has learned to sum up a text. A classifier of the same classes and pooling keeps its head.
    """
    model, name = initial_model(options, dropout)
    check_vocabulary(model, f"--model {options.model}")
    if isinstance(model, GPT2Classifier):
        pooling = pooling or model.pooling
        if (model.class_names, model.pooling) == (classes, pooling):
            return model, name
        model, name = model.transformer, f"{name}, with a new head"
    pooling = pooling or ("last" if options.pretrained and options.model != "mini" else "mean")
    return GPT2Classifier.on(model, len(classes), pooling, classes), name


def initial_language_model(options, dropout):
    """As `initial_model`, a GPT2: of a classifier its body."""
    model, name = initial_model(options, dropout)
    check_vocabulary(model, f"--model {options.model}")
    return getattr(model, "transformer", model), name


def initial_instructed(options, dropout, template=None):
    """As `initial_language_model`, for the wording `template`: a name of TEMPLATES, None for the model's own or else "alpaca".

    Raises UserError if the model can't be tuned with it.
    """
    model, name = initial_language_model(options, dropout)
    model.template = template or model.template or "alpaca"
    if model.template not in TEMPLATES:
        raise UserError(
            f"the model was tuned with a wording unknown here, '{model.template}', --model {options.model}; "
            f"choose one with --template: {', '.join(TEMPLATES)}"
        )
    add_special_tokens(model, TEMPLATES[model.template].special_tokens)
    return model, name


def choose_trainable(model, options, start):
    """Freeze what `--train` leaves out, or add adapters; in place -> a line for people: what is trained, and at what cost.

    Args: `options` are TrainableOptions, `start` the ModelOptions of the model. Raises UserError for what can't be trained.
    """
    gpt2, n_plain = getattr(model, "transformer", model), sum(p.numel() for p in model.parameters())
    head, said = (
        getattr(model, "score", gpt2.wte),
        {"full": "all weights"}.get(options.train, options.train),
    )
    if options.train == "lora":
        said = _add_adapters(model, options, start)
    elif options.train != "full":
        model.requires_grad_(False)
        # A language model's head is its embedding: a third of its weights, and at the far end of the backward pass.
        last = [gpt2.h[-1], gpt2.ln_f] + [head] * (head is not gpt2.wte)
        for part in last if options.train == "last-block" else [head]:
            part.requires_grad_(True)
    new = gpt2.wte.weight[Tokenizer.VOCAB_SIZE :][: len(gpt2.special_tokens)]
    if len(new) and not gpt2.wte.weight.requires_grad and (new == new[0]).all():
        raise UserError(
            f"--train {options.train} would leave the new tokens of the wording untrained, --template {gpt2.template}; "
            "use another --template, or --train full"
        )
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    alone = f", or {4 * n / 1e6:,.1f} MB as an adapter" if options.train == "lora" else ""
    return f"trained: {said}: {n:,} of {n_plain:,} parameters; optimizer {8 * n / 1e6:,.1f} MB; saved model {4 * n_plain / 1e6:,.1f} MB{alone}"


def _add_adapters(model, options, start):
    """Adapters as the flags say, in place -> what they are, for people."""
    if not start.pretrained:
        raise UserError(
            "--train lora adapts learned weights, but these are random; leave out --from-scratch and the shape, or --train"
        )
    folder, rank, targets = (
        model_folder(start.model),
        options.lora_rank or 8,
        options.lora_targets or ",".join(LORA_TARGETS),
    )
    alpha = 2.0 * rank if options.lora_alpha is None else options.lora_alpha
    dropout = model.config.dropout if options.lora_dropout is None else options.lora_dropout
    hub_names = {
        Path("checkpoints") / size: name for name, size in ALIASES.items()
    }  # what peft's users call them
    add_adapters(
        model,
        rank,
        alpha,
        dropout,
        targets.split(","),
        hub_names.get(folder, str(folder.resolve())),
    )
    return f"adapters of rank {rank} (alpha {alpha:g}, dropout {dropout:g}) on {targets.replace(',', ', ')}"


def model_folder(name):
    """A model's name or folder -> Path of the folder. Raises UserError, with the command that fetches it, if absent."""
    size = ALIASES.get(name, name)
    if size in ALIASES.values():
        folder = Path("checkpoints") / size
        absent = f"no weights of {size}, {folder}; fetch them with: python -m data_prep.gpt2 --size {size}"
    elif name == "mini":
        folder, absent = (
            BUNDLED,
            f"the bundled weights are gone, {BUNDLED}; restore the folder from the repository",
        )
    else:
        folder, absent = (
            Path(name),
            f"no such model, {name}; use mini, 124M, 355M, 774M, 1558M or the path of a folder",
        )
    if not folder.is_dir():
        raise UserError(absent)
    return folder


def _is_folder(name):
    """Whether a name is a folder's; those of models are theirs, even where a folder is called so."""
    return name not in ("mini", *ALIASES, *ALIASES.values()) and Path(name).is_dir()

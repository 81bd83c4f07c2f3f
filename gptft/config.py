"""Settings as frozen dataclasses, each with its unit and range, and the command line built from them.

A field declared with `option(...)` is one flag: its name, help text, unit, range and default stand in one place and are
checked in one place, so `--help`, the code and the error messages can't disagree. `None` as a default means "chosen by
the model"; the scripts print what was chosen.

Left out: configuration files. A run's `run.json` holds the exact command, which is the configuration.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from gptft.errors import UserError

ALIASES = {
    "gpt2": "124M",
    "gpt2-medium": "355M",
    "gpt2-large": "774M",
    "gpt2-xl": "1558M",
}  # Hugging Face's, OpenAI's
BUNDLED = Path(__file__).parent / "assets" / "mini"  # the weights that come with this package
POOLINGS = ("last", "mean")  # what a classifier reads
LORA_TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # the matrices of a block


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2. Widths and lengths are counts; `dropout` is a probability.

    `attention_dropout` is the probability for attention weights; None means `dropout`. It is apart because CPUs have no
    fast attention kernel that drops weights: 0 there trains about twice as fast.
    Raises ValueError if the shape is impossible. Source: Radford et al. 2019, table 2.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    dropout: float = 0.1
    attention_dropout: float | None = None

    def __post_init__(self):
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got n_embd {self.n_embd} and n_head {self.n_head}"
            )
        for name in ("dropout", "attention_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be from 0 up to (not including) 1, got {getattr(self, name)}"
                )

    @classmethod
    def named(cls, name):
        """The shape called `name`: OpenAI's four sizes (also by their Hugging Face names) and this project's "mini".

        Raises ValueError for an unknown name.
        """
        shapes = {
            "124M": dict(n_layer=12, n_head=12, n_embd=768),
            "355M": dict(n_layer=24, n_head=16, n_embd=1024),
            "774M": dict(n_layer=36, n_head=20, n_embd=1280),
            "1558M": dict(n_layer=48, n_head=25, n_embd=1600),
            "mini": dict(n_layer=6, n_head=3, n_embd=192, n_positions=512),
        }
        name = ALIASES.get(name, name)
        if name not in shapes:
            raise ValueError(f"unknown model {name!r}; known are {', '.join([*shapes, *ALIASES])}")
        return cls(**shapes[name])


def option(default, text, kind=None, low=None, high=None, choices=None):
    """A dataclass field that is also a flag.

    `low` and `high` are inclusive, `choices` all there are; `kind` is the type, if the default is None.
    """
    kind = kind or type(default)
    return field(
        default=default, metadata=dict(help=text, kind=kind, low=low, high=high, choices=choices)
    )


@dataclass(frozen=True)
class ModelOptions:
    """Which model a script starts from."""

    model: str = option(
        "mini",
        "pretrained weights: mini (bundled), 124M, 355M, 774M or 1558M (in checkpoints/NAME), or a folder",
    )
    from_scratch: bool = option(False, "keep the shape of --model, with random weights")
    n_layer: int = option(None, "blocks, for a shape of your own (from scratch)", int, 1, 1000)
    n_head: int = option(None, "attention heads, likewise", int, 1, 1000)
    n_embd: int = option(None, "width, likewise; a multiple of n_head", int, 1, 100_000)
    n_positions: int = option(None, "longest input in tokens, likewise", int, 1, 1_000_000)

    @property
    def pretrained(self):
        """Whether these flags ask for learned weights."""
        return not self.from_scratch and not self.shape()

    def recipe(self, mini, pretrained, from_scratch, rate_factor=1):
        """Which of three sets of defaults fits this model -> dict. rate_factor, that of TrainableOptions, is for learned weights."""
        if not self.pretrained:
            return from_scratch
        recipe = mini if self.model == "mini" else pretrained
        return recipe | {"learning_rate": recipe["learning_rate"] * rate_factor}

    def shape(self):
        """The flags that change the shape -> dict for `dataclasses.replace(GPT2Config, ...)`."""
        names = ("n_layer", "n_head", "n_embd", "n_positions")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class TrainableOptions:
    """Which of the model's weights are trained. The rate for adapters is that of Hu et al. 2021, table 11, beside GPT-2's."""

    train: str = option(
        "full",
        "all weights; low-rank adapters and a classifier's head (default rate: 4 times that of full); the last "
        "block, final norm and head (2 times); or the head (20 times)",
        choices=("full", "lora", "last-block", "head"),
    )
    lora_rank: int = option(None, "rank of the adapters; default: 8", int, 1, 10_000)
    lora_alpha: float = option(
        None, "their scale, times the rank; default: twice the rank", float, 0.0, 1e6
    )
    lora_dropout: float = option(
        None, "probability on their input; default: that of --dropout", float, 0.0, 0.95
    )
    lora_targets: str = option(None, f"some of {','.join(LORA_TARGETS)}; default: all", str)

    def __post_init__(self):
        for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"):
            if getattr(self, name) is not None and self.train != "lora":
                raise UserError(
                    f"--{name.replace('_', '-')} goes with --train lora, but --train is {self.train}; leave out either"
                )

    @property
    def rate_factor(self):
        """What the default learning rate of a pretrained model is multiplied by."""
        return {"full": 1, "lora": 4, "last-block": 2, "head": 20}[self.train]


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained; the same flags in every training script.

    The fields without a flag (after `out`) are set by scripts and by readers who experiment.
    """

    epochs: int = option(
        None, "passes over the training set; default: by the model", int, 1, 10_000
    )
    max_steps: int = option(None, "stop after so many optimizer steps; default: no limit", int, 1)
    batch_size: int = option(
        None, "examples per optimizer step, over all processes; default: by the model", int, 1
    )
    micro_batch_size: int = option(
        None, "examples one process takes at once; default: the whole batch", int, 1
    )
    learning_rate: float = option(
        None, "peak rate of AdamW; default: by the model", float, 0.0, 1.0
    )
    weight_decay: float = option(
        None, "decoupled decay of the weight matrices; default: by the model", float, 0.0, 10.0
    )
    warmup: float = option(
        0.1, "share of all steps in which the rate rises to its peak", float, 0.0, 1.0
    )
    dropout: float = option(None, "probability; default: by the model", float, 0.0, 0.95)
    max_length: int = option(None, "longest example in tokens; default: by the model", int, 1)
    eval_every: int = option(0, "steps between evaluations on val; 0: once an epoch", low=0)
    save_every: int = option(0, "steps between resumable states; 0: at every evaluation", low=0)
    patience: int = option(
        0, "stop after so many evaluations without a better one; 0: never", low=0
    )
    seed: int = option(0, "fixes initial weights, order, dropout and splits", low=0, high=2**32 - 1)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option(
        "auto",
        "of the matrix products; weights stay fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = option("auto", "torch.compile", choices=("auto", "on", "off"))
    checkpoint_activations: bool = option(
        False, "recompute blocks in the backward pass: less memory, a third slower"
    )
    skip_nonfinite: bool = option(
        False, "leave out steps whose gradient is not finite, instead of stopping"
    )
    resume: bool = option(False, "continue the run in --out from its last saved state")
    resume_anyway: bool = option(
        False, "with --resume: even with other epochs, steps, rate, warmup, dropout or precision"
    )
    overwrite: bool = option(False, "throw away what is in --out")
    out: str = option(None, "run folder", str)

    schedule: str = "linear"  # or "cosine"
    final_rate: float = 0.0  # the schedule's end, as a share of learning_rate
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0  # largest norm of the gradient
    log_every: int = 10  # steps

    def describe(self):
        """The options that shape the result, on one line."""
        limit = f", at most {self.max_steps} steps" if self.max_steps else ""
        return (
            f"training: {self.epochs} epochs{limit}, batch {self.batch_size}, rate {self.learning_rate:g} with {self.warmup:g} "
            f"warmup then {self.schedule}, weight decay {self.weight_decay:g}, dropout {self.dropout:g}, "
            f"length {self.max_length}, seed {self.seed}"
        )


def _flags(cls):
    """The fields of a dataclass that are flags."""
    return [f for f in dataclasses.fields(cls) if f.metadata]


def add_options(parser, cls, **defaults):
    """Add the flags of a dataclass to an argparse parser; `defaults` replaces some of them."""
    for f in _flags(cls):
        flag, text, default = (
            "--" + f.name.replace("_", "-"),
            f.metadata["help"],
            defaults.get(f.name, f.default),
        )
        if f.metadata["kind"] is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            stated = "" if default is None else f" (default: {default})"
            metavar = (
                None
                if f.metadata["choices"]
                else {int: "N", float: "X", str: "NAME"}[f.metadata["kind"]]
            )
            parser.add_argument(
                flag,
                type=f.metadata["kind"],
                choices=f.metadata["choices"],
                default=default,
                metavar=metavar,
                help=text + stated,
            )


def from_args(cls, args):
    """Parsed arguments -> a checked instance of the dataclass. Raises UserError that lists every value out of range."""
    values, wrong = {f.name: getattr(args, f.name) for f in _flags(cls)}, []
    for f in _flags(cls):
        value, low, high = values[f.name], f.metadata["low"], f.metadata["high"]
        within = value is None or (low is None or low <= value) and (high is None or value <= high)
        if not within:  # NaN never is
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            wrong.append(f"--{f.name.replace('_', '-')} must be {limits}, got {value}")
    if wrong:
        raise UserError("; ".join(wrong))
    return cls(**values)


def settle_length(options, asked, n_positions):
    """TrainOptions with a max_length that the model can read: a recipe's is lowered to n_positions.

    asked: what --max-length was given, or None. Raises UserError if that is above n_positions.
    """
    if asked is not None and asked > n_positions:
        raise UserError(
            f"--max-length {asked} is above the model's n_positions, {n_positions}; lower it"
        )
    return dataclasses.replace(options, max_length=min(options.max_length, n_positions))


def describe_recipes(**recipes):
    """Sets of defaults by the kind of model, for --help."""
    return "defaults by the model" + "".join(
        f"\n  {name.replace('_', ' ')}: {as_flags(recipe)}" for name, recipe in recipes.items()
    )


def as_flags(values):
    """dict -> the text "--name value ..." that a person would type."""
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in values.items())


def fill(options, **values):
    """A copy of a dataclass instance whose fields that are None take the given values."""
    return dataclasses.replace(
        options, **{k: v for k, v in values.items() if getattr(options, k) is None}
    )

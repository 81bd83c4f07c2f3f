"""The shape of a model, and settings that are also command-line flags.

A dataclass field declared with `option(...)` is a flag: its name, help text, range and default are
written once, so that `--help`, the code and the error messages agree. A default of None means that
it depends on the model; each training script has a table of these defaults, which `--help` shows:
a row for each kind of model (mini, pretrained, from scratch), with the columns of IN_TABLE.

Not here: configuration files. The run.json of a run holds its exact command.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from gptft.errors import Parser, UserError

SIZES = {  # OpenAI's name -> Hugging Face's name
    "124M": "gpt2",
    "355M": "gpt2-medium",
    "774M": "gpt2-large",
    "1558M": "gpt2-xl",
}
ALIASES = {alias: size for size, alias in SIZES.items()}
ALIASES |= {f"openai-community/{alias}": size for alias, size in ALIASES.items()}
SHAPES = {
    "124M": dict(n_layer=12, n_head=12, n_embd=768),
    "355M": dict(n_layer=24, n_head=16, n_embd=1024),
    "774M": dict(n_layer=36, n_head=20, n_embd=1280),
    "1558M": dict(n_layer=48, n_head=25, n_embd=1600),
    "mini": dict(n_layer=6, n_head=3, n_embd=192, n_positions=512),
}
IGNORED = -100  # a label or target from which nothing is learned, as in F.cross_entropy
BUNDLED = Path(__file__).parent / "assets" / "mini"  # the pretrained weights of "mini"


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2. `dropout` and `attention_dropout` are probabilities.

    attention_dropout is that of the attention weights; None means the same as dropout. A CPU has no
    fast attention kernel that drops weights: with 0 it trains about twice as fast.

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
        if self.n_embd % self.n_head:
            sizes = f"n_embd {self.n_embd} and n_head {self.n_head}"
            raise ValueError(f"n_embd must be a multiple of n_head, got {sizes}")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")

    @classmethod
    def named(cls, name):
        """The shape of "124M", "355M", "774M", "1558M", "mini", or "gpt2", "gpt2-medium", ...

        Raises ValueError for another name.
        """
        size = ALIASES.get(name, name)
        if size not in SHAPES:
            known = ", ".join([*SHAPES, *SIZES.values()])
            raise ValueError(f"unknown model {name!r}; known are {known}")
        return cls(**SHAPES[size])


# ---------------------------------------------------------------- flags


def option(default, help, low=None, high=math.inf, choices=None):
    """A dataclass field that is also a flag. low, high: its range, both included."""
    metadata = dict(help=help, low=low, high=high, choices=choices)
    return field(default=default, metadata=metadata)


def parse_options(options_class, argv, prog, description, epilog=""):
    """Parse a command line -> an instance of the dataclass.

    Raises UserError that lists every value out of range.
    """
    parser = Parser(prog=prog, description=description, epilog=epilog)
    flags = [f for f in dataclasses.fields(options_class) if f.metadata]
    for f in flags:
        add_flag(parser, f)
    values = vars(parser.parse_args(argv))
    wrong = []
    for f in flags:
        value, low, high = values[f.name], f.metadata["low"], f.metadata["high"]
        if value is not None and low is not None and not low <= value <= high:  # NaN is in no range
            limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            wrong.append(f"{flag_of(f.name)} must be {limits}, got {value}")
    if wrong:
        raise UserError("; ".join(wrong))
    return options_class(**values)


def add_flag(parser, f):
    """Add the flag of a dataclass field to an argparse parser."""
    flag, help, choices = flag_of(f.name), f.metadata["help"], f.metadata["choices"]
    if f.type is bool:
        parser.add_argument(flag, action="store_true", help=help)
        return
    if f.default is not None:
        help = f"{help} (default: {f.default})"
    parser.add_argument(flag, type=f.type, choices=choices, default=f.default, help=help)


def flag_of(name):
    """The flag of a field: "batch_size" -> "--batch-size"."""
    return "--" + name.replace("_", "-")


DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# The columns of a script's DEFAULTS, whose rows are the kinds of models.
IN_TABLE = ("epochs", "batch_size", "learning_rate", "weight_decay", "dropout", "max_length")


@dataclass(frozen=True)
class TrainOptions:
    """The flags of every training script, and five settings for readers who experiment."""

    data: str = option("sample", "what to train on")
    model: str = option(
        "mini",
        "pretrained weights: mini (bundled), 124M, 355M, 774M or 1558M (in checkpoints/NAME), or a "
        "folder",
    )
    from_scratch: bool = option(False, "keep the shape of --model, with random weights")
    n_layer: int = option(None, "blocks, for a shape of your own (from scratch)", 1, 1000)
    n_head: int = option(None, "attention heads, also from scratch", 1, 1000)
    n_embd: int = option(None, "width, also from scratch; a multiple of n_head", 1, 100_000)
    n_positions: int = option(None, "longest input in tokens, also from scratch", 1, 1_000_000)
    epochs: int = option(None, "passes over the training set", 1, 10_000)
    max_steps: int = option(None, "stop after this many optimizer steps", 1)
    batch_size: int = option(None, "examples per optimizer step, over all processes", 1)
    micro_batch_size: int = option(
        None, "examples a process takes at once, to save memory (default: all)", 1
    )
    learning_rate: float = option(None, "peak learning rate of AdamW", 0.0, 1.0)
    weight_decay: float = option(None, "weight decay of the matrices", 0.0, 10.0)
    warmup: float = option(0.1, "share of all steps in which the rate rises", 0.0, 1.0)
    dropout: float = option(None, "dropout probability", 0.0, 0.95)
    max_length: int = option(None, "longest example in tokens", 1)
    eval_every: int = option(0, "steps between evaluations on val; 0: once an epoch", 0)
    save_every: int = option(0, "steps between saved states; 0: at every evaluation", 0)
    patience: int = option(0, "stop after this many evaluations without a better one; 0: never", 0)
    seed: int = option(0, "of initial weights, order, dropout and splits", 0, 2**32 - 1)
    device: str = option("auto", "where to compute", choices=DEVICES)
    precision: str = option("auto", "of matrix products; weights stay fp32", choices=PRECISIONS)
    compile: str = option("auto", "torch.compile", choices=("auto", "on", "off"))
    checkpoint_activations: bool = option(
        False, "recompute blocks in the backward pass: less memory, a third slower"
    )
    resume: bool = option(False, "continue the run in --out from its saved state")
    overwrite: bool = option(False, "delete the run that is in --out")
    out: str = option("runs/run", "run folder")

    schedule: str = "linear"  # or "cosine"
    beta1: float = 0.9  # of AdamW
    beta2: float = 0.999
    clip: float = 1.0  # largest norm of the gradient
    log_every: int = 10  # steps

    @property
    def pretrained(self):
        """Whether the model starts from pretrained weights."""
        return not self.from_scratch and not self.shape()

    def shape(self):
        """The flags that set a shape -> dict for GPT2Config."""
        names = ("n_layer", "n_head", "n_embd", "n_positions")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def is_trial(self):
        """Whether data and model are the bundled ones."""
        return self.data == "sample" and self.model == "mini" and self.pretrained

    def complete(self, defaults):
        """Fill in what was not given, from the row of a script's DEFAULTS that fits the model."""
        kind = "from scratch"
        if self.pretrained:
            kind = "mini" if self.model == "mini" else "pretrained"
        row = zip(IN_TABLE, defaults[kind])
        missing = {name: value for name, value in row if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def describe(self):
        """The settings that shape the result, on one line."""
        limit = f" (at most {self.max_steps} steps)" if self.max_steps else ""
        return (
            f"training: {self.epochs} epochs{limit}, batch {self.batch_size}, "
            f"learning rate {self.learning_rate:g}, warmup {self.warmup:g}, {self.schedule}, "
            f"weight decay {self.weight_decay:g}, dropout {self.dropout:g}, "
            f"length {self.max_length}, seed {self.seed}"
        )


LEARNING_RATE_FACTORS = {"full": 1, "lora": 4, "head": 20}


@dataclass(frozen=True)
class FinetuneOptions(TrainOptions):
    """The flags of both fine-tuning scripts."""

    train: str = option(
        "full",
        "what is trained: all weights; low-rank adapters and a classifier's head; or the head "
        "alone. The default learning rate of pretrained weights is multiplied by 4 and 20 for the "
        "last two",
        choices=tuple(LEARNING_RATE_FACTORS),
    )
    lora_rank: int = option(None, "rank of the adapters (default: 8)", 1, 10_000)
    lora_alpha: float = option(
        None, "adapters are scaled by alpha / rank (default: twice the rank)", 0.0, 1e6
    )

    def __post_init__(self):
        for name in ("lora_rank", "lora_alpha"):
            if getattr(self, name) is not None and self.train != "lora":
                raise UserError(
                    f"{flag_of(name)} goes with --train lora, but --train is {self.train}; "
                    "leave out either"
                )

    def complete(self, defaults):
        """As TrainOptions.complete, with the learning rate that fits --train."""
        options = super().complete(defaults)
        if self.learning_rate is None and self.pretrained:
            rate = options.learning_rate * LEARNING_RATE_FACTORS[self.train]
            options = dataclasses.replace(options, learning_rate=rate)
        return options


def describe_defaults(defaults):
    """A script's DEFAULTS as a table for --help."""
    lines = ["defaults by the kind of model:"]
    for kind, values in {"": IN_TABLE, **defaults}.items():
        cells = "".join(f"{value:>14}" for value in values)
        lines.append(f"{kind:12}{cells}")
    return "\n".join(lines)

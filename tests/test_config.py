"""Shapes by name, ranges, and the command line that is built from the dataclasses."""

import dataclasses

import pytest

from gptft.config import (
    BUNDLED,
    GPT2Config,
    ModelOptions,
    TrainableOptions,
    TrainOptions,
    add_options,
    describe_recipes,
    fill,
    from_args,
)
from gptft.errors import Parser, UserError
from gptft.pretrained import read_config


def parse(cls, *argv, **defaults):
    parser = Parser(prog="p")
    add_options(parser, cls, **defaults)
    return from_args(cls, parser.parse_args(argv))


@pytest.mark.parametrize(
    "name, alias, shape",
    [
        ("124M", "gpt2", (12, 12, 768)),
        ("355M", "gpt2-medium", (24, 16, 1024)),
        ("774M", "gpt2-large", (36, 20, 1280)),
        ("1558M", "gpt2-xl", (48, 25, 1600)),
    ],
)
def test_openais_shapes(name, alias, shape):
    # Radford et al. 2019, table 2, with the released checkpoints' heads.
    config = GPT2Config.named(name)
    assert config == GPT2Config.named(alias)
    assert (
        config.n_layer,
        config.n_head,
        config.n_embd,
        config.n_positions,
        config.vocab_size,
    ) == (*shape, 1024, 50257)


@pytest.mark.parametrize(
    "wrong",
    [dict(n_embd=10, n_head=3), dict(n_layer=0), dict(dropout=1.0), dict(attention_dropout=-0.1)],
)
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GPT2Config(**wrong)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="124M.*gpt2-xl"):
        GPT2Config.named("125M")


def test_flags_fill_the_dataclass():
    options = parse(
        TrainOptions, "--batch-size", "4", "--learning-rate", "0.1", "--resume", out="runs/x"
    )
    assert (options.batch_size, options.learning_rate, options.resume, options.out) == (
        4,
        0.1,
        True,
        "runs/x",
    )
    assert options.epochs is None and options.clip == 1.0
    assert fill(options, epochs=3, batch_size=99).batch_size == 4  # a flag wins over the recipe
    assert fill(options, epochs=3).epochs == 3


def test_values_out_of_range_are_reported_together():
    with pytest.raises(
        UserError,
        match="--batch-size must be at least 1, got 0; --warmup must be from 0.0 to 1.0, got 1.5",
    ):
        parse(TrainOptions, "--batch-size", "0", "--warmup", "1.5")
    with pytest.raises(UserError, match="--learning-rate"):
        parse(TrainOptions, "--learning-rate", "nan")
    for argv in (["--epochs", "two"], ["--device", "tpu"], ["--no-such-flag"], ["--batch", "3"]):
        with pytest.raises(UserError, match="see p --help"):
            parse(TrainOptions, *argv)


def test_what_counts_as_pretrained():
    for argv in ([], ["--model", "124M"]):
        assert parse(ModelOptions, *argv).pretrained
    for argv in (["--from-scratch"], ["--model", "124M", "--from-scratch"], ["--n-layer", "2"]):
        assert not parse(ModelOptions, *argv).pretrained


def test_defaults_follow_the_model():
    recipes = dict(learning_rate=0.002), dict(learning_rate=1e-4), dict(learning_rate=0.01)
    for argv, expected in (
        ([], 0.002),
        (["--model", "124M"], 1e-4),
        (["--n-layer", "1"], 0.01),
        (["--model", "124M", "--from-scratch"], 0.01),
    ):
        assert parse(ModelOptions, *argv).recipe(*recipes)["learning_rate"] == expected
    # Fewer weights are trained at a higher rate, but random ones as ever.
    lora = TrainableOptions("lora").rate_factor
    assert parse(ModelOptions).recipe(*recipes, lora)["learning_rate"] == 0.008
    assert parse(ModelOptions, "--from-scratch").recipe(*recipes, lora)["learning_rate"] == 0.01
    assert "\n  other models: --epochs 3 --dropout 0.1" in describe_recipes(
        mini={}, other_models=dict(epochs=3, dropout=0.1)
    )


def test_the_bundled_model_has_the_shape_of_its_name():
    assert dataclasses.replace(
        read_config(BUNDLED), dropout=0.1, attention_dropout=None
    ) == GPT2Config.named("mini")

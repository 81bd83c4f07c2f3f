"""Shapes by name, and the command line that is built from dataclasses."""

from dataclasses import replace

import pytest

from gptft.checkpoints.folders import read_config
from gptft.config import BUNDLED, FinetuneOptions, GPT2Config, describe_defaults, parse_options

DEFAULTS = {
    "mini": (6, 16, 1e-3),
    "pretrained": (3, 16, 1e-4),
    "from scratch": (9, 16, 1e-2),
}


def parse(argv):
    table = describe_defaults(DEFAULTS)
    return parse_options(FinetuneOptions, argv.split(), "prog", "Trains.", table)


@pytest.mark.parametrize(
    "name, alias, n_layer, n_head, n_embd",
    [
        ("124M", "gpt2", 12, 12, 768),
        ("355M", "gpt2-medium", 24, 16, 1024),
        ("774M", "gpt2-large", 36, 20, 1280),
        ("1558M", "gpt2-xl", 48, 25, 1600),
    ],
)
def test_shapes_of_openais_models(name, alias, n_layer, n_head, n_embd):
    # Radford et al. 2019, table 2; the numbers of heads are those of the released checkpoints.
    expected = GPT2Config(50257, 1024, n_embd, n_layer, n_head)
    assert GPT2Config.named(name) == GPT2Config.named(alias) == expected


def test_bundled_model_has_the_shape_of_its_name():
    config = replace(read_config(BUNDLED), dropout=0.1, attention_dropout=None)
    assert config == GPT2Config.named("mini")


@pytest.mark.parametrize(
    "field, value",
    [("n_head", 5), ("dropout", 1.0), ("attention_dropout", -0.1)],
)
def test_impossible_shape_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        GPT2Config(**{field: value})


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="124M.*gpt2-xl"):
        GPT2Config.named("125M")


@pytest.mark.parametrize(
    "argv, pretrained, epochs, learning_rate",
    [
        ("", True, 6, 1e-3),
        ("--model 124M", True, 3, 1e-4),
        ("--model 124M --epochs 4", True, 4, 1e-4),
        ("--model 124M --from-scratch", False, 9, 1e-2),
        ("--n-layer 2", False, 9, 1e-2),
        # Fewer pretrained weights are trained at a higher rate.
        ("--train lora", True, 6, 4e-3),
        ("--train head --model 124M", True, 3, 2e-3),
        ("--train head --learning-rate 0.5", True, 6, 0.5),
        ("--train head --from-scratch", False, 9, 1e-2),
    ],
)
def test_defaults_follow_the_model(argv, pretrained, epochs, learning_rate):
    given = parse(argv)
    options = given.complete(DEFAULTS)
    assert given.pretrained == pretrained
    assert options.epochs == epochs
    assert options.learning_rate == pytest.approx(learning_rate)


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert f"\nfrom scratch{9:>14}{16:>14}{0.01:>14}\n" in shown
    assert "share of all steps in which the rate rises (default: 0.1)" in " ".join(shown.split())

"""From flags to a run: initial weights, special tokens, --train, lengths and first lines."""

import copy
import zlib
from dataclasses import replace

import pytest
import torch
from toy_run import OPTIONS, ToyBatches, ToyTexts, assert_equal, toy_model

from gptft.checkpoints.folders import save_model
from gptft.classifier import GPT2Classifier
from gptft.config import FinetuneOptions, GPT2Config, parse_options
from gptft.data.instructions import TEMPLATES
from gptft.data.sources import Source
from gptft.errors import UserError
from gptft.model import GPT2
from gptft.training.start import (
    add_special_tokens,
    begin,
    initial_classifier,
    initial_instructed,
    initial_language_model,
    initial_model,
    limit_length,
    set_trainable,
)

C, VOCABULARY, LENGTH = 8, 50257, 32
SMALL = GPT2Config(VOCABULARY, LENGTH, C, n_layer=2, n_head=2)
SPECIAL = list(TEMPLATES["special"].special_tokens)


def options(argv):
    return parse_options(FinetuneOptions, ["--dropout", "0.3", *argv.split()], "prog", "")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A small language model, which the folder "base" holds."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = GPT2(SMALL)
    save_model(model, "base")
    return model


# ---------------------------------------------------------------- models


def test_pretrained_weights(base):
    model, description = initial_model(options("--model base"))
    assert_equal(model.state_dict(), base.state_dict())
    assert model.config == replace(SMALL, dropout=0.3)
    assert description == "base, pretrained weights (base)"
    assert initial_model(options(""))[1] == "mini, pretrained weights (bundled)"


@pytest.mark.parametrize(
    "argv, n_layer, n_embd, n_positions",
    [
        ("--from-scratch", 6, 192, 512),
        ("--model base --from-scratch", 2, C, LENGTH),
        ("--n-layer 1 --n-embd 12 --n-positions 20", 1, 12, 20),
    ],
)
def test_random_weights(base, argv, n_layer, n_embd, n_positions):
    model, _ = initial_model(options(argv))
    config = GPT2Config(VOCABULARY, n_positions, n_embd, n_layer, model.config.n_head, 0.3, 0.0)
    assert model.config == config
    again, other = (initial_model(options(f"{argv} --seed {seed}"))[0] for seed in (0, 1))
    assert_equal(model.state_dict(), again.state_dict())
    assert not torch.equal(model.wte.weight, other.wte.weight)


@pytest.mark.parametrize("classes, head", [(["bad", "good"], 1), (["a", "b", "c"], 0)])
def test_classifier_keeps_its_head_for_the_same_classes(base, classes, head):
    saved = GPT2Classifier(SMALL, 2, ["bad", "good"], body=base)
    torch.nn.init.ones_(saved.score.weight)
    save_model(saved, "classifier")
    flags = options("--model classifier")
    model, description = initial_classifier(flags, classes)
    assert ("with a new head" in description) == (head == 0)
    assert model.class_names == classes
    assert (model.score.weight == head).all()
    assert_equal(model.transformer.state_dict(), base.state_dict())
    assert_equal(initial_language_model(flags)[0].state_dict(), base.state_dict())


# ---------------------------------------------------------------- special tokens


@pytest.mark.parametrize("vocab_size", [VOCABULARY, 50304])
def test_special_tokens_start_at_the_mean(vocab_size):
    # As wte is also the head, their logits start at the mean of all logits.
    model = GPT2(replace(SMALL, vocab_size=vocab_size))
    old = model.wte.weight.detach()
    known, spare = old[:VOCABULARY], old[VOCABULARY + len(SPECIAL) :]
    add_special_tokens(model, SPECIAL)
    new = known.mean(dim=0).expand(len(SPECIAL), C)
    torch.testing.assert_close(model.wte.weight.detach(), torch.cat([known, new, spare]))
    assert model.config.vocab_size == len(model.wte.weight)


def test_special_tokens_are_added_once(base):
    add_special_tokens(base, SPECIAL)
    weight = base.wte.weight
    add_special_tokens(base, SPECIAL)
    assert base.wte.weight is weight
    assert base.special_tokens == SPECIAL
    with pytest.raises(UserError, match="can't add the tokens <a> to a model that has others"):
        add_special_tokens(base, ["<a>"])


def test_template_comes_from_the_flag_or_the_model(base):
    flags = options("--model base")
    assert initial_instructed(flags)[0].template == "alpaca"
    model, _ = initial_instructed(flags, "special")
    save_model(model, "base")
    again, _ = initial_instructed(flags)
    assert again.template == "special"
    assert again.special_tokens == SPECIAL
    base.template = "unknown"
    save_model(base, "base")
    with pytest.raises(UserError, match="tuned with an unknown template.*--template: alpaca"):
        initial_instructed(flags)


# ---------------------------------------------------------------- --train

BLOCK = 12 * C * C + 13 * C
ALL = (VOCABULARY + LENGTH + 2) * C + 2 * BLOCK
ADAPTERS = 2 * 3 * (4 + 2 + 5 + 5) * C  # of rank 3 on C x 3C, C x C, C x 4C and 4C x C


@pytest.mark.parametrize(
    "argv, language_model, classifier",
    [
        ("--train full", ALL, ALL + 2 * C),
        ("--train head", VOCABULARY * C, 2 * C),
        ("--train lora --lora-rank 3", ADAPTERS, ADAPTERS + 2 * C),
    ],
)
def test_trained_parameters(base, argv, language_model, classifier):
    flags = options(f"--model base {argv}")
    for n, model in ((classifier, GPT2Classifier(SMALL)), (language_model, base)):
        set_trainable(model, flags)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == n


def test_special_tokens_may_be_frozen_once_they_are_learned(base):
    # Frozen at their mean, new tokens would stay one and the same vector.
    add_special_tokens(base, SPECIAL)
    with pytest.raises(UserError, match="--train lora would leave new special tokens untrained"):
        set_trainable(copy.deepcopy(base), options("--model base --train lora"))
    base.wte.weight.data[-1] += 1
    set_trainable(base, options("--model base --train lora"))


# ---------------------------------------------------------------- the run


def test_length_fits_the_model():
    given = options("")
    filled = replace(given, max_length=64)
    assert limit_length(filled, given, n_positions=32).max_length == 32
    assert limit_length(filled, given, n_positions=64).max_length == 64
    with pytest.raises(UserError, match="--max-length 64 is above the model's n_positions, 32"):
        limit_length(filled, filled, n_positions=32)


def test_first_lines_and_the_texts_of_a_run(tmp_path, capsys):
    flags = replace(OPTIONS, out=str(tmp_path / "run"), device="cpu")
    data = Source("my.csv", {"train": ["a", "b"], "val": ["c"]}, ["a note"])
    model, batches = toy_model(), ToyBatches(ToyTexts(8), flags)
    model.transformer.wpe.requires_grad_(False)  # 1,600 of the parameters
    device, run = begin("x.py", [], flags, model, batches, data, ["a", "\ud800"], ["model: toy"])
    assert capsys.readouterr().out.splitlines()[:5] == [
        "a note",
        "data: my.csv: 2 train, 1 val",
        "model: toy",
        "trained: 3,424 of 5,024 parameters, 0.0 MB of optimizer state",
        f"device: {device.reason}",
    ]
    assert run.texts == [zlib.crc32(b"a"), zlib.crc32(b"\\ud800")]

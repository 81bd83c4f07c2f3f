"""The name table, held against names and layouts spelled out by hand."""

import numpy as np
import pytest
import torch

from gptft.checkpoints.gpt2_names import from_huggingface, from_openai, to_huggingface, weight_table
from gptft.config import GPT2Config
from gptft.errors import CheckpointError
from gptft.model import GPT2

CONFIG = GPT2Config(vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2)

# OpenAI's name and stored shape, Hugging Face's name and stored shape, for C = 4.
SPELLED_OUT = [
    ("model/wte", (11, 4), "wte.weight", (11, 4)),
    ("model/wpe", (5, 4), "wpe.weight", (5, 4)),
    ("model/h0/ln_1/g", (4,), "h.0.ln_1.weight", (4,)),
    ("model/h0/ln_1/b", (4,), "h.0.ln_1.bias", (4,)),
    ("model/h0/attn/c_attn/w", (1, 4, 12), "h.0.attn.c_attn.weight", (4, 12)),
    ("model/h0/attn/c_attn/b", (12,), "h.0.attn.c_attn.bias", (12,)),
    ("model/h0/attn/c_proj/w", (1, 4, 4), "h.0.attn.c_proj.weight", (4, 4)),
    ("model/h0/attn/c_proj/b", (4,), "h.0.attn.c_proj.bias", (4,)),
    ("model/h0/ln_2/g", (4,), "h.0.ln_2.weight", (4,)),
    ("model/h0/ln_2/b", (4,), "h.0.ln_2.bias", (4,)),
    ("model/h0/mlp/c_fc/w", (1, 4, 16), "h.0.mlp.c_fc.weight", (4, 16)),
    ("model/h0/mlp/c_fc/b", (16,), "h.0.mlp.c_fc.bias", (16,)),
    ("model/h0/mlp/c_proj/w", (1, 16, 4), "h.0.mlp.c_proj.weight", (16, 4)),
    ("model/h0/mlp/c_proj/b", (4,), "h.0.mlp.c_proj.bias", (4,)),
    ("model/ln_f/g", (4,), "ln_f.weight", (4,)),
    ("model/ln_f/b", (4,), "ln_f.bias", (4,)),
]


@pytest.fixture
def openai():
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=shape).astype(np.float32) for name, shape, _, _ in SPELLED_OUT
    }


@pytest.fixture
def huggingface(openai):
    """The same weights as Hugging Face stores them."""
    return {
        name: torch.from_numpy(openai[source].reshape(shape))
        for source, _, name, shape in SPELLED_OUT
    }


def test_both_sources_give_the_same_weights(openai, huggingface):
    ours = from_openai(openai, CONFIG, "here")
    theirs = from_huggingface(huggingface, CONFIG, "here")
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    # x @ w + b is what OpenAI's layers compute; a square matrix left as it is would pass every check of shapes.
    x = torch.randn(4, dtype=torch.float32)
    w = torch.from_numpy(openai["model/h0/attn/c_proj/w"][0])
    torch.testing.assert_close(torch.nn.functional.linear(x, ours["h.0.attn.c_proj.weight"]), x @ w)


def test_the_table_is_the_model():
    # A parameter added to the model and not to the table could be neither loaded nor saved.
    with torch.device("meta"):
        model = GPT2(GPT2Config.named("124M"))
    table = weight_table(model.config)
    assert {name: shape for name, (_, shape, _) in table.items()} == {
        name: tuple(weight.shape) for name, weight in model.state_dict().items()
    }
    assert (
        len(table) == 148 and sum(np.prod(shape) for _, shape, _ in table.values()) == 124_439_808
    )


def test_there_and_back(openai, huggingface):
    back = to_huggingface(from_openai(openai, CONFIG, "here"), CONFIG)
    assert {
        name.removeprefix("transformer."): tensor for name, tensor in back.items()
    }.keys() == huggingface.keys()
    for name, tensor in huggingface.items():
        assert torch.equal(back[f"transformer.{name}"], tensor)


def test_weights_are_views(openai):
    # The loader's only copy is made later, on the target device.
    for name, weight in from_openai(openai, CONFIG, "here").items():
        source = openai[weight_table(CONFIG)[name][0]]
        assert weight.data_ptr() == source.ctypes.data


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_huggingface_extras_are_dropped(huggingface, prefix):
    tensors = {prefix + name: tensor for name, tensor in huggingface.items()}
    tensors[prefix + "h.0.attn.bias"] = torch.ones(1, 1, 5, 5, dtype=torch.uint8)
    tensors[prefix + "h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = huggingface["wte.weight"].clone()
    assert len(from_huggingface(tensors, CONFIG, "here")) == 16


def test_an_untied_head_is_refused(huggingface):
    # Dropped quietly, it would change every logit.
    wte = huggingface["wte.weight"]
    for head in (wte + 1e-3, wte[:5], wte.half(), wte.int()):
        with pytest.raises(CheckpointError, match="tied"):
            from_huggingface(huggingface | {"lm_head.weight": head}, CONFIG, "here")


def test_all_offenders_are_listed(openai, huggingface):
    # One at a time would mean one attempt at loading for each.
    del openai["model/ln_f/g"], openai["model/h0/mlp/c_fc/b"]
    openai["model/wpe"] = openai["model/wpe"][:3]
    openai["model/h1/ln_1/g"] = openai["model/ln_f/b"]
    openai["model/h0/attn/c_attn/w"] = openai["model/h0/attn/c_attn/w"][0]
    with pytest.raises(CheckpointError) as error:
        from_openai(openai, CONFIG, "some/folder")
    for part in (
        "model/ln_f/g is missing",
        "model/h0/mlp/c_fc/b is missing",
        "'model/h1/ln_1/g' is unknown",
        "some/folder",
        "model/wpe has shape [3, 4] instead of [5, 4]",
        "model/h0/attn/c_attn/w has shape [4, 12] instead of [1, 4, 12]",
    ):
        assert part in str(error.value)

    del huggingface["ln_f.bias"]
    huggingface["h.0.attn.c_proj.weight"] = huggingface["h.0.attn.c_proj.weight"].int()
    huggingface["classifier.weight"] = torch.zeros(2, 4)
    huggingface["transformer.wte.weight"] = huggingface["wte.weight"]
    with pytest.raises(CheckpointError) as error:
        from_huggingface(huggingface, CONFIG, "some/folder")
    for part in (
        "ln_f.bias is missing",
        "h.0.attn.c_proj.weight has type int32",
        "'classifier.weight' is unknown",
        "'wte.weight' stands twice",
    ):
        assert part in str(error.value)


def test_a_classifier_needs_its_head(huggingface):
    # Loaded without it, the folder of a classifier would quietly become a language model.
    with pytest.raises(CheckpointError, match="score.weight is missing"):
        from_huggingface(huggingface, CONFIG, "here", is_classifier=True)
    for shape in ((3,), (3, 5), ()):
        with pytest.raises(CheckpointError, match="score.weight has shape"):
            from_huggingface(huggingface | {"score.weight": torch.zeros(shape)}, CONFIG, "here")
    found = from_huggingface(huggingface | {"score.weight": torch.ones(3, 4)}, CONFIG, "here")
    assert found["score.weight"].shape == (3, 4)


def test_a_wrapped_model_is_not_written(openai):
    # torch.compile's "_orig_mod." or an adapter's names in the file would make it unreadable for everyone else.
    weights = {
        f"_orig_mod.{name}": weight for name, weight in from_openai(openai, CONFIG, "here").items()
    }
    with pytest.raises(ValueError, match="_orig_mod.wte.weight"):
        to_huggingface(weights, CONFIG)

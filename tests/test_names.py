"""The table of names, compared with one GPT-2 that TensorFlow and transformers wrote."""

import numpy as np
import pytest
import torch
from mutations import FIXTURES

from gptft.checkpoints.names import from_huggingface, from_openai, openai_names, to_huggingface
from gptft.checkpoints.openai import read_tf_checkpoint
from gptft.checkpoints.safetensors import read_safetensors
from gptft.config import GPT2Config
from gptft.errors import CheckpointError
from gptft.model import GPT2

CONFIG = GPT2Config(vocab_size=80, n_positions=16, n_embd=12, n_layer=2, n_head=3)


@pytest.fixture
def openai():
    return read_tf_checkpoint(FIXTURES / "tf_gpt2")


@pytest.fixture
def huggingface():
    return read_safetensors(FIXTURES / "hf_lm" / "model.safetensors")


def test_openai_to_ours_to_hugging_face_and_back(openai, huggingface):
    # A forgotten transpose would change the square matrices, where no shape check finds it.
    ours = from_openai(openai, CONFIG, "here")
    theirs = to_huggingface(ours)
    assert theirs.keys() == huggingface.keys()
    assert all(torch.equal(theirs[name], huggingface[name]) for name in theirs)
    back = from_huggingface(huggingface, CONFIG, "here")
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_the_table_has_all_weights_of_the_model():
    # A parameter that the table lacks could be neither loaded nor saved.
    with torch.device("meta"):
        state = GPT2(GPT2Config.named("124M")).state_dict()
    assert openai_names(12).keys() == state.keys() and len(state) == 148
    assert sum(weight.numel() for weight in state.values()) == 124_439_808


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_old_files_of_hugging_face(huggingface, prefix):
    tensors = {prefix + name.removeprefix("transformer."): t for name, t in huggingface.items()}
    tensors[prefix + "h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    tensors[prefix + "h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = huggingface["transformer.wte.weight"].clone()
    assert from_huggingface(tensors, CONFIG, "here").keys() == openai_names(2).keys()


def test_the_head_stands_for_the_embedding(huggingface):
    # Some programs write only one of two tensors that share memory.
    head = huggingface.pop("transformer.wte.weight")
    tensors = from_huggingface(huggingface | {"lm_head.weight": head}, CONFIG, "here")
    assert torch.equal(tensors["wte.weight"], head)


def test_an_untied_head_is_refused(huggingface):
    # If it were left out, every logit would change.
    wte = huggingface["transformer.wte.weight"]
    for head in (wte + 1e-3, wte[:5], wte.int()):
        with pytest.raises(CheckpointError, match="tied"):
            from_huggingface(huggingface | {"lm_head.weight": head}, CONFIG, "here")


def test_all_differences_are_listed(huggingface):
    del huggingface["transformer.ln_f.bias"]
    huggingface["transformer.h.0.attn.c_proj.weight"] = torch.ones(12, 12, dtype=torch.int32)
    huggingface["transformer.wpe.weight"] = torch.ones(3, 12)
    huggingface["classifier.weight"] = torch.zeros(2, 12)
    with pytest.raises(CheckpointError) as error:
        from_huggingface(huggingface, CONFIG, "some/folder")
    assert str(error.value) == (
        "not the weights of this GPT-2: wpe.weight has shape [3, 12] instead of [16, 12], "
        "h.0.attn.c_proj.weight has type torch.int32, ln_f.bias is missing, "
        "'classifier.weight' is unknown, some/folder; fetch or save it again"
    )


def test_variables_of_another_shape(openai):
    for name, array in (
        ("model/wpe", np.ones(())),
        ("model/h0/attn/c_proj/w", np.ones((2, 12, 12))),
    ):
        with pytest.raises(CheckpointError, match="has shape"):
            from_openai(openai | {name: array}, CONFIG, "here")
    with pytest.raises(CheckpointError, match="'model/h2/ln_1/g' is unknown"):
        from_openai(openai | {"model/h2/ln_1/g": np.ones(12)}, CONFIG, "here")


def test_the_head_of_a_classifier(huggingface):
    # Without this check a classifier whose head is missing would load as a language model.
    with pytest.raises(CheckpointError, match="score.weight is missing"):
        from_huggingface(huggingface, CONFIG, "here", is_classifier=True)
    for shape in ((3,), (3, 13), ()):
        huggingface["score.weight"] = torch.zeros(shape)
        with pytest.raises(CheckpointError, match="score.weight has shape"):
            from_huggingface(huggingface, CONFIG, "here")

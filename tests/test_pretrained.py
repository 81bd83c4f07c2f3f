"""load_model and save_model against files and logits of TensorFlow and transformers (tests/fixtures/README.md)."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import write_gpt2
from mutations import FIXTURES

from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.errors import CheckpointError
from gptft.model import GPT2
from gptft.pretrained import load_model, read_config, save_model

SMALL = GPT2Config(vocab_size=50257, n_positions=8, n_embd=6, n_layer=1, n_head=2, dropout=0.25)


def expected(name):
    with np.load(FIXTURES / name / "expected.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def random_model(config=SMALL, **head):
    torch.manual_seed(0)
    model = GPT2Classifier(config, **head) if head else GPT2(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def edit_config(folder, **changes):
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {
        key: value
        for key, value in (json.loads(path.read_text()) | changes).items()
        if value is not None
    }
    path.write_text(json.dumps(config))


@pytest.fixture
def hf_lm(tmp_path):
    return shutil.copytree(FIXTURES / "hf_lm", tmp_path / "hf_lm")


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize("name", ["tf_gpt2", "hf_lm", "hf_lm_sharded"])
def test_logits_are_those_of_transformers(name):
    # One GPT-2, written by TensorFlow and by transformers, in one file and in two; the logits are transformers' own.
    model = load_model(FIXTURES / name)
    known = expected("tf_gpt2")
    assert isinstance(model, GPT2) and not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(known["token_ids"]), known["logits"], atol=1e-5, rtol=0)


def test_classifier_logits_are_those_of_transformers():
    # On rows padded to different lengths: a head that reads a padded position fails here.
    model, known = load_model(FIXTURES / "hf_classifier"), expected("hf_classifier")
    assert (
        isinstance(model, GPT2Classifier)
        and model.class_names == ["no", "maybe", "yes"]
        and not model.training
    )
    with torch.no_grad():
        logits = model(known["token_ids"], known["lengths"])
    torch.testing.assert_close(logits, known["logits"], atol=1e-5, rtol=0)


def test_weights_are_parameters_with_memory_of_their_own():
    # What is trained must need gradients, lie contiguous for the optimizer, and not write through to the file.
    model = load_model(FIXTURES / "tf_gpt2")
    for name, weight in model.named_parameters():
        assert weight.requires_grad and weight.is_contiguous() and weight.data_ptr() % 64 == 0, name
        assert weight.untyped_storage().nbytes() <= weight.nbytes + 64, (
            f"{name} views the whole file"
        )
    assert not [name for name, _ in model.named_buffers()]


def test_dtype_and_dropout_arguments(hf_lm):
    assert {weight.dtype for weight in load_model(hf_lm, dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }
    assert load_model(hf_lm).config.dropout == 0.1
    model = load_model(hf_lm, dropout=0.3)
    assert model.config.dropout == 0.3 and model.h[0].attn.dropout == 0.3 and model.drop.p == 0.3
    edit_config(hf_lm, attn_pdrop=0.0)
    model = load_model(hf_lm, dropout=0.3)
    assert model.h[0].attn.dropout == 0.0 and model.drop.p == 0.3


def test_the_device_argument():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    on_gpu, on_cpu = (load_model(FIXTURES / "tf_gpt2", device=device) for device in ("cuda", "cpu"))
    assert {weight.device.type for weight in on_gpu.parameters()} == {"cuda"}
    assert all(torch.equal(a.cpu(), b) for a, b in zip(on_gpu.parameters(), on_cpu.parameters()))


def test_half_precision_files_become_float32(tmp_path):
    # Trained on as float16, small updates would be lost without a word.
    config = GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    write_gpt2(tmp_path, config, dtype="f2")
    assert {weight.dtype for weight in load_model(tmp_path).parameters()} == {torch.float32}


def test_read_config():
    config = GPT2Config(vocab_size=80, n_positions=16, n_embd=12, n_layer=2, n_head=3)
    assert read_config(FIXTURES / "tf_gpt2") == read_config(FIXTURES / "hf_lm") == config


def test_the_bare_body_with_its_masks_loads(hf_lm):
    # So stands GPT-2 on the Hugging Face hub: no "transformer.", and the causal mask of each layer among the weights.
    tensors = read_safetensors(hf_lm / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)}
    write_safetensors(hf_lm / "model.safetensors", bare, {"format": "pt"})
    assert same_weights(load_model(hf_lm), load_model(FIXTURES / "hf_lm"))


# ---------------------------------------------------------------- saving


def test_language_model_there_and_back(tmp_path):
    model = random_model()
    save_model(model, tmp_path / "a" / "b")
    loaded = load_model(tmp_path / "a" / "b")
    assert (
        isinstance(loaded, GPT2) and same_weights(loaded, model) and loaded.config == model.config
    )


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("class_names", [None, ["ham", "späm"]])
def test_classifier_there_and_back(tmp_path, pooling, class_names):
    model = random_model(n_classes=2, pooling=pooling, class_names=class_names)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, GPT2Classifier) and same_weights(loaded, model)
    assert (loaded.pooling, loaded.class_names, loaded.n_classes) == (pooling, class_names, 2)


def test_the_number_of_classes_is_the_heads(tmp_path):
    # transformers leaves id2label out when there are two classes.
    save_model(random_model(n_classes=2), tmp_path)
    edit_config(tmp_path, id2label=None, label2id=None)
    assert load_model(tmp_path).n_classes == 2


def test_attention_dropout_is_kept(tmp_path):
    config = GPT2Config(
        vocab_size=9,
        n_positions=4,
        n_embd=4,
        n_layer=1,
        n_head=1,
        dropout=0.2,
        attention_dropout=0.0,
    )
    save_model(random_model(config), tmp_path)
    assert read_config(tmp_path) == config


def test_nothing_but_the_tied_weight_is_saved(tmp_path):
    # A second copy of wte would come back as a head of its own in readers that don't compare.
    save_model(random_model(), tmp_path)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors and len(tensors) == len(random_model().state_dict())


def test_a_compiled_or_foreign_model_is_refused(tmp_path):
    # Its names would carry "_orig_mod.", and nobody could load them.
    for model in (torch.compile(random_model()), torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="unwrap"):
            save_model(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_tokenizer_files(tmp_path, tokenizer):
    # vocab.json in OpenAI's own form has the checksum of encoder.json, which covers all 50,257 entries.
    save_model(random_model(), tmp_path)
    digests = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("vocab.json", "merges.txt")
    ]
    assert digests == [
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == tokenizer.eot


def test_a_small_vocabulary_has_no_tokenizer(tmp_path):
    # 50256 would lie outside it, as a padding id and as a token.
    save_model(
        random_model(GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1)),
        tmp_path,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None


# ---------------------------------------------------------------- transformers as the judge


@pytest.fixture
def transformers():
    return pytest.importorskip(
        "transformers", reason="transformers is the oracle here, and is not installed"
    )


def test_transformers_loads_a_language_model_of_ours(tmp_path, transformers, tokenizer):
    model = random_model()
    save_model(model, tmp_path)
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    token_ids = torch.randint(0, 50257, (3, 8))
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.eval()(token_ids).logits, model(token_ids), atol=1e-5, rtol=1e-5
        )
    text = "Hello wörld, 3.14 \n\n and <|endoftext|>"
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert found == [*tokenizer.encode(text.removesuffix("<|endoftext|>")), tokenizer.eot]


def test_transformers_loads_a_classifier_of_ours(tmp_path, transformers):
    model = random_model(n_classes=2, class_names=["ham", "spam"])
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "ham", 1: "spam"} and theirs.config.pad_token_id == 50256
    lengths = torch.tensor([8, 3, 1])
    mask = torch.arange(8) < lengths[:, None]
    token_ids = torch.randint(0, 50256, (3, 8)).where(mask, 50256)
    with torch.no_grad():
        logits = theirs(token_ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(logits, model(token_ids, lengths), atol=1e-5, rtol=1e-5)


def test_we_load_what_transformers_makes_of_ours(tmp_path, transformers):
    model = random_model(n_classes=2)
    save_model(model, tmp_path / "ours")
    theirs = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert same_weights(load_model(tmp_path / "theirs"), model)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "gpt_neo"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 24),
        ("n_layer", "2"),
        ("n_layer", 10**6),
        ("n_embd", 0),
        ("n_head", 10**12),
        ("n_head", 5),
        ("resid_pdrop", "0.1"),
        ("resid_pdrop", 1.5),
        ("gptft", {"pooling": "max"}),
    ],
)
def test_other_models_are_refused_by_key_and_value(hf_lm, key, value):
    # Names and shapes of such relatives are GPT-2's own: without this they load, and compute something else.
    edit_config(hf_lm, **{key: value})
    word = {"gptft": "pooling", "resid_pdrop": "dropout|pdrop"}.get(key, key)
    with pytest.raises(CheckpointError, match=word) as error:
        load_model(hf_lm)
    assert "config.json" in str(error.value)


def test_harmless_keys_load(hf_lm):
    edit_config(
        hf_lm, reorder_and_upcast_attn=True, n_inner=48, activation_function="gelu_pytorch_tanh"
    )
    assert same_weights(load_model(hf_lm), load_model(FIXTURES / "hf_lm"))


@pytest.mark.parametrize(
    "labels", [{"0": "a", "2": "b", "1": 3}, {"0": "a"}, {}, ["a", "b", "c"], {"a": "0"}]
)
def test_class_names_that_do_not_fit(tmp_path, labels):
    folder = shutil.copytree(FIXTURES / "hf_classifier", tmp_path / "copy")
    edit_config(folder, id2label=labels)
    with pytest.raises(CheckpointError, match="config.json"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(hf_lm, value):
    # From a run that diverged. Training on would give NaN at the first step, for no visible reason.
    tensors = read_safetensors(hf_lm / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    tensors["transformer.ln_f.bias"][0] = value
    write_safetensors(hf_lm / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="h.1.mlp.c_fc.weight, ln_f.bias"):
        load_model(hf_lm)


def test_huge_but_finite_weights_load(hf_lm):
    # Their squares overflow float32; that alone must not condemn them.
    tensors = read_safetensors(hf_lm / "model.safetensors")
    tensors["transformer.ln_f.bias"][0] = 1e30
    write_safetensors(hf_lm / "model.safetensors", tensors)
    assert load_model(hf_lm).ln_f.bias[0] == 1e30


def test_a_pickle_is_not_opened_but_explained(hf_lm):
    (hf_lm / "model.safetensors").rename(hf_lm / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="may run code.*save_pretrained"):
        load_model(hf_lm)


@pytest.mark.parametrize("damage", ["missing", "moved", "named outside", "no map", "not JSON"])
def test_shards_that_differ_from_their_index(tmp_path, damage):
    folder = shutil.copytree(FIXTURES / "hf_lm_sharded", tmp_path / "copy")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = index["weight_map"]
    first = next(iter(names))
    if damage == "missing":
        names["transformer.h.9.ln_1.weight"] = names[first]
    elif damage == "moved":
        names[first] = next(file for file in names.values() if file != names[first])
    elif damage == "named outside":
        names[first] = f"../copy/{names[first]}"
    elif damage == "no map":
        index = {"weight_map": [1]}
    path.write_text("{" if damage == "not JSON" else json.dumps(index))
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        load_model(folder)


def test_folders_that_hold_no_model(tmp_path, hf_lm):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="neither config.json .* nor hparams.json"):
        load_model(tmp_path / "empty")
    (hf_lm / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        load_model(hf_lm)
    for text in ("[1]", "{", "\xff", "[" * 100_000):
        (hf_lm / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match="config.json"):
            load_model(hf_lm)


def test_hparams_of_another_model(tmp_path):
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    hparams = json.loads((folder / "hparams.json").read_text())
    for changes, phrase in (
        ({"n_layer": 3}, "model/h2/ln_1/g is missing"),
        ({"n_ctx": None}, "n_ctx is None"),
        ({"n_layer": 1}, "'model/h1/ln_1/g' is unknown"),
    ):
        (folder / "hparams.json").write_text(json.dumps(hparams | changes))
        with pytest.raises(CheckpointError, match=phrase):
            load_model(folder)


# ---------------------------------------------------------------- the real thing, where it is at hand


def test_the_real_gpt2_gives_the_known_answers():
    folder = Path(os.environ.get("GPTFT_124M", Path(__file__).parents[1] / "checkpoints" / "124M"))
    if not folder.is_dir():
        pytest.skip(
            "needs OpenAI's checkpoint in checkpoints/124M or $GPTFT_124M: python -m data_prep.gpt2"
        )
    from data_prep.gpt2 import known_answers

    differing = [
        (question, here, known)
        for question, here, known, ok in known_answers(load_model(folder))
        if not ok
    ]
    assert not differing

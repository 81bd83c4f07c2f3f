"""load_model and save_model, compared with files and logits of TensorFlow and transformers.

tests/fixtures/README.md says how the fixtures were made.
"""

import dataclasses
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

from data_prep.gpt2 import known_answers
from gptft.checkpoints.config_json import CLASSIFIER, read_model_info
from gptft.checkpoints.folders import load_model, read_config, save_model
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.data.tokenizer import VOCAB_BPE, Tokenizer, read_vocabulary
from gptft.errors import CheckpointError
from gptft.generate import generate
from gptft.model import GPT2
from scripts import finetune_alpaca, finetune_imdb, pretrain

TINY = GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1)
SMALL = GPT2Config(vocab_size=50257, n_positions=8, n_embd=6, n_layer=1, n_head=2, dropout=0.25)
PEERS = "transformers and peft are the oracles here, and are not installed"


def expected(name):
    with np.load(FIXTURES / name / "expected.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def random_weights(model):
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def edit_json(path, **changes):
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def copy(tmp_path):
    """copy(name): a copy of a fixture's folder that the test may change."""
    return lambda name: shutil.copytree(FIXTURES / name, tmp_path / name)


@pytest.fixture
def hf_lm(copy):
    return copy("hf_lm")


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize("name", ["tf_gpt2", "hf_lm", "hf_lm_sharded"])
def test_logits_of_a_language_model(name):
    # One GPT-2, written by TensorFlow and by transformers, in one file and in two.
    model, known = load_model(FIXTURES / name), expected("tf_gpt2")
    assert isinstance(model, GPT2) and not model.training
    with torch.no_grad():
        close(model(known["token_ids"]), known["logits"])


def test_logits_of_a_classifier():
    # The rows are padded to different lengths: a head that reads a padding position fails here.
    model, known = load_model(FIXTURES / "hf_classifier"), expected("hf_classifier")
    assert isinstance(model, GPT2Classifier) and not model.training
    assert model.class_names == ["no", "maybe", "yes"]
    with torch.no_grad():
        close(model(known["token_ids"], known["lengths"]), known["logits"])


def test_weights_have_memory_of_their_own():
    # Training needs gradients, contiguous weights for the optimizer, and must not change the file.
    model = load_model(FIXTURES / "tf_gpt2")
    for name, weight in model.named_parameters():
        assert weight.requires_grad and weight.is_contiguous(), name
        assert weight.untyped_storage().nbytes() == weight.nbytes, name
    assert not list(model.buffers())


def test_dtype_device_and_dropout(hf_lm):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(hf_lm, dtype=torch.bfloat16, device=device)
    for weight in model.parameters():
        assert weight.dtype == torch.bfloat16 and weight.device.type == device
    assert load_model(hf_lm).config.dropout == 0.1
    model = load_model(hf_lm, dropout=0.3)
    assert model.h[0].attn.dropout == 0.3 and model.drop.p == 0.3
    edit_json(hf_lm / "config.json", attn_pdrop=0.0)
    model = load_model(hf_lm, dropout=0.3)
    assert model.h[0].attn.dropout == 0.0 and model.drop.p == 0.3


def test_half_precision_files_become_float32(tmp_path):
    # In float16, small updates would be lost without an error.
    write_gpt2(tmp_path, TINY, dtype="f2")
    assert {weight.dtype for weight in load_model(tmp_path).parameters()} == {torch.float32}


def test_a_path_in_the_home_folder(hf_lm, monkeypatch):
    monkeypatch.setenv("HOME", str(hf_lm.parent))
    assert read_config("~/hf_lm") == load_model("~/hf_lm").config


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")


# ---------------------------------------------------------------- saving


def test_a_language_model_there_and_back(tmp_path):
    model = random_weights(GPT2(SMALL))
    save_model(model, tmp_path / "a" / "b")
    loaded = load_model(tmp_path / "a" / "b")
    assert isinstance(loaded, GPT2) and same_weights(loaded, model)
    assert loaded.config == model.config
    # A second copy of wte would be a head of its own for readers that do not compare.
    tensors = read_safetensors(tmp_path / "a" / "b" / "model.safetensors")
    assert len(tensors) == len(model.state_dict())


@pytest.mark.parametrize("class_names", [None, ["ham", "späm"]])
def test_a_classifier_there_and_back(tmp_path, class_names):
    model = random_weights(GPT2Classifier(SMALL, class_names=class_names))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, GPT2Classifier) and same_weights(loaded, model)
    assert loaded.class_names == (class_names or ["LABEL_0", "LABEL_1"])
    # transformers leaves id2label out where there are two classes.
    edit_json(tmp_path / "config.json", id2label=None, label2id=None)
    assert load_model(tmp_path).n_classes == 2


def test_attention_dropout_is_kept(tmp_path):
    config = GPT2Config(**(vars(TINY) | {"attention_dropout": 0.0}))
    save_model(GPT2(config), tmp_path)
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("wrap", [torch.compile, lambda model: model.ln_f])
def test_a_compiled_or_foreign_model_is_refused(tmp_path, wrap):
    # Its names would carry "_orig_mod.", and nothing could load them.
    with pytest.raises(ValueError, match="unwrap"):
        save_model(wrap(GPT2(TINY)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_tokenizer_files(tmp_path):
    # The checksums of OpenAI's encoder.json and vocab.bpe cover all 50,257 entries.
    save_model(GPT2(SMALL), tmp_path)
    for name, digest in {
        "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    }.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 50256


def test_a_small_vocabulary_has_no_tokenizer(tmp_path):
    # Id 50256, for padding and the end of a text, would be outside it.
    save_model(GPT2(TINY), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None


# ---------------------------------------------------------------- transformers


LORA = "--train lora --learning-rate 0.1"  # added twice, such an adapter changes every logit
TEXTS = ["One", "Hello wörld, 3.14 \n\n and ", "a fine film"]


@pytest.mark.parametrize(
    "script, flags",
    [
        (pretrain, ""),
        (finetune_imdb, ""),
        (finetune_imdb, LORA),
        (finetune_alpaca, "--template special --test-prompts 0"),
        (finetune_alpaca, f"{LORA} --test-prompts 0"),
    ],
)
def test_transformers_gives_our_logits_for_the_folder_of_a_run(
    tmp_path, monkeypatch, script, flags
):
    transformers = pytest.importorskip("transformers", reason=PEERS)
    monkeypatch.chdir(tmp_path)
    base = GPT2(GPT2Config(n_positions=64, n_embd=8, n_layer=1, n_head=2))
    save_model(random_weights(base), "base")
    row = '{"text": "t %d", "label": "%d", "instruction": "do %d", "output": "it"}\n'
    Path("my.jsonl").write_text("".join(row % (i, i % 2, i) for i in range(20)))
    argv = f"--data my.jsonl --model base --out run --max-length 32 --max-steps 1 {flags}"
    assert script.main(argv.split()) == 0
    model = load_model("run").requires_grad_(False)
    body = getattr(model, "transformer", model)

    tokenizer = Tokenizer(body.special_tokens)
    rows = [tokenizer.encode(text) for text in TEXTS]
    tokenize = transformers.AutoTokenizer.from_pretrained("run")
    batch = tokenize(TEXTS, padding=True, return_tensors="pt")
    token_ids, mask = batch["input_ids"], batch["attention_mask"] == 1
    assert [ids[real].tolist() for ids, real in zip(token_ids, mask)] == rows
    special = "".join(tokenizer.special)
    assert tokenize(special)["input_ids"] == list(tokenizer.special.values())
    hidden = transformers.AutoModel.from_pretrained("run").eval()(**batch).last_hidden_state
    close(hidden[mask] @ body.wte.weight.T, body(token_ids)[mask])

    kind, real, logits = "CausalLM", mask, body(token_ids)
    if model is not body:
        kind, real, logits = "SequenceClassification", ..., model(token_ids, mask.sum(1))
    load = getattr(transformers, f"AutoModelFor{kind}").from_pretrained
    loaded = [load("run")]
    if "lora" in flags:
        peft = pytest.importorskip("peft", reason=PEERS)
        loaded.append(load("run/adapter"))
        loaded.append(getattr(peft, f"AutoPeftModelFor{kind}").from_pretrained("run/adapter"))
    for theirs in loaded:
        close(theirs.eval()(**batch).logits[real], logits[real])

    if model is body:
        pipeline = transformers.pipeline("text-generation", "run")
        found = pipeline(TEXTS, batch_size=3, max_new_tokens=9, do_sample=False)
        for (result,), row, ids in zip(found, rows, generate(model, rows, 9, temperature=0)):
            assert result["generated_text"] == tokenizer.decode(row + ids)
    else:
        pipeline = transformers.pipeline("text-classification", "run")
        for result, p in zip(pipeline(TEXTS, batch_size=3, top_k=None), logits.softmax(1)):
            scores = {row["label"]: row["score"] for row in result}
            assert scores == pytest.approx(dict(zip("01", p.tolist())), abs=1e-5)


# ---------------------------------------------------------------- refused


# A value other than hf_lm's for every key of transformers' GPT2Config.
REFUSED = {
    "model_type": "gpt_neo",
    "architectures": ["GPT2DoubleHeadsModel"],
    "problem_type": "regression",
    "activation_function": "relu",
    "layer_norm_epsilon": 1e-6,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "add_cross_attention": True,
    "tie_word_embeddings": False,
    "n_inner": 24,
}
HONOURED = {
    "vocab_size": 81,
    "n_positions": 17,
    "n_embd": 15,
    "n_layer": 3,
    "n_head": 4,
    "resid_pdrop": 0.2,
    "attn_pdrop": 0.2,
    "architectures": [CLASSIFIER],
    "id2label": {"0": "a", "1": "b"},
}
NO_EFFECT = {
    "architectures": ["GPT2Model"],
    "problem_type": "single_label_classification",
    "activation_function": "gelu_pytorch_tanh",  # the same function
    "n_inner": 48,  # 4 * n_embd, as without the key
    "gptft": {"pooling": "last"},  # of the first edition
    "embd_pdrop": 0.2,  # resid_pdrop replaces it
    "label2id": {"a": 0, "b": 1},  # id2label has the same names
    "bos_token_id": 1,  # <|endoftext|> always begins, ends and pads
    "eos_token_id": 1,
    "pad_token_id": 1,
    "reorder_and_upcast_attn": True,  # rounds differently
    "initializer_range": 0.5,  # of new weights
    "summary_type": "mean",  # of GPT2DoubleHeadsModel, as the next four
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.5,
    "is_encoder_decoder": True,  # GPT-2 has no encoder
    "chunk_size_feed_forward": 1,  # saves memory
    "use_cache": False,  # how a program calls the model, as the next six
    "return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "dtype": "float16",
    "transformers_version": "4.0.0",
    "_name_or_path": "gpt2",
}


@pytest.mark.parametrize(
    "key, value",
    [
        *REFUSED.items(),
        ("architectures", ["GPT2ForTokenClassification"]),
        ("problem_type", "multi_label_classification"),
        ("n_layer", "2"),
        ("n_layer", 10**6),
        ("n_embd", 0),
        ("n_head", 10**12),
        ("n_head", 5),
        ("resid_pdrop", 1.5),
        ("resid_pdrop", "0.1"),
        ("gptft", {"template": ["short"]}),
        ("gptft", {"special_tokens": ["<new>"]}),  # the vocabulary has no id for it
        ("gptft", "short"),
        ("id2label", {"0": "a", "2": "b", "1": 3}),
        ("id2label", {"a": "0"}),
        ("id2label", ["a", "b", "c"]),
    ],
)
def test_other_models_are_refused_by_key_and_value(hf_lm, key, value):
    # The names and shapes of such relatives are GPT-2's. Loaded, they would compute something else.
    edit_json(hf_lm / "config.json", **{key: value})
    word = "dropout" if key == "resid_pdrop" else key
    with pytest.raises(CheckpointError, match=f"{word}.*config.json"):
        load_model(hf_lm)


def test_other_keys_are_honoured_or_have_no_effect(hf_lm):
    path = hf_lm / "config.json"
    before, text = read_model_info(hf_lm), path.read_text()
    for key, value in [*HONOURED.items(), *NO_EFFECT.items()]:
        edit_json(path, **{key: value})
        assert (read_model_info(hf_lm) == before) == (HONOURED.get(key) != value), key
        path.write_text(text)


def test_no_key_of_transformers_is_missing():
    config = pytest.importorskip("transformers", reason=PEERS).GPT2Config
    keys = config().to_dict().keys() | {field.name for field in dataclasses.fields(config)}
    assert keys <= REFUSED.keys() | HONOURED.keys() | NO_EFFECT.keys()


MERGES = VOCAB_BPE.read_text(encoding="utf-8").splitlines()[1:]
IDS = read_vocabulary() | {"<|endoftext|>": 50256}
SWAPPED = IDS | {"a": IDS["b"], "b": IDS["a"]}


@pytest.mark.parametrize(
    "file, content, is_gpt2s",
    [
        ("vocab.json", IDS | {"<new>": 50257}, True),
        ("vocab.json", SWAPPED, False),
        ("vocab.json", read_vocabulary() | {"<pad>": 50256}, False),
        ("merges.txt", "\r\n".join([*MERGES, ""]), True),  # old files have no version
        ("merges.txt", "\n".join(["#version: 0.2", *MERGES[1::-1], *MERGES[2:]]), False),
        ("tokenizer.json", {"model": {"vocab": IDS, "merges": MERGES}}, True),
        ("tokenizer.json", {"model": {"vocab": SWAPPED, "merges": MERGES}}, False),
        ("tokenizer.json", {"model": {"vocab": IDS, "merges": [*MERGES, "in Ġthe"]}}, False),
        ("tokenizer.json", {"model": {"vocab": [["a", -1.5]], "merges": MERGES}}, False),
        ("tokenizer.json", {"model": []}, False),
        ("encoder.json", SWAPPED, False),
        ("vocab.bpe", "\n".join(MERGES[1:]), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_tokenizer_other_than_gpt2s_is_refused(copy, file, content, is_gpt2s):
    # Used with GPT-2's merges, such a model would get ids that mean other words to it.
    text = content if isinstance(content, str) else json.dumps(content)
    for name in ("hf_lm", "tf_gpt2"):
        folder = copy(name)
        (folder / file).write_bytes(text.encode())
        if is_gpt2s:
            load_model(folder)
        else:
            with pytest.raises(CheckpointError, match=f"{file} is not GPT-2's tokenizer, .*{name}"):
                load_model(folder)


@pytest.mark.parametrize("labels", [{"0": "a"}, {"0": "a", "1": "b"}])
def test_names_for_another_number_of_classes(copy, labels):
    folder = copy("hf_classifier")
    edit_json(folder / "config.json", id2label=labels)
    with pytest.raises(CheckpointError, match="config.json"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers(hf_lm, value):
    # From a run that diverged. Training on would give NaN at the first step for no visible reason.
    tensors = read_safetensors(hf_lm / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    tensors["transformer.ln_f.weight"][0] = 1e30  # large, but finite
    write_safetensors(hf_lm / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="weights in h.1.mlp.c_fc.weight, "):
        load_model(hf_lm)


@pytest.mark.parametrize("damage", ["missing", "moved", "outside", "no map", "not JSON"])
def test_shards_that_differ_from_their_index(copy, damage):
    path = copy("hf_lm_sharded") / "model.safetensors.index.json"
    names = json.loads(path.read_text())["weight_map"]
    name, file = next(iter(names.items()))
    if damage == "missing":
        names["transformer.h.9.ln_1.weight"] = file
    elif damage == "moved":
        names[name] = next(other for other in names.values() if other != file)
    elif damage == "outside":
        names[name] = f"../hf_lm_sharded/{file}"
    weight_map = [1] if damage == "no map" else names
    path.write_text("{" if damage == "not JSON" else json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        load_model(path.parent)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", "\xff", "[" * 100_000])
@pytest.mark.parametrize("name, file", [("hf_lm", "config.json"), ("tf_gpt2", "hparams.json")])
def test_a_damaged_config(copy, name, file, text):
    folder = copy(name)
    (folder / file).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=file):
        load_model(folder)


# ---------------------------------------------------------------- the published weights


def test_the_real_gpt2_gives_the_known_answers():
    folder = Path(os.environ.get("GPTFT_124M", Path(__file__).parents[1] / "checkpoints" / "124M"))
    if not folder.is_dir():
        pytest.skip("needs OpenAI's checkpoint, checkpoints/124M: python -m data_prep.gpt2")
    for question, here, known, ok in known_answers(load_model(folder)):
        assert ok, (question, here, known)

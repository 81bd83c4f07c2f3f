"""Low-rank adapters: worked values, what is trained, and files that peft wrote and reads."""

import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy_run
from conftest import ROOT
from mutations import FIXTURES
from script_runs import read, write_rows
from test_folders import close, edit_json
from torch import nn

from gptft.checkpoints.folders import load_model, read_config, save_model
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier
from gptft.config import FinetuneOptions, GPT2Config, TrainOptions
from gptft.errors import CheckpointError, Interrupted
from gptft.lora import TARGETS, LoRALinear, adapters, add_adapters, merged_state
from gptft.model import GPT2
from gptft.training.devices import Device
from gptft.training.optimizer import build_optimizer
from gptft.training.start import set_trainable
from scripts import finetune_imdb

C, L = 12, 2  # width and blocks of the fixtures' model
SMALL = GPT2Config(vocab_size=80, n_positions=16, n_embd=C, n_layer=L, n_head=3, dropout=0.0)
LENGTHS = torch.tensor([16, 5, 1])
MASK = torch.arange(16) < LENGTHS[:, None]
TOKEN_IDS = torch.randint(1, 80, (3, 16), generator=torch.Generator().manual_seed(1)) * MASK


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """The fixtures name their base by a path from here."""
    monkeypatch.chdir(ROOT)


def adapted(kind):
    """A model of the fixtures' base, in eval mode, with adapters and a head that are not zero."""
    torch.manual_seed(0)
    model = load_model(FIXTURES / "hf_lm")
    if kind == "classifier":
        classifier = GPT2Classifier(model.config, 3).eval()
        classifier.transformer = model
        model = classifier
        nn.init.normal_(model.score.weight)
    add_adapters(model, rank=2, alpha=6.0, base="tests/fixtures/hf_lm")
    for layer in adapters(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return model


def logits(model):
    """Of the three rows, without the padding of a language model's."""
    with torch.no_grad():
        if isinstance(model, GPT2Classifier):
            return model(TOKEN_IDS, LENGTHS)
        return model(TOKEN_IDS)[MASK]


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


KINDS = pytest.mark.parametrize("kind", ["language model", "classifier"])


# ---------------------------------------------------------------- the layer


def test_a_layer_by_hand():
    # W = (1 2), b = 3, A = (1 -1), B = 1/2, alpha 2, rank 1 and x = (4, 1):
    # W x + b = 9, A x = 3, and 2/1 * 1/2 * 3 = 3.
    linear = nn.Linear(2, 1)
    linear.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    layer, x = LoRALinear(linear, rank=1, alpha=2.0), torch.tensor([4.0, 1.0])
    assert layer(x).item() == 9  # B starts at zero
    layer.lora_A.data = torch.tensor([[1.0, -1.0]])
    layer.lora_B.data = torch.tensor([[0.5]])
    assert layer(x).item() == 12
    assert layer.merged_weight().tolist() == [[2.0, 1.0]]  # W + 2 * 1/2 * (1 -1)


def test_all_matrices_are_adapted_and_start_as_the_base():
    model = load_model(FIXTURES / "hf_lm")
    before = logits(model)
    add_adapters(model, rank=4)
    assert set(adapters(model)) == {f"h.{i}.{target}" for i in range(L) for target in TARGETS}
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="already"):
        add_adapters(model)


@KINDS
def test_the_merged_state_computes_the_same(kind):
    model = adapted(kind)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = GPT2(SMALL) if kind == "language model" else GPT2Classifier(SMALL, 3)
    plain.load_state_dict(merged_state(model))
    close(logits(plain.eval()), logits(model))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    changed = [name for name, w in plain.state_dict().items() if not torch.equal(w, before[name])]
    assert len(changed) == 4 * L


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("checkpointed", [False, True])
def test_only_the_adapters_and_the_head_change(checkpointed):
    # An optimizer that held a frozen weight would decay it. A recomputed block whose input needs no
    # gradient, because the embeddings are frozen, might pass none on.
    model = GPT2Classifier(SMALL, 3)
    nn.init.normal_(model.score.weight)
    model.transformer.checkpoint_activations = checkpointed
    add_adapters(model, rank=2, alpha=4.0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = build_optimizer(model, TrainOptions(learning_rate=0.01, weight_decay=0.5))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(TOKEN_IDS, LENGTHS), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    expected = {
        f"transformer.{name}.lora_{x}" for name in adapters(model.transformer) for x in "AB"
    }
    assert changed == trainable(model) == expected | {"score.weight"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_training_ends_with_the_same_bits(tmp_path, precision):
    # The state must hold adapters, head and optimizer: the resumed run starts from another A.
    def train(name, seed, **options):
        model = toy_run.toy_model(dropout=0.1)
        torch.manual_seed(seed)
        add_adapters(model, rank=2, base="somewhere")
        device = Device("cpu", precision, False, "test")
        options |= {"epochs": 2, "save_every": 5}
        return toy_run.train(tmp_path / name, model, device, **options)[0]

    straight = train("straight", 1)
    with pytest.raises(Interrupted):
        train("resumed", 1, on_step=toy_run.send(signal.SIGTERM, at=7))
    resumed = train("resumed", 2, resume=True)
    toy_run.assert_equal(straight.state_dict(), resumed.state_dict())
    assert not adapters(load_model(tmp_path / "straight"))  # the best weights are merged


# ---------------------------------------------------------------- files


@KINDS
def test_a_saved_folder_loads_merged_and_its_adapter_loads_on_the_base(tmp_path, kind):
    # Adding the adapter to weights that hold it already would count it twice.
    model = adapted(kind)
    save_model(model, tmp_path)
    # A config.json beside an adapter, which some programs write, is not a model.
    shutil.copy(FIXTURES / "hf_lm" / "config.json", tmp_path / "adapter")
    for folder in (tmp_path, tmp_path / "adapter"):
        loaded = load_model(folder)
        assert type(loaded) is type(model) and not adapters(loaded)
        close(logits(loaded), logits(model))
        assert read_config(folder).n_embd == C


def test_openais_sizes_have_their_hugging_face_names(tmp_path, monkeypatch):
    # "checkpoints/124M" would mean nothing to peft.
    monkeypatch.chdir(tmp_path)
    save_model(GPT2(SMALL), tmp_path / "checkpoints" / "124M")
    model = load_model("checkpoints/124M")
    set_trainable(model, FinetuneOptions(model="124M", train="lora"))
    save_model(model, tmp_path / "run")
    config = read(tmp_path / "run/adapter/adapter_config.json")
    assert config["base_model_name_or_path"] == "gpt2"
    close(logits(load_model(tmp_path / "run/adapter")), logits(model.eval()))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="python -m data_prep.gpt2 --size 124M"):
        load_model(tmp_path / "run/adapter")


@pytest.mark.parametrize("name", ["peft_lm", "peft_classifier"])
def test_logits_of_an_adapter_of_peft(name):
    # The logits are peft's own, with the adapter unmerged. The classifier's has two targets only.
    model = load_model(FIXTURES / name)
    with np.load(FIXTURES / name / "expected.npz") as file:
        arrays = [torch.from_numpy(file[key]) for key in ("token_ids", "lengths", "logits")]
    token_ids, lengths, expected = arrays
    with torch.no_grad():
        if name == "peft_classifier":
            close(model(token_ids, lengths), expected)
        else:
            mask = torch.arange(16) < lengths[:, None]
            close(model(token_ids)[mask], expected[mask])


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("r", 0, "r is 0"),
        ("r", True, "r is True"),
        ("r", 4, r"instead of \[4, 12\]"),  # not the rank of the tensors
        ("lora_alpha", "16", "lora_alpha is '16'"),
        ("use_dora", True, "use_dora is True"),
        ("rank_pattern", {"c_attn": 4}, "rank_pattern"),
        ("some_later_config", {"x": 1}, "some_later_config"),
        ("bias", "all", "bias is 'all'"),
        ("init_lora_weights", "pissa", "pissa"),
        ("peft_type", "IA3", "IA3"),
        ("base_model_name_or_path", 1, "base_model_name_or_path is 1"),
        ("base_model_name_or_path", "no/such/folder", "no/such/folder"),
        pytest.param("base_model_name_or_path", "[" * 5000, "is not here", id="endless name"),
        ("base_model_name_or_path", "tests/fixtures/peft_lm", "neither config.json"),
        ("gptft", {"pooling": "mean"}, "pooling"),
    ],
)
def test_adapters_that_would_compute_something_else(tmp_path, key, value, says):
    # Loaded with W + B A alone, each of these would give other numbers than in peft.
    folder = shutil.copytree(FIXTURES / "peft_classifier", tmp_path / "copy")
    edit_json(folder / "adapter_config.json", **{key: value})
    with pytest.raises(CheckpointError, match=says):
        load_model(folder)


def without(part):
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def plus(name, tensor):
    return lambda tensors: tensors | {f"base_model.model.{name}": tensor}


A = "transformer.h.0.attn.c_attn.lora_A.weight"


@pytest.mark.parametrize(
    "change, says",
    [
        (without("h.1.mlp.c_fc.lora_B"), "h.1.mlp.c_fc.lora_B.weight is missing"),
        (without(""), "h.0.attn.c_attn.lora_A.weight is missing"),
        (plus(A.replace("h.0", "h.2"), torch.ones(3, 12)), "'h.2.attn.* is unknown"),
        (plus("score.weight", torch.ones(3, 13)), r"score.weight has shape \[3, 13\]"),
        (plus(A, torch.ones(3, 12).long()), "has type torch.int64"),
        (plus(A, torch.full((3, 12), torch.nan)), "NaN or infinite"),
    ],
)
def test_damaged_tensors(tmp_path, change, says):
    folder = shutil.copytree(FIXTURES / "peft_lm", tmp_path / "copy")
    tensors = change(read_safetensors(folder / "adapter_model.safetensors"))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=says) as error:
        load_model(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("shape", [{"n_embd": 24}, {"n_layer": 3}, {"n_layer": 1}])
def test_an_adapter_of_another_model(tmp_path, shape):
    save_model(GPT2(GPT2Config(**(vars(SMALL) | shape))), tmp_path / "other")
    folder = shutil.copytree(FIXTURES / "peft_lm", tmp_path / "copy")
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not an adapter of rank 3 for the model .*other"):
        load_model(folder)


# ---------------------------------------------------------------- --train


def test_the_script_trains_adapters(tmp_path):
    save_model(GPT2(GPT2Config(n_positions=64, n_embd=8, n_layer=2, n_head=2)), tmp_path / "base")
    rows = [{"text": f"film {i} was {w}", "label": w} for i in range(30) for w in ("bad", "fine")]
    write_rows(tmp_path / "my.jsonl", rows)
    out = tmp_path / "run"

    def run(flags):
        argv = f"--data {tmp_path}/my.jsonl --model {tmp_path}/base --out {out} {flags}"
        code = finetune_imdb.main(f"{argv} --max-length 16 --precision fp32".split())
        return code, read(out / "results.json")

    lora = "--train lora --lora-rank 2 --max-steps 4 --learning-rate 0.02"
    code, results = run(lora)
    assert code == 0
    config = read(out / "adapter" / "adapter_config.json")
    assert config["r"] == 2 and config["lora_alpha"] == 4
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())

    code, again = run(f"{lora} --resume")
    assert code == 0 and again["test"] == results["test"]

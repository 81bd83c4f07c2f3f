"""Low-rank adapters: worked values, what is trained and what is not, and files that peft wrote and reads."""

import json
import shutil
import signal

import numpy as np
import pytest
import test_trainer
import torch
from conftest import ROOT
from mutations import FIXTURES
from torch import nn

from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier, classification_loss
from gptft.config import LORA_TARGETS, GPT2Config, ModelOptions, TrainableOptions, TrainOptions
from gptft.data.batching import ClassifierBatch
from gptft.errors import CheckpointError, Interrupted, UserError
from gptft.hardware import Hardware, choose_hardware
from gptft.initial import choose_trainable
from gptft.language import add_special_tokens
from gptft.lora import LoRALinear, adapters, add_adapters, merge, merged_state, unmerge
from gptft.model import GPT2
from gptft.optim import build_optimizer
from gptft.pretrained import load_model, read_config, save_model
from scripts import finetune_alpaca, finetune_imdb

C, L = 12, 2  # width and blocks of the fixtures' model
SMALL = GPT2Config(vocab_size=80, n_positions=16, n_embd=C, n_layer=L, n_head=3, dropout=0.0)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """The fixtures name their base by a path from here."""
    monkeypatch.chdir(ROOT)


def adapted(model, **config):
    """The model with adapters that are no longer at their start, in eval mode."""
    add_adapters(model, **{"rank": 2, "alpha": 6.0, "base": "tests/fixtures/hf_lm", **config})
    for layer in adapters(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return model.eval()


def language_model():
    torch.manual_seed(0)
    return GPT2(SMALL)


def classifier(pooling="last"):
    torch.manual_seed(0)
    model = GPT2Classifier(SMALL, 3, pooling, ["a", "b", "c"])
    nn.init.normal_(model.score.weight)
    return model


def batch(n=6):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 17, (n,), generator=generator)
    return ClassifierBatch(
        rows=np.arange(n),
        token_ids=torch.randint(0, 80, (n, 16), generator=generator),
        lengths=lengths,
        labels=torch.arange(n) % 3,
        n=n,
        n_tokens=int(lengths.sum()),
    )


def logits(model):
    token_ids, lengths = batch().token_ids, batch().lengths
    with torch.no_grad():
        return model(token_ids, lengths) if isinstance(model, GPT2Classifier) else model(token_ids)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- the layer


def test_a_layer_by_hand():
    # W = (1 2), b = 3, A = (1 -1), B = 1/2, alpha 2, rank 1; x = (4, 1): W x + b = 9, A x = 3, 2/1 * 1/2 * 3 = 3.
    linear = nn.Linear(2, 1)
    linear.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    layer = LoRALinear(linear, rank=1, alpha=2.0)
    assert layer(torch.tensor([4.0, 1.0])).item() == 9  # B starts at zero
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5]])
    assert layer(torch.tensor([4.0, 1.0])).item() == 12
    assert layer.merged_weight().tolist() == [[2.0, 1.0]]  # W + 2 * 1/2 * (1 -1)


def test_dropout_is_on_the_adapters_input_and_in_training_only():
    layer = LoRALinear(nn.Linear(2, 1), rank=1, alpha=1.0, dropout=0.5)
    for weight, values in (
        (layer.weight, [[0.0, 0.0]]),
        (layer.bias, [7.0]),
        (layer.lora_A, [[1.0, 2.0]]),
        (layer.lora_B, [[1.0]]),
    ):
        weight.data = torch.tensor(values)
    seen = {layer(torch.ones(2)).item() for _ in range(200)}
    assert seen == {7.0, 9.0, 11.0, 13.0}  # 7 from the base, and 2 * (1 or 0) + 2 * (2 or 0)
    assert layer.eval()(torch.ones(2)).item() == 10.0


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("attn.c_proj",), ("mlp.c_proj", "attn.c_attn")])
def test_only_what_is_named_is_adapted_and_the_start_is_the_base(targets):
    # "c_proj" stands in attention and in the MLP; B = 0 must leave every logit as it was.
    model = language_model().eval()
    before = logits(model)
    add_adapters(model, rank=4, targets=targets)
    assert set(adapters(model)) == {
        f"h.{layer}.{target}" for layer in range(L) for target in targets
    }
    assert torch.equal(logits(model), before)
    with pytest.raises(UserError, match="without adapters"):
        add_adapters(model)
    for wrong in (dict(rank=0), dict(targets=("c_proj",)), dict(targets=())):
        with pytest.raises(UserError, match="the rank must be at least 1"):
            add_adapters(GPT2(SMALL), **wrong)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_only_the_adapters_and_the_head(checkpointed):
    # With decay on, an optimizer that held a frozen weight would shrink it without any gradient. A recomputed block whose
    # input needs no gradient (the embeddings are frozen) could pass none on.
    model = classifier("mean")
    model.transformer.checkpoint_activations = checkpointed
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_adapters(model, rank=2, alpha=4.0, dropout=0.1)
    options = TrainOptions(learning_rate=0.01, weight_decay=0.5)
    optimizer = build_optimizer(model, options, "cpu")
    for _ in range(3):
        optimizer.zero_grad()
        classification_loss(model, batch()).backward()
        with_gradient = {
            name
            for name, p in model.named_parameters()
            if p.grad is not None and p.grad.abs().max() > 0
        }
        optimizer.step()
    expected = {
        f"transformer.h.{i}.{target}.lora_{letter}"
        for i in range(L)
        for target in LORA_TARGETS
        for letter in "AB"
    }
    assert with_gradient == expected | {"score.weight"}
    after = model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        "score.weight"
    ]
    # C = 12, rank 2: 2 * (12+36 + 12+12 + 12+48 + 48+12) = 384 a block; the head has 3 * 12.
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in trained) == L * 384 + 36


@pytest.mark.parametrize(
    "hardware",
    [Hardware("cpu", "fp32", False, "test"), Hardware("cpu", "bf16", False, "test")],
    ids=["fp32", "bf16"],
)
def test_stopped_and_resumed_training_ends_with_the_same_bits(tmp_path, monkeypatch, hardware):
    # The state must hold adapters, head and optimizer; what is saved as best is a plain model, and the adapter beside it.
    def model(seed):
        model = test_trainer.toy_model(0.1)
        torch.manual_seed(
            seed
        )  # where A starts differs: only the state can make the resumed run equal
        add_adapters(model, rank=2, dropout=0.2, base="somewhere")
        return model

    straight, fitted = test_trainer.train(
        tmp_path / "straight", model(1), hardware, epochs=2, save_every=5
    )
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        test_trainer.signal_after(7, signal.SIGTERM, patch)
        test_trainer.train(tmp_path / "resumed", model(1), hardware, epochs=2, save_every=5)
    resumed, _ = test_trainer.train(
        tmp_path / "resumed", model(2), hardware, epochs=2, save_every=5, resume=True
    )
    assert test_trainer.equal_weights(straight, resumed)
    base = test_trainer.toy_model().transformer.state_dict()
    trained = straight.transformer.state_dict()
    assert all(torch.equal(trained[name], base[name]) for name in base) and fitted.best_step > 0
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors"} <= {
        p.name for p in (tmp_path / "straight").iterdir()
    }
    assert not adapters(load_model(tmp_path / "straight"))


# ---------------------------------------------------------------- merging and files


def test_compiled_adapters_train_as_uncompiled_ones(tmp_path):
    compiled = choose_hardware("cpu", "fp32", "on")
    if not compiled.compile:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    losses = []
    for name, hardware in {"plain": test_trainer.FP32, "compiled": compiled}.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = test_trainer.toy_model(n_layer=1)
        torch.nn.init.normal_(model.score.weight)
        add_adapters(model, 2, 8.0)
        test_trainer.train(
            tmp_path / name, model, hardware, epochs=2, learning_rate=1e-2, log_every=1
        )
        losses.append([row["loss"] for row in test_trainer.read_log(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("make", [language_model, classifier])
def test_merged_equals_unmerged_and_unmerging_gives_the_base_back(make):
    model, plain = adapted(make()), make().eval()
    unmerged, before = (
        logits(model),
        {name: weight.clone() for name, weight in model.state_dict().items()},
    )
    assert (unmerged - logits(plain)).abs().max() > 0.01  # or nothing would be tested
    plain.load_state_dict(merged_state(model))
    close(logits(plain), unmerged)
    for _ in range(2):  # twice must not add twice
        merge(model)
        close(logits(model), unmerged)
        merged = model.state_dict()
        assert sum(not torch.equal(merged[name], before[name]) for name in before) == 4 * L
    for _ in range(2):
        unmerge(model)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before) and torch.equal(
            logits(model), unmerged
        )


@pytest.mark.parametrize("state", ["unmerged", "merged"])
def test_a_folder_with_both_loads_the_merged_model_once(tmp_path, state):
    # Adding the adapter to weights that hold it already would count it twice.
    model = adapted(load_model(FIXTURES / "hf_lm"))
    expected = logits(model)
    if state == "merged":
        merge(model)
    save_model(model, tmp_path)
    close(logits(load_model(tmp_path)), expected)
    assert bare_adapter(tmp_path)
    close(logits(load_model(tmp_path)), expected)  # now from the base and the adapter
    assert read_config(tmp_path) == GPT2Config(80, 16, C, L, 3)


def bare_adapter(folder):
    """Leave only the adapter in a folder -> its config."""
    for path in folder.iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_classifiers_adapter_there_and_back(tmp_path, pooling):
    # Its base is a language model: the head, and how it reads, come from the adapter.
    model = adapted(GPT2Classifier.on(load_model(FIXTURES / "hf_lm"), 3, pooling))
    nn.init.normal_(model.score.weight)
    expected = logits(model)
    save_model(model, tmp_path)
    saved = bare_adapter(tmp_path)
    assert saved["modules_to_save"] == ["score"] and ("gptft" in saved) == (pooling == "mean")
    loaded = load_model(tmp_path)
    assert loaded.pooling == pooling and not adapters(loaded)
    close(logits(loaded), expected)


def test_openais_sizes_are_named_as_hugging_face_names_them(tmp_path, monkeypatch):
    # "checkpoints/124M" would mean nothing to peft, and "gpt2" would mean nothing here.
    monkeypatch.chdir(tmp_path)
    save_model(GPT2(SMALL), tmp_path / "checkpoints" / "124M")
    model = load_model("checkpoints/124M")
    choose_trainable(model, TrainableOptions("lora"), ModelOptions(model="124M"))
    save_model(model, tmp_path / "run")
    assert bare_adapter(tmp_path / "run")["base_model_name_or_path"] == "gpt2"
    close(logits(load_model(tmp_path / "run")), logits(model.eval()))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="python -m data_prep.gpt2 --size 124M"):
        load_model(tmp_path / "run")


# ---------------------------------------------------------------- peft


@pytest.mark.parametrize("name", ["peft_lm", "peft_classifier"])
def test_logits_of_an_adapter_that_peft_wrote(name):
    # The logits are peft's own, with the adapter unmerged.
    model = load_model(FIXTURES / name)
    with np.load(FIXTURES / name / "expected.npz") as file:
        token_ids, lengths, expected = (
            torch.from_numpy(file[key]) for key in ("token_ids", "lengths", "logits")
        )
    with torch.no_grad():
        found = model(token_ids, lengths) if name == "peft_classifier" else model(token_ids)
    for row, length in enumerate(
        lengths if name == "peft_lm" else ()
    ):  # what follows a text's end is nobody's
        close(found[row, :length], expected[row, :length])
    if name == "peft_classifier":
        close(found, expected)


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("mlp.c_proj",)])
@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_peft_loads_an_adapter_of_ours(tmp_path, kind, targets):
    peft = pytest.importorskip("peft", reason="peft is the oracle here, and is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is the oracle here, and is not installed"
    )
    model = load_model(FIXTURES / "hf_lm")
    if kind == "classifier":
        model = GPT2Classifier.on(model, 3)
        nn.init.normal_(model.score.weight)
        base = transformers.GPT2ForSequenceClassification.from_pretrained(
            FIXTURES / "hf_lm", num_labels=3, pad_token_id=0
        )
    else:
        base = transformers.GPT2LMHeadModel.from_pretrained(FIXTURES / "hf_lm")
    model = adapted(model, targets=targets)
    save_model(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    lengths = torch.tensor([16, 5, 1])
    mask = torch.arange(16) < lengths[:, None]
    token_ids = torch.randint(1, 80, (3, 16)) * mask
    with torch.no_grad():
        expected = theirs(token_ids, attention_mask=mask.long()).logits
        if kind == "classifier":
            close(model(token_ids, lengths), expected)
        else:
            close(model(token_ids)[mask], expected[mask])


# ---------------------------------------------------------------- what is refused


def edit(folder, **changes):
    """Set keys of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(path).items()}
    change(tensors)
    write_safetensors(path, tensors)


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("r", 0, "r is 0"),
        ("r", True, "r is True"),
        ("r", 4, "instead of .*4"),  # not the rank of the tensors
        ("lora_alpha", "16", "lora_alpha is '16'"),
        ("use_dora", True, "use_dora is True"),
        ("use_rslora", True, "use_rslora is True"),
        ("rank_pattern", {"c_attn": 4}, "rank_pattern"),
        ("some_later_config", {"x": 1}, "some_later_config"),
        ("bias", "all", "bias is 'all'"),
        ("init_lora_weights", "pissa", "pissa"),
        ("peft_type", "IA3", "IA3"),
        ("base_model_name_or_path", None, "base_model_name_or_path is None"),
        ("base_model_name_or_path", "no/such/folder", "no/such/folder"),
        pytest.param(
            "base_model_name_or_path", "[" * 5000, "base model is not here", id="endless name"
        ),
        ("base_model_name_or_path", "tests/fixtures/peft_lm", "neither config.json"),
        ("gptft", {"pooling": "max"}, "pooling"),
    ],
)
def test_adapters_that_would_compute_something_else(tmp_path, key, value, says):
    # Each of these would load with B A alone, without an error, and give other numbers than in peft.
    folder = shutil.copytree(FIXTURES / "peft_classifier", tmp_path / "copy")
    edit(folder, **{key: value})
    with pytest.raises(CheckpointError, match=says):
        load_model(folder)


@pytest.mark.parametrize(
    "change, says",
    [
        (
            lambda t: t.pop("base_model.model.transformer.h.1.mlp.c_fc.lora_B.weight"),
            r"h.1.mlp.c_fc has \{'A'.* instead of .*'B'",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if ".h.1." in name],
            "h.1.attn.c_attn has no adapter",
        ),
        (
            lambda t: t.update(
                {name.replace(".h.1.", ".h.2."): tensor for name, tensor in t.items()}
            ),
            "the base has no h.2",
        ),
        (
            lambda t: t.update(
                {"base_model.model.transformer.wte.lora_A.weight": torch.ones(2, 2)}
            ),
            "wte.lora_A.weight' is unknown",
        ),
        (
            lambda t: t.update({"base_model.model.score.weight": torch.ones(3, 13)}),
            "score.weight' is unknown, or of another",
        ),
        (lambda t: t.update({name: tensor.long() for name, tensor in t.items()}), "another type"),
        (lambda t: t.clear(), "it holds none"),
        (
            lambda t: t["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].fill_(
                float("nan")
            ),
            "NaN or infinite",
        ),
    ],
)
def test_damaged_tensors(tmp_path, change, says):
    folder = shutil.copytree(FIXTURES / "peft_lm", tmp_path / "copy")
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=says) as error:
        load_model(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("shape", [dict(n_embd=24), dict(n_layer=3), dict(n_layer=1)])
def test_an_adapter_of_another_model(tmp_path, shape):
    # Width, more blocks, fewer blocks: the message names the base and what differs.
    save_model(GPT2(GPT2Config(**(vars(SMALL) | shape))), tmp_path / "other")
    folder = shutil.copytree(FIXTURES / "peft_lm", tmp_path / "copy")
    edit(folder, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not an adapter of the model .*other") as error:
        load_model(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


# ---------------------------------------------------------------- --train


def test_what_each_choice_trains():
    """Counts by hand: a block has 12 C^2 + 13 C weights, ln_f 2 C, the head 3 C; embeddings (80 + 16) C."""
    block, total = 12 * C * C + 13 * C, 96 * C + L * (12 * C * C + 13 * C) + 2 * C + 3 * C
    start = ModelOptions(model="tests/fixtures/hf_lm")
    for options, n in (
        (TrainableOptions(), total),
        (TrainableOptions("last-block"), block + 5 * C),
        (TrainableOptions("head"), 3 * C),
        (TrainableOptions("lora", lora_rank=3, lora_targets="attn.c_proj"), L * 3 * 2 * C + 3 * C),
    ):
        model = classifier()
        line = choose_trainable(model, options, start)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == n
        assert (
            f": {n:,} of {total:,} parameters; optimizer {8 * n / 1e6:,.1f} MB; saved model {4 * total / 1e6:,.1f} MB"
            in line
        )
    with pytest.raises(
        UserError, match="on attn.c_attn, c_proj; .* the targets some of attn.c_attn, attn.c_proj"
    ):
        choose_trainable(
            GPT2(SMALL), TrainableOptions("lora", lora_targets="attn.c_attn,c_proj"), start
        )
    model = GPT2(SMALL)
    choose_trainable(model, TrainableOptions("last-block"), start)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {
        "h",
        "ln_f",
    }
    model = GPT2(SMALL)
    choose_trainable(model, TrainableOptions("head"), start)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["wte.weight"]


def test_new_tokens_are_not_left_untrained():
    # Frozen at the mean of all rows, the marks of a conversation's turns would be one and the same vector for ever.
    model = GPT2(GPT2Config(n_positions=4, n_embd=4, n_layer=1, n_head=1))
    add_special_tokens(model, ["<a>", "<b>"])
    for train in ("lora", "last-block"):
        with pytest.raises(UserError, match="untrained"):
            choose_trainable(
                model, TrainableOptions(train), ModelOptions(model="tests/fixtures/hf_lm")
            )
    model.wte.weight.data[-1] += 1  # a model that has learned them
    model.requires_grad_(True)
    assert "parameters" in choose_trainable(model, TrainableOptions("last-block"), ModelOptions())


@pytest.fixture
def start(tmp_path):
    """The folder of a small model with GPT-2's vocabulary, and a file of texts with a class each."""
    torch.manual_seed(0)
    save_model(GPT2(GPT2Config(n_positions=64, n_embd=8, n_layer=2, n_head=2)), tmp_path / "base")
    rows = [
        {"text": f"film {i} was {word}", "label": label}
        for i in range(30)
        for label, word in (("bad", "dull"), ("good", "fine"))
    ]
    (tmp_path / "my.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return [
        "--data",
        tmp_path / "my.jsonl",
        "--model",
        tmp_path / "base",
        "--max-length",
        16,
        "--precision",
        "fp32",
    ]


def finetune(script, *argv):
    return script.main([*map(str, argv)])


def test_the_script_trains_adapters_and_its_run_folder_loads_both_ways(tmp_path, start, capsys):
    out = tmp_path / "run"
    argv = [
        *start,
        "--out",
        out,
        "--train",
        "lora",
        "--lora-rank",
        2,
        "--max-steps",
        4,
        "--learning-rate",
        0.02,
    ]
    assert finetune(finetune_imdb, *argv) == 0
    printed = capsys.readouterr().out
    # C = 8, rank 2: 2 * (8+24 + 8+8 + 8+32 + 32+8) = 256 a block, and a head of 2 * 8.
    assert (
        "adapters of rank 2 (alpha 4, dropout 0.1) on attn.c_attn" in printed
        and ": 528 of " in printed
    )
    assert "rate 0.02" in printed
    saved = json.loads((out / "adapter_config.json").read_text())
    assert (
        saved["r"] == 2
        and saved["lora_alpha"] == 4
        and saved["base_model_name_or_path"] == str((tmp_path / "base").resolve())
    )
    run = load_model(out)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapter").mkdir(exist_ok=True)
        shutil.copy(out / name, tmp_path / "adapter")
    ids, lengths = torch.randint(0, 50257, (3, 12)), torch.tensor([12, 3, 1])
    with torch.no_grad():
        close(load_model(tmp_path / "adapter")(ids, lengths), run(ids, lengths))
    before = (out / "results.json").read_text()
    assert finetune(finetune_imdb, *argv, "--resume") == 0
    assert json.loads((out / "results.json").read_text())["test"] == json.loads(before)["test"]
    assert (
        finetune(
            finetune_imdb,
            *argv[:-4],
            "--max-steps",
            4,
            "--lora-alpha",
            3,
            "--learning-rate",
            0.02,
            "--resume",
        )
        == 2
    )
    assert "lora_alpha was None, is 3.0" in capsys.readouterr().err
    assert (
        finetune(finetune_imdb, *start, "--out", out, "--overwrite", "--max-steps", 1) == 0
    )  # all weights: no adapter stays behind
    assert not (out / "adapter_config.json").exists() and "all weights" in capsys.readouterr().out


def test_instructions_with_adapters(tmp_path, start, capsys, monkeypatch):
    monkeypatch.setattr(
        "gptft.evaluate.load_tasks", lambda: __import__("gptft.tasks").tasks.load_tasks()[::50]
    )
    monkeypatch.setattr("gptft.evaluate.TASK_TOKENS", 4)
    monkeypatch.setattr("gptft.evaluate.RESPONSE_TOKENS", 4)
    rows = [{"instruction": f"say {i}", "input": "", "output": f"{i}"} for i in range(40)]
    (tmp_path / "my.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    argv = [
        *start,
        "--max-steps",
        2,
        "--test-prompts",
        1,
        "--template",
        "short",
        "--max-length",
        40,
    ]
    assert finetune(finetune_alpaca, *argv, "--train", "lora", "--out", tmp_path / "run") == 0
    assert "rate 0.0002" in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["val"]["loss"] != results["base"]["val"]["loss"]
    assert (
        json.loads((tmp_path / "run" / "adapter_config.json").read_text())["task_type"]
        == "CAUSAL_LM"
    )
    assert (
        finetune(
            finetune_alpaca,
            *argv,
            "--train",
            "lora",
            "--out",
            tmp_path / "new",
            "--template",
            "special",
        )
        == 2
    )
    assert "new tokens" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--train", "lora", "--from-scratch"], "--train lora adapts learned weights"),
        (["--train", "all"], "--train"),
        (["--lora-rank", "4"], "--lora-rank goes with --train lora"),
        (
            ["--train", "head", "--lora-alpha", "4"],
            "--lora-alpha goes with --train lora, but --train is head",
        ),
        (["--train", "lora", "--lora-rank", "0"], "--lora-rank must be from 1"),
    ],
)
def test_mistakes_get_one_line(tmp_path, capsys, argv, says):
    assert finetune(finetune_imdb, *argv, "--out", tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("error: ")
        and err.count("\n") == 1
        and says in err
        and not (tmp_path / "run").exists()
    )

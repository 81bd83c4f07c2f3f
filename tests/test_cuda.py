"""On a GPU: the numbers of a CPU, in every precision, compiled and recorded. About a minute.

Skipped where there is no GPU.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from toy_run import OPTIONS

from gptft import GPT2, GPT2Classifier, GPT2Config, Tokenizer, load_model
from gptft.data.batches import TrainBatches, classifier_batch
from gptft.data.classification import IMDbDataset
from gptft.data.examples import load_reviews
from gptft.errors import Interrupted
from gptft.evaluation.classification import log_probabilities
from gptft.generation import decoding
from gptft.training.devices import Device, choose_device
from gptft.training.loop import fit
from gptft.training.run_folder import open_run
from scripts import finetune_imdb

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CONFIG = GPT2Config(vocab_size=50257, n_positions=128, n_embd=64, n_layer=1, n_head=4, dropout=0.0)
CPU = Device("cpu", "fp32", False, "")
# The largest difference that the precision explains, as a share of the largest value.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 5e-3}


def on_cuda(precision, compile=False):
    return Device("cuda", precision, compile, "")


def options(tmp_path, **changes):
    few = dict(epochs=1, max_steps=12, micro_batch_size=4, learning_rate=1e-3, max_length=64)
    return dataclasses.replace(OPTIONS, eval_every=6, out=str(tmp_path), **few | changes)


def close(found, wanted, precision):
    found, wanted = found.float().cpu(), wanted.float().cpu()
    return (found - wanted).abs().max() <= TOLERANCE[precision] * wanted.abs().max()


@pytest.mark.parametrize("settings", [dict(temperature=0), dict(seed=3), dict(seed=4, top_p=0.9)])
def test_recorded_generation_is_plain_generation(settings, monkeypatch):
    model = load_model(ROOT / "gptft" / "assets" / "mini", device="cuda")
    tokenizer = Tokenizer()
    texts = ["The film", "Once", "I never thought that a film about dogs", "Worst. Ending."]
    prompts = [tokenizer.encode(text) for text in texts]

    def write():
        return decoding.generate(model, prompts, 80, eos_id=tokenizer.eot, **settings)

    recorded = write()
    monkeypatch.setattr(decoding, "recorded_step", decoding.plain_step)
    assert recorded == write()
    one = decoding.generate(model, prompts[:1], 1, eos_id=tokenizer.eot, **settings)
    assert one[0] == recorded[0][:1]
    if settings.get("temperature") == 0:
        on_cpu = decoding.generate(model.cpu(), prompts, 20, eos_id=tokenizer.eot, **settings)
        assert [ids[:20] for ids in recorded] == on_cpu


def test_recorded_generation_in_bf16_runs_and_ends():
    model = load_model(ROOT / "gptft" / "assets" / "mini", dtype=torch.bfloat16, device="cuda")
    ids = decoding.generate(model, [[50256], [464, 2646]], 40, seed=0, eos_id=50256)
    assert all(1 <= len(row) <= 40 for row in ids)


def loss_and_gradients(device):
    torch.manual_seed(0)
    model = GPT2(CONFIG).to(device.name)
    ids = torch.randint(50257, (4, 65), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[0, :20] = -100
    with device.autocast():
        loss = model(ids[:, :-1].to(device.name), targets=targets.to(device.name))
    (loss / 100).backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_loss_and_gradients_are_those_of_the_cpu(precision):
    wanted_loss, wanted = loss_and_gradients(CPU)
    loss, gradients = loss_and_gradients(on_cuda(precision))
    assert close(loss, wanted_loss, precision)
    for name, gradient in gradients.items():
        assert close(gradient, wanted[name], precision), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_classifier_logits_are_those_of_the_cpu(precision):
    torch.manual_seed(0)
    model = GPT2Classifier(CONFIG, 3).eval()
    torch.nn.init.normal_(model.score.weight)
    ids = torch.randint(50257, (4, 60))
    lengths = torch.tensor([60, 1, 17, 33])
    with torch.no_grad():
        wanted = model(ids, lengths)
        with on_cuda(precision).autocast():
            found = model.cuda()(ids.cuda(), lengths.cuda())
    assert close(found, wanted, precision)


@pytest.fixture(scope="module")
def reviews():
    return load_reviews()


def train(device, reviews, options):
    """A short training run of a small model -> (losses, log-probabilities on val)."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, dropout=options.dropout)
    model = GPT2Classifier(config, 2, ["neg", "pos"]).to(device.name)
    tokenizer = Tokenizer()
    datasets = {
        split: IMDbDataset(reviews.splits[split], tokenizer, options.max_length)
        for split in ("train", "val")
    }
    batches = TrainBatches(datasets["train"], classifier_batch, options)
    settings = dataclasses.asdict(options)
    run = open_run(options.out, ["test"], settings, resume=options.resume)
    val = datasets["val"]

    def val_metrics(model):
        log_probs = log_probabilities(model, val, device)
        return {"loss": float(-log_probs[np.arange(len(val)), val.labels].mean())}

    fit(model, batches, val_metrics, options, device, run)
    log = [json.loads(line) for line in run.log_file.read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in log if "learning_rate" in row]
    return torch.tensor(losses), torch.from_numpy(log_probabilities(model, val, device))


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_is_that_of_the_cpu(precision, compile, reviews, tmp_path):
    wanted, _ = train(CPU, reviews, options(tmp_path / "wanted"))
    found, _ = train(on_cuda(precision, compile), reviews, options(tmp_path / "found"))
    assert len(found) == len(wanted) == 12
    if precision == "fp32":
        assert torch.allclose(found, wanted, rtol=2e-3)
    else:  # small differences grow from step to step
        assert (found - wanted).abs().max() < 0.1


def test_a_resumed_run_ends_with_the_same_bits(reviews, tmp_path, monkeypatch):
    device = on_cuda("bf16")
    whole = options(tmp_path / "whole", dropout=0.1, save_every=4)
    _, wanted = train(device, reviews, whole)
    part = dataclasses.replace(whole, out=str(tmp_path / "part"))
    calls = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr("gptft.distributed.largest", lambda number: 2 if next(calls) == 5 else 0)
        with pytest.raises(Interrupted):
            train(device, reviews, part)
    _, found = train(device, reviews, dataclasses.replace(part, resume=True))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_evaluation_is_that_of_the_cpu(precision, reviews):
    model = load_model(ROOT / "gptft" / "assets" / "mini")
    model = GPT2Classifier(model.config, 2, ["neg", "pos"], body=model)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    dataset = IMDbDataset(reviews.splits["val"], Tokenizer(), 256)
    wanted = log_probabilities(model, dataset, CPU)
    found = log_probabilities(model.cuda(), dataset, on_cuda(precision))
    assert np.abs(found - wanted).max() < 10 * TOLERANCE[precision]


def test_auto_chooses_the_gpu():
    device = choose_device(n_steps=10_000)
    assert device.name == "cuda" and device.precision in ("bf16", "fp16")
    assert not choose_device(n_steps=5).compile


def test_the_first_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--max-steps", "8", "--max-length", "64", "--out", "run"]
    assert finetune_imdb.main(flags) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["device"] == "cuda" and results["test"]["n"] == 200

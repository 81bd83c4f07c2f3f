"""scripts/pretrain.py on models that train in a second."""

import math
import signal

import pytest
from script_runs import RESULT_KEYS, TINY, read, run, save_base, write_rows

from gptft import Tokenizer
from gptft.data.documents import load_documents
from gptft.training.loop import Trainer
from scripts import pretrain


@pytest.fixture
def data(tmp_path):
    """A file of 60 short documents that are all alike."""
    rows = [{"text": f"{i} is the number and the end is near, as it is"} for i in range(60)]
    return write_rows(tmp_path / "my.jsonl", rows)


@pytest.fixture(autouse=True)
def less_work(monkeypatch):
    monkeypatch.setattr(pretrain, "NEW_TOKENS", 4)
    monkeypatch.setattr(pretrain, "EVAL_TOKENS", 3000)


def test_own_data_is_learned_and_reported(tmp_path, data, capsys):
    out = tmp_path / "run"
    flags = TINY | dict(data=data, out=out, epochs=6, max_length=32, batch_size=4)
    assert run(pretrain, **flags, learning_rate=0.03) == 0
    printed = capsys.readouterr().out
    results, rows = read(out / "results.json"), read(out / "predictions.jsonl")
    assert set(results) > RESULT_KEYS
    tokenizer = Tokenizer()
    for split, texts in load_documents(data, 0).splits.items():
        m = results[split]
        assert m["n"] == len(texts) == (48 if split == "train" else 6)
        assert m["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in texts)
        n_bytes = sum(map(len, texts))
        assert m["loss"] * m["tokens"] == pytest.approx(m["bits_per_byte"] * n_bytes * math.log(2))
        if split == "val":
            assert all(text.startswith(row["prompt"]) for text, row in zip(texts, rows))
    assert results["val"]["loss"] < 4  # that of a uniform model is 10.8
    assert len(rows) == 2
    for row in rows:
        assert row["prompt"] in printed and row["response"] in printed
    assert "left 0 texts of val or test out of train" in printed
    assert (out / "report.html").exists()


def test_trial_run_on_the_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gptft.training.start.BUNDLED", save_base(tmp_path / "base"))
    monkeypatch.setattr("gptft.training.loop.quality", lambda metrics: 0)  # the first is the best
    out = tmp_path / "run"
    flags = dict(max_steps=2, eval_every=1, max_length=32, precision="fp32")
    assert run(pretrain, **flags, out=out) == 0
    first = capsys.readouterr().out.split("step ")[0]
    assert "python scripts/pretrain.py --data data/imdb" in first
    best, last = [row["val"]["loss"] for row in read(out / "metrics.jsonl") if "val" in row]
    assert read(out / "results.json")["val"]["loss"] == pytest.approx(best, abs=1e-6) != last


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(tmp_path, data, monkeypatch):
    flags = TINY | dict(data=data, epochs=2, dropout=0.1, eval_every=4, max_length=32, batch_size=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(pretrain, **flags, out=whole) == 0
    step = Trainer.train_step

    def step_and_interrupt(self):
        step(self)
        if self.position.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_and_interrupt)
        assert run(pretrain, **flags, out=parts) == 130
    assert run(pretrain, **flags, out=parts, resume=True) == 0
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert read(whole / "results.json")["val"] == read(parts / "results.json")["val"]

"""scripts/finetune_imdb.py on models that train in a second."""

import re

import numpy as np
import pytest
import torch
from script_runs import RESULT_KEYS, TINY, changed_names, read, run, save_base, write_films

from gptft import GPT2Classifier, Tokenizer, load_model
from gptft.data.examples import load_reviews
from gptft.evaluation.metrics import classification_metrics
from gptft.report.page import write_page
from scripts import finetune_alpaca, finetune_imdb, pretrain


@pytest.fixture
def data(tmp_path):
    return write_films(tmp_path / "my.jsonl")


def test_own_data_is_learned_and_reported(tmp_path, data, capsys):
    out = tmp_path / "run"
    flags = TINY | dict(data=data, out=out, epochs=12, learning_rate=0.01, dropout=0)
    flags |= dict(max_length=4, truncate="tail")
    assert run(finetune_imdb, **flags) == 0
    printed = capsys.readouterr().out
    assert "set aside 12 for val and 12 for test of 120 training records" in printed
    assert "a shape of your own, random weights" in printed

    # predictions.jsonl has each test row once; the saved model predicts them, alone, as reported.
    results, rows = read(out / "results.json"), read(out / "predictions.jsonl")
    test = load_reviews(data).splits["test"]
    model, tokenizer = load_model(out), Tokenizer()
    for row, review in zip(rows, test, strict=True):
        assert (row["id"], row["label"]) == (review.id, review.label)
        ids = tokenizer.encode(review.text)[-4:]
        logits = model(torch.tensor([ids]), torch.tensor([4]))[0]
        assert row["probabilities"] == pytest.approx(logits.softmax(-1).tolist(), abs=2e-6)
    log_probs = np.log([row["probabilities"] for row in rows])
    m = classification_metrics([review.label for review in test], log_probs)
    assert results["test"] == m | {"loss": pytest.approx(m["loss"], abs=1e-3)}
    assert m["accuracy"] == 1.0
    assert [results[split]["n"] for split in ("train", "val", "test")] == [96, 12, 12]
    assert results["classes"] == ["bad", "good", "so-so"]
    assert set(results) > RESULT_KEYS

    assert {"step", "loss", "learning_rate", "grad_norm"} < set(read(out / "metrics.jsonl")[0])
    assert "scripts/finetune_imdb.py" in read(out / "run.json")["command"]
    assert "so-so" in (out / "report.html").read_text(encoding="utf-8")
    assert read(out / "examples.jsonl") and (out / "last" / "state.pt").exists()

    # A finished run is kept. Resumed, it reports the same: from a file that was moved, but not
    # from other texts.
    assert run(finetune_imdb, **flags) == 2
    moved = data.rename(tmp_path / "moved.jsonl")
    assert run(finetune_imdb, **flags | dict(data=moved), resume=True) == 0
    moved.write_text(moved.read_text().replace("good", "zzz"))
    assert run(finetune_imdb, **flags | dict(data=moved), resume=True) == 2
    assert "the texts have changed (80 of 120 are new)" in capsys.readouterr().err
    assert read(out / "results.json")["test"] == results["test"]


def test_trial_run_on_the_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gptft.training.start.BUNDLED", save_base(tmp_path / "base"))
    monkeypatch.setattr("gptft.training.loop.quality", lambda metrics: 0)  # the first is the best
    rows_in_page = []

    def page(folder):
        # It is renewed at each evaluation. A disk that is full then does not end the run.
        rows_in_page.append(len(read(folder / "metrics.jsonl")))
        if len(rows_in_page) == 2:
            raise OSError("full")
        write_page(folder)
        assert (folder / "report.html").exists()

    monkeypatch.setattr(finetune_imdb, "write_page", page)
    out = tmp_path / "run"
    flags = dict(max_steps=2, eval_every=1, max_length=16, precision="fp32")
    assert run(finetune_imdb, **flags, out=out) == 0
    first, tables = capsys.readouterr().out.split("step ", 1)
    assert "python scripts/finetune_imdb.py --data data/imdb --model 124M" in first
    assert "480 train, 120 val, 200 test, 640 implied" in first
    assert "mini, pretrained weights (bundled)" in first
    assert rows_in_page == [2, 4, 4]
    results = read(out / "results.json")
    assert results["implied"]["n"] == 640
    best, last_val = [row["val"]["loss"] for row in read(out / "metrics.jsonl") if "val" in row]
    assert results["val"]["loss"] == pytest.approx(best, abs=1e-6) != last_val
    for features in ("nbsvm", "unigram"):
        assert f"the network against {features}" in tables
        assert f"the network against {features}, 200 test rows" in tables


@pytest.mark.parametrize(
    "train, pattern",
    [
        ("full", ""),
        ("lora", r"score|.*\.(c_attn|c_fc|c_proj)\.weight"),
        ("head", "score"),
    ],
)
def test_train_chooses_the_weights_that_change(tmp_path, data, train, pattern):
    base, out = save_base(tmp_path / "base"), tmp_path / "run"
    flags = dict(data=data, model=base, out=out, train=train, precision="fp32", max_steps=3)
    assert run(finetune_imdb, **flags, max_length=32) == 0
    body, tuned = load_model(base), load_model(out)
    start = GPT2Classifier(body.config, 3, body=body)
    expected = {name for name in start.state_dict() if re.match(pattern, name)}
    assert changed_names(start, tuned) == expected
    if train == "lora":
        ids, lengths = torch.arange(8)[None], torch.tensor([8])
        adapted = load_model(out / "adapter")(ids, lengths)
        torch.testing.assert_close(adapted, tuned(ids, lengths))


@pytest.mark.parametrize("script", [finetune_imdb, finetune_alpaca, pretrain])
def test_help_has_the_table_of_defaults(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    printed = capsys.readouterr().out
    for kind, values in script.DEFAULTS.items():
        [row] = re.findall(f"^{kind}  .*", printed, re.MULTILINE)
        assert row.removeprefix(kind).split() == list(map(str, values))

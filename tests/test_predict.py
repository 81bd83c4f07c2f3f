"""`python -m gptft.predict` gives each text the probabilities that the model gives it alone."""

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptft import GPT2, GPT2Classifier, GPT2Config, save_model
from gptft.generate import find_model
from gptft.predict import main

SHAPE = GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, dropout=0.5)
TEXTS = [
    "a fine film",
    "dull",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
    "naïve 😀 é",
]


def classifier():
    torch.manual_seed(0)
    model = GPT2Classifier(SHAPE, class_names=["bad", "good"])
    torch.nn.init.normal_(model.score.weight)
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.5)
    return model.eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory has a run that was trained on the last 12 tokens of its texts."""
    monkeypatch.chdir(tmp_path)
    save_model(classifier(), tmp_path / "run")
    options = {"max_length": 12, "truncate": "tail"}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"options": options}), encoding="utf-8")
    return tmp_path


def predict(capsys, *argv):
    assert main(["--model", "run", "--precision", "fp32", "--device", "cpu", *argv]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_text_gets_the_probabilities_of_its_own_run(folder, tokenizer, capsys):
    # Texts are sorted by length for speed, and cut as in training: both can go wrong in silence.
    rows = predict(capsys, *TEXTS)
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    for row, text in zip(rows, TEXTS):
        ids = torch.tensor([tokenizer.encode(text)[-12:]])
        with torch.no_grad():
            p = torch.softmax(classifier()(ids, torch.tensor([ids.shape[1]]))[0], dim=0)
        assert list(row["probabilities"]) == ["bad", "good"]
        assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=2e-6)
        assert row["label"] == ["bad", "good"][int(p.argmax())]


@pytest.mark.parametrize(
    "name, content, ids",
    [
        ("a.jsonl", "\n".join(json.dumps({"text": t, "id": t}) for t in TEXTS), TEXTS),
        ("a.csv", "text\n" + "\n".join(TEXTS), [2, 3, 4, 5]),
        ("a.txt", "\ufeff" + "\n\n".join(TEXTS), [1, 3, 5, 7]),
        ("-", "\n".join(TEXTS), [1, 2, 3, 4]),
    ],
)
def test_all_sources_give_the_same(folder, capsys, monkeypatch, name, content, ids):
    (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    rows = predict(capsys, *(["--file", name] if name != "-" else []))
    expected = predict(capsys, *TEXTS)
    assert rows == [row | {"id": id} for row, id in zip(expected, ids)]


def test_standard_input_is_answered_line_by_line(folder, capsys, monkeypatch):
    # Each answer is there before the next line is read.
    def lines():
        for i in range(1, 4):
            yield b"\n" if i == 2 else b"a fine film\n"
            ids.append([json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()])

    ids = []
    buffer = contextlib.nullcontext(lines())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=buffer, isatty=lambda: False))
    assert main(["--model", "run"]) == 0
    assert ids == [[1], [], [3]]
    assert "blank texts skipped: 1; the first is number 2" in capsys.readouterr().err


def test_a_labelled_file_gets_its_accuracy(folder, capsys):
    labels = [row["label"] for row in predict(capsys, *TEXTS)]
    labels[0] = str(["bad", "good"].index(labels[0]))  # by its number
    labels[1] = "good" if labels[1] == "bad" else "bad"
    labels[3] = "fine"
    rows = [f"{text},{label}" for text, label in zip(TEXTS, labels)]
    Path("a.csv").write_text("\n".join(["text,label", *rows, "hm,", " ,bad"]), encoding="utf-8")
    assert main(["--model", "run", "--file", "a.csv"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 5
    assert "are not counted: 'fine'" in err and "the first is number 7" in err
    assert "accuracy on 3 labelled texts: 0.6667 (95 % interval 0.2077..0.9385)" in err


def test_explanations_are_the_text_that_was_read(folder, tokenizer, capsys):
    (row,) = predict(capsys, "--explain", TEXTS[2])
    kept = tokenizer.decode(tokenizer.encode(TEXTS[2])[-12:])
    assert "".join(text for text, _ in row["tokens"]) == kept


def test_the_newest_classifier_is_the_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["x"]) == 2
    assert "scripts/finetune_imdb.py" in capsys.readouterr().err
    save_model(classifier(), tmp_path / "runs" / "a")
    save_model(GPT2(SHAPE), tmp_path / "runs" / "b")
    assert str(find_model(classifier=True)[0]) == "runs/a"
    assert main(["x"]) == 0  # without a run.json, the model's own limit holds
    assert "more than 64 tokens" in capsys.readouterr().err

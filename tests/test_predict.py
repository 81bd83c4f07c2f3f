"""`python -m gptft.predict` and what it is made of: probabilities, their order, and what each token adds to a verdict."""

import io
import json
import re

import numpy as np
import pytest
import torch

from gptft import GPT2, GPT2Classifier, GPT2Config, Tokenizer, save_model
from gptft.classify import attributions, explain
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
    model = GPT2Classifier(SHAPE, pooling="mean", class_names=["bad", "good"])
    torch.nn.init.normal_(model.score.weight)
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.5)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """A run that was trained on texts of at most 12 tokens, their tails."""
    save_model(classifier(), tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(
        '{"options": {"max_length": 12, "truncate": "tail"}}', encoding="utf-8"
    )
    return str(tmp_path / "run")


def predict(capsys, *argv):
    assert main([*argv, "--precision", "fp32", "--device", "cpu"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def alone(texts):
    """Each text by itself through the model, cut by hand."""
    out = []
    for text in texts:
        ids = Tokenizer().encode(text)[-12:]
        with torch.no_grad():
            logits = classifier()(torch.tensor([ids]), torch.tensor([len(ids)]))
        out.append(torch.softmax(logits[0], 0).tolist())
    return out


def test_probabilities_are_the_models_own_in_the_order_of_the_texts(folder, capsys):
    # Sorted by length for speed, and cut as in training: either can hand a text another one's verdict.
    rows = predict(capsys, "--model", folder, *TEXTS)
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    for row, p in zip(rows, alone(TEXTS)):
        assert list(row["probabilities"]) == ["bad", "good"] and list(
            row["probabilities"].values()
        ) == pytest.approx(p, abs=2e-6)
        assert row["label"] == ["bad", "good"][int(np.argmax(p))]


def test_all_sources_say_the_same(folder, capsys, tmp_path, monkeypatch):
    expected = [row["probabilities"] for row in predict(capsys, "--model", folder, *TEXTS)]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": text, "id": f"r{i}"}) + "\n" for i, text in enumerate(TEXTS)),
        encoding="utf-8",
    )
    (tmp_path / "a.csv").write_text(
        "text\n" + "".join(f'"{text}"\n' for text in TEXTS), encoding="utf-8"
    )
    (tmp_path / "a.txt").write_text("\ufeff" + "\n\n".join(TEXTS), encoding="utf-8")
    for name, ids in (
        ("a.jsonl", ["r0", "r1", "r2", "r3"]),
        ("a.csv", [2, 3, 4, 5]),
        ("a.txt", [1, 3, 5, 7]),
    ):
        rows = predict(capsys, "--model", folder, "--file", str(tmp_path / name))
        assert [row["id"] for row in rows] == ids and [
            row["probabilities"] for row in rows
        ] == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    assert [row["probabilities"] for row in predict(capsys, "--model", folder)] == expected


def test_attributions_are_the_slope_of_the_score_in_the_size_of_each_embedding():
    # The oracle is a difference quotient: each embedding a little longer and a little shorter, nothing differentiated.
    model, ids, h = classifier().double(), Tokenizer().encode(TEXTS[0]), 1e-5
    found = attributions(model, ids)

    def score(t, size):
        def scaled(module, args, output):
            return output * torch.tensor(
                [[size if i == t else 1.0] for i in range(len(ids))], dtype=torch.float64
            )

        hook = model.transformer.wte.register_forward_hook(scaled)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.tensor([len(ids)]))[0]
        hook.remove()
        return (logits.max() - logits.min()).item()

    expected = [(score(t, 1 + h) - score(t, 1 - h)) / (2 * h) for t in range(len(ids))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5) and min(map(abs, expected)) > 1e-3
    assert model.score.weight.grad is None and not model.transformer.wte._forward_hooks


def test_pieces_are_the_text_though_a_character_is_cut_into_tokens():
    # Token by token, an emoji decodes to four question marks.
    tokenizer, model = Tokenizer(), classifier()
    ids = tokenizer.encode(TEXTS[3])
    pieces = explain(model, ids, tokenizer)
    assert "".join(text for text, _ in pieces) == TEXTS[3]
    assert sum(value for _, value in pieces) == pytest.approx(
        attributions(model, ids).sum().item(), abs=1e-3
    )
    assert "".join(text for text, _ in explain(model, ids[:-1], tokenizer)).startswith(
        "naïve 😀"
    )  # cut within a character


def test_explained_texts_are_coloured_where_colours_show(folder, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (row,) = predict(capsys, "--model", folder, "--explain", TEXTS[2])
    assert "".join(text for text, _ in row["tokens"]) == Tokenizer().decode(
        Tokenizer().encode(TEXTS[2])[-12:]
    )
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["--model", folder, "--explain", TEXTS[0]]) == 0
    head, text = capsys.readouterr().out.split("\n")[:2]
    assert (
        head.startswith("1: ")
        and "bad 0." in head
        and re.sub("\x1b\\[[0-9;]*m", "", text) == TEXTS[0]
    )
    assert "\x1b[" in text and text.count("\x1b[0m") == len(re.findall("\x1b\\[\\d+;30;", text))


def test_the_newest_classifier_is_taken_and_no_language_model(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["x"]) == 2
    assert "scripts/finetune_imdb.py" in capsys.readouterr().err
    save_model(classifier(), tmp_path / "runs" / "a")
    save_model(GPT2(SHAPE), tmp_path / "runs" / "b")
    assert str(find_model(classifier=True)[0]) == "runs/a"
    assert main(["x"]) == 0  # a folder without run.json: the model's own limit
    assert "more than 64 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--file", "a.jsonl", "text"], "exclude each other"),
        (["--model", "lm", "x"], "a language model has no classes, lm"),
        (["--model", "absent", "x"], "no such model, absent"),
        (["--model", "run", " "], "'text' is empty, command line, line 1"),
        (["--model", "run", "--file", "absent.txt"], "absent.txt"),
        (
            ["--model", "run", "--file", "bad.txt"],
            "not UTF-8 (invalid start byte), bad.txt, line 2",
        ),
        (["--model", "run", "--file", "bad.jsonl"], "no field 'text', bad.jsonl, line 1"),
        (["--model", "other", "x"], "no max_length and truncate, other/run.json"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    save_model(GPT2(SHAPE), "lm")
    save_model(classifier(), "other")
    (tmp_path / "other" / "run.json").write_text('{"options": {"C": 1}}', encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    (tmp_path / "bad.jsonl").write_text('{"review": "x"}\n', encoding="utf-8")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and says in errors[0] and not out

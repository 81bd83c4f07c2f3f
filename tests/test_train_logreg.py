"""scripts/train_logreg.py as a person types it, on the bundled reviews and on data of one's own."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from gptft import report
from scripts import train_logreg

WORDS = {
    "bad": ["awful", "boring", "dull"],
    "good": ["great", "fine", "lovely"],
    "loss": ["usual", "plain", "mixed"],
}


def run(*argv):
    return train_logreg.main([*map(str, argv)])


def read(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return results, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The finished runs on the bundled reviews, one for each kind of features."""
    folder = tmp_path_factory.mktemp("runs")
    for features in ("nbsvm", "unigram"):
        assert run("--features", features, "--out", folder / features) == 0
    return folder


def test_sample_results(sample):
    nbsvm, rows = read(sample / "nbsvm")
    unigram, _ = read(sample / "unigram")
    assert {"task", "model", "data", "device", "precision", "seconds", "tokens_per_second"} <= set(
        nbsvm
    )
    rows_of = {"train": 480, "val": 120, "test": 200, "test_refit": 200, "implied": 640}
    assert {split: nbsvm[split]["n"] for split in rows_of} == rows_of
    assert nbsvm["test"]["accuracy"] > 0.85 and nbsvm["test_refit"]["accuracy"] > 0.88
    assert unigram["test"]["accuracy"] > 0.84
    assert "test_refit" not in unigram and nbsvm["classes"] == ["neg", "pos"]
    # The predictions are those of the model trained on train alone, row by row.
    assert len({row["id"] for row in rows}) == 200 and all(
        abs(sum(row["probabilities"]) - 1) < 2e-6 for row in rows
    )
    loss = -sum(math.log(row["probabilities"][row["label"]]) for row in rows) / 200
    assert (
        loss == pytest.approx(nbsvm["test"]["loss"], abs=1e-4)
        and abs(loss - nbsvm["test_refit"]["loss"]) > 1e-3
    )


def test_saved_model_predicts_what_predictions_say(sample):
    # The model's file must be enough for anyone: words, n-grams, presence, weights and row lengths, in plain Python.
    model = np.load(sample / "nbsvm" / "model.npz", allow_pickle=False)
    words = model["words"].item().split("\n")
    columns = {
        tuple(words[i] for i in ngram if i >= 0): c for c, ngram in enumerate(model["ngrams"])
    }
    lines = (ROOT / "gptft/assets/samples/reviews.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {r["id"]: r["text"] for r in map(json.loads, lines)}
    for row in read(sample / "nbsvm")[1][:20]:
        cut = re.findall(r"\w+|[^\w\s]", texts[row["id"]].lower())
        present = {tuple(cut[i : i + n]) for n in (1, 2, 3) for i in range(len(cut))} & set(columns)
        weights = sum(model["weights"][0][columns[ngram]] for ngram in present)
        length = math.sqrt(sum(model["ratios"][0][columns[ngram]] ** 2 for ngram in present))
        probability = 1 / (1 + math.exp(-weights / length - model["bias"][0]))
        assert probability == pytest.approx(row["probabilities"][1], abs=2e-6)
    assert list(model["classes"]) == ["neg", "pos"]


def test_two_runs_are_compared_by_one_command(sample, capsys):
    assert report.main([str(sample / "nbsvm"), str(sample / "unigram")]) == 0
    printed = capsys.readouterr().out
    assert "200 test rows of both" in printed and "McNemar" in printed


def test_no_arguments_run_says_what_the_real_run_is_and_how_it_went(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    printed = capsys.readouterr().out
    assert "python scripts/train_logreg.py --data data/imdb" in printed.split("C 10:")[0]
    assert "480 train, 120 val, 200 test, 640 implied" in printed and "converged after" in printed
    assert "test_refit" in printed and "counting n-grams" in printed
    assert "what speaks most for each class:\n  neg: " in printed
    record = json.loads((tmp_path / "runs/logreg/run.json").read_text(encoding="utf-8"))
    assert (
        record["command"] == "python scripts/train_logreg.py"
        and record["options"]["features"] == "nbsvm"
    )
    assert run() == 2 and "already holds results" in capsys.readouterr().err
    assert run("--overwrite", "--features", "unigram") == 0


@pytest.mark.parametrize("features", ["nbsvm", "unigram"])
def test_own_data_with_three_classes(tmp_path, capsys, features):
    def text(label, i):
        return f"film number {i} was {WORDS[label][i % 3]} to see"

    rows = [{"text": text(label, i), "label": label} for i in range(40) for label in WORDS]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run("--data", path, "--features", features, "--out", tmp_path / "run") == 0
    results, predictions = read(tmp_path / "run")
    assert results["classes"] == sorted(WORDS) and results["test"]["accuracy"] == 1.0
    assert results["train"]["n"] + results["val"]["n"] + results["test"]["n"] == 120
    assert all(row["probabilities"][row["label"]] > 0.5 for row in predictions)
    lines = capsys.readouterr().out.splitlines()
    for label in WORDS:  # what stands first on the line of a class has one of its words in it
        strongest = (
            next(line for line in lines if line.startswith(f"  {label}: "))
            .split(": ")[1]
            .split(" | ")
        )
        assert all(set(ngram.split()) & set(WORDS[label]) for ngram in strongest[:3])


def test_a_given_C_is_used_and_not_searched(tmp_path, capsys):
    assert run("--C", 0.5, "--features", "unigram", "--out", tmp_path / "run") == 0
    assert read(tmp_path / "run")[0]["C"] == 0.5
    assert capsys.readouterr().out.count(" iterations, ") == 1


def test_the_same_command_gives_the_same_numbers(tmp_path, sample):
    assert run("--out", tmp_path / "again") == 0
    again, before = tmp_path / "again", sample / "nbsvm"
    assert (again / "predictions.jsonl").read_bytes() == (before / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--data", "no/such.jsonl"], "no/such.jsonl"),
        (["--data", "data/absent/imdb"], "python -m data_prep.imdb"),
        (["--features", "bigram"], "--features"),
        (["--C", "0"], "--C must be a number above 0"),
        (["--C", "nan"], "--C must be a number above 0"),
        (["--C", "x"], "--C"),
        (["--l1", "1"], "--l1"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(refuses, argv, says):
    refuses(run, argv, says)


def test_runs_without_torch_from_any_folder(tmp_path):
    # The baseline is numpy alone; torch would add a second to every run.
    code = (
        "import sys, runpy\nsys.argv = ['train_logreg.py', '--features', 'unigram', '--C', '0.1']\n"
        f"try:\n    runpy.run_path({str(ROOT / 'scripts' / 'train_logreg.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules and 'tiktoken' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "logreg" / "results.json").is_file()
    assert "What speaks most for each class" in (
        tmp_path / "runs" / "logreg" / "report.html"
    ).read_text(encoding="utf-8")

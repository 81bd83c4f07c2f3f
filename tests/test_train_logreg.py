"""scripts/train_logreg.py from the command line, on the bundled reviews and on other data."""

import math
import re

import numpy as np
import pytest
from conftest import ROOT
from script_runs import WORDS, read, write_films

from scripts import train_logreg


def run(*argv):
    return train_logreg.main([*map(str, argv)])


def outcome(folder):
    """The results and the predictions of a run."""
    return read(folder / "results.json"), read(folder / "predictions.jsonl")


@pytest.fixture(scope="module")
def nbsvm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "nbsvm"
    assert run("--out", folder) == 0
    return folder


def test_results_of_the_bundled_reviews(nbsvm):
    results, rows = outcome(nbsvm)
    sizes = {"train": 480, "val": 120, "test": 200, "test_refit": 200, "implied": 640}
    assert {split: results[split]["n"] for split in sizes} == sizes
    assert results["test"]["accuracy"] > 0.85 and results["test_refit"]["accuracy"] > 0.88
    assert {"seconds", "tokens_per_second", "device", "precision", "C"} <= set(results)
    assert results["converged"] and list(results["strongest"]) == ["neg", "pos"]
    # The predictions are those of the model of train alone.
    loss = -sum(math.log(row["probabilities"][row["label"]]) for row in rows) / 200
    assert loss == pytest.approx(results["test"]["loss"], abs=1e-4)
    assert "superb" in (nbsvm / "report.html").read_text(encoding="utf-8")


def test_model_file_is_enough_to_predict(nbsvm):
    # In plain Python: words, n-grams, presence, weights and row lengths.
    model = np.load(nbsvm / "model.npz", allow_pickle=False)
    columns = {g: c for c, g in enumerate(model["ngrams"].item().decode("utf-8").split("\n"))}
    weights, bias, ratios = (model[name][1] for name in ("weights", "bias", "ratios"))
    records = read(ROOT / "gptft/assets/samples/reviews.jsonl")
    texts = {record["id"]: record["text"] for record in records}
    for row in outcome(nbsvm)[1][:20]:
        words = re.findall(r"\w+|[^\w\s]", texts[row["id"]].lower())
        ngrams = {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words))}
        present = [columns[ngram] for ngram in ngrams & set(columns)]
        length = math.sqrt(sum(ratios[present] ** 2))
        probability = 1 / (1 + math.exp(-sum(weights[present]) / length - bias))
        assert probability == pytest.approx(row["probabilities"][1], abs=2e-6)
    assert list(model["classes"]) == ["neg", "pos"]


def test_run_without_arguments(tmp_path, monkeypatch, capsys, nbsvm):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    printed = capsys.readouterr().out
    assert "python scripts/train_logreg.py --data data/imdb" in printed
    assert "480 train, 120 val, 200 test, 640 implied" in printed and "converged" in printed
    assert read(tmp_path / "runs/logreg/run.json")["command"] == "python scripts/train_logreg.py"
    # The same command gives the same numbers.
    first, again = (folder / "predictions.jsonl" for folder in (nbsvm, tmp_path / "runs/logreg"))
    assert first.read_bytes() == again.read_bytes()
    assert run() == 2 and "already holds results" in capsys.readouterr().err
    assert run("--overwrite", "--features", "unigram", "--C", 0.5) == 0
    results, _ = outcome(tmp_path / "runs/logreg")
    assert results["C"] == 0.5 and "test_refit" not in results
    assert capsys.readouterr().out.count("loss on val") == 1


@pytest.mark.parametrize("features", ["nbsvm", "unigram"])
def test_three_classes(tmp_path, features):
    path = write_films(tmp_path / "my.jsonl")
    assert run("--data", path, "--features", features, "--out", tmp_path / "run") == 0
    results, predictions = outcome(tmp_path / "run")
    assert results["classes"] == sorted(WORDS) and results["test"]["accuracy"] == 1.0
    assert all(row["probabilities"][row["label"]] > 0.5 for row in predictions)
    for label, ngrams in results["strongest"].items():
        assert all(set(ngram.split()) & set(WORDS[label]) for ngram in ngrams[:3])

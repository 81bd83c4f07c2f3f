"""scripts/finetune_imdb.py as a person types it, at a size that takes seconds."""

import json
import math
from pathlib import Path

import pytest

from scripts import finetune_imdb

TINY = [
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "16",
    "--n-positions",
    "64",
    "--max-length",
    "32",
    "--precision",
    "fp32",
]
WORDS = {
    "good": ["great", "fine", "lovely"],
    "bad": ["awful", "boring", "dull"],
    "so-so": ["average", "usual", "plain"],
}


@pytest.fixture
def data(tmp_path):
    """A file of one's own with three classes, which one word gives away."""
    rows = [
        {"text": f"film number {i} was {WORDS[label][i % 3]} to see", "label": label}
        for i in range(40)
        for label in WORDS
    ]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*argv):
    return finetune_imdb.main([*map(str, argv)])


def test_own_data_with_three_classes_is_learned_and_reported(tmp_path, data, capsys):
    out = tmp_path / "run"
    assert (
        run(
            "--data",
            data,
            *TINY,
            "--epochs",
            12,
            "--learning-rate",
            0.01,
            "--dropout",
            0,
            "--out",
            out,
        )
        == 0
    )
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {
        "task",
        "model",
        "data",
        "device",
        "precision",
        "seconds",
        "tokens_per_second",
        "train",
        "val",
        "test",
    } <= set(results)
    assert results["classes"] == ["bad", "good", "so-so"] and results["test"]["accuracy"] == 1.0
    assert results["train"]["n"] + results["val"]["n"] + results["test"]["n"] == 120
    # The predictions are those of the table, row by row.
    rows = [
        json.loads(line)
        for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == results["test"]["n"] == len({row["id"] for row in rows})
    assert all(math.isclose(sum(row["probabilities"]), 1, abs_tol=1e-5) for row in rows)
    loss = -sum(math.log(row["probabilities"][row["label"]]) for row in rows) / len(rows)
    assert loss == pytest.approx(results["test"]["loss"], abs=1e-3)
    assert {p.name for p in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "run.json",
        "metrics.jsonl",
        "report.html",
        "examples.jsonl",
        "last",
    }
    printed = capsys.readouterr().out
    assert (
        "95 % interval" in printed
        and "so-so" in printed
        and "12 for val and 12 for test" in printed
    )


def test_no_arguments_run_says_what_it_does_and_what_the_real_run_is(tmp_path, capsys, monkeypatch):
    # The default data and shape, one step: the first lines name the real run; the challenge set is reported, too.
    assert (
        run("--max-steps", 1, "--max-length", 32, "--out", tmp_path / "run", "--precision", "fp32")
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "python scripts/finetune_imdb.py --data data/imdb --model 124M" in printed.split("step ")[0]
    )
    assert (
        "480 train, 120 val, 200 test, 640 implied" in printed
        and "12,417,600 parameters" in printed
    )
    assert "mini, pretrained weights of this package" in printed and "pooling mean" in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["implied"]["n"] == 640
    # Both baselines stand beside it, and the paired test with each.
    assert all(
        f"{features}, implied" in printed
        and f"the network against {features}, 200 test rows of both" in printed
        for features in ("nbsvm", "unigram")
    )


def test_defaults_and_flags_meet():
    args, start, _, options = finetune_imdb.parse(["--pooling", "last", "--epochs", "2"])
    assert (args.pooling, start.pretrained, options.epochs) == ("last", True, 2)
    assert options.learning_rate == finetune_imdb.MINI["learning_rate"]
    for argv, recipe in (
        (["--model", "124M"], finetune_imdb.PRETRAINED),
        (["--from-scratch"], finetune_imdb.FROM_SCRATCH),
    ):
        assert finetune_imdb.parse(argv)[3].dropout == recipe["dropout"]


def test_trained_model_can_be_trained_on_and_evaluated_again(tmp_path, data, capsys):
    assert (
        run("--data", data, *TINY, "--max-steps", 2, "--pooling", "mean", "--out", tmp_path / "a")
        == 0
    )
    again = ["--data", data, "--model", tmp_path / "a", "--max-steps", 2, "--learning-rate", 0]
    capsys.readouterr()
    assert run(*again, "--out", tmp_path / "b") == 0
    out = capsys.readouterr().out
    assert (
        "pretrained weights from" in out
        and "new head" not in out
        and "pooling mean" in out
        and "length 64" in out
    )
    results = [
        json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))["val"]["loss"]
        for name in "ab"
    ]
    assert results[0] == pytest.approx(
        results[1], abs=1e-4
    )  # with a rate of 0 it is the same model
    assert run(*again, "--pooling", "last", "--out", tmp_path / "c") == 0
    assert "with a new head" in capsys.readouterr().out


def test_a_head_for_other_classes_is_not_reused(tmp_path, data, capsys):
    # Kept because the number of classes is the same, a head could call every good film bad.
    assert run("--data", data, *TINY, "--max-steps", 1, "--out", tmp_path / "a") == 0
    other = tmp_path / "other.jsonl"
    other.write_text(
        Path(data).read_text(encoding="utf-8").replace("good", "zzz"), encoding="utf-8"
    )
    assert (
        run("--data", other, "--model", tmp_path / "a", "--max-steps", 1, "--out", tmp_path / "b")
        == 0
    )
    assert "with a new head" in capsys.readouterr().out


def test_resuming_another_run_is_refused_and_leaves_it_alone(tmp_path, data, capsys):
    # Resumed with other data or another shape, a run would report numbers that belong to neither.
    out = tmp_path / "run"
    argv = [*TINY, "--max-steps", 2, "--out", out, "--resume"]
    assert run("--data", data, *argv[:-1]) == 0
    before = (out / "results.json").read_bytes()
    other = tmp_path / "other.jsonl"
    other.write_text(
        Path(data).read_text(encoding="utf-8").replace("film", "play"), encoding="utf-8"
    )
    capsys.readouterr()
    for changed, says in (
        (["--data", other], "texts was"),
        (["--data", data, "--truncate", "head"], "truncate was head+tail, is head"),
        (["--data", data, "--n-layer", 2], "n_layer was 1, is 2"),
    ):
        assert run(*argv, *changed) == 2
        assert says in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before


def test_resume_of_a_finished_run_reports_the_same(tmp_path, data):
    argv = ["--data", data, *TINY, "--max-steps", 4, "--out", tmp_path / "run"]
    assert run(*argv) == 0
    first = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert run(*argv) == 2
    assert run(*argv, "--resume") == 0
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["test"]
        == first["test"]
    )


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--data", "no/such.jsonl"], "no/such.jsonl"),
        (["--data", "data/imdb_absent/imdb"], "python -m data_prep.imdb"),
        (["--model", "124M"], "python -m data_prep.gpt2 --size 124M"),
        (["--model", "125M"], "125M"),
        ([], "the bundled weights are gone"),
        (["--max-length", "513"], "--max-length 513 is above the model's n_positions, 512"),
        (["--n-embd", "100", "--n-head", "3"], "multiple of n_head"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--precision", "fp64"], "--precision"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--resume"], "nothing to resume"),
        (["--device", "mps"], "--device mps"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(refuses, tmp_path, monkeypatch, argv, says):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    if not argv:
        monkeypatch.setattr("gptft.initial.BUNDLED", tmp_path / "absent")
    refuses(run, argv, says)

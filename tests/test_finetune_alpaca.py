"""scripts/finetune_alpaca.py as a person types it, at a size that takes seconds."""

import dataclasses
import json
import math

import pytest

from gptft import GPT2, GPT2Classifier, GPT2Config, evaluate, report, save_model
from gptft.data.alpaca import TEMPLATES, load_instructions
from gptft.tasks import load_tasks
from scripts import finetune_alpaca

TINY = [
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "16",
    "--n-positions",
    "128",
    "--precision",
    "fp32",
    "--test-prompts",
    "3",
]


@pytest.fixture(autouse=True)
def less_work(monkeypatch):
    monkeypatch.setattr(finetune_alpaca, "TRAIN_ROWS", 24)
    monkeypatch.setattr(evaluate, "TASK_TOKENS", 8)
    monkeypatch.setattr(evaluate, "RESPONSE_TOKENS", 30)


@pytest.fixture
def few_tasks(monkeypatch):
    """Three tasks instead of all, for tests that are about something else."""
    monkeypatch.setattr(evaluate, "load_tasks", lambda: load_tasks()[::50])


@pytest.fixture
def data(tmp_path):
    """A file of one's own: the answer is one of three words, which the last word of the instruction gives away."""
    answers = {"sky": "Blue", "grass": "Green", "snow": "White"}
    rows = [
        {"instruction": f"{i} {thing}", "input": "", "output": answers[thing]}
        for i in range(30)
        for thing in answers
    ]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*argv):
    return finetune_alpaca.main([*map(str, argv)])


def read(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results, [
        json.loads(line)
        for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_no_arguments_run_on_the_samples(tmp_path, capsys, monkeypatch):
    # The bundled data and the whole task suite, one step, a small model in place of the bundled one: all that is promised is there.
    out = tmp_path / "run"
    save_model(
        GPT2(GPT2Config(n_positions=128, n_embd=16, n_layer=1, n_head=2)), tmp_path / "small"
    )
    monkeypatch.setattr("gptft.initial.BUNDLED", tmp_path / "small")
    assert run("--precision", "fp32", "--test-prompts", 3, "--max-steps", 1, "--out", out) == 0
    printed = capsys.readouterr().out
    assert (
        "python scripts/finetune_alpaca.py --data data/alpaca --model 124M"
        in printed.split("step ")[0]
    )
    assert (
        "192 train, 24 val, 24 test" in printed
        and "template: alpaca" in printed
        and "responses cut at 128" in printed
    )
    results, rows = read(out)
    assert {"task", "model", "data", "device", "precision", "seconds", "tokens_per_second"} <= set(
        results
    )
    for side in (results, results["base"]):
        for split, n in (("train", 24), ("val", 24), ("test", 24)):
            assert side[split]["n"] <= n and side[split]["perplexity"] == pytest.approx(
                math.exp(side[split]["loss"])
            )
            assert side[split]["response_tokens"] > 0
        assert side["test"]["n_generated"] == 3 and {
            "rouge_l",
            "end_of_text",
            "format",
            "distinct_1",
            "repeated_4grams",
        } <= set(side["test"])
        assert side["tasks"]["written"]["n"] == side["tasks"]["forced_choice"]["n"] >= 100
    assert results["val"]["loss"] < results["base"]["val"]["loss"]
    prompts = {
        TEMPLATES["alpaca"].text(example.instruction, example.input)
        for example in load_instructions().splits["test"]
    }
    assert len(rows) == 3 and all(
        row["prompt"] in prompts and isinstance(row["response"], str) for row in rows
    )
    assert {p.name for p in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "run.json",
        "metrics.jsonl",
        "report.html",
        "examples.jsonl",
        "last",
    }
    assert (
        json.loads((out / "config.json").read_text(encoding="utf-8"))["gptft"]["template"]
        == "alpaca"
    )
    assert report.main([str(out)]) == 0
    assert "loss of response tokens" in capsys.readouterr().out


@pytest.mark.parametrize("template", ["short", "special"])
def test_own_data_is_learned(tmp_path, data, template, few_tasks):
    """The answers to new questions are right, and end: prompt, labels, training and generation fit together."""
    out = tmp_path / "run"
    argv = [
        "--data",
        data,
        *TINY,
        "--template",
        template,
        "--out",
        out,
        "--epochs",
        15,
        "--learning-rate",
        0.02,
        "--batch-size",
        8,
    ]
    argv += ["--eval-every", 50]
    assert run(*argv, "--dropout", 0, "--weight-decay", 0) == 0
    results, rows = read(out)
    assert (
        results["template"] == template
        and results["best_step"] > 0
        and results["base"]["test"]["end_of_text"] == 0
    )
    assert (
        results["test"]["loss"] < 0.3
        and results["test"]["end_of_text"]
        == results["test"]["format"]
        == results["test"]["rouge_l"]
        == 1
    )
    assert all(row["ended"] and row["response"] in ("Blue", "Green", "White") for row in rows)
    saved = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert saved["gptft"]["template"] == template and saved["vocab_size"] == (
        50260 if template == "special" else 50257
    )


def test_evaluate_only_gives_the_same_again(tmp_path, data, few_tasks, capsys):
    """In the wording of the run, not the default one, and without another step of training."""
    argv = ["--data", data, *TINY, "--out", tmp_path / "run"]
    assert run(*argv, "--max-steps", 3, "--template", "special") == 0
    results, rows = read(tmp_path / "run")
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "predictions.jsonl").unlink()
    assert run(*argv, "--evaluate-only") == 0
    assert read(tmp_path / "run") == (results, rows)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    assert (
        run(*argv[:-1], tmp_path / "absent", "--evaluate-only") == 2
        and "no such model" in capsys.readouterr().err
    )


def test_tuned_model_can_be_tuned_further(tmp_path, data, few_tasks, capsys):
    """It keeps its own wording unless another is asked for."""
    assert (
        run(
            "--data",
            data,
            *TINY,
            "--max-steps",
            1,
            "--template",
            "special",
            "--out",
            tmp_path / "a",
        )
        == 0
    )
    again = [
        "--data",
        data,
        "--model",
        tmp_path / "a",
        "--max-steps",
        1,
        "--test-prompts",
        1,
        "--precision",
        "fp32",
    ]
    assert run(*again, "--out", tmp_path / "b") == 0
    results, _ = read(tmp_path / "b")
    first, _ = read(tmp_path / "a")
    assert results["template"] == "special" and results["base"]["val"]["loss"] == pytest.approx(
        first["val"]["loss"], abs=1e-5
    )
    assert run(*again, "--template", "short", "--out", tmp_path / "c") == 0
    assert read(tmp_path / "c")[0]["template"] == "short"


def test_models_of_another_kind(tmp_path, data, few_tasks, capsys):
    """A classifier's body can be tuned; a foreign vocabulary, or a wording that this version doesn't know, can't."""
    config = GPT2Config(n_positions=128, n_embd=8, n_layer=1, n_head=2)
    save_model(GPT2Classifier(config), tmp_path / "classifier")
    argv = ["--data", data, "--max-steps", 1, "--test-prompts", 1, "--out", tmp_path / "run"]
    assert run(*argv, "--model", tmp_path / "classifier") == 0
    save_model(GPT2(dataclasses.replace(config, vocab_size=100)), tmp_path / "other")
    assert run(*argv, "--model", tmp_path / "other", "--overwrite") == 2
    assert (
        "the model's vocabulary, 100, is smaller than the tokenizer's, 50257"
        in capsys.readouterr().err
    )
    later = GPT2(config)
    later.template = "of 2030"
    save_model(later, tmp_path / "later")
    assert run(*argv, "--model", tmp_path / "later", "--overwrite") == 2
    assert "a wording unknown here, 'of 2030'" in capsys.readouterr().err
    assert run(*argv, "--model", tmp_path / "later", "--overwrite", "--template", "alpaca") == 0


def test_resume_of_a_finished_run_reports_the_same(tmp_path, data, few_tasks):
    argv = ["--data", data, *TINY, "--max-steps", 4, "--loss", "all", "--out", tmp_path / "run"]
    assert run(*argv) == 0
    first = read(tmp_path / "run")
    assert run(*argv) == 2
    assert run(*argv, "--resume") == 0
    assert (
        read(tmp_path / "run")[0]["test"] == first[0]["test"]
        and read(tmp_path / "run")[1] == first[1]
    )


def test_inspect_prints_examples_and_stops(tmp_path, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--data", data, *TINY, "--inspect", 2, "--template", "short") == 0
    printed = capsys.readouterr().out
    assert (
        printed.count("--- ") == 2
        and printed.count("### Assistant\n[[") == 2
        and printed.count("<|endoftext|>]]") == 2
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--data", "no/such.jsonl"], "no/such.jsonl"),
        (["--data", "data/alpaca_absent/alpaca"], "python -m data_prep.alpaca"),
        (["--model", "124M"], "python -m data_prep.gpt2 --size 124M"),
        (["--max-length", "513"], "--max-length 513 is above the model's n_positions, 512"),
        (["--max-length", "8"], "the prompts alone fill 8 tokens (--max-length)"),
        (["--template", "chat"], "--template"),
        (["--inspect", "0"], "--inspect must be at least 1, got 0"),
        (["--test-prompts", "0"], "--test-prompts must be at least 1, got 0"),
        (["--evaluate-only"], "no such model"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(refuses, argv, says):
    refuses(run, argv, says)

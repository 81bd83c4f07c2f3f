"""scripts/finetune_alpaca.py on models that train in a second."""

import re

import pytest
from script_runs import RESULT_KEYS, TINY, changed_names, read, run, save_base, write_rows

from gptft import load_model
from gptft.data.examples import load_instructions
from gptft.data.instructions import TEMPLATES
from gptft.evaluation.tasks import load_tasks
from scripts import finetune_alpaca


@pytest.fixture(autouse=True)
def less_work(monkeypatch):
    monkeypatch.setattr(finetune_alpaca, "TRAIN_ROWS", 24)
    monkeypatch.setattr("gptft.evaluation.instructions.TASK_TOKENS", 8)
    monkeypatch.setattr("gptft.evaluation.instructions.RESPONSE_TOKENS", 8)
    monkeypatch.setattr("gptft.evaluation.instructions.load_tasks", lambda: load_tasks()[::50])


@pytest.fixture
def data(tmp_path):
    """A file of 90 instructions whose last word reveals the answer."""
    answers = {"sky": "Blue", "grass": "Green", "snow": "White"}
    rows = [
        {"instruction": f"{i} {thing}", "input": "", "output": answers[thing]}
        for i in range(30)
        for thing in answers
    ]
    return write_rows(tmp_path / "my.jsonl", rows)


def test_trial_run_on_the_sample(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr("gptft.training.start.BUNDLED", save_base(tmp_path / "base"))
    assert run(finetune_alpaca, precision="fp32", test_prompts=3, max_steps=1, out=out) == 0
    first = capsys.readouterr().out.split("step ")[0]
    assert "python scripts/finetune_alpaca.py --data data/alpaca --model 124M" in first
    assert "192 train, 24 val, 24 test" in first and "template: alpaca" in first

    results, rows = read(out / "results.json"), read(out / "predictions.jsonl")
    assert set(results) > RESULT_KEYS
    test = load_instructions().splits["test"]
    for side in (results, results["base"]):
        assert [side[split]["n"] for split in ("train", "val", "test")] == [24, 24, 24]
        assert side["test"]["n_generated"] == 3 and side["tasks"]["n"] == 3
    assert results["val"]["loss"] < results["base"]["val"]["loss"]
    assert [row["id"] for row in rows] == [test[i].id for i in (0, 11, 23)]
    assert rows[1]["prompt"] == TEMPLATES["alpaca"].text(test[11].instruction, test[11].input)
    assert "Responses to test prompts" in (out / "report.html").read_text(encoding="utf-8")


def test_own_data_is_learned(tmp_path, data):
    # The responses to new instructions are right, and they end.
    out = tmp_path / "run"
    flags = TINY | dict(data=data, out=out, template="special", epochs=15, eval_every=50)
    flags |= dict(learning_rate=0.02, batch_size=8, dropout=0, weight_decay=0, test_prompts=3)
    assert run(finetune_alpaca, **flags) == 0
    results, rows = read(out / "results.json"), read(out / "predictions.jsonl")
    assert results["template"] == "special" and results["base"]["test"]["end_of_text"] == 0
    for metric in ("end_of_text", "format", "rouge_l"):
        assert results["test"][metric] == 1
    answers = {example.id: example.output for example in load_instructions(data).splits["test"]}
    assert [row["response"] for row in rows] == [answers[row["id"]] for row in rows]
    example = read(out / "examples.jsonl")[0]
    assert example["tuned"] == example["output"] != example["base"]
    model = load_model(out)
    assert (model.template, model.config.vocab_size) == ("special", 50260)


def test_adapters_change_the_matrices_and_no_prompt_need_be_answered(tmp_path, data):
    base, out = save_base(tmp_path / "base"), tmp_path / "run"
    flags = dict(data=data, model=base, out=out, train="lora", precision="fp32", test_prompts=0)
    assert run(finetune_alpaca, **flags, max_steps=2, batch_size=8) == 0
    start, tuned = load_model(base), load_model(out)
    matrices = {name for name in start.state_dict() if re.search(r"c_\w+\.weight", name)}
    assert changed_names(start, tuned) == matrices
    results = read(out / "results.json")
    assert "tasks" not in results and results["test"]["loss"] < results["base"]["test"]["loss"]
    assert read(out / "predictions.jsonl") == []


def test_a_tuned_model_keeps_its_template(tmp_path, data):
    a, b = tmp_path / "a", tmp_path / "b"
    flags = dict(data=data, max_steps=1, test_prompts=1, precision="fp32")
    assert run(finetune_alpaca, **TINY | flags, template="special", out=a) == 0
    assert run(finetune_alpaca, **flags, model=a, loss="all", out=b) == 0
    results = read(b / "results.json")
    assert (results["template"], results["learned"]) == ("special", "all")
    val = read(a / "results.json")["val"]
    assert results["base"]["val"]["loss"] == pytest.approx(val["loss"], abs=1e-5)


def test_inspect_marks_what_is_learned_and_stops(tmp_path, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(finetune_alpaca, **TINY, data=data, inspect=2, template="short") == 0
    printed = capsys.readouterr().out
    pattern = r"### Assistant\n\[\[(Blue|Green|White)<\|endoftext\|>\]\]\n"
    assert len(re.findall(pattern, printed)) == 2
    assert run(finetune_alpaca, **TINY, data=data, inspect=1, template="short", loss="all") == 0
    assert "[[### User\n" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()

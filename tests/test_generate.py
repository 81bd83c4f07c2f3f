"""`python -m gptft.generate` prints the texts that `generate` returns."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from script_runs import read, write_rows

from gptft import GPT2, GPT2Classifier, GPT2Config, save_model
from gptft.data.instructions import TEMPLATES
from gptft.generate import find_model, generate, main

FLAGS = ("--precision", "fp32", "--max-new-tokens", 12, "--seed", 4)
SHORT = TEMPLATES["short"]


@pytest.fixture(scope="module")
def model():
    """A tiny random model over GPT-2's vocabulary, tuned with a template, as its config says."""
    torch.manual_seed(3)
    model = GPT2(GPT2Config(n_positions=128, n_embd=8, n_layer=1, n_head=2)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    model.wte.weight.data *= 4  # a few likely ids, so that rounding changes no draw
    model.template = "short"
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_model(model, folder)
    return folder


@pytest.fixture(autouse=True)
def pipe(monkeypatch):
    """pipe(text): standard input is this text, not a terminal. By default it is empty."""

    def write(text):
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr("sys.stdin", stdin)

    write("")
    return write


def run(capsys, *argv, code=0):
    """Run the command -> its standard output and standard error."""
    assert main(list(map(str, argv))) == code
    return capsys.readouterr()


def expected_texts(model, tokenizer, prompts, seed=4):
    """The texts of the flags' defaults; this model never ends one by itself."""
    found = generate(model, prompts, 12, temperature=0.8, top_p=0.95, seed=seed)
    return [tokenizer.decode(ids) for ids in found]


def test_prompts_and_instructions_are_continued(model, folder, tokenizer, capsys, pipe):
    prompt = tokenizer.encode("The film")
    (text,) = expected_texts(model, tokenizer, [prompt])
    out, err = run(capsys, "--model", folder, "--prompt", "The film", *FLAGS)
    assert out == text + "\n"  # notes go to standard error
    assert f"model: {folder} (as asked), 403,968 parameters, template: short" in err

    for argv in ((), ("--prompt", "-")):
        pipe("The film\n")
        assert run(capsys, "--model", folder, *argv, *FLAGS).out == text + "\n"

    texts = expected_texts(model, tokenizer, [prompt] * 2)
    argv = ("--prompt", "The film", "--num-samples", 2)
    out = run(capsys, "--model", folder, *argv, *FLAGS).out
    assert out == f"--- sample 1\n{texts[0]}\n--- sample 2\n{texts[1]}\n"

    (text,) = expected_texts(model, tokenizer, [SHORT.encode(tokenizer, "Name it", "A cat")])
    argv = ("--instruction", "Name it", "--input", "A cat")
    assert run(capsys, "--model", folder, *argv, *FLAGS).out == text + "\n"

    (text,) = expected_texts(model, tokenizer, [[tokenizer.eot]])
    assert run(capsys, "--model", folder, *FLAGS).out == text + "\n"


def test_records_of_a_file_are_answered_in_its_order(model, folder, tokenizer, capsys, tmp_path):
    long = "Hello 北京 " * 9
    records = [
        {"id": "a", "prompt": long},
        {"id": "b", "instruction": "Add", "input": "1 2", "output": "3"},
        {"id": "c", "instruction": "Say hi", "input": ""},
    ]
    add, hi = SHORT.encode(tokenizer, "Add", "1 2"), SHORT.encode(tokenizer, "Say hi")
    prompts = [tokenizer.encode(long)] * 2 + [add] * 2 + [hi] * 2
    texts = expected_texts(model, tokenizer, prompts)
    path, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    write_rows(path, records)
    argv = ("--file", path, "--out", answers, "--batch-size", 2, "--num-samples", 2)
    assert run(capsys, "--model", folder, *argv, *FLAGS).out == ""
    for i, (row, text) in enumerate(zip(read(answers), texts, strict=True)):
        assert row == records[i // 2] | {"response": text, "ended": False}


def test_a_prompt_too_long_is_named_before_any_work(folder, capsys, tmp_path):
    path, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    write_rows(path, [{"prompt": "a"}, {"prompt": "a " * 120}])
    argv = ("--model", folder, "--file", path, "--out", answers)
    assert f"n_positions, 128, {path}, line 2;" in run(capsys, *argv, *FLAGS, code=2).err
    assert not answers.exists()


@pytest.mark.parametrize("n_lost, end", [(0, "🦜"), (1, "\ufffd")])
def test_a_text_appears_in_whole_characters(folder, tokenizer, capsys, monkeypatch, n_lost, end):
    # An emoji is several tokens, none of which decodes alone: one by one they would be U+FFFD.
    ids = tokenizer.encode("Well 👩‍🚀🦜 done, 北京 🦜")
    ids = [*ids[: len(ids) - n_lost], tokenizer.eot]
    shown = []

    def decode(*args):
        assert args[4] == tokenizer.eot  # it ends a text, and is not printed
        for id in ids:
            yield 0, id
            shown.append(capsys.readouterr().out)

    monkeypatch.setattr("gptft.generate.decode", decode)
    rest = run(capsys, "--model", folder, *FLAGS).out
    assert "".join(shown) + rest == f"Well 👩‍🚀🦜 done, 北京 {end}\n"
    assert shown[0] == "Well" and "" in shown


def test_a_record_tells_whether_its_text_ended(folder, tokenizer, capsys, monkeypatch, tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"prompt": "Hello"}])
    monkeypatch.setattr("gptft.generate.decode", lambda *args: [(0, 198), (0, tokenizer.eot)])
    out = run(capsys, "--model", folder, "--file", tmp_path / "a.jsonl", *FLAGS).out
    assert json.loads(out) == {"prompt": "Hello", "response": "\n", "ended": True}


def test_interactive_answers_each_line(model, folder, tokenizer, capsys, pipe):
    pipe(f"Say hi\n\n{'long ' * 200}\nSay hi\n")
    out, err = run(capsys, "--model", folder, "--interactive", *FLAGS)
    prompt = SHORT.encode(tokenizer, "Say hi")
    first, third = (expected_texts(model, tokenizer, [prompt], seed)[0] for seed in (4, 7))
    assert out == f"{first}\n{third}\n"
    assert "n_positions, 128" in err  # a line that is too long does not end the conversation


def test_the_newest_language_model_is_the_default(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gptft.training.start.BUNDLED", tmp_path / "mini")
    save_model(model, tmp_path / "mini")
    assert find_model() == (tmp_path / "mini", "bundled")
    tiny = GPT2Config(n_positions=8, n_embd=2, n_layer=1, n_head=1)
    for time, saved in enumerate([model, GPT2(tiny), GPT2Classifier(tiny)]):
        save_model(saved, f"runs/{time}")
        os.utime(f"runs/{time}/model.safetensors", (time, time))
    save_model(GPT2(GPT2Config(9, 8, 2, 1, 1)), "runs/other")  # with 9 tokens
    path = Path("runs/other/config.json")
    for config in (path.read_text(), "[]", '{"architectures": ["GPT2LMHeadModel"]}'):
        path.write_text(config)
        assert find_model() == (Path("runs/1"), "the newest run")
    assert "a classifier generates no text, runs/2" in run(capsys, "--model", "runs/2", code=2).err
    assert "not tuned on instructions, runs/1" in run(capsys, "--instruction", "x", code=2).err

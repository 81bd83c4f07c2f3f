"""The commands in the READMEs' blocks, in order and as written, with small stand-ins.

A flag or two are added that make a run short. A command finds what those before it have left, so
READMEs whose commands get in each other's way, or name a missing flag or file, fail here.
"""

import importlib
import io
import json
import re
import shlex

import pytest
import torch
from conftest import ROOT
from test_data_prep_imdb import COUNTS, member, official, write_tar

from gptft import GPT2, GPT2Config, save_model

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
TOUR = (ROOT / "gptft" / "README.md").read_text(encoding="utf-8")
TRIPLES = [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(40)]
# What each command is given so that it ends in seconds; None for a download, which can't be run.
SHORT = {
    "data_prep.imdb": "--archive small.tar.gz",
    "data_prep.alpaca": "--file triples.json",
    "data_prep.gpt2": None,
    "gptft.generate": "--max-new-tokens 3",
    "gptft.predict": "",
    "gptft.report": "",
    "scripts.train_logreg": "--overwrite",
    "scripts.finetune_imdb": "--max-steps 1 --max-length 32 --overwrite",
    "scripts.finetune_alpaca": "--max-steps 1 --max-length 48 --test-prompts 2 --overwrite",
    "scripts.pretrain": "--max-steps 1 --max-length 16 --overwrite",
}


def commands(text):
    """The `python` lines of the blocks of a README -> [(module, words after it), ...]."""
    for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line) if line.startswith("python ") else []
            if words[1:2] == ["-m"]:
                yield words[2], words[3:]
            elif words:
                yield words[1][:-3].replace("/", "."), words[2:]


def test_every_command_is_shown():
    assert {module for text in (README, RUNS) for module, _ in commands(text)} == set(SHORT)


@pytest.mark.parametrize("text", [README, RUNS], ids=["README", "scripts/README"])
def test_every_command_runs(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data_prep.imdb.COUNTS", COUNTS)
    tasks = importlib.import_module("gptft.evaluation.tasks").load_tasks()[:2]
    monkeypatch.setattr("gptft.evaluation.instructions.load_tasks", lambda: tasks)
    monkeypatch.setattr("gptft.evaluation.instructions.RESPONSE_TOKENS", 3)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    torch.manual_seed(0)
    tiny = GPT2(GPT2Config(n_positions=64, n_embd=8, n_layer=1, n_head=1))
    for folder in ("mini", "checkpoints/124M"):
        save_model(tiny, tmp_path / folder)
    monkeypatch.setattr("gptft.training.start.BUNDLED", tmp_path / "mini")
    write_tar(tmp_path / "small.tar.gz", [member(*item) for item in official().items()])
    rows = [f"film {i},{'good' if i % 2 else 'bad'}\n" for i in range(40)]
    (tmp_path / "my_texts.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "triples.json").write_text(json.dumps(TRIPLES), encoding="utf-8")
    lines = [json.dumps(triple) + "\n" for triple in TRIPLES]
    (tmp_path / "my_instructions.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "A film"}\n', encoding="utf-8")
    for module, words in commands(text):
        if SHORT[module] is None:
            continue
        shape = ""
        if "--from-scratch" in words:
            shape = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 64"
        added = [*SHORT[module].split(), *shape.split()]
        # No flag may be given twice: those of the README give way, with their values.
        flags = {word for word in added if word.startswith("--")}
        kept = [
            word
            for word, before in zip(words, ["", *words])
            if word not in flags and (before not in flags or word.startswith("--"))
        ]
        name = "gptft.report.__main__" if module == "gptft.report" else module
        code = importlib.import_module(name).main(kept + added)
        assert not code, f"{module} {' '.join(words)}: {capsys.readouterr().err}"


def test_flags_of_commands_that_download(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("data_prep.gpt2").main(["--help"])
    printed = capsys.readouterr().out
    for text in (README, RUNS):
        for module, words in commands(text):
            flags = [word for word in words if word.startswith("--")]
            assert module != "data_prep.gpt2" or all(flag in printed for flag in flags)


@pytest.mark.parametrize("script", ["finetune_alpaca", "finetune_imdb", "pretrain", "train_logreg"])
def test_the_real_run_that_a_script_prints_is_the_readmes(script):
    known = [" ".join([module, *words]) for module, words in commands(README + RUNS)]
    lines = importlib.import_module(f"scripts.{script}").REAL_RUN.splitlines()[1:]
    for line in " && ".join(lines).split(" && "):
        _, *words = shlex.split(line)
        if words[0] == "-m":
            words = words[1:]
        else:
            words[0] = words[0][:-3].replace("/", ".")
        assert any(command.startswith(" ".join(words)) for command in known), line


def test_files_and_names_in_the_readmes_exist():
    names = set(
        re.findall(r"\b(?:gptft|data_prep|scripts|tests)/[\w/]+\.(?:py|md)\b", README + RUNS)
    )
    for name in names:
        assert (ROOT / name).is_file(), name
    table = TOUR[TOUR.index("## Where to change what") :].split("\n## ")[0]
    places = re.findall(r"((?:`[\w.]+`(?: and )?)+) in (gptft/[\w/]+\.py)", table)
    assert len(places) >= 9
    for names, path in places:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.split(".")[-1]
            assert re.search(rf"^\s*(?:def |class |){last}\b", text, re.MULTILINE), name


def test_the_readmes_are_short():
    words = {
        name: len((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "gptft/README.md", "scripts/README.md", "scripts/BENCHMARKS.md")
    }
    assert words["README.md"] <= 2200 and sum(words.values()) <= 6000

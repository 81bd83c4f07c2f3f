"""The commands in the README's blocks, in order and as written, with small stand-ins for the data and the models.

Only the size is changed: a flag or two are added that make a run short. Since a command finds what those before it have
left, a README whose commands get in each other's way, or name a flag, file or folder that isn't there, fails here.
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

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TRIPLES = [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(40)]
# What each command is given so that it ends in seconds. Downloads get a file instead; what none can replace is None.
SHORT = {
    "data_prep.imdb": "--archive small.tar.gz",
    "data_prep.alpaca": "--file alpaca_gpt4_999.json",
    "data_prep.gpt2": None,
    "gptft.generate": "--max-new-tokens 3",
    "gptft.predict": "",
    "gptft.report": "",
    "pytest": None,
    "scripts.train_logreg": "",
    "scripts.finetune_imdb": "--max-steps 1 --max-length 32",
    "scripts.finetune_alpaca": "--max-steps 1 --max-length 48 --test-prompts 2",
    "scripts.pretrain": "--max-steps 1 --max-length 16",
}


def commands():
    """The `python` lines of the README's blocks -> [(module, words after it), ...]."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        for line in block.splitlines() if not language else []:
            words = shlex.split(line.partition(" #")[0]) if line.startswith("python ") else []
            if words:
                is_script = words[1].endswith(".py")
                yield (
                    (words[1][:-3].replace("/", "."), words[2:])
                    if is_script
                    else (words[2], words[3:])
                )


def test_the_readme_has_commands_of_every_kind():
    assert {module for module, _ in commands()} == set(SHORT)


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data_prep.imdb.COUNTS", COUNTS)
    monkeypatch.setattr(
        "gptft.evaluate.load_tasks", lambda: importlib.import_module("gptft.tasks").load_tasks()[:2]
    )
    monkeypatch.setattr("gptft.evaluate.RESPONSE_TOKENS", 3)
    monkeypatch.setattr("sys.stdin", io.StringIO("a line\n"))
    torch.manual_seed(0)
    tiny = GPT2(GPT2Config(n_positions=64, n_embd=8, n_layer=1, n_head=1))
    for folder in ("mini", "checkpoints/124M"):
        save_model(tiny, tmp_path / folder)
    monkeypatch.setattr("gptft.initial.BUNDLED", tmp_path / "mini")
    write_tar(tmp_path / "small.tar.gz", [member(name, text) for name, text in official().items()])
    (tmp_path / "my_texts.csv").write_text(
        "text,label\n" + "".join(f"film {i},{'good' if i % 2 else 'bad'}\n" for i in range(40)),
        encoding="utf-8",
    )
    (tmp_path / "alpaca_gpt4_999.json").write_text(json.dumps(TRIPLES), encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "A film"}\n', encoding="utf-8")
    for module, words in commands():
        if SHORT[module] is None:
            continue
        shape = (
            "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 64"
            if "--from-scratch" in words
            else ""
        )
        code = importlib.import_module(module).main(
            [*words, *SHORT[module].split(), *shape.split()]
        )
        assert not code, f"{module} {' '.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize(
    "module, words", [(module, words) for module, words in commands() if module == "data_prep.gpt2"]
)
def test_flags_of_commands_that_download(module, words, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in words if word.startswith("--"))


@pytest.mark.parametrize("script", ["finetune_alpaca", "finetune_imdb", "pretrain", "train_logreg"])
def test_real_runs_that_a_script_names_are_the_readmes(script):
    known = [" ".join([module, *words]) for module, words in commands()]
    for line in importlib.import_module(f"scripts.{script}").REAL_RUN.splitlines()[1:]:
        for command in line.strip().split(" && "):
            _, *words = shlex.split(command)
            module = (
                words[1:] if words[0] == "-m" else [words[0][:-3].replace("/", "."), *words[1:]]
            )
            assert any(one.startswith(" ".join(module)) for one in known), command


def test_files_that_the_readme_names_are_there():
    for name in set(
        re.findall(r"\b(?:gptft|data_prep|scripts|tests)/[\w/]+\.(?:py|jsonl|json|md)\b", TEXT)
    ):
        assert (ROOT / name).is_file(), name


def test_names_that_the_readme_says_where_to_change_are_there():
    rows = re.findall(
        r"^\|.*?\| (.*) \|$",
        TEXT[TEXT.index("## Where to change what") :].split("\n## ")[0],
        re.MULTILINE,
    )
    places = [
        (names, path)
        for row in rows
        for names, path in re.findall(r"((?:`[\w.]+`(?: and )?)+) in (gptft/[\w/]+\.py)", row)
    ]
    assert len(places) >= 8
    for names, path in places:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"^\s*(?:def |class |){name.split('.')[-1]}\b", text, re.MULTILINE), (
                f"{name} in {path}"
            )

"""`python -m data_prep.alpaca`: which records are left out, the split, and the files written."""

import hashlib
import json
import os
from unittest.mock import Mock

import pytest

from data_prep import alpaca
from gptft.data.examples import load_instructions
from gptft.data.instructions import Example

RECORDS = [
    {"instruction": f"Say {i}.", "input": f"in {i}" if i % 2 else "", "output": f"It is {i}."}
    for i in range(100)
]


def prepare(file, out):
    return alpaca.main(["--file", str(file), "--out", str(out)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    return path


def test_what_is_written(file, tmp_path):
    """The files load without notes and hold every record once; README has the checksums."""
    out = tmp_path / "data" / "alpaca"
    assert prepare(file, out) == 0
    assert set(os.listdir(out)) == {"README", "train.jsonl", "val.jsonl", "test.jsonl"}
    found = load_instructions(str(out))
    names = ("instruction", "input", "output", "id")
    assert found.notes == [", ".join(f"{name} from '{name}'" for name in names)]
    sizes = {split: len(examples) for split, examples in found.splits.items()}
    assert sizes == {"train": 90, "val": 5, "test": 5}
    examples = sorted(example for of in found.splits.values() for example in of)
    assert examples == [Example(i, **record) for i, record in enumerate(RECORDS, 1)]
    readme = (out / "README").read_text(encoding="utf-8")
    assert "seed 0" in readme
    for path in [file, *out.glob("*.jsonl")]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def test_the_same_file_gives_the_same_bytes(file, tmp_path):
    for name in "ab":
        assert prepare(file, tmp_path / name) == 0
    a, b = ((tmp_path / name / "val.jsonl").read_bytes() for name in "ab")
    assert a == b


def test_no_instruction_in_two_splits():
    """Alpaca repeats instructions with other inputs, and in other case and spacing."""
    wording = ["{} Sort  these.", "{} sort these.", "{} Sort these. "]
    examples = [
        Example(i, wording[i % 3].format(i % 50), input=str(i), output="x") for i in range(400)
    ]
    splits = alpaca.make_splits(examples)
    sides = [
        {" ".join(example.instruction.lower().split()) for example in of} for of in splits.values()
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 50
    assert all(sides)


@pytest.mark.parametrize(
    "output, reason",
    [
        ("", "empty output"),
        ("<nooutput>", "empty output"),
        ("<No Output>.", "empty output"),
        ("N/A", "empty output"),
        ("I'm sorry, but I cannot see the image you mention.", "declines"),
        ("Sorry, the task involves audio output, which is not possible.", "declines"),
        ("As an AI language model, I am unable to open links.", "declines"),
        ("I'm unable to view images.", "declines"),
        ("I do not have access to the website.", "declines"),
        ("<nooutput> - Visuals cannot be created by a model.", "declines"),
    ],
)
def test_outputs_that_are_left_out(output, reason):
    kept, counts = alpaca.clean([Example(1, "Say it.", "", output)])
    assert kept == []
    [(line, n)] = counts.items()
    assert n == 1
    assert line.startswith("left out") and reason in line


@pytest.mark.parametrize(
    "output",
    [
        "None",
        "😈",
        ":-)",
        "+",
        "0",
        "No.",
        "I cannot stand the sound of it, she said.",
        "I'm sorry to hear that. It must be very difficult for you.",
        "The image shows a cat.",
        "GPT models cannot draw a picture.",
        "Sorry is a word.",
        "I'm sorry, but I cannot tell you that.",
        "No input is needed to start the video.",
        "Unfortunately, I cannot see the photo. However, here is how to describe one."
        + " Look" * 60,
    ],
)
def test_outputs_that_are_kept(output):
    example = Example(1, "Say it.", "", output)
    assert alpaca.clean([example]) == ([example], {})


def test_repeated_prompts_are_left_out():
    first = Example(1, "Say 0.", "", "It is 0.")
    kept, counts = alpaca.clean(
        [first, Example(2, " say  0.", "", "Zero."), Example(3, "a", "b", "c")]
    )
    assert [example.id for example in kept] == [1, 3]
    assert counts == {"left out: repeated instruction and input": 1}


@pytest.mark.parametrize(
    "text",
    ["<noinput>", "No input", "No input required.", "`<noinput>`", "n/a", "<none>", "< noinput >"],
)
def test_inputs_that_mean_none_are_emptied(text):
    """Otherwise the prompt would be the one for instructions with an input."""
    [example], counts = alpaca.clean([Example(1, "Say it.", text, "It.")])
    assert example.input == ""
    assert sum(counts.values()) == 1


@pytest.mark.parametrize("text", ["none", "+", ">", "no input devices", "0"])
def test_other_inputs_are_kept(text):
    example = Example(1, "Say it.", text, "It.")
    assert alpaca.clean([example]) == ([example], {})


@pytest.mark.parametrize(
    "name, lines",
    [
        (
            "alpaca_17k",
            ["15,608 |", " 867 |", "248 emptied", "31 left out: empty", "14 left out: the"],
        ),
        ("alpaca_gpt4_999", ["14 left out: repeated", "1 left out: the output declines"]),
    ],
)
def test_counts_on_real_files(shared, tmp_path, capsys, name, lines):
    assert prepare(shared / f"{name}.json", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines)


def test_download_when_no_file_is_given(tmp_path, monkeypatch, file):
    download = Mock(side_effect=lambda urls, path, git_blob: file.rename(path))
    monkeypatch.setattr(alpaca, "download", download)
    assert alpaca.main(["--out", str(tmp_path / "alpaca")]) == 0
    url = (
        "https://raw.githubusercontent.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/"
        "alpaca_gpt4_data.json"
    )
    download.assert_called_once_with(
        [url],
        tmp_path / "alpaca_gpt4_data.json",
        git_blob="25508714b7879a1e5a6764ba7f979a980f549f1a",
    )

"""`python -m data_prep.alpaca`: what is left out, how it is split, and what is written."""

import hashlib
import json

import pytest

from data_prep import alpaca
from gptft.data.alpaca import Example, load_instructions


def prepare(file, out, *argv):
    return alpaca.main(["--file", str(file), "--out", str(out), *argv])


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def records(n=100):
    return [
        {"instruction": f"Say {i}.", "input": f"in {i}" if i % 2 else "", "output": f"It is {i}."}
        for i in range(n)
    ]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.json"
    path.write_text(json.dumps(records()), encoding="utf-8")
    return path


def test_files(file, tmp_path, capsys):
    out = tmp_path / "data" / "alpaca"
    assert prepare(file, out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README",
        "test.jsonl",
        "train.jsonl",
        "val.jsonl",
    ]
    splits = {split: rows(out / f"{split}.jsonl") for split in ("train", "val", "test")}
    assert [len(of) for of in splits.values()] == [90, 5, 5]
    assert sorted(row["id"] for of in splits.values() for row in of) == list(range(1, 101))
    for of in splits.values():
        assert all(
            {k: row[k] for k in ("instruction", "input", "output")} == records()[row["id"] - 1]
            for row in of
        )
    text = (out / "README").read_text(encoding="utf-8")
    for split in splits:
        assert (
            f"{hashlib.sha256((out / f'{split}.jsonl').read_bytes()).hexdigest()}  {split}.jsonl"
            in text
        )
    assert (
        "seed 0" in text
        and "not the official file" in text
        and hashlib.sha256(file.read_bytes()).hexdigest() in text
    )
    assert "python scripts/finetune_alpaca.py --data" in capsys.readouterr().out
    found = load_instructions(str(out))
    assert found.notes == [] and found.splits["val"] == [Example(**row) for row in splits["val"]]


def test_same_file_and_seed_give_the_same_bytes(file, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert prepare(file, tmp_path / name, "--seed", seed) == 0
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert a == b and a["val.jsonl"] != c["val.jsonl"]


def test_no_instruction_on_two_sides(tmp_path):
    """Nor one that differs by capitals or spacing only: Alpaca repeats instructions with other inputs."""
    path = tmp_path / "my.jsonl"
    wording = ["Sort  these.", "sort these.", "Sort these. "]
    many = [
        {"instruction": f"{i % 50} {wording[i % 3]}", "input": str(i), "output": "x"}
        for i in range(400)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    assert prepare(path, tmp_path / "out") == 0
    sides = [
        {alpaca.key(row["instruction"]) for row in rows(tmp_path / "out" / f"{split}.jsonl")}
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, sides)) == 50 and all(sides)


@pytest.mark.parametrize(
    "output, why",
    [
        ("", "empty output"),
        (" \n", "empty output"),
        ("<nooutput>", "empty output"),
        ("<No Output>.", "empty output"),
        ("N/A", "empty output"),
        ("I'm sorry, but I cannot see the image you mention.", "picture"),
        ("Sorry, the task involves audio output, which is not possible.", "picture"),
        ("As an AI language model, I am unable to open links.", "picture"),
        ("I'm unable to view images.", "picture"),
        ("I do not have access to the website.", "picture"),
        ("<nooutput> - Visuals cannot be created by a model.", "picture"),
        ("It is 0.", "there before"),
    ],
)
def test_left_out(output, why):
    examples = [
        Example(1, "Say 0.", "", "It is 0."),
        Example(2, " say  0." if why == "there before" else "Say 1.", "", output.strip()),
    ]
    kept, counts = alpaca.clean(examples)
    assert kept == examples[:1]
    [(reason, n)] = counts.items()
    assert n == 1 and reason.startswith("left out") and why in reason


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
        "I'm sorry to hear that. It must be very difficult for you.",  # asked for sympathy
        "The image shows a cat.",
        "GPT models cannot draw a picture.",
        "Sorry is a word.",
        "No input is needed to start the video.",
        "Unfortunately, I cannot see the photo. However, here is how you would describe one. "
        + "First, look at it. " * 20,
    ],
)
def test_kept(output):
    """A filter that takes too much does harm that nobody sees."""
    example = Example(1, "Say it.", "", output)
    assert alpaca.clean([example]) == ([example], {})


@pytest.mark.parametrize(
    "said",
    [
        "<noinput>",
        "No input",
        "No input required.",
        "`<noinput>`",
        "n/a",
        "<none>",
        "< noinput >",
        "No input provided",
    ],
)
def test_inputs_that_say_there_is_none(said):
    """Taken for an input, "<noinput>" would come with the wording for instructions that have one."""
    [example], counts = alpaca.clean([Example(1, "Say it.", said, "It.")])
    assert example.input == "" and sum(counts.values()) == 1
    for real in ("none", "+", ">", "no input devices", "0"):
        assert alpaca.clean([Example(1, "Say it.", real, "It.")])[0][0].input == real


def test_real_files(shared, tmp_path, capsys):
    """Counts on the real data, so that a changed rule is noticed."""
    assert prepare(shared / "alpaca_17k.json", tmp_path / "17k") == 0
    printed = capsys.readouterr().out
    assert "15,608 |" in printed and printed.count(" 867 |") == 2 and "248 inputs" in printed
    assert (
        "- 31 left out: empty output" in printed
        and "- 14 left out: the output only says" in printed
    )
    assert prepare(shared / "alpaca_gpt4_999.json", tmp_path / "999") == 0
    printed = capsys.readouterr().out
    assert (
        "- 14 left out: the same instruction and input" in printed
        and "- 1 left out: the output only says" in printed
    )


@pytest.mark.parametrize(
    "content, says",
    [
        ('[{"instruction": "a"}]', "no field 'output', "),
        ('{"a": 1}', "not a list"),
        ("[]", "no records"),
        (
            json.dumps([{"instruction": "a", "output": "b"}]),
            "1 usable records are too few to split",
        ),
    ],
)
def test_mistakes(tmp_path, capsys, content, says):
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    assert prepare(path, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err and "bad.json" in err
    assert not (tmp_path / "out").exists()


def test_prepared_folder_is_kept(file, tmp_path, capsys):
    assert prepare(file, tmp_path / "out") == 0
    before = (tmp_path / "out" / "val.jsonl").read_bytes()
    assert (
        prepare(file, tmp_path / "out", "--seed", "1") == 2
        and "--overwrite" in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "val.jsonl").read_bytes() == before
    assert prepare(file, tmp_path / "out", "--seed", "1", "--overwrite") == 0
    assert (tmp_path / "out" / "val.jsonl").read_bytes() != before


def test_download_when_no_file_is_given(tmp_path, monkeypatch):
    """The file's git blob id is the check: nothing but the official file gets its name."""
    asked = []

    def download(urls, path, **expected):
        asked.append((urls, path, expected))
        path.write_text(json.dumps(records()), encoding="utf-8")

    monkeypatch.setattr(alpaca, "download", download)
    assert alpaca.main(["--out", str(tmp_path / "alpaca")]) == 0
    [(urls, path, expected)] = asked
    assert urls[0].startswith(
        "https://raw.githubusercontent.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/"
    )
    assert path == tmp_path / "alpaca_gpt4_data.json" and expected == {
        "git_blob": "25508714b7879a1e5a6764ba7f979a980f549f1a"
    }

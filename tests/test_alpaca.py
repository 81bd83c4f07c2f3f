"""Instructions as examples, prompts and labels."""

import json

import numpy as np
import pytest

from gptft import Tokenizer
from gptft.data.alpaca import TEMPLATES, Example, InstructionDataset, load_instructions, marked
from gptft.data.batching import lm_batch
from gptft.errors import DataError

SPECIAL = TEMPLATES["special"].special_tokens


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(SPECIAL)


def learned_text(dataset, i, tokenizer):
    _, labels = dataset[i]
    return tokenizer.decode(labels[labels != -100].tolist())


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---------------------------------------------------------------- prompts


def test_prompts_to_the_letter():
    """Others must be able to ask our models in exactly these words; a line break more makes another prompt."""
    assert TEMPLATES["alpaca"].text("Add.", "1, 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
        "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
    )
    assert TEMPLATES["alpaca"].text("Say hi.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay hi.\n\n### Response:"
    )
    assert TEMPLATES["short"].text("Add.", "1, 2") == "### User\nAdd.\n\n1, 2\n\n### Assistant\n"
    assert TEMPLATES["short"].text("Say hi.") == "### User\nSay hi.\n\n### Assistant\n"
    assert TEMPLATES["special"].text("Add.", "1, 2") == "<|user|>Add.\n\n1, 2<|end|><|assistant|>"
    assert TEMPLATES["special"].text("Say hi.") == "<|user|>Say hi.<|end|><|assistant|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_encoded_prompts_say_the_text(name, tokenizer):
    """Also for texts that look like a wording's own parts: braces are no fields, and no text spells a special token."""
    template, nasty = TEMPLATES[name], "{input} <|user|> <|endoftext|> %s"
    ids = template.encode(tokenizer, nasty, "é 🙂 {}")
    assert tokenizer.decode(ids) == template.text(nasty, "é 🙂 {}")
    special = [id for id in ids if id >= tokenizer.eot]
    assert special == ([50257, 50259, 50258] if name == "special" else [])
    assert all(
        marker in template.text("a", "b")
        for marker in template.markers
        if "that describes a task" not in marker
    )


# ---------------------------------------------------------------- token ids and labels


def test_ids_and_labels_are_aligned(tokenizer):
    """Written out by hand: not shifted, the prompt not learned, end-of-text learned."""
    [example] = [Example(0, "Say hi.", "", "Hi there.")]
    token_ids, labels = InstructionDataset([example], tokenizer, "special")[0]
    prompt, response = (
        [50257, *tokenizer.encode("Say hi."), 50259, 50258],
        tokenizer.encode("Hi there."),
    )
    assert token_ids.tolist() == [*prompt, *response, 50256]
    assert labels.tolist() == [-100] * len(prompt) + [*response, 50256]
    token_ids, labels = InstructionDataset([example], tokenizer, "special", loss="all")[0]
    assert labels.tolist() == token_ids.tolist() == [*prompt, *response, 50256]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_is_the_response_and_its_end(name, tokenizer):
    """A merge across the border, or a border off by one, would show in some example."""
    examples = load_instructions().splits["train"] + [
        Example(0, "x", "", text) for text in ("\nnew line", " blank", ":)", "é🙂")
    ]
    dataset = InstructionDataset(examples, tokenizer, name)
    for i, example in enumerate(examples):
        assert learned_text(dataset, i, tokenizer) == example.output + "<|endoftext|>"
        assert tokenizer.decode(dataset[i][0].tolist()) == (
            TEMPLATES[name].text(example.instruction, example.input)
            + example.output
            + "<|endoftext|>"
        )


@pytest.mark.parametrize("file, n", [("alpaca_gpt4_999.json", 999), ("alpaca_17k.json", 17387)])
def test_every_real_example(shared, tokenizer, file, n):
    records = json.loads((shared / file).read_text(encoding="utf-8"))
    examples = [Example(i, **record) for i, record in enumerate(records)]
    dataset = InstructionDataset(examples, tokenizer)
    assert len(dataset) == n == len(examples) and dataset.note() == ""
    for i, example in enumerate(examples):
        assert learned_text(dataset, i, tokenizer) == example.output + "<|endoftext|>"


WORDS = "one two three four five six seven eight nine ten"  # a token each


def test_too_long_examples_are_cut_or_dropped(tokenizer):
    """Learning end-of-text after half a sentence would teach a model to stop anywhere."""
    prompt = len(TEMPLATES["short"].encode(tokenizer, "Count."))
    long_prompt = Example(2, WORDS * 3, "", "x")
    examples = [Example(0, "Count.", "", WORDS), long_prompt, Example(1, "Count.", "", "one two")]
    for room in range(1, 14):
        dataset = InstructionDataset(examples, tokenizer, "short", max_length=prompt + room)
        assert [example.id for example in dataset.examples] == [0, 1] and len(dataset) == 2
        assert (
            [len(ids) for ids, _ in dataset]
            == dataset.lengths.tolist()
            == [prompt + min(room, 11), prompt + min(room, 3)]
        )
        whole = [WORDS + "<|endoftext|>", "one two<|endoftext|>"]
        cut = [" ".join(WORDS.split()[:room]), " ".join(WORDS.split()[: min(room, 2)])]
        expected = [w if room >= n else c for w, c, n in zip(whole, cut, (11, 3))]
        assert [learned_text(dataset, i, tokenizer) for i in range(2)] == expected
        assert dataset.n_cut == (room < 11) + (room < 3) and dataset.n_dropped == 1
    assert (
        dataset.note() == f"examples dropped, as their prompt alone fills {prompt + 13} tokens: 1"
    )
    with pytest.raises(DataError, match=f"the prompts alone fill {prompt} tokens"):
        InstructionDataset(examples, tokenizer, "short", max_length=prompt)


def test_batch_of_examples(tokenizer):
    """Padding is never learned, though it has the id of end-of-text; `learned` points one before each learned token."""
    examples = [Example(0, "Count.", "", WORDS), Example(1, "Say hi.", "", "Hi.")]
    for loss in ("response", "all"):
        dataset = InstructionDataset(examples, tokenizer, "short", loss=loss)
        batch = lm_batch(dataset, np.array([1, 0]), tokenizer.eot)
        B, T = batch.token_ids.shape
        wanted = []
        for row, i in enumerate((1, 0)):
            token_ids, labels = dataset[i]
            n = len(token_ids)
            assert (
                batch.token_ids[row, :n].tolist() == token_ids.tolist()
                and batch.labels[row, :n].tolist() == labels.tolist()
            )
            assert (batch.token_ids[row, n:] == tokenizer.eot).all() and (
                batch.labels[row, n:] == -100
            ).all()
            wanted += [(row * T + t, labels[t + 1]) for t in range(n - 1) if labels[t + 1] != -100]
        assert [
            (p, label)
            for p, label in zip(batch.learned.tolist(), batch.labels.flatten()[batch.learned + 1])
        ] == wanted
        assert (
            batch.n == len(wanted)
            and batch.n_tokens == dataset.lengths.sum()
            and batch.rows.tolist() == [1, 0]
        )
    assert batch.n == batch.n_tokens - 2  # nothing predicts the first token of a row


def test_marked(tokenizer):
    """--inspect is how a person sees the loss mask; it must show the mask that is used."""
    dataset = InstructionDataset([Example(0, "Say hi.", "", "Hi é!")], tokenizer, "short")
    assert (
        marked(*dataset[0], tokenizer, False)
        == "### User\nSay hi.\n\n### Assistant\n[[Hi é!<|endoftext|>]]"
    )
    assert (
        marked(*dataset[0], tokenizer, True)
        == "### User\nSay hi.\n\n### Assistant\n\x1b[32mHi é!<|endoftext|>\x1b[0m"
    )
    whole = InstructionDataset([Example(0, "Say hi.", "", "Hi.")], tokenizer, "short", loss="all")
    assert (
        marked(*whole[0], tokenizer, False)
        == "[[### User\nSay hi.\n\n### Assistant\nHi.<|endoftext|>]]"
    )


def test_unknown_loss(tokenizer):
    with pytest.raises(ValueError, match="loss must be"):
        InstructionDataset([Example(0, "a", "", "b")], tokenizer, loss="none")


# ---------------------------------------------------------------- load_instructions


def test_the_bundled_sample():
    """Counts as the samples' README states them."""
    found = load_instructions()
    assert {split: len(examples) for split, examples in found.splits.items()} == {
        "train": 192,
        "val": 24,
        "test": 24,
    }
    assert found.notes == [] and found.splits["train"][0].instruction.startswith(
        "Put these events in chronological order"
    )
    assert (
        sum(bool(example.input) for examples in found.splits.values() for example in examples)
        == 120
    )


def test_all_forms_give_the_same_example(tmp_path):
    turns = [{"role": "user", "content": " Say hi. "}, {"role": "assistant", "content": "Hi!\n"}]
    forms = [
        {"instruction": "Say hi.", "output": "Hi!"},
        {"instruction": "Say hi.", "input": None, "output": " Hi!"},
        {"prompt": "Say hi.", "completion": "Hi!"},
        {"messages": turns},
    ]
    other = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    for form in forms:
        rows = [
            dict(form, split="train", id="a"),
            dict(other, split="val"),
            dict(other, split="test"),
        ]
        found = load_instructions(str(jsonl(tmp_path / "my.jsonl", rows)))
        assert found.splits == {
            "train": [Example("a", "Say hi.", "", "Hi!")],
            "val": [Example(2, "Add.", "1, 2", "3")],
            "test": [Example(3, "Add.", "1, 2", "3")],
        }
    (tmp_path / "my.csv").write_text(
        'split,instruction,input,output\ntrain,Add.,"1, 2",3\nval,a,,b\ntest,c,,d\n',
        encoding="utf-8",
    )
    assert load_instructions(str(tmp_path / "my.csv")).splits["train"] == [
        Example(2, "Add.", "1, 2", "3")
    ]


def test_equal_instructions_fall_on_one_side(tmp_path):
    """A model that has learned an instruction with one input must not be tested on it with another."""
    rows = [{"instruction": f"Task {i % 20}.", "input": str(i), "output": "x"} for i in range(200)]
    splits = load_instructions(str(jsonl(tmp_path / "my.jsonl", rows)), seed=3).splits
    sides = [{example.instruction for example in examples} for examples in splits.values()]
    assert sum(map(len, sides)) == 20 and [len(examples) for examples in splits.values()] == [
        160,
        20,
        20,
    ]


def test_empty_outputs_are_left_out_and_counted(tmp_path):
    rows = [
        {"instruction": f"Task {i}.", "output": "" if i % 5 == 0 else "x", "split": s}
        for i in range(10)
        for s in ("train", "val", "test")
    ]
    found = load_instructions(str(jsonl(tmp_path / "my.jsonl", rows)))
    assert [len(examples) for examples in found.splits.values()] == [8, 8, 8]
    assert "val: 2 of 10 records have an empty output and are left out" in found.notes
    for row in rows:
        row["output"] = " "
    with pytest.raises(DataError, match="every output of train is empty, .*my.jsonl"):
        load_instructions(str(jsonl(tmp_path / "my.jsonl", rows)))


GOOD = {"instruction": "a", "output": "b"}
BAD = [
    ({"instruction": "a"}, "no field 'output', .*line 2"),
    ({"output": "a"}, "no field 'instruction', .*line 2"),
    ({"instruction": " ", "output": "a"}, "field 'instruction' is empty, .*line 2"),
    ({"instruction": "a", "output": ["b"]}, "field 'output' is a list, .*line 2"),
    ({"instruction": "a", "input": 3, "output": "b"}, "field 'input' is a number, .*line 2"),
    ({"instruction": "a", "output": "\ud800"}, "lone surrogate.*'output', .*line 2"),
    ({"prompt": "a"}, "no field 'completion', .*line 2"),
    ({"messages": "hi"}, "messages are not one user's and one assistant's turn, .*line 2"),
    ({"messages": [{"role": "user", "content": "a"}]}, "messages are not one user's"),
    (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "messages are not",
    ),
    (
        {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]},
        "field 'user' is null, .*line 2",
    ),
    ({"messages": ["a", "b"]}, "messages are not one user's"),
]


@pytest.mark.parametrize("record, message", BAD)
def test_bad_records(tmp_path, record, message):
    with pytest.raises(DataError, match=message):
        load_instructions(str(jsonl(tmp_path / "my.jsonl", [GOOD, record, GOOD])))

"""Instructions as examples, prompts and labels."""

import json

import pytest
from script_runs import write_rows

from gptft.data.batches import language_model_batch
from gptft.data.examples import load_instructions
from gptft.data.instructions import TEMPLATES, Example, InstructionDataset
from gptft.data.tokenizer import Tokenizer
from gptft.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(TEMPLATES["special"].special_tokens)


def learned_text(dataset, i, tokenizer):
    _, labels = dataset[i]
    return tokenizer.decode(labels[labels != -100].tolist())


# ---------------------------------------------------------------- prompts

ALPACA = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
PROMPTS = {  # of "Add." with the input "1, 2", and of "Say hi."
    "alpaca": (
        f"{ALPACA}, paired with an input that provides further context. {REQUEST}\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:",
        f"{ALPACA}. {REQUEST}\n\n### Instruction:\nSay hi.\n\n### Response:",
    ),
    "short": (
        "### User\nAdd.\n\n1, 2\n\n### Assistant\n",
        "### User\nSay hi.\n\n### Assistant\n",
    ),
    "special": ("<|user|>Add.\n\n1, 2<|end|><|assistant|>", "<|user|>Say hi.<|end|><|assistant|>"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts(name, tokenizer):
    """Exact to the character. Neither braces nor the names of special tokens mean anything in an
    instruction."""
    template = TEMPLATES[name]
    assert (template.text("Add.", "1, 2"), template.text("Say hi.")) == PROMPTS[name]
    nasty = "{input} <|user|> <|endoftext|> %s"
    ids = template.encode(tokenizer, nasty, "é 🙂 {}")
    assert tokenizer.decode(ids) == template.text(nasty, "é 🙂 {}")
    special = [id for id in ids if id >= tokenizer.eot]
    assert special == ([50257, 50259, 50258] if name == "special" else [])
    assert all(marker in PROMPTS[name][0] for marker in template.markers)


# ---------------------------------------------------------------- token ids and labels


def test_labels_are_aligned_with_token_ids(tokenizer):
    """Worked by hand: not shifted, the prompt is not learned, end-of-text is."""
    prompt = [50257, *tokenizer.encode("Say hi."), 50259, 50258]
    response = [*tokenizer.encode("Hi there."), 50256]
    examples = [Example(0, "Say hi.", "", "Hi there.")]
    for loss, learned in (("response", [-100] * len(prompt)), ("all", prompt)):
        token_ids, labels = InstructionDataset(examples, tokenizer, "special", loss=loss)[0]
        assert token_ids.tolist() == prompt + response and labels.tolist() == learned + response
    with pytest.raises(ValueError, match="loss must be"):
        InstructionDataset(examples, tokenizer, loss="none")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_response_and_end_of_text_are_learned(name, tokenizer):
    """No merge crosses the border between prompt and response, and it is not off by one."""
    outputs = ("\nnew line", " blank", ":)", "é🙂")
    examples = load_instructions().splits["train"] + [Example(0, "x", "", o) for o in outputs]
    dataset = InstructionDataset(examples, tokenizer, name)
    for i, example in enumerate(examples):
        response = example.output + "<|endoftext|>"
        prompt = TEMPLATES[name].text(example.instruction, example.input)
        assert learned_text(dataset, i, tokenizer) == response
        assert tokenizer.decode(dataset[i][0].tolist()) == prompt + response


@pytest.mark.parametrize("room", [1, 2, 10, 11, 12])
def test_examples_that_are_too_long(tokenizer, room):
    """A response that is cut loses end-of-text: a model should not learn to stop there. A prompt
    that leaves no room is dropped."""
    words = "one two three four five six seven eight nine ten"  # one token each
    examples = [Example(0, words * 3, "", "x"), Example(1, "Count.", "", words)]
    n_prompt = len(TEMPLATES["short"].encode(tokenizer, "Count."))
    dataset = InstructionDataset(examples, tokenizer, "short", max_length=n_prompt + room)
    assert dataset.examples == examples[1:] and len(dataset) == dataset.n_dropped == 1
    kept = " ".join(words.split(" ")[:room]) + "<|endoftext|>" * (room > 10)
    assert learned_text(dataset, 0, tokenizer) == kept
    assert len(dataset[0][0]) == dataset.lengths[0] == n_prompt + min(room, 11)
    assert dataset.n_cut == (room < 11)
    assert f"at {n_prompt + room} tokens: " in dataset.note() and "dropped 1 " in dataset.note()
    with pytest.raises(DataError, match=f"every prompt fills the {n_prompt} tokens"):
        InstructionDataset(examples, tokenizer, "short", max_length=n_prompt)


def test_a_batch_of_examples(tokenizer):
    """The logits of a position predict the next token, so targets are the labels one position to
    the left. Padding is never a target."""
    examples = [Example(0, "Count.", "", "one two three"), Example(1, "Say hi.", "", "Hi.")]
    dataset = InstructionDataset(examples, tokenizer, "short")
    batch = language_model_batch(dataset, [1, 0])
    [token_ids] = batch.inputs
    for row, i in enumerate((1, 0)):
        ids, labels = dataset[i]
        assert token_ids[row, : len(ids)].tolist() == ids.tolist()
        assert batch.targets[row].tolist() == [*labels[1:], *[-100] * (33 - len(ids))]
    assert batch.rows.tolist() == [1, 0] and batch.n_tokens == dataset.lengths.sum()
    assert batch.n == 4 + 3  # words or signs, and end-of-text


# ---------------------------------------------------------------- load_instructions


def load(path, rows, seed=0):
    return load_instructions(write_rows(path, rows), seed)


def test_the_bundled_sample():
    """The counts that the samples' README states."""
    found = load_instructions()
    sizes = {split: len(examples) for split, examples in found.splits.items()}
    assert sizes == {"train": 192, "val": 24, "test": 24}
    fields = (
        "instruction from 'instruction', input from 'input', output from 'output', id from 'id'"
    )
    assert found.notes[0].startswith(fields)


SPLITS = [
    {"instruction": "Add.", "input": "1, 2", "output": "3", "split": split}
    for split in ("val", "test")
]


@pytest.mark.parametrize(
    "form",
    [
        '{"instruction": "Say hi.", "output": "Hi!"}',
        '{"instruction": "Say hi.", "input": null, "output": " Hi!"}',
        '{"Instruction": "Say hi.", "context": "", "response": "Hi!", "category": "chat"}',
        '{"instruction": "Say hi.", "output": "Hi!", "prompt": "### Say hi.", "answer": "no"}',
        '{"prompt": "Say hi.", "completion": "Hi!"}',
        '{"prompt": "Say hi.", "response": "Hi!"}',
        '{"question": "Say hi.", "answer": "Hi!"}',
        '{"messages": [{"role": "user", "content": " Say hi. "},'
        ' {"role": "assistant", "content": "Hi!\\n"}]}',
        '{"conversations": [{"from": "human", "value": "Say hi."},'
        ' {"from": "gpt", "value": "Hi!"}]}',
    ],
)
def test_all_forms_give_the_same_example(tmp_path, form):
    mine = json.loads(form) | {"split": "train", "id": "a"}
    found = load(tmp_path / "my.jsonl", [mine, *SPLITS])
    assert found.splits == {
        "train": [Example("a", "Say hi.", "", "Hi!")],
        "val": [Example(2, "Add.", "1, 2", "3")],
        "test": [Example(3, "Add.", "1, 2", "3")],
    }


def test_a_synonym_of_input_and_the_note(tmp_path):
    rows = [{"instruction": "Add.", name: "1", "response": "2"} for name in ("context", "INPUT")]
    rows = [row | {"split": "train", "n": 0} for row in rows]
    found = load(tmp_path / "my.jsonl", rows + SPLITS)
    assert [example.input for example in found.splits["train"]] == ["1", "1"]
    assert "input from 'context', output from 'response'" in found.notes[0]
    assert found.notes[0].endswith("input from 'input', output from 'output'; unused: 'n'")


TURNS = """[{"role": "system", "content": "Be kind. "}, {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"}, {"role": "system", "content": "c"}]"""


def test_conversations(tmp_path):
    """The system's turn goes before the instruction, and the first exchange is used."""
    turns = json.loads(TURNS)
    rows = [{"messages": of, "prompt": "Hi?", "split": "train"} for of in (turns, turns[1:3])]
    found = load(tmp_path / "my.jsonl", rows + SPLITS)
    asked = [(example.instruction, example.output) for example in found.splits["train"]]
    assert asked == [("Be kind.\n\nHi?", "Hi!"), ("Hi?", "Hi!")]
    assert found.notes[0].startswith("messages from 'messages', split from 'split', instruction")
    assert "train: 1 conversations have further turns, which are ignored" in found.notes


def test_inputs_are_split_if_all_instructions_are_equal(tmp_path):
    rows = [{"instruction": "Sum up.", "input": f"{i % 20}", "output": "x"} for i in range(200)]
    found = load(tmp_path / "my.jsonl", rows)
    assert [len(examples) for examples in found.splits.values()] == [160, 20, 20]
    sides = [{example.input for example in examples} for examples in found.splits.values()]
    assert sum(map(len, sides)) == 20
    rows = [rows[i] | {"split": split} for i, split in enumerate(("train", "train", "val", "test"))]
    assert len(load(tmp_path / "my.jsonl", rows).notes) == 1  # no text in both train and val


def test_equal_instructions_stay_on_one_side(tmp_path):
    """A model that was trained on an instruction is not tested on it with another input."""
    rows = [{"instruction": f"Task {i % 20}.", "input": str(i), "output": "x"} for i in range(200)]
    splits = load(tmp_path / "my.jsonl", rows, seed=3).splits
    assert [len(examples) for examples in splits.values()] == [160, 20, 20]
    sides = [{example.instruction for example in examples} for examples in splits.values()]
    assert sum(map(len, sides)) == 20


def test_empty_outputs_are_left_out_with_a_note(tmp_path):
    rows = [
        {"instruction": f"Task {i}.", "output": "x" * (i % 5), "split": split}
        for split in ("train", "val", "test")
        for i in range(10)
    ]
    found = load(tmp_path / "my.jsonl", rows)
    assert [len(examples) for examples in found.splits.values()] == [8, 8, 8]
    assert "val: left out 2 records whose output is empty" in found.notes
    with pytest.raises(DataError, match="every output of train is empty, .*my.jsonl"):
        load(tmp_path / "my.jsonl", [row | {"output": " "} for row in rows])

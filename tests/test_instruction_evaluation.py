"""How a model follows instructions: loss, responses and the metrics of texts.

The oracles are a model that knows the answers by heart, each row read on its own, and values
worked by hand.
"""

import math
import random

import numpy as np
import pytest
import torch
from toy_run import FP32

from gptft import GPT2, Example, GPT2Config, InstructionDataset, Tokenizer
from gptft.data.batches import language_model_batch
from gptft.data.examples import load_instructions
from gptft.data.instructions import TEMPLATES
from gptft.evaluation.instructions import (
    Response,
    ends_in_loop,
    evaluate_instructions,
    instruction_loss,
    keeps_format,
    lcs_length,
    respond,
    rouge_l,
    text_metrics,
)
from gptft.evaluation.tasks import load_tasks

TOKENIZER = Tokenizer()
EXAMPLES = [
    Example(0, "What is the capital of France?", "", "It is Paris."),
    Example(1, "Which is the largest?", "2, 9, 4", "9 is the largest"),
    Example(2, "Name a fruit in capital letters.", "", "MANGO"),
]


def small_model(n_positions=128):
    torch.manual_seed(0)
    model = GPT2(GPT2Config(n_positions=n_positions, n_embd=32, n_layer=1, n_head=2, dropout=0.2))
    model.template = "short"
    return model


def sample(split, n):
    examples = load_instructions().splits[split][:n]
    return InstructionDataset(examples, TOKENIZER, "short", max_length=128)


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_loss_is_the_mean_over_tokens(batch_size):
    # A mean of the rows' or batches' means would give short responses more weight.
    model, dataset = small_model(), sample("test", 11)
    m = instruction_loss(model, dataset, FP32, batch_size)
    assert model.training  # again, and dropout was off
    losses = []
    for token_ids, labels in dataset:
        log_probs = model.eval()(torch.from_numpy(token_ids)[None])[0].log_softmax(-1)
        learned = np.flatnonzero(labels != -100)
        losses += [-log_probs[t - 1, labels[t]].item() for t in learned]
    assert m == {
        "n": 11,
        "loss": pytest.approx(np.mean(losses), abs=1e-5),
        "perplexity": pytest.approx(math.exp(m["loss"])),
        "response_tokens": len(losses),
    }


# ---------------------------------------------------------------- responses


@pytest.fixture(scope="module")
def trained_model():
    """A model that knows EXAMPLES by heart."""
    model = small_model(64).eval()
    batch = language_model_batch(InstructionDataset(EXAMPLES, TOKENIZER, "short"), np.arange(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(45):
        optimizer.zero_grad()
        model(*batch.inputs, targets=batch.targets).backward()
        optimizer.step()
    return model


def test_responses_end_and_are_cut(trained_model):
    responses = respond(trained_model, EXAMPLES, TOKENIZER, 10, batch_size=2)
    assert [response.text for response in responses] == [e.output for e in EXAMPLES]
    assert all(r.ended and TOKENIZER.eot not in r.ids for r in responses)
    [cut] = respond(trained_model, EXAMPLES[:1], TOKENIZER, 2, batch_size=1)
    assert cut == (responses[0].ids[:2], TOKENIZER.decode(responses[0].ids[:2]), False)


def test_prompts_that_leave_little_room():
    # With the wording the prompts have 64, 20, 62 and 21 tokens; the model reads 64.
    model = small_model(64)
    examples = [Example(0, "no " * n, "", "") for n in (55, 11, 53, 12)]
    responses = respond(model, examples, TOKENIZER, 20, batch_size=4)
    assert [len(response.ids) for response in responses] == [0, 20, 2, 20]
    assert responses == [respond(model, [e], TOKENIZER, 20, batch_size=1)[0] for e in examples]


def test_whole_evaluation(monkeypatch):
    monkeypatch.setattr("gptft.evaluation.instructions.load_tasks", lambda: load_tasks()[::50])
    monkeypatch.setattr("gptft.evaluation.instructions.RESPONSE_TOKENS", 3)
    model, sizes = small_model(), []
    model.wte.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    datasets = {split: sample(split, 6) for split in ("val", "test")}
    results, rows = evaluate_instructions(model, datasets, TOKENIZER, FP32, 4, batch_size=2)
    assert max(sizes) == 2  # so that the memory that was enough for training is enough here
    assert set(results) == {"val", "test", "tasks"}
    assert results["val"] == instruction_loss(model, datasets["val"], FP32, 2)
    assert (results["test"]["n"], results["test"]["n_generated"]) == (6, 4)
    assert results["tasks"]["n"] == 3
    answered = [datasets["test"].examples[i] for i in (0, 1, 3, 5)]
    for row, example in zip(rows, answered, strict=True):
        assert set(row) == {"id", "prompt", "response", "ended"}
        assert row["id"] == example.id
        assert row["prompt"] == TEMPLATES["short"].text(example.instruction, example.input)


# ---------------------------------------------------------------- metrics of texts


@pytest.mark.parametrize(
    "text, reference, expected",
    [
        # Lin 2004, section 3.1
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("cat the sat", "The cat sat, there now", 0.5),  # P = 2/3, R = 2/5
        ("It's 7:30!", "it s 7 30", 1.0),
        ("?!", "a b", 0.0),
    ],
)
def test_rouge_l(text, reference, expected):
    assert rouge_l(text, reference) == rouge_l(reference, text) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1, 5, 11, 63, 64, 65, 130])
def test_lcs_equals_the_table_of_the_textbook(n):
    rng = random.Random(n)
    a, b = rng.choices("abcd", k=n), rng.choices("abcd", k=n // 2 + 1)
    table = np.zeros((n + 1, len(b) + 1), dtype=int)
    for i, j in np.ndindex(n, len(b)):
        longer = max(table[i, j + 1], table[i + 1, j])
        table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else longer
    assert lcs_length(a, b) == table[-1, -1]


START = list(range(100, 130))


@pytest.mark.parametrize(
    "ids, expected",
    [
        (START + [1] * 12, True),
        (START + [1] * 11, False),
        (START + [1, 2, 3, 4] * 3, True),
        (START * 3, True),
        ([1] * 12 + START, False),
        ([], False),
    ],
)
def test_a_loop_has_three_copies_and_twelve_tokens(ids, expected):
    assert ends_in_loop(ids) is expected


@pytest.mark.parametrize(
    "response, expected",
    [
        (Response([1], "Fine.", True), True),
        (Response([], "", True), False),
        (Response([1], "Fine. ### User x", True), False),
        (Response([1] * 20, "no " * 20, True), True),  # it ended, so it was no loop
        (Response([1] * 20, "no " * 20, False), False),
    ],
)
def test_keeps_format(response, expected):
    assert keeps_format(response, TEMPLATES["short"].markers) is expected


def test_text_metrics():
    responses = [Response([1, 2], "the cat sat", True), Response([3] * 12, "a " * 12, False)]
    m = text_metrics(responses, ["the cat sat", "b"], ("###",))
    assert m == {
        "n_generated": 2,
        "end_of_text": 0.5,
        "end_of_text_ci": pytest.approx([0.0945, 0.9055], abs=1e-4),  # Wilson, 1 of 2
        "format": 0.5,
        "format_ci": m["end_of_text_ci"],
        "rouge_l": 0.5,
        "repeated_4grams": 8 / 9,  # 9 times "a a a a"
        "words": 7.5,
    }
    nothing = text_metrics([Response([], "", True)], ["x"], ())
    assert nothing["repeated_4grams"] == 0

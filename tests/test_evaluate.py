"""What is reported of an instruction-tuned model: losses, responses and forced choices, on models small enough to know."""

import math
import os
import socket

import numpy as np
import pytest
import torch

from gptft import distributed, evaluate
from gptft.config import GPT2Config
from gptft.data.alpaca import TEMPLATES, Example, InstructionDataset, load_instructions
from gptft.data.batching import lm_batch
from gptft.evaluate import evaluate_instructions, forced_choices, loss_metrics, respond
from gptft.hardware import Hardware, evaluating
from gptft.language import language_loss
from gptft.model import GPT2
from gptft.tasks import Task
from gptft.tokenizer import Tokenizer

CPU = Hardware("cpu", "fp32", False, "for tests")
SHORT = TEMPLATES["short"]
TASKS = [
    Task(
        0,
        "a",
        "What is the capital of France?",
        "",
        [],
        ["It is Paris.", "It is Lyon.", "It is Nice.", "It is Lille."],
    ),
    Task(
        1,
        "a",
        "Which is the largest?",
        "2, 9, 4",
        [],
        ["9 is the largest", "2 is the largest", "4 is the largest", "None is the largest"],
    ),
    Task(2, "b", "Name a fruit in capital letters.", "", [], ["MANGO", "Mango", "mango", "MAN"]),
]


def tiny(n_positions=64):
    torch.manual_seed(0)
    model = GPT2(GPT2Config(n_positions=n_positions, n_embd=32, n_layer=1, n_head=2, dropout=0.2))
    model.template = "short"
    return model


def prompts_of(tasks, tokenizer):
    return [SHORT.encode(tokenizer, task.instruction, task.input) for task in tasks]


@pytest.fixture(scope="module")
def learned():
    """A model that knows the right choices of TASKS by heart."""
    tokenizer, model = Tokenizer(), tiny()
    examples = [Example(task.id, task.instruction, task.input, task.choices[0]) for task in TASKS]
    batch = lm_batch(InstructionDataset(examples, tokenizer, "short"), np.arange(3), tokenizer.eot)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    model.eval()
    for _ in range(45):
        optimizer.zero_grad()
        language_loss(model, batch).backward()
        optimizer.step()
    return model


def test_responses_of_a_model_that_knows_them(learned, tokenizer):
    responses = respond(learned, prompts_of(TASKS, tokenizer), tokenizer, 10)
    assert [response.text for response in responses] == [task.choices[0] for task in TASKS]
    assert all(response.ended and tokenizer.eot not in response.ids for response in responses)
    [cut] = respond(learned, prompts_of(TASKS[:1], tokenizer), tokenizer, 2)
    assert not cut.ended and cut.ids == responses[0].ids[:2]


def test_forced_choice_of_a_model_that_knows(learned, tokenizer):
    with evaluating(learned, CPU):
        assert forced_choices(learned, TASKS, tokenizer, CPU).tolist() == [True] * 3
        turned = [
            task._replace(choices=task.choices[::-1]) for task in TASKS
        ]  # the right one in another place
        assert forced_choices(learned, turned, tokenizer, CPU).tolist() == [False] * 3


def test_equal_probabilities_are_no_right_choice(tokenizer):
    """An untrained model must not score by being first in a tie, nor by choices that don't fit into its context."""
    model = tiny()
    with torch.no_grad():
        model.wte.weight.zero_()
    equal = Task(0, "a", "Pick.", "", [], ["one", "two", "ten", "six"])
    with evaluating(model, CPU):
        assert forced_choices(model, [equal], tokenizer, CPU).tolist() == [False]
        long = equal._replace(instruction="very " * 80)
        assert forced_choices(model, [equal, long], tokenizer, CPU).tolist() == [False, False]


def test_prompts_with_little_room(learned, tokenizer):
    """Prompts may be as long as the context: the answer is then short, or empty, and its mates' answers are not."""
    prompts = [[5] * 64, [5] * 62, [5] * 10, [6] * 50]
    responses = respond(learned, prompts, tokenizer, 20)
    assert [len(response.ids) + response.ended for response in responses][:2] == [
        0,
        min(2, len(responses[1].ids) + responses[1].ended),
    ]
    alone = [respond(learned, [prompt], tokenizer, 20)[0] for prompt in prompts]
    assert responses == alone and len(respond(learned, prompts, tokenizer, 3)[2].ids) <= 3


def test_no_pass_takes_more_rows_than_it_may(tokenizer, monkeypatch):
    """What fits in training must not run out of memory in the evaluation after it."""
    model, sizes = tiny(), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    hidden_states = model.hidden_states
    monkeypatch.setattr(
        model,
        "hidden_states",
        lambda ids, *args, **more: sizes.append(len(ids)) or hidden_states(ids, *args, **more),
    )
    monkeypatch.setattr(evaluate, "load_tasks", lambda: TASKS[:2])
    monkeypatch.setattr(evaluate, "RESPONSE_TOKENS", 2)
    monkeypatch.setattr(evaluate, "TASK_TOKENS", 2)
    model.template = "short"
    datasets = {split: sample(tokenizer, 5) for split in ("val", "test")}
    evaluate_instructions(model, datasets, tokenizer, CPU, 5, at_once=2)
    assert set(sizes) == {1, 2}


def sample(tokenizer, n, max_length=64):
    return InstructionDataset(
        load_instructions().splits["test"][:n], tokenizer, "short", max_length
    )


def test_loss_is_the_mean_over_tokens_whatever_the_batches(tokenizer, monkeypatch):
    """A mean of rows' or batches' means would weigh short responses more."""
    model, dataset = tiny(), sample(tokenizer, 11)
    found = []
    for size in (1, 3, 100):
        monkeypatch.setattr(evaluate, "EVAL_BATCH", size)
        with evaluating(model, CPU):
            found.append(loss_metrics(model, dataset, tokenizer.eot, CPU))
    assert model.training  # and dropout, which would make the three differ, was off
    with torch.no_grad():
        total = sum(
            language_loss(model.eval(), lm_batch(dataset, [i], tokenizer.eot)).item()
            for i in range(11)
        )
    n_tokens = sum((labels != -100).sum() for _, labels in dataset)
    for m in found:
        assert m["loss"] == pytest.approx(total / n_tokens, abs=1e-5) and m[
            "perplexity"
        ] == pytest.approx(math.exp(m["loss"]))
        assert (m["n"], m["response_tokens"]) == (11, n_tokens)


def test_whole_evaluation(tokenizer, monkeypatch):
    monkeypatch.setattr(evaluate, "load_tasks", lambda: TASKS)
    model = tiny(128)
    datasets = {
        split: InstructionDataset(load_instructions().splits[split][:6], tokenizer, "short", 128)
        for split in ("val", "test")
    }
    results, predictions = evaluate_instructions(model, datasets, tokenizer, CPU, n_prompts=4)
    assert set(results) == {"val", "test", "tasks"} and set(results["val"]) == {
        "n",
        "loss",
        "perplexity",
        "response_tokens",
    }
    assert (
        results["test"]["n"] == 6
        and results["test"]["n_generated"] == 4
        and 0 <= results["test"]["rouge_l"] <= 1
    )
    assert results["tasks"]["written"]["n"] == results["tasks"]["forced_choice"]["n"] == 3
    kept = [datasets["test"].examples[i] for i in (0, 1, 3, 5)]
    assert [row["id"] for row in predictions] == [example.id for example in kept]
    assert [row["prompt"] for row in predictions] == [
        SHORT.text(example.instruction, example.input) for example in kept
    ]
    assert all(set(row) == {"id", "prompt", "response", "ended"} for row in predictions)


def in_one_of_two_processes(rank, port, path):
    """What each of two processes does; the first writes what it got."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    distributed.setup("cpu")
    found = everything()
    if rank == 0:
        torch.save(found, path)
    distributed.cleanup()


def everything():
    tokenizer, model = Tokenizer(), tiny()
    with evaluating(model, CPU):
        loss, chosen = (
            loss_metrics(model, sample(tokenizer, 5), tokenizer.eot, CPU),
            forced_choices(model, TASKS, tokenizer, CPU),
        )
    responses = respond(model, prompts_of(TASKS, tokenizer), tokenizer, 4)
    return loss, chosen.tolist(), [tuple(response) for response in responses]


def test_two_processes_report_what_one_does(tmp_path):
    """Each row counted once, each response in its place."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(in_one_of_two_processes, (port, tmp_path / "found.pt"), nprocs=2)
    loss, chosen, responses = torch.load(tmp_path / "found.pt")
    alone = everything()
    assert (chosen, responses) == alone[1:] and loss == pytest.approx(alone[0], rel=1e-6)

"""The task suite: its checkers, and each task on right and wrong responses."""

import json
from collections import Counter
from pathlib import Path

import pytest

from gptft.evaluation.tasks import CHECKS, Task, load_tasks, passes, task_results

SUITE = load_tasks()
RESPONSES = Path(__file__).parent / "fixtures" / "task_responses.jsonl"

CASES = [  # check, its arguments, texts that pass, texts that fail
    (
        "answer",
        {"accept": ["paris"], "reject": ["lyon"]},
        ["Paris", "It's PARIS, not Lyon."],
        ["Lyon, not Paris", "Parisian", ""],
    ),
    (
        "choice",
        {"answer": "positive", "options": ["positive", "negative"]},
        ["Positive.", "positive, positive"],
        ["negative", "positive or negative", "positively"],
    ),
    (
        "number",
        {"value": 56},
        ["56", "7 x 8 = 56.", "It is 56, I think", "$56", "56.0", "50+6=56"],
        ["55", "56 or 57", "156", "5.6", "-56", "fifty-six"],
    ),
    ("number", {"value": 1234.5}, ["1,234.5", "about 1234.50"], ["1234", "1,234.55"]),
    ("number", {"value": -3}, ["The result is -3."], ["3", "5-3"]),
    (
        "items",
        {"n": 3},
        ["a\nb\nc", "1. a\n2. b\n3. c", "Here:\n- a\n- b\n* c", "1) a\n\n2) b\n3) c\nDone."],
        ["a, b, c", "1. a\n2. b", "1. a\n2. b\n3. c\n4. d", "a\nb\nA", "1. a\n2. b\n3. a"],
    ),
    (
        "items",
        {"n": 3, "separator": ","},
        ["a, b, c", "a,b,c."],
        ["a, b", "a, b, c, d", "a\nb\nc", "a, , c", "a, b, a"],
    ),
    (
        "order",
        {"items": ["2", "5", "14"]},
        ["2, 5, 14", "2 < 5 < 14"],
        ["2, 14, 5", "2, 5", "2, 5, 5, 14", "25, 14"],
    ),
    ("lower", {}, ["all small, 42!"], ["One Capital", "42"]),
    ("upper", {}, ["ALL LARGE, 42!"], ["ONE SMALL l", "42"]),
    ("words", {"low": 2, "high": 3}, ["one two", " one\ntwo three "], ["one", "a b c d"]),
    (
        "sentences",
        {"n": 2},
        ["One. Two.", "Really? Yes!", "It costs 3.50 now. Fine."],
        ["One.", "One. Two. Three.", "One. Two", "one two"],
    ),
    (
        "has",
        {"phrases": ["rome", "new york"]},
        ["Rome and New York", "from new york to ROME!"],
        ["Rome", "New York", "Romeo in New York"],
    ),
    ("lacks", {"phrases": ["blue", ","]}, ["red", "bluebell"], ["Blue!", "red, green"]),
    ("without_letter", {"letter": "e"}, ["A dog ran off"], ["The dog", "END"]),
    (
        "is_json",
        {"value": {"name": "Mia", "age": 7}},
        ['{"name": "Mia", "age": 7}', '{"age": "7",\n "Name": "mia"}'],
        ['{"name": "Mia"}', "{name: Mia, age: 7}", 'It is {"name": "Mia", "age": 7}', "[" * 10**5],
    ),
    ("is_json", {"value": {"even": False}}, ['{"even": false}'], ['{"even": 0}', '{"even": null}']),
    ("starts", {"phrase": "yes,"}, ["Yes, it can."], ["Yes it can.", "No, yes,"]),
    ("ends", {"phrase": "See you."}, ["Bye. see you."], ["See you", "See you. Bye."]),
]


@pytest.mark.parametrize("kind, arguments, good, bad", CASES)
def test_checker(kind, arguments, good, bad):
    assert [text for text in good if not CHECKS[kind](text, **arguments)] == []
    assert [text for text in bad if CHECKS[kind](text, **arguments)] == []


def test_every_checker_is_tested_and_used():
    used = {check["kind"] for task in SUITE for check in task.checks}
    assert {kind for kind, *_ in CASES} == set(CHECKS) == used


def test_size_of_the_suite():
    assert len({(task.instruction, task.input) for task in SUITE}) == len(SUITE)
    sizes = Counter(task.category for task in SUITE)
    assert len(sizes) == 12 and min(sizes.values()) >= 10


def test_each_task_accepts_a_right_response_and_rejects_wrong_ones():
    rows = [json.loads(line) for line in RESPONSES.read_text(encoding="utf-8").splitlines()]
    for task, row in zip(SUITE, rows, strict=True):
        assert task.id == row["id"]
        found = [passes(task, text) for text in (row["right"], *row["wrong"])]
        assert found == [True, False, False, False], task
        # The instruction names the words that it asks for.
        for echo in (task.instruction, task.input, f"{task.instruction.upper()} {row['right']}"):
            assert not passes(task, echo), task


@pytest.mark.parametrize("text", ["", " ", "I don't know.", "Of course! Here it is:", "1. 2. 3."])
def test_evasive_responses_pass_no_task(text):
    assert [task.instruction for task in SUITE if passes(task, text)] == []


def test_results_by_category():
    tasks = [Task(i, category, "", "", []) for i, category in enumerate("aabbb")]
    found = task_results(tasks, [True, False, True, True, False])
    interval = found["categories"]["a"].pop("ci")
    assert interval == pytest.approx([0.0945, 0.9055], abs=1e-4)  # Wilson, 1 of 2
    assert found["categories"]["a"] == {"n": 2, "passed": 1, "rate": 0.5}
    assert found["categories"]["b"]["passed"] == 2
    assert (found["n"], found["passed"], found["rate"]) == (5, 3, 0.6)

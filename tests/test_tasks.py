"""The task suite: every checker on responses that pass and that fail, and every task against its own four responses."""

from collections import Counter

import pytest

from gptft.tasks import CHECKS, Task, load_tasks, passes, task_results

SUITE = load_tasks()

CASES = [  # check, its arguments, responses that pass, responses that fail
    (
        "answer",
        {"accept": ["paris"], "reject": ["lyon"]},
        ["Paris", "It's PARIS, not Lyon.", "paris"],
        ["Lyon, not Paris", "Parisian", ""],
    ),
    (
        "answer",
        {"accept": ["carbon dioxide", "CO2"]},
        ["co2!", "Carbon dioxide and water"],
        ["carbon", "carbon and dioxide"],
    ),
    (
        "choice",
        {"answer": "positive", "options": ["positive", "negative"]},
        ["Positive.", "positive, positive"],
        ["negative", "positive or negative", "positively", "no idea"],
    ),
    (
        "number",
        {"value": 56},
        ["56", "7 x 8 = 56.", "It is 56, I think", "$56", "56.0", "50+6=56"],
        ["55", "56 or 57", "156", "5.6", "-56", "fifty-six"],
    ),
    ("number", {"value": 1234.5}, ["1,234.5", "about 1234.50"], ["1234", "1,234.55", ""]),
    ("number", {"value": -3}, ["-3", "The result is -3."], ["3", "5-3"]),
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
    (
        "words",
        {"low": 2, "high": 3},
        ["one two", " one two\nthree "],
        ["one", "one two three four", ""],
    ),
    ("words", {"low": 4}, ["a b c d", "a " * 50], ["a b c"]),
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
    ("has", {"phrases": ["17"]}, ["There are 17 of them"], ["There are 170 of them"]),
    ("lacks", {"phrases": ["blue"]}, ["red", "bluebell"], ["Blue!", "a blue one"]),
    ("lacks", {"phrases": [","]}, ["no commas here"], ["one, two", ","]),
    ("without_letter", {"letter": "e"}, ["A dog ran off"], ["The dog", "END"]),
    (
        "is_json",
        {"value": {"name": "Mia", "age": 7}},
        ['{"name": "Mia", "age": 7}', '{"age": "7",\n "Name": "mia"}'],
        [
            '{"name": "Mia"}',
            '{"name": "Mia", "age": 7, "x": 1}',
            "{name: Mia, age: 7}",
            'Here: {"name": "Mia", "age": 7}',
            "[",
            "[" * 10**5,
        ],
    ),
    (
        "is_json",
        {"value": {"even": False}},
        ['{"even": false}'],
        ['{"even": "false"}', '{"even": 0}', '{"even": null}'],
    ),
    ("is_json", {"value": [1, 2]}, ["[1, 2]"], ["[2, 1]", "[1, 2, 3]", "1, 2"]),
    ("starts", {"phrase": "yes,"}, ["Yes, it can.", "yes, no"], ["Yes it can.", "No, yes,"]),
    (
        "ends",
        {"phrase": "See you soon."},
        ["Bye. See you soon.", "see you soon."],
        ["See you soon", "See you soon. Bye."],
    ),
]


@pytest.mark.parametrize("kind, arguments, good, bad", CASES)
def test_checker(kind, arguments, good, bad):
    assert [text for text in good if not CHECKS[kind](text, **arguments)] == []
    assert [text for text in bad if CHECKS[kind](text, **arguments)] == []


def test_every_checker_is_tested_and_used():
    assert (
        {kind for kind, *_ in CASES}
        == set(CHECKS)
        == {check["kind"] for task in SUITE for check in task.checks}
    )


def test_size_and_shape_of_the_suite():
    assert len(SUITE) >= 100 and [task.id for task in SUITE] == list(range(1, len(SUITE) + 1))
    assert len({(task.instruction, task.input) for task in SUITE}) == len(SUITE)
    assert len(Counter(task.category for task in SUITE)) == 12
    assert min(Counter(task.category for task in SUITE).values()) >= 10
    assert all(len(set(task.choices)) == 4 and task.checks for task in SUITE)


@pytest.mark.parametrize("task", SUITE, ids=lambda task: str(task.id))
def test_right_choice_passes_and_wrong_ones_fail(task):
    assert [passes(task, choice) for choice in task.choices] == [True, False, False, False]
    lengths = [len(choice) for choice in task.choices]
    assert max(lengths) <= 1.6 * min(lengths) + 6, "a forced choice should not be one of length"


@pytest.mark.parametrize(
    "text",
    ["", " ", "I don't know.", "The answer is:", "Of course! Here is the answer:", "1. 2. 3."],
)
def test_what_answers_nothing_passes_nothing(text):
    assert [task.instruction for task in SUITE if passes(task, text)] == []


def test_parroting_passes_nothing():
    """The instruction names the words it asks for: a model that repeats it must not score."""
    for task in SUITE:
        for echo in (
            task.instruction,
            f"{task.instruction}\n{task.input}",
            task.input,
            f"{task.instruction.upper()} {task.choices[0]}",
        ):
            assert not passes(task, echo), task


def test_length_does_not_give_the_right_choice_away():
    """Over the suite, right responses are neither shorter nor longer than wrong ones: within 2 % of the mean."""
    right = sum(len(task.choices[0]) for task in SUITE) / len(SUITE)
    wrong = sum(len(choice) for task in SUITE for choice in task.choices[1:]) / (3 * len(SUITE))
    assert right == pytest.approx(wrong, rel=0.02)


def test_results_by_category():
    few = [Task(i, category, "", "", [], []) for i, category in enumerate("aabbb")]
    found = task_results(few, [True, False, True, True, False])
    assert (found["n"], found["passed"], found["rate"]) == (5, 3, 0.6)
    assert {name: (group["n"], group["passed"]) for name, group in found["categories"].items()} == {
        "a": (2, 1),
        "b": (3, 2),
    }
    assert found["categories"]["a"]["ci"] == pytest.approx(
        [0.0945, 0.9055], abs=1e-4
    )  # Wilson, 1 of 2

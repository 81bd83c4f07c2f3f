"""A suite of small tasks whose answers a program can check, and the checkers.

Each task of assets/tasks.jsonl is an instruction and the checks that a right response passes.

A check reads the response as a person in a hurry would: it looks for the answer, not for the exact
sentence. What it can't see is whether the rest makes sense.

Written for this project. The idea of instructions that a program can verify is that of Zhou et al.
2023, "IFEval".
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from gptft.evaluation.metrics import wilson_interval

TASKS = Path(__file__).parents[1] / "assets" / "tasks.jsonl"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s+(.*)")  # a line of a numbered or bulleted list


class Task(NamedTuple):
    """`checks` are dicts of `kind`, a name of CHECKS, and the arguments of that check."""

    id: int
    category: str
    instruction: str
    input: str
    checks: list[dict]


def load_tasks():
    """The bundled suite -> list[Task]."""
    return [Task(**json.loads(line)) for line in TASKS.read_text(encoding="utf-8").splitlines()]


def passes(task, response):
    """Whether a response (str) passes all checks of a task. One that repeats the instruction never
    does."""
    text = response.strip()
    if not text or task.instruction.lower() in text.lower():
        return False
    return all(
        CHECKS[check["kind"]](text, **{k: v for k, v in check.items() if k != "kind"})
        for check in task.checks
    )


def task_results(tasks, passed):
    """One bool a task -> dict of n, passed, rate and its 95 % interval ci, over all and by
    category."""
    names = dict.fromkeys(task.category for task in tasks)
    groups = {
        name: [ok for task, ok in zip(tasks, passed) if task.category == name] for name in names
    }
    return _rate(passed) | {"categories": {name: _rate(group) for name, group in groups.items()}}


def _rate(passed):
    n, k = len(passed), sum(map(bool, passed))
    return {"n": n, "passed": k, "rate": k / n, "ci": list(wilson_interval(k, n))}


# ---------------------------------------------------------------- checks: (text, arguments) -> bool


def mentions(text, phrases):
    """The phrases of a list that occur in a text, in the order of their mentions: whole words, in
    any case."""
    found = []
    for phrase in phrases:
        # Letters and digits must end where the phrase ends; punctuation stands anywhere.
        start, stop = (
            (r"(?<!\w)" if phrase[0].isalnum() else ""),
            (r"(?!\w)" if phrase[-1].isalnum() else ""),
        )
        found += [
            (m.start(), phrase)
            for m in re.finditer(start + re.escape(phrase) + stop, text, re.IGNORECASE)
        ]
    return [phrase for _, phrase in sorted(found)]


def answer(text, accept, reject=()):
    """One of `accept` is mentioned, and before any of `reject`."""
    named = mentions(text, [*accept, *reject])
    return bool(named) and named[0] in accept


def choice(text, answer, options):
    """Of the options, `answer` and no other is mentioned."""
    return set(mentions(text, options)) == {answer}


def number(text, value):
    """The last number in the text is `value`."""
    found = NUMBER.findall(text)
    return bool(found) and float(found[-1].replace(",", "")) == value


def items(text, n, separator="line"):
    """Exactly n different items, told apart by `separator`: "line" (only the marked ones, if any is
    numbered or bulleted) or a str."""
    if separator == "line":
        lines = [line for line in text.splitlines() if line.strip()]
        marked = [match[1] for match in map(ITEM.fullmatch, lines) if match]
        entries = marked or lines
    else:
        entries = text.rstrip(".").split(separator)
    entries = [entry.strip().lower() for entry in entries]
    return len(entries) == n == len(set(entries)) and all(entries)


def order(text, items):
    """The items are mentioned once each, in this order."""
    return mentions(text, items) == items


def words(text, low=1, high=10**6):
    """From `low` to `high` words, as white space divides them."""
    return low <= len(text.split()) <= high


def sentences(text, n):
    """Exactly n sentences: the text ends in a full stop, question or exclamation mark, and n - 1
    stand before a space."""
    return text[-1] in ".?!" and len(re.findall(r"[.?!]+(?:\s|$)", text)) == n


def has(text, phrases):
    """All `phrases` are mentioned."""
    return set(mentions(text, phrases)) == set(phrases)


def lacks(text, phrases):
    """None of `phrases` is mentioned."""
    return not mentions(text, phrases)


def without_letter(text, letter):
    """A letter occurs nowhere, in neither case."""
    return letter not in text.lower()


def is_json(text, value):
    """The whole text is JSON and equals `value`; strings in any case, numbers also between
    quotes."""
    try:
        return _plain(json.loads(text)) == _plain(value)
    except (ValueError, RecursionError):
        return False


def _plain(value):
    if isinstance(value, dict):
        return {key.lower(): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool) else str(value).lower()


def starts(text, phrase):
    """The text begins with a phrase, in any case."""
    return text.lower().startswith(phrase.lower())


def ends(text, phrase):
    """The text ends with a phrase, in any case."""
    return text.lower().endswith(phrase.lower())


CHECKS = {
    check.__name__: check
    for check in (
        answer,
        choice,
        number,
        items,
        order,
        words,
        sentences,
        has,
        lacks,
        without_letter,
        is_json,
        starts,
        ends,
    )
}
CHECKS |= {
    "lower": str.islower,
    "upper": str.isupper,
}  # no letter of the other kind, and at least one of this

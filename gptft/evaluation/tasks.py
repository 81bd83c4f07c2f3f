"""A suite of small tasks whose answers a program can check.

Each task of assets/tasks.jsonl has an instruction and the checks that a right response passes. A
check looks for the answer, not for an exact sentence; whether the rest of the response makes sense
it can't tell.

The tasks were written for this project. Verifiable instructions are the idea of Zhou et al. 2023,
"IFEval".
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from gptft.evaluation.metrics import wilson_interval

TASKS = Path(__file__).parents[1] / "assets" / "tasks.jsonl"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
LIST_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s+(.*)")  # numbered or bulleted


class Task(NamedTuple):
    """An instruction and its checks, dicts of `kind` (a name in CHECKS) and its arguments."""

    id: int
    category: str
    instruction: str
    input: str
    checks: list[dict]


def load_tasks():
    """The bundled suite -> list[Task]."""
    lines = TASKS.read_text(encoding="utf-8").splitlines()
    return [Task(**json.loads(line)) for line in lines]


def passes(task, response):
    """Whether a response, a str, passes all checks of a task.

    A response that repeats the instruction does not.
    """
    text = response.strip()
    if not text or task.instruction.lower() in text.lower():
        return False
    for check in task.checks:
        arguments = dict(check)
        kind = arguments.pop("kind")
        if not CHECKS[kind](text, **arguments):
            return False
    return True


def task_results(tasks, passed):
    """One bool a task -> dict of n, passed, rate, its 95 % interval ci, and categories.

    categories: dict, category -> the same of its tasks.
    """
    by_category = {}
    for task, ok in zip(tasks, passed):
        by_category.setdefault(task.category, []).append(ok)
    categories = {name: _rate(group) for name, group in by_category.items()}
    return _rate(passed) | {"categories": categories}


def _rate(passed):
    n, k = len(passed), sum(passed)
    return {"n": n, "passed": k, "rate": k / n, "ci": list(wilson_interval(k, n))}


# ---------------------------------------------------------------- checks: (text, arguments) -> bool


def mentions(text, phrases):
    """The phrases that occur in a text as whole words, in any case -> list, in their order."""
    found = []
    for phrase in phrases:
        pattern = re.escape(phrase)
        if phrase[0].isalnum():
            pattern = r"(?<!\w)" + pattern
        if phrase[-1].isalnum():
            pattern += r"(?!\w)"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            found.append((match.start(), phrase))
    return [phrase for _, phrase in sorted(found)]


def answer(text, accept, reject=()):
    """One of `accept` is mentioned, before any of `reject`."""
    found = mentions(text, [*accept, *reject])
    return bool(found) and found[0] in accept


def choice(text, answer, options):
    """Of the options, only `answer` is mentioned."""
    return set(mentions(text, options)) == {answer}


def number(text, value):
    """The last number is `value`."""
    found = NUMBER.findall(text)
    return bool(found) and float(found[-1].replace(",", "")) == value


def items(text, n, separator="line"):
    """There are exactly n different items.

    separator: a str, or "line"; if any line is numbered or bulleted, only such lines count.
    """
    if separator == "line":
        lines = [line for line in text.splitlines() if line.strip()]
        matches = [LIST_ITEM.fullmatch(line) for line in lines]
        entries = [match[1] for match in matches if match] or lines
    else:
        entries = text.rstrip(".").split(separator)
    entries = [entry.strip().lower() for entry in entries]
    return all(entries) and len(entries) == n == len(set(entries))


def order(text, items):
    """The items are mentioned once each, in this order."""
    return mentions(text, items) == items


def words(text, low=1, high=10**6):
    """There are from `low` to `high` words."""
    return low <= len(text.split()) <= high


def sentences(text, n):
    """There are exactly n sentences, and the last one is complete."""
    ends = re.findall(r"[.?!]+(?:\s|$)", text)
    return text[-1] in ".?!" and len(ends) == n


def has(text, phrases):
    """All phrases are mentioned."""
    return set(mentions(text, phrases)) == set(phrases)


def lacks(text, phrases):
    """No phrase is mentioned."""
    return not mentions(text, phrases)


def without_letter(text, letter):
    """A letter does not occur, in either case."""
    return letter not in text.lower()


def is_json(text, value):
    """The text is JSON that equals `value`; strings in any case, numbers also in quotes."""
    try:
        return _normalized(json.loads(text)) == _normalized(value)
    except (ValueError, RecursionError):
        return False


def _normalized(value):
    if isinstance(value, dict):
        return {key.lower(): _normalized(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_normalized(entry) for entry in value]
    if value is None or isinstance(value, bool):
        return value
    return str(value).lower()


def starts(text, phrase):
    """The text starts with a phrase, in any case."""
    return text.lower().startswith(phrase.lower())


def ends(text, phrase):
    """The text ends with a phrase, in any case."""
    return text.lower().endswith(phrase.lower())


CHECKS = {
    "answer": answer,
    "choice": choice,
    "number": number,
    "items": items,
    "order": order,
    "words": words,
    "sentences": sentences,
    "has": has,
    "lacks": lacks,
    "without_letter": without_letter,
    "is_json": is_json,
    "starts": starts,
    "ends": ends,
    "lower": str.islower,
    "upper": str.isupper,
}

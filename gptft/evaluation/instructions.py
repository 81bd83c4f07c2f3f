"""How well a language model follows instructions, as far as a program can tell.

Four questions: how likely are held-out responses (loss); how close are its own responses to them
(ROUGE-L); do they end, keep the format and avoid loops; and how many checkable tasks does it solve
(tasks.py). Responses are greedy and in float32, so that they don't depend on the batch.

Words are lower-cased runs of [a-z0-9], without stemming. Ratios are sums over all responses,
divided once.

Not here: a judge. No program can tell whether a response is true, or good.
Source: Lin 2004 (ROUGE-L; F with equal weights, as in Google's rouge_score); Welleck et al. 2020
(repeated n-grams).
"""

import re
from typing import NamedTuple

import numpy as np

from gptft import distributed
from gptft.data.instructions import TEMPLATES
from gptft.evaluation.language_model import instruction_loss
from gptft.evaluation.metrics import wilson_interval
from gptft.evaluation.tasks import load_tasks, passes, task_results
from gptft.generation.decoding import generate

RESPONSE_TOKENS = 200  # longest response to a test prompt
TASK_TOKENS = 64  # longest response to a task
LOOP = 12  # a response that ends in three or more copies of a piece, this many tokens long, loops


class Response(NamedTuple):
    """A model's answer: its ids without end-of-text, their text, and whether it ended by itself."""

    ids: list[int]
    text: str
    ended: bool


def evaluate_instructions(model, datasets, tokenizer, device, n_prompts, batch_size):
    """Everything that is reported of a model -> ({split: metrics} and "tasks", prediction rows).

    Args:
        model: GPT2 with a template.
        datasets: InstructionDatasets by split, with loss="response".
        device: Device, for the loss.
        n_prompts: how many test prompts are answered, evenly spaced; 0 leaves out the tasks, too.
        batch_size: maximum rows of a batch.
    """
    template = TEMPLATES[model.template]
    results = {
        split: instruction_loss(model, dataset, device, batch_size)
        for split, dataset in datasets.items()
    }
    if not n_prompts:
        return results, []

    test = datasets["test"].examples
    n_prompts = min(len(test), n_prompts)
    chosen = np.linspace(0, len(test) - 1, n_prompts)
    examples = [test[int(i)] for i in chosen]
    responses = respond(model, examples, tokenizer, RESPONSE_TOKENS, batch_size)
    references = [example.output for example in examples]
    results["test"] |= text_metrics(responses, references, template.markers)
    predictions = [
        {
            "id": example.id,
            "prompt": template.text(example.instruction, example.input),
            "response": response.text,
            "ended": response.ended,
        }
        for example, response in zip(examples, responses)
    ]

    tasks = load_tasks()
    answers = respond(model, tasks, tokenizer, TASK_TOKENS, batch_size)
    passed = [passes(task, answer.text) for task, answer in zip(tasks, answers)]
    results["tasks"] = task_results(tasks, passed)
    return results, predictions


def respond(model, examples, tokenizer, max_new_tokens, batch_size):
    """Greedy answers to examples or tasks (with instruction and input) -> list[Response].

    A prompt that leaves less room in the context gets a shorter answer. Several processes share the
    work, and each returns all answers. Prints a line after each batch.
    """
    template = TEMPLATES[model.template]
    n_positions = model.config.n_positions
    prompts = [template.encode(tokenizer, e.instruction, e.input) for e in examples]
    own = range(distributed.rank(), len(prompts), distributed.world_size())
    by_limit = {}
    for i in sorted(own, key=lambda i: len(prompts[i])):
        limit = min(n_positions - len(prompts[i]), max_new_tokens)
        by_limit.setdefault(limit, []).append(i)
    found = []
    for limit, rows in by_limit.items():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            new_ids = [[] for _ in batch]
            if limit > 0:
                tokens = [prompts[i] for i in batch]
                new_ids = generate(model, tokens, limit, temperature=0, eos_id=tokenizer.eot)
            found += zip(batch, new_ids)
            print(f"  {len(found):,} of {len(own):,} answered", flush=True)
    responses = []
    for _, ids in sorted(distributed.gather(found)):
        ended = ids[-1:] == [tokenizer.eot]
        if ended:
            ids.pop()
        responses.append(Response(ids, tokenizer.decode(ids), ended))
    return responses


# ---------------------------------------------------------------- metrics of texts


def text_metrics(responses, references, markers):
    """Generated responses beside the wanted texts -> dict of n_generated, rates and scores.

    Args:
        responses: list[Response], at least one. references: list[str] of as many.
        markers: the template's. Rates come with their 95 % interval.
    """
    n = len(responses)
    texts = [words(response.text) for response in responses]
    n_ended = sum(response.ended for response in responses)
    n_clean = sum(keeps_format(response, markers) for response in responses)
    scores = [rouge_l(response.text, wanted) for response, wanted in zip(responses, references)]
    four_grams = [ngrams(text, 4) for text in texts]
    n_four_grams = sum(map(len, four_grams))
    n_different = sum(len(set(grams)) for grams in four_grams)
    return {
        "n_generated": n,
        "end_of_text": n_ended / n,
        "end_of_text_ci": list(wilson_interval(n_ended, n)),
        "format": n_clean / n,
        "format_ci": list(wilson_interval(n_clean, n)),
        "rouge_l": sum(scores) / n,
        "repeated_4grams": (n_four_grams - n_different) / max(n_four_grams, 1),
        "words": sum(map(len, texts)) / n,
    }


def words(text):
    """str -> list of its words."""
    return re.findall("[a-z0-9]+", text.lower())


def ngrams(entries, n):
    """The runs of n neighbours of a list, as tuples: [a, b, c] -> [(a, b), (b, c)] for n = 2."""
    shifted = [entries[i:] for i in range(n)]
    return list(zip(*shifted))


def rouge_l(text, reference):
    """ROUGE-L of two texts, from 0 to 1: the F-measure of their longest common subsequence."""
    a = words(text)
    b = words(reference)
    return 2 * lcs_length(a, b) / max(len(a) + len(b), 1)


def lcs_length(a, b):
    """Length of the longest common subsequence of two lists.

    A table holds the lengths for the first i entries of a and the first j of b, and needs only its
    row before.
    """
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            longest = max(above[j + 1], row[j])
            row.append(above[j] + 1 if x == y else longest)
    return row[-1]


def keeps_format(response, markers):
    """Whether a Response has text, none of the template's markers, and no loop at its end."""
    if not response.text.strip():
        return False
    if any(marker in response.text for marker in markers):
        return False
    return response.ended or not ends_in_loop(response.ids)


def ends_in_loop(ids):
    """Whether a list ends in three copies of a piece or more, LOOP entries long together or
    more."""
    for period in range(1, len(ids) // 3 + 1):
        n = max(3 * period, LOOP)
        tail = ids[-n:]
        if len(tail) >= LOOP and tail[period:] == tail[:-period]:
            return True
    return False

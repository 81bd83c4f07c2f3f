"""What a model makes of instructions: its loss on held-out responses, the responses it writes, and the task suite.

Responses are written greedily and in float32, so that they don't depend on how the prompts were batched. With several
processes each one takes its share, and all get everything.

Left out: a judge. Whether a response is true, or good, no program here can tell.
"""

import math

import numpy as np
import torch

from gptft import distributed
from gptft.data.alpaca import TEMPLATES, Example, InstructionDataset
from gptft.data.batching import EVAL_BATCH, eval_batches, lm_batch
from gptft.data.documents import window_batch
from gptft.generate import generate
from gptft.hardware import evaluating
from gptft.language import token_losses
from gptft.tasks import load_tasks, passes, task_results
from gptft.text_metrics import Response, text_metrics

EVAL_TOKENS = 2048  # of such a pass over a stream
RESPONSE_TOKENS = 200  # longest response to a test prompt
TASK_TOKENS = 64  # longest response to a task; the right ones are short


def response_losses(model, dataset, pad_id, hardware, at_once=EVAL_BATCH):
    """Losses of all rows of a dataset -> (N,) float64, the sum over the row's learned tokens in nats; (N,) int64, their count.

    at_once: how many rows a pass may take. Call it under `evaluating(model, hardware)`.
    """
    found = []
    for batch in eval_batches(dataset, lm_batch, pad_id, min(at_once, EVAL_BATCH)):
        B, T = batch.token_ids.shape
        losses, row = token_losses(model, hardware.put(batch)).cpu().double(), batch.learned // T
        sums = torch.zeros(B, dtype=torch.float64).index_add_(0, row, losses)
        found += zip(batch.rows.tolist(), sums.tolist(), torch.bincount(row, minlength=B).tolist())
    _, sums, counts = zip(*sorted(distributed.gather(found)))
    return np.array(sums), np.array(counts)


def loss_metrics(model, dataset, pad_id, hardware, at_once=EVAL_BATCH):
    """-> dict of n (rows), loss (mean over all response tokens, nats), perplexity and response_tokens. As response_losses."""
    sums, counts = response_losses(model, dataset, pad_id, hardware, at_once)
    loss = sums.sum() / counts.sum()
    return {
        "n": len(sums),
        "loss": float(loss),
        "perplexity": math.exp(min(loss, 700)),
        "response_tokens": int(counts.sum()),
    }


def stream_metrics(model, windows, loss, hardware, n_documents, n_bytes):
    """-> dict of n (documents), tokens, loss (mean over tokens, nats), perplexity and bits_per_byte. As response_losses.

    loss: (model, WindowBatch) -> sum of losses. n_documents, n_bytes: what the windows hold, without end-of-text.
    bits_per_byte is the sum of all losses, of end-of-text's, too, / ln 2 / n_bytes, so that models with other tokens can
    be compared; where only some tokens are learned, it means nothing and is left out.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in eval_batches(windows, window_batch, None, max(1, EVAL_TOKENS // windows.length)):
        sums += torch.tensor([loss(model, hardware.put(batch)).item(), batch.n])
    total, n = distributed.sum_over_processes(sums).tolist()
    metrics = {
        "n": n_documents,
        "tokens": int(n),
        "loss": total / max(n, 1),
        "perplexity": math.exp(min(total / max(n, 1), 700)),
    }
    return (
        metrics
        if windows.numbers is not None
        else metrics | {"bits_per_byte": total / math.log(2) / n_bytes}
    )


def respond(model, prompts, tokenizer, max_new_tokens, at_once=EVAL_BATCH):
    """Greedy answers to prompts (lists of ids) -> list[Response]. Where less room is left in the context, it limits them."""
    groups = {}
    for i in range(distributed.rank(), len(prompts), distributed.world_size()):
        room = model.config.n_positions - len(prompts[i])
        groups.setdefault(min(room, max_new_tokens), []).append(i)
    found = []
    for limit, group in groups.items():
        wanted = [prompts[i] for i in group]
        written = (
            generate(
                model, wanted, limit, 0, eos_id=tokenizer.eot, batch_size=min(at_once, EVAL_BATCH)
            )
            if limit > 0
            else [[]] * len(group)
        )
        found += zip(group, written)
    responses = []
    for _, ids in sorted(distributed.gather(found)):
        ended = ids[-1:] == [tokenizer.eot]
        ids = ids[:-1] if ended else ids
        responses.append(Response(ids, tokenizer.decode(ids), ended))
    return responses


def forced_choices(model, tasks, tokenizer, hardware, at_once=EVAL_BATCH):
    """Is the right response of each task more probable than the three wrong ones? -> (N,) bool. As response_losses.

    A response's probability is that of all its tokens and of ending there; if the best are equal, that is no.
    """
    examples = [
        Example(0, task.instruction, task.input, choice)
        for task in tasks
        for choice in task.choices
    ]
    dataset = InstructionDataset(examples, tokenizer, model.template, model.config.n_positions)
    losses = np.full(len(examples), np.inf)  # what doesn't fit into the context is improbable
    losses[dataset.rows], _ = response_losses(model, dataset, tokenizer.eot, hardware, at_once)
    losses = losses.reshape(len(tasks), -1)
    return losses[:, 0] < losses[:, 1:].min(1)


def evaluate_instructions(model, datasets, tokenizer, hardware, n_prompts, at_once=EVAL_BATCH):
    """All that is reported of a model -> ({split: metrics} and "tasks", rows of predictions.jsonl).

    Args: `model` has a template; `datasets` are InstructionDatasets by split, with loss="response"; at most `n_prompts`
    of the test prompts, evenly spaced, are answered. at_once: how many rows a pass may take.
    """
    template, test, tasks = TEMPLATES[model.template], datasets["test"], load_tasks()
    with evaluating(model, hardware):
        results = {
            split: loss_metrics(model, dataset, tokenizer.eot, hardware, at_once)
            for split, dataset in datasets.items()
        }
        chosen = forced_choices(model, tasks, tokenizer, hardware, at_once)

    examples = [
        test.examples[i]
        for i in np.linspace(0, len(test) - 1, min(len(test), n_prompts)).astype(int)
    ]
    prompts = [
        template.encode(tokenizer, example.instruction, example.input) for example in examples
    ]
    responses = respond(model, prompts, tokenizer, RESPONSE_TOKENS, at_once)
    results["test"] |= text_metrics(
        responses, [example.output for example in examples], template.markers
    )

    prompts = [template.encode(tokenizer, task.instruction, task.input) for task in tasks]
    passed = [
        passes(task, response.text)
        for task, response in zip(tasks, respond(model, prompts, tokenizer, TASK_TOKENS, at_once))
    ]
    results["tasks"] = {
        "written": task_results(tasks, passed),
        "forced_choice": task_results(tasks, chosen.tolist()),
    }
    predictions = [
        {
            "id": example.id,
            "prompt": template.text(example.instruction, example.input),
            "response": response.text,
            "ended": response.ended,
        }
        for example, response in zip(examples, responses)
    ]
    return results, predictions

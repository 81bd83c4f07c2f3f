"""A classifier on a whole split: log-probabilities, rows for the run folder, and explanations.

Rows are batched by length for speed and put back into their own order, so row i of a result is row
i of the dataset, whatever the batch size.

An explanation is gradient x input: the gradient of a score in the embedding of a token, times that
embedding. To first order it is what the score would lose if the embedding shrank to zero. It costs
one backward pass, and it is a linear approximation: good for "which words matter", no proof of why.

Source: Shrikumar et al. 2016, "Not Just a Black Box" (gradient x input).
"""

import codecs

import numpy as np
import torch

from gptft import distributed
from gptft.data.batches import EVAL_BATCH, classifier_batch, eval_batches
from gptft.training.devices import evaluating

N_WRONG = 10  # mistakes in examples.jsonl


def log_probabilities(model, dataset, device, rows=None, batch_size=EVAL_BATCH):
    """Classify rows of a dataset -> (N, K) float64 natural log-probabilities, in their order.

    rows: (N,) int, default all of them. device: Device.
    """
    if rows is None:
        rows = np.arange(len(dataset))
    shape = (len(dataset), model.n_classes)
    log_probs = torch.zeros(shape, dtype=torch.float64)
    batches = eval_batches(dataset, classifier_batch, batch_size, rows)
    with evaluating(model, device):
        for batch in batches:
            batch = batch.to(device.name)
            logits = model(*batch.inputs)
            logits = logits.float().cpu().double()
            log_probs[batch.rows] = torch.log_softmax(logits, dim=-1)
    # Each row was filled by one process and is 0 in all others.
    distributed.sum_over_processes(log_probs)
    return log_probs.numpy()[rows]


def prediction_rows(reviews, log_probs):
    """Reviews and their (N, K) log-probabilities -> the rows of predictions.jsonl, list of dict."""
    probabilities = np.exp(log_probs).round(6)
    rows = []
    for review, p in zip(reviews, probabilities.tolist()):
        row = {
            "id": review.id,
            "label": review.label,
            "probabilities": p,
            "words": review.text.count(" ") + 1,
        }
        rows.append(row)
    return rows


def example_rows(reviews, log_probs, explain=None):
    """The rows of examples.jsonl, list of dict: the most confident mistakes, and one hit a class.

    explain: row number -> list of (piece of text, attribution), or None.
    """
    labels = np.array([review.label for review in reviews])
    predicted = log_probs.argmax(axis=1)
    confidence = log_probs.max(axis=1)
    by_confidence = np.argsort(-confidence, kind="stable")
    is_right = (predicted == labels)[by_confidence]
    wrong = by_confidence[~is_right]
    right = by_confidence[is_right]
    chosen = wrong[:N_WRONG].tolist()
    for k in range(log_probs.shape[1]):
        of_class = right[labels[right] == k]
        chosen += of_class[:1].tolist()
    chosen_reviews = [reviews[i] for i in chosen]
    rows = prediction_rows(chosen_reviews, log_probs[chosen])
    for i, row in zip(chosen, rows):
        row["text"] = reviews[i].text
        row["tokens"] = explain(i) if explain else None
    return rows


def explain(model, token_ids, tokenizer):
    """A classified text -> [(piece of text, attribution), ...].

    token_ids: (T,) int. Tokens that share a character form one piece.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    values = attributions(model, token_ids).tolist()
    ids = [int(id) for id in token_ids]
    pieces, total = [], 0.0
    for i, value in enumerate(values):
        total += value
        token = tokenizer.decode_bytes(ids[i : i + 1])
        is_last = i == len(ids) - 1
        text = decoder.decode(token, is_last)
        if text:
            pieces.append((text, round(total, 5)))
            total = 0.0
    return pieces


def attributions(model, token_ids):
    """What each token adds to the score of the predicted class: (T,) int -> (T,) float tensor.

    The score is its logit minus the mean of the others: with two classes, the log-odds.
    """
    device = model.score.weight.device
    ids = torch.tensor(np.asarray(token_ids, dtype=np.int64), device=device)
    lengths = torch.tensor([len(ids)], device=device)
    embedded = []

    def keep(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.transformer.wte.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(ids[None], lengths)[0]  # (K,)
            best = logits.max()
            n_others = len(logits) - 1
            score = best - (logits.sum() - best) / n_others
            (gradient,) = torch.autograd.grad(score, embedded[0])  # (1, T, C)
    finally:
        hook.remove()
    product = gradient * embedded[0].detach()
    return product.sum(dim=-1)[0]

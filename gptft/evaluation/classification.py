"""A classifier on a whole split: log-probabilities, and explanations.

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


def log_probabilities(model, dataset, device, rows=None, batch_size=EVAL_BATCH):
    """Classify rows of a dataset -> (N, K) float64 natural log-probabilities, in their order.

    rows: (N,) int, default all of them. device: Device.
    """
    if rows is None:
        rows = np.arange(len(dataset))
    log_probs = torch.zeros(len(dataset), model.n_classes, dtype=torch.float64)
    with evaluating(model, device):
        for batch in eval_batches(dataset, classifier_batch, batch_size, rows):
            batch = batch.to(device.name)
            logits = model(*batch.inputs)
            logits = logits.cpu().double()
            log_probs[batch.rows] = torch.log_softmax(logits, dim=-1)
    # Each row was filled by one process and is 0 in all others.
    distributed.sum_over_processes(log_probs)
    return log_probs.numpy()[rows]


def explain(model, token_ids, tokenizer):
    """A classified text -> [(piece of text, attribution), ...].

    token_ids: (T,) int. Tokens that share a character form one piece.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = []
    total = 0.0
    values = attributions(model, token_ids).tolist()
    for i, value in enumerate(values):
        total += value
        token = tokenizer.decode_bytes([token_ids[i]])
        is_last = i == len(values) - 1
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
    ids = torch.tensor(token_ids, dtype=torch.int64, device=device)
    lengths = torch.tensor([len(ids)], device=device)
    embedded = []

    def keep(module, args, output):
        leaf = output.detach()
        leaf.requires_grad_()
        embedded.append(leaf)
        return leaf

    with torch.enable_grad(), model.transformer.wte.register_forward_hook(keep):
        logits = model(ids[None], lengths)[0]  # (K,)
        best = logits.max()
        n_others = len(logits) - 1
        score = best - (logits.sum() - best) / n_others
        (gradient,) = torch.autograd.grad(score, embedded[0])  # (1, T, C)
    product = gradient * embedded[0].detach()
    return product.sum(-1)[0]

"""What a trained classifier says of texts: probabilities for a whole split, and what each token had to do with them.

Rows are batched by length for speed and put back into their own order, so row i of the result is row i of the dataset,
each row once, whatever the batch size.

A token's attribution is the gradient of the verdict's score in its embedding, times that embedding: to first order, what
the score would lose if the vector shrank to nothing. It costs one backward pass, and it is a straight line laid on a
curved thing: good for "which words did it look at", no proof of why.

Source: Shrikumar et al. 2016, "Not Just a Black Box" (gradient x input).
"""

import codecs

import numpy as np
import torch

from gptft import distributed
from gptft.data.batching import EVAL_BATCH, classifier_batch, eval_batches


def log_probabilities(model, dataset, pad_id, hardware, rows=None, at_once=EVAL_BATCH):
    """Classify rows of a dataset, all of them by default -> (N, K) float64 natural log-probabilities, in their order.

    Args: `rows` (N,) int; `at_once`, how many of them a pass may take. Call it under `evaluating(model, hardware)`.
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    out = torch.zeros(len(dataset), model.n_classes, dtype=torch.float64)
    for batch in eval_batches(dataset, classifier_batch, pad_id, min(at_once, EVAL_BATCH), rows):
        on_device = hardware.put(batch)
        logits = model(on_device.token_ids, on_device.lengths)
        out[batch.rows] = torch.log_softmax(logits.float().cpu().double(), dim=-1)
    distributed.sum_over_processes(out)  # each row was filled by one process and is 0 in the others
    return out.numpy()[rows]


def attributions(model, token_ids):
    """Token ids of one text, (T,) int, and a GPT2Classifier in eval mode -> (T,) float tensor, what each adds to the score.

    The score is the logit of the likeliest class minus the mean of the others: with two classes, its log-odds.
    """
    device, embedded = model.score.weight.device, []

    def keep(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    ids = torch.from_numpy(np.asarray(token_ids, dtype=np.int64)).to(device)
    hook = model.transformer.wte.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(ids[None], torch.tensor([len(ids)], device=device))[0]
            others = (logits.sum() - logits.max()) / (len(logits) - 1)
            (gradient,) = torch.autograd.grad(logits.max() - others, embedded[0])
    finally:
        hook.remove()
    return (gradient * embedded[0].detach()).sum(-1)[0]


def explain(model, token_ids, tokenizer):
    """-> [(piece of text, attribution), ...]. Tokens that share a character are one piece. As `attributions`."""
    decoder, pieces, total = codecs.getincrementaldecoder("utf-8")(errors="replace"), [], 0.0
    for i, value in enumerate(attributions(model, token_ids).tolist(), 1):
        text = decoder.decode(tokenizer.decode_bytes([int(token_ids[i - 1])]), i == len(token_ids))
        total += value
        if text:
            pieces.append((text, round(total, 5)))
            total = 0.0
    return pieces

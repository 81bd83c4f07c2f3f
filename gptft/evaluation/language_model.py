"""The loss of a language model on instructions and documents.

A loss is a sum over all targets of a split, divided once. Perplexity is its exponential. Bits a
byte divide by the bytes of the texts instead of their tokens, so that models with other tokenizers
can be compared.
"""

import math

import torch

from gptft import distributed
from gptft.data.batches import eval_batches, language_model_batch
from gptft.data.documents import Windows, window_batch
from gptft.training.devices import evaluating

WINDOW_TOKENS = 2048  # of a batch of windows


def sum_of_losses(model, batches, device):
    """The losses of an iterable of Batch, over all processes -> (their sum in nats, targets)."""
    sums = torch.zeros(2, dtype=torch.float64)
    with evaluating(model, device):
        for batch in batches:
            batch = batch.to(device.name)
            loss = model(*batch.inputs, targets=batch.targets)
            sums += torch.tensor([loss.item(), batch.n])
    total, n = distributed.sum_over_processes(sums).tolist()
    return total, int(n)


def instruction_loss(model, dataset, device, batch_size):
    """-> dict of n (examples), loss (mean over response tokens, in nats), perplexity,
    response_tokens."""
    batches = eval_batches(dataset, language_model_batch, batch_size)
    total, n = sum_of_losses(model, batches, device)
    return {
        "n": len(dataset),
        "loss": total / n,
        "perplexity": perplexity(total / n),
        "response_tokens": n,
    }


def document_loss(model, stream, length, n_documents, n_bytes, device):
    """-> dict of n (documents), tokens, loss (mean, in nats), perplexity, bits_per_byte.

    Args:
        stream: (N,) token ids of the documents, with end-of-text after each.
        length: tokens of a window.
        n_documents, n_bytes: of the texts in UTF-8, without end-of-text.
    """
    windows = Windows(stream, length)
    batches = eval_batches(windows, window_batch, max(1, WINDOW_TOKENS // length))
    total, n = sum_of_losses(model, batches, device)
    return {
        "n": n_documents,
        "tokens": n,
        "loss": total / n,
        "perplexity": perplexity(total / n),
        "bits_per_byte": total / math.log(2) / n_bytes,
    }


def perplexity(loss):
    """exp(loss); a loss above 700 would overflow."""
    return math.exp(min(loss, 700))

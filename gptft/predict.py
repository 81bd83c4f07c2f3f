"""A trained classifier's probabilities for a whole split.

Rows are batched by length for speed and put back into their own order, so row i of the result is row i of the dataset,
each row once, whatever the batch size.
"""

import numpy as np
import torch

from gptft import distributed
from gptft.data.batching import classifier_batch, eval_batches

EVAL_BATCH = 32  # rows


def log_probabilities(model, dataset, pad_id, hardware, rows=None):
    """Classify rows of a dataset, all of them by default -> (N, K) float64 natural log-probabilities, in their order.

    Args: `rows` (N,) int. Call it under `evaluating(model, hardware)`.
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    out = torch.zeros(len(dataset), model.n_classes, dtype=torch.float64)
    for batch in eval_batches(dataset, classifier_batch, pad_id, EVAL_BATCH, rows):
        on_device = hardware.put(batch)
        logits = model(on_device.token_ids, on_device.lengths)
        out[batch.rows] = torch.log_softmax(logits.float().cpu().double(), dim=-1)
    if distributed.world_size() > 1:  # each row was filled by one process and is 0 in the others
        out = distributed.sum_over_processes(out.to(hardware.device)).cpu()
    return out.numpy()[rows]

"""A step of generation recorded as a CUDA graph. Skip this file on a first reading.

One token of a batch takes a few hundred small kernels, and a GPU finishes each of them before
Python has asked for the next. So the kernels of one step are recorded once and then launched
together. A recording has fixed shapes and fixed addresses: the number of tokens so far must be in a
tensor, every step attends to all slots of the cache behind a mask, and rows can't leave.

Source: torch.cuda.graph's documentation.
"""

import torch

from gptft.model import KVCache


class RecordableCache(KVCache):
    """A KVCache whose steps all run the same kernels, once its prompt has been read."""

    def __init__(self, cache):
        self.kv = cache.kv
        self.padding = cache.padding
        self.slot = torch.tensor([cache.length], device=self.kv.device)  # of the next token

    def advance(self, T):
        """As KVCache.advance with T = 1; the mask covers every slot."""
        slots = torch.arange(self.kv.shape[4], device=self.kv.device)
        positions = (self.slot - self.padding)[:, None]  # (B, 1)
        mask = (slots <= self.slot) & (slots >= self.padding[:, None, None, None])
        return positions, mask  # (B, 1, 1, S)

    def append(self, layer, k, v):
        """As KVCache.append; keys and values of all slots."""
        keys, values = self.kv[layer]
        keys.index_copy_(2, self.slot, k)
        values.index_copy_(2, self.slot, v)
        return keys, values


def recorded_step(model, cache):
    """The function (B,) ids -> (B, V) logits that reads one more token of each row.

    The cache holds the prompts. The logits are overwritten by the next call.
    """
    cache = RecordableCache(cache)
    n_rows = cache.kv.shape[2]
    ids = torch.zeros(n_rows, dtype=torch.int64, device=cache.kv.device)

    def step():
        hidden = model.hidden_states(ids[:, None], cache)  # (B, 1, C)
        return model.logits(hidden[:, 0])

    # Once without recording, on a stream of its own: libraries allocate memory in their first call.
    current = torch.cuda.current_stream()
    stream = torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        step()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()

    def replay(new_ids):
        """As the step, from the recording, which must find all its tensors where they were."""
        ids.copy_(new_ids)
        graph.replay()
        cache.slot += 1
        return logits

    return replay

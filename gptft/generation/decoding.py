"""Generation: prompts in, new tokens out.

`greedy` is the idea in its plainest form: run the model on everything so far, take the most likely
next token, append it, repeat. `decode` does the same for a batch of prompts and with sampling, and
reads each token only once, because a key-value cache keeps what earlier tokens contribute. A test
compares the two.

Not here: beam search, speculative decoding, starting new prompts in place of rows that have ended.
Source: Pope et al. 2022, section 2 (prefill and decode); transformers' `generate` for the results.

Next on the evening's path: checkpoints/names.py.
"""

import numpy as np
import torch

from gptft.data.tokenizer import VOCAB_SIZE
from gptft.errors import UserError
from gptft.generation.cuda_graph import recorded_step
from gptft.generation.sampling import Sampler, Sampling
from gptft.model import KVCache


@torch.inference_mode()
def greedy(model, prompt, max_new_tokens, eos_id=None):
    """Continue one prompt with the most likely tokens: list[int] -> the new ids, list[int].

    model: GPT2 on the CPU, in evaluation mode.
    """
    ids = list(prompt)
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids]))  # (1, T, V): all of it again for each token
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == eos_id:
            break
    return ids[len(prompt) :]


def generate(
    model,
    prompts,
    max_new_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    repetition_penalty=1.0,
    eos_id=None,
    seed=None,
    batch_size=None,
):
    """Continue prompts -> the new ids of each, list[list[int]], up to and with eos_id.

    Args:
        model: GPT2. It computes in the dtype of its weights, without dropout.
        prompts: list of lists of ids, none empty; their lengths may differ.
        max_new_tokens: for each prompt.
        temperature, top_k, top_p, repetition_penalty: as in `Sampling`; temperature 0 is greedy.
        eos_id: the id that ends a text, or None.
        seed: row i draws from its own generator, (seed, i), so in float32 its text does not depend
            on the other rows. None picks a new seed each time.
        batch_size: prompts that are continued together, sorted by length; None for all.

    Raises UserError if a prompt and its new tokens are more than n_positions, ValueError for other
    values out of range.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    new_ids = [[] for _ in prompts]
    for i, id in decode(model, prompts, max_new_tokens, sampling, eos_id, seed, batch_size):
        new_ids[i].append(id)
    return new_ids


@torch.inference_mode()  # torch suspends it at each yield
def decode(model, prompts, max_new_tokens, sampling, eos_id=None, seed=None, batch_size=None):
    """Continue prompts: yields (i, id) for each new id of prompt i, as soon as it is chosen.

    The arguments are those of `generate`, with a Sampling. Only ids of GPT-2's vocabulary and the
    model's special tokens are chosen. (An embedding may be padded to have more rows.)
    """
    n_ids = min(model.config.vocab_size, VOCAB_SIZE + len(model.special_tokens))
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0 or not all(0 <= id < n_ids for id in prompt):
            raise ValueError(f"prompt {i} must be a list of ids from 0 to {n_ids - 1}, not empty")
        check_room(prompt, max_new_tokens, model.config.n_positions)
    if seed is None:
        seed = np.random.SeedSequence().entropy
    device = model.wte.weight.device
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batch_size = batch_size or max(1, len(prompts))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(prompts), batch_size):
            numbers = by_length[start : start + batch_size]
            batch = [list(prompts[i]) for i in numbers]
            sampler = Sampler(sampling, batch, numbers, max_new_tokens, n_ids, seed, device)
            yield from _decode_batch(model, batch, numbers, sampler, max_new_tokens, n_ids, eos_id)
    finally:
        model.train(was_training)


def check_room(prompt, max_new_tokens, n_positions, place=""):
    """Raise UserError if a prompt and its new tokens are more than n_positions.

    place: ", FILE, line N" if the prompt comes from a file.
    """
    n = len(prompt) + max_new_tokens
    if n > n_positions:
        what = f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones make {n}"
        hint = "shorten the prompt or lower --max-new-tokens"
        raise UserError(f"{what}, more than the model's n_positions, {n_positions}{place}; {hint}")


def _decode_batch(model, prompts, numbers, sampler, max_new_tokens, n_ids, eos_id):
    """`decode` for one batch. numbers: the index of each prompt in the caller's list."""
    # 1) Prefill: read all prompts at once, padded on the left so that they end at the same slot.
    device = model.wte.weight.device
    T = max(map(len, prompts))
    n_padding = [T - len(prompt) for prompt in prompts]
    token_ids = [[0] * n + prompt for n, prompt in zip(n_padding, prompts)]
    token_ids = torch.tensor(token_ids, device=device)  # (B, T)
    cache = KVCache(model, torch.tensor(n_padding, device=device), T + max_new_tokens)
    hidden = model.hidden_states(token_ids, cache)  # (B, T, C)
    logits = model.logits(hidden[:, -1])  # (B, V)
    # On a GPU the kernels of a step are recorded once and then replayed (a CUDA graph). Shapes must
    # be fixed for this, so cuda_graph.py wraps the cache in one that always returns all slots, and
    # a mask that hides the empty ones. The logits are those of `plain_step`.
    is_recorded = device.type == "cuda"
    next_logits = recorded_step(model, cache) if is_recorded else plain_step(model, cache)
    ended = [False] * len(numbers)

    for n in range(1, max_new_tokens + 1):
        # 2) Choose one id for each row.
        ids = sampler(logits[:, :n_ids].float())  # (B,)

        # 3) Hand them out; a row that has ended takes no more.
        for k, id in enumerate(ids.tolist()):
            if not ended[k]:
                yield numbers[k], id
                ended[k] = id == eos_id
        if all(ended) or n == max_new_tokens:
            return

        # 4) Rows that have ended leave the batch, so that the others get faster. They stay if the
        #    step is recorded, because its shape is fixed.
        if any(ended) and not is_recorded:
            going_on = [k for k in range(len(ended)) if not ended[k]]
            numbers = [numbers[k] for k in going_on]
            ended = [False] * len(numbers)
            ids = ids[going_on]
            sampler.select(going_on)
            cache.select(going_on)

        # 5) Read the new tokens: one position a row, the rest is in the cache.
        logits = next_logits(ids)


def plain_step(model, cache):
    """The function (B,) ids -> (B, V) logits that reads one more token of each row."""

    def step(ids):
        hidden = model.hidden_states(ids[:, None], cache)  # (B, 1, C)
        return model.logits(hidden[:, 0])

    return step

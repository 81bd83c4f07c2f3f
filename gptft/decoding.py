"""Writing text: prompts in, new tokens out, a batch at a time.

The prompts of a batch are read in one pass, which fills the KV cache; then each pass reads the one token a row has just
chosen. Rows of unequal length need no padding among their keys: a row's tokens stand at their own positions, as they
would alone. On a CPU a row that ends leaves the batch, and the rest gets faster.

On a GPU the next pass is started before this one's ids are looked at, so that the device does not wait for Python; a row
that turns out to have ended has then done one pass too many, which is thrown away. And a pass is a few hundred small
kernels, each done sooner than Python has asked for it: for long texts they are recorded once, as a CUDA graph, and then
launched together. A recording has fixed shapes, so rows that ended leave only when half of them have.

Left out: beam search, speculative decoding, and new prompts taking the place of rows that ended.
Source: Pope et al. 2022, section 2 (prefill and decode); transformers' `generate` for what it returns.
"""

import codecs
import functools
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from gptft.errors import UserError, is_out_of_memory
from gptft.model import KVCache
from gptft.sampling import Sampler
from gptft.tokenizer import Tokenizer

LOOK_LATER = ("cuda",)  # kinds of device that compute while Python goes on
RECORD_FROM = 64  # tokens: a recording takes the time of some, how many has not been measured


@dataclass
class Generation:
    """What a model wrote after a prompt.

    ids: the new tokens, the one that ended it included. log_probs: their natural log-probabilities by the model itself
    (temperature 1, nothing filtered), if asked for. text: what the ids say, without the id or the string that ended it,
    if there was a tokenizer. ended: "stop" by such an id or string, "length" by the limit.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    text: str = ""
    ended: str | None = None


class TextStream:
    """Bytes in, text out as soon as it is certain.

    Held back are the first bytes of a character and what may be the beginning of a stop string. After a stop string
    `stopped` is True; it and all behind it are thrown away.
    """

    def __init__(self, stop=()):
        self.stop = [string.encode("utf-8") for string in stop]
        self.held, self.stopped = b"", False
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, octets):
        """bytes -> the str that has become certain."""
        self.held += octets
        found = [self.held.index(string) for string in self.stop if string in self.held]
        if found:
            self.stopped = True
            certain, self.held = self.held[: min(found)], b""
        else:
            beginnings = [
                n
                for string in self.stop
                for n in range(1, len(string))
                if self.held.endswith(string[:n])
            ]
            n = len(self.held) - max(beginnings, default=0)
            certain, self.held = self.held[:n], self.held[n:]
        return self.decoder.decode(certain)

    def end(self):
        """The str that was held back; half a character becomes U+FFFD."""
        return self.decoder.decode(self.held, final=True)


class _Row:
    """A prompt and what is being written after it; `take` is given one token after the other."""

    def __init__(self, number, prompt, limit, stop_ids, stop, tokenizer, on_text):
        self.number, self.prompt, self.limit = number, list(prompt), limit
        self.stop_ids, self.tokenizer, self.on_text = stop_ids, tokenizer, on_text
        self.generation = Generation()
        self.stream = TextStream(stop)

    def take(self, id, log_prob=None):
        """Add a token; returns whether the text has ended."""
        new = self.generation
        new.ids.append(id)
        if log_prob is not None:
            new.log_probs.append(log_prob)
        if id in self.stop_ids:
            new.ended = "stop"
        elif self.tokenizer:
            self._say(self.stream.add(self.tokenizer.decode_bytes([id])))
            new.ended = "stop" if self.stream.stopped else None
        if new.ended is None and len(new.ids) == self.limit:
            new.ended = "length"
        if new.ended:
            self._say(self.stream.end())
        return new.ended is not None

    def _say(self, text):
        self.generation.text += text
        if text and self.on_text:
            self.on_text(self.number, text)


@torch.inference_mode()
def decode(
    model,
    prompts,
    max_new_tokens,
    sampling,
    seed=None,
    stop_ids=(),
    stop=(),
    tokenizer=None,
    batch_size=None,
    log_probs=False,
    on_text=None,
):
    """Continue prompts; yields (i, Generation) for prompt i, in the order in which they end.

    Args:
        model: GPT2, on any device; it computes in the type of its weights. prompts: list of lists of ids, none empty.
        sampling: Sampling. seed: int; row i draws from a generator of its own, (seed, i); None is another each time.
        stop_ids: ids that end a text. stop: a string or several that end it. They need the tokenizer, as does all text.
        max_new_tokens: for each prompt. batch_size: prompts in one pass, like lengths together; None for all.
        log_probs: whether to return log-probabilities. on_text: called with (i, str) whenever row i has more text.
    Only ids of the vocabulary come out (GPT-2's and the model's special tokens), never those of a padded embedding.
    Raises UserError if a prompt and its new tokens are longer than n_positions, ValueError for what can't be a prompt.
    """
    n_ids = min(model.config.vocab_size, Tokenizer.VOCAB_SIZE + len(model.special_tokens))
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0 or not all(0 <= id < n_ids for id in prompt):
            raise ValueError(f"prompt {i} must be one id or more, each from 0 to {n_ids - 1}")
        check_room(prompt, max_new_tokens, model.config.n_positions)
    stop = [stop] if isinstance(stop, str) else list(stop)
    if stop and not (tokenizer and all(stop)):
        raise ValueError("stop strings must not be empty, and need a tokenizer")
    seed = np.random.SeedSequence().entropy if seed is None else seed
    how = (max_new_tokens, frozenset(stop_ids), stop, tokenizer, on_text)
    rows = sorted(
        (_Row(i, prompt, *how) for i, prompt in enumerate(prompts)), key=lambda row: len(row.prompt)
    )
    batch_size = batch_size or max(1, len(rows))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            numbers, read = [row.number for row in batch], [row.prompt for row in batch]
            sampler = Sampler(
                sampling, read, numbers, max_new_tokens, n_ids, seed, model.wte.weight.device
            )
            yield from _decode_batch(model, batch, sampler, max_new_tokens, n_ids, log_probs)
    finally:
        model.train(was_training)


def check_room(prompt, max_new_tokens, n_positions, place=""):
    """Raise UserError if a prompt, list[int], and max_new_tokens exceed n_positions; place: ", FILE, line N" or nothing."""
    n = len(prompt) + max_new_tokens
    if n > n_positions:
        raise UserError(
            f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones make {n}, more than the "
            f"model's n_positions, {n_positions}{place}; shorten the prompt or lower --max-new-tokens"
        )


def _decode_batch(model, rows, sampler, n_tokens, n_ids, with_log_probs):
    """Yields (i, Generation) as rows end."""
    look_later = model.wte.weight.device.type in LOOK_LATER
    record = look_later and n_tokens >= RECORD_FROM
    cache, logits = _prefill(model, [row.prompt for row in rows], n_tokens - 1)
    next_logits = (
        _recorded(model, cache) if record else functools.partial(_next_logits, model, cache)
    )
    record = isinstance(next_logits, _Recorded)  # where that failed once, it isn't tried again
    for step in range(n_tokens):
        logits = logits[:, :n_ids].float()
        ids = sampler(logits)
        chosen = [ids]
        if with_log_probs:
            chosen.append(logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1))
        arriving = _Arriving(chosen)
        if look_later and step < n_tokens - 1:
            logits = next_logits(ids)
        going_on = []
        for k, (row, *token) in enumerate(zip(rows, *arriving.wait())):
            if row.generation.ended:  # earlier, and has kept its place
                continue
            if row.take(*token):
                yield row.number, row.generation
            else:
                going_on.append(k)
        if not going_on:
            return
        # A recording makes a pass of its own, for which the cache must have a slot: never near the end.
        few = 2 * len(going_on) <= len(rows) and n_tokens - step > RECORD_FROM
        if len(going_on) < len(rows) and (few or not record):
            rows = [rows[k] for k in going_on]
            ids, logits = ids[going_on], logits[going_on]
            cache.arrange(going_on)
            sampler.arrange(going_on)
            next_logits = _recorded(model, cache) if record else next_logits
        if not look_later:
            logits = next_logits(ids)


def _prefill(model, prompts, n_more):
    """Read B prompts in one pass, equal ones once -> a cache with room for n_more tokens a row, and logits (B, V)."""
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    which = {prompt: k for k, prompt in enumerate(distinct)}
    rows, lengths = (
        [which[tuple(prompt)] for prompt in prompts],
        [len(prompt) for prompt in distinct],
    )
    T = max(lengths)
    padded = [[*prompt, *[0] * (T - len(prompt))] for prompt in distinct]
    token_ids = torch.tensor(padded, device=model.wte.weight.device)  # (distinct, T)
    cache = KVCache(model, len(prompts), T + n_more)
    cache.arrange(range(len(distinct)))
    last = torch.tensor([row * T + n - 1 for row, n in enumerate(lengths)], device=token_ids.device)
    hidden = model.hidden_states(token_ids, cache, at=last)
    cache.truncate(lengths)
    cache.arrange(rows)
    return cache, model.head(hidden)[rows]


def _next_logits(model, cache, ids):
    """One more token a row, (B,) -> logits (B, V)."""
    return model.head(model.hidden_states(ids[:, None], cache)[:, 0])


def _recorded(model, cache):
    """`_next_logits` of this model and cache as a recording; where that fails, as it is."""
    lengths, longest, cache.fixed = cache.lengths.clone(), cache.longest, True
    try:
        return _Recorded(model, cache)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        warnings.warn(
            f"a step can't be recorded here ({error}); it is launched kernel by kernel",
            stacklevel=2,
        )
        cache.fixed = False
        return functools.partial(_next_logits, model, cache)
    finally:  # nothing has been read yet
        cache.lengths.copy_(lengths)
        cache.longest = longest


class _Recorded:
    """The step as a recording; what it returns is overwritten when it is called again."""

    def __init__(self, model, cache):
        self.cache, self.ids, longest = cache, torch.zeros_like(cache.lengths), cache.longest

        def step():
            cache.longest = longest
            return _next_logits(model, cache, self.ids)

        self.replay, self.logits = _record(step, self.ids.device)

    def __call__(self, ids):
        self.ids.copy_(ids)
        self.replay()
        self.cache.longest += 1
        return self.logits


@functools.cache
def _side_stream(device):
    """One for all recordings: libraries keep memory for each stream that they have worked on."""
    return torch.cuda.Stream(device)


def _record(step, device):
    """Run `step` on a GPU and record it -> (a function that runs it again, the tensor it then writes to)."""
    graph, stream = torch.cuda.CUDAGraph(), _side_stream(device)
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),
    ):  # come back to it, whatever fails
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # libraries set themselves up, which can't be recorded
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = step()

    def replay():
        with torch.cuda.device(device):
            graph.replay()

    return replay, result


class _Arriving:
    """Tensors on their way from the device; `wait` gives them as lists, and waits for nothing started since."""

    def __init__(self, tensors):
        on_gpu = tensors[0].is_cuda
        self.tensors = [tensor.to("cpu", non_blocking=on_gpu) for tensor in tensors]
        self.event = torch.cuda.current_stream(tensors[0].device).record_event() if on_gpu else None

    def wait(self):
        if self.event:
            self.event.synchronize()
        return [tensor.tolist() for tensor in self.tensors]

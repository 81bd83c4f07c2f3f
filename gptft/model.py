"""GPT-2: token ids -> for every position, scores (logits) of the token that comes next.

A stack of identical blocks reads and writes one stream of vectors x (B, T, C). Each block adds two things to it: what
attention gathers from earlier positions, and what a two-layer perceptron makes of each position alone; both look at a
normalised copy of x (pre-norm). The last vectors are compared with every token's embedding, so the matrix that reads
tokens in also writes them out (the tied head: there is no second matrix, hence nothing that could come untied).

Shapes: B rows, T positions (tokens), C = n_embd, V = vocab_size, H = n_head, D = C / H.

No mask for padding: rows are padded on the right, attention is causal, so a real token never sees what follows it.
Writing a text token by token needs the keys and values of all earlier tokens again and again: KVCache keeps them.
Left out: relative positions, RMSNorm, grouped heads and all that came after GPT-2.
Source: Radford et al. 2019 and OpenAI's gpt-2 `model.py`: tanh-GELU, LayerNorm eps 1e-5, initialisation.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gptft.cross_entropy import linear_cross_entropy


class KVCache:
    """The keys and values of the tokens read so far, so that the next token costs one position of work instead of all.

    Give it to `hidden_states` as past_key_values: each call appends its tokens to every row. A token's slot is its
    position, so rows of unequal length stand side by side, each as it would stand alone. Room for n_slots tokens a row
    is allocated once; what lies behind a row's length is never looked at, and overwritten.

    `kv` is (n_layer, 2, B, H, n_slots, D): a head reads what lies side by side. `lengths` is (B,) int64; `longest`, an int, is
    at least their maximum, so that nobody has to ask the device, and `even` says that all are equal to it. Where all steps
    must have the same shapes, `fixed` set to True lets each step attend to all slots, behind a mask.
    On a CPU the cache of bfloat16 weights is float32: the attention of a single query is six times as fast.
    n_rows: B. Raises ValueError if n_slots is more than the model's n_positions.
    """

    def __init__(self, model, n_rows, n_slots):
        config, weight = model.config, model.wte.weight
        if not 1 <= n_slots <= config.n_positions:
            raise ValueError(
                f"a cache of {n_slots} slots, but the model's n_positions is {config.n_positions}"
            )
        shape = (config.n_layer, 2, n_rows, config.n_head, n_slots, config.n_embd // config.n_head)
        dtype = (
            torch.promote_types(weight.dtype, torch.float32)
            if weight.device.type == "cpu"
            else weight.dtype
        )
        self.kv = torch.zeros(shape, dtype=dtype, device=weight.device)
        self.fixed = False
        self.truncate([0] * n_rows)

    def truncate(self, lengths):
        """Keep only each row's first tokens, lengths: list of B int. So padding is forgotten after unequal prompts."""
        self.longest, self.even = max(lengths), min(lengths) == max(lengths)
        self.lengths = torch.tensor(lengths, device=self.kv.device)

    def arrange(self, rows):
        """Row i becomes what row rows[i] was, rows: list of int. So rows are dropped or, within n_rows, repeated."""
        for kv in self.kv.flatten(0, 1):
            kv[: len(rows), :, : self.longest] = kv[rows, :, : self.longest]
        self.lengths = self.lengths[rows]

    def append(self, T):
        """Make place for T more tokens a row -> their positions, (B, T). Raises ValueError if there is no room."""
        n_slots = self.kv.shape[-2]
        if self.longest + T > n_slots:
            raise ValueError(
                f"{self.longest} tokens and {T} more are too many for the cache's {n_slots} slots"
            )
        self.positions = self.lengths[:, None] + torch.arange(T, device=self.kv.device)
        in_turn = self.even and not self.fixed  # the new tokens of all rows go to the same slots
        self.rows = (
            None if in_turn else torch.arange(len(self.lengths), device=self.kv.device)[:, None]
        )
        self.begin, self.end = self.longest, n_slots if self.fixed else self.longest + T
        self.mask = None  # an empty cache needs none, nor does one new token of even rows
        if self.longest and not (
            in_turn and T == 1
        ):  # is_causal would not do: it lets query 0 see key 0 only
            slots = torch.arange(self.end, device=self.kv.device)
            unseen = slots > self.positions[:, None, :, None]
            zeros = torch.zeros_like(unseen, dtype=self.kv.dtype)  # (B, 1, T, slots)
            self.mask = zeros.masked_fill(unseen, -torch.inf)
        self.lengths = (
            self.lengths.add_(T) if self.fixed else self.lengths + T
        )  # a recording writes where it reads
        self.longest += T
        return self.positions

    def attend(self, layer, qkv):
        """Store a layer's new keys and values, then attend to all of the row's: (B, T, 3, H, D) -> (B, H, T, D)."""
        q, k, v = new = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        kv = self.kv[layer, :, : len(qkv)]
        if self.rows is None:
            kv[..., self.begin : self.end, :] = new[1:]
        else:
            kv[:, self.rows, :, self.positions] = qkv[:, :, 1:].to(kv.dtype)
        if not self.begin:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        k, v = kv[..., : self.end, :]
        return F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=self.mask).to(q.dtype)


def document_mask(token_ids, begin_id):
    """Rows of several documents, each begun by the id `begin_id` -> how each document stands alone.

    (B, T) int64 -> positions in the document, (B, T) int64, and where attention may look, (B, 1, T, T) bool: from each
    position back to the begin of its document. A row that begins within a document begins with position 0.
    """
    t = torch.arange(token_ids.shape[1], device=token_ids.device)
    begin = torch.where(token_ids == begin_id, t, 0).cummax(1).values
    mask = (begin[:, :, None] <= t) & (t <= t[:, None])
    return t - begin, mask[:, None]


def product(x, weight, bias=None):
    """x @ weight.T + bias, as F.linear; for the single vector of a text being written, by the kernel that reads weights fastest.

    On a CPU reading them is all the work, and torch's choice takes twice as long: in bfloat16 oneDNN first brings them
    into an order of its own, in float32 MKL uses one thread.
    """
    alone = x.device.type == "cpu" and x.numel() == x.shape[-1] and not torch.is_grad_enabled()
    onednn = torch.backends.mkldnn
    if not alone or not onednn.is_available() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    was_enabled = onednn.enabled
    onednn.enabled = False
    try:
        return F.linear(x, weight, bias)
    finally:
        onednn.enabled = was_enabled


class Linear(nn.Linear):
    """nn.Linear by `product`."""

    def forward(self, x):
        return product(x, self.weight, self.bias)


def attention(q, k, v, mask=None, dropout=0.0):
    """Queries, keys and values, each (B, H, T, D) -> the weighted means of the values, (B, H, T, D).

    mask: (B, 1, T, T) bool, where a query may look; None: at itself and all before.
    """
    B, H, T, D = q.shape
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not q.requires_grad or T > 512:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
    # Torch's kernel never holds all weights at once, which pays for long rows. For short ones in bfloat16 on a CPU these
    # three products take half the time of it and its backward pass.
    seen = torch.ones(T, T, dtype=torch.bool).tril() if mask is None else mask
    bias = (
        torch.zeros_like(seen, dtype=q.dtype)
        .masked_fill(~seen, -torch.inf)
        .expand(B, H, T, T)
        .flatten(0, 1)
    )
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))
    return (F.dropout(torch.softmax(scores, -1), dropout) @ v).view(B, H, T, D)


class Attention(nn.Module):
    """Causal self-attention, (B, T, C) -> (B, T, C): each position takes a weighted mean over itself and earlier ones.

    cached_attention: what attends instead, `KVCache.attend` of a layer; mask: as in `attention`.
    """

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = (
            config.dropout if config.attention_dropout is None else config.attention_dropout
        )
        self.c_attn = Linear(
            config.n_embd, 3 * config.n_embd
        )  # queries, keys and values in one product
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x, cached_attention=None, mask=None):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        if cached_attention:
            y = cached_attention(qkv)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
            # The functional form knows nothing of train and eval mode: dropout must be switched off by hand.
            y = attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Two layers with a tanh-GELU between them, on each position alone: (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)); the latter only at the positions `at`, if given.

    cached_attention, mask: as in `Attention`. at: (n,) int64, row * T + t; then the result is (n, C).
    """

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x, cached_attention=None, mask=None, at=None):
        x = x + self.attn(self.ln_1(x), cached_attention, mask)
        x = x if at is None else x.flatten(0, 1)[at]
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The language model: `GPT2(config)(token_ids)`, (B, T) int64 -> logits (B, T, V) float.

    `checkpoint_activations` (attribute, default False) keeps only each block's input in training and recomputes the rest
    in the backward pass. `template` (the name of the prompt wording it was tuned with, or None) and `special_tokens` (the
    names of the ids after GPT-2's own) are kept with the saved model.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.template = None
        self.special_tokens = []
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.init_weights()

    def init_weights(self):
        """Draw GPT-2's initial weights: normal with std 0.02 (positions 0.01), biases 0.

        Each block adds two terms to the stream, so their projections start smaller by sqrt(2 n_layer): the stream's
        variance then does not grow with depth.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scale = 1 / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj") else 1.0
                nn.init.normal_(module.weight, std=0.02 * scale)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.01)

    def check(self, token_ids):
        """Raise ValueError, with the numbers, for ids this model can't read.

        Looking at the ids makes a GPU wait, and torch.compile can't trace it: compiled code and training on CUDA skip that
        part, and rely on the vocabulary of the tokenizer, which is compared with the model's before training.
        """
        T, P, V = token_ids.shape[-1], self.config.n_positions, self.config.vocab_size
        if token_ids.dim() != 2 or token_ids.numel() == 0:
            raise ValueError(
                f"token_ids must be (B, T) with at least one token, got shape {tuple(token_ids.shape)}"
            )
        if T > P:
            raise ValueError(f"input of {T} tokens is longer than the model's n_positions, {P}")
        if not (torch.compiler.is_compiling() or (self.training and token_ids.is_cuda)):
            low, high = token_ids.aminmax()
            if low < 0 or high >= V:
                raise ValueError(
                    f"token ids must be from 0 to {V - 1}, got {low.item()} to {high.item()}"
                )

    def hidden_states(self, token_ids, past_key_values=None, begin_id=None, at=None):
        """(B, T) int64 -> the stream after the final LayerNorm, (B, T, C). Raises ValueError as `check` does.

        at: (n,) int64, where it is wanted, row * T + t for position t; the result is (n, C). After the last attention all
        other positions are then left out, which saves most of a layer.
        begin_id: the id that begins a document; each then stands alone, see `document_mask`. None: a row is one document.

        past_key_values: a KVCache with B rows, whose tokens come before these and which takes them in (in eval mode,
        without gradients). The ids are then not checked, so that nothing waits for the device.
        """
        mask = None
        if past_key_values is not None:
            positions = past_key_values.append(token_ids.shape[1])
        else:
            self.check(token_ids)
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)
            if begin_id is not None:
                positions, mask = document_mask(token_ids, begin_id)
        x = self.drop(self.wte(token_ids) + self.wpe(positions))
        for layer, block in enumerate(self.h):
            wanted = at if layer == self.config.n_layer - 1 else None
            cached_attention = (
                None if past_key_values is None else partial(past_key_values.attend, layer)
            )
            if self.checkpoint_activations and self.training and not cached_attention:
                x = checkpoint(block, x, None, mask, wanted, use_reentrant=False)
            else:
                x = block(x, cached_attention, mask, wanted)
        return self.ln_f(x)

    def head(self, hidden):
        """(..., C) -> logits (..., V), with the token embedding as the matrix."""
        return product(hidden, self.wte.weight)

    def forward(self, token_ids, at=None, begin_id=None, targets=None, vocabulary=None):
        """Logits of all positions, (B, T, V), or (n, V) of those in `at`.

        at, begin_id: as in `hidden_states`. targets: (B, T) or (n,) int64, -100 for none; then, instead of the logits, the sum
        of the losses in nats, at a fraction of the memory. vocabulary: (K,) int64, the ids among which the model then
        chooses; targets are numbers of its entries.
        """
        hidden = self.hidden_states(token_ids, begin_id=begin_id, at=at)
        if targets is None:
            return self.head(hidden)
        weight = self.wte.weight if vocabulary is None else self.wte.weight[vocabulary]
        return linear_cross_entropy(hidden.flatten(0, -2), weight, targets.flatten())

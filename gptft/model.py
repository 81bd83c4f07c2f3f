"""GPT-2: token ids in, logits of the next token out.

A stack of identical blocks reads from and writes to one stream of vectors x. Each block adds two
terms to the stream: attention, which gathers information from earlier positions, and an MLP, which
transforms each position on its own. Both read a layer-normalised copy of the stream (pre-norm). The
embedding of the tokens is also the matrix that turns the last vectors into logits (tied weights).

The parts come in reading order: Attention, MLP, Block, GPT2, and at the end the key-value cache
that makes generation fast. Rows of a training batch are padded on the right and need no mask:
attention is causal, so a real token never sees the padding after it.

Shapes: B rows, T positions, C = n_embd, V = vocab_size, H = n_head, D = C / H, S = keys of a
query: T, or all tokens in a cache.
Source: Radford et al. 2019 and OpenAI's gpt-2 `model.py` (tanh-GELU, LayerNorm eps 1e-5, initial
weights).

Next on the evening's path: classifier.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Linear is an nn.Linear and linear is F.linear, faster for a single vector on a CPU. The plain form
# of attention comes next; that of linear_cross_entropy is a comment in GPT2.forward. cache_dtype is
# the dtype of the weights, or a faster one.
from gptft.speed import Linear, attention, cache_dtype, linear, linear_cross_entropy


def plain_attention(q, k, v):
    """softmax(q k^T / sqrt(D)) v, where no query sees a later key: the formula, for reading.

    q, k, v: (B, H, T, D). The model calls `attention` in speed.py, which a test holds against this.
    """
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, T): a row for each query
    everything = torch.ones(T, T, dtype=torch.bool)
    is_later = everything.triu(1)
    scores = scores.masked_fill(is_later, -math.inf)  # exp(-inf) = 0
    weights = scores.softmax(dim=-1)
    return weights @ v


class Attention(nn.Module):
    """Causal self-attention: a weighted mean over each position and the positions before it."""

    def __init__(self, config, layer):
        super().__init__()
        C = config.n_embd
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        if config.attention_dropout is not None:
            self.dropout = config.attention_dropout
        self.c_attn = Linear(C, 3 * C)  # queries, keys and values in one product
        self.c_proj = Linear(C, C)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x, cache=None, mask=None):
        """(B, T, C) -> (B, T, C), causal. cache: KVCache, and mask, what its `advance` returned."""
        B, T, C = x.shape
        H = self.n_head
        qkv = self.c_attn(x).view(B, T, 3, H, C // H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D), so each (B, H, T, D)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # each (B, H, S, D)
        # Unlike a module, a function does not know whether the model is in training mode.
        dropout = self.dropout if self.training else 0.0
        # plain_attention(q, k, v), in the form that is fastest on the device, with dropout of the
        # attention weights. With a cache, a mask replaces the causal one: it hides padding, too,
        # and there may be more keys than queries.
        y = attention(q, k, v, mask, dropout)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.c_fc = Linear(C, 4 * C)
        self.c_proj = Linear(4 * C, C)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = self.c_fc(x)
        x = F.gelu(x, approximate="tanh")
        x = self.c_proj(x)
        return self.dropout(x)


class Block(nn.Module):
    """One layer of the stack, (B, T, C) -> (B, T, C)."""

    def __init__(self, config, layer):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x, cache=None, mask=None):
        x = x + self.attn(self.ln_1(x), cache, mask)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """The language model: `GPT2(config)(token_ids)` returns the logits of every position.

    Attributes:
        checkpoint_activations: keep only the input of each block in training, and compute the rest
            again in the backward pass. It saves memory and costs a third of the speed.
        template: name of the prompt template that the model was tuned with, or None.
        special_tokens: names of the tokens after GPT-2's own 50,257.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.template = None
        self.special_tokens = []
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)  # positions
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.init_weights()

    def init_weights(self):
        """Draw GPT-2's initial weights.

        They are normal with a standard deviation of 0.02 (positions: 0.01), and biases are zero.
        Every block adds two terms to the stream; the layers that produce them start smaller by
        a factor of sqrt(2 n_layer), so that the variance of the stream does not grow with depth.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = 0.02
                if name.endswith("c_proj"):
                    std /= math.sqrt(2 * self.config.n_layer)
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.01)

    def forward(self, token_ids, targets=None):
        """Logits, or with targets the loss.

        Args:
            token_ids: (B, T) int64.
            targets: (B, T) int64, the token that follows each position; -100 is ignored.

        Returns:
            Without targets, logits (B, T, V). With targets, the sum of their negative
            log-likelihoods in nats, a float32 scalar, computed without holding all logits.

        Raises ValueError if T is larger than the model's n_positions.
        """
        hidden = self.hidden_states(token_ids)
        if targets is None:
            return self.logits(hidden)
        hidden = hidden.flatten(0, 1)  # (B * T, C)
        # F.cross_entropy(self.logits(hidden), targets, reduction="sum"), in less memory.
        return linear_cross_entropy(hidden, self.wte.weight, targets.flatten())

    def hidden_states(self, token_ids, cache=None):
        """The stream after the last block and the final LayerNorm: (B, T) int64 -> (B, T, C).

        cache: a KVCache of B rows. The tokens follow those it already holds, and are added to it.
        Raises ValueError for more than n_positions tokens or, with a cache, more than its slots.
        """
        T = token_ids.shape[1]
        limit = self.config.n_positions
        mask = None
        if cache is not None:
            positions, mask = cache.advance(T)
        elif limit < T:
            raise ValueError(f"{T} tokens are more than the model's n_positions, {limit}")
        else:
            positions = torch.arange(T, device=token_ids.device)
        x = self.wte(token_ids) + self.wpe(positions)  # (B, T, C)
        x = self.drop(x)
        for block in self.h:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, use_reentrant=False)  # training has no cache
            else:
                x = block(x, cache, mask)
        return self.ln_f(x)

    def logits(self, hidden):
        """Compare vectors with the embedding of every token: (..., C) -> (..., V)."""
        return linear(hidden, self.wte.weight)


class KVCache:
    """The keys and values of the tokens read so far.

    With them, the next token costs one position of work. Prompts of unequal length are padded on
    the left: all rows then write to the same slot at every step, and a mask hides the padding. Use
    a cache with `GPT2.hidden_states`, in evaluation mode and without gradients: it calls `advance`
    once, and every layer calls `append`.

    Args:
        model: the GPT2 that it is for.
        padding: (B,) int64, the number of padding tokens at the start of each row.
        n_slots: the maximum number of tokens of a row, including padding.
    """

    def __init__(self, model, padding, n_slots):
        weight, config = model.wte.weight, model.config
        D = config.n_embd // config.n_head
        self.kv = torch.zeros(
            config.n_layer,
            2,  # keys, values
            len(padding),
            config.n_head,
            n_slots,
            D,
            dtype=cache_dtype(weight),
            device=weight.device,
        )
        self.padding = padding
        self.length = 0  # slots that are filled

    def advance(self, T):
        """Take T more slots -> the positions of the new tokens, and the mask of their attention.

        Positions are (B, T) int64 and start at 0 after the padding. The mask is (B, 1, T, S) bool,
        True where a query may look. With two padding tokens, the first four tokens see:

            slot 0    1 0 0 0    padding, itself only: a softmax over nothing would be NaN
            slot 1    0 1 0 0
            slot 2    0 0 1 0
            slot 3    0 0 1 1
        """
        start, end = self.length, self.length + T
        n_slots = self.kv.shape[4]
        if end > n_slots:
            raise ValueError(f"{end} tokens are more than the cache's {n_slots} slots")
        self.length = end
        slots = torch.arange(end, device=self.kv.device)  # (S,)
        new_slots = slots[start:]  # (T,)
        positions = new_slots - self.padding[:, None]  # (B, T), below 0 for padding
        is_past = slots <= new_slots[:, None]  # (T, S)
        is_itself = slots == new_slots[:, None]  # (T, S)
        is_real = slots >= self.padding[:, None, None, None]  # (B, 1, 1, S), the same for all heads
        mask = (is_past & is_real) | is_itself  # (B, 1, T, S)
        return positions.clamp(min=0), mask

    def append(self, layer, k, v):
        """Store a layer's new keys and values, each (B, H, T, D) -> all of them, (B, H, S, D)."""
        keys, values = self.kv[layer]  # views: writing to them writes to the cache
        end = self.length  # `advance` has already counted the new ones
        start = end - k.shape[2]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows):
        """Keep only the given rows, a list of int, in this order."""
        self.kv = self.kv[:, :, rows]
        self.padding = self.padding[rows]

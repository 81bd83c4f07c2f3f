"""GPT-2: token ids -> for every position, scores (logits) of the token that comes next.

A stack of identical blocks reads and writes one stream of vectors x (B, T, C). Each block adds two things to it: what
attention gathers from earlier positions, and what a two-layer perceptron makes of each position alone; both look at a
normalised copy of x (pre-norm). The last vectors are compared with every token's embedding, so the matrix that reads
tokens in also writes them out (the tied head: there is no second matrix, hence nothing that could come untied).

Shapes: B rows, T positions (tokens), C = n_embd, V = vocab_size, H = n_head, D = C / H.

No mask for padding: rows are padded on the right, attention is causal, so a real token never sees what follows it.
Left out: relative positions, RMSNorm, grouped heads and all that came after GPT-2.
Source: Radford et al. 2019 and OpenAI's gpt-2 `model.py`: tanh-GELU, LayerNorm eps 1e-5, initialisation.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Causal self-attention, (B, T, C) -> (B, T, C): each position takes a weighted mean over itself and earlier ones."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        # The functional form knows nothing of train and eval mode: dropout must be switched off by hand.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Two layers with a tanh-GELU between them, on each position alone: (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The language model: `GPT2(config)(token_ids)`, (B, T) int64 -> logits (B, T, V) float.

    `checkpoint_activations` (attribute, default False) keeps only each block's input in training and recomputes the rest
    in the backward pass.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
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

        Looking at the ids makes a GPU wait, and torch.compile can't trace it: compiled code skips the check, and the
        training data is checked once, before it is batched.
        """
        T, P, V = token_ids.shape[-1], self.config.n_positions, self.config.vocab_size
        if token_ids.dim() != 2 or token_ids.numel() == 0:
            raise ValueError(f"token_ids must be (B, T) with at least one token, got shape {tuple(token_ids.shape)}")
        if T > P:
            raise ValueError(f"input of {T} tokens is longer than the model's n_positions, {P}")
        if not torch.compiler.is_compiling():
            low, high = token_ids.aminmax()
            if low < 0 or high >= V:
                raise ValueError(f"token ids must be from 0 to {V - 1}, got {low.item()} to {high.item()}")

    def hidden_states(self, token_ids):
        """(B, T) int64 -> the stream after the final LayerNorm, (B, T, C). Raises ValueError as `check` does."""
        self.check(token_ids)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.drop(self.wte(token_ids) + self.wpe(positions))
        for block in self.h:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.ln_f(x)

    def head(self, hidden):
        """(..., C) -> logits (..., V), with the token embedding as the matrix."""
        return F.linear(hidden, self.wte.weight)

    def forward(self, token_ids):
        return self.head(self.hidden_states(token_ids))

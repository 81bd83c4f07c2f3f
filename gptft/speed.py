"""Kernels that make the model fast. Skip this file on a first reading.

Every function says which plain code it equals. The gains were measured with GPT-2 124M on two CPU
cores with bf16 instructions; scripts/BENCHMARKS.md has the figures.

Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models" (head and loss).
"""

import contextlib
import ctypes
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gptft.config import IGNORED

WIDTH = 64  # the head is padded to a multiple of it: no fast kernel has 50,257 columns
CHUNK = {"cpu": 1024, "cuda": 2048}  # positions whose logits exist at the same time
SOFTMAX_ROWS = 64  # on a CPU: as many rows of logits, in float32, fit in its cache


# ---------------------------------------------------------------- attention


def attention(q, k, v, mask=None, dropout=0.0):
    """softmax(q k^T / sqrt(D)) v: queries (B, H, T, D), keys and values (B, H, S, D) -> (B, H, T,
    D).

    mask: bool, True where a query may look, broadcast to (B, H, T, S). None is causal attention,
    for which S = T.
    """
    T = q.shape[2]
    trains_on_cpu = q.device.type == "cpu" and q.requires_grad
    if trains_on_cpu and q.dtype == torch.bfloat16 and mask is None and T <= 512:
        return _attention_by_products(q, k, v, dropout)
    y = F.scaled_dot_product_attention(
        q.to(k.dtype),  # see cache_dtype
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
    )
    return y.to(q.dtype)


def _attention_by_products(q, k, v, dropout):
    """The formula itself. On a CPU a training step in bf16 takes a third less time with it."""
    B, H, T, D = q.shape
    q = q.flatten(0, 1)  # (B * H, T, D)
    k = k.flatten(0, 1)
    v = v.flatten(0, 1)
    bias = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)  # 0 at and below the diagonal
    bias = bias.expand(B * H, T, T)
    k_transposed = k.transpose(1, 2)
    scores = torch.baddbmm(bias, q, k_transposed, alpha=1 / math.sqrt(D))
    weights = torch.softmax(scores, dim=-1)
    weights = F.dropout(weights, dropout)
    return (weights @ v).view(B, H, T, D)


def cache_dtype(weight):
    """The dtype of the key-value cache of a model: usually that of its weights.

    On a CPU without AMX, a single query attends to float32 keys two to four times as fast as to
    bf16 ones. `attention` converts the query to match, and its result back.
    """
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not HAS_AMX:
        return torch.float32
    return weight.dtype


# ---------------------------------------------------------------- one vector times a matrix


def processor_flags():
    """The names of the processor's instruction sets, among other text; "" where not on Linux."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


HAS_AMX = "amx_bf16" in processor_flags()


class Linear(nn.Linear):
    """nn.Linear, faster on a CPU where its input is a single vector, as in generation.

    Reading the weights is then all the work, and F.linear takes about twice as long as the
    memory needs. Which kernel reads at full speed depends on the processor.
    """

    def forward(self, x):
        return linear(x, self.weight, self.bias)


def linear(x, weight, bias=None):
    """F.linear(x, weight, bias), by the kernel that `Linear` describes."""
    onednn = torch.backends.mkldnn
    is_vector = x.numel() == x.shape[-1] and x.device.type == "cpu"
    if not is_vector or torch.is_grad_enabled() or not onednn.is_available():
        return F.linear(x, weight, bias)
    if HAS_AMX:
        y = torch.mv(weight, x.flatten())
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], -1)
    if x.dtype == torch.float32:  # F.linear would use one thread
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    was_enabled = onednn.enabled
    onednn.enabled = False  # oneDNN would bring bf16 weights into another order first
    try:
        return F.linear(x, weight, bias)
    finally:
        onednn.enabled = was_enabled


# ---------------------------------------------------------------- head and loss


def linear_cross_entropy(hidden, weight, targets):
    """F.cross_entropy(hidden @ weight.T, targets, reduction="sum"), without holding all logits.

    The logits of 4,096 positions are 206 million numbers. Here they exist for some positions at a
    time, and their gradient (softmax, minus one at the target) takes their place at once. At 1,024
    positions this saves a quarter of a GB, beyond them more, and on a CPU it saves time.

    Args:
        hidden: (N, C) float; under autocast the products run in its precision.
        weight: (V, C) float.
        targets: (N,) int64, from 0 to V - 1, or -100 where nothing is learned.

    Returns a scalar in float32 (in float64 for float64 inputs).
    """
    if torch.compiler.is_compiling():  # the compiler saves this memory in its own way
        V = len(weight)
        padded = F.pad(weight, (0, 0, 0, -V % WIDTH))
        logits = F.linear(hidden, padded)[:, :V]
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    learned = targets != IGNORED
    return _LinearCrossEntropy.apply(hidden[learned], weight, targets[learned])


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the logits are at hand."""

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        sum_dtype = torch.promote_types(dtype, torch.float32)
        h = hidden.to(dtype)
        V, C = weight.shape
        w = weight.new_zeros(V + -V % WIDTH, C, dtype=dtype)
        w[:V] = weight
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        total = torch.zeros((), dtype=sum_dtype, device=hidden.device)
        size = CHUNK.get(device, 1024)
        for start in range(0, len(h), size):
            part = slice(start, start + size)
            logits = h[part] @ w.T  # (n, V and its padding)
            n_rows = SOFTMAX_ROWS if device == "cpu" else size
            chunks = logits[:, :V].split(n_rows)
            for chunk, target in zip(chunks, targets[part].split(n_rows)):
                target = target[:, None]
                log_p = torch.log_softmax(chunk, dim=-1, dtype=sum_dtype)
                total -= log_p.gather(1, target).sum()
                if needs_hidden or needs_weight:
                    d_logits = log_p.exp_()
                    minus_one = -torch.ones_like(d_logits[:, :1])
                    d_logits.scatter_add_(1, target, minus_one)
                    chunk.copy_(d_logits)
            if needs_hidden:
                d_hidden[part] = logits @ w
            if needs_weight:
                d_weight += (logits.T @ h[part])[:V]
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, gradient):
        gradients = [None if d is None else d * gradient for d in ctx.saved_tensors]
        return *gradients, None


# ---------------------------------------------------------------- sampling


def top_p_candidates(probs, top_p):
    """How many ids top-p may need: those below (1 - p) / V have less than 1 - p together.

    On a CPU it is ten times as fast to sort only these. On a GPU the count would make it wait.
    """
    V = probs.shape[1]
    if probs.device.type != "cpu":
        return V
    n_above = (probs >= (1 - top_p) / V).sum(dim=-1)
    return int(n_above.max())


# ---------------------------------------------------------------- memory


def keep_freed_memory():
    """On Linux, let this process keep the memory that tensors leave for the tensors that follow.

    Every training step allocates what the step before has freed. By default the C library returns
    large blocks to the system, which then maps and zeroes every page again. Keeping them saves a
    tenth to a quarter of a step.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # parameters of mallopt(3)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(mmap_max, 0)  # no mapping of its own for a large tensor
            mallopt(trim_threshold, 2**31 - 1)  # never return memory
            mallopt(top_pad, 2**26)  # ask for 64 MiB at a time
            mallopt(arena_max, 1)  # all threads share what is kept

"""The head and its loss in one: hidden vectors to the sum of -log p(target), without ever holding all logits.

The logits of 4,096 positions are 206 million numbers (0.8 GB), and softmax, its gradient and their copies walk over
them again and again. Here they are made for some positions at a time, in the precision of the products, and their gradient
takes their place at once: softmax minus one at the target, a closed form. What is kept for the backward pass is as large
as the inputs. On a CPU it is also faster than the two steps apart.

Shapes: N positions, C = n_embd, V classes.
Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", and Liger's fused linear cross-entropy.
"""

import torch
import torch.nn.functional as F

POSITIONS = {"cpu": 1024, "cuda": 2048}  # at a time
WIDTH = 64  # the matrix gets rows of zeros up to a multiple of it: 50,257 is odd, for which the fastest kernels are not made


def linear_cross_entropy(hidden, weight, targets):
    """The sum over targets of -log softmax(hidden @ weight.T)[target] -> scalar, float32 at least.

    Args: hidden (N, C), weight (V, C) floats; under autocast the products run in its precision, softmax in float32.
    targets (N,) int64 from 0 to V - 1, or -100 where nothing is learned.
    """
    if (
        torch.compiler.is_compiling()
    ):  # which would unroll the loop, and saves memory in its own way
        logits = F.linear(hidden, F.pad(weight, (0, 0, 0, -len(weight) % WIDTH)))
        return F.cross_entropy(logits[:, : len(weight)].float(), targets, reduction="sum")
    return _LinearCrossEntropy.apply(hidden, weight, targets, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, with_gradients):
        device = hidden.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        )
        h, V, exact = hidden.to(dtype), len(weight), torch.promote_types(dtype, torch.float32)
        w = weight.new_empty(V + -V % WIDTH, weight.shape[1], dtype=dtype)
        w[:V], w[V:] = weight, 0
        total = torch.zeros((), dtype=exact, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if with_gradients and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if with_gradients and ctx.needs_input_grad[1] else None
        size = POSITIONS.get(device, 1024)
        room = torch.empty(min(size, len(h)), len(w), dtype=dtype, device=hidden.device)
        n_rows = 64 if device == "cpu" else size  # whose softmax in float32 stays in a CPU's cache
        for begin in range(0, len(h), size):
            part = slice(begin, begin + size)
            logits = torch.mm(
                h[part], w.T, out=room[: len(h[part])]
            )  # those of the padding are 0 and stay so
            learned, target = (targets[part] >= 0)[:, None], targets[part].clamp(min=0)[:, None]
            for rows, t, counts in zip(
                *(tensor.split(n_rows) for tensor in (logits[:, :V], target, learned))
            ):
                log_p = torch.log_softmax(rows, -1, dtype=exact)
                total -= (log_p.gather(1, t) * counts).sum()
                if with_gradients:  # which takes the place of the logits
                    d_rows = log_p.exp_().scatter_add_(1, t, -torch.ones_like(t, dtype=exact))
                    torch.mul(d_rows, counts, out=d_rows)
                    rows.copy_(d_rows)
            if d_hidden is not None:
                d_hidden[part] = logits @ w
            if d_weight is not None:
                d_weight += (logits.T @ h[part])[:V]
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, gradient):
        d_hidden, d_weight = (None if d is None else d * gradient for d in ctx.saved_tensors)
        return d_hidden, d_weight, None, None

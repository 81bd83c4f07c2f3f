"""AdamW with decay where it belongs, and the learning rate of each step.

Decay pulls weights towards zero, which makes sense for matrices; biases and LayerNorm's gains are scales and offsets
whose natural value isn't zero, so they are left alone. The rate rises in a line for the first steps, while AdamW's
averages are still poor, and then falls, in a line or along a cosine.

Source: Loshchilov and Hutter 2019 (AdamW, cosine); the split by number of dimensions is nanoGPT's.
"""

import math

import torch


def parameter_groups(model, weight_decay):
    """Trained parameters -> two AdamW groups: matrices (and embeddings) with decay, the rest without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model, options, device_type):
    """AdamW for `TrainOptions`; fused, one kernel for all parameters, where `device_type` has it ("cpu" and "cuda")."""
    groups = parameter_groups(model, options.weight_decay)
    fused = device_type in ("cpu", "cuda")
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, betas=(options.beta1, options.beta2), fused=fused
    )


def learning_rate(step, n_steps, options):
    """The rate of step `step` (0 to n_steps - 1): a line up to `learning_rate`, then down to `final_rate` times it.

    The first of W warmup steps has 1/W of the peak, the last of them the peak.
    """
    n_warmup = round(options.warmup * n_steps)
    if step < n_warmup:
        return options.learning_rate * (step + 1) / n_warmup
    done = (step - n_warmup) / max(
        1, n_steps - n_warmup
    )  # 0 at the peak, almost 1 at the last step
    fall = 1 - done if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return options.learning_rate * (options.final_rate + (1 - options.final_rate) * fall)

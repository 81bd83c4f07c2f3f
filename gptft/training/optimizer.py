"""AdamW with weight decay on matrices only, and the learning rate of each step.

Weight decay pulls weights towards zero. That regularises matrices, embeddings included. Biases
and LayerNorm gains are few numbers that hardly overfit, and are left alone. The learning rate rises
linearly while AdamW's averages are still poor, and then falls, linearly or along a cosine.

Source: Loshchilov & Hutter 2019 (AdamW, cosine schedule); the grouping follows nanoGPT.

Next on the evening's path: training/loop.py.
"""

import math

import torch


def parameter_groups(model, weight_decay):
    """The trained parameters in two groups for AdamW: matrices and embeddings decay, others
    don't."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model, options):
    """AdamW for `TrainOptions`, in torch's fused form: one kernel for all parameters."""
    return torch.optim.AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        fused=True,
    )


def learning_rate(step, n_steps, options):
    """The learning rate of a step, 0 to n_steps - 1.

    options.warmup is the fraction of steps that are warmup. The first of W warmup steps has 1/W of
    the peak rate; the last of them and the step after it have the peak. Without warmup, 4 steps of
    a linear schedule have 1, 3/4, 1/2 and 1/4 of the peak.
    """
    n_warmup = round(options.warmup * n_steps)
    if step < n_warmup:
        return options.learning_rate * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)  # 0 at the peak, almost 1 at the end
    if options.schedule == "linear":
        return options.learning_rate * (1 - progress)
    if options.schedule == "cosine":
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"schedule must be 'linear' or 'cosine', not {options.schedule!r}")

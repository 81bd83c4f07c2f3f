"""Low-rank adapters (LoRA): the weights are frozen, and a small product beside them is trained.

    y = x W^T + b + alpha / rank * x A^T B^T

W (out, in) and b (out) come from the pretrained model and are frozen. A (rank, in) and B (out,
rank) are trained. The change that fine-tuning makes to a matrix has a low rank, so A and B can hold
it with one percent of the weights. The optimizer then needs a hundredth of the memory, and a tuned
adapter is a file of a few megabytes. B starts at zero, so training starts from the outputs of the
pretrained model. After training, W + alpha / rank * B A is an ordinary weight: the merged model is
a plain GPT-2 and costs nothing extra.

All four matrices of a block get an adapter. checkpoints/adapters.py reads and writes peft's files.
Left out: adapters of the embeddings, dropout on their input, and variants such as DoRA and rsLoRA.
Source: Hu et al. 2021, section 4; peft's `lora/layer.py` for the initial values.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # the matrices of a block


class LoRALinear(nn.Linear):
    """A linear layer with an adapter of the given rank: (..., in) -> (..., out).

    It takes over the weight and bias of `linear`, an nn.Linear, and computes the same until B is
    trained. alpha: scales the adapter's product, divided by the rank.
    """

    def __init__(self, linear, rank, alpha):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.alpha = alpha
        self.scale = alpha / rank
        A = self.weight.new_empty(rank, self.in_features)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))  # as torch initialises nn.Linear
        B = self.weight.new_zeros(self.out_features, rank)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)

    def forward(self, x):
        low_rank = F.linear(x, self.lora_A)  # (..., rank)
        update = F.linear(low_rank, self.lora_B)  # (..., out)
        return super().forward(x) + self.scale * update

    @torch.no_grad()
    def merged_weight(self):
        """W + alpha / rank * B A, (out, in)."""
        return self.weight + self.scale * self.lora_B @ self.lora_A


def add_adapters(model, rank=8, alpha=16.0, base=None):
    """Freeze a GPT2 or GPT2Classifier and add an adapter to every matrix of its blocks, in place.

    The head of a classifier stays trainable. rank and alpha: as in LoRALinear. base: the folder or
    name of the pretrained model, which a saved adapter refers to.
    Raises ValueError if the model has adapters already.
    """
    if adapters(model):
        raise ValueError("the model has adapters already")
    model.requires_grad_(False)
    for block in getattr(model, "transformer", model).h:
        for target in TARGETS:
            part_name, name = target.split(".")
            part = getattr(block, part_name)
            linear = getattr(part, name)
            setattr(part, name, LoRALinear(linear, rank, alpha))
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    model.adapter_base = base


def adapters(model):
    """The adapted layers of a model: dict of name -> LoRALinear, empty if there are none."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def merged_state(model):
    """The state_dict of a plain model that computes the same as `model`, which stays unchanged."""
    state = model.state_dict()
    for name, layer in adapters(model).items():
        state[f"{name}.weight"] = layer.merged_weight()
        del state[f"{name}.lora_A"]
        del state[f"{name}.lora_B"]
    return state

"""Low-rank adapters (LoRA): the weights stay as they are, and beside some of the matrices two thin
ones are trained.

    y = x W' + b + alpha / rank * dropout(x) A' B'      W (out, in) frozen, A (rank, in) and B (out,
    rank) trained

What fine-tuning adds to a matrix has a low rank, so A and B, one percent of the weights, can hold
it: the optimizer needs a hundredth of the memory, and a tuned model is a file of a few megabytes. B
starts at zero, so training starts from the base model's own outputs. Once trained, B A can be added
to W: the merged model is a plain GPT-2 and costs nothing extra.

On disk an adapter stands as the peft package has it, for transformers' GPT-2: adapter_config.json
and adapter_model.safetensors, whose names begin with "base_model.model.", and for a classifier the
head (modules_to_save), which is trained whole. transformers stores W transposed (fan_in_fan_out); A
and B lie as they do here. peft finds layers by the end of their names, and "c_proj" ends two of
them: targets are "attn.c_proj" and "mlp.c_proj".

Left out: adapters of the embedding, ranks that differ between layers, and peft's variants (DoRA,
rsLoRA, ...), whose files are refused, because B A alone would compute something else.
Source: Hu et al. 2021, section 4; peft's `lora/layer.py` and `LoraConfig`.
"""

import json
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from gptft.checkpoints.gpt2_names import FLOATS
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.errors import read_json

LORA_TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
from gptft.errors import CheckpointError, UserError, write_text

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TENSOR = re.compile(
    rf"{PREFIX}(?:transformer\.)?(h\.\d+\.(?:{'|'.join(LORA_TARGETS)}))\.lora_([AB])\.weight"
)
# Keys of adapter_config.json that may say anything; all others switch on what is not plain LoRA, and must be off.
HARMLESS = set(
    [
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "modules_to_save",
        "fan_in_fan_out",
        "task_type",
        "inference_mode",
        "peft_version",
        "auto_mapping",
        "revision",
        "ensure_weight_tying",
        "eva_config",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "gptft",
    ]
)
ACCEPTED = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva"),
}


class LoRALinear(nn.Linear):
    """A linear layer with an adapter, (..., in) -> (..., out); it takes over the weights of
    `linear` and freezes them.

    y = W x + b + alpha / rank * B A dropout(x), with A (rank, in) and B (out, rank); B begins as 0.
    """

    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = (
            linear.weight.requires_grad_(False),
            linear.bias.requires_grad_(False),
        )
        self.alpha, self.scale, self.dropout = alpha, alpha / rank, nn.Dropout(dropout)
        self.lora_A = nn.Parameter(self.weight.new_empty(rank, self.in_features))
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(
            self.lora_A, a=math.sqrt(5)
        )  # as torch draws a linear layer's weight
        self.register_buffer("base", None, persistent=False)  # W, while it is merged

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        if self.base is not None:
            return y
        return y + self.scale * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merged_weight(self):
        """W + alpha / rank * B A, (out, in)."""
        return (
            self.weight
            if self.base is not None
            else self.weight + self.scale * (self.lora_B @ self.lora_A)
        )


def add_adapters(model, rank=8, alpha=16.0, base=None, dropout=0.0, targets=LORA_TARGETS):
    """Freeze a GPT2 or GPT2Classifier but for the head of the latter, and put adapters beside its
    layers; in place.

    rank, alpha, dropout: as in LoRALinear. targets: some of LORA_TARGETS. base: where the model
    lies, which is kept with the saved adapters. Raises UserError for a rank below 1, other targets,
    or a model that has adapters already.
    """
    if rank < 1 or not targets or not set(targets) <= set(LORA_TARGETS) or adapters(model):
        raise UserError(
            f"can't add adapters of rank {rank} on {', '.join(targets)}; the rank must be at least 1, the targets some of "
            f"{', '.join(LORA_TARGETS)}, and the model without adapters"
        )
    model.requires_grad_(False)
    for block in getattr(model, "transformer", model).h:
        for part, name in (target.split(".") for target in targets):
            part = getattr(block, part)
            setattr(part, name, LoRALinear(getattr(part, name), rank, alpha, dropout))
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    model.adapter_base = base


def adapters(model):
    """The adapted layers -> dict of LoRALinear by their names in the model; empty if it has
    none."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def merge(model):
    """Add the adapters to the weights, in place: as fast as a plain model, and no longer trained.
    `unmerge` takes it back."""
    for layer in adapters(model).values():
        if layer.base is None:
            layer.weight.data, layer.base = layer.merged_weight(), layer.weight.data


def unmerge(model):
    """Undo `merge`: the base's weights are again what they were, bit for bit (kept, since a
    subtraction would round)."""
    for layer in adapters(model).values():
        if layer.base is not None:
            layer.weight.data, layer.base = layer.base, None


def merged_state(model):
    """The state_dict of the plain model that computes what this one does; the model itself stays as
    it is."""
    state = {
        name: weight
        for name, weight in model.state_dict().items()
        if not name.endswith((".lora_A", ".lora_B"))
    }
    return state | {
        f"{name}.weight": layer.merged_weight() for name, layer in adapters(model).items()
    }


# ---------------------------------------------------------------- files


def save_adapter(model, folder):
    """Write the adapters of a model (and a classifier's head) into a folder, as peft does."""
    tensors, layers, is_classifier = {}, adapters(model), hasattr(model, "score")
    for name, layer in layers.items():
        name = f"{PREFIX}transformer.{name.removeprefix('transformer.')}"
        tensors |= {f"{name}.lora_A.weight": layer.lora_A, f"{name}.lora_B.weight": layer.lora_B}
    if is_classifier:
        tensors[f"{PREFIX}score.weight"] = model.score.weight
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_classifier else "CAUSAL_LM",
        "base_model_name_or_path": model.adapter_base,
        "r": len(layer.lora_A),
        "lora_alpha": layer.alpha,
        "lora_dropout": layer.dropout.p,
        "fan_in_fan_out": True,
        "bias": "none",
        "target_modules": sorted({".".join(name.split(".")[-2:]) for name in layers}),
        "modules_to_save": ["score"] if is_classifier else None,
        "inference_mode": True,
    }
    if (
        getattr(model, "pooling", "last") != "last"
    ):  # peft warns of this key, and rightly: transformers knows only "last"
        config["gptft"] = {"pooling": model.pooling}
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})


def read_adapter_config(folder):
    """adapter_config.json -> dict of what is used of it: base, rank, alpha, pooling (None if it
    says nothing).

    Raises CheckpointError, naming the file, if it is damaged or not of plain LoRA.
    """
    path = folder / CONFIG
    saved = {"peft_type": None} | read_json(path)
    on = [
        f"{key} is {value!r}"
        for key, value in saved.items()
        if (value not in ACCEPTED[key] if key in ACCEPTED else value and key not in HARMLESS)
    ]
    if on:
        raise CheckpointError(
            f"not a plain LoRA adapter ({', '.join(on)}), {path}; merge it with peft and save the model"
        )
    base, rank, alpha, extra = (
        saved.get(key) for key in ("base_model_name_or_path", "r", "lora_alpha", "gptft")
    )
    if (
        not isinstance(base, str)
        or type(rank) is not int
        or rank < 1
        or type(alpha) not in (int, float)
        or not abs(alpha) <= 1e6
    ):
        raise CheckpointError(
            f"base_model_name_or_path is {base!r}, r is {rank!r}, lora_alpha is {alpha!r}, but they must be a folder, a "
            f"rank from 1 and a number, {path}; correct it, or save it again"
        )
    return {
        "base": base,
        "rank": rank,
        "alpha": alpha,
        "pooling": extra.get("pooling") if isinstance(extra, dict) else None,
    }


def apply_adapter(folder, weights):
    """Add the adapter in a folder to its base's weights: dict of tensors by our names, matrices
    (out, in) -> such a dict.

    The adapter's head, if it has one, becomes "score.weight".
    Raises CheckpointError that names the folder and lists what is damaged, missing, unknown or of
    another shape.
    """
    config, weights, found, wrong = read_adapter_config(folder), dict(weights), {}, []
    for name, tensor in read_safetensors(folder / WEIGHTS).items():
        match = TENSOR.fullmatch(name)
        if tensor.dtype in FLOATS and match:
            found.setdefault(match[1], {})[match[2]] = tensor
        elif (
            tensor.dtype in FLOATS
            and name == f"{PREFIX}score.weight"
            and tensor.shape[1:] == weights["wte.weight"].shape[1:]
        ):
            weights["score.weight"] = tensor
        else:
            wrong.append(f"{name!r} is unknown, or of another type or shape")
    targets = tuple({f"{name.split('.', 2)[2]}.weight" for name in found})
    adapted = {name.removesuffix(".weight") for name in weights if name.endswith(targets)}
    wrong += [f"the base has no {name}" for name in sorted(found.keys() - adapted)]
    for name in sorted(adapted):
        W, rank = weights[f"{name}.weight"], config["rank"]
        shapes = {
            letter: list(tensor.shape) for letter, tensor in sorted(found.get(name, {}).items())
        }
        wanted = {"A": [rank, W.shape[1]], "B": [W.shape[0], rank]}
        if shapes == wanted:
            delta = found[name]["B"].float() @ found[name]["A"].float()
            weights[f"{name}.weight"] = W.float() + config["alpha"] / rank * delta
        else:
            wrong.append(f"{name} has {shapes or 'no adapter'} instead of {wanted}")
    if wrong or not found:
        what = "; ".join(wrong[:3] or ["it holds none"]) + (
            f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        )
        raise CheckpointError(
            f"not an adapter of the model {config['base']}: {what}, {folder}; give its own base, or save it again"
        )
    return weights

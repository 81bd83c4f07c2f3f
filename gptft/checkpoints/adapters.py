"""Adapters on disk, in peft's files: adapter_config.json and adapter_model.safetensors.

peft names the tensors by their place in its wrapper around a transformers model, for example
base_model.model.transformer.h.0.attn.c_attn.lora_A.weight. A and B have the same shapes there as
here. A classifier's head is trained whole and stored beside them. peft finds the adapted layers by
the ends of their names (`target_modules`). `fan_in_fan_out` says that transformers stores the
weights of these layers as [in, out].

We write adapters of all four matrices of a block. Adapters of only some of them can be read.
Left out: adapters of the embeddings, ranks that differ between layers, and variants such as DoRA
and rsLoRA. Their files are refused, because the product of B and A alone would be wrong.
Source: peft's `LoraConfig` and `save_and_load.py`.
"""

import os
import re
from pathlib import Path

from gptft.checkpoints.names import check_tensors
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.config import ALIASES
from gptft.errors import CheckpointError, read_json, write_json
from gptft.lora import TARGETS, adapters

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Keys of adapter_config.json that may have any value, and keys that may have one of a few values.
# All other keys switch on something that plain LoRA does not have, and must be off.
FREE = """base_model_name_or_path r lora_alpha lora_dropout target_modules modules_to_save
    fan_in_fan_out task_type inference_mode peft_version auto_mapping revision ensure_weight_tying
    eva_config megatron_core qalora_group_size runtime_config"""
ACCEPTED = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva"),
}


def base_folder(folder):
    """The folder of an adapter's base model -> Path. A folder without an adapter is its own base.

    Raises CheckpointError if the base model is not there.
    """
    if not (folder / CONFIG).exists():
        return folder
    name = _read_config(folder)["base_model_name_or_path"]
    size = ALIASES.get(name)
    base = Path("checkpoints") / size if size and not os.path.isdir(name) else Path(name)
    if not os.path.isdir(base):  # Path.is_dir raises OSError for a name that no file can have
        advice = "correct base_model_name_or_path"
        if size:
            advice = f"fetch it with: python -m data_prep.gpt2 --size {size}"
        raise CheckpointError(
            f"the adapter's base model is not here: {base}, {folder / CONFIG}; {advice}"
        )
    return base


def apply_adapter(folder, weights):
    """Merge the adapter in a folder into the weights of its base model -> new dict of tensors.

    weights: dict of tensors by our names. The adapter's head, if it has one, becomes score.weight.
    Raises CheckpointError, naming the folder and listing the tensors that are missing, unknown or
    of another shape.
    """
    config = _read_config(folder)
    rank, scale = config["r"], config["lora_alpha"] / config["r"]
    tensors = {}
    for name, tensor in read_safetensors(folder / WEIGHTS).items():
        tensors[re.sub(r"^base_model\.model\.(transformer\.)?", "", name)] = tensor

    # The same matrices are adapted in every block.
    found = [target for target in TARGETS if f"h.0.{target}.lora_A.weight" in tensors]
    endings = tuple(f"{target}.weight" for target in found or TARGETS)
    layers = [name.removesuffix(".weight") for name in weights if name.endswith(endings)]
    shapes = {}
    for layer in layers:
        n_out, n_in = weights[f"{layer}.weight"].shape
        shapes[f"{layer}.lora_A.weight"] = (rank, n_in)
        shapes[f"{layer}.lora_B.weight"] = (n_out, rank)
    merged = dict(weights)
    if "score.weight" in tensors:
        merged["score.weight"] = tensors["score.weight"]
        shapes["score.weight"] = (*merged["score.weight"].shape[:1], len(weights["ln_f.bias"]))
    what = f"an adapter of rank {rank} for the model {config['base_model_name_or_path']}"
    check_tensors(tensors, shapes, what, folder)

    for layer in layers:
        A, B = (tensors[f"{layer}.lora_{letter}.weight"].float() for letter in "AB")
        merged[f"{layer}.weight"] = weights[f"{layer}.weight"].float() + scale * B @ A
    return merged


def save_adapter(model, folder):
    """Write the adapters of a model, and the head of a classifier, into a folder."""
    tensors, is_classifier = {}, hasattr(model, "score")
    for name, layer in adapters(model).items():
        name = f"base_model.model.transformer.{name.removeprefix('transformer.')}"
        tensors[f"{name}.lora_A.weight"] = layer.lora_A
        tensors[f"{name}.lora_B.weight"] = layer.lora_B
    if is_classifier:
        tensors["base_model.model.score.weight"] = model.score.weight
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_classifier else "CAUSAL_LM",
        "base_model_name_or_path": model.adapter_base,
        "r": len(layer.lora_A),
        "lora_alpha": layer.alpha,
        "fan_in_fan_out": True,
        "target_modules": TARGETS,
        "modules_to_save": ["score"] if is_classifier else None,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config)
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})


def _read_config(folder):
    """adapter_config.json -> dict. Raises CheckpointError if it is damaged or not of plain LoRA."""
    path = folder / CONFIG
    config = {"peft_type": None} | read_json(path)
    wrong = []
    for key, value in config.items():
        refused = value not in ACCEPTED[key] if key in ACCEPTED else value
        if refused and key not in FREE.split():
            wrong.append(f"{key} is {value!r}")
    if wrong:
        raise CheckpointError(
            f"not a plain LoRA adapter ({', '.join(wrong)}), "
            f"{path}; only plain adapters can be loaded"
        )
    base, rank, alpha = map(config.get, ("base_model_name_or_path", "r", "lora_alpha"))
    rank_is_valid = type(rank) is int and rank >= 1
    alpha_is_valid = type(alpha) in (int, float) and abs(alpha) <= 1e6
    if not (isinstance(base, str) and rank_is_valid and alpha_is_valid):
        raise CheckpointError(
            f"base_model_name_or_path is {base!r}, r is {rank!r}, lora_alpha is {alpha!r}, "
            f"{path}; write a folder, a rank from 1 and a number there"
        )
    return config

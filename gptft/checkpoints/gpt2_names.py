"""One table of GPT-2's weights: their names with OpenAI, here and with Hugging Face, and how the arrays differ.

    OpenAI                   here and Hugging Face     stored by OpenAI   by Hugging Face   here
    model/h0/attn/c_attn/w   h.0.attn.c_attn.weight    [1, C, 3C]         [C, 3C]           [3C, C]
    model/h0/attn/c_attn/b   h.0.attn.c_attn.bias      [3C]               [3C]              [3C]
    model/wte                wte.weight                [V, C]             [V, C]            [V, C]

A matrix of a linear layer is [in, out] with both (OpenAI's layers were convolutions of width 1, hence the axis of 1),
and [out, in] here, as torch.nn.Linear has it. A square matrix fits both ways, so no shape check finds a transpose
that was forgotten: it is stated once, below, and applied in one place each way. Hugging Face puts "transformer." before
the names, unless the file holds the bare body. The head that writes tokens is wte itself and stands nowhere.

Letters: C = n_embd, V = vocab_size, P = n_positions, K = classes.
Source: OpenAI's gpt-2 `model.py`; transformers' `modeling_gpt2.py`.
"""

import re

import torch

from gptft.errors import CheckpointError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Hugging Face files may also hold each layer's causal mask, which is no weight.
MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def weight_table(config):
    """-> dict, our name -> (OpenAI's name, shape here, True if it is the matrix of a linear layer)."""
    C, V, P = config.n_embd, config.vocab_size, config.n_positions
    norm = {"g": ("weight", (C,), False), "b": ("bias", (C,), False)}

    def linear(n_in, n_out):
        return {"w": ("weight", (n_out, n_in), True), "b": ("bias", (n_out,), False)}

    block = {
        "ln_1": norm,
        "attn/c_attn": linear(C, 3 * C),
        "attn/c_proj": linear(C, C),
        "ln_2": norm,
        "mlp/c_fc": linear(C, 4 * C),
        "mlp/c_proj": linear(4 * C, C),
    }
    table = {"wte.weight": ("model/wte", (V, C), False), "wpe.weight": ("model/wpe", (P, C), False)}
    for layer in range(config.n_layer):
        for part, arrays in block.items():
            for letter, (ours, shape, is_matrix) in arrays.items():
                name = f"h.{layer}.{part.replace('/', '.')}.{ours}"
                table[name] = (f"model/h{layer}/{part}/{letter}", shape, is_matrix)
    for letter, (ours, shape, is_matrix) in norm.items():
        table[f"ln_f.{ours}"] = (f"model/ln_f/{letter}", shape, is_matrix)
    return table


def from_openai(variables, config, source):
    """dict of OpenAI's variables (numpy) -> dict of tensors by our names, views in our layout.

    Raises CheckpointError that names `source` and lists every variable that is missing, unknown or of another shape.
    """
    table = weight_table(config)
    wanted = {
        openai: (1, *shape[::-1]) if is_matrix else shape
        for openai, shape, is_matrix in table.values()
    }
    found = {name: torch.from_numpy(array) for name, array in variables.items()}
    _check(found, wanted, source)
    return {
        name: found[openai][0].T if is_matrix else found[openai]
        for name, (openai, _, is_matrix) in table.items()
    }


def from_huggingface(tensors, config, source, is_classifier=False):
    """dict of a Hugging Face file's tensors -> dict of tensors by our names, views in our layout.

    Beside the table's names it may hold (and for a classifier must hold) "score.weight" [K, C], the head, which is
    passed on. The masks and a copy of wte as "lm_head.weight" are dropped.
    Raises CheckpointError that names `source` and lists every tensor that is missing, unknown or of another shape.
    """
    table = weight_table(config)
    wanted = {
        name: shape[::-1] if is_matrix else shape for name, (_, shape, is_matrix) in table.items()
    }
    found, twice = {}, []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("transformer.")
        if name in found:
            twice.append(f"{name!r} stands twice")
        if not MASKS.fullmatch(name):
            found[name] = tensor
    if is_classifier or "score.weight" in found:
        n_classes = found["score.weight"].shape[:1] if "score.weight" in found else ("K",)
        wanted["score.weight"] = (*n_classes, config.n_embd)
    head = found.pop("lm_head.weight", None)
    _check(found, wanted, source, twice)
    wte = found["wte.weight"]
    if head is not None and (head.dtype != wte.dtype or not torch.equal(head, wte)):
        what = "lm_head.weight differs from wte.weight, but GPT-2's head is tied to it"
        raise CheckpointError(f"{what}, {source}; only tied models can be loaded")
    return {
        name: found[name].T if name in table and table[name][2] else found[name] for name in wanted
    }


def to_huggingface(weights, config):
    """dict of tensors by our names (GPT2's state_dict, perhaps with "score.weight") -> dict by Hugging Face's, views.

    Raises ValueError that lists every name that is missing or unknown: a model in some wrapping.
    """
    table = weight_table(config)
    wrong = sorted(table.keys() - weights.keys()) + sorted(
        weights.keys() - table.keys() - {"score.weight"}
    )
    if wrong:
        raise ValueError(
            f"not the weights of a plain GPT-2 (unwrap it, merge its adapters): {', '.join(wrong)}"
        )
    tensors = {
        f"transformer.{name}": weights[name].T if table[name][2] else weights[name]
        for name in table
    }
    if "score.weight" in weights:
        tensors["score.weight"] = weights["score.weight"]
    return tensors


def _check(found, wanted, source, wrong=()):
    """Raise a CheckpointError that lists all that differs between the tensors found and the shapes wanted."""
    wrong = list(wrong)
    for name, shape in wanted.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif tuple(found[name].shape) != shape:
            wrong.append(f"{name} has shape {list(found[name].shape)} instead of {list(shape)}")
        elif found[name].dtype not in FLOATS:
            wrong.append(f"{name} has type {str(found[name].dtype).removeprefix('torch.')}")
    wrong += [f"{name!r} is unknown" for name in found if name not in wanted]
    if wrong:
        raise CheckpointError(
            f"not the weights of this GPT-2: {', '.join(wrong)}, {source}; fetch or save it again"
        )

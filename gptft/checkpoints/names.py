"""How OpenAI's weights become ours, and ours become Hugging Face's: one table of names.

OpenAI, this project and Hugging Face give the tensors of GPT-2 different names, and they store the
weights of linear layers differently:

    OpenAI          model/h0/attn/c_attn/w                [1, in, out]
    here            h.0.attn.c_attn.weight                [out, in]
    Hugging Face    transformer.h.0.attn.c_attn.weight    [in, out]

torch.nn.Linear computes x @ weight.T with a weight of [out, in]. OpenAI's layers were convolutions
of width 1, hence the 1, with weights of [in, out]. Hugging Face dropped the 1 and kept the order.
So the weights of the four linear layers of a block are transposed on the way in and on the way out,
and no other tensor is. If you forget it for the square attn.c_proj, no shape check will complain,
but the model will write nonsense.

The table has no row for the head that turns hidden states into logits: GPT-2 uses wte for it.
A classifier has one more tensor, score.weight [K, C], with the same name and layout everywhere.

Letters: C = n_embd, V = vocab_size, P = n_positions, K = number of classes.
Source: OpenAI's gpt-2 `model.py`; transformers' `modeling_gpt2.py`.

The evening's path ends here.
"""

import re

import torch

from gptft.errors import CheckpointError
from gptft.model import GPT2

# Our name, OpenAI's name, our shape. Hugging Face's name is ours with "transformer." before it.
MODEL = {
    "wte.weight": "model/wte",  # [V, C]
    "wpe.weight": "model/wpe",  # [P, C]
    "ln_f.weight": "model/ln_f/g",  # [C]
    "ln_f.bias": "model/ln_f/b",  # [C]
}
# The same for block i, without the prefixes: ours is "h.{i}.", OpenAI's is "model/h{i}/".
BLOCK = {
    "ln_1.weight": "ln_1/g",  # [C]
    "ln_1.bias": "ln_1/b",  # [C]
    "attn.c_attn.weight": "attn/c_attn/w",  # [3C, C], transposed
    "attn.c_attn.bias": "attn/c_attn/b",  # [3C]
    "attn.c_proj.weight": "attn/c_proj/w",  # [C, C], transposed
    "attn.c_proj.bias": "attn/c_proj/b",  # [C]
    "ln_2.weight": "ln_2/g",  # [C]
    "ln_2.bias": "ln_2/b",  # [C]
    "mlp.c_fc.weight": "mlp/c_fc/w",  # [4C, C], transposed
    "mlp.c_fc.bias": "mlp/c_fc/b",  # [4C]
    "mlp.c_proj.weight": "mlp/c_proj/w",  # [C, 4C], transposed
    "mlp.c_proj.bias": "mlp/c_proj/b",  # [C]
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def openai_names(n_layer):
    """The whole table for a model of `n_layer` blocks: dict of our name -> OpenAI's name."""
    names = dict(MODEL)
    for i in range(n_layer):
        for ours, openai in BLOCK.items():
            names[f"h.{i}.{ours}"] = f"model/h{i}/{openai}"
    return names


def from_openai(variables, config, source):
    """Rename and transpose OpenAI's variables: dict of np.ndarray -> dict of tensors by our names.

    openai.py reads the variables. Without their leading 1, matrices have Hugging Face's layout, so
    `from_huggingface` does the rest; it also accepts names without "transformer.". The tensors view
    the arrays. Raises CheckpointError, naming `source` and listing the tensors that are missing,
    unknown or of another shape.
    """
    our_names = {openai: ours for ours, openai in openai_names(config.n_layer).items()}
    tensors = {}
    for openai, array in variables.items():
        name = our_names.get(openai, openai)
        tensors[name] = torch.from_numpy(array)
        if name.endswith(TRANSPOSED):
            tensors[name] = tensors[name].squeeze(0)  # [1, in, out] -> [in, out]
    return from_huggingface(tensors, config, source)  # which transposes


def from_huggingface(tensors, config, source, is_classifier=False):
    """Rename and transpose Hugging Face's tensors: dict of tensors -> dict of tensors by our names.

    Old files lack the prefix "transformer." and hold the causal mask of each block, which is
    dropped. lm_head.weight is a copy of wte, because the head is tied: it serves as wte where that
    is absent, and must be equal to it otherwise. A classifier must have score.weight. The result
    views the tensors. Raises CheckpointError, naming `source` and listing the tensors that are
    missing, unknown or of another shape.
    """
    found = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("transformer.")
        # In spite of the name, a causal mask.
        if re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            continue
        is_matrix = name.endswith(TRANSPOSED) and tensor.dim() == 2  # a damaged file may differ
        found[name] = tensor.T if is_matrix else tensor
    head = found.pop("lm_head.weight", None)
    if head is not None:
        found.setdefault("wte.weight", head)

    with torch.device("meta"):  # without memory for the weights: only their shapes are needed
        shapes = {name: tuple(weight.shape) for name, weight in GPT2(config).state_dict().items()}
    if "score.weight" in found:  # with any number of classes
        shapes["score.weight"] = (*found["score.weight"].shape[:1], config.n_embd)
    elif is_classifier:
        shapes["score.weight"] = None  # of any shape: check_tensors reports that it is missing
    check_tensors(found, shapes, "the weights of this GPT-2", source)
    if head is not None and not torch.equal(head.float(), found["wte.weight"].float()):
        raise CheckpointError(
            "lm_head.weight differs from wte.weight, but GPT-2's head is tied to it, "
            f"{source}; only tied models can be loaded"
        )
    return found


def to_huggingface(weights):
    """Rename and transpose the weights of a GPT2 -> dict of views by Hugging Face's names.

    For a classifier, `weights` are its GPT2's, without "transformer.", plus score.weight.
    """
    tensors = {}
    for name, weight in weights.items():
        prefix = "" if name == "score.weight" else "transformer."
        tensors[prefix + name] = weight.T if name.endswith(TRANSPOSED) else weight
    return tensors


def check_tensors(tensors, shapes, what, source):
    """Raise CheckpointError unless `tensors` are floats with the names and shapes in `shapes`.

    The message says that `source` does not hold `what`, and lists up to ten differences.
    """
    wrong = []
    for name, shape in shapes.items():
        if name not in tensors:
            wrong.append(f"{name} is missing")
        elif tuple(tensors[name].shape) != shape:
            wrong.append(f"{name} has shape {list(tensors[name].shape)} instead of {list(shape)}")
        elif not tensors[name].is_floating_point():
            wrong.append(f"{name} has type {tensors[name].dtype}")
    wrong += [f"{name!r} is unknown" for name in tensors if name not in shapes]
    if wrong:
        listed = ", ".join(wrong[:10])
        raise CheckpointError(f"not {what}: {listed}, {source}; fetch or save it again")

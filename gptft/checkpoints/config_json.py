"""The file beside the weights: Hugging Face's config.json, or OpenAI's hparams.json.

config.json also describes relatives of GPT-2 (other activations, other scalings of attention) whose
weights have the same names and shapes. Loaded here, they would compute something else without an
error. So every key that changes the computation is compared with what GPT-2 does here.
(`reorder_and_upcast_attn` only changes rounding. tests/test_folders.py lists all keys.)

Hugging Face has three dropout probabilities: `resid_pdrop` is our dropout, `attn_pdrop` is our
attention_dropout, and `embd_pdrop` is not read. What transformers has no key for is under "gptft":
the prompt template a model was tuned with, and the names of its special tokens.
Source: transformers' `configuration_gpt2.py`.
"""

import os
from typing import NamedTuple

from gptft.config import GPT2Config
from gptft.errors import CheckpointError, read_json

END_OF_TEXT = 50256  # the last id of GPT-2's vocabulary
CLASSIFIER = "GPT2ForSequenceClassification"

# Hugging Face's keys (and our names), OpenAI's keys.
SIZES = {
    "vocab_size": "n_vocab",
    "n_positions": "n_ctx",
    "n_embd": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
}
# The values with which GPT-2 is computed here; the first is transformers' default. A model of
# another architecture has another head, and with another type of problem its logits mean something
# else.
SUPPORTED = {
    "architectures": (["GPT2LMHeadModel"], ["GPT2Model"], [CLASSIFIER], None),
    "problem_type": (None, "single_label_classification"),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


class ModelInfo(NamedTuple):
    """What a folder says about its model besides the weights.

    class_names: of a classifier, or None. template: the name of the prompt template that a language
    model was tuned with, or None. special_tokens: names of the ids after <|endoftext|>.
    """

    config: GPT2Config
    is_classifier: bool = False
    class_names: list | None = None
    template: str | None = None
    special_tokens: list = ()


def read_model_info(folder):
    """Read config.json, or else hparams.json -> ModelInfo.

    Raises CheckpointError that names the file, the key and its value if GPT2 can't be that model.
    """
    if not os.path.isdir(folder):
        what = "a file instead of a folder" if os.path.isfile(folder) else "no such folder"
        hint = "give the folder of a model, with config.json and model.safetensors"
        raise CheckpointError(f"{what}, {folder}; {hint}")
    path = folder / "config.json"
    if path.exists():
        return _read_config_json(path, read_json(path))
    path = folder / "hparams.json"
    if path.exists():
        return ModelInfo(_read_config(path, read_json(path), SIZES.values()))
    raise CheckpointError(
        "neither config.json (Hugging Face, or a run) nor hparams.json (OpenAI), "
        f"{folder}; give the folder of a model"
    )


def config_json(info):
    """ModelInfo -> the dict to write as config.json. A classifier needs class names."""
    config = info.config
    attention_dropout = config.attention_dropout
    end = END_OF_TEXT if config.vocab_size > END_OF_TEXT else None
    content = {key: values[0] for key, values in SUPPORTED.items()}
    content |= {
        "model_type": "gpt2",
        **{name: getattr(config, name) for name in SIZES},
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout if attention_dropout is None else attention_dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    if info.is_classifier:
        content["architectures"] = [CLASSIFIER]
        content["id2label"] = {str(i): name for i, name in enumerate(info.class_names)}
        content["label2id"] = {name: i for i, name in enumerate(info.class_names)}
    if info.template or info.special_tokens:
        content["gptft"] = {"template": info.template, "special_tokens": info.special_tokens}
    return content


def _read_config_json(path, content):
    if content.get("model_type") != "gpt2":
        raise CheckpointError(
            f"model_type is {content.get('model_type')!r} instead of 'gpt2', "
            f"{path}; only GPT-2 can be loaded"
        )
    config = _read_config(path, content, SIZES)
    for key, values in (SUPPORTED | {"n_inner": (None, 4 * config.n_embd)}).items():
        if content.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{key} is {content[key]!r} instead of {' or '.join(map(repr, values))}, "
                f"{path}; this GPT-2 would compute something else"
            )
    extra = content.get("gptft", {})
    if not isinstance(extra, dict) or extra.get("pooling", "last") != "last":
        raise CheckpointError(
            f"gptft is {extra!r}, a mean-pooled classifier of the first edition, "
            f"{path}; train it again, now on the last token"
        )
    template, special_tokens = extra.get("template"), extra.get("special_tokens", [])
    n_ids = max(0, config.vocab_size - END_OF_TEXT - 1)  # after <|endoftext|>
    if not isinstance(template, str | None) or not _are_new_tokens(special_tokens, n_ids):
        raise CheckpointError(
            f"gptft.template is not a name, or gptft.special_tokens not up to {n_ids} tokens, "
            f"{path}; save the model again"
        )
    is_classifier = content.get("architectures") == [CLASSIFIER]
    class_names = _read_class_names(path, content.get("id2label"))
    return ModelInfo(config, is_classifier, class_names, template, special_tokens)


def _read_config(path, content, keys):
    """The sizes under `keys`, in the order of SIZES, and the dropout in `content` -> GPT2Config."""
    sizes = {}
    for name, key in zip(SIZES, keys):
        limit = 1000 if name == "n_layer" else 10**6  # a damaged file may ask for anything
        sizes[name] = content.get(key)
        if type(sizes[name]) is not int or not 1 <= sizes[name] <= limit:
            raise CheckpointError(
                f"{key} is {sizes[name]!r}, not from 1 to {limit}, {path}; fetch or save it again"
            )
    dropout, attention_dropout = content.get("resid_pdrop", 0.1), content.get("attn_pdrop", 0.1)
    if attention_dropout == dropout != 0:
        attention_dropout = None  # one probability for all: `dropout` then changes both
    try:
        return GPT2Config(**sizes, dropout=dropout, attention_dropout=attention_dropout)
    except (ValueError, TypeError) as error:  # TypeError: a probability that is not a number
        raise CheckpointError(
            f"not the sizes and dropout of a GPT-2 ({error}), {path}; fetch or save it again"
        ) from error


def _read_class_names(path, id2label):
    """id2label -> list of names by id, or None if there is no id2label."""
    if id2label is None:
        return None
    names = []
    if isinstance(id2label, dict):
        names = [id2label.get(str(i)) for i in range(len(id2label))]
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"id2label does not name the classes 0, 1, ..., {path}; save the model again"
        )
    return names


def _are_new_tokens(names, n_ids):
    """Whether `names` is a list of new, different tokens, at most `n_ids`."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    different = {"", "<|endoftext|>", *names}
    return len(different) - 2 == len(names) <= n_ids

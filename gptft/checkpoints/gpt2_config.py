"""GPT-2's shape as it stands beside the weights: OpenAI's hparams.json, and config.json in Hugging Face's form.

config.json can describe many relatives of GPT-2 (other activations, other scalings of attention) whose weights have the
same names and shapes. Loaded here they would give wrong numbers without an error, so every key that changes what is
computed is compared with what this GPT-2 computes. (`reorder_and_upcast_attn` changes rounding only and may be set.)

Hugging Face has three dropout rates: `attn_pdrop` is our attention_dropout, `resid_pdrop` our dropout, and we have no
`embd_pdrop` of its own (it matters in training only). What transformers has no word for stands under the key "gptft".
Source: transformers' `configuration_gpt2.py`.
"""

from typing import NamedTuple

from gptft.config import GPT2Config
from gptft.errors import read_json

POOLINGS = ("last",)
from gptft.errors import CheckpointError

END_OF_TEXT = 50256  # in GPT-2's vocabulary
MAX_LAYERS = 1000  # a damaged file must not ask for a million

# What each key that changes the computation may say; the first value is what transformers takes when it says nothing.
COMPUTED_HERE = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
OPENAI_SIZES = ("n_vocab", "n_ctx", "n_embd", "n_layer", "n_head")
CLASSIFIER = "GPT2ForSequenceClassification"


class SavedConfig(NamedTuple):
    """What config.json says: the shape; of a classifier its pooling and its class names (None if it has none); of a
    language model the prompt wording it was tuned with (None if it was not) and the names of the ids after GPT-2's own.
    """

    shape: GPT2Config
    is_classifier: bool = False
    pooling: str = "last"
    class_names: list | None = None
    template: str | None = None
    special_tokens: list | tuple = ()


def read_openai_config(path):
    """hparams.json -> SavedConfig. Raises CheckpointError, naming the file, the key and its value."""
    return SavedConfig(_shape(path, read_json(path), OPENAI_SIZES))


def read_huggingface_config(path):
    """config.json -> SavedConfig. Raises CheckpointError, naming the file, the key and its value."""
    config = read_json(path)
    if config.get("model_type") != "gpt2":
        raise CheckpointError(
            f"model_type is {config.get('model_type')!r} instead of 'gpt2', {path}; only GPT-2 can be loaded"
        )
    shape = _shape(path, config, SIZES)
    for key, accepted in (COMPUTED_HERE | {"n_inner": (None, 4 * shape.n_embd)}).items():
        if config.get(key, accepted[0]) not in accepted:
            what = f"{key} is {config[key]!r} instead of {' or '.join(map(repr, accepted))}"
            raise CheckpointError(f"{what}, {path}; this GPT-2 would compute something else")
    extra = config.get("gptft", {})
    pooling = extra.get("pooling", "last") if isinstance(extra, dict) else None
    if pooling not in POOLINGS:
        raise CheckpointError(
            f"gptft.pooling is not one of {', '.join(POOLINGS)}, {path}; save the model again"
        )
    is_classifier = config.get("architectures") == [CLASSIFIER]
    template, special_tokens = extra.get("template"), extra.get("special_tokens", [])
    if not (template is None or isinstance(template, str)) or not _are_new_tokens(
        special_tokens, shape
    ):
        what = "gptft.template is no name, or gptft.special_tokens are no names for the ids after GPT-2's own"
        raise CheckpointError(f"{what}, {path}; save the model again")
    return SavedConfig(
        shape,
        is_classifier,
        pooling,
        _class_names(path, config.get("id2label")),
        template,
        special_tokens,
    )


def _are_new_tokens(names, shape):
    """Whether `names` is a list of different strings for which the vocabulary has ids after <|endoftext|>."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return False
    return (
        len({"<|endoftext|>", *names}) == 1 + len(names) <= max(1, shape.vocab_size - END_OF_TEXT)
    )


def huggingface_config(shape, pooling=None, class_names=None, template=None, special_tokens=()):
    """GPT2Config -> the dict that goes into config.json; the other arguments as in SavedConfig."""
    attention_dropout = (
        shape.dropout if shape.attention_dropout is None else shape.attention_dropout
    )
    end = (
        END_OF_TEXT if shape.vocab_size > END_OF_TEXT else None
    )  # a smaller vocabulary is not GPT-2's
    config = {
        "architectures": ["GPT2LMHeadModel" if class_names is None else CLASSIFIER],
        "model_type": "gpt2",
        **{name: getattr(shape, name) for name in SIZES},
        "embd_pdrop": shape.dropout,
        "attn_pdrop": attention_dropout,
        "resid_pdrop": shape.dropout,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        "initializer_range": 0.02,
        "use_cache": True,
    }
    config |= {key: accepted[0] for key, accepted in COMPUTED_HERE.items()} | {"n_inner": None}
    if class_names is not None:
        config["id2label"] = {str(i): name for i, name in enumerate(class_names)}
        config["label2id"] = {name: i for i, name in enumerate(class_names)}
    if pooling not in (None, "last"):
        config["gptft"] = {
            "pooling": pooling,
            "note": "transformers knows only 'last' and would give other logits",
        }
    if template or special_tokens:
        config["gptft"] = {"template": template, "special_tokens": list(special_tokens)}
    return config


def _shape(path, found, keys):
    """The sizes and dropout rates in the dict `found` -> GPT2Config; `keys` are the file's words for SIZES."""
    sizes = {name: found.get(key) for name, key in zip(SIZES, keys)}
    for key, (name, size) in zip(keys, sizes.items()):
        limit = MAX_LAYERS if name == "n_layer" else 10**6
        if type(size) is not int or not 1 <= size <= limit:
            raise CheckpointError(
                f"{key} is {size!r}, not from 1 to {limit}, {path}; fetch or save it again"
            )
    rates = {
        "dropout": found.get("resid_pdrop", 0.1),
        "attention_dropout": found.get("attn_pdrop", 0.1),
    }
    if not all(isinstance(rate, (int, float)) for rate in rates.values()):
        raise CheckpointError(
            f"resid_pdrop or attn_pdrop is not a number, {path}; fetch or save it again"
        )
    if rates["attention_dropout"] == rates["dropout"] > 0:
        del rates[
            "attention_dropout"
        ]  # one rate for all, so that changing `dropout` changes all; 0 stays 0
    try:
        return GPT2Config(**sizes, **rates)
    except ValueError as error:
        raise CheckpointError(f"{error}, {path}; fetch or save it again") from error


def _class_names(path, labels):
    """id2label -> list of names in the order of the ids; None if there are none but transformers' place holders."""
    if labels is None:
        return None
    ids = [str(i) for i in range(len(labels))] if isinstance(labels, dict) else []
    names = [labels.get(i) for i in ids]
    if not ids or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"id2label does not name the classes 0, 1, ..., {path}; save the model again"
        )
    return None if names == [f"LABEL_{i}" for i in ids] else names

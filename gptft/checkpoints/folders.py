"""Models on disk: `load_model(folder)` and `save_model(model, folder)`.

Three kinds of folder hold a model: OpenAI's checkpoint (hparams.json and TensorFlow files), a
Hugging Face model (config.json and safetensors, in one file or in shards), and a run of ours, which
is a Hugging Face model with a few more files. A folder with an adapter loads as its base model with
the adapter merged. `save_model` writes the Hugging Face form, so that transformers and all other
programs that read its files can load what was trained here.

Left out: pytorch_model.bin, which is a pickle and may run code; tokenizers other than GPT-2's.
"""

import dataclasses
import json
import os
from pathlib import Path

import torch

from gptft.checkpoints.adapters import apply_adapter, base_folder, save_adapter
from gptft.checkpoints.config_json import END_OF_TEXT, ModelInfo, config_json, read_model_info
from gptft.checkpoints.names import from_huggingface, from_openai, to_huggingface
from gptft.checkpoints.openai import read_tf_checkpoint
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier
from gptft.data.tokenizer import VOCAB_BPE, read_vocabulary
from gptft.errors import CheckpointError, read_json, write_atomic, write_json, write_text
from gptft.lora import adapters, merged_state
from gptft.model import GPT2

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe")
END = "<|endoftext|>"


def load_model(path, dtype=torch.float32, device="cpu", dropout=None):
    """Load the model in a folder -> GPT2, or GPT2Classifier if it has a head, in eval mode.

    dtype and device: of the weights, whatever the files hold. dropout: replaces the probability in
    the folder (also that of attention weights, unless the folder has a different one for them).
    Raises CheckpointError that names the file and what is wrong with it.
    """
    folder = Path(os.path.expanduser(path))
    base = base_folder(folder)
    info = read_model_info(base)
    _check_tokenizer(base)
    weights = _read_weights(base, info)
    if base != folder:
        weights = apply_adapter(folder, weights)
    wrong = [name for name, weight in weights.items() if not weight.float().isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"NaN or infinite weights in {', '.join(wrong)}, {folder}; fetch or train it again"
        )

    config = info.config if dropout is None else dataclasses.replace(info.config, dropout=dropout)
    score = weights.pop("score.weight", None)
    try:
        with torch.device("meta"):  # without memory for the weights, which are replaced below
            if score is None:
                model = GPT2(config)
            else:
                model = GPT2Classifier(config, len(score), class_names=info.class_names)
    except ValueError as error:  # one class, or another number of names than of classes
        raise CheckpointError(f"{error}, {folder / 'config.json'}; save the model again") from error
    gpt2 = getattr(model, "transformer", model)
    gpt2.template, gpt2.special_tokens = info.template, list(info.special_tokens)
    _set_weights(gpt2, weights, dtype, device)
    if score is not None:
        _set_weights(model.score, {"weight": score}, dtype, device)
    return model.eval()


def read_config(path):
    """The GPT2Config of a folder that `load_model` loads. Raises CheckpointError as it does."""
    return read_model_info(base_folder(Path(os.path.expanduser(path)))).config


def save_model(model, folder):
    """Write a GPT2 or GPT2Classifier into a folder in Hugging Face's form.

    The folder is made if need be. It gets config.json, model.safetensors (in the dtype of the
    weights) and, if the vocabulary is GPT-2's, generation_config.json and the tokenizer
    (vocab.json, merges.txt, tokenizer_config.json). transformers' GPT2LMHeadModel,
    GPT2ForSequenceClassification and AutoTokenizer load it with `from_pretrained`.
    A model with adapters is saved merged. The adapters alone go into the subfolder adapter/, in
    peft's form.
    Raises ValueError for any other module, such as a compiled model, and OSError if a file can't be
    written.
    """
    if isinstance(model, GPT2Classifier):
        names = model.class_names or [f"LABEL_{i}" for i in range(model.n_classes)]
        info = ModelInfo(model.config, is_classifier=True, class_names=names)
    elif isinstance(model, GPT2):
        info = ModelInfo(model.config, template=model.template, special_tokens=model.special_tokens)
    else:
        raise ValueError(f"not a GPT2 or GPT2Classifier but {type(model).__name__}; unwrap it")
    state = merged_state(model)
    weights = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    tensors = to_huggingface(weights)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config_json(info))
    if model.config.vocab_size > END_OF_TEXT:
        _write_tokenizer(folder, model.config.n_positions, info.special_tokens)
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END_OF_TEXT)
        write_json(folder / "generation_config.json", ids)
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    if adapters(model):
        save_adapter(model, folder / "adapter")


# ---------------------------------------------------------------- reading


def _read_weights(folder, info):
    """The weights in the folder of a model -> dict of our name -> tensor."""
    if not (folder / "config.json").exists():
        return from_openai(read_tf_checkpoint(folder), info.config, folder)
    if (folder / WEIGHTS).exists():
        tensors = read_safetensors(folder / WEIGHTS)
    elif (folder / SHARDS).exists():
        tensors = _read_shards(folder)
    elif list(folder.glob("pytorch_model*.bin")):
        what = "the weights are in pytorch_model.bin, which may run code when it is read"
        convert = "convert it with transformers: from_pretrained, then save_pretrained"
        raise CheckpointError(f"{what}, {folder}; {convert}")
    else:
        raise CheckpointError(f"no {WEIGHTS}, {folder}; fetch or save the model again")
    return from_huggingface(tensors, info.config, folder, info.is_classifier)


def _read_shards(folder):
    """Tensors in several files, with an index of tensor name -> file -> dict of name -> tensor."""
    index = read_json(folder / SHARDS).get("weight_map")
    files = index.values() if isinstance(index, dict) else [None]
    if not all(isinstance(file, str) and file == Path(file).name for file in files):
        raise CheckpointError(
            f"no weight_map of tensors to files of this folder, {folder / SHARDS}; fetch it again"
        )
    shards = {file: read_safetensors(folder / file) for file in set(files)}
    missing = [f"{name} in {file}" for name, file in index.items() if name not in shards[file]]
    if missing:
        raise CheckpointError(
            f"no {', '.join(missing[:10])}, {folder / SHARDS}; fetch the model again"
        )
    return {name: shards[file][name] for name, file in index.items()}


def _check_tokenizer(folder):
    """Raise CheckpointError if a folder has a tokenizer other than GPT-2's.

    With other merges or ids, a text would become other tokens than those that the model was trained
    on. Tokens may be added after <|endoftext|>.
    """
    for name in TOKENIZERS:
        path = folder / name
        if path.is_file() and not _is_gpt2s(path):
            raise CheckpointError(
                f"{name} is not GPT-2's tokenizer, {path}; use a model with GPT-2's tokens"
            )


def _is_gpt2s(path):
    """Whether a file has GPT-2's merges, or GPT-2's tokens under their ids."""
    merges = VOCAB_BPE.read_text(encoding="utf-8").splitlines()[1:]
    if path.suffix != ".json":
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if not line.startswith("#version")] == merges
    vocabulary = read_json(path)
    n_merges = len(merges)
    try:
        if path.name == "tokenizer.json":
            n_merges = len(vocabulary["model"]["merges"])
            vocabulary = vocabulary["model"]["vocab"]
        expected = read_vocabulary() | {END: END_OF_TEXT}
        return n_merges == len(merges) and expected.items() <= vocabulary.items()
    except (AttributeError, KeyError, TypeError):  # other content under these names
        return False


def _set_weights(module, weights, dtype, device):
    """Give a module copies of `weights`, dict of name -> tensor, which may be views of a file."""
    state = {}
    for name, weight in weights.items():
        state[name] = torch.empty(weight.shape, dtype=dtype, device=device).copy_(weight)
    module.load_state_dict(state, assign=True)


# ---------------------------------------------------------------- writing


def _write_tokenizer(folder, n_positions, special_tokens):
    """Write GPT-2's tokenizer as transformers has it; vocab.json equals OpenAI's encoder.json.

    <|endoftext|> begins and ends texts by default; that it also pads them must be written down.

    special_tokens: names of the ids after <|endoftext|>. transformers also finds them in texts.
    """
    vocabulary = read_vocabulary() | {END: END_OF_TEXT}
    write_text(folder / "vocab.json", json.dumps(vocabulary))
    write_atomic(folder / "merges.txt", lambda file: file.write(VOCAB_BPE.read_bytes()))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": n_positions,
        "pad_token": END,
    }
    if special_tokens:
        added = {}
        for id, name in enumerate([END, *special_tokens], END_OF_TEXT):
            added[str(id)] = {"content": name, "special": True}
        config["added_tokens_decoder"] = added
        config["additional_special_tokens"] = special_tokens
    write_json(folder / "tokenizer_config.json", config)

"""Models from and to disk: `load_model(folder)` and `save_model(model, folder)`.

Three kinds of folder hold a model: OpenAI's checkpoint (hparams.json and a TensorFlow bundle), a Hugging Face model
(config.json and safetensors, in one file or several), and a run of ours, which is a Hugging Face folder with a few
files more. One kind is written, Hugging Face's, so that what was trained here works in transformers and all that reads
its format. A fourth, an adapter as peft writes it, loads as its base with the adapter merged.

A model is built without memory for its weights (on torch's "meta" device); each tensor is then copied once, from the
mapped file to where it belongs, in its type and layout. So loading costs one copy of the weights, on the target device.
A weight that is not a finite number is refused here rather than met as a NaN loss later.

Left out: pytorch_model.bin, which is a pickle and may run code.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch

from gptft.checkpoints import gpt2_config
from gptft.checkpoints.gpt2_names import from_huggingface, from_openai, to_huggingface
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.checkpoints.tf_bundle import read_tf_checkpoint
from gptft.classifier import GPT2Classifier
from gptft.config import ALIASES
from gptft.data.tokenizer import VOCAB_BPE, byte_alphabet, read_merges
from gptft.errors import CheckpointError, write_atomic, write_text
from gptft.lora import CONFIG as ADAPTER
from gptft.lora import adapters, apply_adapter, merged_state, read_adapter_config, save_adapter
from gptft.model import GPT2

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"


def load_model(path, dtype=None, device="cpu", dropout=None):
    """A folder of OpenAI's, of Hugging Face's, of a run of ours or of an adapter -> GPT2, or GPT2Classifier if it holds a head.

    The model is in eval mode. dtype: of the weights; None is torch.float32, whatever the file holds. device: where
    they go. dropout: replaces the probability that the folder states (also that of attention weights, unless the folder
    states another for them).
    Raises CheckpointError that names the file and lists what is wrong with it.
    """
    folder, base = Path(path), _base_folder(Path(path))
    saved = _read_saved_config(base)
    if _is_openai(base):
        weights = from_openai(read_tf_checkpoint(base), saved.shape, base)
    else:
        weights = from_huggingface(
            _read_weights(base, saved), saved.shape, base, saved.is_classifier
        )
    if base != folder:
        weights = apply_adapter(folder, weights)
        saved = saved._replace(pooling=read_adapter_config(folder)["pooling"] or saved.pooling)
    _check_finite(weights, folder)

    config = saved.shape if dropout is None else dataclasses.replace(saved.shape, dropout=dropout)
    score = weights.pop("score.weight", None)
    with torch.device("meta"):
        if score is None:
            model = GPT2(config)
            model.template, model.special_tokens = saved.template, list(saved.special_tokens)
        else:
            try:
                model = GPT2Classifier(config, score.shape[0], saved.class_names)
            except ValueError as error:  # one class, or another number of names than of classes
                raise CheckpointError(
                    f"{error}, {folder / 'config.json'}; save the model again"
                ) from error
            weights = {f"transformer.{name}": weight for name, weight in weights.items()} | {
                "score.weight": score
            }
    dtype, device = dtype or torch.float32, torch.device(device)
    state = {name: _place(weight, dtype, device) for name, weight in weights.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def read_config(path):
    """The GPT2Config of a folder that `load_model` loads. Raises CheckpointError as it does."""
    return _read_saved_config(_base_folder(Path(path))).shape


def save_model(model, folder):
    """Write a GPT2 or GPT2Classifier into a folder, made if need be, in Hugging Face's form.

    config.json and model.safetensors, in the weights' own dtype; and, if the vocabulary is GPT-2's, the tokenizer
    (vocab.json, merges.txt, tokenizer_config.json) and generation_config.json. transformers' `GPT2LMHeadModel`,
    `GPT2ForSequenceClassification` and `AutoTokenizer` load the folder with `from_pretrained`; of pooling they know
    only "last". A model with adapters is written merged, and its adapters beside it (adapter_config.json and
    adapter_model.safetensors). Then beware: where peft is installed, transformers' `from_pretrained` finds both in the
    folder and adds the adapters once more; use peft on the base model, or move the two files elsewhere.
    Raises ValueError for a model in another wrapping (torch.compile), OSError when the disk refuses.
    """
    if not isinstance(model, (GPT2, GPT2Classifier)):
        raise ValueError(f"not a GPT2 or GPT2Classifier but {type(model).__name__}; unwrap it")
    if isinstance(model, GPT2Classifier):
        names, special_tokens = (
            model.class_names or [f"LABEL_{i}" for i in range(model.n_classes)],
            [],
        )
        config = gpt2_config.huggingface_config(model.config, "last", names)
        weights = merged_state(model.transformer) | {"score.weight": model.score.weight}
    else:
        special_tokens = model.special_tokens
        config = gpt2_config.huggingface_config(
            model.config, template=model.template, special_tokens=special_tokens
        )
        weights = merged_state(model)
    tensors = to_huggingface(weights, model.config)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    if config["eos_token_id"] is not None:
        _write_tokenizer(folder, model.config.n_positions, special_tokens)
        ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write_json(folder / "generation_config.json", ids)
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    if adapters(model):
        save_adapter(model, folder)


# ---------------------------------------------------------------- reading


def _base_folder(folder):
    """The folder itself; for a bare adapter that of its base: a path, or a size's name with Hugging Face."""
    if (
        not (folder / ADAPTER).exists() or (folder / "config.json").exists()
    ):  # a run holds the merged model, too
        return folder
    name = read_adapter_config(folder)["base"]
    size = ALIASES.get(name.removeprefix("openai-community/"))
    base = Path("checkpoints") / size if size and not os.path.isdir(name) else Path(name)
    if not os.path.isdir(base):  # unlike Path.is_dir, it answers no to a name that no file can have
        where = (
            f"fetch it with: python -m data_prep.gpt2 --size {size}"
            if size
            else "write its folder there as base_model_name_or_path"
        )
        raise CheckpointError(
            f"the adapter's base model is not here: {base}, {folder / ADAPTER}; {where}"
        )
    return base


def _is_openai(folder):
    return not (folder / "config.json").exists() and (folder / "hparams.json").exists()


def _read_saved_config(folder):
    if not folder.is_dir():
        raise CheckpointError(f"no such folder, {folder}; give the folder of a model")
    if _is_openai(folder):
        return gpt2_config.read_openai_config(folder / "hparams.json")
    if not (folder / "config.json").exists():
        what = "neither config.json (Hugging Face, or a run) nor hparams.json (OpenAI)"
        raise CheckpointError(f"{what}, {folder}; give the folder of a model")
    return gpt2_config.read_huggingface_config(folder / "config.json")


def _read_weights(folder, saved):
    """The tensors of a Hugging Face folder, from one file or from several with an index -> dict by their names."""
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS)
    if (folder / SHARDS).exists():
        return _read_shards(folder)
    if (folder / PICKLE).exists() or (folder / f"{PICKLE}.index.json").exists():
        kind = (
            "AutoModelForSequenceClassification" if saved.is_classifier else "AutoModelForCausalLM"
        )
        load = f"import transformers; transformers.{kind}.from_pretrained({str(folder)!r})"
        what = f"the weights are in {PICKLE}, which may run code when it is read"
        raise CheckpointError(
            f'{what}, {folder}; convert: python -c "{load}.save_pretrained({str(folder)!r})"'
        )
    raise CheckpointError(f"no {WEIGHTS}, {folder}; fetch or save the model again")


def _read_shards(folder):
    """The index maps each tensor's name to its file; every tensor must stand in that one and in no other."""
    index = gpt2_config.read_json(folder / SHARDS).get("weight_map")
    files = list(index.values()) if isinstance(index, dict) else [None]
    if not all(isinstance(file, str) and file == Path(file).name for file in files):
        raise CheckpointError(
            f"no weight_map of tensors to files of this folder, {folder / SHARDS}; fetch it again"
        )
    tensors, wrong = {}, []
    for file in sorted(set(files)):
        for name, tensor in read_safetensors(folder / file).items():
            if index.get(name) == file:
                tensors[name] = tensor
            else:
                wrong.append(f"{name} stands in {file}")
    wrong += [f"{name} is not in {file}" for name, file in index.items() if name not in tensors]
    if wrong:
        what = f"the shards differ from their index: {', '.join(wrong)}"
        raise CheckpointError(f"{what}, {folder / SHARDS}; fetch the model again")
    return tensors


def _check_finite(weights, folder):
    """Raise CheckpointError for weights that are NaN or infinite (also: too large for float32)."""
    wrong = []
    for name, weight in weights.items():
        values = weight.as_strided((weight.numel(),), (1,)).float().numpy()  # in the file's order
        with np.errstate(over="ignore"):
            total = np.dot(
                values, values
            )  # finite only if all are, and far faster than looking at each ...
        if (
            not np.isfinite(total) and not np.isfinite(values).all()
        ):  # ... which settles an overflow
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"NaN or infinite weights in {', '.join(wrong)}, {folder}; fetch or train it again"
        )


def _place(weight, dtype, device):
    """Copy a weight to where it belongs, contiguous.

    numpy asks the system for huge pages where torch does not: half the time for large tensors. The 64 bytes more let
    it begin where a cache line does, as torch has it.
    """
    if device.type != "cpu":
        return torch.empty(weight.shape, dtype=dtype, device=device).copy_(weight)
    size = weight.numel() * dtype.itemsize
    memory = torch.from_numpy(np.empty(size + 64, np.uint8))
    begin = -memory.data_ptr() % 64
    return memory[begin : begin + size].view(dtype).view(weight.shape).copy_(weight)


# ---------------------------------------------------------------- writing


def _write_json(path, content):
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_tokenizer(folder, n_positions, special_tokens):
    """GPT-2's vocabulary as transformers has it; vocab.json comes out as OpenAI's encoder.json, byte for byte.

    special_tokens: names of the ids after GPT-2's own, which transformers finds in any text that spells them.
    """
    character = {octet: c for c, octet in byte_alphabet().items()}
    vocabulary = {
        "".join(character[octet] for octet in token): rank for token, rank in read_merges().items()
    }
    end = "<|endoftext|>"
    vocabulary[end] = len(vocabulary)
    write_text(folder / "vocab.json", json.dumps(vocabulary))
    write_atomic(folder / "merges.txt", lambda file: file.write(VOCAB_BPE.read_bytes()))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": n_positions,
        "add_prefix_space": False,
    }
    config |= {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}
    if special_tokens:
        properties = {
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        names = enumerate([end, *special_tokens], vocabulary[end])
        config["added_tokens_decoder"] = {
            str(id): {"content": name, **properties} for id, name in names
        }
        config["additional_special_tokens"] = special_tokens
    _write_json(folder / "tokenizer_config.json", config)

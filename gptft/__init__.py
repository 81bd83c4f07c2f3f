"""gptft: GPT-2 from scratch, loaded, fine-tuned and measured. See README.md for the tour.

The public names load on first use, so that `import gptft` and every `--help` stay fast (torch takes
a second).
"""

import importlib

_HOMES = {
    "CheckpointError": "errors",
    "DataError": "errors",
    "UserError": "errors",
    "GPT2Config": "config",
    "Tokenizer": "data.tokenizer",
    "GPT2": "model",
    "GPT2Classifier": "classifier",
    "read_tf_checkpoint": "checkpoints.openai",
    "read_safetensors": "checkpoints.safetensors",
    "write_safetensors": "checkpoints.safetensors",
    "load_model": "checkpoints.folders",
    "save_model": "checkpoints.folders",
    "IMDbDataset": "data.classification",
    "Example": "data.instructions",
    "InstructionDataset": "data.instructions",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'gptft' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gptft.{_HOMES[name]}"), name)


def __dir__():
    return __all__

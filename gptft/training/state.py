"""The state of a run on disk, last/state.pt: everything that --resume needs to end with the same
bits.

A new state is written beside the old one and takes its name by one rename, so there is always one
whole state. It is read with `weights_only=True`: loading a state never runs code.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import torch

from gptft import distributed
from gptft.errors import CheckpointError, UserError, write_atomic


@dataclass
class Position:
    """Where a run is."""

    step: int = 0  # optimizer steps made
    tokens: int = 0  # read in them, without padding
    seconds: float = 0.0  # that they took
    best: dict = field(default_factory=dict)  # metrics of the best evaluation
    best_step: int = 0
    evaluations_since_best: int = 0


def save(trainer):
    """Write the state of a Trainer, of all processes together.

    Raises OSError if the disk is full or read-only; the old state is then still there.
    """
    generators = distributed.gather([rng_state(trainer.device.name)])  # one for each process
    if distributed.is_main():
        state = {
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "position": asdict(trainer.position),
            "generators": generators,
            "texts": trainer.run.texts,
            # The log must reach the disk before the state that points into it.
            "log_size": trainer.run.log_size(),
        }
        trainer.run.state_file.parent.mkdir(exist_ok=True)
        write_atomic(trainer.run.state_file, lambda file: _write(state, file))
    distributed.barrier()


def _write(state, file):
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch hides disk errors and Ctrl-C behind a RuntimeError.
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from error
        raise


def load(trainer):
    """Bring a Trainer to its saved state.

    Raises CheckpointError if the file is damaged, or is of another model or version, and UserError
    if the run was trained on other texts.
    """
    path = trainer.run.state_file
    hint = "start again with --overwrite"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise CheckpointError(f"can't read the saved state ({reason}), {path}; {hint}") from error
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
        trainer.position = Position(**state["position"])
        if distributed.rank() < len(state["generators"]):
            set_rng_state(trainer.device.name, state["generators"][distributed.rank()])
        log_size, texts = state["log_size"], Counter(state["texts"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the saved state is of another model or version ({type(error).__name__}), "
            f"{path}; {hint}"
        ) from error
    if state["texts"] != trainer.run.texts:
        n_new = (Counter(trainer.run.texts) - texts).total()
        raise UserError(
            f"the texts have changed ({n_new:,} of {len(trainer.run.texts):,} are new), "
            f"{trainer.run.folder}; resume with the texts of the run"
        )
    if distributed.is_main():
        trainer.run.cut_log(log_size)
        print(f"resuming at step {trainer.position.step:,}")
    distributed.barrier()


def rng_state(device):
    """The random generators that training on a device draws from -> list of uint8 tensors."""
    return [torch.get_rng_state(), *(gpu.get_rng_state() for gpu in _gpu(device))]


def set_rng_state(device, states):
    """Set the generators from a list that `rng_state` returned, perhaps on another device."""
    torch.set_rng_state(states[0])
    for gpu, state in zip(_gpu(device), states[1:]):
        gpu.set_rng_state(state)


def _gpu(device):
    return {"cuda": [torch.cuda], "mps": [torch.mps]}.get(device, [])

"""Where and how to compute: the device, the precision of matrix products, and torch.compile.

`auto` takes the fastest choice that is safe on this machine and says why, so that a log always
shows what was used. Weights, gradients and optimizer stay in float32; only matrix products run in
the lower precision (autocast). fp16 has a narrow range, so its loss is scaled up before the
backward pass (GradScaler).

Source: torch.amp documentation; Micikevicius et al. 2018 (mixed precision, loss scaling).
"""

import contextlib
import importlib.util
import shutil
from dataclasses import dataclass

import torch

from gptft import distributed
from gptft.errors import UserError
from gptft.speed import HAS_AMX, processor_flags

COMPILE_FROM = 2000  # steps; compiling takes one to two minutes, also on an H100


@dataclass(frozen=True)
class Device:
    """A choice of device ("cpu", "cuda" or "mps"), precision ("fp32", "bf16" or "fp16") and
    compile.

    `reason` is a line that says what was chosen and why.
    """

    name: str
    precision: str
    compile: bool
    reason: str

    @property
    def dtype(self):
        """The precision as a torch.dtype."""
        names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return names[self.precision]

    def autocast(self):
        """A context in which matrix products run in the chosen precision."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.name, self.dtype)

    def scaler(self):
        """Loss scaling for fp16; disabled otherwise."""
        return torch.amp.GradScaler(self.name, enabled=self.precision == "fp16")


@contextlib.contextmanager
def evaluating(model, device):
    """Evaluation mode, no gradients, the device's precision. The model's mode is restored after
    it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), device.autocast():
            yield
    finally:
        model.train(was_training)


def choose_device(device="auto", precision="auto", compile="auto", n_steps=0):
    """The flags of that name -> Device. n_steps: optimizer steps to come.

    Raises UserError if this machine lacks the device or the precision.
    """
    name, why_device = _choose_name(device)
    precision, why_precision = _choose_precision(name, precision)
    compile, why_compile = _choose_compile(name, compile, n_steps)
    compiled = "compiled" if compile else "not compiled"
    reason = f"{name} ({why_device}), {precision} ({why_precision}), {compiled} ({why_compile})"
    return Device(name, precision, compile, reason)


def _choose_name(name):
    available = {
        "cuda": torch.cuda.is_available(),
        # MPS can't all-reduce gradients.
        "mps": torch.backends.mps.is_available() and distributed.world_size() == 1,
        "cpu": True,
    }
    if name == "auto":
        name = next(name for name in available if available[name])
        why = f"{torch.get_num_threads()} threads, no GPU" if name == "cpu" else "found"
        return name, why
    if not available[name]:
        what = "this machine, or this build of torch, has none"
        raise UserError(f"--device {name}: {what}; use --device auto")
    return name, "as asked"


def _choose_precision(name, precision):
    if precision == "fp16" and name == "mps":
        raise UserError("--precision fp16: loss scaling does not work on mps; use fp32 or bf16")
    if precision != "auto":
        return precision, "as asked"
    if name == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "native on this GPU"
        return "fp16", "this GPU lacks native bf16"
    if name == "cpu" and _cpu_has_bf16():
        return "bf16", "native on this CPU"
    return "fp32", f"no native bf16 on this {name}"


def _cpu_has_bf16():
    return HAS_AMX or "avx512_bf16" in processor_flags()


def _choose_compile(name, compile, n_steps):
    if compile == "off":
        return False, "as asked"
    if compile == "auto" and name != "cuda":
        return False, f"it does not pay on {name}"
    if compile == "auto" and n_steps < COMPILE_FROM:
        return False, f"{n_steps} steps don't earn it back"
    compiler = any(map(shutil.which, ("c++", "g++", "cc", "gcc", "clang", "cl")))
    if not compiler:
        return False, "this machine lacks a C compiler"
    if name == "cuda" and not importlib.util.find_spec("triton"):
        return False, "this build of torch lacks Triton"
    return True, "as asked" if compile == "on" else "pays over many steps"

"""Where and how to compute: the device, the precision of matrix products, and whether to compile.

`auto` takes the fastest choice that is known to be right on this machine and gives its reason, so a log always says
what was used. Weights, their gradients and the optimizer stay in float32; only matrix products run in the lower
precision (autocast). fp16 has a narrow range, so its loss is scaled up before the backward pass (GradScaler).

Source: torch.amp documentation; Micikevicius et al. 2018 (mixed precision, loss scaling).
"""

import contextlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from gptft import distributed
from gptft.errors import UserError


@dataclass(frozen=True)
class Hardware:
    """`device` as torch names it, `precision` (fp32, bf16 or fp16), `compile`, and `why`: one line for people."""

    device: str
    precision: str
    compile: bool
    why: str

    @property
    def type(self):
        return self.device.split(":")[0]

    @property
    def dtype(self):
        """`precision` as torch names it."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            self.precision
        ]

    def autocast(self):
        """A context in which matrix products run in `precision`."""
        return (
            contextlib.nullcontext()
            if self.precision == "fp32"
            else torch.autocast(self.type, self.dtype)
        )

    def scaler(self):
        """Loss scaling: real for fp16, a no-op otherwise."""
        return torch.amp.GradScaler(self.type, enabled=self.precision == "fp16")

    def put(self, batch):
        """A NamedTuple of tensors (and plain numbers) -> the same on the device; copies to CUDA don't make the CPU wait."""

        def move(value):
            if not isinstance(value, torch.Tensor) or self.type == "cpu":
                return value
            return (
                value.pin_memory().to(self.device, non_blocking=True)
                if self.type == "cuda"
                else value.to(self.device)
            )

        return type(batch)(*map(move, batch))

    def rng_state(self):
        """The states of the random generators that training draws from -> list: the CPU's, and a GPU's."""
        return [torch.get_rng_state()] + [gpu.get_rng_state() for gpu in self._gpu()]

    def set_rng_state(self, states):
        """Go on from `states`, a result of `rng_state()`. A GPU's that was saved on none goes on from the seed."""
        torch.set_rng_state(states[0])
        for gpu, state in zip(self._gpu(), states[1:]):
            gpu.set_rng_state(state)

    def _gpu(self):
        return {"cuda": [torch.cuda], "mps": [torch.mps]}.get(self.type, [])


@contextlib.contextmanager
def evaluating(model, hardware):
    """Eval mode, no gradients, the run's precision; afterwards the model is back in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), hardware.autocast():
            yield
    finally:
        model.train(was_training)


def choose_hardware(device="auto", precision="auto", compile="auto", n_steps=None):
    """The three flags -> Hardware. Raises UserError for a device or precision that this machine lacks.

    `n_steps` is how many optimizer steps are to come: compiling takes a minute, which a short run never earns back. Where compiling
    is asked for and impossible, the run goes on without, and `why` says so.
    """
    device, device_why = _choose_device(device)
    precision, precision_why = _choose_precision(device, precision)
    compile, compile_why = _choose_compile(device, compile, n_steps)
    words = "compiled" if compile else "not compiled"
    why = f"{device} ({device_why}), {precision} ({precision_why}), {words} ({compile_why})"
    return Hardware(device, precision, compile, why)


def _choose_device(name):
    mps = (
        torch.backends.mps.is_available() and distributed.world_size() == 1
    )  # it can't exchange gradients
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    if name != "auto":
        if not has[name]:
            raise UserError(
                f"--device {name}: this machine, or this build of torch, has none; use --device auto"
            )
        return name, "as asked"
    for name in ("cuda", "mps"):
        if has[name]:
            return name, "found"
    return "cpu", f"{torch.get_num_threads()} threads, no GPU"


def _choose_precision(device, name):
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(
            including_emulation=False
        )  # True for emulation, too, unless told otherwise
        best = ("bf16", "native on this GPU") if native else ("fp16", "this GPU lacks native bf16")
    elif device == "cpu":
        best = (
            ("bf16", "native on this CPU")
            if _cpu_has_bf16()
            else ("fp32", "this CPU lacks native bf16")
        )
    elif name == "fp16":
        raise UserError("--precision fp16: loss scaling does not work on mps; use fp32 or bf16")
    else:
        best = ("fp32", "the safe choice on mps")
    return best if name == "auto" else (name, "as asked")


def _cpu_has_bf16():
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _choose_compile(device, name, n_steps):
    if device == "cuda":
        able = importlib.util.find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
        able, missing = (
            bool(able) and torch.cuda.get_device_capability() >= (7, 0),
            "Triton, a C compiler or a newer GPU",
        )
    else:
        able, missing = any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), "a C++ compiler"
    if name == "off":
        return False, "as asked"
    if name == "auto" and device != "cuda":
        return False, "it does not pay on this device"
    if name == "auto" and n_steps is not None and n_steps < 300:
        return False, f"too few steps, {n_steps}, to earn it back"
    if not able:
        return False, f"this machine lacks {missing}"
    if failure := _compile_failure(device):
        return False, f"torch.compile fails here: {failure}"
    return True, "as asked" if name == "on" else "pays over many steps"


def _compile_failure(device):
    """Compile something small -> None, or the reason why it fails: a compiler can be there and lack half of what it needs."""
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # torch's compiler raises many kinds
        return f"{type(error).__name__}, {str(error).strip().split(chr(10))[0][:100]}"
    finally:
        torch._dynamo.reset()

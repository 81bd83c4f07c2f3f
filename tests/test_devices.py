"""What --device, --precision and --compile choose, on machines that this one is not."""

import importlib.util
import shutil

import pytest
import torch

from gptft.errors import UserError
from gptft.training import devices
from gptft.training.devices import choose_device


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends to be a machine with this GPU ("cuda", "mps") and these tools."""

    def pretend(gpu=None, native_bf16=True, compiler="cc", triton=True):
        def is_bf16_supported(including_emulation=True):
            return including_emulation or native_bf16

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu == "cuda")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: gpu == "mps")
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: native_bf16)
        monkeypatch.setattr(shutil, "which", lambda name: compiler)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: triton)

    return pretend


CUDA = dict(gpu="cuda")
ASKED = "cpu (as asked), fp16 (as asked), not compiled (as asked)"
CPU = "cpu (2 threads, no GPU), bf16 (native on this CPU), "


@pytest.mark.parametrize(
    "has, flags, reason",
    [
        (CUDA, {}, "cuda (found), bf16 (native on this GPU), compiled (pays over many steps)"),
        # is_bf16_supported() is also true on cards that emulate bf16, many times slower.
        (
            dict(gpu="cuda", native_bf16=False, triton=None),
            {},
            "cuda (found), fp16 (this GPU lacks native bf16), "
            "not compiled (this build of torch lacks Triton)",
        ),
        (
            CUDA,
            dict(n_steps=20),
            "cuda (found), bf16 (native on this GPU), not compiled (20 steps don't earn it back)",
        ),
        (CUDA, dict(device="cpu", precision="fp16", compile="off"), ASKED),
        (
            dict(gpu="mps"),
            {},
            "mps (found), fp32 (no native bf16 on this mps), not compiled (it does not pay on mps)",
        ),
        (
            dict(native_bf16=False),
            dict(),
            "cpu (2 threads, no GPU), fp32 (no native bf16 on this cpu), "
            "not compiled (it does not pay on cpu)",
        ),
        ({}, dict(compile="on"), CPU + "compiled (as asked)"),
        (
            dict(compiler=None),
            dict(compile="on"),
            CPU + "not compiled (this machine lacks a C compiler)",
        ),
    ],
)
def test_choice(machine, has, flags, reason):
    machine(**has)
    device = choose_device(**dict(n_steps=5000) | flags)
    assert device.reason == reason
    name, precision, compile = reason.split("), ")
    assert name.startswith(device.name)
    assert precision.startswith(device.precision)
    assert compile.startswith("compiled" if device.compile else "not compiled")


@pytest.mark.parametrize(
    "gpu, flags, says",
    [
        (None, dict(device="cuda"), "--device cuda.*use --device auto"),
        ("mps", dict(precision="fp16"), "--precision fp16.*use fp32 or bf16"),
    ],
)
def test_what_the_machine_lacks_is_refused(machine, gpu, flags, says):
    machine(gpu)
    with pytest.raises(UserError, match=says):
        choose_device(**flags)

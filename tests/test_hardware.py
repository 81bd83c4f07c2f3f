"""What `auto` chooses, on machines that this one is not."""

import shutil

import pytest
import torch

from gptft import hardware
from gptft.errors import UserError
from gptft.hardware import choose_hardware


@pytest.fixture
def cuda(monkeypatch):
    """Pretend to have a GPU; returns what it claims, to be changed."""
    claims = {"native": True, "capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    supported = lambda including_emulation=True: including_emulation or claims["native"]  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: claims["capability"])
    monkeypatch.setattr(hardware, "_compile_failure", lambda device: None)
    return claims


def test_gpu_with_native_bf16(cuda):
    chosen = choose_hardware(n_steps=5000)
    assert (chosen.device, chosen.precision, chosen.compile) == ("cuda", "bf16", True)


def test_gpu_that_only_emulates_bf16_gets_fp16(cuda):
    # is_bf16_supported() says yes on such cards, and bf16 is then many times slower.
    cuda["native"] = False
    assert choose_hardware().precision == "fp16"


def test_gpu_that_triton_does_not_serve_is_not_compiled_for(cuda):
    cuda["capability"] = (6, 1)
    assert not choose_hardware(n_steps=5000).compile


def test_short_runs_are_not_compiled(cuda):
    chosen = choose_hardware(n_steps=20)
    assert not chosen.compile and "20" in chosen.why


def test_cpu_follows_its_flags(monkeypatch):
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda has=has: has)
        chosen = choose_hardware("cpu")
        assert (chosen.precision, chosen.compile) == (
            precision,
            False,
        ) and chosen.device in chosen.why


def test_what_is_asked_for_is_done_or_refused(monkeypatch):
    chosen = choose_hardware("cpu", "fp16", "off")
    assert (chosen.precision, chosen.compile) == ("fp16", False) and "as asked" in chosen.why
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda.*--device auto"):
        choose_hardware("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="fp16.*fp32 or bf16"):
        choose_hardware("mps", "fp16")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    chosen = choose_hardware("cpu", compile="on")  # no compiler: goes on without, and says so
    assert not chosen.compile and "lacks a C++ compiler" in chosen.why


def test_compiler_that_is_there_but_fails_is_done_without(monkeypatch):
    # Half an installation (no headers, no linker) otherwise ends the run at its first step, with pages of traceback.
    def broken(function):
        raise RuntimeError("CppCompileError: C++ compile error\nCommand: ...")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", broken)
    chosen = choose_hardware("cpu", "fp32", "on")
    assert (
        not chosen.compile
        and "torch.compile fails here: RuntimeError, CppCompileError: C++ compile error)"
        in chosen.why
    )

"""The memory that this process holds: how much it was at most, and how to keep what is freed for what comes next.

Source: the manual pages getrusage(2) and mallopt(3).
"""

import contextlib
import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # mallopt's names for its parameters


def peak_memory(device="cpu"):
    """The most memory that this process has held so far, in bytes; None where nobody says.

    device: "cuda" for the memory of the GPU, any other for the process in all.
    """
    if device == "cuda":
        import torch  # here, because the numpy baseline shares this file and never needs it

        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def keep_freed_memory():
    """Under Linux: let this process keep the memory that arrays leave, instead of giving it back to the system.

    Each step allocates what the one before has freed. Given back, every page of it is mapped and zeroed by the system
    again, which takes a tenth of the time of a large model's step, or of the whole baseline.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library that is not glibc
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(MMAP_MAX, 0)  # no block of its own for a large array, which would go back whole
            mallopt(TRIM_THRESHOLD, 2**31 - 1)
            mallopt(TOP_PAD, 2**26)  # ask for 64 MiB at a time
            mallopt(ARENA_MAX, 1)  # all threads share what is kept

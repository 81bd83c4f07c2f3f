"""One process or many: rank, world size and sums over processes. With one process every function is a no-op.

`torchrun --nproc-per-node N script.py` starts N copies of a script and tells each its place through environment
variables; PyTorch's own process group does the talking (NCCL between GPUs, gloo between CPU processes).

Source: torch.distributed documentation; the variables are torchrun's.
"""

import os

import torch
import torch.distributed as dist


def setup(device_type):
    """Join the process group when started by torchrun. `device_type` is "cuda" or "cpu"."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")


def cleanup():
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    """True in the one process that prints and writes files."""
    return rank() == 0


def sum_over_processes(tensor):
    """Add a tensor elementwise over all processes, in place; returns it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(items):
    """This process's list of plain objects -> the lists of all processes, one after the other, in each of them."""
    if world_size() == 1:
        return items
    lists = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]

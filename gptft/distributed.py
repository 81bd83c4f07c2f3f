"""One process or many: rank, world size and sums over processes.

`torchrun --nproc-per-node N script.py` starts N copies of a script and tells each its rank through
environment variables. PyTorch's process group connects them: NCCL for tensors on a GPU, gloo for
tensors of the CPU. All processes do the same in the same order, each with its share of the rows.
Rank 0 alone prints and writes. With one process, every function here does nothing.

Source: torch.distributed documentation.
"""

import contextlib
import os
import sys

import torch
import torch.distributed as dist

from gptft.errors import UserError


def setup(device):
    """Join the process group if torchrun started this process. device: the flag --device.

    From here on, only rank 0 prints. Raises UserError if there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    use_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if use_cuda:
        n_processes, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if n_processes > n_gpus:
            hint = "lower --nproc-per-node, or use --device cpu"
            raise UserError(f"{n_processes} processes but {n_gpus} GPUs; {hint}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo")
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def cleanup():
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank():
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def rows_per_process(options):
    """The most examples that a process takes at once in training. options: TrainOptions."""
    return options.micro_batch_size or -(-options.batch_size // world_size())


def sum_over_processes(tensor):
    """Add up a tensor over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest(number):
    """The largest of an integer that every process has."""
    tensor = torch.tensor(number)
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def gather(items):
    """Concatenate a list of plain objects that every process has, by rank -> the same list in
    all."""
    if world_size() == 1:
        return items
    lists = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]


def barrier():
    """Wait until all processes are here."""
    sum_over_processes(torch.zeros(1))


@contextlib.contextmanager
def main_first():
    """A context that rank 0 runs before the others do. If it fails there, the others fail, too."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()

"""One process or many: rank, world size and sums over processes. With one process every function is a no-op.

`torchrun --nproc-per-node N script.py` starts N copies of a script and tells each its place through environment
variables; PyTorch's own process group does the talking: NCCL for tensors on a GPU, gloo for those of the CPU, so that to
exchange a count no GPU has to wait. All copies do the same in the same order, each with its share of the rows; the
first, rank 0, alone prints and writes. If one dies, the others fail in their next exchange or are ended by torchrun,
and the run continues from its last saved state.

Source: torch.distributed documentation; the variables are torchrun's.
"""

import contextlib
import os
import sys

import torch
import torch.distributed as dist

from gptft.errors import UserError


def setup(device):
    """Join the process group when started by torchrun; from here on, rank 0 alone prints. `device`: as --device names it.

    Raises UserError if there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        n_processes, n_devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if n_processes > n_devices:
            raise UserError(
                f"{n_processes} processes but {n_devices} GPUs; lower --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def rows_at_once(options):
    """The most examples that one process takes in a pass of training. `options`: TrainOptions."""
    return options.micro_batch_size or -(-options.batch_size // world_size())


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


def largest(number):
    """The largest `number`, an integer, of all processes, in each of them."""
    tensor = torch.tensor(number)
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def gather(items):
    """This process's list of plain objects -> the lists of all processes, one after the other, in each of them."""
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
    """Rank 0 runs the block while the others wait, then they do: what it writes, they find. If it fails, so do they."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()

"""How fast: what a token costs, what a device can do at most, and contenders that take turns.

A time says little by itself. Beside it belong the work that was done in it, the rate at which nothing but that work can be
done here, and the time of another program, taken in the same minute. So contenders live in processes of their own, where
no memory or setting of one touches another, and run one after the other, again and again.

Source: Chowdhery et al. 2022 (PaLM), appendix B, for the flops; Williams et al. 2009 for the roofline.
"""

import contextlib
import importlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time

from gptft.errors import UserError


def n_weights(config, head=True):
    """How many weights a token meets: all but the positions; without the head, also without its matrix."""
    C = config.n_embd
    return config.n_layer * (12 * C * C + 13 * C) + 2 * C + head * config.vocab_size * C


def flops_per_token(config, T, head=True):
    """What training on a token costs in a row of T tokens."""
    return 6 * n_weights(config, head) + 12 * config.n_layer * config.n_embd * T


def timed(run):
    """Call run() -> what it returned if that is a tuple, else (); seconds; the most bytes its process has held."""
    import torch  # in the process of the contender, not in the one that asks

    begun = time.perf_counter()
    result = run()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    seconds, held = time.perf_counter() - begun, torch.cuda.max_memory_allocated() if cuda else None
    with contextlib.suppress(ImportError):  # Windows has no such module
        resource = importlib.import_module("resource")
        kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
        held = held or 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return result if isinstance(result, tuple) else (), seconds, held


def whole_command(*words):
    """A command from start to end; "OUT" stands for a folder that is thrown away."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                *(f"{folder}/out" if word == "OUT" else word for word in words),
            ]
            subprocess.run(command, check=True, capture_output=True)

    return run


def roofline(device, dtype, n, n_bytes):
    """-> flop/s of a product of two (n, n) matrices, bytes/s of reading n_bytes: each the best of 12 turns."""
    import torch

    a, numbers = (
        torch.ones(n, n, device=device, dtype=dtype),
        torch.ones(n_bytes // 4, device=device),
    )
    product, reading = (
        min(timed(run)[1] for _ in range(12)) for run in (lambda: a @ a, numbers.sum)
    )
    return 2 * n**3 / product, n_bytes / reading


def _serve(pipe, build, args):
    """The life of a contender's process: build, then run whenever it is asked to."""
    try:
        run = build(*args)
        while pipe.recv():
            pipe.send(timed(run))
    except Exception as error:
        pipe.send(
            error
            if isinstance(error, UserError)
            else RuntimeError(f"{type(error).__name__}: {error}")
        )


def take_turns(contenders, n_turns):
    """Run contenders, dict of name -> (build, *args), in turn -> dict of name -> n_turns answers of `timed`.

    build(*args) is called in the contender's process, untimed, and returns the function that a turn calls.
    """
    context, pipes, turns = (
        multiprocessing.get_context("spawn"),
        {},
        {name: [] for name in contenders},
    )
    for name, (build, *args) in contenders.items():
        pipes[name], end = context.Pipe()
        context.Process(target=_serve, args=(end, build, args), daemon=True).start()
        end.close()  # so that a process that dies is noticed
    for name in [*contenders] * n_turns:
        pipes[name].send(True)
        turns[name].append(pipes[name].recv())
        if isinstance(turns[name][-1], Exception):
            raise turns[name][-1]
    for pipe in pipes.values():
        pipe.send(False)
    return turns


def race(title, contenders, work, limit, repeat, warm_up=True):
    """Let contenders take turns, ours first -> a dict for each, printed; the first of `repeat` + 1 turns is not counted.

    work: dict of unit -> amount that a turn does. limit: how much of the first unit the device allows a second, or None.
    A contender may know better and return its own seconds, the tokens it has read and the flops they cost: then work is
    what else there is to divide by the time, and limit is in flop/s.
    """
    print(f"\n{title}", flush=True)
    rows = []
    for name, turns in take_turns(contenders, repeat + warm_up).items():
        counted = turns[warm_up:]
        times = [result[0] if result else seconds for result, seconds, _ in counted]
        median, (result, _, held) = statistics.median(times), counted[-1]
        amounts = ({"tokens/s": result[1]} if result else {}) | work
        allowed = limit * result[1] / result[2] if result else limit
        rates = {unit: amount / median for unit, amount in amounts.items()}
        share = next(iter(rates.values())) / allowed if allowed else None
        rows.append(
            {
                "what": title,
                "who": name,
                "seconds": median,
                "shortest": min(times),
                "longest": max(times),
                "ratio": median / rows[0]["seconds"] if rows else 1.0,
                "peak_bytes": held,
                "rates": rates,
                "utilisation": share,
            }
        )
        words = [f"{rate:,.4g} {unit}" for unit, rate in rates.items()] + (
            [f"{share:.1%} of the limit"] if share else []
        )
        print(
            f"  {name:18} {median:8.4g} s  {min(times):.4g}..{max(times):.4g}  {rows[-1]['ratio']:.2f} x  "
            f"{(held or 0) / 1e9:.2f} GB  {', '.join(words)}",
            flush=True,
        )
    return rows

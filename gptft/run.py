"""The run folder: what a training run leaves behind, written so that a crash at any moment loses nothing.

    config.json, model.safetensors   the best weights, as `save_model` writes them
    run.json                         the exact command, all options, versions, seed, git commit
    metrics.jsonl                    one object a logged step
    last/state.pt                    all that --resume needs: one file, replaced by one rename
    last/previous.pt                 the one before, should that be damaged
    predictions.jsonl, results.json  what the finished run says
    examples.jsonl, report.html      the same for the eye: a few rows with their texts, and a page

A file under its own name is always whole (see files.py), but for metrics.jsonl, which grows line by line and is cut back
when a run is resumed. What `last/` holds is read with `weights_only=True`: loading a run never executes code.

Left out: the lock on Windows, which lacks the call; elsewhere a second run in a folder in use is refused.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
from pathlib import Path

from gptft.checkpoints.gpt2_config import read_json
from gptft.errors import CheckpointError, UserError
from gptft.files import write_atomic, write_text

FINISHED = "results.json"
LOCK = ".lock"
WRITES = (
    "metrics.jsonl",
    "predictions.jsonl",
    "examples.jsonl",
    FINISHED,
    "config.json",
    "model.safetensors",
    "model.npz",
    "adapter_config.json",
    "adapter_model.safetensors",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "tokenizer_config.json",
    "report.html",
)
# Options that may change when a run is resumed: they say where and when, or, at most, change how sums are rounded.
FREE_TO_CHANGE = {
    "resume",
    "resume_anyway",
    "overwrite",
    "out",
    "save_every",
    "log_every",
    "device",
    "compile",
    "micro_batch_size",
    "checkpoint_activations",
    "skip_nonfinite",
}
# Those that may with --resume-anyway: they change the result, but the saved position keeps its meaning.
MAY_CHANGE = {
    "epochs",
    "max_steps",
    "learning_rate",
    "warmup",
    "dropout",
    "eval_every",
    "patience",
    "precision",
}


class Run:
    """An open run folder. Made by `open_run`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.state_file = self.folder / "last" / "state.pt"
        self.previous_file = self.folder / "last" / "previous.pt"

    def resumable(self):
        """Whether a state was saved."""
        return self.state_file.exists() or self.previous_file.exists()

    def log(self, record):
        """Append one JSON object to metrics.jsonl; JSON has no word for a float that is not finite, which becomes null."""
        record = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in record.items()
        }
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save_state(self, state):
        """Replace last/state.pt by `state`: a dict of tensors, numbers, strings, lists and dicts of these.

        The one before stays beside it. Raises OSError when the disk refuses; the old state then stands as it was.
        """
        import torch  # here, because the numpy baseline shares this file and never needs it

        def write(file):
            hashing = _Hashing(file)
            try:
                torch.save(state, hashing)
            except RuntimeError as error:  # torch's words for a write that failed
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.write(hashing.digest.digest())

        with open(self.folder / "metrics.jsonl", "ab") as log:
            os.fsync(log.fileno())  # the position must not reach the disk before what it points to
            state = state | {"metrics_bytes": log.tell()}
        self.state_file.parent.mkdir(exist_ok=True)
        if self.state_file.exists():
            self.previous_file.unlink(missing_ok=True)
            try:
                os.link(
                    self.state_file, self.previous_file
                )  # a second name: the first is never missing
            except OSError:  # a file system without; `load_state` finds the state under either name
                os.replace(self.state_file, self.previous_file)
        write_atomic(self.state_file, write)

    def load_state(self):
        """The dict of the last `save_state`; once it is taken over, `cut_log` belongs to it.

        A damaged or missing state.pt is replaced by the one before, and a line says so.
        Raises CheckpointError if no whole one is left.
        """
        try:
            state = _read_state(self.state_file)
        except CheckpointError as error:
            if not self.previous_file.exists():
                raise
            state = _read_state(self.previous_file)
            os.replace(self.previous_file, self.state_file)
            print(f"{str(error).split('; ')[0]}; going on from the one saved before it", flush=True)
        return state

    def cut_log(self, state):
        """Cut metrics.jsonl back to where it stood when this state was saved."""
        log = self.folder / "metrics.jsonl"
        if log.exists() and log.stat().st_size > state["metrics_bytes"]:
            os.truncate(log, state["metrics_bytes"])

    def write_predictions(self, rows, examples=()):
        """Write predictions.jsonl, one dict a line, and examples.jsonl: the few rows a report shows, with their texts."""
        for name, content in (("predictions.jsonl", rows), ("examples.jsonl", examples)):
            write_text(self.folder / name, "".join(json.dumps(row) + "\n" for row in content))

    def read_results(self):
        """The dict of results.json; {} if the run has not finished. Raises CheckpointError if it is damaged."""
        path = self.folder / FINISHED
        return read_json(path) if path.exists() else {}

    def write_results(self, results):
        """Write results.json, which marks the run as finished."""
        write_text(self.folder / FINISHED, json.dumps(results, indent=2) + "\n")


def open_run(folder, command, options, resume=False, overwrite=False):
    """Create or reopen a run folder, and lock it while this process lives -> Run.

    Args: `command` (a list of words, as typed) and `options` (a dict) go into run.json.
    Raises UserError if the folder holds results or a resumable state and neither `resume` nor `overwrite` is given, if
    there is nothing to resume or it was another run (other data, model or options), if it holds files of something
    else, or if another process has it open. `overwrite` deletes only what a run writes.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; choose one")
    if options.get("resume_anyway") and not resume:
        raise UserError("--resume-anyway goes with --resume; add it")
    run = Run(folder)
    if run.folder.exists():
        _check_folder(run, resume, overwrite)
    elif resume:
        raise UserError(f"nothing to resume, {run.folder} does not exist; leave out --resume")
    run.folder.mkdir(parents=True, exist_ok=True)
    _lock(run)
    if resume:
        _check_same(run, command, options)
    else:
        for path in [run.folder / name for name in WRITES] + [run.state_file, run.previous_file]:
            path.unlink(missing_ok=True)
        record = {"command": shlex.join(command), "options": options, "seed": options.get("seed")}
        _write_record(run, record | _surroundings())
    return run


def open_training_run(script, argv, args, options, settled):
    """`open_run` for a script that trains, by the first of its processes; the others get a Run of the same folder.

    script: its path, and argv the words after it. args: all it was asked, options: TrainOptions filled in, settled: a
    dict of what else decides the result.
    """
    from gptft import distributed  # here, like torch

    command, recorded = (
        ["python", script, *argv],
        vars(args) | dataclasses.asdict(options) | settled,
    )
    with distributed.main_first():
        if distributed.is_main():
            return open_run(options.out, command, recorded, options.resume, options.overwrite)
        return Run(options.out)


def _write_record(run, record):
    write_text(run.folder / "run.json", json.dumps(record, indent=2) + "\n")


class _Hashing:
    """A file that is written through, with the hash of what was written.

    torch keeps checksums in its files, but never looks at them, and damage at the right place makes it read memory that
    nobody has filled. So a state ends with a hash of all that comes before.
    """

    def __init__(self, file):
        self.file, self.digest = file, hashlib.blake2b()

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()


def _read_state(path):
    """A state file -> dict. Raises CheckpointError if it is missing or damaged, OSError if it may be good but not read."""
    import torch

    digest = hashlib.blake2b()
    try:
        with open(path, "rb") as file:
            left = os.path.getsize(path) - digest.digest_size
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
            if file.read() != digest.digest():
                raise ValueError("bad checksum")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        state["metrics_bytes"] += 0  # a dict with that number
        return state
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # torch's reader raises many kinds for a damaged file
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise CheckpointError(
            f"the saved state can't be read ({reason}), {path}; start again with --overwrite"
        ) from error


def _check_folder(run, resume, overwrite):
    if not run.folder.is_dir():
        raise UserError(f"--out is a file, {run.folder}; choose another folder")
    if {path.name for path in run.folder.iterdir()} - {LOCK} and not (
        run.folder / "run.json"
    ).exists():
        raise UserError(
            f"--out holds files that are not a run's, {run.folder}; choose another folder"
        )
    if resume and not run.resumable():
        raise UserError(
            f"nothing to resume, no saved state in {run.folder}; start again with --overwrite"
        )
    found = (
        "results"
        if (run.folder / FINISHED).exists()
        else "a resumable state"
        if run.resumable()
        else None
    )
    if found and not (resume or overwrite):
        raise UserError(
            f"--out already holds {found}, {run.folder}; use --resume, --overwrite or another --out"
        )


def _lock(run):
    """Keep other processes out of the folder. The system lifts the lock when this process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    run.lock = open(run.folder / LOCK, "w", encoding="utf-8")
    try:
        fcntl.lockf(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise UserError(
            f"another process trains into --out, {run.folder}; wait for it, or choose another --out"
        ) from error
    except OSError:  # a file system without locks
        pass


def _check_same(run, command, options):
    """Raise UserError if an option that changes the result is another one now; --resume-anyway notes what it lets pass."""
    try:
        record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        saved = dict(record["options"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"damaged run.json, {run.folder}; start again with --overwrite"
        ) from error
    changed = [
        name for name in options if name not in FREE_TO_CHANGE and saved.get(name) != options[name]
    ]
    if not changed:
        return
    said = ", ".join(f"{name} was {saved.get(name)}, is {options[name]}" for name in changed)
    may = MAY_CHANGE.issuperset(changed)
    if not (may and options.get("resume_anyway")):
        way_out = ", or add --resume-anyway" if may else ""
        raise UserError(
            f"can't resume with other options ({said}), {run.folder}; use the command in its run.json{way_out}"
        )
    print(f"resumed anyway: {said}", flush=True)
    record["options"] = saved | {name: options[name] for name in changed}
    record["resumed"] = [*record.get("resumed", []), f"{shlex.join(command)} ({said})"]
    _write_record(run, record)


def _surroundings():
    """Versions, time and git commit (None outside a git checkout)."""
    versions = {
        package: importlib.metadata.version(package) for package in ("torch", "numpy", "tiktoken")
    }
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
        commit = git.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        commit = None
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "versions": {"python": platform.python_version()} | versions,
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "platform": platform.platform(),
        "git_commit": commit,
        "started": started,
    }

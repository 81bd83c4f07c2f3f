"""The run folder: the files that a training run leaves behind.

    config.json, model.safetensors   the best weights, as `save_model` writes them
    run.json                         the exact command, all options, versions, seed, git commit
    metrics.jsonl                    one object for each logged step
    last/state.pt                    everything that --resume needs
    predictions.jsonl, results.json  results of the finished run
    examples.jsonl, report.html      a few rows with their texts, and a page to look at

A file under its own name is always whole: it is written under another name and renamed. The one
exception is metrics.jsonl, which grows line by line and is cut back when a run is resumed. A second
process that trains into the same folder is refused.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from pathlib import Path

from gptft.errors import UserError, read_json, write_json, write_text

try:
    import fcntl
except ImportError:  # Windows, which has no such lock
    fcntl = None

RESULTS = "results.json"
LOCK = ".lock"
WRITTEN = (  # what --overwrite deletes, besides last/state.pt
    "metrics.jsonl",
    "predictions.jsonl",
    "examples.jsonl",
    RESULTS,
    "report.html",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.npz",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)
# Options that a resumed run may change: they don't affect the result, beyond rounding.
FREE_TO_CHANGE = {
    "data",  # a file may move: state.py compares the texts themselves
    "resume",
    "overwrite",
    "out",
    "save_every",
    "log_every",
    "device",
    "compile",
    "micro_batch_size",
    "checkpoint_activations",
}


class Run:
    """An open run folder; `open_run` makes it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.state_file = self.folder / "last" / "state.pt"
        self.log_file = self.folder / "metrics.jsonl"
        self.texts = []  # a checksum of each text, for state.py

    def log(self, record):
        """Append a dict to metrics.jsonl. A float that is not finite becomes null."""
        finite = json.loads(json.dumps(record), parse_constant=lambda name: None)
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def log_size(self):
        """The size of metrics.jsonl in bytes, once all of it has reached the disk."""
        with open(self.log_file, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_log(self, size):
        """Cut metrics.jsonl back to a size in bytes."""
        if self.log_file.exists() and self.log_file.stat().st_size > size:
            os.truncate(self.log_file, size)

    def write_predictions(self, rows, examples=()):
        """Write predictions.jsonl and examples.jsonl, one dict a line."""
        for name, content in (("predictions.jsonl", rows), ("examples.jsonl", examples)):
            lines = [json.dumps(row) + "\n" for row in content]
            write_text(self.folder / name, "".join(lines))

    def write_results(self, results):
        """Write results.json, which marks the run as finished."""
        write_json(self.folder / RESULTS, results)


def open_run(folder, command, options, resume=False, overwrite=False):
    """Create or reopen a run folder, and lock it while this process lives -> Run.

    Args:
        command: list of words, as typed. options: dict of all settings. Both go into run.json.
        resume: continue from the saved state; `options` must be those of the run.
        overwrite: delete the files of the run that is there.

    Raises UserError if the folder holds results or a state and neither flag is given, if there is
    nothing to resume, if the folder holds other files, or if another process uses it.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; choose one")
    run = Run(folder)
    _check_folder(run, resume, overwrite)
    run.folder.mkdir(parents=True, exist_ok=True)
    _lock(run)
    if resume:
        _check_options(run, options)
        return run
    for name in WRITTEN:
        (run.folder / name).unlink(missing_ok=True)
    run.state_file.unlink(missing_ok=True)
    record = {"command": shlex.join(command), "options": options, "seed": options.get("seed")}
    write_json(run.folder / "run.json", record | _environment())
    return run


def _check_folder(run, resume, overwrite):
    folder = run.folder
    if resume and not run.state_file.exists():
        raise UserError(f"no saved state to resume, {folder}; leave out --resume")
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()}
    if names - {LOCK} and "run.json" not in names:
        raise UserError(f"--out holds files that are not a run's, {folder}; choose another folder")
    has_results = RESULTS in names
    if (has_results or run.state_file.exists()) and not (resume or overwrite):
        found = "results" if has_results else "a resumable state"
        raise UserError(
            f"--out already holds {found}, {folder}; use --resume, --overwrite or another --out"
        )


def _lock(run):
    """Lock the folder. The system lifts the lock when this process ends, however it ends."""
    if fcntl is None:
        return
    lock = os.open(run.folder / LOCK, os.O_RDWR | os.O_CREAT)  # open until the process ends
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise UserError(
            f"another process trains into --out, {run.folder}; wait for it, or choose another --out"
        ) from error
    except OSError:  # a file system without locks
        pass


def _check_options(run, options):
    """Raise UserError if an option that changes the result differs from that of the run."""
    saved = read_json(run.folder / "run.json").get("options")
    saved = saved if isinstance(saved, dict) else {}
    changed = [
        f"{name} was {saved.get(name)}, is {value}"
        for name, value in options.items()
        if name not in FREE_TO_CHANGE and saved.get(name) != value
    ]
    if changed:
        raise UserError(
            f"can't resume with other options ({', '.join(changed)}), "
            f"{run.folder}; use the command in its run.json, or another --out"
        )


def _environment():
    """Versions, platform, and the git commit (None outside a checkout)."""
    packages = ("torch", "numpy", "tiktoken")
    versions = {package: importlib.metadata.version(package) for package in packages}
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        folder = Path(__file__).parent
        git = subprocess.run(describe, cwd=folder, capture_output=True, text=True, timeout=10)
        commit = git.stdout.strip() or None
    return {
        "versions": {"python": platform.python_version()} | versions,
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "platform": platform.platform(),
        "git_commit": commit,
    }

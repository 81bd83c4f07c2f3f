"""The run folder: what a training run leaves behind, written so that a crash at any moment loses nothing.

    config.json, model.safetensors   the best weights, as `save_model` writes them
    run.json                         the exact command, all options, versions, seed, git commit
    metrics.jsonl                    one object a logged step
    last/state.pt                    all that --resume needs: one file, replaced by one rename
    predictions.jsonl, results.json  what the finished run says

A file under its own name is always whole (see files.py), but for metrics.jsonl, which grows line by line. What
`last/state.pt` holds is read with `weights_only=True`: loading a run never executes code.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from pathlib import Path

from gptft.errors import CheckpointError, UserError
from gptft.files import write_atomic, write_text

FINISHED = "results.json"
WRITES = ("metrics.jsonl", "predictions.jsonl", FINISHED, "config.json", "model.safetensors", "model.npz",
          "vocab.json", "merges.txt", "generation_config.json", "tokenizer_config.json", "report.html")  # fmt: skip
# Options that may change when a run is resumed: they say where and when, or, at most, change how sums are rounded.
FREE_TO_CHANGE = {"resume", "overwrite", "out", "save_every", "log_every", "device", "compile", "micro_batch_size",
                  "checkpoint_activations"}  # fmt: skip


class Run:
    """An open run folder. Made by `open_run`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.state_file = self.folder / "last" / "state.pt"

    def log(self, record):
        """Append one JSON object to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")

    def save_state(self, state):
        """Replace last/state.pt by `state`: a dict of tensors, numbers, strings, lists and dicts of these."""
        import torch  # here, because the numpy baseline shares this file and never needs it

        log = self.folder / "metrics.jsonl"
        state = state | {"metrics_bytes": log.stat().st_size if log.exists() else 0}
        self.state_file.parent.mkdir(exist_ok=True)
        write_atomic(self.state_file, lambda f: torch.save(state, f))

    def load_state(self):
        """The dict of the last `save_state`; metrics.jsonl is cut back to where it stood then.

        Raises CheckpointError if the file is damaged.
        """
        import torch

        open(self.state_file, "rb").close()  # if it can't be opened it may still be good: an OSError of its own
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            n_bytes = state["metrics_bytes"]
        except MemoryError:
            raise
        except Exception as error:  # torch's reader raises many kinds for a damaged file
            reason = str(error).split("\n")[0][:100] or type(error).__name__
            raise CheckpointError(f"the saved state can't be read ({reason}), {self.state_file}; start again "
                                  "with --overwrite") from error  # fmt: skip
        log = self.folder / "metrics.jsonl"
        if log.exists() and log.stat().st_size > n_bytes:
            os.truncate(log, n_bytes)
        return state

    def write_predictions(self, rows):
        """Write predictions.jsonl, one dict a line."""
        write_text(self.folder / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def read_results(self):
        """The dict of results.json; {} if the run has not finished."""
        path = self.folder / FINISHED
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_results(self, results):
        """Write results.json, which marks the run as finished."""
        write_text(self.folder / FINISHED, json.dumps(results, indent=2) + "\n")


def open_run(folder, command, options, resume=False, overwrite=False):
    """Create or reopen a run folder -> Run.

    Args: `command` (a list of words, as typed) and `options` (a dict) go into run.json.
    Raises UserError if the folder holds results or a resumable state and neither `resume` nor `overwrite` is given, if
    there is nothing to resume or it was another run (other data, model or options), or if it holds files of something
    else. `overwrite` deletes only what a run writes.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; choose one")
    run = Run(folder)
    if run.folder.exists():
        _check_folder(run, resume, overwrite)
    elif resume:
        raise UserError(f"nothing to resume, {run.folder} does not exist; leave out --resume")
    run.folder.mkdir(parents=True, exist_ok=True)
    if resume:
        _check_same(run, options)
    else:
        for path in [run.folder / name for name in WRITES] + [run.state_file]:
            path.unlink(missing_ok=True)
        record = {"command": shlex.join(command), "options": options, "seed": options.get("seed")}
        write_text(run.folder / "run.json", json.dumps(record | _surroundings(), indent=2) + "\n")
    return run


def _check_folder(run, resume, overwrite):
    if not run.folder.is_dir():
        raise UserError(f"--out is a file, {run.folder}; choose another folder")
    if any(run.folder.iterdir()) and not (run.folder / "run.json").exists():
        raise UserError(f"--out holds files that are not a run's, {run.folder}; choose another folder")
    if resume and not run.state_file.exists():
        raise UserError(f"nothing to resume, no saved state in {run.folder}; start again with --overwrite")
    if not (resume or overwrite):
        for found, what in ((FINISHED, "results"), ("last/state.pt", "a resumable state")):
            if (run.folder / found).exists():
                raise UserError(f"--out already holds {what}, {run.folder}; use --resume, --overwrite or another --out")


def _check_same(run, options):
    """Raise UserError if an option that changes the result is another one now."""
    try:
        saved = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"damaged run.json, {run.folder}; start again with --overwrite") from error
    changed = [name for name in options if name not in FREE_TO_CHANGE and saved.get(name) != options[name]]
    if changed:
        said = ", ".join(f"{name} was {saved.get(name)}, is {options[name]}" for name in changed)
        raise UserError(f"can't resume with other options ({said}), {run.folder}; use the command in its run.json")


def _surroundings():
    """Versions, time and git commit (None outside a git checkout)."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "tiktoken"):
        versions[package] = importlib.metadata.version(package)
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=Path(__file__).parent,
                             capture_output=True, text=True, timeout=10)  # fmt: skip
        commit = git.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        commit = None
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"versions": versions, "platform": platform.platform(), "git_commit": commit, "started": started}

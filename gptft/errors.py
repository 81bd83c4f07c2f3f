"""Errors that a user can cause, and small files that are written whole or not at all.

A mistake that a user can mend (a bad path, a bad file, a bad flag, a full disk) is raised as a
`UserError`. Its message reads `WHAT is wrong, WHERE; WHAT TO DO`. Every command is a function
`main(argv)` under `@command`, which prints such an error as one line on standard error and returns
exit code 2. Any other exception is a bug and keeps its traceback.
"""

import argparse
import functools
import json
import os
import sys
import time
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend. The message is one line."""


class DataError(UserError):
    """A data file that is missing, malformed or inconsistent. The message names file and line."""


class CheckpointError(UserError):
    """A model file that is damaged, incomplete or of another model.

    Damaged model files cause no other exception.
    """


class OutOfMemory(Exception):
    """No memory was left. The message says what to try. One process of several may raise it
    alone."""


class Interrupted(Exception):
    """A signal stopped a run, after a resumable state was saved. `code` is the exit code."""

    def __init__(self, message, signal_number):
        super().__init__(message)
        self.code = 128 + signal_number


# ---------------------------------------------------------------- commands


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, without the usage, and whose flags can be neither
    abbreviated nor repeated."""

    def __init__(self, **kwargs):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=formatter, **kwargs)

    def parse_args(self, argv):
        """As argparse does, but a flag that is given twice is an error."""
        flags = [word.split("=")[0] for word in argv if word.startswith("--")]
        for flag in flags:
            if flags.count(flag) > 1:
                self.error(f"{flag} is given twice")
        return super().parse_args(argv)

    def error(self, message):
        """Called by argparse."""
        raise UserError(f"{message}; see {self.prog} --help")


def command(main):
    """Wrap `main(argv)` so that it returns an exit code: 0, 2 for an error, 128 + n for signal n.

    Without arguments it takes those of the command line.
    """

    @functools.wraps(main)
    def wrapped(argv=None):
        if hasattr(sys.stdout, "reconfigure"):
            # A Windows code page lacks most characters.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        try:
            main(sys.argv[1:] if argv is None else list(argv))
            return 0
        except (UserError, OutOfMemory) as error:
            if isinstance(error, UserError) and not is_first_process():
                time.sleep(30)  # torchrun ends all processes when one ends: let the first report
                return 2
            return _fail(str(error))
        except Interrupted as stop:
            if is_first_process():
                print(f"\n{stop}", file=sys.stderr)
            return stop.code
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # nobody reads our output any more, as in `command | head`
            sys.stderr.close()
            return 141
        except OSError as error:
            where = f", {error.filename}" if error.filename else ""
            what = error.strerror or error
            return _fail(f"{what}{where}; check the path, its permissions and the free disk space")
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                return _fail("out of memory; use a smaller batch, or close other programs")
            if not _lost_a_process(error):
                raise
            if not is_first_process():
                return 2
            return _fail("another process of this run has ended; go on with --resume")

    return wrapped


def is_first_process():
    """Whether this process is the only one, or the first of those that torchrun started."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def is_out_of_memory(error):
    """Whether an exception means that no memory was left.

    torch has a class for a full GPU, a RuntimeError, but only a message for a full CPU.
    """
    messages = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(m in str(error) for m in messages)


def _lost_a_process(error):
    """Whether an exchange between processes failed, to judge by the errors of gloo and NCCL."""
    return type(error).__name__ == "DistBackendError" or "gloo" in str(error)


def _fail(message):
    """Print an error line -> exit code 2."""
    message = " ".join(message.split())
    if len(message) > 2000:  # it may quote a file
        message = f"{message[:1000]} ... {message[-1000:]}"
    printable = "".join(c if c.isprintable() else "?" for c in message)
    print(f"error: {printable}", file=sys.stderr)
    return 2


# ---------------------------------------------------------------- files


def write_atomic(path, write):
    """Call `write(file)` on a temporary binary file beside `path`, then rename it to `path`.

    A crash, a full disk or a second reader never meets half a file under the final name. If writing
    fails, the temporary file is removed and the old content stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:  # a full disk does not say where
            error.filename = str(path)
        raise


def write_text(path, text):
    """Write a str as UTF-8 with `write_atomic`. Half a character becomes its JSON escape."""
    data = text.encode("utf-8", "backslashreplace")
    write_atomic(path, lambda file: file.write(data))


def write_json(path, content):
    """Write a dict as indented JSON with `write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """Read a JSON object -> dict. Raises CheckpointError, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"can't read {path.name} ({error.strerror}), {path}; check the folder"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error}), {path}; fetch or save it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"not a JSON object, {path}; fetch or save it again")
    return content

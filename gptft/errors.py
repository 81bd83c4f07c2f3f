"""The errors a user can cause, and the one place that prints them.

A mistake a person can mend (a bad path, a bad file, a bad flag, a full disk) is raised as a `UserError` whose text
says what is wrong, where, and what to do. Every command is a function `main(argv)` under `@command`, which turns such
an error into one line on standard error and exit code 2. Anything else is a bug of ours and keeps its traceback.
"""

import argparse
import functools
import os
import signal
import sys
import time


class UserError(Exception):
    """Something the user can mend. The message reads `WHAT is wrong, WHERE; WHAT TO DO`, on one line."""


class DataError(UserError):
    """A data file that is missing, malformed or inconsistent; the message names the file and the line."""


class CheckpointError(UserError):
    """A model file that is damaged, incomplete or of another model: the only exception damaged model files cause."""


class OutOfMemory(Exception):
    """No memory was left; the message says what to try. Unlike a UserError it can strike one process of many."""


class Interrupted(Exception):
    """A run stopped by a signal after it saved a resumable state; `code` is 128 + `signum`, the signal's number.

    `message` is for people.
    """

    def __init__(self, message, signum=signal.SIGINT):
        super().__init__(message)
        self.code = 128 + int(signum)


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are `UserError`s (one line, no usage dump) and whose options can't be abbreviated."""

    def __init__(self, **kwargs):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def error(self, message):
        """What argparse calls with the `message` about a mistake."""
        raise UserError(f"{message}; see {self.prog} --help")


def command(main):
    """Wrap `main(argv)` so that it returns an exit code: 0, 2 for a user's error, 128 + n for signal n.

    Called without arguments it takes those of the command line.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        if sys.stdout is None:  # closed by whoever started us
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        if hasattr(sys.stdout, "reconfigure"):
            # A Windows code page lacks most characters, and a file's name may be no text at all.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        try:
            main(sys.argv[1:] if argv is None else list(argv))
            return 0
        except (UserError, OutOfMemory) as error:
            if isinstance(error, UserError) and not is_first():
                time.sleep(30)  # torchrun ends all when one ends: the first must have had its say
                return 2
            return _fail(str(error))
        except Interrupted as stop:
            if is_first():
                print(f"\n{stop}", file=sys.stderr)
            return stop.code
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except (
            BrokenPipeError
        ):  # the reader of our output went away (`| head`): not an error, and nobody to tell
            sys.stderr.close()
            return 141
        except OSError as error:
            where = f", {error.filename}" if error.filename else ""
            return _fail(
                f"{error.strerror or error}{where}; check the path, its permissions and the free disk space"
            )
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                return _fail(
                    "out of memory; ask for less at once (see --help), or close other programs"
                )
            if not _lost_a_process(error):
                raise
            return (
                _fail("another process of this run has ended; continue with --resume")
                if is_first()
                else 2
            )

    return guarded


def is_first():
    """Whether this process is the first of those that torchrun started, or alone: it reports what all of them meet."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def _lost_a_process(error):
    """Whether an exchange between processes failed, by the names that gloo's and NCCL's errors have."""
    return type(error).__name__ == "DistBackendError" or "gloo" in str(error)


def is_out_of_memory(error):
    """Whether an exception, `error`, says that memory is full.

    torch has a class of its own for a full GPU (a RuntimeError) and only words for a full machine.
    """
    return (
        isinstance(error, MemoryError)
        or "out of memory" in str(error)
        or "allocate memory" in str(error)
        or "not enough memory" in str(error)
    )


def _fail(message):
    message = " ".join(message.split())
    if (
        len(message) > 2000
    ):  # it may quote a file, which should neither flood nor steer the terminal
        message = f"{message[:1000]} ... {message[-1000:]}"
    print("error: " + "".join(c if c.isprintable() else "?" for c in message), file=sys.stderr)
    return 2

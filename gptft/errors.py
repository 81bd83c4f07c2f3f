"""The errors a user can cause, and the one place that prints them.

A mistake a person can mend (a bad path, a bad file, a bad flag, a full disk) is raised as a `UserError` whose text
says what is wrong, where, and what to do. Every command is a function `main(argv)` under `@command`, which turns such
an error into one line on standard error and exit code 2. Anything else is a bug of ours and keeps its traceback.
"""

import argparse
import functools
import signal
import sys


class UserError(Exception):
    """Something the user can mend. The message reads `WHAT is wrong, WHERE; WHAT TO DO`, on one line."""


class DataError(UserError):
    """A data file that is missing, malformed or inconsistent; the message names the file and the line."""


class CheckpointError(UserError):
    """A model file that is damaged, incomplete or of another model: the only exception damaged model files cause."""


class Interrupted(Exception):
    """A run stopped by a signal after it saved a resumable state; `code` is 128 + the signal's number."""

    def __init__(self, message, signum=signal.SIGINT):
        super().__init__(message)
        self.code = 128 + int(signum)


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are `UserError`s (one line, no usage dump) and whose options can't be abbreviated."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def command(main):
    """Wrap `main(argv)` so that it returns an exit code: 0, 2 for a user's error, 128 + n for signal n.

    Called without arguments it takes those of the command line.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        try:
            main(sys.argv[1:] if argv is None else list(argv))
            return 0
        except UserError as error:
            return _fail(str(error))
        except Interrupted as stop:
            print(f"\n{stop}", file=sys.stderr)
            return stop.code
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output went away (`| head`): not an error, and nobody to tell
            sys.stderr.close()
            return 141
        except OSError as error:
            where = f", {error.filename}" if error.filename else ""
            return _fail(f"{error.strerror or error}{where}; check the path, its permissions and the free disk space")
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            return _fail("out of memory; try a smaller --micro-batch-size or --max-length, or --checkpoint-activations")

    return guarded


def _is_out_of_memory(error):
    """torch has a class of its own for a full GPU (a RuntimeError) and only words for a full machine."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error) or \
        "not enough memory" in str(error)


def _fail(message):
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2

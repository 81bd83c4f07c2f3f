"""Files that are whole or not there: written under a temporary name, flushed to disk, then renamed.

A rename within a folder happens at once or not at all, so a crash, a full disk or a second reader never meets half a
file under the final name; the previous content stands until the new one is complete.
"""

import os
from pathlib import Path


def write_atomic(path, write):
    """Call `write(file)` on a temporary binary file beside `path`, then rename it to `path`; on failure, remove it."""
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
        if isinstance(error, OSError) and not error.filename:  # a full disk says nothing of where
            error.filename = str(path)
        raise


def write_text(path, text):
    """Write a str as UTF-8, with the line ends it has. Half a character, which has no UTF-8, becomes the escape it has in JSON."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Write a str as UTF-8, with the line ends it has."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))

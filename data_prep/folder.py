"""A prepared data folder: whole or not there, and never in the place of something else.

The files are written into a folder beside the final one, which a rename then puts into place. The folder's README opens
with the title of the command that wrote it, which is how that command knows its own work again, and ends with checksums.
"""

import hashlib
import json
import os
import shutil

from gptft.errors import UserError


def check_replaceable(out, title, overwrite):
    """Raise UserError if `out` is in the way: anything but an absent or empty folder, or, to overwrite, one of ours."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    note = out / "README"
    ours = note.is_file() and note.read_text(encoding="utf-8", errors="replace").startswith(title)
    if not ours:
        raise UserError(
            f"--out exists and was not written by this command, {out}; choose another folder"
        )
    if not overwrite:
        raise UserError(
            f"--out is prepared already, {out}; use it, or give --overwrite to make it again"
        )


def write_folder(out, files, readme):
    """Write `files`, {name: dicts, one JSON object a line}, and the text `readme`, with the files' checksums, to the folder `out`.

    Raises UserError if it can't be written; nothing half written is left.
    """
    new, old = (out.parent / f".{out.name}.{kind}-{os.getpid()}" for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        sums = {name: _write_jsonl(new / name, rows) for name, rows in files.items()}
        checksums = "\n".join(f"{sha256}  {name}" for name, sha256 in sums.items())
        (new / "README").write_text(
            f"{readme}\n## sha256\n```\n{checksums}\n```\n", encoding="utf-8"
        )
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"can't write ({error.strerror}), {out}; check its permissions and the free space"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_jsonl(path, rows):
    """Write one JSON value a line -> sha256 of the file."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
            digest.update(line)
            file.write(line)
    return digest.hexdigest()

"""Write a folder of prepared data so that it is either complete or absent.

The files are written to a temporary folder beside the final one, which is renamed at the end. A
folder that exists is never replaced.
"""

import json
import shutil

from data_prep.download import file_digest
from gptft.errors import UserError


def check_absent(out):
    """Raise UserError if the folder `out` exists."""
    if out.exists():
        raise UserError(f"--out exists already, {out}; use it, delete it, or choose another folder")


def write_folder(out, files, readme):
    """Write `files` and a README to the folder `out`.

    files: {name: iterable of values, each of which becomes a line of JSON}. readme: the start of
    the README; the checksums of the files follow.
    """
    new = out.parent / f".{out.name}.new"
    shutil.rmtree(new, ignore_errors=True)  # left by a process that was killed
    try:
        new.mkdir(parents=True)
        checksums = ""
        for name, values in files.items():
            with open(new / name, "w", encoding="utf-8", newline="\n") as file:
                for value in values:
                    file.write(json.dumps(value, ensure_ascii=False) + "\n")
            checksums += f"{file_digest(new / name)}  {name}\n"
        text = f"{readme}\n## sha256\n```\n{checksums}```\n"
        (new / "README").write_text(text, encoding="utf-8")
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)

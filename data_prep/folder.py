"""Write a folder of prepared data so that it is either complete or absent.

The files are written to a temporary folder beside the final one, which is renamed at the end. The
README starts with the title of the command that wrote it, so that a command overwrites only its own
output.
"""

import json
import shutil

from data_prep.download import file_digest
from gptft.errors import UserError


def check_writable(out, title, overwrite):
    """Raise UserError if the folder `out` has content that must not be replaced.

    overwrite: whether the output of an earlier run may be replaced. title: the first line of the
    README that this command writes, which identifies its output.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    readme = out / "README"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    if not text.startswith(title):
        raise UserError(f"--out was not written by this command, {out}; choose another folder")
    if not overwrite:
        raise UserError(f"--out exists already, {out}; use it, or replace it with --overwrite")


def write_folder(out, files, readme):
    """Write `files` and a README to the folder `out`.

    files: {name: iterable of values, each of which becomes a line of JSON}. readme: the start of
    the README; the checksums of the files follow.
    """
    new = out.parent / f".{out.name}.new"
    old = out.parent / f".{out.name}.old"
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
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)

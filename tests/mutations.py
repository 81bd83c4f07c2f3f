"""A fuzzer of checkpoint files: bytes are flipped, cut, copied, and numbers made huge.

    python tests/mutations.py [COUNT]    20,000 files by default; the tests run a small part of it

Each damaged file must be read right or be refused with CheckpointError: no other exception, and no
allocation above 4 times the file plus 16 MB. An index whose checksums are wrong must, if it is
read, give exactly the original variables. So must a data file whose checksums were verified.
"""

import shutil
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle_writer import seal, write_bundle

from gptft.checkpoints.openai import read_tf_checkpoint
from gptft.checkpoints.safetensors import read_safetensors
from gptft.errors import CheckpointError

FIXTURES = Path(__file__).parent / "fixtures"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
HUGE = [b"\xff" * 9 + b"\x01", b"\x80" * 20, b"\xff\xff\x7f"]  # varints
HUGE += [b"\xff" * 4, b"\xff" * 8, b"\xff" * 4 + b"\0" * 4]  # words
HUGE += [b"9" * 20, b"1e400", b"-1", b"[" * 50]  # JSON


def place(generator, content):
    """A position, half the time among the first or last 64 bytes, where the lengths are."""
    ends = [(0, len(content)), (0, len(content)), (0, 64), (len(content) - 64, len(content))]
    low, high = ends[generator.integers(4)]
    low, high = max(low, 0), min(max(high, 1), len(content))
    return int(generator.integers(low, high)) if low < high else 0


def mutate(generator, content):
    """Damage bytes in one to three ways, chosen at random -> bytes that differ from `content`."""
    damaged = content
    while damaged == content:
        for _ in range(generator.integers(1, 4)):
            damaged = _mutate_once(generator, damaged)
    return damaged


def _mutate_once(generator, content):
    at, size = place(generator, content), int(generator.integers(1, 200))
    kind = generator.integers(5)
    if kind == 0:  # flip some bits
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 9) if content else 0):
            damaged[place(generator, content)] ^= 1 << int(generator.integers(8))
        return bytes(damaged)
    if kind == 1:  # cut off either end, or a piece
        pieces = [content[:at], content[at:], content[:at] + content[at + size // 2 :]]
        return pieces[generator.integers(3)]
    if kind == 2:  # copy a piece over, or into, another place
        source = place(generator, content)
        new = content[source : source + size]
    elif kind == 3:  # a number becomes huge
        new = HUGE[generator.integers(len(HUGE))]
    else:  # a piece is lost
        new = bytes([generator.choice([0, 255])]) * min(size, len(content) - at)
    inserts = kind == 2 and generator.integers(2)
    return content[:at] + new + content[at if inserts else at + len(new) :]


def mutate_and_reseal(generator, content):
    """Damage the only data block of an index and correct its checksum."""
    footer, end, at = content[-48:], 0, 0
    while at == 0 or footer[at - 1] > 127:  # the metaindex begins where the data block ends
        end |= (footer[at] & 127) << 7 * at
        at += 1
    block = bytearray(content[: end - 5])
    for _ in range(generator.integers(1, 5)):
        odd = [0, 1, 127, 128, 255, generator.integers(256)]
        block[generator.integers(len(block))] = generator.choice(odd)
    return seal(bytes(block)) + content[end:]


def replace(path, content):
    """Write a new file: some file systems wait for the disk when an old one is overwritten."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def attempt(read, size):
    """What read() returns, or None for a CheckpointError; `size` is the files' bytes."""
    tracemalloc.start()
    try:
        return read()
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 6000, error
        return None
    finally:
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert allocated < 4 * size + 16_000_000, f"{allocated} bytes for a file of {size}"


def damage_bundles(count, folder, seed=0):
    """Damage index and data files of checkpoints, `count` times in all -> Counter of outcomes."""
    generator, outcomes = np.random.default_rng(seed), Counter()
    gpt2 = shutil.copytree(FIXTURES / "tf_gpt2", folder / "gpt2")
    many_blocks, two_blocks = folder / "many_blocks", folder / "two_blocks"
    many_blocks.mkdir()
    arrays = {f"name/{i:02d}": np.full((i % 3, 2), i, ["f4", "f2"][i % 2]) for i in range(30)}
    write_bundle(many_blocks, arrays, block_length=3)
    with zipfile.ZipFile(FIXTURES / "tf_two_blocks.zip") as archive:
        archive.extractall(two_blocks)
    copies = [gpt2, many_blocks, two_blocks]
    originals = {copy: dumped(read_tf_checkpoint(copy)) for copy in copies}
    for i in range(count):
        kind = ("index", "index", "data", "resealed index")[i % 4]
        resealed = kind == "resealed index"
        copy = gpt2 if resealed else copies[generator.choice(3, p=[0.45, 0.5, 0.05])]
        path = copy / (DATA if kind == "data" else INDEX)
        content = path.read_bytes()
        replace(path, (mutate_and_reseal if resealed else mutate)(generator, content))
        size = sum(file.stat().st_size for file in copy.iterdir())
        found = attempt(partial(read_tf_checkpoint, copy, kind == "data"), size)
        outcomes[kind, "refused" if found is None else "read"] += 1
        assert found is None or resealed or dumped(found) == originals[copy]
        replace(path, content)
    return outcomes


def dumped(variables):
    """Arrays or tensors by name, in a form that == compares."""
    found = {}
    for name, array in variables.items():
        octets = array
        if isinstance(array, torch.Tensor):
            octets = array.contiguous().view(-1).view(torch.uint8).numpy()
        found[name] = (array.dtype, array.shape, octets.tobytes())
    return found


def damage_safetensors(count, folder, seed=0):
    """Damage safetensors files, `count` times in all -> Counter of outcomes."""
    try:
        from safetensors.torch import load_file as reference
    except ImportError:
        reference = None
    generator, outcomes = np.random.default_rng(seed), Counter()
    path = folder / "damaged.safetensors"
    names = ["all_types.safetensors", "hf_lm/model.safetensors"]
    originals = [(FIXTURES / name).read_bytes() for name in names]
    for _ in range(count):
        damaged = mutate(generator, originals[generator.integers(2)])
        replace(path, damaged)
        found = attempt(partial(read_safetensors, path), len(damaged))
        outcomes["safetensors", "refused" if found is None else "read"] += 1
        if found is not None:
            theirs = reference(path) if reference else found  # must read the same
            assert dumped(theirs) == dumped(found)
    return outcomes


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for damage, share in ((damage_bundles, 0.75), (damage_safetensors, 0.25)):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcomes = damage(int(count * share), Path(folder), seed=1)
        print(f"{damage.__name__}: {dict(outcomes)} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

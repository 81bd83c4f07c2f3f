"""Damaged files by the thousand: bytes flipped, cut, spliced, and numbers made huge.

    python tests/mutations.py [COUNT]    the whole campaign, 20,000 by default; the tests run a small part of it

Every damaged file must be read right or be refused with CheckpointError: no other exception, no second of waiting, no
allocation above 4 times the file plus 16 MB. An index whose checksums were not made to fit again must, if it is read,
give exactly the original variables; so must a data file whose checksums were verified.
"""

import shutil
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle_writer import seal, write_bundle

from gptft.checkpoints.safetensors import read_safetensors
from gptft.checkpoints.tf_bundle import read_tf_checkpoint
from gptft.errors import CheckpointError

FIXTURES = Path(__file__).parent / "fixtures"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


def mutate(generator, content):
    """Damage bytes in one to three ways, chosen at random -> bytes that differ from `content`."""
    damaged = content
    while damaged == content:
        for _ in range(generator.integers(1, 4)):
            damaged = MUTATIONS[generator.integers(len(MUTATIONS))](generator, damaged)
    return damaged


def place(generator, content):
    """A position, half the time among the last 64 bytes or the first 64, where the lengths stand."""
    ends = [(0, len(content)), (0, len(content)), (0, 64), (len(content) - 64, len(content))]
    low, high = ends[generator.integers(4)]
    low, high = max(low, 0), min(max(high, 1), len(content))
    return int(generator.integers(low, high)) if low < high else 0


def flip(generator, content):
    damaged = bytearray(content)
    for _ in range(generator.integers(1, 9)):
        if damaged:
            damaged[place(generator, content)] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def cut(generator, content):
    at, gap = place(generator, content), int(generator.integers(1, 100))
    return [content[:at], content[at:], content[:at] + content[at + gap :]][generator.integers(3)]


def splice(generator, content):
    """Copy a piece of the file over, or into, another place."""
    source, target, size = (
        place(generator, content),
        place(generator, content),
        int(generator.integers(1, 200)),
    )
    piece = content[source : source + size]
    return (
        content[:target] + piece + content[target + (len(piece) if generator.integers(2) else 0) :]
    )


def enlarge(generator, content):
    """Overwrite some bytes with a huge number: as a varint, as 4 or 8 bytes, or in decimal."""
    varints = [b"\xff" * 9 + b"\x01", b"\x80" * 20, b"\xff\xff\x7f"]
    words = [b"\xff" * 4, b"\xff" * 8, b"\xff" * 4 + b"\0" * 4]
    texts = [b"9" * 20, b"1e400", b"-1", b"[" * 50]
    huge = (varints + words + texts)[generator.integers(10)]
    at = place(generator, content)
    return content[:at] + huge + content[at + len(huge) :]


def fill(generator, content):
    at, size = place(generator, content), int(generator.integers(1, 300))
    return (
        content[:at]
        + bytes([generator.choice([0, 255])]) * min(size, len(content) - at)
        + content[at + size :]
    )


MUTATIONS = (flip, cut, splice, enlarge, fill)


def mutate_and_reseal(generator, content):
    """Damage the only data block of an index, then make its checksum fit: what a checksum can't catch."""
    end = first_varint(content[-48:])  # the metaindex begins where the data block ends
    block = bytearray(content[: end - 5])
    for _ in range(generator.integers(1, 5)):
        block[generator.integers(len(block))] = generator.choice(
            [0, 1, 127, 128, 255, generator.integers(256)]
        )
    return seal(bytes(block)) + content[end:]


def replace(path, content):
    """Write a new file: some file systems wait for the disk when an old one is cut to nothing and written again."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def first_varint(octets):
    value = 0
    for i, octet in enumerate(octets):
        value |= (octet & 127) << 7 * i
        if octet < 128:
            return value


class Watched:
    """Run a reader on a damaged file and count what comes of it; an AssertionError tells what must not happen."""

    def __init__(self):
        self.outcomes, self.slowest, self.largest = Counter(), 0.0, 0

    def read(self, kind, read, size, check):
        """read() must return what check() accepts, or raise CheckpointError; `size` is the files' bytes."""
        tracemalloc.start()
        start = time.perf_counter()
        try:
            result = read()
            outcome = "read"
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000 + 200 * 20, error
            outcome = "refused"
        self.slowest = max(self.slowest, time.perf_counter() - start)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.largest = max(self.largest, allocated)
        assert allocated < 4 * size + 16_000_000, (
            f"{kind}: {allocated} bytes allocated for a file of {size}"
        )
        if outcome == "read":
            check(result)
        self.outcomes[kind, outcome] += 1


def bundles(folder):
    """Copies of three checkpoints, of one, many and two data blocks -> list of (folder, its variables)."""
    two_blocks = folder / "two_blocks"
    with zipfile.ZipFile(FIXTURES / "tf_two_blocks.zip") as archive:
        archive.extractall(two_blocks)
    many_blocks = folder / "many_blocks"
    many_blocks.mkdir()
    arrays = {f"name/{i:02d}": np.full((i % 3, 2), i, ["f4", "f2"][i % 2]) for i in range(30)}
    write_bundle(many_blocks, arrays.items(), block_size=100)
    gpt2 = shutil.copytree(FIXTURES / "tf_gpt2", folder / "gpt2")
    found = []
    for copy in (gpt2, many_blocks, two_blocks):
        variables = read_tf_checkpoint(copy, verify=True)
        found.append((copy, {name: array.copy() for name, array in variables.items()}))
    return found


def same(expected):
    def check(found):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name

    return check


def damage_bundles(count, folder, seed=0):
    """Damage index and data files of checkpoints, `count` times in all -> Watched."""
    generator = np.random.default_rng(seed)
    watched, originals = Watched(), bundles(folder)
    for i in range(count):
        kind = ("index", "index", "data", "resealed index")[i % 4]
        copy, variables = originals[
            0 if kind == "resealed index" else generator.choice(3, p=[0.45, 0.5, 0.05])
        ]
        path = copy / (DATA if kind == "data" else INDEX)
        content = path.read_bytes()
        replace(
            path, (mutate_and_reseal if kind == "resealed index" else mutate)(generator, content)
        )
        size = sum(file.stat().st_size for file in copy.iterdir())
        # What the resealed index says is law; otherwise everything read must be as it was.
        check = (lambda found: None) if kind == "resealed index" else same(variables)
        watched.read(kind, lambda: read_tf_checkpoint(copy, verify=kind == "data"), size, check)
        replace(path, content)
    return watched


def damage_safetensors(count, folder, seed=0):
    """Damage safetensors files, `count` times in all -> Watched. What is read must tile the file and be usable."""
    generator = np.random.default_rng(seed)
    watched, path = Watched(), folder / "damaged.safetensors"
    originals = [
        (FIXTURES / name).read_bytes()
        for name in ("all_types.safetensors", "hf_lm/model.safetensors")
    ]
    try:
        from safetensors.torch import (
            load_file as reference,
        )  # what we accept, the reference must read alike
    except ImportError:
        reference = None

    def check(found):
        used = sum(tensor.nbytes for tensor in found.values())
        assert used <= len(damaged) and len(repr(found)) > 0
        if reference:
            theirs = reference(path)
            assert theirs.keys() == found.keys()
            for name, tensor in theirs.items():
                assert tensor.dtype == found[name].dtype and tensor.shape == found[name].shape
                octets = [t.contiguous().view(-1).view(torch.uint8) for t in (tensor, found[name])]
                assert torch.equal(*octets)

    for _ in range(count):
        damaged = mutate(generator, originals[generator.integers(2)])
        replace(path, damaged)
        watched.read("safetensors", lambda: read_safetensors(path), len(damaged), check)
    return watched


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for damage, share in ((damage_bundles, 0.75), (damage_safetensors, 0.25)):
        with tempfile.TemporaryDirectory() as folder:
            watched = damage(int(count * share), Path(folder), seed=1)
        print(
            f"{damage.__name__}: {dict(watched.outcomes)}, slowest {watched.slowest:.3f} s, "
            f"most allocated {watched.largest:,} bytes"
        )


if __name__ == "__main__":
    main()

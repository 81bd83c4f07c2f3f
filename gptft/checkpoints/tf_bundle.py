"""TensorFlow's checkpoint format (a "tensor bundle"), read with numpy alone: the form in which OpenAI published GPT-2.

    checkpoint                        text: the name of the newest checkpoint, model_checkpoint_path: "model.ckpt"
    model.ckpt.index                  a sorted table: variable name -> type, shape, shard, offset, size, checksum
    model.ckpt.data-00000-of-00001    the variables' bytes, end to end, little-endian, in one or more shards

The reader checks every number of the index before it uses it: names, shapes and sizes must agree with each other, and
the variables must tile their shards without gap or overlap. The arrays it returns are views of the files, mapped into
memory, so that a variable is read from disk when it is first touched.

Left out: partitioned variables ("slices"), types other than float32 and float16 (so also TensorFlow 2's object graph, a
string), big-endian files, and the file .meta, which holds the program and not the weights.
Source: TensorFlow's `tensor_bundle.cc` and `tensor_bundle.proto`.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.checkpoints.sorted_table import BYTES, FIXED32, VARINT, SortedTable
from gptft.errors import CheckpointError

DTYPES = {1: np.dtype("<f4"), 19: np.dtype("<f2")}  # TensorFlow's DataType numbers
MAX_DIMS = 32  # numpy's limit before version 2
MAX_SHARDS = 99_999  # a shard's file name has five digits for it


def read_tf_checkpoint(folder, verify=False):
    """Read a TensorFlow checkpoint folder -> dict[str, np.ndarray], variables by name, shapes as stored, memory-mapped.

    Arrays are float32 or float16; writing to one changes this process's memory and never the file. (One that does not
    lie aligned, as can happen where both types occur, is copied.)
    verify: also compare each variable's bytes with its CRC32C (reads every byte, at 2 to 4 GB/s).
    Raises CheckpointError that names the file, the byte and what was expected there.
    """
    prefix = _find_prefix(Path(folder))
    index_path = Path(f"{prefix}.index")
    n_shards, entries = _read_index(SortedTable(index_path, map_file(index_path)))
    variables = {}
    for shard in sorted({entry.shard for entry in entries}):
        path = Path(f"{prefix}.data-{shard:05d}-of-{n_shards:05d}")
        content, end = map_file(path), 0
        for entry in sorted(
            (e for e in entries if e.shard == shard), key=lambda e: (e.offset, e.size)
        ):
            begin, end = end, end + entry.size
            if entry.offset != begin or end > len(content):
                what = f"expected {entry.name!r} at byte {begin} of {len(content)}, the index says at {entry.offset}"
                raise CheckpointError(
                    f"{what}, {entry.size} bytes, {path}; fetch the checkpoint again"
                )
            data = content[begin:end]
            if verify and masked_crc32c(data) != entry.crc:
                what = f"expected {entry.name!r} to agree with its CRC32C"
                raise CheckpointError(f"{what}, {path} at byte {begin}; fetch the checkpoint again")
            variables[entry.name] = np.require(data.view(entry.dtype), requirements="A").reshape(
                entry.shape
            )
        if end != len(content):
            raise CheckpointError(
                f"expected {end} bytes, found {len(content)}, {path}; fetch the checkpoint again"
            )
    return variables


def map_file(path):
    """Map a file privately into memory -> (size,) uint8 array. Raises CheckpointError when it is missing or empty."""
    try:
        return np.asarray(np.memmap(path, np.uint8, mode="c"))  # "c": copy on write
    except OSError as error:
        raise CheckpointError(
            f"weights can't be read, {path} ({error.strerror}); check the path"
        ) from error
    except ValueError as error:  # there is no map of 0 bytes
        raise CheckpointError(f"the file is empty, {path}; fetch or save it again") from error


def _find_prefix(folder):
    """The path that .index and .data-* are appended to: named by the file `checkpoint`, else the only one there is."""
    state = folder / "checkpoint"
    try:
        text = state.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        found = sorted(folder.glob("*.index"))
        if len(found) != 1:
            what = f"expected a TensorFlow checkpoint, found no file `checkpoint` and {len(found)} *.index files"
            raise CheckpointError(f"{what}, {folder}; check the path") from None
        return found[0].with_suffix("")
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint's name can't be read, {state} ({error.strerror}); check it"
        ) from error
    # Of the path only the last part counts: the folder may have moved since it was written.
    match = re.search(
        r'^model_checkpoint_path: *"(?:[^"\n]*[/\\])?([^"/\\\x00-\x1f]+)"', text, re.MULTILINE
    )
    if not match:
        raise CheckpointError(
            f'expected a line model_checkpoint_path: "NAME", {state}; fetch the checkpoint again'
        )
    return folder / match[1]


class Entry(NamedTuple):
    """A variable's place: `size` bytes from `offset` of shard number `shard`; `crc` is their masked CRC32C."""

    name: str
    dtype: np.dtype
    shape: list
    shard: int
    offset: int
    size: int
    crc: int


def _read_index(table):
    """-> (number of shards, list of Entry). The empty key comes first and holds the bundle's header."""
    n_shards, entries = 0, []
    for key, place in table.items():
        if not n_shards:
            n_shards = _read_header(table, key, place)
            continue
        entry = _read_entry(table, key, place)
        if entry.shard >= n_shards:
            raise table.damaged(
                place[0],
                f"expected {entry.name!r} in one of {n_shards} shards, found {entry.shard}",
            )
        entries.append(entry)
    if not entries:
        raise table.damaged(0, "expected variables, found none")
    return n_shards, entries


def _read_header(table, key, place):
    """BundleHeaderProto {1 num_shards, 2 endianness, 3 version {1 producer, 2 min_consumer}} -> number of shards."""
    if key != b"":
        raise table.damaged(place[0], f"expected the bundle's header, found {key!r}")
    n_shards = 0
    for number, value in table.fields(place, {1: VARINT, 2: VARINT, 3: BYTES}):
        if number == 1:
            n_shards = value
        elif number == 2 and value != 0:
            raise table.damaged(place[0], "expected little-endian variables, found big-endian ones")
        elif number == 3:
            for part, version in table.fields(value, {1: VARINT, 2: VARINT}):
                if part == 2 and version > 1:
                    raise table.damaged(
                        place[0], f"expected version 1 of the format, found {version}"
                    )
    if not 1 <= n_shards <= MAX_SHARDS:
        raise table.damaged(place[0], f"expected 1 to {MAX_SHARDS} shards, found {n_shards}")
    return n_shards


def _read_entry(table, key, place):
    """BundleEntryProto {1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7 slices}; absent is 0 -> Entry."""
    wires = {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES}
    name = key.decode("utf-8", errors="backslashreplace")
    found, shape = {}, []
    for number, value in table.fields(place, wires):
        if number == 7:
            raise table.damaged(
                place[0], f"expected whole variables, found {name!r} cut into slices"
            )
        if number == 2:
            shape = _read_shape(table, value)
        else:
            found[number] = value
    dtype, size = DTYPES.get(found.get(1, 0)), found.get(5, 0)
    if dtype is None:
        raise table.damaged(
            place[0],
            f"expected {name!r} in float32 (1) or float16 (19), found type {found.get(1, 0)}",
        )
    if math.prod(shape) * dtype.itemsize != size:
        raise table.damaged(
            place[0], f"expected {name!r} to have the bytes of {dtype} {shape}, found {size}"
        )
    return Entry(name, dtype, shape, found.get(3, 0), found.get(4, 0), size, found.get(6, 0))


def _read_shape(table, place):
    """TensorShapeProto {2 dim {1 size, 2 name}} -> list of sizes."""
    shape = []
    for _, dim in table.fields(place, {2: BYTES}):
        shape.append(0)
        for number, value in table.fields(dim, {1: VARINT, 2: BYTES}):
            if number == 1:
                shape[-1] = value
        if len(shape) > MAX_DIMS or math.prod(size or 1 for size in shape) >= 2**60:
            raise table.damaged(
                place[0], f"expected at most {MAX_DIMS} dimensions and 2^60 elements"
            )
    return shape

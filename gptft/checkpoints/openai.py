"""TensorFlow's checkpoint format, in which OpenAI published GPT-2, read with numpy alone.

    checkpoint                        a text: model_checkpoint_path: "model.ckpt"
    model.ckpt.index                  a table of variable name -> type, shape, place, checksum
    model.ckpt.data-00000-of-00001    the values of the variables, in one or more such shards

The index nests two formats. The outer one is LevelDB's sorted table of keys and values:

    file      data blocks, metaindex block (empty here), index block, footer
    block     entries, the offsets of some entries (4 bytes each), their number (4 bytes);
              after its stated size: compression (1 byte), masked CRC32C (4 bytes)
    entry     three varints: length of the prefix shared with the previous key, length of the rest
              of the key, length of the value; then the rest of the key and the value
    handle    two varints: the offset and the size of a block
    footer    handles of metaindex and index block, zeros up to byte 40, magic number (8 bytes)

The index block maps keys to handles of data blocks. In the data blocks, keys are variable names and
values are protocol buffers, the inner format: each field is a varint of 8 * number + wire type,
then its content. A varint stores 7 bits per byte, lowest first; the top bit says that another byte
follows.

The reader trusts no number. Blocks must match their checksums, names must be in order, the type,
shape and size of a variable must agree, and the variables must fill their shards without gap or
overlap.

Left out: partitioned variables ("slices"), types other than float32 and float16, compressed blocks,
big-endian files.
Source: TensorFlow's `tensor_bundle.cc` and `tensor_bundle.proto`; LevelDB's `doc/table_format.md`.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.errors import CheckpointError

DTYPES = {1: np.dtype("<f4"), 19: np.dtype("<f2")}  # by TensorFlow's DataType numbers
VARINT, BYTES, FIXED32 = 0, 2, 5  # wire types of protocol buffers
FOOTER_SIZE = 48  # bytes
MAGIC = 0xDB4775248B80FB57
MAX_KEY = 1000  # bytes; with shared prefixes a short file could claim endless keys


class Entry(NamedTuple):
    """A variable and its place: `size` bytes from `offset` in shard number `shard`."""

    name: str
    dtype: np.dtype
    shape: list
    shard: int
    offset: int
    size: int
    crc: int  # masked


def read_tf_checkpoint(folder, verify=False):
    """Read a TensorFlow checkpoint folder -> dict of variable name -> np.ndarray, shapes as stored.

    Arrays are float32 or float16 and view the files, which are mapped into memory: values are read
    from disk when they are first used, and writing to them never changes the files.
    verify: also compare all values with their CRC32C, which takes about a second per GB.
    Raises CheckpointError that names the file and what is wrong with it.
    """
    index = _find_index(Path(folder))
    variables, path = {}, index
    try:
        n_shards, entries = _read_index(map_file(index).tobytes())
        for shard in sorted({entry.shard for entry in entries}):
            path = index.with_name(f"{index.stem}.data-{shard:05d}-of-{n_shards:05d}")
            in_shard = [entry for entry in entries if entry.shard == shard]
            variables |= _read_shard(map_file(path), in_shard, verify)
    except (ValueError, OverflowError) as error:  # numpy overflows for an impossible shape
        raise CheckpointError(f"{error}, {path}; fetch the checkpoint again") from error
    return variables


def map_file(path):
    """Map a file into memory -> (size,) uint8 array.

    Raises CheckpointError if it is missing, ValueError if it is empty.
    """
    try:
        return np.asarray(np.memmap(path, np.uint8, mode="c"))  # "c": writing changes a copy
    except OSError as error:
        raise CheckpointError(
            f"weights can't be read, {path} ({error.strerror}); check the path"
        ) from error


def _find_index(folder):
    """The .index file that the file `checkpoint` names; without such a file, the only one."""
    found, state = list(folder.glob("*.index")), folder / "checkpoint"
    if state.is_file():
        text = state.read_text(encoding="utf-8", errors="replace")
        # The folder may have moved since this path was written: only its last part counts.
        match = re.search(r'^model_checkpoint_path: *"(?:.*[/\\])?(.+)"', text, re.MULTILINE)
        found = [path for path in found if match and path.stem == match[1]]
    if len(found) != 1:
        raise CheckpointError(
            f"{len(found)} *.index files that the file `checkpoint` may mean, not 1, "
            f"{folder}; give the folder of a TensorFlow checkpoint"
        )
    return found[0]


# ---------------------------------------------------------------- variables


def _read_index(content):
    """The bytes of an index -> (number of shards, list of Entry). Raises ValueError if damaged."""
    pairs = _read_table(content)
    if not pairs or pairs[0][0] != b"":
        raise ValueError("the index does not begin with a header")
    # BundleHeaderProto {1 num_shards, 2 endianness (0: little), 3 version}
    header = dict(_fields(pairs[0][1], {1: VARINT, 2: VARINT, 3: BYTES}))
    if header.get(2, 0) != 0:
        raise ValueError("the variables are big-endian")
    return header.get(1, 0), [_read_entry(key, value) for key, value in pairs[1:]]


def _read_entry(key, message):
    """BundleEntryProto {1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 crc, 7 slices} -> Entry."""
    wire_types = {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES}
    fields = {1: 0, 2: b"", 3: 0, 4: 0, 5: 0, 6: 0}  # the defaults, which a message leaves out
    fields |= dict(_fields(message, wire_types))
    shape = []
    for _, dim in _fields(fields[2], {2: BYTES}):  # TensorShapeProto {2 dim {1 size, 2 name}}
        sizes = dict(_fields(dim, {1: VARINT, 2: BYTES}))
        shape.append(sizes.get(1, 0))
    name = key.decode("utf-8", errors="backslashreplace")
    dtype, size = DTYPES.get(fields[1]), fields[5]
    if 7 in fields:
        raise ValueError(f"{name!r} is cut into slices")
    if dtype is None:
        raise ValueError(f"{name!r} has type {fields[1]}, not float32 (1) or float16 (19)")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name!r} has {size} bytes, not those of {dtype} {shape}")
    return Entry(name, dtype, shape, fields[3], fields[4], size, fields[6])


def _read_shard(content, entries, verify):
    """Cut a shard, a (size,) uint8 array, into variables. Raises ValueError unless they fill it."""
    variables, end = {}, 0
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size)):
        begin, end = end, end + entry.size
        if entry.offset != begin or end > len(content):
            raise ValueError(
                f"{entry.name!r} is at {entry.size} bytes from {entry.offset}, "
                f"not from {begin} of {len(content)}"
            )
        values = content[begin:end]
        if verify and masked_crc32c(values) != entry.crc:
            raise ValueError(f"{entry.name!r} at byte {begin} does not match its CRC32C")
        aligned = np.require(values.view(entry.dtype), requirements=["ALIGNED"])
        variables[entry.name] = aligned.reshape(entry.shape)
    if end != len(content):
        raise ValueError(f"the variables take {end} bytes of {len(content)}")
    return variables


# ---------------------------------------------------------------- the sorted table


def _read_table(content):
    """The bytes of a table -> list of (key, value), both bytes, in ascending order of the keys."""
    footer = content[-FOOTER_SIZE:]
    if len(content) < FOOTER_SIZE or int.from_bytes(footer[40:], "little") != MAGIC:
        raise ValueError(f"the index does not end with the magic number {MAGIC:#x}")
    *_, at = _handle(footer, 0)  # of the metaindex, which is empty
    offset, size, _ = _handle(footer, at)
    pairs = []
    for _, handle in _read_block(content, offset, size):
        offset, size, _ = _handle(handle, 0)
        for key, value in _read_block(content, offset, size):
            if pairs and key <= pairs[-1][0]:
                raise ValueError(f"the name {key!r} is not after {pairs[-1][0]!r}")
            pairs.append((key, value))
    return pairs


def _handle(data, at):
    """The handle at position `at` -> (the offset of a block, its size, the position after it)."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _read_block(content, offset, size):
    """The block of `size` bytes at `offset` -> list of (key, value)."""
    block = content[offset : offset + size]
    trailer = content[offset + size : offset + size + 5]
    if size < 4 or len(trailer) < 5:
        raise ValueError(f"no block of {size} bytes at byte {offset} of {len(content)}")
    crc = masked_crc32c(np.frombuffer(block + trailer[:1], np.uint8))
    if crc != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the block at byte {offset} does not match its CRC32C")
    if trailer[0] != 0:
        raise ValueError(f"the block at byte {offset} has compression {trailer[0]}, not 0")
    n_offsets = int.from_bytes(block[-4:], "little")
    entries = block[: max(0, size - 4 - 4 * n_offsets)]

    pairs, key, at = [], b"", 0
    while at < len(entries):
        n_shared, at = _varint(entries, at)
        n_rest, at = _varint(entries, at)
        n_value, at = _varint(entries, at)
        value_at = at + n_rest
        if n_shared > len(key) or n_shared + n_rest > MAX_KEY or value_at + n_value > len(entries):
            raise ValueError(f"an entry is longer than its block, or a name than {MAX_KEY} bytes")
        key = key[:n_shared] + entries[at:value_at]
        at = value_at + n_value
        pairs.append((key, entries[value_at:at]))
    return pairs


# ---------------------------------------------------------------- protocol buffers


def _fields(message, wire_types):
    """Yield (number, value) of each field: bytes for BYTES, else an int.

    wire_types: dict of field number -> wire type. Raises ValueError for other fields.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_types.get(number) != wire_type:
            raise ValueError(f"unknown field {number} of type {wire_type}")
        if wire_type == VARINT:
            value, end = _varint(message, at)
        elif wire_type == FIXED32:
            end = at + 4
            value = int.from_bytes(message[at:end], "little")
        else:
            size, at = _varint(message, at)
            end = at + size
            value = message[at:end]
        if end > len(message):
            raise ValueError(f"field {number} does not end")
        yield number, value
        at = end


def _varint(data, at):
    """The varint at position `at` of bytes -> (its value, the position after it)."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a number does not end")

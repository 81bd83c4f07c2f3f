"""The safetensors format: named tensors in one file, without code, read in place.

    8 bytes    N, the length of the header, little-endian
    N bytes    the header, JSON padded with spaces:
               {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
               and optionally "__metadata__", which maps strings to strings
    the rest   the values, little-endian and row-major, without gap or overlap;
               offsets count from here

The reader maps the file into memory, so values are read from disk when they are first used. The map
is
private: writing to a tensor never changes the file. Every number in the header is checked before
use.

Left out: 4- and 6-bit types, reading the metadata, big-endian machines.
Source: the format's description and `tensor.rs` in huggingface/safetensors; our writer produces the
same bytes.
"""

import json
import math

import torch

from gptft.checkpoints.openai import map_file
from gptft.errors import CheckpointError, write_atomic

# In the order of the reference implementation. The writer puts the last type first, so that all
# tensors are aligned.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}


def read_safetensors(path):
    """Read a .safetensors file -> dict[str, torch.Tensor] on the CPU, which view the mapped file.

    A tensor that is not aligned is copied: old writers did not pad the header.
    Raises CheckpointError that names the file, and the tensor, if the file breaks the format.
    """
    try:
        return _cut_tensors(torch.from_numpy(map_file(path)))
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch can't have such a shape
        raise CheckpointError(
            f"not a complete safetensors file: {error}, {path}; fetch or save it again"
        ) from error


def write_safetensors(path, tensors, metadata=None):
    """Write tensors as a .safetensors file.

    tensors: dict[str, torch.Tensor], on any device; they are copied to the CPU one at a time, and
    tensors that share memory are each written. metadata: dict[str, str] for the header.
    The file gets its name when it is complete. Raises OSError if it can't be written.
    """
    type_names, types = list(DTYPES), list(DTYPES.values())
    names = sorted(tensors, key=lambda name: (-types.index(tensors[name].dtype), name))
    header = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": type_names[types.index(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def write(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = tensors[name].detach().cpu().contiguous().view(-1)
            file.write(values.view(torch.uint8).numpy())

    write_atomic(path, write)


def _cut_tensors(content):
    """The (size,) uint8 content of a file -> dict of tensors that view it. Raises ValueError."""
    header, start = _read_header(content)
    size = len(content) - start
    entries = [_check_entry(name, entry, size) for name, entry in header.items()]
    tensors, expected = {}, 0
    for begin, end, name, dtype, shape in sorted(entries, key=lambda entry: entry[:3]):
        if begin != expected:
            raise ValueError(f"tensor {name[:80]!r} begins at byte {begin}, not at {expected}")
        values = content[start + begin : start + end]
        if (start + begin) % dtype.itemsize:
            values = values.clone()
        tensors[name] = values.view(dtype).view(shape)
        expected = end
    if expected != size:
        raise ValueError(f"the tensors end at byte {expected} of {size}")
    return tensors


def _read_header(content):
    """-> (dict of name -> unchecked entry, position of the first value). Raises ValueError."""
    length = int.from_bytes(content[:8].numpy().tobytes(), "little")
    if length > len(content) - 8:
        raise ValueError(f"a header of length {length} in a file of {len(content)} bytes")
    try:
        text = content[8 : 8 + length].numpy().tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _unique(pairs):
    """The pairs of a JSON object -> dict. Readers disagree on which of two equal names counts."""
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _check_entry(name, entry, size):
    """An entry of the header, checked against `size` bytes -> (begin, end, name, dtype, shape)."""
    label = f"tensor {name[:80]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise ValueError(f"{label} has a dtype other than {', '.join(DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{label} has a shape or data_offsets that are not lists of sizes")
    begin, end = offsets
    if end > size or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{label} has bytes {begin} to {end} of {size}, not those of its shape")
    return begin, end, name, dtype, shape


def _are_sizes(values):
    """Whether `values` is a list of ints that fit an int64; JSON's true and 1.0 are not ints."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)

"""The safetensors format: named tensors in one file, read without a copy and without trusting the file.

    8 bytes    N, the length of the header, little-endian
    N bytes    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}, padded with spaces;
               an entry "__metadata__" may hold strings
    the rest   the tensors' bytes, little-endian, row-major; offsets count from here, with no gap and no overlap

That is all of it: no code runs on loading (unlike pickle), and each tensor can be used in place. The reader maps the
file into memory, so a tensor's bytes are fetched from disk when they are first touched. The map is private: writing to
a tensor changes this process's memory and never the file. Every number in the header is checked before it is used.

Left out: 4- and 6-bit types, reading the metadata back, and big-endian machines.
Source: the format description and `tensor.rs` of huggingface/safetensors; the writer gives the same bytes.
"""

import json
import math

import torch

from gptft.checkpoints.tf_bundle import map_file
from gptft.errors import CheckpointError, write_atomic

# In the reference's order, by which its writer sorts: the widest type first, so that every tensor is aligned.
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
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER = 100_000_000  # bytes, the reference's limit
MAX_DIMS = 64  # torch's own limit in most operations


def read_safetensors(path):
    """Read a .safetensors file -> dict[str, torch.Tensor] on the CPU, memory-mapped, in the header's order.

    A tensor that an old writer left unaligned is copied, all others view the map.
    Raises CheckpointError, naming the file and the tensor, for anything that is not exactly a safetensors file.
    """
    content = torch.from_numpy(map_file(path))
    entries, start = _read_header(path, content)
    spans, tensors = [], {}
    for name, entry in entries.items():
        dtype, shape, begin, end = _check_entry(path, name, entry, len(content) - start)
        piece = content[start + begin : start + end]
        if (start + begin) % dtype.itemsize:
            piece = piece.clone()
        tensors[name] = piece.view(dtype).view(shape)
        spans.append((begin, end, name))
    _check_cover(path, spans, len(content) - start)
    return tensors


def write_safetensors(path, tensors, metadata=None):
    """Write `tensors`, dict[str, torch.Tensor], as a .safetensors file, with `metadata` (dict[str, str]) in its header.

    Tensors may lie on any device and are copied to the CPU one at a time; two that share memory are written twice.
    The file appears under its name only when it is complete. Raises OSError when the disk refuses it.
    """
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (-order.index(DTYPE_NAMES[tensors[name].dtype]), name))
    header = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def write(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().view(-1)
            file.write(flat.view(torch.uint8).numpy())

    write_atomic(path, write)


def _read_header(path, content):
    """-> (dict of the header's tensor entries, not yet checked; the byte where the tensors begin)."""
    length = int.from_bytes(content[:8].numpy().tobytes(), "little")
    if len(content) < 8 or length > min(MAX_HEADER, len(content) - 8):
        raise _damaged(
            path,
            f"the header's length of {length} bytes does not fit the file of {len(content)} bytes",
        )
    try:
        text = content[8 : 8 + length].numpy().tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise _damaged(path, f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _damaged(path, "__metadata__ does not map strings to strings")
    return header, 8 + length


def _without_duplicates(pairs):
    """JSON's later duplicate would silently win, and two readers may disagree on which one that is."""
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name stands twice")
    return names


def _check_entry(path, name, entry, size):
    """Check one tensor's entry against the `size` bytes of data -> (torch.dtype, shape, begin, end)."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(
            path, f"tensor {name[:80]!r} does not have exactly dtype, shape and data_offsets"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _damaged(path, f"tensor {name[:80]!r} has a dtype other than {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMS:
        raise _damaged(path, f"tensor {name[:80]!r} has a shape that is not a short list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise _damaged(path, f"tensor {name[:80]!r} lies outside the file's {size} bytes of data")
    begin, end = offsets
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise _damaged(
            path, f"tensor {name[:80]!r} has {end - begin} bytes, not those of its shape and dtype"
        )
    return dtype, shape, begin, end


def _are_sizes(values):
    """True for a list of whole numbers that fit an int64 (JSON's true and 1.0 are not among them)."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _check_cover(path, spans, size):
    """The tensors, sorted by place, must tile the data exactly: a gap could hide bytes, an overlap share them."""
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            raise _damaged(
                path, f"tensor {name[:80]!r} begins at byte {begin} of the data, not at {expected}"
            )
        expected = end
    if expected != size:
        raise _damaged(path, f"the tensors end at byte {expected} of {size} bytes of data")


def _damaged(path, what):
    return CheckpointError(
        f"not a complete safetensors file: {what}, {path}; fetch or save it again"
    )

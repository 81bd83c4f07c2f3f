"""safetensors files of the reference package, and files that break the format."""

import json

import numpy as np
import pytest
import torch
from mutations import FIXTURES, damage_safetensors

from gptft.checkpoints.safetensors import DTYPES, read_safetensors, write_safetensors
from gptft.errors import CheckpointError

REFERENCE = FIXTURES / "all_types.safetensors"  # written by the safetensors package


def write_raw(path, header, data=b"", padding=8):
    """A file with any header, a str or something for JSON, padded to a multiple of `padding`."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8")
    text += b" " * (-len(text) % padding)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_every_type_of_the_reference():
    # Each tensor counts 0, 1, 2, ...; a wrong width, sign or order of types gives other numbers.
    tensors = read_safetensors(REFERENCE)
    assert tensors.pop("scalar").item() == 1.5
    assert tensors.pop("empty").shape == (0, 3)
    assert tensors.pop('a name "é"\n').tolist() == [[0, 1], [2, 3], [4, 5]]
    assert sorted(tensors) == sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
    for name, tensor in tensors.items():
        assert tensor.dtype == getattr(torch, name)
        expected = [i % 2 if name == "bool" else i for i in range(len(tensor))]
        assert tensor.to(torch.complex64).real.tolist() == expected, name


def test_writes_the_bytes_of_the_reference(tmp_path):
    # The reference has one way for order, padding, escapes and metadata.
    tensors = dict(reversed(read_safetensors(REFERENCE).items()))
    name = 'a name "é"\n'
    tensors[name] = tensors[name].T.contiguous().T  # other strides in memory
    write_safetensors(tmp_path / "ours", tensors, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == REFERENCE.read_bytes()


def test_tensors_view_a_private_map(tmp_path):
    # Copies would double the memory of a large model, a shared map would write to the user's file.
    path = tmp_path / "file"
    write_safetensors(path, {"a": torch.zeros(4), "b": torch.ones(4)})
    before = path.read_bytes()
    tensors = read_safetensors(path)
    assert tensors["a"].untyped_storage().data_ptr() == tensors["b"].untyped_storage().data_ptr()
    tensors["a"] += 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("n_spaces", range(8))
def test_reads_unaligned_tensors_of_old_writers(tmp_path, n_spaces):
    header = {"x": entry(), "y": entry("BOOL", (1,), (8, 9)), "z": entry("I16", (3,), (9, 15))}
    data = np.arange(2, dtype="f4").tobytes() + b"\x01" + np.arange(3, dtype="i2").tobytes()
    text = " " * n_spaces + json.dumps(header)
    tensors = read_safetensors(write_raw(tmp_path / "file", text, data, padding=1))
    assert tensors["x"].tolist() == [0, 1]
    assert tensors["y"].tolist() == [True]
    assert tensors["z"].tolist() == [0, 1, 2]


HUGE = 2**63 - 1
HALF = entry(shape=(1,), offsets=(0, 4))
REFUSED = {
    "header beyond the file": (b"\xff" * 8 + b"{}", "length"),
    "empty": (b"", "empty"),
    "not JSON": ("{'x': 1}", "JSON"),
    "nested without end": ("[" * 100_000, "JSON"),
    "not an object": ([1, 2], "object"),
    "a name twice": ('{"x": 1, "x": 1}', "twice"),
    "not an entry": ({"x": [1]}, "'x'"),
    "a key too many": ({"x": entry() | {"more": 1}}, "'x'"),
    "unknown dtype": ({"x": entry("F13")}, "dtype"),
    "dtype that is a list": ({"x": entry(["F32"])}, "dtype"),
    "shape of booleans": ({"x": entry(shape=(True, 2))}, "shape"),
    "negative shape": ({"x": entry(shape=(-1, -2))}, "shape"),
    "shape beyond 64 bits": ({"x": entry(shape=(0, 2**64), offsets=(0, 0))}, "shape"),
    "product beyond 64 bits": ({"x": entry(shape=(HUGE, HUGE, 0), offsets=(0, 0))}, "overflow"),
    "three offsets": ({"x": entry(offsets=(0, 8, 8))}, "offsets"),
    "offsets beyond the file": ({"x": entry(offsets=(0, 16), shape=(4,))}, "0 to 16 of 8"),
    "size of another shape": ({"x": entry(shape=(3,))}, "bytes"),
    "overlap": ({"x": entry(), "y": entry()}, "begins at byte 0, not at 8"),
    "gap": ({"x": HALF, "y": entry("U8", (3,), (5, 8))}, "begins at byte 5, not at 4"),
    "bytes at the end": ({"x": HALF}, "end at byte 4"),
}


@pytest.mark.parametrize("content, phrase", REFUSED.values(), ids=REFUSED.keys())
def test_files_that_break_the_format(tmp_path, content, phrase):
    # On each of these, some reader has crashed, read past the end, or read something else.
    path = tmp_path / "file.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_raw(path, content, bytes(8))
    with pytest.raises(CheckpointError, match=phrase) as error:
        read_safetensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match="can't be read"):
            read_safetensors(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    # A run that dies while saving must keep the weights it had.
    path = tmp_path / "file"
    write_safetensors(path, {"x": torch.ones(2)})
    with pytest.raises(NotImplementedError):
        write_safetensors(path, {"x": torch.ones(2), "y": torch.empty(2, device="meta")})
    assert read_safetensors(path)["x"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_damaged_files_are_read_right_or_refused(tmp_path):
    # A small part of `python tests/mutations.py`.
    outcomes = damage_safetensors(300, tmp_path)
    assert outcomes["safetensors", "refused"] > 200 and outcomes["safetensors", "read"] > 10

"""safetensors against a file of the reference package, and against files that lie."""

import json

import numpy as np
import pytest
import torch
from mutations import FIXTURES, damage_safetensors

from gptft.checkpoints.safetensors import DTYPES, read_safetensors, write_safetensors
from gptft.errors import CheckpointError

REFERENCE = FIXTURES / "all_types.safetensors"  # written by the safetensors package


def write_raw(path, header, data=b"", padding=True):
    """A file with any header, a str or something for json; `padding` fills it up with spaces to a multiple of 8."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8")
    text += b" " * (-len(text) % 8 if padding else 0)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_every_type_of_the_reference():
    # Each tensor of the fixture counts 0, 1, 2, ...; a wrong width, sign or order of types gives other numbers.
    tensors = read_safetensors(REFERENCE)
    assert tensors.pop("scalar").item() == 1.5
    assert tensors.pop("empty").shape == (0, 3)
    assert tensors.pop('a name "é"\n').tolist() == [[0, 1], [2, 3], [4, 5]]
    assert sorted(tensors) == sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
    for name, tensor in tensors.items():
        assert tensor.dtype == getattr(torch, name)
        expected = (
            [i % 2 for i in range(len(tensor))] if name == "bool" else list(range(len(tensor)))
        )
        assert tensor.to(torch.complex64).real.tolist() == expected, name


def test_writes_the_bytes_of_the_reference(tmp_path):
    # Order by type and name, padding, escapes, metadata: the reference has one way for each.
    tensors = read_safetensors(REFERENCE)
    write_safetensors(tmp_path / "ours", dict(reversed(tensors.items())), {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == REFERENCE.read_bytes()


def test_the_reference_reads_what_is_written(tmp_path):
    reference = pytest.importorskip(
        "safetensors.torch", reason="the safetensors package is the oracle here"
    )
    tensors = {
        "b": torch.randn(3, 2).T,
        "a": torch.arange(5, dtype=torch.bfloat16),
        "c": torch.tensor(7),
    }
    write_safetensors(tmp_path / "ours", tensors)
    found = reference.load_file(tmp_path / "ours")
    assert found.keys() == tensors.keys() and all(
        torch.equal(found[name], tensors[name]) for name in tensors
    )


def test_tensors_view_a_private_map(tmp_path):
    # A copy of each tensor would double the memory of a large model; a shared map would write into the user's file.
    path = tmp_path / "file"
    write_safetensors(path, {"a": torch.zeros(4), "b": torch.ones(4)})
    before = path.read_bytes()
    tensors = read_safetensors(path)
    assert tensors["a"].untyped_storage().data_ptr() == tensors["b"].untyped_storage().data_ptr()
    tensors["a"] += 1
    assert path.read_bytes() == before
    assert read_safetensors(path)["a"].tolist() == [0, 0, 0, 0]


def test_reads_unaligned_tensors_of_old_writers(tmp_path):
    # Old writers did not pad the header, so tensors may begin at any byte.
    data = (
        np.arange(2, dtype=np.float32).tobytes() + b"\x01" + np.arange(3, dtype=np.int16).tobytes()
    )
    header = {"x": entry(), "y": entry("BOOL", (1,), (8, 9)), "z": entry("I16", (3,), (9, 15))}
    for spaces in range(8):
        tensors = read_safetensors(
            write_raw(tmp_path / "file", " " * spaces + json.dumps(header), data, padding=False)
        )
        assert (tensors["x"].tolist(), tensors["y"].tolist(), tensors["z"].tolist()) == (
            [0, 1],
            [True],
            [0, 1, 2],
        )


def test_metadata_is_no_tensor(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "x": entry()}
    assert list(read_safetensors(write_raw(tmp_path / "file", header, bytes(8)))) == ["x"]


HUGE = 2**63 - 1
REFUSED = {
    "length of the header beyond the file": (b"\xff" * 8 + b"{}", "length"),
    "shorter than the length": (b"\x02\0\0", "length"),
    "empty": (b"", "empty"),
    "not JSON": ("{'x': 1}", "JSON"),
    "not UTF-8": (b"\x08" + bytes(7) + b'{"\xff": 1}', "JSON"),
    "nested without end": ("[" * 100_000, "JSON"),
    "a number of 10,000 digits": ('{"x": ' + "9" * 10_000 + "}", "JSON|dtype"),
    "no object": ([1, 2], "object"),
    "metadata that is no text": ({"__metadata__": {"n": 1}}, "metadata"),
    "a name twice": ('{"x": %s, "x": %s}' % ((json.dumps(entry()),) * 2), "twice"),
    "a key twice": (
        '{"x": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}}',
        "twice",
    ),
    "no entry": ({"x": [1]}, "'x'"),
    "a key too many": ({"x": entry() | {"more": 1}}, "'x'"),
    "a key too few": ({"x": {"dtype": "F32", "shape": [2]}}, "'x'"),
    "unknown dtype": ({"x": entry("F13")}, "dtype"),
    "dtype that is no text": ({"x": entry(["F32"])}, "dtype"),
    "shape that is no list": ({"x": entry() | {"shape": 2}}, "shape"),
    "shape of fractions": ({"x": entry(shape=(2.0,))}, "shape"),
    "shape of truth values": ({"x": entry(shape=(True, 2))}, "shape"),
    "negative shape": ({"x": entry(shape=(-1, -2))}, "shape"),
    "shape with too many dimensions": ({"x": entry(shape=(1,) * 65 + (2,))}, "shape"),
    "shape beyond 64 bits": ({"x": entry(shape=(0, 2**64), offsets=(0, 0))}, "shape"),
    "shape whose product overflows to fit": ({"x": entry(shape=(2**32, 2**32 + 2))}, "bytes"),
    "offsets of three": ({"x": entry(offsets=(0, 8, 8))}, "outside"),
    "offsets backwards": ({"x": entry(offsets=(8, 0))}, "outside"),
    "offsets beyond the file": ({"x": entry(offsets=(0, 16), shape=(4,))}, "outside"),
    "huge offsets": ({"x": entry(offsets=(HUGE - 8, HUGE))}, "outside"),
    "size of another shape": ({"x": entry(shape=(3,))}, "bytes"),
    "overlap": ({"x": entry(), "y": entry()}, "begins at byte 0 of the data, not at 8"),
    "gap": (
        {"x": entry(shape=(1,), offsets=(0, 4)), "y": entry("U8", (3,), (5, 8))},
        "begins at byte 5",
    ),
    "bytes at the end": ({"x": entry(shape=(1,), offsets=(0, 4))}, "end at byte 4"),
}


@pytest.mark.parametrize("content, phrase", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_lies(tmp_path, content, phrase):
    # Each is a file that some reader somewhere has crashed on, read past, or quietly misread.
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
    # A small part of `python tests/mutations.py`, which see.
    outcomes = damage_safetensors(300, tmp_path).outcomes
    assert outcomes["safetensors", "refused"] > 200 and outcomes["safetensors", "read"] > 10

"""TensorFlow's checkpoints against files that TensorFlow wrote, and against indexes made by hand."""

import shutil
import zipfile

import numpy as np
import pytest
from bundle_writer import block, entry, field, finish, table, varint, write_bundle
from mutations import DATA, FIXTURES, INDEX, damage_bundles, replace

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.checkpoints.tf_bundle import read_tf_checkpoint
from gptft.errors import CheckpointError

HEADER = (b"", field(1, 1) + field(3, field(1, 1)))
ONE = np.ones(2, np.float32)
ONE_BYTES = ONE.tobytes()


def write_index(folder, pairs, data=ONE_BYTES):
    """A checkpoint whose index holds any (key, value) pairs."""
    (folder / INDEX).write_bytes(table(pairs))
    (folder / DATA).write_bytes(data)
    return folder


def test_two_shards_and_both_types_from_tensorflow():
    # Shard 0 holds 5 floats and 3 halves, shard 1 a 2 x 2 matrix and a scalar half; no file `checkpoint` beside them.
    found = read_tf_checkpoint(FIXTURES / "tf_two_shards", verify=True)
    assert {name: array.tolist() for name, array in found.items()} == {
        "part/a": [0, 1, 2, 3, 4],
        "part/b": [0, 1, 2],
        "part/c": [[0, 1], [2, 3]],
        "part/d": 0,
    }
    assert {name: array.dtype.name for name, array in found.items()} == {
        "part/a": "float32",
        "part/b": "float16",
        "part/c": "float32",
        "part/d": "float16",
    }


def test_two_blocks_and_shared_prefixes_from_tensorflow(tmp_path):
    # The first release of GPT-2 fits one block; a reader that stops after it would miss half of these 400 variables.
    with zipfile.ZipFile(FIXTURES / "tf_two_blocks.zip") as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / INDEX).stat().st_size > 262144
    found = read_tf_checkpoint(tmp_path, verify=True)
    assert len(found) == 400
    for name, array in found.items():
        assert name[3:] == "/" + "long_name_" * 90 and array.tolist() == [
            int(name[:3]),
            -int(name[:3]),
        ]


def test_shapes_and_names_from_tensorflow():
    found = read_tf_checkpoint(FIXTURES / "tf_gpt2", verify=True)
    assert len(found) == 28
    assert found["model/h1/mlp/c_proj/w"].shape == (1, 48, 12) and found["model/wte"].shape == (
        80,
        12,
    )


def test_the_test_writer_writes_what_tensorflow_writes(tmp_path):
    # What is measured on synthetic checkpoints holds for real ones only if they are alike, here byte for byte.
    found = read_tf_checkpoint(FIXTURES / "tf_gpt2")
    write_bundle(tmp_path, sorted(found.items()))
    for name in (INDEX, DATA):
        assert (tmp_path / name).read_bytes() == (FIXTURES / "tf_gpt2" / name).read_bytes()


def test_variables_are_views_of_a_private_map(tmp_path):
    # A copy would double the memory of a large model; a shared map would write into the user's checkpoint.
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    before = (folder / DATA).read_bytes()
    found = read_tf_checkpoint(folder)
    addresses = [array.ctypes.data for array in found.values()]
    assert max(addresses) - min(addresses) < len(before)
    found["model/wte"][:] = 0
    assert (folder / DATA).read_bytes() == before


def test_verify_finds_a_flipped_bit(tmp_path):
    # Without verify the byte is taken as it is: that is what the flag is for.
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    content = bytearray((folder / DATA).read_bytes())
    content[5000] ^= 1
    (folder / DATA).write_bytes(content)
    read_tf_checkpoint(folder)
    with pytest.raises(CheckpointError, match="CRC32C.*data-00000.* at byte"):
        read_tf_checkpoint(folder, verify=True)


def test_an_absolute_path_in_the_state_file_is_taken_as_a_name(tmp_path):
    # TensorFlow writes the path of the machine that trained; the folder has moved since.
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    for written in ("/home/someone/models/model.ckpt", "C:\\\\models\\\\model.ckpt", "model.ckpt"):
        text = f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "other.ckpt"\n'
        (folder / "checkpoint").write_text(text, encoding="utf-8")
        assert len(read_tf_checkpoint(folder)) == 28


@pytest.mark.parametrize(
    "text", ['all_model_checkpoint_paths: "model.ckpt"', 'model_checkpoint_path: "', "\0\xff", ""]
)
def test_a_state_file_without_a_name(tmp_path, text):
    (tmp_path / "checkpoint").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="model_checkpoint_path"):
        read_tf_checkpoint(tmp_path)


def test_folders_without_one_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"0 \*.index files"):
        read_tf_checkpoint(tmp_path)
    for name in ("a.index", "b.index"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"2 \*.index files"):
        read_tf_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "c"', encoding="utf-8")
    with pytest.raises(CheckpointError, match="c.index"):
        read_tf_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 19776 - 1, 19776 + 1])
def test_data_of_another_size(tmp_path, size):
    # The commonest damage of all: a download that ended early.
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    (folder / DATA).write_bytes((folder / DATA).read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(CheckpointError, match="data-00000-of-00001"):
        read_tf_checkpoint(folder)


def test_missing_shard(tmp_path):
    folder = shutil.copytree(FIXTURES / "tf_two_shards", tmp_path / "copy")
    (folder / "model.ckpt.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match="data-00001-of-00002"):
        read_tf_checkpoint(folder)


def test_every_byte_of_the_index_counts(tmp_path):
    # Each byte stands under a checksum, or is a handle, or padding that must be zero.
    write_bundle(tmp_path, [("a", ONE), ("ab", ONE), ("b", ONE)], block_size=10)
    content = (tmp_path / INDEX).read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        replace(tmp_path / INDEX, damaged)
        with pytest.raises(CheckpointError, match=r"\.index at byte \d+"):
            read_tf_checkpoint(tmp_path)


def good(name=b"x", array=ONE, offset=0):
    return name, entry(array, 0, offset, 0)


SLICED = field(7, field(1, b""))
REFUSED = {
    "no variables": ([HEADER], "found none"),
    "no header": ([good()], "header"),
    "no shards": ([(b"", field(3, field(1, 1))), good()], "shards"),
    "too many shards": ([(b"", field(1, 2**62)), good()], "shards"),
    "big-endian": ([(b"", field(1, 1) + field(2, 1)), good()], "big-endian"),
    "a later version": ([(b"", field(1, 1) + field(3, field(2, 2))), good()], "version"),
    "a shard that is not there": ([HEADER, (b"x", entry(ONE, 1, 0, 0))], "shards"),
    "slices": ([HEADER, (b"x", good()[1] + SLICED)], "slices"),
    "another type": ([HEADER, (b"x", field(1, 9) + field(5, 8))], "type 9"),
    "no type": ([HEADER, (b"x", field(5, 8))], "type 0"),
    "an unknown field": ([HEADER, (b"x", good()[1] + field(12, 1))], "field"),
    "a field of another kind": ([HEADER, (b"x", field(1, b"\x01"))], "field"),
    "a field cut short": ([HEADER, (b"x", good()[1] + varint(2 << 3 | 2) + varint(2**40))], "end"),
    "size of another shape": (
        [HEADER, (b"x", field(1, 1) + field(2, field(2, field(1, 3))) + field(5, 8))],
        "bytes of",
    ),
    "a shape that overflows": (
        [HEADER, (b"x", field(1, 1) + field(2, 3 * field(2, field(1, 2**30))))],
        "elements",
    ),
    "a shape of nothing, hugely": (
        [HEADER, (b"x", field(1, 1) + field(2, field(2, b"") + field(2, field(1, 2**61))))],
        "elements",
    ),
    "too many dimensions": (
        [HEADER, (b"x", field(1, 1) + field(2, 33 * field(2, field(1, 1))) + field(5, 4))],
        "32",
    ),
    "overlap": ([HEADER, good(b"x"), good(b"y")], "'y' at byte 8"),
    "gap": ([HEADER, good(offset=4)], "at byte 0"),
    "beyond the file": ([HEADER, good(array=np.ones(3, np.float32))], "12 bytes"),
    "huge offset": ([HEADER, good(offset=2**63)], "says at"),
    "names out of order": ([HEADER, good(b"y"), good(b"x", offset=8)], "behind"),
    "a name twice": ([HEADER, good(b"x"), good(b"x", offset=8)], "behind"),
    "an endless name": ([HEADER, good(b"x" * 2000)], "1000"),
}


@pytest.mark.parametrize("pairs, phrase", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_lies_under_right_checksums(tmp_path, pairs, phrase):
    with pytest.raises(CheckpointError, match=phrase) as error:
        read_tf_checkpoint(write_index(tmp_path, pairs))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_compressed_blocks_are_named(tmp_path):
    # Snappy is type 1; no checkpoint of OpenAI's has it.
    sealed = block([HEADER, good()])
    packed = sealed[:-5] + b"\x01"
    crc = masked_crc32c(np.frombuffer(packed, np.uint8)).to_bytes(4, "little")
    (tmp_path / INDEX).write_bytes(packed + crc + table([HEADER, good()])[len(sealed) :])
    with pytest.raises(CheckpointError, match="compression 0 .none., found 1"):
        read_tf_checkpoint(tmp_path)


def test_blocks_that_are_used_twice(tmp_path):
    # A thousand handles of one large block would keep the reader busy for hours.
    data = block([HEADER, good()])
    handle = varint(0) + varint(len(data) - 5)
    index = block([(b"%03d" % i, handle) for i in range(100)], restart_interval=1)
    (tmp_path / INDEX).write_bytes(finish(data, index))
    with pytest.raises(CheckpointError, match="expected the handle"):
        read_tf_checkpoint(tmp_path)


def test_half_floats_that_leave_floats_unaligned(tmp_path):
    arrays = {
        "a": np.arange(3, dtype="f2"),
        "b": np.arange(4, dtype="f4"),
        "c": np.zeros((0, 5), "f4"),
    }
    write_bundle(tmp_path, arrays.items())
    found = read_tf_checkpoint(tmp_path, verify=True)
    assert all(
        np.array_equal(found[name], arrays[name]) and found[name].flags.aligned for name in arrays
    )
    assert found["c"].shape == (0, 5)


def test_damaged_files_are_read_right_or_refused(tmp_path):
    # A small part of `python tests/mutations.py`, which see.
    outcomes = damage_bundles(240, tmp_path).outcomes
    assert min(outcomes[kind, "refused"] for kind in ("index", "data", "resealed index")) > 30
    assert outcomes["resealed index", "read"] > 0

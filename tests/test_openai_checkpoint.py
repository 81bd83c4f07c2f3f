"""TensorFlow checkpoints: files that TensorFlow wrote, and indexes made by hand."""

import shutil
import zipfile

import numpy as np
import pytest
from bundle_writer import block, entry, field, table, varint, write_bundle
from mutations import DATA, FIXTURES, INDEX, damage_bundles

from gptft.checkpoints.openai import read_tf_checkpoint
from gptft.errors import CheckpointError

HEADER = (b"", field(1, 1) + field(3, field(1, 1)))
ONE = np.ones(2, np.float32)


@pytest.fixture
def tf_gpt2(tmp_path):
    return shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")


def write_index(folder, index):
    (folder / INDEX).write_bytes(index)
    (folder / DATA).write_bytes(ONE.tobytes())
    return folder


# ---------------------------------------------------------------- files of TensorFlow


def test_two_shards_and_both_types():
    # Shard 0 has 5 floats and 3 halves, shard 1 a 2 x 2 matrix and a scalar half. There is no file
    # `checkpoint` beside them.
    found = read_tf_checkpoint(FIXTURES / "tf_two_shards", verify=True)
    assert {name: (array.dtype.name, array.tolist()) for name, array in found.items()} == {
        "part/a": ("float32", [0, 1, 2, 3, 4]),
        "part/b": ("float16", [0, 1, 2]),
        "part/c": ("float32", [[0, 1], [2, 3]]),
        "part/d": ("float16", 0),
    }


def test_two_blocks_and_shared_prefixes(tmp_path):
    # A reader that stops after the first block would miss half of these 400 variables.
    with zipfile.ZipFile(FIXTURES / "tf_two_blocks.zip") as archive:
        archive.extractall(tmp_path)
    found = read_tf_checkpoint(tmp_path, verify=True)
    assert len(found) == 400
    for name, array in found.items():
        number = int(name[:3])
        assert name[3:] == "/" + "long_name_" * 90 and array.tolist() == [number, -number]


def test_variables_view_a_private_map(tf_gpt2):
    # Copies would double the memory of a large model. A shared map would write to the user's file.
    before = (tf_gpt2 / DATA).read_bytes()
    found = read_tf_checkpoint(tf_gpt2)
    addresses = [array.ctypes.data for array in found.values()]
    assert max(addresses) - min(addresses) < len(before)
    found["model/wte"][:] = 0
    assert (tf_gpt2 / DATA).read_bytes() == before


def test_verify_finds_a_flipped_bit(tf_gpt2):
    content = bytearray((tf_gpt2 / DATA).read_bytes())
    content[5000] ^= 1
    (tf_gpt2 / DATA).write_bytes(content)
    read_tf_checkpoint(tf_gpt2)
    with pytest.raises(CheckpointError, match="at byte .*CRC32C.*data-00000"):
        read_tf_checkpoint(tf_gpt2, verify=True)


@pytest.mark.parametrize("size", [0, 19776 - 1, 19776 + 1])
def test_data_of_another_size(tf_gpt2, size):
    # The most common damage is a download that ended early.
    content = (tf_gpt2 / DATA).read_bytes().ljust(size, b"\0")[:size]
    (tf_gpt2 / DATA).write_bytes(content)
    with pytest.raises(CheckpointError, match="data-00000-of-00001"):
        read_tf_checkpoint(tf_gpt2)


# ---------------------------------------------------------------- the file `checkpoint`


@pytest.mark.parametrize(
    "path", ["/home/someone/model.ckpt", "C:\\\\a\\\\model.ckpt", "model.ckpt"]
)
def test_it_names_one_of_several_checkpoints(tf_gpt2, path):
    # TensorFlow writes the path on the machine that trained. The folder has moved since.
    (tf_gpt2 / "other.index").touch()
    text = f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "other"\n'
    (tf_gpt2 / "checkpoint").write_text(text, encoding="utf-8")
    assert len(read_tf_checkpoint(tf_gpt2)) == 28


@pytest.mark.parametrize("text", [None, "", 'model_checkpoint_path: "', "\0\xff", "other"])
def test_it_names_none(tmp_path, text):
    for name in ("a.index", "b.index"):
        (tmp_path / name).touch()
    if text is not None:
        (tmp_path / "checkpoint").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"[02] \*.index files"):
        read_tf_checkpoint(tmp_path)


# ---------------------------------------------------------------- damaged indexes


def test_a_flipped_byte_never_changes_a_variable(tmp_path):
    write_bundle(tmp_path, {"a": ONE, "ab": 2 * ONE, "b": 3 * ONE}, block_length=2)
    content = (tmp_path / INDEX).read_bytes()
    harmless = 0
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        (tmp_path / INDEX).write_bytes(damaged)
        try:
            found = read_tf_checkpoint(tmp_path)
        except CheckpointError as error:
            assert INDEX in str(error)
            continue
        assert {name: array[0] for name, array in found.items()} == {"a": 1, "ab": 2, "b": 3}
        harmless += 1
    assert harmless < 60  # bytes of the metaindex, its handle and the padding of the footer


def variable(name=b"x", array=ONE, offset=0, shard=0):
    return name, entry(array, offset, shard)


FLOAT, SIZE_8 = field(1, 1), field(5, 8)
REFUSED = {
    "no keys": ([], "a header"),
    "no header": ([variable()], "a header"),
    "big-endian": ([(b"", field(1, 1) + field(2, 1)), variable()], "big-endian"),
    "no shards": ([(b"", b""), variable()], "of-00000"),
    "another shard": ([HEADER, variable(shard=1)], "data-00001-of-00001"),
    "overlap": ([HEADER, variable(), variable(b"y")], "'y' is at 8 bytes from 0, not from 8"),
    "beyond the file": ([HEADER, variable(array=np.ones(3, "f4"))], "12 bytes"),
    "huge offset": ([HEADER, variable(offset=2**63)], "not from 0"),
    "names out of order": ([HEADER, variable(b"y"), variable(b"x", offset=8)], "not after"),
    "a name twice": ([HEADER, variable(), variable(offset=8)], "not after"),
    "an endless name": ([HEADER, variable(b"x" * 2000)], "1000"),
}
REFUSED_ENTRIES = {
    "slices": (variable()[1] + field(7, field(1, b"")), "slices"),
    "another type": (field(1, 9) + SIZE_8, "type 9"),
    "an unknown field": (FLOAT + SIZE_8 + field(12, 1), "field 12"),
    "a field cut off": (FLOAT + varint(18) + varint(2**40), "end"),
    "size of another shape": (FLOAT + SIZE_8, "bytes, not those"),
    "an impossible shape": (FLOAT + field(2, field(2, b"") + field(2, field(1, 2**61))), "data-"),
}
REFUSED |= {key: ([HEADER, (b"x", e)], says) for key, (e, says) in REFUSED_ENTRIES.items()}


@pytest.mark.parametrize("pairs, phrase", REFUSED.values(), ids=REFUSED.keys())
def test_indexes_with_correct_checksums(tmp_path, pairs, phrase):
    with pytest.raises(CheckpointError, match=phrase) as error:
        read_tf_checkpoint(write_index(tmp_path, table([block(pairs)])))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_compressed_blocks(tmp_path):
    # Snappy is type 1; OpenAI's checkpoints are not compressed.
    with pytest.raises(CheckpointError, match="compression 1"):
        read_tf_checkpoint(write_index(tmp_path, table([block([HEADER], compression=1)])))


def test_a_block_that_is_used_twice(tmp_path):
    # A thousand handles of one large block would keep the reader busy for hours.
    index = table([block([HEADER, variable()])], n_handles=1000)
    with pytest.raises(CheckpointError, match="not after"):
        read_tf_checkpoint(write_index(tmp_path, index))


def test_halves_that_leave_floats_unaligned(tmp_path):
    a, b, c = np.arange(3, dtype="f2"), np.arange(4, dtype="f4"), np.zeros((0, 5), "f4")
    write_bundle(tmp_path, {"a": a, "b": b, "c": c})
    found = read_tf_checkpoint(tmp_path, verify=True)
    assert found["b"].tolist() == [0, 1, 2, 3] and found["b"].flags.aligned
    assert found["c"].shape == (0, 5)


def test_damaged_files_are_read_right_or_refused(tmp_path):
    # A small part of `python tests/mutations.py`.
    outcomes = damage_bundles(120, tmp_path)
    assert min(outcomes[kind, "refused"] for kind in ("index", "data", "resealed index")) > 15
    assert outcomes["resealed index", "read"] > 0

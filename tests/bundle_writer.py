"""A small writer of TensorFlow checkpoints, for tests of the reader and for measuring it at full size.

It writes what TensorFlow's Saver writes (same index, byte for byte: a fixture shows it) and, on request, what the Saver
never does but a reader must survive: several data blocks in a short file, several shards, odd entries.
"""

import json

import numpy as np

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.checkpoints.gpt2_names import weight_table

TYPES = {np.dtype("f4"): 1, np.dtype("f2"): 19}


def varint(value):
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def field(number, value):
    """One field of a protocol buffer: an int as a varint (left out if 0), bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def block(pairs, restart_interval=16):
    """list of (key, value) -> a table block with its trailer."""
    content, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    for offset in [*(restarts or [0]), len(restarts or [0])]:
        content += offset.to_bytes(4, "little")
    return seal(bytes(content))


def seal(content):
    """A block's content -> the block with its trailer: no compression, and the checksum."""
    content += b"\0"
    return content + masked_crc32c(np.frombuffer(content, np.uint8)).to_bytes(4, "little")


def table(pairs, block_size=262144):
    """Sorted list of (key, value) -> the bytes of a table file."""
    blocks, group, size = [], [], 0
    for key, value in pairs:
        group.append((key, value))
        size += len(key) + len(value) + 3
        if size >= block_size:
            blocks.append(group)
            group, size = [], 0
    blocks += [group] if group else []
    content, handles = b"", []
    for i, group in enumerate(blocks):
        sealed = block(group)
        handle = varint(len(content)) + varint(len(sealed) - 5)
        # Any key from this block's last to the next one's first will do; behind the last one stands a short successor.
        handles.append((group[-1][0] if i + 1 < len(blocks) else successor(group[-1][0]), handle))
        content += sealed
    return finish(content, block(handles, restart_interval=1))


def successor(key):
    """The shortest key behind `key`, as LevelDB makes it."""
    for i, octet in enumerate(key):
        if octet != 255:
            return key[:i] + bytes([octet + 1])
    return key


def finish(data_blocks, index_block):
    """Append the empty metaindex, the index block and the footer."""
    metaindex = block([])
    footer = varint(len(data_blocks)) + varint(len(metaindex) - 5)
    footer += varint(len(data_blocks) + len(metaindex)) + varint(len(index_block) - 5)
    return (
        data_blocks
        + metaindex
        + index_block
        + footer.ljust(40, b"\0")
        + (0xDB4775248B80FB57).to_bytes(8, "little")
    )


def entry(array, shard, offset, crc):
    """BundleEntryProto of one array."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    numbers = field(3, shard) + field(4, offset) + field(5, array.nbytes)
    checksum = varint(6 << 3 | 5) + crc.to_bytes(4, "little") if crc else b""
    return field(1, TYPES[array.dtype]) + field(2, shape) + numbers + checksum


def write_bundle(folder, arrays, n_shards=1, block_size=262144):
    """Write an iterable of (name, array), sorted by name, as the checkpoint `model.ckpt`, one array at a time."""
    prefix = folder / "model.ckpt"
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n', encoding="utf-8")
    version = field(3, field(1, 1))
    pairs, offsets = [(b"", field(1, n_shards) + version)], [0] * n_shards
    files = [open(f"{prefix}.data-{i:05d}-of-{n_shards:05d}", "wb") for i in range(n_shards)]
    for i, (name, array) in enumerate(arrays):
        shard = i % n_shards
        crc = masked_crc32c(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        files[shard].write(array.tobytes())
        pairs.append((name.encode("utf-8"), entry(array, shard, offsets[shard], crc)))
        offsets[shard] += array.nbytes
    for file in files:
        file.close()
    (folder / "model.ckpt.index").write_bytes(table(pairs, block_size))


def random_gpt2(config, seed=0, dtype="f4"):
    """Yield (name, array) of OpenAI's variables for a GPT2Config, sorted by name, drawn one at a time."""
    generator = np.random.default_rng(seed)
    for name, shape, is_matrix in sorted(weight_table(config).values()):
        shape = (1, *shape[::-1]) if is_matrix else shape
        array = 0.02 * generator.standard_normal(shape, np.float32) + (
            1 if name.endswith("/g") else 0
        )
        yield name, array.astype(dtype)


def write_gpt2(folder, config, **options):
    """Write a random GPT-2 as OpenAI publishes one: hparams.json and a checkpoint."""
    hparams = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_embd": config.n_embd}
    hparams |= {"n_head": config.n_head, "n_layer": config.n_layer}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    write_bundle(folder, random_gpt2(config, **options))

"""A small writer of TensorFlow checkpoints, for tests of the reader.

It writes every key in full, where TensorFlow leaves out the prefix shared with the key before. The
fixtures that TensorFlow wrote cover that.
"""

import json

import numpy as np
import torch

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.checkpoints.names import TRANSPOSED, openai_names
from gptft.model import GPT2

TYPES = {np.dtype("f4"): 1, np.dtype("f2"): 19}


def varint(value):
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def field(number, value):
    """A field of a protocol buffer: an int as a varint (left out if 0), bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def seal(content, compression=0):
    """The content of a block -> the block with its trailer: compression and checksum."""
    content += bytes([compression])
    return content + masked_crc32c(np.frombuffer(content, np.uint8)).to_bytes(4, "little")


def block(pairs, compression=0):
    """List of (key, value), both bytes -> a block with its trailer."""
    content = b""
    for key, value in pairs:
        content += varint(0) + varint(len(key)) + varint(len(value)) + key + value
    content += bytes(4) + (1).to_bytes(4, "little")  # one offset, 0, and the number of offsets
    return seal(content, compression)


def table(blocks, n_handles=1):
    """List of blocks -> the bytes of a table, with `n_handles` handles of each block."""
    content, handles = b"", []
    for sealed in blocks:
        handle = varint(len(content)) + varint(len(sealed) - 5)
        handles += [(b"key", handle)] * n_handles
        content += sealed
    footer = b""
    for sealed in (block([]), block(handles)):  # metaindex and index block
        footer += varint(len(content)) + varint(len(sealed) - 5)
        content += sealed
    return content + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def entry(array, offset=0, shard=0, crc=0):
    """The BundleEntryProto of an array."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    place = field(3, shard) + field(4, offset) + field(5, array.nbytes)
    checksum = varint(6 << 3 | 5) + crc.to_bytes(4, "little")
    return field(1, TYPES[array.dtype]) + field(2, shape) + place + checksum


def write_bundle(folder, arrays, block_length=10_000):
    """Write a dict of name -> array as the checkpoint `model.ckpt`; block_length: variables a
    block."""
    pairs, content = [(b"", field(1, 1) + field(3, field(1, 1)))], b""
    for name, array in sorted(arrays.items()):
        values = array.tobytes()
        crc = masked_crc32c(np.frombuffer(values, np.uint8))
        pairs.append((name.encode("utf-8"), entry(array, len(content), crc=crc)))
        content += values
    blocks = [block(pairs[i : i + block_length]) for i in range(0, len(pairs), block_length)]
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n', encoding="utf-8")
    (folder / "model.ckpt.index").write_bytes(table(blocks))
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(content)


def write_gpt2(folder, config, dtype="f4"):
    """Write a random GPT-2 as OpenAI publishes one: hparams.json and a checkpoint."""
    torch.manual_seed(0)
    weights, arrays = GPT2(config).state_dict(), {}
    for name, openai_name in openai_names(config.n_layer).items():
        array = weights[name].numpy().astype(dtype)
        arrays[openai_name] = array.T[None] if name.endswith(TRANSPOSED) else array
    hparams = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_embd": config.n_embd}
    hparams |= {"n_head": config.n_head, "n_layer": config.n_layer}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    write_bundle(folder, arrays)

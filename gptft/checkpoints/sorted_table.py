"""LevelDB's sorted table and protocol buffers: the two wrappings of a TensorFlow checkpoint's index file.

A table maps keys to values, both bytes, in the order of the keys. The file is data blocks, a metaindex block (empty
here), an index block, and a footer:

    footer    handle of the metaindex, handle of the index block, zeros up to byte 40, the magic number (8 bytes)
    handle    varint offset, varint size of a block
    block     entries, then the offsets of some of them (4 bytes each) and how many those are (4 bytes),
              then, not counted in its size, the compression type (1 byte) and a masked CRC32C (4 bytes)
    entry     varints: bytes of the key shared with the key before, further bytes of the key, bytes of the value;
              then those further bytes and the value

In the index block, a value is the handle of a data block. All numbers are little-endian; a varint holds 7 bits a byte,
lowest first, and the top bit says that another byte follows. The blocks must tile the file from its first byte to the
footer: then every byte stands under a checksum, and no damaged handle can make the reader go round in circles.

Left out: compression, filters, lookup of a single key (the offsets in a block are there for it).
Source: LevelDB's `doc/table_format.md`; the Protocol Buffers encoding guide.
"""

from gptft.checkpoints.crc32c import masked_crc32c
from gptft.errors import CheckpointError

FOOTER_SIZE = 48
TRAILER_SIZE = 5
MAGIC = 0xDB4775248B80FB57
MAX_KEY = 1000  # bytes; through the shared part a short file could otherwise claim endless keys
VARINT, BYTES, FIXED32 = 0, 2, 5  # protocol buffers' wire types


class SortedTable:
    """The content of a table file. Positions are bytes from the file's start, so that every complaint can name one.

    content: a 1-D uint8 array; path: for the messages only. All methods raise CheckpointError at the first byte that is
    not as it should be.
    """

    def __init__(self, path, content):
        self.path = path
        self.array = content
        self.bytes = content.tobytes()

    def damaged(self, at, what):
        """The CheckpointError that says `what` is wrong at byte `at`."""
        return CheckpointError(f"{what}, {self.path} at byte {at}; fetch the checkpoint again")

    def items(self):
        """Yield (key, (begin, end)) for every entry of the data blocks, with the place of its value."""
        footer = len(self.bytes) - FOOTER_SIZE
        if footer < 0 or int.from_bytes(self.bytes[-8:], "little") != MAGIC:
            raise self.damaged(
                max(0, footer + 40), f"expected the magic number {MAGIC:#x} at the end of an index"
            )
        (meta_begin, meta_end), at = self._handle(footer, footer + 40)
        (index_begin, index_end), at = self._handle(at, footer + 40)
        if any(self.bytes[at : footer + 40]) or (meta_end, index_end) != (index_begin, footer):
            raise self.damaged(
                footer, "expected the metaindex, the index block and this footer side by side"
            )
        if any(True for _ in self._block(meta_begin, meta_end)):
            raise self.damaged(meta_begin, "expected an empty metaindex")

        data_end, last = 0, None
        for _, (begin, end) in self._block(index_begin, index_end):
            (block_begin, block_end), at = self._handle(begin, end)
            if at != end or block_begin != data_end or block_end > meta_begin:
                raise self.damaged(
                    begin,
                    f"expected the handle of a block from byte {data_end}, at most up to {meta_begin}",
                )
            data_end = block_end
            for key, place in self._block(block_begin, block_end):
                if last is not None and key <= last:
                    raise self.damaged(place[0], f"expected a key behind {last!r}, found {key!r}")
                last = key
                yield key, place
        if data_end != meta_begin:
            raise self.damaged(data_end, f"expected data blocks up to byte {meta_begin}")

    def _handle(self, at, end):
        """-> ((where the block begins, where its trailer ends), where the handle ends)."""
        offset, at = self.varint(at, end)
        size, at = self.varint(at, end)
        return (offset, offset + size + TRAILER_SIZE), at

    def _block(self, begin, end):
        """Check the block between begin and end (trailer included) and yield its entries as `items` does."""
        trailer = end - TRAILER_SIZE
        if trailer - begin < 4 or end > len(self.bytes):
            raise self.damaged(
                begin,
                f"expected a block, found {trailer - begin} bytes of a file of {len(self.bytes)}",
            )
        if self._fixed32(trailer + 1) != masked_crc32c(self.array[begin : trailer + 1]):
            raise self.damaged(begin, "expected a block that agrees with its CRC32C")
        if self.bytes[trailer] != 0:
            raise self.damaged(
                trailer, f"expected compression 0 (none), found {self.bytes[trailer]}"
            )
        stop = trailer - 4 - 4 * self._fixed32(trailer - 4)
        if stop < begin:
            raise self.damaged(
                trailer - 4,
                f"expected a count of offsets that fits a block of {trailer - begin} bytes",
            )
        at, key = begin, b""
        while at < stop:
            shared, at = self.varint(at, stop)
            further, at = self.varint(at, stop)
            value_size, at = self.varint(at, stop)
            value_at = at + further
            if shared > len(key) or shared + further > MAX_KEY or value_at + value_size > stop:
                raise self.damaged(
                    at, f"expected a key of at most {MAX_KEY} bytes and a value within the block"
                )
            key = key[:shared] + self.bytes[at:value_at]
            at = value_at + value_size
            yield key, (value_at, at)

    def fields(self, place, wires):
        """Yield (number, value) for each field of the protocol buffer at `place`, a (begin, end).

        wires: dict, field number -> its wire type; no other fields are accepted. A value is an int, or for BYTES again
        a (begin, end).
        """
        at, end = place
        while at < end:
            tag_at = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wires.get(number) != wire:
                raise self.damaged(
                    tag_at,
                    f"expected one of the fields {sorted(wires)}, found {number} of type {wire}",
                )
            if wire == VARINT:
                value, at = self.varint(at, end)
            elif wire == BYTES:
                size, begin = self.varint(at, end)
                at = begin + size
                value = (begin, at)
            else:
                value, at = self._fixed32(at), at + 4
            if at > end:
                raise self.damaged(tag_at, f"expected field {number} to end by byte {end}")
            yield number, value

    def varint(self, at, end):
        """-> (value below 2^64, where it ends). It must end by `end`."""
        value = 0
        for i, octet in enumerate(self.bytes[at : min(at + 10, end)]):
            value |= (octet & 127) << 7 * i
            if octet < 128 and value < 2**64:
                return value, at + i + 1
        raise self.damaged(at, f"expected a whole number that ends by byte {end}")

    def _fixed32(self, at):
        return int.from_bytes(self.bytes[at : at + 4], "little")

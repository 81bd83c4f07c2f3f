"""CRC32C against published values and a loop over bits."""

import numpy as np
import pytest

from gptft.checkpoints.crc32c import CHUNK, DEGREE, crc32c, masked_crc32c


def by_bits(content):
    """The definition: a shift register over the bits, lowest bit of each byte first."""
    register = 0xFFFFFFFF
    for octet in content:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    "content, crc",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(content, crc):
    # RFC 3720, appendix B.4: a wrong polynomial, start value or bit order fails here.
    assert crc32c(np.frombuffer(content, np.uint8)) == crc


def test_masked_value():
    # TensorFlow never stores the bare value; 0xC78AB0E5 is that of "123456789".
    assert masked_crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xC78AB0E5


@pytest.mark.parametrize(
    "size",
    [1, 3, 4, 5, 8, DEGREE - 5, DEGREE, DEGREE + 1, 8 * DEGREE + 3, CHUNK - 1, CHUNK, CHUNK + 1],
)
def test_lengths_at_which_the_folding_changes(size):
    # Words, bytes, chunks: each has a border where one more must be struck out, and the start bytes lie before them.
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert crc32c(content) == by_bits(content.tolist())


def test_many_chunks_add_up():
    # What is left of one chunk must reach the next: CRC(a + zeros) follows from CRC(a) by the register alone.
    content = np.zeros(3 * CHUNK + 17, np.uint8)
    content[:9] = list(b"123456789")
    table = [by_bits([octet]) ^ by_bits([0]) for octet in range(256)]
    register = 0xE3069283 ^ 0xFFFFFFFF
    for _ in range(len(content) - 9):
        register = table[register & 255] ^ register >> 8
    assert crc32c(content) == register ^ 0xFFFFFFFF


def test_every_flipped_bit_shows():
    content = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)
    crc = crc32c(content)
    for at in (0, 1, 150_000, 299_999):
        content[at] ^= 1
        assert crc32c(content) != crc
        content[at] ^= 1

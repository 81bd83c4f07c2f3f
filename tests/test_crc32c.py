"""CRC32C compared with published values and with a loop over bits."""

import numpy as np
import pytest

from gptft.checkpoints.crc32c import DEGREE, crc32c, masked_crc32c


def by_bits(content):
    """The definition: a shift register over the bits, the lowest bit of each byte first."""
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
    # TensorFlow never stores the bare value.
    assert masked_crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xC78AB0E5


@pytest.mark.parametrize(
    "size", [1, 3, 4, 5, 8, DEGREE - 5, DEGREE - 4, DEGREE, 8 * DEGREE - 4, 8 * DEGREE, 100_001]
)
def test_lengths_at_which_the_algorithm_changes(size):
    # Bytes are deleted from 5685 bytes on, words from 5685 words on; 4 bytes precede the message.
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert crc32c(content) == by_bits(content.tolist())

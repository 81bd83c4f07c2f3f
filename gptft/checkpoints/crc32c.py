"""CRC32C, the checksum in TensorFlow's files, in numpy at about 1 GB/s.

A CRC treats a message as one long polynomial over {0, 1}: its bits are the coefficients, and
addition is XOR. The checksum is the remainder after division by a fixed polynomial P of degree 32.
The textbook algorithm divides bit by bit, which takes Python minutes per GB. But P also divides a
polynomial of only four terms, so that, modulo P,

    x^5685 = x^1362 + x^426 + 1

Over {0, 1}, (a + b)^2 = a^2 + b^2. Squaring the equation six times therefore gives

    x^(64 * 5685) = x^(64 * 1362) + x^(64 * 426) + 1

In words of 64 bits: the first word of a message may be deleted if it is XORed into the words that
are 5685 - 1362 = 4323, 5685 - 426 = 5259 and 5685 places after it. The remainder stays the same. So
4323 words are deleted at a time, by three XORs of arrays, until 5685 words are left. Squared three
times, the equation does the same for bytes. The textbook algorithm divides the last 5685 bytes.

Source: RFC 3720, appendix B.4, for the checksum; TensorFlow's `crc32c.h` for the masking.
"""

import numpy as np

POLYNOMIAL = 0x82F63B78  # P without x^32; bit 31 is the coefficient of x^0
DEGREE = 5685
DISTANCES = (DEGREE - 1362, DEGREE - 426, DEGREE)

# A CRC begins with the register at 0xFFFFFFFF, which is its state after 0 and these four bytes.
START = bytes.fromhex("54641f64")


def crc32c(data):
    """CRC32C of a (n,) uint8 array -> int. Short messages take up to 5 ms."""
    n_bytes = len(START) + len(data)
    words = np.zeros(max(DEGREE, -(-n_bytes // 8)), np.uint64)  # leading zeros change no remainder
    message = words.view(np.uint8)[-n_bytes:]
    message[: len(START)] = list(START)
    message[len(START) :] = data
    rest = _delete(words)
    rest = _delete(rest.view(np.uint8))
    return _divide(rest.tobytes()) ^ 0xFFFFFFFF


def masked_crc32c(data):
    """The CRC32C as TensorFlow stores it, rotated and shifted -> int."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def _delete(units):
    """Delete words or bytes, in place, until DEGREE are left -> these, with the same remainder."""
    end = len(units) - DEGREE
    for begin in range(0, end, DISTANCES[0]):
        deleted = units[begin : min(begin + DISTANCES[0], end)]
        for distance in DISTANCES:
            units[begin + distance : begin + distance + len(deleted)] ^= deleted
    return units[end:]


def _divide(message):
    """The textbook algorithm: the remainder of bytes, one bit at a time from a register of 0."""
    register = 0
    for byte in message.lstrip(b"\0"):
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return register

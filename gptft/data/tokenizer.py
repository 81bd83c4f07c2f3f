"""GPT-2's byte-pair encoding: text to token ids and back.

A regular expression cuts the text into words. The bytes of a word start as one token each, and the
50,000 merges of `assets/vocab.bpe` join neighbouring tokens, the earliest merge first. The id of a
token is its rank: 256 single bytes, then the merges in file order, then 50256 for `<|endoftext|>`.
tiktoken does the merging, in Rust; this file hands it the bundled merge list, so that nothing is
downloaded.

Not here: training a vocabulary (read minbpe for that).
Source: Radford et al. 2019, section 2.2; OpenAI's gpt-2 `encoder.py` for the byte alphabet.

Next on the evening's path: data/classification.py.
"""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import tiktoken

from gptft.errors import CheckpointError

VOCAB_SIZE = 50257
VOCAB_BPE = Path(__file__).parents[1] / "assets" / "vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

# Contractions; a run of letters, of digits or of other characters, each with at most one space
# before it; white space.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# tiktoken's regular expressions abort the process on a run of about a million blanks. A run of this
# many is encoded apart, as the one piece that it is.
LONG_RUN = 100_000  # characters
BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # tiktoken's \s
LONG_BLANKS = re.compile(rf"(?<!{BLANK}){BLANK}{{{LONG_RUN},}}(?={BLANK}|$)")


class Tokenizer:
    """`encode(text)` returns a list of ids, `decode(ids)` the text.

    Text is never anything but text: a literal "<|endoftext|>" in it becomes seven ordinary tokens.

    Args:
        special_tokens: names of further tokens, with ids from 50257 on. No text encodes to them.

    Attributes:
        eot: 50256, the id of the token that ends a text.
        special: dict, the name of each special token -> its id.
    """

    def __init__(self, special_tokens=()):
        self.eot = VOCAB_SIZE - 1
        names = ["<|endoftext|>", *special_tokens]
        self.special = {name: self.eot + i for i, name in enumerate(names)}
        alphabet = byte_alphabet()
        ranks = {}
        for token, id in read_vocabulary().items():
            ranks[bytes(alphabet[character] for character in token)] = id
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=self.special
        )
        self._one_piece = tiktoken.Encoding(
            "gpt2", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, text):
        """str -> list[int], each id below 50256."""
        ids = []
        start = 0
        for run in LONG_BLANKS.finditer(text) if len(text) >= LONG_RUN else ():
            ids += self._encoding.encode_ordinary(text[start : run.start()])
            ids += self._one_piece.encode_ordinary(run[0])
            start = run.end()
        return ids + self._encoding.encode_ordinary(text[start:])

    def encode_batch(self, texts):
        """list[str] -> list of (n,) uint16 arrays, encoded on all cores."""
        short = [text if len(text) < LONG_RUN else "" for text in texts]
        encoded = self._encoding.encode_ordinary_batch(short, num_threads=os.cpu_count() or 1)
        for i, text in enumerate(texts):
            if len(text) >= LONG_RUN:
                encoded[i] = self.encode(text)
        return [np.array(ids, dtype=np.uint16) for ids in encoded]

    def decode(self, ids):
        """list[int] -> str. Bytes that are not UTF-8 (half a character) become U+FFFD."""
        return self._encoding.decode(ids, errors="replace")

    def decode_bytes(self, ids):
        """list[int] -> the bytes of the tokens."""
        return self._encoding.decode_bytes(ids)


def read_vocabulary(path=VOCAB_BPE):
    """Read a vocab.bpe file -> dict, each token but <|endoftext|>, in its spelling there -> its id.

    The first line is the version. Every other line holds the two tokens of a merge, for example
    "Ġ t", in which Ġ is the character of the byte 32, a space.

    Raises CheckpointError if the file is not GPT-2's, to the byte.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != VOCAB_BPE_SHA256:
        raise CheckpointError(f"GPT-2's merge list has changed, {path}; restore it from git")
    tokens = list(byte_alphabet())
    for line in content.decode("utf-8").splitlines()[1:]:
        tokens.append(line.replace(" ", ""))
    return {token: id for id, token in enumerate(tokens)}


def byte_alphabet():
    """The 256 bytes in GPT-2's order: dict, the character that vocab.bpe has for a byte -> the
    byte.

    Printable bytes are written as themselves and come first. The 68 others follow as U+0100,
    U+0101 and so on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}

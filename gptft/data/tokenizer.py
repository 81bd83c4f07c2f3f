"""GPT-2's byte-pair encoding: text to token ids and back.

A regular expression cuts the text into words. The bytes of a word start as one token each, and the
50,000 merges of `assets/vocab.bpe` join neighbouring tokens, the earliest merge first:

    Ġ t h e  ->  Ġt h e  ->  Ġt he  ->  Ġthe        (Ġ is a space)
                 merge 0     merge 2    merge 6

The id of a token is its rank: 256 single bytes, then the merges in file order, then 50256 for
`<|endoftext|>`. Merging needs these ranks and nothing else: of all adjacent pairs, the one that
makes the token of lowest rank is merged, until no pair makes a token. tiktoken does this, in Rust;
this file hands it the ranks from the bundled merge list, so that nothing is downloaded.

Not here: training a vocabulary (read minbpe for that).
Source: Radford et al. 2019, section 2.2; OpenAI's gpt-2 `encoder.py` for the byte alphabet.

Next on the evening's path: data/classification.py.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken

from gptft.data.long_blanks import LONG_TEXT, encode_long
from gptft.errors import CheckpointError

VOCAB_SIZE = 50257
VOCAB_BPE = Path(__file__).parents[1] / "assets" / "vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

# Each alternative is one kind of word: the end of a contraction; letters, digits or other
# characters, with the space before them if there is one; white space, without its last blank if a
# word follows: "a   b" is "a", two blanks, " b".
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


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
        alphabet = byte_alphabet()  # vocab.bpe spells each byte as a printable character
        self._ranks = {}
        for token, id in read_vocabulary().items():
            content = bytes(alphabet[character] for character in token)
            self._ranks[content] = id
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=self._ranks, special_tokens=self.special
        )

    def encode(self, text):
        """str -> list[int], each id below 50256."""
        if len(text) >= LONG_TEXT:  # the same ids, but long runs of blanks break tiktoken
            return encode_long(text, self._encoding, self._ranks)
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts):
        """list[str] -> list of (n,) uint16 arrays, on all cores: tiktoken releases the GIL."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            encoded = pool.map(self.encode, texts)
            return [np.array(ids, dtype=np.uint16) for ids in encoded]

    def decode(self, ids):
        """list[int] -> str. Bytes that are not UTF-8 (half a character) become U+FFFD."""
        return self._encoding.decode(ids, errors="replace")

    def decode_bytes(self, ids):
        """list[int] -> the bytes of the tokens."""
        return self._encoding.decode_bytes(ids)


def read_vocabulary(path=VOCAB_BPE):
    """Read a vocab.bpe file -> dict, token -> id: {"!": 0, ..., "Ġt": 256, ...}.

    The first line is the version. Every other line holds the two tokens of a merge, such as "Ġ t".
    Tokens are spelled as in the file, and <|endoftext|> is not among them.

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
    """The 256 bytes in GPT-2's order: dict, character -> byte, {"!": 33, ..., "Ġ": 32, ...}.

    vocab.bpe is text, in which blanks separate tokens. So only the printable bytes are written as
    themselves; they come first. The 68 others follow as U+0100, U+0101 and so on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}

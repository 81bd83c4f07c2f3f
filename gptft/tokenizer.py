"""GPT-2's byte-pair encoding: text -> token ids and back.

The pieces are GPT-2's own: a regular expression cuts text into words, the bytes of a word start as one token each, and
the 50,000 merges of `assets/vocab.bpe` join neighbouring tokens, earliest merge first. A token's id is its rank:
256 bytes, then the merges in file order, then 50256 for `<|endoftext|>`. tiktoken does the merging (in Rust, with
threads); this file only hands it the merge list from the package, so the network is never touched.

Left out: training a vocabulary (read minbpe for that).
Source: Radford et al. 2019, section 2.2; OpenAI's gpt-2 `encoder.py` for the byte alphabet.
"""

import contextlib
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken

from gptft.errors import CheckpointError

VOCAB_BPE = Path(__file__).parent / "assets" / "vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

# Contractions; a run of letters, of digits, or of neither, each with at most one leading space; white space.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# tiktoken's regular expressions give up (the whole process panics) on a run of about a million blanks.
LONGEST = 100_000  # characters
TEXTS = 256  # that a thread takes at a time
BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # what \s means to tiktoken
LONG_RUN = re.compile(f"(?<!{BLANK}){BLANK}{{{LONGEST},}}")


def byte_alphabet():
    """The 256 bytes in GPT-2's order, each with the printable character that stands for it in vocab.bpe.

    Printable bytes stand for themselves and come first; the 68 others follow as U+0100, U+0101, ...
    Returns: dict[str, int], character -> byte, in rank order.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def read_merges(path=VOCAB_BPE, sha256=VOCAB_BPE_SHA256):
    """Read a vocab.bpe file -> dict[bytes, int], token -> rank. Raises CheckpointError if the bytes are not as expected."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"GPT-2's merge list can't be read, {path} ({error.strerror}); restore it from git"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f"GPT-2's merge list has changed (sha256 differs), {path}; restore it from git"
        )
    alphabet = byte_alphabet()
    ranks = {bytes([b]): rank for rank, b in enumerate(alphabet.values())}
    for line in content.decode("utf-8").splitlines()[1:]:  # line 0 is "#version: 0.2"
        pair = line.replace(" ", "")
        ranks[bytes(alphabet[c] for c in pair)] = len(ranks)
    return ranks


def _encoding(pattern, special=None):
    """tiktoken's encoding by GPT-2's merges, of the pieces that match a pattern."""
    return tiktoken.Encoding(
        name="gpt2", pat_str=pattern, mergeable_ranks=read_merges(), special_tokens=special or {}
    )


class Tokenizer:
    """`encode(text) -> list[int]`, `decode(ids) -> str`; `eot` (50256) marks the end of a text.

    Text is only ever text: a literal "<|endoftext|>" in it becomes seven ordinary tokens, never id 50256.
    special_tokens: names of further ids, from 50257 on, that no text encodes to; `special` maps every such name to its id.
    """

    VOCAB_SIZE = 50257
    fingerprint = VOCAB_BPE_SHA256[:12]  # a short name of this vocabulary, for caches of token ids

    def __init__(self, special_tokens=()):
        self.eot = self.VOCAB_SIZE - 1
        self.special = {
            name: self.eot + i for i, name in enumerate(["<|endoftext|>", *special_tokens])
        }
        self._encoding = _encoding(GPT2_PATTERN, self.special)

    def encode(self, text):
        """str -> list[int], each below 50256."""
        ids, begin = [], 0
        for run in LONG_RUN.finditer(text) if len(text) >= LONGEST else ():
            end = run.end() - (
                run.end() < len(text)
            )  # a run is one piece, but for its last character if something follows
            ids += self._encoding.encode_ordinary(
                text[begin : run.start()]
            ) + self._whole.encode_ordinary(text[run.start() : end])
            begin = end
        return ids + self._encoding.encode_ordinary(text[begin:])

    def encode_batch(self, texts, n_threads=2):
        """list[str] -> list of (n,) uint16 arrays, on `n_threads` threads outside Python's lock."""
        blocks = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
        plain = self._plain

        def encode(text):
            """As self.encode, without a Python list of the ids, which takes as long as finding them."""
            with contextlib.suppress(
                UnicodeEncodeError
            ):  # half a character, which self.encode replaces
                if len(text) < LONGEST:
                    return plain.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
            return np.array(self.encode(text), np.uint16)

        with ThreadPoolExecutor(n_threads) as pool:
            return [
                ids
                for block in pool.map(lambda block: list(map(encode, block)), blocks)
                for ids in block
            ]

    def decode(self, ids):
        """list[int] -> str. Bytes that are not UTF-8 (half a character) become U+FFFD."""
        return self._encoding.decode(ids, errors="replace")

    def decode_bytes(self, ids):
        """list[int] -> bytes, exactly the bytes the tokens stand for."""
        return self._encoding.decode_bytes(ids)

    @cached_property
    def _plain(self):
        """Without special tokens, for which tiktoken 0.9 takes their names in a text when it makes an array."""
        return _encoding(GPT2_PATTERN)

    @cached_property
    def _whole(self):
        """The same merges on a text that is not cut into pieces."""
        return _encoding("(?s:.+)")

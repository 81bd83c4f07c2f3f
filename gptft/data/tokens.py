"""Texts tokenised once: all token ids of a split in one flat array, and where each text starts.

A list of Python lists would take 8 to 36 bytes a token; GPT-2's ids fit in 2 (uint16), and one flat array can be
memory-mapped from disk, so a second start tokenises nothing. The cache's name holds a hash of the texts and
of the vocabulary: a changed text, order or tokenizer gives another name, and a stale cache is never read.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from gptft.files import write_atomic

IGNORED = -100  # the label of a token that is not learned; torch's cross-entropy skips it, too


class TokenStore:
    """`store[i]` -> the ids of text i, (n,) uint16. `lengths` is (N,) int64, `ids` is flat, `offsets` is (N + 1,) int64."""

    def __init__(self, ids, offsets):
        self.ids = ids
        self.offsets = offsets

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, i):
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self):
        return np.diff(self.offsets)

    @classmethod
    def build(cls, texts, tokenizer, cache=None, end=None):
        """Tokenise a list of str, or map the cached result.

        Args: `cache` is a path stem such as `data/imdb/.tokens/train` (two .npy files are written beside it, older ones
            of the same stem removed), or None for no cache. A folder that can't be written means no cache, not an error.
        `end` is an id put after each text; its store needs a stem of its own.
        """
        if cache is None:
            return cls(*_tokenise(texts, tokenizer, end))
        cache = Path(cache)
        key = fingerprint(texts, tokenizer)
        ids_file, offsets_file = (
            cache.with_name(f"{cache.name}-{key}.{part}.npy") for part in ("ids", "offsets")
        )
        try:
            return cls(*_read_cache(ids_file, offsets_file))
        except Exception:  # absent or damaged: numpy's reader raises many kinds
            ids, offsets = _tokenise(texts, tokenizer, end)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            stale = [p for p in cache.parent.glob(f"{cache.name}-*.npy") if key not in p.name]
            write_atomic(offsets_file, lambda file: np.save(file, offsets))
            write_atomic(ids_file, lambda file: np.save(file, ids))
            for path in stale:
                path.unlink(missing_ok=True)
            return cls(
                *_read_cache(ids_file, offsets_file)
            )  # mapped: processes share it, and memory is free again
        except OSError:
            return cls(ids, offsets)


def _read_cache(ids_file, offsets_file):
    ids, offsets = np.load(ids_file, mmap_mode="r"), np.load(offsets_file)
    if ids.dtype != np.uint16 or ids.shape != (offsets[-1],):
        raise ValueError("the two files don't belong together")
    return ids, offsets


def cache_stem(source, split):
    """Where the tokens of a split of `source`, as --data names it, are cached: beside the data; None for the bundled sample."""
    path = Path(source)
    if source == "sample":
        return None
    return (
        path / ".tokens" / split
        if path.is_dir()
        else path.parent / ".tokens" / f"{path.stem}-{split}"
    )


def _tokenise(texts, tokenizer, end):
    encoded = tokenizer.encode_batch(texts, n_threads=os.cpu_count() or 1)
    if end is not None:
        encoded = [np.append(ids, np.uint16(end)) for ids in encoded]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.concatenate([np.empty(0, np.uint16), *encoded]), offsets


def fingerprint(texts, tokenizer):
    """list[str] -> 16 hex digits over the vocabulary and the texts, each with its length so that no two lists look alike."""
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]

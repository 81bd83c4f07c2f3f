"""The tokenizer against OpenAI's table and the known ids of known texts."""

import json
import random
import re
import socket

import numpy as np
import pytest

from gptft.data import long_blanks
from gptft.data import tokenizer as module
from gptft.data.long_blanks import LONG_RUN
from gptft.data.tokenizer import VOCAB_SIZE, Tokenizer, byte_alphabet, read_vocabulary
from gptft.errors import CheckpointError


def test_known_ids(tokenizer):
    """From OpenAI's encoder, as many public tests quote them."""
    assert tokenizer.encode("Hello world") == [15496, 995]
    ids = [464, 3290, 373, 1043, 287, 257, 2214]
    assert tokenizer.decode(ids) == "The dog was found in a field"
    assert tokenizer.eot == 50256


def test_every_token_equals_openais_table(shared, tokenizer):
    table = json.loads((shared / "gpt2_bpe" / "encoder.json").read_text(encoding="utf-8"))
    assert len(table) == VOCAB_SIZE == 50257 and table.pop("<|endoftext|>") == 50256
    byte_of = byte_alphabet()
    for token, id in table.items():
        assert tokenizer.decode_bytes([id]) == bytes(byte_of[character] for character in token)


TEXTS = [
    "",
    "naïve café 北京 🙂👩‍👩‍👧",
    " leading and trailing  ",
    "a\n\n\nb\t",
    "don't they'll",
    "x" * 10_000,
    "long " * 30_000,
    "a<|endoftext|>b",  # in a text it is text
]


def test_round_trip(tokenizer):
    batch = tokenizer.encode_batch(TEXTS)
    for text, ids in zip(TEXTS, batch, strict=True):
        assert ids.dtype == np.uint16 and ids.tolist() == tokenizer.encode(text)
        assert tokenizer.decode(ids.tolist()) == text and tokenizer.eot not in ids


def test_half_a_character(tokenizer):
    """Neither half of a character in bytes nor half of one in UTF-16 raises."""
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("🙂")[:1])
    assert tokenizer.encode("half \ud83d") == tokenizer.encode_batch(["half \ud83d"])[0].tolist()


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the tokenizer opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    assert Tokenizer().encode("offline")


def test_a_changed_merge_list_is_refused(tmp_path):
    """Line ends turned to CRLF by git or an editor would shift every token."""
    changed = tmp_path / "vocab.bpe"
    changed.write_bytes(module.VOCAB_BPE.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CheckpointError, match="merge list has changed"):
        read_vocabulary(changed)


def test_endless_blanks(tokenizer, monkeypatch):
    """tiktoken panics on a run of a million blanks. Encoded apart, the run gives the same ids."""
    text = "a\t" + " " * 1_100_000 + "b"
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode("a\t") + [220] * 1_099_999 + tokenizer.encode(" b")
    assert tokenizer.encode_batch([text, "c"])[0].tolist() == ids
    rng, alphabet = random.Random(0), " \n\t\r\x0b\x1c\x85\xa0\u2003\u3000a1!é" + " " * 9
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(30))) for _ in range(500)]
    expected = [tokenizer.encode(text) for text in texts]  # tiktoken's own
    monkeypatch.setattr(module, "LONG_TEXT", 3)
    three_blanks = LONG_RUN.pattern.replace(str(long_blanks.LONG_TEXT), "3")
    monkeypatch.setattr(long_blanks, "LONG_RUN", re.compile(three_blanks))
    assert [tokenizer.encode(text) for text in texts] == expected

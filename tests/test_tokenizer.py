"""The tokenizer against OpenAI's own tables and the known ids of known texts."""

import json
import random
import re
import socket

import numpy as np
import pytest

from gptft.errors import CheckpointError
from gptft.tokenizer import BLANK, Tokenizer, byte_alphabet, read_merges


def test_known_ids(tokenizer):
    # From OpenAI's encoder, as quoted in many public tests.
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert (
        tokenizer.decode([464, 3290, 373, 1043, 287, 257, 2214]) == "The dog was found in a field"
    )
    assert tokenizer.eot == 50256


def test_every_token_equals_openais_table(shared, tokenizer):
    table = json.loads((shared / "gpt2_bpe" / "encoder.json").read_text(encoding="utf-8"))
    to_byte = byte_alphabet()
    for token, id in table.items():
        if token != "<|endoftext|>":
            assert tokenizer.decode_bytes([id]) == bytes(to_byte[c] for c in token)
    assert len(table) == 50257 == Tokenizer.VOCAB_SIZE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "naïve café 北京 🙂👩‍👩‍👧",
        " leading and trailing  ",
        "a\n\n\nb\t",
        "don't they'll",
        "x" * 10_000,
    ],
)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_is_its_texts(tokenizer, monkeypatch):
    texts = [
        "",
        "a <|endoftext|> b",
        "half a \ud83d character",
        " 漢字" * 50,
        "long " * 30_000,
        "x",
        "y",
    ]
    for at_once in (2, 256):
        monkeypatch.setattr("gptft.tokenizer.TEXTS", at_once)
        batch = tokenizer.encode_batch(texts)
        assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
        assert all(ids.dtype == np.uint16 for ids in batch)


def test_end_of_text_in_a_text_is_only_text(tokenizer):
    # A review that contains the marker must neither raise nor end the document.
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eot not in ids and tokenizer.decode(ids) == "a<|endoftext|>b"


def test_half_a_character_does_not_raise(tokenizer):
    first_half = tokenizer.encode("🙂")[:1]
    assert "\ufffd" in tokenizer.decode(first_half)


def test_never_touches_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the tokenizer opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    assert Tokenizer().encode("offline")


def test_changed_merge_list_is_refused(tmp_path):
    # Line ends turned to CRLF by git or an editor would shift every token in silence.
    changed = tmp_path / "vocab.bpe"
    changed.write_bytes(b"#version: 0.2\r\nh e\r\n")
    with pytest.raises(CheckpointError, match="sha256"):
        read_merges(changed)
    with pytest.raises(CheckpointError, match="can't be read"):
        read_merges(tmp_path / "absent.bpe")


def test_endless_blanks(tokenizer, monkeypatch):
    """tiktoken panics on a run of a million blanks, which a file may hold; cut into pieces it gives the same ids."""
    text = "a\t" + " " * 1_100_000 + "b"
    ids = tokenizer.encode(text)
    assert (
        ids[:2] == tokenizer.encode("a\t")
        and ids[2:-1] == [220] * 1_099_999
        and ids[-1:] == tokenizer.encode(" b")
    )
    assert tokenizer.encode_batch([text, "c"])[0].tolist() == ids
    rng, alphabet = random.Random(0), " \n\t\r\x0b\x1c\x85\xa0\u2003\u3000a1!é" + " " * 9
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(30))) for _ in range(500)]
    expected = [tokenizer.encode(text) for text in texts]  # too short to be cut: tiktoken's own
    monkeypatch.setattr("gptft.tokenizer.LONGEST", 3)
    monkeypatch.setattr("gptft.tokenizer.LONG_RUN", re.compile(f"(?<!{BLANK}){BLANK}{{3,}}"))
    assert [tokenizer.encode(text) for text in texts] == expected

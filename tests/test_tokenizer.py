"""The tokenizer against OpenAI's own tables and the known ids of known texts."""

import json
import socket

import pytest

from gptft.errors import CheckpointError
from gptft.tokenizer import Tokenizer, byte_alphabet, read_merges


def test_known_ids(tokenizer):
    # From OpenAI's encoder, as quoted in many public tests.
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.decode([464, 3290, 373, 1043, 287, 257, 2214]) == "The dog was found in a field"
    assert tokenizer.eot == 50256


def test_every_token_equals_openais_table(shared, tokenizer):
    table = json.loads((shared / "gpt2_bpe" / "encoder.json").read_text(encoding="utf-8"))
    to_byte = byte_alphabet()
    for token, id in table.items():
        if token != "<|endoftext|>":
            assert tokenizer.decode_bytes([id]) == bytes(to_byte[c] for c in token)
    assert len(table) == 50257 == Tokenizer.VOCAB_SIZE


@pytest.mark.parametrize("text", ["", "naïve café 北京 🙂👩‍👩‍👧", " leading and trailing  ", "a\n\n\nb\t", "don't they'll", "x" * 10_000])
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, "other"]) == [tokenizer.encode(text), tokenizer.encode("other")]


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

"""`python -m data_prep.gpt2` with a tiny GPT-2 in a folder in place of OpenAI's site."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bundle_writer import write_gpt2
from mutations import FIXTURES

from data_prep import gpt2
from gptft.checkpoints.folders import load_model
from gptft.config import GPT2Config
from gptft.data.tokenizer import VOCAB_BPE, read_vocabulary
from gptft.model import GPT2

OUT = Path("checkpoints/124M")
TINY = GPT2Config(vocab_size=60, n_positions=32, n_embd=8, n_layer=2, n_head=2)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The folder behind the address of OpenAI's site."""
    site = tmp_path / "official" / "124M"
    site.mkdir(parents=True)
    write_gpt2(site, TINY)
    shutil.copy(VOCAB_BPE, site)
    (site / "encoder.json").write_text(json.dumps(read_vocabulary() | {"<|endoftext|>": 50256}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpt2, "URLS", [f"{site.parent.as_uri()}/{{size}}/{{file}}"])
    size = (site / gpt2.DATA).stat().st_size
    monkeypatch.setattr(gpt2, "KNOWN", {"124M": {gpt2.DATA: (size,)}})
    monkeypatch.setattr(gpt2, "GPT2Config", SimpleNamespace(named=lambda size: TINY))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return site


def run(*argv):
    words = [str(arg) for arg in argv]
    return gpt2.main(words)


def damage(path):
    """Change one byte: same size, other content."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_is_fetched_once(site, capsys):
    assert run() == 0
    assert set(os.listdir(OUT)) == set(gpt2.FILES)
    assert load_model(OUT).config == TINY
    shutil.rmtree(site)
    assert run() == 0
    assert "all checksums match" in capsys.readouterr().out


def test_an_interrupted_download_is_no_model_and_continues(site, capsys):
    (site / gpt2.DATA).rename(site / "elsewhere")
    assert run() == 2
    assert gpt2.DATA in capsys.readouterr().err
    assert not OUT.exists()
    (site / "elsewhere").rename(site / gpt2.DATA)
    (site / gpt2.INDEX).unlink()  # fetched already
    assert run() == 0


@pytest.mark.parametrize("file", [gpt2.DATA, gpt2.INDEX])
def test_wrong_bytes_of_the_right_size_are_removed(site, file):
    """Where no sha256 is known, the checksums inside the checkpoint reveal them."""
    damage(site / file)
    assert run() == 2
    assert os.listdir(OUT.parent) == []
    damage(site / file)  # undoes it
    assert run() == 0


@pytest.mark.parametrize(
    "file, content",
    [
        (gpt2.DATA, "<!DOCTYPE html><html>Sign in</html>"),
        (gpt2.DATA, ""),
        (gpt2.HPARAMS, "{"),
        (gpt2.HPARAMS, '{"n_vocab": 60, "n_ctx": 32, "n_embd": 8, "n_layer": 2, "n_head": 4}'),
    ],
)
def test_other_files_are_refused(site, capsys, file, content):
    (site / file).write_text(content)
    assert run() == 2
    assert not OUT.exists()
    assert capsys.readouterr().err.count("error: ") == 1


def test_a_folder_is_imported(site):
    assert run("--from-folder", site) == 0
    assert load_model(OUT).config == TINY


@pytest.mark.parametrize(
    "spoil",
    [
        lambda site: damage(site / gpt2.DATA),
        lambda site: (site / gpt2.INDEX).unlink(),
        shutil.rmtree,
    ],
)
def test_a_bad_folder_is_neither_imported_nor_changed(site, spoil):
    spoil(site)
    before = sorted(site.glob("*"))
    assert run("--from-folder", site) == 2
    assert sorted(site.glob("*")) == before
    assert not OUT.parent.exists()


@pytest.mark.parametrize("size", gpt2.KNOWN)
def test_known_sizes_fit_the_shapes(size):
    """A mistyped digit would refuse every correct download. A weight takes 4 bytes."""
    with torch.device("meta"):
        n_weights = sum(p.numel() for p in GPT2(GPT2Config.named(size)).parameters())
    known = gpt2.KNOWN[size]
    assert known[gpt2.DATA][0] == 4 * n_weights
    assert known["vocab.bpe"][0] == VOCAB_BPE.stat().st_size


def test_check_verifies_checksums_and_loads(tmp_path, capsys):
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    assert run("--check", folder) == 0
    printed = capsys.readouterr().out
    assert "checksums of 28 variables" in printed
    assert "outputs not compared" in printed
    damage(folder / gpt2.DATA)
    assert run("--check", folder) == 2
    assert "CRC32C" in capsys.readouterr().err


@pytest.mark.parametrize("agree, code, word", [(True, 0, "ok     "), (False, 2, "DIFFERS")])
def test_check_prints_each_answer_and_fails_if_one_differs(monkeypatch, capsys, agree, code, word):
    answers = [("one", [1], [1], True), ("two", -1.25, -1.5, agree)]
    folder = FIXTURES / "tf_gpt2"
    config = load_model(folder).config
    monkeypatch.setattr(gpt2, "known_answers", lambda model: answers)
    monkeypatch.setattr(gpt2, "GPT2Config", SimpleNamespace(named=lambda size: config))
    assert run("--check", folder) == code
    printed = capsys.readouterr().out
    assert "ok       one\n" in printed
    assert f"{word}  two\n         -1.25\n         -1.5\n" in printed


def test_known_answers_have_the_published_lengths(tokenizer):
    """They were copied: a lost letter would change the tokens."""
    lengths = [len(tokenizer.encode(text)) for _, texts in gpt2.CONTINUATIONS for text in texts]
    assert lengths == [18, 13, 13, 39]
    assert len(tokenizer.encode(gpt2.TEXT)) == 17
    assert len(gpt2.LOG_PROBS) == 17


def test_known_answers_are_compared_with_the_models(monkeypatch, tokenizer):
    """This model stops after 18 tokens, which is too early for the third continuation."""

    def generate(model, prompts, max_new_tokens, temperature):
        assert temperature == 0
        texts = [tokenizer.decode(ids) for ids in prompts]
        for known_prompts, answers in gpt2.CONTINUATIONS:
            if known_prompts == texts:
                return [tokenizer.encode(answer)[: min(max_new_tokens, 18)] for answer in answers]

    monkeypatch.setattr(gpt2, "generate", generate)
    torch.manual_seed(0)
    model = GPT2(GPT2Config(n_embd=8, n_layer=1, n_head=1)).eval()
    answers = list(gpt2.known_answers(model))
    assert [agree for *_, agree in answers] == [True, True, False, False]
    ids = [tokenizer.eot, *tokenizer.encode(gpt2.TEXT)]
    probabilities = model(torch.tensor([ids]))[0].softmax(-1)
    by_hand = [probabilities[t, ids[t + 1]].log().item() for t in range(17)]
    assert answers[3][1] == pytest.approx(by_hand, abs=1e-5)

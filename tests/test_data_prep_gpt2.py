"""`python -m data_prep.gpt2` against a server on this machine, with a tiny GPT-2 that takes the place of each size."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundle_writer import write_gpt2
from mutations import FIXTURES

from data_prep import gpt2
from gptft.checkpoints.gpt2_names import weight_table
from gptft.config import GPT2Config
from gptft.errors import CheckpointError
from gptft.model import GPT2
from gptft.pretrained import load_model
from gptft.tokenizer import VOCAB_BPE

TINY = GPT2Config(vocab_size=60, n_positions=32, n_embd=8, n_layer=2, n_head=2)


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that a server publishes as official/124M; the second address is mirror/124M, empty at first."""
    official = tmp_path / "site" / "official" / "124M"
    official.mkdir(parents=True)
    write_gpt2(official, TINY)
    for name in ("encoder.json", "vocab.bpe"):
        (official / name).write_text(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "site"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(
        gpt2, "ADDRESSES", [f"{base}/{place}/{{size}}/{{file}}" for place in ("official", "mirror")]
    )
    monkeypatch.setattr(
        gpt2, "KNOWN", {"124M": {gpt2.DATA: ((official / gpt2.DATA).stat().st_size, None)}}
    )
    monkeypatch.setattr(gpt2, "GPT2Config", SimpleNamespace(named=lambda size: TINY))
    yield official
    server.shutdown()
    server.server_close()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "checkpoints" / "124M"


def run(*argv):
    return gpt2.main([str(arg) for arg in argv])


def damage(path):
    """Change one byte: same size, other content."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_fetches_a_checkpoint_that_loads(site, out, capsys):
    assert run("--out", out) == 0
    assert sorted(file.name for file in out.iterdir()) == sorted(gpt2.FILES)
    assert load_model(out).config == TINY
    assert "all checksums right" in capsys.readouterr().out
    assert run("--out", out) == 0  # once more finds all in place


def test_two_processes_fetch_the_same_folder(site, out):
    # Each file is fetched by one of them; both end with the whole checkpoint.
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(run("--out", out))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0] and load_model(out).config == TINY


def test_takes_from_the_mirror_what_the_official_site_lacks(site, out):
    mirror = site.parents[1] / "mirror" / "124M"
    mirror.mkdir(parents=True)
    (site / gpt2.DATA).rename(mirror / gpt2.DATA)
    assert run("--out", out) == 0
    assert load_model(out).config == TINY


def test_an_interrupted_download_is_no_model(site, out, capsys):
    # hparams.json comes last, so what is there so far can't be taken for a checkpoint.
    (site / gpt2.DATA).unlink()
    assert run("--out", out) == 2
    assert gpt2.DATA in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        load_model(out)


@pytest.mark.parametrize("file", [gpt2.DATA, gpt2.INDEX])
def test_wrong_bytes_of_the_right_size_are_found_and_removed(site, out, capsys, file):
    # For three of the sizes no sha256 is known: the checksums inside the checkpoint must do.
    damage(site / file)
    assert run("--out", out) == 2
    assert "not GPT-2 124M" in capsys.readouterr().err
    assert not (out / gpt2.DATA).exists() and not (out / gpt2.HPARAMS).exists()
    damage(site / file)  # mends it
    assert run("--out", out) == 0


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", b"", b"cut short"])
def test_a_page_or_a_piece_is_not_taken_for_the_weights(site, out, content):
    (site / gpt2.DATA).write_bytes(content)
    assert run("--out", out) == 2
    assert not (out / gpt2.DATA).exists()


def test_another_shape_in_hparams(site, out, capsys):
    text = (site / gpt2.HPARAMS).read_text()
    for other in (text.replace('"n_head": 2', '"n_head": 4'), "{"):
        (site / gpt2.HPARAMS).write_text(other)
        assert run("--out", out) == 2
        assert gpt2.HPARAMS in capsys.readouterr().err
        assert not (out / gpt2.HPARAMS).exists()


def test_imports_a_folder_that_was_carried_in(site, out):
    (site / "encoder.json").unlink()  # not needed to load
    assert run("--from-folder", site, "--out", out) == 0
    assert load_model(out).config == TINY and (out / "vocab.bpe").exists()


def test_a_bad_folder_is_not_imported_and_not_touched(site, out, tmp_path):
    damage(site / gpt2.DATA)
    before = sorted(file.name for file in site.iterdir())
    assert run("--from-folder", site, "--out", out) == 2
    assert run("--from-folder", site, "--out", site) == 2  # its files would be removed as bad
    assert run("--from-folder", tmp_path / "nowhere", "--out", out) == 2
    assert sorted(file.name for file in site.iterdir()) == before
    (site / gpt2.INDEX).unlink()
    assert run("--from-folder", site, "--out", out) == 2
    with pytest.raises(CheckpointError):
        load_model(out)


@pytest.mark.parametrize("size", gpt2.SIZES)
def test_the_known_sizes_are_those_of_the_shapes(size):
    # A digit mistyped would refuse every right download: 4 bytes for each weight of the shape.
    n_weights = sum(np.prod(shape) for _, shape, _ in weight_table(GPT2Config.named(size)).values())
    assert gpt2.KNOWN[size][gpt2.DATA][0] == 4 * n_weights
    assert gpt2.KNOWN[size]["vocab.bpe"][0] == VOCAB_BPE.stat().st_size


# ---------------------------------------------------------------- --check and --convert


def test_check_reads_all_bytes_and_loads(tmp_path, capsys):
    folder = shutil.copytree(FIXTURES / "tf_gpt2", tmp_path / "copy")
    assert run("--check", folder) == 0
    printed = capsys.readouterr().out
    assert "checksums of 28 variables" in printed and "nothing compared" in printed
    damage(folder / gpt2.DATA)
    assert run("--check", folder) == 2
    assert "CRC32C" in capsys.readouterr().err


@pytest.mark.parametrize("ok", [True, False])
def test_check_prints_each_answer_and_fails_if_one_differs(monkeypatch, capsys, ok):
    # A check whose exit code can't fail would pass in every script.
    answers = [("one", [1], [1], True), ("two", -1.25, -1.5, ok)]
    monkeypatch.setattr(gpt2, "known_answers", lambda model: iter(answers))
    monkeypatch.setattr(gpt2, "_has_shape", lambda config, size: True)
    assert run("--check", FIXTURES / "tf_gpt2") == (0 if ok else 2)
    printed = capsys.readouterr()
    assert "ok        one" in printed.out and "-1.25" in printed.out and "-1.5" in printed.out
    assert ok or ("DIFFERS   two" in printed.out and "(two)" in printed.err)


def test_known_answers_are_as_long_as_they_are_said_to_be(tokenizer):
    # They were copied from elsewhere: a letter lost on the way would change the number of tokens.
    assert len(gpt2.IDS_ANSWER) == 18 and tokenizer.decode(gpt2.IDS_ANSWER).startswith(
        " was found in a field near"
    )
    assert [len(tokenizer.encode(text)) for text in gpt2.PAIR_ANSWERS] == [13, 13]
    assert len(tokenizer.encode(gpt2.TURING_ANSWER)) == 39
    assert len(tokenizer.encode(gpt2.SCALING)) == len(gpt2.SCALING_LOG_PROBS) == 17


class Parrot:
    """A model that has read only the known answers: it continues each token sequence as they do."""

    def __init__(self, tokenizer):
        texts = [prompt + answer for prompt, answer in zip(gpt2.PAIR, gpt2.PAIR_ANSWERS)]
        self.known = [
            gpt2.IDS + gpt2.IDS_ANSWER,
            *map(tokenizer.encode, [*texts, gpt2.TURING + gpt2.TURING_ANSWER]),
        ]

    def __call__(self, token_ids):
        logits = torch.zeros(*token_ids.shape, 50257)
        for b, row in enumerate(token_ids.tolist()):
            for t in range(len(row)):
                for known in self.known:
                    if known[: t + 1] == row[: t + 1] and t + 1 < len(known):
                        logits[b, t, known[t + 1]] = 1
        return logits


def test_known_answers_compare_what_the_model_says(tokenizer):
    # The three continuations come out right, the uniform log-probabilities do not.
    answers = list(gpt2.known_answers(Parrot(tokenizer)))
    assert [ok for *_, ok in answers] == [True, True, True, False]
    assert "-10.8249" in answers[3][1]  # log of 1 / 50257


def test_greedy_rows_do_not_depend_on_their_mates():
    # The shorter row is padded: reading its logits at the padded end would give other tokens.
    torch.manual_seed(0)
    model = GPT2(TINY).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6]]
    assert gpt2.greedy(model, prompts, 6) == [
        gpt2.greedy(model, [prompt], 6)[0] for prompt in prompts
    ]
    row = [9]
    for _ in range(6):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert gpt2.greedy(model, [[9]], 6) == [row[1:]]


def test_log_probs_are_those_of_the_tokens_that_follow():
    model = GPT2(TINY).eval()
    ids = [5, 7, 11, 13]
    table = model(torch.tensor([ids]))[0].softmax(-1)
    by_hand = [table[t, ids[t + 1]].log().item() for t in range(3)]
    assert gpt2.log_probs(model, ids) == pytest.approx(by_hand, abs=1e-5)


def test_convert(tmp_path, capsys):
    assert run("--convert", FIXTURES / "tf_gpt2", "--out", tmp_path / "hf") == 0
    ours, converted = (
        load_model(FIXTURES / "tf_gpt2").state_dict(),
        load_model(tmp_path / "hf").state_dict(),
    )
    assert all(torch.equal(ours[name], converted[name]) for name in ours)
    assert run("--convert", FIXTURES / "tf_gpt2", "--out", tmp_path / "hf") == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--size", "125M"], ["--check", "a", "--convert", "b"], ["--check", "nowhere"]]
)
def test_mistakes_are_one_line(argv, capsys):
    assert run(*argv) == 2
    assert capsys.readouterr().err.count("\n") == 1

"""Pretraining: the document mask, the restricted head, the units, and scripts/pretrain.py as a person types it."""

import json
import math
import signal

import numpy as np
import pytest
import torch

from gptft import trainer
from gptft.config import GPT2Config
from gptft.cooccurrence import STD
from gptft.data.documents import WindowBatch, Windows
from gptft.evaluate import stream_metrics
from gptft.hardware import choose_hardware, evaluating
from gptft.language import stream_loss
from gptft.model import GPT2, document_mask
from gptft.pretrained import load_model
from gptft.tokenizer import Tokenizer
from scripts import pretrain

E = 50256
SMALL = GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=2, dropout=0.0)
TINY = [
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "8",
    "--n-positions",
    "32",
    "--precision",
    "fp32",
    "--batch-size",
    "4",
]


def small(config=SMALL):
    torch.manual_seed(0)
    model = GPT2(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


# ---------------------------------------------------------------- documents apart


def test_document_mask_by_hand():
    positions, mask = document_mask(torch.tensor([[7, 8, E, 9, E, E, 3]]), E)
    assert positions.tolist() == [[0, 1, 0, 1, 0, 0, 1]]
    expected = ["1", "11", "001", "0011", "00001", "000001", "0000011"]
    assert [
        "".join(map(str, row[: i + 1])) for i, row in enumerate(mask[0, 0].int().tolist())
    ] == expected
    assert not torch.triu(mask[0, 0], 1).any()


@pytest.mark.parametrize("learning", [False, True])  # bf16 that learns has another attention kernel
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("T", [12, 300])  # the second is longer than a block of the kernel
def test_a_document_is_not_moved_by_another_one_by_a_single_bit(T, precision, learning):
    """Restarted positions alone don't stop attention from looking across the border."""
    model, border = (
        small(
            GPT2Config(vocab_size=1000, n_positions=T, n_embd=16, n_layer=2, n_head=2, dropout=0.0)
        ),
        999,
    )
    rows, second = torch.randint(0, 900, (2, T)), slice(T // 2, None)
    rows[:, T // 2] = border
    rows[1, second] = rows[0, second]  # two first documents, one second document
    with (
        evaluating(model, choose_hardware("cpu", precision, "off")),
        torch.set_grad_enabled(learning),
    ):
        apart, causal, alone = model(rows, begin_id=border), model(rows), model(rows[:1, second])
    assert (apart[0, second] - apart[1, second]).abs().max() == 0
    assert (
        causal[0, second] - causal[1, second]
    ).abs().max() > 0.01  # what it would be without the mask
    tolerance = 1e-4 if precision == "fp32" else 0.2
    assert torch.allclose(apart[0, second], alone[0], atol=tolerance)
    assert torch.allclose(apart[:, : T // 2], causal[:, : T // 2], atol=tolerance)


def test_the_mask_goes_through_recomputed_blocks():
    rows = torch.tensor([[5, 6, E, 7, 8, 9]])
    batch = WindowBatch(rows, torch.roll(rows, -1, 1), 6, 6)
    model, gradients = small().train(), []
    for model.checkpoint_activations in (False, True):
        model.zero_grad()
        stream_loss(model, batch, begin_id=E).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients))


# ---------------------------------------------------------------- loss and units


def test_restricted_loss_chooses_among_its_tokens_alone():
    model, kept = small(), [3, 5, 11, E]
    stream = np.array([3, 11, 4, 5, E, 9, 3], dtype=np.uint16)
    ids, targets = Windows(stream, 6, np.array(kept))[0]
    batch = WindowBatch(*(torch.from_numpy(part)[None] for part in (ids, targets)), 4, 6)
    logits = model(torch.from_numpy(ids)[None])[0].double()
    expected = 0.0
    for t, following in enumerate(stream[1:].tolist()):
        if following in kept:
            expected -= (logits[t, following].exp() / logits[t, kept].exp().sum()).log().item()
    assert stream_loss(model, batch, vocabulary=torch.tensor(kept)).item() == pytest.approx(
        expected, rel=1e-5
    )
    # All tokens: the plain cross-entropy.
    ids, targets = (torch.from_numpy(part)[None] for part in Windows(stream, 6)[0])
    plain = torch.nn.functional.cross_entropy(model(ids)[0], targets[0], reduction="sum")
    assert stream_loss(model, WindowBatch(ids, targets, 6, 6)).item() == pytest.approx(
        plain.item(), rel=1e-5
    )


def test_restricted_gradient_stays_in_its_rows_of_the_head():
    model = small()
    ids = torch.tensor([[700, 701, 702]])
    stream_loss(
        model, WindowBatch(ids, torch.tensor([[0, 1, -100]]), 2, 3), vocabulary=torch.tensor([3, 5])
    ).backward()
    moved = model.wte.weight.grad.any(1).nonzero().flatten().tolist()
    assert moved == [3, 5, 700, 701]  # what is chosen among, and what is read before a target


def test_units_by_hand():
    """A model without an opinion gives each of V tokens 1 / V: loss ln V, perplexity V, log2 V bits for each token."""
    model, tokenizer = GPT2(SMALL), Tokenizer()
    torch.nn.init.zeros_(model.ln_f.weight)
    texts = ["naïve", "a b c d e f g"]
    stream = np.array(
        [id for text in texts for id in [*tokenizer.encode(text), E]], dtype=np.uint16
    )
    n_bytes = sum(len(text.encode()) for text in texts)
    hardware = choose_hardware("cpu", "fp32", "off")
    for T in (1, 4, 32):  # neither the windows' length nor how it divides the stream matters
        with evaluating(model, hardware):
            metrics = stream_metrics(model, Windows(stream, T), stream_loss, hardware, 2, n_bytes)
        assert (metrics["n"], metrics["tokens"], n_bytes) == (2, len(stream), 6 + 13)
        assert metrics["loss"] == pytest.approx(math.log(50257), rel=1e-6)
        assert metrics["perplexity"] == pytest.approx(50257, rel=1e-4)
        assert metrics["bits_per_byte"] == pytest.approx(
            len(stream) * math.log2(50257) / n_bytes, rel=1e-6
        )
    with evaluating(model, hardware):
        metrics = stream_metrics(
            model,
            Windows(stream, 4, np.array([E, 300])),
            lambda m, b: stream_loss(m, b, None, torch.tensor([E, 300])),
            hardware,
            2,
            n_bytes,
        )
    assert metrics["loss"] == pytest.approx(math.log(2)) and "bits_per_byte" not in metrics


# ---------------------------------------------------------------- the script


@pytest.fixture
def data(tmp_path):
    """A file of short documents that all go the same way."""
    path = tmp_path / "my.jsonl"
    rows = [
        {"text": f"{i} is the number and the end is near, as it is of all numbers"}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def less_work(monkeypatch):
    monkeypatch.setattr(pretrain, "NEW", 4)
    monkeypatch.setattr(pretrain, "EVAL_TOKENS", 3000)


def run(*argv):
    return pretrain.main([*map(str, argv)])


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_own_data_is_learned_and_reported(tmp_path, data, capsys, monkeypatch):
    out, borders = tmp_path / "run", set()
    monkeypatch.setattr(
        "gptft.language.stream_loss",
        lambda *args, **how: borders.add(how["begin_id"]) or stream_loss(*args, **how),
    )
    assert (
        run(
            "--data",
            data,
            *TINY,
            "--epochs",
            6,
            "--learning-rate",
            0.03,
            "--document-mask",
            "--out",
            out,
        )
        == 0
    )
    results = results_of(out)
    assert borders == {E}  # in training and in evaluation
    assert {
        "task",
        "model",
        "data",
        "device",
        "precision",
        "seconds",
        "tokens_per_second",
        "train",
        "val",
        "test",
    } <= set(results)
    assert [results[split]["n"] for split in ("train", "val", "test")] == [48, 6, 6]
    val, tokenizer = results["val"], Tokenizer()
    texts = [json.loads(line)["text"] for line in open(data, encoding="utf-8")]
    assert sum(results[split]["tokens"] for split in ("train", "val", "test")) == sum(
        len(tokenizer.encode(text)) + 1 for text in texts
    )
    assert val["loss"] < 3 and val["perplexity"] == pytest.approx(math.exp(val["loss"]))
    n_bytes = val["loss"] * val["tokens"] / math.log(2) / val["bits_per_byte"]
    assert n_bytes == pytest.approx(sum(len(t) for t in pretrain_val_texts(data)), rel=1e-9)
    rows = [
        json.loads(line)
        for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    printed = capsys.readouterr().out
    assert len(rows) == 2 and all(
        row["prompt"] in printed and row["response"] in printed for row in rows
    )
    assert all(
        row["prompt"] == text[: len(row["prompt"])] != ""
        for row, text in zip(rows, pretrain_val_texts(data))
    )
    assert (
        "0 texts that stand in val or test were left out" in printed
        and "within a document" in printed
    )
    assert all(
        f"(longest passage that was trained on: {row['copied']} tokens)" in printed
        and row["copied"] >= 1
        for row in rows
    )
    assert "bits_per_byte: loss x tokens" in printed and (out / "report.html").exists()


def pretrain_val_texts(data):
    from gptft.data.documents import load_documents

    return load_documents(data, 0).splits["val"]


def test_vectors_from_counts_are_all_that_differs_at_the_start(tmp_path, data):
    """A step of rate 0 leaves the weights as they were."""
    starts = {}
    for embedding in ("random", "counts"):
        out = tmp_path / embedding
        assert (
            run(
                "--data",
                data,
                *TINY,
                "--embedding",
                embedding,
                "--max-steps",
                1,
                "--learning-rate",
                0,
                "--out",
                out,
            )
            == 0
        )
        starts[embedding] = load_model(out)
    random, counts = (model.state_dict() for model in starts.values())
    assert {name for name in random if not torch.equal(random[name], counts[name])} == {
        "wte.weight"
    }
    often = Tokenizer().encode(" is the number and end near, as it of all numbers")
    assert random["wte.weight"][often].std() < 0.025 < counts["wte.weight"][often].std() < 2 * STD


def test_two_stages(tmp_path, data, capsys):
    """The first chooses among few tokens, says so in each result, and its weights are an ordinary start of the second."""
    assert (
        run("--data", data, *TINY, "--head-tokens", 6, "--max-steps", 3, "--out", tmp_path / "one")
        == 0
    )
    printed = capsys.readouterr().out
    assert "the 6 most frequent tokens alone" in printed and "bits_per_byte" not in printed
    one = results_of(tmp_path / "one")
    assert (
        one["head_tokens"] == 6 and one["val"]["loss"] < 2 and "bits_per_byte" not in one["val"]
    )  # chance: ln 6 = 1.79
    assert one["val"]["tokens"] < 6 * 17
    assert (
        run(
            "--data",
            data,
            "--model",
            tmp_path / "one",
            "--precision",
            "fp32",
            "--batch-size",
            4,
            "--max-steps",
            3,
            "--out",
            tmp_path / "two",
        )
        == 0
    )
    two = results_of(tmp_path / "two")
    assert (
        two["val"]["loss"] > 5
        and "bits_per_byte" in two["val"]
        and "length 32" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "extra",
    [
        ["--document-mask"],
        ["--head-tokens", "20", "--micro-batch-size", "3"],
        ["--embedding", "counts"],
    ],
)
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(tmp_path, data, monkeypatch, extra):
    argv = ["--data", data, *TINY, "--epochs", 2, "--dropout", 0.1, "--eval-every", 4, *extra]
    assert run(*argv, "--out", tmp_path / "whole") == 0
    step = trainer._Trainer.train_step

    def step_and_signal(self):
        step(self)
        if self.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "train_step", step_and_signal)
        assert run(*argv, "--out", tmp_path / "parts") == 130
    assert run(*argv, "--out", tmp_path / "parts", "--resume") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert results_of(tmp_path / "whole")["val"] == results_of(tmp_path / "parts")["val"]


def test_no_arguments_run_says_what_it_does_and_what_the_real_run_is(tmp_path, capsys):
    assert (
        run("--max-steps", 1, "--batch-size", 1, "--max-length", 8, "--out", tmp_path / "run") == 0
    )
    printed = capsys.readouterr().out
    assert "mini, pretrained weights of this package" in printed
    assert (
        "python scripts/pretrain.py --data data/imdb" in printed.split("step ")[0]
        and "480 train, 120 val, 200 test" in printed
    )


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--data", "no/such.txt"], "no/such.txt"),
        (["--data", "data/absent/imdb"], "python -m data_prep.imdb"),
        (["--head-tokens", "-1"], "--head-tokens must be at least 0"),
        (["--embedding", "counts"], "--embedding counts is for a model from scratch"),
        (["--max-length", "513"], "--max-length 513 is above the model's n_positions, 512"),
        (["--model", "124M"], "python -m data_prep.gpt2 --size 124M"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(refuses, argv, says):
    refuses(run, argv, says)

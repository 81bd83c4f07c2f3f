"""scripts/benchmark.py at a size that takes seconds: every part runs and writes finite figures; the formulas by hand."""

import json
import math
import os

import pytest

from gptft.config import GPT2Config
from scripts import benchmark
from scripts.speed import flops_per_token, n_weights, race, take_turns

TINY = [
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "8",
    "--repeat",
    "1",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--no-peers",
]


@pytest.fixture
def data(tmp_path):
    """A prepared folder of 24 reviews."""
    for split, n in (("train", 12), ("val", 6), ("test", 6)):
        rows = [
            {
                "text": f"{split} film {i} was {('dull', 'fine')[i % 2]} " * (1 + i % 3),
                "label": i % 2,
            }
            for i in range(n)
        ]
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return tmp_path


def measured(tmp_path, *argv):
    out = tmp_path / "figures.json"
    assert benchmark.main([*map(str, argv), *TINY, "--json", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_every_part_gives_finite_figures(tmp_path, data, capsys):
    # A part that is broken would be noticed on the day the figures are wanted, hours into a run.
    parts = ("train-step", "epoch", "generate", "load", "tokenize", "baseline")
    sizes = [
        "--length",
        "16",
        "--prompt-tokens",
        "4",
        "--new-tokens",
        "4",
        "--rows",
        "10",
        "--batch-size",
        "2",
    ]
    found = measured(tmp_path, *parts, *sizes, "--data", data)
    assert found["machine"]["flops_per_second"] > 1e8 and found["machine"]["bytes_per_second"] > 1e8
    assert found["machine"]["versions"]["torch"]
    rows = found["rows"]
    count = {part: sum(row["part"] == part for row in rows) for part in parts}
    assert count == {
        "train-step": 2,
        "epoch": 1,
        "generate": 1,
        "load": 4,
        "tokenize": 2,
        "baseline": 2,
    }
    for row in rows:
        assert (
            0 < row["shortest"] <= row["seconds"] <= row["longest"] < math.inf
            and row["peak_bytes"] > 1e7
        )
        assert all(0 < rate < math.inf for rate in row["rates"].values())
        assert row["utilisation"] is None or 0 < row["utilisation"] < 1
        assert (row["utilisation"] is None) == (row["part"] in ("load", "tokenize", "baseline"))
    epoch = next(row for row in rows if row["part"] == "epoch")
    assert epoch["rates"]["reviews/s"] == pytest.approx(10 / epoch["seconds"])
    assert epoch["rates"]["tokens/s"] > 5 * epoch["rates"]["reviews/s"]
    printed = capsys.readouterr().out
    assert (
        all(row["what"] in printed and row["who"] in printed for row in rows)
        and "of the limit" in printed
    )


def test_peers_with_the_same_weights(tmp_path, data):
    """Their first loss equals ours: another batch, another loss or dropout left on would be another race."""
    pytest.importorskip("transformers", reason="transformers, the peer, is not installed")
    options = benchmark.Options(
        model="mini", n_layer=1, n_head=2, n_embd=8, precision="fp32", device="cpu"
    )
    model, _ = benchmark.theirs(options, "lm")
    ids = benchmark.random_ids(options, 2, 16)
    ours = benchmark.ours(options).eval()(ids)
    assert (model.eval()(ids).logits - ours).abs().max() < 1e-5
    for task in ("classifier", "lm"):
        benchmark.train_step(options, "transformers, best", task, 2, 16)()
    benchmark.text(
        benchmark.dataclasses.replace(options, prompt_tokens=4, new_tokens=3), "transformers", 2
    )()


def test_what_saves_memory_in_train_step(monkeypatch):
    options = benchmark.Options(
        model="mini",
        n_layer=2,
        n_head=2,
        n_embd=8,
        precision="fp32",
        train="lora",
        checkpoint_activations=True,
    )
    built, build = [], benchmark.build_optimizer
    monkeypatch.setattr(
        benchmark,
        "build_optimizer",
        lambda model, *rest: built.append(model) or build(model, *rest),
    )
    for task in ("classifier", "lm"):
        benchmark.train_step(options, "gptft", task, 2, 16)()
    for model in built:
        body = getattr(model, "transformer", model)
        assert (
            body.checkpoint_activations
            and not body.wte.weight.requires_grad
            and body.h[0].attn.c_attn.lora_B.requires_grad
        )


def test_flops_by_hand():
    # 124,439,808 weights less 786,432 of positions; 6 x 123,653,376 + 12 x 12 x 768 x 1024 = 855.17 million.
    config = GPT2Config()
    assert (
        n_weights(config) == 123_653_376
        and n_weights(config, head=False) == 123_653_376 - 50257 * 768
    )
    assert flops_per_token(config, 1024) == 855_166_464
    from gptft.model import GPT2

    small = GPT2Config(n_positions=16, n_embd=8, n_layer=3, n_head=2)
    assert n_weights(small) == sum(p.numel() for p in GPT2(small).parameters()) - 16 * 8


# ---------------------------------------------------------------- contenders, who live in other processes


def note(path, name):
    """A contender that notes its turns."""

    def run():
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name} {os.getpid()}\n")

    return run


def own_clock():
    return lambda: (2.0, 50, 400)


def broken():
    raise ValueError("no weights")


def test_contenders_take_turns_in_processes_of_their_own(tmp_path):
    # One after the other, each twice, what slows the machine down for a minute would hit one of them.
    turns = take_turns({name: (note, tmp_path / "turns", name) for name in "ab"}, 3)
    names, processes = zip(
        *(line.split() for line in (tmp_path / "turns").read_text(encoding="utf-8").splitlines())
    )
    assert (
        "".join(names) == "ababab"
        and len(set(processes)) == 2
        and str(os.getpid()) not in processes
    )
    assert [len(turns[name]) for name in "ab"] == [3, 3]


def test_a_contender_with_a_clock_of_its_own(capsys):
    [row] = race(
        "an epoch", {"gptft": (own_clock,)}, {"reviews/s": 10}, 1000.0, repeat=1, warm_up=False
    )
    assert row["seconds"] == 2.0 and row["rates"] == {"tokens/s": 25.0, "reviews/s": 5.0}
    assert row["utilisation"] == pytest.approx(400 / 2.0 / 1000)  # flops over time over the limit


def test_a_contender_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="ValueError: no weights"):
        take_turns({"gptft": (broken,)}, 1)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["train-step", "--n-embd", "9", "--n-head", "2"], "n_embd must be a multiple of n_head"),
        (["train-step", "--model", "tiny"], "unknown model 'tiny'"),
        (["everything"], "invalid choice: 'everything'"),
        (["generate", "--repeat", "0"], "--repeat must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    assert benchmark.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1

"""Files damaged at random, in every format that the project reads: each is read, or refused with an
error of the project's own.

    GPTFT_FUZZ_SECONDS=60 python -m pytest -s tests/test_fuzz.py    CPU seconds for each format

Case n of a format comes from a generator seeded with (format, n), so a failure is repeated by its
number, which goes into KEPT. Bytes are damaged as in mutations.py, which also damages the files of
weights. JSON is damaged as values too: something is removed, doubled, renamed, or replaced by a
value that does not belong there.
"""

import contextlib
import dataclasses
import gzip
import io
import itertools
import json
import os
import shutil
import time
import zlib
from collections import Counter
from pathlib import Path

import mutations
import numpy as np
import pytest
from test_bad_input import GROUPS, TASKS, TINY, archive, build, lines
from toy_run import OPTIONS, ToyTexts, toy_model, toy_trainer

from data_prep import imdb
from gptft.checkpoints.folders import load_model
from gptft.data.examples import load_instructions, load_reviews
from gptft.data.records import read_records
from gptft.errors import UserError
from gptft.evaluation.tasks import load_tasks
from gptft.report.__main__ import main as report
from gptft.training import state
from gptft.training.run_folder import open_run
from scripts import finetune_alpaca

SECONDS = float(os.environ.get("GPTFT_FUZZ_SECONDS", 0.5))
KEPT = {}  # format: [numbers of cases that once failed]

# ---------------------------------------------------------------- damage

ODD = [None, True, -1, 0, 2, 10**30, 0.5, 1e308, float("nan"), float("inf"), [], [[]], [0, 1], {}]
ODD += ["", " ", "x", "1", "train", "\ud800", "\x1b[2J", "9" * 400, {"": 0}]
TAR_JUNK = [b"\0", b"7", b"\xff", b"\x80" + bytes(10) + b"\x01", b"../x", b"L", b"S", b"-1 "]


def pick(generator, values):
    return values[generator.integers(len(values))]


def change(generator, value):
    """A JSON value with one place changed."""
    if not isinstance(value, dict | list) or not value or generator.random() < 0.1:
        return pick(generator, ODD)
    value, how = value.copy(), generator.integers(8)
    key = pick(generator, list(value) if isinstance(value, dict) else range(len(value)))
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, list):
        value.insert(key, value[key])
    elif how == 1:
        value[str(pick(generator, ODD))] = value.pop(key)
    else:
        value[key] = change(generator, value[key])
    return value


def damaged_json(generator, content, is_lines):
    """JSON, or JSON Lines, with damaged values and perhaps damaged bytes."""
    values = [json.loads(text) for text in (content.splitlines() if is_lines else [content])]
    values = values if is_lines else values[0]
    for _ in range(generator.integers(0, 4)):
        values = change(generator, values)
    texts = map(json.dumps, values if is_lines and isinstance(values, list) else [values])
    content = "\n".join(texts).encode()
    kind = generator.integers(20)
    if kind == 0:  # deeper than Python's parser goes
        at = mutations.place(generator, content)
        return content[:at] + b"[" * 100_000 + content[at:]
    return mutations.mutate(generator, content) if kind < 8 else content


def damaged_tar(generator, content):
    """A tar with damaged headers, most of which have a checksum that fits."""
    tar = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        at = 512 * int(generator.integers(len(tar) // 512))
        start, junk = at + generator.integers(500), pick(generator, TAR_JUNK)
        tar[start : start + len(junk)] = junk
        if generator.random() < 0.8:
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
    return bytes(tar)


def damaged(generator, name, content):
    """The content of a file, damaged as fits its name."""
    inner, _, suffix = name.rpartition(".")
    if suffix == "gz" and generator.random() < 0.8:  # where the checksum of gzip fits
        return gzip.compress(damaged(generator, inner, gzip.decompress(content)), 1)
    if suffix == "tar":
        return damaged_tar(generator, content)
    if suffix in ("json", "jsonl"):
        return damaged_json(generator, content, suffix == "jsonl")
    return mutations.mutate(generator, content)


# ---------------------------------------------------------------- formats


def files(make, names, read):
    """A format: folder -> case(generator).

    make(folder) writes good files, of which `names` are damaged, one at a time. read(folder) checks
    what its reader promises, or raises UserError.
    """

    def prepare(folder):
        make(folder)
        good = {name: (folder / name).read_bytes() for name in names}

        def case(generator):
            name = pick(generator, names)
            mutations.replace(folder / name, damaged(generator, name, good[name]))
            try:
                read(folder)
                return "read"
            except UserError as error:
                # The error names the file, or its folder; that of an adapter may name its base.
                assert str(folder) in str(error) or name.endswith("adapter_config.json")
                return "refused"
            finally:
                mutations.replace(folder / name, good[name])

        return case

    return prepare


def data_file(name, content, read):
    data = content.encode()
    data = gzip.compress(data) if name.endswith(".gz") else data
    return files(
        lambda folder: (folder / name).write_bytes(data),
        [name],
        lambda folder: read(folder / name),
    )


def read_reviews(path):
    found = load_reviews(path)
    assert list(found.splits) == ["train", "val", "test"]
    assert len(set(found.classes)) == len(found.classes) >= 2
    for reviews in found.splits.values():
        assert reviews and len({review.id for review in reviews}) == len(reviews)
        for review in reviews:
            assert review.text.strip() and review.label in range(len(found.classes))


def read_instructions(path):
    for examples in load_instructions(path).splits.values():
        assert examples and all(example.instruction and example.output for example in examples)


def read_documents(path):
    assert all(record.fields["text"].strip() for record in read_records(path))


def read_archive(folder):
    found = imdb.read_archive(folder / "a.tar.gz")
    assert {group: len(reviews) for group, reviews in found.items()} == dict.fromkeys(GROUPS, 5)


def model(source, name):
    """A folder with a model: one of the fixtures, or one that `build` makes."""

    def make(folder):
        if source in ("classifier", "adapter"):
            build("lm", folder / "lm")  # the base of the adapter
            build(source, folder / "m")
        else:
            shutil.copytree(mutations.FIXTURES / source, folder / "m")

    def read(folder):
        assert all(weight.isfinite().all() for weight in load_model(folder / "m").parameters())

    return files(make, [f"m/{name}"], read)


def toy_state(folder, resume):
    """A Trainer, and its run folder."""
    trainer = toy_trainer(toy_model(), ToyTexts(8))
    trainer.run = open_run(folder / "run", ["x"], dataclasses.asdict(OPTIONS), resume)
    return trainer


def save_state(folder):
    trainer = toy_state(folder, resume=False)
    trainer.train_step()
    state.save(trainer)


def load_state(folder):
    trainer = toy_state(folder, resume=True)
    state.load(trainer)
    assert trainer.position.step == 1


def instruction_run(folder):
    """A run with responses to two prompts and three tasks."""
    Path("mine.jsonl").write_text(TASKS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gptft.evaluation.instructions.load_tasks", lambda: load_tasks()[::50])
        flags = f"--data mine.jsonl {TINY} --template short --out {folder}/run"
        assert finetune_alpaca.main(flags.split()) == 0


def report_on(make):
    names = ("results.json", "run.json", "metrics.jsonl", "predictions.jsonl", "examples.jsonl")

    def read(folder):
        report.__wrapped__([str(folder / "run")])

    return files(make, [f"run/{name}" for name in names], read)


SPLITS = ("train", "val", "test")
REVIEWS = [
    {"id": f"r{i}", "text": f"text {i} " * (i % 3 + 1), "label": i % 2, "split": SPLITS[i % 3]}
    for i in range(12)
]
TABLE = "\n".join(",".join(f'"{cell}"' for cell in row.values()) for row in REVIEWS)
CSV = f"id,text,label,split\n{TABLE}\n"
DATA = {
    "a.jsonl": lines(*REVIEWS),
    "a.json": json.dumps(REVIEWS),
    "a.csv": CSV,
    "a.tsv": CSV.replace(",", "\t"),
    "a.jsonl.gz": lines(*REVIEWS),
    "a.csv.gz": CSV,
}
TURNS = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "so"}]

FORMATS = {name: data_file(name, content, read_reviews) for name, content in DATA.items()} | {
    "instructions": data_file("a.jsonl", TASKS + lines({"messages": TURNS}), read_instructions),
    "documents": data_file("a.txt", "One.\n\nTwo é.\n<|endoftext|>\nThree.\n", read_documents),
    "archive": files(lambda folder: archive(folder / "a.tar.gz"), ["a.tar.gz"], read_archive),
    "config.json": model("classifier", "config.json"),
    "adapter_config.json": model("adapter", "adapter_config.json"),
    "hparams.json": model("tf_gpt2", "hparams.json"),
    "safetensors index": model("hf_lm_sharded", "model.safetensors.index.json"),
    "run.json and state": files(save_state, ["run/run.json", "run/last/state.pt"], load_state),
    "classification run": report_on(lambda folder: build("run", folder / "run")),
    "instruction run": report_on(instruction_run),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imdb, "COUNTS", dict.fromkeys(GROUPS, 5))
    case, outcomes = FORMATS[name](tmp_path), Counter()
    numbers = itertools.chain(KEPT.get(name, []), itertools.count())
    end = time.process_time() + SECONDS
    while outcomes.total() < 3 or time.process_time() < end:
        number = next(numbers)
        generator = np.random.default_rng((zlib.crc32(name.encode()), number))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                outcomes[case(generator)] += 1
        except BaseException:
            print(f"\nFAILED: case {number} of {name}")
            raise
    print(f"\n{name}: {dict(outcomes)}")

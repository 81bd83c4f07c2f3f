"""Files damaged at random, in every format the project reads: each is read, or refused by an error of the project's own.

    GPTFT_FUZZ_SECONDS=60 python -m pytest -s tests/test_fuzz.py    longer (of CPU per format; half a second by default)

Case n of a format is drawn from a generator seeded with (format, n), so a failing one is repeated by its number, which
goes into KEPT. Bytes are damaged as in mutations.py; JSON also as values: something removed, doubled, renamed, or
replaced by what should not stand there. What is read must also hold what its reader promises.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import time
import zlib

import mutations
import numpy as np
import pytest
import torch
from test_data_prep_imdb import COUNTS, member, official, write_tar

import gptft.report
from data_prep import imdb
from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.data.alpaca import load_instructions
from gptft.data.imdb import load_reviews
from gptft.data.sources import read_records
from gptft.data.tokens import TokenStore
from gptft.errors import CheckpointError, DataError, UserError
from gptft.lora import add_adapters, save_adapter
from gptft.metrics import classification_metrics
from gptft.pretrained import load_model, save_model
from gptft.run import Run, open_run
from gptft.tasks import load_tasks, task_results
from gptft.text_metrics import Response, text_metrics

SECONDS = float(os.environ.get("GPTFT_FUZZ_SECONDS", 0.5))
KEPT = {
    "adapter_config.json": [270],
    "run.json and state": [62121],
}  # format: [numbers of cases that once failed]

ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "1",
    "train",
    "\ud800",
    "\x1b[2J",
    "9" * 400,
    [],
    [[]],
    [0, 1],
    {},
    {"": 0},
]


def pick(generator, values):
    return values[generator.integers(len(values))]


def change(generator, value):
    """One place of a JSON value changed."""
    if not isinstance(value, (dict, list)) or not value or generator.random() < 0.1:
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


def damaged_json(generator, values, separator=None):
    """A JSON value, or JSON Lines if there is a separator, damaged -> bytes."""
    for _ in range(generator.integers(0, 4)):
        values = change(generator, values)
    if separator is None or not isinstance(values, list):
        content = json.dumps(values).encode()
    else:
        content = separator.join(json.dumps(value) for value in values).encode()
    kind = generator.integers(20)
    if kind == 0:  # deeper than Python's parser goes
        at = mutations.place(generator, content)
        return content[:at] + b"[" * 100_000 + content[at:]
    return mutations.mutate(generator, content) if kind < 8 else content


# ---------------------------------------------------------------- formats: folder -> case(generator)


def data_file(name, load, check, records):
    """A case of `--data`: `load` reads a damaged file of this name, `check` looks at what it found."""

    def prepare(folder):
        path = folder / name
        columns = list(records[0])
        table = "\n".join(",".join(f'"{record.get(c)}"' for c in columns) for record in records)

        def case(generator):
            if path.suffix == ".csv":
                content = mutations.mutate(generator, f"{','.join(columns)}\n{table}\n".encode())
            else:
                content = damaged_json(
                    generator, records, "\n" if path.suffix == ".jsonl" else None
                )
            mutations.replace(path, content)
            try:
                found = load(path)
            except DataError as error:
                assert path.name in str(error)
                return "refused"
            check(found)
            return "read"

        return case

    return prepare


def check_reviews(found):
    assert (
        list(found.splits) == ["train", "val", "test"]
        and len(set(found.classes)) == len(found.classes) >= 2
    )
    for reviews in found.splits.values():
        assert reviews and len({review.id for review in reviews}) == len(reviews)
        assert all(
            0 <= review.label < len(found.classes) and review.text.strip() for review in reviews
        )


def check_instructions(found):
    assert list(found.splits) == ["train", "val", "test"] and all(found.splits.values())
    assert all(
        example.instruction and example.output
        for examples in found.splits.values()
        for example in examples
    )


def check_records(found):
    assert found and all(record.fields["text"].strip() for record in found)


REVIEWS = [
    {
        "id": f"r{i}",
        "text": f"text {i} " * (i % 3 + 1),
        "label": i % 2,
        "split": ("train", "val", "test")[i % 3],
    }
    for i in range(12)
]
TASKS = [
    {"instruction": f"do {i}", "input": "it" * (i % 2), "output": f"done {i}"} for i in range(12)
]
TASKS += [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "so"}]}
    for i in range(6)
]


def reviews_folder(folder):
    """A folder's classes.json."""
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"text": r["text"], "label": r["label"]}) + "\n" for r in REVIEWS),
        encoding="utf-8",
    )

    def case(generator):
        mutations.replace(folder / "classes.json", damaged_json(generator, ["bad", "good"]))
        try:
            check_reviews(load_reviews(folder))
            return "read"
        except DataError:
            return "refused"

    return case


def text_file(folder):
    def case(generator):
        mutations.replace(
            folder / "a.txt",
            mutations.mutate(generator, "One.\n\nTwo é.\n<|endoftext|>\nThree.\n".encode() * 5),
        )
        try:
            check_records(read_records(folder / "a.txt"))
            return "read"
        except DataError:
            return "refused"

    return case


def archive(folder):
    """The IMDb archive, damaged in the tar, which gzip then finds whole, or in the gzip."""
    path = write_tar(folder / "a.tar.gz", [member(name, data) for name, data in official().items()])
    packed, tar, good = (
        path.read_bytes(),
        gzip.decompress(path.read_bytes()),
        imdb.read_archive(path),
    )

    def case(generator):
        inside = generator.random() < 0.8
        content = (
            gzip.compress(headers(generator, tar), 1)
            if inside
            else mutations.mutate(generator, packed)
        )
        mutations.replace(path, content)
        try:
            found = imdb.read_archive(path)
        except DataError:
            return "refused"
        assert {group: len(of) for group, of in found.items()} == COUNTS
        assert inside or found == good  # behind a checksum
        return "read"

    return case


def headers(generator, tar):
    """A tar damaged in one header or more, or anywhere."""
    tar = bytearray(mutations.mutate(generator, tar) if generator.random() < 0.3 else tar)
    for _ in range(generator.integers(1, 4)):
        at = 512 * int(generator.integers(max(1, len(tar) // 512)))
        fields = [
            (0, 100),
            (100, 24),
            (124, 12),
            (148, 8),
            (156, 1),
            (157, 100),
            (257, 8),
            (329, 16),
            (345, 155),
        ]
        begin, size = pick(generator, fields)
        junk = pick(
            generator,
            [
                b"\0",
                b"7",
                b"\xff",
                b"\x80" + bytes(10) + b"\x01",
                b"../x",
                b"x",
                b"g",
                b"L",
                b"S",
                b"-1 ",
                b" ",
            ],
        )
        tar[at + begin : at + begin + min(size, len(junk))] = junk[:size]
        header = tar[at : at + 512]
        if generator.random() < 0.8 and len(header) == 512:  # make the header's own checksum fit
            header[148:156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(tar)


def classifier(folder):
    shape = GPT2Config(vocab_size=20, n_positions=8, n_embd=4, n_layer=1, n_head=2)
    save_model(GPT2Classifier(shape, pooling="mean", class_names=["bad", "good"]), folder)


def adapter(folder):
    """An adapter of the classifier beside it."""
    base = folder.with_name("base")
    classifier(base)
    adapted = load_model(base)
    add_adapters(adapted, 2, base=str(base))
    folder.mkdir()
    save_adapter(adapted, folder)


def model(make, *names):
    """A model's folder, made by a function or copied from fixtures, one of the named JSON files damaged."""

    def prepare(folder):
        copy = folder / "model"
        if callable(make):
            make(copy)
        else:
            shutil.copytree(mutations.FIXTURES / make, copy)
        originals = {name: (copy / name).read_bytes() for name in names}

        def case(generator):
            name = pick(generator, names)
            mutations.replace(copy / name, damaged_json(generator, json.loads(originals[name])))
            try:
                assert all(weight.isfinite().all() for weight in load_model(copy).parameters())
                return "read"
            except CheckpointError as error:
                assert str(copy) in str(error) or make is adapter  # which names its base
                return "refused"
            finally:
                mutations.replace(copy / name, originals[name])

        return case

    return prepare


def checkpoints(damage):
    """TensorFlow bundles and safetensors, by the campaigns of mutations.py, in pieces of 25."""

    def prepare(folder):
        def case(generator):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder / "x")
            (folder / "x").mkdir()
            damage(25, folder / "x", seed=generator.integers(2**32))
            return "25 files"

        return case

    return prepare


def token_cache(folder):
    """The arrays of token ids that a second start maps: damaged, they are made again."""
    from gptft.tokenizer import Tokenizer

    tokenizer, texts = Tokenizer(), ["One.", "", "two words"]
    TokenStore.build(texts, tokenizer, folder / "train")
    files = {path: path.read_bytes() for path in folder.iterdir()}

    def case(generator):
        path = pick(generator, list(files))
        mutations.replace(path, mutations.mutate(generator, files[path]))
        store = TokenStore.build(texts, tokenizer, folder / "train")
        assert len(store.offsets) and store.ids.dtype == np.uint16
        for path, content in files.items():
            mutations.replace(path, content)
        return "read"

    return case


def run_record(folder):
    """run.json, and the saved state, of a run that is resumed."""
    options = {"data": "mine.jsonl", "seed": 0, "epochs": 3, "learning_rate": 0.1, "model": None}
    run = open_run(folder / "run", ["python", "x.py"], options)
    run.save_state({"model": {"weight": torch.ones(3)}, "step": 3, "best": {"loss": 1.0}})
    files = {path: path.read_bytes() for path in (folder / "run" / "run.json", run.state_file)}
    record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))

    def case(generator):
        path = pick(generator, list(files))
        content = (
            damaged_json(generator, record)
            if path.name == "run.json"
            else mutations.mutate(generator, files[path])
        )
        mutations.replace(path, content)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                open_run(folder / "run", ["x"], options, resume=True)
                state = Run(folder / "run").load_state()
            assert torch.equal(state["model"]["weight"], torch.ones(3)) and state["step"] == 3
            return "read"
        except UserError as error:
            assert str(folder) in str(error)
            return "refused"
        finally:
            mutations.replace(path, files[path])

    return case


ABOUT = {
    "model": "m",
    "data": "d",
    "device": "cpu",
    "precision": "fp32",
    "seconds": 1.5,
    "tokens_per_second": 7,
    "best_step": 2,
}
STEP = {
    "epoch": 0.1,
    "loss": 1.0,
    "learning_rate": 0.1,
    "grad_norm": 1.0,
    "tokens_per_second": 9.0,
    "seconds": 1.0,
}
RECORD = {
    "command": "python x.py",
    "options": {"seed": 0, "data": "d"},
    "seed": 0,
    "versions": {"torch": "2"},
    "git_commit": None,
}


def classification_run(folder):
    scores = np.log(np.random.default_rng(0).dirichlet([1, 1], 12))
    metrics = classification_metrics(np.arange(12) % 2, scores)
    rows = [
        {"id": i, "label": i % 2, "probabilities": p, "words": 3}
        for i, p in enumerate(np.exp(scores).tolist())
    ]
    return damaged_run(
        folder,
        {
            "results.json": {
                "task": "classification",
                "classes": ["bad", "good"],
                "train": metrics,
                "val": metrics,
                "test": metrics,
            }
            | ABOUT,
            "predictions.jsonl": rows,
            "examples.jsonl": [
                rows[i] | {"text": "a b c", "tokens": [["a", 1.0], [" b c", -0.5]]}
                for i in range(3)
            ],
            "metrics.jsonl": [{"step": i} | STEP for i in range(3)] + [{"step": 3, "val": metrics}],
            "run.json": RECORD,
        },
    )


def instruction_run(folder):
    loss, tasks = {"n": 3, "loss": 1.0, "perplexity": 2.7, "response_tokens": 9}, load_tasks()
    test = loss | text_metrics([Response([1, 2], "a b", True)] * 3, ["a b"] * 3, ("###",))
    rates = {
        kind: task_results(tasks, [i % 3 == 0 for i in range(len(tasks))])
        for kind in ("written", "forced_choice")
    }
    splits = {"train": loss, "val": loss, "test": test, "tasks": rates}
    return damaged_run(
        folder,
        {
            "results.json": {
                "task": "instructions",
                "template": "short",
                "learned": "response",
                **splits,
                "base": splits,
            }
            | ABOUT,
            "examples.jsonl": [
                {
                    "id": i,
                    "instruction": "say",
                    "input": "",
                    "output": "a b",
                    "base": "x",
                    "tuned": "a",
                }
                for i in range(3)
            ],
            "metrics.jsonl": [{"step": i} | STEP for i in range(3)] + [{"step": 3, "val": loss}],
            "run.json": RECORD,
        },
    )


def damaged_run(folder, files):
    """A run that the report reads, {file: content}, one of its files damaged."""
    copy = folder / "run"
    copy.mkdir()

    def write(name, damaged=None):
        separator = "\n" if name.endswith("l") else None
        content = (
            damaged
            or (separator or "")
            .join(map(json.dumps, files[name] if separator else [files[name]]))
            .encode()
        )
        mutations.replace(copy / name, content)

    for name in files:
        write(name)
    other = shutil.copytree(copy, folder / "other")

    def case(generator):
        name = pick(generator, list(files))
        write(name, damaged_json(generator, files[name], "\n" if name.endswith("l") else None))
        told = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            code = gptft.report.main([str(copy), *([str(other)] if generator.integers(2) else [])])
        write(name)
        if code:
            assert (
                code == 2
                and told.getvalue().startswith("error: ")
                and told.getvalue().count("\n") == 1
                and str(copy) in told.getvalue()
            )
        return "refused" if code else "read"

    return case


FORMATS = {
    "reviews.jsonl": data_file("a.jsonl", load_reviews, check_reviews, REVIEWS),
    "reviews.csv": data_file("a.csv", load_reviews, check_reviews, REVIEWS),
    "reviews.json": data_file("a.json", load_reviews, check_reviews, REVIEWS),
    "instructions.jsonl": data_file("b.jsonl", load_instructions, check_instructions, TASKS),
    "classes.json": reviews_folder,
    "documents.txt": text_file,
    "tar.gz": archive,
    "tf bundle": checkpoints(mutations.damage_bundles),
    "safetensors": checkpoints(mutations.damage_safetensors),
    "config.json": model(classifier, "config.json"),
    "adapter_config.json": model(adapter, "adapter_config.json"),
    "hparams.json": model("tf_gpt2", "hparams.json"),
    "safetensors index": model("hf_lm_sharded", "model.safetensors.index.json"),
    "token cache": token_cache,
    "run.json and state": run_record,
    "classification run": classification_run,
    "instruction run": instruction_run,
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(imdb, "COUNTS", COUNTS)
    case, outcomes, slowest = FORMATS[name](tmp_path), {}, (0.0, 0)
    numbers, end, n = iter(KEPT.get(name, [])), time.process_time() + SECONDS, 0
    while n < 3 or time.process_time() < end:
        number = next(numbers, None)
        if number is None:
            number, n = n, n + 1
        began = time.process_time()
        try:
            outcome = case(np.random.default_rng((zlib.crc32(name.encode()), number)))
        except BaseException:
            print(f"\nFAILED: case {number} of {name}")
            raise
        slowest = max(slowest, (time.process_time() - began, number))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"\n{name}: {n:,} cases, {outcomes}, slowest {slowest[0]:.2f} s (case {slowest[1]})")

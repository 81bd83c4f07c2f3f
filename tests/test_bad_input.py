"""Bad input to every command: exit code 2, one `error:` line that names the place, and no file made, changed or lost.

Each row of the tables is a mistake a person can make, or a file that is damaged or hostile. The command runs in a folder
of its own that holds what the row asks for, and the folder is compared before and after.
"""

import ast
import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_prep_imdb import COUNTS, member, official, write_tar
from test_house import SOURCES

import gptft.generate
import gptft.predict
import gptft.report
from data_prep import alpaca, gpt2, imdb
from gptft.checkpoints.safetensors import read_safetensors, write_safetensors
from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.data.tokens import TokenStore
from gptft.errors import DataError, command
from gptft.lora import add_adapters, save_adapter
from gptft.metrics import classification_metrics
from gptft.model import GPT2
from gptft.pretrained import save_model
from scripts import benchmark, finetune_alpaca, finetune_imdb, pretrain, train_logreg

FIXTURES = Path(__file__).parent / "fixtures"
TINY = "--n-layer 1 --n-head 2 --n-embd 4 --n-positions 64 --max-length 32 --precision fp32 --max-steps 1"
SHAPE = GPT2Config(n_positions=64, n_embd=4, n_layer=1, n_head=2)


# ---------------------------------------------------------------- what the rows are made of


def lines(*records):
    """Records as JSONL."""
    return "".join(json.dumps(record) + "\n" for record in records)


def reviews(n=20, **more):
    return [{"text": f"text {i}", "label": i % 2, **more} for i in range(n)]


def tasks(n=20, **more):
    return [{"instruction": f"do {i}", "output": f"done {i}", **more} for i in range(n)]


REVIEWS, TASKS = lines(*reviews()), lines(*tasks())


def edit(path, change):
    """Change the JSON in a file."""
    path = Path(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content) or content), encoding="utf-8")


def weights(path, change):
    """Change the tensors of a safetensors file."""
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(path).items()}
    change(tensors)
    Path(path).unlink()
    write_safetensors(path, tensors)


def cut(path, share=0.5):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])


def lock(path):
    """Take the right to read a file away."""
    Path(path).chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def archive(*more):
    """a.tar.gz in the layout of the IMDb archive, with more members by name."""
    write_tar(
        Path("a.tar.gz"),
        [member(name, data) for name, data in official().items()] + [member(name) for name in more],
    )


def build(name, folder):
    """Make a good model or run, from which the rows go on."""
    torch.manual_seed(0)
    if name == "lm":
        lm = GPT2(SHAPE)
        lm.template = "short"
        save_model(lm, folder)
    elif name == "classifier":
        save_model(GPT2Classifier(SHAPE, class_names=["0", "1"]), folder)
    elif name == "small":
        save_model(GPT2(dataclasses.replace(SHAPE, vocab_size=100)), folder)
    elif name == "small_classifier":
        save_model(
            GPT2Classifier(dataclasses.replace(SHAPE, vocab_size=100), class_names=["0", "1"]),
            folder,
        )
    elif name == "adapter":  # of rank 2, for the model in ./lm
        lm = GPT2(SHAPE)
        add_adapters(lm, 2, base="lm")
        folder.mkdir()
        save_adapter(lm, folder)
    elif name == "bundle":
        shutil.copytree(FIXTURES / "tf_gpt2", folder)
    elif name == "finished":
        probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
        tables = {
            split: classification_metrics(np.array([0, 1, 1]), np.log(probabilities))
            for split in ("val", "test")
        }
        rows = [
            {"id": i, "label": int(i > 0), "probabilities": p, "words": 2}
            for i, p in enumerate(probabilities.tolist())
        ]
        folder.mkdir()
        run = {"task": "classification", "model": "toy", "data": "toys", "classes": ["bad", "good"]}
        (folder / "results.json").write_text(json.dumps(run | tables), encoding="utf-8")
        (folder / "predictions.jsonl").write_text(lines(*rows), encoding="utf-8")
    else:  # a run that was stopped
        data = folder.with_suffix(".jsonl")
        data.write_text(REVIEWS, encoding="utf-8")
        assert finetune_imdb.main(f"--data {data} {TINY} --out {folder}".split()) == 0
        (folder / "results.json").unlink()


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """stock(name): the folder of what `build` makes; each is made once."""
    folder = tmp_path_factory.mktemp("stock")

    def get(name):
        if not (folder / name).exists():
            build(str(name), folder / name)
        return folder / name

    return get


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imdb, "COUNTS", COUNTS)
    if "no model anywhere" in request.node.name:
        monkeypatch.setattr("gptft.initial.BUNDLED", tmp_path / "absent")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


def snapshot(folder):
    """{path: what is there} of a folder, files by their checksums; but for the cache of token ids, which good data leaves."""
    found = {}
    for path in folder.rglob("*"):
        if ".tokens" not in path.parts:
            readable = path.is_file() and os.access(path, os.R_OK)
            found[str(path.relative_to(folder))] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if readable else path.is_dir()
            )
    return found


def make(files, stock):
    """Files as the rows have them: {name: content, or a Path that names something in stock, or a function, None for a folder}."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content()
        elif content is None:
            path.mkdir()
        elif isinstance(content, Path):
            shutil.copytree(stock(content), path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


class RunsCode:
    """Unpickled, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


LM, CLASSIFIER, SMALL, ADAPTER, BUNDLE, FINISHED, STATE = map(
    Path, ["lm", "classifier", "small", "adapter", "bundle", "finished", "state"]
)
SMALL_CLASSIFIER = Path("small_classifier")

# ---------------------------------------------------------------- data_prep

IMDB = {
    "unknown flag": ("--foo", "--foo"),
    "abbreviated flag": ("--arch a.tar.gz", "--arch"),
    "stray word": ("a.tar.gz", "a.tar.gz"),
    "seed is a word": ("--seed x", "--seed"),
    "flag without value": ("--out", "--out"),
    "archive absent": ("--archive a.tar.gz", "No such file or directory, a.tar.gz;"),
    "archive is an empty folder": ("--archive a", "0 of 10 files in train/neg, a;", {"a": None}),
    "archive empty": ("--archive a.tar.gz", "a.tar.gz", {"a.tar.gz": b""}),
    "archive is text": ("--archive a.tar.gz", "damaged archive", {"a.tar.gz": "hello"}),
    "archive cut short": (
        "--archive a.tar.gz",
        "damaged archive",
        {"a.tar.gz": lambda: (archive(), cut("a.tar.gz"))},
    ),
    "archive of something else": (
        "--archive a.tar.gz",
        "unexpected archive member 'x', a.tar.gz",
        {"a.tar.gz": lambda: write_tar(Path("a.tar.gz"), [member("x", b"x")])},
    ),
    "archive leaves the folder": (
        "--archive a.tar.gz",
        "unexpected archive member '../x', a.tar.gz",
        {"a.tar.gz": lambda: archive("../x")},
    ),
    "out is a file": (
        "--archive a.tar.gz --out a",
        "was not written by this command, a;",
        {"a": "x"},
    ),
    "out holds something else": (
        "--archive a.tar.gz --out a",
        "was not written by this command, a;",
        {"a/b": "x"},
    ),
    "out below a file": (
        "--archive a.tar.gz --out a/b",
        "Not a directory, a/",
        {"a": "x", "a.tar.gz": archive},
    ),
}

ALPACA = {
    "unknown flag": ("--files a.json", "--files"),
    "file absent": ("--file a.json", "a.json"),
    "file is a folder": ("--file a", "must end in .jsonl, ", {"a": None}),
    "folder named like a file": (
        "--file a.json",
        "can't be read (Is a directory), a.json",
        {"a.json": None},
    ),
    "file of another kind": ("--file a.parquet", "must end in", {"a.parquet": b"PAR1"}),
    "empty": ("--file a.json", "no records, a.json", {"a.json": b""}),
    "binary": (
        "--file a.json",
        "not UTF-8 (invalid start byte), a.json, line 1",
        {"a.json": b"\x89PNG\r\n"},
    ),
    "latin-1": (
        "--file a.jsonl",
        "not UTF-8 (unexpected end of data), a.jsonl, line 2",
        {"a.jsonl": b'{"a":1}\n"caf\xe9'},
    ),
    "utf-16": ("--file a.jsonl", "not UTF-8", {"a.jsonl": TASKS.encode("utf-16")}),
    "huge line": (
        "--file a.jsonl",
        "a line longer than 16,777,216 bytes, a.jsonl, line 2",
        {"a.jsonl": b'{"a":1}\n' + b" " * (1 << 24) + b"\n"},
    ),
    "one object": ("--file a.json", "not a list but an object, a.json", {"a.json": "{}"}),
    "not a number": (
        "--file a.json",
        "bad JSON (NaN",
        {"a.json": json.dumps([*tasks(), {"id": float("nan")}])},
    ),
    "nested without end": ("--file a.json", "bad JSON", {"a.json": "[" * 100_000}),
    "output missing": (
        "--file a.jsonl",
        "no field 'output', a.jsonl, line 21",
        {"a.jsonl": TASKS + '{"instruction": "a"}'},
    ),
    "instruction is a number": (
        "--file a.jsonl",
        "'instruction' is a number, not a string, a.jsonl, line 1",
        {"a.jsonl": lines({"instruction": 1, "output": "a"})},
    ),
    "id is a list": ("--file a.jsonl", "a.jsonl, line 1", {"a.jsonl": lines(*tasks(id=[1]))}),
    "messages of three": (
        "--file a.jsonl",
        "one user's and one assistant's turn, a.jsonl, line 1",
        {"a.jsonl": lines({"messages": [1, 2, 3]})},
    ),
    "half a character": (
        "--file a.jsonl",
        "half a character (lone surrogate) in 'output', a.jsonl, line 1",
        {"a.jsonl": lines({"instruction": "a", "output": "\ud83d"})},
    ),
    "outputs all empty": (
        "--file a.jsonl",
        "0 usable records are too few to split, a.jsonl",
        {"a.jsonl": lines(*tasks(output=" "))},
    ),
    "one instruction only": (
        "--file a.jsonl",
        "too few to split, a.jsonl",
        {"a.jsonl": lines(*tasks(instruction="a"))},
    ),
    "out is a file": (
        "--file a.jsonl --out b",
        "was not written by this command, b;",
        {"a.jsonl": TASKS, "b": "x"},
    ),
}

GPT2_ROWS = {
    "unknown size": ("--size 125M", "125M"),
    "two actions": ("--check a --from-folder b", "--from-folder"),
    "check with out": ("--check lm --out b", "--out", {"lm": LM}),
    "check absent": ("--check a", "no such folder, a;"),
    "check a file": ("--check a", "no such folder, a;", {"a": "x"}),
    "check an empty folder": ("--check a", "neither config.json", {"a": None}),
    "check damaged weights": (
        "--check bundle",
        "CRC32C",
        {"bundle": BUNDLE, "b": lambda: flip_last(next(Path("bundle").glob("*data*")))},
    ),
    "import from nowhere": ("--from-folder a", "(missing), a/checkpoint;"),
    "import from an empty folder": ("--from-folder a", "(missing), a/checkpoint;", {"a": None}),
    "import into itself": (
        "--from-folder bundle --out bundle",
        "(missing), bundle/",
        {"bundle": BUNDLE},
    ),
    "import another model": ("--from-folder bundle", "bundle/", {"bundle": BUNDLE}),
}


def flip_last(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- training

DATA = {  # for the two scripts that classify
    "data absent": ("--data a.jsonl", "no such file or folder, a.jsonl"),
    "data of another kind": ("--data a.doc", "must end in .jsonl, ", {"a.doc": "x"}),
    "folder without train": ("--data d", "no training records, d;", {"d/test.jsonl": REVIEWS}),
    "folder with two trains": (
        "--data d",
        "train.jsonl and train.csv both stand in d;",
        {"d/train.jsonl": REVIEWS, "d/train.csv": "text,label\n"},
    ),
    "split of another file": (
        "--data d",
        "split 'test' in the train file, d/train.jsonl, line 1",
        {"d/train.jsonl": lines(*reviews(split="test"))},
    ),
    "split unknown": (
        "--data a.jsonl",
        "split is 'dev', a.jsonl, line 1",
        {"a.jsonl": lines(*reviews(split="dev"))},
    ),
    "empty": ("--data a.csv", "no records, a.csv", {"a.csv": b""}),
    "a header alone": ("--data a.csv", "no records, a.csv", {"a.csv": "text,label\n"}),
    "binary": ("--data a.csv", "not UTF-8", {"a.csv": gzip.compress(b"text,label\n")}),
    "unreadable": (
        "--data a.csv",
        "can't be read (Permission denied), a.csv",
        {"a.csv": "text,label\n", "x": lambda: lock("a.csv")},
    ),
    "text missing": (
        "--data a.csv",
        "no field 'text', a.csv, line 2",
        {"a.csv": "review,label\nx,1\n"},
    ),
    "label missing": (
        "--data a.jsonl",
        "no field 'label', a.jsonl, line 1",
        {"a.jsonl": lines({"text": "a"})},
    ),
    "label is a fraction": (
        "--data a.jsonl",
        "label is a number, a.jsonl, line 1",
        {"a.jsonl": lines(*reviews(label=0.5))},
    ),
    "label is not a number": (
        "--data a.jsonl",
        "bad JSON",
        {"a.jsonl": lines(*reviews(label=float("nan")))},
    ),
    "text is null": (
        "--data a.jsonl",
        "'text' is null, not a string, a.jsonl, line 1",
        {"a.jsonl": lines(*reviews(text=None))},
    ),
    "all texts empty": (
        "--data a.jsonl",
        "'text' is empty, a.jsonl, line 1",
        {"a.jsonl": lines(*reviews(text=" \n"))},
    ),
    "all texts equal": (
        "--data a.jsonl",
        "too few different texts",
        {"a.jsonl": lines(*reviews(text="a"))},
    ),
    "one class": (
        "--data a.jsonl",
        "only one class ('1') in the training data, a.jsonl",
        {"a.jsonl": lines(*reviews(label=1))},
    ),
    "a class for testing only": (
        "--data d",
        "label '2' never occurs in the training data, d/test.jsonl, line 1",
        {"d/train.jsonl": REVIEWS, "d/test.jsonl": lines({"text": "a", "label": 2})},
    ),
    "id used twice": (
        "--data a.jsonl",
        "id 7 is used twice, a.jsonl, line",
        {"a.jsonl": lines(*reviews(id=7))},
    ),
    "id is a list": (
        "--data a.jsonl",
        "id is neither an integer nor",
        {"a.jsonl": lines(*reviews(id=[1]))},
    ),
    "classes.json of three": (
        "--data d",
        "3 names but the labels are 0, 1, d/classes.json",
        {"d/train.jsonl": REVIEWS, "d/classes.json": '["a", "b", "c"]'},
    ),
    "classes.json nested without end": (
        "--data d",
        "d/classes.json",
        {"d/train.jsonl": REVIEWS, "d/classes.json": "[" * 100_000},
    ),
    "classes.json binary": (
        "--data d",
        "d/classes.json",
        {"d/train.jsonl": REVIEWS, "d/classes.json": b"\xff\xfe"},
    ),
    "endless field name": (
        "--data a.jsonl",
        "no field 'text', a.jsonl, line 1",
        {"a.jsonl": lines({"x" * 100_000: 1})},
    ),
    "endless label": (
        "--data d",
        "never occurs in the training data",
        {"d/train.jsonl": REVIEWS, "d/test.jsonl": lines({"text": "a", "label": "x" * 100_000})},
    ),
    "out is a file": (
        "--data a.jsonl --out b",
        "--out is a file, b;",
        {"a.jsonl": REVIEWS, "b": "x"},
    ),
    "out below a file": ("--data a.jsonl --out b/c", "b", {"a.jsonl": REVIEWS, "b": "x"}),
    "out holds something else": (
        "--data a.jsonl --out b",
        "files that are not a run's, b;",
        {"a.jsonl": REVIEWS, "b/c": "x"},
    ),
    "out holds a run": (
        "--data a.jsonl --out run",
        "already holds results, run;",
        {"a.jsonl": REVIEWS, "run": FINISHED, "run/run.json": "{}"},
    ),
}

LOGREG = DATA | {
    "C of 0": ("--C 0", "--C must be a number above 0, got 0.0"),
    "C not a number": ("--C nan", "--C must be a number above 0, got nan"),
    "C a word": ("--C x", "--C"),
    "features unknown": ("--features bigram", "bigram"),
    "a flag of another script": ("--epochs 1", "--epochs"),
}

MODEL = "--data a.jsonl --model m"  # the model of a row is m


def model(source=LM, **change):
    """The files of a row: data, and the model `source` with what is to be done to it."""
    return {"a.jsonl": REVIEWS, "m": source} | change


IMDB_TUNING = DATA | {
    "several flags at once": (
        "--epochs 0 --dropout 1 --warmup -1",
        "--epochs must be from 1 to 10000, got 0; --warmup must be from 0.0 to 1.0, got -1.0; --dropout must",
    ),
    "rate not a number": (
        "--learning-rate nan",
        "--learning-rate must be from 0.0 to 1.0, got nan",
    ),
    "rate infinite": ("--learning-rate inf", "--learning-rate must be"),
    "steps with a point": ("--max-steps 1.5", "--max-steps"),
    "precision unknown": ("--precision fp64", "fp64"),
    "device absent": ("--device mps --data a.jsonl " + TINY, "--device mps", {"a.jsonl": REVIEWS}),
    "shape impossible": ("--n-embd 5 --n-head 2", "n_embd must be a multiple of n_head"),
    "length above the model's": (
        "--n-positions 16 --max-length 17",
        "--max-length 17 is above the model's n_positions, 16",
    ),
    "resume and overwrite": (
        f"--data a.jsonl {TINY} --resume --overwrite",
        "exclude each other",
        {"a.jsonl": REVIEWS},
    ),
    "model unknown": (MODEL, "no such model, m;", {"a.jsonl": REVIEWS}),
    "model not fetched": ("--model 124M", "python -m data_prep.gpt2 --size 124M"),
    "model is a file": (MODEL, "no such model, m;", {"a.jsonl": REVIEWS, "m": "x"}),
    "model folder empty": (MODEL, "neither config.json", {"a.jsonl": REVIEWS, "m": None}),
    "model and shape": (f"{MODEL} --n-layer 2", "leave out either", model()),
    "vocabulary of another size": (
        MODEL,
        "the model's vocabulary, 100, is smaller than the tokenizer's",
        model(SMALL),
    ),
    "classifier of another vocabulary": (
        MODEL,
        "the model's vocabulary, 100, is smaller",
        model(SMALL_CLASSIFIER),
    ),
    "config.json of another kind": (
        MODEL,
        "model_type is 'llama' instead of 'gpt2', m/config.json",
        model(x=lambda: edit("m/config.json", lambda c: c | {"model_type": "llama"})),
    ),
    "config.json not JSON": (MODEL, "not JSON, m/config.json", model(**{"m/config.json": "{"})),
    "config.json binary": (MODEL, "not JSON, m/config.json", model(**{"m/config.json": b"\xff"})),
    "config.json a list": (
        MODEL,
        "not a JSON object, m/config.json",
        model(**{"m/config.json": "[]"}),
    ),
    "config.json with a huge size": (
        MODEL,
        "n_embd is 10000000000, not from 1 to 1000000, m/config.json",
        model(x=lambda: edit("m/config.json", lambda c: c | {"n_embd": 10**10})),
    ),
    "config.json of another shape": (
        MODEL,
        "m",
        model(x=lambda: edit("m/config.json", lambda c: c | {"n_layer": 2})),
    ),
    "weights absent": (
        MODEL,
        "no model.safetensors, m;",
        model(x=lambda: Path("m/model.safetensors").unlink()),
    ),
    "weights cut short": (
        MODEL,
        "not a complete safetensors file",
        model(x=lambda: cut("m/model.safetensors")),
    ),
    "weights empty": (
        MODEL,
        "the file is empty, m/model.safetensors",
        model(**{"m/model.safetensors": b""}),
    ),
    "weights a web page": (
        MODEL,
        "m/model.safetensors",
        model(**{"m/model.safetensors": "<!doctype html>" * 99}),
    ),
    "weights with NaN": (
        MODEL,
        "NaN or infinite weights in wpe.weight, m;",
        model(
            x=lambda: weights(
                "m/model.safetensors", lambda t: t["transformer.wpe.weight"].fill_(float("nan"))
            )
        ),
    ),
    "weights of other names": (
        MODEL,
        "'score' is unknown",
        model(x=lambda: weights("m/model.safetensors", lambda t: t.update(score=torch.zeros(1)))),
    ),
    "weights in a pickle": (
        MODEL,
        "which may run code when it is read",
        model(x=lambda: Path("m/model.safetensors").rename("m/pytorch_model.bin")),
    ),
    "index to another folder": (
        MODEL,
        "no weight_map of tensors to files of this folder",
        model(
            x=lambda: Path("m/model.safetensors").unlink(),
            **{"m/model.safetensors.index.json": '{"weight_map": {"a": "../a"}}'},
        ),
    ),
    "names for other classes": (
        MODEL,
        "m/config.json",
        model(
            CLASSIFIER,
            x=lambda: edit(
                "m/config.json", lambda c: c | {"id2label": {"0": "a", "1": "b", "2": "c"}}
            ),
        ),
    ),
    "bundle cut short": (
        MODEL,
        "model.ckpt.data-00000-of-00001; fetch the checkpoint again",
        model(BUNDLE, x=lambda: cut("m/model.ckpt.data-00000-of-00001")),
    ),
    "resume from nothing": (
        f"--data a.jsonl {TINY} --resume --out b",
        "nothing to resume, b does not exist",
        {"a.jsonl": REVIEWS},
    ),
    "resume a file": (
        f"--data a.jsonl {TINY} --resume --out b",
        "--out is a file, b",
        {"a.jsonl": REVIEWS, "b": "x"},
    ),
    "resume other data": (
        f"--data a.jsonl {TINY} --resume --out s",
        "texts was",
        {"a.jsonl": REVIEWS.replace("text 1", "else"), "s": STATE},
    ),
}

ADAPTED = "--data a.jsonl --model m --max-steps 1"


def adapter(base=LM, **change):
    """The files of a row: data, the adapter m, and its base."""
    return {"a.jsonl": REVIEWS, "m": ADAPTER, "lm": base} | change


IMDB_TUNING |= {
    "train what": ("--train all", "all"),
    "adapters of random weights": (
        f"--data a.jsonl {TINY} --train lora",
        "leave out --from-scratch and the shape",
        {"a.jsonl": REVIEWS},
    ),
    "rank without adapters": ("--lora-rank 4", "--lora-rank goes with --train lora"),
    "infinite alpha": ("--train lora --lora-alpha inf", "--lora-alpha must be"),
    "unknown target": (f"{MODEL} --train lora --lora-targets attn", "attn", model()),
    "adapter without its base": (
        ADAPTED,
        "the adapter's base model is not here: lm, m/adapter_config.json",
        {"a.jsonl": REVIEWS, "m": ADAPTER},
    ),
    "adapter of another model": (ADAPTED, "not an adapter of the model lm", adapter(BUNDLE)),
    "adapter of another rank": (
        ADAPTED,
        "not an adapter of the model lm",
        adapter(x=lambda: edit("m/adapter_config.json", lambda c: c | {"r": 3})),
    ),
    "adapter of another kind": (
        ADAPTED,
        "not a plain LoRA adapter (use_dora is True), m/adapter_config.json",
        adapter(x=lambda: edit("m/adapter_config.json", lambda c: c | {"use_dora": True})),
    ),
    "adapter with endless alpha": (
        ADAPTED,
        "m/adapter_config.json",
        adapter(x=lambda: edit("m/adapter_config.json", lambda c: c | {"lora_alpha": 10**400})),
    ),
    "adapter_config.json not JSON": (
        ADAPTED,
        "not JSON, m/adapter_config.json",
        adapter(**{"m/adapter_config.json": b"\xff{"}),
    ),
    "adapter cut short": (
        ADAPTED,
        "m/adapter_model.safetensors",
        adapter(x=lambda: cut("m/adapter_model.safetensors")),
    ),
    "adapter absent": (
        ADAPTED,
        "m/adapter_model.safetensors",
        adapter(x=lambda: Path("m/adapter_model.safetensors").unlink()),
    ),
    "adapter with NaN": (
        ADAPTED,
        "NaN or infinite weights",
        adapter(
            x=lambda: weights(
                "m/adapter_model.safetensors", lambda t: next(iter(t.values())).fill_(float("nan"))
            )
        ),
    ),
    "resume-anyway alone": (
        f"--data a.jsonl {TINY} --resume-anyway",
        "--resume-anyway goes with --resume",
        {"a.jsonl": REVIEWS},
    ),
}

RESUME = f"--data mine.jsonl {TINY} --resume --out s"


def state(name, content):
    """The files of a row that resumes: a run that was stopped, with one of its files replaced."""
    return {
        "mine.jsonl": REVIEWS,
        "s": STATE,
        "x": lambda: edit("s/run.json", lambda c: c["options"].update(data="mine.jsonl", out="s")),
        name: content,
    }


IMDB_TUNING |= {
    "resume without run.json": (RESUME, "s", state("y", lambda: Path("s/run.json").unlink())),
    "resume with half a run.json": (
        RESUME,
        "damaged run.json, s",
        state("s/run.json", '{"options": {'),
    ),
    "resume with binary run.json": (RESUME, "damaged run.json, s", state("s/run.json", b"\xff")),
    "resume with a list for run.json": (RESUME, "damaged run.json, s", state("s/run.json", "[]")),
    "resume with a list for options": (
        RESUME,
        "damaged run.json, s",
        state("s/run.json", '{"options": [1]}'),
    ),
    "resume with nested run.json": (
        RESUME,
        "damaged run.json, s",
        state("s/run.json", "[" * 100_000),
    ),
    "resume with empty state": (RESUME, "s/last/state.pt", state("s/last/state.pt", b"")),
    "resume with half a state": (
        RESUME,
        "s/last/state.pt",
        state("y", lambda: cut("s/last/state.pt")),
    ),
    "resume with a state of something else": (
        RESUME,
        "s/last/state.pt",
        state("y", lambda: torch.save({"metrics_bytes": 10**9}, "s/last/state.pt")),
    ),
    "resume with a state that runs code": (
        RESUME,
        "s/last/state.pt",
        state(
            "y",
            lambda: torch.save({"metrics_bytes": 10**9, "model": RunsCode()}, "s/last/state.pt"),
        ),
    ),
}

ALPACA_TUNING = {
    "template unknown": ("--template chat", "chat"),
    "test prompts of 0": ("--test-prompts 0", "--test-prompts must be at least 1, got 0"),
    "inspect of -1": ("--inspect -1", "--inspect must be at least 1, got -1"),
    "data of another task": (
        "--data a.jsonl",
        "no field 'instruction', a.jsonl, line 1 (fields: 'text', 'label')",
        {"a.jsonl": REVIEWS},
    ),
    "outputs all empty": (
        "--data a.jsonl",
        "is empty, a.jsonl",
        {"a.jsonl": lines(*tasks(output=""))},
    ),
    "prompts all too long": (
        f"--data a.jsonl {TINY}",
        "the prompts alone fill 32 tokens",
        {
            "a.jsonl": lines(
                *({"instruction": "word " * 40 + str(i), "output": "a"} for i in range(30))
            )
        },
    ),
    "messages of a robot": (
        "--data a.jsonl",
        "a.jsonl, line 1",
        {"a.jsonl": lines({"messages": [{"role": "robot"}]})},
    ),
    "half a CSV quote": (
        "--data a.csv",
        "bad CSV (unexpected end of data), a.csv, line 2",
        {"a.csv": 'instruction,output\na,"b\n'},
    ),
    "evaluate nothing": ("--evaluate-only --out b", "no such model"),
    "evaluate a classifier's run": (
        f"--data a.jsonl {TINY} --evaluate-only --out c",
        "the results of another task, c",
        {"a.jsonl": TASKS, "c": FINISHED},
    ),
    "evaluate with damaged results": (
        f"--data a.jsonl {TINY} --evaluate-only --out c",
        "c/results.json",
        {"a.jsonl": TASKS, "c": LM, "c/results.json": "{"},
    ),
    "evaluate and resume": (
        f"--data a.jsonl {TINY} --evaluate-only --resume --out c",
        "--evaluate-only",
        {"a.jsonl": TASKS, "c": LM},
    ),
    "vocabulary of another size": (
        "--data a.jsonl --model m",
        "the model's vocabulary, 100, is smaller",
        {"a.jsonl": TASKS, "m": SMALL},
    ),
}

PRETRAIN = {
    "head tokens below 0": ("--head-tokens -1", "--head-tokens must be at least 0, got -1"),
    "documents absent": ("--data a.txt", "no such file or folder, a.txt"),
    "documents empty": ("--data a.txt", "no records, a.txt", {"a.txt": "\n\n \n"}),
    "documents binary": (
        "--data a.txt",
        "not UTF-8 (invalid start byte), a.txt, line 2",
        {"a.txt": b"one\n\xff"},
    ),
    "one document": (
        "--data a.txt",
        "too few different texts to split test and val off 1 records, a.txt",
        {"a.txt": "One."},
    ),
    "text is a list": (
        "--data a.json",
        "'text' is a list, not a string, a.json, record 1",
        {"a.json": '[{"text": ["a"]}]'},
    ),
    "train is also test": (
        "--data d",
        "every training text stands in val or test, too, d",
        {f"d/{split}.jsonl": lines({"text": "a"}) for split in ("train", "val", "test")},
    ),
    "unsup damaged": (
        "--data d",
        "d/unsup.jsonl, line 1",
        {"d/train.jsonl": REVIEWS, "d/unsup.jsonl": "{"},
    ),
    "length above the model's": (
        "--n-positions 16 --max-length 17",
        "--max-length 17 is above the model's n_positions, 16",
    ),
    "vocabulary of another size": (
        "--model m",
        "the model's vocabulary, 100, is smaller",
        {"m": SMALL},
    ),
    "a flag of another script": ("--template alpaca", "--template"),
    "out is a file": (
        f"--data a.txt {TINY} --out b",
        "--out is a file, b;",
        {"a.txt": "One.\n\nTwo.\n\nThree.\n\nFour.", "b": "x"},
    ),
}

# ---------------------------------------------------------------- generating, predicting and reporting

ASK = "--model m --precision fp32 --device cpu"
GENERATE = {
    "two prompts": ("--prompt a --instruction b", "--prompt and --instruction exclude each other"),
    "input alone": ("--input a", "--input goes with --instruction"),
    "out alone": ("--out a", "--out goes with --file"),
    "out in no folder": ("--file a.jsonl --out b/c", "no such folder, b, for --out"),
    "out is a folder": ("--file a.jsonl --out b", "b", {"a.jsonl": '{"prompt": "a"}', "b": None}),
    "out is the file": (
        "--file a.jsonl --out ./a.jsonl",
        "a.jsonl",
        {"a.jsonl": '{"prompt": "a"}'},
    ),
    "empty stop": (["--stop", ""], "--stop is empty"),
    "stop id out of range": (f"{ASK} --prompt a --stop-id -1", "--stop-id", {"m": LM}),
    "temperature below 0": ("--temperature -1", "--temperature must be from 0.0 to 100.0"),
    "temperature not a number": ("--temperature nan", "--temperature must be"),
    "top-p and top-k of 0": (
        "--top-p 0 --top-k 0",
        "--top-k must be at least 1, got 0; --top-p must be",
    ),
    "no new tokens": ("--max-new-tokens 0", "--max-new-tokens must be at least 1"),
    "endless samples": (f"{ASK} --num-samples 1000000000000", "--num-samples must be", {"m": LM}),
    "no model anywhere": ("--prompt a", "the bundled weights are gone"),
    "model unknown": ("--model m --prompt a", "no such model, m;"),
    "a classifier": (f"{ASK} --prompt a", "a classifier writes no text, m;", {"m": CLASSIFIER}),
    "vocabulary of another size": (
        f"{ASK} --prompt a",
        "the model's vocabulary, 100, is smaller than the tokenizer's, 50257, m;",
        {"m": SMALL},
    ),
    "no wording": (
        f"{ASK} --instruction a",
        "knows no wording for instructions, m;",
        {
            "m": LM,
            "x": lambda: edit(
                "m/config.json", lambda c: {k: v for k, v in c.items() if k != "gptft"}
            ),
        },
    ),
    "too long": (
        [*ASK.split(), "--prompt", "a " * 60, "--max-new-tokens", "10"],
        "n_positions, 64; shorten",
        {"m": LM},
    ),
    "weights with infinity": (
        f"{ASK} --prompt a",
        "NaN or infinite weights in wte.weight, m;",
        {
            "m": LM,
            "x": lambda: weights(
                "m/model.safetensors",
                lambda t: t["transformer.wte.weight"][0, 0].fill_(float("inf")),
            ),
        },
    ),
    "file absent": (f"{ASK} --file a.jsonl", "a.jsonl", {"m": LM}),
    "file without prompts": (
        f"{ASK} --file a.jsonl",
        "no field 'prompt', a.jsonl, line 1",
        {"m": LM, "a.jsonl": REVIEWS},
    ),
    "prompt not a number": (
        f"{ASK} --file a.jsonl",
        "bad JSON (NaN",
        {"m": LM, "a.jsonl": '{"prompt": NaN}'},
    ),
    "prompt empty": (
        f"{ASK} --file a.jsonl",
        "'prompt' is empty, a.jsonl, line 1",
        {"m": LM, "a.jsonl": '{"prompt": ""}'},
    ),
    "input a number": (
        f"{ASK} --file a.jsonl",
        "'input' is a number, not a string, a.jsonl, line 1",
        {"m": LM, "a.jsonl": '{"instruction": "a", "input": 1}'},
    ),
    "prompt too long": (
        f"{ASK} --file a.jsonl --max-new-tokens 9",
        "n_positions, 64, a.jsonl, line 2; shorten",
        {"m": LM, "a.jsonl": '{"prompt": "a"}\n{"prompt": "%s"}' % ("a " * 99)},
    ),
    "config.json nested without end": (
        f"{ASK} --prompt a",
        "not JSON, m/config.json",
        {"m": LM, "m/config.json": "[" * 100_000},
    ),
    "config.json a folder": (
        f"{ASK} --prompt a",
        "m/config.json",
        {"m": LM, "x": lambda: (Path("m/config.json").unlink(), Path("m/config.json").mkdir())},
    ),
    "special tokens without room": (
        f"{ASK} --prompt a",
        "gptft.special_tokens",
        {
            "m": LM,
            "x": lambda: edit(
                "m/config.json", lambda c: c | {"gptft": {"special_tokens": ["<a>"]}}
            ),
        },
    ),
}


PREDICT = {
    "text and file": ("a --file b.txt", "a TEXT and --file exclude each other"),
    "precision unknown": ("a --precision fp64", "fp64"),
    "no model anywhere": ("a", "no classifier in a folder under runs/"),
    "model unknown": ("a --model m", "no such model, m;"),
    "a language model": ("a --model m", "a language model has no classes, m;", {"m": LM}),
    "empty text": (
        ["", "--model", "m"],
        "field 'text' is empty, command line, line 1",
        {"m": CLASSIFIER},
    ),
    "file absent": ("--model m --file a.txt", "a.txt", {"m": CLASSIFIER}),
    "file is a folder": ("--model m --file a.txt", "a.txt", {"m": CLASSIFIER, "a.txt": None}),
    "file binary": (
        "--model m --file a.txt",
        "not UTF-8 (invalid start byte), a.txt, line 2",
        {"m": CLASSIFIER, "a.txt": b"one\n\xff"},
    ),
    "file of another kind": (
        "--model m --file a.pdf",
        "must end in .jsonl, ",
        {"m": CLASSIFIER, "a.pdf": "x"},
    ),
    "text missing": (
        "--model m --file a.jsonl",
        "no field 'text', a.jsonl, line 1",
        {"m": CLASSIFIER, "a.jsonl": TASKS},
    ),
    "run.json damaged": ("a --model m", "m/run.json", {"m": CLASSIFIER, "m/run.json": "{"}),
    "run.json without length": (
        "a --model m",
        "m/run.json",
        {"m": CLASSIFIER, "m/run.json": '{"options": []}'},
    ),
    "weights cut short": (
        "a --model m",
        "m/model.safetensors",
        {"m": CLASSIFIER, "x": lambda: cut("m/model.safetensors")},
    ),
}


def finished(**change):
    """The files of a row that reports: a good run `a`, and `b`, the same but for what the row says."""
    return {"a": FINISHED, "b": FINISHED} | change


def results(change):
    return finished(x=lambda: edit("b/results.json", change))


def predictions(*rows):
    return finished(**{"b/predictions.jsonl": lines(*rows)})


REPORT = {
    "no run": ("", "RUN"),
    "unknown flag": ("a --html b", "--html"),
    "absent": ("a b", "b/results.json", {"a": FINISHED}),
    "a file": ("b", "b/results.json", {"b": "x"}),
    "not finished": ("b", "not a finished run", {"b": STATE}),
    "results empty": ("b", "b/results.json", finished(**{"b/results.json": b""})),
    "results binary": ("b", "b/results.json", finished(**{"b/results.json": b"\xff"})),
    "results nested without end": (
        "b",
        "b/results.json",
        finished(**{"b/results.json": "[" * 100_000}),
    ),
    "results a list": ("b", "b/results.json", finished(**{"b/results.json": "[]"})),
    "results without classes": (
        "b",
        "not what a run writes (KeyError('classes')), b;",
        results(lambda r: {k: v for k, v in r.items() if k != "classes"}),
    ),
    "results without test": ("b", "not what a run writes", results(lambda r: r | {"test": {}})),
    "results with words for numbers": (
        "b",
        "not what a run writes",
        results(lambda r: r | {"test": r["test"] | {"accuracy": "x"}}),
    ),
    "results with half a confusion": (
        "b",
        "not what a run writes",
        results(lambda r: r | {"test": r["test"] | {"confusion": [1]}}),
    ),
    "results of another task": (
        "b",
        "not what a run writes",
        results(lambda r: r | {"task": "instructions"}),
    ),
    "run.json damaged": ("b", "b/run.json", finished(**{"b/run.json": '{"options": '})),
    "run.json with a list for options": (
        "b",
        "not what a run writes",
        finished(**{"b/run.json": '{"options": [1]}'}),
    ),
    "metrics.jsonl binary": (
        "b",
        "not UTF-8 (invalid start byte), b/metrics.jsonl, line 1",
        finished(**{"b/metrics.jsonl": b"\xff"}),
    ),
    "metrics.jsonl with words for numbers": (
        "b",
        "not what a run writes",
        finished(**{"b/metrics.jsonl": '{"step": "x", "loss": "y"}'}),
    ),
    "metrics.jsonl cut short": (
        "b",
        "b/metrics.jsonl, line 2",
        finished(**{"b/metrics.jsonl": '{"step": 1, "val": {}}\n{"step": 2, "lo'}),
    ),
    "examples.jsonl of another task": (
        "b",
        "not what a run writes",
        finished(**{"b/examples.jsonl": '{"id": 1}'}),
    ),
    "predictions absent": (
        "a b",
        "b/predictions.jsonl",
        finished(x=lambda: Path("b/predictions.jsonl").unlink()),
    ),
    "predictions of another task": (
        "a b",
        "not a prediction, b/predictions.jsonl, line 1",
        predictions({"id": 1, "response": "x"}),
    ),
    "predictions with words": (
        "a b",
        "b/predictions.jsonl, line 1",
        predictions({"id": 1, "label": 0, "probabilities": ["a", "b"]}),
    ),
    "predictions of another class": (
        "a b",
        "b/predictions.jsonl, line 1",
        predictions({"id": 1, "label": 2, "probabilities": [0.5, 0.5]}),
    ),
    "predictions not a number": (
        "a b",
        "b/predictions.jsonl, line 1",
        predictions({"id": 1, "label": 0, "probabilities": [float("nan"), 1]}),
    ),
    "predictions twice": (
        "a b",
        "b/predictions.jsonl, line 2",
        predictions(*[{"id": "r1", "label": 0, "probabilities": [0.5, 0.5]}] * 2),
    ),
    "predictions with a list for id": (
        "a b",
        "b/predictions.jsonl, line 1",
        predictions({"id": [], "label": 0, "probabilities": [1, 0]}),
    ),
    "predictions of other rows": (
        "a b",
        "no test row in common",
        predictions({"id": "x", "label": 0, "probabilities": [1, 0]}),
    ),
}

BENCHMARK = {
    "nothing to measure": ("", "PART"),
    "unknown part": ("speed", "speed"),
    "shape impossible": ("train-step --n-embd 5 --n-head 2", "n_embd must be a multiple of n_head"),
    "unknown model": ("train-step --model 125M", "125M"),
    "no layer": ("roofline --n-layer 0", "--n-layer must be at least 1, got 0"),
}

ROWS = [
    *(
        (imdb.main, "prep imdb", IMDB),
        (alpaca.main, "prep alpaca", ALPACA),
        (gpt2.main, "prep gpt2", GPT2_ROWS),
    ),
    *(
        (train_logreg.main, "logreg", LOGREG),
        (finetune_imdb.main, "imdb", IMDB_TUNING),
        (finetune_alpaca.main, "alpaca", ALPACA_TUNING),
    ),
    *((pretrain.main, "pretrain", PRETRAIN), (gptft.generate.main, "generate", GENERATE)),
    *((gptft.predict.main, "predict", PREDICT), (gptft.report.main, "report", REPORT)),
    (benchmark.main, "benchmark", BENCHMARK),
]
ROWS = [
    pytest.param(main, *row, *([{}] if len(row) == 2 else []), id=f"{command}: {name}")
    for main, command, rows in ROWS
    for name, row in rows.items()
]


@pytest.mark.parametrize("main, argv, says, files", ROWS)
def test_bad_input(main, argv, says, files, stock, tmp_path, capfd):
    """Exit code 2, the error line last and alone of its kind, and the folder as it was."""
    make(files, stock)
    before = snapshot(tmp_path)
    capfd.readouterr()
    code = main(argv.split() if isinstance(argv, str) else argv)
    out, err = capfd.readouterr()
    assert code == 2, out + err
    told = err.splitlines()
    assert [line.startswith("error: ") for line in told] == [False] * (len(told) - 1) + [True], err
    assert "Traceback" not in err and says in told[-1] and len(told[-1]) < 2100, told[-1]
    assert snapshot(tmp_path) == before


# ---------------------------------------------------------------- what does not fit the table


def test_a_message_neither_floods_nor_steers_the_terminal(capsys):
    """It may quote a file: escape sequences come out as "?", and the middle of an endless field is left out."""

    @command
    def main(argv):
        raise DataError("label \x1b[2J\x9b1m\ud800" + "x" * 10**6 + ", a.jsonl,\nline 1; mend it")

    assert main([]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("error: label ?[2J?1m?xxx")
        and err.endswith("x, a.jsonl, line 1; mend it\n")
        and len(err) < 2100
    )


def test_names_that_no_terminal_can_show(stock, tmp_path, capsys):
    """A folder whose name is not UTF-8 is printed with escapes; it is no reason to stop."""
    name = os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(stock("finished"), name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert gptft.report.main([name]) == 0
    assert "caf\\udce9" in capsys.readouterr().out


def test_standard_input_that_is_not_text(stock, capfd, monkeypatch):
    for main, argv in (
        (gptft.generate.main, "--interactive --max-new-tokens 1"),
        (gptft.predict.main, ""),
    ):
        shutil.copytree(stock("lm" if argv else "classifier"), "m", dirs_exist_ok=True)
        monkeypatch.setattr(
            "sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\xff\n"), encoding="utf-8")
        )
        assert main(f"--model m {argv} --device cpu --precision fp32".split()) == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: not UTF-8 (invalid start byte), standard input")


def test_half_a_character_in_a_field_that_is_passed_on(stock):
    """--file copies all fields into its answer, where half a character has no UTF-8: the escape it came as goes back."""
    shutil.copytree(stock("lm"), "m")
    record = '{"prompt": "a", "note": "\\ud83d"}'
    Path("a.jsonl").write_text(record, encoding="utf-8")
    assert (
        gptft.generate.main(f"{ASK} --file a.jsonl --out b.jsonl --max-new-tokens 1".split()) == 0
    )
    text = Path("b.jsonl").read_text(encoding="utf-8")
    assert '"note": "\\ud83d"' in text and json.loads(text)["note"] == "\ud83d"


def test_a_page_shows_markup_and_does_not_run_it(stock):
    """What stands in a run's files, which may come from elsewhere, is text: no tag of it reaches the report's page."""
    shutil.copytree(stock("finished"), "run")
    tag = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    edit(
        "run/results.json", lambda r: r | {"model": tag, "data": tag, "classes": [tag, f'">{tag}']}
    )
    Path("run/run.json").write_text(
        json.dumps({"command": tag, "options": {"data": tag}}), encoding="utf-8"
    )
    row = {
        "id": tag,
        "label": 0,
        "probabilities": [0.9, 0.1],
        "words": 2,
        "text": tag,
        "tokens": [[tag, 1.0], [tag, -1.0]],
    }
    Path("run/examples.jsonl").write_text(lines(row), encoding="utf-8")
    assert gptft.report.main(["run"]) == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") > 5 and "<script" not in page and "<img" not in page


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"PK\3\4",
        b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        None,
    ],
)
def test_a_damaged_cache_is_made_again(damage, tokenizer):
    """The cached token ids may be cut short, emptied, or replaced by what numpy would have to unpickle."""
    texts, stem = ["One.", "two words"], Path("cache/train")
    whole = TokenStore.build(texts, tokenizer, stem)
    expected = [list(whole[0]), list(whole[1])]
    for path in list(stem.parent.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] if damage is None else damage)
        found = TokenStore.build(texts, tokenizer, stem)
        assert [list(found[0]), list(found[1])] == expected and path.read_bytes() == content


# ---------------------------------------------------------------- nothing that is read is run

MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "code", "pty", "commands"}
NETWORK = {
    "socket",
    "urllib",
    "http",
    "ftplib",
    "smtplib",
    "ssl",
    "asyncio",
    "requests",
}  # download.py's alone
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "tar.extract",
    "tar.extractall",
    "tempfile.mktemp",
}


def offences(source, name):
    """What in a source could run code or open a connection -> list of its lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        bad = False
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            forbidden = MODULES if name == "download.py" else MODULES | NETWORK
            bad = bool({module.split(".")[0] for module in modules} & forbidden)
        elif isinstance(node, ast.Call):
            called, words = (
                ast.unparse(node.func),
                {word.arg: ast.unparse(word.value) for word in node.keywords},
            )
            bad = (
                called in CALLS
                or called.startswith(("os.exec", "os.spawn"))
                or words.get("shell", "False") != "False"
            )
            bad |= called == "torch.load" and words.get("weights_only") != "True"
            bad |= words.get("allow_pickle", "False") != "False"
            bad |= called.startswith("subprocess.get")  # by a shell
        if bad:
            found.append(f"{name}, line {node.lineno}: {ast.unparse(node)}")
    return found


def test_no_source_runs_what_it_reads():
    """No eval or exec, no pickle, no shell, no unpacking of archives; and one file alone speaks to the network."""
    assert [
        line for path in SOURCES for line in offences(path.read_text(encoding="utf-8"), path.name)
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.getoutput(line)",
        "os.execv(path, [])",
        "tar.extractall(path)",
        "import urllib.request",
        "from http import client",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_should(source):
    assert len(offences(source, "x.py")) == 1 and not offences(
        "model.eval(); torch.load(f, weights_only=True)", "x.py"
    )

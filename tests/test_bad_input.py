"""Bad input to every command: exit code 2, one `error:` line, and no file made, changed or lost.

A row of a table is a mistake that a user can make, or a file that is damaged or hostile: what
follows the command, a pattern that the error line must contain, and the files in the folder where
it runs. A file is given by its content, by a change of its JSON (a dict), by a function of its
path, or by the name of a good model or run (a Path). BAD_FILES, the files that the readers' own
tests refuse, are rows of four commands.
"""

import dataclasses
import io
import json
import math
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_records import BAD_FILES

import gptft.generate
import gptft.predict
import gptft.report.__main__
from data_prep import alpaca, gpt2, imdb
from gptft.checkpoints.adapters import save_adapter
from gptft.checkpoints.folders import save_model
from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.errors import DataError, command
from gptft.lora import add_adapters
from gptft.model import GPT2
from scripts import benchmark, finetune_alpaca, finetune_imdb, pretrain, train_logreg

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--n-layer 1 --n-head 2 --n-embd 4 --n-positions 64 --max-length 32 --max-steps 1 "
    "--precision fp32"
)
SHAPE = GPT2Config(n_positions=64, n_embd=4, n_layer=1, n_head=2)

# ---------------------------------------------------------------- files


def lines(*records):
    """Records as JSONL."""
    return "".join(json.dumps(record) + "\n" for record in records)


def reviews(**more):
    return lines(*({"text": f"text {i}", "label": i % 2, **more} for i in range(20)))


def tasks(**more):
    return lines(*({"instruction": f"do {i}", "output": f"done {i}", **more} for i in range(20)))


REVIEWS, TASKS = reviews(), tasks()
HEADER = "v1,v2\n" + "".join(f"{'hs'[i % 2]},text {i}\n" for i in range(20))
GROUPS = {"train/neg": 2, "train/pos": 9, "test/neg": 2, "test/pos": 9, "train/unsup": 0}
OFFICIAL = [f"aclImdb/{group}/{i}_{stars}.txt" for group, stars in GROUPS.items() for i in range(5)]


def archive(path):
    """The IMDb archive, with five small reviews in each folder."""
    with tarfile.open(path, "w:gz") as tar:
        for name in OFFICIAL:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))


def rewrite(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


cut = rewrite(lambda data: data[: len(data) // 2])
rename_tensor = rewrite(lambda data: data.replace(b"wpe", b"wpx"))
not_a_number = rewrite(lambda data: data[:-4] + np.float32(np.nan).tobytes())


class RunsCode:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def build(name, folder):
    """Make a good model, or a run, for the rows to damage."""
    torch.manual_seed(0)
    lm = GPT2(SHAPE)
    lm.template = "short"
    if name == "lm":
        save_model(lm, folder)
    elif name == "classifier":
        save_model(GPT2Classifier(SHAPE, class_names=["0", "1"]), folder)
    elif name == "small":
        save_model(GPT2(dataclasses.replace(SHAPE, vocab_size=100)), folder)
    elif name == "bundle":
        shutil.copytree(Path(__file__).parent / "fixtures" / "tf_gpt2", folder)
    elif name == "adapter":  # of the model in ./lm
        add_adapters(lm, 2, base="lm")
        folder.mkdir()
        save_adapter(lm, folder)
    else:
        Path("mine.jsonl").write_text(REVIEWS, encoding="utf-8")
        assert finetune_imdb.main(f"--data mine.jsonl {TINY} --out {folder}".split()) == 0


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """stock(name): the folder of what `build` makes, once."""
    folder = tmp_path_factory.mktemp("stock")

    def get(name):
        if not (folder / name).exists():
            build(str(name), folder / name)
        return folder / name

    return get


NAMES = ("lm", "classifier", "small", "bundle", "adapter", "run")
LM, CLASSIFIER, SMALL, BUNDLE, ADAPTER, RUN = map(Path, NAMES)

# ---------------------------------------------------------------- tables


def damaged(argv, table, good=None):
    """Rows from a table of (file, damage, pattern), beside good files. {} in argv is the file."""
    return [(argv.format(file), says, (good or {}) | {file: how}) for file, how, says in table]


PREPARE_IMDB = [
    ("--foo", "--foo"),
    ("a.tar.gz", "a.tar.gz"),
    ("--archive a.tar.gz", "a.tar.gz"),
    *damaged(
        "--archive {}",
        [
            ("a", os.mkdir, " a; "),
            ("a.tar.gz", "hello", "damaged.* a.tar.gz"),
        ],
    ),
    ("--archive a.tar.gz --out a", "--out exists already, a;", {"a/b": "x"}),
    ("--archive a.tar.gz --out a/b", "a", {"a": "x", "a.tar.gz": archive}),
]

PREPARE_ALPACA = [
    ("--files a.json", "--files"),
    ("--file a.json", "a.json"),
    ("--file b.jsonl --out a", "--out exists already, a;", {"a": "x"}),
    *damaged("--file {}", BAD_FILES),
    *damaged(
        "--file {}",
        [
            ("a.json", os.mkdir, "Is a directory.*a.json"),
            ("a.jsonl", tasks(id=[1]), "a.jsonl, line 1"),
            ("a.jsonl", tasks(output=" "), "0 usable records are too few to split, a.jsonl"),
            ("a.jsonl", tasks(instruction="a"), "too few to split, a.jsonl"),
        ],
    ),
]

PREPARE_GPT2 = [
    ("--size 125M", "125M"),
    ("--check lm --from-folder b", "leave out --from-folder", {"lm": LM}),
    ("--check a", "neither config.json", {"a": os.mkdir}),
    ("--from-folder a", "a/", {"a": os.mkdir}),
    ("--from-folder b", "b/", {"b": BUNDLE}),
]

CLASSIFICATION = [  # for two scripts
    ("--data a.jsonl", "no such file or folder, a.jsonl; check the path"),
    ("--data data/imdb", "python -m data_prep.imdb --out data/imdb$"),
    ("--data x/imdb", "python -m data_prep.imdb --out x/imdb$"),
    ("--data d", "no training records, d;", {"d/test.jsonl": REVIEWS}),
    *damaged("--data {}", BAD_FILES),
    *damaged(
        "--data {}",
        [
            ("a.jsonl", lines({"label": 1}), "no field 'text', a.jsonl, line 1 .fields: 'label'"),
            ("a.jsonl", lines({"text": "a"}), "no field 'label', a.jsonl, line 1"),
            ("a.jsonl", reviews(text=None), "'text' is null instead of a string, a.jsonl, line 1"),
            ("a.jsonl", reviews(text=5), "'text' is a number"),
            ("a.jsonl", reviews(text=" \n"), "'text' is empty, a.jsonl, line 1"),
            ("a.jsonl", reviews(text="half \ud83d"), "half a character"),
            ("a.jsonl", reviews(label=1.0), "the label is a number, a.jsonl, line 1; labels are"),
            ("a.jsonl", reviews(label="a\nb"), "the label is empty or not printable"),
            ("a.jsonl", reviews(split="x"), "split is 'x', a.jsonl, line 1; it must be"),
            ("a.jsonl", reviews(split=None), "split is None, a.jsonl, line 1"),
            ("a.jsonl", reviews(split="test"), "no training records, a.jsonl"),
            ("a.jsonl", reviews(split="train") + REVIEWS, "no field 'split', a.jsonl, line 21"),
            ("a.jsonl", reviews(text="a"), "20 records have too few different texts"),
            ("a.jsonl", reviews(label=1), "the label '1', a.jsonl; add records of another"),
            ("a.csv", "text,label\nx,a\ny,b\nz,b\n", "'b', a.csv; .* or change --seed"),
            ("a.csv", "review,Review,label\na,b,c\n", "'review', 'Review' all mean .* --columns"),
            ("a.tsv", "ham\tGo on\n" * 9, ".fields: 'ham', 'Go on'.; .* --columns TEXT,LABEL .num"),
            ("a.jsonl", reviews(id=7), "id 7 occurs twice, a.jsonl, line .* and a.jsonl, line"),
            ("a.jsonl", reviews(id=[1]), "id is neither an integer nor"),
        ],
    ),
    ("--data a.csv --columns v2,v3", "no field 'v3', a.csv, line 2", {"a.csv": HEADER}),
    *damaged(
        "--data d",
        [
            ("d/train.csv", "x", "both train.csv and train.jsonl, d;"),
            ("d/Test.parquet", "x", "can't read Parquet, d/Test.parquet"),
            ("d/test.jsonl", reviews(label=2), "label '2' does not occur .* d/test.jsonl, line 1"),
            ("d/test.jsonl", reviews(label="x" * 10**5), r"label 'x+ \.\.\. "),
            ("d/classes.json", '["a", "b", "c"]', "for the labels 0, 1, d/classes.json"),
        ],
        {"d/train.jsonl": REVIEWS},
    ),
    *damaged(
        "--data a.jsonl --out b",
        [
            ("b", "x", "Not a directory, b;"),
            ("b", RUN, "--out already holds results, b;"),
        ],
        {"a.jsonl": REVIEWS},
    ),
    ("--overwrite --out b", "--out holds files that are not a run's, b;", {"b/c": "x"}),
    ("--data a.jsonl --out b/c", "b", {"a.jsonl": REVIEWS, "b": "x"}),
]

LOGREG = CLASSIFICATION + [
    ("--C 0", "--C must be .* 0"),
    ("--C nan", "--C must be .* nan"),
    ("--C x", "--C"),
    ("--features bigram", "bigram"),
    ("--epochs 1", "--epochs"),
]

MODEL = "--data a.jsonl --model m"
SEVERAL = "--epochs must be from 1 to 10000, got 0; --warmup must be .* -1.0; --dropout must"
FINETUNE_IMDB = CLASSIFICATION + [
    ("--epochs 0 --dropout 1 --warmup -1", SEVERAL),
    ("--learning-rate nan", "--learning-rate must be from 0.0 to 1.0, got nan"),
    ("--max-steps 1.5", "--max-steps"),
    ("--precision fp64", "fp64"),
    ("--batch 3", "--batch 3; see"),  # flags can't be abbreviated
    ("--train head --lora-alpha 2", "--lora-alpha goes with --train lora, but --train is head"),
    ("--train lora --lora-alpha inf", "--lora-alpha must be"),
    ("--n-embd 5 --n-head 2", "n_embd must be a multiple of n_head"),
    ("--n-positions 16 --max-length 17", "--max-length 17 is above .* n_positions, 16"),
    ("--model 124M", "python -m data_prep.gpt2 --size 124M"),
    (f"--device mps {TINY}", "--device mps"),
    (f"--train lora {TINY}", "leave out --from-scratch and the shape"),
    (f"--resume --overwrite {TINY}", "exclude each other"),
    (f"--resume --out b {TINY}", "no saved state to resume, b;"),
    (MODEL, "no such model, m;", {"a.jsonl": REVIEWS}),
    (f"{MODEL} --n-layer 2", "leave out either", {"a.jsonl": REVIEWS, "m": LM}),
    *damaged(
        MODEL,
        [
            ("m", "x", "a file instead of a folder, m; give the folder of a model, with config"),
            ("m", os.mkdir, "neither config.json"),
            ("m", SMALL, "vocabulary of 100 tokens is smaller than GPT-2's, 50257, m;"),
            ("m", ADAPTER, "base model is not here: lm, m/adapter_config.json"),
        ],
        {"a.jsonl": REVIEWS},
    ),
    *damaged(
        MODEL,
        [
            ("m/config.json", {"model_type": "llama"}, "model_type is 'llama' .* m/config.json"),
            ("m/vocab.json", '{"a": 0}', "vocab.json is not GPT-2's tokenizer, m/vocab.json"),
            ("m/config.json", {"n_layer": 2}, ", m"),
            ("m/config.json", {"gptft": {"pooling": "mean"}}, "a mean-pooled classifier of the fi"),
            ("m/config.json", "[" * 10**5, "not JSON.* m/config.json"),
            ("m/model.safetensors", os.remove, "no model.safetensors, m;"),
            ("m/model.safetensors", cut, "not a complete safetensors file.* m/model.safetensors"),
            ("m/model.safetensors", "<!doctype html>" * 99, "m/model.safetensors"),
            ("m/model.safetensors", rename_tensor, "wpx.* m"),
            ("m/model.safetensors", not_a_number, "NaN or infinite weights in .* m"),
            ("m/model.safetensors", lambda path: path.rename("m/pytorch_model.bin"), "run code"),
            ("m/model.safetensors", lambda path: path.rename(f"{path}.index.json"), ", m/"),
        ],
        {"a.jsonl": REVIEWS, "m": LM},
    ),
    *damaged(
        MODEL,
        [("m/model.ckpt.data-00000-of-00001", cut, "m/model.ckpt")],
        {"a.jsonl": REVIEWS, "m": BUNDLE},
    ),
    *damaged(
        MODEL,
        [
            ("lm", BUNDLE, "m"),
            ("m/adapter_config.json", {"r": 3}, "m"),
            ("m/adapter_config.json", {"lora_alpha": 10**400}, "m/adapter_config.json"),
            ("m/adapter_model.safetensors", cut, "m/adapter_model.safetensors"),
        ],
        {"a.jsonl": REVIEWS, "m": ADAPTER, "lm": LM},
    ),
    *damaged(
        f"--data mine.jsonl {TINY} --resume --out s",
        [
            ("mine.jsonl", REVIEWS.replace("text 1", "else"), "changed .11 of 20 are new., s;"),
            ("s/run.json", os.remove, "s;"),
            ("s/run.json", '{"options": {', "s/run.json"),
            ("s/run.json", b"\xff", "s/run.json"),
            ("s/run.json", '{"options": [1]}', "s;"),
            ("s/last/state.pt", b"", "s/last/state.pt"),
            ("s/last/state.pt", cut, "s/last/state.pt; start again with --overwrite"),
            ("s/last/state.pt", lambda path: torch.save({"position": {}}, path), "s/last/state.pt"),
            ("s/last/state.pt", lambda path: torch.save(RunsCode(), path), "s/last/state.pt"),
        ],
        {"s": RUN, "mine.jsonl": REVIEWS},
    ),
]

USER, ASSISTANT = ({"role": role, "content": "a"} for role in ("user", "assistant"))
NO_EXCHANGE = "no user turn answered by an assistant in messages, a.jsonl, line 1"
FINETUNE_ALPACA = [
    ("--template chat", "chat"),
    ("--test-prompts -1", "--test-prompts must be at least 0, got -1"),
    ("--inspect -1", "--inspect must be at least 1, got -1"),
    ("--train lora --template special", "would leave new special tokens untrained"),
    ("--model m", "vocabulary of 100 tokens is smaller", {"m": SMALL}),
    *damaged("--data {}", BAD_FILES),
    *damaged(
        f"--data {{}} {TINY}",
        [
            ("a.jsonl", REVIEWS, "no field 'instruction', a.jsonl, line 1 .fields: 'text', 'la"),
            ("a.jsonl", tasks(output=""), "is empty, a.jsonl"),
            ("a.jsonl", tasks(input="word " * 40), "every prompt fills the 32 tokens"),
            ("a.jsonl", lines({"output": "a"}), "no field 'instruction', a.jsonl, line 1"),
            ("a.jsonl", lines({"instruction": "a"}), "no field 'output', a.jsonl, line 1"),
            ("a.jsonl", lines({"prompt": "a"}), "no field 'output', a.jsonl, line 1"),
            ("a.jsonl", tasks(instruction=" "), "'instruction' is empty, a.jsonl, line 1"),
            ("a.jsonl", tasks(output=["b"]), "'output' is a list"),
            ("a.jsonl", tasks(input=3), "'input' is a number"),
            ("a.jsonl", tasks(output="\ud800"), "half a character .* in 'output', a.jsonl, line 1"),
            ("a.jsonl", tasks(Input="a", INPUT="b"), "'Input', 'INPUT' all mean .*; rename one"),
            ("a.jsonl", tasks(messages=7), NO_EXCHANGE),
            ("a.jsonl", tasks(messages=[1, USER, {"role": [1]}]), NO_EXCHANGE),
            ("a.jsonl", tasks(messages=[ASSISTANT, USER]), NO_EXCHANGE),
            ("a.jsonl", tasks(messages=[USER | {"content": None}, ASSISTANT]), NO_EXCHANGE),
        ],
    ),
]

PRETRAIN = [
    ("--data a.txt", "no such file or folder, a.txt"),
    ("--model m", "vocabulary of 100 tokens is smaller", {"m": SMALL}),
    ("--data d", "also in val or test, d", {f"d/{s}.jsonl": REVIEWS for s in ("train", "test")}),
    ("--data d", "d/unsup.jsonl, line 1", {"d/train.jsonl": REVIEWS, "d/unsup.jsonl": "{"}),
    *damaged(
        "--data {}",
        [
            ("a.txt", b"one\n\xff", "not UTF-8 .*a.txt, line 2"),
            ("a.txt", "One.", "1 records have too few different texts .* a.txt"),
            ("a.json", '[{"text": ["a"]}]', "'text' is a list .* a.json, record 1"),
        ],
    ),
]

ASK = "--model m --precision fp32 --device cpu --max-new-tokens 9"
GENERATE = [
    ("--prompt a --prompt=b", "--prompt is given twice; see"),
    ("--prompt a --instruction b", "--prompt and --instruction exclude each other"),
    ("--input a", "--input goes with --instruction"),
    ("--out a", "--out goes with --file"),
    ("--file a.jsonl --out b/c", "no such folder, b, for --out"),
    ("--file a.jsonl --out b", "b", {"b": os.mkdir}),
    ("--file a.jsonl --out ./a.jsonl", "a.jsonl", {"a.jsonl": REVIEWS}),
    ("--temperature -1", "--temperature must be from 0.0 to 100.0"),
    ("--top-p 0 --top-k 0", "--top-k must be at least 1, got 0; --top-p must be"),
    ("--max-new-tokens 0", "--max-new-tokens must be at least 1"),
    ("--num-samples 1000000000000", "--num-samples must be"),
    ("--prompt a", "the bundled weights are missing"),
    ("--model m --prompt a", "no such model, m;"),
    ("--model openai-community/gpt2-xl", "python -m data_prep.gpt2 --size 1558M"),
    (f"{ASK} --prompt a", "a classifier generates no text, m;", {"m": CLASSIFIER}),
    (f"{ASK} --prompt a", "vocabulary of 100 tokens is smaller .* m;", {"m": SMALL}),
    (f"{ASK} --prompt {'a' * 600}", "n_positions, 64; shorten", {"m": LM}),
    *damaged(
        f"{ASK} --instruction a",
        [
            ("m/config.json", {"gptft": {}}, "the model was not tuned on instructions, m;"),
            ("m/config.json", lambda path: (path.unlink(), path.mkdir()), "m/config.json"),
        ],
        {"m": LM},
    ),
    (f"{ASK} --file a.jsonl", "a.jsonl", {"m": LM}),
    (f"{ASK} --interactive", "not UTF-8 .* standard input, line 2", {"m": LM}),
    (f"{ASK} --prompt -", "not UTF-8 .* standard input, line 2", {"m": LM}),
    *damaged(
        f"{ASK} --file a.jsonl",
        [
            ("a.jsonl", REVIEWS, "no field 'prompt', a.jsonl, line 1"),
            ("a.jsonl", '{"prompt": ""}', "'prompt' is empty, a.jsonl, line 1"),
            ("a.jsonl", '{"instruction": "a", "input": 1}', "'input' is a number .* line 1"),
            ("a.jsonl", lines({"prompt": "a " * 99}), "n_positions, 64, a.jsonl, line 1; shorten"),
        ],
        {"m": LM},
    ),
]

PREDICT = [
    ("a --device cpu --device mps", "--device is given twice; see"),
    ("a --file b.txt", "TEXT and --file exclude each other"),
    ("a", "no classifier under runs/"),
    ("a --model m", "a language model has no classes, m;", {"m": LM}),
    ("--model m", "not UTF-8 .* standard input, line 2", {"m": CLASSIFIER}),
    *damaged(
        "a --model m",
        [
            ("m/run.json", '{"options": {"C": 1}}', "no max_length and truncate, m/run.json"),
            ("m/model.safetensors", cut, "m/model.safetensors"),
        ],
        {"m": CLASSIFIER},
    ),
    *damaged(
        "--model m --file {}",
        [
            ("a.txt", os.mkdir, "a.txt"),
            ("a.txt", b"one\n\xff", "not UTF-8 .*a.txt, line 2"),
            ("a.jsonl", TASKS, "no field 'text', a.jsonl, line 1"),
        ],
        {"m": CLASSIFIER},
    ),
]

ROW = {"id": "r1", "label": 0, "probabilities": [0.5, 0.5], "words": 2}
REPORT = [
    ("", "RUN"),
    ("b", "b/results.json", {"b": "x"}),
    ("a b", "b", {"a": RUN}),
    *damaged(
        "a b",
        [
            ("b/results.json", os.remove, "not a finished run, b/results.json"),
            ("b/results.json", b"\xff", "b/results.json"),
            ("b/results.json", "[" * 10**5, "b/results.json"),
            ("b/results.json", {"test": {}}, "b"),
            ("b/results.json", {"test": {"accuracy": "x", "confusion": [1]}}, "b"),
            ("b/results.json", {"task": "instructions"}, "b"),
            ("b/metrics.jsonl", b"\xff", "not UTF-8 .*b/metrics.jsonl, line 1"),
            ("b/metrics.jsonl", '{"step": "x", "loss": "y"}', "b"),
            ("b/metrics.jsonl", '{"step": 1, "val": {}}\n{"step": 2, "lo', "b/metrics.*, line 2"),
            ("b/examples.jsonl", '{"id": 1}', "b"),
            ("b/predictions.jsonl", lines(ROW | {"probabilities": ["a", "b"]}), "b"),
            ("b/predictions.jsonl", lines(ROW | {"probabilities": [math.nan, 1]}), "line 1"),
            ("b/predictions.jsonl", lines(*[ROW | {"probabilities": [0, 1e308]}] * 2), "b"),
        ],
        {"a": RUN, "b": RUN},
    ),
]

BENCHMARK = [
    ("", "PART"),
    ("speed", "speed"),
    ("train-step --model 125M", "125M"),
]

TABLES = {
    imdb.main: PREPARE_IMDB,
    alpaca.main: PREPARE_ALPACA,
    gpt2.main: PREPARE_GPT2,
    train_logreg.main: LOGREG,
    finetune_imdb.main: FINETUNE_IMDB,
    finetune_alpaca.main: FINETUNE_ALPACA,
    pretrain.main: PRETRAIN,
    gptft.generate.main: GENERATE,
    gptft.predict.main: PREDICT,
    gptft.report.__main__.main: REPORT,
    benchmark.main: BENCHMARK,
}
ROWS = [
    pytest.param(main, argv, says, *(files or [{}]), id=f"{main.__module__}: {says[:60]}")
    for main, table in TABLES.items()
    for argv, says, *files in table
]


def make(files, stock):
    """Make the files of a row in the current folder."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, Path):
            shutil.copytree(stock(content), path)
        elif isinstance(content, dict):
            old = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(old | content), encoding="utf-8")
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def snapshot(folder):
    """{path: content} of everything in a folder."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("main, argv, says, files", ROWS)
def test_bad_input(main, argv, says, files, stock, tmp_path, capfd, monkeypatch):
    """The error line is the last and the only one of its kind, and the folder is as it was."""
    monkeypatch.setattr(imdb, "COUNTS", dict.fromkeys(GROUPS, 5))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\xff\n"), "utf-8"))
    if "bundled" in says:
        monkeypatch.setattr("gptft.training.start.BUNDLED", tmp_path / "absent")
    make(files, stock)
    before = snapshot(tmp_path)
    capfd.readouterr()
    code = main(argv.split())
    out, err = capfd.readouterr()
    assert code == 2, out + err
    *others, last = err.splitlines()
    assert last.startswith("error: ") and len(last) < 2100 and re.search(says, last), err
    assert not [line for line in others if line.startswith(("error: ", "Traceback"))], err
    assert snapshot(tmp_path) == before


# ---------------------------------------------------------------- what does not fit the table


def test_a_message_neither_floods_nor_steers_the_terminal(capsys):
    """A message may quote a file: control characters become "?", and a long one is shortened."""

    @command
    def main(argv):
        raise DataError("label \x1b[2J\x9b1m\ud800" + "x" * 10**6 + ", a.jsonl,\nline 1; mend it")

    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: label ?[2J?1m?xxx") and len(err) < 2100
    assert err.endswith("x, a.jsonl, line 1; mend it\n")


def test_half_a_character_in_a_field_that_is_copied(stock):
    """--file copies all fields; half a character has no UTF-8 and stays the escape that it was."""
    shutil.copytree(stock("lm"), "m")
    record = '{"prompt": "a", "note": "\\ud83d"}'
    Path("a.jsonl").write_text(record, encoding="utf-8")
    assert gptft.generate.main(f"{ASK} --file a.jsonl --out b.jsonl".split()) == 0
    text = Path("b.jsonl").read_text(encoding="utf-8")
    assert '"note": "\\ud83d"' in text and json.loads(text)["note"] == "\ud83d"


# ---------------------------------------------------------------- nothing that is read is run

NETWORK = re.compile(r"^\s*(import|from) (socket|ssl|urllib|http|ftplib|asyncio|requests)\b", re.M)
UNSAFE = re.compile(
    r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib|yaml|code|pty)\b"
    r"|(?<![.\w])(eval|exec|compile|__import__)\("
    r"|\.extractall\(|tar\.extract\(|mktemp\(|subprocess\.get|os\.(system|popen|exec|spawn)"
    r"|(shell|allow_pickle)=True|torch\.load\((?![^)]*weights_only=True)",
    re.M,
)


def test_no_source_runs_what_it_reads():
    """No pickle, no shell, no unpacked archive; and one file only uses the network."""
    for folder in ("gptft", "data_prep", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not UNSAFE.search(text), path
            assert path.name == "download.py" or not NETWORK.search(text), path


@pytest.mark.parametrize(
    "source",
    [
        "x = eval('1')",
        "exec(text)",
        "    import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "os.execv(path, [])",
        "tar.extractall(path)",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_should(source):
    assert UNSAFE.search(source)
    assert not UNSAFE.search("model.eval(); torch.load(f, weights_only=True); re.compile(p)")

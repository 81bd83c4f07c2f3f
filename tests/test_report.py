"""Finished runs as text, as a page and beside each other, from run folders written by hand."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from gptft import report
from gptft.metrics import classification_metrics
from gptft.tables import classification_table

SCRIPT = '<script>alert("1")</script> & \'<img src=x onerror=y>'


def write_run(folder, called, labels=(0, 0, 1, 1, 1)):
    """A finished run whose test rows were called `called`, with 90 % confidence."""
    probabilities = 0.1 + 0.8 * np.eye(2)[list(called)]
    metrics = classification_metrics(np.array(labels), np.log(probabilities))
    folder.mkdir()
    results = {
        "task": "classification",
        "model": "toy",
        "data": "toy data",
        "classes": ["bad", "good"],
        "val": metrics,
        "test": metrics,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [
        {"id": f"r{i}", "label": label, "probabilities": list(p)}
        for i, (label, p) in enumerate(zip(labels, probabilities))
    ]
    write_rows(folder / "predictions.jsonl", rows)
    return str(folder)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_whole_run(folder, options=(), metrics=True):
    """As `write_run`, with all that a training leaves, and a name wherever one can be hostile."""
    write_run(folder, (0, 1, 1, 1, 0))
    path = folder / "results.json"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace('"toy"', json.dumps(SCRIPT))
        .replace('"good"', '"<b>good"'),
        encoding="utf-8",
    )
    record = {
        "command": f"python x.py {SCRIPT}",
        "seed": dict(options).get("seed"),
        "options": {"data": SCRIPT, **dict(options)},
        "versions": {"torch": "9"},
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    val = {"loss": 0.5, "accuracy": 0.6, "accuracy_ci": [0.2, 0.9]}
    steps = [
        {"step": 10 * i, "loss": 1 / i, "learning_rate": 1e-3, "tokens_per_second": 99.0}
        for i in range(1, 8)
    ]
    write_rows(folder / "metrics.jsonl", [*steps, {"step": 70, "val": val}])
    rows = [
        json.loads(line)
        for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    write_rows(
        folder / "predictions.jsonl", [row | {"words": 10 + i} for i, row in enumerate(rows)]
    )
    tokens = [["<script>", 0.5], [" film", -0.25], [" <img>", 0.01]]
    shown = [
        rows[1] | {"words": 3, "text": "x", "tokens": tokens},
        rows[0] | {"words": 3, "text": SCRIPT, "tokens": None},
    ]
    write_rows(folder / "examples.jsonl", shown)
    return str(folder)


class Reader(HTMLParser):
    """The tags of a page, all of them closed, and its text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text, self.titles = [], [], "", []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    assert report.main([str(folder)]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_nobody_for_anything(tmp_path):
    # A review, a class or a command is text, whatever it looks like; the page must be readable without a network.
    write_whole_run(tmp_path / "a")
    page = page_of(tmp_path / "a")
    found = Reader(page)
    assert not {tag for tag, _ in found.tags} & {"script", "img", "link", "iframe", "b"}
    assert not any(
        name in attrs for _, attrs in found.tags for name in ("src", "href", "onerror", "onclick")
    )
    assert not re.search(r"https?:|@import|url\(", page)
    assert found.text.count('<script>alert("1")</script>') >= 3  # the model, the command, a review
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 7 and all(ET.fromstring(chart).find("title").text for chart in charts)
    for heading in (
        "Results",
        "Command",
        "Training",
        "Confusion on test",
        "How sure, and how right",
        "Most confident mistakes",
        "Called rightly, with most confidence",
        "Settings",
    ):
        assert f"<h2>{heading}</h2>" in page


def test_the_page_shows_the_numbers_of_the_run(tmp_path):
    write_whole_run(tmp_path / "a")
    page = page_of(tmp_path / "a")
    text = Reader(page).text
    # Rows 1 and 4 are wrong. Of the 2 x 3 pairs the good row is ahead in 2, level in 1 + 2, behind in 1: 3.5 of 6.
    assert "60.0% of 5 test rows right" in text and "<b>good 0.583" in text
    assert "expected error 0.3000" in text  # 90 % sure, 60 % right
    assert (
        "called <b>good with 90.00%, is bad · 3 words · id r1" in text
        and "called bad with 90.00% · 3 words" in text
    )
    marks = [
        (attrs["class"], attrs["style"], attrs.get("title"))
        for tag, attrs in Reader(page).tags
        if tag == "mark"
    ][2:4]
    assert marks == [("for", "--a:0.80", "+0.5"), ("against", "--a:0.40", "-0.25")]
    assert "Most for it: “<script>” +0.5, “<img>” +0.01, “film” -0.25." in text
    losses = re.search(r'<polyline class="faint c0" points="([^"]*)"', page)[1].split()
    assert len(losses) == 7 + 1  # the last one is always drawn, here twice


def test_a_run_without_log_texts_and_record_has_a_page(tmp_path):
    # The baseline logs no steps, and older runs have no examples.
    page = page_of(tmp_path / write_run(tmp_path / "a", (0, 0, 1, 1, 0)))
    assert "Training" not in page and "mistakes" not in page and "Calibration" in page
    Reader(page)


def test_more_classes_than_two(tmp_path):
    write_run(tmp_path / "a", (0, 1, 1, 1, 0))
    results = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    labels, p = [0, 1, 2, 2], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.85, 0.1, 0.05]]
    results |= {"classes": ["a", "b", "c"], "test": classification_metrics(labels, np.log(p))}
    (tmp_path / "a" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_rows(
        tmp_path / "a" / "predictions.jsonl",
        [{"id": i, "label": k, "probabilities": row} for i, (k, row) in enumerate(zip(labels, p))],
    )
    assert "area under the curve: a 0.667, b 1.000, c 0.500" in page_of(
        tmp_path / "a"
    )  # a is ahead of 2 in 3, c of 2 in 4


def instruction_results(loss):
    metrics = {"n": 4, "loss": loss, "perplexity": 9.0, "response_tokens": 40}
    rates = {"n": 4, "passed": 1, "rate": 0.25, "ci": [0.05, 0.7]}
    tasks = {
        kind: {**rates, "categories": {"list": rates, "<number>": rates}}
        for kind in ("written", "forced_choice")
    }
    texts = {
        key: 0.5
        for key in (
            "end_of_text",
            "format",
            "rouge_l",
            "distinct_1",
            "distinct_2",
            "repeated_4grams",
            "words",
        )
    }
    test = (
        metrics | texts | {"n_generated": 2, "end_of_text_ci": [0.1, 0.9], "format_ci": [0.1, 0.9]}
    )
    return {"train": metrics, "val": metrics, "test": test, "tasks": tasks}


def test_an_instruction_run_shows_both_models_side_by_side(tmp_path):
    results = (
        {"task": "instructions", "model": "toy", "data": "toy"}
        | instruction_results(1.5)
        | {"base": instruction_results(3.5)}
    )
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_rows(
        tmp_path / "examples.jsonl",
        [
            {
                "id": 1,
                "instruction": SCRIPT,
                "input": SCRIPT,
                "output": "o<",
                "base": "b<",
                "tuned": SCRIPT,
            }
        ],
    )
    page = page_of(tmp_path)
    found = Reader(page)
    assert (
        "loss of test responses 1.500, before tuning 3.500" in found.text
        and found.text.count(SCRIPT) == 3
    )
    assert re.search(
        r"base.*b<.*tuned.*<script>.*reference.*o<",
        found.text.split("Responses to test prompts")[1],
        re.DOTALL,
    )
    assert re.search(r"<number>\s*1 of 4\s*1 of 4", found.text) and "script" not in {
        tag for tag, _ in found.tags
    }


def test_another_task_gets_a_page_of_its_losses(tmp_path, capsys):
    split = {"n": 3, "tokens": 99, "loss": 2.5, "perplexity": 12.18}
    (tmp_path / "results.json").write_text(
        json.dumps({"task": "pretraining", "model": "m", "data": "d", "val": split, "test": split}),
        encoding="utf-8",
    )
    assert "loss on test 2.500" in page_of(tmp_path)
    assert ["test", "3", "99", "2.5", "12.18"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_compares_two_runs_on_the_same_rows(tmp_path, capsys):
    a = write_run(tmp_path / "a", (0, 0, 1, 1, 0))  # row 4 wrong
    b = write_run(tmp_path / "b", (1, 1, 0, 1, 1))  # rows 0, 1, 2 wrong
    assert report.main([a, b]) == 0
    out = capsys.readouterr().out
    # 3 rows only a got right, 1 only b: difference (3 - 1) / 5, exact p = 2 * (1 + 4) / 16.
    assert "5 test rows of both: +0.4000 in accuracy" in out
    assert f"only {a} is right: 3" in out and f"only {b} is right: 1" in out and "p = 0.625" in out
    assert out.count("95 % interval") == 2 and "seed" not in out


def test_runs_that_differ_in_their_seed_alone_are_one_experiment(tmp_path, capsys):
    # Accuracies 0.8, 0.4, 0.6: mean 0.6, standard deviation 0.2, times 4.303 / sqrt(3).
    folders = []
    for seed, (name, called) in enumerate(
        {
            "a": (0, 0, 1, 1, 0),
            "b": (1, 1, 0, 1, 1),
            "c": (1, 1, 1, 1, 1),
            "other": (0, 0, 1, 1, 1),
        }.items()
    ):
        folders.append(write_run(tmp_path / name, called))
        options = {
            "seed": seed,
            "out": name,
            "texts": str(seed),
            "dropout": 0.2 if name == "other" else 0.1,
        }
        (tmp_path / name / "run.json").write_text(
            json.dumps({"command": "x", "options": options, "seed": seed}), encoding="utf-8"
        )
    assert report.main(folders) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "t interval" in line)
    assert (
        "accuracy on test 0.6000 ± 0.4969 (95 % t interval over 3 seeds)" in line
        and "other" not in line
    )


def test_table_shows_counts_by_class():
    metrics = dict(
        n=5,
        accuracy=0.6,
        accuracy_ci=[0.2, 0.9],
        precision=0.5,
        recall=0.25,
        f1=1 / 3,
        loss=0.7,
        confusion=[[2, 1], [1, 1]],
    )
    table = classification_table({"test": metrics}, ["bad", "very good"])
    assert [line.split() for line in table.splitlines()[-2:]] == [
        ["bad", "2", "1"],
        ["very", "good", "1", "1"],
    ]
    assert "0.2000..0.9000" in table and "0.3333" in table


@pytest.mark.parametrize(
    "damage",
    [
        "absent",
        "unfinished",
        "no_rows",
        "truncated",
        "other_rows",
        "no_prediction",
        "other_json",
        "other_results",
    ],
)
def test_bad_runs_are_one_line_and_nothing_is_written(tmp_path, capsys, damage):
    a, b = write_run(tmp_path / "a", (0, 0, 1, 1, 0)), tmp_path / "b"
    if damage != "absent":
        write_run(b, (0, 0, 1, 1, 0))
    if damage == "unfinished":
        (b / "results.json").unlink()
    elif damage == "no_rows":
        (b / "predictions.jsonl").unlink()
    elif damage == "truncated":
        (b / "results.json").write_text('{"test": ', encoding="utf-8")
    elif damage == "other_json":
        (b / "results.json").write_text("[1]", encoding="utf-8")
    elif damage == "other_results":
        (b / "results.json").write_text(
            '{"task": "classification", "model": 1, "data": 1, "test": {"loss": 1}, "classes": []}',
            encoding="utf-8",
        )
    elif damage == "no_prediction":
        write_rows(b / "predictions.jsonl", [{"id": "r1", "prompt": "x"}])
    elif damage == "other_rows":
        write_rows(b / "predictions.jsonl", [{"id": "x", "label": 0, "probabilities": [1, 0]}])
    assert report.main([a, str(b)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and str(b) in err
    assert not list(tmp_path.rglob("report.html"))

"""Runs as text, as a page and in comparison, from run folders written by hand."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from gptft.evaluation.metrics import classification_metrics
from gptft.report.__main__ import main
from gptft.report.page import write_page

HOSTILE = '<script>alert("1")</script> & \'<img src=x onerror=y>'
VAL = {"loss": 0.5, "accuracy": 0.6, "accuracy_ci": [0.2, 0.9]}
STEP = {"loss": 1.0, "learning_rate": 1e-3, "tokens_per_second": 99.0}
TRAINING = {
    "run": {"command": f"python x.py {HOSTILE}", "options": {"out": HOSTILE}},
    "metrics": [{"step": 1} | STEP, {"step": 2} | STEP, {"step": 2, "val": VAL}],
}


def write(folder, **files):
    """Write files into a run folder: an object as NAME.json, a list of objects as NAME.jsonl."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        rows, suffix = ([content], "json") if isinstance(content, dict) else (content, "jsonl")
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return str(folder)


def classifier(folder, predicted, labels=(0, 0, 1, 1, 1), classes=("bad", "good"), **files):
    """A finished run of a classifier that is 90 % sure of each prediction."""
    rest = 0.1 / (len(classes) - 1)
    probabilities = rest + (0.9 - rest) * np.eye(len(classes))[list(predicted)]
    metrics = classification_metrics(labels, np.log(probabilities))
    results = {"task": "classification", "model": HOSTILE, "data": "toys", "classes": classes}
    rows = [
        {"id": f"r{i}", "label": label, "probabilities": p, "words": 10 + i}
        for i, (label, p) in enumerate(zip(labels, probabilities.tolist()))
    ]
    results |= {"val": metrics, "test": metrics}
    return write(folder, results=results, predictions=rows, **files)


def read_page(folder):
    """The page, a str, its <body>, parsed strictly, its text and its headings."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    body = ET.fromstring(page[page.index("<body>") : page.index("</html>")])
    return page, body, "".join(body.itertext()), [h2.text for h2 in body.iter("h2")]


def test_a_page_is_whole_escaped_and_offline(tmp_path):
    tokens = [["<script>", 0.5], [" film", -0.25], [" <img>", 0.01]]
    wrong = {"id": 1, "label": 0, "probabilities": [0.1, 0.9], "words": 3, "tokens": tokens}
    right = wrong | {"label": 1, "tokens": None, "text": HOSTILE}
    files = TRAINING | {"examples": [wrong, right]}
    assert main([classifier(tmp_path, (0, 1, 1, 1, 0), classes=["bad", "<b>good"], **files)]) == 0
    page, body, text, headings = read_page(tmp_path)
    assert not {element.tag for element in body.iter()} & {"script", "img", "b"}
    assert not re.search(r"https?:|@import|url\(|<link|<script", page)
    assert text.count(HOSTILE) == 5  # the model twice, the command, an option, a review
    assert headings == [
        "Results",
        "Command",
        "Training",
        "Confusion on test",
        "Confidence and accuracy",
        "Most confident mistakes",
        "Most confident correct predictions",
        "Settings",
    ]
    assert len(list(body.iter("svg"))) == 7
    # Rows 1 and 4 are wrong. Of the 2 x 3 pairs of rows of two classes, the good row is ahead in
    # 2, level in 3 and behind in 1: an area of 3.5 / 6.
    assert "accuracy 60.0% on 5 test rows" in text and "<b>good 0.583" in text
    assert "expected error 0.3000" in text  # 90 % confidence, 60 % accuracy
    assert "predicted <b>good with 90.00%, is bad · 3 words · id 1" in text
    assert "Strongest: “<script>” +0.5, “film” -0.25, “<img>” +0.01" in text
    marks = [mark.attrib for mark in body.iter("mark")]
    assert marks[2:] == [
        {"class": "for", "style": "--a:0.80", "title": "+0.5"},
        {"class": "against", "style": "--a:0.40", "title": "-0.25"},
    ]


def test_an_unfinished_run_has_a_page_but_no_report(tmp_path, capsys):
    folder = write(tmp_path, **TRAINING)
    write_page(folder)
    _, _, text, headings = read_page(tmp_path)
    assert headings == ["Command", "Training", "Settings"] and "not finished" in text
    assert main([folder]) == 2
    assert capsys.readouterr().err.startswith("error: not a finished run, ")


def test_each_class_has_a_curve_and_the_hardest_six_are_named(tmp_path):
    # The last row of class 7 is called 0, so these two classes have the smallest areas.
    labels = [0, 1, 2, 3, 4, 5, 6, 7, 7]
    classifier(tmp_path, [*range(8), 0], labels, [f"c{k}" for k in range(8)])
    write_page(tmp_path)
    _, body, _, headings = read_page(tmp_path)
    roc = next(body.iter("figure"))
    names = [entry.text.split()[0] for entry in roc.iter("span")]
    assert len(list(roc.iter("polyline"))) == 8
    assert len(names) == 6 and set(names[:2]) == {"c0", "c7"}
    assert "Training" not in headings  # without a log, as for the baseline


def test_an_instruction_run_shows_both_models_side_by_side(tmp_path, capsys):
    def evaluation(loss):
        split = {"n": 4, "loss": loss, "format": 0.75, "format_ci": [0.3, 0.95]}
        passed = {"n": 4, "passed": 1, "ci": [0.05, 0.7]}
        tasks = passed | {"categories": {"<number>": passed}}
        return {"train": split, "val": split, "test": split, "tasks": tasks}

    results = {"task": "instructions", "model": "toy", "data": "toys", "base": evaluation(3.5)}
    example = {"instruction": HOSTILE, "input": HOSTILE, "output": "o<", "base": "b<"}
    example["tuned"] = HOSTILE
    assert main([write(tmp_path, results=results | evaluation(1.5), examples=[example])]) == 0
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert ["test loss", "3.5000", "1.5000"] in lines
    assert [
        "test format (95 % interval)",
        "0.7500 (0.300..0.950)",
        "0.7500 (0.300..0.950)",
    ] in lines
    assert ["tasks, <number>", "1 of 4 (5%..70%)", "1 of 4 (5%..70%)"] in lines
    _, body, text, _ = read_page(tmp_path)
    assert body.find(".//script") is None and text.count(HOSTILE) == 3
    sides = ["".join(side.itertext()) for side in body.find(".//div[@class='sides']")]
    assert sides == ["baseb<", f"tuned{HOSTILE}", "referenceo<"]


def test_another_task_gets_a_table_of_its_metrics(tmp_path, capsys):
    split = {"n": 3, "tokens": 99, "loss": 2.5, "bits_per_byte": 1.25}
    results = {"task": "pretraining", "model": "m", "data": "d", "val": split, "test": split}
    assert main([write(tmp_path, results=results)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["n", "loss", "bits", "per", "byte"] in lines
    assert ["test", "3", "2.5000", "1.2500"] in lines
    assert "loss on test 2.5000" in read_page(tmp_path)[2]


def test_compares_two_classifiers_on_the_same_rows(tmp_path, capsys):
    a = classifier(tmp_path / "a", (0, 0, 1, 1, 0))  # row 4 wrong
    b = classifier(tmp_path / "b", (1, 1, 0, 1, 1))  # rows 0, 1 and 2 wrong
    assert main([a, b]) == 0
    out = capsys.readouterr().out
    # Only a is right on 3 rows, only b on 1: (3 - 1) / 5, and an exact p of 2 * (1 + 4) / 16.
    assert "5 test rows: accuracy +0.4000" in out and "p = 0.625" in out
    assert f"only {a} is right: 3   only {b} is right: 1" in out
    assert "0.8000 (0.376..0.964)" in out  # Wilson's interval for 4 of 5
    assert ["good", "1", "2"] in [line.split() for line in out.splitlines()]
    assert "seed" not in out


@pytest.mark.parametrize("before, after", [('"label": 1', '"label": 0'), ('"r', '"s')])
def test_runs_on_other_rows_are_not_compared(tmp_path, capsys, before, after):
    a, b = (classifier(tmp_path / name, (0, 0, 1, 1, 1)) for name in "ab")
    path = tmp_path / "b" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    assert main([a, b]) == 0
    out = capsys.readouterr().out
    assert f"{a} and {b} were tested on different rows and are not compared" in out
    assert "p = " not in out and out.count("page: ") == 2


def test_runs_that_differ_only_in_their_seed_are_one_experiment(tmp_path, capsys):
    # Accuracies 0.8, 0.4 and 0.6: mean 0.6, standard deviation 0.2, times 4.303 / sqrt(3).
    predictions = [(0, 0, 1, 1, 0), (1, 1, 0, 1, 1), (1, 1, 1, 1, 1), (0, 0, 1, 1, 1)]
    folders = []
    for seed, predicted in enumerate(predictions):
        options = {"seed": seed, "out": str(seed), "texts": str(seed), "dropout": seed // 3}
        record = {"command": "x", "options": options, "seed": seed}
        folders.append(classifier(tmp_path / f"run{seed}", predicted, run=record))
    assert main(folders) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "t interval" in line]
    assert "accuracy on test 0.6000 ± 0.4969 (95 % t interval over 3 seeds)" in line
    assert "run3" not in line

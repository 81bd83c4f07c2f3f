"""The printed tables and the paired comparison of runs, from run folders written by hand."""

import json

import pytest

from gptft import report
from gptft.metrics import classification_metrics
from gptft.report import classification_table


def write_run(folder, called, labels=(0, 0, 1, 1, 1)):
    """A finished run whose test rows were called `called`, with 90 % confidence."""
    import numpy as np

    probabilities = 0.1 + 0.8 * np.eye(2)[list(called)]
    metrics = classification_metrics(np.array(labels), np.log(probabilities))
    folder.mkdir()
    results = {"task": "classification", "model": "toy", "data": "toy data", "classes": ["bad", "good"], "val": metrics, "test": metrics}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [{"id": f"r{i}", "label": label, "probabilities": list(p)} for i, (label, p) in enumerate(zip(labels, probabilities))]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def test_compares_two_runs_on_the_same_rows(tmp_path, capsys):
    a = write_run(tmp_path / "a", (0, 0, 1, 1, 0))  # row 4 wrong
    b = write_run(tmp_path / "b", (1, 1, 0, 1, 1))  # rows 0, 1, 2 wrong
    assert report.main([a, b]) == 0
    out = capsys.readouterr().out
    # 3 rows only a got right, 1 only b: difference (3 - 1) / 5, exact p = 2 * (1 + 4) / 16.
    assert "5 test rows of both: +0.4000 in accuracy" in out
    assert f"only {a} is right: 3" in out and f"only {b} is right: 1" in out and "p = 0.625" in out
    assert out.count("95 % interval") == 2


def test_table_shows_counts_by_class():
    metrics = dict(n=5, accuracy=0.6, accuracy_ci=[0.2, 0.9], precision=0.5, recall=0.25, f1=1 / 3, loss=0.7, confusion=[[2, 1], [1, 1]])
    table = classification_table({"test": metrics}, ["bad", "very good"])
    assert [line.split() for line in table.splitlines()[-2:]] == [["bad", "2", "1"], ["very", "good", "1", "1"]]
    assert "0.2000..0.9000" in table and "0.3333" in table


@pytest.mark.parametrize("damage", ["absent", "unfinished", "no_rows", "truncated", "other_rows", "no_prediction", "other_json"])
def test_bad_runs_are_one_line(tmp_path, capsys, damage):
    a = write_run(tmp_path / "a", (0, 0, 1, 1, 0))
    if damage == "absent":
        argv = [a, str(tmp_path / "b")]
    else:
        b = tmp_path / "b"
        argv = [a, write_run(b, (0, 0, 1, 1, 0))]
        if damage == "unfinished":
            (b / "results.json").unlink()
        elif damage == "no_rows":
            (b / "predictions.jsonl").unlink()
        elif damage == "truncated":
            (b / "results.json").write_text('{"test": ', encoding="utf-8")
        elif damage == "other_json":
            (b / "results.json").write_text("[1]", encoding="utf-8")
        elif damage == "no_prediction":
            (b / "predictions.jsonl").write_text('{"id": "r1", "prompt": "x"}\n', encoding="utf-8")
        else:
            (b / "predictions.jsonl").write_text('{"id": "x", "label": 0, "probabilities": [1, 0]}\n', encoding="utf-8")
    assert report.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and str(tmp_path / "b") in err

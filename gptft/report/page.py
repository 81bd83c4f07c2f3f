"""A run folder as a page: report.html, one file without scripts that loads nothing from a network.

The page is built from the files of the run folder alone, so it can be written at any time, on any
machine, also while the run goes on. Text from a file is escaped where it enters the page. The
style sheet, with its rules for dark screens, phones and paper, is in assets/report.html.
"""

from html import escape
from itertools import accumulate
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from gptft.data.records import read_records
from gptft.errors import read_json, write_text
from gptft.evaluation.metrics import calibration, roc_curve, wilson_interval
from gptft.report.charts import Series, figure
from gptft.report.tables import mark_tokens, result_rows

TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
EXPLANATION = """<p>Words marked <mark class="for" style="--a:.6">blue, underlined</mark> support the
prediction; words marked <mark class="against" style="--a:.6">orange, dotted</mark> oppose it
(gradient × input, relative to the strongest word).</p>"""


class RunFiles(NamedTuple):
    """The content of a run folder. Whatever the run has not written yet is empty."""

    folder: Path
    results: dict  # results.json
    record: dict  # run.json
    log: list[dict]  # metrics.jsonl
    predictions: list[dict]
    examples: list[dict]


def write_page(folder):
    """Write report.html into a run folder, from the files that it holds at this moment."""
    write_text(Path(folder) / "report.html", run_page(read_run(folder)))


def read_run(folder):
    """A run folder -> RunFiles. Raises DataError or CheckpointError for a damaged file."""
    content = [Path(folder)]
    for name in ("results.json", "run.json"):
        path = Path(folder, name)
        content.append(read_json(path) if path.exists() else {})
    for name in ("metrics.jsonl", "predictions.jsonl", "examples.jsonl"):
        path = Path(folder, name)
        is_empty = not path.exists() or path.stat().st_size == 0
        content.append([] if is_empty else [record.fields for record in read_records(path)])
    return RunFiles(*content)


def run_page(run):
    """RunFiles -> the page, a str."""
    results, record = run.results, run.record
    options = record.get("options", {})
    task = results.get("task", "training")
    about = results or options
    source = f"{about.get('model')} · data: {about.get('data')}"
    header = f"""<header><p>gptft · {escape(task)}</p><h1>{escape(run.folder.name)}</h1>
<p>{escape(_headline(results))}</p><p>{escape(source)}</p></header>"""

    sections = {
        "Results": _table(result_rows(results)) if results else "",
        "Command": f"<pre>{escape(record.get('command', ''))}</pre>",
        "Training": _training(run.log),
    }
    if task == "classification":
        sections |= _classifier(run)
    elif task == "instructions":
        sections["Responses to test prompts"] = "".join(map(_responses, run.examples))
    if "strongest" in results:
        features = results["strongest"].items()
        lists = [_article(name, escape(" · ".join(words))) for name, words in features]
        sections["Strongest features of each class"] = "".join(lists)
    sections["Settings"] = _settings(results, record)

    body = [header]
    for title, content in sections.items():
        if content:
            body.append(f"<section><h2>{title}</h2>\n{content}\n</section>")
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(run.folder.name), body="\n".join(body))


def _headline(results):
    if not results:
        return "not finished"
    test = results["test"]
    if results["task"] != "classification":
        return f"loss on test {test['loss']:.3f}"
    low, high = test["accuracy_ci"]
    interval = f"95 % interval {low:.1%} to {high:.1%}"
    return f"accuracy {test['accuracy']:.1%} on {test['n']:,} test rows ({interval})"


def _table(rows):
    """Rows as in tables.py -> a table that scrolls in its own box."""
    lines = []
    for i, (name, *cells) in enumerate(rows):
        tag, scope = ("td", "row") if i else ("th", "col")
        head = f'scope="{scope}"' if cells else f'class="title" colspan="{len(rows[0])}"'
        rest = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        lines.append(f"<tr><th {head}>{escape(name)}</th>{rest}</tr>")
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>'


def _article(title, body):
    return f"<article><h3>{escape(title)}</h3>{body}</article>"


def _responses(row):
    """A test prompt with the responses before and after tuning, side by side."""
    sides = ""
    for name, text in (
        ("base", row["base"]),
        ("tuned", row["tuned"]),
        ("reference", row["output"]),
    ):
        sides += f'<div><h4>{name}</h4><div class="text" tabindex="0">{escape(text)}</div></div>'
    body = f'<p>{escape(row["input"])}</p><div class="sides">{sides}</div>'
    return _article(row["instruction"], body)


def _settings(results, record):
    facts = record.get("options", {}) | record.get("versions", {})
    for name in ("device", "precision", "seconds", "tokens_per_second", "best_step"):
        facts[name] = results.get(name)
    for name in ("platform", "git_commit", "started"):
        facts[name] = record.get(name)
    items = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    ]
    return f"<dl>{''.join(items)}</dl>"


# ---------------------------------------------------------------- training


def _training(log):
    """The loss, the accuracy on val, the learning rate and the throughput over the steps."""
    loss = _points(log, "loss")
    if not loss:
        return ""
    evaluations = [row | row["val"] for row in log if "val" in row]
    steps = (0, loss[-1][0])
    series = [Series("", loss, "faint"), Series("train, smoothed", _smooth(loss))]
    if evaluations:
        series.append(Series("val", _points(evaluations, "loss"), "dots", 1))
    figures = figure("Loss", "", series, "step", "nats", steps)
    if accuracy := _points(evaluations, "accuracy"):
        series = [Series("val", accuracy, "dots", 1)]
        figures += figure("Accuracy on val", "with 95 % intervals", series, "step", "", steps)
    for key, title, unit in (
        ("learning_rate", "Learning rate", "of AdamW"),
        ("tokens_per_second", "Throughput", "tokens/s"),
    ):
        points = _points(log, key)
        top = 1.05 * max(y for _, y in points) or 1
        figures += figure(title, "", [Series(title, points)], "step", unit, steps, (0, top))
    return f'<div class="figures">{figures}</div>'


def _points(rows, key):
    """The values of `key` over steps, with their intervals where the rows hold them."""
    return [
        (row["step"], row[key], *row.get(f"{key}_ci", ()))
        for row in rows
        if row.get(key) is not None
    ]


def _smooth(points):
    """An exponential moving average over about a twentieth of the points."""
    keep = max(0.0, 1 - 20 / len(points))
    steps, values = zip(*points)
    return list(zip(steps, accumulate(values, lambda mean, y: keep * mean + (1 - keep) * y)))


# ---------------------------------------------------------------- a classifier on test


def _classifier(run):
    """{title: content} of the sections about the test rows."""
    classes = run.results["classes"]
    sections = {"Confusion on test": _confusion(run.results["test"]["confusion"], classes)}
    if run.predictions:
        sections["Confidence and accuracy"] = _test_figures(run.predictions, classes)
    for row in run.examples:
        p, truth = row["probabilities"], row["label"]
        predicted = p.index(max(p))
        kind = "correct predictions" if predicted == truth else "mistakes"
        title = f"predicted {classes[predicted]} with {max(p):.2%}, is {classes[truth]}"
        title += f" · {row['words']:,} words · id {row['id']}"
        sections.setdefault(f"Most confident {kind}", EXPLANATION if row["tokens"] else "")
        sections[f"Most confident {kind}"] += _article(title, _example_text(row))
    return sections


def _confusion(confusion, classes):
    heads = "".join(f'<th scope="col">predicted {escape(name)}</th>' for name in classes)
    lines = [f"<tr><td></td>{heads}</tr>"]
    for name, counts in zip(classes, confusion):
        cells = ""
        for n in counts:
            share = n / max(sum(counts), 1)
            cells += f'<td style="--a:{share:.2f}">{n:,}<small>{share:.1%}</small></td>'
        lines.append(f'<tr><th scope="row">is {escape(name)}</th>{cells}</tr>')
    table = f'<table class="confusion">{"".join(lines)}</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _test_figures(predictions, classes):
    """ROC curves, calibration and the accuracy of short and long texts."""
    labels = np.array([row["label"] for row in predictions])
    probabilities = np.array([row["probabilities"] for row in predictions])
    correct = probabilities.argmax(1) == labels
    figures = _roc(labels, probabilities, classes)

    chance = 1 / len(classes)
    bins, error = calibration(probabilities.max(1), correct)
    series = [Series("", [(chance, chance), (1, 1)], "dashed", 3), _accuracies(bins)]
    note = f"expected error {error:.4f}"
    ranges = (chance, 1), (0, 1)
    figures += figure("Calibration", note, series, "confidence", "accuracy", *ranges)

    words = np.array([row["words"] for row in predictions])
    groups = np.array_split(np.argsort(words, kind="stable"), min(6, len(words)))
    bins = [(np.median(words[group]), correct[group].sum(), len(group)) for group in groups]
    note = f"{len(groups)} groups of equal size"
    figures += figure("Accuracy by length", note, [_accuracies(bins)], "words", "accuracy")
    return f'<div class="figures">{figures}</div>'


def _accuracies(bins):
    """[(x, correct rows, rows), ...] -> a Series of accuracies with their intervals."""
    points = [(x, k / n, *wilson_interval(k, n)) for x, k, n in bins]
    return Series("test", points, "dots")


def _roc(labels, probabilities, classes):
    """A curve for each class against the others; with two classes, for the second.

    The classes that are hardest to tell apart from the others come first: they have names and
    colours, and the curves from the seventh on are faint.
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    curves = [(*roc_curve(labels == k, probabilities[:, k]), classes[k]) for k in shown]
    curves.sort(key=lambda curve: curve[2])
    series = [Series("", [(0, 0), (1, 1)], "dashed", 3)]
    for i, (false, true, area, name) in enumerate(curves):
        points = list(zip(false.tolist(), true.tolist()))
        style = ("line", "broken", "faint")[min(i // 3, 2)]
        label = f"{name} {area:.3f}" if i < 6 else ""
        series.append(Series(label, points, style, i % 3))
    mean = np.mean([curve[2] for curve in curves])
    note = f"area under the curve {mean:.3f}"
    axes = "false positive rate", "true positive rate"
    return figure("ROC", note, series, *axes, (0, 1), (0, 1))


def _example_text(row):
    """The text of a row, with its words marked if their attributions are known."""
    tokens = row["tokens"]
    if not tokens:
        return f'<div class="text" tabindex="0">{escape(row["text"])}</div>'

    def mark(word, value, share):
        kind = "for" if value > 0 else "against"
        style = f'style="--a:{0.8 * share:.2f}" title="{value:+.3g}"'
        return f'<mark class="{kind}" {style}>{escape(word)}</mark>'

    ordered = sorted(tokens, key=lambda token: token[1])
    lists = [
        ", ".join(f"“{text.strip()}” {value:+.2g}" for text, value in few)
        for few in (ordered[:-5:-1], ordered[:4])
    ]
    strongest = "Strongest support: {}. Strongest opposition: {}.".format(*lists)
    text = f'<div class="text" tabindex="0">{mark_tokens(tokens, mark, escape)}</div>'
    return f"{text}<p>{escape(strongest)}</p>"

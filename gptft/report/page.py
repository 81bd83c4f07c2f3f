"""A run folder as a page: report.html, one file without scripts that loads nothing from a network.

The page is built from the files of the run folder alone, so it can be written on any machine and at
any time, even while the run is in progress. Text from a file is escaped where it enters the page.
The style sheet, with its rules for dark screens, phones and paper, is in assets/report.html.
"""

from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from gptft.data.records import read_records
from gptft.errors import read_json, write_text
from gptft.evaluation.metrics import calibration, roc_curve, wilson_interval
from gptft.report.charts import Series, figure
from gptft.report.tables import result_rows

TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
CURVES = (
    ("loss", "Loss", "nats"),
    ("accuracy", "Accuracy on val, with 95 % intervals", "accuracy"),
    ("learning_rate", "Learning rate", "of AdamW"),
    ("tokens_per_second", "Throughput", "tokens/s"),
)
EXPLANATION = """<p>Words marked <mark class="for" style="--a:.6">blue, underlined</mark> support
the prediction; words marked <mark class="against" style="--a:.6">orange, dotted</mark> oppose it
(gradient × input, relative to the strongest word).</p>"""


class RunFiles(NamedTuple):
    """The content of a run folder. A file that the run has not written yet is empty.

    log, predictions and examples are lists of dicts, the rows of their .jsonl files.
    """

    folder: Path
    results: dict  # results.json
    record: dict  # run.json
    log: list  # metrics.jsonl
    predictions: list
    examples: list


def write_page(folder):
    """Write report.html into a run folder, from the files that it holds at this moment."""
    write_text(Path(folder) / "report.html", run_page(read_run(folder)))


def read_run(folder):
    """A run folder -> RunFiles. Raises DataError or CheckpointError for a damaged file."""
    names = "results.json", "run.json", "metrics.jsonl", "predictions.jsonl", "examples.jsonl"
    return RunFiles(Path(folder), *(_read(Path(folder, name)) for name in names))


def _read(path):
    """The object of a .json file, or the list of objects of a .jsonl file."""
    is_object = path.suffix == ".json"
    if not path.exists() or path.stat().st_size == 0:
        return {} if is_object else []
    return read_json(path) if is_object else [record.fields for record in read_records(path)]


def run_page(run):
    """RunFiles -> the page, a str."""
    results, record = run.results, run.record
    task = results.get("task", "training")
    about = results or record.get("options", {})
    source = f"{about.get('model')} · data: {about.get('data')}"
    header = f"""<header><p>gptft · {escape(task)}</p><h1>{escape(run.folder.name)}</h1>
<p>{escape(_headline(results.get("test")))}</p><p>{escape(source)}</p></header>"""

    sections = {
        "Results": _table(result_rows(results)) if results else "",
        "Command": f"<pre>{escape(record['command'])}</pre>" if record else "",
        "Training": _training(run.log),
    }
    if task == "classification":
        sections |= _classifier(run)
    if task == "instructions":
        sections["Responses to test prompts"] = "".join(map(_responses, run.examples))
    features = results.get("strongest", {}).items()
    sections["Strongest features of each class"] = "".join(
        _article(name, escape(" · ".join(words))) for name, words in features
    )
    sections["Settings"] = _settings(results, record)

    body = [header]
    for title, content in sections.items():
        if content:
            body.append(f"<section><h2>{title}</h2>\n{content}\n</section>")
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(run.folder.name), body="\n".join(body))


def _headline(test):
    """The main metric on test in a line; `test` is None before the run has ended."""
    if not test:
        return "not finished"
    if "accuracy" not in test:
        return f"loss on test {test['loss']:.4f}"
    low, high = test["accuracy_ci"]
    interval = f"95 % interval {low:.1%} to {high:.1%}"
    return f"accuracy {test['accuracy']:.1%} on {test['n']:,} test rows ({interval})"


def _table(rows):
    """Rows as in tables.py -> a table that scrolls in its own box."""
    header, *body = rows
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = [f"<tr>{heads}</tr>"]
    for name, *cells in body:
        columns = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{columns}</tr>')
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>'


def _article(title, body):
    return f"<article><h3>{escape(title)}</h3>{body}</article>"


def _responses(row):
    """A test prompt with the responses before and after tuning, side by side."""
    body = f"""<p>{escape(row["input"])}</p><div class="sides">
<div><h4>base</h4>{_text(escape(row["base"]))}</div>
<div><h4>tuned</h4>{_text(escape(row["tuned"]))}</div>
<div><h4>reference</h4>{_text(escape(row["output"]))}</div></div>"""
    return _article(row["instruction"], body)


def _text(html):
    return f'<div class="text" tabindex="0">{html}</div>'


def _settings(results, record):
    """All options, and where, when and with which versions the run took place."""
    facts = record.get("options", {}) | record.get("versions", {}) | results | record
    items = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if isinstance(value, (str, int, float)) and name != "command"
    ]
    return f"<dl>{''.join(items)}</dl>"


# ---------------------------------------------------------------- training


def _training(log):
    """A figure over the steps for each of CURVES that the log holds."""
    evaluations = [row | row["val"] for row in log if "val" in row]
    figures = ""
    for key, title, unit in CURVES:
        series = [
            Series("train", _points(log, key)),
            Series("val", _points(evaluations, key), "dots", 1),
        ]
        series = [s for s in series if s.points]
        if series:
            figures += figure(title, series, "step", unit, (0, log[-1]["step"]))
    return f'<div class="figures">{figures}</div>' if figures else ""


def _points(rows, key):
    """The values of `key` over steps, with their intervals where the rows hold them."""
    return [
        (row["step"], row[key], *row.get(f"{key}_ci", ()))
        for row in rows
        if row.get(key) is not None
    ]


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
        title = f"predicted {classes[predicted]} with {max(p):.2%}, is {classes[truth]}"
        title += f" · {row['words']:,} words · id {row['id']}"
        kind = "correct predictions" if predicted == truth else "mistakes"
        before = sections.get(f"Most confident {kind}", EXPLANATION if row["tokens"] else "")
        sections[f"Most confident {kind}"] = before + _article(title, _example_text(row))
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
    return (
        f'<div class="scroll" tabindex="0"><table class="confusion">{"".join(lines)}</table></div>'
    )


def _test_figures(predictions, classes):
    """ROC curves, calibration and the accuracy of short and long texts."""
    labels, probabilities, words = (
        np.array([row[key] for row in predictions]) for key in ("label", "probabilities", "words")
    )
    correct = probabilities.argmax(1) == labels

    bins, error = calibration(probabilities.max(1), correct)
    title = f"Calibration, expected error {error:.4f}"
    figures = _roc(labels, probabilities, classes)
    figures += figure(title, _accuracies(bins), "confidence", "accuracy", diagonal=True)
    groups = np.array_split(words.argsort(), min(6, len(words)))
    bins = [(np.median(words[group]), correct[group].sum(), len(group)) for group in groups]
    title = f"Accuracy by length, in {len(groups)} groups of equal size"
    figures += figure(title, _accuracies(bins), "words", "accuracy")
    return f'<div class="figures">{figures}</div>'


def _accuracies(bins):
    """[(x, correct rows, rows), ...] -> their accuracies with intervals, a list of one Series."""
    return [Series("test", [(x, k / n, *wilson_interval(k, n)) for x, k, n in bins], "dots")]


def _roc(labels, probabilities, classes):
    """A curve for each class against the others; with two classes, for the second alone."""
    curves = []
    for k in [1] if len(classes) == 2 else np.unique(labels):
        false, true, area = roc_curve(labels == k, probabilities[:, k])
        curves.append((area, classes[k], list(zip(false, true))))
    curves.sort()
    # The six classes that are hardest to tell from the others are coloured and in the legend.
    series = [
        Series(f"{name} {area:.3f}", points, "line" if i < 6 else "faint", i)
        for i, (area, name, points) in enumerate(curves)
    ]
    title = f"ROC, area under the curve {np.mean([area for area, *_ in curves]):.3f}"
    axes = "false positive rate", "true positive rate"
    return figure(title, series, *axes, (0, 1), diagonal=True)


def _example_text(row):
    """The text of a row, with the words marked that have a fifth of the largest attribution or
    more, if attributions are known."""
    tokens = row["tokens"]
    if not tokens:
        return _text(escape(row["text"]))
    largest = max(abs(value) for _, value in tokens) or 1
    marked = ""
    for text, value in tokens:
        word = text.lstrip()
        marked += text.removesuffix(word)
        share = abs(value) / largest
        if share < 0.2:
            marked += escape(word)
        else:
            kind = "for" if value > 0 else "against"
            style = f'style="--a:{0.8 * share:.2f}" title="{value:+.3g}"'
            marked += f'<mark class="{kind}" {style}>{escape(word)}</mark>'
    strongest = sorted(tokens, key=lambda token: -abs(token[1]))[:8]
    listed = ", ".join(f"“{text.strip()}” {value:+.2g}" for text, value in strongest)
    return _text(marked) + f"<p>Strongest: {escape(listed)}</p>"

"""A finished run as a page to look at: report.html, one file without scripts that asks no network for anything.

The page is made from what lies in the run folder and from nothing else, so it can be made again at any time, on any
machine, by `python -m gptft.report DIR`. Whatever comes from a file is escaped where it enters the page. How it looks,
on a screen, a phone and paper, by day and by night, stands in assets/report.html; the pictures are svg.py's.
"""

from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from gptft.checkpoints.gpt2_config import read_json
from gptft.data.sources import read_records
from gptft.errors import DataError
from gptft.files import write_text
from gptft.metrics import calibration, roc_curve, wilson_interval
from gptft.svg import Series, chart
from gptft.tables import classification_rows, instruction_rows, loss_rows, marked, splits_of

TEMPLATE = Path(__file__).parent / "assets" / "report.html"
LEGEND = """<p>Of what the model read, <mark class="for" style="--a:.6">blue, underlined</mark> words spoke for the verdict
and <mark class="against" style="--a:.6">orange, dotted</mark> ones against it: gradient × input, as a share of the
strongest one.</p>"""

# ---------------------------------------------------------------- a run folder


class FinishedRun(NamedTuple):
    """What a run folder holds: results.json and run.json, and the rows of the .jsonl files."""

    folder: Path
    results: dict
    record: dict
    log: list[dict]
    predictions: list[dict]
    examples: list[dict]

    @property
    def splits(self):
        """{split name: metrics} of the results."""
        return splits_of(self.results)


def read_run(folder):
    """A run folder -> FinishedRun. Raises DataError, also if the run has not finished."""
    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise DataError(f"not a finished run, {path}; give the --out of a run that ended")
    results, record = (
        read_json(path),
        read_json(folder / "run.json") if (folder / "run.json").exists() else {},
    )
    if not {"task", "model", "data", "test"} <= set(results):
        raise DataError(f"not the results of a run, {path}; run it again with --overwrite")
    log, examples = (
        [r.fields for r in read_records(file)] if file.exists() and file.stat().st_size else []
        for file in (folder / "metrics.jsonl", folder / "examples.jsonl")
    )
    predictions = (
        _predictions(folder / "predictions.jsonl") if results["task"] == "classification" else []
    )
    return FinishedRun(folder, results, record, log, predictions, examples)


def _predictions(path):
    """The rows of a classification's predictions.jsonl. Raises DataError with the line of one that is none."""
    rows = {}
    for record in read_records(path):
        id, label, p = (record.fields.get(name) for name in ("id", "label", "probabilities"))
        if not (
            isinstance(id, (int, str))
            and id not in rows
            and isinstance(p, list)
            and label in range(len(p))
            and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in p)
        ):
            raise DataError(f"not a prediction, {record.place}; run it again with --overwrite")
        rows[id] = record.fields
    return list(rows.values())


# ---------------------------------------------------------------- parts of a page


def document(title, *parts):
    """A whole page -> str of HTML."""
    body = "\n".join(filter(None, parts))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), body=body)


def section(title, *parts):
    """A heading and what follows it; "" if nothing does."""
    return (
        f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"
        if any(parts)
        else ""
    )


def figure(title, note, *args, **kwargs):
    """A `chart` with its caption, the title and a `note` under it."""
    caption = f"<figcaption>{escape(title)} <small>{escape(note)}</small></figcaption>"
    return f"<figure>{caption}\n{chart(title, *args, **kwargs)}</figure>"


def grid(figures):
    """`figures`, a list of HTML, side by side where there is room."""
    return f'<div class="figures">{"".join(figures)}</div>'


def table(rows):
    """Rows of str, the first of them the header -> a table that scrolls in its own box. A row of one is a title."""
    lines = []
    for i, row in enumerate(rows):
        name, *cells = (escape(cell.strip()) for cell in row)
        first = (
            f'scope="{"row" if i else "col"}"'
            if cells
            else f'class="title" colspan="{len(rows[0])}"'
        )
        kind = "td" if i else "th"
        lines.append(
            f"<tr><th {first}>{name}</th>"
            + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells)
            + "</tr>"
        )
    return '<div class="scroll" tabindex="0"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _article(title, *parts):
    return f"<article><h3>{escape(title)}</h3>{''.join(parts)}</article>"


def _text(html):
    return f'<div class="text" tabindex="0">{html}</div>'


# ---------------------------------------------------------------- the page of a run


def write_page(folder):
    """Write the page of a finished run into its folder."""
    write_text(Path(folder) / "report.html", run_page(read_run(folder)))


def run_page(run):
    """FinishedRun -> its page, a str."""
    results, task, test = run.results, run.results["task"], run.results["test"]
    if task == "classification":
        rows, body = classification_rows(run.splits), [*_test(run), *_examples(run)]
        low, high = test["accuracy_ci"]
        lead = f"{test['accuracy']:.1%} of {test['n']:,} test rows right (95 % interval {low:.1%} to {high:.1%})"
    elif task == "instructions":
        rows, body = instruction_rows(results["base"], results), [_samples(run.examples)]
        lead = f"loss of test responses {test['loss']:.3f}, before tuning {results['base']['test']['loss']:.3f}"
    else:
        rows, body, lead = loss_rows(run.splits), [], f"loss on test {test['loss']:.3f}"
    said = (
        f"gptft · {task}",
        f"{results['model']} · data: {results['data']}",
        lead,
        run.record.get("command", ""),
    )
    over, facts, lead, command = map(escape, said)
    head = f"<header><p>{over}</p><h1>{escape(run.folder.name)}</h1><p>{lead}</p><p>{facts}</p></header>"
    strongest = [
        _article(name, escape(" · ".join(ngrams)))
        for name, ngrams in results.get("strongest", {}).items()
    ]
    return document(
        f"{run.folder.name}: {task}",
        head,
        section("Results", table(rows)),
        section("Command", command and f"<pre>{command}</pre>"),
        _training(run.log),
        *body,
        section("What speaks most for each class", *strongest),
        _settings(run),
    )


def _training(log):
    """The curves of a log: loss, accuracy, learning rate, throughput."""
    steps = [row for row in log if row.get("loss") is not None]
    evals = [row | row["val"] for row in log if "val" in row]
    if not steps:
        return ""

    def curve(key, rows=steps):
        return [(row["step"], row[key], *row.get(f"{key}_ci", ())) for row in rows]

    x_range, loss = (0, steps[-1]["step"]), curve("loss")
    val = [Series("val", curve("loss", evals), "dots", 1)] if evals else []
    losses = [Series("", loss, "faint"), Series("train, smoothed", _smooth(loss)), *val]
    figures = [figure("Loss", "", losses, "step", "nats", x_range)]
    if evals and "accuracy" in evals[0]:
        right = [Series("val", curve("accuracy", evals), "dots", 1)]
        figures.append(
            figure("Accuracy on val", "with 95 % intervals", right, "step", "share right", x_range)
        )
    for key, title, unit in (
        ("learning_rate", "Learning rate", "of AdamW"),
        ("tokens_per_second", "Throughput", "tokens/s"),
    ):
        top = 1.05 * max(row[key] for row in steps) or 1
        figures.append(
            figure(title, "", [Series(title, curve(key))], "step", unit, x_range, (0, top))
        )
    return section("Training", grid(figures))


def _smooth(points):
    """An exponential moving average, over a twentieth of the points or so."""
    mean, keep, out = points[0][1], max(0.0, 1 - 20 / len(points)), []
    for x, y in points:
        mean = keep * mean + (1 - keep) * y
        out.append((x, mean))
    return out


def _test(run):
    """A classification's verdicts on test -> sections."""
    labels, p = (
        np.array([row[key] for row in run.predictions]) for key in ("label", "probabilities")
    )
    classes, right, guess = run.results["classes"], p.argmax(1) == labels, 1 / p.shape[1]
    curves = [Series("", [(0, 0), (1, 1)], "dashed", 3)]
    for k in [1] if len(classes) == 2 else range(min(len(classes), 3)):
        false, true, area = roc_curve(labels == k, p[:, k])
        curves.append(
            Series(
                f"{classes[k][:12]} {area:.3f}",
                list(zip(false.tolist(), true.tolist())),
                colour=len(curves) - 1,
            )
        )
    note = "area under the curve: " + ", ".join(s.name for s in curves[1:])
    figures = [
        figure("ROC", note, curves, "false positive rate", "true positive rate", (0, 1), (0, 1))
    ]
    bins, error = calibration(p.max(1), right)
    series = [
        Series("", [(guess, guess), (1, 1)], "dashed", 3),
        Series("test", [(mean, k / n, *wilson_interval(k, n)) for mean, k, n in bins], "dots"),
    ]
    figures.append(
        figure(
            "Calibration",
            f"expected error {error:.4f}",
            series,
            "confidence",
            "share right",
            (guess, 1),
            (0, 1),
        )
    )
    if all("words" in row for row in run.predictions):
        words = np.array([row["words"] for row in run.predictions])
        groups = np.array_split(np.argsort(words, kind="stable"), min(6, len(words)))
        points = [
            (
                float(np.median(words[g])),
                right[g].mean(),
                *wilson_interval(int(right[g].sum()), len(g)),
            )
            for g in groups
        ]
        series, note = [Series("test", points, "dots")], f"{len(groups)} groups of equal size"
        figures.append(figure("Accuracy by length", note, series, "words", "share right"))
    return [
        section("Confusion on test", _confusion(run.results["test"]["confusion"], classes)),
        section("How sure, and how right", grid(figures)),
    ]


def _confusion(confusion, classes):
    lines = [
        "<tr><td></td>"
        + "".join(f'<th scope="col">called {escape(name)}</th>' for name in classes)
        + "</tr>"
    ]
    for name, counts in zip(classes, confusion):
        shares = [(n, n / max(sum(counts), 1)) for n in counts]
        cells = "".join(
            f'<td style="--a:{share:.2f}">{n:,}<small>{share:.1%}</small></td>'
            for n, share in shares
        )
        lines.append(f'<tr><th scope="row">is {escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table class="confusion">{"".join(lines)}</table></div>'
    )


def _examples(run):
    """The most confident mistakes, and rows called rightly -> sections."""
    wrong, right, classes = [], [], run.results["classes"]
    for row in run.examples:
        p, truth = row["probabilities"], classes[row["label"]]
        called = classes[p.index(max(p))]
        said = f"called {called} with {max(p):.2%}" + (f", is {truth}" if called != truth else "")
        body = _explained(row["tokens"]) if row["tokens"] else _text(escape(row["text"]))
        (right if called == truth else wrong).append(
            _article(f"{said} · {row['words']:,} words · id {row['id']}", body)
        )
    legend = [LEGEND] if any(row["tokens"] for row in run.examples) else []
    return [
        section("Most confident mistakes", *(legend + wrong if wrong else [])),
        section("Called rightly, with most confidence", *(legend + right if right else [])),
    ]


def _explained(tokens):
    """[(text, attribution), ...] -> the text in colours, and its strongest tokens in words."""

    def mark(word, value, strength):
        kind = "for" if value > 0 else "against"
        return f'<mark class="{kind}" style="--a:{0.8 * strength:.2f}" title="{value:+.3g}">{escape(word)}</mark>'

    ordered = sorted(tokens, key=lambda token: token[1])
    said = (
        ", ".join(f"“{text.strip()}” {value:+.2g}" for text, value in few)
        for few in (ordered[:-5:-1], ordered[:4])
    )
    return _text(
        marked(tokens, mark, escape)
    ) + "<p>Most for it: {}. Most against it: {}.</p>".format(*map(escape, said))


def _samples(examples):
    """Responses to test prompts, side by side."""
    sides = (("base", "base"), ("tuned", "tuned"), ("reference", "output"))
    return section(
        "Responses to test prompts",
        *(
            _article(
                row["instruction"],
                f"<p>{escape(row['input'])}</p>",
                '<div class="sides">',
                *(f"<div><h4>{side}</h4>{_text(escape(row[key]))}</div>" for side, key in sides),
                "</div>",
            )
            for row in examples
        ),
    )


def _settings(run):
    """All options, and where the run took place."""
    record, where = run.record, ("device", "precision", "seconds", "tokens_per_second", "best_step")
    facts = {name: run.results.get(name) for name in where} | record.get("versions", {})
    facts |= {name: record.get(name) for name in ("platform", "git_commit", "started")}
    lists = []
    for values in (record.get("options", {}), facts):
        known = [
            (escape(name), escape(str(value)))
            for name, value in values.items()
            if value is not None
        ]
        lists += (
            [
                "<dl>"
                + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in known)
                + "</dl>"
            ]
            if known
            else []
        )
    return section("Settings", *lists)

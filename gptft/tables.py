"""Results as rows of a table, and such rows as text: what a script prints at its end, and a report shows."""

from gptft.metrics import mcnemar


def text_table(rows):
    """Rows of str -> lines of text: the first column to the left, the others to the right. A row of one is a title."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full)]
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(f"\n{row[0]}")
        else:
            cells = [f"{cell:>{width}}" for cell, width in zip(row, widths)]
            lines.append("  ".join([f"{row[0]:{widths[0]}}", *cells[1:]]))
    return "\n".join(lines)


def classification_rows(splits):
    """{split name: metrics of `classification_metrics`} -> rows with a header."""
    rows = [
        [
            " " * 12,
            " rows",
            "accuracy",
            " 95 % interval ",
            "precision",
            "recall",
            "    F1",
            "  loss",
        ]
    ]
    for name, m in splits.items():
        low, high = m["accuracy_ci"]
        rows.append(
            [
                name,
                f"{m['n']:,}",
                f"{m['accuracy']:.4f}",
                f"{low:.4f}..{high:.4f} ",
                f"{m['precision']:.4f}",
                f"{m['recall']:.4f}",
                f"{m['f1']:.4f}",
                f"{m['loss']:.4f}",
            ]
        )
    return rows


def classification_table(splits, classes):
    """{split name: metrics of `classification_metrics`} and the class names -> lines of text."""
    return (
        text_table(classification_rows(splits))
        + "\n\n"
        + confusion_table(splits["test"]["confusion"], classes)
    )


def paired_test(name_a, right_a, name_b, right_b):
    """Two classifiers, by name, and where each is right on the same test rows, (N,) bool -> lines of text with McNemar's test."""
    m = mcnemar(right_a, right_b)
    return (
        f"{name_a} against {name_b}, {m['n']:,} test rows of both: {m['difference']:+.4f} in accuracy\n"
        f"  only {name_a} is right: {m['only_a']:,}   only {name_b} is right: {m['only_b']:,}   "
        f"McNemar, exact: p = {m['p_value']:.3g}"
    )


def baseline_comparison(labels, log_probs, baselines):
    """A network beside baselines, on the same test rows -> lines of text: their tables, and the paired test with each.

    Args: labels (N,) int and log_probs (N, K) of test, baselines {name: Baseline}.
    """
    splits = {
        f"{name}, {split}": table
        for name, baseline in baselines.items()
        for split, table in baseline.tables.items()
        if split not in ("train", "val")
    }
    right = log_probs.argmax(1) == labels
    return "\n".join(
        [
            text_table(classification_rows(splits)),
            *(
                paired_test(
                    "the network", right, name, baseline.log_probs["test"].argmax(1) == labels
                )
                for name, baseline in baselines.items()
            ),
        ]
    )


def confusion_table(confusion, classes):
    """(K, K) counts, rows true and columns predicted -> lines of text."""
    width = max(8, *(len(name) + 2 for name in classes))
    lines = ["test, true class by row, predicted class by column:"]
    lines.append(" " * width + "".join(f"{name:>{width}}" for name in classes))
    lines += [
        f"{name:>{width}}" + "".join(f"{n:>{width},}" for n in row)
        for name, row in zip(classes, confusion)
    ]
    return "\n".join(lines)


def instruction_rows(base, tuned):
    """The results of `evaluate_instructions` before and after tuning -> rows with a header; titles are rows of one."""
    rows = [[" " * 36, f"{'base':>22}", f"{'tuned':>22}"]]

    def row(name, show):
        rows.append([name, show(base), show(tuned)])

    def share(value, ci):
        return f"{value:.1%} ({ci[0]:.0%}..{ci[1]:.0%})"

    for split in ("train", "val", "test"):
        row(f"{split}, loss of response tokens", lambda r: f"{r[split]['loss']:.4f}")
        row(f"{split}, perplexity", lambda r: f"{r[split]['perplexity']:,.2f}")
    rows.append([f"responses to {tuned['test']['n_generated']:,} test prompts"])
    row("ended by itself", lambda r: share(r["test"]["end_of_text"], r["test"]["end_of_text_ci"]))
    row("keeps the format", lambda r: share(r["test"]["format"], r["test"]["format_ci"]))
    for key, name in (
        ("rouge_l", "ROUGE-L"),
        ("distinct_1", "distinct-1"),
        ("distinct_2", "distinct-2"),
        ("repeated_4grams", "repeated 4-grams"),
        ("words", "words"),
    ):
        row(name, lambda r: f"{r['test'][key]:.{1 if key == 'words' else 3}f}")
    for kind, title in TASK_TITLES.items():
        rows.append([title])
        row(
            f"all {tuned['tasks'][kind]['n']}",
            lambda r: share(r["tasks"][kind]["rate"], r["tasks"][kind]["ci"]),
        )
        for category in tuned["tasks"][kind]["categories"]:
            row(
                f"  {category}",
                lambda r: "{passed} of {n}".format(**r["tasks"][kind]["categories"][category]),
            )
    return rows


TASK_TITLES = {
    "written": "tasks whose written answer passes",
    "forced_choice": "tasks whose right answer is the likeliest of 4",
}


def loss_rows(splits):
    """{split name: dict of numbers}, of a task without a table of its own -> rows with a header."""
    names = list(next(iter(splits.values())))
    return [
        ["", *names],
        *([split, *(f"{values[name]:,.6g}" for name in names)] for split, values in splits.items()),
    ]


def splits_of(results):
    """The dict of a results.json -> {split name: its metrics}. A dict of words by class may have a key "loss", too."""
    return {
        name: m
        for name, m in results.items()
        if isinstance(m, dict) and isinstance(m.get("loss"), (int, float))
    }


def results_text(results):
    """The dict of a results.json -> lines of text."""
    splits = splits_of(results)
    if results["task"] == "classification":
        return classification_table(splits, results["classes"])
    return text_table(
        instruction_rows(results["base"], results)
        if results["task"] == "instructions"
        else loss_rows(splits)
    )


def marked(pieces, mark, plain=str):
    """[(text, attribution), ...] -> str. Words with a fifth of the largest or more are `mark(word, value, share of it)`."""
    largest, parts = max((abs(value) for _, value in pieces), default=0) or 1, []
    for text, value in pieces:
        word = text.lstrip() if abs(value) >= largest / 5 else ""
        parts += [
            plain(text[: len(text) - len(word)]),
            mark(word, value, abs(value) / largest) if word else "",
        ]
    return "".join(parts)

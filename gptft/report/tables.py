"""Results as rows of a table, and as the text that scripts print.

The rows serve both the terminal and report.html: lists of str, the header first. Metrics keep the
names that they have in results.json.
"""

from gptft.evaluation.metrics import mcnemar


def results_text(results):
    """The dict of a results.json -> its tables, a str of several lines."""
    text = text_table(result_rows(results))
    if results["task"] == "classification":
        rows = [["", *results["classes"]]]
        for name, counts in zip(results["classes"], results["test"]["confusion"]):
            rows.append([name, *map(str, counts)])
        text += f"\n\ntest, true class by row, predicted class by column:\n{text_table(rows)}"
    return text


def result_rows(results):
    """The dict of a results.json -> the rows of its metrics."""
    if results["task"] == "instructions":
        before, after = _instruction_cells(results["base"]), _instruction_cells(results)
        return [["", "base", "tuned"], *([name, before[name], after[name]] for name in after)]
    splits = {}
    for name, metrics in results.items():
        if isinstance(metrics, dict) and isinstance(metrics.get("loss"), float):
            splits[name] = metrics
    return split_rows(splits)


def split_rows(splits):
    """{split name: metrics} -> rows, one for each split."""
    rows = []
    for name, metrics in splits.items():
        cells = _cells(metrics)
        rows.append([name, f"{metrics['n']:,}", *cells.values()])
    return [["", "n", *cells], *rows]


def _instruction_cells(results):
    """{row name: text} of one model that follows instructions."""
    cells = {}
    for split in ("train", "val", "test"):
        for name, text in _cells(results[split]).items():
            cells[f"{split} {name}"] = text
    if "tasks" in results:  # --test-prompts 0 leaves them out
        tasks = results["tasks"]
        for name, found in ({"all": tasks} | tasks["categories"]).items():
            low, high = found["ci"]
            cells[f"tasks, {name}"] = f"{found['passed']} of {found['n']} ({low:.0%}..{high:.0%})"
    return cells


def _cells(metrics):
    """{name: text} of the metrics that are not counts, each with its interval if there is one."""
    cells = {}
    for key, value in metrics.items():
        if isinstance(value, float):
            name, text = key.replace("_", " "), f"{value:,.4f}"
            if f"{key}_ci" in metrics:
                low, high = metrics[f"{key}_ci"]
                name += " (95 % interval)"
                text += f" ({low:.3f}..{high:.3f})"
            cells[name] = text
    return cells


def text_table(rows):
    """Rows -> lines of text: the first column on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for name, *cells in rows:
        lines.append("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
    return "\n".join(lines)


def paired_test(name_a, name_b, right_a, right_b):
    """McNemar's test of two classifiers -> two lines of text.

    right_a, right_b: (N,) bool, whether each predicts the same test rows correctly.
    """
    m = mcnemar(right_a, right_b)
    return (
        f"{name_a} against {name_b}, {m['n']:,} test rows: accuracy {m['difference']:+.4f}\n"
        f"  only {name_a} is right: {m['only_a']:,}   only {name_b} is right: {m['only_b']:,}   "
        f"McNemar, exact: p = {m['p_value']:.3g}"
    )

"""Results as rows of a table, and as the text that scripts print.

The rows serve both the terminal and report.html: lists of str with the header first. A row of one
cell is a title within the table.
"""

from itertools import zip_longest

from gptft.evaluation.metrics import mcnemar


def results_text(results):
    """The dict of a results.json -> its tables, a str of several lines."""
    text = text_table(result_rows(results))
    if results["task"] == "classification":
        text += "\n\ntest, true class by row, predicted class by column:\n"
        text += text_table(confusion_rows(results))
    return text


def result_rows(results):
    """The dict of a results.json -> the rows of its metrics."""
    if results["task"] == "instructions":
        return instruction_rows(results["base"], results)
    splits = {
        name: metrics
        for name, metrics in results.items()
        if isinstance(metrics, dict) and isinstance(metrics.get("loss"), float)
    }
    if results["task"] == "classification":
        return classification_rows(splits)
    rows = [["", *results["test"]]]
    for split, metrics in splits.items():
        rows.append([split, *(f"{value:,.6g}" for value in metrics.values())])
    return rows


def classification_rows(splits):
    """{split name: the dict of `classification_metrics`} -> rows."""
    rows = [["", "rows", "accuracy", "95 % interval", "precision", "recall", "F1", "loss"]]
    for name, m in splits.items():
        low, high = m["accuracy_ci"]
        rows.append(
            [
                name,
                f"{m['n']:,}",
                f"{m['accuracy']:.4f}",
                f"{low:.4f}..{high:.4f}",
                f"{m['precision']:.4f}",
                f"{m['recall']:.4f}",
                f"{m['f1']:.4f}",
                f"{m['loss']:.4f}",
            ]
        )
    return rows


def confusion_rows(results):
    """The results of a classifier -> rows of counts, true classes by row."""
    rows = [["", *results["classes"]]]
    for name, counts in zip(results["classes"], results["test"]["confusion"]):
        rows.append([name, *(f"{n:,}" for n in counts)])
    return rows


def instruction_rows(base, tuned):
    """The results of `evaluate_instructions` before and after tuning -> rows."""
    before = _instruction_cells(base)
    rows = [["", "base", "tuned"]]
    for name, cell in _instruction_cells(tuned).items():
        rows.append([name, before[name], cell] if cell else [name])
    return rows


def _instruction_cells(results):
    """{row name: figure} of one model; a title has an empty figure."""
    test, tasks = results["test"], results["tasks"]
    cells = {}
    for split in ("train", "val", "test"):
        cells[f"{split}, loss of response tokens"] = f"{results[split]['loss']:.4f}"
        cells[f"{split}, perplexity"] = f"{results[split]['perplexity']:,.2f}"
    cells |= {
        f"responses to {test['n_generated']:,} test prompts": "",
        "end of text written": _share(test["end_of_text"], test["end_of_text_ci"]),
        "format kept": _share(test["format"], test["format_ci"]),
        "ROUGE-L": f"{test['rouge_l']:.3f}",
        "distinct-1": f"{test['distinct_1']:.3f}",
        "distinct-2": f"{test['distinct_2']:.3f}",
        "repeated 4-grams": f"{test['repeated_4grams']:.3f}",
        "words": f"{test['words']:.1f}",
        "tasks whose response passes all checks": "",
        f"all {tasks['n']}": _share(tasks["rate"], tasks["ci"]),
    }
    for category, found in tasks["categories"].items():
        cells[f"  {category}"] = f"{found['passed']} of {found['n']}"
    return cells


def _share(value, interval):
    low, high = interval
    return f"{value:.1%} ({low:.0%}..{high:.0%})"


def text_table(rows):
    """Rows -> lines of text: the first column on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for name, *cells in rows:
        line = name.ljust(widths[0])
        for cell, width in zip(cells, widths[1:]):
            line += f"  {cell:>{width}}"
        lines.append(line if cells else f"\n{name}")
    return "\n".join(lines)


def paired_test(name_a, right_a, name_b, right_b):
    """McNemar's test of two classifiers -> two lines of text.

    right_a, right_b: (N,) bool, whether each predicts the same test rows correctly.
    """
    m = mcnemar(right_a, right_b)
    return (
        f"{name_a} against {name_b}, {m['n']:,} test rows: accuracy {m['difference']:+.4f}\n"
        f"  only {name_a} is right: {m['only_a']:,}   only {name_b} is right: {m['only_b']:,}   "
        f"McNemar, exact: p = {m['p_value']:.3g}"
    )


def baseline_comparison(labels, log_probs, baselines):
    """A network beside baselines on the same test rows -> their table and the paired tests, a str.

    Args: labels (N,) int and the network's log_probs (N, K) on test; baselines, {name: Baseline}.
    """
    right = log_probs.argmax(1) == labels
    splits, tests = {}, []
    for name, baseline in baselines.items():
        for split, metrics in baseline.tables.items():
            if split not in ("train", "val"):
                splits[f"{name}, {split}"] = metrics
        baseline_right = baseline.log_probs["test"].argmax(1) == labels
        tests.append(paired_test("the network", right, name, baseline_right))
    return "\n".join([text_table(classification_rows(splits)), *tests])


def mark_tokens(tokens, mark, plain=str):
    """Mark the words with the strongest attributions in a text -> str.

    tokens: [(text, attribution), ...]. A word with at least a fifth of the largest attribution
    becomes mark(word, attribution, its share of the largest); the rest becomes plain(text).
    """
    largest = max((abs(value) for _, value in tokens), default=0) or 1
    parts = []
    for text, value in tokens:
        word, share = text.lstrip(), abs(value) / largest
        space = text[: len(text) - len(word)]
        parts += [space, mark(word, value, share) if share >= 0.2 else plain(word)]
    return "".join(parts)

"""A classifier's predictions as the rows of predictions.jsonl and examples.jsonl."""

import numpy as np

N_WRONG = 10  # mistakes in examples.jsonl


def prediction_rows(reviews, log_probs):
    """Reviews and their (N, K) log-probabilities -> the rows of predictions.jsonl, list of dict."""
    probabilities = np.exp(log_probs).round(6)
    return [
        {
            "id": review.id,
            "label": review.label,
            "probabilities": p,
            "words": review.text.count(" ") + 1,
        }
        for review, p in zip(reviews, probabilities.tolist())
    ]


def example_rows(reviews, log_probs, explain=None):
    """The rows of examples.jsonl, list of dict: the most confident mistakes, and one hit a class.

    explain: row number -> list of (piece of text, attribution), or None.
    """
    labels = np.array([review.label for review in reviews])
    predicted = log_probs.argmax(axis=1)
    confidence = log_probs.max(axis=1)
    by_confidence = np.argsort(-confidence, kind="stable")
    is_right = (predicted == labels)[by_confidence]
    wrong = by_confidence[~is_right]
    right = by_confidence[is_right]
    chosen = wrong[:N_WRONG].tolist()
    for k in range(log_probs.shape[1]):
        of_class = right[labels[right] == k]
        chosen += of_class[:1].tolist()
    chosen_reviews = [reviews[i] for i in chosen]
    rows = prediction_rows(chosen_reviews, log_probs[chosen])
    for i, row in zip(chosen, rows):
        row["text"] = reviews[i].text
        row["tokens"] = explain(i) if explain else None
    return rows

"""Fine-tune GPT-2 to classify texts: the sentiment of film reviews, or any classes of your own.

Trains on the train split, keeps the weights that do best on val, and reports them on test, which
nothing else looks at.
"""

# The evening's path starts here: the four banners of main() are the whole job. The next stop is
# gptft/data/tokenizer.py; every file on the path names the one after it.

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from gptft import distributed
from gptft.baseline.logistic_regression import train_baseline
from gptft.checkpoints.folders import load_model
from gptft.config import FinetuneOptions, describe_defaults, option, parse_options
from gptft.data.batches import TrainBatches, classifier_batch
from gptft.data.classification import TRUNCATE, IMDbDataset
from gptft.data.examples import COLUMNS_HELP, load_reviews
from gptft.data.tokenizer import Tokenizer
from gptft.errors import command
from gptft.evaluation.classification import explain, log_probabilities
from gptft.evaluation.metrics import classification_metrics
from gptft.evaluation.predictions import example_rows, prediction_rows
from gptft.report.page import write_page
from gptft.report.tables import paired_test, results_text, split_rows, text_table
from gptft.training.loop import fit
from gptft.training.start import begin, facts, initial_classifier, limit_length, set_trainable

# For the bundled model, for other pretrained weights, and for random ones: epochs, batch size,
# learning rate, weight decay, dropout, max length.
DEFAULTS = {
    "mini": (4, 16, 3e-4, 0.1, 0.2, 256),
    "pretrained": (3, 16, 5e-5, 0.01, 0.1, 512),
    "from scratch": (8, 16, 1e-3, 0.1, 0.3, 256),
}
TRAIN_ROWS = 2000  # training rows, evenly spaced, in the final table
REAL_RUN = """A trial on the bundled reviews and the bundled small GPT-2. The real run:
  python -m data_prep.imdb && python -m data_prep.gpt2 --size 124M
  python scripts/finetune_imdb.py --data data/imdb --model 124M"""


@dataclass(frozen=True)
class Options(FinetuneOptions):
    data: str = option(
        "sample",
        "sample (bundled); a folder with the files train, val and test, such as data/imdb; or a "
        ".jsonl, .json, .csv or .tsv file of yours, which may be compressed (.gz)",
    )
    columns: str = option(None, COLUMNS_HELP)
    truncate: str = option(
        "head+tail", "what is kept of a text longer than --max-length", choices=TRUNCATE
    )
    out: str = option("runs/imdb", "run folder")


@command  # passes the command-line arguments, and prints an error as one line
def main(argv):
    prog = "scripts/finetune_imdb.py"
    # The flags in DEFAULTS are None here unless given. `complete` fills them in for the model.
    given = parse_options(Options, argv, prog, __doc__, describe_defaults(DEFAULTS))
    options = given.complete(DEFAULTS)
    distributed.setup(options.device)

    # ---------------------------------------------------------------- data
    # reviews.classes is a list of names, reviews.splits a dict of lists of labelled texts: train,
    # val and test, and for the bundled reviews also implied.
    reviews = load_reviews(options.data, options.seed, options.columns)
    tokenizer = Tokenizer()

    # ---------------------------------------------------------------- model
    # GPT-2 with one logit for each class: pretrained weights, or random ones if asked for.
    model, description = initial_classifier(options, reviews.classes)
    # --train lora and --train head freeze GPT-2's own weights.
    set_trainable(model, options)
    # A default length is lowered to what the model can read, so texts are encoded only now.
    options = limit_length(options, given, model.config.n_positions)
    datasets = {
        split: IMDbDataset(rows, tokenizer, options.max_length, options.truncate)
        for split, rows in reviews.splits.items()
    }
    batches = TrainBatches(datasets["train"], classifier_batch, options)

    # ---------------------------------------------------------------- training
    if options.is_trial:
        print(REAL_RUN)
    # A resumed run must have the same texts: their checksums are saved with it.
    texts = [f"{row.label} {row.text}" for rows in reviews.splits.values() for row in rows]
    notes = [f"model: {description}"]
    # Moves the model to the device, opens the run folder and prints the first lines.
    device, run = begin(prog, argv, options, model, batches, reviews, texts, notes)
    # Evaluation takes as many rows at once as training.
    batch_size = distributed.rows_per_process(options)

    # `log_probabilities` divides the rows among the processes, and gathers the results.
    def val_metrics(model):
        log_probs = log_probabilities(model, datasets["val"], device, batch_size=batch_size)
        return classification_metrics(datasets["val"].labels, log_probs)

    position = fit(model, batches, val_metrics, options, device, run, write_page)

    # ---------------------------------------------------------------- evaluation
    # `position` says where the run ended and which step had the best weights.
    best = load_model(run.folder, device=device.name)
    results = facts("classification", description, reviews.name, device, position)
    results["classes"] = reviews.classes
    log_probs = {}
    for split, dataset in datasets.items():
        rows = np.arange(len(dataset))
        if split == "train":
            rows = np.linspace(0, len(dataset) - 1, min(len(dataset), TRAIN_ROWS)).astype(int)
        log_probs[split] = log_probabilities(best, dataset, device, rows, batch_size)
        results[split] = classification_metrics(dataset.labels[rows], log_probs[split])
    if distributed.is_main():
        test = reviews.splits["test"]
        run.write_predictions(
            prediction_rows(test, log_probs["test"]),
            example_rows(
                test,
                log_probs["test"],
                lambda row: explain(best, datasets["test"][row][0], tokenizer),
            ),
        )
        run.write_results(results)
        write_page(run.folder)
        print(f"\nthe best weights, of step {position.best_step}:")
        print(results_text(results))
        if reviews.name == "sample":
            compare_with_baselines(reviews, log_probs["test"])
        print(f"\npage: {run.folder / 'report.html'}")
    distributed.cleanup()


def compare_with_baselines(reviews, log_probs):
    """Train both baselines, which takes a second on the bundled reviews, and print a comparison."""
    labels = np.array([review.label for review in reviews.splits["test"]])
    right = log_probs.argmax(axis=1) == labels
    for features in ("nbsvm", "unigram"):
        baseline = train_baseline(reviews, features)
        baseline_right = baseline.log_probs["test"].argmax(axis=1) == labels
        print(f"\nlogistic regression on the same reviews, {features}:")
        print(text_table(split_rows(baseline.metrics)))
        print(paired_test("the network", features, right, baseline_right))


if __name__ == "__main__":
    sys.exit(main())

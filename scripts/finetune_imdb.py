"""Fine-tune GPT-2 to tell the sentiment of a review, or any other classes of text.

Reads reviews, trains on `train`, keeps the weights that do best on `val`, and reports that model on `test`, which
nothing else has looked at.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.config import (
    POOLINGS,
    ModelOptions,
    TrainableOptions,
    TrainOptions,
    add_options,
    describe_recipes,
    fill,
    from_args,
    settle_length,
)
from gptft.data.imdb import TRUNCATE
from gptft.errors import Parser, command

MINI = dict(
    epochs=6, batch_size=16, learning_rate=5e-4, weight_decay=0.1, dropout=0.35, max_length=256
)
PRETRAINED = dict(
    epochs=3, batch_size=16, learning_rate=5e-5, weight_decay=0.01, dropout=0.1, max_length=512
)
FROM_SCRATCH = dict(
    epochs=8, batch_size=16, learning_rate=1e-3, weight_decay=0.1, dropout=0.3, max_length=256
)
TRAIN_ROWS = (
    2000  # training rows, evenly spaced, whose accuracy the final table shows beside val and test
)
REAL_RUN = """nothing named: the bundled reviews and the small GPT-2 that is bundled, too. The real run:
  python -m data_prep.imdb && python -m data_prep.gpt2 --size 124M
  python scripts/finetune_imdb.py --data data/imdb --model 124M"""


def parse(argv):
    recipes = describe_recipes(mini=MINI, other_pretrained=PRETRAINED, from_scratch=FROM_SCRATCH)
    parser = Parser(prog="scripts/finetune_imdb.py", description=__doc__, epilog=recipes)
    parser.add_argument(
        "--data",
        default="sample",
        help="sample (bundled), a prepared folder such as data/imdb, or a .jsonl, "
        ".csv or .json file with fields text and label (default: sample)",
    )
    parser.add_argument(
        "--truncate",
        choices=TRUNCATE,
        default="head+tail",
        help="what is kept of a text longer than --max-length (default: head+tail)",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="what the head reads: the last real token, or the "
        "mean of all (default: the classifier's own; else last, but mean for mini and from scratch)",
    )
    add_options(parser, ModelOptions)
    add_options(parser, TrainableOptions)
    add_options(parser, TrainOptions, out="runs/imdb")
    args = parser.parse_args(argv)
    model_options, trainable, options = (
        from_args(cls, args) for cls in (ModelOptions, TrainableOptions, TrainOptions)
    )
    recipe = model_options.recipe(MINI, PRETRAINED, FROM_SCRATCH, trainable.rate_factor)
    return args, model_options, trainable, fill(options, **recipe)


def report(run, results, reviews, log_probs, explain):
    """Write what the model does on test, and print it; for the bundled reviews, beside the baselines, which take a second there."""
    from gptft.baseline.training import train_baseline
    from gptft.metrics import example_rows, prediction_rows
    from gptft.page import write_page
    from gptft.tables import baseline_comparison, classification_table

    test = reviews.splits["test"]
    run.write_predictions(prediction_rows(test, log_probs), example_rows(test, log_probs, explain))
    run.write_results(results)
    write_page(run.folder)
    tables = {name: split for name, split in results.items() if isinstance(split, dict)}
    print(
        f"\nthe best weights, of step {results['best_step']}:\n{classification_table(tables, reviews.classes)}"
    )
    if reviews.name == "sample":
        baselines = {
            features: train_baseline(reviews, features) for features in ("nbsvm", "unigram")
        }
        labels = [review.label for review in test]
        print(
            f"\nlogistic regression on the same reviews:\n{baseline_comparison(labels, log_probs, baselines)}"
        )
    print(f"\npage: {run.folder / 'report.html'}")


@command
def main(argv):
    args, model_options, trainable, options = parse(argv)

    import numpy as np
    import torch

    from gptft import distributed
    from gptft.classifier import classification_loss
    from gptft.classify import explain, log_probabilities
    from gptft.data.batching import TrainBatches, classifier_batch
    from gptft.data.imdb import IMDbDataset, load_reviews
    from gptft.data.tokens import cache_stem, fingerprint
    from gptft.hardware import choose_hardware, evaluating
    from gptft.initial import choose_trainable, initial_classifier
    from gptft.metrics import classification_metrics
    from gptft.pretrained import load_model
    from gptft.run import open_training_run
    from gptft.tokenizer import Tokenizer
    from gptft.trainer import fit

    distributed.setup(options.device)
    reviews = load_reviews(args.data, options.seed)
    torch.manual_seed(options.seed)
    model, description = initial_classifier(
        model_options, options.dropout, reviews.classes, args.pooling
    )
    trained_part = choose_trainable(model, trainable, model_options)
    options = settle_length(options, args.max_length, model.config.n_positions)
    tokenizer = Tokenizer()
    with distributed.main_first():  # it writes the tokens that the others read
        datasets = {
            split: IMDbDataset(
                rows, tokenizer, options.max_length, args.truncate, cache_stem(args.data, split)
            )
            for split, rows in reviews.splits.items()
        }
    batches = TrainBatches(datasets["train"], classifier_batch, tokenizer.eot, options)
    hardware = choose_hardware(options.device, options.precision, options.compile, batches.n_steps)
    model.transformer.checkpoint_activations = options.checkpoint_activations
    model.to(hardware.device)
    texts = [f"{review.label} {review.text}" for rows in reviews.splits.values() for review in rows]
    settled = {
        "precision": hardware.precision,
        "pooling": model.pooling,
        "texts": fingerprint(texts, tokenizer),
    }
    run = open_training_run("scripts/finetune_imdb.py", argv, args, options, settled)

    if args.data == "sample" and args.model == "mini" and model_options.pretrained:
        print(REAL_RUN)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in reviews.splits.items())
    print(
        *reviews.notes,
        f"data: {reviews.name}: {counts}",
        f"model: {description}",
        trained_part,
        f"computing on {hardware.why}",
        f"{options.describe()}, truncation {args.truncate}, pooling {model.pooling}",
        f"run folder: {run.folder}",
        sep="\n",
        flush=True,
    )

    def evaluate(model, split="val", rows=None):
        log_probs = log_probabilities(
            model, datasets[split], tokenizer.eot, hardware, rows, distributed.rows_at_once(options)
        )
        labels = datasets[split].labels
        return classification_metrics(
            labels if rows is None else labels[rows], log_probs
        ), log_probs

    fitted = fit(
        model,
        batches,
        classification_loss,
        lambda model: evaluate(model)[0],
        lambda val: (val["accuracy"], -val["loss"]),
        options,
        hardware,
        run,
    )

    best = load_model(run.folder, device=hardware.device)
    n_train = len(datasets["train"])
    tables = {}
    with evaluating(best, hardware):
        rows = np.linspace(0, n_train - 1, min(n_train, TRAIN_ROWS)).astype(np.int64)
        tables["train"], _ = evaluate(best, "train", rows)
        for split in list(datasets)[1:]:
            tables[split], log_probs = evaluate(best, split)
            if split == "test":
                test_log_probs = log_probs
    if distributed.is_main():
        results = {
            "task": "classification",
            "model": description,
            "data": reviews.name,
            "classes": reviews.classes,
            "device": hardware.device,
            "precision": hardware.precision,
            "seconds": round(fitted.seconds, 1),
            "tokens_per_second": round(fitted.tokens / fitted.seconds),
            "best_step": fitted.best_step,
            "compiled_graphs": fitted.graphs,
            **tables,
        }
        report(
            run,
            results,
            reviews,
            test_log_probs,
            lambda row: explain(best, datasets["test"][row][0], tokenizer),
        )
    distributed.cleanup()


if __name__ == "__main__":
    sys.exit(main())

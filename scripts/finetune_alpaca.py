"""Tune GPT-2 to follow instructions.

Reads instructions and responses, trains on `train`, keeps the weights with the lowest response loss on `val`, and
reports them beside the weights it started from: the loss on `test`, which nothing else has looked at, the responses it
writes to test prompts, and a suite of tasks that a program can check.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.config import (
    ModelOptions,
    TrainableOptions,
    TrainOptions,
    add_options,
    describe_recipes,
    fill,
    from_args,
    settle_length,
)
from gptft.data.alpaca import TEMPLATES
from gptft.errors import Parser, UserError, command

MINI = dict(
    epochs=3, batch_size=8, learning_rate=5e-4, weight_decay=0.1, dropout=0.1, max_length=512
)
PRETRAINED = dict(
    epochs=3, batch_size=32, learning_rate=5e-5, weight_decay=0.01, dropout=0.1, max_length=512
)
FROM_SCRATCH = dict(
    epochs=6, batch_size=8, learning_rate=1e-3, weight_decay=0.1, dropout=0.2, max_length=512
)
TRAIN_ROWS = (
    500  # training examples, evenly spaced, whose loss the final table shows beside val and test
)
SHOWN = 10  # test prompts whose answers the report shows side by side
REAL_RUN = """nothing named: the bundled examples and the small GPT-2 that is bundled, too. The real run:
  python -m data_prep.alpaca && python -m data_prep.gpt2 --size 124M
  python scripts/finetune_alpaca.py --data data/alpaca --model 124M"""


def parse(argv):
    recipes = describe_recipes(mini=MINI, other_pretrained=PRETRAINED, from_scratch=FROM_SCRATCH)
    parser = Parser(prog="scripts/finetune_alpaca.py", description=__doc__, epilog=recipes)
    parser.add_argument(
        "--data",
        default="sample",
        help="sample (bundled), a prepared folder such as data/alpaca, or a .jsonl, "
        ".json or .csv file with fields instruction, input and output (default: sample)",
    )
    parser.add_argument(
        "--template",
        choices=tuple(TEMPLATES),
        help="wording around an instruction: Stanford "
        "Alpaca's; ### User and ### Assistant; special tokens (default: the model's own, else alpaca)",
    )
    parser.add_argument(
        "--loss",
        choices=("response", "all"),
        default="response",
        help="tokens that are learned: the response's, or the prompt's, too (default: response)",
    )
    parser.add_argument(
        "--inspect",
        type=int,
        metavar="N",
        help="print N training examples, learned tokens marked, and stop",
    )
    parser.add_argument(
        "--evaluate-only",
        action="store_true",
        help="don't train: evaluate the weights in --out again",
    )
    parser.add_argument(
        "--test-prompts",
        type=int,
        default=200,
        metavar="N",
        help="test prompts that are answered, evenly spaced (default: 200)",
    )
    add_options(parser, ModelOptions)
    add_options(parser, TrainableOptions)
    add_options(parser, TrainOptions, out="runs/alpaca")
    args = parser.parse_args(argv)
    for flag in ("inspect", "test_prompts"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise UserError(
                f"--{flag.replace('_', '-')} must be at least 1, got {getattr(args, flag)}"
            )
    if args.evaluate_only and (args.resume or args.overwrite):
        raise UserError("--evaluate-only trains nothing; leave out --resume and --overwrite")
    model_options, trainable, options = (
        from_args(cls, args) for cls in (ModelOptions, TrainableOptions, TrainOptions)
    )
    options = dataclasses.replace(options, schedule="cosine")
    recipe = model_options.recipe(MINI, PRETRAINED, FROM_SCRATCH, trainable.rate_factor)
    return args, model_options, trainable, fill(options, **recipe)


def inspect(examples, tokenizer):
    """Print examples, what is learned of them marked."""
    from gptft.data.alpaca import marked

    for i, example in enumerate(examples, 1):
        print(f"--- {i}\n{marked(*example, tokenizer, colour=sys.stdout.isatty())}")


def report(run, results, base, datasets, predictions, before):
    """Write what the tuned model (and, before it, the base) did, and print it."""
    from gptft.page import write_page
    from gptft.tables import instruction_rows, text_table

    asked = {example.id: example._asdict() for example in datasets["test"].examples}
    examples = [
        asked[row["id"]] | {"base": old["response"], "tuned": row["response"]}
        for row, old in zip(predictions, before)
    ]
    run.write_predictions(predictions, examples[:SHOWN])
    run.write_results(results | {"base": base})
    write_page(run.folder)
    print(
        f"\nthe best weights, of step {results['best_step']}:",
        text_table(instruction_rows(base, results)),
        f"page: {run.folder / 'report.html'}",
        sep="\n",
    )


@command
def main(argv):
    args, model_options, trainable, options = parse(argv)

    import torch

    from gptft import distributed
    from gptft.data.alpaca import InstructionDataset, load_instructions
    from gptft.data.batching import TrainBatches, lm_batch
    from gptft.data.tokens import cache_stem, fingerprint
    from gptft.evaluate import evaluate_instructions, loss_metrics
    from gptft.hardware import choose_hardware
    from gptft.initial import choose_trainable, initial_instructed
    from gptft.language import language_loss
    from gptft.run import Run, open_training_run
    from gptft.tokenizer import Tokenizer
    from gptft.trainer import fit

    def load(which, template):
        torch.manual_seed(options.seed)  # of random weights
        return initial_instructed(which, options.dropout, template)

    distributed.setup(options.device)
    instructions = load_instructions(args.data, options.seed)
    trained = ModelOptions(model=str(Path(options.out).resolve()))
    if (
        args.evaluate_only
        and Run(options.out).read_results().get("task", "instructions") != "instructions"
    ):
        raise UserError(
            f"--out holds the results of another task, {options.out}; give a run of this script"
        )
    if args.evaluate_only and not args.template:
        args.template = load(trained, None)[0].template
    model, description = load(model_options, args.template)
    trained_part = choose_trainable(model, trainable, model_options)
    template = model.template
    options = settle_length(options, args.max_length, model.config.n_positions)
    tokenizer = Tokenizer(model.special_tokens)
    with distributed.main_first():  # it writes the tokens that the others read
        train = InstructionDataset(
            instructions.splits["train"],
            tokenizer,
            template,
            options.max_length,
            args.loss,
            cache_stem(args.data, "train"),
        )
    if args.inspect:
        return inspect([train[i] for i in range(min(args.inspect, len(train)))], tokenizer)
    reported = instructions.splits | {
        "train": instructions.splits["train"][:: -(-len(train) // TRAIN_ROWS)]
    }
    datasets = {
        split: InstructionDataset(examples, tokenizer, template, options.max_length)
        for split, examples in reported.items()
    }
    batches = TrainBatches(train, lm_batch, tokenizer.eot, options)
    hardware, at_once = (
        choose_hardware(options.device, options.precision, options.compile, batches.n_steps),
        distributed.rows_at_once(options),
    )
    model.checkpoint_activations = options.checkpoint_activations
    model.to(hardware.device)
    texts = [
        "\n".join((e.instruction, e.input, e.output))
        for examples in instructions.splits.values()
        for e in examples
    ]
    settled = {
        "precision": hardware.precision,
        "template": template,
        "texts": fingerprint(texts, tokenizer),
    }
    run = Run(options.out)
    if not args.evaluate_only:
        run = open_training_run("scripts/finetune_alpaca.py", argv, args, options, settled)

    if args.data == "sample" and args.model == "mini" and model_options.pretrained:
        print(REAL_RUN)
    counts = ", ".join(
        f"{len(examples):,} {split}" for split, examples in instructions.splits.items()
    )
    notes = [
        f"{split}: {d.note()}" for split, d in (datasets | {"train": train}).items() if d.note()
    ]
    print(
        *instructions.notes,
        f"data: {instructions.name}: {counts}",
        *notes,
        f"model: {description}",
        trained_part,
        f"template: {template}, learned: {args.loss}",
        f"computing on {hardware.why}",
        options.describe(),
        f"run folder: {run.folder}",
        sep="\n",
        flush=True,
    )

    if args.evaluate_only:
        training = {
            key: run.read_results().get(key)
            for key in ("seconds", "tokens_per_second", "best_step")
        }
    else:
        fitted = fit(
            model,
            batches,
            language_loss,
            lambda model: loss_metrics(model, datasets["val"], tokenizer.eot, hardware, at_once),
            lambda val: (-val["loss"],),
            options,
            hardware,
            run,
        )
        training = {
            "seconds": round(fitted.seconds, 1),
            "tokens_per_second": round(fitted.tokens / fitted.seconds),
            "best_step": fitted.best_step,
        }
    del model  # a device needs room for one at a time

    def evaluate(which):
        model, _ = load(which, template)
        return evaluate_instructions(
            model.to(hardware.device), datasets, tokenizer, hardware, args.test_prompts, at_once
        )

    print(
        "writing answers to test prompts and tasks, with the tuned weights and with those before",
        flush=True,
    )
    tuned, predictions = evaluate(trained)
    base, before = evaluate(model_options)
    if distributed.is_main():
        results = {
            "task": "instructions",
            "model": description,
            "data": instructions.name,
            "template": template,
            "learned": args.loss,
            "device": hardware.device,
            "precision": hardware.precision,
            **training,
            **tuned,
        }
        report(run, results, base, datasets, predictions, before)
    distributed.cleanup()


if __name__ == "__main__":
    sys.exit(main())

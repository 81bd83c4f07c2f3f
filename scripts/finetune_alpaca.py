"""Fine-tune GPT-2 to follow instructions.

Trains on the split train, keeps the weights with the lowest loss on the responses of val, and
reports them beside the weights it started from: the loss on test, which nothing else looks at, the
responses to test prompts, and a suite of tasks that a program can check.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from gptft import distributed
from gptft.config import FinetuneOptions, describe_defaults, option, parse_options
from gptft.data.batches import TrainBatches, language_model_batch
from gptft.data.instructions import (
    NOT_LEARNED,
    TEMPLATES,
    InstructionDataset,
    load_instructions,
)
from gptft.data.tokenizer import Tokenizer
from gptft.errors import command
from gptft.evaluation.instructions import evaluate_instructions
from gptft.evaluation.language_model import instruction_loss
from gptft.report.page import write_page
from gptft.report.tables import results_text
from gptft.training.loop import fit
from gptft.training.start import begin, choose_trainable, facts, fit_length, initial_instructed

DEFAULTS = {
    "mini": dict(
        epochs=3,
        batch_size=8,
        learning_rate=5e-4,
        weight_decay=0.1,
        dropout=0.1,
        max_length=512,
        schedule="cosine",
    ),
    "pretrained": dict(
        epochs=3,
        batch_size=32,
        learning_rate=5e-5,
        weight_decay=0.01,
        dropout=0.1,
        max_length=512,
        schedule="cosine",
    ),
    "from scratch": dict(
        epochs=6,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.1,
        dropout=0.2,
        max_length=512,
        schedule="cosine",
    ),
}
TRAIN_ROWS = 500  # training examples, evenly spaced, whose loss is in the final table
SHOWN = 10  # test prompts whose answers are in the report
REAL_RUN = """No flags: the bundled examples and the bundled small GPT-2. The real run:
  python -m data_prep.alpaca && python -m data_prep.gpt2 --size 124M
  python scripts/finetune_alpaca.py --data data/alpaca --model 124M"""


@dataclass(frozen=True)
class Options(FinetuneOptions):
    data: str = option(
        "sample",
        "sample (bundled), a prepared folder such as data/alpaca, or a .jsonl, .json or .csv file "
        "with the fields instruction, input and output",
    )
    template: str = option(
        None,
        "wording around an instruction: Stanford Alpaca's; ### User and ### Assistant; special "
        "tokens (default: the model's own, else alpaca)",
        str,
        choices=tuple(TEMPLATES),
    )
    loss: str = option(
        "response", "tokens that are learned: the response's, or all", choices=("response", "all")
    )
    inspect: int = option(
        None, "print N training examples, learned tokens marked, and stop", int, 1
    )
    test_prompts: int = option(
        200, "test prompts that are answered, evenly spaced; 0: no answers and no tasks", low=0
    )
    out: str = option("runs/alpaca", "run folder")


@command
def main(argv):
    prog = "scripts/finetune_alpaca.py"
    given = parse_options(Options, argv, prog, __doc__, describe_defaults(DEFAULTS))
    options = given.complete(DEFAULTS)
    distributed.setup(options.device)

    # ---------------------------------------------------------------- data
    instructions = load_instructions(options.data, options.seed)

    # ---------------------------------------------------------------- model
    model, description = initial_instructed(options, options.template)
    options = dataclasses.replace(options, template=model.template)
    options = fit_length(options, given, model.config.n_positions)
    trained_part = choose_trainable(model, options)
    tokenizer = Tokenizer(model.special_tokens)

    def dataset(examples, loss="response"):
        length = options.max_length
        return InstructionDataset(examples, tokenizer, options.template, length, loss)

    train = dataset(instructions.splits["train"], options.loss)
    if options.inspect:
        for i in range(min(options.inspect, len(train))):
            in_colour = sys.stdout.isatty()
            print(f"--- {i + 1}\n{show_learned(*train[i], tokenizer, in_colour)}")
        return
    every = -(-len(train) // TRAIN_ROWS)
    reported = instructions.splits | {"train": instructions.splits["train"][::every]}
    datasets = {split: dataset(examples) for split, examples in reported.items()}
    batches = TrainBatches(train, language_model_batch, options)

    # ---------------------------------------------------------------- training
    splits = instructions.splits.items()
    counts = ", ".join(f"{len(examples):,} {split}" for split, examples in splits)
    cut = {split: of.note() for split, of in (datasets | {"train": train}).items()}
    notes = [
        *instructions.notes,
        f"data: {instructions.name}: {counts}",
        *(f"{split}: {note}" for split, note in cut.items() if note),
        f"model: {description}",
        trained_part,
        f"template: {options.template}, learned: {options.loss}",
    ]
    if options.is_trial:
        notes.insert(0, REAL_RUN)
    texts = [f"{e.instruction}\n{e.input}\n{e.output}" for _, examples in splits for e in examples]
    device, run = begin(prog, argv, options, model, batches, texts, notes)
    batch_size = distributed.rows_per_process(options)

    def val_metrics(model):
        return instruction_loss(model, datasets["val"], device, batch_size)

    position = fit(model, batches, val_metrics, options, device, run)
    del model  # the device needs room for one model at a time

    # ---------------------------------------------------------------- evaluation
    if options.test_prompts:
        print("answering test prompts and tasks, after and before tuning", flush=True)
    trained = dataclasses.replace(given, model=str(run.folder.resolve()), from_scratch=False)
    trained = dataclasses.replace(trained, **dict.fromkeys(given.shape())).complete(DEFAULTS)
    evaluated = []
    for start in (trained, options):
        model, _ = initial_instructed(start, options.template)
        model.to(device.name)
        n_prompts = options.test_prompts
        evaluated.append(
            evaluate_instructions(model, datasets, tokenizer, device, n_prompts, batch_size)
        )
    (tuned, predictions), (base, before) = evaluated
    if distributed.is_main():
        results = facts("instructions", description, instructions.name, device, position)
        results |= {"template": options.template, "learned": options.loss}
        results |= tuned | {"base": base}
        run.write_predictions(predictions, examples_shown(datasets["test"], predictions, before))
        run.write_results(results)
        write_page(run.folder)
        print(f"\nthe best weights, of step {position.best_step}:")
        print(results_text(results))
        print(f"page: {run.folder / 'report.html'}")
    distributed.cleanup()


def show_learned(token_ids, labels, tokenizer, colour):
    """One example as text, its learned tokens in green, or in [[ ]] without colour -> str."""
    start, end = ("\x1b[32m", "\x1b[0m") if colour else ("[[", "]]")
    learned = np.asarray(labels) != NOT_LEARNED
    borders = np.flatnonzero(learned[1:] != learned[:-1]) + 1
    text = ""
    for ids, is_learned in zip(np.split(token_ids, borders), np.split(learned, borders)):
        piece = tokenizer.decode(ids.tolist())
        text += start + piece + end if is_learned[0] else piece
    return text


def examples_shown(test, predictions, before):
    """The first examples with the responses before and after tuning -> rows of examples.jsonl."""
    by_id = {example.id: example._asdict() for example in test.examples}
    rows = []
    for tuned, base in list(zip(predictions, before))[:SHOWN]:
        responses = {"base": base["response"], "tuned": tuned["response"]}
        rows.append(by_id[tuned["id"]] | responses)
    return rows


if __name__ == "__main__":
    sys.exit(main())

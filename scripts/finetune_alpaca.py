"""Fine-tune GPT-2 to follow instructions.

Trains on the split train, keeps the weights with the lowest loss on the responses of val, and
reports them beside the weights it started from: the loss on test, which nothing else looks at, the
responses to test prompts, and a suite of tasks that a program can check.
"""

import dataclasses
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft import distributed
from gptft.checkpoints.folders import load_model
from gptft.config import IGNORED, FinetuneOptions, describe_defaults, option, parse_options
from gptft.data.batches import TrainBatches, language_model_batch
from gptft.data.examples import load_instructions
from gptft.data.instructions import TEMPLATES, InstructionDataset
from gptft.data.tokenizer import Tokenizer
from gptft.errors import command
from gptft.evaluation.instructions import evaluate_instructions
from gptft.evaluation.language_model import instruction_loss
from gptft.report.page import write_page
from gptft.report.tables import results_text
from gptft.training.loop import fit
from gptft.training.start import begin, facts, initial_instructed, limit_length, set_trainable

DEFAULTS = {  # epochs, batch size, learning rate, weight decay, dropout, max length
    "mini": (3, 8, 5e-4, 0.1, 0.1, 512),
    "pretrained": (3, 32, 5e-5, 0.01, 0.1, 512),
    "from scratch": (6, 8, 1e-3, 0.1, 0.2, 512),
}
TRAIN_ROWS = 500  # training examples, evenly spaced, whose loss is in the final table
SHOWN = 10  # test prompts whose answers are in the report
REAL_RUN = """A trial on the bundled examples and the bundled small GPT-2. The real run:
  python -m data_prep.alpaca && python -m data_prep.gpt2 --size 124M
  python scripts/finetune_alpaca.py --data data/alpaca --model 124M"""


@dataclass(frozen=True)
class Options(FinetuneOptions):
    data: str = option(
        "sample",
        "sample (bundled); a folder with the files train, val and test, such as data/alpaca; or a "
        ".jsonl, .json, .csv or .tsv file (or .gz) of instructions and responses",
    )
    template: str = option(
        None,
        "wording around an instruction: Stanford Alpaca's; ### User and ### Assistant; special "
        "tokens (default: the model's own, else alpaca)",
        choices=tuple(TEMPLATES),
    )
    loss: str = option(
        "response", "tokens that are learned: the response's, or all", choices=("response", "all")
    )
    inspect: int = option(None, "print N training examples, learned tokens marked, and stop", 1)
    test_prompts: int = option(
        None,
        "test prompts that are answered, evenly spaced; 0: no answers and no tasks (default: 200, "
        "or 0 in a trial of fewer than 10 steps)",
        0,
    )
    out: str = option("runs/alpaca", "run folder")
    schedule: str = "cosine"


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
    options = limit_length(options, given, model.config.n_positions)
    set_trainable(model, options)
    tokenizer = Tokenizer(model.special_tokens)

    def dataset(examples, loss="response"):
        length = options.max_length
        return InstructionDataset(examples, tokenizer, options.template, length, loss)

    train = dataset(instructions.splits["train"], options.loss)
    if options.inspect:
        for i in range(min(options.inspect, len(train))):
            print(f"--- {i + 1}\n{show_learned(*train[i], tokenizer)}")
        return
    every = -(-len(train) // TRAIN_ROWS)
    reported = instructions.splits | {"train": instructions.splits["train"][::every]}
    datasets = {split: dataset(examples) for split, examples in reported.items()}
    batches = TrainBatches(train, language_model_batch, options)

    # ---------------------------------------------------------------- training
    if options.is_trial:
        print(REAL_RUN)
    cut = {split: of.note() for split, of in (datasets | {"train": train}).items()}
    notes = [
        *(f"{split}: {note}" for split, note in cut.items() if note),
        f"model: {description}",
        f"template: {options.template}, learned: {options.loss}",
    ]
    examples = sum(instructions.splits.values(), [])
    texts = [f"{e.instruction}\n{e.input}\n{e.output}" for e in examples]
    device, run = begin(prog, argv, options, model, batches, instructions, texts, notes)
    batch_size = distributed.rows_per_process(options)

    def val_metrics(model):
        return instruction_loss(model, datasets["val"], device, batch_size)

    position = fit(model, batches, val_metrics, options, device, run, write_page)
    del model  # the device needs room for one model at a time

    # ---------------------------------------------------------------- evaluation
    n_prompts = options.test_prompts
    if n_prompts is None:
        n_prompts = 200 if batches.n_steps >= 10 else 0
    evaluated = []
    for name in ("tuned", "base"):
        print(f"evaluating the {name} model ({n_prompts} --test-prompts)", flush=True)
        model = load_model(run.folder)
        if name == "base":
            model, _ = initial_instructed(options, options.template)
        model.to(device.name)
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


def show_learned(token_ids, labels, tokenizer):
    """One example as text, its learned tokens in [[ ]] -> str."""
    text = ""
    pairs = zip(token_ids.tolist(), labels)
    for is_learned, run in groupby(pairs, lambda pair: pair[1] != IGNORED):
        piece = tokenizer.decode([id for id, _ in run])
        text += f"[[{piece}]]" if is_learned else piece
    return text


def examples_shown(test, predictions, before):
    """The first examples with the responses before and after tuning -> rows of examples.jsonl."""
    by_id = {example.id: example._asdict() for example in test.examples}
    rows = []
    for tuned, base in zip(predictions[:SHOWN], before):
        responses = {"base": base["response"], "tuned": tuned["response"]}
        rows.append(by_id[tuned["id"]] | responses)
    return rows


if __name__ == "__main__":
    sys.exit(main())

"""Pretrain GPT-2 on plain texts, from random weights or from a model.

Joins the training documents to one stream of tokens, keeps the weights with the lowest loss on the
documents of val, and reports loss and perplexity per token and bits per byte, also on test. No
document of val or test is trained on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft import distributed
from gptft.checkpoints.folders import load_model
from gptft.config import TrainOptions, describe_defaults, option, parse_options
from gptft.data.documents import (
    WindowBatches,
    Windows,
    join_documents,
    load_documents,
    sample_documents,
)
from gptft.data.tokenizer import Tokenizer
from gptft.errors import command
from gptft.evaluation.language_model import document_loss
from gptft.generation.decoding import generate
from gptft.report.page import write_page
from gptft.report.tables import results_text
from gptft.training.loop import fit
from gptft.training.start import begin, facts, initial_language_model, limit_length

DEFAULTS = {  # epochs, batch size, learning rate, weight decay, dropout, max length
    "mini": (1, 8, 5e-4, 0.1, 0.0, 512),
    "pretrained": (1, 16, 3e-4, 0.1, 0.1, 512),
    "from scratch": (3, 8, 1.5e-3, 0.1, 0.0, 256),
}
EVAL_TOKENS = 100_000  # of each split that are evaluated, about, in whole documents
N_SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 2, 8, 60  # of the samples that are generated at the end
REAL_RUN = """A trial on the bundled reviews and the bundled small GPT-2. The real run:
  python -m data_prep.imdb
  python scripts/pretrain.py --data data/imdb --from-scratch"""


@dataclass(frozen=True)
class Options(TrainOptions):
    data: str = option(
        "sample",
        "sample (bundled), a prepared folder such as data/imdb, a .jsonl, .json, .csv or .tsv file "
        "of yours, or a .txt file, its documents between blank lines or <|endoftext|>",
    )
    out: str = option("runs/pretrain", "run folder")
    beta2: float = 0.99


@command
def main(argv):
    prog = "scripts/pretrain.py"
    given = parse_options(Options, argv, prog, __doc__, describe_defaults(DEFAULTS))
    options = given.complete(DEFAULTS)
    distributed.setup(options.device)

    # ---------------------------------------------------------------- data
    documents = load_documents(options.data, options.seed)
    tokenizer = Tokenizer()
    token_ids = {split: tokenizer.encode_batch(of) for split, of in documents.splits.items()}
    stream = join_documents(token_ids["train"], tokenizer.eot)

    # ---------------------------------------------------------------- model
    model, description = initial_language_model(options)
    options = limit_length(options, given, model.config.n_positions)
    batches = WindowBatches(Windows(stream, options.max_length), options)

    # ---------------------------------------------------------------- training
    if options.is_trial:
        print(REAL_RUN)
    notes = [f"{len(stream):,} tokens to train on", f"model: {description}"]
    texts = sum(documents.splits.values(), [])
    device, run = begin(prog, argv, options, model, batches, documents, texts, notes)

    def split_metrics(model, split="val"):
        rows = sample_documents(token_ids[split], EVAL_TOKENS)
        sample = join_documents([token_ids[split][row] for row in rows], tokenizer.eot)
        n_bytes = sum(len(documents.splits[split][row].encode()) for row in rows)
        return document_loss(model, sample, options.max_length, len(rows), n_bytes, device)

    position = fit(model, batches, split_metrics, options, device, run, write_page)

    # ---------------------------------------------------------------- evaluation
    best = load_model(run.folder, device=device.name)
    results = facts("pretraining", description, documents.name, device, position)
    for split in documents.splits:
        results[split] = split_metrics(best, split)
    if distributed.is_main():
        run.write_predictions(write_samples(best, token_ids["val"], tokenizer, options.seed))
        run.write_results(results)
        write_page(run.folder)
        print(f"\nthe best weights, of step {position.best_step}:")
        print(results_text(results))
        print("n: documents; tokens: predicted, with end-of-text; loss: their mean, in nats")
        print("bits per byte: loss x tokens / ln 2 / bytes of the documents in UTF-8")
        print(f"page: {run.folder / 'report.html'}")
    distributed.cleanup()


def write_samples(model, documents, tokenizer, seed):
    """Continue the starts of some documents, and print them -> rows of predictions.jsonl."""
    n_new = min(NEW_TOKENS, model.config.n_positions - PROMPT_TOKENS)
    if n_new < 1:
        return []
    eot = tokenizer.eot
    starts = [ids[: PROMPT_TOKENS - 1].tolist() for ids in documents[:N_SAMPLES]]
    prompts = [[eot, *start] for start in starts]
    texts = generate(model, prompts, n_new, temperature=0.8, top_p=0.95, eos_id=eot, seed=seed)
    rows = []
    for i, (start, ids) in enumerate(zip(starts, texts)):
        row = {"id": i, "prompt": tokenizer.decode(start), "response": tokenizer.decode(ids)}
        rows.append(row | {"ended": ids[-1] == eot})
        print(f"\n{row['prompt']} ... {row['response']}")
    return rows


if __name__ == "__main__":
    sys.exit(main())

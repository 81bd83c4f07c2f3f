"""Pretrain GPT-2 on plain texts: to predict each next token, from scratch or on from learned weights.

Joins the training documents to one stream of tokens, keeps the weights with the lowest loss on documents of `val`, and
reports loss and perplexity a token and bits a byte, also on `test`. No document of val or test is trained on.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptft.config import (
    ModelOptions,
    TrainOptions,
    add_options,
    describe_recipes,
    fill,
    from_args,
    settle_length,
)
from gptft.errors import Parser, UserError, command

MINI = dict(
    epochs=1, batch_size=8, learning_rate=5e-4, weight_decay=0.1, dropout=0.0, max_length=512
)
PRETRAINED = dict(
    epochs=1, batch_size=16, learning_rate=3e-4, weight_decay=0.1, dropout=0.1, max_length=512
)
FROM_SCRATCH = dict(
    epochs=3, batch_size=8, learning_rate=1.5e-3, weight_decay=0.1, dropout=0.0, max_length=256
)
PROMPT, NEW = 8, 60  # tokens of a sample that the trained model is given and, at most, writes
EVAL_TOKENS = (
    100_000  # about so many of each split are evaluated, in whole documents, evenly spaced
)
UNITS = "n: documents; tokens: those that were to be predicted, end-of-text included; loss: their mean, in nats"
BITS = "bits_per_byte: loss x tokens / ln 2 / bytes of the documents in UTF-8"
REAL_RUN = """nothing named: the bundled reviews and the small GPT-2 that is bundled, too. The real run, as that one was made:
  python -m data_prep.imdb
  python scripts/pretrain.py --data data/imdb --from-scratch --embedding counts --head-tokens 8192 --warmup 0.03 --epochs 2 --max-steps 15000 --eval-every 1500 --out runs/stage1
  python scripts/pretrain.py --data data/imdb --model runs/stage1 --batch-size 8 --learning-rate 5e-4 --dropout 0 --max-steps 300 --eval-every 150 --out runs/pretrain"""


def parse(argv):
    recipes = describe_recipes(mini=MINI, other_pretrained=PRETRAINED, from_scratch=FROM_SCRATCH)
    parser = Parser(prog="scripts/pretrain.py", description=__doc__, epilog=recipes)
    parser.add_argument(
        "--data",
        default="sample",
        help="sample (bundled), a prepared folder such as data/imdb, a .jsonl, .csv "
        "or .json file with field text, or a .txt file, documents between blank lines or lines of "
        "<|endoftext|> (default: sample)",
    )
    parser.add_argument(
        "--document-mask",
        action="store_true",
        help="attention stays inside a document, and positions restart",
    )
    parser.add_argument(
        "--head-tokens",
        type=int,
        default=0,
        metavar="N",
        help="learn only the N most frequent tokens: a faster first stage; 0: all (default: 0)",
    )
    parser.add_argument(
        "--embedding",
        choices=("random", "counts"),
        default="random",
        help="where a model from scratch begins: "
        "counts gives each token a vector by the company it keeps in the data (default: random)",
    )
    add_options(parser, ModelOptions)
    add_options(parser, TrainOptions, out="runs/pretrain")
    args = parser.parse_args(argv)
    if args.head_tokens < 0:
        raise UserError(f"--head-tokens must be at least 0, got {args.head_tokens}")
    model_options, options = from_args(ModelOptions, args), from_args(TrainOptions, args)
    if args.embedding == "counts" and model_options.pretrained:
        raise UserError(
            f"--embedding counts is for a model from scratch, but {args.model} is pretrained; add --from-scratch, or leave it out"
        )
    options = dataclasses.replace(options, beta2=0.99)
    return (
        args,
        model_options,
        fill(options, **model_options.recipe(MINI, PRETRAINED, FROM_SCRATCH)),
    )


def write_samples(model, store, stream, tokenizer, seed):
    """Let a model go on from the first tokens of two documents, and show it -> rows of predictions.jsonl.

    `copied` counts the tokens of the longest passage that stands word for word in the stream that was trained on.
    """
    from gptft.generate import generate
    from gptft.text_metrics import longest_copy

    prompts = [
        [tokenizer.eot, *map(int, store[row][: PROMPT - 1])] for row in range(min(2, len(store)))
    ]
    trained_on = stream.tobytes()
    new = min(NEW, model.config.n_positions - PROMPT)
    written = generate(
        model, prompts, new, temperature=0.8, top_p=0.95, eos_id=tokenizer.eot, seed=seed
    )
    rows = [
        {
            "id": id,
            "prompt": tokenizer.decode(prompt[1:]),
            "response": tokenizer.decode(ids),
            "ended": ids[-1] == tokenizer.eot,
            "copied": longest_copy(ids, trained_on)[1],
        }
        for id, (prompt, ids) in enumerate(zip(prompts, written))
    ]
    for row in rows:
        print(
            f"\n{row['prompt']} ... {row['response']}\n(longest passage that was trained on: {row['copied']} tokens)"
        )
    return rows


@command
def main(argv):
    args, model_options, options = parse(argv)

    import torch

    from gptft import distributed
    from gptft.cooccurrence import context_tokens, embed_by_counts
    from gptft.data.documents import (
        WindowBatches,
        Windows,
        frequent_tokens,
        load_documents,
        some_documents,
    )
    from gptft.data.tokens import TokenStore, cache_stem, fingerprint
    from gptft.evaluate import stream_metrics
    from gptft.hardware import choose_hardware, evaluating
    from gptft.initial import initial_language_model
    from gptft.language import stream_loss
    from gptft.page import write_page
    from gptft.pretrained import load_model
    from gptft.run import open_training_run
    from gptft.tables import loss_rows, text_table
    from gptft.tokenizer import Tokenizer
    from gptft.trainer import fit

    distributed.setup(options.device)
    documents = load_documents(args.data, options.seed)
    torch.manual_seed(options.seed)
    model, description = initial_language_model(model_options, options.dropout)
    options = settle_length(options, args.max_length, model.config.n_positions)
    tokenizer = Tokenizer()
    with distributed.main_first():  # it writes the tokens that the others read
        stores = {
            split: TokenStore.build(
                texts, tokenizer, cache_stem(args.data, f"documents_{split}"), tokenizer.eot
            )
            for split, texts in documents.splits.items()
        }
    stream = stores["train"].ids
    contexts = context_tokens(stream, model.config) if args.embedding == "counts" else None
    vocabulary = frequent_tokens(stream, args.head_tokens) if args.head_tokens else None
    batches = WindowBatches(Windows(stream, options.max_length, vocabulary), options)
    hardware = choose_hardware(options.device, options.precision, options.compile, batches.n_steps)
    model.checkpoint_activations = options.checkpoint_activations
    model.to(hardware.device)
    n_parameters = sum(p.numel() for p in model.parameters())
    settled = {
        "precision": hardware.precision,
        "texts": fingerprint(sum(documents.splits.values(), []), tokenizer),
    }
    run = open_training_run("scripts/pretrain.py", argv, args, options, settled)

    if args.data == "sample" and args.model == "mini" and model_options.pretrained:
        print(REAL_RUN)
    counts = ", ".join(f"{len(texts):,} {split}" for split, texts in documents.splits.items())
    learned = (
        "all tokens"
        if vocabulary is None
        else f"the {len(vocabulary):,} most frequent tokens alone, which all losses count alone"
    )
    print(
        *documents.notes,
        f"data: {documents.name}: {counts}; {len(stream):,} tokens to train on",
        f"model: {description}, {n_parameters:,} parameters",
        f"learned: {learned}; attention: within {'a document' if args.document_mask else 'a window'}",
        f"computing on {hardware.why}",
        options.describe(),
        f"run folder: {run.folder}",
        sep="\n",
        flush=True,
    )

    if (
        contexts is not None and distributed.is_main() and not options.resume
    ):  # the others get its weights when they wrap the model
        embed_by_counts(model, stream, contexts)
    loss = partial(
        stream_loss,
        begin_id=tokenizer.eot if args.document_mask else None,
        vocabulary=None if vocabulary is None else torch.from_numpy(vocabulary).to(hardware.device),
    )
    samples = {
        split: some_documents(documents.splits[split], store, EVAL_TOKENS)
        for split, store in stores.items()
    }

    def evaluate(model, split="val"):
        sample, n, n_bytes = samples[split]
        return stream_metrics(
            model, Windows(sample, options.max_length, vocabulary), loss, hardware, n, n_bytes
        )

    fitted = fit(
        model, batches, loss, evaluate, lambda val: (-val["loss"],), options, hardware, run
    )

    best = load_model(run.folder, device=hardware.device)
    with evaluating(best, hardware):
        results = {split: evaluate(best, split) for split in samples}
    if distributed.is_main():
        if vocabulary is None and model.config.n_positions > PROMPT:
            run.write_predictions(
                write_samples(best, stores["val"], stream, tokenizer, options.seed)
            )
        run.write_results(
            {
                "task": "pretraining",
                "model": description,
                "data": documents.name,
                "head_tokens": args.head_tokens,
                "device": hardware.device,
                "precision": hardware.precision,
                "seconds": round(fitted.seconds, 1),
                "tokens_per_second": round(fitted.tokens / fitted.seconds),
                "best_step": fitted.best_step,
                **results,
            }
        )
        write_page(run.folder)
        print(
            f"\nthe best weights, of step {fitted.best_step}:\n{text_table(loss_rows(results))}\n{UNITS}",
            BITS if vocabulary is None else f"learned: {learned}",
            f"page: {run.folder / 'report.html'}",
            sep="\n",
        )
    distributed.cleanup()


if __name__ == "__main__":
    sys.exit(main())

"""OpenAI's GPT-2 checkpoints, fetched, checked and converted: `python -m data_prep.gpt2 --size 124M`.

What a folder must hold to be believed: files of the known size and, for 124M, the known sha256; then, for every size,
an index whose blocks agree with their checksums, variables that agree with theirs, and the names and shapes of that
GPT-2. hparams.json comes last: a folder without it does not load, so no half download can be taken for a model.

`--check` asks a model for answers that others have published: continuations by greedy decoding, and log-probabilities.
They show what no checksum can, that the model around the weights computes GPT-2.

Source: the download script of openai/gpt-2; the answers come from the public tests of other implementations.
"""

import sys
from pathlib import Path

from data_prep.download import Expected, download
from gptft.config import GPT2Config
from gptft.errors import CheckpointError, Parser, UserError, command

ADDRESSES = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models/{size}/{file}",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2/{size}/{file}",
)
SIZES = ("124M", "355M", "774M", "1558M")
INDEX, DATA, HPARAMS = "model.ckpt.index", "model.ckpt.data-00000-of-00001", "hparams.json"
FILES = ("checkpoint", "encoder.json", "vocab.bpe", INDEX, DATA, HPARAMS)
NEEDED = (INDEX, DATA, HPARAMS)  # to load; the others complete OpenAI's folder

# (bytes, sha256); the tokenizer's files are the same for all sizes, and a file that is not listed checks itself below.
TOKENIZER = {
    "encoder.json": (1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
KNOWN = {
    "124M": TOKENIZER
    | {
        "checkpoint": (77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"),
        HPARAMS: (90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
        INDEX: (5215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
        DATA: (497759232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
    },
    "355M": TOKENIZER | {INDEX: (10399, None), DATA: (1419292672, None)},
    "774M": TOKENIZER | {DATA: (3096120320, None)},
    "1558M": TOKENIZER | {DATA: (6230444800, None)},
}


@command
def main(argv=None):
    parser = Parser(
        prog="python -m data_prep.gpt2", description="Fetch and check OpenAI's GPT-2 checkpoints."
    )
    parser.add_argument(
        "--size", choices=SIZES, default="124M", help="which checkpoint (default: 124M)"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--from-folder", metavar="DIR", help="import the files from a folder, not from the net"
    )
    action.add_argument(
        "--check", metavar="DIR", help="check a model's bytes, and its answers against known ones"
    )
    action.add_argument(
        "--convert", metavar="DIR", help="write a model in Hugging Face's form into --out"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder to write (default: checkpoints/SIZE; with --convert: DIR-hf)",
    )
    args = parser.parse_args(argv)
    if args.check and args.out:
        raise UserError("--check writes nothing; leave out --out")

    if args.check:
        check(Path(args.check))
    elif args.convert:
        source = Path(args.convert)
        convert(
            source, Path(args.out) if args.out else source.with_name(f"{source.resolve().name}-hf")
        )
    else:
        folder = Path(args.out) if args.out else Path("checkpoints") / args.size
        fetch(args.size, folder, Path(args.from_folder) if args.from_folder else None)
        print(f"{folder} holds GPT-2 {args.size}, all checksums right")
        print(
            f"next: python -m data_prep.gpt2 --check {folder}, or python -m gptft.generate --model {folder}"
        )


def fetch(size, folder, source=None):
    """Bring the files of GPT-2 `size` into `folder`, from the net or from the folder `source`, and check them.

    What is there and right is kept; a piece of a file is completed. Raises UserError; no bad file keeps its name.
    """
    if source is not None:
        _check_source(size, source, folder)
    for file in FILES:
        if source is None:
            addresses = [address.format(size=size, file=file) for address in ADDRESSES]
        elif (source / file).exists() or file in NEEDED:
            addresses = [(source / file).resolve().as_uri()]
        else:
            continue
        if file == HPARAMS:
            _check_bundle(size, folder)
        n_bytes, sha256 = KNOWN[size].get(file, (None, None))
        download(addresses, folder / file, size=n_bytes, sha256=sha256)
    _check_hparams(size, folder)


def _check_source(size, source, folder):
    """Raise UserError if a folder to import is not what it should be, before anything is written."""
    if not source.is_dir():
        raise UserError(
            f"no such folder, --from-folder {source}; give the folder that holds {', '.join(NEEDED)}"
        )
    if source.resolve() == folder.resolve():
        raise UserError(
            f"--from-folder is the folder to write, {folder}; to look at what is in it, use --check"
        )
    for path in (source / file for file in FILES):
        if path.exists() or path.name in NEEDED:
            problem = (
                Expected(*KNOWN[size].get(path.name, ())).problem(path)
                if path.is_file()
                else "it is not there"
            )
            if problem:
                raise UserError(
                    f"not GPT-2 {size}'s {path.name}, {problem}, {path}; give the folder that holds {', '.join(NEEDED)}"
                )


def check(folder):
    """Compare a model with its checksums and GPT-2's known answers, printing each. Raises UserError if one differs."""
    from gptft.checkpoints.tf_bundle import read_tf_checkpoint
    from gptft.classifier import GPT2Classifier
    from gptft.checkpoints.folders import load_model

    if (folder / HPARAMS).exists():
        print(
            f"ok        checksums of {len(read_tf_checkpoint(folder, verify=True))} variables",
            flush=True,
        )
    model = load_model(folder)
    config = model.config
    print(
        f"ok        loads: {config.n_layer} layers of width {config.n_embd}, {config.vocab_size} tokens",
        flush=True,
    )
    if isinstance(model, GPT2Classifier) or not _has_shape(config, "124M"):
        print(
            "          known answers: there are none but for the language model of size 124M, nothing compared"
        )
        return
    wrong = []
    for name, answer, known, ok in known_answers(model):
        print(
            f"{'ok' if ok else 'DIFFERS':9} {name}\n          here  {answer}\n          known {known}",
            flush=True,
        )
        if not ok:
            wrong.append(name)
    if wrong:
        what = f"known answers differ ({'; '.join(wrong)})"
        raise UserError(
            f"{what}, {folder}; a fine-tuned model may differ, for OpenAI's compare the numbers above"
        )


def convert(source, out):
    """Write the model of the folder `source` in Hugging Face's form to `out`. Raises UserError if that one is in use."""
    from gptft.checkpoints.folders import load_model, save_model

    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out is not empty, {out}; choose another folder")
    save_model(load_model(source), out)
    print(f"{out} holds {source} in Hugging Face's form; transformers' from_pretrained reads it")


def _check_bundle(size, folder):
    """Check all variables of a folder just fetched; remove the files of one that fails, so that the next try is new."""
    from gptft.checkpoints.gpt2_names import from_openai
    from gptft.checkpoints.tf_bundle import read_tf_checkpoint

    try:
        from_openai(read_tf_checkpoint(folder, verify=True), GPT2Config.named(size), folder)
    except CheckpointError as error:
        for file in ("checkpoint", INDEX, DATA):
            (folder / file).unlink(missing_ok=True)
        raise UserError(f"not GPT-2 {size}: {error} (the files are removed)") from error


def _check_hparams(size, folder):
    """Check the shape that hparams.json states, and remove it if it is another."""
    from gptft.checkpoints.folders import read_config

    path = folder / HPARAMS
    try:
        problem = (
            None
            if _has_shape(read_config(folder), size)
            else f"not the shape of GPT-2 {size}, {path}"
        )
    except CheckpointError as error:
        problem = str(error)
    if problem:
        path.unlink()
        raise UserError(f"{problem} (the file is removed); fetch it again")


def _has_shape(config, size):
    named = GPT2Config.named(size)
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    return all(getattr(config, name) == getattr(named, name) for name in names)


# ---------------------------------------------------------------- known answers of GPT-2 124M

IDS = [464, 3290]
IDS_ANSWER = [
    373,
    1043,
    287,
    257,
    2214,
    1474,
    262,
    16246,
    286,
    2688,
    290,
    2688,
    27262,
    13,
    198,
    198,
    464,
    3290,
]
PAIR = ["Hello, my dog is a little", "Today, I"]
PAIR_ANSWERS = [
    " bit of a mess. I'm not sure if he's going",
    "'m going to be doing a lot of research on this. I",
]
TURING = "Alan Turing theorized that computers would one day become"
TURING_ANSWER = (
    " the most powerful machines on the planet.\n\nThe computer is a machine that can perform complex calculations, "
    "and it can perform these calculations in a way that is very similar to the human brain."
)
SCALING = (
    "We study empirical scaling laws for language model performance on the cross-entropy loss."
)
SCALING_LOG_PROBS = [
    *(
        -4.9599953,
        -8.069298,
        -8.308624,
        -10.178513,
        -8.906924,
        -1.9318912,
        -7.745445,
        -7.146077,
        -5.2072,
        -3.5882986,
    ),
    *(-1.9957212, -8.044922, -0.20841774, -5.1096807, -0.099879116, -8.888423, -4.6180487),
]
TOLERANCE = 1e-3  # of a log-probability, in float32


def known_answers(model):
    """Ask GPT-2 124M, in float32, what others asked it: yield (question, its answer, the known one, whether equal)."""
    from gptft.data.tokenizer import Tokenizer

    tokenizer = Tokenizer()
    [answer] = greedy(model, [IDS], 18)
    yield "greedy, from ids 464 3290", answer, IDS_ANSWER, answer == IDS_ANSWER

    rows = greedy(model, [tokenizer.encode(prompt) for prompt in PAIR], 13)
    answers = [tokenizer.decode(row) for row in rows]
    yield "greedy, two rows of unequal length", answers, PAIR_ANSWERS, answers == PAIR_ANSWERS

    # 40 tokens were asked for where this was printed; the text has 39, so the last was lost, likely a line break.
    answer = tokenizer.decode(greedy(model, [tokenizer.encode(TURING)], 39)[0])
    yield (
        "greedy, 39 tokens on Alan Turing",
        repr(answer),
        repr(TURING_ANSWER),
        answer == TURING_ANSWER,
    )

    answer = log_probs(model, [tokenizer.eot, *tokenizer.encode(SCALING)])
    furthest = max(abs(here - known) for here, known in zip(answer, SCALING_LOG_PROBS, strict=True))
    here, known = (
        " ".join(f"{value:.4f}" for value in values) for values in (answer, SCALING_LOG_PROBS)
    )
    yield f"17 log-probabilities, at most {furthest:.0e} apart", here, known, furthest <= TOLERANCE


def greedy(model, prompts, n_new):
    """Continue each prompt (list of ids) by its likeliest token, `n_new` times -> list of lists of the new ids.

    The plainest loop: everything is computed again for each token, rows padded on the right, where no token looks.
    """
    import torch

    rows = [list(prompt) for prompt in prompts]
    for _ in range(n_new):
        longest = max(map(len, rows))
        with torch.inference_mode():
            logits = model(
                torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            )  # (B, T, V)
        for row, scores in zip(rows, logits):
            row.append(scores[len(row) - 1].argmax().item())
    return [row[-n_new:] for row in rows]


def log_probs(model, token_ids):
    """Natural logarithm of the probability of each token after those before it -> list of len(token_ids) - 1 floats."""
    import torch

    ids = torch.tensor([token_ids])
    with torch.inference_mode():
        scores = model(ids)[0, :-1].log_softmax(-1)  # (T - 1, V)
    return scores.gather(1, ids[0, 1:, None])[:, 0].tolist()


if __name__ == "__main__":
    sys.exit(main())

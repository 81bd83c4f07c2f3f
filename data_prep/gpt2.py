"""Fetch and verify OpenAI's GPT-2 checkpoints: `python -m data_prep.gpt2 --size 124M`.

The files are collected in checkpoints/SIZE.part, verified, and renamed to checkpoints/SIZE, so that
a folder of that name is complete and correct. Only for 124M is a sha256 of the weights known; for
every size, the checkpoint's index holds a CRC32C of each tensor.

`--check` also compares a model's outputs with published ones: continuations by greedy decoding, and
log-probabilities. They show that the code computes GPT-2, which no checksum can.

Source: download_model.py of openai/gpt-2. The outputs are from public tests of other
implementations.
"""

import shutil
import sys
from pathlib import Path

import torch

from data_prep.download import download, mismatch
from gptft.checkpoints.folders import load_model, read_config
from gptft.checkpoints.names import from_openai
from gptft.checkpoints.openai import read_tf_checkpoint
from gptft.config import GPT2Config
from gptft.data.tokenizer import Tokenizer
from gptft.errors import CheckpointError, Parser, UserError, command
from gptft.generation.decoding import generate
from gptft.model import GPT2

URLS = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models/{size}/{file}",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2/{size}/{file}",
)
INDEX, DATA, HPARAMS = "model.ckpt.index", "model.ckpt.data-00000-of-00001", "hparams.json"
FILES = ("checkpoint", "encoder.json", "vocab.bpe", HPARAMS, INDEX, DATA)

# File -> (bytes, sha256). All sizes have the same tokenizer files.
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

# Published outputs of GPT-2 124M in float32: (prompts of a batch, their greedy continuations).
CONTINUATIONS = [
    (
        ["The dog"],
        [" was found in a field near the intersection of West and West Streets.\n\nThe dog"],
    ),
    (
        ["Hello, my dog is a little", "Today, I"],
        [
            " bit of a mess. I'm not sure if he's going",
            "'m going to be doing a lot of research on this. I",
        ],
    ),
    (
        ["Alan Turing theorized that computers would one day become"],
        [
            " the most powerful machines on the planet.\n\nThe computer is a machine that can "
            "perform complex calculations, and it can perform these calculations in a way that is "
            "very similar to the human brain."
        ],
    ),
]
# The natural logarithm of the probability of each token of TEXT after <|endoftext|>.
TEXT = "We study empirical scaling laws for language model performance on the cross-entropy loss."
LOG_PROBS = [
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
    -1.9957212,
    -8.044922,
    -0.20841774,
    -5.1096807,
    -0.099879116,
    -8.888423,
    -4.6180487,
]
TOLERANCE = 1e-3  # of a log-probability


@command
def main(argv):
    parser = Parser(
        prog="python -m data_prep.gpt2", description="Fetch and verify OpenAI's GPT-2 checkpoints."
    )
    parser.add_argument("--size", choices=list(KNOWN), default="124M", help="default: 124M")
    parser.add_argument(
        "--from-folder", type=Path, metavar="DIR", help="copy the files instead of downloading them"
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="verify a model and compare its outputs with published ones",
    )
    args = parser.parse_args(argv)

    if args.check:
        if args.from_folder:
            raise UserError("--check only reads; leave out --from-folder")
        check(args.check)
        return
    out = Path("checkpoints") / args.size
    fetch(args.size, out, args.from_folder)
    print(
        f"{out} holds GPT-2 {args.size}; all checksums match\n"
        f"next: python -m data_prep.gpt2 --check {out}\n"
        f"  or: python -m gptft.generate --model {out}"
    )


def fetch(size, out, source=None):
    """Put the verified checkpoint of a size into the folder `out`.

    source: a folder with the files; None downloads them. If `out` exists, it is only verified.
    Raises UserError. After an interrupted download, the next call fetches what is missing.
    """
    if out.exists():
        verify(size, out)
        return
    if source:
        verify(size, source)
    part = out.parent / f"{out.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if source:
            shutil.copyfile(source / file, part / file)
        else:
            urls = [url.format(size=size, file=file) for url in URLS]
            download(urls, part / file, *KNOWN[size].get(file, ()))
    try:
        verify(size, part)
    except CheckpointError:
        shutil.rmtree(part)
        raise
    part.rename(out)


def verify(size, folder):
    """Check that `folder` holds OpenAI's checkpoint of a `size`: files, shape, names and CRC32Cs.

    Raises CheckpointError.
    """
    for file in FILES:
        path = folder / file
        problem = "missing"
        if path.is_file():
            problem = mismatch(path, *KNOWN[size].get(file, ()))
        if problem:
            raise CheckpointError(
                f"not a file of GPT-2 {size} ({problem}), {path}; use another copy"
            )
    config = read_config(folder)
    if config != GPT2Config.named(size):
        raise CheckpointError(f"not the shape of GPT-2 {size}, {folder}; use another copy")
    from_openai(read_tf_checkpoint(folder, verify=True), config, folder)


def check(folder):
    """Verify the model in `folder`, print its outputs beside the published ones.

    Raises UserError if the model cannot be loaded or an output differs.
    """
    if (folder / HPARAMS).exists():
        n_variables = len(read_tf_checkpoint(folder, verify=True))
        print(f"ok       checksums of {n_variables} variables")
    model = load_model(folder)
    print(f"ok       {model.config}")
    if not isinstance(model, GPT2) or model.config != GPT2Config.named("124M"):
        print("         outputs not compared: they are published for GPT-2 124M only")
        return
    n_differing = 0
    for name, output, published, agree in known_answers(model):
        print(f"{'ok' if agree else 'DIFFERS':8} {name}\n         {output}\n         {published}")
        n_differing += not agree
    if n_differing:
        raise UserError(
            f"{n_differing} outputs differ from the published ones, {folder}; this is expected "
            "after fine-tuning; for OpenAI's weights, please report the numbers above"
        )


def known_answers(model):
    """Yield (name, output, published output, whether they agree) for GPT-2 124M in float32."""
    tokenizer = Tokenizer()
    for prompts, published in CONTINUATIONS:
        token_ids = [tokenizer.encode(prompt) for prompt in prompts]
        n_new = len(tokenizer.encode(published[0]))
        generated = generate(model, token_ids, n_new, temperature=0)
        output = [tokenizer.decode(ids) for ids in generated]
        yield f"greedy continuation of {prompts}", output, published, output == published

    token_ids = torch.tensor([[tokenizer.eot, *tokenizer.encode(TEXT)]])  # (1, T + 1)
    with torch.inference_mode():
        log_probs = model(token_ids)[0, :-1].log_softmax(-1)  # (T, V)
    log_probs = log_probs.gather(1, token_ids[0, 1:, None])[:, 0]  # (T,)
    difference = (log_probs - torch.tensor(LOG_PROBS)).abs().max().item()
    name = f"log-probabilities, at most {difference:.0e} apart"
    yield name, log_probs.tolist(), LOG_PROBS, difference <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main())

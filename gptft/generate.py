"""Text from a language model: `generate()` for programs, `python -m gptft.generate` for people.

Prompts are plain text to be continued, or instructions, which are put into the wording that the model was tuned with
and that its folder names. Standard output carries the model's text and nothing else; what was chosen (which model,
where, which seed) goes to standard error.

Left out: a memory of the conversation in --interactive; the models are tuned on single turns.
"""

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from gptft.config import add_options, from_args, option
from gptft.errors import Parser, UserError, command
from gptft.files import write_text


def generate(
    model,
    prompts,
    max_new_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    repetition_penalty=1.0,
    eos_id=None,
    seed=None,
    stop_ids=(),
    stop=(),
    tokenizer=None,
    batch_size=None,
    on_text=None,
):
    """Continue prompts -> their new ids, list[list[int]], each up to and with the id that ended it.

    Args:
        model: GPT2. prompts: list of lists of ids, none empty; they may be of unequal lengths.
        max_new_tokens: per prompt. temperature: 0 is greedy. top_k, top_p, repetition_penalty: as in `Sampling`.
        eos_id, stop_ids: an id, and more of them, that end a text. stop: a string or several that end it; they need the
            tokenizer, and the ids go as far as the token that completes one.
        seed: row i draws from its own generator, (seed, i), so in float32 it gets the same text with any batch mates.
        batch_size: prompts in one pass; default: all. on_text: called with (i, str) whenever prompt i has more text.
    Raises UserError if a prompt and max_new_tokens exceed n_positions, ValueError for other values out of range.
    """
    from gptft.decoding import (
        decode,
    )  # torch takes a second to load, and --help should not wait for it
    from gptft.sampling import Sampling

    stop_ids = {*stop_ids} if eos_id is None else {*stop_ids, eos_id}
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    written = decode(
        model,
        prompts,
        max_new_tokens,
        sampling,
        seed=seed,
        stop_ids=stop_ids,
        stop=stop,
        tokenizer=tokenizer,
        batch_size=batch_size,
        on_text=on_text,
    )
    return [generation.ids for _, generation in sorted(written)]


# ---------------------------------------------------------------- the command


@dataclass(frozen=True)
class GenerateOptions:
    """How text is written."""

    max_new_tokens: int = option(200, "longest text in tokens", low=1)
    temperature: float = option(
        0.8, "divides the logits; 0 always takes the likeliest token", low=0.0, high=100.0
    )
    top_k: int = option(None, "choose among the N likeliest tokens; default: all", int, 1)
    top_p: float = option(
        0.95, "choose among the fewest tokens whose probabilities reach X", low=0.001, high=1.0
    )
    repetition_penalty: float = option(
        1.0, "above 1: what has been said becomes less likely", low=0.1, high=10.0
    )
    num_samples: int = option(1, "texts for each prompt", low=1, high=10_000)
    batch_size: int = option(16, "texts written at the same time", low=1)
    seed: int = option(
        None, "same seed and prompts, same texts; default: drawn, and printed", int, 0, 2**32 - 1
    )
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option("auto", "of the weights", choices=("auto", "fp32", "bf16", "fp16"))


def parse(argv):
    parser = Parser(prog="python -m gptft.generate", description=__doc__)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="124M, 355M, 774M, 1558M (in checkpoints/NAME), mini, or a "
        "folder; default: the newest language model under runs/, else mini",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="text to continue (default: start from nothing)"
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what to do, put into the model's own wording"
    )
    parser.add_argument("--input", metavar="TEXT", help="what --instruction is about")
    parser.add_argument(
        "--interactive", action="store_true", help="answer line after line from standard input"
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help=".jsonl, .csv or .json with a field prompt, or instruction and "
        "perhaps input; writes JSONL with the field response added",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where --file's result goes (default: standard output)"
    )
    add_options(parser, GenerateOptions)
    parser.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        default=[],
        help="end before this text; may be repeated",
    )
    parser.add_argument(
        "--stop-id",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="end at this token id, as at end-of-text; may be repeated",
    )
    parser.add_argument(
        "--logprobs",
        action="store_true",
        help="also give each token's natural log-probability by the "
        "model itself (temperature 1, nothing filtered)",
    )
    args = parser.parse_args(argv)
    tasks = ("prompt", "instruction", "file", "interactive")
    given = [flag for flag in tasks if getattr(args, flag) not in (None, False)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} exclude each other; choose one")
    for flag, needed in (("input", "instruction"), ("out", "file")):
        if getattr(args, flag) is not None and getattr(args, needed) is None:
            raise UserError(f"--{flag} goes with --{needed}; add it, or leave out --{flag}")
    if args.out:  # to be said before the work, not after it
        out = Path(args.out)
        if not out.parent.is_dir():
            raise UserError(f"no such folder, {out.parent}, for --out; make it")
        if out.is_dir() or out.resolve() == Path(args.file).resolve():
            raise UserError(f"--out is a folder, or --file itself, {out}; choose another name")
    if "" in args.stop:
        raise UserError("--stop is empty; give the text to stop at")
    if any(id < 0 for id in args.stop_id):
        raise UserError(f"--stop-id must be at least 0, got {min(args.stop_id)}")
    return args, from_args(GenerateOptions, args)


@command
def main(argv):
    args, options = parse(argv)
    writer = _Writer(args, options)
    if args.interactive:
        _interactive(writer)
    elif args.file:
        _file(writer, args.file, args.out)
    else:
        writer.show(writer.encode(args.prompt, args.instruction, args.input or ""))


def find_model(name=None, classifier=False):
    """--model -> (Path, why): the one named, else the newest run's language model or classifier, else the bundled model.

    Raises UserError if what is named is not there.
    """
    from gptft.checkpoints.gpt2_config import read_huggingface_config
    from gptft.initial import model_folder

    if name:
        return model_folder(name), "as asked"
    runs = [
        weights
        for weights in Path("runs").rglob("model.safetensors")
        if (weights.parent / "config.json").exists()
    ]
    for weights in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
        if read_huggingface_config(weights.parent / "config.json").is_classifier == classifier:
            return weights.parent, "the newest run"
    if classifier:
        raise UserError(
            "no classifier in a folder under runs/; name one with --model, or train one with: "
            "python scripts/finetune_imdb.py"
        )
    return model_folder("mini"), "bundled"


class _Writer:
    """The model of a command, ready to write."""

    def __init__(self, args, options):
        from gptft.data.alpaca import TEMPLATES
        from gptft.hardware import choose_hardware
        from gptft.language import check_vocabulary
        from gptft.model import GPT2
        from gptft.pretrained import load_model
        from gptft.sampling import Sampling
        from gptft.tokenizer import Tokenizer

        folder, why = find_model(args.model)
        hardware = choose_hardware(options.device, options.precision, n_steps=0)
        self.model = load_model(folder, dtype=hardware.dtype, device=hardware.device)
        if not isinstance(self.model, GPT2):
            raise UserError(
                f"a classifier writes no text, {folder}; give a language model, or use gptft.predict"
            )
        check_vocabulary(self.model, folder)
        self.folder, self.options, self.log_probs = folder, options, args.logprobs
        self.tokenizer = Tokenizer(self.model.special_tokens)
        self.template = TEMPLATES.get(self.model.template)
        self.stop, self.stop_ids = args.stop, {self.tokenizer.eot, *args.stop_id}
        self.sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.repetition_penalty
        )
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        n_parameters = sum(p.numel() for p in self.model.parameters())
        tell(
            f"model: {folder} ({why}), {n_parameters:,} parameters, template: {self.model.template or 'none'}"
        )
        tell(f"computing on {hardware.why}; seed {self.seed}")

    def encode(self, prompt=None, instruction=None, input=""):
        """A text to continue, or an instruction -> token ids."""
        if instruction is None:
            return self.tokenizer.encode(prompt or "") or [
                self.tokenizer.eot
            ]  # end-of-text also begins a text
        if self.template is None:
            raise UserError(
                f"the model knows no wording for instructions, {self.folder}; use --prompt, or a model "
                "made by scripts/finetune_alpaca.py"
            )
        return self.template.encode(self.tokenizer, instruction, input)

    def write(self, prompts, turn=0, on_text=None):
        """Yields (i, Generation): sample i % num_samples of prompt i // num_samples; the seed is --seed + turn."""
        from gptft.decoding import decode

        prompts = [prompt for prompt in prompts for _ in range(self.options.num_samples)]
        return decode(
            self.model,
            prompts,
            self.options.max_new_tokens,
            self.sampling,
            seed=self.seed + turn,
            stop_ids=self.stop_ids,
            stop=self.stop,
            tokenizer=self.tokenizer,
            log_probs=self.log_probs,
            batch_size=self.options.batch_size,
            on_text=on_text,
        )

    def show(self, prompt, turn=0):
        """Print what follows a prompt: one text while it is being written, several when all are there."""
        many = self.options.num_samples > 1
        written = self.write(
            [prompt], turn, None if many else lambda _, text: print(text, end="", flush=True)
        )
        for i, generation in sorted(written):
            print(f"--- sample {i + 1}\n{generation.text}" if many else "")
            if self.log_probs:
                for token, log_prob in self.tokens(generation):
                    print(f"{log_prob:10.4f}  {token!r}")

    def tokens(self, generation):
        """A Generation -> [(its token as text, log-probability), ...]."""
        return [
            (self.tokenizer.decode([id]), round(p, 6))
            for id, p in zip(generation.ids, generation.log_probs)
        ]


def _interactive(writer):
    """Answer each line of standard input on its own, until it ends. Ctrl-C ends an answer."""
    asked_for = "an instruction" if writer.template else "a text to continue"
    tell(
        f"enter {asked_for}; every line stands alone; Ctrl-C ends an answer, Ctrl-D the conversation"
    )
    turn = 0
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(
                f"not UTF-8 ({error.reason}), standard input; send UTF-8 text"
            ) from error
        if not line:
            continue
        try:
            writer.show(
                writer.encode(instruction=line) if writer.template else writer.encode(line), turn
            )
        except KeyboardInterrupt:
            print()
        except UserError as error:  # too long a line is no reason to leave
            tell(f"error: {error}")
        turn += 1


def _file(writer, path, out):
    """Answer every record of a file; the results, in its order, go to `out` at once, or to standard output."""
    from gptft.data.sources import read_records, text_field
    from gptft.decoding import check_room

    records, prompts = read_records(path), []
    for record in records:
        if "instruction" in record.fields:
            input = text_field(record, "input") if record.fields.get("input") else ""
            prompts.append(writer.encode(None, text_field(record, "instruction"), input))
        else:
            prompts.append(writer.encode(text_field(record, "prompt")))
        check_room(
            prompts[-1],
            writer.options.max_new_tokens,
            writer.model.config.n_positions,
            f", {record.place}",
        )
    n_samples, written = writer.options.num_samples, {}
    for i, generation in writer.write(prompts):
        written[i] = generation
        if sys.stderr.isatty():
            n = len(prompts) * n_samples
            print(
                f"\r{len(written):,} of {n:,} texts",
                end="\n" if len(written) == n else "",
                file=sys.stderr,
            )
    lines = []
    for i, generation in sorted(written.items()):
        row = records[i // n_samples].fields | {
            "response": generation.text,
            "ended": generation.ended,
        }
        if n_samples > 1:
            row["sample"] = i % n_samples
        if writer.log_probs:
            row["tokens"], row["logprobs"] = zip(*writer.tokens(generation))
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    if out:
        write_text(out, "".join(lines))
        tell(f"{len(lines):,} texts in {out}")
    else:
        print("".join(lines), end="")


def tell(text):
    """Print a line about what happens, beside the model's text."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Text from a language model: `python -m gptft.generate`.

Prompts are plain text to be continued, or instructions, which are put into the template that the
model was tuned with. Standard output has the model's text and nothing else; everything about it
(which model, which device, which seed) goes to standard error.

Not here: a memory of the conversation in --interactive; the models are tuned on single turns.
"""

import codecs
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from gptft.checkpoints.folders import load_model, read_model_info
from gptft.config import DEVICES, PRECISIONS, option, parse_options
from gptft.data.instructions import TEMPLATES
from gptft.data.records import read_records, text_field
from gptft.data.tokenizer import VOCAB_SIZE, Tokenizer
from gptft.errors import CheckpointError, UserError, command, write_text
from gptft.generation.decoding import check_room, decode, generate
from gptft.generation.sampling import Sampling
from gptft.model import GPT2
from gptft.training.devices import choose_device
from gptft.training.start import check_vocabulary, model_folder

__all__ = ["generate", "main"]


@dataclass(frozen=True)
class Options:
    """The flags of the command."""

    model: str = option(
        None,
        "124M, 355M, 774M, 1558M (in checkpoints/NAME), mini, or a folder (default: the newest "
        "language model under runs/, else mini)",
        str,
    )
    prompt: str = option(None, "text to continue (default: start from nothing)", str)
    instruction: str = option(None, "what to do, put into the model's own template", str)
    input: str = option(None, "the input of --instruction", str)
    interactive: bool = option(False, "answer each line of standard input")
    file: str = option(
        None,
        "a data file with a field prompt, or instruction and perhaps input; prints its records as "
        "JSONL, with the field response added",
        str,
    )
    out: str = option(None, "where the result of --file goes (default: standard output)", str)
    max_new_tokens: int = option(200, "longest text in tokens", low=1)
    temperature: float = option(
        0.8, "divides the logits; 0 takes the most likely token", low=0.0, high=100.0
    )
    top_k: int = option(None, "choose among the N most likely tokens (default: all)", int, 1)
    top_p: float = option(
        0.95, "choose among the fewest tokens whose probabilities reach X", low=0.001, high=1.0
    )
    repetition_penalty: float = option(
        1.0, "above 1, tokens that occurred become less likely", low=0.1, high=10.0
    )
    num_samples: int = option(1, "texts for each prompt", low=1, high=10_000)
    batch_size: int = option(16, "texts generated at the same time", low=1)
    seed: int = option(
        None, "same seed and prompts, same texts (default: drawn, and printed)", int, 0, 2**32 - 1
    )
    device: str = option("auto", "where to compute", choices=DEVICES)
    precision: str = option("auto", "of the weights", choices=PRECISIONS)


@command
def main(argv):
    options = parse_options(Options, argv, "python -m gptft.generate", __doc__)
    check_options(options)
    writer = Writer(options)
    if options.interactive:
        answer_lines(writer)
    elif options.file:
        answer_file(writer)
    else:
        writer.show(writer.encode(options.prompt, options.instruction, options.input or ""))


def check_options(options):
    """Raise UserError for flags that exclude each other, and for an --out that can't be written."""
    tasks = ("prompt", "instruction", "file", "interactive")
    given = [name for name in tasks if getattr(options, name) not in (None, False)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} exclude each other; choose one")
    for name, needed in (("input", "instruction"), ("out", "file")):
        if getattr(options, name) is not None and getattr(options, needed) is None:
            raise UserError(f"--{name} goes with --{needed}; add it, or leave out --{name}")
    if options.out:
        out = Path(options.out)
        if not out.parent.is_dir():
            raise UserError(f"no such folder, {out.parent}, for --out; make it")
        if out.is_dir() or out.resolve() == Path(options.file).resolve():
            raise UserError(f"--out is a folder, or --file itself, {out}; choose another name")


def find_model(name=None, classifier=False):
    """--model -> (its folder, why): the one that is named, or else the newest run of the right
    kind.

    Runs that `load_model` refuses for their config.json are passed over. Without a run of the right
    kind, a language model is the bundled one. Raises UserError if there is none.
    """
    if name:
        return model_folder(name), "as asked"
    runs = sorted(Path("runs").rglob("model.safetensors"), key=os.path.getmtime)
    for path in reversed(runs):
        try:
            info = read_model_info(path.parent)
        except CheckpointError:
            continue
        if info.is_classifier == classifier and info.config.vocab_size >= VOCAB_SIZE:
            return path.parent, "the newest run"
    if classifier:
        hint = "name one with --model, or train one: python scripts/finetune_imdb.py"
        raise UserError(f"no classifier under runs/; {hint}")
    return model_folder("mini"), "bundled"


class Writer:
    """A model that is ready to write."""

    def __init__(self, options):
        folder, why = find_model(options.model)
        device = choose_device(options.device, options.precision)
        self.model = load_model(folder, dtype=device.dtype, device=device.name)
        if not isinstance(self.model, GPT2):
            hint = "give a language model, or use python -m gptft.predict"
            raise UserError(f"a classifier generates no text, {folder}; {hint}")
        check_vocabulary(self.model, folder)
        self.folder = folder
        self.options = options
        self.tokenizer = Tokenizer(self.model.special_tokens)
        self.template = TEMPLATES.get(self.model.template)
        self.sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.repetition_penalty
        )
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        n = sum(p.numel() for p in self.model.parameters())
        template = self.model.template or "none"
        print_note(f"model: {folder} ({why}), {n:,} parameters, template: {template}")
        print_note(f"device: {device.reason}; seed {self.seed}")

    def encode(self, prompt=None, instruction=None, input=""):
        """A text to continue, or an instruction -> list of ids."""
        if instruction is None:
            # End-of-text also starts a text.
            return self.tokenizer.encode(prompt or "") or [self.tokenizer.eot]
        if self.template is None:
            what = "the model was not tuned on instructions"
            hint = "use --prompt, or a model made by scripts/finetune_alpaca.py"
            raise UserError(f"{what}, {self.folder}; {hint}")
        return self.template.encode(self.tokenizer, instruction, input)

    def decode(self, prompts, turn=0):
        """Yield (i, id) as `generation.decoding.decode`: row i is a sample of prompt i //
        num_samples.

        The seed of a turn is --seed plus its number.
        """
        options = self.options
        rows = [prompt for prompt in prompts for _ in range(options.num_samples)]
        eot, seed = self.tokenizer.eot, self.seed + turn
        n_new = options.max_new_tokens
        return decode(self.model, rows, n_new, self.sampling, eot, seed, options.batch_size)

    def text(self, ids):
        """New ids -> (their text, whether it ended by itself)."""
        ended = ids[-1:] == [self.tokenizer.eot]
        return self.tokenizer.decode(ids[:-1] if ended else ids), ended

    def show(self, prompt, turn=0):
        """Print the continuation of a prompt: one text as it is generated, several at the end."""
        if self.options.num_samples > 1:
            samples = [[] for _ in range(self.options.num_samples)]
            for i, id in self.decode([prompt], turn):
                samples[i].append(id)
            for i, ids in enumerate(samples, 1):
                print(f"--- sample {i}\n{self.text(ids)[0]}")
            return
        # A character may need several tokens: the decoder holds its first bytes back.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for _, id in self.decode([prompt], turn):
            if id != self.tokenizer.eot:
                piece = decoder.decode(self.tokenizer.decode_bytes([id]))
                print(piece, end="", flush=True)
        print(decoder.decode(b"", final=True))


def answer_lines(writer):
    """Answer each line of standard input on its own. Ctrl-C ends an answer."""
    wanted = "an instruction" if writer.template else "a text to continue"
    print_note(f"enter {wanted}; Ctrl-C ends an answer, Ctrl-D ends the program")
    turn = 0
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            reason = f"standard input is not UTF-8 ({error.reason})"
            raise UserError(f"{reason}; send UTF-8 text") from error
        if not line:
            continue
        try:
            prompt = writer.encode(line) if writer.template is None else writer.encode(None, line)
            writer.show(prompt, turn)
        except KeyboardInterrupt:
            print()
        except UserError as error:  # a line that is too long does not end the conversation
            print_note(f"error: {error}")
        turn += 1


def answer_file(writer):
    """Answer every record of --file; all results are written together, in its order."""
    options, n_positions = writer.options, writer.model.config.n_positions
    records = read_records(options.file)
    prompts = []
    for record in records:
        if "instruction" in record.fields:
            input = text_field(record, "input") if record.fields.get("input") else ""
            prompts.append(writer.encode(None, text_field(record, "instruction"), input))
        else:
            prompts.append(writer.encode(text_field(record, "prompt")))
        check_room(prompts[-1], options.max_new_tokens, n_positions, f", {record.place}")
    texts = [[] for _ in range(len(prompts) * options.num_samples)]
    for i, id in writer.decode(prompts):
        texts[i].append(id)
    lines = []
    for i, ids in enumerate(texts):
        text, ended = writer.text(ids)
        row = records[i // options.num_samples].fields | {"response": text, "ended": ended}
        if options.num_samples > 1:
            row["sample"] = i % options.num_samples
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    if options.out:
        write_text(options.out, "".join(lines))
        print_note(f"{len(lines):,} texts in {options.out}")
    else:
        print("".join(lines), end="")


def print_note(line):
    """Print a line on standard error, apart from the model's text."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

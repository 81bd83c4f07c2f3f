"""Text from a language model: `python -m gptft.generate`.

Prompts are plain text to be continued, or instructions, which are put into the template that the
model was tuned with. Without any, the prompt is read from standard input, unless that is a
terminal. Standard output has the model's text and nothing else; everything about it
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
from gptft.data.records import Record, read_records, text_field
from gptft.data.records import decode as decode_text
from gptft.data.tokenizer import VOCAB_SIZE, Tokenizer
from gptft.errors import CheckpointError, UserError, command, write_text
from gptft.generation.decoding import check_room, decode, generate  # noqa: F401 (public here)
from gptft.generation.sampling import Sampling
from gptft.model import GPT2
from gptft.training.devices import choose_device
from gptft.training.start import check_vocabulary, model_folder


@dataclass(frozen=True)
class Options:
    """The flags of the command."""

    model: str = option(
        None,
        "124M, 355M, 774M, 1558M (in checkpoints/NAME), mini, or a folder (default: the newest "
        "language model under runs/, else mini)",
    )
    prompt: str = option(
        None, "text to continue; -, or a pipe: from standard input (default: start from nothing)"
    )
    instruction: str = option(None, "what to do, put into the model's own template")
    input: str = option(None, "the input of --instruction")
    interactive: bool = option(False, "answer each line of standard input")
    file: str = option(
        None,
        "a data file with a field prompt, continued as it is, or instruction (perhaps also input), "
        "put into the template; prints its records as JSONL, with the text in the field response",
    )
    out: str = option(None, "where the result of --file goes (default: standard output)")
    max_new_tokens: int = option(200, "longest text in tokens", 1)
    temperature: float = option(
        0.8, "divides the logits; 0 takes the most likely token", 0.0, 100.0
    )
    top_k: int = option(None, "choose among the N most likely tokens (default: all)", 1)
    top_p: float = option(
        0.95, "choose among the fewest tokens whose probabilities reach X", 0.001, 1.0
    )
    repetition_penalty: float = option(
        1.0, "above 1, tokens that occurred become less likely", 0.1, 10.0
    )
    num_samples: int = option(1, "texts for each prompt", 1, 10_000)
    batch_size: int = option(16, "texts generated at the same time", 1)
    seed: int = option(
        None, "same seed and prompts, same texts (default: drawn, and printed)", 0, 2**32 - 1
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
    elif options.instruction is not None:
        writer.show(writer.encode_instruction(options.instruction, options.input or ""))
    else:
        prompt = options.prompt
        if prompt == "-" or prompt is None and not sys.stdin.isatty():
            prompt = decode_text(sys.stdin.buffer.read(), Path("standard input")).rstrip("\r\n")
        writer.show(writer.encode(prompt or ""))


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
        raise UserError("no classifier under runs/; train one: python scripts/finetune_imdb.py")
    return model_folder("mini"), "bundled"


class Writer:
    """A model that is ready to write."""

    def __init__(self, options):
        folder, why = find_model(options.model)
        device = choose_device(options.device, options.precision)
        self.model = load_model(folder, dtype=device.dtype, device=device.name)
        if not isinstance(self.model, GPT2):
            raise UserError(
                f"a classifier generates no text, {folder}; "
                "give a language model, or use python -m gptft.predict"
            )
        check_vocabulary(self.model, folder)
        self.folder = folder
        self.options = options
        self.tokenizer = Tokenizer(self.model.special_tokens)
        self.sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.repetition_penalty
        )
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        n = sum(p.numel() for p in self.model.parameters())
        print_note(
            f"model: {folder} ({why}), {n:,} parameters, template: {self.model.template}\n"
            f"device: {device.reason}; seed {self.seed}"
        )

    def encode(self, prompt):
        """A text to continue -> list of ids. End-of-text also starts a text."""
        return self.tokenizer.encode(prompt) or [self.tokenizer.eot]

    def encode_instruction(self, instruction, input=""):
        """An instruction in the model's template -> list of ids."""
        template = TEMPLATES.get(self.model.template)
        if template is None:
            raise UserError(
                f"the model was not tuned on instructions, {self.folder}; "
                "use --prompt, or a model made by scripts/finetune_alpaca.py"
            )
        return template.encode(self.tokenizer, instruction, input)

    def decode(self, prompts, turn):
        """Yield (i, id) as `generation.decoding.decode`. The seed of a turn is --seed + turn."""
        options, eot, seed = self.options, self.tokenizer.eot, self.seed + turn
        n_new = options.max_new_tokens
        return decode(self.model, prompts, n_new, self.sampling, eot, seed, options.batch_size)

    def samples(self, prompts, turn=0):
        """Continue prompts -> (text, whether it ended by itself) for num_samples of each."""
        rows = [prompt for prompt in prompts for _ in range(self.options.num_samples)]
        samples = [[] for _ in rows]
        for i, id in self.decode(rows, turn):
            samples[i].append(id)
        for ids in samples:
            ended = ids[-1] == self.tokenizer.eot
            yield self.tokenizer.decode(ids[:-1] if ended else ids), ended

    def show(self, prompt, turn=0):
        """Print the continuation of a prompt: one text as it is generated, several at the end."""
        if self.options.num_samples > 1:
            for i, (text, _) in enumerate(self.samples([prompt], turn), 1):
                print(f"--- sample {i}\n{text}")
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
    encode, wanted = writer.encode, "a text to continue"
    if writer.model.template in TEMPLATES:
        encode, wanted = writer.encode_instruction, "an instruction"
    print_note(f"enter {wanted}; Ctrl-C ends an answer, Ctrl-D ends the program")
    for turn, record in enumerate(read_lines()):
        line = record.fields["text"]
        try:
            if line:
                writer.show(encode(line), turn)
        except KeyboardInterrupt:
            print()
        except UserError as error:  # a line that is too long does not end the conversation
            print_note(f"error: {error}")


def read_lines(file=None):
    """Yield a Record with the field `text` for each line of a file, or of standard input."""
    place = Path(file or "standard input")
    with open(file, "rb") if file else sys.stdin.buffer as lines:
        for number, line in enumerate(lines, 1):
            yield Record(place, number, {"text": decode_text(line, place, number).strip()})


def answer_file(writer):
    """Answer every record of --file; all results are written together, in its order."""
    options, n_positions = writer.options, writer.model.config.n_positions
    records = read_records(options.file)
    prompts = []
    for record in records:
        if "instruction" in record.fields:
            name = "input" if "input" in record.fields else "context"  # as in Dolly
            input = text_field(record, name) if record.fields.get(name) else ""
            prompt = writer.encode_instruction(text_field(record, "instruction"), input)
        else:
            prompt = writer.encode(text_field(record, "prompt"))
        check_room(prompt, options.max_new_tokens, n_positions, f", {record.place}")
        prompts.append(prompt)
    lines = []
    for i, (text, ended) in enumerate(writer.samples(prompts)):
        row = records[i // options.num_samples].fields | {"response": text, "ended": ended}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    if options.out:
        write_text(options.out, "".join(lines))
    else:
        print("".join(lines), end="")


def print_note(line):
    """Print a line on standard error, apart from the model's text."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

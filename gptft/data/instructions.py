"""Instructions and responses: the prompt templates, and examples as token ids with labels.

A language model learns to follow instructions by reading one in a fixed wording and predicting the
response, up to the end-of-text token. Training, evaluation and generation use the same wording.

Prompt and response are encoded apart and joined as ids. Encoded as one text, a merge could cross
the border between them, and training would ask for other tokens than generation can produce after
the prompt.

Source: Taori et al. 2023, "Stanford Alpaca", `train.py` (wording, labels on the response only);
Wang et al. 2022, "Self-Instruct" (instruction, input, output).

Next on the evening's path: generation/sampling.py.
"""

from typing import NamedTuple

import numpy as np

from gptft.config import IGNORED
from gptft.data.records import field, ids_of, text_field
from gptft.data.sources import first_exchange, load_splits
from gptft.errors import DataError

WANTED = ("messages", "instruction", "input", "output")  # fields; see `name_fields`


# ---------------------------------------------------------------- prompts


class Template(NamedTuple):
    """A wording around an instruction.

    `markers` are pieces of the wording that a response should not contain. `before` and `after` are
    special tokens around the text, single ids that no text encodes to.
    """

    with_input: str
    without_input: str
    markers: tuple[str, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()  # in the order of their ids, which follow GPT-2's own

    def fill(self, instruction, input=""):
        """The prompt without its special tokens, a str."""
        wording = self.with_input if input else self.without_input
        return wording.format(instruction=instruction, input=input)

    def text(self, instruction, input=""):
        """The whole prompt, a str."""
        return "".join([*self.before, self.fill(instruction, input), *self.after])

    def encode(self, tokenizer, instruction, input=""):
        """The whole prompt -> list[int]. The tokenizer must know the template's special tokens."""
        before, after = self.special_ids(tokenizer)
        return [*before, *tokenizer.encode(self.fill(instruction, input)), *after]

    def special_ids(self, tokenizer):
        """The ids before and after the text: two lists of int."""
        before = [tokenizer.special[name] for name in self.before]
        after = [tokenizer.special[name] for name in self.after]
        return before, after


TEMPLATES = {
    # Verbatim from Stanford Alpaca's train.py, PROMPT_DICT: no line break follows "### Response:".
    "alpaca": Template(
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:",
        markers=(
            "### Instruction:",
            "### Input:",
            "### Response:",
            "Below is an instruction that describes a task",
        ),
    ),
    "short": Template(
        "### User\n{instruction}\n\n{input}\n\n### Assistant\n",
        "### User\n{instruction}\n\n### Assistant\n",
        markers=("### User", "### Assistant"),
    ),
    # Its response, too, ends with end-of-text, so that one id stops every model.
    "special": Template(
        "{instruction}\n\n{input}",
        "{instruction}",
        markers=("<|user|>", "<|assistant|>", "<|end|>"),
        before=("<|user|>",),
        after=("<|end|>", "<|assistant|>"),
        special_tokens=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
}


# ---------------------------------------------------------------- examples


class Example(NamedTuple):
    """An instruction, its input ("" if it has none), and the response to learn."""

    id: int | str
    instruction: str
    input: str
    output: str


def load_instructions(source="sample", seed=0):
    """Read instructions -> Source, whose splits are lists of Example.

    Args:
        source: what `--data` names: "sample", a folder, or a file. Records have the fields that
            `read_example` describes. Records without an output are left out, with a note.
        seed: int, of the split, if the source has none. Equal instructions stay on one side; if
            they are too few to split, equal instructions with equal inputs do.

    Raises DataError.
    """

    def instruction_of(record):
        return read_example(record).instruction

    def prompt_of(record):
        return "\n".join(read_example(record)[1:3])

    keys = [instruction_of, prompt_of]
    found = load_splits(source, "instructions.jsonl", seed, keys, wanted=WANTED)
    splits, notes = {}, found.notes
    for split, records in found.splits.items():
        examples, more = read_examples(records)
        notes += [f"{split}: {note}" for note in more]
        splits[split] = [example for example in examples if example.output]
        n_empty = len(examples) - len(splits[split])
        if n_empty:
            notes.append(f"{split}: left out {n_empty:,} records whose output is empty")
        if not splits[split]:
            hint = "add examples with a response"
            raise DataError(f"every output of {split} is empty, {records[0].path}; {hint}")
    return found._replace(splits=splits)


def read_examples(records):
    """The records of a split -> (list[Example], list of notes).

    Raises DataError, also for an id that occurs twice.
    """
    ids_of(records)
    examples = [read_example(record) for record in records]
    n_long = sum(len(record.fields.get("messages", [])) > 3 for record in records)
    notes = [f"{n_long:,} conversations have further turns, which are ignored"] if n_long else []
    return examples, notes


def read_example(record):
    """A Record -> Example, its texts stripped of outer white space; the output may be empty.

    The fields are `instruction`, `output` and perhaps `input`; or else `messages`, which
    `first_exchange` turns into an instruction and an output. `name_fields` has given the fields
    these names. The id is the field `id`, or else the record's number.

    Raises DataError, naming the record.
    """
    if "messages" in record.fields:
        record = first_exchange(record)
    return Example(
        record.fields.get("id", record.number),
        text_field(record, "instruction").strip(),
        _optional_text(record, "input") if "input" in record.fields else "",
        _optional_text(record, "output"),
    )


def _optional_text(record, name):
    """As `text_field`, but "" for a field that is null or blank."""
    value = field(record, name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return text_field(record, name).strip()


# ---------------------------------------------------------------- token ids and labels


class InstructionDataset:
    """Examples as token ids: `dataset[i]` is (token_ids, labels), two int64 arrays of one length.

    token_ids are the prompt, the response and end-of-text. labels are the same ids where something
    is learned, and -100 elsewhere. They are aligned with token_ids, not shifted:

        token_ids   Say hi .  Hi  !   50256
        labels      -100 -100 -100  Hi  !   50256

    Args:
        examples: list[Example].
        tokenizer: a Tokenizer that knows the template's special tokens.
        template: a name in TEMPLATES.
        max_length: maximum tokens of an example; None for no limit. A longer one loses the end of
            its response, and end-of-text with it: the model should not learn to stop there. An
            example whose prompt alone fills max_length is dropped.
        loss: "response" learns the response and end-of-text, "all" the prompt, too.

    Attributes:
        examples: the ones that were kept. n_cut of them were cut, n_dropped others were dropped.
        lengths: (N,) int64, in tokens.

    Raises DataError if nothing is left.
    """

    def __init__(self, examples, tokenizer, template="alpaca", max_length=None, loss="response"):
        if loss not in ("response", "all"):
            raise ValueError(f"loss must be 'response' or 'all', not {loss!r}")
        wording = TEMPLATES[template]
        before, after = wording.special_ids(tokenizer)
        prompts = [wording.fill(example.instruction, example.input) for example in examples]
        prompts = tokenizer.encode_batch(prompts)
        responses = tokenizer.encode_batch([example.output for example in examples])
        self.loss = loss
        self.max_length = max_length
        self.examples, self.token_ids, self.n_prompt = [], [], []
        self.n_cut = 0
        for example, prompt, response in zip(examples, prompts, responses):
            n_prompt = len(before) + len(prompt) + len(after)
            token_ids = np.concatenate([before, prompt, after, response, [tokenizer.eot]])
            limit = max_length or len(token_ids)
            if n_prompt < limit:
                self.examples.append(example)
                self.n_prompt.append(n_prompt)
                # An empty list among arrays has made the ids floats, without a loss.
                self.token_ids.append(token_ids[:limit].astype(np.uint16))
                self.n_cut += len(token_ids) > limit
        if not self.examples:
            what = f"every prompt fills the {max_length} tokens of --max-length"
            raise DataError(f"{what}; raise it, or shorten the instructions")
        self.n_dropped = len(examples) - len(self.examples)
        self.lengths = np.array([len(ids) for ids in self.token_ids])

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        token_ids = self.token_ids[i].astype(np.int64)
        labels = token_ids.copy()
        if self.loss == "response":
            labels[: self.n_prompt[i]] = IGNORED
        return token_ids, labels

    def note(self):
        """A line about examples that were too long; "" if there were none."""
        if self.n_cut + self.n_dropped == 0:
            return ""
        what = f"cut {self.n_cut:,} responses, dropped {self.n_dropped:,} examples with no room"
        return f"at {self.max_length:,} tokens: {what} for one"

"""Instructions and their responses: the prompt wordings, and examples as token ids with labels.

A language model learns to follow instructions by reading an instruction in a fixed wording and predicting the response,
up to the end-of-text token that says "I am done". The wording is the same in training, evaluation and generation, so it
stands here and nowhere else.

Prompt and response are encoded apart and joined as ids. Encoded as one text, a merge could reach over the border, and
the model would be asked in training for other tokens than it can give after the prompt.

Left out: conversations of several turns, as data.
Source: Taori et al. 2023, "Stanford Alpaca", `train.py` (wording, and labels on the response only); Wang et al. 2022,
"Self-Instruct" (instruction, input, output).
"""

from typing import NamedTuple

import numpy as np

from gptft.data.sources import ids_of, load_splits, text_field
from gptft.data.tokens import IGNORED, TokenStore
from gptft.errors import DataError

# ---------------------------------------------------------------- prompts


class Template(NamedTuple):
    """A wording around an instruction. `before` and `after` are special tokens, single ids that no text can spell.

    `markers` are pieces of the wording, which a response should not contain.
    """

    with_input: str
    without_input: str
    markers: tuple[str, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()  # in the order of their ids, which follow GPT-2's own

    def fill(self, instruction, input=""):
        """The wording's text around an instruction and its `input`, if it has one, without special tokens."""
        wording = self.with_input if input else self.without_input
        return wording.format(instruction=instruction, input=input)

    def text(self, instruction, input=""):
        """The whole prompt as a str, for people; `input` as in `fill`."""
        return "".join(self.before) + self.fill(instruction, input) + "".join(self.after)

    def encode(self, tokenizer, instruction, input=""):
        """The whole prompt as list[int], for a model; `input` as in `fill`. `tokenizer` must know the template's special tokens."""
        before, after = self.special_ids(tokenizer)
        return [*before, *tokenizer.encode(self.fill(instruction, input)), *after]

    def special_ids(self, tokenizer):
        """The ids before and after the text, two lists."""
        return [
            [tokenizer.special[token] for token in tokens] for tokens in (self.before, self.after)
        ]


TEMPLATES = {
    # To the letter as in Stanford Alpaca's train.py, PROMPT_DICT: no line break follows "### Response:".
    "alpaca": Template(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
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
    # The response ends with end-of-text, as everywhere, so that one id stops every model.
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
    """An instruction, what it is about ("" if nothing), and the response wanted."""

    id: int | str
    instruction: str
    input: str
    output: str


def load_instructions(source="sample", seed=0):
    """Read instructions -> Source, with an Example for each record.

    source: what `--data` names: "sample", a folder, or a .jsonl, .json or .csv file, with records as `read_example`
        takes them. Records with an empty output teach nothing and are left out, with a note.
    seed: of the split, where the source has none; equal instructions always fall on the same side.
    Raises DataError.
    """
    found = load_splits(
        source, "instructions.jsonl", seed, lambda record: read_example(record).instruction
    )
    splits, notes = {}, list(found.notes)
    for split, records in found.splits.items():
        examples = read_examples(records)
        splits[split] = [example for example in examples if example.output]
        if empty := len(examples) - len(splits[split]):
            notes.append(
                f"{split}: {empty:,} of {len(examples):,} records have an empty output and are left out"
            )
        if not splits[split]:
            raise DataError(
                f"every output of {split} is empty, {records[0].path}; add examples with a response"
            )
    return found._replace(splits=splits, notes=notes)


def read_examples(records):
    """The records of a split -> list[Example]. Raises DataError, also for an id that is used twice."""
    ids_of(records)
    return [read_example(record) for record in records]


def read_example(record):
    """A Record -> Example, without white space around its texts; the output may be empty.

    Fields are instruction, output and perhaps input; or prompt and completion; or messages, a list of one user's and
    one assistant's {"role": ..., "content": ...}. The id is the field `id`, or the number of the record.
    Raises DataError, with the record's place.
    """
    instruction, input, output = "instruction", "input", "output"
    if "messages" in record.fields:
        record, instruction, input, output = _of_messages(record), "user", None, "assistant"
    elif "prompt" in record.fields:
        instruction, input, output = "prompt", None, "completion"
    return Example(
        record.fields.get("id", record.number),
        text_field(record, instruction).strip(),
        _text_or_nothing(record, input) if input in record.fields else "",
        _text_or_nothing(record, output),
    )


def _of_messages(record):
    """A record with messages -> the same with fields `user` and `assistant`."""
    messages = record.fields["messages"]
    messages = messages if isinstance(messages, list) else [None]
    turns = [
        (m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None) for m in messages
    ]
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise DataError(
            f"messages are not one user's and one assistant's turn, {record.place}; split or remove it"
        )
    return record._replace(fields=record.fields | dict(turns))


def _text_or_nothing(record, name):
    """As `text_field`, but "" for a field that is null or blank."""
    value = record.fields.get(name, record)  # a missing field is for text_field to report
    blank = value is None or (isinstance(value, str) and not value.strip())
    return "" if blank else text_field(record, name).strip()


# ---------------------------------------------------------------- token ids and labels


class InstructionDataset:
    """Examples as `dataset[i] -> (token_ids, labels)`, two int64 arrays of one length, aligned: not shifted.

    token_ids: the prompt, the response, and end-of-text. labels: the same ids where something is learned, -100 elsewhere;
    with loss="response" the response and end-of-text are learned, with loss="all" the prompt, too.
    examples: list[Example]. tokenizer: one that knows the template's special tokens. template: a name of TEMPLATES.
    max_length: tokens, None for no limit. A longer example loses the end of its response, and end-of-text with it: a
        model should not learn to stop in the middle. An example whose prompt alone fills it is dropped.
    cache: path stem for the tokens on disk, see TokenStore; None keeps them in memory.
    `examples` then holds what was kept, `n_cut` and `n_dropped` count. Raises DataError if nothing is left, ValueError for
    another loss.
    """

    def __init__(
        self, examples, tokenizer, template="alpaca", max_length=None, loss="response", cache=None
    ):
        if loss not in ("response", "all"):
            raise ValueError(f"loss must be 'response' or 'all', not {loss!r}")
        wording = TEMPLATES[template]
        self.max_length, self.loss = max_length, loss
        self.before, self.after = (
            np.array(ids, dtype=np.int64) for ids in wording.special_ids(tokenizer)
        )
        self.end = np.array([tokenizer.eot])
        stems = (
            cache and cache.with_name(f"{cache.name}-{part}") for part in ("prompts", "responses")
        )
        prompts = [wording.fill(example.instruction, example.input) for example in examples]
        self.prompts = TokenStore.build(prompts, tokenizer, next(stems))
        self.responses = TokenStore.build(
            [example.output for example in examples], tokenizer, next(stems)
        )

        n_prompt = self.prompts.lengths + len(self.before) + len(self.after)
        n_whole = n_prompt + self.responses.lengths + 1
        limit = max_length or n_whole.max()
        self.rows = np.flatnonzero(n_prompt < limit)  # of the examples given
        if not len(self.rows):
            raise DataError(
                f"the prompts alone fill {limit} tokens (--max-length); allow more, or shorten the instructions"
            )
        self.examples = [examples[row] for row in self.rows]
        self.lengths = np.minimum(n_whole, limit)[self.rows]  # (N,) int64
        self.n_cut = int((n_whole[self.rows] > limit).sum())
        self.n_dropped = len(examples) - len(self.rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        prompt = np.concatenate([self.before, self.prompts[row], self.after])
        token_ids = np.concatenate([prompt, self.responses[row], self.end])[: self.lengths[i]]
        labels = token_ids.copy()
        if self.loss == "response":
            labels[: len(prompt)] = IGNORED
        return token_ids, labels

    def note(self):
        """What became of examples that are too long, a line for people; "" if there are none."""
        parts = []
        if self.n_cut:
            parts.append(
                f"responses cut at {self.max_length} tokens, without end-of-text: {self.n_cut:,}"
            )
        if self.n_dropped:
            parts.append(
                f"examples dropped, as their prompt alone fills {self.max_length} tokens: {self.n_dropped:,}"
            )
        return "; ".join(parts)


def marked(token_ids, labels, tokenizer, colour):
    """One example as text in which the learned tokens stand out: in green, or between [[ and ]] if not `colour`."""
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("[[", "]]")
    learned = np.asarray(labels) != IGNORED
    borders = [0, *(np.flatnonzero(learned[1:] != learned[:-1]) + 1), len(learned)]
    pieces = []
    for start, stop in zip(borders, borders[1:]):
        text = tokenizer.decode([int(id) for id in token_ids[start:stop]])
        pieces.append(before + text + after if learned[start] else text)
    return "".join(pieces)

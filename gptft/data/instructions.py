"""Instructions and responses: the prompt templates, and examples as token ids with labels.

A language model learns to follow instructions by reading one in a fixed wording and predicting the
response, up to the end-of-text token. Training, evaluation and generation use the same wording.

Prompt and response are encoded separately and joined as ids. Encoded as one text, a merge could
cross the border between them, and training would teach tokens that generation can't produce after
the prompt. examples.py reads examples from files.

Source: Taori et al. 2023, "Stanford Alpaca", `train.py` (wording, labels on the response only);
Wang et al. 2022, "Self-Instruct" (instruction, input, output).

Next on the evening's path: generation/sampling.py.
"""

from typing import NamedTuple

import numpy as np

from gptft.config import IGNORED
from gptft.errors import DataError

# ---------------------------------------------------------------- prompts


class Template(NamedTuple):
    """A wording around an instruction.

    `markers` are pieces of the wording that a response should not contain (evaluation counts those
    that do). `before` and `after` are special tokens around the text, single ids that no text
    encodes to.
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
    # <|end|> ends the instruction. The response ends with end-of-text, as in the others, so that
    # one id stops every model.
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


# ---------------------------------------------------------------- token ids and labels


class InstructionDataset:
    """Examples as token ids: `dataset[i]` is (token_ids, labels), two int64 arrays of equal length.

    token_ids are the prompt, the response and end-of-text. labels are the same ids where something
    is learned, and -100 elsewhere. They are aligned with token_ids (`language_model_batch` shifts
    them):

        token_ids   Say   hi    .     Hi    !     50256
        labels      -100  -100  -100  Hi    !     50256

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
            token_ids = token_ids.astype(np.uint16)  # numpy makes an empty list float64
            limit = max_length or len(token_ids)
            if n_prompt < limit:
                self.examples.append(example)
                self.n_prompt.append(n_prompt)
                self.token_ids.append(token_ids[:limit])
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
        cut = f"cut {self.n_cut:,} responses"
        dropped = f"dropped {self.n_dropped:,} examples with no room for one"
        return f"at {self.max_length:,} tokens: {cut}, {dropped}"

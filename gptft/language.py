"""GPT-2 as a language model that is tuned: its loss, and new tokens in its vocabulary.

The product with the head, (positions, C) x (C, 50257), is most of a small model's work, and where only responses are
learned, most positions have no loss. So the vectors of the learned positions are gathered first, and the head sees
nothing else.

Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models" (new rows at the mean).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from gptft.errors import UserError
from gptft.tokenizer import Tokenizer

ROUND_TO = 64  # positions
HEAD_POSITIONS = 1024  # whose logits are held at the same time


def token_losses(model, batch):
    """LMBatch -> the negative log-probability of each learned token, in nats, (n,) float32, in the order of `learned`."""
    # Rounded up, the product has one of few shapes: for each new one a CPU's or compiler's kernel would be made and kept.
    n = len(batch.learned)
    at = F.pad(batch.learned, (0, -n % ROUND_TO))
    hidden, targets = (
        model.hidden_states(batch.token_ids, at=at),
        F.pad(batch.labels.flatten()[batch.learned + 1], (0, -n % ROUND_TO)),
    )
    losses = [
        F.cross_entropy(model.head(part).float(), wanted, reduction="none")
        for part, wanted in zip(hidden.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS))
    ]
    return torch.cat(losses)[:n]


def language_loss(model, batch):
    """LMBatch -> the sum over its learned tokens, float32 scalar; 0, with a gradient of 0, if there is none."""
    n = -len(batch.learned) % ROUND_TO
    targets = F.pad(
        batch.labels.flatten()[batch.learned + 1], (0, n), value=-100
    )  # learned nowhere
    return model(batch.token_ids, F.pad(batch.learned, (0, n)), targets=targets)


def stream_loss(model, batch, begin_id=None, vocabulary=None):
    """WindowBatch -> the sum of the losses of its targets that are not -100, in nats, float32 scalar.

    begin_id: the id that begins a document, if attention is to stay inside; vocabulary: (K,) int64, the ids among which
    the model chooses, if not all; the targets are then numbers of its entries.
    """
    return model(batch.token_ids, begin_id=begin_id, targets=batch.targets, vocabulary=vocabulary)


def check_vocabulary(model, place):
    """Raise UserError if a GPT2 or GPT2Classifier lacks some of GPT-2's tokens; `place` says which model it is."""
    if model.config.vocab_size < Tokenizer.VOCAB_SIZE:
        raise UserError(
            f"the model's vocabulary, {model.config.vocab_size}, is smaller than the tokenizer's, "
            f"{Tokenizer.VOCAB_SIZE}, {place}; use a model trained with GPT-2's tokens"
        )


@torch.no_grad()
def add_special_tokens(model, names):
    """Give a GPT2 the special tokens `names`, ids 50257 and on, unless it has them already; in place.

    Their rows of the embedding start at the mean of GPT-2's own rows: a new token is then as likely as a middling one,
    where a random row could be likelier than all others.
    Raises UserError if the model has other special tokens.
    """
    names, V = list(names), Tokenizer.VOCAB_SIZE
    if names in ([], model.special_tokens):
        return
    if model.special_tokens:
        raise UserError(
            f"can't add the tokens {', '.join(names)} to a model that has {', '.join(model.special_tokens)}; "
            "use another --template or --model"
        )
    old = model.wte.weight
    weight = old.new_empty(max(len(old), V + len(names)), old.shape[1])
    weight[: len(old)] = old
    weight[V : V + len(names)] = old[:V].mean(0)
    model.wte = nn.Embedding.from_pretrained(weight, freeze=False)
    model.config = dataclasses.replace(model.config, vocab_size=len(weight))
    model.special_tokens = names

"""GPT-2 as a classifier: one linear layer on the vector of the last real token.

In a causal model only the last token has seen the whole text, so its vector is the summary. In a
padded batch this is position lengths - 1 of a row, not its last column. Reading a padding position
is the classic mistake of such code: it raises no error, and the logits of a text then depend on
the texts beside it.

Shapes: B rows, T positions, C = n_embd, K classes.
Source: Radford et al. 2018, section 3.2; transformers' GPT2ForSequenceClassification, which
computes the same logits from the same weights.

Next on the evening's path: training/optimizer.py.
"""

import torch
import torch.nn.functional as F
from torch import nn

from gptft.config import IGNORED
from gptft.model import GPT2


class GPT2Classifier(nn.Module):
    """`GPT2Classifier(config, n_classes)(token_ids, lengths)` returns the logits of the classes.

    The head has no bias and starts at zero, so that training starts from equal odds. The blocks get
    a gradient from the second step on: a head of zeros passes none back.

    Args:
        config: GPT2Config.
        n_classes: K, at least 2.
        class_names: K strings, saved with the model; None if the classes have no names.
        body: a GPT2 to use (it is not copied); None for one with random weights.
    """

    def __init__(self, config, n_classes=2, class_names=None, body=None):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        if class_names is not None and len(class_names) != n_classes:
            raise ValueError(f"{n_classes} classes but {len(class_names)} class names")
        self.config = config
        self.n_classes = n_classes
        self.class_names = class_names
        self.transformer = GPT2(config) if body is None else body
        self.score = nn.Linear(config.n_embd, n_classes, bias=False)
        self.score.to(self.transformer.wte.weight)  # its device and dtype
        nn.init.zeros_(self.score.weight)

    def forward(self, token_ids, lengths, targets=None):
        """Logits, or with targets the loss.

        Args:
            token_ids: (B, T) int64, padded on the right with any id.
            lengths: (B,) int64, the number of real tokens of each row, at least 1.
            targets: (B,) int64, the class of each row; -100 for a row that does not count.

        Returns:
            Without targets, logits (B, K). With targets, the sum of the cross-entropies in nats.
        """
        hidden = self.transformer.hidden_states(token_ids)  # (B, T, C)
        rows = torch.arange(len(token_ids), device=token_ids.device)
        last = hidden[rows, lengths - 1]  # (B, C)
        logits = self.score(last)  # (B, K)
        if targets is None:
            return logits
        # At least float32: a sum of bf16 losses would be a rough one.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")

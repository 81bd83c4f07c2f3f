"""GPT-2 as a classifier: the body reads the text, one linear layer judges its last real token, or the mean of all.

In a causal model only the last token has seen the whole text, so its vector is the summary ("last"). In a padded batch
that is the token at `lengths - 1`, not the last column. Reading a padding position is the classic mistake here: no error
says so, and a text's logits then depend on the texts beside it. `pooling="mean"` averages the real tokens' vectors instead.

Shapes: B rows, T positions, C = n_embd.
Source: Radford et al. 2018, section 3.2; transformers' GPT2ForSequenceClassification (same weights, same logits).
"""

import torch
import torch.nn.functional as F
from torch import nn

from gptft.config import POOLINGS
from gptft.model import GPT2


class GPT2Classifier(nn.Module):
    """`GPT2Classifier(config, n_classes)(token_ids, lengths)`: (B, T) int64, (B,) int64 -> logits (B, n_classes) float.

    The head has no bias and starts at zero, so training starts from equal odds. `class_names` is a list of n_classes
    strings, kept with the saved model. pooling: "last" or "mean", see above. Raises ValueError for values that don't fit.
    """

    def __init__(self, config, n_classes=2, pooling="last", class_names=None):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if class_names is not None and len(class_names) != n_classes:
            raise ValueError(f"{n_classes} classes but {len(class_names)} class names")
        self.config = config
        self.n_classes = n_classes
        self.pooling = pooling
        self.class_names = class_names
        self.transformer = GPT2(config)
        self.score = nn.Linear(config.n_embd, n_classes, bias=False)
        nn.init.zeros_(self.score.weight)

    @classmethod
    def on(cls, gpt2, n_classes=2, pooling="last", class_names=None):
        """A new head on a given GPT2, `gpt2`, which is used, not copied; the rest as above."""
        with torch.device("meta"):  # builds the parts without memory for a second body
            model = cls(gpt2.config, n_classes, pooling, class_names)
        model.transformer = gpt2
        model.score = nn.Linear(gpt2.config.n_embd, n_classes, bias=False).to(
            gpt2.wte.weight
        )  # its device and dtype
        nn.init.zeros_(model.score.weight)
        return model

    def forward(self, token_ids, lengths):
        """`lengths` counts each row's real tokens. Raises ValueError, with the numbers, for an empty or overlong row."""
        B, T = token_ids.shape
        if lengths.shape != (B,):
            raise ValueError(f"lengths must be ({B},) for {B} rows, got {tuple(lengths.shape)}")
        unseen = torch.compiler.is_compiling() or (
            self.training and lengths.is_cuda
        )  # as in GPT2.check
        if not unseen and (lengths.min() < 1 or lengths.max() > T):
            low, high = lengths.min().item(), lengths.max().item()
            raise ValueError(
                f"each row needs 1 to {T} real tokens, got lengths from {low} to {high}"
            )
        if self.pooling == "last":
            at = torch.arange(B, device=lengths.device) * T + lengths - 1
            pooled = self.transformer.hidden_states(token_ids, at=at)
        else:
            hidden = self.transformer.hidden_states(token_ids)  # (B, T, C)
            real = torch.arange(T, device=hidden.device) < lengths[:, None]  # (B, T)
            pooled = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return self.score(pooled)


def classification_loss(model, batch):
    """ClassifierBatch -> the sum of its rows' cross-entropies, in nats, a scalar."""
    logits = model(batch.token_ids, batch.lengths)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # float64 stays what it is
    return F.cross_entropy(logits, batch.labels, reduction="sum")

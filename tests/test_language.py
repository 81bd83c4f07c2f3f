"""The loss of a language model, on positions that are learned and nowhere else, and new tokens in its vocabulary."""

import json

import numpy as np
import pytest
import torch

import gptft.model
from gptft.config import GPT2Config
from gptft.data.alpaca import TEMPLATES, Example, InstructionDataset
from gptft.data.batching import lm_batch
from gptft.errors import CheckpointError, UserError
from gptft.language import add_special_tokens, language_loss, token_losses
from gptft.model import GPT2
from gptft.pretrained import load_model, save_model
from gptft.tokenizer import Tokenizer

TINY = GPT2Config(n_positions=32, n_embd=8, n_layer=1, n_head=2, dropout=0.0)
SPECIAL = TEMPLATES["special"].special_tokens


def tiny(config=TINY):
    torch.manual_seed(0)
    model = GPT2(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


class Rows:
    """A dataset of given (token_ids, labels)."""

    max_length = None

    def __init__(self, *rows):
        self.rows = [(np.array(ids), np.array(labels)) for ids, labels in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def batch_of(*rows):
    return lm_batch(Rows(*rows), np.arange(len(rows)), 50256)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def test_loss_by_hand():
    """The token at t is predicted from position t - 1 of its own row, in a batch of unequal rows, and only where learned."""
    model = tiny()
    rows = [
        ([11, 12, 13, 14, 50256], [-100, -100, 13, 14, 50256]),
        ([21, 22, 23], [21, 22, 23]),
        ([31, 32, 33, 34], [-100, 32, -100, 34]),
    ]
    expected = []
    for ids, labels in rows:
        log_probs = torch.log_softmax(
            model(torch.tensor([ids]))[0].double(), -1
        )  # each row by itself
        expected += [
            -log_probs[t - 1, labels[t]].item() for t in range(1, len(ids)) if labels[t] != -100
        ]
    batch = batch_of(*rows)
    assert (
        token_losses(model, batch).tolist() == pytest.approx(expected, abs=1e-5)
        and batch.n == len(expected) == 7
    )
    assert language_loss(model, batch).item() == pytest.approx(sum(expected), abs=1e-4)


def test_losses_do_not_depend_on_how_many_logits_are_held(monkeypatch):
    model = tiny()
    batch = batch_of(*((list(range(30)), [-100] + list(range(1, 30))) for _ in range(6)))
    at_once = token_losses(model, batch)
    monkeypatch.setattr("gptft.language.HEAD_POSITIONS", 64)
    assert len(at_once) == batch.n == 174
    torch.testing.assert_close(token_losses(model, batch), at_once)
    assert len(token_losses(model, batch_of(([1, 2], [-100, -100])))) == 0


def test_end_of_text_gets_gradient():
    """Masked with the padding that shares its id, end-of-text is never learned and generation never stops."""
    tokenizer, model = Tokenizer(), tiny(TINY)
    dataset = InstructionDataset(
        [Example(0, "Hi", "", "Oh"), Example(1, "Hi", "", "Oh no it is")], tokenizer, "short"
    )
    batch = lm_batch(dataset, np.array([0, 1]), tokenizer.eot)
    ends = [len(dataset[row][0]) - 1 for row in range(2)]
    assert [batch.labels[row, end].item() for row, end in enumerate(ends)] == [50256, 50256]
    T = batch.token_ids.shape[1]
    for row, end in enumerate(ends):
        [k] = (batch.learned == row * T + end - 1).nonzero()[0].tolist()
        [gradient] = torch.autograd.grad(token_losses(model, batch)[k], model.wte.weight)
        assert (
            gradient[50256].abs().max() > 0.01
        )  # it is asked for, not only one of many that are pushed down
    assert (batch.labels == 50256).sum() == 2


def test_batch_with_nothing_to_learn():
    """The mean over nothing is NaN, and one such batch would destroy the weights."""
    model = tiny()
    batch = batch_of(
        ([1, 2, 3], [-100, -100, -100]), ([4], [4])
    )  # nothing predicts the first token of a row
    loss = language_loss(model, batch)
    assert batch.n == 0 and loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(model, loss))


def test_micro_batches_add_up():
    """Sums, not means: 4 rows at once and one by one give the same gradient, however unequal they are."""
    model = tiny().double()
    rows = [
        (list(range(n)), [-100] * k + list(range(k, n)))
        for n, k in ((20, 3), (5, 1), (9, 8), (30, 29))
    ]
    at_once = gradients(model, language_loss(model, batch_of(*rows)))
    one_by_one = [gradients(model, language_loss(model, batch_of(row))) for row in rows]
    for whole, *parts in zip(at_once, *one_by_one):
        torch.testing.assert_close(
            sum(parts), whole, rtol=1e-5, atol=1e-6
        )  # the losses themselves are float32


def test_only_learned_positions_reach_the_last_perceptron_and_the_head_rounded_up(monkeypatch):
    model, seen, product = tiny(), [], gptft.model.linear_cross_entropy
    monkeypatch.setattr(
        "gptft.model.linear_cross_entropy",
        lambda hidden, *rest: seen.append(tuple(hidden.shape)) or product(hidden, *rest),
    )
    model.h[-1].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape))
    )
    batch = batch_of(([1, 2, 3, 4], [-100, -100, -100, 4]), ([5, 6], [-100, 6]))
    loss = language_loss(model, batch)
    assert seen == [(64, 8), (64, 8)]  # 2 positions, rounded up to the next of few shapes
    torch.testing.assert_close(
        loss, token_losses(model, batch).sum()
    )  # what fills them up counts nothing


def test_logits_at_positions_are_those_of_the_whole():
    model, ids = tiny(), torch.arange(12).view(2, 6)
    at = torch.tensor([0, 5, 6, 11])
    torch.testing.assert_close(model(ids, at), model(ids).flatten(0, 1)[at])


# ---------------------------------------------------------------- special tokens


def test_new_rows_start_at_the_mean():
    """Each new token's logit is the mean of all logits; the old ones don't change, and the head is still tied."""
    model, ids = tiny(), torch.tensor([[1, 2, 3]])
    before = model(ids)
    add_special_tokens(model, SPECIAL)
    after = model(ids)
    assert (
        after.shape == (1, 3, 50260)
        and model.config.vocab_size == 50260
        and model.special_tokens == list(SPECIAL)
    )
    torch.testing.assert_close(after[..., :50257], before)
    torch.testing.assert_close(after[..., 50257:], before.mean(-1, keepdim=True).expand(1, 3, 3))
    gradients(model, language_loss(model, batch_of(([1, 50257], [1, 50257]))))
    assert model.wte.weight.grad[50257].abs().max() > 0  # trained, like any row


def test_a_padded_vocabulary_has_room():
    model = tiny(GPT2Config(50304, 32, 8, 1, 2))
    last = model.wte.weight[50260:].clone()
    add_special_tokens(model, SPECIAL)
    assert model.config.vocab_size == len(model.wte.weight) == 50304 and torch.equal(
        model.wte.weight[50260:], last
    )
    torch.testing.assert_close(model.wte.weight[50258], model.wte.weight[:50257].mean(0))


def test_tokens_are_added_once():
    model = tiny()
    add_special_tokens(model, SPECIAL)
    with torch.no_grad():
        model.wte.weight[50257] = 7.0
    add_special_tokens(model, SPECIAL)  # a model that is tuned further keeps what it has learned
    add_special_tokens(model, ())
    assert len(model.wte.weight) == 50260 and (model.wte.weight[50257] == 7).all()
    with pytest.raises(
        UserError, match="can't add the tokens <other> to a model that has <|user|>"
    ):
        add_special_tokens(model, ["<other>"])


def test_saved_with_the_wording_and_the_tokens(tmp_path):
    """Generation asks in the words that the model was tuned with: they come with the folder, and so do the new ids."""
    model = tiny()
    add_special_tokens(model, SPECIAL)
    model.template = "special"
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.template == "special" and again.special_tokens == list(SPECIAL)
    ids = torch.tensor([[50257, 5, 50259, 50258]])
    assert torch.equal(again(ids), model.eval()(ids))
    plain = tiny()
    save_model(plain, tmp_path / "plain")
    assert (
        load_model(tmp_path / "plain").template is None
        and load_model(tmp_path / "plain").special_tokens == []
    )


def test_transformers_agrees(tmp_path):
    """Its tokenizer must turn the prompt's text into our ids, and its model give our logits for them."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers, the reference implementation, is not installed"
    )
    model, template = tiny().eval(), TEMPLATES["special"]
    add_special_tokens(model, SPECIAL)
    save_model(model, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = template.encode(Tokenizer(SPECIAL), "Say  hi.\n", "naïve 🙂")
    assert theirs(template.text("Say  hi.\n", "naïve 🙂"))["input_ids"] == ids and theirs.decode(
        ids
    ) == template.text("Say  hi.\n", "naïve 🙂")
    assert len(theirs) == 50260 and theirs.eos_token_id == 50256
    logits = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([ids])).logits
    torch.testing.assert_close(logits, model(torch.tensor([ids])), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "extra",
    [
        {"template": 3},
        {"special_tokens": "<a>"},
        {"special_tokens": ["<a>", "<a>"]},
        {"special_tokens": ["<|endoftext|>"]},
        {"special_tokens": [""]},
        {"special_tokens": ["<a>", "<b>", "<c>", "<d>"]},
    ],
)
def test_damaged_names_are_refused(tmp_path, extra):
    """A name too many would make ids that the embedding has no row for."""
    model = tiny()
    add_special_tokens(model, SPECIAL)
    save_model(model, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"gptft": extra}),
        encoding="utf-8",
    )
    with pytest.raises(CheckpointError, match="gptft.template is no name, or gptft.special_tokens"):
        load_model(tmp_path)

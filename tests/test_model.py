"""GPT2 and GPT2Classifier against transformers' (fixture), and the properties that padding and dropout tend to break."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.model import GPT2, attention, product

TINY = GPT2Config(vocab_size=97, n_positions=24, n_embd=16, n_layer=2, n_head=4, dropout=0.0)


@pytest.fixture(scope="module")
def fixture():
    with np.load(Path(__file__).parent / "fixtures" / "transformers_gpt2.npz") as f:
        return {name: torch.from_numpy(f[name]) for name in f.files if name != "versions"}


def with_prefix(fixture, prefix):
    return {name.removeprefix(prefix): t for name, t in fixture.items() if name.startswith(prefix)}


@pytest.fixture
def reference_model(fixture):
    model = GPT2(TINY)
    model.load_state_dict(with_prefix(fixture, "weight/"))
    return model


def tiny_classifier(**kwargs):
    torch.manual_seed(0)
    model = GPT2Classifier(TINY, n_classes=3, **kwargs).eval()
    torch.nn.init.normal_(model.score.weight)  # it starts at zero, which would hide everything
    for p in model.transformer.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


def test_logits_and_gradients_equal_transformers(fixture, reference_model):
    # An independent implementation catches what shapes can't: c_proj is square, so a forgotten transpose fits.
    logits = reference_model(fixture["token_ids"])
    torch.testing.assert_close(logits, fixture["logits"], atol=1e-5, rtol=1e-5)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 97), fixture["labels"][:, 1:].reshape(-1))
    torch.testing.assert_close(loss, fixture["loss"], atol=1e-6, rtol=1e-6)
    loss.backward()
    expected = with_prefix(fixture, "grad/")
    gradients = {name: p.grad for name, p in reference_model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_classifier_equals_transformers_on_a_padded_batch(fixture, reference_model):
    model = GPT2Classifier.on(reference_model, n_classes=3).eval()
    model.score.weight.data = fixture["score"]
    logits = model(fixture["padded"], fixture["lengths"])
    torch.testing.assert_close(logits, fixture["class_logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_row_does_not_know_its_batch(pooling):
    # The classic mistake: reading a padding position. Any pad length, pad id and row order must give the same logits.
    model = tiny_classifier(pooling=pooling)
    rows = [torch.randint(0, 97, (n,)) for n in (1, 5, 17, 24)]
    alone = torch.cat([model(row[None], torch.tensor([len(row)])) for row in rows])
    for pad_id, order in ((96, [0, 1, 2, 3]), (0, [3, 1, 0, 2])):
        batch = torch.full((4, 24), pad_id)
        for i, row in enumerate(order):
            batch[i, : len(rows[row])] = rows[row]
        logits = model(batch, torch.tensor([len(rows[row]) for row in order]))
        torch.testing.assert_close(logits, alone[order], atol=1e-5, rtol=0)


def test_poolings_differ_and_mean_is_a_mean():
    last, mean = tiny_classifier(), tiny_classifier(pooling="mean")
    ids, lengths = torch.randint(0, 97, (1, 9)), torch.tensor([6])
    hidden = mean.transformer.hidden_states(ids[:, :6])
    torch.testing.assert_close(mean(ids, lengths), mean.score(hidden.mean(1)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mean(ids, lengths), last(ids, lengths))


def test_no_position_sees_a_later_one(reference_model):
    ids = torch.randint(0, 97, (1, 12))
    changed = ids.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 97
    same = (reference_model(ids) == reference_model(changed)).all(-1)[0]
    assert same[:8].all() and not same[8:].any()


def test_dropout_is_off_in_eval_and_on_in_train():
    # SDPA's dropout argument knows nothing of eval mode; each of the two probabilities must act on its own.
    ids = torch.randint(0, 97, (2, 12))
    for config in (
        dict(dropout=0.3, attention_dropout=0.0),
        dict(dropout=0.0, attention_dropout=0.3),
    ):
        model = GPT2(GPT2Config(**{**vars(TINY), **config}))
        assert torch.equal(model.eval()(ids), model(ids))
        assert not torch.equal(model.train()(ids), model(ids))


def test_initial_weights_follow_gpt2():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=2000, n_positions=256, n_embd=128, n_layer=8, n_head=4))
    stds = {name: p.std().item() for name, p in model.named_parameters() if p.dim() == 2}
    assert stds["wte.weight"] == pytest.approx(0.02, rel=0.03) and stds[
        "wpe.weight"
    ] == pytest.approx(0.01, rel=0.03)
    assert stds["h.3.attn.c_attn.weight"] == pytest.approx(0.02, rel=0.03)
    assert stds["h.3.mlp.c_proj.weight"] == pytest.approx(
        0.02 / 4, rel=0.03
    )  # 1 / sqrt(2 * 8) = 1/4
    assert stds["h.3.attn.c_proj.weight"] == pytest.approx(0.02 / 4, rel=0.03)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


def test_the_124m_shape_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = GPT2(GPT2Config.named("gpt2"))
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


def test_checkpointed_activations_change_no_gradient():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(**{**vars(TINY), "dropout": 0.2}))
    ids = torch.randint(0, 97, (2, 12))
    gradients = []
    for model.checkpoint_activations in (False, True):
        torch.manual_seed(1)  # the same dropout, which the recomputation must also repeat
        model.zero_grad()
        model(ids).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_short_rows_in_bfloat16_attend_as_in_float64(masked):
    # They take products of their own on a CPU: a forgotten scale, mask or transpose would train, and train worse.
    torch.manual_seed(0)
    exact = torch.randn(3, 2, 4, 12, 8, dtype=torch.float64)  # q, k, v: (B, H, T, D)
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    mask = (
        (causal & (torch.arange(12) >= 5 * (torch.arange(12) >= 5)[:, None]))[None, None].expand(
            2, 1, 12, 12
        )
        if masked
        else None
    )
    wanted = torch.randn(2, 4, 12, 8, dtype=torch.float64)
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        qkv = exact.to(dtype, copy=True).requires_grad_()
        y = attention(*qkv, mask)
        y.backward(wanted.to(dtype))
        assert y.dtype == dtype
        found.append((y.detach().double(), qkv.grad.double()))
    scores = exact[0] @ exact[1].transpose(-1, -2) / 8**0.5
    y = (
        torch.softmax(scores.masked_fill(~(causal if mask is None else mask), -torch.inf), -1)
        @ exact[2]
    )
    torch.testing.assert_close(found[0][0], y)
    for float64, bfloat16 in zip(*found):
        assert (bfloat16 - float64).norm() < 0.01 * float64.norm()


def test_short_rows_in_bfloat16_drop_weights():
    q, k, v = (
        *torch.randn(2, 1, 1, 64, 64).bfloat16(),
        torch.eye(64).bfloat16()[None, None],
    )  # so the weights come out
    weights, others = (attention(q.requires_grad_(), k, v, dropout=0.5) for _ in range(2))
    assert 0.4 < (weights != 0).sum() / (64 * 65 / 2) < 0.6 and not torch.equal(weights, others)


def test_positions_asked_for_are_those_of_the_whole(reference_model):
    # After the last attention the others are left out: the logits, and every gradient, must not notice.
    ids, at = torch.randint(0, 97, (3, 7)), torch.tensor([0, 6, 13, 8, 20])
    whole, part = (
        reference_model.hidden_states(ids).flatten(0, 1)[at],
        reference_model.hidden_states(ids, at=at),
    )
    torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
    wanted = torch.randn(5, 16)
    gradients = [
        torch.autograd.grad((hidden * wanted).sum(), reference_model.parameters())
        for hidden in (whole, part)
    ]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
def test_product_with_one_vector(dtype, tolerance):
    # A single vector takes other kernels, where nothing is to be learned.
    torch.manual_seed(0)
    for shape in ((1, 40), (1, 1, 40), (2, 40), (1, 3, 40)):
        x, weight, bias = torch.randn(shape), torch.randn(24, 40), torch.randn(24)
        given = [tensor.to(dtype) for tensor in (x, weight, bias)]
        exact = [tensor.double() for tensor in given]
        with torch.no_grad():
            for bias_too in (2, 3):
                expected = F.linear(*exact[:bias_too])
                found = product(*given[:bias_too])
                assert found.dtype == dtype
                torch.testing.assert_close(
                    found.double(), expected, atol=6 * tolerance, rtol=tolerance
                )
    weight = weight.requires_grad_()
    product(torch.ones(1, 40), weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(24, 40))


def test_impossible_inputs_are_refused_with_the_numbers():
    model, classifier = GPT2(TINY), GPT2Classifier(TINY)
    with pytest.raises(ValueError, match="25 tokens .* 24"):
        model(torch.zeros(1, 25, dtype=torch.long))
    for bad in (97, -1):
        with pytest.raises(ValueError, match=f"0 to 96.* {bad}"):
            model(torch.tensor([[0, bad] if bad > 0 else [bad, 0]]))
    for shape in ((1, 0), (0, 3)):
        with pytest.raises(ValueError, match="at least one token"):
            model(torch.zeros(shape, dtype=torch.long))
    for lengths in ([0, 3], [3, 5]):
        with pytest.raises(ValueError, match=f"from {min(lengths)} to {max(lengths)}"):
            classifier(torch.zeros(2, 4, dtype=torch.long), torch.tensor(lengths))
    with pytest.raises(ValueError, match="2 rows"):
        classifier(torch.zeros(2, 4, dtype=torch.long), torch.tensor([4]))
    for kwargs in (
        dict(n_classes=1),
        dict(pooling="first"),
        dict(n_classes=3, class_names=["a", "b"]),
    ):
        with pytest.raises(ValueError):
            GPT2Classifier(TINY, **kwargs)


def test_live_transformers_parity():
    # The same as the fixture, against whatever version is installed, in a shape with other numbers.
    transformers = pytest.importorskip("transformers", reason="transformers is an optional oracle")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=61, n_positions=32, n_embd=24, n_layer=3, n_head=3)
    ).eval()
    ours = GPT2(GPT2Config(vocab_size=61, n_positions=32, n_embd=24, n_layer=3, n_head=3)).eval()
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {
        n.removeprefix("transformer."): p.T if n.endswith(turned) else p
        for n, p in theirs.named_parameters()
    }
    ours.load_state_dict(state)
    ids = torch.randint(0, 61, (2, 32))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)

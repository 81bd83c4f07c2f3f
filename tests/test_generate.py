"""Generation against transformers' (fixture and live), its promises about batches, and the command."""

import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptft.classifier import GPT2Classifier
from gptft.config import GPT2Config
from gptft.decoding import TextStream, decode
from gptft.errors import UserError
from gptft.generate import find_model, generate, main
from gptft.model import GPT2
from gptft.pretrained import save_model
from gptft.sampling import Sampling


@pytest.fixture(scope="module")
def fixture():
    with np.load(Path(__file__).parent / "fixtures" / "transformers_generation.npz") as f:
        return dict(f)


@pytest.fixture(scope="module")
def model(fixture):
    """The fixture's random GPT-2: 131 ids, 256 positions."""
    arrays = {
        name.removeprefix("weight/"): array
        for name, array in fixture.items()
        if name.startswith("weight/")
    }
    weights = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    V, P, C = len(weights["wte.weight"]), len(weights["wpe.weight"]), weights["wte.weight"].shape[1]
    model = GPT2(GPT2Config(V, P, C, n_layer=2, n_head=int(fixture["n_head"]), dropout=0.0))
    model.load_state_dict(weights)
    return model.eval()


def rows(array):
    """A rectangle filled with -1 -> lists."""
    return [[id for id in row if id >= 0] for row in array.tolist()]


# ---------------------------------------------------------------- against transformers


def test_greedy_equals_transformers(fixture, model):
    # Wrong positions, a seen pad, a cache that is off by one: all show within 200 tokens of random weights.
    prompts, expected = rows(fixture["prompts"]), rows(fixture["greedy"])
    assert len({len(p) for p in prompts}) == 4 and {len(e) for e in expected} == {200}
    assert generate(model, prompts, 200, temperature=0) == expected
    assert generate(model, prompts, 200, temperature=0, batch_size=2) == expected
    assert [generate(model, [prompt], 200, temperature=0)[0] for prompt in prompts] == expected
    assert [generate(model, [prompt], 200, top_k=1)[0] for prompt in prompts] == expected


def test_repetition_penalty_equals_transformers(fixture, model):
    found = generate(model, rows(fixture["prompts"]), 200, temperature=0, repetition_penalty=1.3)
    assert found == rows(fixture["penalized"])


def test_log_probabilities_equal_transformers(fixture, model):
    # They are the model's own: no temperature, penalty or filter may leak into them.
    prompts, expected = rows(fixture["prompts"]), fixture["greedy_log_probs"]
    for sampling in (Sampling(0), Sampling(0.5, top_k=1), Sampling(3.0, top_p=0.001)):
        found = dict(decode(model, prompts, 200, sampling, seed=0, log_probs=True))
        np.testing.assert_allclose([found[i].log_probs for i in range(4)], expected, atol=2e-4)


def test_live_transformers_parity():
    transformers = pytest.importorskip("transformers", reason="transformers is an optional oracle")
    shape = dict(vocab_size=211, n_positions=256, n_embd=32, n_layer=3, n_head=4)
    torch.manual_seed(5)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=None)
    ).eval()
    for name, p in theirs.named_parameters():
        p.data += (1.0 if "wpe" in name else 0.3) * torch.randn_like(p)
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    ours = GPT2(GPT2Config(**shape))
    state = {
        n.removeprefix("transformer."): p.T if n.endswith(turned) else p
        for n, p in theirs.named_parameters()
    }
    ours.load_state_dict(state)
    prompts = [torch.randint(0, 211, (n,)).tolist() for n in (2, 9, 33, 56)]
    ids = torch.tensor([[0] * (56 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (56 - len(p)) + [1] * len(p) for p in prompts])
    for options in (dict(), dict(repetition_penalty=1.2)):
        options_of_theirs = dict(max_new_tokens=200, do_sample=False, pad_token_id=0, **options)
        expected = theirs.generate(ids, attention_mask=mask, **options_of_theirs)
        assert generate(ours, prompts, 200, temperature=0, **options) == expected[:, 56:].tolist()


# ---------------------------------------------------------------- promises


def test_rows_that_end_leave_and_change_nothing(fixture, model, monkeypatch):
    sizes, hidden_states = [], GPT2.hidden_states

    def watched(self, token_ids, *rest, **wanted):
        sizes.append(len(token_ids))
        return hidden_states(self, token_ids, *rest, **wanted)

    monkeypatch.setattr(GPT2, "hidden_states", watched)
    (stop,) = fixture["stop_ids"].tolist()
    expected = rows(fixture["stopped"])
    lengths = sorted(map(len, expected))
    assert (
        len(set(lengths)) == 4 and lengths[-1] == 200
    )  # three rows end, each at a time of its own
    assert generate(model, rows(fixture["prompts"]), 200, temperature=0, eos_id=stop) == expected
    assert sum(sizes) == sum(
        lengths
    )  # reading the prompts gives the first tokens, each further one costs one row


def test_a_gpu_goes_on_before_its_ids_are_looked_at(fixture, model, monkeypatch):
    # There the next pass is under way when a row turns out to have ended: its result must be thrown away, not shifted.
    (stop,) = fixture["stop_ids"].tolist()
    prompts = rows(fixture["prompts"])
    expected = generate(model, prompts, 200, seed=5, eos_id=stop, repetition_penalty=1.1)
    assert len({len(row) for row in expected}) > 2
    monkeypatch.setattr("gptft.decoding.LOOK_LATER", ("cpu",))
    monkeypatch.setattr("gptft.decoding.RECORD_FROM", 1000)
    assert generate(model, prompts, 200, seed=5, eos_id=stop, repetition_penalty=1.1) == expected
    assert generate(model, prompts, 200, temperature=0, eos_id=stop) == rows(fixture["stopped"])


class Recording(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: the kernels that ran are run again, on the same memory, without Python's part."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        self.kernels.append((kernel, args, kwargs or {}, kernel(*args, **(kwargs or {}))))
        return self.kernels[-1][-1]

    def replay(self):
        for kernel, args, kwargs, results in self.kernels:
            again = kernel(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again)):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def recordings(monkeypatch):
    """Generation as on a GPU, with steps recorded on the CPU; the list of how many rows each recording has."""
    sizes = []

    def record(step, device):
        step()
        with Recording() as recording:
            result = step()
        sizes.append(len(result))
        return recording.replay, result

    monkeypatch.setattr("gptft.decoding.LOOK_LATER", ("cpu",))
    monkeypatch.setattr("gptft.decoding.RECORD_FROM", 16)
    monkeypatch.setattr("gptft.decoding._record", record)
    return sizes


def test_a_recorded_step_writes_the_same(fixture, model, request):
    # Nothing but the kernels of one pass is repeated, so positions and masks must come from tensors.
    (stop,) = fixture["stop_ids"].tolist()
    prompts, options = rows(fixture["prompts"]), dict(seed=5, eos_id=stop, repetition_penalty=1.1)
    expected = generate(model, prompts, 200, **options)
    assert len(set(map(len, prompts))) > 1 and len(set(map(len, expected))) > 2
    sampling = Sampling(1.0, None, None, 1.0)
    plain = dict(decode(model, prompts, 40, sampling, seed=3, log_probs=True))
    sizes = request.getfixturevalue("recordings")
    assert generate(model, prompts, 200, **options) == expected
    ends = sorted(map(len, expected))
    n, wanted = len(prompts), [len(prompts)]  # it is recorded again when half of its rows are left
    for end in dict.fromkeys(ends):
        left = sum(other > end for other in ends)
        if left and 2 * left <= n and 200 - (end - 1) > 16:
            n = left
            wanted.append(n)
    assert sizes == wanted and len(wanted) > 1
    assert generate(model, prompts, 200, temperature=0, eos_id=stop) == rows(fixture["stopped"])
    recorded = dict(decode(model, prompts, 40, sampling, seed=3, log_probs=True))
    for i, generation in plain.items():
        assert generation.ids == recorded[i].ids
        assert generation.log_probs == pytest.approx(recorded[i].log_probs, abs=1e-5)
    sizes.clear()
    generate(model, prompts, 15)
    assert not sizes  # too few tokens to be worth it
    generate(model, prompts, 16)
    assert sizes == [len(prompts)]


def test_nothing_is_recorded_where_the_cache_is_almost_full(model, recordings, monkeypatch):
    # Rows that end in the last passes: a recording's own pass would find no slot.
    monkeypatch.setattr("gptft.decoding.RECORD_FROM", 3)
    prompts = [[k, k + 1] for k in range(8)]
    whole = generate(model, prompts, 20, seed=1)
    for end in range(12, 20):
        stop_ids = [row[end] for row in whole[:4]]
        expected = [
            row[: next((i + 1 for i, id in enumerate(row) if id in stop_ids), 20)] for row in whole
        ]
        assert generate(model, prompts, 20, seed=1, stop_ids=stop_ids) == expected


def test_where_recording_fails_the_step_is_launched_as_it_is(model, recordings, monkeypatch):
    def record(step, device):
        step()
        raise RuntimeError("operation not permitted when stream is capturing")

    prompts = [[1, 2, 3], [4]]
    expected = generate(model, prompts, 40, seed=1)
    monkeypatch.setattr("gptft.decoding._record", record)
    stop_ids = [expected[0][5]]  # one row leaves early, and no second try is made for the other
    expected = [
        row[: row.index(stop_ids[0]) + 1] if stop_ids[0] in row else row for row in expected
    ]
    assert len(expected[0]) < len(expected[1])
    with pytest.warns(UserWarning, match="not permitted") as warned:
        assert generate(model, prompts, 40, seed=1, stop_ids=stop_ids) == expected
    assert len(warned) == 1


@pytest.mark.parametrize(
    "options", [{}, dict(top_k=20, temperature=1.3), dict(top_p=0.9, repetition_penalty=1.2)]
)
def test_a_row_has_the_same_text_with_any_mates(model, options):
    prompts = [[1, 2, 3], [4], list(range(40)), [1, 2, 3], [9] * 12]
    together = generate(model, prompts, 60, seed=11, **options)
    assert together[0] != together[3]  # the same prompt, but another row
    assert generate(model, prompts, 60, seed=11, **options) == together
    assert generate(model, prompts, 60, seed=11, batch_size=2, **options) == together
    assert generate(model, prompts[:1], 60, seed=11, **options) == together[:1]
    assert (
        generate(model, [[7] * 90, [5, 5], *prompts[2:3]], 60, seed=11, **options)[2] == together[2]
    )
    stop_ids = [row[20] for row in together[:2]]  # mates leave early
    ended = generate(model, prompts, 60, seed=11, stop_ids=stop_ids, **options)
    assert all(row == whole[: len(row)] for row, whole in zip(ended, together))
    assert generate(model, prompts, 60, seed=12, **options) != together
    assert generate(model, prompts, 60, **options) != generate(model, prompts, 60, **options)


def test_equal_prompts_are_read_once(model, monkeypatch):
    shapes, hidden_states = [], GPT2.hidden_states

    def watched(self, token_ids, *rest, **wanted):
        shapes.append(tuple(token_ids.shape))
        return hidden_states(self, token_ids, *rest, **wanted)

    monkeypatch.setattr(GPT2, "hidden_states", watched)
    found = generate(model, [[5] * 50, [6], [5] * 50], 3, seed=0)
    assert shapes == [(2, 50), (3, 1), (3, 1)]
    assert found[2] == generate(model, [[1], [2], [5] * 50], 3, seed=0)[2]


def test_the_context_is_used_to_its_end_and_not_beyond(model):
    # Past the last position there is no embedding; the message must hold the numbers.
    assert [len(row) for row in generate(model, [[1] * 250, [2]], 6)] == [6, 6]
    with pytest.raises(UserError, match="250 tokens and 7 new ones make 257, .* n_positions, 256"):
        generate(model, [[2], [1] * 250], 7)
    with pytest.raises(UserError, match="256"):
        generate(model, [[1] * 256], 1)


def test_ids_of_a_padded_embedding_never_come():
    # Rows of the embedding beyond the vocabulary were never trained: decode() would fail on them, or print nothing.
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=50304, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    model.ln_f.weight.data.zero_()
    model.ln_f.bias.data.fill_(1.0)
    model.wte.weight.data[50257:] = 10.0  # by far the likeliest
    for special, last in (([], 50256), (["<|a|>", "<|b|>"], 50258)):
        model.special_tokens = special
        for options in (
            dict(temperature=0),
            {},
            dict(top_p=0.9),
            dict(top_k=60, repetition_penalty=1.5),
        ):
            ids = sum(generate(model, [[1], [2, 3]], 8, **options), [])
            assert max(ids) <= last and (max(ids) > 50256) == bool(special)


def test_impossible_requests_are_refused(model):
    for wrong, match in [
        (dict(prompts=[[1], []]), "prompt 1 .* 0 to 130"),
        (dict(prompts=[[131]]), "prompt 0"),
        (dict(prompts=[[-1]]), "prompt 0"),
        (dict(max_new_tokens=0), "at least 1, got 0"),
        (dict(stop=["x"]), "tokenizer"),
        (dict(top_p=2.0), "top_p"),
    ]:
        with pytest.raises(ValueError, match=match):
            generate(model, **{**dict(prompts=[[1]], max_new_tokens=2), **wrong})
    assert generate(model, [], 5) == []


def test_dropout_is_off_and_train_mode_comes_back(fixture, model):
    model = GPT2(GPT2Config(**{**vars(model.config), "dropout": 0.5})).train()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    assert generate(model, [[1], [2, 3]], 20, seed=1) == generate(model, [[1], [2, 3]], 20, seed=1)
    assert model.training and model.h[0].attn.training
    written = decode(model, [[1], [2]], 20, Sampling(), stop_ids=range(60), seed=1)
    next(written)
    written.close()  # a reader that goes away halfway
    assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_bfloat16_weights_write_what_the_model_means(fixture, model):
    # A batch of one takes another product on a CPU; it must be right all the same, and leave torch's settings alone.
    halved = GPT2(model.config)
    halved.load_state_dict(model.state_dict())
    halved.to(torch.bfloat16).eval()
    ((_, found),) = decode(halved, [[3, 4, 5]], 60, Sampling(), seed=0, log_probs=True)
    exact = torch.log_softmax(model(torch.tensor([[3, 4, 5, *found.ids]])), -1)[0, 2:-1]
    assert (exact[range(60), found.ids] - torch.tensor(found.log_probs)).abs().mean() < 0.1
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
    halved.head = None
    with pytest.raises(TypeError):
        generate(halved, [[1]], 2)
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()


# ---------------------------------------------------------------- text


class Scripted(GPT2):
    """A GPT-2 that says what it is told: ids[row][step]."""

    def __init__(self, ids):
        super().__init__(GPT2Config(n_positions=64, n_embd=1, n_layer=1, n_head=1))
        self.ids, self.step = ids, 0

    def head(self, hidden):
        logits = torch.zeros(len(hidden), 50257)
        for row, ids in zip(logits, self.ids):
            row[ids[self.step]] = 1e4
        self.step += 1
        return logits


def say(tokenizer, text, stop=()):
    """Let a model write `text` -> its Generation and the pieces that were streamed."""
    ids, pieces = [*tokenizer.encode(text), tokenizer.eot], []
    written = decode(
        Scripted([ids]),
        [[1]],
        len(ids),
        Sampling(0),
        stop_ids=[tokenizer.eot],
        stop=stop,
        tokenizer=tokenizer,
        on_text=lambda i, piece: pieces.append(piece),
    )
    ((_, generation),) = written
    assert "".join(pieces) == generation.text
    return generation, pieces


def test_half_a_character_is_held_back(tokenizer):
    # GPT-2 cuts an emoji into several tokens, none of which decodes alone: printed one by one they are all U+FFFD.
    text = "Well 👩‍🚀🦜 done, 北京!"
    assert len(tokenizer.encode("🦜")) > 1
    generation, pieces = say(tokenizer, text)
    assert (
        generation.text == text
        and generation.ended == "stop"
        and generation.ids[-1] == tokenizer.eot
    )
    assert len(pieces) > 5 and "🦜" in "".join(pieces) and "\ufffd" not in "".join(pieces)


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer):
    ids = tokenizer.encode("a🦜")[:-1]
    ((_, generation),) = decode(Scripted([ids]), [[1]], len(ids), Sampling(0), tokenizer=tokenizer)
    assert generation.text == "a\ufffd" and generation.ended == "length"


@pytest.mark.parametrize(
    "stop, expected",
    [
        (["\n\nUser"], "Answer: 42.\n"),  # over three tokens
        (["ser:", "nothing"], "Answer: 42.\n\n\nU"),  # begins inside a token
        (["42", "Answer: 4"], ""),  # the one that begins first
        (["\n\n\n\n"], "Answer: 42.\n\n\nUser: thanks"),  # a beginning that comes to nothing
        ("thanks", "Answer: 42.\n\n\nUser: "),  # one string may stand without a list
    ],
)
def test_stop_strings_end_over_token_borders(tokenizer, stop, expected):
    text = "Answer: 42.\n\n\nUser: thanks"
    generation, pieces = say(tokenizer, text, stop)
    assert generation.text == expected and generation.ended == "stop"
    written = tokenizer.decode(generation.ids)
    assert text.startswith(written.removesuffix("<|endoftext|>")) and written.startswith(expected)


def test_a_stream_is_its_text_cut_at_the_first_stop():
    # Any text, any cuts, any stop strings that begin alike: nothing is lost, doubled or shown too much.
    chance = random.Random(0)
    for _ in range(500):
        text = "".join(chance.choices("aab🦜é\n", k=20))
        stop = [
            "".join(chance.choices("aab🦜\n", k=chance.randint(1, 4)))
            for _ in range(chance.randint(0, 3))
        ]
        octets, pieces, stream = text.encode("utf-8"), [], TextStream(stop)
        while octets and not stream.stopped:
            n = chance.randint(1, 5)
            pieces.append(stream.add(octets[:n]))
            octets = octets[n:]
            shown = "".join(pieces)
            assert not any(string in shown for string in stop)
        pieces.append(stream.end())
        # The stop string that is complete first ends the text; of several, the one that begins first.
        ends = [text.index(s) + len(s) for s in stop if s in text]
        expected = {text[: text.index(s)] for s in stop if s in text} or {text}
        assert stream.stopped == bool(ends) and "".join(pieces) in expected


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny random model over GPT-2's vocabulary, tuned, as its config says, with a template."""
    torch.manual_seed(3)
    model = GPT2(GPT2Config(n_positions=128, n_embd=8, n_layer=1, n_head=2)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    model.template = "short"
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(model, folder)
    return folder, model


def run(capsys, *argv, code=0):
    """The command's standard output and standard error."""
    assert main([str(word) for word in argv]) == code
    return capsys.readouterr()


FP32 = ("--precision", "fp32", "--max-new-tokens", 12, "--seed", 4)


def test_command_writes_what_generate_writes(saved, tokenizer, capsys):
    folder, model = saved
    options = dict(temperature=0.8, top_p=0.95, eos_id=tokenizer.eot, seed=4)
    (ids,) = generate(model, [tokenizer.encode("The film")], 12, **options)
    said = run(capsys, "--model", folder, "--prompt", "The film", *FP32)
    assert said.out == tokenizer.decode(ids) + "\n"  # pure text: all else goes to standard error
    assert f"model: {folder} (as asked), 402,184 parameters, template: short" not in said.out
    assert (
        f"model: {folder} (as asked)" in said.err
        and "seed 4" in said.err
        and "fp32 (as asked)" in said.err
    )

    both = generate(model, [tokenizer.encode("The film")] * 2, 12, **options)
    said = run(capsys, "--model", folder, "--prompt", "The film", "--num-samples", 2, *FP32)
    assert said.out == "".join(
        f"--- sample {i + 1}\n{tokenizer.decode(ids)}\n" for i, ids in enumerate(both)
    )

    from gptft.data.alpaca import TEMPLATES

    prompt = TEMPLATES["short"].encode(tokenizer, "Name it", "A cat")
    (ids,) = generate(model, [prompt], 12, temperature=0, eos_id=tokenizer.eot)
    asked = ("--instruction", "Name it", "--input", "A cat", "--temperature", 0, "--logprobs")
    said = run(capsys, "--model", folder, *asked, *FP32)
    text, *table = said.out.rsplit("\n", len(ids) + 1)[:-1]
    assert text == tokenizer.decode(ids)
    assert [line[12:] for line in table] == [repr(tokenizer.decode([id])) for id in ids]
    logits = torch.log_softmax(model(torch.tensor([prompt + ids])), -1)[0, len(prompt) - 1 : -1]
    assert [float(line[:10]) for line in table] == pytest.approx(
        logits[range(len(ids)), ids].tolist(), abs=2e-4
    )


def test_command_answers_files(saved, tokenizer, capsys, tmp_path):
    folder, model = saved
    from gptft.data.alpaca import TEMPLATES

    records = [
        {"id": "a", "instruction": "Say hi", "input": ""},
        {"id": "b", "prompt": "Hello 北京"},
        {"id": "c", "instruction": "Add", "input": "1 2", "output": "3"},
    ]
    path, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    hi, add = (
        TEMPLATES["short"].encode(tokenizer, "Say hi"),
        TEMPLATES["short"].encode(tokenizer, "Add", "1 2"),
    )
    prompts = [hi, tokenizer.encode("Hello 北京"), add]
    found = generate(model, prompts, 12, temperature=0.8, top_p=0.95, eos_id=tokenizer.eot, seed=4)

    said = run(
        capsys,
        "--model",
        folder,
        "--file",
        path,
        "--out",
        out,
        "--batch-size",
        2,
        "--logprobs",
        *FP32,
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert said.out == "" and "3 texts" in said.err
    for row, record, ids in zip(rows, records, found):
        ended = ids[-1] == tokenizer.eot
        assert {k: row[k] for k in record} == record and row["ended"] == (
            "stop" if ended else "length"
        )
        assert row["response"] == tokenizer.decode(ids[:-1] if ended else ids)
        assert row["tokens"] == [tokenizer.decode([id]) for id in ids] and len(
            row["logprobs"]
        ) == len(ids)

    lines = run(
        capsys, "--model", folder, "--file", path, "--num-samples", 2, *FP32
    ).out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["id"], row["sample"]) for row in rows] == [(i, j) for i in "abc" for j in (0, 1)]

    path.write_text('{"prompt": "a"}\n{"prompt": "%s"}\n' % ("a " * 120), encoding="utf-8")
    said = run(
        capsys, "--model", folder, "--file", path, "--out", tmp_path / "none.jsonl", *FP32, code=2
    )
    assert (
        "make 13" in said.err
        and f"128, {path}, line 2;" in said.err
        and not (tmp_path / "none.jsonl").exists()
    )


def test_command_stops_at_end_of_text(saved, tmp_path, capsys):
    model = GPT2(saved[1].config)
    model.ln_f.weight.data.zero_()
    model.ln_f.bias.data.fill_(1.0)
    model.wte.weight.data[50256] = 10.0  # all it wants to say
    save_model(model, tmp_path / "silent")
    (tmp_path / "a.csv").write_text("prompt\nHello\n", encoding="utf-8")
    assert run(capsys, "--model", tmp_path / "silent", "--prompt", "Hello", *FP32).out == "\n"
    said = run(capsys, "--model", tmp_path / "silent", "--file", tmp_path / "a.csv", *FP32)
    assert json.loads(said.out) == {"prompt": "Hello", "response": "", "ended": "stop"}


def test_interactive_answers_line_after_line(saved, tokenizer, capsys, monkeypatch):
    folder, model = saved
    from gptft.data.alpaca import TEMPLATES

    monkeypatch.setattr("sys.stdin", io.StringIO("Say hi\n\n" + "long " * 200 + "\nSay ho\n"))
    said = run(capsys, "--model", folder, "--interactive", "--temperature", 0, *FP32)
    texts = []
    for instruction in ("Say hi", "Say ho"):
        prompt = TEMPLATES["short"].encode(tokenizer, instruction)
        (ids,) = generate(model, [prompt], 12, temperature=0, eos_id=tokenizer.eot)
        texts.append(tokenizer.decode(ids).replace("<|endoftext|>", "") + "\n")
    assert said.out == "".join(texts)
    assert "n_positions, 128" in said.err  # the long line is refused, the conversation goes on


def test_the_model_is_found_in_order(saved, tmp_path, monkeypatch, capsys):
    folder, model = saved
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gptft.initial.BUNDLED", tmp_path / "mini")
    said = run(capsys, "--prompt", "x", code=2)
    assert said.err.startswith("error: the bundled weights are gone") and said.err.count("\n") == 1
    save_model(model, tmp_path / "mini")
    assert find_model() == (tmp_path / "mini", "bundled")
    tiny = GPT2Config(n_positions=8, n_embd=2, n_layer=1, n_head=1)
    for age, (name, thing) in enumerate(
        {"a": GPT2Classifier(tiny), "b": GPT2(tiny), "c": GPT2(tiny)}.items()
    ):
        save_model(thing, tmp_path / "runs" / name)
        os.utime(
            tmp_path / "runs" / name / "model.safetensors", (10**9 - age, 10**9 - age)
        )  # a is the newest
    (tmp_path / "runs" / "d").mkdir()  # a run that has saved nothing yet
    assert find_model() == (Path("runs/b"), "the newest run")
    assert find_model("runs/c") == (Path("runs/c"), "as asked")
    said = run(capsys, "--model", "runs/a", "--prompt", "x", code=2)
    assert "classifier" in said.err
    said = run(capsys, "--instruction", "x", code=2)
    assert (
        "runs/b (the newest run)" in said.err and "no wording for instructions, runs/b" in said.err
    )


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--prompt", "a", "--interactive"], "--prompt and --interactive exclude"),
        (["--input", "a"], "--input goes with --instruction"),
        (["--out", "a"], "--out goes with --file"),
        (["--file", "a.jsonl", "--out", "nowhere/b"], "no such folder, nowhere, for --out"),
        (["--model", ".", "--file", "a.jsonl"], "neither config.json"),
        (["--stop", ""], "--stop is empty"),
        (["--temperature", "-1"], "--temperature must be from 0.0 to 100.0, got -1"),
        (
            ["--top-p", "0", "--top-k", "0"],
            "--top-k must be at least 1, got 0; --top-p must be from 0.001 to 1.0, got 0",
        ),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--model", "nowhere"], "no such model, nowhere"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    said = run(capsys, *argv, code=2)
    assert (
        said.out == ""
        and said.err.startswith("error: ")
        and words in said.err
        and said.err.count("\n") == 1
    )


def test_known_texts_of_the_real_model(tokenizer):
    """Runs where the 124M checkpoint lies in checkpoints/124M."""
    folder = Path(__file__).parents[1] / "checkpoints" / "124M"
    if not folder.is_dir():
        pytest.skip(
            "needs the pretrained weights in checkpoints/124M, which are not in the repository"
        )
    from gptft.pretrained import load_model

    model = load_model(folder)
    texts = {
        "Hello, my dog is a little": " bit of a mess. I'm not sure if he's going",
        "Today, I": "'m going to be doing a lot of research on this. I",
    }
    found = generate(model, [tokenizer.encode(text) for text in texts], 13, temperature=0)
    assert [tokenizer.decode(ids) for ids in found] == list(texts.values())
    known = [
        373,
        1043,
        287,
        257,
        2214,
        1474,
        262,
        16246,
        286,
        2688,
        290,
        2688,
        27262,
        13,
        198,
        198,
        464,
        3290,
    ]
    assert generate(model, [[464, 3290]], 18, temperature=0) == [known]

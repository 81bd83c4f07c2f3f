"""The benchmark runs, counts what it should, and gives its contenders the same work."""

import pytest
import torch

from scripts import benchmark, contenders


def run(argv, capsys):
    assert benchmark.main(argv.split()) == 0
    return capsys.readouterr().out


def test_parts_run_in_turns(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "installed", lambda *names: [])
    flags = "--model mini --repeat 1 --batch-size 2 --length 16 --new-tokens 2 --precision fp32"
    out = run(f"train-step generate {flags}", capsys)
    titles = ["train-step, classifier, 2 x 16", "train-step, lm, 2 x 16", "generate, 2 x (64 + 2)"]
    assert [title for title in titles if title in out] == titles
    assert out.count("  gptft ") == out.count("1.00 x") == 3


def test_flops_of_a_token_by_hand(monkeypatch):
    # mini: 6 blocks of 12 C^2 + 13 C weights, ln_f 2 C, the head 50257 C; attention 12 L C T.
    raced = []
    monkeypatch.setattr(benchmark, "race", lambda *arguments: raced.append(arguments))
    monkeypatch.setattr(benchmark, "installed", lambda *names: [])
    benchmark.race_train_step(contenders.Options(model="mini", batch_size=1, length=10))
    blocks = 6 * (12 * 192**2 + 13 * 192) + 2 * 192
    attention = 12 * 6 * 192 * 10
    n_tokens, flops = zip(*(arguments[-2:] for arguments in raced))
    assert n_tokens == (10, 10)
    assert flops == (
        10 * (6 * blocks + attention),
        10 * (6 * (blocks + 50257 * 192) + attention),
    )


@pytest.mark.parametrize("task", ["classifier", "lm"])
@pytest.mark.parametrize("who", ["transformers", "nanoGPT"])
def test_contenders_start_from_the_same_loss(who, task, tmp_path, monkeypatch):
    if who == "transformers":
        pytest.importorskip("transformers", reason="needs the peer")
    elif task == "classifier":
        pytest.skip("nanoGPT has no classifier")
    losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss: losses.append(loss.item()) or backward(loss)
    )
    monkeypatch.setattr(torch, "compile", lambda model: model)
    if who == "nanoGPT":  # a stand-in with its interface
        source = (
            "from gptft import GPT2, GPT2Config as G\nimport torch\n"
            "class GPTConfig(dict): pass\n"
            "class GPT(torch.nn.Module):\n"
            "    def __init__(self, c):\n"
            "        super().__init__()\n"
            "        names = 'vocab_size n_layer n_head n_embd dropout'.split()\n"
            "        shape = {n: c[n] for n in names}\n"
            "        self.transformer = GPT2(G(n_positions=c['block_size'], **shape))\n"
            "    def forward(self, ids, targets):\n"
            "        return None, self.transformer(ids, targets) / ids.numel()\n"
        )
        (tmp_path / "model.py").write_text(source, encoding="utf-8")
    options = contenders.Options(model="mini", precision="fp32", nanogpt=str(tmp_path))
    for name in ("gptft", who):
        contenders.train_step(options, name, task, 2, 12)()
    assert losses[0] == pytest.approx(losses[1], rel=0.1 if who == "transformers" else 1e-5)

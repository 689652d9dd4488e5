"""Attribution to words: the parts sum to the pre-activation, and a slow loop gives the same; words and their roles."""

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, requests
from saeuron.hooks import attached, hookpoints
from saeuron.inspection.heads import Z, heads
from saeuron.inspection.words import attribute, head_shares, tokens
from saeuron.methods.local import Setting, turned
from saeuron.methods.removal import Removal, removed
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo

MODEL = ModelConfig(steps=2, guidance=2.0, micro_batch=2)
PROMPTS = [
    Prompt("A cat in neon style.", "test", {"object": "cat", "style": "neon"}),
    Prompt("A moon.", "test", {"object": "moon"}),
]


def made(path: str, width: int) -> SAE:
    sae = SAE(SAEInfo("topk", width, 40, 20, path, "topk"), seed=1).requires_grad_(False)
    chance = torch.Generator().manual_seed(2)
    sae.b_enc.copy_(torch.randn(40, generator=chance) * 0.01)
    sae.b_dec.copy_(torch.randn(width, generator=chance) * 0.1)
    return sae


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", Z])
def test_parts_are_those_of_a_slow_loop_and_sum_to_the_pre_activation(tiny_pipe, suffix):
    path = heads(tiny_pipe)[0].attention
    module = hookpoints(tiny_pipe)[path]
    sae = made(path + suffix, module.to_out[0].in_features)
    latents, images = [3, 11, 7], requests(PROMPTS, 1)
    ((batch, steps),) = attribute(tiny_pipe, sae, latents, images, MODEL, 0)
    assert batch == images and [s.timestep for s in steps] == sorted((s.timestep for s in steps), reverse=True)
    assert all(s.error < 1e-5 for s in steps) and any(bool(s.fires.any()) for s in steps)
    seen = {}
    names = {"q": f"{path}.to_q", "k": f"{path}.to_k", "v": f"{path}.to_v", "x": path + suffix}
    readers = {p: lambda s, out, _, n=n: seen.setdefault(n, out.chunk(2)[1]) for n, p in names.items()}
    with attached(tiny_pipe, readers=readers):
        for _ in generate(tiny_pipe, images, MODEL, 0):
            pass
    weight = sae.W_enc if suffix else sae.W_enc @ module.to_out[0].weight
    active = sae.encode(seen["x"]) > 0
    d = weight.shape[1] // module.heads
    for n, latent in enumerate(latents):
        where = active[0, :, latent].nonzero().flatten().tolist()
        expected = torch.zeros(module.heads, seen["k"].shape[1])
        for q in where:
            for h in range(module.heads):
                part = slice(h * d, (h + 1) * d)
                a = (seen["k"][0, :, part] @ seen["q"][0, q, part] / d**0.5).softmax(0)
                expected[h] += a * (seen["v"][0, :, part] @ weight[latent, part]) / len(where)
        assert int(steps[0].fires[0, n]) == len(where)
        assert torch.allclose(steps[0].value[0, :, :, n], expected, atol=1e-5)
    shares = head_shares(sae, 3, module.heads)
    assert shares.sum() == pytest.approx(1) and len(shares) == module.heads


def test_words_and_what_they_are(tiny_pipe):
    found = tokens(tiny_pipe, PROMPTS[0])
    assert len(found) == 16
    assert [t.word for t in found[:8]] == ["<start>", "a", "cat", "in", "neon", "style", ".", "<end>"]
    assert [t.role for t in found[:8]] == ["start", "other", "object", "other", "style", "other", "other", "end"]
    split = tokens(tiny_pipe, Prompt("A zebra.", "test", {"object": "zebra"}))
    assert len({i for i, t in enumerate(split) if t == ("zebra", "object")}) > 1


def test_elsewhere_there_are_no_words(tiny_pipe):
    sae = made("unet.mid_block", 32)
    with pytest.raises(
        ConfigError, match=r"unet.mid_block is not a cross-attention.*such as unet\..*attn2\.to_out\.0:input"
    ):
        next(attribute(tiny_pipe, sae, [0], requests(PROMPTS, 1), MODEL, 0))


@torch.no_grad()
def test_a_removal_at_z_changes_the_heads_outputs_as_by_hand(tiny_pipe):
    path = heads(tiny_pipe)[0].attention
    module = hookpoints(tiny_pipe)[path]
    sae, images = made(path + Z, module.to_out[0].in_features), requests(PROMPTS, 1)

    def drawn():
        return np.concatenate([pictures for _, pictures in generate(tiny_pipe, images, MODEL, 0)])

    def by_hand(_, args):
        f = sae.encode(args[0])[..., [3, 11]]
        return (args[0] + (torch.tensor([0.0, 50.0]) - f) @ sae.W_dec[[3, 11]],)

    plain = drawn()
    off = turned(sae, {3: Setting(0.0, 0.0), 11: Setting(0.0, 50.0)})
    with removed(tiny_pipe, [Removal("cat", "object", "saeuron", {}, (off,))], any_model=True):
        edited = drawn()
    handle = module.to_out[0].register_forward_pre_hook(by_hand)
    expected = drawn()
    handle.remove()
    assert np.abs(edited.astype(int) - expected).max() <= 1 and np.abs(edited.astype(int) - plain).max() > 1
    assert np.array_equal(drawn(), plain)

"""What heads carry: against a plain loop, all of them together, and the pairs that are patched."""

import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import BadPrompts, ConfigError
from saeuron.hooks import hookpoints
from saeuron.inspection.heads import block_of, groups, heads, minimal_pairs, output_weights
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.pipelines.patching import Pair, measure
from saeuron.prompts import prompt_set
from tests.saeuron.pipelines import tiny

PAIRS = [
    Pair("A cat in neon style.", "A cat in dots style.", "In dots style, a picture of cat."),
    Pair("A moon in neon style.", "A moon in sepia style.", "A sepia moon."),
]
PROMPTS = prompt_set(
    {"style": ["neon", "dots", "sepia"], "object": ["cat", "moon"]},
    train=["A {object} in {style} style.", "A {style} {object}."],
    test=["The {object} in {style} style.", "A {style} picture of {object}."],
)


def test_all_heads_at_once_carry_all_of_it(tiny_pipe):
    found = heads(tiny_pipe)
    sites = groups(found)
    assert len(found) == 2 * 7 and [g.kind for g in sites].count("module") == 7 and sites[-1].kind == "all"
    measured = measure(tiny_pipe, PAIRS, [sites[-1].sites, [], sites[0].sites], ModelConfig(steps=2, guidance=2.0))
    assert measured.values[0] == pytest.approx(1, abs=1e-5)
    assert (measured.values[1] == 0).all() and abs(measured.values[2]).max() > 1e-4


@torch.no_grad()
def test_the_share_of_a_head_is_that_of_a_plain_loop(tiny_pipe):
    pipe, head = tiny_pipe, heads(tiny_pipe)[3]
    model = ModelConfig(steps=2, guidance=2.0)
    found = measure(pipe, PAIRS[:1], [[head.part]], model, seed=3).values[0, :, 0]
    latents = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda net, args, kwargs: latents.append((args[0][1:].clone(), args[1])), with_kwargs=True
    )
    noise = initial_noise(3, [("0", 0)], (48, 8, 8))
    pipe(PAIRS[0].shown, latents=noise, num_inference_steps=2, guidance_scale=2.0, output_type="np")
    handle.remove()
    linear, (a, b) = hookpoints(pipe)[head.attention].to_out[0], head.part[1:]
    words = {t: pipe.encode_prompt([t], "cpu", 1, False)[0] for t in PAIRS[0][:2]}
    for (z, t), share in zip(latents, found, strict=True):
        kept = []
        handle = linear.register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0].clone()))
        shown = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].shown]).sample
        handle.remove()
        instead = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].instead]).sample

        def patch(module, args, kept=kept):
            value = args[0].clone()
            value[..., a:b] = kept[0][..., a:b]
            return (value,)

        handle = linear.register_forward_pre_hook(patch)
        patched = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].instead]).sample
        handle.remove()
        whole = (shown - instead).double()
        expected = float(((patched - instead).double() * whole).sum() / whole.square().sum())
        assert share == pytest.approx(expected, rel=1e-3, abs=1e-6)


@torch.no_grad()
def test_the_outputs_of_heads_sum_to_that_of_the_module(tiny_pipe):
    mine = [h for h in heads(tiny_pipe) if h.attention == heads(tiny_pipe)[0].attention]
    module = hookpoints(tiny_pipe)[mine[0].attention].to_out[0]
    z = torch.randn(5, module.in_features)
    parts = sum(z[:, h.part.start : h.part.stop] @ output_weights(tiny_pipe, h).T for h in mine)
    assert torch.allclose(parts + module.bias, module(z), atol=1e-5)


def test_the_block_of_an_attention():
    assert block_of("unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2") == "unet.up_blocks.0"
    assert block_of("transformer.transformer_blocks.4.attn2") == "transformer.transformer_blocks.4"


def test_pairs_differ_in_the_concept_alone_and_controls_in_the_template():
    test = [p for p in PROMPTS if p.split == "test"]
    found = minimal_pairs(test, "style", "neon", 3)
    assert len(found) == 3 and {pair.instead.count("dots") for _, pair in found} == {0, 1}
    for prompt, (shown, instead, other) in found:
        value = "dots" if "dots" in instead else "sepia"
        assert shown == prompt.text and instead == shown.replace("neon", value)
        assert value in other and other != instead and prompt.concepts["object"] in other
    one = minimal_pairs(test, "style", "neon", 9, others=["sepia"])
    assert len(one) == 4 and all("sepia" in pair.instead for _, pair in one)


def test_prompts_and_models_without_pairs_or_heads_are_refused(tmp_path):
    with pytest.raises(BadPrompts, match="no prompt asks for 'grain'"):
        minimal_pairs(PROMPTS, "style", "grain", 1)
    with pytest.raises(BadPrompts, match=r"asks for another style.*\{style\}"):
        minimal_pairs([p for p in PROMPTS if p.concepts["style"] == "neon"], "style", "neon", 1)
    with pytest.raises(ConfigError, match="no cross-attentions: text and image are one sequence"):
        heads(load_pipeline(tiny.save("sd3", tmp_path)))

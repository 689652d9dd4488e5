"""What a module carries of a concept: against a plain loop, and all of it where text enters at all modules."""

import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.hooks import hookpoints
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.pipelines.patching import Pair, shares
from tests.saeuron.pipelines import tiny

PAIRS = [
    Pair("A cat in neon style.", "A moon in neon style.", "An image of moon in dots style."),
    Pair("A star.", "A moon.", "An image of moon."),
]


def attentions(pipe):
    return [p for p in hookpoints(pipe) if p.endswith(".attn2")]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_all_cross_attentions_carry_all_of_it_and_another_prompts_do_not(tiny_pipe, guidance):
    model = ModelConfig(steps=3, guidance=guidance)
    together, one, none = shares(tiny_pipe, PAIRS, [attentions(tiny_pipe), attentions(tiny_pipe)[:1], []], model)
    assert list(together.by_timestep.values()) == pytest.approx([1.0] * 3, abs=1e-5) and together.n == 2
    assert together.low == pytest.approx(1, abs=1e-5) and none.share == 0 == none.low == none.high
    assert one.low <= one.share <= one.high and abs(one.share) > 0.001 and abs(one.share - 1) > 0.001
    (control,) = shares(tiny_pipe, PAIRS, [attentions(tiny_pipe)], model, control=True)
    assert abs(control.share - 1) > 0.1


@torch.no_grad()
def test_a_share_is_that_of_a_plain_loop(tiny_pipe):
    pipe, model, path = tiny_pipe, ModelConfig(steps=3, guidance=3.0), attentions(tiny_pipe)[1]
    (found,) = shares(pipe, PAIRS[:1], [[path]], model, seed=4)
    noise, latents = initial_noise(4, [("0", 0)], (48, 8, 8)), []

    def before(net, args, kwargs):
        latents.append((args[0][1:].clone(), args[1]))  # the conditional row

    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    pipe(PAIRS[0].shown, latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="np")
    handle.remove()
    module, words = hookpoints(pipe)[path], {t: pipe.encode_prompt([t], "cpu", 1, False)[0] for t in PAIRS[0][:2]}
    expected = {}
    for z, t in latents:
        taken = []
        handle = module.register_forward_hook(lambda m, a, out, to=taken: to.append(out.clone()))
        shown = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].shown]).sample
        handle.remove()
        instead = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].instead]).sample
        handle = module.register_forward_hook(lambda m, a, out, of=taken: of[0])
        patched = pipe.unet(z, t, encoder_hidden_states=words[PAIRS[0].instead]).sample
        handle.remove()
        whole = (shown - instead).double()
        expected[int(t)] = float(((patched - instead).double() * whole).sum() / whole.square().sum())
    assert found.by_timestep == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found.share == pytest.approx(sum(expected.values()) / 3, rel=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["pixart-sigma", "sd3", "flux-dev"])
def test_shares_of_a_transformers_blocks(name, tmp_path):
    pipe = load_pipeline(tiny.save(name, tmp_path))
    blocks = [p for p in hookpoints(pipe) if p.startswith("transformer.") and p.count(".") == 2]
    blocks = [p for p in blocks if p.split(".")[1].endswith("transformer_blocks")]
    model = ModelConfig(steps=2, guidance=3.0, size=(16, 16))
    every, *single = shares(pipe, PAIRS, [attentions(pipe) or blocks, *([p] for p in blocks)], model)
    if name == "pixart-sigma":  # text enters nowhere else; in the others a pooled text does, at every norm
        assert every.share == pytest.approx(1, abs=1e-4)
    assert all(abs(s.share) > 1e-4 for s in single) and every.n == 2


def test_modules_and_pairs_without_a_share_are_refused(tiny_pipe):
    with pytest.raises(UnknownName, match=r"unknown hookpoint 'unet\.nowhere'"):
        shares(tiny_pipe, PAIRS, [["unet.nowhere"]], ModelConfig(steps=1))
    with pytest.raises(ConfigError, match=r"text_encoder\.x is not in the denoiser; shares are of modules of unet"):
        shares(tiny_pipe, PAIRS, [["text_encoder.x"]], ModelConfig(steps=1))
    same = Pair("A cat.", "A cat.", "The moon.")
    with pytest.raises(ConfigError, match=r"the denoiser gives the same for 'A cat\.' and 'A cat\.' at timestep"):
        shares(tiny_pipe, [same], [attentions(tiny_pipe)], ModelConfig(steps=1))

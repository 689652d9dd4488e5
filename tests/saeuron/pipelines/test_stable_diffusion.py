"""Stable Diffusion: what the denoiser was trained to predict, schedulers that name a timestep twice, canvas's sizes."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

from saeuron.config import ModelConfig
from saeuron.errors import SaeuronError
from saeuron.generation import latent_shape, sample
from saeuron.hooks import attached
from saeuron.noise import generator, initial_noise
from saeuron.pipelines import family_of
from saeuron.pipelines.stable_diffusion import predicted_noise

PATH = "unet.up_blocks.1.attentions.1"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_is_found_from_each_kind_of_prediction(tiny_pipe, kind):
    scheduler = DDIMScheduler.from_config(tiny_pipe.scheduler.config, prediction_type=kind)
    z, noise = torch.randn(2, 3, 4, 4, generator=generator(9)), torch.randn(2, 3, 4, 4, generator=generator(10))
    for timestep in (100, 600):
        at = torch.tensor([timestep] * 2)
        noised = scheduler.add_noise(z, noise, at)
        perfect = {"epsilon": noise, "v_prediction": scheduler.get_velocity(z, noise, at), "sample": z}[kind]
        torch.testing.assert_close(predicted_noise(perfect, noised, scheduler, timestep), noise, rtol=1e-4, atol=1e-4)
        # The family's own noising is that of DDIM, bit for bit.
        assert torch.equal(family_of(tiny_pipe).add_noise(tiny_pipe, z, noise, timestep), noised)


def test_another_kind_of_prediction_is_refused(tiny_pipe):
    other = SimpleNamespace(
        alphas_cumprod=tiny_pipe.scheduler.alphas_cumprod, config=SimpleNamespace(prediction_type="flow")
    )
    with pytest.raises(SaeuronError, match="prediction_type is 'flow'; expected epsilon"):
        predicted_noise(torch.zeros(1), torch.zeros(1), other, 3)


@pytest.mark.parametrize(
    ("scheduler", "calls"), [(PNDMScheduler, 5), (HeunDiscreteScheduler, 7), (EulerDiscreteScheduler, 4)]
)
# From the code of diffusers, with recent versions of numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_step_and_timestep_with_schedulers_that_repeat_timesteps_or_have_fractions(
    make_pipe, scheduler, calls, spacing
):
    pipe, seen, truth = make_pipe(), [], []
    about = {**pipe.scheduler.config, "skip_prk_steps": True, "timestep_spacing": spacing}
    pipe.scheduler = scheduler.from_config(about)
    forward = pipe.unet.forward

    def plain(latents, timestep, *args, **kwargs):
        truth.append((len(truth), int(timestep)))
        return forward(latents, timestep, *args, **kwargs)

    pipe.unet.forward = plain
    noise = initial_noise(0, [("a", 0)], latent_shape(pipe))
    for _ in range(2):
        truth.clear(), seen.clear()
        with attached(pipe, readers={PATH: lambda step, *_: seen.append((step.index, step.timestep))}):
            sample(pipe, ["A cat."], noise, ModelConfig(steps=4))
        assert seen == truth and len(seen) == calls


def test_latents_that_are_not_square(make_pipe):
    pipe = make_pipe()
    pipe.unet.register_to_config(sample_size=(8, 16))
    assert latent_shape(pipe) == (48, 8, 16)
    noise = initial_noise(0, [("a", 0), ("a", 1)], latent_shape(pipe))
    assert sample(pipe, ["A cat.", "A star."], noise, ModelConfig(steps=1)).shape == (2, 32, 64, 3)


def test_extra_arguments_reach_the_pipeline_and_a_text_is_for_every_prompt(tiny_pipe):
    noise, config = initial_noise(0, [("a", 0), ("a", 1)], (48, 8, 8)), ModelConfig(steps=2)
    texts = ["A cat.", "A star."]
    one = sample(tiny_pipe, texts, noise, config, {"negative_prompt": "A boat."})
    by_hand = tiny_pipe(
        texts, negative_prompt=["A boat."] * 2, latents=noise, num_inference_steps=2, guidance_scale=2.5,
        output_type="np",
    )  # fmt: skip
    assert (one == (by_hand.images * 255).round()).all()
    assert (one != sample(tiny_pipe, texts, noise, config)).any()
    with pytest.raises(SaeuronError, match="extra arguments guidance_scale, latents are set by saeuron"):
        sample(tiny_pipe, texts, noise, config, {"latents": noise, "guidance_scale": 3.0})

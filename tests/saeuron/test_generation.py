from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, NotFinite
from saeuron.generation import Request, generate, latent_shape, requests, sample, spread
from saeuron.noise import initial_noise
from saeuron.prompts import Prompt

PROMPTS = [Prompt(t, "test") for t in ("A cat.", "A star in neon style.", "The boat.")]


def images(pipe, wanted, **config):
    config = ModelConfig(**{"steps": 3, "guidance": 2.0, **config})
    return {
        r.key: i for batch, made in generate(pipe, wanted, config, seed=5) for r, i in zip(batch, made, strict=True)
    }


def test_requests_and_spread():
    a, b, c = PROMPTS
    assert requests([a, b], 2) == [Request(a, 0), Request(a, 1), Request(b, 0), Request(b, 1)]
    assert spread([a, b, c], 5) == [Request(a, 0), Request(b, 0), Request(c, 0), Request(a, 1), Request(b, 1)]
    assert Request(a, 12).key == f"{a.id}_0012"


def test_latents_have_the_pipelines_own_size(tiny_pipe):
    assert latent_shape(tiny_pipe) == (48, 8, 8)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_images_do_not_depend_on_the_batch_they_are_in(tiny_pipe, guidance):
    wanted = requests(PROMPTS, 3)[:8]
    alone = images(tiny_pipe, wanted, micro_batch=1, guidance=guidance)
    together = images(tiny_pipe, wanted[::-1], micro_batch=8, guidance=guidance)
    assert alone.keys() == together.keys() == {r.key for r in wanted}
    assert max(np.abs(alone[k].astype(int) - together[k].astype(int)).max() for k in alone) <= 1
    # The comparison means something: other noise and other prompts give other images.
    assert len({image.tobytes() for image in alone.values()}) == 8


def test_before_rounding_they_agree_within_float32(tiny_pipe):
    wanted = requests(PROMPTS, 3)[:8]

    def run(batch):
        noise = initial_noise(5, [(r.prompt.id, r.index) for r in batch], (48, 8, 8))
        texts = [r.prompt.text for r in batch]
        # Two steps: an untrained model amplifies rounding at every one.
        return tiny_pipe(texts, latents=noise, num_inference_steps=2, guidance_scale=1.5, output_type="np").images

    alone = np.concatenate([run([r]) for r in wanted])
    assert np.abs(alone - run(wanted)).max() < 5e-6


def test_the_same_request_twice_is_the_same_image(tiny_pipe):
    wanted = requests(PROMPTS[:1], 2)
    one, two = images(tiny_pipe, wanted), images(tiny_pipe, wanted)
    assert len(one) == 2
    assert all((one[key] == two[key]).all() for key in one)


def test_shape_type_and_range(tiny_pipe):
    noise = initial_noise(0, [("a", 0), ("a", 1)], (48, 8, 8))
    made = sample(tiny_pipe, ["A cat.", "A cat."], noise, ModelConfig(steps=2))
    assert made.dtype == np.uint8
    assert made.shape == (2, 32, 32, 3)
    assert made.std() > 10


def test_batches_come_in_the_order_asked_for(tiny_pipe):
    wanted = requests(PROMPTS, 2)[:5]
    sizes, got = [], []
    for batch, made in generate(tiny_pipe, wanted, ModelConfig(steps=1, micro_batch=2), seed=0):
        sizes.append(len(made))
        got += batch
    assert sizes == [2, 2, 1]
    assert got == wanted


def test_half_precision_pipelines_run(make_pipe):
    pipe = make_pipe().to(dtype=torch.bfloat16, silence_dtype_warnings=True)
    wanted = requests(PROMPTS[:1], 1)
    (low,), (full,) = (images(p, wanted, steps=1, guidance=1.0).values() for p in (pipe, make_pipe()))
    assert np.abs(low.astype(int) - full.astype(int)).mean() < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused_by_its_prompt(tiny_pipe, monkeypatch, value):
    made = np.full((2, 32, 32, 3), 0.5, np.float32)
    made[1, 3, 4, 0] = value
    monkeypatch.setattr(type(tiny_pipe), "__call__", lambda self, **options: SimpleNamespace(images=made))
    noise = torch.zeros(2, 48, 8, 8)
    with pytest.raises(NotFinite, match=r"prompt 'A star\.' holds values that are not finite.*milder removal"):
        sample(tiny_pipe, ["A cat.", "A star."], noise, ModelConfig())
    made[1, 3, 4, 0] = 1.0
    assert sample(tiny_pipe, ["A cat.", "A star."], noise, ModelConfig())[1, 3, 4].tolist() == [255, 128, 128]


def test_weights_that_overflow_are_refused_and_never_a_black_picture(make_pipe):
    pipe = make_pipe().to(dtype=torch.float16, silence_dtype_warnings=True)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(60000)
    with pytest.raises(NotFinite, match="float16 overflows"):
        images(pipe, requests(PROMPTS[:1], 1), steps=2)


def test_more_steps_than_the_scheduler_has(tiny_pipe):
    with pytest.raises(ConfigError, match=r"1001 steps are more than .* take at most 1000"):
        sample(tiny_pipe, ["A cat."], torch.zeros(1, 48, 8, 8), ModelConfig.model_construct(steps=1001))


def test_prompts_that_bring_a_seed_and_a_guidance_have_these(tiny_pipe):
    brought = [Prompt("A cat.", "test", seed=41, guidance=g) for g in (3.0, 7.0)]
    wanted = [Request(PROMPTS[0], 0), Request(brought[0], 0), Request(brought[1], 0), Request(brought[1], 1)]
    found = images(tiny_pipe, wanted)
    noise = torch.randn((1, *latent_shape(tiny_pipe)), generator=torch.Generator("cpu").manual_seed(41))
    for prompt in brought:
        plain = tiny_pipe(
            ["A cat."] * 8, latents=noise.expand(8, -1, -1, -1), num_inference_steps=3,
            guidance_scale=prompt.guidance, output_type="np",
        ).images[0]  # fmt: skip
        assert np.array_equal(found[Request(prompt, 0).key], (plain * 255).round().astype(np.uint8))
    # Others have the run's, as before; a second image of the same prompt is another.
    assert np.array_equal(found[wanted[0].key], images(tiny_pipe, wanted[:1])[wanted[0].key])
    assert len({image.tobytes() for image in found.values()}) == 4

"""Maps over thirds of a generation, against hooks of their own and a loop over steps and positions."""

import copy

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.hooks import Step
from saeuron.pages.contents import RANGES, ConceptScore
from saeuron.prompts import Prompt
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.gathering import Reader
from saeuron.sae.diagnosis.thirds import THIRDS, Thirds
from tests.saeuron.sae.test_diagnosis import MAP, SEQUENCE, random_sae

IMAGES = [Request(Prompt(f"A {word}.", "test"), i) for word in ("cat", "moon", "star") for i in range(2)][:5]
CONFIG = DiagnosisConfig(images=5, rows=40, examples=3, seed=11)
TEXT = "text_encoder.encoder.layers.0"


def sae_at(path):
    """Without a threshold, so that f is as exact as the activations."""
    return random_sae(16 if path == MAP else 32, 12, hookpoint=path, threshold=0.0)


def read(pipe, sae, model):
    reader = Reader(pipe, sae, IMAGES, model.steps, CONFIG)
    for _ in reader.over(pipe, model):
        pass
    return reader.gathered()


def calls(pipe, path, model, batch):
    """[(timestep, rows [b, P, D])] of each call of a module, the conditional half, by torch's hooks alone."""
    now, found = [], []

    def before(module, args, kwargs):
        now.append(int(kwargs["timestep"] if "timestep" in kwargs else args[1]))

    def after(module, args, output):
        rows = output if isinstance(output, torch.Tensor) else output[0]
        rows = rows.flatten(2).transpose(1, 2) if rows.ndim == 4 else rows
        found.append((now[-1], rows[len(rows) // 2 :][: len(batch)].clone()))

    handles = [
        pipe.unet.register_forward_pre_hook(before, with_kwargs=True),
        pipe.unet.get_submodule(path.removeprefix("unet.")).register_forward_hook(after),
    ]
    try:
        list(generate(pipe, batch, model, CONFIG.seed))
    finally:
        for handle in handles:
            handle.remove()
    return found


def slowly(pipe, sae, model, sizes):
    """(float64 [images, 3, P, N] means over thirds of so many timesteps, [N] the largest f of all)."""
    W_enc, b_enc, b_dec = (t.double().numpy() for t in (sae.W_enc, sae.b_enc, sae.b_dec))
    means, largest = [], np.zeros(len(b_enc))
    for start in range(0, len(IMAGES), model.micro_batch):
        seen = calls(pipe, sae.info.hookpoint, model, IMAGES[start : start + model.micro_batch])
        timesteps = sorted({t for t, _ in seen}, reverse=True)
        assert sum(sizes) == len(timesteps)
        for image in range(len(seen[0][1])):
            total, count = np.zeros((3, seen[0][1].shape[1], len(b_enc))), np.zeros(3)
            for timestep, rows in seen:
                place = timesteps.index(timestep)
                third = 0 if place < sizes[0] else 1 if place < sizes[0] + sizes[1] else 2
                count[third] += 1
                for position, x in enumerate(rows[image].double().numpy()):
                    f = np.maximum(W_enc @ (x - b_dec) + b_enc, 0)
                    total[third, position] += f
                    largest = np.maximum(largest, f)
            means.append(total / count[:, None, None])
    return np.stack(means), largest


def pndm(pipe):
    """The pipeline with a scheduler that calls the denoiser twice at one timestep."""
    other = copy.copy(pipe)
    other.register_modules(scheduler=PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True))
    return other


@pytest.mark.parametrize(
    ("path", "steps", "sizes", "change"),
    [
        (MAP, 8, [3, 3, 2], None),
        (SEQUENCE, 4, [2, 1, 1], None),
        (SEQUENCE, 3, [1, 1, 1], None),
        (MAP, 7, [3, 2, 2], pndm),
    ],
)
def test_are_means_over_the_steps_of_each_third(tiny_pipe, path, steps, sizes, change):
    sae, model = sae_at(path), ModelConfig(steps=steps, micro_batch=2)
    pipe = change(tiny_pipe) if change else tiny_pipe
    found = read(pipe, sae, model)
    means, largest = slowly(pipe, sae, model, sizes)
    top, fires = found.examples, largest > 0
    assert fires.sum() >= 8 and len(found.firing.timesteps) == steps
    assert (found.firing.rows.max() > found.firing.rows.min()) == bool(change)  # PNDM repeats a step
    assert len(top.thirds) == 3 and top.thirds[0].dtype == torch.uint8 and top.thirds[0].shape == top.heat.shape
    stored = torch.stack(top.thirds).double().numpy()
    for place in range(3):
        for latent in np.flatnonzero(fires):
            wanted = 255 * means[top.image[place, latent], :, :, latent] / largest[latent]
            assert np.abs(stored[:, place, :, latent] - wanted).max() <= 0.5 + 1e-3
    # They are not all alike, or this would say little.
    assert np.abs(stored[0] - stored[2]).max() > 20


@pytest.mark.parametrize("path", [MAP, SEQUENCE])
def test_do_not_depend_on_the_micro_batch(tiny_pipe, path):
    sae = sae_at(path)
    one, two, all_ = (
        read(tiny_pipe, sae, ModelConfig(steps=4, micro_batch=size)).examples for size in (1, 2, len(IMAGES))
    )
    for other in (one, two):
        assert torch.equal(other.image, all_.image)
        for third, same in zip(other.thirds, all_.thirds, strict=True):
            # A value half way between two may be rounded either way.
            assert (third.int() - same.int()).abs().max() <= 1


@pytest.mark.parametrize("steps", [1, 2])
def test_a_model_of_fewer_than_three_steps(tiny_pipe, steps):
    found = read(tiny_pipe, sae_at(MAP), ModelConfig(steps=steps, micro_batch=5))
    top = found.examples
    assert len(top.thirds) == steps
    for place, timestep in enumerate(found.firing.timesteps):
        # A third of one step is its map; at the step where f is largest that is `heat`.
        here = (top.timestep[:3] == timestep)[:, None].expand(-1, top.heat.shape[1], -1)
        assert here.any() and torch.equal(top.thirds[place][here], top.heat[here])


def test_a_text_encoder_has_none(tiny_pipe):
    found = read(tiny_pipe, sae_at(TEXT), ModelConfig(steps=4, micro_batch=2))
    assert found.examples.thirds == [] and found.examples.heat.any()


@pytest.mark.parametrize("steps", range(1, 12))
def test_the_split_is_that_of_scores(steps):
    """The same values as scores of steps and as a latent at one position: the same three means."""
    values, timesteps = np.random.default_rng(steps).random(steps), torch.arange(steps).flip(0)
    thirds = Thirds()
    for value, timestep in zip(values, timesteps.tolist(), strict=True):
        thirds.add(Step(timestep, generation=timesteps), torch.full((1, 1, 1), value, dtype=torch.float64))
    means = [float(mean) for mean in thirds.means()]
    wanted = ConceptScore("style", "neon", timesteps.tolist(), values.tolist()).by_range
    assert len(thirds) == min(steps, 3) and len(RANGES) == THIRDS
    assert means + [None] * (3 - len(means)) == pytest.approx(wanted)

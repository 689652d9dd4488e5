"""ESD: its loss against single pictures, its sampling against the pipeline's, and what training changes."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.attacks.soft import unguided
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, latent_shape, requests
from saeuron.methods.bake import bake
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.methods.weights import esd
from saeuron.methods.weights.esd import Pictures, cleaner
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.training import LowRank
from saeuron.noise import generator, initial_noise
from saeuron.pipelines import family_of
from saeuron.prompts import Prompt

SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")
METHOD = methods.get("esd")
MODEL = ModelConfig(steps=3, guidance=2.0, micro_batch=8)
ASKED, OTHERS, KEPT = (
    ["A neon star.", "A cat in neon style."],
    ["A dots star.", "A cat in sepia style."],
    ["Cat.", "A dog."],
)


def prompts(*styles):
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


@pytest.fixture(scope="module")
def pipe(make_pipe):
    return make_pipe(2)


def evidence_of(pipe, concept, *others):
    return Evidence(concept, "style", pipe=pipe, model=MODEL, asked=prompts(concept), retained=prompts(*others), seed=4)


@pytest.fixture(scope="module")
def evidence(pipe):
    return evidence_of(pipe, "neon", "dots", "sepia")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(esd, "PICTURES", 4)
    monkeypatch.setattr(esd, "BATCH", 4)


def made(evidence, **settings):
    return METHOD.removal(evidence, None, {"eta": 1.0, "against": "others", "keep": 1.0} | settings)


def noise(pipe, count=2):
    return initial_noise(7, [("a", i) for i in range(count)], latent_shape(pipe, MODEL))


@pytest.mark.parametrize(("against", "keep"), [("others", 0.5), ("empty", 0.0)])
def test_the_loss_is_that_of_the_definition(pipe, against, keep):
    terms = LowRank(pipe, cross_attention(pipe), 2, 0.0, 0)
    with torch.no_grad():
        for path, (up, _) in terms.factors.items():
            up.normal_(generator=generator(1, path))
    edited = Removal("neon", "style", "esd", {}, terms.parts())
    family, z, others = family_of(pipe), noise(pipe), OTHERS if against == "others" else ["", ""]

    def predicted(text, i, changed):
        with torch.no_grad(), removed(pipe, [edited] if changed else []):
            told = family.encode_prompt(pipe, [text])
            return family.predict_noise(pipe, z[i : i + 1], 500, told)[0].double()

    with unguided(pipe):
        loss, eps = Pictures(pipe, ASKED, others, KEPT).loss(terms, z, 500, {"eta": 1.5, "keep": keep}, 3.0)
        total = []
        for i, (c, u, x) in enumerate(zip(ASKED, others, KEPT, strict=True)):
            target = predicted(u, i, False) - 1.5 * (predicted(c, i, False) - predicted(u, i, False))
            mine = predicted(c, i, True)
            held = float(((predicted(x, i, True) - predicted(x, i, False)) ** 2).mean())
            total.append(float(((mine - target) ** 2).mean()) + keep * held)
            empty = predicted("", i, True)
            torch.testing.assert_close(eps[i].double(), empty + 3.0 * (mine - empty), rtol=1e-3, atol=1e-4)
    assert float(loss.detach()) == pytest.approx(sum(total) / 2, rel=1e-3) and loss.requires_grad


def test_sampling_is_the_pipelines(pipe):
    z, terms = noise(pipe), LowRank(pipe, cross_attention(pipe), 2, 0.0, 0)
    call = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "latent"}
    expected = pipe(ASKED, latents=z.clone(), **call).images
    steps = sorted({int(t) for t in pipe.scheduler.timesteps.tolist()}, reverse=True)
    levels = [*(float(pipe.scheduler.alphas_cumprod[t]) for t in steps), 1.0]
    with unguided(pipe):
        pictures = Pictures(pipe, ASKED, OTHERS, KEPT)
        for t, b, a in zip(steps, levels[:-1], levels[1:], strict=True):
            z = cleaner(z, pictures.loss(terms, z, t, {"eta": 1.0, "keep": 0.0}, 2.0)[1], b, a)
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=5e-3)


def test_training_lowers_the_loss_repeats_and_leaves_the_weights(evidence):
    pipe, z = evidence.pipe, noise(evidence.pipe)
    before = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    removal = made(evidence)
    assert {path for part in removal.parts for path in part.layers} == {*cross_attention(pipe)}
    for one, two in zip(removal.parts, made(evidence).parts, strict=True):
        assert one.layers == two.layers and torch.equal(one.up, two.up) and torch.equal(one.down, two.down)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in pipe.unet.named_parameters())
    with unguided(pipe):
        pictures, settings = Pictures(pipe, ASKED, OTHERS, KEPT), {"eta": 1.0, "keep": 0.0}
        terms = LowRank(pipe, cross_attention(pipe), 2, 0.0, 0)
        plain = float(pictures.loss(terms, z, 500, settings, 2.0)[0].detach())
        for part in removal.parts:
            terms.factors[part.layers[0]] = (part.up.requires_grad_(), part.down.requires_grad_())
        trained = float(pictures.loss(terms, z, 500, settings, 2.0)[0].detach())
    assert trained < 0.8 * plain


def draw(pipe, removals):
    asked = requests([Prompt(t, "test") for t in ("A neon star.", "A dots star.")], 1)
    with removed(pipe, removals):
        return np.concatenate([p for _, p in generate(pipe, asked, MODEL, 5)]).astype(int)


def test_strength_files_several_and_baking(evidence, make_pipe, tmp_path):
    pipe, plain = evidence.pipe, draw(evidence.pipe, [])
    removal, other = made(evidence), made(evidence_of(evidence.pipe, "mosaic", "dots", "sepia"))
    edited = draw(pipe, [removal])
    assert (edited != plain).any() and (draw(pipe, [removal.at(0)]) == plain).all()
    removal.save(tmp_path / "r")
    loaded = Removal.load(tmp_path / "r")
    assert (draw(pipe, [loaded]) == edited).all() and (draw(pipe, []) == plain).all()
    assert np.abs(draw(pipe, [other, loaded]) - draw(pipe, [removal, other])).max() <= 1
    copy = make_pipe(2)
    bake(copy, removal)
    assert (draw(copy, []) == edited).all()


def test_settings_and_other_schedulers(evidence, monkeypatch):
    for grid, message in (
        ({"eta": (-1,)}, "eta holds -1; expected numbers of at least 0"),
        ({"against": ("cat",)}, "against holds 'cat'; expected 'others' or 'empty'"),
    ):
        with pytest.raises(ConfigError, match=message):
            METHOD.candidates(grid)
    assert [s["keep"] for s in METHOD.candidates({"keep": (0, 2)})] == [2.0, 0.0]
    monkeypatch.setattr(evidence.pipe.scheduler, "alphas_cumprod", None)
    with pytest.raises(ConfigError, match="the scheduler DDIMScheduler has no alphas_cumprod"):
        made(evidence)

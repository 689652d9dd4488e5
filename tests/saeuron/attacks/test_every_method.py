"""Every attack on every method: it runs, it knows the removal, and guidance and gates are in what it lowers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.attacks import ATTACKS, Target, get
from saeuron.attacks.attack import Effort
from saeuron.attacks.inversion import inverted
from saeuron.attacks.soft import SHUT, Noised, at_guidance, replaced, table_of
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import Request, generate, requests
from saeuron.methods.base import Evidence
from saeuron.methods.detection.thresholds import MIN_TAU
from saeuron.methods.parts import relative
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text import sae as text_sae
from saeuron.methods.text.states import rows
from saeuron.methods.weights import esd, text_redirect
from saeuron.noise import generator
from saeuron.pipelines import family_of
from saeuron.prompts import Prompt
from tests.saeuron.methods.removals import random_profile, random_sae

SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")
MODEL = ModelConfig(steps=1, guidance=2.0, micro_batch=2)
QUICK = Effort(words=2, iterations=2, steps=1, learned=2)
PLACE = "unet.conv_in"


def prompts(*styles: str) -> list[Prompt]:
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


ASKED = prompts("neon")[:2]


@pytest.fixture(scope="module")
def evidence(tiny_pipe: Any) -> Evidence:
    asked, stay = prompts("neon"), prompts("dots", "sepia")
    sae = {PLACE: random_sae(width=16, n=64, hookpoint=PLACE)}
    return Evidence(
        "neon", "style", (PLACE,), "both", sae, {PLACE: "s"}, {PLACE: random_profile(n=64)}, tiny_pipe, MODEL,
        requests(asked, 1), requests(stay, 1), asked, stay, 1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def removal(evidence: Evidence) -> Callable[[str], Removal]:
    """The strongest candidate of a method, trained hardly where it is trained."""

    def of(name: str) -> Removal:
        method = methods.get(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(esd, "PICTURES", 2)
            patch.setattr(esd, "BATCH", 2)
            patch.setattr(text_redirect, "STEPS", 2)
            patch.setattr(text_sae, "PASSES", 4)
            return method.removal(evidence, method.learn(evidence), method.candidates({})[-1])

    return of


@pytest.fixture(scope="module")
def pictures(tiny_pipe: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([p for _, p in generate(tiny_pipe, [Request(p, 1000) for p in ASKED], MODEL, 0)])


def target(pipe: Any, pictures: np.ndarray[Any, Any], about: Any, **changes: Any) -> Target:
    told: dict[str, Any] = {"guided": about.needs_guidance, "call": about.call, "gates": about.gates} | changes
    return Target(pipe, "neon", ASKED, pictures, {ASKED[0].text: ["Some neon."]}, MODEL, **told)


def loss(pipe: Any, pictures: np.ndarray[Any, Any], removals: Sequence[Removal], **changes: Any) -> torch.Tensor:
    with removed(pipe, removals) as about:
        found = Noised(target(pipe, pictures, about, **changes), 2)
        return found.loss([0, 1], [p.text for p in ASKED], found.timesteps[0])


@pytest.mark.parametrize("name", methods.BUILT_IN)
def test_every_attack_runs_and_its_loss_knows_the_removal(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal], name: str
) -> None:
    made, counts = removal(name), {}
    with removed(tiny_pipe, [made]) as about:
        for attack in ATTACKS:
            found = [a for batch in get(attack)(target(tiny_pipe, pictures, about), QUICK) for a in batch]
            counts[attack] = len(found)
    assert counts == {"none": 2, "paraphrase": 1, "random": 2, "gradient": 2, "embedding": 4, "inversion": 4}
    with torch.no_grad():
        mine = loss(tiny_pipe, pictures, [made])
        without = loss(tiny_pipe, pictures, [], guided=about.needs_guidance)
    assert torch.isfinite(mine).all() and not torch.equal(mine, without)


def noised_by_hand(pipe: Any, pictures: np.ndarray[Any, Any], timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_t, noise) of the two pictures."""
    draws = [generator(0, "attack", p.id, timestep) for p in ASKED]
    clean = family_of(pipe).encode_images(pipe, torch.from_numpy(pictures))
    noise = torch.stack([torch.randn(clean.shape[1:], generator=draw) for draw in draws])
    a = pipe.scheduler.alphas_cumprod[timestep]
    return a.sqrt() * clean + (1 - a).sqrt() * noise, noise


def eps_of(pipe: Any, z: torch.Tensor, texts: Sequence[str], timestep: int) -> torch.Tensor:
    """The unedited prediction of noise for some texts, from the network's v."""
    a = pipe.scheduler.alphas_cumprod[timestep]
    words = pipe.encode_prompt(list(texts), "cpu", 1, False)[0]
    return a.sqrt() * pipe.unet(z, timestep, encoder_hidden_states=words).sample + (1 - a).sqrt() * z


@torch.no_grad()
def test_the_loss_of_a_negative_prompt_is_that_of_the_guided_prediction(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal]
) -> None:
    made = removal("negative_prompt")
    with removed(tiny_pipe, [made]) as about:
        timestep = Noised(target(tiny_pipe, pictures, about), 1).timesteps[0]
    z, noise = noised_by_hand(tiny_pipe, pictures, timestep)
    [(_, text)] = made.parts[0].arguments.items()  # type: ignore[attr-defined]
    negative = eps_of(tiny_pipe, z, [text, text], timestep)
    wanted = eps_of(tiny_pipe, z, [p.text for p in ASKED], timestep)
    eps = negative + MODEL.guidance * (wanted - negative)
    expected = (eps - noise).square().flatten(1).mean(1)
    torch.testing.assert_close(loss(tiny_pipe, pictures, [made]), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_guidance_mask_is_that_of_what_it_leaves(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal]
) -> None:
    made = removal("sae_guidance")
    [mask] = made.parts
    # Floors below every latent: it fires everywhere, so that e_c' = e_u - push (e_c - e_u) at all positions.
    [sensor] = mask.sensors  # type: ignore[attr-defined]
    everywhere = replace(
        sensor, threshold=torch.full_like(sensor.threshold, -1e9), floor=torch.full_like(sensor.floor, -1e9)
    )
    part = replace(mask, sensors=(everywhere,), amount=1.25)  # type: ignore[call-arg]
    with removed(tiny_pipe, []) as about:
        timestep = Noised(target(tiny_pipe, pictures, about), 1).timesteps[0]
    z, noise = noised_by_hand(tiny_pipe, pictures, timestep)
    without = eps_of(tiny_pipe, z, ["", ""], timestep)
    wanted = eps_of(tiny_pipe, z, [p.text for p in ASKED], timestep)
    masked = wanted + 1.25 * (without - wanted)
    eps = without + MODEL.guidance * (masked - without)
    expected = (eps - noise).square().flatten(1).mean(1)
    found = loss(tiny_pipe, pictures, [replace(made, parts=(part,))])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_inverted_noise_gives_the_picture_back_under_a_negative_prompt(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal]
) -> None:
    model = MODEL.model_copy(update={"steps": 4})
    with removed(tiny_pipe, [removal("negative_prompt")]) as about:
        asked = replace(target(tiny_pipe, pictures, about), model=model)
        back = asked.draw(["", ""], inverted(asked))
        unguided = asked.draw(["", ""], inverted(replace(asked, guided=False)))

    def away(drawn: np.ndarray[Any, Any]) -> float:
        return float(np.abs(drawn.astype(float) - pictures).mean())

    assert away(back) < 1 < 3 < away(unguided), (away(back), away(unguided))


@pytest.mark.parametrize("name", ["semantic_gate", "itd"])
def test_a_gradient_leads_words_to_where_a_gate_by_prompt_is_shut(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal], name: str
) -> None:
    made = removal(name)
    [part] = made.parts
    texts = [p.text for p in ASKED]
    tokens = tiny_pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[:, 1:4] = True
    soft = table_of(tiny_pipe, tokens[where]).requires_grad_()
    # At strength 0 the edit changes nothing, so that only the margin is left of the difference.
    idle = Removal("neon", "style", name, {}, (part.scaled(0.0),)) if name == "semantic_gate" else made
    gradients = []
    for removals in ([idle], []):
        with torch.enable_grad(), replaced(tiny_pipe, where, soft, tokens):
            found = loss(tiny_pipe, pictures, removals)
            gradients.append(torch.autograd.grad(found.sum(), [soft])[0])
    mine, unedited = gradients
    assert torch.isfinite(mine).all() and (mine - unedited).norm() > 1e-4


@torch.no_grad()
def test_how_far_a_gate_by_prompt_is_open_is_added_to_the_loss(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal]
) -> None:
    [part] = removal("semantic_gate").parts
    idle = Removal("neon", "style", "semantic_gate", {}, (part.scaled(0.0),))
    g = part.cosines(rows(tiny_pipe, [p.text for p in ASKED], part.hookpoint))[:, 0]  # type: ignore[attr-defined]
    tau = part.tau  # type: ignore[attr-defined]
    margin = (g - tau) / (g.abs() + tau.abs())
    assert (margin > 0).all()
    added = loss(tiny_pipe, pictures, [idle]) - loss(tiny_pipe, pictures, [])
    torch.testing.assert_close(added, margin + SHUT, rtol=1e-3, atol=1e-4)


def test_margins_are_relative_and_minus_one_where_a_gate_never_opens() -> None:
    found = relative(torch.tensor([3.0, 1.0, 0.0, 5.0]), torch.tensor([1.0, 3.0, MIN_TAU, torch.inf]))
    torch.testing.assert_close(found, torch.tensor([0.5, -0.5, -1.0, -1.0]))


def test_words_are_put_into_the_prompts_and_not_into_the_negative_prompt(tiny_pipe: Any) -> None:
    texts, family = [p.text for p in ASKED], family_of(tiny_pipe)
    tokens = tiny_pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[:, 1:3] = True
    with torch.no_grad(), at_guidance(tiny_pipe, 2.0):
        plain = family.encode_prompt(tiny_pipe, texts, "neon")["encoder_hidden_states"]
        with replaced(tiny_pipe, where, torch.ones(4, 32), tokens):
            changed = family.encode_prompt(tiny_pipe, texts, "neon")["encoder_hidden_states"]
    assert torch.equal(plain[:2], changed[:2]) and not torch.equal(plain[2:], changed[2:])


def test_a_removal_that_needs_guidance_is_refused_where_there_is_none(
    tiny_pipe: Any, pictures: np.ndarray[Any, Any], removal: Callable[[str], Removal]
) -> None:
    with removed(tiny_pipe, [removal("negative_prompt")]) as about:
        asked = target(tiny_pipe, pictures, about)
        plain = replace(asked, model=MODEL.model_copy(update={"guidance": 1.0}))
        with pytest.raises(ConfigError, match=r"only under guidance.*model\.guidance is 1"):
            inverted(plain)

"""Attacks: the simplex, soft tokens, gradients through an edit, the sampler run backwards, and who is left alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saeuron.attacks import ATTACKS, Attempt, Target, get
from saeuron.attacks.attack import Effort, without
from saeuron.attacks.embedding import _told
from saeuron.attacks.gradient import _drawn, projected
from saeuron.attacks.inversion import inverted
from saeuron.attacks.soft import Noised, allowed, check_length, prefixed, replaced, unguided
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import Request, generate
from saeuron.methods.removal import removed
from saeuron.methods.steering import DirectionEdit
from saeuron.pipelines import family_of
from saeuron.prompts import Prompt
from saeuron.sae.diagnosis.denoising import evenly

MODEL = ModelConfig(spec="canvas20", steps=3, micro_batch=8, guidance=2.0)
QUICK = Effort(words=2, iterations=2, steps=2, learned=4)
PROMPTS = [Prompt(f"A {s} picture of a cat.", "test", {"style": s, "object": "cat"}) for s in ("neon", "dots", "grain")]


@pytest.fixture(scope="module")
def target(make_pipe: Callable[..., Any]) -> Target:
    pipe = make_pipe()
    aims = [pictures for _, pictures in generate(pipe, [Request(p, 1000) for p in PROMPTS], MODEL, 0)]
    more = {p.text: [f"The cat in {p.concepts['style']} style."] for p in PROMPTS[:2]}
    return Target(pipe, "cat", PROMPTS, np.concatenate(aims), more, MODEL)


def fresh(target: Target, **changes: Any) -> Target:
    return replace(target, broken=set(), **changes)


def test_projection_is_that_of_the_sorting_algorithm() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(50, 7, generator=generator) * torch.logspace(-3, 2, 50)[:, None]

    def slow(row: torch.Tensor) -> torch.Tensor:
        """Held, Wolfe, Crowder 1974: the threshold from the sorted values."""
        ordered = row.double().sort(descending=True).values
        sums = ordered.cumsum(0) - 1
        count = int((ordered - sums / torch.arange(1, len(row) + 1) > 0).sum())
        return (row.double() - sums[count - 1] / count).clamp(min=0)

    expected = torch.stack([slow(row) for row in theta])
    assert torch.allclose(projected(theta).double(), expected, atol=1e-5)
    assert torch.allclose(projected(theta).sum(1), torch.ones(50))


def test_a_drawn_token_is_one_hot_and_passes_the_gradient_of_hardtanh() -> None:
    theta = torch.tensor([[0.5, 0.2, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    found = _drawn(theta, torch.Generator().manual_seed(0))
    assert found.sum(1).tolist() == [1, 1] and sorted(found[0].tolist()) == [0, 0, 1]
    found.sum().backward()
    assert theta.grad is not None and theta.grad.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_allowed_words_are_read_back_as_the_same_tokens(target: Target) -> None:
    tokenizer = target.pipe.tokenizer
    words = allowed(tokenizer)
    text = prefixed(tokenizer, words[:5], "a cat.")
    assert tokenizer(text).input_ids[1:6] == words[:5].tolist()
    named = {tokenizer.decode([int(t)]).strip() for t in words}
    hidden = {tokenizer.decode([int(t)]).strip() for t in allowed(tokenizer, "cat")}
    assert "cat" in named and "cat" not in hidden and "neon" in hidden
    assert not any(token in tokenizer.all_special_ids for token in words.tolist())
    with pytest.raises(ConfigError, match="take fewer words"):
        check_length(tokenizer, [prefixed(tokenizer, words[:14], "a cat.")])


def test_a_tokens_own_embedding_in_its_place_changes_nothing(target: Target) -> None:
    pipe, texts = target.pipe, ["A neon cat.", "A dots cat."]
    ids = pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    cat = pipe.tokenizer("cat", add_special_tokens=False).input_ids[0]
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    plain = pipe.encode_prompt(texts, "cpu", 1, False)[0]
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, 1:3] = True
    with replaced(pipe, where, table[ids[where]]):
        assert torch.equal(pipe.encode_prompt(texts, "cpu", 1, False)[0], plain)
    with replaced(pipe, torch.tensor(cat), table[cat]):
        assert torch.equal(pipe.encode_prompt(texts, "cpu", 1, False)[0], plain)
    with replaced(pipe, torch.tensor(cat), table[cat] * 2):
        assert not torch.equal(pipe.encode_prompt(texts, "cpu", 1, False)[0], plain)
    assert torch.equal(pipe.encode_prompt(texts, "cpu", 1, False)[0], plain)


def test_the_loss_is_that_of_the_definition_and_feels_the_edit(target: Target) -> None:
    found = Noised(target, 2)
    assert found.timesteps == evenly(sorted(map(int, target.pipe.scheduler.timesteps.tolist()), reverse=True), 2)
    pipe, family, timestep = target.pipe, family_of(target.pipe), found.timesteps[0]
    with torch.no_grad():
        losses = found.loss([0, 2], [PROMPTS[0].text, PROMPTS[2].text], timestep)
        alone = found.loss([2], [PROMPTS[2].text], timestep)
    assert losses[1].item() == pytest.approx(alone.item(), rel=1e-4)

    from saeuron.noise import generator

    clean = family.encode_images(pipe, torch.from_numpy(target.pictures[2:3]))
    draws = generator(target.seed, "attack", PROMPTS[2].id, timestep)
    noise = torch.randn(clean.shape[1:], generator=draws)[None]
    a = pipe.scheduler.alphas_cumprod[timestep]
    noised = a.sqrt() * clean + (1 - a).sqrt() * noise
    with torch.no_grad():
        words = pipe.encode_prompt([PROMPTS[2].text], "cpu", 1, False)[0]
        v = pipe.unet(noised, timestep, encoder_hidden_states=words).sample
    expected = (a.sqrt() * v + (1 - a).sqrt() * noised - noise).square().mean()
    assert alone.item() == pytest.approx(expected.item(), rel=1e-4)

    width = pipe.unet.up_blocks[0].attentions[1].config.in_channels if False else 32
    edit = DirectionEdit(
        hookpoint="unet.up_blocks.0.attentions.1",
        half="both",
        timesteps=torch.tensor([timestep]),
        direction=torch.ones(1, width),
    )
    from saeuron.methods.removal import Removal

    with torch.no_grad(), removed(pipe, [Removal("cat", "object", "steering", {}, (edit,))]):
        assert found.loss([2], [PROMPTS[2].text], timestep).item() != pytest.approx(alone.item(), rel=1e-4)


def test_unguided_restores_the_pipeline(target: Target) -> None:
    before = target.pipe.guidance_scale
    with unguided(target.pipe):
        assert not target.pipe.do_classifier_free_guidance
    assert target.pipe.guidance_scale == before


def test_inverted_noise_gives_the_picture_back(target: Target) -> None:
    noise = inverted(target)
    texts = [""] * len(PROMPTS)
    back = target.draw(texts, noise, guidance=1.0)
    other = target.draw(texts, target.noise([0, 1, 2]), guidance=1.0)

    def away(pictures: np.ndarray[Any, Any]) -> float:
        return float(np.abs(pictures.astype(float) - target.pictures).mean())

    assert away(back) < 1 < 10 < away(other)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_reproducible_and_leaves_broken_prompts_alone(target: Target, name: str) -> None:
    first = [a for batch in get(name)(fresh(target), QUICK) for a in batch]
    again = [a for batch in get(name)(fresh(target), QUICK) for a in batch]
    assert first and [a[:4] for a in first] == [a[:4] for a in again]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(first, again, strict=True))
    assert all(a.picture.dtype == np.uint8 and a.picture.shape == (32, 32, 3) for a in first)
    spared = fresh(target)
    spared.broken.add(0)
    left = [a for batch in get(name)(spared, QUICK) for a in batch]
    assert {a.prompt for a in first} - {0} == {a.prompt for a in left}
    spared.broken.update((1, 2))
    assert not [a for batch in get(name)(spared, QUICK) for a in batch]


@pytest.mark.parametrize("name", ATTACKS)
def test_hidden_names_are_in_no_text(target: Target, name: str) -> None:
    found: list[Attempt] = [a for batch in get(name)(fresh(target, hide=True), QUICK) for a in batch]
    assert found and not any("cat" in a.text.lower() for a in found)


def test_texts_without_a_name() -> None:
    assert without("A picture of a cat, in neon style.", "cat") == "A picture of a, in neon style."
    assert without("A category of cats.", "cat") == "A category of cats."
    assert _told("A Cat.", "cat", "word") == "A word." and _told("A dog.", "cat", "word") == "word A dog."


def test_bad_requests_are_told() -> None:
    with pytest.raises(UnknownName, match="gradient"):
        get("gradiant")


def test_pictures_have_the_size_that_the_model_is_asked_for(target: Target) -> None:
    """The noise is that of the evaluation, so the first picture is the evaluation's own."""
    model = MODEL.model_copy(update={"size": (32, 48)})
    [expected] = [pictures for _, pictures in generate(target.pipe, [Request(p, 0) for p in PROMPTS], model, 0)]
    [found] = get("none")(fresh(target, model=model), QUICK)
    assert np.array_equal(np.stack([a.picture for a in found]), expected) and expected.shape == (3, 32, 48, 3)


def test_the_noise_of_a_picture_does_not_depend_on_how_many_there_are(target: Target) -> None:
    whole = inverted(target)
    assert torch.equal(inverted(fresh(target, prompts=PROMPTS[:1], pictures=target.pictures[:1])), whole[:1])


def test_paraphrases_that_are_alike_without_the_name_are_drawn_once(target: Target) -> None:
    prompt = PROMPTS[0]
    others = {prompt.text: ["The cat in neon style.", "The Cat in neon style.", "A neon picture of a cat."]}
    found = [a.text for b in get("paraphrase")(fresh(target, hide=True, paraphrases=others), QUICK) for a in b]
    assert found == ["The in neon style."]

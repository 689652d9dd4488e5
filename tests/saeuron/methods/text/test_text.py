"""Edits of a text encoder: latents of a concept's prompts alone, a gate by prompt, and what stays bit for bit."""

import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, requests
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text import sae as text_sae
from saeuron.methods.text.states import layer, rows
from saeuron.prompts import Prompt
from saeuron.sae.config import SAEConfig

SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")
TRAINING = SAEConfig(variant="batch_topk", expansion=4, k=4, batch=64, steps=30, lr=1e-2, inference="threshold")


def prompts(*styles):
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return Evidence("neon", "style", pipe=tiny_pipe, asked=prompts("neon"), retained=prompts("dots", "sepia"))


@pytest.fixture(scope="module")
def found(evidence):
    return text_sae.text_latents(evidence, -2, TRAINING)


def test_a_concepts_latents_are_strong_in_no_other_prompt(evidence, found):
    def strongest(prompt, count):
        f = found.sae.encode(rows(evidence.pipe, [prompt.text], layer(evidence.pipe, -2))[0][1:])
        order = sorted(range(f.shape[1]), key=lambda i: -float(f[:, i].max()))
        return {i for i in order[:count] if f[:, i].max() > 0}

    best: tuple[int, set[int]] = (0, set())
    for count in (8, 4, 2, 1):  # 2 k, and parts of it
        mine = {*()}.union(*(strongest(p, count) for p in evidence.asked))
        chosen = mine - {*()}.union(*(strongest(p, count) for p in evidence.retained))
        covered = sum(bool(chosen & strongest(p, 10**6)) for p in evidence.asked)
        best = max(best, (covered, chosen), key=lambda each: each[0])
    assert best[0] > 0 and best[1] == set(found.chosen.nonzero().flatten().tolist())


def test_itd_edits_the_prompts_that_ask_for_the_concept(evidence, found):
    edit = methods.get("itd").edit(found, -4.0)
    x = found.asked
    f = found.sae.encode(x) * found.chosen
    f[:, 0] = 0
    delta = -5.0 * f @ found.sae.W_dec
    q = delta.square().sum(-1).mean(-1)
    torch.testing.assert_close(edit.gated(x, -1)[0], delta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(edit.tau, (0.99 * q[q > 0].min())[None])
    assert bool(((edit.gated(x, -1)[1] >= edit.tau) == (q > 0)).all()) and (delta[:, 0] == 0).all() and (q > 0).any()


@pytest.mark.parametrize("name", ["itd", "text_latents"])
def test_the_control_is_the_same_edit_of_an_sae_that_was_never_trained(name, evidence, monkeypatch):
    monkeypatch.setattr(text_sae, "TRAINING", TRAINING)
    settings = {"beta": -2.0, "layer": -2}
    method, control = methods.get(name), methods.get(f"{name}_untrained")
    [trained], [untrained] = (m.parts(evidence, m.learn(evidence), settings) for m in (method, control))
    assert isinstance(control, type(method)) and (control.dictionary, control.like) == ("untrained", name)
    assert (trained.kind, trained.hookpoint) == (untrained.kind, untrained.hookpoint)
    saes = [text_sae.text_latents(evidence, -2, TRAINING.learning(kind)).sae for kind in ("trained", "untrained")]
    for sae, part in zip(saes, (trained, untrained), strict=True):
        assert len(part.latents) and torch.equal(part.W_dec, sae.W_dec[part.latents])
    # As it was drawn: the encoder is the decoder's transpose, and the trained one's is not.
    ties = [torch.nn.functional.cosine_similarity(sae.W_enc, sae.W_dec).min() for sae in saes]
    assert ties[1] > 0.999 > ties[0]


@pytest.mark.parametrize("name", ["itd", "text_latents"])
def test_a_control_without_a_latent_of_the_concept_changes_nothing_and_a_trained_sae_is_refused(name, evidence):
    # The same prompts on both sides: no latent is the concept's alone.
    same = Evidence("neon", "style", pipe=evidence.pipe, asked=evidence.asked, retained=evidence.asked)
    with pytest.raises(ConfigError, match="none of the 128 latents"):
        text_sae.text_latents(same, -2, TRAINING)
    found = text_sae.text_latents(same, -2, TRAINING.learning("untrained"))
    assert not found.chosen.any()
    removal = Removal("neon", "style", name, {}, (methods.get(f"{name}_untrained").edit(found, -8.0),))
    texts = ["A neon star.", "A dots star."]
    pairs = zip(draw(evidence.pipe, texts, [removal]), draw(evidence.pipe, texts, []), strict=True)
    assert all((a == b).all() for a, b in pairs)


def draw(pipe, texts, removals):
    asked = requests([Prompt(t, "test") for t in texts], 1)
    with removed(pipe, removals) as call:
        return [
            p for _, made in generate(pipe, asked, ModelConfig(steps=2, guidance=2.0), 5, extra=call.call) for p in made
        ]


def test_images_of_prompts_that_do_not_fire_are_the_same_bit_for_bit(evidence, found):
    pipe, texts = evidence.pipe, ["A neon star.", "A dots star.", ""]
    two = [
        Removal(c, "style", "itd", {}, (methods.get("itd").edit(found, beta),))
        for c, beta in (("neon", -4.0), ("b", -8.0))
    ]
    plain = draw(pipe, texts, [])
    for removals in (two[:1], two):
        edited = draw(pipe, texts, removals)
        assert [bool((a == b).all()) for a, b in zip(edited, plain, strict=True)] == [False, True, True]
    assert all((a == b).all() for a, b in zip(draw(pipe, texts, [two[0].at(0)]), plain, strict=True))


def test_a_direction_leaves_the_first_token_and_is_the_difference_of_last_tokens(evidence):
    method = methods.get("text_direction")
    [part] = method.parts(evidence, None, {"strength": 2.0, "layer": 0})
    last = [
        torch.stack([rows(evidence.pipe, [p.text], layer(evidence.pipe, 0))[0, -1] for p in of]).mean(0)
        for of in (evidence.asked, evidence.retained)
    ]
    delta = part.delta(torch.randn(2, 5, 32), -1)
    assert (delta[:, 0] == 0).all()
    torch.testing.assert_close(delta[1, 3], -2 * (last[0] - last[1]), rtol=1e-4, atol=1e-5)
    assert part.half == "conditional"
    with pytest.raises(ConfigError, match="layer holds 3; the text encoder has 1, 0 to 0"):
        method.parts(evidence, None, {"strength": 2.0, "layer": 3})


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("itd", {"beta": (1,)}, "beta holds 1; expected numbers below 1"),
        ("itd", {"layer": (0.5,)}, "layer holds 0.5; expected whole numbers"),
        ("text_direction", {"strength": (0,)}, "strength holds 0; expected numbers above 0"),
        ("text_direction", {"layer": ("a",)}, "layer holds 'a'; expected whole numbers"),
    ],
)
def test_bad_settings_are_refused_by_name(name, grid, message):
    with pytest.raises(ConfigError, match=message):
        methods.get(name).candidates(grid)

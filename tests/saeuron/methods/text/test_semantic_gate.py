"""A gate by prompt: against whitening and projection by hand; what does not fire stays bit for bit."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, WidthMismatch
from saeuron.generation import generate, requests
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.semantic_gate import RIDGE, span, threshold, told
from saeuron.methods.text.states import embeddings
from saeuron.prompts import Prompt

SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")
METHOD = methods.get("semantic_gate")
EMPTY = Prompt("", "train")


def prompts(*styles):
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


def evidence_of(pipe, concept, *others):
    return Evidence(concept, "style", pipe=pipe, asked=prompts(concept), retained=prompts(*others))


def made(evidence, strength=1.0):
    return METHOD.removal(evidence, METHOD.learn(evidence), {"strength": strength})


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return evidence_of(tiny_pipe, "neon", "dots", "sepia")


@pytest.fixture(scope="module")
def two(evidence):
    return [made(evidence), made(evidence_of(evidence.pipe, "mosaic", "dots", "sepia"))]


def by_hand(evidence):
    """(o, u, W) of token states in float64, the start token left out; W the whole matrix."""
    asked, stay = (
        embeddings(evidence.pipe, [p.text for p in part]).double()[:, 1:].flatten(0, 1)
        for part in (evidence.asked, [EMPTY, *evidence.retained])
    )
    o = stay.mean(0)
    covariance = (stay - o).T @ (stay - o) / len(stay)
    values, vectors = np.linalg.eigh((covariance + RIDGE * covariance.diagonal().mean() * torch.eye(32)).numpy())
    return o, asked.mean(0) - o, torch.from_numpy(vectors @ np.diag(values**-0.5) @ vectors.T)


def gate(x, o, u, W):
    best, white = -2.0, W @ u
    for token in x[1:].double():
        y = W @ (token - o)
        best = max(best, float(y @ white / (y.norm() * white.norm())))
    return best


def test_the_gate_and_the_projection_are_those_of_the_definition(evidence):
    o, u, W = by_hand(evidence)
    [part] = made(evidence, 1.5).parts
    texts = ["A neon star.", "A dots star.", "A dog in neon style.", "A sepia neon.", ""]
    x = embeddings(evidence.pipe, texts)
    expected = torch.tensor([gate(row, o, u, W) for row in x])
    torch.testing.assert_close(part.cosines(x)[:, 0], expected, rtol=1e-3, atol=1e-3)
    each = [[gate(r, o, u, W) for r in embeddings(evidence.pipe, [p.text for p in e])]
            for e in (evidence.asked, [EMPTY, *evidence.retained])]  # fmt: skip
    assert min(each[0]) > max(each[1])
    assert float(part.tau) == pytest.approx((min(each[0]) + max(each[1])) / 2, abs=1e-3)
    delta, unit = part.delta(x, -1), u / u.norm()
    fires = [bool(g >= part.tau) for g in expected]
    assert fires == [True, False, True, True, False]
    for row, change, fired in zip(x, delta, fires, strict=True):
        for i, token in enumerate(row.double()):
            due = -1.5 * ((token - o) @ unit) * unit if fired and i else torch.zeros(32).double()
            torch.testing.assert_close(change[i].double(), due, rtol=1e-3, atol=1e-4)
        assert fired or not change.any()
    with pytest.raises(WidthMismatch):
        part.delta(torch.zeros(1, 4, 7), -1)


def test_a_prompt_does_not_depend_on_its_neighbours(evidence):
    [part] = made(evidence).parts
    x = embeddings(evidence.pipe, ["A neon star.", "A dots star.", "A cat in neon style."])
    alone = torch.cat([part.delta(row[None], -1) for row in x])
    assert torch.equal(part.delta(x, -1), alone) and torch.equal(part.delta(x.flip(0), -1), alone.flip(0))


def test_overlap_takes_the_least_of_those_that_ask():
    assert threshold(torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.3])) == pytest.approx(0.4)
    assert threshold(torch.tensor([0.2, 0.9]), torch.tensor([0.1, 0.3])) == pytest.approx(0.2)


def draw(pipe, texts, removals):
    asked = requests([Prompt(t, "test") for t in texts], 1)
    with removed(pipe, removals) as call:
        return [
            p for _, made in generate(pipe, asked, ModelConfig(steps=2, guidance=2.0), 5, extra=call.call) for p in made
        ]


def test_images_of_prompts_that_do_not_fire_are_the_same_bit_for_bit(evidence, two):
    pipe, texts = evidence.pipe, ["A neon star.", "A mosaic star.", "A dots star.", ""]
    plain = draw(pipe, texts, [])
    for removals, same in ((two[:1], [False, True]), (two[1:], [True, False]), (two, [False, False])):
        edited = draw(pipe, texts, removals)
        assert [bool((a == b).all()) for a, b in zip(edited, plain, strict=True)] == [*same, True, True]
    assert all((a == b).all() for a, b in zip(draw(pipe, texts, [two[0].at(0)]), plain, strict=True))


def test_concepts_that_fire_together_share_an_orthonormal_span(evidence, two, tmp_path):
    [first], [second] = (r.parts for r in two)
    x = embeddings(evidence.pipe, ["A neon star.", "A mosaic star.", "A neon mosaic.", "A dots star."])
    for order in (two, two[::-1]):
        both = Removal.merge(order)
        [part] = both.parts
        both.save(tmp_path / "r")
        [loaded] = Removal.load(tmp_path / "r").parts
        delta = loaded.delta(x, -1)
        assert torch.equal(delta, part.delta(x, -1)) and not delta[3].any()
        torch.testing.assert_close(delta[:1], first.delta(x[:1], -1))
        torch.testing.assert_close(delta[1:2], second.delta(x[1:2], -1))
        # By hand, Gram and Schmidt: the second direction without what it has of the first.
        one, other = first.direction[0].double(), second.direction[0].double()
        rest = other - (other @ one) * one
        rest, o = rest / rest.norm(), (first.centre[0] + second.centre[0]).double() / 2
        for token, change in zip(x[2, 1:].double(), delta[2, 1:].double(), strict=True):
            due = -((token - o) @ one) * one - ((token - o) @ rest) * rest
            torch.testing.assert_close(change, due, rtol=1e-3, atol=1e-4)
    assert len(span(torch.stack([one, one, 2 * one]))) == 1
    # Merged in turn or at once, the same bytes.
    third = made(evidence_of(evidence.pipe, "sketch", "dots", "sepia"))
    found = [Removal.merge([Removal.merge(two), third]), Removal.merge([two[1], Removal.merge([third, two[0]])])]
    assert len({r.parts[0].content() for r in (*found, Removal.merge([*two, third]))}) == 1
    # Of other strengths each keeps its own.
    assert len(Removal.merge([two[0], two[1].at(0.5)]).parts) == 2


def test_strength_scales_the_change_and_not_the_gate(evidence):
    removal = made(evidence, 2.0)
    x = embeddings(evidence.pipe, ["A neon star.", "A dots star."])
    [half], [whole] = removal.at(0.5).parts, removal.parts
    torch.testing.assert_close(half.delta(x, -1), 0.5 * whole.delta(x, -1))
    assert torch.equal(half.cosines(x), whole.cosines(x)) and whole.delta(x, -1).any()


def test_where_the_denoiser_reads_something_else_it_is_refused(tiny_pipe, monkeypatch):
    assert told(tiny_pipe) == "text_encoder.final_layer_norm"
    monkeypatch.setattr("saeuron.methods.text.semantic_gate.embeddings", lambda pipe, texts: torch.zeros(1, 16, 32))
    with pytest.raises(ConfigError, match="does not read the last states of one text encoder"):
        told(tiny_pipe)


def test_strengths_are_positive_and_go_from_mild_to_strong():
    with pytest.raises(ConfigError, match="strength holds 0; expected numbers above 0"):
        METHOD.candidates({"strength": (0,)})
    assert [s["strength"] for s in METHOD.candidates({"strength": (2, 1)})] == [1.0, 2.0]

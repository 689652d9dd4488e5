"""The first text layer, trained: its loss against loops, what moved and what stayed, and what a file holds."""

import pytest
import torch

from saeuron import methods
from saeuron.errors import ConfigError, SaeuronError, UnknownName
from saeuron.methods.bake import bake
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.states import embeddings
from saeuron.methods.weights.text_redirect import misfit, targets
from saeuron.methods.weights.training import LowRank
from saeuron.noise import generator
from saeuron.prompts import Prompt

SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")
METHOD = methods.get("text_redirect")
SETTINGS = {"keep": 1.0, "toward": "others"}


def prompts(*styles):
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


@pytest.fixture(scope="module")
def pipe(make_pipe):
    # Not the shared one: its text states differ hardly, untrained as they are.
    pipe = make_pipe(1)
    with torch.no_grad():
        for name, weight in pipe.text_encoder.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3, generator=generator(0, name))
    return pipe


def evidence_of(pipe, concept, *others):
    return Evidence(concept, "style", pipe=pipe, asked=prompts(concept), retained=prompts(*others))


@pytest.fixture(scope="module")
def evidence(pipe):
    return evidence_of(pipe, "neon", "dots", "sepia")


@pytest.fixture(scope="module")
def removal(evidence):
    return METHOD.removal(evidence, None, SETTINGS)


def test_targets_are_the_same_sentences_with_other_words(evidence):
    redirected, kept = targets(evidence, "others")
    assert redirected.texts == [p.text for p in evidence.asked] and kept.texts[0] == ""
    for prompt, wanted, counts in zip(evidence.asked, redirected.states, redirected.counts, strict=True):
        others = torch.cat([embeddings(evidence.pipe, [prompt.text.replace("neon", s)]) for s in ("dots", "sepia")])
        # One token each: before the concept's place the states are equal, and after it they are the mean.
        torch.testing.assert_close(wanted, others.mean(0), rtol=1e-3, atol=1e-4)
        assert counts.all()
    assert torch.equal(kept.states, embeddings(evidence.pipe, kept.texts))


def test_the_loss_is_that_of_the_definition(evidence):
    for of in targets(evidence, "others"):
        states, total, count = embeddings(evidence.pipe, of.texts).double(), 0.0, 0
        of = of._replace(states=of.states + 0.5)
        for i in range(len(of.texts)):
            for token in range(states.shape[1]):
                total += float(((states[i, token] - of.states[i, token]) ** 2).mean())
                count += 1
        # Fewer prompts than a batch holds: all are drawn.
        assert float(misfit(evidence.pipe, of, generator(0)).detach()) == pytest.approx(total / count, rel=1e-4)


def distance(one, two):
    return float((one - two).square().mean())


def test_the_concept_moves_to_the_others_and_they_stay(evidence, removal):
    redirected, kept = targets(evidence, "others")
    asked = embeddings(evidence.pipe, redirected.texts)
    with removal.attached(evidence.pipe):
        moved, stayed = embeddings(evidence.pipe, redirected.texts), embeddings(evidence.pipe, kept.texts)
    assert distance(moved, redirected.states) < 0.2 * distance(asked, redirected.states)
    assert distance(stayed, kept.states) < 0.05 * distance(asked, redirected.states)
    # And the encoder is as it was.
    assert torch.equal(embeddings(evidence.pipe, kept.texts), kept.states)


def test_training_repeats_and_leaves_the_weights(evidence, removal):
    before = {name: p.clone() for name, p in evidence.pipe.text_encoder.named_parameters()}
    again = METHOD.removal(evidence, None, SETTINGS)
    for one, two in zip(removal.parts, again.parts, strict=True):
        assert one.layers == two.layers and torch.equal(one.up, two.up) and torch.equal(one.down, two.down)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in evidence.pipe.text_encoder.named_parameters())


def test_strength_files_several_and_baking(evidence, removal, make_pipe, tmp_path):
    pipe, texts = evidence.pipe, ["A neon star.", "A mosaic star.", "A dots star."]
    plain = embeddings(pipe, texts)
    with removal.attached(pipe, strength=0):
        assert torch.equal(embeddings(pipe, texts), plain)
    removal.save(tmp_path / "r")
    other = METHOD.removal(evidence_of(pipe, "mosaic", "dots", "sepia"), None, SETTINGS)
    found = []
    for removals in ([removal, other], [other, Removal.load(tmp_path / "r")]):
        with removed(pipe, removals):
            found.append(embeddings(pipe, texts))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert distance(found[0][:2], plain[:2]) > 10 * distance(found[0][2], plain[2])
    with removal.attached(pipe):
        attached = embeddings(pipe, texts)
    copy = make_pipe(1)
    copy.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    bake(copy, removal)
    assert torch.equal(embeddings(copy, texts), attached) and not torch.equal(attached, plain)


def test_low_rank_terms_are_what_a_file_adds_to_the_weight(pipe):
    paths = ["text_encoder.encoder.layers.0.mlp.fc1", "text_encoder.encoder.layers.0.self_attn.q_proj"]
    terms = LowRank(pipe, paths, 3, 0.1, 0)
    plain = embeddings(pipe, ["A neon star."])
    with terms.attached():
        assert torch.equal(embeddings(pipe, ["A neon star."]), plain)  # up is zero at first
        with torch.enable_grad():
            terms.step(sum((up + 1).square().sum() + down.square().sum() for up, down in terms.factors.values()))
        trained = embeddings(pipe, ["A neon star."])
    with removed(pipe, [Removal("c", "d", "text_redirect", {}, terms.parts())]):
        torch.testing.assert_close(embeddings(pipe, ["A neon star."]), trained, rtol=1e-4, atol=1e-4)
    assert distance(trained, plain) > 1e-4
    with pytest.raises(UnknownName, match="unknown linear layer"):
        LowRank(pipe, ["text_encoder.encoder.layers.0.mlp"], 3, 0.1, 0)
    with pytest.raises(SaeuronError, match="the loss is not finite"):
        terms.step(torch.tensor(float("nan")))


@pytest.mark.parametrize(
    ("grid", "message"),
    [({"keep": (-1,)}, "keep holds -1; expected numbers of at least 0"), ({"toward": (3,)}, "toward holds 3")],
)
def test_bad_settings_are_refused_by_name(grid, message):
    with pytest.raises(ConfigError, match=message):
        METHOD.candidates(grid)

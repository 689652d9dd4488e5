"""A constant change in three tiers, with and without a gate by image, against the formula; mistakes."""

import pytest
import torch

from saeuron import methods
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import generate
from saeuron.hooks import attached
from saeuron.methods.controls import random_latents
from saeuron.methods.saeuron import best
from tests.saeuron.methods.detection.sensing import FIRST, MODEL, evidence_at

HOW = {"n": 3, "alpha": 2.0}


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return evidence_at(tiny_pipe, FIRST)


@pytest.fixture(scope="module")
def seen(evidence, tiny_pipe):
    """{timestep: rows of the conditional half of the target's images, [B, P, D]}."""
    found = {}

    def read(step, output, source):
        rows = step.half(output, "conditional", len(evidence.target))
        found[step.timestep] = rows.flatten(2).transpose(1, 2).clone()

    with attached(tiny_pipe, readers={FIRST: read}):
        list(generate(tiny_pipe, evidence.target, MODEL, evidence.seed))
    return found


@pytest.fixture(scope="module")
def learned(evidence):
    return methods.get("tiered").learn(evidence)


def slow(evidence, rows, timestep, tier, selected):
    """x' - x, [B, P, D], latent by latent."""
    [(_, sae)], [(_, about)] = evidence.saes.items(), evidence.profiles.items()
    at = about.timesteps.tolist().index(timestep)
    f = sae.encode(rows)
    change = torch.zeros_like(rows)
    for i in selected[at].nonzero().flatten().tolist():
        fires = f[..., i]
        mean = fires[fires > 0].mean() if bool((fires > 0).any()) else torch.tensor(0.0)
        over = fires > about.threshold[at, i]
        if tier == "per_position":
            change += over[..., None] * (-HOW["alpha"] * mean * sae.W_dec[i])
        else:
            change += -HOW["alpha"] * mean * sae.W_dec[i]
    if tier == "per_input":
        chosen = selected[at].nonzero().flatten()
        some = (f[..., chosen] > about.threshold[at, chosen]).any(-1).any(-1)
        change = torch.where(some[:, None, None], change, 0.0)
    return change


@pytest.mark.parametrize("tier", ["constant", "per_input", "per_position"])
def test_each_tier_is_its_formula(evidence, seen, learned, tier):
    method = methods.get("tiered")
    [edit] = method.parts(evidence, learned, {**HOW, "tier": tier, "gate": "none"})
    selected = best(next(iter(evidence.profiles.values())), HOW["n"])
    for timestep, rows in seen.items():
        expected = slow(evidence, rows, timestep, tier, selected)
        torch.testing.assert_close(edit.delta(rows, timestep), expected, rtol=1e-3, atol=1e-4)
    assert max(float(edit.delta(rows, t).abs().max()) for t, rows in seen.items()) > 1e-2


def test_a_gate_leaves_whole_images_alone(evidence, seen, learned):
    method = methods.get("tiered")
    [edit] = method.parts(evidence, learned, {**HOW, "tier": "constant", "gate": "image"})
    assert edit.gate == "activation" and edit.tau is not None and len(evidence.others) > 2
    for timestep, rows in seen.items():
        at = edit.timesteps.tolist().index(timestep)
        assert torch.equal(edit.open_at(rows, timestep), edit.gated(rows, timestep)[1] >= edit.tau[at])


def test_the_control_takes_other_latents(evidence):
    control = methods.get("tiered_random")
    assert control.like == "tiered"
    assert torch.equal(control.selected(evidence, FIRST, 3), random_latents(evidence, FIRST, 3))


def test_settings_are_checked_and_go_from_mild_to_strong():
    method = methods.get("tiered")
    found = method.candidates({"n": (2, 1), "alpha": (1, 0.5), "tier": ("constant",)})
    assert [(c["n"], c["alpha"]) for c in found] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    with pytest.raises(UnknownName, match=r"unknown tier 'scaled'.*scaled is the method saeuron"):
        method.candidates({"tier": ("scaled",)})
    with pytest.raises(UnknownName, match="unknown gate 'imag': did you mean 'image'"):
        method.candidates({"gate": ("imag",)})
    with pytest.raises(ConfigError, match="alpha holds -1"):
        method.candidates({"alpha": (-1,)})
    with pytest.raises(ConfigError, match="n holds 0"):
        method.candidates({"n": (0,)})

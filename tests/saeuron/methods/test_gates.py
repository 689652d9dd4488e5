"""Tiers and gates of an edit of latents, against a loop over images, positions and latents."""

from typing import get_args

import pytest
import torch

from saeuron import methods
from saeuron.hooks import Step
from saeuron.methods.base import Evidence
from saeuron.methods.gates import Tier, gated
from saeuron.methods.removal import Removal
from saeuron.methods.saeuron import build_edit
from tests.saeuron.methods.removals import TIMESTEPS, D, random_profile, random_sae

B, P = 4, 5


@pytest.fixture(scope="module")
def plain():
    return build_edit(random_sae(), random_profile(), 6, -2.0, sae_id="s")


def example(plain, tier, **options):
    values = torch.randn(plain.floor.shape, generator=torch.Generator().manual_seed(3))
    return gated(plain, tier, values, **options)


def images(seed=5):
    return torch.randn(B, P, D, generator=torch.Generator().manual_seed(seed))


def by_hand(edit, x, t):
    """(delta, G) of one image [P, D]."""
    f = edit.encode(x)
    chosen = [i for i in range(len(edit.latents)) if torch.isfinite(edit.floor[t, i])]
    places = range(edit.first, len(x))
    anywhere = any(f[p, i] > edit.floor[t, i] for p in places for i in chosen)
    delta = torch.zeros_like(x)
    for p in places:
        for i in chosen:
            over, v = bool(f[p, i] > edit.floor[t, i]), edit.values[t, i]
            amount = {
                "constant": v,
                "per_input": v if anywhere else 0,
                "per_position": v if over else 0,
                "scaled": (edit.factor[t, i] - 1) * f[p, i] if over else 0,
                "replaced": v - f[p, i] if over else 0,
            }[edit.tier]
            delta[p] += amount * edit.W_dec[i]
    if edit.gate == "change":
        return delta, delta.square().sum(1).mean()
    return delta, max(sum(f[p, i] for i in chosen) for p in places)


@pytest.mark.parametrize("tier", get_args(Tier))
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("gate", ["activation", "change"])
def test_tiers_and_what_gates_look_at(plain, tier, first, gate, tmp_path):
    edit, x = example(plain, tier, first=first, gate=gate, tau=torch.ones(len(TIMESTEPS))), images()
    for t, timestep in enumerate(TIMESTEPS):
        delta, height = edit.gated(x, timestep)
        expected = [by_hand(edit, each, t) for each in x]
        torch.testing.assert_close(delta, torch.stack([e[0] for e in expected]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(height, torch.stack([torch.as_tensor(e[1]) for e in expected]))
    Removal("c", "d", "itd", {}, (edit,)).save(tmp_path / "r")
    [again] = Removal.load(tmp_path / "r").parts
    assert torch.equal(again.delta(x, 600), edit.delta(x, 600)) and again.first == first


@pytest.mark.parametrize("gate", ["activation", "change"])
def test_the_conditional_half_decides_for_both(plain, gate):
    edit, x = example(plain, "scaled", gate=gate), images()
    height = edit.gated(x, 999)[1]
    order = height.argsort()
    tau = (height[order[1]] + height[order[2]]) / 2
    edit = example(plain, "scaled", gate=gate, tau=tau.expand(len(TIMESTEPS)).clone())
    step, other = Step(999, guided=True), images(6)
    both = torch.cat([other, x])
    expected = both + torch.cat([(height >= tau)[:, None, None] * edit.delta(half, 999) for half in (other, x)])
    torch.testing.assert_close(edit(step, both), expected)
    closed = ~(height >= tau)
    for half, plain_half in zip(edit(step, both).chunk(2), (other, x), strict=True):
        assert torch.equal(half[closed], plain_half[closed])
    # An image alone, each row at its own timestep, half the strength.
    for i in range(B):
        alone = edit(step, both[[i, B + i]])
        assert (alone is None) == bool(closed[i])
        torch.testing.assert_close(x[i] if alone is None else alone[1], expected[B + i])
    each = Step(999, guided=True, timesteps=torch.full((2 * B,), 999))
    torch.testing.assert_close(edit(each, both), expected)
    torch.testing.assert_close(edit.scaled(0.5)(step, both), both + (expected - both) / 2)


def test_a_closed_gate_gives_the_output_itself(plain):
    edit = example(plain, "constant", gate="activation", tau=torch.full((len(TIMESTEPS),), torch.inf))
    assert edit(Step(999, guided=True), torch.cat([images(), images()])) is None
    assert edit.combined([edit, edit]) == ([edit, edit], {})


def test_replace_brings_latents_to_the_mean_of_the_domain():
    sae, about = random_sae(), random_profile()
    evidence = Evidence("c", "d", saes={"h": sae}, sae_ids={"h": "s"}, profiles={"h": about})
    [edit] = methods.get("replace").parts(evidence, None, {"n": 5})
    x = images()
    f = sae.encode(x)
    for t, timestep in enumerate(TIMESTEPS):
        new = f.clone()
        for i in about.score[t].argsort(descending=True)[:5].tolist():
            new[..., i] = torch.minimum(f[..., i], about.threshold[t, i])
        expected = (new - f) @ sae.W_dec
        torch.testing.assert_close(edit.delta(x, timestep), expected, rtol=1e-4, atol=1e-5)
    assert methods.get("replace").candidates({"n": (4, 1)}) == [{"n": 1}, {"n": 4}]
    assert Removal("c", "d", "replace", {}, (edit,)).at(0).parts == ()

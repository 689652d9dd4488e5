from types import SimpleNamespace

import pytest
import torch
from torch import nn

from saeuron.hooks import Step
from saeuron.methods.latents import LatentEdit, combine
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.pipelines import FAMILIES
from saeuron.pipelines.stable_diffusion import StableDiffusion
from saeuron.profiles import Profile
from saeuron.scoring import select
from tests.saeuron.methods.removals import (
    PATH,
    TIMESTEPS,
    VARIANTS,
    D,
    N,
    T,
    assert_same_edit,
    random_profile,
    random_sae,
    rows,
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_combined_latents_take_the_factor_of_larger_magnitude(variant):
    sae, x = random_sae(variant), rows()
    profiles = random_profile(0), random_profile(1), random_profile(2)
    sizes, gammas = (15, 10, 12), (-1.0, -3.0, -2.0)
    edits = [build_edit(sae, p, n, g, sae_id="s") for p, n, g in zip(profiles, sizes, gammas, strict=True)]
    (merged,), overlap = combine(edits)
    shared = 0
    f = sae.encode(x)
    for t, timestep in enumerate(TIMESTEPS):
        factor, floor = torch.ones(N), torch.full((N,), torch.inf)
        owners = torch.zeros(N, dtype=torch.int64)
        for p, n, gamma in zip(profiles, sizes, gammas, strict=True):
            for i in select(p.score[t], n).tolist():
                owners[i] += 1
                if owners[i] == 1 or abs(gamma * p.mean[t, i]) > abs(factor[i]):
                    factor[i], floor[i] = gamma * p.mean[t, i], p.threshold[t, i]
        shared += int((owners - 1).clamp(min=0).sum())
        expected = torch.where(f > floor, (factor - 1) * f, 0) @ sae.W_dec
        torch.testing.assert_close(merged.delta(x, timestep), expected, rtol=0, atol=1e-5)
    assert overlap == {"s": shared}
    assert shared > 0
    (backwards,), _ = combine(edits[::-1])
    assert_same_edit(merged, backwards)


def test_edits_scored_at_different_steps_are_combined_at_every_timestep():
    sae, x, score = random_sae(), rows(), torch.zeros(2, N, dtype=torch.float64)
    score[:, 3:9] = 1
    prof = random_profile(1)
    fewer = Profile(torch.tensor([999, 499]), prof.mean[:2], prof.threshold[:2], score)
    one = build_edit(sae, random_profile(), 6, -2.0, sae_id="s")
    two = build_edit(sae, fewer, 6, -4.0, sae_id="s")
    (merged,), overlap = combine([one, two])
    assert overlap["s"] > 0
    f = sae.encode(x)
    for timestep in (999, 900, 874, 749, 748, 600, 499, 300, 249, 100, 0):
        factor, floor = torch.ones(N), torch.full((N,), torch.inf)
        for edit in (one, two):
            factors, floors = edit.at(timestep)
            for latent, mine, low in zip(edit.latents.tolist(), factors, floors, strict=True):
                if torch.isfinite(low) and (torch.isinf(floor[latent]) or abs(mine) > abs(factor[latent])):
                    factor[latent], floor[latent] = mine, low
        expected = torch.where(f > floor, (factor - 1) * f, 0) @ sae.W_dec
        torch.testing.assert_close(merged.delta(x, timestep), expected, rtol=0, atol=1e-5)


def test_concepts_without_common_latents_add_up():
    sae, x = random_sae(), rows()
    score = torch.zeros(T, N, dtype=torch.float64)
    score[:, :5], low = 1, score.clone()
    low[:, :5], low[:, 5:9] = 0, 1
    one = build_edit(sae, random_profile()._replace(score=score), 5, -2.0, sae_id="s")
    two = build_edit(sae, random_profile(1)._replace(score=low), 4, -3.0, sae_id="s")
    (merged,), overlap = combine([one, two])
    assert overlap == {"s": 0}
    torch.testing.assert_close(merged.delta(x, 999), one.delta(x, 999) + two.delta(x, 999), rtol=0, atol=1e-5)


def test_different_saes_stay_apart():
    one, two = (build_edit(random_sae(seed=s), random_profile(), 5, -2.0, sae_id=f"s{s}") for s in (0, 1))
    merged, overlap = combine([one, two])
    assert len(merged) == 2
    assert merged[0] is one
    assert merged[1] is two
    assert overlap == {}


def test_unnamed_saes_are_told_apart_by_their_weights():
    one, two = (build_edit(random_sae(seed=s), random_profile(), 5, -2.0) for s in (0, 1))
    assert len(combine([one, two])[0]) == 2
    again = build_edit(random_sae(seed=0), random_profile(1), 5, -2.0)
    merged, overlap = combine([one, two, again])
    assert len(merged) == 2
    assert overlap.keys() == {PATH}


class Net(nn.Module):
    """A denoiser whose hookpoint, `unet.block`, gives its input."""

    def __init__(self):
        super().__init__()
        self.block = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep):
        return self.block(x)


def test_edits_of_different_saes_add_up_in_any_order():
    scheduler = SimpleNamespace(timesteps=torch.tensor([900]))
    pipe = SimpleNamespace(family="StableDiffusionPipeline", unet=Net(), scheduler=scheduler)
    x = rows().reshape(5, 10, D)
    edits = [build_edit(random_sae(seed=s, hookpoint="unet.block"), random_profile(s), 9, -3.0) for s in (0, 1)]
    expected = x + edits[0].delta(x, 999) + edits[1].delta(x, 999)
    for order in (edits, edits[::-1]):
        with removed(pipe, [Removal("c", "d", "saeuron", {}, (edit,)) for edit in order]):
            torch.testing.assert_close(pipe.unet(x, 999), expected)
    in_turn = edits[1](Step(999), edits[0](Step(999), x))
    assert (in_turn - expected).abs().max() > 0.1


def test_edits_move_to_the_denoisers_device_in_a_pipeline_with_a_transformer(monkeypatch):
    class Transformer(StableDiffusion):
        name = "TransformerPipeline"
        root = "transformer"

    monkeypatch.setitem(FAMILIES, "TransformerPipeline", Transformer())
    pipe = SimpleNamespace(family="TransformerPipeline", transformer=Net().to("meta"))
    edit = build_edit(random_sae(hookpoint="transformer.block"), random_profile(), 9, -3.0)
    moved = []
    monkeypatch.setattr(LatentEdit, "to", lambda self, device: moved.append(torch.device(device)) or self)
    with removed(pipe, [Removal("c", "d", "saeuron", {}, (edit,))]):
        assert moved == [torch.device("meta")]

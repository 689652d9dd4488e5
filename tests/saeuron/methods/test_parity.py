"""The public implementation's edit, written out again from its description, row by row in float64."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.errors import ConfigError
from saeuron.hooks import Step
from saeuron.methods.base import Evidence
from saeuron.methods.parity import ParityEdit
from saeuron.methods.removal import Removal, combine
from saeuron.methods.saeuron import build_edit
from tests.saeuron.methods.removals import (
    PATH,
    TIMESTEPS,
    VARIANTS,
    N,
    assert_same_edit,
    random_profile,
    random_sae,
    rows,
)

SETTINGS = {"n": 5, "gamma": -2.0}


def made(sae, profile, settings=SETTINGS):
    evidence = Evidence("neon", "style", (PATH,), saes={PATH: sae}, profiles={PATH: profile}, sae_ids={PATH: "s1"})
    return methods.get("saeuron_parity").parts(evidence, None, settings)[0]


def as_published(sae, profile, n, gamma, x, t):
    """Encode, decode, take the error with the wrong sign, ablate, decode, add the error: one row at a time."""
    w = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    best = sorted(range(N), key=lambda i: (-profile.score[t, i].item(), i))[:n]
    out = []
    for row in x.double().numpy():
        pre = w["W_enc"] @ (row - w["b_dec"]) + w["b_enc"]
        if sae.info.activation == "topk":
            kept = set(np.argsort(-pre, kind="stable")[: sae.info.k])
            f = np.array([max(p, 0.0) if i in kept else 0.0 for i, p in enumerate(pre)])
        else:
            f = np.array([p if p > theta else 0.0 for p, theta in zip(pre, w["threshold"], strict=True)])
        x_hat = f @ w["W_dec"] + w["b_dec"]
        error = x_hat - row
        for i in best:
            if f[i] > profile.threshold[t, i].item():
                f[i] *= gamma * profile.mean[t, i].item()
        out.append(f @ w["W_dec"] + w["b_dec"] + error)
    return np.array(out)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_edit_is_the_public_one_sign_included(variant):
    sae, profile, x = random_sae(variant), random_profile(), rows()
    edit, corrected = made(sae, profile), build_edit(sae, profile, 5, -2.0)
    assert len(edit.latents) == N
    for t, timestep in enumerate(TIMESTEPS):
        expected = as_published(sae, profile, 5, -2.0, x, t)
        np.testing.assert_allclose((x + edit.delta(x, timestep)).numpy(), expected, atol=2e-5)
        # The difference between the two is 2 (x_hat - x), whatever is edited.
        gap = edit.delta(x, timestep) - corrected.delta(x, timestep)
        torch.testing.assert_close(gap, 2 * (sae(x) - x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_nothing_to_ablate_the_output_is_twice_the_reconstruction_less_the_input(variant):
    sae, x = random_sae(variant), rows()
    edit = made(sae, random_profile()._replace(threshold=torch.full((len(TIMESTEPS), N), 1e9)))
    torch.testing.assert_close(edit(Step(999, False), x), 2 * sae(x) - x, rtol=0, atol=2e-5)


def test_it_is_scaled_combined_and_saved_whole(tmp_path):
    sae, x = random_sae(), rows()
    one, two = made(sae, random_profile()), made(sae, random_profile(1))
    torch.testing.assert_close(one.scaled(0.5).delta(x, 999), 0.5 * one.delta(x, 999), rtol=0, atol=2e-5)
    assert not one.scaled(0).delta(x, 999).any()
    with pytest.raises(ConfigError, match=r"of the strengths 0.5, 1 cannot be combined; give them the same strength"):
        combine([one, two.scaled(0.5)])
    (both,), overlap = combine([one, two])
    assert isinstance(both, ParityEdit) and overlap["s1"] >= 0
    plain = Removal.merge([Removal(c, "style", "saeuron", {}, (build_edit(sae, p, 5, -2.0, sae_id="s1"),))
                           for c, p in (("neon", random_profile()), ("dots", random_profile(1)))])  # fmt: skip
    # Two concepts at one SAE share one hook: the wrong sign is there once.
    gap = both.delta(x, 999) - plain.parts[0].delta(x, 999)
    torch.testing.assert_close(gap, 2 * (sae(x) - x), rtol=0, atol=2e-5)
    Removal("neon", "style", "saeuron_parity", SETTINGS, (one,)).save(tmp_path / "neon.safetensors")
    (part,) = Removal.load(tmp_path / "neon.safetensors").parts
    assert isinstance(part, ParityEdit)
    assert_same_edit(part, one)

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron.errors import WidthMismatch
from saeuron.hooks import Step, from_rows, to_rows
from saeuron.methods.saeuron import build_edit
from saeuron.scoring import select
from tests.saeuron.methods.removals import PATH, TIMESTEPS, VARIANTS, D, N, T, random_profile, random_sae, rows


def slow_delta(sae, prof, n, gamma, x, t):
    """The formula, row by row and latent by latent, float64; `t` is the row of the step."""
    w = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    score = prof.score[t].tolist()
    chosen = sorted(range(len(score)), key=lambda i: (-score[i], i))[:n]
    out = np.zeros(x.shape)
    fired = 0
    for b, row in enumerate(x.double().numpy()):
        pre = [float(w["W_enc"][i] @ (row - w["b_dec"]) + w["b_enc"][i]) for i in range(len(score))]
        if sae.info.variant == "topk":
            best = set(sorted(range(len(pre)), key=lambda i: -pre[i])[: sae.info.k])
            f = [max(p, 0.0) if i in best else 0.0 for i, p in enumerate(pre)]
        else:
            f = [p if p > max(theta, 0) else 0.0 for p, theta in zip(pre, w["threshold"], strict=True)]
        for i in chosen:
            if f[i] > float(prof.threshold[t, i]):
                edited = gamma * float(prof.mean[t, i]) * f[i]
                out[b] += (edited - f[i]) * w["W_dec"][i]
                fired += 1
    assert 0 < fired < len(x) * n
    return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("n", "gamma"), [(1, -1.0), (5, -2.0), (N, -10.0), (8, 0.0)])
def test_delta_is_the_slow_reference(variant, n, gamma):
    sae, prof, x = random_sae(variant), random_profile(), rows()
    edit = build_edit(sae, prof, n, gamma)
    for t, timestep in enumerate(TIMESTEPS):
        slow = slow_delta(sae, prof, n, gamma, x, t)
        np.testing.assert_allclose(edit.delta(x, timestep).numpy(), slow, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_rows_of_f_give_what_the_whole_sae_gives(variant):
    sae, prof, x = random_sae(variant), random_profile(), rows()
    edit = build_edit(sae, prof, 5, -2.0)
    assert len(edit.latents) < N
    assert edit.W_enc.shape == ((len(edit.latents), D) if variant == "batch_topk" else (N, D))
    assert edit.W_dec.shape == (len(edit.latents), D)
    f = sae.encode(x)
    torch.testing.assert_close(edit.encode(x), f[:, edit.latents])
    for t, timestep in enumerate(TIMESTEPS):
        in_f = torch.zeros(N, dtype=torch.bool)
        in_f[select(prof.score[t], 5)] = True
        f_edited = torch.where(in_f & (f > prof.threshold[t]), -2.0 * prof.mean[t] * f, f)
        expected = sae.decode(f_edited) - sae.decode(f)
        torch.testing.assert_close(edit.delta(x, timestep), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, D, 3, 5), (4, 7, D), (4, D)])
def test_with_nothing_to_ablate_the_output_is_the_output_bit_for_bit(variant, dtype, shape):
    prof = random_profile()
    output = (100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    none_fires = build_edit(random_sae(variant), prof._replace(threshold=torch.full((T, N), 1e9)), 8, -5.0)
    assert torch.equal(none_fires(Step(999, False), output), output)
    neutral = build_edit(random_sae(variant), prof._replace(mean=torch.full((T, N), -0.5)), 8, -2.0)
    assert torch.equal(neutral(Step(999, False), output), output)


def test_rows_on_which_nothing_fires_keep_their_bits():
    edit, output = build_edit(random_sae(), random_profile(), 2, -2.0), rows(200).reshape(10, 20, D)
    edited = edit(Step(999, False), output)
    silent = ~(edit.encode(output) > edit.floor[0]).any(-1)
    assert 0 < silent.sum() < silent.numel()
    assert torch.equal(edited[silent], output[silent])
    assert (edited[~silent] != output[~silent]).any(-1).all()


def test_an_output_keeps_its_dtype_and_shape():
    edit = build_edit(random_sae(), random_profile(), 8, -2.0)
    output = torch.randn(2, D, 3, 4).to(torch.float16)
    edited = edit(Step(999, False), output)
    assert (edited.dtype, edited.shape) == (output.dtype, output.shape)
    assert not torch.equal(edited, output)
    expected = output + from_rows(edit.delta(to_rows(output).float(), 999), output).half()
    assert torch.equal(edited, expected)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("timestep", [1200, *range(1000, -1, -37), *TIMESTEPS])
def test_between_two_scored_timesteps_statistics_lie_between(timestep, turned):
    sae, prof = random_sae(), random_profile()
    edit, x = build_edit(sae, prof, 8, -2.0), rows()
    if turned:
        edit = replace(edit, timesteps=edit.timesteps.flip(0), factor=edit.factor.flip(0), floor=edit.floor.flip(0))
    # Plainly, one latent after another.
    above = min((t for t in TIMESTEPS if t >= timestep), default=max(TIMESTEPS))
    below = max((t for t in TIMESTEPS if t <= timestep), default=min(TIMESTEPS))
    part = 0.0 if above == below else (above - timestep) / (above - below)
    f, expected = edit.encode(x), torch.zeros(len(x), D)
    for u, latent in enumerate(edit.latents.tolist()):
        both = [(prof.mean[i, latent], prof.threshold[i, latent]) for i in map(TIMESTEPS.index, (above, below))
                if latent in select(prof.score[i], 8)]  # fmt: skip
        if both:
            mean, floor = (a + part * (b - a) for a, b in zip(both[0], both[-1], strict=True))
            gone = torch.where(f[:, u] > floor, (-2.0 * mean - 1) * f[:, u], 0)
            expected += gone[:, None] * sae.W_dec[latent].detach()
    torch.testing.assert_close(edit.delta(x, timestep), expected, rtol=0, atol=1e-4)


def test_an_edit_changes_only_its_half():
    edit = build_edit(random_sae(), random_profile(), 8, -2.0)
    output = rows(60).reshape(6, 10, D)
    both = replace(edit, half="both")(Step(999, True), output)
    conditional = replace(edit, half="conditional")(Step(999, True), output)
    unconditional = replace(edit, half="unconditional")(Step(999, True), output)
    assert (both != output).any(-1).any(-1).all()
    assert torch.equal(unconditional[3:], output[3:])
    assert torch.equal(conditional[:3], output[:3])
    torch.testing.assert_close(torch.cat([unconditional[:3], conditional[3:]]), both)
    # Without guidance all is conditional.
    torch.testing.assert_close(replace(edit, half="conditional")(Step(999, False), output), both)
    assert replace(edit, half="unconditional")(Step(999, False), output) is None


def test_an_activation_of_another_width():
    with pytest.raises(WidthMismatch, match=rf"the removal at {PATH} expects activations of width 6.*gives 7"):
        build_edit(random_sae(), random_profile(), 8, -2.0).delta(torch.randn(2, 7), 999)


def test_an_edit_does_not_change_with_its_sae():
    sae = random_sae()
    edit = build_edit(sae, random_profile(), 8, -2.0)
    before = edit.delta(rows(), 999)
    for value in sae.state_dict().values():
        value.fill_(0.7)
    assert torch.equal(edit.delta(rows(), 999), before)

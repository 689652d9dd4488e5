from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.config import ModelConfig
from saeuron.errors import BadWeights, UnknownName, WidthMismatch
from saeuron.generation import generate, requests
from saeuron.hooks import Step, attached, from_rows, to_rows
from saeuron.prompts import Prompt
from saeuron.removal import Edit, Removal, build_edit, combine, removed
from saeuron.sae import SAE, SAEInfo
from saeuron.scoring import Accumulator, Profile, profile, select

VARIANTS = ("topk", "batch_topk")
PATH = "unet.up_blocks.1.attentions.1"
D, N, T = 6, 40, 4
TIMESTEPS = (999, 749, 499, 249)


def random_sae(variant="batch_topk", width=D, n=N, seed=0, hookpoint=PATH):
    activation = "topk" if variant == "topk" else "threshold"
    sae = SAE(SAEInfo(variant, width, n, 12, hookpoint, activation), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_enc.normal_(generator=generator)
        sae.b_enc.normal_(generator=generator).mul_(0.2)
        sae.b_dec.normal_(generator=generator).mul_(0.2)
        sae.threshold.uniform_(0.1, 0.5, generator=generator)
    return sae.requires_grad_(False)


def random_profile(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(T, n, generator=generator)
    return Profile(
        timesteps=torch.tensor(TIMESTEPS),
        mean=mean,
        threshold=torch.rand(T, n, generator=generator) * 0.8,
        score=torch.randn(T, n, generator=generator, dtype=torch.float64),
    )


def rows(count=50, seed=9):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def slow_delta(sae, prof, n, gamma, x, t):
    """The formula of METHODS, row by row and latent by latent, float64; `t` is the row of the step."""
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


@pytest.mark.parametrize(
    ("timestep", "row"),
    [(999, 0), (900, 0), (856, 1), (713, 1), (570, 2), (428, 2), (285, 3), (142, 3), (0, 3), (874, 0), (624, 1)],
)
def test_a_step_takes_the_nearest_scored_timestep_and_the_noisier_of_two(timestep, row):
    # 4 scored steps, the timesteps of 7 and more; 874 and 624 lie midway.
    edit = build_edit(random_sae(), random_profile(), 8, -2.0)
    assert edit.step_of(timestep) == row
    assert torch.equal(edit.delta(rows(), timestep), edit.delta(rows(), TIMESTEPS[row]))


def test_each_half():
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


# Files


def example(variant="batch_topk"):
    first = build_edit(random_sae(variant), random_profile(), 5, -2.0, sae_id="s1")
    second = build_edit(random_sae(variant, hookpoint="unet.mid_block.attentions.0"), random_profile(1), 3, -1.0)
    return Removal("neon", "style", (first, second), {"n": 5, "gamma": -2.0, "reference": ["neon", "sepia"]})


def assert_same_edit(one: Edit, two: Edit):
    for name, value in vars(one).items():
        other = getattr(two, name)
        same = (
            torch.equal(value, other) and value.dtype == other.dtype
            if isinstance(value, torch.Tensor)
            else value == other
        )
        assert same, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_keeps_every_bit(tmp_path, variant):
    removal = example(variant)
    removal.save(tmp_path / "one.safetensors")
    again = Removal.load(tmp_path / "one.safetensors")
    assert (again.concept, again.domain, again.provenance) == ("neon", "style", removal.provenance)
    assert len(again.edits) == 2
    for one, two in zip(removal.edits, again.edits, strict=True):
        assert_same_edit(one, two)
        assert torch.equal(one.delta(rows(), 700), two.delta(rows(), 700))
    again.save(str(tmp_path / "two.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_removal_is_a_file_of_its_rows(tmp_path):
    width, n = 64, 4096
    removal = Removal("c", "d", (build_edit(random_sae(width=width, n=n), random_profile(n=n), 3, -1.0),))
    removal.save(tmp_path / "r")
    # 4 steps select at most 12 latents: an encoder and a decoder row each, of 4096 in the SAE.
    assert (tmp_path / "r").stat().st_size < 12 * 2 * width * 4 + 4000


def test_edits_that_share_an_sae_can_be_saved(tmp_path):
    edit = replace(build_edit(random_sae(), random_profile(), 5, -2.0), half="conditional")
    Removal("c", "d", (edit, replace(edit, half="unconditional"))).save(tmp_path / "r")
    one, two = Removal.load(tmp_path / "r").edits
    assert (one.half, two.half) == ("conditional", "unconditional")
    assert_same_edit(one, replace(two, half="conditional"))


def test_files_that_are_no_removal_are_refused(tmp_path):
    random_sae().save(tmp_path)
    with pytest.raises(BadWeights, match="is not a removal; expected a file written by"):
        Removal.load(tmp_path / "sae.safetensors")
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(BadWeights, match="not a readable safetensors file"):
        Removal.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        Removal.load(tmp_path / "missing")


def test_a_newer_format_is_refused(tmp_path):
    example().save(tmp_path / "r")
    tensors, metadata = load_tensors(tmp_path / "r")
    save_tensors(tmp_path / "r", tensors, {**metadata, "format": 3})
    with pytest.raises(BadWeights, match="has removal format 3, this version reads 2"):
        Removal.load(tmp_path / "r")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_removal_of_format_1_edits_as_it_did(tmp_path, variant):
    sae = random_sae(variant)
    sae.threshold.fill_(0.3)
    removal = Removal("cat", "object", (build_edit(sae, random_profile(), 5, -2.0),))
    removal.save(tmp_path / "r")
    tensors, metadata = load_tensors(tmp_path / "r")
    [record] = metadata["edits"]
    del record["activation"]
    record["k"] = record["k"] if variant == "topk" else 0
    tensors["0.threshold"] = torch.tensor(0.3)
    save_tensors(tmp_path / "old", tensors, {**metadata, "format": 1})
    [old], [new] = Removal.load(tmp_path / "old").edits, removal.edits
    assert old.activation == new.activation
    assert torch.equal(old.delta(rows(), 749), new.delta(rows(), 749))
    assert old.delta(rows(), 749).abs().sum() > 0


# Several concepts


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
            row = edit.step_of(timestep)
            for i, latent in enumerate(edit.latents.tolist()):
                mine, low = edit.factor[row, i], edit.floor[row, i]
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
    pipe = SimpleNamespace(unet=Net(), scheduler=scheduler, do_classifier_free_guidance=False)
    x = rows().reshape(5, 10, D)
    edits = [build_edit(random_sae(seed=s, hookpoint="unet.block"), random_profile(s), 9, -3.0) for s in (0, 1)]
    expected = x + edits[0].delta(x, 999) + edits[1].delta(x, 999)
    for order in (edits, edits[::-1]):
        with removed(pipe, [Removal("c", "d", (edit,)) for edit in order]):
            torch.testing.assert_close(pipe.unet(x, 999), expected)
    in_turn = edits[1](Step(999), edits[0](Step(999), x))
    assert (in_turn - expected).abs().max() > 0.1


# In a pipeline

PROMPTS = [Prompt("An image of cat in neon style.", "test"), Prompt("A star.", "test")]


@pytest.fixture(scope="module")
def scored(tiny_pipe):
    """An SAE for the tiny pipeline and the profile of 'neon', gathered at 4 steps."""
    sae = random_sae(width=16, n=64)
    totals = []
    for prompt in PROMPTS:
        accumulator = Accumulator(sae, "conditional")
        with attached(tiny_pipe, readers={PATH: accumulator}):
            list(generate(tiny_pipe, requests([prompt], 2), ModelConfig(steps=4, guidance=2.0), seed=1))
        totals.append(accumulator.totals())
    assert totals[0].timesteps.tolist() == list(TIMESTEPS)
    return sae, profile(totals, 0)


def images(pipe, steps=4, guidance=2.0):
    config = ModelConfig(steps=steps, guidance=guidance)
    return np.concatenate([made for _, made in generate(pipe, requests(PROMPTS, 1), config, seed=5)])


@pytest.mark.parametrize(("steps", "guidance"), [(4, 2.0), (7, 2.0), (1, 2.0), (3, 1.0)])
@pytest.mark.parametrize("half", ["both", "conditional"])
def test_a_removal_changes_images_at_any_number_of_steps_and_leaves_the_pipeline(
    tiny_pipe, scored, steps, guidance, half
):
    plain = images(tiny_pipe, steps, guidance)
    removal = Removal("neon", "style", (build_edit(*scored, 8, -5.0, half=half),))
    with removal.attached(tiny_pipe) as entered:
        edited = images(tiny_pipe, steps, guidance)
    assert entered is removal
    assert np.abs(edited.astype(int) - plain).max() > 1
    np.testing.assert_array_equal(images(tiny_pipe, steps, guidance), plain)


def test_the_unconditional_half_matters_under_guidance_alone(tiny_pipe, scored):
    removal = Removal("neon", "style", (build_edit(*scored, 8, -5.0, half="unconditional"),))
    for guidance, changes in ((2.0, True), (1.0, False)):
        plain = images(tiny_pipe, 3, guidance)
        with removal.attached(tiny_pipe):
            assert (images(tiny_pipe, 3, guidance) != plain).any() == changes


def test_a_removal_with_nothing_to_ablate_gives_the_same_images_bit_for_bit(tiny_pipe, scored):
    edit = build_edit(*scored, 8, -5.0)
    plain = images(tiny_pipe, 5)
    floors, factors = torch.full_like(edit.floor, torch.inf), torch.ones_like(edit.factor)
    for nothing in (replace(edit, floor=floors), replace(edit, factor=factors)):
        with Removal("neon", "style", (nothing,)).attached(tiny_pipe):
            np.testing.assert_array_equal(images(tiny_pipe, 5), plain)


def test_a_loaded_removal_gives_the_same_images(tiny_pipe, scored, tmp_path):
    removal = Removal("neon", "style", (build_edit(*scored, 8, -5.0),))
    removal.save(tmp_path / "r")
    with removal.attached(tiny_pipe):
        one = images(tiny_pipe)
    with Removal.load(tmp_path / "r").attached(tiny_pipe):
        np.testing.assert_array_equal(images(tiny_pipe), one)


def test_several_removals_at_once(tiny_pipe, scored):
    sae, prof = scored
    one = Removal("neon", "style", (build_edit(sae, prof, 4, -5.0, sae_id="s"),))
    two = Removal("dots", "style", (build_edit(sae, prof, 8, -5.0, sae_id="s"),))
    with removed(tiny_pipe, [one, two]) as overlap:
        together = images(tiny_pipe)
    assert overlap == {"s": 4 * T}
    with two.attached(tiny_pipe):
        # The same profile and gamma: the smaller set is part of the larger one.
        np.testing.assert_array_equal(images(tiny_pipe), together)
    with removed(tiny_pipe, []) as overlap:
        nothing = images(tiny_pipe)
    assert overlap == {}
    np.testing.assert_array_equal(nothing, images(tiny_pipe))


def test_a_removal_where_it_does_not_fit(tiny_pipe, scored):
    edit = build_edit(*scored, 8, -5.0)
    coarse = Removal("neon", "style", (replace(edit, hookpoint="unet.up_blocks.0.attentions.0"),))
    with coarse.attached(tiny_pipe), pytest.raises(WidthMismatch, match="width 16, the hookpoint gives 32"):
        images(tiny_pipe)
    nowhere = Removal("neon", "style", (replace(edit, hookpoint="unet.up_blocks.7.attentions.0"),))
    with pytest.raises(UnknownName, match="unknown hookpoint"), nowhere.attached(tiny_pipe):
        pass

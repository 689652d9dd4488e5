"""Tests of SAEs beside dictionaries made from labels: each formula against loops, each plant found."""

import itertools

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.hooks import attached, hookpoints, to_rows
from saeuron.noise import initial_noise
from saeuron.pipelines.patching import Pair
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.config import SAEConfig
from saeuron.sae.proofs import approximation, control, occlusion, splitting
from saeuron.sae.proofs.attributes import fit
from saeuron.sae.proofs.rewriting import Rewritten
from saeuron.sae.proofs.rows import Rows, fitted, strengths

HOOKPOINT = "unet.up_blocks.1.attentions.0"
STYLES, OBJECTS = ("dots", "neon"), ("cat", "moon", "star")


def rows(n_each: int = 4, positions: int = 5, width: int = 6, seed: int = 0, noise: float = 0.0, tail: int = 0) -> Rows:
    """m + u_style + u_object (the object's at one position alone) + noise, at two timesteps."""
    chance = torch.Generator().manual_seed(seed)
    truth = torch.Generator().manual_seed(99)
    u = {c: torch.randn(width, generator=truth) for c in (*STYLES, *OBJECTS)}
    m = torch.randn(width, generator=truth)
    asked = [{"style": s, "object": o} for s, o in itertools.product(STYLES, OBJECTS)] * n_each
    asked = asked[: len(asked) - tail]
    values = torch.zeros(len(asked), 2, positions, width)
    for i, a in enumerate(asked):
        values[i] = m + u[a["style"]]
        values[i, :, 2] += u[a["object"]]
        values[i, 1] *= 2
    return Rows((999, 499), values + noise * torch.randn(values.shape, generator=chance), asked)


def test_labels_explain_what_they_made_even_where_sets_are_unbalanced():
    for tail in (0, 4):
        found = rows(tail=tail)
        labels = fit(found)
        for step, t in enumerate(found.timesteps):
            torch.testing.assert_close(labels.rebuilt(found.asked, t, "full"), found.at(step), atol=1e-4, rtol=1e-4)
            pooled = found.at(step).mean(1, keepdim=True)
            torch.testing.assert_close(labels.rebuilt(found.asked, t, "pooled"), pooled, atol=1e-4, rtol=1e-4)
        assert labels.step(700) == 1 and labels.step(900) == 0


def test_u_is_a_difference_of_means_where_sets_are_balanced():
    found = rows(noise=1.0)
    labels = fit(found)
    by_hand = {s: found.at(0)[found.shows("style", s)].mean((0, 1)) - found.at(0).mean((0, 1)) for s in STYLES}
    u = {s: labels.u("style", s, 999, "pooled")[0] for s in STYLES}
    torch.testing.assert_close(u["neon"] - u["dots"], by_hand["neon"] - by_hand["dots"], atol=1e-4, rtol=1e-4)
    shuffled = labels.u("style", "neon", 999, "shuffled") - labels.u("style", "dots", 999, "shuffled")
    assert shuffled.norm() < 0.5 * (u["neon"] - u["dots"]).norm()


@torch.no_grad()
def test_sufficiency_is_that_of_a_plain_loop(tiny_pipe):
    pipe, model = tiny_pipe, ModelConfig(steps=2, guidance=3.0)
    pairs = [Pair("A cat in neon style.", "A moon in neon style.", "A moon."), Pair("A star.", "A moon.", "A cat.")]
    half = {"own": lambda x, t: 0.5 * x, "all": lambda x, t: x}
    found = approximation.distances(pipe, pairs, HOOKPOINT, half, lambda x, t: torch.zeros_like(x[:, :1]), model)
    # A reconstruction that is x loses nothing, and nothing is left without it.
    whole = approximation.figures(found["all"])
    assert {m: round(f.value, 5) for m, f in whole.items()} == {
        "sufficiency": 1.0, "necessity": 1.0, "sufficiency along": 1.0, "necessity along": 1.0,
    }  # fmt: skip
    noise, latents = initial_noise(0, [("0", 0)], (48, 8, 8)), []

    def before(net, args, kwargs):
        latents.append((args[0][1:].clone(), args[1]))

    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    pipe(pairs[0].shown, latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="np")
    handle.remove()
    module = hookpoints(pipe)[HOOKPOINT]
    words = {t: pipe.encode_prompt([t], "cpu", 1, False)[0] for t in pairs[0][:2]}

    def eps(z, t, text, scale):
        handle = module.register_forward_hook(
            lambda m, a, out: (out[0] * scale,) if isinstance(out, tuple) else out * scale
        )
        out = pipe.unet(z, t, encoder_hidden_states=words[text]).sample.double()
        handle.remove()
        return out

    squares, along = [], []
    for z, t in latents:
        own, D = eps(z, t, pairs[0].shown, 1), eps(z, t, pairs[0].shown, 1) - eps(z, t, pairs[0].instead, 1)
        for scale, into in ((0.5, "kept"), (0.0, "mean")):
            moved = eps(z, t, pairs[0].shown, scale) - own
            squares.append((into, float(moved.square().sum())))
            along.append((into, float((moved * D).sum() / D.square().sum())))
    for into in ("kept", "mean"):
        of = getattr(found["own"], into)
        assert of.squares[:, 0] == pytest.approx([v for k, v in squares if k == into], rel=1e-3)
        assert of.along[:, 0] == pytest.approx([v for k, v in along if k == into], rel=1e-3, abs=1e-6)


def test_figures_of_distances_are_ratios_of_means_over_pairs():
    def of(scale):
        return approximation.Distances(scale * np.array([[1.0, 3.0]]), scale * np.array([[-1.0, -1.0]]))

    found = approximation.joined([approximation.Found(of(0.25), of(0.5), of(1.0))] * 2)
    assert found.mean.squares.shape == (1, 4)
    figures = approximation.figures(found)
    assert figures["sufficiency"].value == figures["sufficiency along"].value == 0.75
    assert figures["necessity"].value == 0.5 and figures["sufficiency"].low == pytest.approx(0.75)


def test_what_is_rewritten_is_the_prompts_half_and_no_bit_more(tiny_pipe):
    pipe, seen = tiny_pipe, {}

    def draw(change):
        def look(step, output, source):
            seen.setdefault(step.timestep, to_rows(output).clone())

        with attached(pipe, readers={"unet.conv_out": look}), Rewritten(HOOKPOINT, change).attached(pipe):
            pipe(["A cat.", "A moon."], num_inference_steps=1, guidance_scale=3.0, output_type="np",
                 latents=initial_noise(0, [("a", 0), ("b", 0)], (48, 8, 8)))  # fmt: skip
        found = dict(seen)
        seen.clear()
        return found

    plain = draw(lambda x, t: x)
    changed = draw(lambda x, t: torch.cat([x[:1], 2 * x[1:]]))
    for t, rows_ in plain.items():
        same = [torch.equal(a, b) for a, b in zip(rows_, changed[t], strict=True)]
        assert same == [True, True, True, False]


def dictionary(W: torch.Tensor) -> SAE:
    sae = SAE(SAEInfo("topk", W.shape[1], W.shape[0], len(W), HOOKPOINT))
    with torch.no_grad():
        sae.W_dec.copy_(W)
        sae.W_enc.copy_(W)
    return sae.requires_grad_(False)


def test_the_latents_that_move_are_those_of_a_search_by_hand():
    chance = torch.Generator().manual_seed(3)
    W = torch.nn.functional.normalize(torch.randn(7, 4, generator=chance), dim=1)
    off, on = torch.rand(7, generator=chance), torch.rand(7, generator=chance)
    off[2] = on[5] = 0
    difference = torch.randn(4, generator=chance)
    found = control.greedy(off, on, W, difference, 2)
    now, chosen = torch.zeros(4), ([], [])
    for _ in range(4):
        trials = [
            (float((difference - now - sign * f[i] * W[i]).norm()), kind, i)
            for kind, (sign, f) in enumerate(((-1, off), (1, on)))
            for i in range(7)
            if f[i] > 0 and i not in chosen[kind] and len(chosen[kind]) < 2
        ]
        distance, kind, i = min(trials)
        if distance >= float((difference - now).norm()):
            break
        now = now + (-off[i] if kind == 0 else on[i]) * W[i]
        chosen[kind].append(i)
    assert (found.off, found.on) == chosen and 2 not in found.off and 5 not in found.on


def test_one_latent_for_each_concept_moves_one_into_the_other():
    """With a dictionary of the truth, the edited mean row of `dots` is that of `neon`."""
    asked = [{"style": s} for s in STYLES] * 3
    values = torch.zeros(6, 1, 2, 4)
    values[::2, ..., 0], values[1::2, ..., 1] = 3.0, 2.0
    found = Rows((999,), values, asked)
    profiles = control.profiles(dictionary(torch.eye(4)), found, "style")
    wanted = [control.Wanted("a", "dots", "neon", "b"), control.Wanted("b", "neon", "dots", "a")]
    moves = control.Moves(profiles, 1)
    assert moves.of("dots", "neon", 0) == control.Moved([0], [1])
    edited = moves.change(wanted)(values[:2, 0], 999)
    torch.testing.assert_close(edited, values[[1, 0], 0])
    assert moves.magnitude(wanted) == pytest.approx(1.0)
    labels = control.by_labels(fit(found), "style", wanted, "full")(values[:2, 0], 999)
    torch.testing.assert_close(labels, values[[1, 0], 0], atol=1e-5, rtol=1e-5)


def test_copying_the_whole_output_is_the_other_prompts(tiny_pipe):
    model = ModelConfig(steps=2, guidance=3.0)
    wanted = [control.Wanted("A cat.", "cat", "moon", "A moon."), control.Wanted("A star.", "star", "cat", "A cat.")]
    plain = control.draw(tiny_pipe, wanted, HOOKPOINT, None, model, 1)
    same = control.draw(tiny_pipe, wanted, HOOKPOINT, lambda x, t: x, model, 1)
    copied = control.draw(tiny_pipe, wanted, HOOKPOINT, "copy", model, 1)
    assert plain.shape == copied.shape and np.array_equal(plain, same) and not np.array_equal(plain, copied)
    own = [w._replace(other=w.text) for w in wanted]
    near = control.draw(tiny_pipe, own, HOOKPOINT, "copy", model, 1)
    assert np.abs(near.astype(int) - plain.astype(int)).max() <= 1  # another batch rounds otherwise


def fire(*columns: str) -> torch.Tensor:
    """bool [images, latents]: a column a latent, `#` where it fires."""
    return torch.tensor([[c == "#" for c in column] for column in columns]).T


def test_names_counts_the_latents_of_a_union_and_parts():
    shows = {"cat": torch.tensor([True] * 6 + [False] * 6)}
    parts = fire("###.........", "...###......", "######......", "......###...")
    whole = splitting.Fires(parts, parts, shows, shows)
    assert splitting.names(whole, "cat") == splitting.Names(1.0, 1.0, 1, 2)
    halves = parts[:, [0, 1, 3]]
    found = splitting.Fires(halves, halves, shows, shows)
    assert splitting.names(found, "cat") == splitting.Names(pytest.approx(2 / 3), 1.0, 2, 2)
    # Duplicating a part raises the number of parts, and nothing else.
    twice = halves[:, [0, 0, 1, 2]]
    doubled = splitting.names(splitting.Fires(twice, twice, shows, shows), "cat")
    assert doubled.split == 3 and doubled.n90 == 2
    silent = torch.zeros(12, 3, dtype=torch.bool)
    assert splitting.names(splitting.Fires(silent, silent, shows, shows), "cat") == splitting.Names(0.0, 0.0, 0, 0)


def test_count_judges_on_new_images_the_concept_that_was_chosen():
    shows = {"cat": torch.tensor([True, True, False, False]), "moon": torch.tensor([False, False, True, True])}
    chosen, judged = fire("##..", "..##", "#.#."), fire("##..", "##..", "....")
    assert splitting.count(splitting.Fires(chosen, judged, shows, shows)) == 1
    named, asked = splitting.f1(chosen, shows["cat"]), shows["cat"]
    by_hand = [2 * int((chosen[:, i] & asked).sum()) / int(chosen[:, i].sum() + asked.sum()) for i in range(3)]
    assert named.tolist() == pytest.approx(by_hand)


def test_taking_all_of_an_attribute_away_leaves_none_of_it():
    found = rows(noise=0.1)
    labels = fit(found)
    loud, quiet = occlusion.louder(labels)
    assert {loud, quiet} == {"style", "object"} and labels.loudness(loud) > labels.loudness(quiet)
    left = fit(occlusion.without(found, labels, loud, 1.0))
    assert left.loudness(loud) < 1e-8 * labels.loudness(loud)
    assert left.loudness(quiet) == pytest.approx(labels.loudness(quiet), rel=1e-3)
    half = fit(occlusion.without(found, labels, loud, 0.5))
    assert half.loudness(loud) == pytest.approx(labels.loudness(loud) / 4, rel=1e-3)
    turned = occlusion.astray(labels, loud, 0)
    for i, (domain, _) in enumerate(labels.concepts):
        before, after = labels.pooled[:, 1 + i, 0], turned.pooled[:, 1 + i, 0]
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), atol=1e-5, rtol=1e-4)
        assert torch.equal(before, after) == (domain != loud)


def test_planted_rows_have_the_ratio_and_the_noise_that_were_asked_for():
    found = rows(n_each=60, noise=0.5)
    labels = fit(found)
    factor = occlusion.residual_factor(found, labels)
    loud, quiet = occlusion.louder(labels)
    for rho in (0.5, 2.0):
        made = fit(occlusion.planted(found, labels, loud, quiet, rho, 0.1 * factor, 0, "train"))
        assert (made.loudness(loud) / made.loudness(quiet)) ** 0.5 == pytest.approx(rho, rel=0.1)
    one, two = (
        occlusion.planted(found, labels, loud, quiet, 1.0, factor, 0, part).values for part in ("train", "test")
    )
    assert not torch.equal(one, two)
    left = torch.cat([found.at(s) - labels.rebuilt(found.asked, t, "pooled") for s, t in enumerate(found.timesteps)])
    flat = left.flatten(0, 1).double()
    torch.testing.assert_close(factor.double() @ factor.double().T, flat.T @ flat / len(flat), atol=1e-3, rtol=1e-2)


def test_three_gaussians_split_into_three_latents_and_one_does_not():
    width, found = 8, {}
    base = Rows((999,), torch.zeros(200, 1, 4, width), [{}] * 200)
    config = SAEConfig(variant="topk", k=1, expansion=8, steps=150, batch=256, lr=1e-2)
    for plant in occlusion.PLANTS[:2]:
        made = {
            part: occlusion.clusters(base, plant, 0.2 * torch.eye(width), 4.0, 1, part)
            for part in ("train", "validation", "test")
        }
        sae = fitted(config, made["train"][0].values)
        chosen, judged = (strengths(sae, made[part][0]) for part in ("validation", "test"))
        fires = splitting.of(chosen, made["validation"][1], judged, made["test"][1])
        found[plant] = splitting.split(fires.judged, fires.judged_shows["yes"])
    assert found["3 Gaussians"] >= 3 and found["3 Gaussians"] > found["1 Gaussian"]


def test_a_wide_gaussian_has_the_mean_and_the_covariance_of_three():
    base, added = Rows((999,), torch.zeros(4000, 1, 1, 5), [{}] * 4000), {}
    for plant in occlusion.PLANTS:
        made, asked = occlusion.clusters(base, plant, torch.zeros(5, 5), 2.0, 0, "train")
        added[plant] = made.values[[a == "yes" for a in asked], 0, 0]
        assert made.values[[a == "no" for a in asked]].abs().max() == 0 and 0.4 < len(added[plant]) / 4000 < 0.6
    three, one, wide = added.values()
    torch.testing.assert_close(wide.mean(0), three.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(wide.T.cov(), three.T.cov(), atol=0.15, rtol=0)
    assert len(three.unique(dim=0)) == 3 and len(one.unique(dim=0)) == 1


def test_an_sae_fitted_twice_is_the_same_and_learns_few_rows_too():
    config = SAEConfig(variant="topk", k=2, expansion=2, steps=20, batch=4096, lr=1e-2)
    values = rows(noise=0.3).values
    first, second = (fitted(config, values) for _ in range(2))
    assert torch.equal(first.W_dec, second.W_dec)
    plain = torch.stack([first.encode(image).amax(1).mean(0) for image in values])
    torch.testing.assert_close(strengths(first, rows(noise=0.3)), plain)

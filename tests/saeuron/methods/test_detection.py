"""What acts where an SAE's latents fire: against loops, and against the edits that it gates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from saeuron import methods
from saeuron.config import ModelConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import generate, requests
from saeuron.hooks import Step, attached
from saeuron.methods.base import Evidence
from saeuron.methods.detection.gated_uce import GatedMap
from saeuron.methods.detection.sae_guidance import GuidanceMask
from saeuron.methods.detection.sensor import Memory, grid, resized, sensors
from saeuron.methods.detection.thresholds import QUANTILE, with_thresholds
from saeuron.methods.removal import Removal, removed
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.part import WeightMap
from saeuron.prompts import Prompt
from tests.saeuron.methods.removals import PATH, TIMESTEPS, T, random_profile, random_sae

MODEL = ModelConfig(steps=4, guidance=2.0, micro_batch=8)
FIRST = "unet.conv_in"
"""A hookpoint before every cross-attention: what it sees counts for all of the step."""
ASKED = requests([Prompt("A cat in neon style.", "test"), Prompt("A star.", "test")], 2)


def images(pipe, *removals, wanted=ASKED, model=MODEL):
    with removed(pipe, removals) as about:
        return np.concatenate([made for _, made in generate(pipe, wanted, model, 5, extra=about.call)])


def rows_at(pipe, hookpoint):
    """[(timestep, output of the conditional half)] of a generation."""
    seen = []

    def read(step, output, source):
        seen.append((step.timestep, step.half(output, "conditional").clone()))

    with attached(pipe, readers={hookpoint: read}):
        list(generate(pipe, ASKED, MODEL, 5))
    return seen


def evidence_at(pipe, hookpoint):
    sae = random_sae(width=16, n=64, hookpoint=hookpoint)
    target, others = (
        requests([Prompt(f"A cat in {style} style.", "train", {"style": style})], count)
        for style, count in (("neon", 2), ("dots", 5))
    )
    return Evidence(
        "neon", "style", (hookpoint,), "both", {hookpoint: sae}, {hookpoint: "s"},
        {hookpoint: random_profile(n=64)}, pipe, MODEL, target, others,
        [target[0].prompt], [others[0].prompt], 1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return evidence_at(tiny_pipe, FIRST)


def between(values, share):
    """A number that is none of the values, with about that share of the different ones below it."""
    different = values.unique()
    at = int(share * (len(different) - 1))
    return different[at : at + 2].mean()


def reached(sensor, pipe):
    """The sensor with floors that some positions reach, and tau that one image reaches, at the two middle steps."""
    seen = dict(rows_at(pipe, sensor.hookpoint))
    floor, tau = sensor.floor.clone(), torch.full((T,), torch.inf)
    for i, t in enumerate(TIMESTEPS):
        rows = seen[t].flatten(2).transpose(1, 2)
        f = sensor.encode(rows)
        for u in range(floor.shape[1]):
            if torch.isfinite(floor[i, u]):
                floor[i, u] = between(f[..., u], 0.8)
        if 0 < i < T - 1:
            tau[i] = between(sensor.gated(rows, t)[1], 0.99)
    return replace(sensor, floor=floor, gate="activation", tau=tau)


@pytest.fixture(scope="module")
def sensor(evidence, tiny_pipe):
    [found] = sensors(evidence, 3)
    return reached(found, tiny_pipe)


@pytest.fixture(scope="module")
def plain(tiny_pipe):
    """A map of keys and values that is large enough to be seen."""
    chance = torch.Generator().manual_seed(0)
    up, down = torch.randn(32, 4, generator=chance), torch.randn(4, 32, generator=chance)
    return WeightMap(cross_attention(tiny_pipe), up, 0.3 * down)


def uce(plain, sensor, gate, ahead=-1):
    part = GatedMap((sensor,), gate, plain.layers, plain.up, plain.down, ahead)
    return Removal("neon", "style", "gated_uce", {}, (part,))


def by_hand(sensor, rows, t):
    """Where the sensor fires: (bool [B, h, w] by position, bool [B] by image), of maps [B, D, h, w]."""
    i = TIMESTEPS.index(t)
    fires = torch.zeros(len(rows), *rows.shape[2:], dtype=torch.bool)
    opened = []
    for b, image in enumerate(rows):
        height = 0.0
        for y in range(rows.shape[2]):
            for x in range(rows.shape[3]):
                f = sensor.encode(image[:, y, x][None])[0]
                chosen = [u for u in range(len(f)) if torch.isfinite(sensor.floor[i, u])]
                fires[b, y, x] = any(bool(f[u] > sensor.floor[i, u]) for u in chosen)
                height = max(height, sum(float(f[u]) for u in chosen))
        opened.append(height >= float(sensor.tau[i]))
    return fires, torch.tensor(opened)


def test_places_on_grids_of_other_sizes():
    fired = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.7
    for height, width in ((2, 3), (8, 12), (4, 6), (1, 1)):
        found = resized(fired, height, width)
        for y in range(height):
            for x in range(width):
                # A place of the new grid, and those of the old one that it shares some of its area with.
                ys = [i for i in range(4) if i * height < (y + 1) * 4 and (i + 1) * height > y * 4]
                xs = [i for i in range(6) if i * width < (x + 1) * 6 and (i + 1) * width > x * 6]
                expected = fired[:, ys][:, :, xs].flatten(1).any(1)
                assert torch.equal(found[:, y, x], expected), (height, width, y, x)
    assert [grid(64, 1.0), grid(96, 1.5), grid(24, 2 / 3), grid(7, 1.0)] == [(8, 8), (12, 8), (4, 6), (1, 7)]


def test_sensors_fire_where_a_loop_says(sensor, tiny_pipe):
    for t, rows in rows_at(tiny_pipe, FIRST):
        step = Step(t, guided=True)
        both = torch.cat([torch.zeros_like(rows), rows])
        positions, opened = by_hand(sensor, rows, t)
        assert torch.equal(sensor.fires(step, both), positions.flatten(1))
        assert torch.equal(sensor.opened(step, both), opened)
        assert 0 < positions.float().mean() < 1
        each = Step(t, guided=True, timesteps=torch.full((len(both),), t))
        assert torch.equal(sensor.fires(each, both), positions.flatten(1))


@pytest.mark.parametrize("keeps", [True, False])
def test_what_has_fired_stays_until_another_generation(sensor, tiny_pipe, keeps):
    seen, expected, so_far = [], [], None
    memory = Memory([sensor], "position", keeps)

    def read(step, output, source):
        seen.append(memory.fired(8, 8).clone())

    hooks = dict(memory.readers(tiny_pipe)) | {"unet.mid_block.attentions.0": read}
    for t, rows in rows_at(tiny_pipe, FIRST):
        now = by_hand(sensor, rows, t)[0]
        so_far = now if so_far is None or not keeps else so_far | now
        expected.append(so_far)
    with attached(tiny_pipe, readers=hooks):
        for _ in range(2):
            list(generate(tiny_pipe, ASKED, MODEL, 5))
        # A loop of one's own has no generation to remember.
        n = len(ASKED)
        sample, text = torch.randn(n, 48, 8, 8), torch.randn(n, 16, 32)
        alone = []
        for t in (249, 999, 249):
            with torch.no_grad():
                tiny_pipe.unet(sample, t, text)
            alone.append(seen.pop())
    assert len(seen) == 2 * T
    for i, found in enumerate(seen):
        assert torch.equal(found, expected[i % T]), i
    assert torch.equal(alone[0], alone[2])


def test_by_image_it_is_the_edit_or_the_model(sensor, plain, tiny_pipe):
    """Gate at the first module: an image is edited from the step on at which it opens, for both halves."""
    unet, opened, calls = tiny_pipe.unet, [], []
    handle = unet.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output[0].detach().clone())), with_kwargs=True
    )
    removal = uce(plain, sensor, "image")
    pictures = images(tiny_pipe, removal)
    handle.remove()
    so_far = torch.zeros(8, dtype=torch.bool)
    for args, kwargs, output in calls:
        t = int(args[1])
        with torch.no_grad():
            rows = unet.conv_in(args[0])
            without = unet(*args, **kwargs)[0]
            with plain.changed(tiny_pipe):
                edited = unet(*args, **kwargs)[0]
        so_far = so_far | by_hand(sensor, rows[8:], t)[1]
        opened.append(so_far)
        for half in (slice(0, 8), slice(8, 16)):
            torch.testing.assert_close(output[half][so_far], edited[half][so_far], rtol=1e-3, atol=1e-4)
            assert torch.equal(output[half][~so_far], without[half][~so_far])
    assert 0 < opened[-1][:4].sum() < 4
    unedited = images(tiny_pipe)
    same = (pictures == unedited).all((1, 2, 3))
    assert same.tolist() == (~opened[-1][:4]).tolist()


def test_looking_ahead_decides_before_the_first_step(plain, tiny_pipe):
    """The gate can open at the second step alone, at a late module: then the whole generation is the edit's."""
    [late] = sensors(evidence_at(tiny_pipe, PATH), 3)
    unedited = rows_at(tiny_pipe, PATH)
    rows = unedited[1][1].flatten(2).transpose(1, 2)
    tau = torch.full((T,), torch.inf)
    tau[1] = between(late.gated(rows, TIMESTEPS[1])[1][: len(ASKED)], 0.5)
    opened = (late.gated(rows, TIMESTEPS[1])[1] >= tau[1])[: len(ASKED)].numpy()
    assert 0 < opened.sum() < len(ASKED)
    late = replace(late, gate="activation", tau=tau)
    without, whole = images(tiny_pipe), images(tiny_pipe, Removal("c", "d", "uce", {}, (plain,)))
    for ahead in (1, 2):
        removal = uce(plain, late, "image", ahead)
        seen = []
        with attached(
            tiny_pipe, readers={PATH: lambda step, output, source, seen=seen: seen.append(output[8:].clone())}
        ):
            found = images(tiny_pipe, removal)
        assert len(seen) == ahead + 1 + T
        for mine, (_, model) in zip(seen[: ahead + 1], unedited, strict=False):
            assert torch.equal(mine, model)
        np.testing.assert_array_equal(found[~opened], without[~opened])
        assert np.abs(found[opened].astype(int) - whole[opened]).max() <= 1
        assert not (found[opened] == without[opened]).all((1, 2, 3)).any()
        silent = uce(plain, replace(late, tau=torch.full((T,), torch.inf)), "image", 0)
        np.testing.assert_array_equal(images(tiny_pipe, removal, silent), found)
    # Seen at the second step alone, it comes too late for that.
    late_only = images(tiny_pipe, uce(plain, late, "image", 0))
    assert np.abs(late_only[opened].astype(int) - whole[opened]).max() > 1
    np.testing.assert_array_equal(late_only, images(tiny_pipe, uce(plain, late, "image")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("lanes", [ASKED, ASKED[::-1]])
def test_looking_ahead_draws_the_noise_of_the_generation(plain, make_pipe, lanes):
    """With a scheduler that draws noise at each step, what is seen ahead is what the unedited model does."""
    pipe = make_pipe()
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    [late] = sensors(evidence_at(pipe, PATH), 3)
    shut = replace(late, gate="activation", tau=torch.full((T,), torch.inf))
    seen = []
    with attached(pipe, readers={PATH: lambda step, output, source: seen.append(output[8:].clone())}):
        found = images(pipe, uce(plain, shut, "image", 1), wanted=lanes)
    assert len(seen) == 2 + T
    for ahead, then in zip(seen[:2], seen[2:], strict=False):
        assert torch.equal(ahead, then)
    np.testing.assert_array_equal(found, images(pipe, wanted=lanes))


def test_by_position_outputs_are_blended(sensor, plain, tiny_pipe, monkeypatch):
    removal = uce(plain, sensor, "position")
    pictures = images(tiny_pipe, removal)
    so_far = {}

    def watch(module, args, output):
        t = int(now[0])
        fires = by_hand(sensor, output[8:], t)[0]
        so_far["m"] = fires if t == TIMESTEPS[0] else fires | so_far["m"]

    now = []
    handles = [
        tiny_pipe.unet.register_forward_pre_hook(lambda module, args: now.insert(0, args[1])),
        tiny_pipe.unet.conv_in.register_forward_hook(watch),
    ]
    for name, module in tiny_pipe.unet.named_modules():
        if name.endswith("attn2"):

            def blended(hidden, *args, original=module.forward, **kwargs):
                one = original(hidden, *args, **kwargs)
                with plain.changed(tiny_pipe):
                    two = original(hidden, *args, **kwargs)
                side = round(hidden.shape[1] ** 0.5)
                block = so_far["m"].shape[1] // side
                m = so_far["m"].unflatten(1, (side, block)).unflatten(3, (side, block)).any(4).any(2).flatten(1)
                return torch.where(torch.cat([m, m])[..., None], two, one)

            monkeypatch.setattr(module, "forward", blended)
    expected = images(tiny_pipe)
    for handle in handles:
        handle.remove()
    monkeypatch.undo()
    assert np.abs(pictures.astype(int) - expected).max() <= 1
    assert np.abs(pictures.astype(int) - images(tiny_pipe)).max() > 3
    # All positions: the edit itself.
    everywhere = replace(sensor, floor=torch.where(sensor.floor.isfinite(), -1.0, sensor.floor))
    with removed(tiny_pipe, [replace(removal, parts=(plain,))]):
        whole = images(tiny_pipe)
    assert np.abs(images(tiny_pipe, uce(plain, everywhere, "position")).astype(int) - whole).max() <= 1


def test_where_sensors_fire_the_prediction_is_that_without_a_prompt(sensor, tiny_pipe):
    part = GuidanceMask((sensor,), 1.25)
    chance = torch.Generator().manual_seed(1)
    sample, text = torch.randn(3, 48, 8, 8, generator=chance), torch.randn(6, 16, 32, generator=chance)
    sample = torch.cat([sample, sample])
    with torch.no_grad():
        e = tiny_pipe.unet(sample, 749, text)[0]
        with removed(tiny_pipe, [Removal("c", "d", "sae_guidance", {}, (part,))]):
            found = tiny_pipe.unet(sample, 749, text)[0]
        fires = by_hand(sensor, tiny_pipe.unet.conv_in(sample[3:]), 749)[0]
    assert torch.equal(found[:3], e[:3])
    for b in range(3):
        for y in range(8):
            for x in range(8):
                e_u, e_c, mine = e[b, :, y, x], e[3 + b, :, y, x], found[3 + b, :, y, x]
                if fires[b, y, x]:
                    torch.testing.assert_close(mine, e_u - 0.25 * (e_c - e_u), rtol=1e-4, atol=1e-5)
                else:
                    assert torch.equal(mine, e_c)
    # Several together: each place once, with the largest amount.
    with (
        torch.no_grad(),
        removed(tiny_pipe, [Removal("c", "d", "sae_guidance", {}, (p,)) for p in (part, part.scaled(0.1), part)]),
    ):
        assert torch.equal(tiny_pipe.unet(sample, 749, text)[0], found)
    with torch.no_grad(), removed(tiny_pipe, [Removal("c", "d", "sae_guidance", {}, (part.scaled(0.5),))]):
        half = tiny_pipe.unet(sample, 749, text)[0]
    torch.testing.assert_close(half, (found + e) / 2, rtol=1e-4, atol=1e-5)


def made(sensor, plain):
    return {
        "image": uce(plain, sensor, "image"),
        "position": uce(plain, sensor, "position"),
        "guidance": Removal("c", "d", "sae_guidance", {}, (GuidanceMask((sensor,), 1.0),)),
    }


@pytest.mark.parametrize("kind", ["image", "position", "guidance"])
def test_where_nothing_fires_pictures_are_the_same_bit_for_bit(sensor, plain, tiny_pipe, kind):
    silent = replace(sensor, floor=torch.full_like(sensor.floor, torch.inf), tau=torch.full((T,), torch.inf))
    np.testing.assert_array_equal(images(tiny_pipe, made(silent, plain)[kind]), images(tiny_pipe))
    assert (images(tiny_pipe, made(sensor, plain)[kind]) != images(tiny_pipe)).any()
    assert made(sensor, plain)[kind].at(0).parts == ()


@pytest.mark.parametrize("kind", ["image", "position", "guidance"])
def test_pictures_depend_on_no_neighbour_and_files_come_back(sensor, plain, tiny_pipe, kind, tmp_path):
    removal = made(sensor, plain)[kind]
    together = images(tiny_pipe, removal)
    alone = np.concatenate([images(tiny_pipe, removal, wanted=[each]) for each in ASKED[::-1]])[::-1]
    np.testing.assert_array_equal(together, alone)
    removal.save(tmp_path / "r")
    again = Removal.load(tmp_path / "r")
    again.save(tmp_path / "s")
    assert (tmp_path / "r").read_bytes() == (tmp_path / "s").read_bytes()
    np.testing.assert_array_equal(images(tiny_pipe, again), together)
    with removed(tiny_pipe, [removal]):
        # Another number of steps, and no trace of the generation before.
        other = images(tiny_pipe, model=ModelConfig(steps=1, guidance=2.0, micro_batch=8))
    np.testing.assert_array_equal(other, images(tiny_pipe, removal, model=ModelConfig(steps=1, guidance=2.0)))


def test_several_maps_add_up_each_with_its_own_gate(sensor, plain, tiny_pipe):
    silent = replace(sensor, tau=torch.full((T,), torch.inf))
    one, two = uce(plain, sensor, "image"), uce(replace(plain, up=-plain.up), silent, "image")
    np.testing.assert_array_equal(images(tiny_pipe, one, two), images(tiny_pipe, one))
    undone = uce(replace(plain, up=-plain.up), sensor, "image")
    assert np.abs(images(tiny_pipe, one, undone).astype(int) - images(tiny_pipe)).max() <= 1
    np.testing.assert_array_equal(images(tiny_pipe, Removal.merge([one, two])), images(tiny_pipe, one))


def test_a_threshold_is_what_one_in_a_hundred_retained_images_reaches(evidence, tiny_pipe):
    [plain] = sensors(evidence, 3)
    [found] = with_thresholds([plain], evidence, evidence.others)
    heights = {t: [] for t in TIMESTEPS}
    for request in evidence.others:
        seen = []
        with attached(
            tiny_pipe, readers={FIRST: lambda step, out, source, seen=seen: seen.append((step, out, step.timestep))}
        ):
            list(generate(tiny_pipe, [request], MODEL, evidence.seed))
        for _, out, t in seen:
            # One image was filled up to eight: the conditional half begins at 8.
            f = plain.encode(out[8].flatten(1).T)
            chosen = torch.isfinite(plain.floor[TIMESTEPS.index(t)])
            heights[t].append(float((f * chosen).sum(1).max()))
    expected = [float(torch.tensor(heights[t]).quantile(QUANTILE)) for t in TIMESTEPS]
    torch.testing.assert_close(found.tau, torch.tensor(expected))
    assert found.gate == "activation" and torch.equal(found.floor, plain.floor)


def few_means(pipe, sae, few, seed):
    """{timestep: mean f, float64 [N]} of images, each drawn alone."""
    seen = {}

    def read(step, output, source):
        # One image was filled up to eight: the conditional half begins at 8.
        seen.setdefault(step.timestep, []).append(output[8].flatten(1).T)

    with attached(pipe, readers={PATH: read}):
        for request in few:
            list(generate(pipe, [request], MODEL, seed))
    return {t: sae.encode(torch.stack(rows)).double().mean((0, 1)) for t, rows in seen.items()}


def test_sauce_finds_latents_with_a_few_images(tiny_pipe):
    evidence = evidence_at(tiny_pipe, PATH)
    sae = evidence.saes[PATH]
    sums = [few_means(tiny_pipe, sae, few[:8], evidence.seed) for few in (evidence.target, evidence.others)]
    method = methods.get("sauce")
    learned = method.learn(evidence)
    [edit] = method.parts(evidence, learned, {"n": 2, "beta": -3.0, "gate": "image"})
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(4))
    f = sae.encode(x)
    for t in TIMESTEPS:
        difference = sums[0][t] - sums[1][t]
        new = f.clone()
        for i in difference.argsort(descending=True)[:2].tolist():
            if difference[i] > 0:
                new[..., i] = -3.0 * f[..., i]
        torch.testing.assert_close(edit.delta(x, t), (new - f) @ sae.W_dec, rtol=1e-4, atol=1e-4)
    assert edit.gate == "activation" and edit.half == "both"
    [open_] = method.parts(evidence, learned, {"n": 2, "beta": -3.0, "gate": "none"})
    assert open_.gate == "none" and torch.equal(open_.delta(x, 499), edit.delta(x, 499))


@pytest.mark.parametrize(
    ("method", "setting", "value", "error", "says"),
    [
        ("gated_uce", "gate", "pixel", UnknownName, "unknown gate 'pixel'"),
        ("gated_uce", "ahead", -2, ConfigError, "ahead holds -2"),
        ("gated_uce", "n", 0, ConfigError, "n holds 0"),
        ("gated_uce", "erase", -1, ConfigError, "erase holds -1"),
        ("sae_guidance", "n", 1.5, ConfigError, r"n holds 1.5"),
        ("sae_guidance", "push", -0.5, ConfigError, r"push holds -0.5"),
        ("sauce", "beta", 1, ConfigError, "beta holds 1"),
        ("sauce", "gate", "position", UnknownName, "unknown gate 'position'"),
    ],
)
def test_settings(method, setting, value, error, says):
    with pytest.raises(error, match=says):
        methods.get(method).candidates({setting: (value,)})


def test_guidance_is_needed(sensor, tiny_pipe):
    removal = Removal("c", "d", "sae_guidance", {}, (GuidanceMask((sensor,), 1.0),))
    with pytest.raises(ConfigError, match="needs guidance"):
        images(tiny_pipe, removal, model=ModelConfig(steps=2, guidance=1.0))
    unguided = RunConfig.model_construct(model=ModelConfig(guidance=1.0))
    with pytest.raises(ConfigError, match=r"model.guidance is 1"):
        methods.get("sae_guidance").check(unguided)

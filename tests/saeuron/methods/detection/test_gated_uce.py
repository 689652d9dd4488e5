"""UCE where an SAE sees the concept, against UCE and the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from saeuron import methods
from saeuron.hooks import attached
from saeuron.methods.detection.sensor import sensors
from saeuron.methods.removal import Removal, removed
from tests.saeuron.methods.detection.sensing import (
    ASKED,
    FIRST,
    MODEL,
    between,
    by_hand,
    evidence_at,
    images,
    rows_at,
    uce,
)
from tests.saeuron.methods.removals import PATH, TIMESTEPS, T


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


@pytest.mark.parametrize("steps", [2, 4, 10])
def test_at_another_number_of_steps_as_much_of_the_noise_is_looked_at(plain, tiny_pipe, steps):
    [late] = sensors(evidence_at(tiny_pipe, PATH), 3)
    shut = replace(late, gate="activation", tau=torch.full((T,), torch.inf))
    seen = []
    with attached(tiny_pipe, readers={PATH: lambda step, output, source: seen.append(step.timestep)}):
        images(tiny_pipe, uce(plain, shut, "image", 1), model=MODEL.model_copy(update={"steps": steps}))
    generation = seen[-steps:]
    above = [t for t in generation if t > TIMESTEPS[1]]
    assert len(seen) == len(above) + 1 + steps and len(above) == {2: 1, 4: 1, 10: 3}[steps]


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


def test_several_maps_add_up_each_with_its_own_gate(sensor, plain, tiny_pipe):
    silent = replace(sensor, tau=torch.full((T,), torch.inf))
    one, two = uce(plain, sensor, "image"), uce(replace(plain, up=-plain.up), silent, "image")
    np.testing.assert_array_equal(images(tiny_pipe, one, two), images(tiny_pipe, one))
    undone = uce(replace(plain, up=-plain.up), sensor, "image")
    assert np.abs(images(tiny_pipe, one, undone).astype(int) - images(tiny_pipe)).max() <= 1
    np.testing.assert_array_equal(images(tiny_pipe, Removal.merge([one, two])), images(tiny_pipe, one))


def test_the_random_control_asks_latents_that_fire_and_are_not_chosen_by_score(evidence, tiny_pipe):
    [chosen], [drawn] = (
        method.parts(evidence, method.learn(evidence), {**method.candidates({"n": [2]})[0]})[0].sensors
        for method in (methods.get("gated_uce"), methods.get("gated_uce_random"))
    )
    profile = evidence.profiles[FIRST]
    edited = [[set(part.latents[torch.isfinite(row)].tolist()) for row in part.floor] for part in (chosen, drawn)]
    assert all(len(each) == 2 for latents in edited for each in latents)
    assert edited[0] != edited[1]
    for t, latents in enumerate(edited[1]):
        assert all(profile.mean[t, i] > 0 for i in latents)

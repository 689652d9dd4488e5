"""UCE where a probe opens, against UCE and the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from saeuron import methods
from saeuron.hooks import attached
from saeuron.methods.removal import Removal
from tests.saeuron.methods.detection.sensing import ASKED, FIRST, MODEL, images, probe_at, shut, uce
from tests.saeuron.methods.removals import PATH


@pytest.mark.parametrize("hookpoint", [FIRST, PATH])
def test_an_image_is_the_edit_s_or_the_model_s_from_the_first_step_on(plain, tiny_pipe, hookpoint):
    """Wherever the probe looks: a late module has run before its probe opens, so the step is run again."""
    probe, opened = probe_at(tiny_pipe, hookpoint)
    without, whole = images(tiny_pipe), images(tiny_pipe, Removal("c", "d", "uce", {}, (plain,)))
    found = images(tiny_pipe, uce(plain, probe))
    np.testing.assert_array_equal(found[~opened.numpy()], without[~opened.numpy()])
    assert np.abs(found[opened].astype(int) - whole[opened]).max() <= 1
    assert np.abs(without[opened].astype(int) - whole[opened]).max() > 3


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_nothing_runs_twice_where_no_probe_opens_and_one_step_where_one_does(probed, plain, tiny_pipe, steps):
    probe, _ = probed
    model = MODEL.model_copy(update={"steps": steps})
    for removal, more in ((uce(plain, shut(probe)), 0), (uce(plain, probe), 1), (uce(plain, shut(probe), probe), 1)):
        seen = []
        with attached(tiny_pipe, readers={PATH: lambda step, output, source, seen=seen: seen.append(step.index)}):
            images(tiny_pipe, removal, model=model)
        assert seen == [0] * more + list(range(steps))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("lanes", [ASKED, ASKED[::-1]])
def test_a_scheduler_that_draws_noise_draws_the_same(probed, plain, make_pipe, lanes):
    pipe = make_pipe()
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    probe, opened = probe_at(pipe, PATH)
    opened = np.array([bool(opened[ASKED.index(each)]) for each in lanes])
    without, whole = (images(pipe, *r, wanted=lanes) for r in ([], [Removal("c", "d", "uce", {}, (plain,))]))
    found = images(pipe, uce(plain, probe), wanted=lanes)
    np.testing.assert_array_equal(found[~opened], without[~opened])
    assert np.abs(found[opened].astype(int) - whole[opened]).max() <= 1


def test_several_maps_add_up_each_with_its_own_probe(probed, plain, tiny_pipe):
    probe, _ = probed
    one, two = uce(plain, probe), uce(replace(plain, up=-plain.up), shut(probe))
    np.testing.assert_array_equal(images(tiny_pipe, one, two), images(tiny_pipe, one))
    undone = uce(replace(plain, up=-plain.up), probe)
    assert np.abs(images(tiny_pipe, one, undone).astype(int) - images(tiny_pipe)).max() <= 1
    np.testing.assert_array_equal(images(tiny_pipe, Removal.merge([one, two])), images(tiny_pipe, one))


def test_either_of_two_probes_opens(probed, plain, tiny_pipe):
    probe, _ = probed
    both = uce(plain, shut(probe), probe)
    np.testing.assert_array_equal(images(tiny_pipe, both), images(tiny_pipe, uce(plain, probe)))


def test_a_loop_of_ones_own_decides_at_every_run(probed, plain, tiny_pipe):
    probe, _ = probed
    n, seen = len(ASKED), []
    sample, text = (
        torch.randn(n, *size, generator=torch.Generator().manual_seed(3)) for size in ((48, 8, 8), (16, 32))
    )
    with torch.no_grad(), attached(tiny_pipe, readers={PATH: lambda step, output, source: seen.append(output)}):
        unedited = tiny_pipe.unet(sample, 999, text)[0]
    other = replace(probe, bias=probe.bias - float(probe.height(seen[0]).median()) - 1e-6)
    opened = other.height(seen[0]) >= 0
    assert 0 < opened.sum() < n
    with torch.no_grad(), uce(plain, other).attached(tiny_pipe, any_model=True):
        for _ in range(2):
            found = tiny_pipe.unet(sample, 999, text)[0]
            assert torch.equal(found[~opened], unedited[~opened])
            assert (found[opened] - unedited[opened]).abs().amax((1, 2, 3)).min() > 1e-3


def test_the_random_control_reads_latents_that_fire_and_are_not_chosen_by_score(evidence):
    chosen, drawn = (
        method.parts(evidence, method.learn(evidence), {**method.candidates({"n": [2]})[0]})[0].probes[0]
        for method in (methods.get("gated_uce"), methods.get("gated_uce_random"))
    )
    profile = evidence.profiles[FIRST]
    best = profile.score[0].abs().argsort(descending=True)[:2].sort().values
    assert torch.equal(chosen.latents, best)
    assert len(drawn.latents) == 2 and drawn.latents.tolist() != best.tolist()
    assert (profile.mean[0, drawn.latents] > 0).all()

"""Watches and changes of weights at some steps alone; and what takes no limit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron.errors import ConfigError
from saeuron.hooks import INPUT, attached, resolve
from saeuron.methods.detection.sae_guidance import GuidanceMask
from saeuron.methods.local import LocalChange, LocalWatch, Setting, local, turned, unlimited
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.methods.weights.part import WeightDelta
from tests.saeuron.methods.detection.sensing import MODEL, images, uce
from tests.saeuron.methods.removals import PATH, random_sae

STEPS = MODEL.steps


@pytest.fixture(scope="module")
def made(sensor, probed, plain, tiny_pipe):
    """{kind of part: a removal that has one}."""
    layer = plain.layers[0]
    chance = torch.Generator().manual_seed(1)
    up = torch.randn(len(resolve(tiny_pipe, layer).weight), 2, generator=chance)
    parts = {
        "map": plain,
        "delta": WeightDelta((layer,), up, plain.down[:2]),
        "guidance": GuidanceMask((sensor,), 1.5),
        "edit": turned(random_sae(width=16, hookpoint=PATH), {3: Setting(0.0, 4.0)}),
    }
    removals = {kind: Removal("c", "d", kind, {}, (part,)) for kind, part in parts.items()}
    return removals | {"gated": uce(plain, probed[0])}


KINDS = ("map", "delta", "guidance", "edit", "gated")


def samples(pipe, *removals):
    """What the denoiser reads at each step, [step]; the step before made it."""
    seen = []

    def read(step, sample, source):
        seen.append(sample.clone())

    with removed(pipe, removals), attached(pipe, readers={"unet" + INPUT: read}):
        images(pipe)
    assert len(seen) == STEPS
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_until_its_first_step_it_is_the_model_and_to_its_last_the_whole_removal(made, tiny_pipe, kind):
    """No reference of the limited run is needed: what a step reads tells what all steps before it did."""
    removal = made[kind]
    model, whole = samples(tiny_pipe), samples(tiny_pipe, removal)
    late, early = samples(tiny_pipe, local([removal], first=2)), samples(tiny_pipe, local([removal], last=1))
    for i in range(3):
        assert torch.equal(late[i], model[i]) and torch.equal(early[i], whole[i])
    assert not torch.equal(late[3], model[3]) and not torch.equal(early[3], whole[3])
    # Nothing is left behind.
    assert all(torch.equal(a, b) for a, b in zip(samples(tiny_pipe), model, strict=True))


@pytest.mark.parametrize(
    "kinds", [(kind,) for kind in KINDS] + [("map", "delta", "gated"), ("gated", "guidance", "edit")]
)
def test_at_all_steps_it_is_the_removal_bit_for_bit(made, tiny_pipe, kinds):
    """A probe that opens runs the first step again: changed weights are in place then, too."""
    removals = [made[kind] for kind in kinds]
    limited = local(removals, last=STEPS - 1)
    assert all(isinstance(p, LocalChange | LocalWatch) or hasattr(p, "region") for p in limited.parts)
    np.testing.assert_array_equal(images(tiny_pipe, limited), images(tiny_pipe, Removal.merge(removals)))


def weights(pipe, removal):
    return [resolve(pipe, path).weight.detach().clone() for part in removal.parts for path in part.layers]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_weights_hold_at_the_steps_alone_and_come_back_after_an_error(made, tiny_pipe):
    before = weights(tiny_pipe, made["map"])
    with removed(tiny_pipe, [made["map"]]):
        whole = weights(tiny_pipe, made["map"])
    found = []

    def look(step, output, source):
        found.append((step.index, same(weights(tiny_pipe, made["map"]), whole)))
        if len(found) == 8:
            raise RuntimeError("cut off")

    limited = local([made["map"]], first=1, last=2)
    with (
        pytest.raises(RuntimeError, match="cut off"),
        removed(tiny_pipe, [limited]),
        attached(tiny_pipe, readers={"unet": look}),
    ):
        for _ in range(2):
            images(tiny_pipe)
    assert found[:6] == [(0, False), (1, True), (2, True), (3, False), (0, False), (1, True)]
    assert same(weights(tiny_pipe, made["map"]), before)


def test_one_that_comes_and_goes_lies_within_one_that_stays(made, tiny_pipe):
    """Both change the same layer. Cut off where both are in place, each puts back what it found."""
    before = weights(tiny_pipe, made["map"])
    for one, two in (("map", "delta"), ("delta", "map")):
        with removed(tiny_pipe, [local([made[one]], first=1), made[two]]):
            images(tiny_pipe)
        assert same(weights(tiny_pipe, made["map"]), before)


def test_limits_of_weights_that_differ_are_refused(made, tiny_pipe):
    two = [local([made["map"]], last=1), local([made["delta"]], first=2)]
    with pytest.raises(ConfigError, match="at different steps cannot be attached together"), removed(tiny_pipe, two):
        pass
    with pytest.raises(ConfigError, match="cannot be saved"):
        two[0].save("/nowhere")


def test_what_takes_no_region_or_no_limit_says_so_in_one_line(made):
    region = torch.ones(2, 2, dtype=torch.bool)
    call = Removal("c", "d", "negative_prompt", {}, (Call({"negative_prompt": "c"}),))
    text = turned(random_sae(width=16, hookpoint="text_encoder.x"), {3: Setting(0.0)})
    text = Removal("c", "d", "itd", {}, (text,))
    encoder = Removal("c", "d", "uce", {}, (replace(made["map"].parts[0], layers=("text_encoder.x",)),))
    for kind in ("map", "delta", "guidance", "gated"):
        assert unlimited(made[kind], steps=True, region=False) == ""
        with pytest.raises(ConfigError, match=r"paint no region; steps may be limited") as error:
            local([made["edit"], made[kind]], region=region)
        assert "\n" not in str(error.value) and made[kind].method in str(error.value)
    assert unlimited(made["edit"], steps=True, region=True) == ""
    for removal in (call, text, encoder):
        assert unlimited(removal, steps=False, region=False) == "" and local([removal]) is removal
        for where in ({"first": 1}, {"last": 0}, {"region": region}):
            with pytest.raises(ConfigError, match="choose all steps and paint no region"):
                local([removal], **where)

"""The prediction without a prompt where an SAE sees the concept."""

import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig, RunConfig
from saeuron.errors import ConfigError
from saeuron.methods.detection.sae_guidance import GuidanceMask
from saeuron.methods.removal import Removal, removed
from tests.saeuron.methods.detection.sensing import by_hand, images


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


def test_guidance_is_needed(sensor, tiny_pipe):
    removal = Removal("c", "d", "sae_guidance", {}, (GuidanceMask((sensor,), 1.0),))
    with pytest.raises(ConfigError, match="needs guidance"):
        images(tiny_pipe, removal, model=ModelConfig(steps=2, guidance=1.0))
    unguided = RunConfig.model_construct(model=ModelConfig(guidance=1.0))
    with pytest.raises(ConfigError, match=r"model.guidance is 1"):
        methods.get("sae_guidance").check(unguided)

"""Latents turned by hand, at some steps, in a region."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import latent_shape, sample
from saeuron.hooks import Step
from saeuron.methods.local import Local, Setting, local, turned
from saeuron.methods.removal import Removal, removed
from saeuron.noise import initial_noise
from saeuron.prompts import Prompt
from tests.saeuron.methods.removals import VARIANTS, D, N, random_sae, rows

MODEL = ModelConfig(steps=3)
MAP, SEQUENCE = "unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2"


def slow(sae, settings, x):
    """The formula, row by row and latent by latent, float64."""
    out = np.zeros(x.shape)
    f = sae.encode(x).double().numpy()
    for b in range(len(x)):
        for i, (factor, offset) in settings.items():
            out[b] += (factor * f[b, i] + offset - f[b, i]) * sae.W_dec[i].double().numpy()
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_turned_is_the_slow_reference(variant):
    sae, x = random_sae(variant), rows()
    settings = {3: Setting(0.0), 7: Setting(2.5), 30: Setting(0.0, 1.5)}
    edit = turned(sae, settings)
    np.testing.assert_allclose(edit.delta(x, 500).numpy(), slow(sae, settings, x), atol=1e-5)
    np.testing.assert_allclose(edit.scaled(0.5).delta(x, 0).numpy(), slow(sae, settings, x) / 2, atol=1e-5)


def test_a_latent_that_does_not_fire_is_left_alone_bit_for_bit():
    sae, x = random_sae(), rows()
    silent = sae.encode(x)[:, 5] == 0
    assert 0 < silent.sum() < len(x)
    delta = turned(sae, {5: Setting(0.0)}).delta(x, 0)
    assert (delta[silent] == 0).all() and (delta[~silent] != 0).any()


def test_a_latent_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=f"latent {N}: this SAE has {N}; expected 0 to {N - 1}"):
        turned(random_sae(), {N: Setting(0.0)})
    with pytest.raises(ConfigError, match="no latent"):
        turned(random_sae(), {})


def test_a_region_is_the_cells_in_which_positions_lie():
    region = torch.tensor([[True, False], [False, False]])
    edit = Local("unet.x", "both", turned(random_sae(), {3: Setting(0.0, 9.0)}), region=region)
    step = Step(timestep=10, index=0)
    output = torch.zeros(1, D, 4, 6)
    changed = edit.change(step, output)[0].abs().sum(0) > 0
    assert changed.tolist() == [[True] * 3 + [False] * 3] * 2 + [[False] * 6] * 2
    sequence = replace(edit, aspect=4 / 6).change(step, torch.zeros(1, 24, D))[0].abs().sum(1) > 0
    assert sequence.reshape(4, 6).tolist() == changed.tolist()
    with pytest.raises(ConfigError, match="gives 7 positions, which do not form a map"):
        edit.change(step, torch.zeros(1, 7, D))


def test_steps_have_a_first_and_a_last():
    edit = Local("unet.x", "both", turned(random_sae(), {3: Setting(0.0, 9.0)}), first=1, last=2)
    acts = [edit.change(Step(timestep=10, index=i), torch.zeros(1, 4, D)) is not None for i in range(4)]
    assert acts == [False, True, True, False]
    # A text encoder runs before all steps.
    assert edit.change(Step(timestep=-1, index=-1), torch.zeros(1, 4, D)) is not None
    with pytest.raises(ConfigError, match="cannot be saved"):
        edit.record()


def picture(pipe, removal):
    noise = initial_noise(0, [(Prompt("A cat in neon style.", "test").id, 0)], latent_shape(pipe))
    with removed(pipe, [removal], any_model=True) as attached:
        return sample(pipe, ["A cat in neon style."], noise, MODEL, attached.call)[0]


def by_hand(path, width, **where):
    sae = random_sae(width=width, hookpoint=path)
    return local([Removal("x", "y", "by hand", {}, (turned(sae, {3: Setting(0.0, 4.0)}),))], **where)


@pytest.mark.parametrize("path", [MAP, SEQUENCE])
def test_in_a_pipeline_everywhere_and_all_steps_is_the_merged_removal_bit_for_bit(tiny_pipe, path):
    everywhere = picture(tiny_pipe, by_hand(path, 16))
    limited = by_hand(path, 16, first=0, last=2, region=torch.ones(16, 16, dtype=torch.bool))
    assert isinstance(limited.parts[0], Local)
    assert np.array_equal(picture(tiny_pipe, limited), everywhere)
    nothing = Removal("x", "y", "by hand", {}, ())
    assert not np.array_equal(everywhere, picture(tiny_pipe, nothing))
    nowhere = by_hand(path, 16, region=torch.zeros(16, 16, dtype=torch.bool))
    assert np.array_equal(picture(tiny_pipe, nowhere), picture(tiny_pipe, nothing))


def test_several_at_once_in_a_region_do_what_they_do_together(tiny_pipe):
    made = [
        Removal(name, "y", "by hand", {}, (turned(random_sae(width=16, hookpoint=path), {3: Setting(0.0, 4.0)}),))
        for name, path in (("a", MAP), ("b", SEQUENCE))
    ]
    everywhere = torch.ones(16, 16, dtype=torch.bool)
    limited = [local(order, last=2, region=everywhere) for order in (made, made[::-1])]
    assert all(len(of.parts) == 2 and all(isinstance(p, Local) for p in of.parts) for of in limited)
    pictures = [picture(tiny_pipe, of) for of in (Removal.merge(made), *limited)]
    assert all(np.array_equal(each, pictures[0]) for each in pictures)
    assert not np.array_equal(pictures[0], picture(tiny_pipe, made[0]))

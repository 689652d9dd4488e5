import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import OtherModel, UnknownName, WidthMismatch
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.pipelines.loading import identity, load_pipeline
from saeuron.profiles import DomainTotals, profile
from saeuron.prompts import Prompt
from saeuron.scoring import Accumulator
from tests.saeuron.methods.removals import PATH, TIMESTEPS, T, random_sae

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
    return sae, profile(totals[0], DomainTotals.of(totals))


def images(pipe, steps=4, guidance=2.0):
    config = ModelConfig(steps=steps, guidance=guidance)
    return np.concatenate([made for _, made in generate(pipe, requests(PROMPTS, 1), config, seed=5)])


@pytest.mark.parametrize(("steps", "guidance"), [(4, 2.0), (7, 2.0), (1, 2.0), (3, 1.0)])
@pytest.mark.parametrize("half", ["both", "conditional"])
def test_a_removal_changes_images_at_any_number_of_steps_and_leaves_the_pipeline(
    tiny_pipe, scored, steps, guidance, half
):
    plain = images(tiny_pipe, steps, guidance)
    removal = Removal("neon", "style", "saeuron", {}, (build_edit(*scored, 8, -5.0, half=half),))
    with removal.attached(tiny_pipe) as call:
        edited = images(tiny_pipe, steps, guidance)
    assert call == {}
    assert np.abs(edited.astype(int) - plain).max() > 1
    np.testing.assert_array_equal(images(tiny_pipe, steps, guidance), plain)


def test_the_unconditional_half_matters_under_guidance_alone(tiny_pipe, scored):
    removal = Removal("neon", "style", "saeuron", {}, (build_edit(*scored, 8, -5.0, half="unconditional"),))
    for guidance, changes in ((2.0, True), (1.0, False)):
        plain = images(tiny_pipe, 3, guidance)
        with removal.attached(tiny_pipe):
            assert (images(tiny_pipe, 3, guidance) != plain).any() == changes


def test_a_removal_with_nothing_to_ablate_gives_the_same_images_bit_for_bit(tiny_pipe, scored):
    edit = build_edit(*scored, 8, -5.0)
    plain = images(tiny_pipe, 5)
    floors, factors = torch.full_like(edit.floor, torch.inf), torch.ones_like(edit.factor)
    for nothing in (replace(edit, floor=floors), replace(edit, factor=factors)):
        with Removal("neon", "style", "saeuron", {}, (nothing,)).attached(tiny_pipe):
            np.testing.assert_array_equal(images(tiny_pipe, 5), plain)


def test_a_loaded_removal_gives_the_same_images(tiny_pipe, scored, tmp_path):
    removal = Removal("neon", "style", "saeuron", {}, (build_edit(*scored, 8, -5.0),))
    removal.save(tmp_path / "r")
    with removal.attached(tiny_pipe):
        one = images(tiny_pipe)
    with Removal.load(tmp_path / "r").attached(tiny_pipe):
        np.testing.assert_array_equal(images(tiny_pipe), one)


def test_several_removals_at_once(tiny_pipe, scored):
    sae, prof = scored
    one = Removal("neon", "style", "saeuron", {}, (build_edit(sae, prof, 4, -5.0, sae_id="s"),))
    two = Removal("dots", "style", "saeuron", {}, (build_edit(sae, prof, 8, -5.0, sae_id="s"),))
    with removed(tiny_pipe, [one, two]) as attached_:
        together = images(tiny_pipe)
    assert attached_.overlap == {"s": 4 * T}
    with two.attached(tiny_pipe):
        # The same profile and gamma: the smaller set is part of the larger one.
        np.testing.assert_array_equal(images(tiny_pipe), together)
    with removed(tiny_pipe, []) as attached_:
        nothing = images(tiny_pipe)
    assert attached_.overlap == {}
    np.testing.assert_array_equal(nothing, images(tiny_pipe))


def test_a_removal_where_it_does_not_fit(tiny_pipe, scored):
    edit = build_edit(*scored, 8, -5.0)
    coarse = Removal("neon", "style", "saeuron", {}, (replace(edit, hookpoint="unet.up_blocks.0.attentions.0"),))
    with coarse.attached(tiny_pipe), pytest.raises(WidthMismatch, match="width 16, the hookpoint gives 32"):
        images(tiny_pipe)
    nowhere = Removal("neon", "style", "saeuron", {}, (replace(edit, hookpoint="unet.up_blocks.7.attentions.0"),))
    with pytest.raises(UnknownName, match="unknown hookpoint"), nowhere.attached(tiny_pipe):
        pass


def test_a_removal_of_another_model_says_so(tiny_model_folder, make_pipe, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model_folder, other)
    scheduler = other / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"leading"', '"trailing"') + "\n")
    ids = [identity(folder) for folder in (tiny_model_folder, other)]
    made_for = {"model": "mine", "model_id": ids[0]}
    edit = Call({"negative_prompt": "neon"})
    removal = Removal("neon", "style", "negative_prompt", {}, (edit,), made_for)
    pipe = load_pipeline(other)
    expected = rf"'neon' was made for mine \({ids[0]}\), and this model is {other} \({ids[1]}\)"
    with pytest.warns(OtherModel, match=expected), removal.attached(pipe):
        pass
    two = Removal.merge([removal, replace(removal, concept="dots")])
    with pytest.warns(OtherModel, match=r"'dots \+ neon' was made for mine"), removed(pipe, [two]):
        pass
    # Warnings are errors here: these give none.
    with removal.attached(pipe, any_model=True), removal.attached(load_pipeline(tiny_model_folder)):
        pass
    with removal.attached(make_pipe()), replace(removal, provenance={}).attached(pipe):
        pass

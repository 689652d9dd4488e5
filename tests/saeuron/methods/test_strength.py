"""A removal at a strength between 0 and 1, removals merged into one, and how a removal reads."""

import pytest
import torch

from saeuron.errors import ConfigError
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from tests.saeuron.methods.removals import PATH, example, random_profile, random_sae, rows


def test_a_strength_scales_the_change():
    removal, x = example(), rows()
    for strength in (0.25, 0.5):
        for whole, part in zip(removal.edits, removal.at(strength).edits, strict=True):
            torch.testing.assert_close(part.delta(x, 749), strength * whole.delta(x, 749), rtol=1e-4, atol=1e-5)
    assert removal.at(1) is removal
    assert removal.at(0).parts == ()


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(ConfigError, match=r"strength is .*; expected 0 \(the unedited model\) to 1"):
        example().at(strength)


def test_a_negative_prompt_has_no_strength_between_0_and_1():
    removal = Removal("neon", "style", "negative_prompt", {}, (Call({"negative_prompt": "neon"}),))
    with pytest.raises(ConfigError, match=r"strength 0\.5: negative_prompt has none between 0 and 1; take 0 or 1"):
        removal.at(0.5)
    assert removal.at(0).parts == ()


def test_merged_removals_do_what_they_do_together(tmp_path, tiny_pipe):
    sae = random_sae(width=16, hookpoint=PATH)
    one, two = (
        Removal(
            name, "style", "saeuron", {"n": 5}, (build_edit(sae, random_profile(i), 5, -2.0, sae_id="s"),), {"i": i}
        )
        for i, name in enumerate(("neon", "dots"))
    )
    text = Removal("cat", "object", "negative_prompt", {}, (Call({"negative_prompt": "cat"}),))
    merged = Removal.merge([one, two, text])
    assert (merged.concept, merged.domain) == ("cat + dots + neon", "object + style")
    assert merged.settings == {"neon.n": 5, "dots.n": 5}
    merged.save(tmp_path / "merged.safetensors")
    again = Removal.load(tmp_path / "merged.safetensors")

    def draw(removals):
        with removed(tiny_pipe, removals) as attached:
            generator = torch.Generator().manual_seed(0)
            call = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np", **attached.call}
            return tiny_pipe("a cat", generator=generator, **call).images

    together, unedited = draw([one, two, text]), draw([])
    assert (draw([again]) == together).all()
    assert (together != unedited).any()
    assert (draw([one.at(0), text.at(0)]) == unedited).all()


def test_texts_of_several_removals_are_joined():
    parts, _ = Call.combined([Call({"negative_prompt": "cat"}), Call({"negative_prompt": "dog"})])
    assert [p.arguments for p in parts] == [{"negative_prompt": "cat, dog"}]


def test_a_removal_reads_as_one_line():
    assert repr(example()) == (
        "Removal(style 'neon' by saeuron(n=5, gamma=-2.0) at unet.up_blocks.1.attentions.1, "
        "unet.mid_block.attentions.0)"
    )


def test_nothing_to_merge():
    with pytest.raises(ConfigError, match="expected at least one removal"):
        Removal.merge([])

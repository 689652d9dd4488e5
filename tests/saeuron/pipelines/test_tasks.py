"""Pipelines of other tasks with the same networks, of every family that has them: an edit against a hook by hand."""

import diffusers
import numpy as np
import pytest
import torch

from saeuron.errors import BadModel
from saeuron.hooks import attached, hookpoints
from saeuron.methods.removal import Removal
from saeuron.methods.steering import DirectionEdit
from saeuron.pipelines import FAMILIES, family_of
from saeuron.pipelines.loading import load_pipeline
from tests.saeuron.pipelines import tiny

TEXTS = ["A cat.", "A star in neon style."]
PICTURE = torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
MASK = torch.cat([torch.ones(2, 1, 16, 8), torch.zeros(2, 1, 16, 8)], 3)
DIRECTION = torch.linspace(-2, 3, 16)

TASKS = {
    "sd ControlNet": "StableDiffusionControlNetPipeline",
    "sd ControlNet, image to image": "StableDiffusionControlNetImg2ImgPipeline",
    "sdxl image to image": "StableDiffusionXLImg2ImgPipeline",
    "sdxl inpainting": "StableDiffusionXLInpaintPipeline",
    "sdxl ControlNet": "StableDiffusionXLControlNetPipeline",
    "sd3 image to image": "StableDiffusion3Img2ImgPipeline",
    "flux-dev image to image": "FluxImg2ImgPipeline",
    "flux-dev inpainting": "FluxInpaintPipeline",
}


def other(pipe, task):
    """A pipeline of another task with the same networks, and the arguments of its call."""
    kind, parts = getattr(diffusers, TASKS[task]), dict(pipe.components)
    call = {"image": PICTURE, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
    call |= {"height": 16, "width": 16}
    if "ControlNet" in task:
        parts["controlnet"] = diffusers.ControlNetModel.from_unet(
            pipe.unet, conditioning_embedding_out_channels=(8, 16)
        )
        call |= {"control_image": PICTURE} if "image to image" in task else {}
    if "inpainting" in task:
        call |= {"mask_image": MASK}
    if task.startswith("sd3"):
        call.pop("height"), call.pop("width")
    if task.startswith("sdxl"):
        parts["add_watermarker"] = False
    if task.startswith("sd "):
        parts["requires_safety_checker"] = False
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made, call | ({} if task.endswith("ControlNet") else {"strength": 1.0})


def by_hand(module, guided, draw):
    """The images of a call with a plain hook that adds the direction to every conditional row."""

    def after(module, args, kwargs, output):
        whole = output if isinstance(output, tuple) else (output,)
        # The two streams of a joint block are told apart by their lengths: 16 positions, and the text's.
        place = next(i for i, x in enumerate(whole) if x.ndim == 4 or x.shape[1] == 16)
        x = whole[place].clone()
        rows = x[2:] if guided else x
        rows += DIRECTION.view(-1, 1, 1) if x.ndim == 4 else DIRECTION
        new = (*whole[:place], x, *whole[place + 1 :])
        return new if isinstance(output, tuple) else x

    handle = module.register_forward_hook(after, with_kwargs=True)
    try:
        return draw()
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("task", TASKS)
def test_an_edit_in_another_task_is_that_by_hand(task, tmp_path):
    name = task.split()[0]
    pipe, path = load_pipeline(tiny.save(name, tmp_path)), tiny.HOOKPOINT[name]
    mine, call = other(pipe, task)
    assert type(mine).__name__ == TASKS[task] and family_of(mine) is family_of(pipe)
    edit = DirectionEdit(path, "conditional", torch.tensor([500]), DIRECTION[None])
    removal = Removal("neon", "style", "steering", {}, (edit,))

    def draw():
        seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        return mine(TEXTS, generator=seeds, **call).images

    unedited, seen = draw(), []
    expected = by_hand(hookpoints(pipe)[path], not name.startswith("flux"), draw)
    # Attached to either pipeline: the networks are the same.
    for holder in (pipe, mine):
        with removal.attached(holder), attached(holder, readers={path: lambda step, *_: seen.append(step.index)}):
            np.testing.assert_allclose(draw(), expected, atol=1e-6)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :] == [*range(len(seen) // 2)]
    assert np.abs(expected - unedited).max() > 0.01 and np.isfinite(expected).all()
    np.testing.assert_array_equal(draw(), unedited)


def test_a_task_that_is_another_models_is_refused_by_name():
    class FluxKontextPipeline:
        pass

    with pytest.raises(
        BadModel, match=r"the class FluxKontextPipeline, which is not supported; expected " + next(iter(FAMILIES))
    ):
        family_of(FluxKontextPipeline())

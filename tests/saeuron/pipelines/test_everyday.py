"""What people do with a pipeline, with a removal attached: other schedulers, sizes, slices, tasks, callbacks."""

import json
import shutil

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, requests, sample
from saeuron.hooks import attached, device_of, from_rows, hookpoints
from saeuron.methods.removal import Removal, removed
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.part import WeightMap
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt
from tests.saeuron.pipelines import tiny

# From the code of diffusers, with recent versions of numpy.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

PATH = "unet.up_blocks.1.attentions.1"
TEXTS = ["A cat.", "A star in neon style."]
WANTED = requests([Prompt(text, "test") for text in TEXTS], 1)
MODEL = ModelConfig(steps=3, guidance=2.5, micro_batch=2)
NOISE = initial_noise(0, [(r.prompt.id, r.index) for r in WANTED], (48, 8, 8))
PLAIN = {"num_inference_steps": 3, "guidance_scale": 2.5, "output_type": "np"}


def removal(path=PATH, seed=0, width=16):
    directions = torch.randn(3, width, generator=torch.Generator().manual_seed(seed))
    edit = DirectionEdit(path, "conditional", torch.tensor([900, 600, 100]), directions)
    return Removal("neon", "style", "steering", {}, (edit,))


NOTHING = Removal("neon", "style", "steering", {}, ())
SCHEDULERS = {
    "DDIMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DPMSolverMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {"beta_schedule": "scaled_linear"},  # canvas's own ends in pure noise
    "HeunDiscreteScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "LCMScheduler": {},
}
DRAWS = ("EulerAncestralDiscreteScheduler", "LCMScheduler")


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    return shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("everyday") / "model")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_model_draws_with_the_scheduler_that_it_was_saved_with(name, folder):
    index = json.loads((folder / "model_index.json").read_text())
    about = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    getattr(diffusers, name).from_config(about, **SCHEDULERS[name]).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
    pipe = load_pipeline(folder)
    assert type(pipe.scheduler).__name__ == name
    [(_, made)] = generate(pipe, WANTED, MODEL, 0)
    if name not in DRAWS:
        by_hand = pipe(TEXTS, latents=NOISE * 1.0, **PLAIN).images
        np.testing.assert_array_equal(made, (by_hand * 255).round().astype(np.uint8))
    with removed(pipe, [NOTHING]):
        [(_, same)] = generate(pipe, WANTED, MODEL, 0)
    seen = []
    with removed(pipe, [removal()]), attached(pipe, readers={PATH: lambda step, *_: seen.append(step.index)}):
        [(_, edited)] = generate(pipe, WANTED, MODEL, 0)
    np.testing.assert_array_equal(made, same)
    assert (made != edited).any() and seen == sorted(seen) and seen[0] == 0
    # Whatever the scheduler draws belongs to the image: its neighbours do not matter, and it is drawn again.
    [(_, other)] = generate(pipe, WANTED[::-1], MODEL, 0)
    np.testing.assert_array_equal(made, other[::-1])


def by_hand(pipe, edit, call):
    """The images of a call with a plain hook that does what the edit does."""
    now = {}

    def before(net, args, kwargs):
        now["t"] = int(args[1])

    def after(module, args, output):
        x = output[0]
        rows = x.flatten(2).transpose(1, 2)[len(x) // 2 :].float()
        change = torch.cat([torch.zeros_like(rows), edit.delta(rows, now["t"])])
        return (x + from_rows(change, x).to(x.dtype),)

    handles = (
        pipe.unet.register_forward_pre_hook(before, with_kwargs=True),
        hookpoints(pipe)[edit.hookpoint].register_forward_hook(after),
    )
    try:
        return call(pipe)
    finally:
        for handle in handles:
            handle.remove()


def nudged(pipe, step, timestep, tensors):
    """A callback that changes the latents."""
    return {"latents": tensors["latents"] * (1.1 if step == 0 else 1.0)}


def seeded():
    return [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)]


def plain(**more):
    return lambda pipe: pipe(TEXTS, latents=NOISE.to(pipe.unet.dtype), **PLAIN, **more).images


def several(pipe):
    return pipe(TEXTS, num_images_per_prompt=2, generator=seeded() + seeded(), **PLAIN).images


def img2img(pipe):
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other(TEXTS, torch.full((2, 3, 32, 32), 0.3), 0.7, generator=seeded(), **PLAIN).images


def inpainting(pipe):
    other = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :8] = 1
    return other(TEXTS, torch.full((2, 3, 16, 16), 0.3), mask, height=16, width=16, generator=seeded(), **PLAIN).images


def prepared(change):
    def call(pipe):
        if not getattr(pipe, "prepared", False):
            change(pipe)
            pipe.prepared = True
        return plain()(pipe)

    return call


def lora(pipe):
    """Load an adapter of random weights, as `load_lora_weights` reads it from a file."""
    pytest.importorskip("peft", reason="needs peft")
    shapes = {
        path: (module.in_features, module.out_features)
        for path, module in pipe.unet.named_modules()
        if path.endswith(("to_q", "to_v"))
    }
    draws, weights = torch.Generator().manual_seed(7), {}
    for path, (width, out) in shapes.items():
        weights[f"unet.{path}.lora_A.weight"] = torch.randn(4, width, generator=draws)
        weights[f"unet.{path}.lora_B.weight"] = 0.2 * torch.randn(out, 4, generator=draws)
    pipe.load_lora_weights(weights)


def eight_bits(pipe):
    """Weights are float8 while they wait, and float32 while they are computed with."""
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def embedded(pipe):
    words, nothing = pipe.encode_prompt(TEXTS, "cpu", 1, True)
    given = {"prompt_embeds": words, "negative_prompt_embeds": nothing}
    return pipe(latents=NOISE * 1.0, **given, **PLAIN).images


def one_by_one(pipe):
    """What sequential offloading does to each network, with a CPU in place of the GPU: weights are gone between calls.

    `enable_sequential_cpu_offload` itself fails on a CPU, without any removal; the hooks are those of this function.
    """
    for name in ("text_encoder", "unet", "vae"):
        accelerate.cpu_offload(getattr(pipe, name), torch.device("cpu"), offload_buffers=True)


WAYS = {
    "plain": plain(),
    "callback": plain(callback_on_step_end=nudged),
    "several images a prompt": several,
    "attention slicing": prepared(lambda pipe: pipe.enable_attention_slicing(1)),
    "bfloat16": prepared(lambda pipe: pipe.to(dtype=torch.bfloat16, silence_dtype_warnings=True)),
    "float16": prepared(lambda pipe: pipe.to(dtype=torch.float16, silence_dtype_warnings=True)),
    "weights kept in eight bits": prepared(eight_bits),
    "texts encoded before": embedded,
    "image to image": img2img,
    # A CPU in place of the GPU: the hooks of accelerate are the same.
    "offloading of whole models": prepared(lambda pipe: pipe.enable_model_cpu_offload(device="cpu")),
    "offloading of single weights": prepared(one_by_one),
    "LoRA": prepared(lora),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_does_what_a_hook_by_hand_does(way, make_pipe):
    pipe, call, (edit,) = make_pipe(), WAYS[way], removal().edits
    if way in ("bfloat16", "float16"):
        pipe.to(dtype=getattr(torch, way), silence_dtype_warnings=True)
    unedited = call(pipe)
    with removed(pipe, [NOTHING]):
        np.testing.assert_array_equal(call(pipe), unedited)
    expected = by_hand(pipe, edit, call)
    with removal().attached(pipe):
        np.testing.assert_array_equal(call(pipe), expected)
    assert (expected != unedited).any() and np.isfinite(expected).all()
    np.testing.assert_array_equal(call(pipe), unedited)


def test_an_edit_is_where_the_network_runs_not_where_its_weights_wait(make_pipe):
    pipe = make_pipe()
    assert device_of(pipe) == torch.device("cpu")
    pipe.enable_model_cpu_offload(device="cpu")
    # As on a machine with a GPU, where the hook brings the network to it at each call.
    pipe.unet._hf_hook.execution_device = "cuda:3"
    assert next(pipe.unet.parameters()).device.type == "cpu" and device_of(pipe) == torch.device("cuda:3")


def test_weights_that_are_offloaded_one_by_one_cannot_be_changed(make_pipe):
    pipe = make_pipe()
    layer = "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k"
    width = hookpoints(pipe)[layer].in_features
    delta = WeightMap((layer,), torch.ones(width, 1), torch.ones(1, width))
    changed = Removal("neon", "style", "uce", {}, (delta,))
    unedited = plain()(pipe)
    with changed.attached(pipe):
        edited = plain()(pipe)
    assert (edited != unedited).any()
    one_by_one(pipe)
    with pytest.raises(ConfigError, match=r"offloaded one by one, .* enable_model_cpu_offload"), changed.attached(pipe):
        pass
    np.testing.assert_array_equal(plain()(pipe), unedited)
    whole = make_pipe()
    whole.enable_model_cpu_offload(device="cpu")
    with changed.attached(whole):
        np.testing.assert_array_equal(plain()(whole), edited)
    np.testing.assert_array_equal(plain()(whole), unedited)


def test_inpainting_and_the_decoder_in_slices(tmp_path):
    pipe = load_pipeline(tiny.save("sd", tmp_path))
    pipe.scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    (edit,) = removal(tiny.HOOKPOINT["sd"]).edits
    unedited, expected = inpainting(pipe), by_hand(pipe, edit, inpainting)
    with removal(tiny.HOOKPOINT["sd"]).attached(pipe):
        np.testing.assert_array_equal(inpainting(pipe), expected)
    assert (expected != unedited).any()
    model = ModelConfig(steps=2, guidance=2.5, size=(16, 16))
    noise = initial_noise(0, [("a", 0), ("b", 0)], (4, 8, 8))
    mine = removal(tiny.HOOKPOINT["sd"])
    with mine.attached(pipe):
        whole = sample(pipe, TEXTS, noise, model)
        pipe.vae.enable_slicing()
        sliced = sample(pipe, TEXTS, noise, model)
    assert np.abs(whole.astype(int) - sliced).max() <= 1 and whole.std() > 5
    assert (sliced != sample(pipe, TEXTS, noise, model)).any()


def test_two_removals_one_inside_the_other(make_pipe):
    pipe, call = make_pipe(), plain()
    first, second = removal(), removal("unet.mid_block.attentions.0", seed=1, width=32)
    unedited = call(pipe)
    with first.attached(pipe):
        one = call(pipe)
        with second.attached(pipe):
            both = call(pipe)
            with pytest.raises(ZeroDivisionError), removal(seed=2).attached(pipe):
                _ = 1 / 0
            np.testing.assert_array_equal(call(pipe), both)
        np.testing.assert_array_equal(call(pipe), one)
    np.testing.assert_array_equal(call(pipe), unedited)
    with removed(pipe, [second, first]):
        np.testing.assert_array_equal(call(pipe), both)
    assert (one != unedited).any() and (both != one).any()


def mapped(pipe):
    """A change of the weights that make keys and values, with an adapter under half of them."""
    layers = cross_attention(pipe)
    width = hookpoints(pipe)[layers[0]].in_features
    draws = torch.Generator().manual_seed(3)
    parts = torch.randn(width, 2, generator=draws), 0.1 * torch.randn(2, width, generator=draws)
    return Removal("neon", "style", "uce", {}, (WeightMap(layers, *parts),))


@pytest.mark.parametrize("made", [lambda pipe: removal(), mapped], ids=["activations", "weights"])
def test_an_adapter_that_is_folded_in_is_the_same_removal(made, make_pipe):
    pipe, call = make_pipe(), plain()
    before, mine = call(pipe), made(pipe)
    lora(pipe)
    with mine.attached(pipe):
        loaded = call(pipe)
    pipe.fuse_lora()
    with mine.attached(pipe):
        np.testing.assert_allclose(call(pipe), loaded, atol=0.02)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    with mine.attached(pipe):
        bare = call(pipe)
    assert np.abs(bare - loaded).max() > 0.1 and np.abs(bare - before).max() > 0.1

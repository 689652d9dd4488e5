"""SDXL on a tiny untrained one that is saved and loaded: hooks, capture, statistics and edits against hooks by hand."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from saeuron.canvas.model import build_tokenizer
from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import UnknownName
from saeuron.generation import generate, latent_shape, requests
from saeuron.hooks import attached, hookpoints, to_rows
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.noise import initial_noise
from saeuron.pipelines import family_of
from saeuron.pipelines.loading import check_hookpoints, load_pipeline
from saeuron.prompts import Prompt
from saeuron.scoring import FIXED_POINT, Accumulator
from tests.saeuron.methods.removals import random_profile, random_sae

# From the code of diffusers, with recent versions of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PATH = "unet.mid_block.attentions.0"
TEXTS = ["A cat.", "A star in neon style."]
WANTED = requests([Prompt(text, "train") for text in TEXTS], 1)
GUIDANCE = {"guided": 3.0, "turbo": 0.0}


def text_encoder(kind, width):
    config = CLIPTextConfig(
        vocab_size=len(build_tokenizer(16)), hidden_size=width, intermediate_size=2 * width, projection_dim=20,
        num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return kind(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny SDXL as a folder: text of widths 32 and 24, pooled text of 20, images of 16 x 16."""
    path = tmp_path_factory.mktemp("xl")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(16, 32), layers_per_block=1,
            cross_attention_dim=32 + 24, attention_head_dim=(2, 4), norm_num_groups=8, use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=["DownEncoderBlock2D"] * 2, sample_size=16,
            up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=4, scaling_factor=0.13,
        )  # fmt: skip
        StableDiffusionXLPipeline(
            vae=vae, unet=unet, text_encoder=text_encoder(CLIPTextModel, 32), tokenizer=build_tokenizer(16),
            text_encoder_2=text_encoder(CLIPTextModelWithProjection, 24), tokenizer_2=build_tokenizer(16),
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
            add_watermarker=False,
        ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return load_pipeline(folder)


@pytest.fixture(params=GUIDANCE)
def model(request):
    return ModelConfig(steps=3, guidance=GUIDANCE[request.param], micro_batch=2)


def by_hand(pipe, model, seed=0):
    """What plain hooks see in one plain call: the images [2, H, W, 3], and (t, kwargs, output, input) of each step."""
    calls, pending = [], {}
    module = pipe.unet.mid_block.attentions[0]
    noise = initial_noise(seed, [(r.prompt.id, r.index) for r in WANTED], (4, 8, 8))

    def before(unet, args, kwargs):
        pending.update(t=float(args[1]), kwargs=kwargs)

    def after(module, args, output):
        calls.append((pending["t"], pending["kwargs"], output[0].clone(), args[0].clone()))

    handles = pipe.unet.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    try:
        images = pipe(
            TEXTS, latents=noise, num_inference_steps=model.steps, guidance_scale=model.guidance, output_type="np"
        ).images
    finally:
        for handle in handles:
            handle.remove()
    return (images * 255).round().astype(np.uint8), calls


def images(pipe, model):
    [(_, made)] = generate(pipe, WANTED, model, 0)
    return made


def conditional(rows, model):
    return rows[2:] if model.guidance > 1 else rows


def test_it_is_loaded_whole_with_its_own_scheduler(pipe):
    assert type(pipe) is StableDiffusionXLPipeline
    assert type(pipe.text_encoder_2) is CLIPTextModelWithProjection
    assert type(pipe.scheduler) is EulerDiscreteScheduler
    assert pipe.watermark is None and latent_shape(pipe) == (4, 8, 8)
    assert {path.split(".")[0] for path in hookpoints(pipe)} == {"unet", "text_encoder", "text_encoder_2"}


def test_hookpoints_of_all_three_networks_are_checked_without_weights(folder, pipe):
    last = [path for path in hookpoints(pipe) if path.endswith("layers.2.mlp.fc2")]
    assert [path.split(".")[0] for path in last] == ["text_encoder", "text_encoder_2"]
    assert check_hookpoints(folder, [PATH, *last]) == {PATH: 32, last[0]: 32, last[1]: 24}
    with pytest.raises(UnknownName, match="did you mean 'text_encoder_2"):
        check_hookpoints(folder, [last[1].replace("layers.2.mlp.fc2", "layers.9")])


def test_timestep_step_and_halves_are_those_of_hooks_by_hand(pipe, model):
    made, calls = by_hand(pipe, model)
    seen = []

    def reader(step, output, source):
        both = {half: step.half(output, half) for half in ("conditional", "unconditional", "both")}
        seen.append((step.timestep, step.index, both, source))

    with attached(pipe, readers={PATH: reader}):
        np.testing.assert_array_equal(images(pipe, model), made)
    assert [(t, i) for t, i, *_ in seen] == [(int(t), i) for i, (t, *_) in enumerate(calls)]
    assert len(calls) == 3
    for (_, _, halves, source), (_, _, output, given) in zip(seen, calls, strict=True):
        assert len(output) == (4 if model.guidance > 1 else 2)
        assert torch.equal(halves["conditional"], conditional(output, model))
        assert torch.equal(halves["unconditional"], output[: len(output) - 2])
        assert torch.equal(halves["both"], output) and torch.equal(source, given)


def test_capture_gives_what_hooks_by_hand_see(pipe, model):
    made, calls = by_hand(pipe, model)
    found = list(capture(pipe, WANTED, [PATH], model, CaptureConfig(every=2)))
    for i, (request, timesteps, arrays, image) in enumerate(found):
        assert request == WANTED[i] and timesteps == {PATH: [int(calls[0][0]), int(calls[2][0])]}
        expected = np.stack([to_rows(conditional(calls[s][2], model))[i].half().numpy() for s in (0, 2)])
        np.testing.assert_array_equal(arrays[PATH], expected)
        np.testing.assert_array_equal(image, made[i])


def test_statistics_are_sums_over_what_hooks_by_hand_see(pipe, model):
    _, calls = by_hand(pipe, model)
    sae = random_sae(width=32, n=40, hookpoint=PATH)
    accumulator = Accumulator(sae, "conditional")
    with attached(pipe, readers={PATH: accumulator}):
        images(pipe, model)
    totals = accumulator.totals()
    assert totals.timesteps.tolist() == [int(t) for t, *_ in calls]
    for k, (_, _, output, _) in enumerate(calls):
        f = sae.encode(to_rows(conditional(output, model))).double().flatten(0, 1)
        assert totals.n_rows[k] == len(f) == 2 * 16
        assert totals.fires[k].tolist() == (f != 0).sum(0).tolist()
        np.testing.assert_array_equal(totals.sum_fixed[k], (f * FIXED_POINT).round().long().sum(0))


def test_an_edit_that_ablates_nothing_changes_no_bit_and_another_does(pipe, model):
    plain = images(pipe, model)
    sae, profile = random_sae(width=32, n=40, hookpoint=PATH), random_profile()
    nothing = profile._replace(threshold=torch.full_like(profile.threshold, torch.inf))
    for half in ("both", "conditional"):
        for about, same in ((nothing, True), (profile, False)):
            removal = Removal("neon", "style", "saeuron", {}, (build_edit(sae, about, 9, -9.0, half=half),))
            with removed(pipe, [removal]):
                assert (images(pipe, model) == plain).all() == same
    np.testing.assert_array_equal(images(pipe, model), plain)


def test_an_edit_changes_the_rows_that_it_says(pipe, model):
    _, calls = by_hand(pipe, model)
    edit = build_edit(random_sae(width=32, n=40, hookpoint=PATH), random_profile(), 9, -9.0, half="conditional")
    module, after = pipe.unet.mid_block.attentions[0], []
    with removed(pipe, [Removal("neon", "style", "saeuron", {}, (edit,))]):
        handle = module.register_forward_hook(lambda module, args, output: after.append(output[0].clone()))
        images(pipe, model)
        handle.remove()
    t, _, output, _ = calls[0]
    expected = to_rows(output).clone()
    mine = conditional(expected, model)
    mine += edit.delta(mine.clone(), int(t))
    torch.testing.assert_close(to_rows(after[0]), expected)
    assert not torch.equal(to_rows(after[0])[-2:], to_rows(output)[-2:])


def test_prompts_for_the_denoiser_are_those_that_the_pipeline_gives_it(pipe, model):
    _, calls = by_hand(pipe, model)
    ours, theirs = family_of(pipe).encode_prompt(pipe, TEXTS), calls[0][1]
    assert torch.equal(ours["encoder_hidden_states"], theirs["encoder_hidden_states"])
    assert ours["added_cond_kwargs"].keys() == theirs["added_cond_kwargs"].keys() == {"text_embeds", "time_ids"}
    for name, value in ours["added_cond_kwargs"].items():
        assert torch.equal(value, theirs["added_cond_kwargs"][name])
    assert ours["added_cond_kwargs"]["time_ids"][0].tolist() == [16, 16, 0, 0, 16, 16]


def test_predicted_noise_and_latents_of_images(pipe, model):
    family, made = family_of(pipe), torch.from_numpy(images(pipe, model))
    z = family.encode_images(pipe, made)
    x = made.permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(z, 0.13 * pipe.vae.encode(x).latent_dist.mean)
    prompts, noise = family.encode_prompt(pipe, TEXTS), torch.randn(z.shape)
    noised = family.add_noise(pipe, z, noise, 400)
    a = float(np.cumprod(1 - np.linspace(0.0001**0.5, 0.02**0.5, 1000) ** 2)[400])
    torch.testing.assert_close(noised, a**0.5 * z + (1 - a) ** 0.5 * noise, rtol=1e-4, atol=1e-5)
    rows = torch.cat([noised, noised]) if model.guidance > 1 else noised
    with torch.no_grad():
        found = family.predict_noise(pipe, noised, 400, prompts)
        # This tiny model predicts noise itself.
        assert torch.equal(found, pipe.unet(rows, 400, **prompts).sample)


@pytest.mark.parametrize("root", ["text_encoder", "text_encoder_2"])
def test_an_edit_in_a_text_encoder_reaches_the_denoiser(pipe, root):
    # SDXL takes the output of the last layer but one, from what transformers records by hooks that stay installed.
    path = next(path for path in hookpoints(pipe) if path.startswith(f"{root}.") and path.endswith("layers.1"))
    model = ModelConfig(steps=1, guidance=3.0, micro_batch=2)
    plain, calls = by_hand(pipe, model)
    seen = []

    def edit(step, output):
        seen.append((step.timestep, step.guided, step.only))
        return torch.full_like(output, 2.0)

    with attached(pipe, editors={path: [edit]}):
        edited, after = by_hand(pipe, model)
    # Without negative prompts, the unconditional rows are zeros here and no text encoder runs for them.
    assert seen == [(-1, False, "conditional")]
    before, words = (c[0][1]["encoder_hidden_states"] for c in (calls, after))
    mine = slice(0, 32) if root == "text_encoder" else slice(32, 56)
    assert (words[2:, :, mine] == 2).all() and torch.equal(words[:2], torch.zeros_like(words[:2]))
    others = torch.ones(56, dtype=torch.bool)
    others[mine] = False
    assert torch.equal(words[..., others], before[..., others])
    assert (edited != plain).any()
    np.testing.assert_array_equal(images(pipe, model), plain)

"""Every family, on a tiny untrained pipeline that is saved and loaded, against hooks by hand and plain calls."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, latent_shape, requests
from saeuron.hooks import attached, hookpoints, to_rows
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.methods.steering import DirectionEdit
from saeuron.noise import initial_noise
from saeuron.pipelines import FAMILIES, family_of
from saeuron.pipelines.loading import check, check_hookpoints, check_size, load_pipeline, tokenizer
from saeuron.prompts import Prompt
from tests.saeuron.methods.removals import random_profile, random_sae
from tests.saeuron.pipelines import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # from the code of diffusers, with recent versions of numpy

TEXTS = ["A cat.", "A star in neon style."]
WANTED = requests([Prompt(text, "train") for text in TEXTS], 1)
CHANNELS = 16


@pytest.fixture(scope="module", params=tiny.BUILD)
def family(request, tmp_path_factory):
    """(name, folder, pipeline, how it is sampled, its noise)."""
    name = request.param
    folder = tiny.save(name, tmp_path_factory.mktemp(name))
    pipe = load_pipeline(folder)
    model = ModelConfig(
        spec=str(folder), steps=tiny.STEPS.get(name, 2), guidance=tiny.GUIDANCE.get(name, 3.0), micro_batch=2,
        size=(16, 16),
    )  # fmt: skip
    noise = initial_noise(0, [(r.prompt.id, r.index) for r in WANTED], latent_shape(pipe, model))
    return SimpleNamespace(name=name, folder=folder, pipe=pipe, model=model, noise=noise, path=tiny.HOOKPOINT[name])


@pytest.fixture(scope="module")
def plain(family):
    """What plain hooks see in one plain call: the images [2, H, W, 3], and (kwargs, output, input) of each step."""
    return by_hand(family)


def by_hand(family, change=None):
    """The same of any size and number of steps; `change` [channels] is added at the positions that the prompt owns."""
    pipe, calls, (height, width) = family.pipe, [], family.model.size
    root, _, rest = family.path.partition(".")
    net = getattr(pipe, root)
    module = net.get_submodule(rest)
    given = {}

    def before(net, args, kwargs):
        given["kwargs"] = dict(kwargs, **({"timestep": args[1]} if len(args) > 1 else {}))

    def after(module, args, kwargs, output):
        # The two streams of a joint block are told apart by their lengths: the image's positions, and the text's.
        image = output if isinstance(output, torch.Tensor) else output[0]
        if "flux" in family.name or family.name == "sd3":
            image = next(o for o in output if o.shape[1] == height * width // 16)
        calls.append((given["kwargs"], image.clone(), (args[0] if args else kwargs["hidden_states"]).clone()))
        if change is not None:
            mine = image[2:] if guided(family) else image
            mine += change.reshape(-1, *[1] * (mine.ndim - 2)) if mine.ndim == 4 else change

    about = {"latents": family.noise, "num_inference_steps": family.model.steps, "output_type": "np"}
    about |= {"guidance_scale": family.model.guidance, "height": height, "width": width}
    if "flux" in family.name:
        about["latents"] = pipe._pack_latents(family.noise, 2, 4, height // 2, width // 2)
    if "pixart" in family.name:
        about |= {"use_resolution_binning": False, "clean_caption": False}
    handles = (
        net.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    )
    try:
        images = pipe(TEXTS, **about).images
    finally:
        for handle in handles:
            handle.remove()
    return (images * 255).round().astype(np.uint8), calls


def images(family):
    [(_, made)] = generate(family.pipe, WANTED, family.model, 0)
    return made


def guided(family):
    return family.model.guidance > 1 and "flux" not in family.name


def conditional(rows, family):
    return rows[2:] if guided(family) else rows


def true_timestep(kwargs, family):
    t = torch.as_tensor(kwargs["timestep"]).flatten()[0].double()
    return int(round(float(t) * (1000 if "flux" in family.name else 1), 2))


def test_all_families_are_here():
    names = {"sd": "StableDiffusion", "sd2": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"}
    names |= {"pixart-alpha": "PixArtAlpha", "pixart-sigma": "PixArtSigma", "flux-dev": "Flux", "flux-schnell": "Flux"}
    assert {*tiny.BUILD} == {*names} and {f"{name}Pipeline" for name in names.values()} == {*FAMILIES}


def test_hooks_and_capture_are_those_by_hand(family, plain):
    made, calls = plain
    seen = []
    with attached(
        family.pipe,
        readers={family.path: lambda step, x, source: seen.append((step.timestep, step.index, step.guided, x, source))},
    ):
        np.testing.assert_array_equal(images(family), made)
    assert len(seen) == len(calls) >= family.model.steps
    for (timestep, index, half, x, source), (number, (kwargs, output, given)) in zip(
        seen, enumerate(calls), strict=True
    ):
        assert (timestep, index, half) == (true_timestep(kwargs, family), number, guided(family))
        assert torch.equal(x, output) and torch.equal(source, given)
    for read in ("output", "update"):
        found = list(capture(family.pipe, WANTED, [family.path], family.model, CaptureConfig(read=read)))
        for i, (_, timesteps, arrays, image) in enumerate(found):
            x = [output - given if read == "update" else output for _, output, given in calls]
            expected = np.stack([to_rows(conditional(each, family))[i].half().numpy() for each in x])
            np.testing.assert_array_equal(arrays[family.path], expected)
            np.testing.assert_array_equal(image, made[i])
            assert timesteps[family.path] == [true_timestep(kwargs, family) for kwargs, *_ in calls]


def test_a_removal_is_the_formula_and_one_of_nothing_changes_no_bit(family, plain):
    made, calls = plain
    sae, profile = random_sae(width=CHANNELS, n=40, hookpoint=family.path), random_profile()
    t = true_timestep(calls[0][0], family)
    row = int((profile.timesteps - t).abs().argmin())
    # As scored at this family's own first step: what lies between steps is for test_removal.py.
    profile.timesteps[row] = t
    nothing = profile._replace(threshold=torch.full_like(profile.threshold, torch.inf))
    edit = build_edit(sae, profile, 9, -9.0, half="conditional")
    module, after = hookpoints(family.pipe)[family.path], []

    def last(module, args, output):
        after.append(family_of(family.pipe).stream(module, output).clone())

    with removed(family.pipe, [Removal("c", "d", "saeuron", {}, (build_edit(sae, nothing, 9, -9.0, half="both"),))]):
        np.testing.assert_array_equal(images(family), made)
    with removed(family.pipe, [Removal("c", "d", "saeuron", {}, (edit,))]):
        handle = module.register_forward_hook(last)
        edited = images(family)
        handle.remove()
    assert (edited != made).any()
    # The first step has the rows that a plain call has. x' = x + sum over F of (f' - f) W_dec, in float64.
    x = to_rows(calls[0][1]).double()
    p = (x - sae.b_dec.double()) @ sae.W_enc.double().T + sae.b_enc.double()
    f = torch.where(p > sae.threshold.double(), p, 0.0)
    chosen = profile.score[row].topk(9).indices
    mu, threshold = profile.mean[row].double(), profile.threshold[row].double()
    expected = x.clone()
    for i in chosen.tolist():
        change = torch.where(f[..., i] > threshold[i], (-9.0 * mu[i] - 1) * f[..., i], 0.0)
        expected += change[..., None] * sae.W_dec[i].double()
    if guided(family):
        expected[:2] = x[:2]
    torch.testing.assert_close(to_rows(after[0]).double(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(to_rows(after[0])[-2:], to_rows(calls[0][1])[-2:])
    np.testing.assert_array_equal(images(family), made)


@torch.no_grad()
def test_losses_see_what_the_pipeline_sees(family, plain):
    made, calls = plain
    pipe, about = family.pipe, family_of(family.pipe)
    ours = about.encode_prompt(pipe, TEXTS)
    for name, value in ours.items():
        theirs = calls[0][0][name]
        if isinstance(value, torch.Tensor):  # PixArt tells nobody whether it is guided
            assert torch.equal(value, theirs if len(value) == len(theirs) else theirs[2:]), name
    z = about.encode_images(pipe, torch.from_numpy(made))
    config = pipe.vae.config
    x = torch.from_numpy(made).permute(0, 3, 1, 2) / 127.5 - 1
    mode = pipe.vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(z, (mode - (config.shift_factor or 0)) * config.scaling_factor)
    assert z.shape == family.noise.shape
    noised = about.add_noise(pipe, z, family.noise, 400)
    flow = family.name == "sd3" or "flux" in family.name
    if flow:
        torch.testing.assert_close(noised, 0.6 * z + 0.4 * family.noise)
    else:
        torch.testing.assert_close(
            noised,
            pipe.scheduler.alphas_cumprod[400] ** 0.5 * z
            + (1 - pipe.scheduler.alphas_cumprod[400]) ** 0.5 * family.noise,
        )
    predicted = about.predict_noise(pipe, noised, 400, ours)
    assert predicted.shape[1:] == z.shape[1:] and predicted.isfinite().all()
    # From pure noise, at the first step of its own, the clean image is what the scheduler makes of the prediction.
    if flow:
        kwargs = dict(calls[0][0])
        first = about.predict_noise(pipe, family.noise, true_timestep(kwargs, family), ours)
        torch.testing.assert_close(first[-2:], family.noise, rtol=1e-5, atol=1e-5)  # (1 - s) v = 0 where s = 1


def test_checks_without_weights(family):
    check(family.folder)
    assert tokenizer(family.folder).model_max_length == {"sd": 16, "sd2": 16, "sdxl": 16, "sd3": 256}.get(
        family.name, family_of(family.pipe).tokens
    )
    text = next(p for p in hookpoints(family.pipe) if p.startswith("text_encoder."))
    assert {*check_hookpoints(family.folder, [family.path, text])} == {family.path, text}
    named = [p for p in hookpoints(family.pipe) if family_of(family.pipe).worth_naming(p)]
    assert family.path in named and any(p.startswith("text_encoder") for p in named)
    check_size(family.folder, (16, 16))
    with pytest.raises(ConfigError, match=r"model\.size: 16 x 17 pixels .* multiples of 8, such as 16 x 16\."):
        check_size(family.folder, (16, 17))


def as_by_hand(family, **update):
    """Check a call of another kind, unedited and with a direction added, against plain hooks; the unedited images."""
    model = family.model.model_copy(update=update)
    noise = initial_noise(0, [(r.prompt.id, r.index) for r in WANTED], latent_shape(family.pipe, model))
    other = SimpleNamespace(**vars(family) | {"model": model, "noise": noise})
    change = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(0))
    unedited, calls = by_hand(other)
    timesteps = torch.tensor([true_timestep(kwargs, family) for kwargs, *_ in calls])
    edit = DirectionEdit(family.path, "conditional", timesteps, change.expand(len(timesteps), -1))
    with removed(family.pipe, []):
        np.testing.assert_array_equal(images(other), unedited)
    expected, _ = by_hand(other, change)
    with removed(family.pipe, [Removal("c", "d", "steering", {}, (edit,))]):
        np.testing.assert_array_equal(images(other), expected)
    assert (expected != unedited).any()
    return unedited


def test_one_step_is_taken_or_refused_in_one_line(family):
    if family.name != "pixart-alpha":
        as_by_hand(family, steps=1, guidance=min(1.0, family.model.guidance))
        return
    model = family.model.model_copy(update={"steps": 1})
    with pytest.raises(ConfigError, match=r"one step of PixArtAlphaPipeline needs one of LCM.*take 2 steps or more"):
        list(generate(family.pipe, WANTED[:1], model, 0))


def test_an_image_that_is_not_square(family):
    made = as_by_hand(family, size=(16, 32))
    assert made.shape == (2, 16, 32, 3) and made.std() > 1

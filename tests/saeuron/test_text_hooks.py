"""Hookpoints in text encoders, and a module's input as a hookpoint."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import ConfigError, SaeuronError
from saeuron.generation import generate, requests, sample
from saeuron.hooks import Step, attached, hookpoints, to_rows, width
from saeuron.noise import generator, initial_noise
from saeuron.prompts import Prompt
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.denoising import denoising_losses
from saeuron.scoring import Accumulator
from tests.saeuron.methods.removals import random_sae

UNET = "unet.up_blocks.1.attentions.1"
MODEL = ModelConfig(steps=2, guidance=2.0, micro_batch=2)
WANTED = requests([Prompt("A cat.", "train"), Prompt("A star in neon style.", "train")], 1)


@pytest.fixture(scope="module")
def layer(tiny_pipe):
    """The path of the text encoder's only layer: it differs between versions of transformers."""
    return next(path for path in hookpoints(tiny_pipe) if path.endswith("layers.0"))


def encoded(pipe, texts, layer):
    """What a plain hook sees when the text encoder runs on these texts alone."""
    seen = []
    module = pipe.text_encoder.get_submodule(layer.removeprefix("text_encoder."))
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    ids = pipe.tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        pipe.text_encoder(ids)
    handle.remove()
    return seen[0]


def test_an_encoder_is_called_for_each_half_by_itself(tiny_pipe, layer):
    seen = []

    def reader(step, output, source):
        seen.append((step.timestep, step.index, step.guided, step.half(output, "conditional").clone(), step.only))

    texts = [r.prompt.text for r in WANTED]
    expected = encoded(tiny_pipe, texts, layer)
    with attached(tiny_pipe, readers={layer: reader, UNET: lambda *a: None}) as step:
        for guidance, calls in ((2.0, 2), (1.0, 1)):
            seen.clear()
            sample(
                tiny_pipe,
                texts,
                initial_noise(0, [("a", 0)] * 2, (48, 8, 8)),
                MODEL.model_copy(update={"guidance": guidance}),
            )
            assert [(t, i, guided) for t, i, guided, *_ in seen] == [(-1, -1, False)] * calls
            assert [only for *_, only in seen] == ["conditional", "unconditional"][:calls]
            assert torch.equal(seen[0][3], expected)
            assert all(len(each[3]) == 0 for each in seen[1:])
            # The denoiser ran last.
            assert (step.timestep, step.index, step.guided, step.only) == (499, 1, guidance > 1, "conditional")


def test_texts_that_are_given_as_embeddings_are_not_counted(tiny_pipe, layer):
    seen = []
    words, _ = tiny_pipe.encode_prompt(["A cat."], "cpu", 1, False)
    with attached(tiny_pipe, readers={layer: lambda step, *_: seen.append(step.only)}):
        tiny_pipe(prompt_embeds=words, num_inference_steps=1, guidance_scale=2.0)
    assert seen == ["unconditional"]


def test_rows_of_an_unguided_batch_are_of_one_half():
    rows, empty = torch.arange(4), Step(-1, only="unconditional")
    assert empty.half(rows, "unconditional", 3).tolist() == [0, 1, 2]
    assert empty.half(rows, "both").tolist() == [0, 1, 2, 3]
    assert empty.half(rows, "conditional").tolist() == []
    assert [Step(-1, index=-1).kept(n) for n in (1, 3)] == [True, True]
    assert [Step(5, index=i).kept(3) for i in range(4)] == [True, False, False, True]


def test_nothing_is_left_on_the_pipeline_even_when_nested(tiny_pipe, layer):
    assert "encode_prompt" not in vars(tiny_pipe)
    seen = []
    with attached(tiny_pipe, readers={layer: lambda step, *_: seen.append(("outer", step.only))}):
        with attached(tiny_pipe, readers={layer: lambda step, *_: seen.append(("inner", step.only))}):
            tiny_pipe(["A cat."], num_inference_steps=1, guidance_scale=2.0)
        assert seen == [(w, h) for h in ("conditional", "unconditional") for w in ("outer", "inner")]
        seen.clear()
        tiny_pipe(["A cat."], num_inference_steps=1, guidance_scale=1.0)
        assert seen == [("outer", "conditional")]
    assert "encode_prompt" not in vars(tiny_pipe)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_pipe.text_encoder.modules())


def test_an_edit_of_a_half_changes_that_half_alone(tiny_pipe, layer):
    given = []

    def words(unet, args, kwargs):
        given.append(kwargs["encoder_hidden_states"].clone())

    def zero(half):
        return lambda step, output: output * 0 if len(step.half(output, half)) else None

    handle = tiny_pipe.unet.register_forward_pre_hook(words, with_kwargs=True)
    for half in (None, "conditional", "unconditional"):
        with attached(tiny_pipe, editors={layer: [zero(half)] if half else []}):
            tiny_pipe(["A cat."], num_inference_steps=1, guidance_scale=2.0)
    handle.remove()
    plain, conditional, unconditional = given
    assert torch.equal(conditional[0], plain[0]) and not torch.equal(conditional[1], plain[1])
    assert torch.equal(unconditional[1], plain[1]) and not torch.equal(unconditional[0], plain[0])


@pytest.mark.parametrize(("half", "texts"), [("conditional", 1), ("unconditional", 1), ("both", 2)])
def test_capture_reads_a_text_encoder_and_the_denoiser_in_one_pass(tiny_pipe, layer, half, texts):
    found = list(capture(tiny_pipe, WANTED, [layer, UNET], MODEL, CaptureConfig(half=half)))
    alone = list(capture(tiny_pipe, WANTED, [UNET], MODEL, CaptureConfig(half=half)))
    positive, negative = (encoded(tiny_pipe, t, layer) for t in ([r.prompt.text for r in WANTED], [""] * 2))
    rows = {"conditional": [positive], "unconditional": [negative], "both": [positive, negative]}[half]
    for i, ((_, steps, arrays, image), (_, _, reference, plain)) in enumerate(zip(found, alone, strict=True)):
        assert steps == {layer: [-1] * texts, UNET: [999, 499]}
        np.testing.assert_array_equal(arrays[layer], torch.stack([r[i] for r in rows]).half().numpy())
        np.testing.assert_array_equal(arrays[UNET], reference[UNET])
        np.testing.assert_array_equal(image, plain)


def test_capture_says_that_an_encoder_does_not_run_for_a_half(tiny_pipe, layer):
    model = ModelConfig(steps=1, guidance=1.0, micro_batch=2)
    with pytest.raises(ConfigError, match=rf"nothing was read at {layer}"):
        list(capture(tiny_pipe, WANTED, [layer], model, CaptureConfig(half="unconditional")))


def test_statistics_of_a_text_encoder_have_one_step(tiny_pipe, layer):
    sae = random_sae(width=32, n=40, hookpoint=layer)
    accumulator = Accumulator(sae, "conditional", every=2)
    with attached(tiny_pipe, readers={layer: accumulator}):
        list(generate(tiny_pipe, WANTED, MODEL, 0))
    totals = accumulator.totals()
    assert totals.timesteps.tolist() == [-1] and totals.n_rows.tolist() == [2 * 16]
    f = sae.encode(encoded(tiny_pipe, [r.prompt.text for r in WANTED], layer))
    assert totals.fires[0].tolist() == (f != 0).sum((0, 1)).tolist()


class Net(nn.Module):
    """A denoiser that hands its first argument on, by place or by name."""

    def __init__(self, by_name):
        super().__init__()
        self.block, self.by_name = Block(), by_name

    def forward(self, x, timestep):
        return self.block(x=x, more=1) if self.by_name else self.block(x, 1)


class Block(nn.Module):
    def forward(self, x, more):
        return 2 * x + more


@pytest.mark.parametrize("by_name", [False, True])
def test_an_input_is_read_and_edited(by_name):
    pipe = SimpleNamespace(
        family="StableDiffusionPipeline", unet=Net(by_name), scheduler=SimpleNamespace(timesteps=torch.tensor([9, 3]))
    )
    seen, path, x = [], "unet.block:input", torch.ones(2, 3)

    def reader(step, value, source):
        seen.append((step.timestep, step.index, value.clone(), source))

    chain = [lambda s, v: v + 1, lambda s, v: None, lambda s, v: v * 10]
    with attached(pipe, readers={path: reader}, editors={path: chain}):
        assert torch.equal(pipe.unet(x, 3), torch.full((2, 3), 41.0))
    with attached(pipe, editors={path: [lambda s, v: None]}):
        assert torch.equal(pipe.unet(x, 3), torch.full((2, 3), 3.0))
    [(timestep, index, value, source)] = seen
    assert (timestep, index, source) == (3, 1, None) and torch.equal(value, x)
    assert not pipe.unet.block._forward_pre_hooks


def test_an_input_that_is_no_tensor():
    pipe = SimpleNamespace(
        family="StableDiffusionPipeline", unet=Net(False), scheduler=SimpleNamespace(timesteps=torch.tensor([9]))
    )
    with (
        attached(pipe, readers={"unet.block:input": lambda *a: None}),
        pytest.raises(SaeuronError, match="first argument of a hooked Block is int; expected a tensor"),
    ):
        pipe.unet(3, 9)


def test_a_modules_input_is_the_first_argument_in_a_pipeline(tiny_pipe):
    values = {}
    to_k = f"{UNET}.transformer_blocks.0.attn2.to_k"

    def keep(name):
        return lambda step, value, source: values.setdefault(name, []).append((value.clone(), source))

    with attached(tiny_pipe, readers={f"{UNET}:input": keep("in"), UNET: keep("out"), f"{to_k}:input": keep("words")}):
        tiny_pipe(["A cat."], num_inference_steps=2, guidance_scale=2.0)
    for (given, nothing), (_, source) in zip(values["in"], values["out"], strict=True):
        assert nothing is None and torch.equal(given, source)
    positive, negative = tiny_pipe.encode_prompt(["A cat."], "cpu", 1, True)
    assert torch.equal(values["words"][0][0], torch.cat([negative, positive]))
    assert width(tiny_pipe, f"{to_k}:input") == to_rows(positive).shape[2] == 32


def test_the_denoising_loss_of_a_text_encoders_sae_is_that_of_the_texts_it_gives(make_pipe):
    pipe = make_pipe()
    layer = next(path for path in hookpoints(pipe) if path.endswith("layers.0"))
    [loss, *_] = denoising_losses(pipe, random_sae(width=32, n=40, hookpoint=layer), WANTED, MODEL, DiagnosisConfig())
    [(batch, pictures)] = generate(pipe, WANTED, MODEL, DiagnosisConfig().seed)
    z = pipe.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
    noise = torch.stack(
        [torch.randn(z.shape[1:], generator=generator(DiagnosisConfig().seed, "loss", r.key, 999)) for r in batch]
    )
    a = float(pipe.scheduler.alphas_cumprod[999])
    noised = a**0.5 * z + (1 - a) ** 0.5 * noise
    module = pipe.text_encoder.get_submodule(layer.removeprefix("text_encoder."))
    forward, expected = module.forward, []
    for patched in (forward, lambda x, *args, **kwargs: torch.zeros_like(x)):
        module.forward = patched
        with torch.no_grad():
            words, _ = pipe.encode_prompt([r.prompt.text for r in batch], "cpu", 1, False)
            v = pipe.unet(noised, 999, encoder_hidden_states=words).sample
        expected.append(float((a**0.5 * v + (1 - a) ** 0.5 * noised - noise).square().mean()))
    assert (loss.timestep, loss.half) == (999, "conditional")
    assert [loss.clean, loss.zero] == pytest.approx(expected, rel=1e-5)
    assert loss.zero != pytest.approx(loss.clean, rel=1e-4)

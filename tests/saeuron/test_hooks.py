from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils import BaseOutput
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saeuron.errors import BadModel, SaeuronError, UnknownName
from saeuron.hooks import Step, attached, from_rows, hookpoints, resolve, to_rows, width
from saeuron.methods.removal import Removal, removed
from saeuron.methods.steering import DirectionEdit

PATH = "unet.up_blocks.1.attentions.1"


@dataclass
class Output(BaseOutput):
    sample: torch.Tensor
    extra: torch.Tensor


class Block(nn.Module):
    """Doubles its input, and returns it in one of the shapes that diffusers' modules return."""

    def __init__(self, kind="tensor"):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        match self.kind:
            case "tensor":
                return 2 * x
            case "tuple":
                return 2 * x, x + 1
            case "record":
                return Output(sample=2 * x, extra=x + 1)
        return {"sample": "no tensor", 0: "no tensor"}


class Net(nn.Module):
    """A denoiser with one hookpoint, `unet.block`."""

    def __init__(self, kind="tensor"):
        super().__init__()
        self.block = Block(kind)

    def forward(self, x, timestep, context=None):
        return self.block(x)


def net_pipe(kind="tensor", guided=False):
    scheduler = SimpleNamespace(timesteps=torch.tensor([900, 500, 37]))
    return SimpleNamespace(
        family="StableDiffusionPipeline", unet=Net(kind), scheduler=scheduler, do_classifier_free_guidance=guided
    )


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_rows_round_trip(shape):
    output = torch.randn(shape)
    rows = to_rows(output)
    positions = shape[2] * shape[3] if len(shape) == 4 else shape[1] if len(shape) == 3 else 1
    assert rows.shape == (shape[0], positions, shape[1] if len(shape) != 3 else shape[2])
    assert torch.equal(from_rows(rows, output), output)


def test_a_row_is_the_channels_of_one_position():
    output = torch.randn(2, 5, 3, 4)
    assert torch.equal(to_rows(output)[1, 2 * 4 + 3], output[1, :, 2, 3])


def test_resolve_finds_modules_and_names_the_nearest(tiny_pipe):
    assert resolve(tiny_pipe, PATH) is tiny_pipe.unet.up_blocks[1].attentions[1]
    with pytest.raises(UnknownName, match=r"unknown hookpoint .*did you mean .*'unet\.up_blocks\.1\.attentions\.1'"):
        resolve(tiny_pipe, "unet.up_block.1.attentions.1")
    entry = "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2"
    assert resolve(tiny_pipe, entry) is tiny_pipe.unet.up_blocks[1].attentions[1].transformer_blocks[0].attn2
    with pytest.raises(UnknownName, match=entry.replace(".", r"\.")):
        resolve(tiny_pipe, entry.replace("attn2", "atn2"))
    with pytest.raises(UnknownName, match=r"'unet\.block'"):
        resolve(net_pipe(), "unet.blocks")


def test_hookpoints_are_dotted_paths_from_the_pipeline(tiny_pipe):
    found = hookpoints(tiny_pipe)
    roots = {"unet": tiny_pipe.unet, "text_encoder": tiny_pipe.text_encoder}
    for path, module in found.items():
        root, _, name = path.partition(".")
        assert name and roots[root].get_submodule(name) is module
    assert len(found) == sum(len(list(net.modules())) - 1 for net in roots.values())


def test_a_pipeline_that_is_not_supported_or_lacks_its_denoiser():
    with pytest.raises(BadModel, match=r"SimpleNamespace, which is not supported; expected StableDiffusionPipeline, "):
        hookpoints(SimpleNamespace(unet=Net()))
    with pytest.raises(SaeuronError, match=r"SimpleNamespace has no unet; expected a loaded StableDiffusionPipeline"):
        hookpoints(SimpleNamespace(family="StableDiffusionPipeline", vae=nn.Identity()))


def test_nothing_is_left_attached(tiny_pipe):
    before = hooks_of(tiny_pipe.unet)
    with attached(tiny_pipe, readers={PATH: lambda *a: None}, editors={PATH: [lambda *a: None]}):
        assert hooks_of(tiny_pipe.unet) == before + 3
    assert hooks_of(tiny_pipe.unet) == before


def test_nothing_is_left_attached_after_an_error(tiny_pipe):
    before = hooks_of(tiny_pipe.unet)
    with pytest.raises(ZeroDivisionError), attached(tiny_pipe, editors={PATH: [lambda step, output: 1 / 0]}):
        tiny_pipe(["A cat."], num_inference_steps=1)
    assert hooks_of(tiny_pipe.unet) == before


def test_an_unknown_hookpoint_attaches_nothing(tiny_pipe):
    before = hooks_of(tiny_pipe.unet)
    readers = {PATH: lambda *a: None, "unet.nowhere": lambda *a: None}
    with pytest.raises(UnknownName), attached(tiny_pipe, readers=readers):
        pass
    assert hooks_of(tiny_pipe.unet) == before


@pytest.mark.parametrize("timestep", [37, torch.tensor(37), torch.tensor([37, 37])])
@pytest.mark.parametrize("by_name", [False, True])
def test_the_timestep_is_the_denoisers_own_argument(timestep, by_name):
    pipe, seen = net_pipe(), []
    with attached(pipe, readers={"unet.block": lambda step, *_: seen.append(step.timestep)}):
        pipe.unet(torch.ones(2, 3), timestep=timestep) if by_name else pipe.unet(torch.ones(2, 3), timestep)
        pipe.unet(torch.ones(2, 3), 5)
    assert seen == [37, 5]


@pytest.mark.parametrize("steps", [3, 4])
def test_a_pipelines_timesteps_are_its_schedulers(tiny_pipe, steps):
    seen = []
    with attached(tiny_pipe, readers={PATH: lambda step, *_: seen.append((step.timestep, step.guided))}):
        tiny_pipe(["A cat."], num_inference_steps=steps, guidance_scale=2.0)
    assert seen == [(t, True) for t in tiny_pipe.scheduler.timesteps.tolist()]
    assert len(seen) == steps


@pytest.mark.parametrize(("guidance", "guided", "batch"), [(1.0, False, 2), (1.5, True, 4)])
def test_whether_it_is_guided_is_the_pipelines_own_word(tiny_pipe, guidance, guided, batch):
    seen = []
    with attached(tiny_pipe, readers={PATH: lambda step, x, _: seen.append((step.guided, len(x)))}):
        tiny_pipe(["A cat.", "A star."], num_inference_steps=1, guidance_scale=guidance)
    assert seen == [(guided, batch)]


def test_a_step_splits_a_guided_batch_into_halves():
    rows = torch.arange(6)
    guided, plain = Step(1, True), Step(1, False)
    assert guided.half(rows, "unconditional").tolist() == [0, 1, 2]
    assert guided.half(rows, "conditional").tolist() == [3, 4, 5]
    assert guided.half(rows, "both").tolist() == plain.half(rows, "both").tolist() == rows.tolist()
    assert plain.half(rows, "conditional").tolist() == rows.tolist()
    assert plain.half(rows, "unconditional").tolist() == []


def test_halves_are_unconditional_then_conditional_in_a_pipeline(tiny_pipe):
    # The prompt reaches the conditional half alone.
    def half(prompt, which):
        kept = []
        noise = torch.ones(1, 48, 8, 8)
        with attached(tiny_pipe, readers={PATH: lambda step, x, _: kept.append(step.half(x, which))}):
            tiny_pipe([prompt], num_inference_steps=1, guidance_scale=2.0, latents=noise)
        return kept[0]

    assert torch.equal(half("A cat.", "unconditional"), half("A star.", "unconditional"))
    assert not torch.allclose(half("A cat.", "conditional"), half("A star.", "conditional"))


@pytest.mark.parametrize("kind", ["tensor", "tuple", "record"])
def test_editors_replace_the_first_tensor_and_leave_the_rest(kind):
    pipe, x = net_pipe(kind), torch.randn(2, 3)
    plain = pipe.unet(x, 1)
    with attached(pipe, editors={"unet.block": [lambda step, output: output + 10]}):
        edited = pipe.unet(x, 1)
    assert type(edited) is type(plain)
    first = edited if kind == "tensor" else edited[0]
    assert torch.equal(first, 2 * x + 10)
    if kind != "tensor":
        assert len(edited) == 2
        assert torch.equal(edited[1], x + 1)
    if kind == "record":
        assert torch.equal(edited.sample, 2 * x + 10)


def test_editors_run_in_order_and_none_leaves_the_output():
    pipe, x = net_pipe(), torch.ones(1, 2)
    chain = [lambda s, o: o + 1, lambda s, o: None, lambda s, o: o * 10]
    with attached(pipe, editors={"unet.block": chain}):
        assert pipe.unet(x, 1).tolist() == [[30.0, 30.0]]
    with attached(pipe, editors={"unet.block": [lambda s, o: None]}):
        assert pipe.unet(x, 1).tolist() == [[2.0, 2.0]]


def test_readers_see_what_the_module_gave_and_its_input():
    pipe, x, seen = net_pipe(), torch.ones(1, 2), []

    def reader(step, output, source):
        seen.append((output, source))

    with attached(pipe, readers={"unet.block": reader}, editors={"unet.block": [lambda s, o: o * 0]}):
        assert pipe.unet(x, 1).tolist() == [[0.0, 0.0]]
    assert torch.equal(seen[0][0], 2 * x)
    assert seen[0][1] is x


def test_an_output_without_a_tensor_first():
    pipe = net_pipe("nonsense")
    with (
        attached(pipe, readers={"unet.block": lambda *a: None}),
        pytest.raises(SaeuronError, match="returned str; expected a tensor"),
    ):
        pipe.unet(torch.ones(1, 2), 1)


@pytest.mark.parametrize("path", [PATH, f"{PATH}.transformer_blocks.0.attn2"])
def test_width_is_what_the_module_gives(tiny_pipe, path):
    seen = []
    with attached(tiny_pipe, readers={path: lambda step, output, _: seen.append(to_rows(output).shape[2])}):
        tiny_pipe(["A cat."], num_inference_steps=1)
    assert [width(tiny_pipe, path)] == seen == [16]
    assert width(net_pipe(), "unet.block") is None


NOISE = torch.linspace(-1, 1, 2 * 48 * 8 * 8).reshape(2, 48, 8, 8)


def words(pipe, *texts):
    return pipe.encode_prompt(list(texts), "cpu", 1, False)[0]


@torch.no_grad()
def predicted(pipe, noise=NOISE, timestep=500):
    return pipe.unet(noise, timestep, encoder_hidden_states=words(pipe, *["A cat."] * len(noise))).sample


@pytest.mark.parametrize("way", ["network", "block", "wrapper", "forward"])
def test_a_compiled_network_is_edited_while_attached_and_not_after(way):
    pipe, x = net_pipe(), torch.ones(1, 2)
    match way:
        case "network":
            pipe.unet.compile(backend="eager")
        case "block":
            pipe.unet.block.compile(backend="eager")
        case "wrapper":
            pipe.unet = torch.compile(pipe.unet, backend="eager")
        case "forward":
            pipe.unet.forward = torch.compile(pipe.unet.forward, backend="eager")
    for _ in range(2):
        assert pipe.unet(x, 1).tolist() == [[2.0, 2.0]]
        with attached(pipe, editors={"unet.block": [lambda step, output: output + step.timestep]}):
            assert pipe.unet(x, 1).tolist() == [[3.0, 3.0]]
            assert pipe.unet(x, 5).tolist() == [[7.0, 7.0]]


def img2img(pipe):
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_whether_it_is_guided_says_the_pipeline_that_is_called(make_pipe, guidance):
    pipe, seen = make_pipe(), []
    other = img2img(pipe)
    for last in (None, 3.0 - guidance):  # what the attached one did before is of no account
        if last:
            pipe(["A cat."], num_inference_steps=1, guidance_scale=last)
        with attached(pipe, readers={PATH: lambda step, x, _: seen.append((step.guided, step.index))}):
            other(["A cat."], torch.zeros(1, 3, 32, 32), 1.0, num_inference_steps=2, guidance_scale=guidance)
    assert seen == [(guidance > 1, 0), (guidance > 1, 1)] * 2
    assert resolve(other, PATH) is resolve(pipe, PATH)


@pytest.mark.parametrize("before", [None, 1.0, 2.0])
def test_a_loop_of_ones_own_is_guided_where_its_halves_are_the_same_latents(make_pipe, before):
    pipe, seen = make_pipe(), []
    if before:
        pipe(["A cat."], num_inference_steps=1, guidance_scale=before)
    with attached(
        pipe, readers={PATH: lambda step, x, _: seen.append((step.guided, len(step.half(x, "conditional"))))}
    ):
        predicted(pipe, torch.cat([NOISE, NOISE]))
        predicted(pipe, NOISE)
        predicted(pipe, NOISE[:1])
    assert seen == [(True, 2), (False, 2), (False, 1)]


def test_a_fractional_timestep_has_its_step_even_when_rounded():
    pipe, seen = net_pipe(), []
    pipe.scheduler.timesteps = torch.tensor([999, 749.25, 499.5, 249.75, 0])  # Euler's, of five steps
    with attached(pipe, readers={"unet.block": lambda step, *_: seen.append((step.index, step.timestep))}):
        for timestep in (*pipe.scheduler.timesteps, *pipe.scheduler.timesteps.bfloat16(), torch.tensor(600)):
            pipe.unet(torch.ones(1, 2), timestep)
    # bfloat16 has steps of 4 there.
    assert [index for index, _ in seen] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, -1]
    assert [timestep for _, timestep in seen][:5] == [999, 749, 499, 249, 0]


@pytest.mark.parametrize("half", ["both", "conditional"])
@pytest.mark.parametrize("guided", [False, True])
def test_each_image_of_a_batch_is_edited_as_of_its_own_timestep(make_pipe, half, guided):
    pipe = make_pipe()
    edit = DirectionEdit(PATH, half, torch.tensor([900, 100]), torch.linspace(-3, 9, 32).reshape(2, 16))
    alone = []
    with removed(pipe, [Removal("x", "style", "steering", {}, (edit,))]):
        for i, timestep in enumerate((900, 100)):
            noise = NOISE[i : i + 1]
            alone += predicted(pipe, torch.cat([noise] * (1 + guided)), timestep)[-1:]
        noise, timesteps = (torch.cat([v] * (1 + guided)) for v in (NOISE, torch.tensor([900, 100])))
        together = predicted(pipe, noise, timesteps)[-2:]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert not torch.allclose(together, predicted(pipe, noise, timesteps)[-2:], atol=1e-2)


def test_an_edit_that_never_ran_is_an_error(make_pipe):
    pipe = make_pipe()
    text = "text_encoder.text_model.encoder.layers.0" if hasattr(pipe.text_encoder, "text_model") else None
    text = text or "text_encoder.encoder.layers.0"
    embedded = words(pipe, "A cat.")
    with (
        pytest.raises(SaeuronError, match=r"the denoiser ran, but text_encoder\.\S* in it did not"),
        attached(pipe, editors={text: [lambda step, output: output + 1]}),
        torch.no_grad(),
    ):
        pipe.unet(NOISE[:1], 5, encoder_hidden_states=embedded)
    with attached(pipe, editors={text: [lambda step, output: output + 1]}):
        pass

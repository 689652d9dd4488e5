"""Pipelines compiled by `torch.compile`, before a removal is attached or meanwhile; networks that cannot be edited."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saeuron.errors import ConfigError
from saeuron.hooks import attached, hookpoints, resolve
from saeuron.methods.detection.gated_uce import GatedMap
from saeuron.methods.gates import gated
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.weights.part import WeightMap
from saeuron.noise import initial_noise
from saeuron.pipelines import family_of
from saeuron.pipelines.loading import load_pipeline
from tests.saeuron.methods.detection.sensing import probe_at, shut
from tests.saeuron.methods.removals import random_profile, random_sae
from tests.saeuron.pipelines import tiny

PATH = "unet.up_blocks.1.attentions.1"
KEYS = f"{PATH}.transformer_blocks.0.attn2.to_k"
TEXTS = ["A cat.", "A star in neon style."]
NOISE = initial_noise(0, [("a", 0), ("b", 0)], (48, 8, 8))


def draw(pipe):
    """float [2, 32, 32, 3] from 0 to 1."""
    return pipe(TEXTS, latents=NOISE, num_inference_steps=2, guidance_scale=2.5, output_type="np").images


class Backend:
    """A compiler that changes nothing, and counts the graphs that it was given and how often they ran."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*tensors):
            self.runs += 1
            return graph(*tensors)

        return run


def chance(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def steered(path=PATH, timesteps=(900, 100), width=16):
    edit = DirectionEdit(path, "conditional", torch.tensor(timesteps), chance(len(timesteps), width))
    return Removal("neon", "style", "steering", {}, (edit,))


def closed():
    """An edit of latents whose gate never opens."""
    edit = build_edit(random_sae(width=16, n=40, hookpoint=PATH), random_profile(), 5, -2.0)
    shut_edit = gated(edit, "scaled", gate="activation", tau=torch.full((len(edit.timesteps),), 1e9))
    return Removal("neon", "style", "saeuron", {}, (shut_edit,))


@pytest.fixture(scope="module")
def compiled(make_pipe):
    """(a pipeline, one like it whose networks are wrapped by `torch.compile`, its own images, the compiler)."""
    plain, pipe, backend = make_pipe(), make_pipe(), Backend()
    pipe.unet = torch.compile(pipe.unet, backend=backend)
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend=backend)
    own = draw(pipe)
    assert backend.graphs >= 2 and backend.runs > backend.graphs
    return SimpleNamespace(plain=plain, pipe=pipe, own=own, backend=backend)


def removals(pipe):
    """{kind: (a removal, whether it changes these pictures)}."""
    text = next(name for name in hookpoints(pipe) if name.endswith("encoder.layers.0"))
    width = hookpoints(pipe)[KEYS].in_features
    keys = WeightMap((KEYS,), 3 * torch.ones(width, 1), torch.ones(1, width))
    probe, opened = probe_at(pipe, PATH)
    assert opened.any()
    wide = replace(probe, bias=probe.bias + 1e3)
    gate = GatedMap((wide,), keys.layers, keys.up, keys.down)
    return {
        "activations": (steered(), True),
        "text": (steered(text, (-1,), width), True),
        "weights": (Removal("neon", "style", "uce", {}, (keys,)), True),
        "an open probe": (Removal("neon", "style", "gated_uce", {}, (gate,)), True),
        "a closed probe": (Removal("neon", "style", "gated_uce", {}, (replace(gate, probes=(shut(probe),)),)), False),
        "a closed gate": (closed(), False),
        "nothing": (Removal("neon", "style", "steering", {}, ()), False),
    }


@pytest.mark.full
def test_every_kind_of_removal_gives_the_pictures_of_the_uncompiled_pipeline(compiled):
    pipe, own, backend = compiled.pipe, compiled.own, compiled.backend
    assert {*hookpoints(pipe)} == {*hookpoints(compiled.plain)}
    np.testing.assert_array_equal(own, draw(compiled.plain))
    for kind, (removal, changes) in removals(compiled.plain).items():
        with removal.attached(compiled.plain):
            expected = draw(compiled.plain)
        graphs, runs, modules = backend.graphs, backend.runs, {**hookpoints(pipe)}
        with removal.attached(pipe):
            np.testing.assert_array_equal(draw(pipe), expected, kind)
            # Compiled code runs, with the edit inside, but where weights are changed.
            assert (backend.runs == runs) == (kind == "weights"), kind
        assert (expected != own).any() == changes, kind
        # Each network is compiled whole, once: one graph for each that is compiled anew.
        assert backend.graphs - graphs <= 2, kind
        graphs, runs = backend.graphs, backend.runs
        # Off again: the code that was compiled before runs, and nothing is compiled a second time.
        np.testing.assert_array_equal(draw(pipe), own, kind)
        assert backend.graphs == graphs and backend.runs > runs and hookpoints(pipe) == modules
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in hookpoints(pipe).values()), kind
        # Once more, and at other strengths: nothing is compiled.
        with removal.attached(pipe):
            np.testing.assert_array_equal(draw(pipe), expected, kind)
        assert backend.graphs == graphs, kind


def test_another_removal_at_the_same_places_compiles_nothing(compiled):
    plain, pipe, backend = compiled.plain, compiled.pipe, compiled.backend
    with steered().attached(pipe):
        draw(pipe)
    other = replace(steered().parts[0], direction=chance(2, 16).flip(0))
    graphs = backend.graphs
    for removal in (Removal("neon", "style", "steering", {}, (other,)), steered().at(0.5)):
        with removal.attached(plain):
            expected = draw(plain)
        with removal.attached(pipe):
            np.testing.assert_array_equal(draw(pipe), expected)
    assert backend.graphs == graphs


def test_one_inside_the_other_and_an_exception(compiled):
    pipe, own = compiled.pipe, compiled.own
    with removed(compiled.plain, [steered()]):
        expected = draw(compiled.plain)
    with steered().attached(pipe):
        with pytest.raises(ZeroDivisionError), closed().attached(pipe):
            _ = 1 / 0
        np.testing.assert_array_equal(draw(pipe), expected)
    inner = steered().at(0.5)
    with steered().attached(compiled.plain), closed().attached(compiled.plain), inner.attached(compiled.plain):
        both = draw(compiled.plain)
    runs, graphs = compiled.backend.runs, compiled.backend.graphs
    with steered().attached(pipe):
        with closed().attached(pipe), inner.attached(pipe):
            np.testing.assert_array_equal(draw(pipe), both)
        assert compiled.backend.runs > runs
        np.testing.assert_array_equal(draw(pipe), expected)
    assert compiled.backend.graphs == graphs + 1
    np.testing.assert_array_equal(draw(pipe), own)


def test_gradients_and_changed_weights_run_uncompiled(compiled):
    pipe, plain, backend = compiled.pipe, compiled.plain, compiled.backend
    size = pipe.unet.config.cross_attention_dim
    inputs = (NOISE, torch.tensor(900), chance(2, 77, size))
    with steered().attached(pipe), torch.enable_grad():
        runs, words = backend.runs, inputs[2].clone().requires_grad_()
        pipe.unet(*inputs[:2], words).sample.square().sum().backward()
        assert backend.runs == runs and words.grad.abs().sum() > 0
    with removals(plain)["weights"][0].attached(plain), steered().attached(plain):
        expected = draw(plain)
    with removals(plain)["weights"][0].attached(pipe), steered().attached(pipe):
        np.testing.assert_array_equal(draw(pipe), expected)
        assert backend.runs == runs


def test_parts_compiled_one_by_one_stay_compiled_if_no_hook_lies_in_them(make_pipe):
    plain, pipe, backend = make_pipe(), make_pipe(), Backend()
    pipe.unet.compile_repeated_blocks(backend=backend)
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend=backend)
    own = draw(pipe)
    runs = backend.runs
    np.testing.assert_array_equal(draw(pipe), own)
    whole = backend.runs - runs
    # A hook on a part that holds compiled ones leaves those as they are.
    for removal, fewer in [(steered(), 0), (steered("unet.mid_block", width=32), 0), (steered(KEYS), 2)]:
        with removal.attached(plain):
            expected = draw(plain)
        graphs, runs = backend.graphs, backend.runs
        with removal.attached(pipe):
            np.testing.assert_array_equal(draw(pipe), expected)
        assert backend.graphs == graphs
        assert backend.runs - runs == whole - fewer
        np.testing.assert_array_equal(draw(pipe), own)


@pytest.mark.full
def test_a_network_that_compiles_itself(make_pipe):
    plain, pipe, backend = make_pipe(), make_pipe(), Backend()
    pipe.unet.compile(backend=backend)
    own = draw(pipe)
    with steered().attached(plain):
        expected = draw(plain)
    graphs, runs = backend.graphs, backend.runs
    with steered().attached(pipe):
        np.testing.assert_array_equal(draw(pipe), expected)
    assert (backend.graphs, backend.runs) == (graphs + 1, runs + 2)
    np.testing.assert_array_equal(draw(pipe), own)
    assert (backend.graphs, backend.runs) == (graphs + 1, runs + 4)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # from PixArt's scheduler
@pytest.mark.parametrize("name", tiny.BUILD)
def test_every_family_compiled_whole(name, tmp_path):
    """Activations and pictures are those of the uncompiled pipeline to the bit, from one graph a network."""
    folder, backend = str(tiny.save(name, tmp_path / name)), Backend()
    plain, pipe = load_pipeline(folder), load_pipeline(folder)
    roots = [*family_of(pipe).roots(pipe)]
    for root in roots:
        setattr(pipe, root, torch.compile(getattr(pipe, root), backend=backend))

    def pictures(which):
        made = torch.Generator().manual_seed(0)
        asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": made, "output_type": "np"}
        size = {"height": 16, "width": 16} | ({"use_resolution_binning": False} if "pixart" in name else {})
        return which(["A cat.", "A dog."], **asked, **size).images

    own, at = pictures(pipe), tiny.HOOKPOINT[name]
    np.testing.assert_array_equal(own, pictures(plain))
    texts = [h for h in hookpoints(pipe) if h.startswith("text") and h.endswith(("layers.0", "block.0"))]
    assert len(texts) == len(roots) - 1
    for path in [at, f"{at}:input", *texts]:
        found = []
        for which in (plain, pipe):
            seen, graphs, runs = [], backend.graphs, backend.runs

            def edit(step, rows, seen=seen):
                seen.append((step.timestep, rows.clone()))
                return 1.5 * rows

            with attached(which, editors={path: [edit]}):
                found.append((pictures(which), seen))
        (expected, shown), (made, felt) = found
        assert backend.graphs - graphs <= 2 * len(roots) and backend.runs > runs
        assert [step for step, _ in shown] == [step for step, _ in felt] and shown
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(shown, felt, strict=True))
        np.testing.assert_array_equal(made, expected, path)
        assert (made != own).any(), path
    graphs = backend.graphs
    np.testing.assert_array_equal(pictures(pipe), own)
    assert backend.graphs == graphs


@pytest.mark.parametrize("way", ["wrapper", "blocks"])
def test_compiled_while_a_removal_is_attached(way, make_pipe):
    plain, pipe, backend = make_pipe(), make_pipe(), Backend()
    with steered().attached(plain):
        expected = draw(plain)
    with steered().attached(pipe):
        if way == "blocks":
            pipe.unet.compile_repeated_blocks(backend=backend)
        else:
            pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend=backend)
        np.testing.assert_array_equal(draw(pipe), expected)
        assert backend.graphs == 0
    # What is compiled afterwards holds nothing of the removal.
    np.testing.assert_array_equal(draw(pipe), draw(plain))
    assert backend.runs > backend.graphs > 0


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")  # from torch itself
def test_what_the_default_compiler_made(make_pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, pipe = make_pipe(), make_pipe()
    pipe.unet.get_submodule(f"{PATH.removeprefix('unet.')}.transformer_blocks.0.ff").compile()
    with torch._inductor.config.patch(compile_threads=1, cpp_cache_precompile_headers=False):
        own, unedited = draw(pipe), draw(plain)
    assert any(tmp_path.rglob("*.so"))
    np.testing.assert_allclose(own, unedited, atol=1e-4)
    with steered().attached(plain):
        expected = draw(plain)
    with steered().attached(pipe):
        np.testing.assert_array_equal(draw(pipe), expected)
    with closed().attached(pipe):
        # Compiled code rounds differently from the network's own, which runs meanwhile.
        np.testing.assert_array_equal(draw(pipe), unedited)
    np.testing.assert_array_equal(draw(pipe), own)
    assert np.abs(expected - unedited).max() > 0.1


class Net(torch.nn.Module):
    """A denoiser with a layer in a block."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2))])

    def forward(self, x, timestep):
        return self.blocks[0](x)


WAYS = {
    "traced": lambda net: torch.jit.trace(net, (torch.ones(1, 2), torch.tensor(5))),
    "exported": lambda net: torch.export.export(net, (torch.ones(1, 2), torch.tensor(5))).module(),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["unet.blocks.0", "unet.blocks.0.0"])
def test_a_network_in_which_modules_never_run_is_refused_in_a_line(way, path):
    pipe = SimpleNamespace(family="StableDiffusionPipeline", unet=WAYS[way](Net()))
    refused = pytest.raises(
        ConfigError, match=rf"^{path} never runs itself, so it cannot be edited: unet was traced or"
    )
    with refused, attached(pipe, readers={path: lambda *a: None}):
        pass
    change = WeightMap((path,), torch.ones(2, 1), torch.ones(1, 2))
    with refused, Removal("x", "style", "uce", {}, (change,)).attached(pipe):
        pass


def test_a_list_of_modules_is_refused_and_one_in_it_named(tiny_pipe):
    said = r"^unet\.up_blocks is a list of modules and never runs itself; take one in it, such as unet\.up_blocks\.0\."
    for path in ("unet.up_blocks", "unet.up_blocks:input"):
        with pytest.raises(ConfigError, match=said):
            resolve(tiny_pipe, path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_weights_that_are_quantized_are_not_changed(dtype):
    pipe = SimpleNamespace(family="StableDiffusionPipeline", unet=Net())
    layer = pipe.unet.blocks[0][0]
    layer.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype), requires_grad=False)
    change = WeightMap(("unet.blocks.0.0",), torch.ones(2, 1), torch.ones(1, 2))
    with (
        pytest.raises(
            ConfigError, match=r"weights of unet\.blocks\.0\.0 are quantized, .* such as gated_uce or saeuron"
        ),
        Removal("x", "style", "uce", {}, (change,)).attached(pipe),
    ):
        pass
    assert layer.weight.eq(1).all() and layer.weight.dtype == dtype

"""What a model costs, counted without weights: against hooks on a network that runs, and by hand."""

import json
import shutil

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from saeuron.config import ModelConfig
from saeuron.hooks import resolve, to_rows
from saeuron.pipelines.counting import _run, counted, rate
from saeuron.pipelines.loading import load_pipeline
from tests.saeuron.pipelines import tiny

ATTENTION = nn.functional.scaled_dot_product_attention


def by_hooks(net, call, monkeypatch):
    """FLOP of a call on true tensors: those of each convolution, linear layer and attention, one by one."""
    found = []

    def count(module, args, output):
        kernel = module.weight[0].numel()  # inputs of an output number
        found.append(2 * output.numel() * kernel)

    def attention(query, key, value, **more):
        # Two products: query with key, and the weights with value.
        found.append(4 * query[..., 0].numel() * key.shape[-2] * query.shape[-1])
        return ATTENTION(query, key, value, **more)

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", attention)
        call()
    for handle in handles:
        handle.remove()
    return sum(found)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_operations_are_those_of_every_layer_that_runs(guidance, tiny_pipe, tiny_model_folder, monkeypatch):
    hookpoint = "unet.up_blocks.1.attentions.1"
    cost = counted(ModelConfig(spec=str(tiny_model_folder), guidance=guidance), (hookpoint,))
    net, seen = tiny_pipe.unet, []
    before = net.attn_processors
    net.set_attn_processor(AttnProcessor2_0())
    handle = resolve(tiny_pipe, hookpoint).register_forward_hook(
        lambda m, args, out: seen.append(to_rows(out[0]).shape)
    )
    rows, words = (2 if guidance > 1 else 1), net.config.cross_attention_dim
    with torch.no_grad():
        done = by_hooks(net, lambda: net(torch.randn(rows, 48, 8, 8), 1, torch.randn(rows, 77, words)), monkeypatch)
    handle.remove()
    net.set_attn_processor(before)
    assert cost.step == done > 1e6
    assert cost.places == {hookpoint: tuple(seen[0][1:])}
    parameters = [p for n in (tiny_pipe.unet, tiny_pipe.text_encoder) for p in n.parameters()]
    assert cost.weights == 4 * sum(p.numel() for p in parameters) and cost.once == 0
    assert cost.pixels == 32 * 32


@pytest.mark.parametrize("name", ["sdxl", "sd3", "pixart-alpha", "flux-dev"])
def test_every_family_is_counted_from_its_configuration_alone(name, tmp_path):
    folder = tiny.save(name, tmp_path)
    hookpoint = tiny.HOOKPOINT[name]
    pipe = load_pipeline(folder)
    networks = [m for m in pipe.components.values() if isinstance(m, nn.Module)]
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    cost = counted(ModelConfig(spec=str(folder), size=(16, 16)), (hookpoint,))
    assert cost.weights == 4 * sum(p.numel() for n in networks for p in n.parameters())
    assert cost.largest == 4 * max(sum(p.numel() for p in n.parameters()) for n in networks)
    assert cost.places[hookpoint][1] > 1 and cost.step > 1e5 and cost.once > 1e4
    assert cost.step_bytes > 0 and cost.decode_bytes > 0


def test_bytes_alive_at_once_by_hand():
    with torch.device("meta"):
        layers = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
        x = torch.empty(5, 8)
    with torch.no_grad():
        flop, alive = _run(layers, {"input": x})
    # A layer's input and output: the one before is forgotten.
    assert (flop, alive) == (3 * 2 * 5 * 8 * 8, 2 * 5 * 8 * 4)

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            first = self.layers(x)
            return self.layers(first) + first

    # The first result waits for the second: three at once.
    with torch.no_grad():
        assert _run(Kept(), {"x": x})[1] == 3 * 5 * 8 * 4


def test_attention_is_no_matrix_of_all_pairs():
    class Attention(nn.Module):
        def forward(self, q):
            return ATTENTION(q, q, q)

    q = torch.empty(2, 4, 1000, 16, device="meta")
    flop, alive = _run(Attention(), {"q": q})
    assert (flop, alive) == (4 * 8 * 1000 * 1000 * 16, 4 * q.numel())


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    """The configuration files of Stable Diffusion 1.5, as they are published, and no weights."""
    folder = tmp_path_factory.mktemp("sd15") / "model"
    parts = {
        "unet": ("diffusers", "UNet2DConditionModel", {
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "in_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        }),
        "vae": ("diffusers", "AutoencoderKL", {
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4, "layers_per_block": 2,
        }),
        "text_encoder": ("transformers", "CLIPTextModel", {
            "model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408,
        }),
    }  # fmt: skip
    for name, (_, kind, config) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"_class_name": kind, **config}))
    index = {name: [library, kind] for name, (library, kind, _) in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    return folder


def test_stable_diffusion_at_full_size(stable_diffusion):
    hookpoint = "unet.up_blocks.1.attentions.1"
    half = ModelConfig(spec=str(stable_diffusion), guidance=9.0, dtype="float16")
    cost = counted(half, (hookpoint,))
    # 860 M + 123 M + 84 M parameters, and 1.61 TFLOP a step with guidance: docs/scale.md.
    assert cost.weights == pytest.approx(2.13e9, rel=2e-3) and cost.largest == pytest.approx(1.72e9, rel=2e-3)
    assert cost.step == pytest.approx(1.6065e12, rel=1e-4) and cost.places == {hookpoint: (256, 1280)}
    # The picture at the end takes more than a step: 512 x 512 numbers in 256 channels, more than once.
    assert cost.decode_bytes == pytest.approx(3 * 256 * 512 * 512 * 2, rel=1e-3)
    assert cost.decode_bytes > cost.step_bytes > 2 * 960 * 64 * 64 * 2
    full = counted(half.model_copy(update={"dtype": "float32", "guidance": 1.0}), (hookpoint,))
    assert (full.weights, full.decode_bytes) == (2 * cost.weights, 2 * cost.decode_bytes)
    assert 2 * full.step == cost.step and full.step_bytes == cost.step_bytes
    wide = counted(half.model_copy(update={"size": (512, 768)}), (hookpoint,))
    assert wide.places == {hookpoint: (384, 1280)} and wide.pixels == 512 * 768 and 1.4 < wide.step / cost.step < 1.7


def test_a_rate_is_that_of_this_machine():
    assert 1e6 < rate("cpu", "float16", 0.05) < 1e14


def test_a_hookpoint_that_is_not_there(tiny_model_folder, tmp_path):
    from saeuron.errors import UnknownName

    folder = shutil.copytree(tiny_model_folder, tmp_path / "m")
    with pytest.raises(UnknownName, match="unknown hookpoint"):
        counted(ModelConfig(spec=str(folder)), ("unet.up_blocks.9",))

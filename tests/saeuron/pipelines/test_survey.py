"""The modules worth hooking: shapes without weights against a true call, at full size, and what papers edit."""

import json

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig

from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.hooks import attached
from saeuron.noise import initial_noise
from saeuron.pipelines import family_of
from saeuron.pipelines.loading import load_pipeline
from saeuron.pipelines.survey import survey
from tests.saeuron.pipelines import tiny


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["sdxl", "sd3", "pixart-alpha", "flux-dev"])
def test_shapes_are_those_of_a_call(name, tmp_path):
    folder = tiny.save(name, tmp_path)
    pipe, seen = load_pipeline(folder), {}
    root = family_of(pipe).root
    places = [p for p in survey(folder, (16, 32)) if p.hookpoint.startswith(root)]
    assert tiny.HOOKPOINT[name] in [p.hookpoint for p in places] and len(places) > 1
    model = ModelConfig(steps=2, guidance=0, size=(16, 32))
    readers = {p.hookpoint: lambda s, x, _, at=p.hookpoint: seen.update({at: tuple(x.shape)}) for p in places}
    with attached(pipe, readers=readers):
        sample(pipe, ["A cat."], initial_noise(0, [("a", 0)], latent_shape(pipe, model)), model)
    assert seen == {p.hookpoint: (1, *p.shape) for p in places}
    for p in places:
        assert p.bytes == 2 * p.positions * p.width and p.positions * p.width == torch.Size(p.shape).numel()
    assert not any(p.literature for p in places)  # of other widths


def test_stable_diffusion_at_full_size(tmp_path):
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "vae": ["diffusers", "AutoencoderKL"]}
    parts = {"unet": dict(unet.config), "vae": {"block_out_channels": [1, 1, 1, 1]}}
    parts["text_encoder"] = CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12).to_dict()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for name, config in parts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config, default=str))
    found = {p.hookpoint: p for p in survey(tmp_path)}
    marked = {path: p for path, p in found.items() if p.literature}
    styles = marked["unet.up_blocks.1.attentions.2"]
    # 655 kB an image and step, as counted from the paper's setting.
    assert styles.shape == (1280, 16, 16) and styles.bytes == 655_360 and "styles (2501.18052)" in styles.literature
    assert "objects" in marked["unet.up_blocks.1.attentions.1"].literature
    (text,) = marked.keys() - {styles.hookpoint, "unet.up_blocks.1.attentions.1"}
    assert text.endswith("layers.8") and marked[text].shape == (77, 768)
    assert sum(path.startswith("unet.") for path in found) == 32 and len(found) == 32 + 12

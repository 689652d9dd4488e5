"""The registry: families by the class of a pipeline, and one that is added from outside."""

import shutil

import pytest
from diffusers import StableDiffusionPipeline

from saeuron.errors import BadModel, SaeuronError
from saeuron.hooks import hookpoints
from saeuron.pipelines import FAMILIES, family_named, family_of, register
from saeuron.pipelines.loading import check_hookpoints, load_pipeline
from saeuron.pipelines.stable_diffusion import StableDiffusion


def test_a_family_is_that_of_the_class_or_of_its_nearest_parent(tiny_pipe):
    class Mine(StableDiffusionPipeline):
        pass

    assert family_of(tiny_pipe) is FAMILIES["StableDiffusionPipeline"]
    assert family_of(Mine(**tiny_pipe.components, requires_safety_checker=False)) is family_of(tiny_pipe)
    with pytest.raises(BadModel, match=r"^this pipeline has the class int, which is not supported; expected Stable"):
        family_of(3)


def test_every_family_has_its_own_name():
    assert {name: family.name for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}
    with pytest.raises(SaeuronError, match="'StableDiffusionPipeline' is registered already"):
        register(StableDiffusion())


def test_a_family_from_outside_loads_and_hooks_its_own_pipelines(tiny_model_folder, tmp_path, monkeypatch):
    class Elsewhere(StableDiffusion):
        name = "ElsewherePipeline"
        text_roots = ()

        def load(self, source, dtype):
            pipe = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, safety_checker=None)
            pipe.family = self.name
            return pipe

    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "ElsewherePipeline"))
    with pytest.raises(BadModel, match="has the class ElsewherePipeline, which is not supported"):
        load_pipeline(folder)
    monkeypatch.setattr("saeuron.pipelines.FAMILIES", FAMILIES.copy())
    register(Elsewhere())
    assert check_hookpoints(folder, ["unet.mid_block.attentions.0"]) == {"unet.mid_block.attentions.0": 32}
    pipe = load_pipeline(folder)
    assert family_of(pipe) is family_named("ElsewherePipeline")
    assert {path.split(".")[0] for path in hookpoints(pipe)} == {"unet"}

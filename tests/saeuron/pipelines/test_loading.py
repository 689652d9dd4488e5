import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

import saeuron
from saeuron.config import ModelConfig
from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.generation import generate, requests
from saeuron.pipelines.base import _variant
from saeuron.pipelines.loading import (
    check,
    check_device,
    check_hookpoints,
    identity,
    load_pipeline,
    tokenizer,
    unread,
)
from saeuron.prompts import Prompt

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder, tmp_path / "elsewhere" / "copy")


@pytest.mark.parametrize("spec", ["/no/such/folder", "./nothing", "nothing", "~nobody/x", "a/b/c", "canvass"])
@pytest.mark.parametrize("function", [check, identity, load_pipeline])
def test_a_model_that_is_not_there(spec, function):
    with pytest.raises(BadModel, match="no such model") as caught:
        function(spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(BadModel, match=r"it has no model_index\.json; give its top folder"):
        check(str(tmp_path))


def test_a_hub_id_passes_the_check_and_fails_in_one_line_without_a_network():
    check("nobody/nothing")
    for function in (identity, load_pipeline):
        with pytest.raises(BadModel, match="'nobody/nothing'") as caught:
            function("nobody/nothing")
        assert "\n" not in str(caught.value)


def test_a_loaded_pipeline_gives_the_images_of_the_one_saved(tiny_model_folder, tiny_pipe):
    pipe = load_pipeline(str(tiny_model_folder))
    assert isinstance(pipe.scheduler, DDIMScheduler)
    one, two = (
        np.concatenate([i for _, i in generate(p, requests([Prompt("A cat.", "test")], 2), ModelConfig(steps=3), 0)])
        for p in (pipe, tiny_pipe)
    )
    # The loaded one computes in channels_last: rounding differs.
    assert np.abs(one.astype(int) - two).max() <= 1


def test_a_model_keeps_its_scheduler_unless_another_is_named(copy):
    pipe = StableDiffusionPipeline.from_pretrained(copy, local_files_only=True)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(copy)
    assert type(load_pipeline(str(copy)).scheduler) is PNDMScheduler
    loaded = load_pipeline(copy, scheduler="DDIMScheduler")
    assert type(loaded.scheduler) is DDIMScheduler
    assert loaded.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert loaded.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("function", [check, load_pipeline])
def test_a_scheduler_that_is_not_there_or_for_other_models(copy, function):
    (copy / UNET).write_bytes(b"")  # reading it would fail
    with pytest.raises(UnknownName, match=r"unknown scheduler 'DDIMSheduler': did you mean 'DDIMScheduler'"):
        function(copy, scheduler="DDIMSheduler")
    with pytest.raises(ConfigError, match=r"model\.scheduler: FlowMatchEulerDiscreteScheduler is for other kinds"):
        function(copy, scheduler="FlowMatchEulerDiscreteScheduler")
    check(copy, "EulerDiscreteScheduler")


@pytest.mark.parametrize("function", [check, load_pipeline, lambda spec: check_hookpoints(spec, [])])
def test_another_familys_folder_is_refused_by_name(copy, function):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "KolorsPipeline"}))
    supported = "expected StableDiffusionPipeline, StableDiffusionXLPipeline, .* or FluxPipeline"
    with pytest.raises(BadModel, match=rf"has the class KolorsPipeline, which is not supported; {supported}") as caught:
        function(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_is_a_folder(copy, monkeypatch):
    assert load_pipeline(copy).unet.config.block_out_channels == [16, 32]
    assert identity(copy) == identity(str(copy))
    monkeypatch.chdir(copy)
    with pytest.raises(BadModel, match="no such model: 'canvas'"):
        load_pipeline(Path("canvas"))


def test_a_folder_of_one_variant(make_pipe, tmp_path):
    make_pipe().save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.glob("unet/*model.safetensors")) and list(tmp_path.glob("unet/*.fp16.safetensors"))
    assert load_pipeline(tmp_path, dtype=torch.float16).unet.dtype == torch.float16
    make_pipe(seed=1).save_pretrained(tmp_path)  # the plain files win where both are there
    one, two = (load_pipeline(tmp_path).unet.conv_in.weight, make_pipe(seed=1).unet.conv_in.weight)
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors"], None),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None),
        (["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"], "fp16"),
        (["model-00001-of-00002.bf16.safetensors"], "bf16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        ([], None),
    ],
)
def test_the_variant_is_told_by_the_names_of_files(tmp_path, names, variant):
    (tmp_path / "unet").mkdir()
    for name in names:
        (tmp_path / "unet" / name).touch()
    assert _variant(tmp_path, "unet") == variant


def test_the_precision_asked_for(tiny_model_folder):
    pipe = load_pipeline(str(tiny_model_folder), dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


def test_a_folder_loads_in_a_process_that_knows_nothing_of_canvas(fresh_process):
    assert fresh_process["vae"] == "PixelUnshuffleVAE"
    assert fresh_process["channels"] == [16, 32]


@pytest.mark.parametrize("damage", ["cut", "missing", "config"])
def test_damaged_folders_fail_in_one_line(copy, damage):
    match damage:
        case "cut":
            (copy / UNET).write_bytes((copy / UNET).read_bytes()[:1000])
        case "missing":
            (copy / UNET).unlink()
        case "config":
            (copy / "unet/config.json").write_text("{")
    said = "has no weights of its unet: unet/ holds no .safetensors" if damage == "missing" else "cannot load model"
    with pytest.raises(BadModel, match=said) as caught:
        load_pipeline(str(copy))
    assert "\n" not in str(caught.value)


def test_an_error_without_words_is_still_one_line(tiny_model_folder, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(BadModel, match=r"cannot load model .*MemoryError"):
        load_pipeline(str(tiny_model_folder))


def test_an_identity_is_of_the_content_and_not_of_the_path(tiny_model_folder, copy):
    before = identity(str(tiny_model_folder))
    assert len(before) == 20
    assert identity(str(copy)) == identity(f"{copy}/") == before
    (copy / "README.md").write_text("Words about the model.")
    (copy / "figures.json").write_text("{}")
    assert identity(str(copy)) == before


@pytest.mark.parametrize(
    "file", [UNET, "text_encoder/model.safetensors", "scheduler/scheduler_config.json", "model_index.json"]
)
def test_an_identity_changes_with_one_byte(copy, file):
    before = identity(str(copy))
    data = bytearray((copy / file).read_bytes())
    data[-1] ^= 1
    (copy / file).write_bytes(bytes(data))
    assert identity(str(copy)) != before


def test_hookpoints_are_checked_without_loading_weights(copy, tiny_pipe):
    (copy / UNET).unlink()
    check_hookpoints(str(copy), ["unet.up_blocks.1.attentions.1", "unet.mid_block.attentions.0"])
    with pytest.raises(UnknownName, match=r"unknown hookpoint 'unet\.up_blocks\.9\.attentions\.1': did you mean"):
        check_hookpoints(str(copy), ["unet.up_blocks.9.attentions.1"])
    layer = next(n for n, m in tiny_pipe.text_encoder.named_modules() if n.endswith("layers.0.mlp"))
    found = check_hookpoints(str(copy), [f"text_encoder.{layer}", f"text_encoder.{layer}.fc1:input"])
    assert found == {f"text_encoder.{layer}": None, f"text_encoder.{layer}.fc1:input": 32}
    with pytest.raises(UnknownName, match=rf"did you mean .*'text_encoder\.{layer[:-4]}"):
        check_hookpoints(str(copy), [f"text_encoder.{layer[:-6]}.7"])
    with pytest.raises(UnknownName, match=r"unknown hookpoint 'text_encoder_2\.x'"):
        check_hookpoints(str(copy), ["text_encoder_2.x"])
    (copy / "unet/config.json").unlink()
    with pytest.raises(BadModel, match=r"has no unet/config\.json"):
        check_hookpoints(str(copy), [])


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here(device):
    check_device("cpu")
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here") as caught:
        check_device(device)
    assert "\n" not in str(caught.value)


def test_only_families_name_a_denoiser():
    root = Path(saeuron.__file__).parents[1]
    mine = [root / "saeuron" / room for room in ("pipelines", "canvas")]
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for package in ("saeuron", "tasks", "flows", "storage", "benchmarks")
        for path in (root / package).rglob("*.py")
        if not any(path.is_relative_to(room) for room in mine)
        for line in path.read_text().splitlines()
        if re.search(r"\bpipe(line)?\.(unet|transformer)\b", line)
    ]
    assert found == []
    # The search finds what it looks for.
    assert re.search(r"\bpipe(line)?\.(unet|transformer)\b", (mine[0] / "stable_diffusion.py").read_text())


def test_the_end_of_a_prompt_that_the_model_does_not_read(tiny_pipe, tiny_model_folder):
    reads = tokenizer(tiny_model_folder)
    assert type(reads) is type(tiny_pipe.tokenizer) and reads.model_max_length == 16
    short, long = " ".join(["cat"] * 14), " ".join(["cat"] * 14 + ["in", "neon"])
    assert unread(reads, [short, long, long]) == {long: "in neon"}
    # What is read is all that counts.
    encoded = [tiny_pipe.encode_prompt([text], "cpu", 1, False)[0] for text in (short, long)]
    assert torch.equal(*encoded)

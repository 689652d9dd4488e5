"""SAEs from elsewhere that keep the k largest of each row: used as they are, and with thresholds for the cheap edit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saeuron import extractors
from saeuron.config import ModelConfig, ThresholdsConfig
from saeuron.extractors.inception import convert
from saeuron.figures.quality import frechet
from saeuron.generation import latent_shape, sample
from saeuron.hooks import attached, to_rows
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.thresholds import with_thresholds
from storage import Workspace
from storage.catalog.query import run_query
from tasks import images as image_sets
from tasks import prompts as prompt_sets
from tasks.sae.thresholds import images
from tests.end_to_end.process import TINY, run_here
from tests.saeuron.extractors.test_inception import weights

pytestmark = pytest.mark.timeout(600)

PLACES = {"unet.up_blocks.1.attentions.0": 96, "unet.up_blocks.0.attentions.1": 160}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds an SAE for each hookpoint, as sparsify writes them."""
    folder = tmp_path_factory.mktemp("given")
    widths = {path: load_pipeline("canvas20").unet.get_submodule(path[5:]).proj_out.out_channels for path in PLACES}
    for path, width in widths.items():
        at = folder / path
        SAE(SAEInfo("topk", width, 2 * width, 8, path, "topk"), seed=3).save(at)
    return folder


def settings(given: Path, *more: str) -> list[str]:
    style = "domains.style.hookpoints=[unet.up_blocks.1.attentions.0]"
    every = (style, f"saes={given}", "tune.concepts=[cat]", "evaluate.seeds=1", *more)
    return [word for each in every for word in ("--set", each)]


def distances(root: Path, features: str) -> None:
    """Distances are of the named extractor, over all retained images and over those of the file of captions alone."""
    opened = Workspace.open(root)
    found = run_query(opened, "select * from quality where metric = 'Frechet distance'").to_pylist()
    assert {r["image_set"] for r in found} == {"not asked to show cat", "prompts of coco_few"}
    extractor = extractors.create(features)
    assert {r["extractor"] for r in found} == {extractor.extractor}
    (evaluation,) = opened.artifacts("evaluation")
    sets = [evaluation.inputs[name] for name in ("edited", "unedited")]
    of: list[dict[str, np.ndarray]] = []
    for names in sets:
        rows = [r for name in names for r in image_sets.index(opened, name) if not dict(r["asked"])]
        made = {}
        for name in names:
            for batch, pictures in image_sets.batches(opened, name, rows):
                made |= {r["prompt_id"]: picture for r, picture in zip(batch, pictures, strict=True)}
        of.append(made)
    keys = sorted(of[0])
    assert len(keys) == 4 and keys == sorted(of[1])
    expected = frechet(*(extractor.features(np.stack([made[key] for key in keys])) for made in of))
    (captions,) = (r for r in found if r["image_set"] == "prompts of coco_few")
    assert captions["n"] == 4 and captions["value"] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_thresholds_make_a_removal_small(given: Path, server: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    captions = tmp_path / "coco_few.csv"
    captions.write_text("caption\nA cat on a mat.\nA moon over a house.\nStars at night.\nTwo dogs run.\n")
    torch.save(weights(), tmp_path / "inception.pth")
    features = f"inception:{convert(tmp_path / 'inception.pth', tmp_path / 'inception.safetensors')}"
    drawn = [f"prompts.files=[{{path: {captions}}}]", f"features={features}"]
    done = run_here("run", TINY, "-w", root, *settings(given, *drawn), "--threads", "1")
    assert done.code == 0, done.err + done.out
    distances(root, features)
    removals = root / "removals" / "cat.saeuron.safetensors"
    whole, (edit,) = removals.stat().st_size, Removal.load(removals).edits
    assert isinstance(edit, LatentEdit) and not edit.alone

    asked = settings(given, *drawn, "thresholds={images: 8, rows: 100000}")
    done = run_here("run", TINY, "-w", root, *asked, "--threads", "1")
    assert done.code == 0, done.err + done.out
    said = " ".join(done.err.split())
    assert "with thresholds from" in said and "% of TopK's firings are kept" in said
    (edit,) = Removal.load(removals).edits
    assert isinstance(edit, LatentEdit) and edit.alone and len(edit.W_enc) == len(edit.latents)
    assert removals.stat().st_size < whole / 3

    # Each is what the library makes of rows that were read by hand: all positions of all steps, with the same noise.
    opened, pipe, config = Workspace.open(root), load_pipeline("canvas20"), ThresholdsConfig(images=8, rows=100000)
    made = {m.summary["hookpoint"]: m for m in opened.artifacts("sae") if m.inputs}
    assert {*made} == {*PLACES} and len(opened.artifacts("sae")) == 4
    model = ModelConfig(**opened.artifacts("score")[0].config["model"], spec="canvas20")
    for path, manifest in made.items():
        prompts = prompt_sets.read(opened, manifest.inputs["prompts"])
        own, _ = images(prompts, config)
        assert {r.prompt.split for r in own} == {"train"} and len(own) == 8
        seen: list[torch.Tensor] = []
        noise = initial_noise(config.seed, [(r.prompt.id, r.index) for r in own], latent_shape(pipe, model))
        keep = lambda step, x, source, to=seen: to.append(to_rows(step.half(x, "conditional", 8)).half())  # noqa: E731
        with attached(pipe, readers={path: keep}):
            sample(pipe, [r.prompt.text for r in own], noise, model)
        rows = torch.stack(seen, 1).flatten(0, 2).float()
        before, after = (SAE.load(opened.folder(i)) for i in (manifest.inputs["sae"], manifest.id))
        assert manifest.summary["rows"] == len(rows)
        expected = with_thresholds(before, rows)
        torch.testing.assert_close(after.threshold, expected.threshold, rtol=1e-2, atol=1e-2)
        assert torch.equal(after.W_enc, before.W_enc) and after.info.activation == "threshold"
        assert 0 < manifest.summary["l0"] < 16

    again = run_here("run", TINY, "-w", root, *asked, "--threads", "1")
    assert again.code == 0 and "steps: 0 made" in again.out
    ids = json.dumps({path: manifest.inputs["sae"] for path, manifest in made.items()})
    changed = settings(given, *drawn, f"saes={ids}", "thresholds={images: 9, rows: 100000}")
    planned = run_here("run", TINY, "-w", root, "--plan", *changed)
    assert planned.code == 0 and "(thresholds)" in planned.out
    told = run_here("sae", "info", made["unet.up_blocks.0.attentions.1"].id, "-w", root)
    assert told.code == 0 and "by which each latent fires as often" in " ".join(told.out.split())
    swept = run_here("gc", "--dry-run", "-w", root)
    assert swept.code == 0 and not any(m.id in swept.out for m in made.values())


@pytest.mark.parametrize(
    ("activation", "more", "said"),
    [
        ("top_afa", ["thresholds.images=8"], "chooses latents by their joint norm (top_afa)"),
        (None, ["thresholds.images=8"], "thresholds.images is 8, but saes gives no SAE"),
        (None, ["thresholds.images=-1"], "thresholds.images"),
        (None, ["thresholds.rows=0"], "thresholds.rows"),
    ],
)
def test_what_cannot_have_thresholds(activation: str | None, more: list[str], said: str, tmp_path: Path) -> None:
    asked = [word for each in more for word in ("--set", each)]
    if activation:
        path = "unet.up_blocks.0.attentions.1"
        width = load_pipeline("canvas20").unet.get_submodule(path[5:]).proj_out.out_channels
        SAE(SAEInfo(activation, width, 2 * width, 8, path, activation)).save(tmp_path / "sae")  # type: ignore[arg-type]
        asked += ["--set", f"saes={json.dumps({path: str(tmp_path / 'sae')})}"]
    done = run_here("run", TINY, "-w", tmp_path / "w", *asked)
    assert done.code == 2 and said in done.complaint

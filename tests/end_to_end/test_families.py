"""Every family through the command line, from prompts to figures, with CLIP as the judge; all weights are random."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saeuron.config import ModelConfig, ScoreConfig
from saeuron.generation import latent_shape, sample
from saeuron.hooks import attached, to_rows
from saeuron.methods.removal import Removal
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from storage import Workspace
from tests.end_to_end.process import run_here
from tests.saeuron.pipelines import tiny
from tests.tiny_clip import save_tiny_clip

# PixArt-Alpha differs from -Sigma, Flux schnell from dev, and Stable Diffusion 1 from 2, only in what
# tests/saeuron/pipelines/ tries.
NAMES = ("sd2", "sdxl", "sd3", "pixart-sigma", "flux-dev")

SPLITS = {"train": "A", "validation": "The", "test": "An image of"}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("judge"))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_path(name: str, judge: Path, server: Path, tmp_path: Path) -> None:
    folder, path, root = tiny.save(name, tmp_path / "model"), tiny.HOOKPOINT[name], tmp_path / "w"
    model = ModelConfig(
        spec=str(folder), steps=tiny.STEPS.get(name, 2), guidance=tiny.GUIDANCE.get(name, 3.0), micro_batch=8,
        size=(16, 16),
    )  # fmt: skip
    config = {
        "model": model.model_dump(mode="json"),
        "domains": {
            "style": {"concepts": ["neon", "dots"], "hookpoints": [path], "judge": f"clip:{judge}"},
            "object": {"concepts": ["cat", "moon"], "hookpoints": [path], "judge": f"clip:{judge}"},
        },
        "prompts": {"templates": {key: [f"{start} {{object}} in {{style}} style."] for key, start in SPLITS.items()}},
        "train": {"steps": 5, "k": 4, "expansion": 2, "batch": 64, "inference": "threshold"},
        "score": {"images": 2},
        "tune": {
            "concepts": ["neon"], "settings": {"saeuron": {"n": [8], "gamma": [-30.0]}}, "target_images": 2,
            "retained_images": 2,
        },
        "evaluate": {"seeds": 1},
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(json.dumps(config))
    done = run_here("run", tmp_path / "my.yaml", "-w", root, "--threads", "1")
    assert done.code == 0, done.err + done.out

    # What was captured are the rows of plain images with the same noise.
    opened, pipe = Workspace.open(root), load_pipeline(folder)
    (capture,) = opened.artifacts("capture")
    (shard,) = (opened.folder(capture.id) / path).glob("*.tar")
    with tarfile.open(shard) as tar:
        stored = {m.name.split(".")[0]: np.load(io.BytesIO(tar.extractfile(m).read())) for m in tar if "npy" in m.name}  # type: ignore[union-attr]
    prompts = [Prompt(f"A {o} in {s} style.", "train") for o in ("cat", "moon") for s in ("neon", "dots")]
    assert {*stored} == {f"{prompt.id}_0000" for prompt in prompts}

    def plain(prompt: Prompt, seed: int) -> np.ndarray:
        noise, seen = initial_noise(seed, [(prompt.id, 0)], latent_shape(pipe, model)), list[np.ndarray]()
        with attached(pipe, readers={path: lambda step, x, _: seen.append(to_rows(x)[-1].numpy())}):
            sample(pipe, [prompt.text], noise, model)
        return np.stack(seen)

    for prompt in prompts:
        # The batch was filled up to eight, which rounds differently.
        np.testing.assert_allclose(stored[f"{prompt.id}_0000"], plain(prompt, 0), atol=2e-3, rtol=2e-3)

    # The SAE is of this width, and the removal edits with its rows.
    (sae,) = (SAE.load(opened.folder(m.id)) for m in opened.artifacts("sae"))
    assert sae.info.width == 16 and sae.info.hookpoint == path
    # What was summed of a concept's images, with noise of their own, are the latents of plain images.
    with torch.no_grad():
        f = torch.stack([sae.encode(torch.from_numpy(plain(prompt, ScoreConfig().seed))) for prompt in prompts[::2]])
    query = "select timestep, latent, sum, fires, n_rows, n_images from statistics where concept = 'neon'"
    rows = json.loads(run_here("sql", query, "-w", root, "--format", "json").out)
    sums, fires = f.double().sum((0, 2)), (f != 0).sum((0, 2))
    steps = sorted({r["timestep"] for r in rows}, reverse=True)
    assert len(rows) == sums.numel() and len(steps) == len(sums) and sums.max() > 1
    assert {(r["n_images"], r["n_rows"]) for r in rows} == {(2, 2 * f.shape[2])}
    for r in rows:
        place = steps.index(r["timestep"]), r["latent"]
        # What rounding moves over a threshold fires or does not.
        assert abs(r["fires"] - int(fires[place])) <= 1
        assert r["sum"] == pytest.approx(float(sums[place]), rel=0.01, abs=0.05) or r["fires"] != fires[place]

    # UA is the share of the edited images that were judged to be something else.
    query = (
        "select avg((j.label <> j.asked)::int) as ua, count(*) as n from judgements j join images i "
        "using (image_set_id, key) where j.asked = 'neon' and i.split = 'test' and len(i.removals) > 0"
    )
    done = run_here("sql", query, "-w", root, "--format", "json")
    assert done.code == 0, done.err
    (by_hand,) = json.loads(done.out)
    removal = Removal.load(root / "removals" / "neon.saeuron.safetensors")
    assert [e.hookpoint for e in removal.edits] == [path]
    query = "select metric, value from metrics where concept = 'neon' and metric in ('UA', 'IRA', 'CRA')"
    figures = json.loads(run_here("sql", query, "-w", root, "--format", "json").out)
    assert {"UA", "IRA", "CRA"} == {f["metric"] for f in figures} and all(0 <= f["value"] <= 1 for f in figures)
    assert by_hand["n"] == 2 and by_hand["ua"] in [f["value"] for f in figures if f["metric"] == "UA"]

    # `generate` draws the plain image beside the edited one.
    out = tmp_path / "cat.png"
    done = run_here("generate", "A cat in neon style.", "--remove", "neon", "-w", root, "--out", out, "--threads", "1")
    assert done.code == 0, done.err
    with Image.open(out) as sheet:
        assert sheet.width > sheet.height
